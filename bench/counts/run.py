"""One count: the gateway is brought up, asked, and looked at; then its usage events are drained.

Each case is asked several times, and of each function the median of its counts is taken: what a timer, or a request
that filled a cache, added to some of them is not in it.
"""

import asyncio
import gc
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import uvloop
from redis import Redis as RedisClient

from bench.counts.stage import APPS, MODEL, USER, USERS, Loop, RedisStats, Sql, Stage, Upstream, settings_in, staged
from bench.counts.steps import STEPS
from bench.counts.tracers import Blocks, Bytecodes, Calls
from bench.counts.values import Case, Counts, Drained, Functions, Redis
from gateway.balance import embedded_redis
from gateway.balance.redis_balance import EVENT_STREAMS
from gateway.compose import opened
from gateway.core.ids import new_id
from gateway.settings import load

K = TypeVar("K", bound=Hashable)

_TIMES: Final = 9  # each case is looked at so often; odd
_WARM: Final = 2
_STREAMS: Final = 5
_CHUNKS: Final = (20, 50)  # what the second has more than the first is the cost of as many chunks
_REQUESTS: Final = 100
_BODY_BYTES: Final = 32 * 1024
_EVENTS: Final = 1000
_NOT_COMMANDS: Final = ("round_trips", "bytes_in", "bytes_out")


def count(databases: tuple[str, str] | None = None, *, requests: bool = True) -> Counts:
    """Everything, with the books in a folder of its own, or in two URLs (platform, apps). Not `requests`: only the drain."""
    with tempfile.TemporaryDirectory(prefix="mzk-counts-") as folder:
        return uvloop.run(_counted(Path(folder), databases, requests))


async def _counted(folder: Path, databases: tuple[str, str] | None, requests: bool) -> Counts:
    sys.setswitchinterval(0.1)  # one thread works at a time anyway
    loop = Loop(asyncio.get_running_loop())
    server = await embedded_redis.start(folder / "redis")
    upstream, sql = Upstream(loop), Sql()
    try:
        settings = load(settings_in(folder, upstream.port, server.url, databases))
        async with staged(settings, upstream, loop, server.url) as stage:
            gc.disable()
            counts = await asyncio.to_thread(_asked, stage, sql, requests)
            gc.enable()
        async with opened(settings) as services:
            drained = await _drained(services.drain("counts"), server.url, sql)
    finally:
        sql.close()
        upstream.close()
        await server.stop()
    is_postgres = databases is not None and databases[0].startswith("postgresql")
    drains = {f"drain into {'Postgres' if is_postgres else 'SQLite'}": drained}
    return Counts(f"{sys.version_info.major}.{sys.version_info.minor}", *counts, drains)


# ---- requests, from the client's thread ------------------------------------------------------------


def _asked(stage: Stage, sql: Sql, everything: bool) -> tuple[dict[str, Case], dict[str, float], int, int]:
    client, upstream = stage.client, stage.upstream
    client.set_up()
    for app in APPS:
        client.ask(client.request("/chat/completions", _chat(), app))
    if not everything:
        return {}, {}, 0, 0
    plain = client.request("/chat/completions", _chat())
    cases = {"chat": _case(stage, sql, plain)}
    cases["embeddings"] = _case(stage, sql, client.request("/embeddings", {"model": MODEL, "input": "The food was delicious."}))
    short, long = (
        _case(stage, sql, client.request("/chat/completions", _chat(stream=True, metadata_chunks=chunks)), _STREAMS)
        for chunks in _CHUNKS
    )
    cases[f"stream of {_CHUNKS[0]} chunks"] = short
    cases["each further chunk"] = _difference(short, long, _CHUNKS[1] - _CHUNKS[0])
    upstream.answer_bytes = _BODY_BYTES
    large = _chat(said="word " * (_BODY_BYTES // 5))
    blocks = Blocks(_BODY_BYTES // 4)
    looked = _looked(stage, client.request("/chat/completions", large), blocks, _TIMES)
    copies = {name: round(taken / _BODY_BYTES, 1) for name, taken in _median(looked).items()}
    upstream.answer_bytes = 400
    for _ in range(_REQUESTS):
        client.ask(plain)
    return cases, copies, client.asked, upstream.connections


def _chat(said: str = "Say hello to the world in a few words.", **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": said}]
    return {"model": MODEL, "messages": messages, "max_tokens": 64, **more}


def _looked(stage: Stage, request: bytes, tracer: Any, times: int) -> list[Any]:
    for _ in range(_WARM):
        stage.client.ask(request)
    stage.client.ask(request, tracer)  # the tracer's own first time
    tracer.take()
    found = []
    for _ in range(times):
        stage.client.ask(request, tracer)
        found.append(tracer.take())
    return found


def _case(stage: Stage, sql: Sql, request: bytes, times: int = _TIMES) -> Case:
    seen = _looked(stage, request, Calls(), times)
    calls, into_c, json = (_median([each[column] for each in seen]) for column in range(3))
    executed = _median(_looked(stage, request, Bytecodes(), times))
    functions: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
    steps: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0])
    for column, counts in enumerate((calls, into_c, executed)):
        for (name, step), number in counts.items():
            functions[name][column] += number
            steps[step][3 if name[0] == "~" else column] += number
    coded: dict[str, dict[str, float]] = {"decode": {}, "encode": {}}
    for (way, name), number in json.items():
        coded[way][name] = number
    redis, statements = _stores(stage, sql, request, times)
    return Case(
        functions={name: (row[0], row[1], row[2]) for name, row in sorted(functions.items())},
        steps={name: (row[0], row[1], row[2], row[3]) for name in STEPS if (row := steps.get(name))},
        json=coded,
        redis=redis,
        sql=statements,
    )


def _stores(stage: Stage, sql: Sql, request: bytes, times: int) -> tuple[Redis, float]:
    """What one request asks of Redis and of the databases."""
    found: list[Counter[str]] = []
    statements = []
    for _ in range(times):
        sql.take()
        before = stage.redis.read()
        stage.client.ask(request)
        found.append(Counter(stage.redis.read()))
        found[-1].subtract(before)
        statements.append(sum(sql.take()[0].values()))
    counts = _median(found)
    trips, sent, got = (counts.pop(name, 0) for name in _NOT_COMMANDS)
    return Redis(trips, dict(sorted(counts.items())), sent, got), statistics.median(statements)


def _median(counts: Iterable[Mapping[K, int]]) -> dict[K, float]:
    """Of each key on its own; what is mostly zero is left out."""
    rows = list(counts)
    keys = {key for row in rows for key in row}
    found = {key: statistics.median([row.get(key, 0) for row in rows]) for key in keys}
    return {key: value for key, value in sorted(found.items()) if value}


def _difference(short: Case, long: Case, chunks: int) -> Case:
    """What each of the chunks costs that only the long stream has."""

    def each(now: float, before: float) -> float:
        return round((now - before) / chunks, 2)

    functions: Functions = {}
    for name, counts in long.functions.items():
        row = [each(now, before) for now, before in zip(counts, short.functions.get(name, (0, 0, 0)), strict=True)]
        if any(row):
            functions[name] = (row[0], row[1], row[2])
    steps = {}
    for name, numbers in long.steps.items():
        line = [each(now, before) for now, before in zip(numbers, short.steps.get(name, (0, 0, 0, 0)), strict=True)]
        if any(line):
            steps[name] = (line[0], line[1], line[2], line[3])
    json = {
        way: {name: more for name, now in by.items() if (more := each(now, short.json[way].get(name, 0)))}
        for way, by in long.json.items()
    }
    return Case(functions, steps, json)


# ---- the drain ---------------------------------------------------------------------------------------


async def _drained(drain: Any, redis_url: str, sql: Sql) -> Drained:
    """What it takes to move 1,000 events, of two apps with eight users each, into the books."""
    hot: Any = RedisClient.from_url(redis_url)
    stats = RedisStats(redis_url)
    try:
        streams = [stream for stream in EVENT_STREAMS if hot.xlen(stream)]
        kept = [(stream, fields[b"e"]) for stream in streams for _, fields in hot.xrange(stream)]
        samples = [next(row for row in kept if f'"{app}"'.encode() in row[1]) for app in APPS]
        await _until(drain, len(kept))
        adding = hot.pipeline(transaction=False)
        for number in range(_EVENTS):
            stream, event = samples[number % len(samples)]
            event = event.replace(_request_id(event).encode(), new_id("req").encode())
            event = event.replace(USER.encode(), USERS[number // len(APPS) % len(USERS)].encode())
            adding.xadd(stream, {"e": event})
        adding.execute()
        sql.take()
        was = stats.read()
        await _until(drain, _EVENTS)
        counts = Counter(stats.read())
        counts.subtract(was)
    finally:
        stats.close()
        hot.close()
    statements, rows, commits = sql.take()
    assert drain.counts.posted == len(kept) + _EVENTS, drain.counts
    commands = {name: calls for name, calls in sorted(counts.items()) if calls and name not in _NOT_COMMANDS}
    return Drained(dict(sorted(statements.items())), rows, commits, commands, counts["round_trips"])


async def _until(drain: Any, events: int) -> None:
    done = 0
    while done < events:
        done += await drain.step()


def _request_id(event: bytes) -> str:
    return msgspec.json.decode(event, type=_Named).request_id


class _Named(msgspec.Struct):
    request_id: str

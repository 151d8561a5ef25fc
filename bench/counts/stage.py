"""The gateway under count, in this process and thread, between an upstream and a client in threads of their own.

All three speak HTTP over sockets. The client sends one request at a time; while it or the upstream writes, the gateway's
loop is held, so that what is written arrives in one piece however busy the machine is; and the next chunk of a stream
leaves when the client has got the one before.
"""

import asyncio
import json
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import sqlalchemy as sa
import uvicorn
from uvicorn.server import ServerState

from bench.counts.tracers import Tracer
from gateway.app import application
from gateway.server.connection import EdgeProtocol
from gateway.settings import Settings

TOKEN: Final = "mzo_counts_only_operator_token_0123456789"
USER: Final = "user-00"
USERS: Final = tuple(f"user-{number:02d}" for number in range(8))
APPS: Final = ("counts-a", "counts-b")
MODEL: Final = "counts-model"
_CREATOR: Final = "counts-creator"
_PATIENCE_S: Final = 60.0
_HOPS: Final = 8  # turns of the loop that a request's last callbacks may take
_ANSWER_AT_MOST: Final = 1 << 16

_CHUNK: Final = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1741569952, "model": MODEL}
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Loop:
    """The gateway's loop, as other threads may use it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    @contextmanager
    def held(self, tracer: Tracer | None = None) -> Iterator[None]:
        """The loop stands still meanwhile; what it does afterwards is what `tracer` sees."""
        here, go = threading.Event(), threading.Event()

        def wait() -> None:
            here.set()
            go.wait(_PATIENCE_S)
            if tracer is not None:
                tracer.start()

        self._loop.call_soon_threadsafe(wait)
        _wait(here)
        try:
            yield
        finally:
            go.set()

    def rest(self, tracer: Tracer | None = None) -> None:
        """Until the loop has done what it had to do; then the tracer is off."""
        done = threading.Event()

        def hop(left: int) -> None:
            if left:
                self._loop.call_soon(hop, left - 1)
                return
            if tracer is not None:
                tracer.stop()
            done.set()

        self._loop.call_soon_threadsafe(hop, _HOPS)
        _wait(done)


def _wait(for_what: threading.Event | threading.Semaphore) -> None:
    arrived = for_what.wait(_PATIENCE_S) if isinstance(for_what, threading.Event) else for_what.acquire(timeout=_PATIENCE_S)
    if not arrived:
        raise TimeoutError("the count came to a stop")


class Upstream:
    """Answers as its request's last message says: `tokens N`, or nothing special."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.next_chunk = threading.Semaphore(0)  # released by the client for each that it got
        self.answer_bytes = 400
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link, link.makefile("rb") as lines:
            while line := lines.readline():
                length = 0
                while (line := lines.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                asked = json.loads(lines.read(length))
                if asked.get("stream"):
                    self._stream(link, int(asked["metadata_chunks"]))
                else:
                    body = self._embedding() if "input" in asked else self._answer()
                    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                    self._send(link, head + body)

    def _send(self, link: socket.socket, data: bytes) -> None:
        with self._loop.held():
            link.sendall(data)

    def _answer(self) -> bytes:
        message = {"role": "assistant", "content": "word " * (self.answer_bytes // 5), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 19, "completion_tokens": 30, "total_tokens": 49, **_DETAILS}
        return _json({**_CHUNK, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _embedding(self) -> bytes:
        data = [{"object": "embedding", "index": 0, "embedding": [0.0023, -0.0093, 0.0157] * 64}]
        return _json({"object": "list", "data": data, "model": MODEL, "usage": {"prompt_tokens": 8, "total_tokens": 8}})

    def _stream(self, link: socket.socket, chunks: int) -> None:
        head = _STREAM_HEAD
        for number in range(chunks):
            finish = "stop" if number == chunks - 1 else None
            choice = {"index": 0, "delta": {"content": f" word{number:03d}"}, "logprobs": None, "finish_reason": finish}
            self._send(link, head + _framed(b"data: " + _json({**_CHUNK, "choices": [choice]}) + b"\n\n"))
            head = b""
            _wait(self.next_chunk)
        usage = {"prompt_tokens": 19, "completion_tokens": chunks, "total_tokens": 19 + chunks, **_DETAILS}
        last = b"data: " + _json({**_CHUNK, "choices": [], "usage": usage}) + b"\n\ndata: [DONE]\n\n"
        self._send(link, _framed(last) + b"0\r\n\r\n")


_DETAILS: Final = {
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _framed(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class Client:
    """One keep-alive connection to the gateway, used from another thread than the loop's."""

    def __init__(self, loop: Loop, upstream: Upstream, port: int) -> None:
        self._loop = loop
        self._upstream = upstream
        self._port = port
        self._link: socket.socket | None = None
        self.keys: dict[str, str] = {}
        self.asked = 0

    def close(self) -> None:
        """Leave."""
        if self._link is not None:
            self._link.close()

    def set_up(self) -> None:
        """A creator, two prepaid apps whose creator bears the cost, limited keys, rich wallets: through the management API."""
        self._manage("/creators", {"user_id": _CREATOR, "name": "Counts"})
        self._grant({"user_id": _CREATOR})
        for app in APPS:
            named = {"enterprise_id": app, "user_id": _CREATOR, "name": app, "asset": "USD", "cost_policy": "creator_pays"}
            self._manage("/apps", {**named, "markup_percent": "10"})
            key = {"name": "counts", "level": "app_usage", "limits": {"rpm": 1_000_000_000, "tpm": 1_000_000_000}}
            self.keys[app] = self._manage(f"/apps/{app}/keys", key)["secret"]
            for user in USERS:
                self._grant({"enterprise_id": app, "platform_user_id": user})

    def _grant(self, wallet: dict[str, str]) -> None:
        self._manage("/grants", {"wallet": wallet, "amount_micro": 1_000_000_000_000, "source": "promo", "reason": "counts"})

    def _manage(self, path: str, body: dict[str, Any]) -> Any:
        data = _json(body)
        again = path + "-".join(sorted(str(value) for value in body.get("wallet", body).values()))
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json", "idempotency-key": again[:120]}
        asked = urllib.request.Request(f"http://127.0.0.1:{self._port}/api/v1{path}", data, headers)
        with urllib.request.urlopen(asked, timeout=_PATIENCE_S) as answer:
            return json.load(answer)

    def request(self, path: str, body: dict[str, Any], app: str = APPS[0]) -> bytes:
        """The bytes of one request of one user."""
        data = _json(body)
        head = (
            f"POST /v1{path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self.keys[app]}\r\nx-platform-user-id: {USER}\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data

    def ask(self, request: bytes, tracer: Tracer | None = None) -> bytes:
        """Send it, and return the answer when the gateway has done all that it does for it."""
        self.asked += 1
        if self._link is None:  # not before: the gateway waits for a first request for seconds only
            self._link = socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE_S)
        with self._loop.held(tracer):
            self._link.sendall(request)
        got, told = bytearray(), 0
        while not _is_whole(got):
            part = self._link.recv(_ANSWER_AT_MOST)
            if not part:
                raise ConnectionError(f"the gateway closed the connection behind {bytes(got)!r}")
            got += part
            events = got.count(b"data: {")
            for _ in range(events - told):
                self._upstream.next_chunk.release()
            told = events
        self._loop.rest(tracer)
        while self._upstream.next_chunk.acquire(blocking=False):  # the last event asks for none
            pass
        if not got.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the gateway answered {bytes(got[:2000])!r}")
        return bytes(got)


def _is_whole(got: bytearray) -> bool:
    end = got.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = bytes(got[:end]).lower()
    if b"transfer-encoding: chunked" in head:
        return got.endswith(b"\r\n0\r\n\r\n")
    length = int(head.rpartition(b"content-length: ")[2].split(b"\r\n")[0])
    return len(got) >= end + 4 + length


class RedisStats:
    """What a server has counted; `bytes` and reads are without those of this connection."""

    def __init__(self, url: str) -> None:
        self._link = socket.socket(socket.AF_UNIX)
        self._link.connect(url.removeprefix("unix://"))
        self._asked = b"INFO stats commandstats\r\n"
        self._own_reads = self._own_in = self._own_out = 0

    def close(self) -> None:
        """Leave."""
        self._link.close()

    def read(self) -> dict[str, int]:
        """`round_trips`, `bytes_in`, `bytes_out`, and calls by the commands' names."""
        self._link.sendall(self._asked)
        self._own_reads += 1
        self._own_in += len(self._asked)
        got = b""
        while b"\r\n" not in got or len(got) < (size := got.index(b"\r\n") + 4 + int(got[1 : got.index(b"\r\n")])):
            got += self._link.recv(_ANSWER_AT_MOST)
        found = dict(line.split(":", 1) for line in got.decode().splitlines() if ":" in line)
        counts = {
            "round_trips": int(found["total_reads_processed"]) - self._own_reads,
            "bytes_in": int(found["total_net_input_bytes"]) - self._own_in,
            "bytes_out": int(found["total_net_output_bytes"]) - self._own_out,
        }
        self._own_out += size
        for name, value in found.items():
            if name.startswith("cmdstat_") and name != "cmdstat_info":
                counts[name.removeprefix("cmdstat_")] = int(value.partition(",")[0].removeprefix("calls="))
        return counts


class Sql:
    """Counts the statements and commits of every engine of this process, from when it is made until it is closed."""

    def __init__(self) -> None:
        self.statements: dict[str, int] = {}
        self.rows = 0
        self.commits = 0
        sa.event.listen(sa.Engine, "before_cursor_execute", self._executed)
        sa.event.listen(sa.Engine, "commit", self._committed)
        copy = self._copy = asyncpg.Connection.copy_records_to_table

        async def copied(connection: Any, table: str, *, records: Sequence[Any], **named: Any) -> Any:
            self._count(f"COPY {table}", len(records))
            return await copy(connection, table, records=records, **named)

        asyncpg.Connection.copy_records_to_table = copied  # COPY goes past SQLAlchemy

    def close(self) -> None:
        """No more."""
        sa.event.remove(sa.Engine, "before_cursor_execute", self._executed)
        sa.event.remove(sa.Engine, "commit", self._committed)
        asyncpg.Connection.copy_records_to_table = self._copy

    def take(self) -> tuple[dict[str, int], int, int]:
        """Statements by verb and table, sets of parameters, commits; since the last time."""
        seen = self.statements, self.rows, self.commits
        self.statements, self.rows, self.commits = {}, 0, 0
        return seen

    def _count(self, what: str, rows: int) -> None:
        self.statements[what] = self.statements.get(what, 0) + 1
        self.rows += rows

    def _executed(self, _: Any, __: Any, statement: str, parameters: Any, ___: Any, executemany: bool) -> None:
        words = statement.replace('"', "").split()
        named = [words[place + 1] for place, word in enumerate(words[:-1]) if word.upper() in ("FROM", "INTO", "UPDATE")]
        what = " ".join([words[0].upper(), *(named or words[1:2])[:1]])
        self._count(what.partition("(")[0], len(parameters) if executemany else 1)

    def _committed(self, _: Any) -> None:
        self.commits += 1


class Stage(NamedTuple):
    """What a count is made on."""

    loop: Loop
    upstream: Upstream
    client: Client
    redis: RedisStats


@asynccontextmanager
async def staged(settings: Settings, upstream: Upstream, loop: Loop, redis_url: str) -> AsyncIterator[Stage]:
    """The application on a port, under the protocol of `gateway serve`, with a client; closed at the end."""
    front = application(settings)
    config = uvicorn.Config(
        front, interface="asgi3", http=EdgeProtocol, loop="uvloop", ws="none", lifespan="off", access_log=False,
        server_header=False, proxy_headers=False, log_config=None,
    )  # fmt: skip
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
    starlette: Any = front._behind
    async with starlette.router.lifespan_context(starlette):
        make = partial(EdgeProtocol, config=config, server_state=state, app_state={})
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        client = Client(loop, upstream, server.sockets[0].getsockname()[1])
        redis = RedisStats(redis_url)
        try:
            yield Stage(loop, upstream, client, redis)
        finally:
            redis.close()
            client.close()
            server.close()


def settings_in(folder: Path, upstream_port: int, redis_url: str, databases: tuple[str, str] | None) -> dict[str, str]:
    """The environment of a gateway whose data lies in `folder`, or in the databases of two URLs (platform, apps)."""
    deployment = {"provider": "openai", "model": MODEL, "api_base": f"http://127.0.0.1:{upstream_port}/v1"}
    deployment["api_key"] = "sk-made-up-upstream-key"
    prices = {"input": "0.15", "cached_input": "0.075", "output": "0.60"}
    config = {"models": [{"name": MODEL, "deployments": [deployment], "prices": prices}], "platform_markup_percent": "10"}
    path = folder / "counts.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    env = {
        "MOZAIKS_CONFIG": str(path),
        "MOZAIKS_DATA_DIR": str(folder / "data"),
        "MOZAIKS_REDIS_URL": redis_url,
        "MOZAIKS_OPERATOR_TOKEN": TOKEN,
        "MOZAIKS_KEY_PEPPER": "counts-only-pepper-of-enough-characters",
        "MOZAIKS_INLINE_WORKER": "false",
    }
    if databases is not None:
        env |= {"MOZAIKS_DATABASE_URL": databases[0], "MOZAIKS_APP_DATABASE_URL": databases[1]}
    return env

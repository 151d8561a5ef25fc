"""What the guard says of counts that have grown, and what it lets pass."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.counts import steps, table
from bench.counts.tracers import Blocks, Bytecodes, Calls, describe
from bench.counts.values import Case, Counts, Drained, Redis, problems
from gateway.core.money import decimal_from_micro
from gateway.proxy import wire
from gateway.proxy.chat import Chat

REDIS = Redis(2, {"evalsha": 2, "hset": 6}, 1900, 95)
CASE = Case(
    functions={
        "proxy/wire.py parse": (10, 20, 400),
        "proxy/routes.py credential_of": (100, 100, 600),
        "~asyncio/x.py f": (5, 0, 0),
    },
    steps={"parse": (10, 20, 400, 0), "routes": (100, 100, 600, 5)},
    json={"decode": {"proxy/wire.py parse": 1}, "encode": {}},
    redis=REDIS,
)
DRAINED = Drained({"SELECT apps": 2}, 9000, 6, {"xack": 2}, 9)
KEPT = Counts("3.11", {"chat": CASE}, {"proxy/wire.py parse": 1.0}, 100, 1, {"drain into SQLite": DRAINED})


def grown(**changed: Any) -> Counts:
    return replace(KEPT, cases={"chat": replace(CASE, **changed)})


def functions(calls: float, into_c: float, bytecodes: float) -> dict[str, tuple[float, float, float]]:
    return {**CASE.functions, "proxy/wire.py parse": (calls, into_c, bytecodes)}


WITH_PING = Redis(3, {"evalsha": 2, "hset": 6, "ping": 1}, 1914, 97)
GROWN: list[tuple[Counts, list[str]]] = [
    (grown(functions=functions(14, 20, 400)), ["chat: Python calls in the package: 114", "+4 proxy/wire.py parse (10 -> 14)"]),
    (grown(functions=functions(10, 24, 400)), ["chat: calls into C by the package: 124", "+4 proxy/wire.py parse (20 -> 24)"]),
    (grown(functions=functions(10, 20, 431)), ["chat: bytecodes in the package: 1031", "+31 proxy/wire.py parse (400 -> 431)"]),
    (grown(functions={**CASE.functions, "~asyncio/x.py f": (7, 0, 0)}), ["calls in libraries: 7", "+2 ~asyncio/x.py f"]),
    (grown(steps={**CASE.steps, "parse": (10, 20, 441, 0)}), ["bytecodes of the step `parse`: 441, the table says 400"]),
    (grown(json={"decode": {"proxy/wire.py parse": 1, "proxy/x.py f": 1}}), ["JSON documents decoded: 2", "+1 proxy/x.py f"]),
    (grown(redis=WITH_PING), ["Redis round trips: 3", "Redis commands: 9", "+1 ping (0 -> 1)"]),
    (grown(redis=replace(REDIS, bytes_in=2000)), ["bytes sent to Redis: 2000"]),
    (grown(redis=replace(REDIS, bytes_out=100)), ["bytes got from Redis: 100"]),
    (grown(sql=1), ["chat: SQL statements: 1"]),
    (replace(KEPT, body_blocks={"proxy/wire.py parse": 2.0}), ["a copy of the body?", "+1 proxy/wire.py parse (1 -> 2)"]),
    (replace(KEPT, connections=100), ["connections opened upstream for 100 requests"]),
    (replace(KEPT, drains={"drain into SQLite": replace(DRAINED, statements={"SELECT apps": 3})}), ["+1 SELECT apps (2 -> 3)"]),
    (replace(KEPT, drains={"drain into SQLite": replace(DRAINED, rows=9300)}), ["sets of parameters per 1,000 events: 9300"]),
    (replace(KEPT, drains={"drain into SQLite": replace(DRAINED, commits=7)}), ["commits per 1,000 events: 7"]),
    (replace(KEPT, drains={"drain into SQLite": replace(DRAINED, redis_commands={"xack": 3})}), ["+1 xack (2 -> 3)"]),
]  # fmt: skip


@pytest.mark.parametrize(("now", "told"), GROWN, ids=[told[0] for _, told in GROWN])
def test_what_has_grown_is_told_with_how_much_and_where(now: Counts, told: list[str]) -> None:
    found = "\n".join(problems(now, {"3.11": KEPT}))
    assert found
    assert all(text in found for text in told), found


def test_what_is_the_same_less_or_a_little_more_passes() -> None:
    assert problems(KEPT, {"3.11": KEPT}) == []
    assert problems(grown(functions=functions(12, 22, 410)), {"3.11": KEPT}) == []
    assert problems(grown(redis=Redis(1, {"evalsha": 1, "get": 1}, 1930, 95), json={}), {"3.11": KEPT}) == []
    assert problems(grown(redis=replace(REDIS, commands={"evalsha": 2, "hmset": 6})), {"3.11": KEPT}) == []


def test_on_a_version_nobody_measured_all_but_bytecodes_is_guarded() -> None:
    kept = {"3.9": replace(KEPT, python="3.9", connections=5), "3.11": KEPT}
    slower = grown(functions=functions(12, 22, 4000), steps={"parse": (12, 22, 4000, 0)})
    assert problems(replace(slower, python="3.99"), kept) == []
    assert len(problems(replace(grown(functions=functions(40, 22, 400)), python="3.99"), kept)) == 1
    assert len(problems(replace(grown(json={"decode": {"x": 2}}), python="3.99"), kept)) == 1
    assert len(problems(replace(KEPT, python="3.99", connections=2), kept)) == 1


def test_counts_are_kept_by_version_until_they_are_of_other_code(tmp_path: Path) -> None:
    assert table.keep(KEPT, tmp_path) == []
    assert table.keep(replace(KEPT, python="3.12"), tmp_path) == []
    assert table.kept(tmp_path / "counts.json") == {"3.11": KEPT, "3.12": replace(KEPT, python="3.12")}
    other = replace(grown(functions=functions(11, 20, 400)), python="3.12")
    assert table.keep(other, tmp_path) == ["3.11"]
    assert table.kept(tmp_path / "counts.json") == {"3.12": other}
    assert (tmp_path / "counts.txt").read_text() == table.told(other) + "\n"


def _work(body: bytes) -> str:
    Chat().parse(body, b"")
    return decimal_from_micro(10)


BODY = b'{"model": "m", "messages": [{"role": "user", "content": "%b"}]}' % (b"x" * 50_000)


@pytest.mark.parametrize("times", [1, 3])
def test_calls_bytecodes_json_and_blocks_are_seen_by_function_and_step(times: int) -> None:
    calls, bytecodes, blocks = Calls(), Bytecodes(), Blocks(10_000)
    for tracer in (calls, bytecodes, blocks):
        _work(BODY)
        tracer.start()
        try:
            for _ in range(times):
                _work(BODY)
        finally:
            tracer.stop()
    called, into_c, coded = calls.take()
    assert called["proxy/chat.py Chat.parse", "parse"] == times
    assert called["proxy/chat.py _check_other_prompts", "parse"] == times  # its caller's step
    assert into_c["proxy/chat.py Chat.parse", "parse"] >= times
    assert coded == {("decode", "proxy/wire.py read_body"): times}
    executed = bytecodes.take()
    assert executed["proxy/chat.py Chat.parse", "parse"] > 50 * times
    assert executed["proxy/chat.py Chat.parse", "parse"] % times == 0
    assert round(blocks.take()["proxy/wire.py read_body"] / 50_000, 1) == times
    assert not calls.calls  # taken is taken


def test_a_comprehension_is_no_call_and_the_bench_is_not_counted() -> None:
    inner = [code for code in wire.limit_headers.__code__.co_consts if hasattr(code, "co_code")]
    known = describe(wire.limit_headers.__code__)
    assert (known.name, known.ours, known.step) == ("proxy/wire.py limit_headers", True, None)
    assert all(describe(code).name.startswith("proxy/wire.py limit_headers") for code in inner)
    assert not describe(Calls.take.__code__).counts


def test_a_step_is_its_functions_then_its_files_and_a_name_that_is_gone_is_told() -> None:
    assert steps.step_of("proxy/exchange.py", "Exchange._passed_on.<locals>.take") == steps.RELAY
    assert steps.step_of("proxy/exchange.py", "Exchange._open") == steps.LINE
    assert steps.step_of("balance/redis_link.py", "_Wire._flush") is None
    assert steps.stale(["proxy/routes.py"], [("proxy/wire.py", "read_body"), ("server/answer.py", "EdgeAnswer.receive")]) == []
    gone = [("proxy/wire.py", "pars"), ("proxy/nowhere.py", "parse")]
    assert steps.stale(["proxy/nowhere.py"], gone) == ["proxy/nowhere.py", "proxy/wire.py pars", "proxy/nowhere.py parse"]

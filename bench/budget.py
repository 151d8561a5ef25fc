"""The budget: for each figure, what a run must reach and what it should."""

from typing import Final

import msgspec

from bench.contestants import GATEWAY, NGINX
from bench.peers.install import LITELLM, PORTKEY
from bench.results import Results, added_ms, plain_cpu_us, stream_cpu_us


class Line(msgspec.Struct, frozen=True):
    """One figure against its budget. `value` None: not measured in this run."""

    figure: str
    unit: str
    value: float | None
    must: float
    aim: float
    at_most: bool = True

    @property
    def verdict(self) -> str:
        """`pass`, `FAIL` or `not measured`; `pass, aim` where even the aim is reached."""
        if self.value is None:
            return "not measured"
        sign = 1 if self.at_most else -1
        if sign * self.value > sign * self.must:
            return "FAIL"
        return "pass, aim" if sign * self.value <= sign * self.aim else "pass"


_KEPT_UP_S: Final = 1.0  # streams that end later than this were not carried at their rate


def lines(results: Results) -> list[Line]:
    """Every figure of the budget, in its order."""
    memory = results.memory
    drains = {drain.store: drain.per_s for drain in results.drains}
    starts = [value for values in results.start_up_s.values() for value in values]
    return [
        Line("CPU per non-streamed request", "us", plain_cpu_us(results.full_load, GATEWAY), 300, 150),
        Line("CPU per relayed chunk of a stream", "us", stream_cpu_us(results.streams, GATEWAY), 60, 20),
        Line("p50 added at 1 connection", "ms", added_ms(results.one_connection, GATEWAY, "p50_us"), 1, 0.4),
        Line("p99 added at 64 connections, half load", "ms", added_ms(results.half_load, GATEWAY, "p99_us"), 15, 5),
        Line("streams at 20 chunks/s carried, nothing dropped", "", _streams_carried(results), 1000, 3000, at_most=False),
        Line("resident memory, idle", "MB", memory.idle_mb if memory else None, 120, 90),
        Line("resident memory with the many streams", "MB", memory.at_streams_mb if memory else None, 300, 180),
        Line("time to first healthy answer, slowest", "s", max(starts) if starts else None, 3, 1),
        Line("drain into SQLite", "events/s", drains.get("SQLite"), 1500, 5000, at_most=False),
        Line("drain into Postgres", "events/s", drains.get("Postgres"), 3000, 10000, at_most=False),
        Line("CPU per request, times nginx's", "x", _times(results, GATEWAY, NGINX), 15, 6),
        Line(f"requests per CPU second, times {LITELLM}'s", "x", _times(results, LITELLM, GATEWAY), 50, 110, at_most=False),
        Line(f"requests per CPU second, times {PORTKEY}'s", "x", _times(results, PORTKEY, GATEWAY), 2.5, 5, at_most=False),
    ]


def _times(results: Results, one: str, other: str) -> float | None:
    """How many times the other's CPU a request of the one takes; None where one of them was not measured."""
    mine, theirs = plain_cpu_us(results.full_load, one), plain_cpu_us(results.full_load, other)
    return mine / theirs if mine and theirs else None


def _streams_carried(results: Results) -> float | None:
    rounds = [each for each in results.many_streams if each.contestant == GATEWAY]
    if not rounds:
        return None
    carried = [
        each.load.served if each.load.dropped == 0 and each.late_s <= _KEPT_UP_S else 0 for each in rounds
    ]
    return float(min(carried))

"""Load of plain (not streamed) requests: wrk, driven by `plain_load.lua`."""

import json
from pathlib import Path
from typing import Final

import msgspec

from bench.cases import Case
from bench.contestants import Door
from bench.processes import BenchError, Ground

_SCRIPT: Final = Path(__file__).with_name("plain_load.lua")
_SILENCE_S: Final = 1  # for the last answers to arrive; see the script
_SLOW_SILENCE_S: Final = 4
_TIMEOUT: Final = "30s"  # longer than any answer and any rest: wrk takes a rest for an answer that does not come


class PlainLoad(msgspec.Struct, frozen=True):
    """What one load saw. `served` are answers below 400; times are microseconds.

    `wrong`: those of them that were not the upstream's answer, where every one was looked at. `wire_bytes`: of an
    answer with its head, on average; `body_bytes`: of the last body, where they were looked at.
    """

    served: int
    refused: int
    broken: int
    requests_per_s: float
    p50_us: int
    p99_us: int
    max_us: int
    p95_us: int = 0
    wrong: int = 0
    wire_bytes: float = 0.0
    body_bytes: int = 0

    @property
    def failed(self) -> int:
        """Whatever was not a right answer."""
        return self.refused + self.broken + self.wrong


class Manner(msgspec.Struct, frozen=True):
    """How to ask. `pause_ms`: a connection's mean rest between two requests. `end_users`: 0 names none.

    `checked`: look at every answer. `exact`: it is the upstream's, byte for byte. `slow`: look at every answer, give the last
    of them more time, and count the requests over the time until the last.
    """

    connections: int
    seconds: float
    pause_ms: float = 0.0
    end_users: int = 0
    checked: bool = False
    exact: bool = True
    slow: bool = False


def run(ground: Ground, door: Door, case: Case, manner: Manner) -> PlainLoad:
    """Ask one contestant for the case."""
    body = ground.directory / f"{case.name.replace(' ', '-')}.body"
    body.write_text(case.body)
    seconds = manner.seconds
    limit_s = round(seconds + (_SLOW_SILENCE_S if manner.slow else _SILENCE_S))
    looked_at = manner.checked or manner.slow
    command = [
        "wrk", "-t1", f"-c{manner.connections}", f"-d{limit_s}s", "--timeout", _TIMEOUT, "-s", str(_SCRIPT),
        f"{door.scheme}://127.0.0.1:{door.port}{case.path}", "--",
        str(seconds), str(manner.pause_ms), str(body), str(manner.end_users),
        case.proof if looked_at else "", str(case.least_bytes(exact=manner.exact)), str(case.most_bytes(exact=manner.exact)),
        *door.headers,
    ]  # fmt: skip
    finished = ground.run(command, timeout_s=seconds + 30)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    if finished.returncode or not lines:
        raise BenchError(f"wrk failed: {finished.stdout[-500:]}{finished.stderr[-500:]}")
    return read(lines[-1], max_seconds=manner.slow, seconds=seconds)


def read(line: str, *, seconds: float, max_seconds: bool) -> PlainLoad:
    """What the script printed. `max_seconds`: the requests took as long as until the last answer, where that is later."""
    seen = json.loads(line)
    took_s = max(seconds, seen["took_s"]) if max_seconds else seconds
    return PlainLoad(
        served=seen["requests"] - seen["refused"],
        refused=seen["refused"],
        broken=seen["broken"],
        requests_per_s=round(seen["requests"] / took_s, 1),
        p50_us=seen["p50_us"],
        p99_us=seen["p99_us"],
        max_us=seen["max_us"],
        p95_us=seen["p95_us"],
        wrong=seen["wrong"],
        wire_bytes=round(seen["bytes"] / max(seen["requests"], 1), 1),
        body_bytes=seen["body_bytes"],
    )

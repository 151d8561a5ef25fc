"""Load of plain (not streamed) requests: wrk, driven by `plain_load.lua`."""

import json
import shutil
from pathlib import Path
from typing import Final

import msgspec

from bench.processes import BenchError, Ground

_SCRIPT: Final = Path(__file__).with_name("plain_load.lua")
_SILENCE_S: Final = 1  # for the last answers to arrive; see the script
BODY: Final = json.dumps(
    {
        "model": "bench-model",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant of an online shop. Answer in one short paragraph."},
            {"role": "user", "content": "Which of the two tents is better for a week of rain in the mountains, and why?"},
        ],
        "max_tokens": 128,
        "temperature": 0.2,
    }
)


class PlainLoad(msgspec.Struct, frozen=True):
    """What one load saw. `served` are answers below 400; times are microseconds."""

    served: int
    refused: int
    broken: int
    requests_per_s: float
    p50_us: int
    p99_us: int
    max_us: int


def available() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def run(
    ground: Ground,
    port: int,
    *,
    connections: int,
    seconds: float,
    key: str = "",
    end_users: int = 0,
    pause_ms: float = 0.0,
    keys: Path | None = None,
) -> PlainLoad:
    """POST the fixed body on so many connections; `pause_ms` is a connection's mean rest between two requests.

    `keys` is a file with an Authorization header's value a line, which the requests take in turn.
    """
    command = [
        "wrk", "-t1", f"-c{connections}", f"-d{round(seconds + _SILENCE_S)}s", "--timeout", "10s", "-s", str(_SCRIPT),
        f"http://127.0.0.1:{port}/v1/chat/completions", "--", str(seconds), str(pause_ms), BODY, str(end_users),
    ]  # fmt: skip
    if keys is not None:
        command.append(f"Authorization: @{keys}")
    elif key:
        command.append(f"Authorization: Bearer {key}")
    finished = ground.run(command, timeout_s=seconds + 30)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    if finished.returncode or not lines:
        raise BenchError(f"wrk failed: {finished.stdout[-500:]}{finished.stderr[-500:]}")
    seen = json.loads(lines[-1])
    return PlainLoad(
        served=seen["requests"] - seen["refused"],
        refused=seen["refused"],
        broken=seen["broken"],
        requests_per_s=round(seen["requests"] / seconds, 1),
        p50_us=seen["p50_us"],
        p99_us=seen["p99_us"],
        max_us=seen["max_us"],
    )

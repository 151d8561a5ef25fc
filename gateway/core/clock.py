"""Time, for rules that tests must be able to move. A `Clock` returns Unix nanoseconds.

`time.time_ns` is the production clock: it is passed as it is, so reading it costs no Python frame
on the path of a request. Redis scripts do not use it: they take the time of the Redis server.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

Clock = Callable[[], int]
SYSTEM_CLOCK: Final[Clock] = time.time_ns


def now_ms(clock: Clock = SYSTEM_CLOCK) -> int:
    """Unix milliseconds."""
    return clock() // 1_000_000


def rfc3339(at_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds: 2026-01-31T12:00:00.000Z."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

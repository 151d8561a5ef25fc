"""What a limit's stored field counts at a moment: for who asks, off the path of requests, which count in reserve_v1."""

from datetime import UTC, datetime
from struct import Struct
from typing import Final

from gateway.balance.model import LimitKind
from gateway.core.money import ceil_div

_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 86_400_000
_IN_MINUTES: Final = Struct("<qqq")  # the minute, what was counted in it and in the minute before


def used_of(kind: LimitKind, field: bytes | None, now_ms: int) -> int:
    """The count of one field of a limit's hash, as lua/reserve_v1.lua writes it; 0 where there is none."""
    if field is None:
        return 0
    match kind:
        case LimitKind.REQUESTS_PER_MINUTE | LimitKind.TOKENS_PER_MINUTE:
            minute, current, previous = _IN_MINUTES.unpack(field)
            since = now_ms // _MINUTE_MS - minute
            if since > 1:
                return 0
            if since == 1:
                current, previous = 0, current
            return int(current) + ceil_div(previous * (_MINUTE_MS - now_ms % _MINUTE_MS), _MINUTE_MS)
        case LimitKind.SPEND_PER_DAY | LimitKind.SPEND_PER_MONTH:
            window, _, spent = field.partition(b":")
            return int(spent) if int(window) == _window(kind, now_ms) else 0
        case _:
            return int(field)


def _window(kind: LimitKind, now_ms: int) -> int:
    if kind is LimitKind.SPEND_PER_DAY:
        return now_ms // _DAY_MS
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    return moment.year * 12 + moment.month - 1

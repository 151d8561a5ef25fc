"""What options of commands may say: amounts, counts, times. Each is parsed here, and refused with a sentence."""

import re
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
import msgspec

from gateway.core.clock import now_ms, rfc3339
from gateway.core.money import micro_from_decimal

NONE: Final = msgspec.Raw(b"null")  # said, where None is left out
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})")
_SPAN = re.compile(r"([0-9]{1,7})([dhm])")
_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Value(click.ParamType[Any], ABC):
    """A parsed value, or NONE where `none` may be said."""

    def __init__(self, *, may_be_none: bool = False) -> None:
        self._may_be_none = may_be_none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value of an option; ends the command with a sentence."""
        if not isinstance(value, str):
            return value
        if self._may_be_none and value == "none":
            return NONE
        try:
            return self.parsed(value)
        except ValueError as wrong:
            self.fail(f"{wrong}{' (or none)' if self._may_be_none else ''}.", param, ctx)

    @abstractmethod
    def parsed(self, text: str) -> Any:
        """The value, or ValueError with the beginning of a sentence."""


class Count(_Value):
    """A whole number, at or above zero."""

    name = "number"

    def parsed(self, text: str) -> int:
        """The number."""
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise ValueError(f"{text!r} is not a whole number")
        return int(text)


class Amount(_Value):
    """A decimal amount of an asset, as micro-units."""

    name = "decimal"

    def parsed(self, text: str) -> int:
        """The micro-units."""
        return micro_from_decimal(text)


class Span(_Value):
    """A span of time, as seconds."""

    name = "span"

    def parsed(self, text: str) -> int:
        """The seconds."""
        span = _SPAN.fullmatch(text)
        if span is None and text != "0":
            raise ValueError(f"{text!r} is not a span: write 90m, 12h, 30d, or 0")
        return 0 if span is None else int(span[1]) * _MS[span[2]] // 1000

    @staticmethod
    def shown(seconds: int) -> str:
        """Seconds as they are typed, in the largest unit that is exact; rounded up to a minute, the smallest that can be said."""
        minutes = -(-seconds // 60)
        unit = next(unit for unit in "dhm" if minutes * 60_000 % _MS[unit] == 0)
        return f"{minutes * 60_000 // _MS[unit]}{unit}"


class Moment(_Value):
    """A time, as RFC 3339 text: such a time, a date (midnight UTC), or a span from now, or before now where `ago`."""

    name = "time"

    def __init__(self, *, may_be_none: bool = False, ago: bool = False) -> None:
        super().__init__(may_be_none=may_be_none)
        self._sign = -1 if ago else 1

    def parsed(self, text: str) -> str:
        """The time."""
        span = _SPAN.fullmatch(text)
        try:
            if span is not None:
                return rfc3339(now_ms() + self._sign * int(span[1]) * _MS[span[2]])
            full = f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text
            if _RFC3339.fullmatch(full):
                moment = datetime.fromisoformat(full.upper())
                return rfc3339((moment - _EPOCH) // timedelta(milliseconds=1))
        except (ValueError, OverflowError) as wrong:
            raise ValueError(f"there is no such time as {text!r}") from wrong
        raise ValueError(
            f"{text!r} is not a time: write 2026-12-31T23:59:59Z, 2026-12-31 (midnight UTC), or a span such as 30d, 12h or 90m"
        )


COUNT: Final = Count()
COUNT_OR_NONE: Final = Count(may_be_none=True)
AMOUNT: Final = Amount()
AMOUNT_OR_NONE: Final = Amount(may_be_none=True)
SPAN: Final = Span()
SPAN_OR_NONE: Final = Span(may_be_none=True)
MOMENT: Final = Moment()
MOMENT_OR_NONE: Final = Moment(may_be_none=True)
AGO: Final = Moment(ago=True)
MOMENT_HELP: Final = "RFC 3339 time, date (midnight UTC), or span from now such as 30d, 12h, 90m"
AGO_HELP: Final = "RFC 3339 time, date (midnight UTC), or span before now such as 30d, 12h, 90m"

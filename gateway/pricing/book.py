"""A price book: versions of an app's prices by the time from which they hold. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

ANY_MODEL: Final = "*"


class Version(msgspec.Struct, frozen=True):
    """One price of one model, from `effective_at_ms` on. Exactly one of `rates` and `markup_bp` is set.

    `rates` are micro-units of the app's asset per million units, as `rates.rates_from` takes them; `markup_bp` are basis
    points on the provider's price. `model` "*" is the app's default for models without a version of their own.
    """

    model: str
    effective_at_ms: int
    rates: Mapping[str, Any] | None = None
    markup_bp: int | None = None


class Book:
    """The versions of one app."""

    def __init__(self, versions: Iterable[Version]) -> None:
        by_model: dict[str, list[Version]] = {}
        for version in sorted(versions, key=lambda version: version.effective_at_ms):
            assert (version.rates is None) != (version.markup_bp is None)
            by_model.setdefault(version.model, []).append(version)
        self._by_model = by_model

    def at(self, model: str, at_ms: int) -> Version | None:
        """The newest version of the model in force at that time, else the newest of "*", else None."""
        return self._newest(model, at_ms) or self._newest(ANY_MODEL, at_ms)

    def until(self, model: str, at_ms: int) -> int | None:
        """When what `at` says may change next: the first version of the model or of "*" after that time."""
        later = [
            version.effective_at_ms
            for name in (model, ANY_MODEL)
            for version in self._by_model.get(name, ())
            if version.effective_at_ms > at_ms
        ]
        return min(later, default=None)

    def _newest(self, model: str, at_ms: int) -> Version | None:
        versions = self._by_model.get(model)
        if not versions:
            return None
        place = bisect_right(versions, at_ms, key=lambda version: version.effective_at_ms)
        return versions[place - 1] if place else None

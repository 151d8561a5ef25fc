"""The price lists by time: the shipped one, and those that an operator put in its place from a moment on.

A list that holds has every model's price that it knows; a model that it does not have is looked up in the shipped one.
What a moment that is over cost stays: a list holds from now or later, and none is ever changed.
"""

import asyncio
import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.clock import Clock, now_ms, rfc3339
from gateway.core.errors import Conflict, InvalidRequest, Unavailable
from gateway.core.ids import new_id
from gateway.db.faults import SqlDown
from gateway.pricing.shipped import NotAPriceList, PriceList, Shipped, shipped, shipped_names, shipped_version
from gateway.pricing.store import ListRow, SameInstant, Store

FOR_EVER_MS: Final = 2**62
BACKDATE_MS_MAX: Final = 60_000  # clocks differ; within it a price holds from now
AHEAD_MS_MAX: Final = 10 * 366 * 24 * 3_600_000
_IN_FORCE_KEPT: Final = 2  # the newest, and the one before it for requests that began under it


class Listed(msgspec.Struct, frozen=True):
    """What the list in force says of a model, where that is from, and from when until when it holds."""

    found: Shipped | None
    source: str
    since_ms: int
    until_ms: int


class Lists:
    """The lists of one process."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._read: dict[str, PriceList] = {}
        self._rows: list[ListRow] = []  # by the time from which they hold
        self._since: list[int] = []

    async def load(self) -> bool:
        """Bring what others added into memory; whether there was anything. Raises SqlDown."""
        at_ms = now_ms(self._clock)
        rows = await self._store.lists()
        ahead = [row for row in rows if row.effective_at_ms > at_ms]
        kept = sorted([*ahead, *rows[len(ahead) :][:_IN_FORCE_KEPT]], key=lambda row: row.effective_at_ms)
        if kept == self._rows:
            return False
        for row in kept:
            if row.id not in self._read:
                self._read[row.id] = PriceList(await self._store.list_content(row.id))
        self._rows, self._since = kept, [row.effective_at_ms for row in kept]
        self._read = {row.id: self._read[row.id] for row in kept}
        return True

    def look_up(self, provider: str, model: str, region: str, at_ms: int) -> Listed:
        """The price of a provider's model at a time."""
        place = bisect_right(self._since, at_ms)
        since_ms = self._since[place - 1] if place else 0
        until_ms = self._since[place] if place < len(self._since) else FOR_EVER_MS
        if place:
            row = self._rows[place - 1]
            found = shipped(provider, model, region, self._read[row.id])
            if found is not None:
                return Listed(found, f"updated list ({rfc3339(row.effective_at_ms)[:10]})", since_ms, until_ms)
        found = shipped(provider, model, region)
        return Listed(found, f"shipped list (litellm {shipped_version()})", since_ms, until_ms)

    def names(self, provider: str, pattern: str) -> list[str]:
        """The priced models of a provider that fall under a pattern, of the list in force now and the shipped one."""
        place = bisect_right(self._since, now_ms(self._clock))
        named = shipped_names(provider, pattern)
        if place:
            named += shipped_names(provider, pattern, self._read[self._rows[place - 1].id])
        return list(dict.fromkeys(named))

    def in_force(self) -> str:
        """The id of the list that holds now; "" for the shipped one."""
        place = bisect_right(self._since, now_ms(self._clock))
        return self._rows[place - 1].id if place else ""

    async def rows(self) -> Sequence[ListRow]:
        """Every list that was put in the shipped one's place, the latest to hold first. Unavailable."""
        try:
            return await self._store.lists()
        except SqlDown as down:
            raise _unavailable() from down

    async def add(self, content: bytes, effective_at_ms: int, actor: str, role: str) -> ListRow:
        """Take a list that holds from `effective_at_ms`, read as a whole first. InvalidRequest, Conflict, Unavailable."""
        at_ms = now_ms(self._clock)
        if not AHEAD_MS_MAX > effective_at_ms - at_ms >= -BACKDATE_MS_MAX:
            raise InvalidRequest("A price list holds from now or later, at most ten years ahead.", param="effective_at")
        models = (await checked(content))[1]
        digest = hashlib.sha256(content).hexdigest()
        deflated = await asyncio.to_thread(zlib.compress, content)
        row = ListRow(new_id("prl"), max(effective_at_ms, at_ms), models, digest, at_ms, actor)
        try:
            await self._store.add_list(row, deflated, role)
        except SameInstant as taken:
            raise Conflict("There is a price list from that moment already.", param="effective_at") from taken
        except SqlDown as down:
            raise _unavailable() from down
        return row


async def checked(content: bytes) -> tuple[PriceList, int]:
    """A list, and how many of its models have prices, with every entry read once; InvalidRequest says which cannot be."""
    try:
        listed = PriceList(content)
        return listed, await asyncio.to_thread(listed.check)
    except NotAPriceList as wrong:
        raise InvalidRequest(f"This is no price list in litellm's format. {wrong}", param="prices") from wrong


def _unavailable() -> Unavailable:
    return Unavailable("The platform database does not answer. Try again shortly.", retry_after_s=1)

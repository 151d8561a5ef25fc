"""What this process settled and the books do not have yet, kept to be settled again should the hot store lose it.

Redis may lose what it answered: emptied (all of it), started again on what was synced a second ago, or replaced by a
replica that was behind (the last moments of it). Nothing else knows those requests: their events were in its streams.
So whoever settled them keeps them, until the drain has deleted their events, which it does when both books have them.

An event is in the books when the oldest one that still waits in its shard is younger: events leave a stream in no other
way. That is so only while nothing was lost. Hence two conditions, and where one fails everything kept of the shard is
settled again, which does nothing where nothing was lost:

- the shard's epoch is the one that was seen at the last look (a word that goes when everything goes, see ask_v1.lua);
- the answer to the settlement came over the connection that stands (a server that started again cuts it, so does
  one that was replaced). What such a server lost is a moment's worth, and may be in the books already: the hot wallet
  is short of the debit then. So nothing is dropped before it is KEPT_LEAST_S old.

To settle again is: settle, as if the reply had been lost; where nothing is known of the hold, `resubmit_v1`, which debits
without one. A wallet that is missing is rebuilt from the books first, and those may have the request already: the
rebuilt wallet remembers the requests that its amount counts, and is not debited for them.

A request can be settled again for KEPT_S: after that its result may be forgotten, and nothing tells a loss from that.
What is dropped for its age or for the bounds, and was lost as well, `gateway reconcile` cannot know of either.

What is lost all the same: what a process had settled that died together with the store, within the last lag of the drain
(`appendfsync always` closes that for a store that keeps its disk); what the sweeper charged within that lag; counts of limits.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, Protocol

import msgspec

from gateway.balance.model import BalanceUnavailable, Settled
from gateway.core.limits import KEPT_BYTES_MAX, KEPT_LEAST_S, KEPT_LOOK_S, KEPT_MAX, REDIS_TIMEOUT_S

_log = logging.getLogger(__name__)
_AT_ONCE: Final = 100
_PAUSE_S: Final = 0.1


class Kept(msgspec.Struct, gc=False):
    """One settlement: all that it takes to make it again.

    `entry` is the id of its event (b"": none known yet), answered in this `life` of the link. `until` is on the
    monotonic clock, and 0 when the hold may have been swept and forgotten.
    """

    shard: int
    request_id: str
    wallets: tuple[str, ...]
    keys: tuple[int, bytes]
    context: bytes
    asked: bytes
    rest: bytes
    sent_at: float
    until: float
    entry: bytes = b""
    life: int = 0

    @property
    def event(self) -> bytes:
        """The whole usage event, as settle_v1 joins it."""
        return self.context[:-1] + b"," + self.rest[1:]

    @property
    def size(self) -> int:
        """In bytes, about."""
        return len(self.keys[1]) + len(self.context) + len(self.asked) + len(self.rest) + 500


class Asked(msgspec.Struct, frozen=True):
    """What a shard says of itself; `oldest` is the id of the first event that waits, b"" for none. Time is the server's."""

    epoch: str
    oldest: bytes
    now_ms: int


class Settling(Protocol):
    """The adapter, as this file needs it."""

    @property
    def kept(self) -> Sequence[dict[str, Kept]]:
        """By shard and request id, in the order in which they were sent."""
        ...

    @property
    def life(self) -> int:
        """Which connection stands."""
        ...

    @property
    def loss(self) -> asyncio.Event:
        """Set by whoever meets a loss."""
        ...

    async def ask(self, shard: int) -> Asked:
        """What a shard is by now."""
        ...

    async def settle_again(self, kept: Kept) -> Settled:
        """Make a settlement that was made before, or may have been."""
        ...


class Keeper:
    """Looks after what one process keeps."""

    def __init__(self, balance: Settling, monotonic: Callable[[], float] = monotonic) -> None:
        """`monotonic` is the adapter's, too."""
        self._balance = balance
        self._monotonic = monotonic
        self._epochs: dict[int, str] = {}
        self.dropped = 0  # for the bounds
        self.replayed = 0

    async def run(self) -> None:
        """Until cancelled."""
        loss = self._balance.loss
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(loss.wait(), KEPT_LOOK_S)
            loss.clear()
            try:
                self._bound()
                await self.look()
            except Exception:  # noqa: BLE001 - edge of the process: what is kept is looked after again, whatever failed
                _log.exception("what is kept could not be looked after")
            if loss.is_set():
                await asyncio.sleep(KEPT_LOOK_S / 20)  # met by every request: once for many of them

    async def finish(self, timeout_s: float) -> int:
        """Before the process ends: settle what has no answer yet; how many could not be. What has one needs us no more."""
        ends = self._monotonic() + timeout_s
        while unanswered := [one for kept in self._balance.kept for one in kept.values() if not one.entry]:
            try:
                await self._again(unanswered)
            except BalanceUnavailable as down:
                if self._monotonic() >= ends:
                    _log.error("%d requests could not be settled: %s", len(unanswered), down)
                    return len(unanswered)
                await asyncio.sleep(_PAUSE_S)
        return 0

    async def look(self) -> None:
        """Drop what the books have, settle again what may have been lost; what fails is for the next look."""
        shards = [(shard, kept) for shard, kept in enumerate(self._balance.kept) if kept]
        waiting, reason = 0, ""
        for outcome, (_, kept) in zip(
            await asyncio.gather(*[self._look_at(*each) for each in shards], return_exceptions=True), shards, strict=True
        ):
            if isinstance(outcome, BalanceUnavailable):
                waiting, reason = waiting + len(kept), str(outcome)
            elif outcome is not None:
                raise outcome
        if waiting:
            _log.warning("%d settled requests are kept until the hot store serves: %s", waiting, reason)

    async def _look_at(self, shard: int, kept: dict[str, Kept]) -> None:
        settled = [one for one in kept.values() if one.entry]  # before it is asked: the answer is about these
        asked = await self._balance.ask(shard)
        life = self._balance.life
        if self._epochs.get(shard) != asked.epoch:
            if shard in self._epochs:
                _log.error("shard %d of the hot store was emptied: %d settled requests are settled again", shard, len(kept))
            await self._again(list(kept.values()))
            self._epochs[shard] = asked.epoch
            return
        oldest = _place(asked.oldest) if asked.oldest else None
        now = self._monotonic()
        late = now - REDIS_TIMEOUT_S
        doubtful = [one for one in kept.values() if not one.entry and one.sent_at < late]
        for one in settled:
            if one.life != life:
                doubtful.append(one)
            elif one.sent_at < now - KEPT_LEAST_S and (oldest is None or _place(one.entry) < oldest):
                kept.pop(one.request_id, None)
        if doubtful:
            await self._again(doubtful)

    async def _again(self, doubtful: Sequence[Kept]) -> None:
        """All of them are tried; BalanceUnavailable when one has to be tried again."""
        self.replayed += len(doubtful)
        failed: BalanceUnavailable | None = None
        for start in range(0, len(doubtful), _AT_ONCE):
            some = doubtful[start : start + _AT_ONCE]
            for outcome in await asyncio.gather(*[self._balance.settle_again(one) for one in some], return_exceptions=True):
                if isinstance(outcome, BalanceUnavailable):
                    failed = outcome
                elif isinstance(outcome, BaseException):
                    raise outcome
        if failed is not None:
            raise failed

    def _bound(self) -> None:
        """Drop the oldest of the fullest shards, when there is too much of them."""
        everything = [one for kept in self._balance.kept for one in kept.values()]
        over, size = len(everything) - KEPT_MAX, sum(one.size for one in everything)
        if over <= 0 and size <= KEPT_BYTES_MAX:
            return
        everything.sort(key=lambda one: one.sent_at)
        before = self.dropped
        for one in everything:
            if over <= 0 and size <= KEPT_BYTES_MAX:
                break
            self._balance.kept[one.shard].pop(one.request_id, None)
            over, size, self.dropped = over - 1, size - one.size, self.dropped + 1
        _log.error("%d settled requests are kept no longer: the drain is too far behind", self.dropped - before)


def _place(entry_id: bytes) -> tuple[int, int]:
    """An entry's id as Redis orders it."""
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number)

"""A month of an account's balance at Stripe, of any size: what it came to in one moment, and its movements batch by batch.

Stripe lists movements newest first, a hundred at a time. One walk adds them up, and keeps them where they are few. Where they
are many they are asked for a second time, in slices of time from the oldest on, so that no more than a batch is ever held.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

import msgspec

from gateway.billing.ports import PaymentsDown
from gateway.billing.revenue.reports import Movement, Reports
from gateway.billing.revenue.store import Month
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import InvalidRequest
from gateway.core.limits import STATEMENT_MOVEMENTS_MAX

_LOOKS: Final = 5
_LITTLE: Final = 300  # movements that are asked for page by page
_PARTS: Final = 16
_AT_ONCE: Final = 4  # parts
BATCH_ROWS: Final = 2000
_SECOND_MS: Final = 1000  # Stripe's times are whole seconds
_RECENT_MS: Final = 60_000  # Stripe's clock beside ours


class Walked(msgspec.Struct, frozen=True):
    """What a walk saw, of one moment. By currency: the `closing` balance of the month, or of now while it is not over, what
    `moved` within it, and `counts` of that. `movements` are there where they are few; of those since `recent_ms` the ids.
    """

    account_id: str
    month: Month
    closing: Mapping[str, int]
    moved: Mapping[str, int]
    counts: Mapping[str, int]
    movements: tuple[Movement, ...] | None
    recent_ms: int
    recent: frozenset[str]

    @property
    def currencies(self) -> list[str]:
        """Those in which there was or is something, or anything moved."""
        named = sorted({*self.closing, *self.counts})
        return [each for each in named if self.counts.get(each) or self.closing.get(each) or self.opening_minor(each)]

    def opening_minor(self, currency: str) -> int:
        """The balance at the month's beginning."""
        return self.closing.get(currency, 0) - self.moved.get(currency, 0)


class _Seen:
    """What moved a balance: of a month one by one as long as it is little, and after it by currency."""

    def __init__(self, month: Month, recent_ms: int, kept_max: int) -> None:
        self._until_ms = month.until_ms
        self._recent_ms = recent_ms
        self._kept_max = kept_max
        self.inside: list[Movement] | None = []
        self.moved: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.after: dict[str, int] = {}
        self.recent: set[str] = set()
        self.count = 0

    def add(self, each: Movement) -> None:
        if each.created_at_ms >= self._recent_ms:
            if each.movement_id in self.recent:
                return
            self.recent.add(each.movement_id)
        self.count += 1
        if each.created_at_ms >= self._until_ms:
            self.after[each.currency] = self.after.get(each.currency, 0) + each.net_minor
            return
        self.moved[each.currency] = self.moved.get(each.currency, 0) + each.net_minor
        self.counts[each.currency] = self.counts.get(each.currency, 0) + 1
        if self.inside is not None:
            self.inside.append(each)
            if len(self.inside) > self._kept_max:
                self.inside = None


class AccountWalk:
    """Walks accounts. Raises PaymentsDown, PaymentsRefused."""

    def __init__(self, payments: Reports, clock: Clock) -> None:
        self._payments = payments
        self._clock = clock
        self.batch_rows = BATCH_ROWS

    async def month(self, account_id: str, month: Month, kept_max: int) -> Walked:
        """All of a month; at most `kept_max` movements are kept one by one. InvalidRequest beyond STATEMENT_MOVEMENTS_MAX.

        What moves while it walks is looked at again until the balance stays; PaymentsDown where it does not.
        """
        recent_ms = max((now_ms(self._clock) - _RECENT_MS) // _SECOND_MS * _SECOND_MS, month.from_ms)
        before = dict(await self._payments.balance(account_id))
        seen = await self._all(account_id, month, recent_ms, kept_max)
        for _ in range(_LOOKS):
            balance = dict(await self._payments.balance(account_id))
            if balance == before:
                closing = {name: balance.get(name, 0) - seen.after.get(name, 0) for name in {*balance, *seen.after, *seen.counts}}
                kept = None if seen.inside is None else tuple(seen.inside)
                return Walked(account_id, month, closing, seen.moved, seen.counts, kept, recent_ms, frozenset(seen.recent))
            before = balance
            await self._look(account_id, recent_ms, None, seen)
        raise PaymentsDown("the account's balance moves faster than it can be read")

    async def _all(self, account_id: str, month: Month, recent_ms: int, kept_max: int) -> _Seen:
        """From the month's beginning until now: in one go where that is little, else several parts of it at once."""
        seen = _Seen(month, recent_ms, kept_max)
        if not await self._look(account_id, month.from_ms, None, seen, _LITTLE):
            return seen
        step = max((now_ms(self._clock) - month.from_ms) // _PARTS // _SECOND_MS * _SECOND_MS, _SECOND_MS)
        begins = [month.from_ms + part * step for part in range(_PARTS)]
        seen, turns = _Seen(month, recent_ms, kept_max), asyncio.Semaphore(_AT_ONCE)

        async def part(from_ms: int, until_ms: int | None) -> None:
            async with turns:
                await self._look(account_id, from_ms, until_ms, seen)

        looked = [part(*both) for both in zip(begins, [*begins[1:], None], strict=True)]
        for failed in await asyncio.gather(*looked, return_exceptions=True):
            if failed is not None:
                raise failed
        return seen

    async def _look(self, account_id: str, from_ms: int, until_ms: int | None, seen: _Seen, most: int | None = None) -> bool:
        """Adds what moved; True where it stopped, as there is more than `most`."""
        async with aclosing(self._payments.movements(account_id, from_ms, until_ms)) as walk:
            async for each in walk:
                seen.add(each)
                if most is not None and seen.count > most:
                    return True
                if seen.count > STATEMENT_MOVEMENTS_MAX:
                    message = f"More than {STATEMENT_MOVEMENTS_MAX} movements since that month began: take Stripe's own reports."
                    raise InvalidRequest(message, param="month")
        return False

    async def batches(self, walked: Walked, currency: str) -> AsyncGenerator[list[Movement], None]:
        """What a walk saw of a month in one currency, oldest first."""
        if walked.movements is not None:
            mine = [each for each in walked.movements if each.currency == currency]
            yield sorted(mine, key=_order)
            return
        from_ms, count = walked.month.from_ms, walked.counts.get(currency, 0)
        ends_ms = min(walked.month.until_ms, now_ms(self._clock) + _RECENT_MS)
        slices = max(2 * count // self.batch_rows, 1)
        step = max(-(-(ends_ms - from_ms) // slices // _SECOND_MS) * _SECOND_MS, _SECOND_MS)
        while count and from_ms < ends_ms:
            until_ms = min(from_ms + step, ends_ms)
            found = await self._slice(walked, currency, from_ms, until_ms)
            if found is None:
                step = max(step // 2 // _SECOND_MS * _SECOND_MS, _SECOND_MS)
                continue
            if found:
                yield sorted(found, key=_order)
            from_ms = until_ms

    async def _slice(self, walked: Walked, currency: str, from_ms: int, until_ms: int) -> list[Movement] | None:
        """None where it is more than a batch, and can be a shorter time."""
        found: list[Movement] = []
        can_be_shorter = until_ms - from_ms > _SECOND_MS
        async with aclosing(self._payments.movements(walked.account_id, from_ms, until_ms, currency)) as walk:
            async for each in walk:
                if each.created_at_ms < walked.recent_ms or each.movement_id in walked.recent:  # else it came after the walk
                    found.append(each)
                if len(found) > self.batch_rows and can_be_shorter:
                    return None
        return found


def _order(each: Movement) -> tuple[int, str]:
    return each.created_at_ms, each.movement_id

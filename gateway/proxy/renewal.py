"""Signs of life: what keeps the holds of requests in flight from being taken for those of a dead process.

A hold lives for `hold_ttl_s` from the last sign, so that what a gateway held when it died is free again after
that time and not after the longest request. Requests that end sooner than a quarter of it cost nothing here.
Beside the signs, and never before one, each stream's checkpoint is noted: what it has made so far, at its price, is
what the sweeper settles. Counting tokens takes long where prompts are long, and a sign must not wait for it.

A process that stood still for as long, as a paused machine does, was taken for dead, and what it holds in its hands is
paid no more. So a stream is passed on only under a lease, which ends before its hold can have been swept; past it the
store is asked first.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from time import perf_counter
from typing import Final

from msgspec.structs import astuple

from gateway.balance.model import Balance, HoldLost
from gateway.core.clock import Clock
from gateway.core.units import TOKEN_KINDS, Usage
from gateway.core.words import CostPolicy, RequestStatus, UsageSource
from gateway.metering.counting import Counter
from gateway.metering.event import encode_event
from gateway.proxy.made import Made
from gateway.proxy.ports import Prices
from gateway.proxy.ticket import Ticket

_log = logging.getLogger(__name__)
SIGNS: Final = 4  # in the life of a hold: three may be lost
_AT_ONCE: Final = 100
TOKENS: Final = len(TOKEN_KINDS)


class Renewal:
    """Renews the holds of `in_flight` (by request id) until stopped."""

    def __init__(
        self, in_flight: Mapping[str, Ticket], balance: Balance, counter: Counter, prices: Prices, ttl_s: int, clock: Clock
    ) -> None:
        self._in_flight = in_flight
        self._balance = balance
        self._counter = counter
        self._prices = prices
        self._ttl_s = ttl_s
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(self._every(self.renew), self._every(self.note))

    async def _every(self, work: Callable[[], Awaitable[int]]) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / SIGNS)
            await work()

    async def renew(self) -> int:
        """A sign for every hold that is older than the time between two; how many. A sign that fails is logged."""
        due = self._due()
        for start in range(0, len(due), _AT_ONCE):
            signs = [self._extend(ticket, (), b"") for ticket in due[start : start + _AT_ONCE]]
            for failed in await asyncio.gather(*signs, return_exceptions=True):
                if isinstance(failed, Exception):  # of one hold: the others live on
                    _log.warning("a hold was not renewed: %s: %s", type(failed).__name__, failed)
        return len(due)

    async def note(self) -> int:
        """Checkpoints of the streams among them, one after the other; how many. Counting may take as long as it takes."""
        noted = 0
        for ticket in self._due():
            try:
                owed, event, tokens = await self._checkpoint(ticket)
                if event and not ticket.ended:
                    await self._extend(ticket, owed, event, tokens)
                    noted += 1
            except Exception as failed:  # noqa: BLE001 - of one hold: the others have theirs
                _log.warning("a stream has no new checkpoint: %s: %s", type(failed).__name__, failed)
        return noted

    def _due(self) -> list[Ticket]:
        before_ms = self._clock() // 1_000_000 - 1000 * self._ttl_s // SIGNS
        return [ticket for ticket in self._in_flight.values() if ticket.at_ms <= before_ms and not ticket.ended]

    async def _extend(self, ticket: Ticket, owed: tuple[int, ...], event: bytes, tokens: int = 0) -> None:
        await sign(self._balance, ticket, 1000 * self._ttl_s, owed, event, tokens)

    async def _checkpoint(self, ticket: Ticket) -> tuple[tuple[int, ...], bytes, int]:
        """What each wallet owes for what a stream has made, the rest of its event, its tokens; nothing before its first text."""
        calls = ticket.request.calls
        if ticket.relay is None or not (ticket.relay.texts or (calls is not None and ticket.relay.usage)):
            return (), b"", 0
        made = ticket.made = ticket.made or Made(ticket.relay, self._counter, ticket.deployment.model, ticket.front)
        usage = Usage(input=await input_of(ticket, self._counter), output=await made.count())
        if calls is not None and ticket.request.completed is not None:
            usage, _ = ticket.request.completed(ticket.relay.usage, ticket.request, ticket.deployment, usage)
        counts = astuple(usage)
        amounts = [payer.rates.price_of(counts) for payer in ticket.paying]
        owed = tuple(min(amount, held) for amount, held in zip(amounts, ticket.granted, strict=True))
        cost = None
        if ticket.front.cost_policy != CostPolicy.OWN_KEYS:
            cost = self._prices.cost(ticket.deployment.id, ticket.at_ms)
        rest = {
            "status": RequestStatus.ABANDONED,
            "usage_source": UsageSource.COUNTED,
            "usage": usage,
            "provider_cost_micro": 0 if cost is None else cost.variant(ticket.request.variant).price_of(counts),
            "attempts": ticket.attempts,
        }
        return owed, encode_event(rest), sum(counts[:TOKENS])


async def sign(
    balance: Balance, ticket: Ticket, ttl_ms: int, owed: tuple[int, ...] = (), event: bytes = b"", tokens: int = 0
) -> bool:
    """Put a hold's deadline off, and with it the ticket's lease. False: it was swept. BalanceUnavailable."""
    asked_at = perf_counter()  # the store counts from later
    try:
        found = await balance.extend(ticket.hold, [0] * len(ticket.granted), ttl_ms, owed, event, tokens)
    except HoldLost:
        ticket.lease = inf
        return True
    ticket.lease = 0.0 if found is None and ticket.paying else asked_at + ttl_ms / 1000
    return found is not None


async def input_of(ticket: Ticket, counter: Counter) -> int:
    """The tokens of a ticket's prompt, counted once."""
    if ticket.input_counted is None:
        surface, call = ticket.request.surface, ticket.call
        body = surface.parse(call.raw, call.headers.get(b"content-type", b"")).body
        ticket.input_counted = await counter.count_input(ticket.deployment.model, *surface.prompt(body), ticket.front)
    return ticket.input_counted

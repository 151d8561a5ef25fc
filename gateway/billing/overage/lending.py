"""Overage at work: told of a subscription, a payment, an agreement or a dispute, it lends, ends and bills.

What nobody told, as a process ended at the wrong moment, and what waits for requests in flight or for Stripe, is found by a walk
over the sellers that offer overage.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from gateway.billing.overage.bills import OverageBills, unbilled
from gateway.billing.overage.lines import Lines
from gateway.billing.overage.model import Agreement
from gateway.billing.overage.services import Services
from gateway.billing.ports import InvoiceFacts, PaymentsDown, PaymentsRefused
from gateway.billing.sellers import NotOurs, Rejected
from gateway.core.clock import now_ms
from gateway.core.errors import GatewayError
from gateway.db.faults import SqlDown, SqlRefused
from gateway.ledger.model import WalletKey

_EVERY_S: Final = 5.0
_PAGE: Final = 500
_AT_ONCE: Final = 16
_log = logging.getLogger(__name__)


class Overages:
    """Any number of processes may have one. Raises as `Effects`."""

    def __init__(self, services: Services, grace_days: int) -> None:
        self._noticed: set[WalletKey] = set()  # something is to be billed, and nobody else has told
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._with = services
        self._lines = Lines(services, grace_days)
        self._bills = OverageBills(services)

    async def follow(self, wallet: WalletKey) -> None:
        """A subscription, what was paid for one, or an agreement is another one: what is lent follows, at once.

        It follows the buyer's one subscription, whichever was told of: an older one that has ended ends nothing.
        """
        subscription_id = await self._with.sold.subscribers.of(wallet)
        if subscription_id is not None and unbilled(await self._lines.follow(wallet, subscription_id)):
            self._noticed.add(wallet)

    async def idle(self, agreements: Sequence[Agreement]) -> Mapping[WalletKey, str]:
        """Why nothing is lent to a seller's buyers who have agreed, in our word; without those to whom something can be."""
        return await self._lines.idle(agreements)

    async def stop(self, wallet: WalletKey, reason: str) -> None:
        """Nothing more is lent until it is agreed to again."""
        await self._lines.stop(wallet, reason)

    async def refunded(self, wallet: WalletKey, payment_id: str) -> None:
        """Of who has a bill paid back nothing more is lent, whichever of its payments it was."""
        if await self._bills.of_payment(wallet, payment_id) is not None:
            await self._lines.stop(wallet, "payment_refunded")

    async def invoice(self, account_id: str, facts: InvoiceFacts) -> bool:
        """A bill's invoice. Whether it is paid only now: then its buyer has the limit again."""
        is_first = await self._bills.invoice(account_id, facts)
        assert facts.metadata is not None
        await self.follow(WalletKey(facts.metadata.owner, facts.metadata.enterprise_id))
        return is_first

    async def step(self, wallet: WalletKey) -> None:
        """Everything that can be done for a wallet now."""
        await self._bills.make(wallet, await self._lines.settle(wallet))
        await self._bills.send(wallet)
        await self.follow(wallet)
        self._noticed.discard(wallet)

    async def run(self, stop: asyncio.Event) -> None:
        """Walk over all that waits until `stop` is set; what has begun is finished."""
        while not stop.is_set():
            noticed, self._noticed = self._noticed, set()
            await self._steps(noticed)
            try:
                sellers = await self._with.rows.sellers()
            except SqlDown as down:
                _log.warning("overage waits: %s", down)
                sellers = []
            for enterprise_id in sellers:
                try:
                    await self._walk(enterprise_id)
                except (SqlDown, SqlRefused) as down:  # one seller's database keeps none of the others waiting
                    _log.warning("overage of %s waits: %s", enterprise_id or "the platform", down)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _EVERY_S)

    async def _walk(self, enterprise_id: str | None) -> None:
        for waiting in (self._with.rows.restless, self._with.rows.owing):
            after = ""
            while owners := await waiting(enterprise_id, now_ms(self._with.clock), after, _PAGE):
                await self._steps([WalletKey(owner, enterprise_id) for owner in owners])
                after = owners[-1]

    async def _steps(self, wallets: Iterable[WalletKey]) -> None:
        """One wallet keeps none of the others waiting."""

        async def step(wallet: WalletKey) -> None:
            whose = wallet.enterprise_id or "the platform"
            async with self._free:
                try:
                    await self.step(wallet)
                except (SqlDown, SqlRefused, PaymentsDown, PaymentsRefused, NotOurs, Rejected, GatewayError) as fault:
                    _log.warning("overage of a wallet of %s: %s", whose, fault)
                except Exception:  # noqa: BLE001 - the edge of one wallet's work: it is tried again at the next walk
                    _log.exception("overage of a wallet of %s", whose)

        await asyncio.gather(*[step(wallet) for wallet in wallets])

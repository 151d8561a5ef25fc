"""The page on which a buyer subscribes: one at a time. Opening another ends the one before it at Stripe.

Two that are opened at once may both be there for a moment, and a page may be paid on while another one is opened: what keeps a
buyer to one subscription whatever happens is the grant (`admission`).
"""

from collections.abc import Collection
from typing import Final

from gateway.billing.ports import CheckoutFacts, Payments
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict
from gateway.ledger.model import WalletKey

_FORGET_MS: Final = 3 * 86_400_000  # a page is there for a day, and an Idempotency-Key at Stripe as long


class SubscriptionPages:
    """Raises PaymentsDown, PaymentsRefused, SqlDown."""

    def __init__(self, store: Store, payments: Payments, clock: Clock) -> None:
        self._store = store
        self._payments = payments
        self._clock = clock

    async def opened(self, wallet: WalletKey, account_id: str, facts: CheckoutFacts, ended: Collection[str]) -> CheckoutFacts:
        """Keep a page that was opened, and end the buyer's older ones. The page as it is now, which a repeat may find closed.

        `ended`: subscriptions of the buyer's, by Stripe's id, that are known to be over.

        Conflict `subscription_exists` when an older one was paid on just now: then this one is ended.
        """
        pages, now = self._store.subscribers, now_ms(self._clock)
        if not await pages.add_page(wallet, account_id, facts.session_id, now, now - _FORGET_MS):
            return await self._payments.checkout_session(account_id, facts.session_id)
        for older in await pages.older_pages(wallet, facts.session_id):
            closed = await self._payments.expire_checkout(older.account_id, older.session_id)
            paid_for = closed.subscription_id
            if paid_for is not None and paid_for not in ended and await self._is_live(older.account_id, paid_for):
                await self._payments.expire_checkout(account_id, facts.session_id)
                await pages.close_page(wallet, facts.session_id, now)
                raise Conflict("There is a subscription already: it was paid for just now.", code="subscription_exists")
            await pages.close_page(wallet, older.session_id, now)
        return facts

    async def _is_live(self, account_id: str, subscription_id: str) -> bool:
        found = await self._payments.subscription(account_id, subscription_id)
        return found.status not in ("canceled", "incomplete_expired")

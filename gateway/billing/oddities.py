"""Whose matter it is when an object on a creator's account is odd: the platform's, or its owner's alone.

An owner makes on the own account whatever it likes, by hand and with our metadata on it. That is the platform's matter only where
its share or a wallet is touched: a payment that carries the share and is not in the books, one that a page or a rule of ours
asked for, a subscription or a payment that was granted.
"""

from gateway.billing.model import PLATFORM_ACCOUNT
from gateway.billing.ports import DisputeFacts, InvoiceFacts, PaymentFacts, Payments, RefundFacts, SubscriptionFacts
from gateway.billing.store import Store
from gateway.ledger.service import Ledger

Fact = PaymentFacts | InvoiceFacts | RefundFacts | DisputeFacts | SubscriptionFacts


class Oddities:
    """Tells them apart. Raises PaymentsDown, PaymentsRefused, SqlDown."""

    def __init__(self, payments: Payments, store: Store, ledger: Ledger) -> None:
        self._payments = payments
        self._store = store
        self._ledger = ledger

    async def touches_us(self, account_id: str, fact: Fact) -> bool:
        """Whether the platform's share or a wallet is touched by what is odd about `fact`."""
        if account_id == PLATFORM_ACCOUNT:
            return True
        if isinstance(fact, RefundFacts | DisputeFacts):
            return await self._is_granted(account_id, fact.payment_id)
        if isinstance(fact, PaymentFacts):
            return await self._payment(account_id, fact)
        if isinstance(fact, InvoiceFacts):
            for part in fact.payments:
                if await self._is_granted(account_id, part.payment_id):
                    return False  # the books have it, once
            for part in fact.payments:
                if (await self._payments.payment(account_id, part.payment_id)).fee_minor:
                    return True
        return fact.subscription_id is not None and await self._goes_on_here(account_id, fact)

    async def _payment(self, account_id: str, fact: PaymentFacts) -> bool:
        if await self._is_granted(account_id, fact.payment_id):
            return False
        if fact.fee_minor:
            return True  # only the platform can ask for a share
        if fact.metadata is None or not await self._is_app_of(account_id, fact.metadata.enterprise_id):
            return False
        purchase = await self._store.purchase(fact.metadata.enterprise_id, fact.metadata.purchase_id)
        if purchase is None or purchase.account_id != account_id:
            return False
        if purchase.session_id is None:
            return purchase.payment_id == fact.payment_id
        return (await self._payments.checkout_session(account_id, purchase.session_id)).payment_id == fact.payment_id

    async def _is_granted(self, account_id: str, payment_id: str) -> bool:
        seller = await self._store.seller_of(account_id, payment_id)
        return seller is not None and await self._ledger.payments.payer(seller or None, payment_id) is not None

    async def _goes_on_here(self, account_id: str, fact: InvoiceFacts | SubscriptionFacts) -> bool:
        """Whether the subscription has granted something."""
        assert fact.subscription_id is not None
        if fact.metadata is None or not await self._is_app_of(account_id, fact.metadata.enterprise_id):
            return False
        return bool(await self._ledger.payments.series(fact.metadata.enterprise_id, fact.subscription_id))

    async def _is_app_of(self, account_id: str, enterprise_id: str | None) -> bool:
        account = await self._store.account_by_id(account_id)
        if enterprise_id is None or account is None:
            return False
        app = (await self._ledger.apps([enterprise_id])).get(enterprise_id)
        return app is not None and app.user_id == account.user_id

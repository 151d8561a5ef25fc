"""A buyer has one subscription with a seller, and one trial of one, ever: what a page cannot promise is seen to at the grant.

The first subscription of a buyer that is to be granted is the buyer's until it has ended at Stripe. One that lives beside it is
paid back in full and ended, before anything is granted; that it was, and why, is the reason of the webhook that told of it.
What comes to be known of a subscription after its end is granted if money paid for it, as what was refused is as well once its
refund is posted: the books have both.
"""

from collections.abc import Sequence
from typing import Final

from gateway.billing.acts import op_of
from gateway.billing.model import SubscriptionState
from gateway.billing.ports import PaymentFacts, Payments, PaymentsRefused
from gateway.billing.sellers import NotOurs, Rejected
from gateway.billing.webhooks.store import InboxStore
from gateway.ledger.model import WalletKey

ENDED: Final = (SubscriptionState.CANCELED, SubscriptionState.INCOMPLETE_EXPIRED)  # from which Stripe lets none come back


class Admission:
    """Lets one subscription of a buyer in. Raises as `Effects`."""

    def __init__(self, payments: Payments, rows: InboxStore) -> None:
        self._payments = payments
        self._rows = rows

    async def check(self, account_id: str, wallet: WalletKey, subscription_id: str, payments: Sequence[PaymentFacts]) -> None:
        """Rejected when the buyer has another subscription: this one is ended then, and `payments` are given back.

        NotOurs for one that has ended, and for which nothing was paid.
        """
        subscribers = self._rows.subscribers
        holder = await subscribers.claim(wallet, subscription_id)
        if holder == subscription_id:
            return
        if (await self._payments.subscription(account_id, subscription_id)).status in ENDED:
            if not payments:
                raise NotOurs("the subscription has ended, and nothing was paid for this")
            return
        if await self._has_ended(account_id, wallet, holder):
            holder = await subscribers.claim(wallet, subscription_id, instead_of=holder)
        if holder != subscription_id:
            await self._refuse(account_id, subscription_id, payments)
            given_back = "was paid back and ended" if payments else "was ended"
            raise Rejected(f"the buyer has the subscription {holder}: this second one, {subscription_id}, {given_back}")

    async def _has_ended(self, account_id: str, wallet: WalletKey, subscription_id: str) -> bool:
        row = await self._rows.subscription(wallet.enterprise_id, subscription_id)
        if row is not None and row.state in ENDED:
            return True
        try:
            found = await self._payments.subscription(row.account_id if row else account_id, subscription_id)
        except PaymentsRefused as refused:
            if refused.is_revoked or refused.code == "resource_missing":
                return True  # of an account that the creator sells with no more
            raise
        return found.status in ENDED

    async def _refuse(self, account_id: str, subscription_id: str, payments: Sequence[PaymentFacts]) -> None:
        """The money first: a subscription that was ended without it would count as one that lived, and was paid for."""
        for payment in payments:
            left_minor = payment.amount_minor - payment.refunded_minor
            if left_minor <= 0:
                continue
            op_id = op_of("second", payment.payment_id, str(left_minor))
            try:
                await self._payments.refund(op_id, account_id, payment.payment_id, left_minor, return_fee=payment.fee_minor > 0)
            except PaymentsRefused as refused:
                if refused.code != "charge_already_refunded":
                    raise
        await self._payments.cancel_subscription(op_of("second", subscription_id), account_id, subscription_id)

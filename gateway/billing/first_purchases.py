"""The page on which a buyer makes a first purchase with a promo code that is for such: one at a time, of packages and
subscriptions. Asking for another ends the one before it at Stripe.

Whoever asks last has it. A page is shown only to who has it still once it is made, and taken from there only when it can be paid
on no more; so of all that were shown one at most can be paid on. Which purchase was the first is kept for ever with what redeems
the code (`redeeming`), whatever became of pages.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from gateway.billing.model import FirstPurchase, SubscriptionState
from gateway.billing.ports import CheckoutFacts, Payments, PaymentsRefused
from gateway.billing.promo_codes import Discount, PromoCodeRefused
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict
from gateway.ledger.model import WalletKey

_LOOKS: Final = 8
_UNPAID: Final = ("requires_payment_method", "canceled")  # of a payment that a bank refused days later


class FirstPurchases:
    """Raises PaymentsDown, PaymentsRefused, SqlDown."""

    def __init__(self, store: Store, payments: Payments, clock: Clock) -> None:
        self._store = store
        self._payments = payments
        self._clock = clock

    async def page(
        self,
        wallet: WalletKey,
        account_id: str,
        discount: Discount | None,
        ref: str,
        make: Callable[[], Awaitable[CheckoutFacts]],
    ) -> CheckoutFacts:
        """The page that `make` makes with this discount, if any. One for a first purchase is as it is now, which a repeat may
        find closed; `ref` is as FirstPurchase has it.

        PromoCodeRefused where the buyer's first purchase was made. Conflict where another page for it was asked for meanwhile.
        """
        if discount is None or not discount.first_purchase_only:
            return await make()
        await self._claim(FirstPurchase(wallet.owner, discount.promo_code_id, ref, account_id, now_ms(self._clock)), wallet)
        facts = await make()
        if not await self._store.promos.keep_first(wallet, ref, facts.session_id):
            await self._payments.expire_checkout(account_id, facts.session_id)
            raise Conflict("Another page was asked for with a code for a first purchase: that one counts.", param="promo_code")
        return await self._payments.checkout_session(account_id, facts.session_id)

    async def _claim(self, wanted: FirstPurchase, wallet: WalletKey) -> None:
        for _ in range(_LOOKS):
            held = await self._store.promos.first_purchase(wallet)
            if held is not None and held.ref == wanted.ref and held.redeemed_at_ms is None:
                return
            if held is not None and (held.redeemed_at_ms is not None or await self._is_paid(held)):
                raise PromoCodeRefused("This code is for a first purchase.")
            if await self._store.promos.claim_first(wallet, held, wanted):
                return
        raise Conflict("Too many pages are asked for with a code for a first purchase.", param="promo_code")

    async def _is_paid(self, held: FirstPurchase) -> bool:
        """Whether a page was paid on, or may be yet; else it can be no more when this returns."""
        if held.session_id is None:
            return False  # who makes it will find that another has it, and shows it to nobody
        try:
            closed = await self._payments.expire_checkout(held.account_id, held.session_id)
        except PaymentsRefused as refused:
            if refused.is_revoked or refused.code == "resource_missing":
                return False  # of an account that the creator sells with no more
            raise
        if closed.status != "complete":
            return False
        if closed.subscription_id is not None:
            found = await self._payments.subscription(held.account_id, closed.subscription_id)
            return found.status != SubscriptionState.INCOMPLETE_EXPIRED
        if closed.payment_id is not None:
            return (await self._payments.payment(held.account_id, closed.payment_id)).status not in _UNPAID
        return True

"""What promo codes took off of what was paid: a line for each payment, and the part of its grant that was given.

What is to be granted though nothing was paid redeems its code first: a code for first purchases by one purchase of a buyer, any
code as often as it can be. Where money came, what was asked for it is granted whatever the code's terms say by now, and told.
"""

import logging
from typing import Final

from gateway.billing.model import Plan, Purchase, Redemption
from gateway.billing.ports import InvoiceFacts
from gateway.billing.sellers import Rejected
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.ids import new_id
from gateway.ledger.model import WalletKey

_log: Final = logging.getLogger(__name__)


class Redeeming:
    """Keeps redemptions, each once. Raises Rejected of what was not paid for and is against a code's terms; SqlDown."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def purchase(self, purchase: Purchase, given_micro: int) -> None:
        """Of a package that was paid, if it was bought with a code."""
        if purchase.promo_code_id is None:
            return
        redemption = Redemption(
            id=new_id("red"),
            promo_code_id=purchase.promo_code_id,
            subject=purchase.id,
            ref=purchase.id,
            owner=purchase.wallet.owner,
            plan_id=purchase.plan_id,
            currency=purchase.currency,
            discount_minor=purchase.discount_minor,
            paid_minor=purchase.amount_minor,
            given_micro=given_micro,
            created_at_ms=now_ms(self._clock),
        )
        await self._redeem(purchase.wallet, purchase.account_id, redemption, is_paid=purchase.amount_minor > 0)

    async def invoice(self, account_id: str, wallet: WalletKey, facts: InvoiceFacts, plan: Plan, given_micro: int) -> None:
        """Of an invoice that was paid, for each code of this seller's among its discounts."""
        assert facts.subscription_id is not None
        whole_minor = sum(amount for _, amount in facts.discounts)
        for promotion_id, off_minor in facts.discounts:
            code_id = await self._store.promos.code_of(account_id, promotion_id) if promotion_id else None
            code = None if code_id is None else await self._store.promos.code(code_id)
            if code is None or code.enterprise_id != wallet.enterprise_id:
                continue
            redemption = Redemption(
                id=new_id("red"),
                promo_code_id=code.id,
                subject=facts.subscription_id,
                ref=facts.invoice_id,
                owner=wallet.owner,
                plan_id=plan.id,
                currency=facts.currency,
                discount_minor=off_minor,
                paid_minor=facts.amount_paid_minor,
                given_micro=given_micro * off_minor // whole_minor,
                created_at_ms=now_ms(self._clock),
            )
            await self._redeem(wallet, account_id, redemption, is_paid=facts.amount_paid_minor > 0)

    async def _redeem(self, wallet: WalletKey, account_id: str, redemption: Redemption, *, is_paid: bool) -> None:
        """The first purchase before the redemption: what has redeemed its code has been let in."""
        promos, seller = self._store.promos, wallet.enterprise_id
        code = await promos.code(redemption.promo_code_id)
        assert code is not None, "a code is ended, and never goes"
        known = await promos.has_redeemed(seller, redemption)
        if code.first_purchase_only and not known and not await promos.redeem_first(wallet, redemption, account_id):
            why = "is for a first purchase, and this buyer's was another one"
        elif not await promos.redeem(seller, redemption, None if is_paid else code.redemptions_max):
            why = "was redeemed as often as it can be"
        else:
            return
        if not is_paid:
            raise Rejected(f"nothing was paid for {redemption.subject}, and promo code {code.id} {why}")
        _log.warning("%s was paid for with promo code %s, which %s: granted", redemption.subject, code.id, why)
        await promos.redeem(seller, redemption)


def given_of(purchase: Purchase, plan: Plan | None) -> int:
    """What of a package's grant its discount gave, in the wallet's asset: of the plan's, what the price's part paid is bought."""
    if not purchase.discount_minor or plan is None:
        return 0
    bought = plan.grant_micro * purchase.amount_minor // (purchase.amount_minor + purchase.discount_minor)
    return max(purchase.grant_micro - max(bought, 1 if purchase.amount_minor else 0), 0)


def given_with(facts: InvoiceFacts, granted_micro: int) -> int:
    """What of an invoice's grant its discounts gave, where money paid some of it: in proportion; at most all but one."""
    off_minor = sum(amount for _, amount in facts.discounts)
    if not off_minor or facts.total_minor <= 0:
        return 0
    return min(granted_micro * off_minor // (off_minor + facts.total_minor), granted_micro - 1)

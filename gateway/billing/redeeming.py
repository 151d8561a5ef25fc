"""What promo codes took off of what was paid: a line for each payment, and the part of its grant that was given."""

from gateway.billing.model import Plan, Purchase, Redemption
from gateway.billing.ports import InvoiceFacts
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.ids import new_id
from gateway.ledger.model import WalletKey


class Redeeming:
    """Keeps redemptions, each once. Raises SqlDown."""

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
        await self._store.promos.redeem(purchase.wallet.enterprise_id, redemption)

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
            await self._store.promos.redeem(wallet.enterprise_id, redemption)


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

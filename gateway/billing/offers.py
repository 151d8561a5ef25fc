"""What a buyer can buy just now, and for how much: asked by who opens a page to pay on, and by who shows what is offered.

Nothing is claimed or made by asking; an account that could not sell is looked at again at Stripe, and kept as it stands.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.billing.acts import Named, buyer_of, seller_of
from gateway.billing.catalogue import Catalogue
from gateway.billing.connect import Connect
from gateway.billing.model import Plan, PlanKind, PromoCode, Subscription, SubscriptionState
from gateway.billing.promo_codes import PromoCodes
from gateway.billing.store import Store
from gateway.core.errors import Conflict
from gateway.core.words import CostPolicy
from gateway.identity.model import ACTIVE, Actor, App
from gateway.identity.registry import Registry
from gateway.ledger.model import WalletKey

OVER: Final = (SubscriptionState.CANCELED, SubscriptionState.INCOMPLETE_EXPIRED)
_LIVE_MAX: Final = 50  # of one buyer's subscriptions that are looked through for one that goes on


class Offer(msgspec.Struct, frozen=True):
    """A plan as one buyer would have it. `amount_minor` is what `code` leaves of its price, `grant_micro` what that buys."""

    plan: Plan
    amount_minor: int
    grant_micro: int
    code: PromoCode | None = None


class Offers:
    """What stands against a sale. Raises PaymentsDown and PaymentsRefused, of a look at an account that could not sell before,
    besides what each method says.
    """

    def __init__(
        self, store: Store, registry: Registry, catalogue: Catalogue, connect: Connect, promo_codes: PromoCodes
    ) -> None:
        self._store = store
        self._registry = registry
        self._catalogue = catalogue
        self._connect = connect
        self._promo_codes = promo_codes

    async def offer(self, actor: Actor, plan_id: str, buyer: Named, said: str | None) -> Offer:
        """What the buyer would be sold with the promo code `said`. Raises what `Buying.checkout` would, as far as no page need be
        made to know it.
        """
        plan = await self._catalogue.plan(actor, plan_id)
        seller = await seller_of(self._registry, actor, plan.enterprise_id)
        wallet = await buyer_of(self._registry, actor, seller, buyer)
        await self.account(plan, seller)
        if plan.kind == PlanKind.SUBSCRIPTION:
            plan, _ = await self.subscribable(plan, wallet)
        if said is None:
            return Offer(plan, plan.price_minor, plan.grant_micro)
        code, left_minor = await self._promo_codes.terms(said, plan, seller, wallet)
        return Offer(plan, left_minor, granted(plan, seller, left_minor), code)

    async def account(self, plan: Plan, seller: App | None) -> str:
        """The account at Stripe on which a plan is sold. Conflict: it is archived, or `selling_blocked`."""
        check_offered(plan)
        if seller is not None and seller.status != ACTIVE:
            raise Conflict("The app is suspended.", code="selling_blocked")
        return await self._connect.selling_account(seller)

    async def subscribable(self, plan: Plan, wallet: WalletKey) -> tuple[Plan, Sequence[Subscription]]:
        """A subscription's plan as this buyer would have it, as of a seller's trials a buyer has one, ever; and those that the
        buyer had. Conflict `subscription_exists` while one goes on.
        """
        known = await self._store.subscriptions(wallet.enterprise_id, wallet.owner, None, _LIVE_MAX)
        for held in known:
            if held.state not in OVER:
                message = "There is a subscription already: change it, or end it first."
                raise Conflict(message, code="subscription_exists", details={"subscription_id": held.id})
        return (msgspec.structs.replace(plan, trial_days=0) if known else plan), known

    async def check_code(self, said: str, plan: Plan, seller: App, wallet: WalletKey) -> None:
        """PromoCodeRefused for a code that would take nothing off a plan for a buyer."""
        await self._promo_codes.terms(said, plan, seller, wallet)


def check_offered(plan: Plan) -> None:
    """Conflict for what is not sold any more."""
    if plan.archived_at_ms is not None:
        raise Conflict("This plan is not offered any more.", param="plan_id")


def granted(plan: Plan, seller: App | None, amount_minor: int) -> int:
    """What is granted for this much of a plan's price: all of it, but where the platform pays for it only what was paid."""
    if seller is None or seller.cost_policy != CostPolicy.PLATFORM_PAYS:
        return plan.grant_micro
    return max(plan.grant_micro * amount_minor // plan.price_minor, 1)

"""Automatic top-up as buyers set it: when a balance falls below so much, buy that package, within caps.

What it buys with is a payment method that the buyer has saved at Stripe, on the account that sells: on a page for it, with a
package, or with a subscription. Its id is kept and nothing else. What acts on the rules is `charging`.
"""

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.billing import minor_units
from gateway.billing.acts import Named, buyer_of, owner_seen, sale_act, seller_of, told
from gateway.billing.buying import Buying
from gateway.billing.catalogue import Catalogue
from gateway.billing.connect import Connect, email
from gateway.billing.model import AccountState, Plan, PlanKind, PurchaseState, TopUpRule
from gateway.billing.ports import CheckoutFacts, Metadata, Payments
from gateway.billing.store import Store
from gateway.billing.top_ups.store import Since, Spent, TopUpStore
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.identity import rules
from gateway.identity.model import ACTIVE, Actor, App, Page, Role
from gateway.identity.registry import Registry
from gateway.ledger.model import WalletKey

DAILY_MAX: Final = 24
_DAY_MS: Final = 86_400_000


class NewTopUp(msgspec.Struct, frozen=True):
    """What a rule asks for; the cap of a month in micro-units of the plan's currency."""

    plan_id: str
    below_micro: int
    monthly_max_micro: int
    daily_max: int


class TopUp(msgspec.Struct, frozen=True):
    """A rule and where it stands.

    `status`: `on`, `buying` (a payment is on its way), `waiting` (a cap is reached, or the seller cannot sell now), `paused`
    (a payment failed, or there is nothing to buy with: its buyer must set it again) or `off`; `reason` says why.
    """

    rule: TopUpRule
    currency: str
    spent_minor: int  # of this month
    status: str
    reason: str


def since(at_ms: int) -> Since:
    """From when purchases count: the month is UTC's, the day is the last 24 hours."""
    month = datetime.fromtimestamp(at_ms / 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Since(int(month.timestamp()) * 1000, at_ms - _DAY_MS)


class TopUps:
    """Rules. Raises PaymentsDown and PaymentsRefused besides what each method says."""

    def __init__(
        self,
        store: Store,
        rows: TopUpStore,
        registry: Registry,
        payments: Payments,
        catalogue: Catalogue,
        connect: Connect,
        buying: Buying,
        clock: Clock,
    ) -> None:
        self._store = store
        self._rows = rows
        self._registry = registry
        self._payments = payments
        self._catalogue = catalogue
        self._connect = connect
        self._buying = buying
        self._clock = clock
        self.turned_on: Callable[[Collection[WalletKey]], None] = _nobody  # told of a rule that is new

    async def page(
        self,
        actor: Actor,
        enterprise_id: str | None,
        buyer: Named,
        success_url: str | None,
        cancel_url: str | None,
        address: str | None,
    ) -> CheckoutFacts:
        """Where a buyer saves a card without paying. InvalidRequest, NotFound, Forbidden, Conflict `selling_blocked`."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        wallet = await buyer_of(self._registry, actor, seller, buyer)
        done, left = self._buying.urls(seller, success_url, cancel_url, "saved")
        account_id = await self._connect.selling_account(seller)
        return await self._payments.saving.page(
            account_id,
            customer_id=await self._buying.customer(wallet, account_id, email(address)),
            metadata=Metadata(wallet.enterprise_id, wallet.owner, ""),
            success_url=done,
            cancel_url=left,
        )

    async def turn_on(self, actor: Actor, buyer: Named, new: NewTopUp) -> TopUp:
        """Set a buyer's rule, or one that was paused on again, with the payment method that the buyer has by now.

        InvalidRequest, NotFound, Forbidden; Conflict for an archived plan, `selling_blocked` or `no_payment_method`.
        """
        plan = await self._catalogue.plan(actor, new.plan_id)
        seller = await seller_of(self._registry, actor, plan.enterprise_id)
        wallet = await buyer_of(self._registry, actor, seller, buyer)
        if actor.role == Role.OPERATOR:
            raise Forbidden("Only a buyer, or who sells to it, turns on what charges it without it being there.")
        if plan.kind != PlanKind.PACKAGE:
            raise InvalidRequest("Automatic top-up buys packages, not subscriptions.", param="plan_id")
        if plan.archived_at_ms is not None:
            raise Conflict("This plan is not offered any more.", param="plan_id")
        rules.number(new.below_micro, "below_micro", AMOUNT_MICRO_MAX, 1)
        rules.number(new.daily_max, "daily_max", DAILY_MAX, 1)
        rule = TopUpRule(
            wallet=wallet,
            plan_id=plan.id,
            below_micro=new.below_micro,
            monthly_max_minor=_monthly_max(new.monthly_max_micro, plan),
            daily_max=new.daily_max,
            is_enabled=True,
            reason="",
            updated_at_ms=now_ms(self._clock),
        )
        account_id = await self._connect.selling_account(seller)
        await self._save(wallet, account_id)
        await self._put(actor, seller, rule)
        self.turned_on([wallet])
        return await self.of(wallet)

    async def turn_off(self, actor: Actor, enterprise_id: str | None, buyer: Named) -> TopUp:
        """Nothing more is bought; a payment that is on its way comes to its end. NotFound."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        wallet = await buyer_of(self._registry, actor, seller, buyer)
        held = await self._held(wallet)
        off = msgspec.structs.replace(held, is_enabled=False, reason="", updated_at_ms=now_ms(self._clock))
        if held.is_enabled or held.reason:
            await self._put(actor, seller, off)
        return await self.of(wallet)

    async def listed(self, actor: Actor, enterprise_id: str | None, buyer: Named, after: str | None, count: int) -> Page[TopUp]:
        """By owner: an end user's or a creator's own, or a seller's of one buyer or all."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        owner = await owner_seen(self._registry, actor, seller, buyer)
        count = rules.page(after, count)
        found = await self._rows.rules(seller.enterprise_id if seller else None, owner, after, count + 1)
        shown = [await self._shown(rule) for rule in found[:count]]
        return Page(tuple(shown), found[count - 1].wallet.owner if len(found) > count else None)

    async def of(self, wallet: WalletKey) -> TopUp:
        """One wallet's. NotFound."""
        return await self._shown(await self._held(wallet))

    async def _held(self, wallet: WalletKey) -> TopUpRule:
        held = await self._rows.rule(wallet)
        if held is None:
            raise NotFound("This wallet has no automatic top-up.")
        return held

    async def _put(self, actor: Actor, seller: App | None, rule: TopUpRule) -> None:
        fields = {
            "plan_id": rule.plan_id,
            "below_micro": rule.below_micro,
            "monthly_max_minor": rule.monthly_max_minor,
            "daily_max": rule.daily_max,
        }
        name, after = ("top_up.turn_on", told(fields)) if rule.is_enabled else ("top_up.turn_off", None)
        await self._rows.put(rule, sale_act(actor, name, rule.wallet.owner, seller, rule.wallet, after=after))

    async def _save(self, wallet: WalletKey, account_id: str) -> None:
        """Keep the id of what the buyer has saved at Stripe."""
        buyer = await self._rows.saved(wallet, account_id)
        method_id = None if buyer is None else await self._payments.saving.method(account_id, buyer.customer_id)
        if method_id is None:
            message = "There is no saved payment method: save a card first, or pay for a package with `save_payment_method`."
            raise Conflict(message, code="no_payment_method")
        await self._rows.save(wallet, account_id, method_id)

    async def _shown(self, rule: TopUpRule) -> TopUp:
        plan = await self._store.plan(rule.plan_id)
        assert plan is not None, "plans stay"
        spent = await self._rows.spent(rule.wallet, plan.currency, since(now_ms(self._clock)))
        status, reason = await self._standing(rule, plan, spent)
        return TopUp(rule, plan.currency, spent.minor, status, reason)

    async def _standing(self, rule: TopUpRule, plan: Plan, spent: Spent) -> tuple[str, str]:
        enterprise_id = rule.wallet.enterprise_id
        last = None if rule.last_purchase_id is None else await self._store.purchase(enterprise_id, rule.last_purchase_id)
        if last is not None and last.state == PurchaseState.OPEN:
            return "buying", rule.reason
        if not rule.is_enabled:
            return ("paused", rule.reason) if rule.reason else ("off", "")
        if over := spent.over(rule, plan.price_minor):
            return "waiting", over
        if not await can_sell(self._store, self._registry, enterprise_id):
            return "waiting", "selling_blocked"
        return "on", ""


async def can_sell(store: Store, registry: Registry, enterprise_id: str | None) -> bool:
    """Whether a seller sells now, by what we know of its account."""
    if enterprise_id is None:
        return True
    app = await registry.app(Actor(role=Role.OPERATOR, name="top-up"), enterprise_id)
    account = await store.account(app.user_id)
    return app.status == ACTIVE and account is not None and account.state == AccountState.ACTIVE


def _nobody(_: Collection[WalletKey]) -> None:
    """Nothing that acts on rules runs in this process."""


def _monthly_max(amount_micro: int, plan: Plan) -> int:
    param = "monthly_max_micro"
    rules.number(amount_micro, param, AMOUNT_MICRO_MAX)
    try:
        amount_minor = minor_units.minor_from_micro(amount_micro, plan.currency)
    except ValueError as wrong:
        raise InvalidRequest(f"`{param}` is no amount of {plan.currency}: {wrong}", param=param) from wrong
    if amount_minor < plan.price_minor:
        raise InvalidRequest(f"`{param}` is less than the package costs: nothing would ever be bought.", param=param)
    return amount_minor

"""Plans: what a seller offers. A plan is never changed, another one takes its place; what was bought goes on as it was bought.

Its Product and Price at Stripe are made on the account that sells it, when it is sold there first.
"""

from typing import Final

import msgspec

from gateway.billing import minor_units
from gateway.billing.acts import act, asset_of, currency_fits, managed_seller, op_of, seller_of, told
from gateway.billing.model import Interval, Overage, Plan, PlanKind
from gateway.billing.ports import Payments
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Forbidden, InvalidRequest, NotFound
from gateway.core.ids import new_id
from gateway.core.money import AMOUNT_MICRO_MAX, MICRO, decimal_from_micro
from gateway.core.words import CostPolicy
from gateway.identity import rules
from gateway.identity.model import Actor, App, Page, Role
from gateway.identity.registry import Registry

# Three years, which is Stripe's longest period; its longest trial; and how long a lot may last.
_INTERVALS_MAX: Final = {Interval.DAY: 1095, Interval.WEEK: 156, Interval.MONTH: 36, Interval.YEAR: 3}
_TRIAL_DAYS_MAX: Final = 730
_LOT_DAYS_MAX: Final = 3650
_SAID_CHARS_MAX: Final = 12  # of what was said, where a refusal repeats it


class NewOverage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `model.Overage`; without a price the wallet's asset costs what it is, where it is the plan's currency."""

    max_micro: int
    price_micro: int | None = None
    per_micro: int | None = None


class NewPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the making of a plan asks for; as `model.Plan`, the price in micro-units of its currency."""

    kind: PlanKind
    name: str
    currency: str
    price_micro: int
    grant_micro: int
    enterprise_id: str | None = None
    interval: Interval | None = None
    interval_count: int = 1
    trial_days: int = 0
    rollover_max_micro: int = 0
    lot_days: int | None = None
    overage: NewOverage | None = None


class Catalogue:
    """Makes, lists and archives plans, and gives their prices at Stripe."""

    def __init__(self, store: Store, registry: Registry, payments: Payments, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._payments = payments
        self._clock = clock

    async def create(self, actor: Actor, new: NewPlan) -> Plan:
        """A new plan of an app, or (operator only) of the platform. InvalidRequest, NotFound, Forbidden."""
        seller = await managed_seller(self._registry, actor, new.enterprise_id)
        if actor.role != Role.OPERATOR and seller is not None and seller.cost_policy == CostPolicy.PLATFORM_PAYS:
            # Otherwise a creator could sell for a cent, to itself, what the operator pays the providers for.
            raise Forbidden(
                "A creator sells only in apps whose usage it pays for (cost_policy creator_pays or own_keys).",
                param="enterprise_id",
            )
        price_minor = _price(new)
        if not currency_fits(new.currency, seller):
            raise InvalidRequest(f"These wallets hold {asset_of(seller)}: sell for that.", param="currency")
        _check_kind(new)
        if new.trial_days and seller is not None and seller.cost_policy == CostPolicy.PLATFORM_PAYS:
            # Whoever has the account may begin trials for any number of people.
            raise InvalidRequest(f"`trial_days`: {_UNPAID}", param="trial_days")
        rules.number(new.grant_micro, "grant_micro", AMOUNT_MICRO_MAX, 1)
        rules.number(new.lot_days, "lot_days", _LOT_DAYS_MAX, 1)
        plan = Plan(
            id=new_id("plan"),
            enterprise_id=new.enterprise_id,
            kind=new.kind,
            name=rules.display_name(new.name),
            currency=new.currency,
            price_minor=price_minor,
            grant_micro=new.grant_micro,
            created_at_ms=now_ms(self._clock),
            interval=new.interval,
            interval_count=new.interval_count,
            trial_days=new.trial_days,
            rollover_max_micro=new.rollover_max_micro,
            lot_days=new.lot_days,
            overage=_overage(new, seller),
        )
        await self._store.add_plan(plan, act(actor, "plan.create", plan.id, seller, after=told(msgspec.to_builtins(plan))))
        return plan

    async def plan(self, actor: Actor, plan_id: str, *, param: str = "plan_id") -> Plan:
        """One plan that the actor may see, archived or not. NotFound, of the field that named it."""
        plan = await self._store.plan(plan_id)
        if plan is not None and not (plan.enterprise_id is None and actor.enterprise_id is not None):
            try:
                await seller_of(self._registry, actor, plan.enterprise_id)
            except NotFound:
                plan = None
            else:
                return plan
        raise NotFound("There is no such plan.", param=param)

    async def listed(
        self, actor: Actor, enterprise_id: str | None, after: str | None, count: int, *, archived: bool = False
    ) -> Page[Plan]:
        """A seller's plans, newest first."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        count = rules.page(after, count)
        found = await self._store.plans(seller.enterprise_id if seller else None, after, count + 1, archived=archived)
        return Page(tuple(found[:count]), found[count - 1].id if len(found) > count else None)

    async def archive(self, actor: Actor, plan_id: str) -> Plan:
        """No longer offered; subscriptions to it go on. NotFound, Forbidden."""
        plan = await self.plan(actor, plan_id)
        seller = await managed_seller(self._registry, actor, plan.enterprise_id)
        await self._store.archive_plan(plan_id, now_ms(self._clock), act(actor, "plan.archive", plan_id, seller))
        return await self.plan(actor, plan_id)

    async def price_id(self, plan: Plan, account_id: str) -> str:
        """A plan's price on an account, made there when it has none. PaymentsDown, PaymentsRefused."""
        price_id = await self._store.price(plan.id, account_id)
        if price_id is None:
            product_id, price_id = await self._payments.create_price(op_of("plan", plan.id, account_id), account_id, plan)
            await self._store.add_price(plan.id, account_id, product_id, price_id)
        return price_id

    async def product_id(self, plan_id: str, account_id: str) -> str:
        """Likewise, its product. NotFound."""
        plan = await self._store.plan(plan_id)
        if plan is None:
            raise NotFound("There is no such plan.", param="plan_id")
        await self.price_id(plan, account_id)
        product_id = await self._store.product(plan_id, account_id)
        assert product_id is not None, "they are kept together"
        return product_id


def check_currency(currency: str) -> None:
    """InvalidRequest for what Stripe does not charge in."""
    if not minor_units.is_charged(currency):
        raise InvalidRequest(
            "`currency` must be one that Stripe charges in, as its three capital letters, such as USD; "
            f"{currency[:_SAID_CHARS_MAX]!r} is none: {minor_units.LISTED_AT}",
            param="currency",
        )


def _price(new: NewPlan) -> int:
    check_currency(new.currency)
    if new.price_micro <= 0:
        raise InvalidRequest("`price_micro` must be above 0: what is free is granted, not sold", param="price_micro")
    try:
        return minor_units.price(minor_units.minor_from_micro(new.price_micro, new.currency), new.currency)
    except ValueError as wrong:
        raise InvalidRequest(f"`price_micro` is not a price in {new.currency}: {wrong}", param="price_micro") from wrong


# What an app's cost policy stands in the way of, and the way out.
_UNPAID: Final = (
    "in an app with cost_policy platform_pays nothing is granted or used unpaid. The policy is chosen when an app is made: "
    "make one with cost_policy creator_pays or own_keys."
)


def _overage(new: NewPlan, seller: App | None) -> Overage | None:
    wish = new.overage
    if wish is None:
        return None
    if seller is not None and seller.cost_policy == CostPolicy.PLATFORM_PAYS:
        # A payment method that fails at the period's end would leave the providers' bill with the operator.
        raise InvalidRequest(f"`overage`: {_UNPAID}", param="overage")
    asset, price_micro, per_micro = asset_of(seller), wish.price_micro, wish.per_micro
    if price_micro is None and per_micro is None and asset == new.currency:
        price_micro = per_micro = MICRO
    for part, value in (("price_micro", price_micro), ("per_micro", per_micro)):
        if value is not None:
            rules.number(value, f"overage.{part}", AMOUNT_MICRO_MAX, 1)
    if price_micro is None or per_micro is None:
        part = "price_micro" if price_micro is None else "per_micro"
        rest = ": both or neither, which is 1 for 1." if asset == new.currency else "."
        raise InvalidRequest(
            f"Say with `overage.price_micro` how many {new.currency} overage costs, and with `overage.per_micro` for how many "
            f"{asset}{rest}",
            param=f"overage.{part}",
        )
    overage = Overage(wish.max_micro, price_micro, per_micro)
    for part, value in msgspec.structs.asdict(overage).items():
        rules.number(value, f"overage.{part}", AMOUNT_MICRO_MAX, 1)
    least, most = minor_units.least_charged(new.currency), minor_units.bounds(new.currency)[1]
    cost_micro = overage.cost_micro(overage.max_micro)
    if not minor_units.micro_from_minor(least, new.currency) <= cost_micro <= minor_units.micro_from_minor(most, new.currency):
        bounds = f"{minor_units.shown(least, new.currency)} to {minor_units.shown(most, new.currency)}"
        raise InvalidRequest(
            f"All of `overage.max_micro` must cost {bounds}, not {decimal_from_micro(cost_micro)}.", param="overage.max_micro"
        )
    return overage


def _check_kind(new: NewPlan) -> None:
    if new.kind == PlanKind.PACKAGE:
        given: dict[str, object] = {"interval": new.interval, "trial_days": new.trial_days, "overage": new.overage}
        given["rollover_max_micro"] = new.rollover_max_micro
        for name, value in given.items():
            if value:
                raise InvalidRequest(f"A package is paid once: it has no `{name}`.", param=name)
        if new.interval_count != 1:
            raise InvalidRequest("A package is paid once: it has no `interval_count`.", param="interval_count")
        return
    if new.lot_days is not None:  # it would outlive its period, and go on beyond what `rollover_max_micro` lets go on
        raise InvalidRequest(
            "A subscription's allowance ends with its period, and `rollover_max_micro` of it goes on: it has no `lot_days`.",
            param="lot_days",
        )
    if new.interval is None:
        raise InvalidRequest("A subscription has an `interval`: day, week, month or year", param="interval")
    rules.number(new.interval_count, "interval_count", _INTERVALS_MAX[new.interval], 1)
    rules.number(new.trial_days, "trial_days", _TRIAL_DAYS_MAX)
    rules.number(new.rollover_max_micro, "rollover_max_micro", AMOUNT_MICRO_MAX)

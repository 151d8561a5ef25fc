"""What buyers agree to use beyond their allowances, and how they stand.

Nobody pays later what it did not agree to: without an agreement requests are refused when the allowance is used up. It is of a
wallet, not of one subscription, so that an app may ask for it before or after the buyer subscribes, and it outlives a change of
plans; a plan without overage lends nothing whatever was agreed to.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from gateway.billing.acts import Named, asset_of, buyer_of, owner_seen, sale_act, seller_of, told
from gateway.billing.minor_units import micro_from_minor
from gateway.billing.model import Plan
from gateway.billing.overage.lines import most_of
from gateway.billing.overage.model import Agreement, Line, LineState, OverageBill, asked_minor
from gateway.billing.overage.store import OverageStore
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Forbidden, InvalidRequest, NotFound
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.core.words import CostPolicy
from gateway.identity import rules
from gateway.identity.model import Actor, App, Page, Role
from gateway.identity.registry import Registry
from gateway.ledger.model import Lot, WalletKey


class Standing(msgspec.Struct, frozen=True):
    """A buyer's overage. Micro-units of the wallet's asset; the plan is that of the subscription that goes on, if there is one.

    `limit_micro` was agreed to, `most_micro` of it is what the plan allows; `lent_micro` is what can be used now, or was used
    of that: `used_micro` of it, by the books; `unbilled_micro` was used before and is not billed, `unpaid_micro` is billed and
    not paid. `cost_micro`, in the plan's currency: what bills of used and unbilled would ask for now (None: there is no plan).
    `status`: `on`, `idle` (agreed to, and nothing can be used now), `paused` or `off`; `reason` says why it is idle (a word of
    `Idle`) or paused.
    """

    agreement: Agreement
    asset: str
    plan: Plan | None
    most_micro: int
    lent_micro: int
    used_micro: int
    unbilled_micro: int
    unpaid_micro: int
    cost_micro: int | None
    status: str
    reason: str


class Billed(msgspec.Struct, frozen=True):
    """A bill, and our id of its subscription."""

    bill: OverageBill
    subscription_id: str


class Agreeing:
    """Agreements. Raises as each method says."""

    def __init__(self, store: Store, rows: OverageStore, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._rows = rows
        self._registry = registry
        self._clock = clock
        self.changed: Callable[[WalletKey], Awaitable[None]] = _nobody  # told of an agreement that is another one
        # Asked for why nothing is lent to buyers of one seller who have agreed.
        self.why_idle: Callable[[Sequence[Agreement]], Awaitable[Mapping[WalletKey, str]]] = _unknown

    async def agree(self, actor: Actor, enterprise_id: str | None, buyer: Named, limit_micro: int) -> Standing:
        """Agree to use so much beyond allowances and pay later, at most. What is lent follows at once.

        NotFound; InvalidRequest, also in an app whose usage the platform pays for; Forbidden for an operator on a buyer's
        behalf, and for a buyer whose bill was given up as lost or who disputes a payment.
        """
        seller = await seller_of(self._registry, actor, enterprise_id)
        wallet = await buyer_of(self._registry, actor, seller, buyer)
        if actor.role == Role.OPERATOR and seller is not None:
            raise Forbidden("Only a buyer, or who sells to it, agrees to what it pays later.")
        rules.number(limit_micro, "limit_micro", AMOUNT_MICRO_MAX, 1)
        if seller is not None and seller.cost_policy == CostPolicy.PLATFORM_PAYS:
            raise InvalidRequest("Nothing is lent in an app whose usage the platform pays for.", param="enterprise_id")
        is_seller = actor.role != (Role.CREATOR if seller is None else Role.END_USER)
        if not await self._put(actor, seller, Agreement(wallet, limit_micro, True, "", now_ms(self._clock)), is_seller):
            message = "A bill was not paid, or a payment is disputed: whoever sells this decides whether there is overage again."
            raise Forbidden(message, code="unpaid")
        return await self._of(wallet, seller)

    async def end(self, actor: Actor, enterprise_id: str | None, buyer: Named) -> Standing:
        """Nothing more is lent; what was used is billed. NotFound."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        wallet = await buyer_of(self._registry, actor, seller, buyer)
        held = await self._held(wallet)
        if held.is_enabled or held.reason:
            off = msgspec.structs.replace(held, is_enabled=False, reason="", updated_at_ms=now_ms(self._clock))
            await self._put(actor, seller, off, False)
        else:
            await self.changed(wallet)  # who ended it before may have been told of trouble
        return await self._of(wallet, seller)

    async def listed(
        self, actor: Actor, enterprise_id: str | None, buyer: Named, after: str | None, count: int
    ) -> Page[Standing]:
        """By owner: an end user's or a creator's own, or a seller's of one buyer or all."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        owner = await owner_seen(self._registry, actor, seller, buyer)
        count = rules.page(after, count)
        found = await self._rows.agreements(seller.enterprise_id if seller else None, owner, after or "", count + 1)
        shown = await self._shown(found[:count], seller)
        return Page(tuple(shown), found[count - 1].wallet.owner if len(found) > count else None)

    async def bills(
        self, actor: Actor, enterprise_id: str | None, buyer: Named, after: str | None, count: int
    ) -> Page[Billed]:
        """Newest first; whose, as `listed`."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        owner = await owner_seen(self._registry, actor, seller, buyer)
        count = rules.page(after, count)
        of = seller.enterprise_id if seller else None
        found = await self._rows.bills(of, owner, after, count + 1)
        ours = await self._rows.our_ids(of, {bill.subscription_id for bill in found[:count]})
        rows = tuple(Billed(bill, ours[bill.subscription_id]) for bill in found[:count])
        return Page(rows, found[count - 1].id if len(found) > count else None)

    async def _of(self, wallet: WalletKey, seller: App | None) -> Standing:
        (shown,) = await self._shown([await self._held(wallet)], seller)
        return shown

    async def _held(self, wallet: WalletKey) -> Agreement:
        held = await self._rows.agreement(wallet)
        if held is None:
            raise NotFound("This wallet's owner has agreed to no overage.")
        return held

    async def _put(self, actor: Actor, seller: App | None, agreement: Agreement, lifts: bool) -> bool:
        name = "overage.agree" if agreement.is_enabled else "overage.end"
        after = told({"limit_micro": agreement.limit_micro}) if agreement.is_enabled else None
        wallet = agreement.wallet
        done = await self._rows.agree(agreement, sale_act(actor, name, wallet.owner, seller, wallet, after=after), lifts=lifts)
        if done:
            await self.changed(wallet)
        return done

    async def _shown(self, agreements: Sequence[Agreement], seller: App | None) -> list[Standing]:
        """How buyers of one seller stand: as many reads for all of them as for one."""
        if not agreements:
            return []
        of, owners = agreements[0].wallet.enterprise_id, [each.wallet.owner for each in agreements]
        plan_ids = await self._rows.plans_of(of, owners)
        lines = await self._rows.lines_owed(of, owners)
        every = [line for theirs in lines.values() for line in theirs]
        plans = await self._store.plans_named({*plan_ids.values(), *(line.plan_id for line in every)})
        lots = await self._rows.lots(of, every)
        used = {owner: _used(theirs, lots) for owner, theirs in lines.items()}
        why = await self.why_idle([each for each in agreements if each.is_enabled and not used[each.wallet.owner].left_micro])
        return [
            _standing(each, asset_of(seller), plans.get(plan_ids.get(each.wallet.owner, "")), used[each.wallet.owner], plans, why)
            for each in agreements
        ]


class _Used(msgspec.Struct, frozen=True):
    """A buyer's lines that are not done, and of each what was used of it so far; what is left of those that are lent."""

    lines: Sequence[tuple[Line, int]]
    left_micro: int

    def micro(self, *, is_lent: bool, is_billed: bool = False) -> int:
        """What was used of those that are lent, or of those that have ended and are on a bill or on none."""
        kind = (is_lent, is_billed)
        return sum(used for line, used in self.lines if (line.is_lent, line.bill_id is not None) == kind)

    def cost_micro(self, currency: str, plans: Mapping[str, Plan]) -> int:
        """What bills of what is on none would ask for, as `OverageBills.make` makes them: one a subscription and currency."""
        costs: dict[str, int] = {}
        for line, used in self.lines:
            if line.bill_id is not None:
                continue
            plan = plans[line.plan_id]
            assert plan.overage is not None, "nothing is lent under a plan without overage"
            if plan.currency == currency:
                costs[line.subscription_id] = costs.get(line.subscription_id, 0) + plan.overage.cost_micro(used)
        return sum(micro_from_minor(asked_minor(cost, currency), currency) for cost in costs.values())


def _used(lines: Sequence[Line], lots: Mapping[str, Lot]) -> _Used:
    """`lots` as the books have them; a line whose lot they do not have yet is lent in a moment."""
    lent = [(line, lots.get(line.lot_id or "")) for line in lines if line.is_lent]
    used = [(line, lot.spent_micro if lot else 0) for line, lot in lent]
    ended = [(line, line.used_micro or 0) for line in lines if line.state == LineState.ENDED]
    return _Used([*used, *ended], sum(lot.left_micro if lot else line.lent_micro for line, lot in lent))


def _standing(
    agreement: Agreement,
    asset: str,
    plan: Plan | None,
    used: _Used,
    plans: Mapping[str, Plan],
    why: Mapping[WalletKey, str],
) -> Standing:
    status, reason = "on" if used.left_micro else "idle", agreement.reason
    if not agreement.is_enabled:
        status = "paused" if reason else "off"
    elif not used.left_micro:
        reason = why.get(agreement.wallet, "")
    return Standing(
        agreement=agreement,
        asset=asset,
        plan=plan,
        most_micro=most_of(agreement, plan) if plan is not None and agreement.is_enabled else 0,
        lent_micro=sum(line.owed_micro for line, _ in used.lines if line.is_lent),
        used_micro=used.micro(is_lent=True),
        unbilled_micro=used.micro(is_lent=False),
        unpaid_micro=used.micro(is_lent=False, is_billed=True),
        cost_micro=None if plan is None else used.cost_micro(plan.currency, plans),
        status=status,
        reason=reason,
    )


async def _nobody(_: WalletKey) -> None:
    """Nothing that lends runs in this process."""


async def _unknown(_: Sequence[Agreement]) -> Mapping[WalletKey, str]:
    """The same."""
    return {}

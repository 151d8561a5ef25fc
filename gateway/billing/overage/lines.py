"""What is lent beyond an allowance: when it begins, how much it is, and when it ends.

Lent is to who agreed to it and pays: a buyer with an active subscription to a plan with overage, whose period money paid for.
It is at most what the buyer agreed to and the plan allows, less everything that may be unpaid: what is lent now, what was used
and is not billed, what is billed and not paid. So nobody owes more than that at any time, whatever happens to a bill; and a
buyer who pays has all of it again.

It ends with its period, or when the plan changes, the subscription is not active any more, or the buyer turns it off, and by
itself some days after its period, where nobody hears of what came then; each by the lot's own expiry, which leaves requests in
flight what they hold. Then what was used is known, and `bills` asks for it.

Nothing is lent in an app whose usage the platform pays for: a method that is refused would leave that with the operator.
Nothing is lent to who is in debt, as the debt would be paid with it.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gateway.billing.model import Plan, Subscription, SubscriptionState
from gateway.billing.overage.model import Agreement, Idle, Line, LineState
from gateway.billing.overage.services import Services
from gateway.billing.overage.store import Changed
from gateway.core.clock import now_ms
from gateway.core.errors import InvalidRequest
from gateway.core.ids import new_id
from gateway.core.words import LotSource
from gateway.ledger.lending import PRIORITY
from gateway.ledger.model import GrantRequest, WalletKey

ACTOR: Final = "overage"
_DAY_MS: Final = 86_400_000
_LOOKS: Final = 8
_OPEN_MAX: Final = 4
_ENDED: Final = (SubscriptionState.CANCELED, SubscriptionState.INCOMPLETE, SubscriptionState.INCOMPLETE_EXPIRED)
_log = logging.getLogger(__name__)


class Lines:
    """Lends and ends. Any number of processes may, beside each other. Raises SqlDown."""

    def __init__(self, services: Services, grace_days: int) -> None:
        """`grace_days` is how long a line outlives its period where nobody hears of the next one."""
        self._with = services
        self._grace_ms = grace_days * _DAY_MS

    async def follow(self, wallet: WalletKey, subscription_id: str) -> list[Line]:
        """Lend what is to be lent to a subscriber now, and end what is not: the lines as they are then.

        What was changed meanwhile, as by an agreement that ended, is seen by the look after it.
        """
        lines: list[Line] = []
        for _ in range(_LOOKS):
            held = await self._with.sold.subscription(wallet.enterprise_id, subscription_id)
            plan = None if held is None or held.wallet != wallet else await self._with.store.plan(held.plan_id)
            if held is None or plan is None:
                return []
            lines = await self._with.rows.lines(wallet)
            if plan.overage is None and not lines:
                return []
            most = await self._most(wallet, held, plan)
            lines = [await self._settled(line) for line in lines]
            lent = [line for line in lines if line.state == LineState.OPEN]
            room = most - sum(line.owed_micro for line in lines)
            # Of less than before nothing stays: as much as it is now is lent again.
            over = [line for line in lent if room < 0 or not self._goes_on(line, held, most)]
            if room > 0 and len(lent) >= _OPEN_MAX:
                over = lent  # each is a lot that every request's posting looks at: all is lent again in one
            for line in over:
                await self._end(line)
            if over:
                continue
            try:
                if await self._lend(held, room, max((line.number for line in lines), default=0)):
                    continue
            except Changed:
                continue
            break
        return lines

    async def settle(self, wallet: WalletKey) -> list[Line]:
        """A wallet's lines, as far as they have come."""
        return [await self._settled(line) for line in await self._with.rows.lines(wallet)]

    async def stop(self, wallet: WalletKey, reason: str) -> None:
        """Nothing more is lent to a wallet until its owner, or who sells to it, agrees again; what is lent ends."""
        await self._with.rows.pause(wallet, reason, now_ms(self._with.clock))
        for line in await self._with.rows.lines(wallet):
            if line.state == LineState.OPEN:
                await self._end(await self._granted(line))

    async def idle(self, agreements: Sequence[Agreement]) -> dict[WalletKey, Idle]:
        """Why those of a seller's buyers who have agreed can use nothing of it; who is not in it can be lent something."""
        if not agreements:
            return {}
        seller, owners = agreements[0].wallet.enterprise_id, [each.wallet.owner for each in agreements]
        subscribers = await self._with.sold.subscriptions_of(seller, owners)
        plans = await self._with.store.plans_named({held.plan_id for held in subscribers.values()})
        paid = await self._with.ledger.payments.paid_allowances(seller, owners)
        debts = await self._with.ledger.debts(seller, owners)
        lines = await self._with.rows.lines_owed(seller, owners)
        found: dict[WalletKey, Idle | None] = {}
        for agreed in agreements:
            wallet, held = agreed.wallet, subscribers.get(agreed.wallet.owner)
            if held is None or held.wallet != wallet or held.state in _ENDED:
                found[wallet] = Idle.NO_SUBSCRIPTION
                continue
            plan = plans[held.plan_id]
            found[wallet] = _refusal(held, plan, paid)
            if found[wallet] is None and sum(line.owed_micro for line in lines[wallet.owner]) >= most_of(agreed, plan):
                found[wallet] = Idle.LIMIT_REACHED
            if found[wallet] is None and wallet.owner in debts:
                found[wallet] = Idle.IN_DEBT
        return {wallet: why for wallet, why in found.items() if why is not None}

    async def _most(self, wallet: WalletKey, held: Subscription, plan: Plan) -> int:
        """What may be used and unpaid at any time."""
        agreed = await self._with.rows.agreement(wallet)
        if agreed is None or not agreed.is_enabled or await self._with.sellers.is_platforms_cost(wallet):
            return 0
        paid = await self._with.ledger.payments.paid_allowances(wallet.enterprise_id, [wallet.owner])
        return 0 if _refusal(held, plan, paid) else most_of(agreed, plan)

    def _goes_on(self, line: Line, held: Subscription, most: int) -> bool:
        """Whether it stays lent as it is."""
        of_it = (line.subscription_id, line.plan_id, line.period_end_ms)
        is_now = of_it == (held.subscription_id, held.plan_id, held.period_end_ms)
        return is_now and most > 0

    async def _lend(self, held: Subscription, amount_micro: int, last: int) -> bool:
        """Whether it did. Changed where another process lent in between."""
        now = now_ms(self._with.clock)
        ends_ms = max(held.period_end_ms + self._grace_ms, now + _DAY_MS)  # heard of too late: a day all the same
        if amount_micro <= 0 or (await self._with.ledger.wallet(held.wallet)).debt_micro:
            return False
        line = Line(
            id=new_id("ovr"),
            wallet=held.wallet,
            number=last + 1,
            subscription_id=held.subscription_id,
            account_id=held.account_id,
            plan_id=held.plan_id,
            state=LineState.OPEN,
            lent_micro=amount_micro,
            period_end_ms=held.period_end_ms,
            ends_at_ms=ends_ms,
            created_at_ms=now,
        )
        await self._with.rows.add_line(line)
        await self._granted(line)
        return True

    async def _granted(self, line: Line) -> Line:
        """A line with its lot: its row comes first, so that nothing is lent which is not counted."""
        if line.lot_id is not None or line.state != LineState.OPEN:
            return line
        request = GrantRequest(
            wallet=line.wallet,
            amount_micro=line.lent_micro,
            asset=await self._with.sellers.asset_of(line.wallet),
            source=LotSource.OVERAGE,
            op_id=line.op_id,
            actor=ACTOR,
            reason=f"overage of subscription {line.subscription_id}",
            priority=PRIORITY,
            expires_at_ms=line.ends_at_ms,
            role="system",
        )
        try:
            lot_id = (await self._with.wallets.grant(request, fingerprint=line.op_id)).lot.id
            changed = msgspec.structs.replace(line, lot_id=lot_id)
        except InvalidRequest as refused:  # its time has passed since, or the wallet can hold no more
            _log.warning("%s was not lent: %s", line.id, refused)
            changed = msgspec.structs.replace(line, state=LineState.DONE, used_micro=0)
        return changed if await self._with.rows.put_line(line, changed) else await self._again(line)

    async def _end(self, line: Line) -> None:
        if line.lot_id is None or line.state != LineState.OPEN:
            return
        ending = msgspec.structs.replace(line, state=LineState.ENDING)  # first: whoever goes on after a crash ends the lot
        if await self._with.rows.put_line(line, ending):
            await self._settled(ending)

    async def _settled(self, line: Line) -> Line:
        """A line as far as it has come: with its lot, and once that has ended, with what was used of it."""
        line = await self._granted(line)
        if line.state not in (LineState.OPEN, LineState.ENDING) or line.lot_id is None:
            return line
        if line.state == LineState.OPEN and line.ends_at_ms > now_ms(self._with.clock):
            return line
        if line.state == LineState.ENDING:
            await self._with.ledger.lending.end(line.wallet, line.lot_id)
        lot = await self._with.ledger.lending.lot(line.wallet, line.lot_id)
        if lot.left_micro or lot.expiring:
            await self._with.wallets.expire(line.wallet, lot)
            lot = await self._with.ledger.lending.lot(line.wallet, line.lot_id)
        if lot.left_micro or lot.expiring:
            return line  # requests in flight may use it
        state = LineState.ENDED if lot.spent_micro else LineState.DONE
        ended = msgspec.structs.replace(line, state=state, used_micro=lot.spent_micro)
        return ended if await self._with.rows.put_line(line, ended) else await self._again(line)

    async def _again(self, line: Line) -> Line:
        """What another process made of it meanwhile."""
        found = {each.id: each for each in await self._with.rows.lines(line.wallet)}
        return found.get(line.id, msgspec.structs.replace(line, state=LineState.DONE, used_micro=0))


def most_of(agreed: Agreement, plan: Plan) -> int:
    """What a buyer may use of a plan's overage and owe at any time, in the wallet's asset."""
    return 0 if plan.overage is None else min(agreed.limit_micro, plan.overage.max_micro)


def _refusal(held: Subscription, plan: Plan, paid: Mapping[tuple[str, int], int]) -> Idle | None:
    """Why nothing is lent to a subscriber, whatever it agreed to and has used; `paid` as `Payments.paid_allowances`."""
    if plan.overage is None:
        return Idle.PLAN_WITHOUT_OVERAGE
    is_paid = paid.get((held.subscription_id, held.period_end_ms), 0) > 0
    return None if held.state == SubscriptionState.ACTIVE and is_paid else Idle.NOT_PAID_FOR

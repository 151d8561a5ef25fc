"""Rules of automatic top-up and the purchases that they make, as rows: SQL of the platform's database, and of each app's.

A rule names its last purchase. The next one is added in the transaction that makes it the last, and only where the former
has ended: so of any number of workers, at any moment, one buys for a wallet, and a purchase stands before Stripe is asked.
Raises SqlDown, SqlRefused.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.billing.acts import system_act
from gateway.billing.model import Purchase, PurchaseState, TopUpRule
from gateway.billing.rows import Rows, sales_of
from gateway.ledger.model import WalletKey
from gateway.trail import store as trail
from gateway.trail.model import Act

_COUNTED = (PurchaseState.OPEN.value, PurchaseState.PAID.value)  # one that is on its way counts as paid
FAILED_DAILY_MAX: Final = 3  # whatever is set again meanwhile, with whichever card: who tries stolen ones gets no more tries


class Begun(StrEnum):
    """What became of the wish to buy."""

    YES = "yes"
    MOVED = "moved"  # the rule is another one by now, or its last purchase has not ended
    MONTHLY = "monthly_max_reached"
    DAILY = "daily_max_reached"
    FAILED = "too_many_failures"


class Since(msgspec.Struct, frozen=True):
    """From when purchases count for the caps."""

    month_ms: int
    day_ms: int


class Spent(msgspec.Struct, frozen=True):
    """What a wallet bought automatically, what is on its way among it: minor units of a currency this month, and how often in
    the last day; `failed`: the payments of the last day that were refused.
    """

    minor: int
    count: int
    failed: int

    def over(self, rule: TopUpRule, price_minor: int) -> Begun | None:
        """The cap that leaves no room for one more at that price."""
        if self.minor + price_minor > rule.monthly_max_minor:
            return Begun.MONTHLY
        if self.count >= rule.daily_max:
            return Begun.DAILY
        return Begun.FAILED if self.failed >= FAILED_DAILY_MAX else None


class Saved(msgspec.Struct, frozen=True):
    """A buyer at Stripe, and the payment method there that may be charged without the buyer being there."""

    customer_id: str
    method_id: str | None


class _Over(Exception):
    def __init__(self, why: Begun) -> None:
        super().__init__(why)
        self.why = why


class TopUpStore(Rows):
    """Reads and writes. Stateless."""

    # ---- rules ---------------------------------------------------------------------------------

    async def rule(self, wallet: WalletKey) -> TopUpRule | None:
        """A wallet's rule, also one that is off."""
        return next(iter(await self._rules(wallet.enterprise_id, lambda of: of.owner == wallet.owner, 1)), None)

    async def rules(self, enterprise_id: str | None, owner: str | None, after: str | None, count: int) -> list[TopUpRule]:
        """By owner; of one, or all."""
        return await self._rules(
            enterprise_id, lambda of: sa.and_(sa.true() if owner is None else of.owner == owner, of.owner > (after or "")), count
        )

    async def enabled(self, enterprise_id: str | None, after: str, count: int) -> list[TopUpRule]:
        """Those that are on, by owner."""
        return await self._rules(enterprise_id, lambda of: sa.and_(of.enabled == 1, of.owner > after), count)

    async def enabled_of(self, enterprise_id: str | None, owners: Sequence[str]) -> list[TopUpRule]:
        """Those of these owners that are on."""
        return await self._rules(enterprise_id, lambda of: sa.and_(of.enabled == 1, of.owner.in_(owners)), len(owners))

    async def put(self, rule: TopUpRule, act: Act) -> None:
        """Set a rule; its last purchase stays what it is."""
        table = sales_of(rule.wallet.enterprise_id)["top_ups"]
        values = {
            "plan_id": rule.plan_id,
            "below_micro": rule.below_micro,
            "monthly_max_minor": rule.monthly_max_minor,
            "daily_max": rule.daily_max,
            "enabled": int(rule.is_enabled),
            "reason": rule.reason,
            "updated_at": rule.updated_at_ms,
        }
        async with self._writing(rule.wallet.enterprise_id) as conn:
            changed = await conn.execute(sa.update(table).where(table.c.owner == rule.wallet.owner).values(**values))
            if not changed.rowcount:
                await conn.execute(sa.insert(table).values(owner=rule.wallet.owner, **values))
            await trail.append(conn, trail.trail_of(rule.wallet.enterprise_id), act, rule.updated_at_ms)

    async def on_their_way(self, enterprise_id: str | None, count: int) -> list[TopUpRule]:
        """Those, also the ones that are off, whose last purchase has not ended."""
        bought = sales_of(enterprise_id)["purchases"].c
        is_open = sa.select(bought.id).where(bought.state == PurchaseState.OPEN.value, bought.automatic == 1)
        return await self._rules(enterprise_id, lambda of: of.last_purchase_id.in_(is_open), count)

    async def pause(self, rule: TopUpRule, reason: str, at_ms: int) -> bool:
        """It is off, with a reason, unless somebody has set it since. False: it stays."""
        act = system_act("top_up.pause", rule.wallet.owner, rule.wallet, reason=reason)
        table = sales_of(rule.wallet.enterprise_id)["top_ups"]
        same = sa.and_(table.c.owner == rule.wallet.owner, table.c.enabled == 1, table.c.updated_at == rule.updated_at_ms)
        async with self._writing(rule.wallet.enterprise_id) as conn:
            changed = await conn.execute(sa.update(table).where(same).values(enabled=0, reason=reason, updated_at=at_ms))
            if changed.rowcount:
                await trail.append(conn, trail.trail_of(rule.wallet.enterprise_id), act, at_ms)
            return bool(changed.rowcount)

    async def pause_wallet(self, wallet: WalletKey, reason: str, at_ms: int) -> None:
        """A wallet's rule is off, with a reason, whatever it is by now."""
        while (rule := await self.rule(wallet)) is not None and rule.is_enabled:
            if await self.pause(rule, reason, at_ms):
                return

    # ---- purchases -----------------------------------------------------------------------------

    async def bought(self, wallet: WalletKey, payment_id: str) -> bool:
        """Whether a payment was an automatic purchase's."""
        bought = sales_of(wallet.enterprise_id)["purchases"].c
        rule = sa.and_(bought.owner == wallet.owner, bought.payment_id == payment_id, bought.automatic == 1)
        async with self._reading(wallet.enterprise_id) as conn:
            return (await conn.execute(sa.select(bought.id).where(rule))).first() is not None

    async def spent(self, wallet: WalletKey, currency: str, since: Since) -> Spent:
        """What counts for the caps."""
        async with self._reading(wallet.enterprise_id) as conn:
            return await _spent(conn, wallet, currency, since)

    async def begin(self, rule: TopUpRule, purchase: Purchase, since: Since, act: Act) -> Begun:
        """Add a purchase and make it the rule's last, where the rule is still this one and its caps leave room."""
        wallet = rule.wallet
        sales = sales_of(wallet.enterprise_id)
        rules, bought = sales["top_ups"], sales["purchases"]
        same = sa.and_(
            rules.c.owner == wallet.owner,
            rules.c.enabled == 1,
            rules.c.updated_at == rule.updated_at_ms,
            rules.c.last_purchase_id.is_not_distinct_from(rule.last_purchase_id),
        )
        values: dict[str, Any] = {
            "id": purchase.id,
            "owner": wallet.owner,
            "plan_id": purchase.plan_id,
            "account_id": purchase.account_id,
            "state": PurchaseState.OPEN.value,
            "amount_minor": purchase.amount_minor,
            "currency": purchase.currency,
            "fee_minor": purchase.fee_minor,
            "grant_micro": purchase.grant_micro,
            "automatic": 1,
            "created_at": purchase.created_at_ms,
            "method_id": purchase.method_id,
        }
        try:
            async with self._writing(wallet.enterprise_id) as conn:
                if not (await conn.execute(sa.update(rules).where(same).values(last_purchase_id=purchase.id))).rowcount:
                    return Begun.MOVED
                state = await conn.scalar(sa.select(bought.c.state).where(bought.c.id == rule.last_purchase_id))
                if state == PurchaseState.OPEN.value:
                    raise _Over(Begun.MOVED)
                spent = await _spent(conn, wallet, purchase.currency, since)
                if over := spent.over(rule, purchase.amount_minor):
                    raise _Over(over)
                await conn.execute(sa.insert(bought).values(**values))
                await trail.append(conn, trail.trail_of(wallet.enterprise_id), act, purchase.created_at_ms)
        except _Over as over:
            return over.why
        return Begun.YES

    async def set_payment(self, purchase: Purchase, payment_id: str) -> None:
        """Stripe's payment of an open purchase whose end is not known yet."""
        table = sales_of(purchase.wallet.enterprise_id)["purchases"]
        rule = sa.and_(table.c.id == purchase.id, table.c.state == PurchaseState.OPEN.value, table.c.payment_id.is_(None))
        async with self._writing(purchase.wallet.enterprise_id) as conn:
            await conn.execute(sa.update(table).where(rule).values(payment_id=payment_id))

    async def fail(self, purchase: Purchase, state: PurchaseState, reason: str, at_ms: int) -> bool:
        """An open purchase has failed, and with it its rule is off, for that reason. False: the purchase had ended before."""
        wallet, enterprise_id = purchase.wallet, purchase.wallet.enterprise_id
        act = system_act("top_up.pause", wallet.owner, wallet, reason=reason, after={"purchase_id": purchase.id})
        sales = sales_of(enterprise_id)
        rules, bought = sales["top_ups"], sales["purchases"]
        still = sa.and_(bought.c.id == purchase.id, bought.c.state == PurchaseState.OPEN.value)
        its = sa.and_(rules.c.owner == wallet.owner, rules.c.last_purchase_id == purchase.id)
        async with self._writing(enterprise_id) as conn:
            # The rule first, as whoever begins a purchase locks it.
            await conn.execute(sa.select(rules.c.owner).where(its).with_for_update())
            ended = await conn.execute(sa.update(bought).where(still).values(state=state.value, ended_at=at_ms))
            if not ended.rowcount:
                return False
            off = sa.update(rules).where(its, rules.c.enabled == 1).values(enabled=0, reason=reason, updated_at=at_ms)
            if (await conn.execute(off)).rowcount:
                await trail.append(conn, trail.trail_of(enterprise_id), act, at_ms)
        return True

    # ---- who is charged ------------------------------------------------------------------------

    async def saved(self, wallet: WalletKey, account_id: str) -> Saved | None:
        """The buyer on an account."""
        of = sales_of(wallet.enterprise_id)["customers"].c
        query = sa.select(of.customer_id, of.method_id).where(of.owner == wallet.owner, of.account_id == account_id)
        async with self._reading(wallet.enterprise_id) as conn:
            row = (await conn.execute(query)).first()
        return None if row is None else Saved(row[0], row[1])

    async def save(self, wallet: WalletKey, account_id: str, method_id: str) -> None:
        """The method that may be charged from now on."""
        table = sales_of(wallet.enterprise_id)["customers"]
        its = sa.and_(table.c.owner == wallet.owner, table.c.account_id == account_id)
        async with self._writing(wallet.enterprise_id) as conn:
            await conn.execute(sa.update(table).where(its).values(method_id=method_id))

    async def _rules(self, enterprise_id: str | None, which: Any, count: int) -> list[TopUpRule]:
        table = sales_of(enterprise_id)["top_ups"]
        query = sa.select(*table.c).where(which(table.c)).order_by(table.c.owner).limit(count)
        async with self._reading(enterprise_id) as conn:
            return [_rule(enterprise_id, row) for row in (await conn.execute(query)).mappings()]


async def _spent(conn: AsyncConnection, wallet: WalletKey, currency: str, since: Since) -> Spent:
    of = sales_of(wallet.enterprise_id)["purchases"].c
    mine = sa.and_(of.owner == wallet.owner, of.automatic == 1)
    counts, of_day = of.state.in_(_COUNTED), of.created_at >= since.day_ms
    of_month = sa.and_(counts, of.created_at >= since.month_ms, of.currency == currency)
    sums = [
        sa.func.sum(sa.case((of_month, of.amount_minor), else_=0)),
        sa.func.sum(sa.case((sa.and_(counts, of_day), 1), else_=0)),
        sa.func.sum(sa.case((sa.and_(of.state == PurchaseState.FAILED.value, of_day), 1), else_=0)),
    ]
    recent = of.created_at >= min(since.month_ms, since.day_ms)
    return Spent(*[int(found or 0) for found in (await conn.execute(sa.select(*sums).where(mine, recent))).one()])


def _rule(enterprise_id: str | None, row: Mapping[Any, Any]) -> TopUpRule:
    return TopUpRule(
        wallet=WalletKey(row["owner"], enterprise_id),
        plan_id=row["plan_id"],
        below_micro=row["below_micro"],
        monthly_max_minor=row["monthly_max_minor"],
        daily_max=row["daily_max"],
        is_enabled=bool(row["enabled"]),
        reason=row["reason"],
        updated_at_ms=row["updated_at"],
        last_purchase_id=row["last_purchase_id"],
    )

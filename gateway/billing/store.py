"""What is offered and what was bought, as rows: SQL of the platform's database, and of each app's for its end users.

Raises SqlDown, SqlRefused. Where a method takes an act, its line in the trail is committed with the change, in the database in
which the change is: end users are named in their app's alone.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.billing.model import Account, Branding, FeeTerm, Overage, Plan, Purchase, PurchaseState, Subscription
from gateway.billing.promo_store import PromoStore
from gateway.billing.rows import Rows, sales_of
from gateway.billing.subscriber_store import SubscriberStore
from gateway.db.engines import Databases
from gateway.db.faults import SqlRefused, named_faults
from gateway.db.tables import (
    app_pages,
    billing_accounts,
    fee_terms,
    paid_payments,
    past_accounts,
    plan_prices,
    plans,
)
from gateway.ledger.model import WalletKey
from gateway.trail import store as trail
from gateway.trail.model import Act

T = TypeVar("T")


class Taken(Exception):
    """There is such a row already."""


class TooMany(Exception):
    """A buyer has as many pages open as one may have."""


class Asked(msgspec.Struct, frozen=True):
    """A purchase with the request that it was made by."""

    purchase: Purchase
    fingerprint: str


class Store(Rows):
    """Reads and writes of plans, accounts, shares and sales. Stateless."""

    def __init__(self, databases: Databases) -> None:
        super().__init__(databases)
        self.subscribers = SubscriberStore(databases)
        self.promos = PromoStore(databases)

    # ---- plans ---------------------------------------------------------------------------------

    async def add_plan(self, plan: Plan, act: Act) -> None:
        """Insert."""
        values = _columns(plan) | {"enterprise_id": plan.enterprise_id or ""}
        overage = values.pop("overage") or {}
        values |= {column: overage.get(field) for column, field in _OVERAGE.items()}
        async with self._writing(None) as connection:
            await connection.execute(sa.insert(plans).values(**values))
            await trail.append(connection, trail.trail_of(None), act, plan.created_at_ms)

    async def plan(self, plan_id: str) -> Plan | None:
        """One plan, archived or not."""
        async with self._reading(None) as connection:
            row = (await connection.execute(sa.select(*plans.c).where(plans.c.id == plan_id))).mappings().first()
        return None if row is None else _plan(row)

    async def plans_named(self, plan_ids: Collection[str]) -> dict[str, Plan]:
        """Plans, archived or not, by their ids."""
        query = sa.select(*plans.c).where(plans.c.id.in_(plan_ids))
        async with self._reading(None) as connection:
            return {row["id"]: _plan(row) for row in (await connection.execute(query)).mappings()}

    async def plans(self, enterprise_id: str | None, after: str | None, count: int, *, archived: bool) -> list[Plan]:
        """A seller's plans, newest first; `archived`: those that are not offered any more among them."""
        query = sa.select(*plans.c).where(plans.c.enterprise_id == (enterprise_id or ""))
        if not archived:
            query = query.where(plans.c.archived_at.is_(None))
        if after is not None:
            query = query.where(plans.c.id < after)
        async with self._reading(None) as connection:
            found = await connection.execute(query.order_by(plans.c.id.desc()).limit(count))
            return [_plan(row) for row in found.mappings()]

    async def archive_plan(self, plan_id: str, at_ms: int, act: Act) -> None:
        """No longer offered; the first time stays."""
        rule = sa.and_(plans.c.id == plan_id, plans.c.archived_at.is_(None))
        async with self._writing(None) as connection:
            changed = await connection.execute(sa.update(plans).where(rule).values(archived_at=at_ms))
            if changed.rowcount:
                await trail.append(connection, trail.trail_of(None), act, at_ms)

    async def branding(self, enterprise_id: str) -> Branding | None:
        """How an app's own pages look, where that was set."""
        async with self._reading(None) as connection:
            found = await connection.execute(sa.select(*app_pages.c).where(app_pages.c.enterprise_id == enterprise_id))
            row = found.mappings().first()
        return None if row is None else _value(Branding, row)

    async def put_branding(self, branding: Branding, act: Act) -> None:
        """Set it."""
        values = _columns(branding)
        its = app_pages.c.enterprise_id == branding.enterprise_id
        async with self._writing(None) as connection:
            if not (await connection.execute(sa.update(app_pages).where(its).values(**values))).rowcount:
                await connection.execute(sa.insert(app_pages).values(**values))
            await trail.append(connection, trail.trail_of(None), act, branding.updated_at_ms)

    async def price(self, plan_id: str, account_id: str) -> str | None:
        """A plan's price on an account, where it has one."""
        rule = sa.and_(plan_prices.c.plan_id == plan_id, plan_prices.c.account_id == account_id)
        async with self._reading(None) as connection:
            price_id: str | None = await connection.scalar(sa.select(plan_prices.c.price_id).where(rule))
        return price_id

    async def product(self, plan_id: str, account_id: str) -> str | None:
        """A plan's product on an account, where it has one."""
        rule = sa.and_(plan_prices.c.plan_id == plan_id, plan_prices.c.account_id == account_id)
        async with self._reading(None) as connection:
            product_id: str | None = await connection.scalar(sa.select(plan_prices.c.product_id).where(rule))
        return product_id

    async def add_price(self, plan_id: str, account_id: str, product_id: str, price_id: str) -> None:
        """Keep what Stripe made, unless another process has."""
        values = {"plan_id": plan_id, "account_id": account_id, "product_id": product_id, "price_id": price_id}
        await self._add_once(None, plan_prices, values)

    async def plan_of_price(self, account_id: str, price_id: str) -> str | None:
        """The plan that a price on an account is of."""
        rule = sa.and_(plan_prices.c.account_id == account_id, plan_prices.c.price_id == price_id)
        async with self._reading(None) as connection:
            plan_id: str | None = await connection.scalar(sa.select(plan_prices.c.plan_id).where(rule))
        return plan_id

    # ---- accounts ------------------------------------------------------------------------------

    async def account(self, user_id: str) -> Account | None:
        """A creator's account."""
        return await self._account(billing_accounts, billing_accounts.c.user_id == user_id)

    async def account_by_id(self, account_id: str) -> Account | None:
        """The same, by Stripe's id; also one that the creator had before."""
        found = await self._account(billing_accounts, billing_accounts.c.account_id == account_id)
        return found or await self._account(past_accounts, past_accounts.c.account_id == account_id)

    async def put_account(self, account: Account, act: Act) -> None:
        """Set a creator's account, or replace it by another; the one before is kept among the past ones."""
        of = billing_accounts.c
        async with self._writing(None) as connection:
            another = sa.and_(of.user_id == account.user_id, of.account_id != account.account_id)
            names = [column.name for column in past_accounts.c]
            before = sa.select(*[of[name] for name in names]).where(another)
            await connection.execute(sa.insert(past_accounts).from_select(names, before))
            await connection.execute(sa.delete(billing_accounts).where(billing_accounts.c.user_id == account.user_id))
            await connection.execute(sa.insert(billing_accounts).values(**_columns(account)))
            await trail.append(connection, trail.trail_of(None), act, account.updated_at_ms)

    async def set_account(self, account_id: str, state: str, wanted: Sequence[str], at_ms: int, act: Act) -> None:
        """How an account stands now; a line in the trail where its state is another one."""
        values = {"state": state, "wanted": list(wanted), "updated_at": at_ms}
        async with self._writing(None) as connection:
            for table in (billing_accounts, past_accounts):
                rule = table.c.account_id == account_id
                before = (await connection.execute(sa.select(table.c.state).where(rule).with_for_update())).scalar()
                await connection.execute(sa.update(table).where(rule).values(**values))
                if before not in (None, state):
                    line = msgspec.structs.replace(act, before={"state": before}, after={"state": state})
                    await trail.append(connection, trail.trail_of(None), line, at_ms)

    async def _account(self, table: sa.Table, rule: sa.ColumnElement[bool]) -> Account | None:
        async with self._reading(None) as connection:
            row = (await connection.execute(sa.select(*table.c).where(rule))).mappings().first()
        return None if row is None else _value(Account, {**row, "wanted": tuple(row["wanted"])})

    # ---- shares --------------------------------------------------------------------------------

    async def add_fee_term(self, term: FeeTerm, act: Act) -> None:
        """Insert; raises Taken when there is one from that very moment."""
        values = _columns(term) | {"enterprise_id": term.enterprise_id or ""}
        async with self._writing(None) as connection:
            try:
                with named_faults():
                    await connection.execute(sa.insert(fee_terms).values(**values))
            except SqlRefused as taken:
                raise Taken from taken
            await trail.append(connection, trail.trail_of(None), act, term.created_at_ms)

    async def fee_terms(self, user_id: str | None, count: int) -> list[FeeTerm]:
        """The latest first; of one creator, or all."""
        query = sa.select(*fee_terms.c).order_by(fee_terms.c.effective_at.desc(), fee_terms.c.user_id, fee_terms.c.enterprise_id)
        if user_id is not None:
            query = query.where(fee_terms.c.user_id == user_id)
        async with self._reading(None) as connection:
            found = (await connection.execute(query.limit(count))).mappings().all()
        return [_value(FeeTerm, {**row, "enterprise_id": row["enterprise_id"] or None}) for row in found]

    async def fee_bp(self, user_id: str, enterprise_id: str, at_ms: int) -> int:
        """The share in force: the app's own before that of all the creator's apps; 0 without one."""
        of = fee_terms.c
        query = (
            sa.select(of.fee_bp)
            .where(of.user_id == user_id, of.enterprise_id.in_((enterprise_id, "")), of.effective_at <= at_ms)
            .order_by(sa.case((of.enterprise_id == "", 1), else_=0), of.effective_at.desc())
        )
        async with self._reading(None) as connection:
            fee_bp: int | None = await connection.scalar(query.limit(1))
        return fee_bp or 0

    async def fee_bps(self, user_id: str, enterprise_id: str, from_ms: int, until_ms: int) -> list[int]:
        """The shares in force from one moment to another; none where there never was a term until then."""
        of = fee_terms.c
        query = sa.select(of.effective_at, of.enterprise_id, of.fee_bp).where(
            of.user_id == user_id, of.enterprise_id.in_((enterprise_id, "")), of.effective_at <= until_ms
        )
        async with self._reading(None) as connection:
            terms = [
                (int(row[0]), row[1] != "", int(row[2])) for row in await connection.execute(query.order_by(of.effective_at))
            ]
        if not terms:
            return []
        moments = [from_ms, *[begins_ms for begins_ms, _, _ in terms if begins_ms > from_ms]]
        # The app's own comes before that of all the creator's apps, then the latest.
        in_force = [
            max(((own, begins, bp) for begins, own, bp in terms if begins <= moment), default=(False, 0, 0)) for moment in moments
        ]
        return [bp for _, _, bp in in_force]

    # ---- sales ---------------------------------------------------------------------------------

    async def bind_payment(self, account_id: str, payment_id: str, enterprise_id: str | None, at_ms: int) -> str | None:
        """Whose sale a payment is, for ever: the seller's who comes first."""
        values = {"account_id": account_id, "payment_id": payment_id, "enterprise_id": enterprise_id or "", "created_at": at_ms}
        await self._add_once(None, paid_payments, values)
        return (await self.seller_of(account_id, payment_id) or "") or None

    async def seller_of(self, account_id: str, payment_id: str) -> str | None:
        """The seller ("": the platform) of a payment; None of one that nobody was granted."""
        rule = sa.and_(paid_payments.c.account_id == account_id, paid_payments.c.payment_id == payment_id)
        async with self._reading(None) as connection:
            found: str | None = await connection.scalar(sa.select(paid_payments.c.enterprise_id).where(rule))
        return found

    async def customer(self, wallet: WalletKey, account_id: str) -> str | None:
        """The buyer's customer on an account."""
        of = sales_of(wallet.enterprise_id)["customers"].c
        query = sa.select(of.customer_id).where(of.owner == wallet.owner, of.account_id == account_id)
        async with self._reading(wallet.enterprise_id) as connection:
            customer_id: str | None = await connection.scalar(query)
        return customer_id

    async def add_customer(self, wallet: WalletKey, account_id: str, customer_id: str, at_ms: int) -> None:
        """Keep what Stripe made, unless another process has."""
        values = {"owner": wallet.owner, "account_id": account_id, "customer_id": customer_id, "created_at": at_ms}
        await self._add_once(wallet.enterprise_id, sales_of(wallet.enterprise_id)["customers"], values)

    async def add_purchase(
        self, purchase: Purchase, op_id: str, fingerprint: str, act: Act, most: int = 0, since_ms: int = 0
    ) -> Asked:
        """Insert, unless there is one of this op_id: that one then. TooMany when with it the buyer has more than `most`, if any,
        that are open and were opened since.
        """
        enterprise_id = purchase.wallet.enterprise_id
        table = sales_of(enterprise_id)["purchases"]
        values = {
            **_columns(purchase),
            "owner": purchase.wallet.owner,
            "automatic": int(purchase.is_automatic),
            "op_id": op_id,
            "fingerprint": fingerprint,
        }
        for name in ("wallet", "is_automatic"):
            del values[name]
        try:
            async with self._writing(enterprise_id) as connection:
                await connection.execute(sa.insert(table).values(**values))
                await trail.append(connection, trail.trail_of(enterprise_id), act, purchase.created_at_ms)
                # The trail lets one writer in at a time, so that of two at once the second sees the first.
                if most and await self._open(connection, purchase.wallet, since_ms) > most:
                    raise TooMany
        except SqlRefused:
            known = await self.asked(enterprise_id, op_id)
            if known is None:
                raise
            return known
        return Asked(purchase, fingerprint)

    async def asked(self, enterprise_id: str | None, op_id: str) -> Asked | None:
        """The purchase that a request made before."""
        table = sales_of(enterprise_id)["purchases"]
        async with self._reading(enterprise_id) as connection:
            row = (await connection.execute(sa.select(*table.c).where(table.c.op_id == op_id))).mappings().first()
        return None if row is None else Asked(_purchase(enterprise_id, row), row["fingerprint"])

    async def _open(self, connection: AsyncConnection, wallet: WalletKey, since_ms: int) -> int:
        of = sales_of(wallet.enterprise_id)["purchases"].c
        rule = sa.and_(of.owner == wallet.owner, of.state == PurchaseState.OPEN.value, of.created_at >= since_ms)
        return int(await connection.scalar(sa.select(sa.func.count()).where(rule)) or 0)

    async def set_session(self, enterprise_id: str | None, purchase_id: str, session_id: str) -> None:
        """The checkout session of a purchase; the first stays."""
        table = sales_of(enterprise_id)["purchases"]
        rule = sa.and_(table.c.id == purchase_id, table.c.session_id.is_(None))
        async with self._writing(enterprise_id) as connection:
            await connection.execute(sa.update(table).where(rule).values(session_id=session_id))

    async def reprice(self, purchase: Purchase) -> None:
        """What a purchase costs, its share, its discount and what it grants, while its page has not been made."""
        enterprise_id = purchase.wallet.enterprise_id
        table = sales_of(enterprise_id)["purchases"]
        rule = sa.and_(table.c.id == purchase.id, table.c.state == PurchaseState.OPEN.value, table.c.session_id.is_(None))
        values = {name: getattr(purchase, name) for name in ("amount_minor", "fee_minor", "discount_minor", "grant_micro")}
        async with self._writing(enterprise_id) as connection:
            await connection.execute(sa.update(table).where(rule).values(**values))

    async def fail_purchase(self, enterprise_id: str | None, purchase_id: str, at_ms: int) -> None:
        """An open purchase that Stripe refused to sell."""
        table = sales_of(enterprise_id)["purchases"]
        rule = sa.and_(table.c.id == purchase_id, table.c.state == PurchaseState.OPEN.value, table.c.session_id.is_(None))
        values = {"state": PurchaseState.FAILED.value, "ended_at": at_ms}
        async with self._writing(enterprise_id) as connection:
            await connection.execute(sa.update(table).where(rule).values(**values))

    async def purchase(self, enterprise_id: str | None, purchase_id: str) -> Purchase | None:
        """One purchase."""
        table = sales_of(enterprise_id)["purchases"]
        async with self._reading(enterprise_id) as connection:
            row = (await connection.execute(sa.select(*table.c).where(table.c.id == purchase_id))).mappings().first()
        return None if row is None else _purchase(enterprise_id, row)

    async def purchases(self, enterprise_id: str | None, owner: str | None, after: str | None, count: int) -> list[Purchase]:
        """Newest first; of one buyer, or all."""
        table = sales_of(enterprise_id)["purchases"]
        return [_purchase(enterprise_id, row) for row in await self._rows(enterprise_id, table, owner, after, count)]

    async def subscription(self, enterprise_id: str | None, subscription_id: str) -> Subscription | None:
        """One subscription, by our id."""
        table = sales_of(enterprise_id)["subscriptions"]
        async with self._reading(enterprise_id) as connection:
            row = (await connection.execute(sa.select(*table.c).where(table.c.id == subscription_id))).mappings().first()
        return None if row is None else _subscription(enterprise_id, row)

    async def subscriptions(
        self, enterprise_id: str | None, owner: str | None, after: str | None, count: int
    ) -> list[Subscription]:
        """Newest first; of one buyer, or all."""
        table = sales_of(enterprise_id)["subscriptions"]
        return [_subscription(enterprise_id, row) for row in await self._rows(enterprise_id, table, owner, after, count)]

    async def note(self, enterprise_id: str | None, act: Act, at_ms: int) -> None:
        """A line in the trail of what was asked of Stripe, and changes something here when Stripe has done it.

        None for a repetition: the latest line of the same act and subject says the same.
        """
        async with self._writing(enterprise_id) as connection:
            await trail.append_if_new(connection, trail.trail_of(enterprise_id), act, at_ms)

    async def _rows(
        self, enterprise_id: str | None, table: sa.Table, owner: str | None, after: str | None, count: int
    ) -> Sequence[Mapping[str, Any]]:
        query = sa.select(*table.c).order_by(table.c.id.desc()).limit(count)
        if owner is not None:
            query = query.where(table.c.owner == owner)
        if after is not None:
            query = query.where(table.c.id < after)
        async with self._reading(enterprise_id) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def _add_once(self, enterprise_id: str | None, table: sa.Table, values: Mapping[str, Any]) -> None:
        try:
            async with self._writing(enterprise_id) as connection:
                await connection.execute(sa.insert(table).values(**values))
        except SqlRefused:
            rule = sa.and_(*[table.c[column.name] == values[column.name] for column in table.primary_key])
            async with self._reading(enterprise_id) as connection:
                if (await connection.execute(sa.select(sa.literal(1)).select_from(table).where(rule))).first() is None:
                    raise


_OVERAGE: Final = {f"overage_{field}": field for field in Overage.__struct_fields__}


def _plan(row: Mapping[Any, Any]) -> Plan:
    fields = {name: value for name, value in row.items() if name not in _OVERAGE}
    overage = {field: row[column] for column, field in _OVERAGE.items() if row[column] is not None}
    fields["overage"] = Overage(**overage) if overage else None
    return _value(Plan, {**fields, "enterprise_id": row["enterprise_id"] or None})


def _purchase(enterprise_id: str | None, row: Mapping[Any, Any]) -> Purchase:
    fields = {name: value for name, value in row.items() if name not in ("owner", "automatic", "op_id", "fingerprint")}
    return _value(Purchase, {**fields, "wallet": WalletKey(row["owner"], enterprise_id), "is_automatic": bool(row["automatic"])})


def _subscription(enterprise_id: str | None, row: Mapping[Any, Any]) -> Subscription:
    fields = {name: value for name, value in row.items() if name != "owner"}
    fields["cancel_at_period_end"] = bool(row["cancel_at_period_end"])
    return _value(Subscription, {**fields, "wallet": WalletKey(row["owner"], enterprise_id)})


_TIMES: Final = {
    name: f"{name}_ms"
    for name in (
        "created_at", "updated_at", "archived_at", "ended_at", "effective_at", "period_start", "period_end", "as_of",
        "grace_until",
    )
}  # fmt: skip
_COLUMNS: Final = {field: column for column, field in _TIMES.items()}


def _columns(value: msgspec.Struct) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(value)
    return {_COLUMNS.get(name, name): each for name, each in fields.items()}


def _value(kind: type[T], row: Mapping[Any, Any]) -> T:
    return kind(**{_TIMES.get(name, name): each for name, each in row.items()})

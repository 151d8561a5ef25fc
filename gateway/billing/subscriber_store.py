"""Who subscribes to what: pages on which a buyer may still subscribe, and the one subscription that a buyer has. As rows.

In their seller's database, of an app or of the platform. Raises SqlDown, SqlRefused.
"""


import msgspec
import sqlalchemy as sa

from gateway.billing.model import PurchaseState
from gateway.billing.rows import Rows, sales_of
from gateway.core.ids import new_id
from gateway.db.faults import SqlRefused
from gateway.ledger.model import WalletKey


class OpenPage(msgspec.Struct, frozen=True):
    """A checkout session of a subscription that was open when it was last looked at."""

    id: str
    account_id: str
    session_id: str


class SubscriberStore(Rows):
    """Reads and writes of both. Stateless."""

    async def add_page(self, wallet: WalletKey, account_id: str, session_id: str, now_ms: int, old_ms: int) -> bool:
        """Keep a page, unless it is kept already; False where it was closed. The buyer's from before `old_ms` are forgotten."""
        table = sales_of(wallet.enterprise_id)["subscription_pages"]
        values = {"owner": wallet.owner, "account_id": account_id, "session_id": session_id, "opened_at": now_ms}
        try:
            async with self._writing(wallet.enterprise_id) as conn:
                await conn.execute(sa.delete(table).where(table.c.owner == wallet.owner, table.c.opened_at < old_ms))
                await conn.execute(sa.insert(table).values(id=new_id("page"), **values))
        except SqlRefused:
            query = sa.select(table.c.closed_at).where(table.c.session_id == session_id)
            async with self._reading(wallet.enterprise_id) as conn:
                found = (await conn.execute(query)).first()
            if found is None:
                raise
            return found[0] is None
        return True

    async def older_pages(self, wallet: WalletKey, session_id: str) -> list[OpenPage]:
        """The buyer's open pages from before that one."""
        table = sales_of(wallet.enterprise_id)["subscription_pages"]
        this = sa.select(table.c.id).where(table.c.session_id == session_id).scalar_subquery()
        query = sa.select(table.c.id, table.c.account_id, table.c.session_id).where(
            table.c.owner == wallet.owner, table.c.closed_at.is_(None), table.c.id < this
        )
        async with self._reading(wallet.enterprise_id) as conn:
            return [OpenPage(*row) for row in await conn.execute(query.order_by(table.c.id))]

    async def close_page(self, wallet: WalletKey, session_id: str, now_ms: int) -> None:
        """Nobody can pay on it any more."""
        table = sales_of(wallet.enterprise_id)["subscription_pages"]
        async with self._writing(wallet.enterprise_id) as conn:
            await conn.execute(sa.update(table).where(table.c.session_id == session_id).values(closed_at=now_ms))

    async def claim(self, wallet: WalletKey, subscription_id: str, instead_of: str | None = None) -> str:
        """The buyer's one subscription with this seller, by Stripe's id: this one from now on, if there was none.

        Or if it is `instead_of` still, which has ended. Of several at once, one comes first.
        """
        table = sales_of(wallet.enterprise_id)["subscribers"]
        mine = {"subscription_id": subscription_id}
        if instead_of is not None:
            rule = sa.and_(table.c.owner == wallet.owner, table.c.subscription_id == instead_of)
            async with self._writing(wallet.enterprise_id) as conn:
                await conn.execute(sa.update(table).where(rule).values(**mine))
        query = sa.select(table.c.subscription_id).where(table.c.owner == wallet.owner)
        async with self._reading(wallet.enterprise_id) as conn:
            holder: str | None = await conn.scalar(query)
        if holder is not None:
            return holder
        try:
            async with self._writing(wallet.enterprise_id) as conn:
                await conn.execute(sa.insert(table).values(owner=wallet.owner, **mine))
        except SqlRefused:
            async with self._reading(wallet.enterprise_id) as conn:
                first: str | None = await conn.scalar(query)
            if first is None:
                raise
            return first
        return subscription_id

    async def of(self, wallet: WalletKey) -> str | None:
        """The buyer's one subscription, by Stripe's id; also when it has ended, until another takes its place."""
        table = sales_of(wallet.enterprise_id)["subscribers"]
        async with self._reading(wallet.enterprise_id) as conn:
            holder: str | None = await conn.scalar(sa.select(table.c.subscription_id).where(table.c.owner == wallet.owner))
        return holder

    async def lapsed(self, wallet: WalletKey, now_ms: int) -> bool:
        """Whether a buyer had subscriptions, none of which goes on, and never bought a package.

        One that is past due goes on while its grace lasts.
        """
        held, bought = (sales_of(wallet.enterprise_id)[name] for name in ("subscriptions", "purchases"))
        goes_on = held.c.state.in_(("active", "trialing")) | sa.and_(held.c.state == "past_due", held.c.grace_until > now_ms)
        counted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((goes_on, 1), else_=0)), 0))
        paid = sa.select(sa.func.count()).where(bought.c.owner == wallet.owner, bought.c.state == PurchaseState.PAID.value)
        async with self._reading(wallet.enterprise_id) as conn:
            had, live = (await conn.execute(counted.where(held.c.owner == wallet.owner))).one()
            return bool(had) and not live and not await conn.scalar(paid)



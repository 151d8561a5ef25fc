"""What the books say of money that Stripe moved, by Stripe's ids, and the platform's fee income by month: SQL, reads only.

Raises SqlDown. Months are pairs of moments (`from_ms` <= time < `until_ms`) with a name.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from gateway.billing.rows import Rows
from gateway.core.words import LotSource
from gateway.db import bulk
from gateway.db.tables import APP_SALES, PLATFORM_SALES, apps, billing_accounts
from gateway.ledger.model import BOOK, DUE_FROM_APP, DUE_TO_PLATFORM, FEE, FEE_INCOME, GRANT, PROCESSING, STRIPE
from gateway.ledger.store import books_of

_CHUNK: Final = 500  # ids of one question
_FIRST_FOUR: Final[tuple[sa.ColumnElement[Any], ...]] = tuple(sa.literal_column(str(place)) for place in range(1, 5))
_PAID: Final = (STRIPE, PROCESSING)  # together, below zero: what was paid


class Month(msgspec.Struct, frozen=True):
    """A calendar month, UTC."""

    name: str  # 2026-10
    from_ms: int
    until_ms: int


class Booked(msgspec.Struct, frozen=True):
    """A payment in an app's book: what was paid and the platform's share of it, in that currency's micro-units."""

    enterprise_id: str
    currency: str
    paid_micro: int
    share_micro: int


class FeeRow(msgspec.Struct, frozen=True):
    """The platform's income from one app's sales in a month: what came in, and what of that or of earlier went back."""

    month: str
    user_id: str
    enterprise_id: str
    currency: str
    income_micro: int
    returned_micro: int


class RevenueStore(Rows):
    """Stateless."""

    # ---- the platform's income -----------------------------------------------------------------

    async def fee_income(self, months: Sequence[Month], user_id: str | None, enterprise_id: str | None) -> list[FeeRow]:
        """By month, creator, app and currency, of one creator or app or all, of months one after another, oldest first; where
        nothing moved there is no row.

        What a fee is due from says whose it is: the account in the platform's book that is the app's.
        """
        books = books_of(None)
        txns, entries, accounts = books["txns"], books["entries"], books["accounts"]
        income, due = accounts.alias("income"), accounts.alias("due")
        theirs = entries.alias("theirs")
        amount = entries.c.amount_micro
        month_of = sa.case(*[(txns.c.at < month.until_ms, month.name) for month in months])
        query = (
            sa.select(
                month_of,
                apps.c.user_id,
                due.c.owner,
                income.c.asset,
                sa.func.sum(sa.case((amount > 0, amount), else_=0)),
                sa.func.sum(sa.case((amount < 0, -amount), else_=0)),
            )
            .join_from(txns, entries, entries.c.txn_id == txns.c.id)
            .join(income, sa.and_(income.c.id == entries.c.account_id, income.c.kind == FEE_INCOME, income.c.owner == BOOK))
            .join(theirs, theirs.c.txn_id == txns.c.id)
            .join(due, sa.and_(due.c.id == theirs.c.account_id, due.c.kind == DUE_FROM_APP))
            .join(apps, apps.c.enterprise_id == due.c.owner)
            .where(txns.c.kind == FEE, txns.c.at >= months[0].from_ms, txns.c.at < months[-1].until_ms)
            # By place: an expression with parameters here is not the one in the select list to Postgres.
            .group_by(*_FIRST_FOUR)
            .order_by(*_FIRST_FOUR)
        )
        if user_id is not None:
            query = query.where(apps.c.user_id == user_id)
        if enterprise_id is not None:
            query = query.where(due.c.owner == enterprise_id)
        async with self._reading(None) as connection:
            return [FeeRow(*row[:4], int(row[4]), int(row[5])) for row in await connection.execute(query)]

    async def creators_of(self, account_ids: Sequence[str]) -> dict[str, str]:
        """The creators that have these accounts now, by account."""
        found: dict[str, str] = {}
        async with self._reading(None) as connection:
            for ids in _chunks(account_ids):
                rule = bulk.is_in(connection, billing_accounts.c.account_id, ids)
                query = sa.select(billing_accounts.c.account_id, billing_accounts.c.user_id).where(rule)
                found |= {row[0]: row[1] for row in await connection.execute(query)}
        return found

    async def apps_of(self, user_id: str) -> dict[str, str]:
        """A creator's apps: their names by id."""
        query = sa.select(apps.c.enterprise_id, apps.c.name).where(apps.c.user_id == user_id).order_by(apps.c.enterprise_id)
        async with self._reading(None) as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}

    # ---- an app's book, by Stripe's ids --------------------------------------------------------

    async def payments(self, enterprise_id: str, payment_ids: Sequence[str]) -> dict[str, Booked]:
        """Those of these payments that the app's book has."""
        books = books_of(enterprise_id)
        lots, entries, txns, accounts = (books[name] for name in ("lots", "entries", "txns", "accounts"))
        found: dict[str, Booked] = {}
        async with self._reading(enterprise_id) as connection:
            for ids in _chunks(payment_ids):
                granted = (
                    sa.select(txns.c.id, lots.c.external_ref)
                    # By the time, which has an index, and is the lot's: entries have none by their lots.
                    .join_from(lots, txns, sa.and_(txns.c.at == lots.c.created_at, txns.c.kind == GRANT))
                    .join(entries, sa.and_(entries.c.txn_id == txns.c.id, entries.c.lot_id == lots.c.id))
                    .where(bulk.is_in(connection, lots.c.external_ref, ids), lots.c.source == LotSource.PAID.value)
                )
                paid_by = {row[0]: row[1] for row in await connection.execute(granted)}
                # Few entries of each; which of them count is told here, so that no database begins with the book's account.
                query = (
                    sa.select(entries.c.txn_id, accounts.c.kind, accounts.c.asset, entries.c.amount_micro)
                    .join_from(entries, accounts, accounts.c.id == entries.c.account_id)
                    .where(bulk.is_in(connection, entries.c.txn_id, list(paid_by)))
                )
                for txn_id, kind, asset, amount in await connection.execute(query):
                    if kind in (*_PAID, DUE_TO_PLATFORM):
                        name = paid_by[txn_id]
                        before = found.get(name, Booked(enterprise_id, asset, 0, 0))
                        paid, share = (0, amount) if kind == DUE_TO_PLATFORM else (-amount, 0)
                        both = before.paid_micro + paid, before.share_micro + share
                        found[name] = Booked(enterprise_id, asset, *both)
        return found

    async def moved(self, enterprise_id: str, op_ids: Sequence[str]) -> dict[str, int]:
        """What each of these operations, where it is posted, moved of money that Stripe has: out of it above zero."""
        books = books_of(enterprise_id)
        txns, entries, accounts = books["txns"], books["entries"], books["accounts"]
        found: dict[str, int] = {}
        async with self._reading(enterprise_id) as connection:
            for ids in _chunks(op_ids):
                amount = sa.func.sum(sa.case((accounts.c.kind == STRIPE, entries.c.amount_micro), else_=0))
                query = (
                    sa.select(txns.c.op_id, amount)
                    .join_from(txns, entries, entries.c.txn_id == txns.c.id, isouter=True)
                    .join(accounts, accounts.c.id == entries.c.account_id, isouter=True)
                    .where(bulk.is_in(connection, txns.c.op_id, ids))
                    .group_by(txns.c.op_id)
                )
                found |= {row[0]: int(row[1] or 0) for row in await connection.execute(query)}
        return found

    async def owners(self, enterprise_id: str | None, account_id: str, customer_ids: Sequence[str]) -> dict[str, str]:
        """Whose these customers of an account are, of a seller's buyers."""
        customers = (PLATFORM_SALES if enterprise_id is None else APP_SALES)["customers"]
        found: dict[str, str] = {}
        async with self._reading(enterprise_id) as connection:
            for ids in _chunks(customer_ids):
                rule = bulk.is_in(connection, customers.c.customer_id, ids)
                query = sa.select(customers.c.customer_id, customers.c.owner).where(customers.c.account_id == account_id, rule)
                found |= {row[0]: row[1] for row in await connection.execute(query)}
        return found


def _chunks(ids: Sequence[str]) -> list[list[str]]:
    every = list(dict.fromkeys(ids))
    return [every[at : at + _CHUNK] for at in range(0, len(every), _CHUNK)]

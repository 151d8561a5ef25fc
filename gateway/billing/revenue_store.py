"""What the books say of money that Stripe moved, by Stripe's ids, and the platform's fee income by month: SQL, reads only.

Raises SqlDown. Months are pairs of moments (`from_ms` <= time < `until_ms`) with a name.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.words import LotSource
from gateway.db import bulk
from gateway.db.engines import Databases
from gateway.db.faults import named_faults
from gateway.db.tables import APP_SALES, PLATFORM_SALES, apps, billing_accounts
from gateway.ledger.model import BOOK, DUE_FROM_APP, DUE_TO_PLATFORM, FEE, FEE_INCOME, GRANT, PROCESSING, STRIPE
from gateway.ledger.store import books_of

_CHUNK: Final = 500  # ids of one question
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


class RevenueStore:
    """Stateless."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    # ---- the platform's income -----------------------------------------------------------------

    async def fee_income(self, months: Sequence[Month], user_id: str | None, enterprise_id: str | None) -> list[FeeRow]:
        """By month, creator, app and currency, of one creator or app or all; those in which nothing moved are left out.

        What a fee is due from says whose it is: the account in the platform's book that is the app's.
        """
        books = books_of(None)
        txns, entries, accounts = books["txns"], books["entries"], books["accounts"]
        income, due = accounts.alias("income"), accounts.alias("due")
        theirs = entries.alias("theirs")
        amount = entries.c.amount_micro
        query = (
            sa.select(
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
            .where(txns.c.kind == FEE)
            .group_by(apps.c.user_id, due.c.owner, income.c.asset)
            .order_by(apps.c.user_id, due.c.owner, income.c.asset)
        )
        if user_id is not None:
            query = query.where(apps.c.user_id == user_id)
        if enterprise_id is not None:
            query = query.where(due.c.owner == enterprise_id)
        rows = []
        async with self._reading(None) as connection:
            for month in months:
                within = query.where(txns.c.at >= month.from_ms, txns.c.at < month.until_ms)
                found = await connection.execute(within)
                rows += [FeeRow(month.name, row[0], row[1], row[2], int(row[3]), int(row[4])) for row in found]
        return rows

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
                    sa.select(lots.c.external_ref.label("payment_id"), entries.c.txn_id)
                    .join_from(lots, entries, entries.c.lot_id == lots.c.id)
                    .join(txns, sa.and_(txns.c.id == entries.c.txn_id, txns.c.kind == GRANT))
                    .where(bulk.is_in(connection, lots.c.external_ref, ids), lots.c.source == LotSource.PAID.value)
                    .distinct()
                    .subquery()
                )
                query = (
                    sa.select(
                        granted.c.payment_id,
                        accounts.c.asset,
                        sa.func.sum(sa.case((accounts.c.kind.in_(_PAID), -entries.c.amount_micro), else_=0)),
                        sa.func.sum(sa.case((accounts.c.kind == DUE_TO_PLATFORM, entries.c.amount_micro), else_=0)),
                    )
                    .join_from(granted, entries, entries.c.txn_id == granted.c.txn_id)
                    .join(accounts, accounts.c.id == entries.c.account_id)
                    .where(accounts.c.owner == BOOK, accounts.c.kind.in_((*_PAID, DUE_TO_PLATFORM)))
                    .group_by(granted.c.payment_id, accounts.c.asset)
                )
                for row in await connection.execute(query):
                    found[row[0]] = Booked(enterprise_id, row[1], int(row[2]), int(row[3]))
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

    @asynccontextmanager
    async def _reading(self, enterprise_id: str | None) -> AsyncIterator[AsyncConnection]:
        with named_faults():
            databases = self._databases
            engine = databases.platform if enterprise_id is None else await databases.app(enterprise_id)
            async with engine.connect() as connection:
                yield connection


def _chunks(ids: Sequence[str]) -> list[list[str]]:
    every = list(dict.fromkeys(ids))
    return [every[at : at + _CHUNK] for at in range(0, len(every), _CHUNK)]

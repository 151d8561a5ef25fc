"""What the audit reads: streams of rows and sums over a whole book.

Rows arrive as they are read, so a book of any size takes the same memory.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import sqlalchemy as sa

from gateway.core.words import LotSource
from gateway.db import bulk
from gateway.db.tables import PLATFORM_BOOKS, apps, creators, overruns, usage
from gateway.ledger import store
from gateway.ledger.model import (
    AVAILABLE,
    DEBT,
    DUE_FROM_APP,
    FEE,
    FEE_INCOME,
    FROZEN,
    GRANT,
    OVERAGE,
    REVERSING,
    USAGE,
)
from gateway.ledger.payment_queries import MONEY, PAYING


async def txn_sums(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(txn_id, asset, sum of entries)."""
    entries = books["entries"]
    query = sa.select(entries.c.txn_id, entries.c.asset, sa.func.sum(entries.c.amount_micro))
    async for row in await conn.stream(query.group_by(entries.c.txn_id, entries.c.asset)):
        yield row


async def account_sums(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(id, owner, kind, asset, balance, sum of entries in the account's asset)."""
    table, entries = books["accounts"], books["entries"]
    same = sa.and_(entries.c.account_id == table.c.id, entries.c.asset == table.c.asset)
    total = sa.func.coalesce(sa.func.sum(entries.c.amount_micro), 0)
    query = sa.select(table.c.id, table.c.owner, table.c.kind, table.c.asset, table.c.balance_micro, total)
    async for row in await conn.stream(query.outerjoin(entries, same).group_by(table.c.id)):
        yield row


async def lot_parts(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(id, clawback, granted, spent, expired, refunded, frozen, left)."""
    lots = books["lots"]
    parts = [lots.c[f"{name}_micro"] for name in ("clawback", "granted", "spent", "expired", "refunded", "frozen", "left")]
    async for row in await conn.stream(sa.select(lots.c.id, *parts)):
        yield row


async def lot_sums(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(owner, asset, available balance, sum of what the lots have left) of every wallet, and of an account with lots."""
    table, lots = books["accounts"], books["lots"]
    total = sa.func.coalesce(sa.func.sum(lots.c.left_micro), 0)
    query = sa.select(table.c.owner, table.c.asset, table.c.balance_micro, total)
    query = query.outerjoin(lots, lots.c.account_id == table.c.id).group_by(table.c.id)
    async for row in await conn.stream(query.having(sa.or_(table.c.kind == AVAILABLE, sa.func.count(lots.c.id) > 0))):
        yield row


async def lent_sums(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(owner, asset, balance of its overage, sum of what is left of the lots that were lent) of every owner of such lots."""
    table, lots = books["accounts"], books["lots"]
    lent = table.alias()
    same = sa.and_(lent.c.owner == table.c.owner, lent.c.asset == table.c.asset, lent.c.kind == OVERAGE)
    stands = sa.func.coalesce(sa.func.max(lent.c.balance_micro), 0)
    query = (
        sa.select(table.c.owner, table.c.asset, stands, sa.func.sum(lots.c.left_micro))
        .join(lots, sa.and_(lots.c.account_id == table.c.id, lots.c.source == LotSource.OVERAGE.value))
        .outerjoin(lent, same)
        .where(table.c.kind == AVAILABLE)
        .group_by(table.c.owner, table.c.asset)
    )
    async for row in await conn.stream(query):
        yield row


async def frozen_sums(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(owner, asset, frozen balance, sum of what is frozen of the lots) of every owner that has either."""
    table, lots = books["accounts"], books["lots"]
    frozen = table.alias()
    total = sa.func.coalesce(sa.func.sum(lots.c.frozen_micro), 0)
    same = sa.and_(frozen.c.owner == table.c.owner, frozen.c.asset == table.c.asset, frozen.c.kind == FROZEN)
    query = (
        sa.select(table.c.owner, table.c.asset, sa.func.coalesce(sa.func.max(frozen.c.balance_micro), 0), total)
        .outerjoin(frozen, same)
        .outerjoin(lots, lots.c.account_id == table.c.id)
        .where(table.c.kind == AVAILABLE)
        .group_by(table.c.owner, table.c.asset)
    )
    async for row in await conn.stream(query):
        yield row


async def payments(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(external_ref, lots) of every payment."""
    lots = books["lots"]
    query = sa.select(lots.c.external_ref, sa.func.count()).where(lots.c.external_ref.is_not(None))
    async for row in await conn.stream(query.group_by(lots.c.external_ref)):
        yield row


async def payments_gone(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(external_ref, paid, gone, granted, taken, transactions) of every payment; the first two in what was paid."""
    lots, entries, txns, accounts = (books[name] for name in ("lots", "entries", "txns", "accounts"))
    lines = entries.alias()
    naming = sa.select(entries.c.lot_id, entries.c.txn_id).where(entries.c.lot_id.is_not(None)).distinct().subquery()
    is_grant = txns.c.kind == GRANT
    paid = sa.func.sum(sa.case((is_grant, -lines.c.amount_micro), else_=0))
    gone = sa.func.sum(sa.case((is_grant, 0), else_=lines.c.amount_micro))
    taken = lots.c.refunded_micro + lots.c.clawback_micro
    query = (
        sa.select(lots.c.external_ref, paid, gone, lots.c.granted_micro, taken, sa.func.count(sa.distinct(txns.c.id)))
        .join_from(lots, naming, naming.c.lot_id == lots.c.id)
        .join(txns, sa.and_(txns.c.id == naming.c.txn_id, txns.c.kind.in_(PAYING)))
        .join(lines, lines.c.txn_id == txns.c.id)
        .join(accounts, sa.and_(accounts.c.id == lines.c.account_id, accounts.c.kind.in_(MONEY)))
        .where(lots.c.external_ref.is_not(None))
        .group_by(lots.c.id)
    )
    async for row in await conn.stream(query):
        yield row


async def reversals(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(id, kind, kind of what it reverses, frozen there, frozen here) of every transaction that reverses or should."""
    txns, entries, accounts = books["txns"], books["entries"], books["accounts"]
    other = txns.alias()
    frozen = (
        sa.select(entries.c.txn_id, sa.func.sum(entries.c.amount_micro).label("frozen"))
        .join(accounts, entries.c.account_id == accounts.c.id)
        .where(accounts.c.kind == FROZEN)
        .group_by(entries.c.txn_id)
        .subquery()
    )
    there, here = frozen.alias(), frozen.alias()
    query = (
        sa.select(txns.c.id, txns.c.kind, other.c.kind, sa.func.coalesce(there.c.frozen, 0), sa.func.coalesce(here.c.frozen, 0))
        .select_from(txns)
        .outerjoin(other, other.c.id == txns.c.reverses)
        .outerjoin(there, there.c.txn_id == txns.c.reverses)
        .outerjoin(here, here.c.txn_id == txns.c.id)
        .where(sa.or_(txns.c.reverses.is_not(None), txns.c.kind.in_(REVERSING)))
    )
    async for row in await conn.stream(query):
        yield row


async def times_reversed(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(id, how often it was reversed) of every transaction that was."""
    txns = books["txns"]
    query = sa.select(txns.c.reverses, sa.func.count()).where(txns.c.reverses.is_not(None)).group_by(txns.c.reverses)
    async for row in await conn.stream(query):
        yield row


async def captures(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """Of every usage row of an app: (request_id, level, amount, held, creator's amount and held, transactions, over-runs)."""
    txns = books["txns"]
    theirs, creators_ = overruns.alias(), overruns.alias()
    query = (
        sa.select(
            *(usage.c.request_id, usage.c.level, usage.c.amount_micro, usage.c.held_micro),
            *(usage.c.creator_micro, usage.c.creator_held_micro),
            sa.case((txns.c.id.is_not(None), 1), else_=0),
            theirs.c.request_id.is_not(None),
            creators_.c.request_id.is_not(None),
        )
        .select_from(usage)
        .outerjoin(txns, sa.and_(txns.c.op_id == sa.literal("usage:") + usage.c.request_id, txns.c.kind == USAGE))
        .outerjoin(theirs, sa.and_(theirs.c.request_id == usage.c.request_id, theirs.c.role == "end_user"))
        .outerjoin(creators_, sa.and_(creators_.c.request_id == usage.c.request_id, creators_.c.role == "creator"))
    )
    async for row in await conn.stream(query):
        yield row


async def standing(conn: store.Connection, books: store.Books, kind: str) -> dict[str, int]:
    """What stands on a book's accounts of a kind, by asset."""
    table = books["accounts"]
    query = sa.select(table.c.asset, sa.func.sum(table.c.balance_micro)).where(table.c.kind == kind).group_by(table.c.asset)
    return {row[0]: int(row[1]) for row in await conn.execute(query)}


async def platform_fees(conn: store.Connection) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
    """By app and asset, in the platform's book: (its income from fees, what is due from the app)."""
    txns, entries, table = (PLATFORM_BOOKS[name] for name in ("txns", "entries", "accounts"))
    earned = (
        sa.select(txns.c.reason, entries.c.asset, sa.func.sum(entries.c.amount_micro))
        .join(entries, entries.c.txn_id == txns.c.id)
        .join(table, entries.c.account_id == table.c.id)
        .where(txns.c.kind == FEE, table.c.kind == FEE_INCOME)
        .group_by(txns.c.reason, entries.c.asset)
    )
    due = sa.select(table.c.owner, table.c.asset, table.c.balance_micro).where(table.c.kind == DUE_FROM_APP)
    income = {(row[0], row[1]): int(row[2]) for row in await conn.execute(earned)}
    return income, {(row[0], row[1]): -int(row[2]) for row in await conn.execute(due)}


async def count_of_kind(conn: store.Connection, books: store.Books, kind: str) -> int:
    """How many transactions of a kind a book has."""
    txns = books["txns"]
    return int((await conn.execute(sa.select(sa.func.count()).where(txns.c.kind == kind))).scalar_one())


async def usage_sums(conn: store.Connection) -> tuple[dict[str, int], int]:
    """Of an app's usage rows: what end users were charged by asset, what the creator was charged."""
    charged = sa.func.sum(sa.case((usage.c.level == "app_usage", usage.c.amount_micro), else_=0))
    query = sa.select(usage.c.asset, charged, sa.func.sum(usage.c.creator_micro)).group_by(usage.c.asset)
    rows = (await conn.execute(query)).all()
    return {row[0]: int(row[1]) for row in rows}, sum(int(row[2]) for row in rows)


async def creator_charged(conn: store.Connection, request_ids: Sequence[str]) -> int:
    """What an app's usage rows of those requests charged the creator."""
    rule = bulk.is_in(conn, usage.c.request_id, request_ids)
    return int((await conn.execute(sa.select(sa.func.sum(usage.c.creator_micro)).where(rule))).scalar_one() or 0)


async def request_ids(conn: store.Connection) -> AsyncIterator[Any]:
    """(request_id,) of an app's usage rows."""
    async for row in await conn.stream(sa.select(usage.c.request_id)):
        yield row


async def posted_requests(conn: store.Connection) -> AsyncIterator[Any]:
    """(enterprise_id, op_id) of every request that the platform's book has, app by app."""
    txns = PLATFORM_BOOKS["txns"]
    query = sa.select(txns.c.reason, txns.c.op_id).where(txns.c.kind == USAGE).order_by(txns.c.reason)
    async for row in await conn.stream(query):
        yield row


async def wallets_owed(conn: store.Connection, books: store.Books) -> AsyncIterator[Any]:
    """(owner, available + debt - credits not applied) of every wallet that was opened; a debt is below zero."""
    table, credit = books["accounts"], books["credits"]
    debts = table.alias()
    same = sa.and_(debts.c.owner == table.c.owner, debts.c.asset == table.c.asset, debts.c.kind == DEBT)
    waiting = (
        sa.select(credit.c.account_id, sa.func.sum(credit.c.delta_micro + credit.c.taken_micro).label("delta"))
        .where(credit.c.applied_at.is_(None))
        .group_by(credit.c.account_id)
        .subquery()
    )
    owes = table.c.balance_micro + sa.func.coalesce(debts.c.balance_micro, 0) - sa.func.coalesce(waiting.c.delta, 0)
    query = sa.select(table.c.owner, owes).outerjoin(debts, same).outerjoin(waiting, waiting.c.account_id == table.c.id)
    async for row in await conn.stream(query.where(table.c.kind == AVAILABLE, table.c.opened_at.is_not(None))):
        yield row


async def opened_owners(conn: store.Connection, books: store.Books, owners: Sequence[str]) -> set[str]:
    """Those of the owners whose hot wallet was opened."""
    table = books["accounts"]
    rule = bulk.is_in(conn, table.c.owner, owners)
    query = sa.select(table.c.owner).where(rule, table.c.kind == AVAILABLE, table.c.opened_at.is_not(None))
    return set((await conn.execute(query)).scalars())


async def platform_owners(conn: store.Connection) -> AsyncIterator[Any]:
    """(account id, owner, whether it is a creator, or an app that owes) of the platform's book; then its outbox by wallet."""
    table, credit = PLATFORM_BOOKS["accounts"], PLATFORM_BOOKS["credits"]
    known = creators.c.user_id.is_not(None)
    an_apps = sa.and_(table.c.kind == DUE_FROM_APP, apps.c.enterprise_id.is_not(None))
    query = sa.select(table.c.id, table.c.owner, sa.or_(known, an_apps))
    query = query.outerjoin(creators, creators.c.user_id == table.c.owner).outerjoin(apps, apps.c.enterprise_id == table.c.owner)
    async for row in await conn.stream(query):
        yield row
    named = sa.literal("p/") + creators.c.user_id == credit.c.wallet
    outbox = sa.select(credit.c.txn_id, credit.c.wallet, known).outerjoin(creators, named)
    async for row in await conn.stream(outbox):
        yield row

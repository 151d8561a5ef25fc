"""What the books say of payments: how an exchanged one stands, what a series of allowances granted, what became of lots."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from gateway.core.words import LotSource
from gateway.db import bulk
from gateway.ledger.model import (
    AVAILABLE,
    BREAKAGE,
    CORRECTION,
    DEBT,
    DISPUTE_EXCESS,
    DISPUTE_LOST,
    DISPUTES,
    EXCHANGE,
    EXPIRY,
    GRANT,
    PROCESSING,
    PROMO,
    RECOVERY,
    REFUND,
    REINSTATE,
    ROLLOVER,
    STRIPE,
    Exchanged,
    Lot,
    Txn,
)
from gateway.ledger.recovery import Family, Place
from gateway.ledger.store import LOT_COLUMNS, Books, Connection, naming

PAYING: Final = (GRANT, REFUND, DISPUTE_LOST, REINSTATE, CORRECTION)  # kinds in which money of a payment moves
_MOVING: Final = (GRANT, EXPIRY, ROLLOVER, RECOVERY)  # kinds in which lots are made, and end
MONEY: Final = (STRIPE, PROCESSING, DISPUTES, DISPUTE_EXCESS)  # together: what was paid (below zero), what went back of it
_NEVER_MS: Final = 2**63 - 1
_OF_RENEWAL: Final = 2  # colons in the name of a renewal; what went on again has the name of its renewal, and more


async def exchanged(conn: Connection, books: Books, lot_id: str) -> Exchanged | None:
    """How the payment of a lot stands, where something else was granted than paid."""
    txns, entries, accounts = books["txns"], books["entries"], books["accounts"]
    query = (
        sa.select(txns.c.kind, accounts.c.kind, accounts.c.asset, sa.func.sum(entries.c.amount_micro))
        .join_from(entries, txns, entries.c.txn_id == txns.c.id)
        .join(accounts, entries.c.account_id == accounts.c.id)
        .where(txns.c.id.in_(naming(books, lot_id)), txns.c.kind.in_(PAYING), accounts.c.kind.in_((*MONEY, EXCHANGE, PROMO)))
        .group_by(txns.c.kind, accounts.c.kind, accounts.c.asset)
    )
    rows = [(row[0], row[1], row[2], int(row[3])) for row in await conn.execute(query)]
    if not any(account == EXCHANGE for _, account, _, _ in rows):
        return None
    money = [(kind, asset, amount) for kind, account, asset, amount in rows if account in MONEY]
    paid = -sum(amount for kind, _, amount in money if kind == GRANT)
    gone = sum(amount for kind, _, amount in money if kind != GRANT)
    given = -sum(amount for kind, account, _, amount in rows if (kind, account) == (GRANT, PROMO))
    return Exchanged(money[0][1], paid, gone, given)


async def lots_of_series(conn: Connection, books: Books, owner: str, series: str) -> list[tuple[int, Lot]]:
    """(start of its period, lot) of every lot with something left that allowances of a series made, or their roll-over."""
    lots, accounts, entries, txns = (books[name] for name in ("lots", "accounts", "entries", "txns"))
    made = sa.or_(*[txns.c.op_id.startswith(f"{kind}:{series}:", autoescape=True) for kind in ("allowance", "rollover")])
    query = (
        sa.select(txns.c.op_id, *[lots.c[name] for name in LOT_COLUMNS])
        .join_from(lots, accounts, lots.c.account_id == accounts.c.id)
        .join(entries, _of_lot(entries, lots))
        .join(txns, sa.and_(entries.c.txn_id == txns.c.id, txns.c.kind.in_((GRANT, ROLLOVER)), made))
        .where(accounts.c.owner == owner, lots.c.left_micro > 0, entries.c.amount_micro > 0)
        .order_by(lots.c.id)
    )
    return [(int(row[0].split(":")[2]), Lot(*row[1:])) for row in await conn.execute(query)]


async def allowances(conn: Connection, books: Books, series: str) -> list[str]:
    """`op_id` of every grant of a series."""
    query = sa.select(books["txns"].c.op_id).where(_named(conn, books, f"allowance:{series}:"))
    return list((await conn.execute(query)).scalars())


async def granted_until(conn: Connection, books: Books, series: str, ends_at_ms: int) -> int:
    """The sum of a series' grants for the period that ends then; see `payments.allowance_op`."""
    lots, entries, txns = (books[name] for name in ("lots", "entries", "txns"))
    of_series = _named(conn, books, f"allowance:{series}:")
    of_period = txns.c.op_id.contains(f":{ends_at_ms:015d}:", autoescape=True)
    made = (
        sa.select(entries.c.lot_id)
        .join(txns, entries.c.txn_id == txns.c.id)
        .where(txns.c.kind == GRANT, of_series, of_period, entries.c.lot_id.is_not(None))
    )
    granted = sa.select(sa.func.sum(lots.c.granted_micro)).where(lots.c.id.in_(made))
    return int(await conn.scalar(granted) or 0)


async def paid_allowances(conn: Connection, books: Books, owners: Sequence[str]) -> dict[tuple[str, int], int]:
    """What money paid for, and has not gone back to its payer, of all allowances of some owners, by (series, end)."""
    lots, accounts, entries, txns = (books[name] for name in ("lots", "accounts", "entries", "txns"))
    stays = lots.c.granted_micro - lots.c.refunded_micro - lots.c.clawback_micro - lots.c.frozen_micro
    query = (
        sa.select(txns.c.op_id, stays)
        .distinct()  # each has one lot, which several entries may name
        .join_from(lots, accounts, lots.c.account_id == accounts.c.id)
        .join(entries, _of_lot(entries, lots))
        .join(txns, sa.and_(entries.c.txn_id == txns.c.id, txns.c.kind == GRANT))
        .where(bulk.is_in(conn, accounts.c.owner, owners), accounts.c.kind == AVAILABLE)
        .where(lots.c.source == LotSource.PAID.value, txns.c.op_id.startswith("allowance:"))
    )
    found: dict[tuple[str, int], int] = {}
    for op_id, amount in await conn.execute(query):
        _, series, _, end, _ = op_id.split(":", 4)
        found[series, int(end)] = found.get((series, int(end)), 0) + int(amount)
    return found


async def left_of_lent(conn: Connection, books: Books, owner: str, asset: str) -> int:
    """What is left of what was lent to a wallet."""
    lots, accounts = books["lots"], books["accounts"]
    query = (
        sa.select(sa.func.sum(lots.c.left_micro))
        .join_from(lots, accounts, lots.c.account_id == accounts.c.id)
        .where(accounts.c.owner == owner, accounts.c.kind == AVAILABLE, accounts.c.asset == asset)
        .where(lots.c.source == LotSource.OVERAGE.value, lots.c.left_micro > 0)
    )
    return int(await conn.scalar(query) or 0)


async def family(conn: Connection, books: Books, owner: str, asset: str) -> Family:
    """A wallet's lots, and what became of those that ended."""
    lots, accounts, entries, txns = (books[name] for name in ("lots", "accounts", "entries", "txns"))
    theirs = (
        sa.select(*[lots.c[name] for name in LOT_COLUMNS])
        .join_from(lots, accounts, lots.c.account_id == accounts.c.id)
        .where(accounts.c.owner == owner, accounts.c.asset == asset, accounts.c.kind == AVAILABLE)
        .order_by(lots.c.created_at, lots.c.id)
    )
    found = {row[0]: Lot(*row) for row in await conn.execute(theirs)}
    mine, whose, undone = entries.alias(), accounts.alias(), txns.alias()
    of_owner = (
        sa.select(mine.c.txn_id)
        .join(whose, mine.c.account_id == whose.c.id)
        .where(whose.c.owner == owner, whose.c.kind == AVAILABLE, whose.c.asset == asset, mine.c.lot_id.is_not(None))
    )
    moves = (
        sa.select(txns.c.op_id, txns.c.kind, accounts.c.kind, entries.c.lot_id, entries.c.amount_micro)
        .join_from(txns, entries, entries.c.txn_id == txns.c.id)
        .join(accounts, entries.c.account_id == accounts.c.id)
        .where(txns.c.id.in_(of_owner), txns.c.kind.in_(_MOVING), entries.c.lot_id.is_not(None))
        .where(~sa.exists().where(undone.c.reverses == txns.c.id))
    )
    expired: dict[str, int] = {}
    gave: dict[str, str] = {}
    made: dict[str, str] = {}
    for op_id, kind, account, lot_id, amount in await conn.execute(moves):
        if kind in (GRANT, ROLLOVER) and amount > 0:
            made[lot_id] = op_id
        elif kind == ROLLOVER:
            gave[op_id] = lot_id
        elif kind == EXPIRY:
            expired[lot_id] = expired.get(lot_id, 0) - amount
        elif account in (BREAKAGE, PROMO):  # what was taken back of an expiry (below zero), or has expired again
            expired[lot_id] = expired.get(lot_id, 0) + amount
    periods = {name: period for name in found if (period := _period(made.get(name, ""))) is not None}
    renewals = await _renewals(conn, books, {series for series, _ in periods.values()})
    onward: dict[str, list[str]] = {}
    for name in found:  # the oldest first
        if name not in periods and made.get(name) in gave:
            onward.setdefault(gave[made[name]], []).append(name)
    places = {name: _place(found[name], *period, renewals) for name, period in periods.items()}
    left = {name: max(min(amount, found[name].expired_micro), 0) for name, amount in expired.items()}
    return Family(found, left, onward, places)


async def clawed_back_since(
    conn: Connection, books: Books, owner: str, txn_id: str, without: Sequence[Txn]
) -> list[tuple[str, int]]:
    """(lot, what refunds and lost disputes of it made its owner's debt after a transaction), but for some, and those undone."""
    entries, accounts, txns = books["entries"], books["accounts"], books["txns"]
    mine, undone = txns.alias(), txns.alias()
    last = sa.select(sa.func.max(entries.c.id)).where(entries.c.txn_id == txn_id).scalar_subquery()
    query = (
        sa.select(entries.c.lot_id, sa.func.sum(-entries.c.amount_micro))
        .join(accounts, entries.c.account_id == accounts.c.id)
        .join(mine, entries.c.txn_id == mine.c.id)
        .where(mine.c.kind.in_((REFUND, DISPUTE_LOST)), entries.c.id > last, entries.c.amount_micro < 0)
        .where(accounts.c.owner == owner, accounts.c.kind == DEBT, entries.c.lot_id.is_not(None))
        .where( entries.c.txn_id.not_in([each.id for each in without]))
        .where(~sa.exists().where(undone.c.reverses == entries.c.txn_id))
        .group_by(entries.c.lot_id)
        .order_by(sa.func.min(entries.c.id))
    )
    return [(lot_id, int(amount)) for lot_id, amount in await conn.execute(query)]


async def _renewals(conn: Connection, books: Books, series: set[str]) -> list[tuple[str, int, int]]:
    """(series, start of the period that it began, when it was posted) of every renewal; also of one that moved nothing."""
    txns, named = books["txns"], []
    for name in sorted(series):
        query = sa.select(txns.c.op_id, txns.c.at).where(txns.c.kind == ROLLOVER, _named(conn, books, f"rollover:{name}:"))
        named += [(op_id, _period(op_id), at) for op_id, at in await conn.execute(query)]
    return [(*period, at) for op_id, period, at in named if period is not None and op_id.count(":") == _OF_RENEWAL]


def _place(lot: Lot, series: str, starts_at_ms: int, renewals: list[tuple[str, int, int]]) -> Place:
    """Where a lot stands that was made for a period of a series."""
    later = [
        (start, at) for name, start, at in renewals if name == series and start > starts_at_ms and at >= lot.created_at_ms
    ]
    renewed_at_ms, ended_at_ms = min(later, default=(_NEVER_MS, _NEVER_MS))
    # One of which nothing was left is not told by the renewal when it ended.
    return Place(series, renewed_at_ms, min(_NEVER_MS if lot.expires_at_ms is None else lot.expires_at_ms, ended_at_ms))


def _period(op_id: str) -> tuple[str, int] | None:
    """(series, start of its period) of what an allowance or a renewal made; None for any other operation."""
    kind, _, rest = op_id.partition(":")
    series, _, rest = rest.partition(":")
    start = rest.split(":")[0]
    return (series, int(start)) if kind in ("allowance", "rollover") and start.isdecimal() else None


async def granted_as(conn: Connection, books: Books, external_ref: str) -> str | None:
    """`op_id` of the grant of a payment."""
    lots, entries, txns = (books[name] for name in ("lots", "entries", "txns"))
    query = (
        sa.select(txns.c.op_id)
        .join_from(lots, entries, _of_lot(entries, lots))
        .join(txns, entries.c.txn_id == txns.c.id)
        .where(lots.c.external_ref == external_ref, txns.c.kind == GRANT)
    )
    op_id: str | None = await conn.scalar(query.limit(1))
    return op_id


async def made_by(conn: Connection, books: Books, lot_id: str) -> str | None:
    """`op_id` of the roll-over that made a lot."""
    lots, entries, txns = (books[name] for name in ("lots", "entries", "txns"))
    query = (
        sa.select(txns.c.op_id)
        .join_from(lots, entries, _of_lot(entries, lots))
        .join(txns, entries.c.txn_id == txns.c.id)
        .where(lots.c.id == lot_id, txns.c.kind == ROLLOVER, entries.c.amount_micro > 0)
    )
    op_id: str | None = await conn.scalar(query)
    return op_id


async def refunded(conn: Connection, books: Books, payment_refs: Sequence[str]) -> dict[str, int]:
    """What refunds gave back of payments, in what was paid: of those of which something went, without refunds that failed."""
    lots, entries, txns, accounts = (books[name] for name in ("lots", "entries", "txns", "accounts"))
    undone, naming, money = txns.alias(), entries.alias(), entries.alias()
    whose, of_owner = accounts.alias(), accounts.alias()
    theirs = (
        sa.select(lots.c.external_ref, txns.c.id)
        .distinct()  # one that leaves a debt names its lot twice
        .join_from(lots, whose, lots.c.account_id == whose.c.id)
        .join(of_owner, of_owner.c.owner == whose.c.owner)
        .join(naming, sa.and_(naming.c.account_id == of_owner.c.id, naming.c.lot_id == lots.c.id))
        .join(txns, sa.and_(naming.c.txn_id == txns.c.id, txns.c.kind == REFUND))
        .where(bulk.is_in(conn, lots.c.external_ref, list(payment_refs)), lots.c.refunded_micro + lots.c.clawback_micro > 0)
        .where(~sa.exists().where(undone.c.reverses == txns.c.id))
    ).subquery()
    query = (
        sa.select(theirs.c.external_ref, sa.func.sum(money.c.amount_micro))
        .join_from(theirs, money, money.c.txn_id == theirs.c.id)
        .join(accounts, sa.and_(money.c.account_id == accounts.c.id, accounts.c.kind == STRIPE))
        .group_by(theirs.c.external_ref)
    )
    return {row[0]: int(row[1]) for row in await conn.execute(query)}


def _of_lot(entries: sa.Table, lots: sa.Table) -> sa.ColumnElement[bool]:
    """The entries of a lot on its own account, which has an index where lots have none: usage would pay for one."""
    return sa.and_(entries.c.account_id == lots.c.account_id, entries.c.lot_id == lots.c.id)


def _named(conn: Connection, books: Books, prefix: str) -> sa.ColumnElement[bool]:
    """Transactions of money whose names begin with a prefix, as their index has them (`ix_txns_named`)."""
    return sa.and_(bulk.begins(conn, books["txns"].c.op_id, prefix), sa.text("txns.kind <> 'usage'"))

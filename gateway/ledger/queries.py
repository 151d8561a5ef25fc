"""Reading the books and the usage rows. Every list is paged, newest first unless said otherwise.

Cursors are opaque to callers: InvalidRequest for one that no page gave out.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from gateway.core.errors import InvalidRequest
from gateway.core.limits import PAGE_ROWS_MAX
from gateway.core.units import Usage
from gateway.db import bulk
from gateway.db.engines import Databases
from gateway.db.tables import usage
from gateway.ledger import store
from gateway.ledger.journal import burn_order
from gateway.ledger.model import (
    AVAILABLE,
    DEBT,
    Account,
    AccountKey,
    Credit,
    Entry,
    Lot,
    Page,
    Txn,
    UsageFilter,
    UsageRow,
    UsageTotal,
    WalletKey,
    WalletView,
)

GROUPS_MAX: Final = 10_000  # rows of one `usage_totals`
_DAY_MS: Final = 86_400_000
ENDED_SHOWN_MS: Final = 30 * _DAY_MS  # how long a wallet shows what became of a lot that ended
_HOUR_MS: Final = 3_600_000
_TEXTS: Final = ("platform_user_id", "level", "key_id", "model", "workflow_type", "session_id", "agent_name")
GROUPS: Final = ("day", "hour", *_TEXTS)
_SUMS: Final = ("input_tokens", "output_tokens", "amount_micro", "creator_micro", "provider_cost_micro")


async def wallet_view(conn: store.Connection, wallet: WalletKey, asset: str) -> WalletView:
    """A wallet with its open lots; empty when it has no account."""
    books = store.books_of(wallet.enterprise_id)
    available, debt, waiting, *_ = await store.owed(conn, wallet, asset)
    lots = (await store.open_lots(conn, books, [wallet.owner])).get(AccountKey(wallet.owner, AVAILABLE, asset), [])
    return WalletView(asset, available, -debt, waiting, tuple(sorted(lots, key=burn_order)))


async def debts(conn: store.Connection, enterprise_id: str | None, owners: Sequence[str], asset: str) -> dict[str, int]:
    """Owners who are in debt, and by how much."""
    of = store.books_of(enterprise_id)["accounts"].c
    theirs = sa.and_(bulk.is_in(conn, of.owner, owners), of.kind == DEBT, of.asset == asset, of.balance_micro < 0)
    return {owner: -int(balance) for owner, balance in await conn.execute(sa.select(of.owner, of.balance_micro).where(theirs))}


async def settled(conn: store.Connection, wallet: WalletKey, asset: str, now_ms: int) -> int:
    """What a wallet has, less its debt and the credits that are not due yet; what is held counts as its own."""
    books = store.books_of(wallet.enterprise_id)
    accounts, credit = books["accounts"], books["credits"]
    available, debt, *_ = await store.owed(conn, wallet, asset)
    later = (
        sa.select(sa.func.sum(credit.c.delta_micro + credit.c.taken_micro))
        .join(accounts, credit.c.account_id == accounts.c.id)
        .where(accounts.c.owner == wallet.owner, accounts.c.asset == asset)
        .where(credit.c.applied_at.is_(None), credit.c.due_at > now_ms)
    )
    return available + debt - int(await conn.scalar(later) or 0)


async def lots_shown(databases: Databases, wallet: WalletKey, asset: str, now_ms: int) -> tuple[Lot, ...]:
    """What people see of a wallet's lots: with something left or frozen, in the order in which they burn; then those whose
    time passed within ENDED_SHOWN_MS, the latest first.
    """
    books = store.books_of(wallet.enterprise_id)
    lots, accounts = books["lots"], books["accounts"]
    ended = sa.and_(lots.c.expires_at <= now_ms, lots.c.expires_at > now_ms - ENDED_SHOWN_MS)
    query = (
        sa.select(*[lots.c[name] for name in store.LOT_COLUMNS])
        .join_from(lots, accounts, lots.c.account_id == accounts.c.id)
        .where(accounts.c.owner == wallet.owner, accounts.c.kind == AVAILABLE, accounts.c.asset == asset)
        .where(sa.or_(lots.c.left_micro > 0, lots.c.frozen_micro > 0, ended))
    )
    async with store.reading(await _engine(databases, wallet.enterprise_id)) as conn:
        found = [Lot(*row) for row in await conn.execute(query)]
    standing = sorted((lot for lot in found if lot.left_micro or lot.frozen_micro), key=burn_order)
    gone = sorted((lot for lot in found if not (lot.left_micro or lot.frozen_micro)), key=lambda lot: -(lot.expires_at_ms or 0))
    return (*standing, *gone)


async def waiting_credits(conn: store.Connection, enterprise_id: str | None, now_ms: int, limit: int) -> list[Credit]:
    """Credits that are due and not marked applied, oldest first."""
    credit = store.books_of(enterprise_id)["credits"]
    query = (
        sa.select(credit.c.txn_id, credit.c.shard, credit.c.wallet, credit.c.delta_micro + credit.c.taken_micro, credit.c.due_at)
        .where(credit.c.applied_at.is_(None), credit.c.due_at <= now_ms)
        .order_by(credit.c.due_at, credit.c.txn_id)
        .limit(limit)
    )
    return [Credit(row[0], enterprise_id, row[1], row[2], row[3], row[4]) for row in await conn.execute(query)]


async def transactions(
    databases: Databases,
    enterprise_id: str | None = None,
    *,
    owner: str | None = None,
    kind: str | None = None,
    limit: int = PAGE_ROWS_MAX,
    cursor: str | None = None,
) -> Page[Txn]:
    """Transactions with their entries, of the platform's book (None) or an app's; `owner`: those that touch their accounts."""
    books = store.books_of(enterprise_id)
    txns, entries, accounts = books["txns"], books["entries"], books["accounts"]
    query = sa.select(txns).order_by(txns.c.id.desc()).limit(_rows(limit) + 1)
    if cursor is not None:
        query = query.where(txns.c.id < cursor)
    if kind is not None:
        query = query.where(txns.c.kind == kind)
    if owner is not None:
        theirs = sa.select(entries.c.txn_id).join(accounts, entries.c.account_id == accounts.c.id)
        query = query.where(txns.c.id.in_(theirs.where(accounts.c.owner == owner)))
    async with store.reading(await _engine(databases, enterprise_id)) as conn:
        found = (await conn.execute(query)).mappings().all()
        shown = found[:limit]
        lines = (
            sa.select(
                entries.c.txn_id, accounts.c.owner, accounts.c.kind, accounts.c.asset, entries.c.amount_micro, entries.c.lot_id
            )
            .join(accounts, entries.c.account_id == accounts.c.id)
            .where(bulk.is_in(conn, entries.c.txn_id, [row["id"] for row in shown]))
            .order_by(entries.c.id)
        )
        by_txn: dict[str, list[Entry]] = {}
        for txn_id, who, what, asset, amount, lot_id in await conn.execute(lines):
            by_txn.setdefault(txn_id, []).append(Entry(AccountKey(who, what, asset), amount, lot_id))
    rows = tuple(
        Txn(
            id=row["id"],
            op_id=row["op_id"],
            kind=row["kind"],
            actor=row["actor"],
            reason=row["reason"],
            at_ms=row["at"],
            entries=tuple(by_txn.get(row["id"], ())),
            fingerprint=row["fingerprint"],
            reverses=row["reverses"],
        )
        for row in shown
    )
    return Page(rows, rows[-1].id if len(found) > limit else None)


async def accounts(
    databases: Databases,
    enterprise_id: str | None = None,
    *,
    owner: str | None = None,
    kind: str | None = None,
    limit: int = PAGE_ROWS_MAX,
    cursor: str | None = None,
) -> Page[Account]:
    """Accounts with their balances, of the platform's book (None) or an app's, oldest first."""
    table = store.books_of(enterprise_id)["accounts"]
    query = sa.select(table).order_by(table.c.id).limit(_rows(limit) + 1)
    if cursor is not None:
        query = query.where(table.c.id > _number(cursor))
    if owner is not None:
        query = query.where(table.c.owner == owner)
    if kind is not None:
        query = query.where(table.c.kind == kind)
    async with store.reading(await _engine(databases, enterprise_id)) as conn:
        found = (await conn.execute(query)).all()
    rows = tuple(Account(row.id, row.owner, row.kind, row.asset, row.balance_micro, row.opened_at) for row in found[:limit])
    return Page(rows, str(rows[-1].id) if len(found) > limit else None)


async def usage_rows(
    databases: Databases,
    enterprise_id: str,
    wanted: UsageFilter | None = None,
    *,
    limit: int = PAGE_ROWS_MAX,
    cursor: str | None = None,
) -> Page[UsageRow]:
    """Usage rows of an app, the latest request first."""
    query = sa.select(usage).where(*_matches(wanted or UsageFilter()))
    query = query.order_by(usage.c.at.desc(), usage.c.request_id.desc()).limit(_rows(limit) + 1)
    if cursor is not None:
        at_text, _, request_id = cursor.partition(".")
        at = _number(at_text)
        query = query.where(sa.or_(usage.c.at < at, sa.and_(usage.c.at == at, usage.c.request_id < request_id)))
    async with store.reading(await databases.app(enterprise_id)) as conn:
        found = (await conn.execute(query)).all()
    rows = tuple(_usage_row(row) for row in found[:limit])
    return Page(rows, f"{rows[-1].at}.{rows[-1].request_id}" if len(found) > limit else None)


async def usage_by_id(databases: Databases, enterprise_id: str, request_id: str) -> UsageRow | None:
    """One request of an app; None when it is not in the books (yet)."""
    async with store.reading(await databases.app(enterprise_id)) as conn:
        row = (await conn.execute(sa.select(usage).where(usage.c.request_id == request_id))).first()
    return None if row is None else _usage_row(row)


async def usage_totals(
    databases: Databases, enterprise_id: str, group_by: Sequence[str] = (), wanted: UsageFilter | None = None
) -> list[UsageTotal]:
    """Sums of an app's usage by any of GROUPS, and always by asset, in order of the groups.

    InvalidRequest for another name, or when there are more than GROUPS_MAX groups.
    """
    unknown = [name for name in group_by if name not in GROUPS]
    if unknown:
        raise InvalidRequest(f"cannot group by {unknown[0]!r}: one of {', '.join(GROUPS)}", param="group_by")
    names = list(dict.fromkeys(group_by))
    keys = [_group(name).label(f"group_{name}") for name in names]
    # By place: an expression with parameters in GROUP BY is not the one in the select list to Postgres.
    places: list[sa.ColumnElement[int]] = [sa.literal_column(str(at)) for at in range(1, len(keys) + 2)]
    sums = [sa.func.sum(usage.c[name]) for name in _SUMS]
    query = sa.select(*keys, usage.c.asset, sa.func.count(), *sums).where(*_matches(wanted or UsageFilter()))
    query = query.group_by(*places).order_by(*places).limit(GROUPS_MAX + 1)
    async with store.reading(await databases.app(enterprise_id)) as conn:
        found = (await conn.execute(query)).all()
    if len(found) > GROUPS_MAX:
        raise InvalidRequest(f"more than {GROUPS_MAX} groups: ask for less time or fewer groups", param="group_by")
    cut = len(names)
    return [
        UsageTotal(tuple(zip(names, row[:cut], strict=True)), row[cut], *[int(value) for value in row[cut + 1 :]])
        for row in found
    ]


async def _engine(databases: Databases, enterprise_id: str | None) -> store.Engine:
    return databases.platform if enterprise_id is None else await databases.app(enterprise_id)


def _group(name: str) -> sa.ColumnElement[Any]:
    if name == "day":
        return usage.c.at - usage.c.at % sa.literal_column(str(_DAY_MS))
    if name == "hour":
        return usage.c.at - usage.c.at % sa.literal_column(str(_HOUR_MS))
    return usage.c[name]


def _matches(wanted: UsageFilter) -> list[sa.ColumnElement[bool]]:
    rules = [usage.c[name] == value for name in _TEXTS if (value := getattr(wanted, name)) is not None]
    if wanted.from_ms is not None:
        rules.append(usage.c.at >= wanted.from_ms)
    if wanted.to_ms is not None:
        rules.append(usage.c.at < wanted.to_ms)
    return rules


def _usage_row(row: Any) -> UsageRow:
    values = dict(row._mapping)
    values["tags"] = tuple(values["tags"])
    values["flags"] = tuple(values["flags"])
    values["units"] = msgspec.convert(values["units"], Usage)
    values["streamed"] = bool(values["streamed"])
    return UsageRow(**values)


def _rows(limit: int) -> int:
    if not 1 <= limit <= PAGE_ROWS_MAX:
        raise InvalidRequest(f"limit must be from 1 to {PAGE_ROWS_MAX}", param="limit")
    return limit


def _number(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise InvalidRequest("unknown cursor", param="cursor")
    return int(cursor)

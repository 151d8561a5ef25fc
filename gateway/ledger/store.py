"""The books in SQL, on a connection of either kind of book. Callers hold the transaction.

One writer a book at a time: `writing` takes SQLite's write lock, or one advisory lock of the Postgres
database. Every posting touches the book's shared accounts (revenue, cost), so writers would queue for
those rows anyway; taking their turn at the door instead leaves no deadlock and no lost update to reason
about, and what was read inside stays true until the commit.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.core.words import CostPolicy
from gateway.db import bulk
from gateway.db.faults import named_faults
from gateway.db.tables import (
    APP_BOOKS,
    PLATFORM_BOOKS,
    apps,
    creators,
    dead_event_bytes,
    dead_events,
    overruns,
    usage,
    usage_hours,
)
from gateway.ledger.model import (
    AVAILABLE,
    DEBT,
    USAGE,
    AccountKey,
    AppFacts,
    Credit,
    DeadEvent,
    Entry,
    Lot,
    Txn,
    UsagePosting,
    UsageRow,
    WalletKey,
)

_BOOK_LOCK: Final = 0x6D7A6B_03
_SKIP: Final = "ON CONFLICT DO NOTHING"
_HOUR_MS: Final = 3_600_000
_encode = msgspec.json.Encoder().encode

LOT_COLUMNS: Final = (  # in the order of model.Lot
    *("id", "source", "priority", "effective_at", "expires_at", "created_at", "granted_micro", "spent_micro", "left_micro"),
    *("expired_micro", "refunded_micro", "frozen_micro", "external_ref", "clawback_micro", "expiring"),
)
_LOT_PARTS: Final = ("spent", "left", "expired", "refunded", "frozen", "clawback")
_TXN_COLUMNS: Final = ("id", "op_id", "kind", "actor", "reason", "reverses", "fingerprint", "at")
_ENTRY_COLUMNS: Final = ("txn_id", "account_id", "lot_id", "asset", "amount_micro")
_CREDIT_COLUMNS: Final = ("txn_id", "account_id", "shard", "wallet", "delta_micro", "taken_micro", "due_at", "applied_at")
USAGE_COLUMNS: Final = tuple(UsageRow.__struct_fields__)
_HOUR_KEYS: Final = ("hour", "enterprise_id", "level", "model", "provider", "workflow_type", "asset")
_HOUR_SUMS: Final = ("requests", "input_tokens", "output_tokens", "end_user_micro", "creator_micro", "provider_cost_micro")
_DEAD_KEY: Final = ("shard", "entry_id", "digest", "at", "reason")

Books = Mapping[str, sa.Table]
Connection = AsyncConnection  # for rules that pass one on without speaking SQL
Engine = AsyncEngine


def books_of(enterprise_id: str | None) -> Books:
    """The tables of the platform's book (None) or of an app's."""
    return PLATFORM_BOOKS if enterprise_id is None else APP_BOOKS


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A transaction that changes a book; committed at the end of the block. SqlDown or SqlRefused when it cannot be."""
    with named_faults():
        async with engine.begin() as conn:
            if conn.dialect.name == "postgresql":
                await conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_BOOK_LOCK})")
            yield conn


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A connection on which every statement sees the same state of the database. SqlDown when there is none."""
    with named_faults():
        async with engine.connect() as conn:
            if conn.dialect.name == "postgresql":
                await conn.execution_options(isolation_level="REPEATABLE READ")
            yield conn


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A connection to read from. SqlDown when there is none."""
    with named_faults():
        async with engine.connect() as conn:
            yield conn


async def app_facts(conn: Connection, enterprise_ids: Sequence[str]) -> dict[str, AppFacts]:
    """Those of the apps that exist."""
    rule = bulk.is_in(conn, apps.c.enterprise_id, enterprise_ids)
    query = sa.select(apps.c.enterprise_id, apps.c.user_id, apps.c.asset, apps.c.cost_policy).where(rule)
    return {row[0]: AppFacts(*row[:3], row[3] == CostPolicy.PLATFORM_PAYS) for row in await conn.execute(query)}


async def creator_exists(conn: Connection, user_id: str) -> bool:
    """True for a creator of the platform."""
    return (await conn.execute(sa.select(creators.c.user_id).where(creators.c.user_id == user_id))).first() is not None


async def known_ops(conn: Connection, books: Books, op_ids: Sequence[str]) -> set[str]:
    """Those of the operations that the book has."""
    column = books["txns"].c.op_id
    return set((await conn.execute(sa.select(column).where(bulk.is_in(conn, column, op_ids)))).scalars())


async def known_requests(conn: Connection, request_ids: Sequence[str]) -> set[str]:
    """Those of the requests that the app's usage table has."""
    column = usage.c.request_id
    return set((await conn.execute(sa.select(column).where(bulk.is_in(conn, column, request_ids)))).scalars())


async def txn_of_op(conn: Connection, books: Books, op_id: str) -> tuple[str, str | None] | None:
    """(id, fingerprint) of an operation's transaction."""
    txns = books["txns"]
    row = (await conn.execute(sa.select(txns.c.id, txns.c.fingerprint).where(txns.c.op_id == op_id))).first()
    return None if row is None else (row[0], row[1])


async def balances(conn: Connection, books: Books, owner: str, asset: str) -> dict[str, int]:
    """Balance by kind of an owner's accounts in one asset."""
    accounts = books["accounts"]
    query = sa.select(accounts.c.kind, accounts.c.balance_micro).where(accounts.c.owner == owner, accounts.c.asset == asset)
    return {row[0]: row[1] for row in await conn.execute(query)}


async def open_lots(conn: Connection, books: Books, owners: Sequence[str]) -> dict[AccountKey, list[Lot]]:
    """Lots with something left, by their wallets' accounts."""
    lots, accounts = books["lots"], books["accounts"]
    query = (
        sa.select(accounts.c.owner, accounts.c.asset, *[lots.c[name] for name in LOT_COLUMNS])
        .join_from(lots, accounts, lots.c.account_id == accounts.c.id)
        .where(bulk.is_in(conn, accounts.c.owner, owners), accounts.c.kind == AVAILABLE, lots.c.left_micro > 0)
    )
    found: dict[AccountKey, list[Lot]] = {}
    for owner, asset, *values in await conn.execute(query):
        found.setdefault(AccountKey(owner, AVAILABLE, asset), []).append(Lot(*values))
    return found


async def lot_of_txn(conn: Connection, books: Books, txn_id: str) -> Lot:
    """The lot that a grant made."""
    lots, entries = books["lots"], books["entries"]
    ids = sa.select(entries.c.lot_id).where(entries.c.txn_id == txn_id, entries.c.lot_id.is_not(None))
    row = (await conn.execute(sa.select(*[lots.c[name] for name in LOT_COLUMNS]).where(lots.c.id.in_(ids)))).one()
    return Lot(*row)


async def lots_of(conn: Connection, books: Books, lot_ids: Sequence[str]) -> dict[str, tuple[Lot, AccountKey]]:
    """Lots by their ids, each with the account it lies in."""
    return await _lots_where(conn, books, bulk.is_in(conn, books["lots"].c.id, lot_ids))


async def lot_of_payment(conn: Connection, books: Books, external_ref: str) -> tuple[Lot, AccountKey] | None:
    """The lot that a payment made, with the account it lies in."""
    found = await _lots_where(conn, books, books["lots"].c.external_ref == external_ref)
    return next(iter(found.values()), None)


async def _lots_where(conn: Connection, books: Books, rule: sa.ColumnElement[bool]) -> dict[str, tuple[Lot, AccountKey]]:
    lots, accounts = books["lots"], books["accounts"]
    query = (
        sa.select(accounts.c.owner, accounts.c.asset, *[lots.c[name] for name in LOT_COLUMNS])
        .join_from(lots, accounts, lots.c.account_id == accounts.c.id)
        .where(rule)
    )
    return {row[2]: (Lot(*row[2:]), AccountKey(row[0], AVAILABLE, row[1])) for row in await conn.execute(query)}


async def lots_to_expire(conn: Connection, books: Books, now_ms: int, after: str, limit: int) -> list[tuple[Lot, str]]:
    """Lots past their expiry with something left, or an expiry on its way, and their owners; by id, beyond `after`."""
    lots, accounts = books["lots"], books["accounts"]
    query = (
        sa.select(accounts.c.owner, *[lots.c[name] for name in LOT_COLUMNS])
        .join_from(lots, accounts, lots.c.account_id == accounts.c.id)
        # The second rule is, word for word, that of the index.
        .where(lots.c.expires_at <= now_ms, sa.text("(left_micro > 0 OR expiring IS NOT NULL)"), lots.c.id > after)
        .order_by(lots.c.id)
        .limit(limit)
    )
    return [(Lot(*row[1:]), row[0]) for row in await conn.execute(query)]


async def next_expiry(conn: Connection, books: Books, now_ms: int) -> int | None:
    """When the next lot ends that has something left."""
    lots = books["lots"]
    rule = sa.text("(left_micro > 0 OR expiring IS NOT NULL)")  # word for word that of the index
    ends: int | None = await conn.scalar(sa.select(sa.func.min(lots.c.expires_at)).where(lots.c.expires_at > now_ms, rule))
    return ends


async def end_lot(conn: Connection, books: Books, lot_id: str, at_ms: int) -> None:
    """A lot's time passes then, if it does not pass earlier."""
    lots = books["lots"]
    later = sa.or_(lots.c.expires_at.is_(None), lots.c.expires_at > at_ms)
    await conn.execute(sa.update(lots).where(lots.c.id == lot_id, later).values(expires_at=at_ms))


async def begin_expiry(conn: Connection, books: Books, lot_id: str, txn_id: str) -> None:
    """Say which transaction a lot's expiry will be; one that was said before stays."""
    lots = books["lots"]
    await conn.execute(sa.update(lots).where(lots.c.id == lot_id, lots.c.expiring.is_(None)).values(expiring=txn_id))


async def save_lots(conn: Connection, books: Books, changed: Sequence[Lot]) -> None:
    """Lots as they are after a transaction; the caller has read them under the same lock."""
    lots = books["lots"]
    for lot in changed:
        parts = {f"{name}_micro": getattr(lot, f"{name}_micro") for name in _LOT_PARTS}
        values = {**parts, "expiring": lot.expiring, "expires_at": lot.expires_at_ms}
        await conn.execute(sa.update(lots).where(lots.c.id == lot.id).values(**values))


async def txn_by_id(conn: Connection, books: Books, txn_id: str) -> Txn | None:
    """A transaction with its entries, in the order in which they were written."""
    txns, entries, accounts = books["txns"], books["entries"], books["accounts"]
    row = (await conn.execute(sa.select(*[txns.c[name] for name in _TXN_COLUMNS]).where(txns.c.id == txn_id))).first()
    if row is None:
        return None
    lines = (
        sa.select(accounts.c.owner, accounts.c.kind, accounts.c.asset, entries.c.amount_micro, entries.c.lot_id)
        .join(accounts, entries.c.account_id == accounts.c.id)
        .where(entries.c.txn_id == txn_id)
        .order_by(entries.c.id)
    )
    found = tuple(Entry(AccountKey(*line[:3]), line[3], line[4]) for line in await conn.execute(lines))
    return Txn(row.id, row.op_id, row.kind, row.actor, row.reason, row.at, found, row.fingerprint, row.reverses)


async def reversed_by(conn: Connection, books: Books, txn_id: str) -> str | None:
    """The transaction that reversed this one."""
    txns = books["txns"]
    row = (await conn.execute(sa.select(txns.c.id).where(txns.c.reverses == txn_id))).first()
    return None if row is None else str(row[0])


def naming(books: Books, lot_id: str) -> sa.Select[tuple[str]]:
    """The transactions that name a lot for its owner: by the entries of its owner's accounts, as lots have no index there."""
    entries, lots = books["entries"], books["lots"]
    whose, theirs = books["accounts"].alias(), books["accounts"].alias()
    return (
        sa.select(entries.c.txn_id)
        .join(theirs, entries.c.account_id == theirs.c.id)
        .join(whose, theirs.c.owner == whose.c.owner)
        .join(lots, lots.c.account_id == whose.c.id)
        .where(lots.c.id == lot_id, entries.c.lot_id == lot_id)
    )


async def fees_of_lot(conn: Connection, books: Books, lot_id: str, kind: str) -> int:
    """What stands on the book's account of `kind` from the transactions that name a lot."""
    entries, accounts = books["entries"], books["accounts"]
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(entries.c.amount_micro), 0))
        .join(accounts, entries.c.account_id == accounts.c.id)
        .where(entries.c.txn_id.in_(naming(books, lot_id)), accounts.c.kind == kind)
    )
    return int((await conn.execute(query)).scalar_one())


async def waiting_of(conn: Connection, books: Books, account_id: int) -> list[tuple[int, int]]:
    """(what the hot wallet has to hear, due at) of each credit of a wallet that is not marked applied."""
    credit = books["credits"]
    query = sa.select(credit.c.delta_micro + credit.c.taken_micro, credit.c.due_at)
    rule = sa.and_(credit.c.account_id == account_id, credit.c.applied_at.is_(None))
    return [(row[0], row[1]) for row in await conn.execute(query.where(rule))]


async def lot_of_ref(conn: Connection, books: Books, external_ref: str) -> str | None:
    """The lot that a payment made already."""
    lots = books["lots"]
    row = (await conn.execute(sa.select(lots.c.id).where(lots.c.external_ref == external_ref))).first()
    return None if row is None else str(row[0])


async def account_ids(conn: Connection, books: Books, keys: Iterable[AccountKey]) -> dict[AccountKey, int]:
    """Ids of accounts; missing ones are made, at zero."""
    wanted = set(keys)
    found = await _find_accounts(conn, books["accounts"], wanted)
    missing = wanted - found.keys()
    if missing:
        # In order of the keys, so that the same history makes the same book.
        rows = sorted((key.owner, key.kind, key.asset, 0) for key in missing)
        await bulk.insert(conn, books["accounts"], ("owner", "kind", "asset", "balance_micro"), rows, _SKIP)
        found |= await _find_accounts(conn, books["accounts"], missing)
    return found


async def _find_accounts(conn: Connection, accounts: sa.Table, wanted: set[AccountKey]) -> dict[AccountKey, int]:
    if not wanted:
        return {}
    owners = sorted({key.owner for key in wanted})
    kinds = sorted({key.kind for key in wanted})
    query = sa.select(accounts.c.id, accounts.c.owner, accounts.c.kind, accounts.c.asset).where(
        bulk.is_in(conn, accounts.c.owner, owners), bulk.is_in(conn, accounts.c.kind, kinds)
    )
    rows = await conn.execute(query)
    return {key: row[0] for row in rows if (key := AccountKey(row[1], row[2], row[3])) in wanted}


async def post(conn: Connection, books: Books, txns: Sequence[Txn], ids: Mapping[AccountKey, int]) -> None:
    """Write transactions with their entries; `ids` has every account in them. Balances and lots are the caller's."""
    rows = [(t.id, t.op_id, t.kind, t.actor, t.reason, t.reverses, t.fingerprint, t.at_ms) for t in txns]
    await bulk.insert(conn, books["txns"], _TXN_COLUMNS, rows)
    lines = [
        (t.id, ids[entry.account], entry.lot_id, entry.account.asset, entry.amount_micro) for t in txns for entry in t.entries
    ]
    await bulk.insert(conn, books["entries"], _ENTRY_COLUMNS, lines)


async def add_balances(conn: Connection, books: Books, sums: Mapping[AccountKey, int], ids: Mapping[AccountKey, int]) -> None:
    """Add to accounts what a batch of transactions moved."""
    rows = [(delta, ids[key]) for key, delta in sums.items() if delta]
    await bulk.add(conn, books["accounts"], "id", ("balance_micro",), rows)


async def spend_lots(conn: Connection, books: Books, spent: Mapping[str, int]) -> None:
    """Move from left to spent, by lot."""
    await bulk.add(conn, books["lots"], "id", ("spent_micro", "left_micro"), [(part, -part, lot) for lot, part in spent.items()])


async def add_lot(conn: Connection, books: Books, lot: Lot, account_id: int) -> None:
    """A new lot."""
    # Lot has its fields in the order of LOT_COLUMNS.
    await bulk.insert(conn, books["lots"], (*LOT_COLUMNS, "account_id"), [(*msgspec.structs.astuple(lot), account_id)])


async def add_credit(conn: Connection, books: Books, credit: Credit, account_id: int, taken_micro: int = 0) -> None:
    """A line of the outbox: the hot wallet still has to hear of it, unless it gave all of it before (`taken_micro`)."""
    moved = credit.delta_micro - taken_micro
    applied_at = None if credit.delta_micro else credit.due_at_ms
    row = (credit.txn_id, account_id, credit.shard, credit.wallet, moved, taken_micro, credit.due_at_ms, applied_at)
    await bulk.insert(conn, books["credits"], _CREDIT_COLUMNS, [row])


async def mark_applied(conn: Connection, books: Books, txn_ids: Sequence[str], now_ms: int) -> None:
    """The hot store has these credits."""
    credit = books["credits"]
    rule = sa.and_(bulk.is_in(conn, credit.c.txn_id, txn_ids), credit.c.applied_at.is_(None))
    await conn.execute(sa.update(credit).where(rule).values(applied_at=now_ms))


async def mark_opened(conn: Connection, books: Books, wallet: WalletKey, asset: str, now_ms: int) -> None:
    """The hot wallet was opened; the first time stays."""
    key = AccountKey(wallet.owner, AVAILABLE, asset)
    ids = await account_ids(conn, books, [key])
    accounts = books["accounts"]
    rule = sa.and_(accounts.c.id == ids[key], accounts.c.opened_at.is_(None))
    await conn.execute(sa.update(accounts).where(rule).values(opened_at=now_ms))


def _usage_values(row: UsageRow) -> tuple[Any, ...]:
    return (
        *(row.request_id, row.at, row.level, row.user_id, row.platform_user_id, row.key_id, row.workflow_type, row.session_id),
        *(row.agent_name, _encode(row.tags).decode(), row.endpoint, row.model, row.provider, row.deployment, row.status),
        *(row.usage_source, _encode(row.units).decode(), row.input_tokens, row.output_tokens, row.asset, row.amount_micro),
        *(row.creator_micro, row.provider_cost_micro, int(row.streamed), row.latency_ms, row.ttft_ms, row.attempts),
        *(row.http_status, _encode(row.flags).decode(), row.held_micro, row.creator_held_micro),
    )


async def add_usage(conn: Connection, rows: Sequence[UsageRow]) -> None:
    """Usage rows of an app; each request once, or SqlRefused."""
    await bulk.insert(conn, usage, USAGE_COLUMNS, [_usage_values(row) for row in rows])


async def add_overruns(conn: Connection, rows: Sequence[UsageRow]) -> None:
    """Of these usage rows, those that were charged more than was held, in a table that says so."""
    found = [
        (row.request_id, role, held, amount, row.at)
        for row in rows
        for role, held, amount in (
            ("end_user", row.held_micro, row.amount_micro if row.level == "app_usage" else 0),
            ("creator", row.creator_held_micro, row.creator_micro),
        )
        if held is not None and amount > held
    ]
    await bulk.insert(conn, overruns, tuple(column.name for column in overruns.columns), found)


async def add_hours(conn: Connection, postings: Sequence[UsagePosting]) -> None:
    """Add requests to the platform's roll-up by hour."""
    sums: dict[tuple[Any, ...], list[Any]] = {}
    for posting in postings:
        row = posting.row
        hour = row.at - row.at % _HOUR_MS
        key = (hour, posting.enterprise_id, row.level, row.model, row.provider, row.workflow_type, posting.app_asset)
        amounts = (1, row.input_tokens, row.output_tokens, posting.end_user_micro, row.creator_micro, row.provider_cost_micro)
        held = sums.get(key)
        if held is None:
            sums[key] = [row.user_id, *amounts]
        else:
            for at, amount in enumerate(amounts, 1):
                held[at] += amount
    rows = [(*key, *held) for key, held in sums.items()]
    adding = bulk.on_conflict_add(usage_hours, _HOUR_SUMS)
    await bulk.insert(conn, usage_hours, (*_HOUR_KEYS, "user_id", *_HOUR_SUMS), rows, adding)


async def add_dead_bytes(conn: Connection, dead: DeadEvent, digest: str, now_ms: int) -> None:
    """The bytes of an event that cannot be posted, once; in an app's database or the unattributed one."""
    reason = f"{dead.reason}: {dead.detail}".replace("\0", "")
    row = (dead.shard, dead.entry_id, digest, now_ms, reason, dead.data)
    await bulk.insert(conn, dead_event_bytes, (*_DEAD_KEY, "data"), [row], _SKIP)


async def add_dead(conn: Connection, dead: DeadEvent, digest: str, now_ms: int) -> None:
    """That there is such an event, once, in the platform's database."""
    row = (dead.shard, dead.entry_id, digest, now_ms, dead.reason, dead.enterprise_id or "", len(dead.data))
    await bulk.insert(conn, dead_events, (*_DEAD_KEY, "enterprise_id", "size_bytes"), [row], _SKIP)


async def owed(conn: Connection, wallet: WalletKey, asset: str) -> tuple[int, int, int, int | None, bool]:
    """A wallet's available, debt (below zero), credits not applied, opened_at, whether the books know its owner.

    One statement, so one snapshot.
    """
    query = _owed(wallet.enterprise_id is None)
    available, debt, waiting, opened_at, count = (await conn.execute(query, {"owner": wallet.owner, "asset": asset})).one()
    return int(available), int(debt), int(waiting), opened_at, bool(count)


async def posted_to(conn: Connection, wallet: WalletKey, asset: str, since_ms: int) -> list[str]:
    """`op_id` of the usage that was posted to a wallet since then."""
    books = books_of(wallet.enterprise_id)
    txns, entries, accounts = books["txns"], books["entries"], books["accounts"]
    query = (
        sa.select(txns.c.op_id)
        .distinct()
        .join(entries, entries.c.txn_id == txns.c.id)
        .join(accounts, accounts.c.id == entries.c.account_id)
        .where(txns.c.at >= since_ms, txns.c.kind == USAGE, accounts.c.owner == wallet.owner, accounts.c.asset == asset)
    )
    return list((await conn.execute(query)).scalars())


@cache
def _owed(platform: bool) -> sa.Select[Any]:
    """Always gives one row: a wallet may have a debt and never have had an available balance."""
    books = PLATFORM_BOOKS if platform else APP_BOOKS
    accounts, credit = books["accounts"], books["credits"]
    theirs = accounts.alias()
    owner, asset = sa.bindparam("owner", type_=sa.Text()), sa.bindparam("asset", type_=sa.Text())
    waiting = (
        sa.select(sa.func.sum(credit.c.delta_micro + credit.c.taken_micro))
        .join(theirs, credit.c.account_id == theirs.c.id)
        .where(theirs.c.owner == owner, theirs.c.asset == asset, credit.c.applied_at.is_(None))
        .scalar_subquery()
    )

    def of(kind: str, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.case((accounts.c.kind == kind, column))

    zero = sa.literal(0)
    return sa.select(
        sa.func.coalesce(sa.func.sum(of(AVAILABLE, accounts.c.balance_micro)), zero),
        sa.func.coalesce(sa.func.sum(of(DEBT, accounts.c.balance_micro)), zero),
        sa.func.coalesce(waiting, zero),
        sa.func.max(of(AVAILABLE, accounts.c.opened_at)),
        sa.func.count(accounts.c.id),
    ).where(accounts.c.owner == owner, accounts.c.asset == asset)

"""The trail's rows: the only SQL of this room. Callers hold the connection and its transaction."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.db.faults import named_faults
from gateway.db.tables import APP_TRAIL, PLATFORM_TRAIL
from gateway.trail.model import Act, Head, Line, line_after

Connection = AsyncConnection
Engine = AsyncEngine
Tables = Mapping[str, sa.Table]
_COLUMNS: Final = Line.__struct_fields__


def trail_of(enterprise_id: str | None) -> Tables:
    """The trail of the platform's database (None) or of an app's."""
    return PLATFORM_TRAIL if enterprise_id is None else APP_TRAIL


async def append(conn: Connection, tables: Tables, act: Act, at_ms: int) -> Line:
    """Write the line of an act in the caller's transaction, which must be the act's own.

    Call it after everything else that the transaction locks: the head row, which every writer of the chain
    waits for, is held until the commit. On SQLite the transaction holds the write lock already.
    """
    line = line_after(await _locked_head(conn, tables), act, at_ms)
    await conn.execute(sa.insert(tables["trail"]).values(msgspec.structs.asdict(line)))
    await conn.execute(sa.update(tables["trail_head"]).values(seq=line.seq, hash=line.hash))
    return line


async def append_if_new(conn: Connection, tables: Tables, act: Act, at_ms: int) -> Line | None:
    """As `append`, with the latest line of the same act and subject as what was before; None when nothing changed."""
    await _locked_head(conn, tables)
    trail = tables["trail"]
    query = sa.select(trail.c.after_json).where(trail.c.act == act.name, trail.c.subject == act.subject)
    found = (await conn.execute(query.order_by(trail.c.seq.desc()).limit(1))).scalar()
    before = msgspec.json.decode(found) if found else None
    if before == act.after:
        return None
    return await append(conn, tables, msgspec.structs.replace(act, before=before), at_ms)


async def _locked_head(conn: Connection, tables: Tables) -> Head:
    head = tables["trail_head"]
    row = (await conn.execute(sa.select(head.c.seq, head.c.hash).with_for_update())).one()
    return Head(row[0], row[1])


async def head_of(conn: Connection, tables: Tables) -> Head | None:
    """The head row; None when somebody took it away."""
    head = tables["trail_head"]
    row = (await conn.execute(sa.select(head.c.seq, head.c.hash))).first()
    return None if row is None else Head(row[0], row[1])


async def lines(conn: Connection, tables: Tables) -> AsyncIterator[Line]:
    """Every line in order, as it is read: a chain of any length takes the same memory."""
    trail = tables["trail"]
    query = sa.select(*[trail.c[name] for name in _COLUMNS]).order_by(trail.c.seq)
    async for row in await conn.stream(query):
        yield _line(row)


async def newest(
    conn: Connection, tables: Tables, count: int, *, below: int | None = None, enterprise_id: str | None = None
) -> list[Line]:
    """The newest lines first, those before line `below`; `enterprise_id`: those about one app."""
    trail = tables["trail"]
    query = sa.select(*[trail.c[name] for name in _COLUMNS]).order_by(trail.c.seq.desc()).limit(count)
    if below is not None:
        query = query.where(trail.c.seq < below)
    if enterprise_id is not None:
        query = query.where(trail.c.enterprise_id == enterprise_id)
    return [_line(row) for row in await conn.execute(query)]


async def since(conn: Connection, tables: Tables, seq: int | None, most: int) -> tuple[int, list[Line] | None]:
    """(the head's number, the lines after line `seq` that moved no money); None where they cannot be told: there are more than
    `most`, no `seq` is given, or the chain is shorter than it was (an older database took this one's place).
    """
    head = await head_of(conn, tables)
    last = 0 if head is None else head.seq
    if seq is None or last < seq or last - seq > most:
        return last, None
    if last == seq:
        return last, []
    trail = tables["trail"]
    query = sa.select(*[trail.c[name] for name in _COLUMNS]).where(trail.c.seq > seq, trail.c.seq <= last, trail.c.txn_id == "")
    return last, [_line(row) for row in await conn.execute(query)]


async def lines_of_money(conn: Connection, tables: Tables) -> int:
    """How many lines name a transaction."""
    trail = tables["trail"]
    query = sa.select(sa.func.count()).select_from(trail).where(trail.c.txn_id != "")
    return int((await conn.execute(query)).scalar_one())


async def unlike_the_books(conn: Connection, tables: Tables, books: Tables) -> AsyncIterator[tuple[str, str]]:
    """(transaction, "") of a grant since the trail began that has no line, and (transaction, line) of a line that has none."""
    trail, head, txns = tables["trail"], tables["trail_head"], books["txns"]
    began = sa.select(head.c.after_txn).scalar_subquery()
    grants = sa.select(txns.c.id).outerjoin(trail, trail.c.txn_id == txns.c.id)
    grants = grants.where(txns.c.kind == "grant", txns.c.id > began, trail.c.seq.is_(None))
    async for row in await conn.stream(grants):
        yield row[0], ""
    orphans = sa.select(trail.c.txn_id, trail.c.seq).outerjoin(txns, txns.c.id == trail.c.txn_id)
    async for row in await conn.stream(orphans.where(trail.c.txn_id != "", txns.c.id.is_(None))):
        yield row[0], str(row[1])


@asynccontextmanager
async def reading(engine: Engine) -> AsyncIterator[Connection]:
    """A connection on which every statement sees the same state. SqlDown when there is none."""
    with named_faults():
        async with engine.connect() as conn:
            if conn.dialect.name == "postgresql":
                await conn.execution_options(isolation_level="REPEATABLE READ")
            yield conn


def _line(row: Sequence[Any]) -> Line:
    return Line(*row)

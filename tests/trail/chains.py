"""Chains to look at, and hands that reach past the triggers."""

import re

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.db.engines import Databases
from gateway.trail import store
from gateway.trail.model import Act, Head, Line, line_after

SHOP = "shop"
_TRIGGERS = "SELECT tgname || ' ON ' || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal"


def act(number: int, enterprise_id: str = SHOP) -> Act:
    return Act("test.act", "operator", f"actor {number}", f"subject {number}", enterprise_id=enterprise_id, after={"n": number})


async def add(engine: AsyncEngine, *acts: Act, enterprise_id: str | None = SHOP) -> list[Line]:
    """Each in a transaction of its own."""
    made = []
    for each in acts:
        async with engine.begin() as conn:
            made.append(await store.append(conn, store.trail_of(enterprise_id), each, 1_000))
    return made


async def chain(databases: Databases, count: int) -> tuple[AsyncEngine, list[Line]]:
    engine = await databases.app(SHOP)
    return engine, await add(engine, *[act(number) for number in range(1, count + 1)])


async def disarm(conn: AsyncConnection) -> None:
    """Drop every trigger, as whoever owns the tables can."""
    listed = _TRIGGERS if conn.dialect.name == "postgresql" else "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    for trigger in (await conn.exec_driver_sql(listed)).scalars().all():
        await conn.exec_driver_sql(f"DROP TRIGGER {trigger}")


async def tamper(engine: AsyncEngine, *statements: str) -> None:
    """Statements that each change something, by somebody who owns the database."""
    async with engine.begin() as conn:
        await disarm(conn)
        for statement in statements:
            assert (await conn.exec_driver_sql(statement)).rowcount > 0, statement


def insert_of(line: Line) -> str:
    values = [str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'" for value in _values(line)]
    return f"INSERT INTO trail ({', '.join(Line.__struct_fields__)}) VALUES ({', '.join(values)})"


def rewritten(line: Line, head: Head, number: int) -> Line:
    """An honest-looking line of another act in the place of `line`: its hash is right."""
    return line_after(head, act(number), line.at)


def _values(line: Line) -> list[str | int]:
    return [getattr(line, name) for name in Line.__struct_fields__]


def update_of(line: Line, seq: int) -> str:
    sets = [part for part in re.sub(r"^INSERT.*?VALUES ", "", insert_of(line)).strip("()").split(", ") if part]
    return (
        f"UPDATE trail SET {', '.join(f'{n} = {v}' for n, v in zip(Line.__struct_fields__, sets, strict=True))} WHERE seq = {seq}"
    )

"""Many rows in one statement: COPY or arrays through `unnest` on Postgres, `executemany` in C on SQLite.

This is what carries the drain: per row it costs a tuple, not a compiled statement. Rows are tuples in
the order of `columns`; JSON columns take JSON text.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

Row = tuple[Any, ...]
_POSTGRES: Final = "postgresql"
_COPY_ROWS_MIN: Final = 20


def _pg_type(column: sa.Column[Any]) -> str:
    kind = column.type
    if isinstance(kind, sa.BigInteger):
        return "bigint"
    if isinstance(kind, sa.Integer):
        return "integer"
    if isinstance(kind, sa.LargeBinary):
        return "bytea"
    return "text"  # JSON too: it travels as text and is cast in the select list


@cache
def _insert_sql(table: sa.Table, columns: tuple[str, ...], postgres: bool, tail: str) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    if not postgres:
        marks = ", ".join("?" * len(columns))
        return f'INSERT INTO "{table.name}" ({names}) VALUES ({marks}) {tail}'  # noqa: S608 - our own table names
    arrays = ", ".join(f"${at}::{_pg_type(table.c[name])}[]" for at, name in enumerate(columns, 1))
    values = ", ".join(f'u."{name}"::json' if isinstance(table.c[name].type, sa.JSON) else f'u."{name}"' for name in columns)
    return f'INSERT INTO "{table.name}" ({names}) SELECT {values} FROM unnest({arrays}) AS u({names}) {tail}'  # noqa: S608


@cache
def _add_sql(table: sa.Table, key: str, columns: tuple[str, ...], postgres: bool) -> str:
    if not postgres:
        sets = ", ".join(f'"{name}" = "{name}" + ?' for name in columns)
        return f'UPDATE "{table.name}" SET {sets} WHERE "{key}" = ?'  # noqa: S608 - our own table names
    given = (*columns, key)
    names = ", ".join(f'"{name}"' for name in given)
    arrays = ", ".join(f"${at}::{_pg_type(table.c[name])}[]" for at, name in enumerate(given, 1))
    sets = ", ".join(f'"{name}" = t."{name}" + u."{name}"' for name in columns)
    return f'UPDATE "{table.name}" AS t SET {sets} FROM unnest({arrays}) AS u({names}) WHERE t."{key}" = u."{key}"'  # noqa: S608


async def _run(conn: AsyncConnection, sql: str, rows: Sequence[Row], postgres: bool) -> None:
    if postgres:
        await conn.exec_driver_sql(sql, tuple(map(list, zip(*rows, strict=True))))
    else:
        await conn.exec_driver_sql(sql, list(rows))


async def _copy(conn: AsyncConnection, table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
    """COPY, in binary: a third of the cost of arrays, on both sides."""
    driver = (await conn.get_raw_connection()).driver_connection
    assert driver is not None
    if not driver.is_in_transaction():
        # SQLAlchemy's BEGIN goes out with its first statement, and COPY past it would be a commit of its own.
        await conn.exec_driver_sql("SELECT 1")
        assert driver.is_in_transaction()
    await driver.copy_records_to_table(table.name, records=rows, columns=columns)


async def insert(conn: AsyncConnection, table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row], tail: str = "") -> None:
    """Insert `rows`; `tail` is an ON CONFLICT clause. Nothing happens for no rows."""
    if not rows:
        return
    postgres = conn.dialect.name == _POSTGRES
    if postgres and not tail and len(rows) >= _COPY_ROWS_MIN:
        await _copy(conn, table, columns, rows)
    else:
        await _run(conn, _insert_sql(table, columns, postgres, tail), rows, postgres)


async def add(conn: AsyncConnection, table: sa.Table, key: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
    """Add to integer columns, row by row of (delta of each column, ..., key). A key may occur once only."""
    if rows:
        postgres = conn.dialect.name == _POSTGRES
        await _run(conn, _add_sql(table, key, columns, postgres), rows, postgres)


def on_conflict_add(table: sa.Table, columns: Iterable[str]) -> str:
    """The ON CONFLICT clause that adds to the row already there."""
    keys = ", ".join(f'"{column.name}"' for column in table.primary_key.columns)
    sets = ", ".join(f'"{name}" = "{table.name}"."{name}" + excluded."{name}"' for name in columns)
    return f"ON CONFLICT ({keys}) DO UPDATE SET {sets}"


def is_in(conn: AsyncConnection, column: sa.ColumnElement[Any], values: Sequence[str] | Sequence[int]) -> sa.ColumnElement[bool]:
    """`column IN values` as one bound parameter, so that its statement is compiled and prepared once for any number."""
    if conn.dialect.name == _POSTGRES:
        kind = sa.BigInteger() if isinstance(column.type, sa.Integer) else sa.Text()
        return column == sa.any_(sa.bindparam(None, list(values), sa.ARRAY(kind), unique=True))
    listed = sa.func.json_each(sa.bindparam(None, list(values), sa.JSON(), unique=True)).table_valued("value")
    return column.in_(sa.select(listed.c.value))


def begins(conn: AsyncConnection, column: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    """`column` begins with `prefix`, letter by letter whatever the database's collation: as a range, which an index can answer.

    The index is a plain one on SQLite, one with `text_pattern_ops` on Postgres. A `LIKE` is answered by neither: on SQLite it
    ignores case, on Postgres its pattern is a parameter.
    """
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    if conn.dialect.name == _POSTGRES:
        return sa.and_(column.op("~>=~")(prefix), column.op("~<~")(end))
    return sa.and_(column >= prefix, column < end)

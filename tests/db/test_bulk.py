import pytest
import sqlalchemy as sa

from gateway.db import bulk
from gateway.db.engines import Databases
from gateway.db.faults import SqlRefused, named_faults
from gateway.db.tables import PLATFORM_BOOKS, usage_hours

ACCOUNTS = PLATFORM_BOOKS["accounts"]
COLUMNS = ("owner", "kind", "asset", "balance_micro")


def rows(count: int, balance: int = 5) -> list[bulk.Row]:
    return [(f"user{n}", "k", "USD", balance) for n in range(count)]


async def total(databases: Databases) -> tuple[int, int]:
    async with databases.platform.connect() as conn:
        row = (await conn.execute(sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(ACCOUNTS.c.balance_micro), 0)))).one()
    return int(row[0]), int(row[1])


@pytest.mark.parametrize("count", [0, 1, 19, 20, 700])
async def test_any_number_of_rows_goes_in_and_is_added_to(databases: Databases, count: int) -> None:
    async with databases.platform.begin() as conn:
        await bulk.insert(conn, ACCOUNTS, COLUMNS, rows(count))
        ids = (await conn.execute(sa.select(ACCOUNTS.c.id))).scalars().all()
        await bulk.add(conn, ACCOUNTS, "id", ("balance_micro",), [(-2, one) for one in ids])
        found = await conn.execute(sa.select(ACCOUNTS.c.id).where(bulk.is_in(conn, ACCOUNTS.c.id, ids)))
        assert sorted(found.scalars()) == sorted(ids)
    assert await total(databases) == (count, 3 * count)


async def test_rows_go_with_their_transaction_even_as_its_first_statement(databases: Databases) -> None:
    async def fails_half_way() -> None:
        async with databases.platform.begin() as conn:
            await bulk.insert(conn, ACCOUNTS, COLUMNS, rows(50))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails_half_way()
    assert await total(databases) == (0, 0)


@pytest.mark.parametrize("bad", [("user7", "k", "USD", 1), ("x", "k", "USD", 2**64), ("x", None, "USD", 1)])
async def test_one_bad_row_refuses_all_of_them_in_one_word_for_every_driver(databases: Databases, bad: bulk.Row) -> None:
    async def insert() -> None:
        with named_faults():
            async with databases.platform.begin() as conn:
                await bulk.insert(conn, ACCOUNTS, COLUMNS, [*rows(50), bad])

    with pytest.raises(SqlRefused):
        await insert()
    assert await total(databases) == (0, 0)


async def test_a_roll_up_adds_to_the_row_that_is_there(databases: Databases) -> None:
    names = tuple(column.name for column in usage_hours.c)
    sums = ("requests", "end_user_micro")
    row = tuple(4 if isinstance(column.type, sa.BigInteger) else "x" for column in usage_hours.c)
    for _ in range(3):
        async with databases.platform.begin() as conn:
            await bulk.insert(conn, usage_hours, names, [row], bulk.on_conflict_add(usage_hours, sums))
    async with databases.platform.connect() as conn:
        found = (
            await conn.execute(sa.select(usage_hours.c.requests, usage_hours.c.end_user_micro, usage_hours.c.input_tokens))
        ).all()
    assert [tuple(one) for one in found] == [(12, 12, 4)]

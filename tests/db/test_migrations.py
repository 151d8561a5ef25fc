import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.db import migrate
from gateway.db.engines import Databases
from gateway.db.faults import SqlDown
from gateway.db.tables import APP, PLATFORM

TREES = {"platform": PLATFORM, "app": APP}


def row_rules(conn: sa.Connection) -> set[tuple[str, object]]:
    see = sa.inspect(conn)
    return {(table, check["name"]) for table in see.get_table_names() for check in see.get_check_constraints(table)}


async def engine_of(databases: Databases, tree: str) -> AsyncEngine:
    return databases.platform if tree == "platform" else await databases.app("shop")


@pytest.mark.parametrize("tree", TREES)
async def test_the_migrations_make_what_the_tables_say(databases: Databases, tree: str) -> None:
    async with (await engine_of(databases, tree)).connect() as conn:
        assert await conn.run_sync(migrate.differences, tree) == []
        # What alembic does not compare: the rules of the rows.
        made = await conn.run_sync(row_rules)
    wanted = {
        (table.name, f"ck_{table.name}_{rule.name}" if not str(rule.name).startswith("ck_") else rule.name)
        for table in TREES[tree].tables.values()
        for rule in table.constraints
        if isinstance(rule, sa.CheckConstraint)
    }
    assert made == wanted


@pytest.mark.parametrize("tree", TREES)
async def test_the_comparison_sees_a_column_that_is_missing(databases: Databases, tree: str) -> None:
    async with (await engine_of(databases, tree)).begin() as conn:
        await conn.exec_driver_sql("ALTER TABLE accounts DROP COLUMN opened_at")
        assert await conn.run_sync(migrate.differences, tree) != []


@pytest.mark.parametrize("tree", TREES)
async def test_down_leaves_nothing_and_up_brings_it_back(databases: Databases, tree: str) -> None:
    engine = await engine_of(databases, tree)
    async with engine.begin() as conn:
        await conn.run_sync(migrate.downgrade, tree, "base")
        left = await conn.run_sync(lambda sync: sa.inspect(sync).get_table_names())
        assert left == ["alembic_version"]
    async with engine.begin() as conn:
        await conn.run_sync(migrate.upgrade, tree)
        assert await conn.run_sync(migrate.differences, tree) == []


async def test_an_upgrade_that_fails_leaves_the_old_schema(databases: Databases) -> None:
    engine = databases.platform

    async def fails_half_way() -> None:
        async with engine.begin() as conn:
            await conn.run_sync(migrate.downgrade, "platform", "base")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails_half_way()
    async with engine.connect() as conn:
        assert await conn.run_sync(migrate.differences, "platform") == []


@pytest.mark.parametrize("tree", TREES)
async def test_an_entry_names_what_exists_and_what_it_names_stays(databases: Databases, tree: str) -> None:
    engine = await engine_of(databases, tree)
    rows = {
        "accounts": "(id, owner, kind, asset, balance_micro) VALUES (1, 'u', 'u.a', 'USD', 5), (2, 'v', 'x', 'USD', 0)",
        "txns": "(id, op_id, kind, actor, reason, at) VALUES ('t', 'op', 'grant', 'a', '', 1)",
        "lots": "(id, account_id, source, priority, effective_at, granted_micro, spent_micro, expired_micro, refunded_micro,"
        " frozen_micro, left_micro, created_at) VALUES ('l', 1, 'promo', 0, 1, 5, 0, 0, 0, 0, 5, 1)",
        "entries": "(txn_id, account_id, lot_id, asset, amount_micro) VALUES ('t', 1, 'l', 'USD', 5), ('t', 1, NULL, 'USD', 0)",
    }
    async with engine.begin() as conn:
        for table, values in rows.items():
            await conn.exec_driver_sql(f"INSERT INTO {table} {values}")
        await conn.exec_driver_sql("DELETE FROM accounts WHERE id = 2")
    for refused in (
        "INSERT INTO entries (txn_id, account_id, asset, amount_micro) VALUES ('t', 1, 'USD', 1), ('none', 1, 'USD', 1)",
        "INSERT INTO entries (txn_id, account_id, asset, amount_micro) VALUES ('t', 9, 'USD', 1)",
        "INSERT INTO entries (txn_id, account_id, lot_id, asset, amount_micro) VALUES ('t', 1, 'none', 'USD', 1)",
        "DELETE FROM accounts WHERE id = 1",
        "DELETE FROM lots",
        "UPDATE lots SET id = 'other'",
        "UPDATE accounts SET id = 7 WHERE id = 1",
    ):
        with pytest.raises(sa.exc.IntegrityError):
            async with engine.begin() as conn:
                await conn.exec_driver_sql(refused)


async def test_a_database_of_a_newer_version_is_left_alone(databases: Databases) -> None:
    async with databases.platform.begin() as conn:
        await conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SqlDown, match="9999"):
        await databases.migrate()


@pytest.mark.parametrize("tree", TREES)
async def test_rows_of_the_first_schema_live_through_the_second_and_back(databases: Databases, tree: str) -> None:
    engine = await engine_of(databases, tree)
    async with engine.begin() as conn:
        await conn.run_sync(migrate.downgrade, tree, "0001")
        for statement in (
            "INSERT INTO accounts (id, owner, kind, asset, balance_micro) VALUES (1, 'u', 'user.available', 'USD', 5)",
            "INSERT INTO txns (id, op_id, kind, actor, reason, at) VALUES ('t', 'op', 'grant', 'a', '', 1)",
            "INSERT INTO lots (id, account_id, source, priority, effective_at, granted_micro, spent_micro, expired_micro,"
            " refunded_micro, frozen_micro, left_micro, created_at) VALUES ('l', 1, 'promo', 0, 1, 5, 0, 0, 0, 0, 5, 1)",
            "INSERT INTO entries (txn_id, account_id, lot_id, asset, amount_micro) VALUES ('t', 1, 'l', 'USD', 5)",
            "INSERT INTO credits (txn_id, account_id, shard, wallet, delta_micro, due_at) VALUES ('t', 1, 0, 'p/u', 5, 1)",
        ):
            await conn.exec_driver_sql(statement)
    async with engine.begin() as conn:
        await conn.run_sync(migrate.upgrade, tree)
        assert tuple((await conn.exec_driver_sql("SELECT clawback_micro, expiring, left_micro FROM lots")).one()) == (0, None, 5)
        assert tuple((await conn.exec_driver_sql("SELECT taken_micro, delta_micro FROM credits")).one()) == (0, 5)
    async with engine.begin() as conn:
        await conn.run_sync(migrate.downgrade, tree, "0001")
        assert (await conn.exec_driver_sql("SELECT left_micro FROM lots")).scalar_one() == 5


@pytest.mark.parametrize("tree", TREES)
async def test_who_had_redeemed_a_code_has_made_a_first_purchase(databases: Databases, tree: str) -> None:
    engine = await engine_of(databases, tree)
    names = "id, promo_code_id, subject, ref, owner, plan_id, currency, discount_minor, paid_minor, given_micro, created_at"
    async with engine.begin() as conn:
        await conn.run_sync(migrate.downgrade, tree, {"platform": "0012", "app": "0008"}[tree])
        for number, owner in enumerate(("ann", "ann", "bob"), 1):
            values = f"'red_{number}', 'promo_1', 'pur_{number}', 'pur_{number}', '{owner}', 'plan_1', 'USD', 1, 0, 1, {number}"
            await conn.exec_driver_sql(f"INSERT INTO promo_redemptions ({names}) VALUES ({values})")
    async with engine.begin() as conn:
        await conn.run_sync(migrate.upgrade, tree)
        found = await conn.exec_driver_sql("SELECT owner, promo_code_id, ref, redeemed_at FROM first_purchases ORDER BY owner")
        assert [tuple(row) for row in found] == [("ann", "promo_1", "pur_1", 1), ("bob", "promo_1", "pur_3", 3)]
        assert len((await conn.exec_driver_sql("SELECT id FROM promo_redemptions WHERE number IS NULL")).all()) == 3

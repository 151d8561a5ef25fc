import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.db import engines, migrate
from gateway.db.engines import Databases
from gateway.db.faults import SqlDown, SqlRefused
from gateway.db.tables import PLATFORM_BOOKS, creators
from tests.db.conftest import postgres_urls, sqlite_urls

CREATOR = {"user_id": "c", "name": "C", "status": "active", "created_at": 1}


async def count(databases: Databases) -> int:
    async with databases.platform.connect() as conn:
        return int((await conn.execute(sa.select(sa.func.count()).select_from(creators))).scalar_one())


async def test_an_app_database_is_made_when_first_asked_for_and_keeps_its_data(
    databases: Databases, urls: tuple[str, str]
) -> None:
    async with (await databases.app("My.shop")).begin() as conn:
        await conn.exec_driver_sql("INSERT INTO accounts (owner, kind, asset, balance_micro) VALUES ('u', 'k', 'USD', 7)")
    again = Databases(*urls)
    try:
        async with (await again.app("My.shop")).connect() as conn:
            assert (await conn.exec_driver_sql("SELECT balance_micro FROM accounts")).scalars().all() == [7]
    finally:
        await again.close()


async def test_apps_whose_ids_differ_only_in_case_or_by_an_escape_share_nothing(databases: Databases) -> None:
    names = ["shop", "Shop", "SHOP", "s.hop", "%73hop", "%53hop", "$53hop"]
    for name in names[:4]:
        async with (await databases.app(name)).begin() as conn:
            await conn.exec_driver_sql(
                f"INSERT INTO accounts (owner, kind, asset, balance_micro) VALUES ('{name}', 'k', 'USD', 0)"
            )
    for name in names[:4]:
        async with (await databases.app(name)).connect() as conn:
            assert (await conn.exec_driver_sql("SELECT owner FROM accounts")).scalars().all() == [name]
    for name in names[4:]:
        with pytest.raises(ValueError, match="malformed"):
            await databases.app(name)


async def test_a_block_that_fails_commits_nothing(databases: Databases) -> None:
    async def fails_half_way() -> None:
        async with databases.platform.begin() as conn:
            await conn.execute(creators.insert().values(CREATOR))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails_half_way()
    assert await count(databases) == 0


async def test_writers_wait_for_each_other_and_readers_for_nobody(databases: Databases) -> None:
    accounts = PLATFORM_BOOKS["accounts"]
    async with databases.platform.begin() as conn:
        await conn.execute(accounts.insert().values(owner="", kind="k", asset="USD", balance_micro=0))

    async def add_one() -> None:
        async with databases.platform.begin() as conn:
            # Read, wait, write: lost updates show unless the first writer shuts the second out.
            row = (await conn.execute(sa.select(accounts.c.balance_micro).with_for_update())).scalar_one()
            await asyncio.sleep(0.005)
            await conn.execute(accounts.update().values(balance_micro=row + 1))

    async def look() -> float:
        started = time.monotonic()
        async with databases.platform.connect() as conn:
            await conn.execute(sa.select(accounts.c.balance_micro))
        return time.monotonic() - started

    *_, waited = await asyncio.gather(*[add_one() for _ in range(8)], look())
    assert waited is not None
    assert waited < 2
    async with databases.platform.connect() as conn:
        assert (await conn.execute(sa.select(accounts.c.balance_micro))).scalar_one() == 8


async def test_sqlite_is_synced_checked_and_sealed(tmp_path: Path) -> None:
    databases = Databases(*sqlite_urls(tmp_path))
    try:
        async with (await databases.app("a")).connect() as conn:
            pragmas = [
                (await conn.exec_driver_sql(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
            assert pragmas == ["wal", 2, 1]
        async with (await databases.app("b")).connect() as conn:
            with pytest.raises(sa.exc.OperationalError, match="too many attached"):
                await conn.exec_driver_sql(f"ATTACH DATABASE '{tmp_path}/apps/a.db' AS other")
    finally:
        await databases.close()


async def test_an_app_cannot_take_the_platforms_or_the_servers_own_database(tmp_path: Path) -> None:
    databases = Databases(f"sqlite:///{tmp_path}/platform.db", f"sqlite:///{tmp_path}/{{enterprise_id}}.db")
    with pytest.raises(SqlRefused, match="platform"):
        await databases.app("platform")
    on_server = Databases("postgresql://u@/main?host=/nowhere", "postgresql://u@/{enterprise_id}?host=/nowhere")
    for name in ("main", "postgres", "template1"):
        with pytest.raises(SqlRefused):
            await on_server.app(name)
    await databases.close()
    await on_server.close()


_BAD_TEMPLATES = [
    "sqlite:///apps.db",
    "sqlite:///{enterprise_id}/{enterprise_id}.db",
    "mysql://h/{enterprise_id}",
    "postgresql://{enterprise_id}@/db",
    "sqlite://",
    "postgresql://u@/" + "x" * 30 + "{enterprise_id}",
]


@pytest.mark.parametrize("template", _BAD_TEMPLATES)
def test_a_template_that_cannot_keep_apps_apart_is_refused_at_the_start(template: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"enterprise_id|not supported|needs a file"):
        Databases(f"sqlite:///{tmp_path}/p.db", template)


async def test_idle_engines_above_the_limit_are_closed_and_busy_ones_are_not(urls: tuple[str, str]) -> None:
    now = 0.0
    databases = Databases(*urls, app_engines_max=2, idle_s=10, monotonic=lambda: now)
    try:
        first, second = await databases.app("one"), await databases.app("two")
        async with first.connect() as busy:
            await busy.exec_driver_sql("SELECT 1")
            now = 20.0
            await databases.app("three")
            assert list(databases._open) == ["one", "three"]  # "two" was the older of the idle ones
            now = 25.0
            await databases.app("four")  # nobody is idle for long enough: one above the limit is better than a closed one in use
            assert list(databases._open) == ["one", "three", "four"]
            assert (await busy.exec_driver_sql("SELECT 2")).scalar() == 2
        async with second.connect() as conn:  # closed, but whoever still has it can go on
            assert (await conn.exec_driver_sql("SELECT 3")).scalar() == 3
        assert await databases.app("two") is not second
    finally:
        await databases.close()


async def test_many_who_open_one_at_once_close_the_idle_ones_together(urls: tuple[str, str]) -> None:
    now = 0.0
    databases = Databases(*urls, app_engines_max=1, idle_s=10, monotonic=lambda: now)
    try:
        for name in ("one", "two", "three", "four"):
            await databases.app(name)
        now = 20.0
        # Each of them looks for what is idle, while the one before waits until a connection is closed.
        assert len({id(engine) for engine in await asyncio.gather(*[databases.app("five") for _ in range(3)])}) == 1
        assert list(databases._open) == ["five"]
    finally:
        await databases.close()


async def test_many_who_ask_at_once_open_an_app_once(databases: Databases) -> None:
    opened = await asyncio.gather(*[databases.app("busy") for _ in range(20)])
    assert len({id(engine) for engine in opened}) == 1


async def test_many_apps_that_are_first_asked_for_at_once_all_get_their_whole_schema(databases: Databases) -> None:
    names = ["a", "b", "c", "d"]
    await asyncio.gather(*[databases.app(name) for name in names])
    for name in names:
        async with (await databases.app(name)).connect() as conn:
            assert await conn.run_sync(migrate.differences, "app") == []


async def test_missing_postgres_databases_are_made_even_when_asked_for_at_once(postgres_url: str) -> None:
    head, _, tail = postgres_url.partition("?")
    platform, template = postgres_urls(f"{head}_fresh?{tail}")
    several = [Databases(platform, template) for _ in range(3)]
    try:
        await asyncio.gather(*[databases.migrate() for databases in several])
        await asyncio.gather(*[databases.app("a-b.c") for databases in several])
        async with (await several[0].app("a-b.c")).connect() as conn:
            assert (
                await conn.exec_driver_sql("SELECT current_database()")
            ).scalar() == f"{platform.split('/')[3].split('?')[0]}_a-b$2ec"
    finally:
        for databases in several:
            await databases.close()


async def test_a_server_that_is_not_there_is_sql_down(tmp_path: Path) -> None:
    databases = Databases(*postgres_urls(f"postgresql://u@/db?host={tmp_path}"))
    with pytest.raises(SqlDown):
        await databases.migrate()
    with pytest.raises(SqlDown):
        await databases.app("a")
    await databases.close()


async def test_a_message_of_a_failure_does_not_quote_its_values(databases: Databases) -> None:
    async with databases.platform.connect() as conn:
        with pytest.raises(sa.exc.DBAPIError) as failed:
            await conn.execute(sa.text("SELECT :who FROM nowhere"), {"who": "end-user-77"})
    assert "end-user-77" not in str(failed.value)


_START = """
import asyncio, sys
from gateway.db.engines import Databases
async def main():
    databases = Databases(*sys.argv[1:])
    await databases.migrate()
    await databases.app("shop")
    await databases.close()
asyncio.run(main())
"""


def test_processes_that_start_together_migrate_once(urls: tuple[str, str]) -> None:
    started = [subprocess.Popen([sys.executable, "-c", _START, *urls], stderr=subprocess.PIPE) for _ in range(4)]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()


def test_a_database_that_is_up_to_date_costs_no_alembic(urls: tuple[str, str]) -> None:
    for start in (_START, _START + "\nassert 'alembic' not in sys.modules, 'imported'"):
        done = subprocess.run([sys.executable, "-c", start, *urls], capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()


def test_the_engines_know_the_newest_revisions() -> None:
    assert migrate.head("platform") == engines.PLATFORM_HEAD
    assert migrate.head("app") == engines.APP_HEAD


async def test_the_servers_clock_is_told_where_it_has_one(databases: Databases) -> None:
    assert await databases.answers()
    at_ms = await databases.clock_ms()
    if databases.platform.dialect.name == "sqlite":
        assert at_ms is None
    else:
        assert at_ms is not None
        assert 0 < at_ms - 1_767_225_600_000 < 100 * 365 * 86_400_000  # milliseconds since 1970, of this century

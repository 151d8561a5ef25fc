"""Databases of both kinds; the tests of `ledger` and of the drain use these too."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa

from gateway.db.engines import Databases


def sqlite_urls(folder: Path) -> tuple[str, str]:
    return f"sqlite:///{folder}/platform.db", f"sqlite:///{folder}/apps/{{enterprise_id}}.db"


def postgres_urls(url: str) -> tuple[str, str]:
    head, _, tail = url.partition("?")
    return url, f"{head}_{{enterprise_id}}?{tail}"


@pytest.fixture(params=["sqlite", "postgres"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """(platform URL, template) on SQLite, then on Postgres, of databases that nobody has made."""
    if request.param == "sqlite":
        return sqlite_urls(tmp_path)
    return postgres_urls(request.getfixturevalue("postgres_place"))


async def _migrated_once(urls: tuple[str, str]) -> None:
    migrating = Databases(*urls)
    await migrating.migrate()
    await migrating.close()


async def _copied(urls: tuple[str, str], kept_in: Path) -> None:
    """The platform's database at `urls`, as a copy of one that was migrated once in this session."""
    kind = sa.make_url(urls[0])
    if kind.drivername == "sqlite":
        kept = kept_in / "migrated"
        if not kept.exists():
            kept.mkdir()
            await _migrated_once(sqlite_urls(kept))
        for file in kept.glob("platform.db*"):
            shutil.copy(file, Path(str(kind.database)).parent)
        return
    admin = await asyncpg.connect(user="postgres", database="postgres", host=kind.query["host"])
    try:
        if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = 'migrated'"):
            await admin.execute("CREATE DATABASE migrated")
            await _migrated_once(postgres_urls(kind.set(database="migrated").render_as_string()))
        await admin.execute(f'CREATE DATABASE "{kind.database}" TEMPLATE migrated')
    finally:
        await admin.close()


@pytest.fixture
async def databases(urls: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Databases]:
    """Migrated, and closed at the end."""
    await _copied(urls, tmp_path_factory.getbasetemp())
    opened = Databases(*urls)
    await opened.migrate()
    yield opened
    await opened.close()

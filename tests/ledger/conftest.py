"""Books on both kinds of database, with two creators and three apps; the drain's tests use these too."""

import pytest

from gateway.db.engines import Databases
from gateway.db.tables import apps, creators
from gateway.ledger.service import Ledger
from tests.db.conftest import prepared as prepared  # fixtures of both kinds of database
from tests.db.conftest import urls as urls

START_MS = 1_800_000_000_000
APPS = {"shop": ("carol", "USD"), "chat": ("carol", "TOK"), "Chat": ("dave", "EUR")}


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms * 1_000_000


async def add_owners(databases: Databases) -> None:
    async with databases.platform.begin() as conn:
        for user_id in ("carol", "dave"):
            await conn.execute(creators.insert().values(user_id=user_id, name=user_id, status="active", created_at=1))
        for name, (user_id, asset) in APPS.items():
            row = {
                "enterprise_id": name,
                "user_id": user_id,
                "name": name,
                "asset": asset,
                "enforcement": "prepaid",
                "cost_policy": "creator_pays",
                "hold_policy": "clamp",
                "end_user_sources": [],
                "end_user_limits": {},
                "cors_origins": [],
                "status": "active",
                "created_at": 1,
                "updated_at": 1,
            }
            await conn.execute(apps.insert().values(row))


@pytest.fixture
def databases(prepared: Databases) -> Databases:
    return prepared


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(databases: Databases, clock: Clock) -> Ledger:
    await add_owners(databases)
    return Ledger(databases, clock)

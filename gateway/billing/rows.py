"""What every store of this room shares: connections to the platform's database and to each app's, and their tables of sales."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.db.engines import Databases
from gateway.db.faults import named_faults
from gateway.db.tables import APP_SALES, PLATFORM_SALES


class Rows:
    """Reads and writes rows of sales: an app's lie in its own database, the platform's (None) in its. Stateless.

    What is built on it raises SqlDown where a database cannot serve, and SqlRefused where it refuses a row.
    """

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    async def _engine(self, enterprise_id: str | None) -> AsyncEngine:
        return self._databases.platform if enterprise_id is None else await self._databases.app(enterprise_id)

    @asynccontextmanager
    async def _reading(self, enterprise_id: str | None) -> AsyncIterator[AsyncConnection]:
        with named_faults():
            async with (await self._engine(enterprise_id)).connect() as conn:
                yield conn

    @asynccontextmanager
    async def _writing(self, enterprise_id: str | None) -> AsyncIterator[AsyncConnection]:
        """One transaction, committed at the end of the block."""
        with named_faults():
            async with (await self._engine(enterprise_id)).begin() as conn:
                yield conn


def sales_of(enterprise_id: str | None) -> Mapping[str, sa.Table]:
    """The tables of sales of the platform (None) or of an app."""
    return PLATFORM_SALES if enterprise_id is None else APP_SALES

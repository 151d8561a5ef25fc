"""The rows of app prices in the platform's database: the only SQL of this room. Rows are only ever added."""

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.db.faults import SqlRefused, named_faults
from gateway.db.tables import app_prices, apps
from gateway.pricing.book import Version


class SameInstant(Exception):
    """The model has a price from that very moment already."""


class PriceRow(msgspec.Struct, frozen=True):
    """A stored version with its trail."""

    id: str
    version: Version
    created_at_ms: int
    actor: str


class Store:
    """Reads and adds app prices. Raises db's SqlDown when the database does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def asset(self, enterprise_id: str) -> str | None:
        """The asset of an app's wallets; None when there is no such app."""
        with named_faults():
            async with self._engine.connect() as connection:
                asset: str | None = await connection.scalar(select(apps.c.asset).where(apps.c.enterprise_id == enterprise_id))
        return asset

    async def prices(self, enterprise_id: str) -> list[PriceRow]:
        """Every version of an app, by model and time."""
        query = (
            select(
                app_prices.c.id,
                app_prices.c.model,
                app_prices.c.effective_at,
                app_prices.c.rates,
                app_prices.c.markup_bp,
                app_prices.c.created_at,
                app_prices.c.actor,
            )
            .where(app_prices.c.enterprise_id == enterprise_id)
            .order_by(app_prices.c.model, app_prices.c.effective_at)
        )
        with named_faults():
            async with self._engine.connect() as connection:
                rows = (await connection.execute(query)).all()
        return [PriceRow(row[0], Version(row[1], row[2], row[3], row[4]), row[5], row[6]) for row in rows]

    async def add(self, enterprise_id: str, row: PriceRow) -> None:
        """Insert; raises SameInstant. The app must exist."""
        version = row.version
        values = {
            "id": row.id,
            "enterprise_id": enterprise_id,
            "model": version.model,
            "effective_at": version.effective_at_ms,
            "rates": dict(version.rates) if version.rates is not None else None,
            "markup_bp": version.markup_bp,
            "created_at": row.created_at_ms,
            "actor": row.actor,
        }
        try:
            with named_faults():
                async with self._engine.begin() as connection:
                    await connection.execute(insert(app_prices).values(**values))
        except SqlRefused as taken:
            raise SameInstant from taken

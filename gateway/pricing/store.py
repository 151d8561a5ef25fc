"""The rows of app prices and of price lists in the platform's database: the only SQL of this room.

Rows are only ever added, each together with its line in the trail.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.db.faults import SqlRefused, named_faults
from gateway.db.tables import app_prices, apps, price_lists
from gateway.pricing.book import ANY_MODEL, Version
from gateway.trail import store as trail
from gateway.trail.model import Act

LIST_ADDED: Final = "price_list.create"  # in the trail


class SameInstant(Exception):
    """The model has a price from that very moment already."""


class PriceRow(msgspec.Struct, frozen=True):
    """A stored version with its trail."""

    id: str
    version: Version
    created_at_ms: int
    actor: str


class ListRow(msgspec.Struct, frozen=True):
    """A price list that took the place of the shipped one; `models` have prices, `digest` is the SHA-256 of its JSON."""

    id: str
    effective_at_ms: int
    models: int
    digest: str
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

    async def defaults_at(self, enterprise_ids: Sequence[str], at_ms: int) -> dict[str, Version]:
        """The version of "*" in force at a time, of those of the apps that have one."""
        columns = (app_prices.c.enterprise_id, app_prices.c.effective_at, app_prices.c.rates, app_prices.c.markup_bp)
        query = (
            select(*columns)
            .where(app_prices.c.enterprise_id.in_(enterprise_ids), app_prices.c.model == ANY_MODEL, columns[1] <= at_ms)
            .order_by(columns[1])
        )
        with named_faults():
            async with self._engine.connect() as connection:
                rows = (await connection.execute(query)).all()
        return {row[0]: Version(ANY_MODEL, row[1], row[2], row[3]) for row in rows}  # of several of an app, the last stays

    async def add(self, enterprise_id: str, row: PriceRow, role: str) -> None:
        """Insert, and say so in the trail; raises SameInstant. The app must exist."""
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
        with named_faults():
            async with self._engine.begin() as connection:
                try:
                    with named_faults():
                        await connection.execute(insert(app_prices).values(**values))
                except SqlRefused as taken:
                    raise SameInstant from taken
                act = Act(
                    name="price.create",
                    role=role,
                    actor=row.actor,
                    subject=row.id,
                    user_id=await connection.scalar(select(apps.c.user_id).where(apps.c.enterprise_id == enterprise_id)) or "",
                    enterprise_id=enterprise_id,
                    before=await _held_before(connection, enterprise_id, version),
                    after=_told(version.model, version.effective_at_ms, version.rates, version.markup_bp),
                )
                await trail.append(connection, trail.trail_of(None), act, row.created_at_ms)

    async def lists(self) -> list[ListRow]:
        """Every price list, the latest to hold first, without its content."""
        of = price_lists.c
        query = select(of.id, of.effective_at, of.models, of.digest, of.created_at, of.actor).order_by(of.effective_at.desc())
        with named_faults():
            async with self._engine.connect() as connection:
                return [ListRow(*row) for row in (await connection.execute(query)).all()]

    async def list_content(self, list_id: str) -> bytes:
        """The JSON of a list that there is."""
        query = select(price_lists.c.content).where(price_lists.c.id == list_id)
        with named_faults():
            async with self._engine.connect() as connection:
                return zlib.decompress((await connection.execute(query)).scalar_one())

    async def add_list(self, row: ListRow, deflated: bytes, role: str) -> None:
        """Insert, and say so in the trail; raises SameInstant."""
        values = {
            "id": row.id,
            "effective_at": row.effective_at_ms,
            "models": row.models,
            "digest": row.digest,
            "created_at": row.created_at_ms,
            "actor": row.actor,
            "content": deflated,
        }
        after = {"effective_at_ms": row.effective_at_ms, "models": row.models, "digest": row.digest}
        act = Act(name=LIST_ADDED, role=role, actor=row.actor, subject=row.id, after=after)
        with named_faults():
            async with self._engine.begin() as connection:
                try:
                    with named_faults():
                        await connection.execute(insert(price_lists).values(**values))
                except SqlRefused as taken:
                    raise SameInstant from taken
                await trail.append(connection, trail.trail_of(None), act, row.created_at_ms)

    async def record_configured(self, act: Act, at_ms: int) -> bool:
        """Say in the trail what prices the configuration gives, when it is not what the trail said last; whether it was."""
        with named_faults():
            async with self._engine.begin() as connection:
                return await trail.append_if_new(connection, trail.trail_of(None), act, at_ms) is not None


async def _held_before(connection: AsyncConnection, enterprise_id: str, version: Version) -> dict[str, Any] | None:
    """The price that the new one takes the place of: the latest before it of the same model."""
    query = select(app_prices.c.effective_at, app_prices.c.rates, app_prices.c.markup_bp).where(
        app_prices.c.enterprise_id == enterprise_id,
        app_prices.c.model == version.model,
        app_prices.c.effective_at < version.effective_at_ms,
    )
    row = (await connection.execute(query.order_by(app_prices.c.effective_at.desc()).limit(1))).first()
    return None if row is None else _told(version.model, row[0], row[1], row[2])


def _told(model: str, effective_at_ms: int, rates: Mapping[str, Any] | None, markup_bp: int | None) -> dict[str, Any]:
    price = {"markup_bp": markup_bp} if rates is None else {"rates": dict(rates)}
    return {"model": model, "effective_at_ms": effective_at_ms, **price}

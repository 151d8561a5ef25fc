"""The roll-up of usage by hour, over all apps: the only SQL of this room. It knows no end users."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.core.errors import InvalidRequest
from gateway.core.money import USD
from gateway.core.words import Level
from gateway.db.faults import named_faults
from gateway.db.tables import usage_hours
from gateway.ledger.model import UsageTotal

ROLLUP_GROUPS: Final = ("day", "hour", "enterprise_id", "user_id", "level", "model", "provider", "workflow_type")
GROUPS_MAX: Final = 10_000
_DAY_MS: Final = 86_400_000


async def rolled_up(
    engine: AsyncEngine, group_by: Sequence[str], equal: Mapping[str, str], from_ms: int | None, to_ms: int | None
) -> list[UsageTotal]:
    """Sums by any of ROLLUP_GROUPS and always by asset; `from_ms` and `to_ms` count whole hours by their start.

    `equal` filters by columns. InvalidRequest for another group, or more than GROUPS_MAX groups. SqlDown.
    """
    unknown = [name for name in group_by if name not in ROLLUP_GROUPS]
    if unknown:
        raise InvalidRequest(f"cannot group all apps by {unknown[0]!r}: one of {', '.join(ROLLUP_GROUPS)}", param="group_by")
    hours = usage_hours.c
    # As in an app's usage rows: the amount is the paying wallet's, and creators pay in USD.
    is_platform = hours.level == Level.PLATFORM.value
    amount = sa.case((is_platform, hours.creator_micro), else_=hours.end_user_micro)
    asset = sa.case((is_platform, sa.literal_column(f"'{USD}'")), else_=hours.asset)
    keys = [_group(name).label(f"group_{name}") for name in group_by]
    counted = (hours.requests, hours.input_tokens, hours.output_tokens, amount, hours.creator_micro, hours.provider_cost_micro)
    places: list[sa.ColumnElement[Any]] = [sa.literal_column(str(place)) for place in range(1, len(keys) + 2)]
    rules = [hours[name] == value for name, value in equal.items()]
    if from_ms is not None:
        rules.append(hours.hour >= from_ms)
    if to_ms is not None:
        rules.append(hours.hour < to_ms)
    query = sa.select(*keys, asset.label("of_asset"), *[sa.func.sum(column) for column in counted])
    query = query.where(*rules).group_by(*places).order_by(*places).limit(GROUPS_MAX + 1)
    with named_faults():
        async with engine.connect() as connection:
            found = (await connection.execute(query)).all()
    if len(found) > GROUPS_MAX:
        raise InvalidRequest(f"more than {GROUPS_MAX} groups: ask for less time or fewer groups", param="group_by")
    at = len(keys)
    return [
        UsageTotal(tuple(zip(group_by, row[:at], strict=True)), row[at], *[int(value) for value in row[at + 1 :]])
        for row in found
    ]


def _group(name: str) -> sa.ColumnElement[Any]:
    hours = usage_hours.c
    if name == "day":
        return hours.hour - hours.hour % sa.literal_column(str(_DAY_MS))
    return hours[name]

"""Handlers: an app's own prices, and what every served model costs."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from gateway.api.endpoint import ApiContext, Call
from gateway.api.price_shapes import PriceAnswer, PriceBookAnswer, PricesQuery
from gateway.api.served import served, unserved
from gateway.api.shapes import Listing, ms_of
from gateway.api.wire import listing
from gateway.core.clock import now_ms, rfc3339
from gateway.core.errors import Forbidden, InvalidRequest
from gateway.core.money import USD
from gateway.core.words import CostPolicy
from gateway.identity.cache import PRICES
from gateway.identity.model import Actor, App, Role
from gateway.identity.rules import page
from gateway.pricing.book import ANY_MODEL
from gateway.pricing.catalog import MARKUP_BP_MAX
from gateway.pricing.configured import percent
from gateway.pricing.rates import Rates
from gateway.pricing.store import PriceRow
from gateway.pricing.written import WrongPrice, read_prices, shown, written

_OWN_NAMES = {"rates": "prices", "markup_bp": "markup_percent"}


async def add(context: ApiContext, call: Call) -> PriceBookAnswer:
    """POST apps/{enterprise_id}/price-books."""
    app = await context.registry.app(call.actor, call.path["enterprise_id"])
    body = call.body
    if (body.prices is None) == (body.markup_percent is None):
        raise InvalidRequest("Give either `prices` or `markup_percent`.", param="prices")
    if body.prices is not None and call.actor.role != Role.OPERATOR and app.cost_policy == CostPolicy.PLATFORM_PAYS:
        # As with grants: at a price below the provider's, of 0 even, the operator would pay for what is given away.
        raise Forbidden(
            "A creator sets prices only in apps whose usage it pays for (cost_policy creator_pays), elsewhere a markup.",
            param="prices",
        )
    try:
        row = await context.catalog.add_app_price(
            app.enterprise_id,
            body.model,
            now_ms(context.clock) if body.effective_at is None else ms_of(body.effective_at),
            rates=_rates(body.prices),
            markup_bp=markup_bp_of(body.markup_percent),
            actor=call.actor.name,
            role=call.actor.role,
        )
    except InvalidRequest as wrong:
        wrong.param = _OWN_NAMES.get(wrong.param or "", wrong.param)
        raise
    await context.identity.announce(PRICES, app.enterprise_id)
    return msgspec.structs.replace(_shown(app, row), warnings=unserved(context.routing, context.catalog, [body.model]))


async def add_markup(context: ApiContext, actor: Actor, enterprise_id: str, markup_bp: int) -> None:
    """A markup of an app on every model without prices of its own, from now on."""
    at_ms = now_ms(context.clock)
    await context.catalog.add_app_price(enterprise_id, ANY_MODEL, at_ms, markup_bp=markup_bp, actor=actor.name, role=actor.role)
    await context.identity.announce(PRICES, enterprise_id)


def checked_markup_bp(given: str | int | float | None, asset: str) -> int | None:
    """As `markup_bp_of`; InvalidRequest, too, where no markup can be: providers' prices are in USD."""
    markup_bp = markup_bp_of(given)
    if markup_bp is not None and asset != USD:
        raise InvalidRequest(f"Providers' prices are in USD: an app in {asset} needs a price book.", param="markup_percent")
    return markup_bp


async def show(context: ApiContext, call: Call) -> Listing[PriceBookAnswer]:
    """GET apps/{enterprise_id}/price-books, newest first: what was over keeps its price."""
    app = await context.registry.app(call.actor, call.path["enterprise_id"])
    count = page(call.query.cursor, call.query.limit)
    rows = sorted(await context.catalog.app_prices(app.enterprise_id), key=lambda row: row.id, reverse=True)
    if call.query.cursor is not None:
        rows = [row for row in rows if row.id < call.query.cursor]
    return listing(rows[:count], rows[count - 1].id if len(rows) > count else None, lambda row: _shown(app, row))


def markup_bp_of(given: str | int | float | None) -> int | None:
    """Basis points of a percentage; InvalidRequest unless it is 0 to 10,000 with at most two decimals."""
    if given is None:
        return None
    try:
        points = Decimal(str(given)) * 100
    except ArithmeticError as wrong:
        raise InvalidRequest("`markup_percent` is not a number", param="markup_percent") from wrong
    if not points.is_finite() or not 0 <= points <= MARKUP_BP_MAX or points != points.to_integral_value():
        most = MARKUP_BP_MAX // 100
        raise InvalidRequest(f"`markup_percent` must be 0 to {most} with at most two decimals", param="markup_percent")
    return int(points)


def _rates(prices: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if prices is None:
        return None
    try:
        return read_prices(prices)
    except WrongPrice as wrong:
        raise InvalidRequest(f"{wrong}.", param=f"prices.{wrong.field}" if wrong.field else "prices") from wrong


def _shown(app: App, row: PriceRow) -> PriceBookAnswer:
    version = row.version
    return PriceBookAnswer(
        id=row.id,
        enterprise_id=app.enterprise_id,
        model=version.model,
        asset=app.asset,
        effective_at=rfc3339(version.effective_at_ms),
        prices=None if version.rates is None else written(version.rates),
        markup_percent=None if version.markup_bp is None else percent(version.markup_bp),
        created_at=rfc3339(row.created_at_ms),
        actor=row.actor,
    )


async def listed(context: ApiContext, call: Call) -> Listing[PriceAnswer]:
    """GET prices: what each served model costs, is charged, and with `enterprise_id`, what that app takes for it now."""
    query: PricesQuery = call.query
    app = None if query.enterprise_id is None else await context.registry.app(call.actor, query.enterprise_id)
    at_ms = now_ms(context.clock)
    own = [] if app is None else [row.version.model for row in await context.catalog.app_prices(app.enterprise_id)]
    rows = []
    for each in served(context.routing, context.catalog, query.model, own):
        for deployment in each.deployments:
            found = context.catalog.provided(deployment.id)
            row = PriceAnswer(
                model=each.model,
                deployment=deployment.id,
                source=found.cost_source,
                prices=_decimals(found.cost) or {},
                charge_source=found.charge_source,
                charge=_decimals(found.charge),
            )
            rows.append(row if app is None else await _with_app(context, row, app, at_ms))
    return Listing(tuple(rows), False, None)


async def _with_app(context: ApiContext, row: PriceAnswer, app: App, at_ms: int) -> PriceAnswer:
    found = await context.catalog.app_rates(app.enterprise_id, app.asset, row.model, row.deployment, at_ms)
    return msgspec.structs.replace(
        row,
        app_asset=app.asset,
        app_source=found.source,
        app_since=None if found.since_ms is None else rfc3339(found.since_ms),
        app_prices=_decimals(found.rates),
    )


def _decimals(rates: Rates | None) -> dict[str, Any] | None:
    """Prices as they are written, without kinds that cost nothing; of long prompts and variants, what is different."""
    return None if rates is None else shown(rates)

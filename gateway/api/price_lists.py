"""Handlers: the price lists in litellm's format, and what each list and the configuration say of what is served here."""

import asyncio

import msgspec

from gateway.api.endpoint import ApiContext, Call
from gateway.api.price_shapes import (
    OfferedList,
    PriceDifference,
    PriceDifferencesQuery,
    PriceListAnswer,
    PriceListBody,
    Prices,
)
from gateway.api.served import served
from gateway.api.shapes import Listing, ms_of
from gateway.core.clock import now_ms, rfc3339
from gateway.core.errors import InvalidRequest
from gateway.identity.cache import PRICE_LISTS, PRICES
from gateway.pricing.lists import checked
from gateway.pricing.rates import Rates
from gateway.pricing.shipped import PriceList, shipped_models, shipped_version
from gateway.pricing.store import ListRow
from gateway.pricing.written import shown


async def show(context: ApiContext, call: Call) -> Listing[PriceListAnswer]:
    """GET price-lists: the latest first, the shipped one last."""
    await context.catalog.load_lists()
    in_force = context.catalog.lists.in_force()
    rows = [_shown(row, is_in_force=row.id == in_force) for row in await context.catalog.lists.rows()]
    priced = await asyncio.to_thread(shipped_models)
    first = PriceListAnswer("shipped", f"litellm {shipped_version()}", priced, in_force=not in_force)
    return Listing((*rows, first), False, None)


async def add(context: ApiContext, call: Call) -> PriceListAnswer:
    """POST price-lists: every process follows within half a minute; what was used before keeps its price."""
    body: PriceListBody = call.body
    at_ms = now_ms(context.clock) if body.effective_at is None else ms_of(body.effective_at)
    row = await context.catalog.lists.add(_content(body.prices), at_ms, call.actor.name, call.actor.role)
    await context.catalog.load_lists()
    await context.identity.announce(PRICES, PRICE_LISTS)
    return _shown(row, is_in_force=row.id == context.catalog.lists.in_force())


async def differences(context: ApiContext, call: Call) -> Listing[PriceDifference]:
    """GET price-differences: where the configuration's prices are not those of the price list in force."""
    query: PriceDifferencesQuery = call.query
    return Listing(tuple(_differences(context, query.model, None)), False, None)


async def compare(context: ApiContext, call: Call) -> Listing[PriceDifference]:
    """POST price-lists/compare: what would be different by this list; nothing is kept."""
    body: OfferedList = call.body
    offered, _ = await checked(_content(body.prices))
    return Listing(tuple(_differences(context, body.model, offered)), False, None)


def _content(prices: msgspec.Raw) -> bytes:
    content = bytes(prices)
    if not content.lstrip().startswith(b"{"):
        raise InvalidRequest("A price list is an object of models, in litellm's format.", param="prices")
    return content


def _differences(context: ApiContext, model: str, offered: PriceList | None) -> list[PriceDifference]:
    """Of what is served: by the list in force against the configuration, or against another list, where that is given."""
    found = []
    for each in served(context.routing, context.catalog, model):
        for deployment in each.deployments:
            prices = context.catalog.compare(deployment.id, offered)
            one, other = (prices.configured, prices.listed) if offered is None else (prices.listed, prices.offered)
            if _decimals(one) != _decimals(other) and (offered is not None or None not in (one, other)):
                row = PriceDifference(
                    each.model, deployment.id, prices.source, _decimals(prices.configured), _decimals(prices.listed)
                )
                found.append(row if offered is None else msgspec.structs.replace(row, offered=_decimals(prices.offered)))
    return found


def _decimals(rates: Rates | None) -> Prices | None:
    return None if rates is None else shown(rates)


def _shown(row: ListRow, *, is_in_force: bool) -> PriceListAnswer:
    return PriceListAnswer(
        id=row.id,
        source=f"updated list ({rfc3339(row.effective_at_ms)[:10]})",
        models=row.models,
        in_force=is_in_force,
        effective_at=rfc3339(row.effective_at_ms),
        digest=row.digest,
        created_at=rfc3339(row.created_at_ms),
        actor=row.actor,
    )

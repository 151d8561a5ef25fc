"""Handlers and JSON of automatic top-up: its rules, and the page on which a buyer saves a card."""

from typing import Annotated, Final

from msgspec import Meta

from gateway.api.billing_shapes import SalesQuery, Url
from gateway.api.endpoint import ANYONE_KNOWN, ApiContext, Call, Endpoint
from gateway.api.shapes import Answer, Body, Listing, Micro, Stamp, WalletName
from gateway.api.wire import listing
from gateway.billing.acts import Named
from gateway.billing.minor_units import micro_from_minor
from gateway.billing.top_ups.rules import NewTopUp, TopUp
from gateway.core.clock import rfc3339

_STATUS = "`on`, `buying`, `waiting` (a cap is reached, or nothing can be sold now), `paused` (set it again) or `off`"
_REASON = "Stripe's word or ours for why it waits or is paused, such as `authentication_required` or `monthly_max_reached`"


class TopUpBody(Body, frozen=True):
    """When the wallet's balance, what is held for requests included, falls below `below_micro`, buy this package.

    At most `monthly_max_micro` (in the plan's currency) in a calendar month of UTC, and `daily_max` times in 24 hours. An end
    user's token, and a creator, name nobody.
    """

    plan_id: str
    below_micro: Micro
    monthly_max_micro: Micro
    daily_max: int = 5
    platform_user_id: str | None = None
    user_id: str | None = None


class TopUpAnswer(Answer, frozen=True):
    """A wallet's rule and where it stands. `spent_micro`: what it has bought this month, in `currency`."""

    wallet: WalletName
    plan_id: str
    below_micro: Micro
    currency: str
    monthly_max_micro: Micro
    spent_micro: Micro
    daily_max: int
    status: Annotated[str, Meta(description=_STATUS)]
    reason: Annotated[str, Meta(description=_REASON)]
    last_purchase_id: str | None
    updated_at: Stamp


class TopUpQuery(Body, frozen=True):
    """Whose rule; an end user's token, and a creator for the own wallet, name nobody."""

    enterprise_id: str | None = None
    platform_user_id: str | None = None
    user_id: str | None = None


class SavingBody(Body, frozen=True):
    """Who saves a card, and where the browser goes afterwards; without `success_url`, to a page of the gateway's."""

    success_url: Url | None = None
    cancel_url: Url | None = None
    enterprise_id: str | None = None
    platform_user_id: str | None = None
    user_id: str | None = None
    email: str | None = None


class SavingAnswer(Answer, frozen=True):
    """Send the buyer to `url` within a day."""

    id: str
    url: Url | None
    status: str


async def save_card(context: ApiContext, call: Call) -> SavingAnswer:
    """POST payment-method-sessions."""
    body: SavingBody = call.body
    page = await context.sales.top_ups.page(
        call.actor, body.enterprise_id, _buyer(body), body.success_url, body.cancel_url, body.email
    )
    return SavingAnswer(page.session_id, page.url, page.status)


async def turn_on(context: ApiContext, call: Call) -> TopUpAnswer:
    """PUT top-ups. A balance that is low already is seen at once, whichever process acts on it."""
    body: TopUpBody = call.body
    new = NewTopUp(body.plan_id, body.below_micro, body.monthly_max_micro, body.daily_max)
    return _shown(await context.sales.top_ups.turn_on(call.actor, _buyer(body), new))


async def turn_off(context: ApiContext, call: Call) -> TopUpAnswer:
    """DELETE top-ups."""
    return _shown(await context.sales.top_ups.turn_off(call.actor, call.query.enterprise_id, _buyer(call.query)))


async def rules(context: ApiContext, call: Call) -> Listing[TopUpAnswer]:
    """GET top-ups, by owner."""
    query: SalesQuery = call.query
    page = await context.sales.top_ups.listed(call.actor, query.enterprise_id, _buyer(query), query.cursor, query.limit)
    return listing(page.rows, page.next_cursor, _shown)


def _buyer(given: TopUpBody | TopUpQuery | SavingBody | SalesQuery) -> Named:
    return Named(given.platform_user_id, given.user_id)


def _shown(found: TopUp) -> TopUpAnswer:
    rule, key = found.rule, found.rule.wallet
    of_app = WalletName(enterprise_id=key.enterprise_id, platform_user_id=key.owner)
    return TopUpAnswer(
        wallet=WalletName(user_id=key.owner) if key.enterprise_id is None else of_app,
        plan_id=rule.plan_id,
        below_micro=rule.below_micro,
        currency=found.currency,
        monthly_max_micro=micro_from_minor(rule.monthly_max_minor, found.currency),
        spent_micro=micro_from_minor(found.spent_minor, found.currency),
        daily_max=rule.daily_max,
        status=found.status,
        reason=found.reason,
        last_purchase_id=rule.last_purchase_id,
        updated_at=rfc3339(rule.updated_at_ms),
    )


_V1: Final = "/api/v1"
_ON, _OFF = "Buy a package whenever a balance is low", "Buy nothing more automatically"
_LIST, _SAVE = "List automatic top-ups, by owner", "Open a page on which to save a card"
ROWS: Final = (  # of `table`
    Endpoint(
        "POST", f"{_V1}/payment-method-sessions", ANYONE_KNOWN, save_card, SavingAnswer, _SAVE, SavingBody, status=201, sells=True
    ),
    Endpoint("PUT", f"{_V1}/top-ups", ANYONE_KNOWN, turn_on, TopUpAnswer, _ON, TopUpBody, sells=True),
    Endpoint("GET", f"{_V1}/top-ups", ANYONE_KNOWN, rules, Listing[TopUpAnswer], _LIST, query=SalesQuery, sells=True),
    Endpoint("DELETE", f"{_V1}/top-ups", ANYONE_KNOWN, turn_off, TopUpAnswer, _OFF, query=TopUpQuery, sells=True),
)

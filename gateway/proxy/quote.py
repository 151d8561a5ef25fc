"""Who pays for a request, at which rates, and the most it can cost: pure, before anything is held.

Level 1 is one payer, the creator's wallet at platform prices. Level 2 is the end user's wallet at the
app's prices and, under `creator_pays`, the creator's wallet at platform prices as well. An
`analytics_only` app has no payer: the request is measured, never refused for money.
"""

from functools import lru_cache
from typing import Final

import msgspec

from gateway.balance.model import BY_TOKENS, Charge, Limit, LimitKind
from gateway.core.errors import InvalidRequest, PaymentRequired
from gateway.core.ids import app_wallet, platform_wallet
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.core.units import KINDS, UNIT_KINDS
from gateway.core.words import CostPolicy, Enforcement, Level
from gateway.identity.model import Limits, Principal
from gateway.metering.event import EventFront, EventPayer
from gateway.pricing.rates import SEARCH, Rates, cheaper
from gateway.providers.azure import is_translated
from gateway.providers.model import Deployment
from gateway.proxy.ports import Prices
from gateway.proxy.surface import AUTO_TIERS, Request
from gateway.proxy.tool_calls import check_priced, placed
from gateway.proxy.wire import Tags

# Python 3.11 finds a member of an enum class in ten times the steps of a plain name.
_ANALYTICS_ONLY: Final = Enforcement.ANALYTICS_ONLY
_PLATFORM: Final = Level.PLATFORM
_CREATOR_PAYS: Final = CostPolicy.CREATOR_PAYS
_PLATFORM_PAYS: Final = CostPolicy.PLATFORM_PAYS.value
_OWN_KEYS: Final = CostPolicy.OWN_KEYS.value
_APP_USAGE: Final = Level.APP_USAGE


class Payer(msgspec.Struct, frozen=True):
    """One wallet that pays, and its rates. `role` is `creator` or `end_user`."""

    wallet: str
    role: str
    rates: Rates


def payers(
    prices: Prices, principal: Principal, end_user: str | None, model: str, deployment_id: str, at_ms: int
) -> tuple[Payer, ...] | None:
    """The payers of a request, the level's own payer first; None while the app's price book must be loaded.

    Raises PaymentRequired `unpriced_model`: a charged request is never free by accident.
    """
    app = principal.app
    if app.enforcement is _ANALYTICS_ONLY:
        return ()
    if principal.level is _PLATFORM:
        return (Payer(platform_wallet(app.user_id), "creator", _priced(prices.platform(model, deployment_id, at_ms), model)),)
    rates = prices.app_cached(app.enterprise_id, app.asset, model, deployment_id, at_ms)
    if rates is False:
        return None
    assert end_user is not None
    user = Payer(app_wallet(app.enterprise_id, end_user), "end_user", _priced(rates, model))
    if app.cost_policy is not _CREATOR_PAYS:
        return (user,)
    creator = Payer(platform_wallet(app.user_id), "creator", _priced(prices.platform(model, deployment_id, at_ms), model))
    return (user, creator)


def _priced(rates: Rates | None, model: str) -> Rates:
    if rates is None:
        raise PaymentRequired(f"{model} has no price here, so it cannot be charged for", code="unpriced_model", param="model")
    return rates


def for_units(
    prices: Prices, paying: tuple[Payer, ...], request: Request, deployment: Deployment, at_ms: int
) -> tuple[Payer, ...]:
    """The payers at the rates of what a request asked for by name; PaymentRequired `unpriced_model`.

    What the provider bills by the image or second must not be had for a price by the token, which counts none; nor a service
    tier for the price of another; nor a tool of the provider's own without its fee (InvalidRequest).
    """
    if request.calls is not None:
        placed(request, deployment)
    cost = prices.cost(deployment.id, at_ms)
    if cost is not None:
        cost = cost.variant(request.variant)
    _, _, tier = request.variant.partition("|")
    found = []
    kinds = [kind for kind, _ in request.units if kind in UNIT_KINDS]  # a price by the token has every kind of token
    for payer in paying:
        if tier and request.calls is None and request.variant != AUTO_TIERS and not payer.rates.has_variant(tier):
            told = f"{request.model} has no price here at the service tier {tier}"
            raise PaymentRequired(told, code="unpriced_model", param="service_tier")
        rates = payer.rates.variant(request.variant)
        if request.calls is not None:
            check_priced(request, rates)
        if request.variant.startswith(SEARCH):
            _check_search(request, deployment, rates, cost, payer.rates)
        lacking = [kind for kind in kinds if not getattr(rates, kind)]
        if cost is not None:
            unpriced = any(getattr(cost, kind) for kind in lacking)
        else:  # the kinds are other ways to bill the same, and who priced one of them knew which
            unpriced = bool(kinds) and lacking == kinds and any(getattr(rates, each) for each in KINDS)
        if unpriced:
            _priced(None, request.model)
        found.append(Payer(payer.wallet, payer.role, rates))
    return tuple(found)


def _check_search(request: Request, deployment: Deployment, rates: Rates, cost: Rates | None, plain: Rates) -> None:
    """InvalidRequest where a search of the web, by an option of a chat, has no fee among the prices."""
    param = "web_search_options"
    sized = request.variant != SEARCH
    if is_translated(deployment) or not rates.request or (cost is not None and not cost.request):
        raise InvalidRequest(f"{param} has no price here: {request.model} needs one named request", param=param)
    if sized and not plain.has_variant(request.variant):
        told = f"a search of this size has no price here: {request.model} needs a variant named {request.variant}"
        raise InvalidRequest(told, param=f"{param}.search_context_size")


def served(paying: tuple[Payer, ...], variant: str) -> tuple[Payer, ...]:
    """The payers at the rates of what the request was served as, where that is known by name only from the answer.

    Never at rates above those by which it was held: a tier that nobody asked for is the operator's to pay.
    """
    return tuple([Payer(payer.wallet, payer.role, cheaper(payer.rates, payer.rates.variant(variant))) for payer in paying])


def cost_micro(prices: Prices, policy: str, deployment_id: str, variant: str, counts: tuple[int, ...], at_ms: int) -> int:
    """What the provider takes of the operator for an answer, in micro-USD: nothing where the creator's own key paid for it."""
    rates = None if policy == _OWN_KEYS else prices.cost(deployment_id, at_ms)
    return 0 if rates is None else (rates.variant(variant) if variant else rates).price_of(counts)


def charges(
    paying: tuple[Payer, ...], input_tokens: int, least_output: int, most_output: int, units: tuple[tuple[str, int], ...] = ()
) -> tuple[Charge, ...]:
    """What each wallet must cover: the ceiling of the most output, or at the least that of `least_output`."""
    made = []
    for payer in paying:
        ceiling, least = payer.rates.ceiling(input_tokens, most_output), 0
        if units:
            least = payer.rates.units_price(units)
            ceiling += least
        if ceiling > AMOUNT_MICRO_MAX:
            ceiling = AMOUNT_MICRO_MAX
        floor = ceiling if least_output == most_output else min(least + payer.rates.ceiling(input_tokens, least_output), ceiling)
        made.append(Charge(payer.wallet, ceiling, floor))
    return tuple(made)


def output_covered(
    paying: tuple[Payer, ...], granted: tuple[int, ...], input_tokens: int, units: tuple[tuple[str, int], ...] = ()
) -> int:
    """How many output tokens every one of the holds covers, besides the units."""
    if units:
        granted = tuple([held - payer.rates.units_price(units) for payer, held in zip(paying, granted, strict=True)])
    return min(payer.rates.output_covered(amount, input_tokens) for payer, amount in zip(paying, granted, strict=True))


def limits_of(principal: Principal, end_user: str, charged: bool) -> tuple[Limit, ...]:
    """Every limit that this request counts on: the key's, the end-user token's, the app's for each end user ("" for none)."""
    made: tuple[Limit, ...] = ()
    if principal.limits != _NONE:
        made = _limits("k/", principal.key_id, principal.limits, charged)
    if principal.token_id is not None and principal.token_limits != _NONE:
        made += _limits("t/", principal.token_id, principal.token_limits, charged)
    if end_user and principal.app.end_user_limits != _NONE:
        made += _limits("u/", f"{principal.app.enterprise_id}/{end_user}", principal.app.end_user_limits, charged)
    return made


_NONE: Final = Limits()


@lru_cache(maxsize=8192)
def _limits(of: str, owner: str, limits: Limits, charged: bool) -> tuple[Limit, ...]:
    """The same objects each time, by which the balance knows them again."""
    found = [
        # What counts by tokens counts no more than the maximum at once: 0 refuses by counting the request.
        (LimitKind.TOKENS_PER_MINUTE, limits.tpm, BY_TOKENS if limits.tpm else 1),
        (LimitKind.REQUESTS_PER_MINUTE, limits.rpm, 1),
        (LimitKind.CONCURRENCY, limits.concurrency, 1),
        (LimitKind.SPEND_PER_DAY, limits.spend_micro_per_day if charged else None, 0),
        (LimitKind.SPEND_PER_MONTH, limits.spend_micro_per_month if charged else None, 0),
        (LimitKind.SPEND_TOTAL, limits.spend_micro_total if charged else None, 0),
    ]
    return tuple([Limit(of + owner, kind, maximum, amount) for kind, maximum, amount in found if maximum is not None])


def front_of(
    request_id: str,
    request: Request,
    principal: Principal,
    end_user: str | None,
    tags: Tags,
    deployment: Deployment,
    paying: tuple[Payer, ...],
) -> EventFront:
    """What the usage event says of a request before it is sent."""
    app = principal.app
    return EventFront(
        request_id=request_id,
        level=principal.level._value_,
        user_id=app.user_id,
        enterprise_id=app.enterprise_id,
        key_id=principal.key_id,
        endpoint=request.surface.path,
        model=request.model,
        platform_user_id=end_user or "",
        workflow_type=tags.workflow_type,
        session_id=tags.session_id,
        agent_name=tags.agent_name,
        tags=tags.tags,
        provider=deployment.provider,
        deployment=deployment.id,
        payers=tuple([EventPayer(payer.wallet, payer.role, payer.rates.asset) for payer in paying]),
        cost_policy=app.cost_policy._value_ if principal.level is _APP_USAGE else _PLATFORM_PAYS,
        streamed=request.streamed,
    )

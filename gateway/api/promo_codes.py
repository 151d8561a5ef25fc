"""Handlers and JSON of promo codes: what sellers take off their prices, and what was redeemed."""

from decimal import Decimal
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gateway.api.endpoint import MANAGERS, ApiContext, Call, Endpoint
from gateway.api.shapes import Answer, Body, Listing, Micro, PageQuery, Percent, Stamp, Time, WalletName, ms_of
from gateway.api.wire import listing
from gateway.billing.minor_units import micro_from_minor
from gateway.billing.model import PromoCode, PromoDuration, Redemption
from gateway.billing.promo_codes import NewPromoCode
from gateway.core.clock import rfc3339
from gateway.core.errors import InvalidRequest
from gateway.pricing.configured import percent

_OFF = "Percentage above 0 and up to 100, with at most two decimals."


class PromoCodeBody(Body, frozen=True):
    """A new code: 3 to 40 letters, digits and `-`, in any case. Either `percent_off`, or `amount_off_micro` of a `currency`.

    `duration` says of which invoices of a subscription: the first (`once`), all (`forever`), or those of `duration_months`.
    Without `plan_ids` it is for all of the seller's plans.
    """

    code: str
    enterprise_id: str | None = None
    percent_off: Percent | None = None
    amount_off_micro: Micro | None = None
    currency: str | None = None
    duration: PromoDuration = PromoDuration.ONCE
    duration_months: int | None = None
    max_redemptions: int | None = None
    first_purchase_only: bool = False
    plan_ids: tuple[str, ...] = ()
    expires_at: Time | None = None


class PromoCodeAnswer(Answer, frozen=True, omit_defaults=True):
    """A code. `redemptions`: how many purchases and subscriptions redeemed it, where codes are listed."""

    id: str
    enterprise_id: str | None
    code: str
    percent_off: Annotated[str, Meta(description=_OFF)] | None
    amount_off_micro: Micro | None
    currency: str | None
    duration: PromoDuration
    duration_months: int | None
    max_redemptions: int | None
    first_purchase_only: bool
    plan_ids: tuple[str, ...]
    expires_at: Stamp | None
    created_at: Stamp
    ended_at: Stamp | None
    redemptions: int | msgspec.UnsetType = msgspec.UNSET


class PromoCodesQuery(PageQuery, frozen=True):
    """Whose codes: an app's, or without one the platform's; `ended`: also those that have ended."""

    enterprise_id: str | None = None
    ended: bool = False


class RedemptionAnswer(Answer, frozen=True):
    """One payment that a code made less. `purchase_id` is ours; a subscription's payment has Stripe's ids of it and its invoice.

    `given_micro` of what it granted, in the wallet's asset, was the seller's gift.
    """

    id: str
    wallet: WalletName
    plan_id: str
    purchase_id: str | None
    subscription_id: str | None
    invoice_id: str | None
    currency: str
    discount_micro: Micro
    paid_micro: Micro
    given_micro: Micro
    created_at: Stamp


async def create(context: ApiContext, call: Call) -> PromoCodeAnswer:
    """POST promo-codes."""
    fields = msgspec.structs.asdict(call.body)
    off, most, expires_at = fields.pop("percent_off"), fields.pop("max_redemptions"), fields.pop("expires_at")
    new = NewPromoCode(
        **fields,
        percent_bp=None if off is None else _bp(off),
        redemptions_max=most,
        expires_at_ms=None if expires_at is None else ms_of(expires_at),
    )
    return _shown(await context.sales.promo_codes.create(call.actor, new))


async def list_codes(context: ApiContext, call: Call) -> Listing[PromoCodeAnswer]:
    """GET promo-codes, newest first."""
    query: PromoCodesQuery = call.query
    page = await context.sales.promo_codes.listed(
        call.actor, query.enterprise_id, query.cursor, query.limit, ended=query.ended
    )
    return listing(page.rows, page.next_cursor, lambda row: msgspec.structs.replace(_shown(row[0]), redemptions=row[1]))


async def end(context: ApiContext, call: Call) -> PromoCodeAnswer:
    """DELETE promo-codes/{promo_code_id}; a code's letters will do."""
    return _shown(await context.sales.promo_codes.end(call.actor, call.path["promo_code_id"]))


async def redemptions(context: ApiContext, call: Call) -> Listing[RedemptionAnswer]:
    """GET promo-codes/{promo_code_id}/redemptions, the latest first; likewise."""
    query: PageQuery = call.query
    promo_codes = context.sales.promo_codes
    code, page = await promo_codes.redemptions(call.actor, call.path["promo_code_id"], query.cursor, query.limit)
    return listing(page.rows, page.next_cursor, lambda row: _redeemed(row, code.enterprise_id))


def _bp(given: str | int | float) -> int:
    try:
        points = Decimal(str(given)) * 100
    except ArithmeticError as wrong:
        raise InvalidRequest("`percent_off` is not a number", param="percent_off") from wrong
    if not points.is_finite() or points != points.to_integral_value() or not 0 < points <= 10_000:
        raise InvalidRequest("`percent_off` must be above 0 and up to 100, with at most two decimals", param="percent_off")
    return int(points)


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def _shown(code: PromoCode) -> PromoCodeAnswer:
    amount_off_micro = None
    if code.amount_off_minor is not None and code.currency is not None:
        amount_off_micro = micro_from_minor(code.amount_off_minor, code.currency)
    return PromoCodeAnswer(
        id=code.id,
        enterprise_id=code.enterprise_id,
        code=code.code,
        percent_off=None if code.percent_bp is None else percent(code.percent_bp),
        amount_off_micro=amount_off_micro,
        currency=code.currency,
        duration=PromoDuration(code.duration),
        duration_months=code.duration_months,
        max_redemptions=code.redemptions_max,
        first_purchase_only=code.first_purchase_only,
        plan_ids=code.plan_ids,
        expires_at=_time(code.expires_at_ms),
        created_at=rfc3339(code.created_at_ms),
        ended_at=_time(code.ended_at_ms),
    )


def _redeemed(row: Redemption, enterprise_id: str | None) -> RedemptionAnswer:
    of_app = WalletName(enterprise_id=enterprise_id, platform_user_id=row.owner)
    is_package = row.subject == row.ref
    return RedemptionAnswer(
        id=row.id,
        wallet=WalletName(user_id=row.owner) if enterprise_id is None else of_app,
        plan_id=row.plan_id,
        purchase_id=row.subject if is_package else None,
        subscription_id=None if is_package else row.subject,
        invoice_id=None if is_package else row.ref,
        currency=row.currency,
        discount_micro=micro_from_minor(row.discount_minor, row.currency),
        paid_micro=micro_from_minor(row.paid_minor, row.currency),
        given_micro=row.given_micro,
        created_at=rfc3339(row.created_at_ms),
    )


_PATH: Final = "/api/v1/promo-codes"
_MAKE, _LIST, _END = "Make a promo code", "List promo codes, newest first", "End a promo code, by its id or letters"
_REDEEMED: Final = "List what a promo code took off, by its id or letters, the latest first"
ROWS: Final = (  # of `table`
    Endpoint("POST", _PATH, MANAGERS, create, PromoCodeAnswer, _MAKE, PromoCodeBody, status=201, sells=True),
    Endpoint("GET", _PATH, MANAGERS, list_codes, Listing[PromoCodeAnswer], _LIST, query=PromoCodesQuery, sells=True),
    Endpoint("DELETE", f"{_PATH}/{{promo_code_id}}", MANAGERS, end, PromoCodeAnswer, _END, sells=True),
    Endpoint(
        "GET",
        f"{_PATH}/{{promo_code_id}}/redemptions",
        MANAGERS,
        redemptions,
        Listing[RedemptionAnswer],
        _REDEEMED,
        query=PageQuery,
        sells=True,
    ),
)

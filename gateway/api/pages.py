"""Pages for buyers' browsers: what a signed link offers, and where Stripe sends them back to; and how those look.

Looking at a link changes nothing here or at Stripe: only its button does. A page is one small document without scripts, in the
app's name and colours. Everything that somebody else wrote is escaped, colours and the logo's address are of forms in which
nothing else can stand (`billing.pages`), and the answer's Content-Security-Policy allows the style by its own hash, an image from
the logo's server, where there is a button its form, and nothing else.
"""

import base64
import hashlib
import logging
from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.endpoint import MANAGERS, SERVERS, ApiContext, Call, Endpoint
from gateway.api.shapes import Answer, Body, Stamp
from gateway.balance.model import BalanceUnavailable
from gateway.balance.places import Full
from gateway.billing import minor_units
from gateway.billing.links import Link
from gateway.billing.model import Branding, Overage, Plan, PromoDuration
from gateway.billing.offers import Offer
from gateway.billing.pages import PAY, RETURNED, logo_origin
from gateway.billing.ports import PaymentsDown, PaymentsRefused
from gateway.billing.promo_codes import PromoCodeRefused
from gateway.core.clock import rfc3339
from gateway.core.errors import GatewayError, NotFound, RateLimited
from gateway.core.ids import new_id
from gateway.core.limits import END_USER_SALES_RPM
from gateway.core.money import MICRO, TOK, decimal_from_micro
from gateway.db.faults import SqlDown, SqlRefused
from gateway.identity.model import Actor, Role
from gateway.providers.model import Capacity

_log = logging.getLogger(__name__)
Colour = Annotated[str, Meta(description="Such as #1a73e8.")]
_SOMEBODY: Final = Actor(role=Role.OPERATOR, name="page")
_ACCENT, _BACKGROUND = "#1f2937", "#ffffff"
_TEXTS: Final[dict[str, tuple[str, str]]] = {
    "paid": ("Thank you", "Your payment is on its way to your balance. You can close this page."),
    "cancelled": ("Nothing was paid", "You left before the end, and nothing was charged. You can close this page."),
    "saved": ("Card saved", "Nothing was charged. You can close this page."),
}


class BrandingBody(Body, frozen=True):
    """How the app's pages look, all of it: what is left out is as it was at first. `logo_url` is an https address."""

    name: str | None = None
    logo_url: str | None = None
    accent_color: Colour | None = None
    background_color: Colour | None = None


class BrandingAnswer(Answer, frozen=True):
    """How an app's pages look."""

    enterprise_id: str
    name: str
    logo_url: str | None
    accent_color: Colour | None
    background_color: Colour | None
    updated_at: Stamp


class LinkBody(Body, frozen=True):
    """Who may buy what with the link, for how long, and where the browser goes afterwards: by default a page of the gateway's."""

    plan_id: str
    platform_user_id: str
    expires_in_seconds: int = 86_400
    success_url: str | None = None
    cancel_url: str | None = None
    promo_code: str | None = None


class LinkAnswer(Answer, frozen=True):
    """Give `url` to that end user alone: whoever has it can pay for them, and sees what the page at Stripe shows of them."""

    url: str
    plan_id: str
    platform_user_id: str
    expires_at: Stamp


async def get_branding(context: ApiContext, call: Call) -> BrandingAnswer:
    """GET apps/{enterprise_id}/branding."""
    return _answer(await context.sales.pages.branding(call.actor, call.path["enterprise_id"]))


async def set_branding(context: ApiContext, call: Call) -> BrandingAnswer:
    """PUT apps/{enterprise_id}/branding."""
    body: BrandingBody = call.body
    pages, app = context.sales.pages, call.path["enterprise_id"]
    return _answer(await pages.set(call.actor, app, body.name, body.logo_url, body.accent_color, body.background_color))


async def create_link(context: ApiContext, call: Call) -> LinkAnswer:
    """POST apps/{enterprise_id}/payment-links."""
    body: LinkBody = call.body
    made = await context.sales.links.make(
        call.actor,
        call.path["enterprise_id"],
        platform_user_id=body.platform_user_id,
        plan_id=body.plan_id,
        expires_in_s=body.expires_in_seconds,
        success_url=body.success_url,
        cancel_url=body.cancel_url,
        promo_code=body.promo_code,
    )
    link = made.link
    return LinkAnswer(made.url, link.plan_id, link.platform_user_id, rfc3339(link.expires_at * 1000))


def _answer(found: Branding) -> BrandingAnswer:
    updated_at = rfc3339(found.updated_at_ms)
    return BrandingAnswer(found.enterprise_id, found.name, found.logo_url, found.accent, found.background, updated_at)


_APP: Final = "/api/v1/apps/{enterprise_id}"
_LOOKS, _LOOK, _LINK = f"{_APP}/branding", "how an app's own pages look", "Sign a link by which an end user buys a plan"
ROWS: Final = (  # of `table`
    Endpoint("GET", _LOOKS, MANAGERS, get_branding, BrandingAnswer, f"Show {_LOOK}", sells=True),
    Endpoint("PUT", _LOOKS, MANAGERS, set_branding, BrandingAnswer, f"Set {_LOOK}", BrandingBody, sells=True),
    Endpoint("POST", f"{_APP}/payment-links", SERVERS, create_link, LinkAnswer, _LINK, LinkBody, status=201, sells=True),
)


# ---- for browsers ------------------------------------------------------------------------------


def page_routes(context: ApiContext) -> list[Route]:
    """The pages; none where nothing is sold."""
    if context.billing is None:
        return []
    pages = _Pages(context)
    return [
        Route(f"{PAY}/{{token}}", pages.pay, methods=["GET", "POST"]),
        Route(f"{RETURNED}/{{outcome}}", pages.returned, methods=["GET"]),
        Route(f"{RETURNED}/{{outcome}}/{{enterprise_id}}", pages.returned, methods=["GET"]),
    ]


class _Pages:
    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def pay(self, request: Request) -> Response:
        """What can be bought, with a button; that leads on to the page at Stripe. Or a page that says why not."""
        looks: Branding | None = None
        try:
            links = self._context.sales.links
            link, app = await links.opened(request.path_params["token"])
            looks = await self._context.sales.pages.of(app)
            if request.method != "POST":
                # Mail filters and messengers fetch every link that they carry: who only looks opens nothing at Stripe.
                offer = await links.offer(link, app)
                was, price, points = _priced(offer, app.asset)
                return _page(looks, offer.plan.name, price, 200, was=was, points=points, has_button=True)
            await self._count(link)
            return Response(status_code=303, headers={**_headers(), "location": await links.followed(link, app)})
        except RateLimited as often:
            return _page(looks, "Too often", "This link was used too often. Try again later.", often.status)
        except GatewayError as error:
            return _page(looks, *_why(error), error.status)
        except PaymentsRefused as refused:
            _log.info("a link cannot be followed: %s", refused)
            return _page(looks, "Not just now", "This cannot be bought just now.", 409)
        except (PaymentsDown, SqlDown, SqlRefused, BalanceUnavailable) as down:
            _log.warning("a link cannot be followed: %s", down)
            return _page(looks, "Not just now", "Payments are not available just now. Try again shortly.", 503)

    async def _count(self, link: Link) -> None:
        """One more sale that this buyer opens, by a link or otherwise. RateLimited. Where nobody can count, all pass."""
        places, whose = self._context.places, f"{link.enterprise_id}/{link.platform_user_id}"
        if places is None:
            return
        place = await places.take(Capacity(f"sales:{whose}", END_USER_SALES_RPM), new_id("req"), 0)
        if isinstance(place, Full):
            raise RateLimited("This link was used too often.", retry_after_s=place.wait_s)
        if place is not None:
            places.leave(place, 0)

    async def returned(self, request: Request) -> Response:
        """What a buyer sees who comes back from Stripe."""
        outcome, enterprise_id = request.path_params["outcome"], request.path_params.get("enterprise_id")
        texts = _TEXTS.get(outcome)
        if texts is None:
            return _page(None, "Nothing here", "There is no such page.", 404)
        looks: Branding | None = None
        try:
            if enterprise_id is not None:
                looks = await self._context.sales.pages.branding(_SOMEBODY, enterprise_id)
        except NotFound:
            return _page(None, "Nothing here", "There is no such page.", 404)
        except (GatewayError, SqlDown, SqlRefused) as down:  # who has paid is told so, without the colours
            _log.warning("a page is shown without its looks: %s", down)
        return _page(looks, *texts, 200)


def _priced(offer: Offer, asset: str) -> tuple[str, str, list[str]]:
    """A price that is not to be paid ("" for none), what is (while a code takes something off, too), and what is included."""
    plan, code = offer.plan, offer.code
    if code is None:
        return "", _price(plan), _included(plan, asset)
    was, left = (minor_units.shown(amount, plan.currency) for amount in (plan.price_minor, offer.amount_minor))
    if plan.interval is None:
        return was, f"{left} with {code.code}", _included(msgspec.structs.replace(plan, grant_micro=offer.grant_micro), asset)
    period, points = _period(plan), _included(plan, asset)
    if offer.grant_micro != plan.grant_micro:
        points.append(f"While {code.code} takes something off, {_amount(offer.grant_micro, asset)} are included.")
    free = _price(plan).removeprefix(f"{was} every {period}")
    if code.duration == PromoDuration.FOREVER:
        return was, f"{left} every {period} with {code.code}{free}", points
    if code.duration == PromoDuration.REPEATING:
        months = "month" if code.duration_months == 1 else f"{code.duration_months} months"
        return was, f"{left} every {period} with {code.code} in the first {months}, then {_price(plan)}", points
    if free:
        off = minor_units.shown(plan.price_minor - offer.amount_minor, plan.currency)
        return "", _price(plan), [f"{code.code} takes {off} off the first invoice.", *points]
    return was, f"{left} with {code.code} for the first {period}, then {_price(plan)}", points


def _price(plan: Plan) -> str:
    price = minor_units.shown(plan.price_minor, plan.currency)
    if plan.interval is None:
        return price
    days = "the first day" if plan.trial_days == 1 else f"the first {plan.trial_days} days"
    return f"{price} every {_period(plan)}, {days} free" if plan.trial_days else f"{price} every {_period(plan)}"


def _period(plan: Plan) -> str:
    return str(plan.interval) if plan.interval_count == 1 else f"{plan.interval_count} {plan.interval}s"


def _included(plan: Plan, asset: str) -> list[str]:
    """What a plan puts into a wallet of `asset`, how long that lasts, and what use beyond it costs."""
    grant = _amount(plan.grant_micro, asset)
    days = "" if plan.lot_days is None else "a day" if plan.lot_days == 1 else f"{plan.lot_days} days"
    if plan.interval is None:
        return [f"Adds {grant} to your balance.", f"It can be used for {days}." if days else "It does not expire."]
    rest = f"What is left goes on into the next {_period(plan)}, up to {_amount(plan.rollover_max_micro, asset)}."
    if not plan.rollover_max_micro:
        rest = f"What is left is not carried over into the next {_period(plan)}."
    said = [f"Includes {grant} every {_period(plan)}{f', to be used within {days}' if days else ''}.", rest]
    return said if plan.overage is None else [*said, _beyond(plan.overage, plan.currency, asset)]


def _beyond(overage: Overage, currency: str, asset: str) -> str:
    """What use beyond the allowance costs who agrees to it: buying the plan is not agreeing."""
    price, per, most = (
        _amount(*each)
        for each in ((overage.price_micro, currency), (overage.per_micro, asset), (overage.max_micro, asset))
    )
    return f"Beyond what is included: {price} for each {per}, at most {most} unpaid, if you agree to it."


def _amount(amount_micro: int, asset: str) -> str:
    unit = asset if asset != TOK else "token" if amount_micro == MICRO else "tokens"
    return f"{Decimal(decimal_from_micro(amount_micro)):,f} {unit}"


def _why(error: GatewayError) -> tuple[str, str]:
    """A heading and a sentence for people: our own words, which name nobody."""
    if error.code == "link_expired":
        return "Link expired", "This link has expired. Ask for another one where you got it."
    if error.code == "link_invalid":
        return "Link not valid", "This link is not valid. Ask for another one where you got it."
    if error.code == "subscription_exists":
        return "You have it already", "There is a subscription already. It can be changed where you got this link."
    if error.code == PromoCodeRefused.code:
        return "Code not valid", "The promo code of this link cannot be used. Ask for another link where you got this one."
    if error.status >= 500:
        return "Not just now", "Payments are not available just now. Try again shortly."
    return "Not just now", "This cannot be bought just now."


def _page(
    looks: Branding | None,
    heading: str,
    text: str,
    status: int,
    *,
    was: str = "",
    points: Sequence[str] = (),
    has_button: bool = False,
) -> Response:
    """`was`: struck through before the text; `points`: a list below it; `has_button`: one that sends the page's own address."""
    accent = (looks.accent if looks else None) or _ACCENT
    background = (looks.background if looks else None) or _BACKGROUND
    style = (
        f"body{{margin:0;font:16px/1.5 system-ui,sans-serif;background:{background};color:{_readable(background)}}}"
        f"main{{max-width:28rem;margin:15vh auto;padding:2rem;text-align:center;border-top:4px solid {accent}}}"
        "img{max-width:12rem;max-height:4rem}h1{font-size:1.4rem;overflow-wrap:anywhere}"
        "ul{list-style:none;margin:1.5rem 0;padding:0}li{margin:.4rem 0}"
        "@media(max-width:30rem){main{margin:0;padding:1rem 1.5rem 2rem}}"
        f"button{{font:inherit;padding:.6rem 1.6rem;border:0;cursor:pointer;background:{accent};color:{_readable(accent)}}}"
    )
    name = escape(looks.name) if looks else ""
    logo = looks.logo_url if looks else None
    shown = f'<img src="{escape(logo)}" alt="{name}" referrerpolicy="no-referrer">' if logo else f"<p>{name}</p>" if name else ""
    said = f"<ul>{''.join(f'<li>{escape(point)}</li>' for point in points)}</ul>" if points else ""
    struck = f"<s>{escape(was)}</s> " if was else ""
    form = '<form method="post"><button>Continue to payment</button></form>' if has_button else ""
    document = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(heading)}{' - ' + name if name else ''}</title><style>{style}</style></head>"
        f"<body><main>{shown}<h1>{escape(heading)}</h1><p>{struck}{escape(text)}</p>{said}{form}</main></body></html>"
    )
    return Response(document, status, _headers(style, logo, has_form=has_button), media_type="text/html")


def _headers(style: str = "", logo_url: str | None = None, *, has_form: bool = False) -> dict[str, str]:
    # Browsers hold the redirect that answers a form against it as well, and that is to Stripe or a seller's own name there.
    action = "form-action 'self' https:" if has_form else "form-action 'none'"
    allowed = ["default-src 'none'", "base-uri 'none'", action, "frame-ancestors 'none'"]
    if style:
        allowed.append(f"style-src 'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'")
    if logo_url:
        allowed.append(f"img-src {logo_origin(logo_url)}")
    return {
        "content-security-policy": "; ".join(allowed),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "x-request-id": new_id("req"),
    }


def _readable(background: str) -> str:
    """Black or white, whichever can be read on a colour (by the weights of its parts in ITU-R BT.601)."""
    red, green, blue = (int(background[at : at + 2], 16) for at in (1, 3, 5))
    return "#111111" if 299 * red + 587 * green + 114 * blue > 140_000 else "#ffffff"

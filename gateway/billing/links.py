"""Signed links: an app's server makes one for an end user and a plan, and whoever has it may pay for that, without a token.

A link says whose wallet is filled, with which plan, where the browser goes afterwards and until when; all of it is under a MAC,
whose key is derived from the key pepper. Nothing is stored: each time it is followed it leads to the page at Stripe that is
open for it, or to a fresh one. Opening it only shows what it offers.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from gateway.billing.acts import Named, buyer_of, url
from gateway.billing.buying import Buying, Wish
from gateway.billing.catalogue import Catalogue
from gateway.billing.offers import Offer, check_offered
from gateway.billing.pages import Places
from gateway.billing.promo_codes import letters
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict, InvalidRequest, NotFound, RateLimited
from gateway.identity import rules
from gateway.identity.model import ACTIVE, Actor, App, Role
from gateway.identity.registry import Registry

LINK_SECONDS_MAX: Final = 30 * 86_400
_MAC_BYTES: Final = 24
_TOKEN_CHARS_MAX: Final = 6000
_PAGES_AN_HOUR: Final = 4
_HOUR_MS: Final = 3_600_000


class Link(msgspec.Struct, frozen=True, array_like=True):
    """What a link says. `expires_at` is in Unix seconds."""

    enterprise_id: str
    platform_user_id: str
    plan_id: str
    expires_at: int
    success_url: str | None = None
    cancel_url: str | None = None
    promo_code: str | None = None


class Made(msgspec.Struct, frozen=True):
    """A link, as it is given to the buyer."""

    url: str
    link: Link


class LinkInvalid(NotFound):
    """404: not a link of ours, or changed."""

    code = "link_invalid"


class LinkExpired(LinkInvalid):
    """404: its time has passed."""

    code = "link_expired"


class Links:
    """Makes links, and follows them. Raises PaymentsDown and PaymentsRefused besides what each method says."""

    def __init__(
        self, secret: bytes, places: Places, registry: Registry, catalogue: Catalogue, buying: Buying, clock: Clock
    ) -> None:
        """`secret` signs."""
        self._key = hmac.digest(secret, b"payment-link:v1", "sha256")
        self._places = places
        self._registry = registry
        self._catalogue = catalogue
        self._buying = buying
        self._clock = clock

    async def make(
        self,
        actor: Actor,
        enterprise_id: str,
        *,
        platform_user_id: str,
        plan_id: str,
        expires_in_s: int,
        success_url: str | None,
        cancel_url: str | None,
        promo_code: str | None = None,
    ) -> Made:
        """A link for one end user and one plan of the app, perhaps with a promo code, which must be good now and when it is used.

        InvalidRequest, PromoCodeRefused, NotFound, Forbidden, Conflict."""
        app = await self._registry.app(actor, enterprise_id)
        wallet = await buyer_of(self._registry, actor, app, Named(platform_user_id))
        plan = await self._catalogue.plan(actor, plan_id)
        if plan.enterprise_id != app.enterprise_id:
            raise InvalidRequest("The plan is not this app's.", param="plan_id")
        check_offered(plan)
        rules.number(expires_in_s, "expires_in_seconds", LINK_SECONDS_MAX, 1)
        if promo_code is not None:
            promo_code = letters(promo_code, "promo_code")
            await self._buying.offers.check_code(promo_code, plan, app, wallet)
        link = Link(
            enterprise_id=app.enterprise_id,
            platform_user_id=wallet.owner,
            plan_id=plan.id,
            expires_at=now_ms(self._clock) // 1000 + expires_in_s,
            success_url=None if success_url is None else url(success_url, "success_url"),
            cancel_url=None if cancel_url is None else url(cancel_url, "cancel_url"),
            promo_code=promo_code,
        )
        inside = msgspec.json.encode(link)
        token = base64.urlsafe_b64encode(self._mac(inside) + inside).rstrip(b"=").decode()
        return Made(self._places.pay(token), link)

    async def opened(self, token: str) -> tuple[Link, App]:
        """What a link says, and the app. LinkInvalid, LinkExpired."""
        link = self._proven(token)
        if now_ms(self._clock) // 1000 >= link.expires_at:
            raise LinkExpired("This link has expired: ask for another one.")
        try:
            app = await self._registry.app(Actor(role=Role.OPERATOR, name="payment-link"), link.enterprise_id)
        except NotFound as gone:
            raise LinkInvalid("This link is not valid.") from gone
        return link, app

    async def offer(self, link: Link, app: App) -> Offer:
        """What an opened link offers its end user; what could not be bought is refused as by `followed`."""
        return await self._buying.offers.offer(_buyer(link, app), link.plan_id, Named(), link.promo_code)

    async def followed(self, link: Link, app: App) -> str:
        """The page at Stripe to which an opened link leads. As `Buying.checkout`; RateLimited."""
        actor = _buyer(link, app)
        wish = Wish(link.plan_id, Named(), link.success_url, link.cancel_url, promo_code=link.promo_code)
        name = hashlib.sha256(msgspec.json.encode(link)).hexdigest()[:32]
        hour = now_ms(self._clock) // _HOUR_MS
        for number in range(_PAGES_AN_HOUR):  # the next one where the former was paid on, or has run out
            try:
                page = await self._buying.checkout(actor, wish, f"link-{name}-{hour}-{number}")
            except Conflict as used:
                if used.param != "Idempotency-Key":
                    raise
                continue  # Stripe had refused that one
            if page.url is not None:
                return page.url
        raise RateLimited("This link was used too often within the hour.", retry_after_s=_HOUR_MS // 1000)

    def _proven(self, token: str) -> Link:
        wrong = LinkInvalid("This link is not valid.")
        if len(token) > _TOKEN_CHARS_MAX:
            raise wrong
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            mac, inside = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            if not hmac.compare_digest(mac, self._mac(inside)):
                raise wrong
            return msgspec.json.decode(inside, type=Link)
        except (binascii.Error, ValueError) as odd:
            raise wrong from odd

    def _mac(self, inside: bytes) -> bytes:
        return hmac.digest(self._key, inside, "sha256")[:_MAC_BYTES]


def _buyer(link: Link, app: App) -> Actor:
    if app.status != ACTIVE:
        raise Conflict("The app is suspended.", code="selling_blocked")
    return Actor(Role.END_USER, "payment-link", app.user_id, app.enterprise_id, None, link.platform_user_id)

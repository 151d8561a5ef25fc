"""What buyers see of a seller on our own pages: a name, a logo and two colours; and where those pages are.

They are shown to browsers of strangers, so nothing that a creator sets here can become more than that: a colour is six
hexadecimal digits, a logo the address of an image that the browser fetches from its own server.
"""

import re
from typing import Final, Literal
from urllib.parse import quote, urlsplit

import msgspec

from gateway.billing.acts import act
from gateway.billing.model import Branding
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import InvalidRequest
from gateway.identity import rules
from gateway.identity.model import Actor, App
from gateway.identity.registry import Registry

Outcome = Literal["paid", "cancelled", "saved"]
RETURNED: Final = "/returned"
PAY: Final = "/pay"
_COLOUR: Final = re.compile(r"#[0-9a-fA-F]{6}")
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_URL_CHARS: Final = re.compile(r"[!-~]{1,2048}")


class Places:
    """Addresses of our own pages."""

    def __init__(self, public_url: str) -> None:
        """`public_url` is where clients reach the gateway."""
        self._base = public_url.rstrip("/")

    def returned(self, outcome: Outcome, seller: App | None) -> str:
        """Where a browser goes from Stripe when nobody named a place."""
        of = "" if seller is None else "/" + quote(seller.enterprise_id, safe="")
        return f"{self._base}{RETURNED}/{outcome}{of}"

    def pay(self, token: str) -> str:
        """Where a signed link leads."""
        return f"{self._base}{PAY}/{token}"


class Pages:
    """An app's looks."""

    def __init__(self, store: Store, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock

    async def branding(self, actor: Actor, enterprise_id: str) -> Branding:
        """How an app's pages look; its name alone, where nothing was set. NotFound."""
        app = await self._registry.app(actor, enterprise_id)
        return await self.of(app)

    async def of(self, app: App) -> Branding:
        """The same of an app in hand."""
        held = await self._store.branding(app.enterprise_id)
        return held if held is not None else Branding(app.enterprise_id, app.name, None, None, None, app.created_at_ms)

    async def set(
        self, actor: Actor, enterprise_id: str, name: str | None, logo_url: str | None, accent: str | None, background: str | None
    ) -> Branding:
        """Set all of it; what is None is as it was at first. InvalidRequest, NotFound, Forbidden."""
        app = await self._registry.managed_app(actor, enterprise_id)
        made = Branding(
            enterprise_id=app.enterprise_id,
            name=rules.display_name(app.name if name is None else name),
            logo_url=None if logo_url is None else _logo(logo_url),
            accent=_colour(accent, "accent_color"),
            background=_colour(background, "background_color"),
            updated_at_ms=now_ms(self._clock),
        )
        told = {key: value for key, value in msgspec.to_builtins(made).items() if key != "updated_at_ms"}
        await self._store.put_branding(made, act(actor, "branding.set", app.enterprise_id, app, after=told))
        return made


def logo_origin(logo_url: str) -> str:
    """The one server that a page with this logo may fetch an image from."""
    parts = urlsplit(logo_url)
    port = f":{parts.port}" if parts.port is not None else ""
    return f"https://{parts.hostname}{port}"


def _logo(value: str) -> str:
    wrong = InvalidRequest("`logo_url` must be an https address of an image, of at most 2048 characters", param="logo_url")
    if not _URL_CHARS.fullmatch(value):
        raise wrong
    try:
        parts = urlsplit(value)
        has_port_of_its_own = parts.port is not None
    except ValueError as odd:
        raise wrong from odd
    plain = parts.hostname if not has_port_of_its_own else f"{parts.hostname}:{parts.port}"
    # Nothing in front of the host, and a host that needs no quoting anywhere: it stands in a header as well.
    if parts.scheme != "https" or not _HOST.fullmatch(parts.hostname or "") or parts.netloc.lower() != plain:
        raise wrong
    return value


def _colour(value: str | None, param: str) -> str | None:
    if value is not None and not _COLOUR.fullmatch(value):
        raise InvalidRequest(f"`{param}` must be a colour such as #1a73e8", param=param)
    return None if value is None else value.lower()

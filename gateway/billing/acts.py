"""Who may sell and buy, and what the trail says of it. Names of acts: `plan.create`, `purchase.create`, `refund.ask`, ..."""

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.core.errors import Forbidden, InvalidRequest, NotFound
from gateway.core.money import TOK
from gateway.identity.model import Actor, App, Role
from gateway.identity.registry import Registry
from gateway.identity.rules import outside_id
from gateway.ledger.model import PLATFORM_ASSET, WalletKey
from gateway.trail.model import Act

_URL_CHARS_MAX = 2048


class Named(msgspec.Struct, frozen=True):
    """The buyer that a request names: an end user, at level 1 a creator, or nobody, which is the actor itself."""

    platform_user_id: str | None = None
    user_id: str | None = None


def act(actor: Actor, name: str, subject: str, seller: App | None, **more: Any) -> Act:
    """What `actor` does to `subject`, which is the app's or else the platform's."""
    of_app = {} if seller is None else {"user_id": seller.user_id, "enterprise_id": seller.enterprise_id}
    return Act(name, actor.role, actor.name, subject, **{**of_app, **more})


def sale_act(actor: Actor, name: str, subject: str, seller: App | None, wallet: WalletKey, **more: Any) -> Act:
    """The same of a sale: at level 1 the creator concerned is the buyer."""
    return act(actor, name, subject, seller, **({"user_id": wallet.owner} if seller is None else {}), **more)


def system_act(name: str, subject: str, wallet: WalletKey, actor: str = "top-up", **more: Any) -> Act:
    """What nobody asked for at the moment: automatic top-up, or overage, did it, for this wallet."""
    creator = "" if wallet.enterprise_id else wallet.owner
    return Act(name, "system", actor, subject, creator, wallet.enterprise_id or "", **more)


def op_of(*parts: str) -> str:
    """One name for one operation, however often it is asked for, that tells nobody whose it is: Stripe gets to see it."""
    kind, *rest = parts
    return f"{kind}-{hashlib.sha256('/'.join(rest).encode()).hexdigest()[:40]}"


def url(value: str, param: str) -> str:
    """An address that a browser can be sent to."""
    parts = urlsplit(value) if len(value) <= _URL_CHARS_MAX and value.isprintable() else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"`{param}` must be an http or https URL of at most {_URL_CHARS_MAX} characters", param=param)
    return value


def asset_of(seller: App | None) -> str:
    """What the wallets hold that a seller's plans fill."""
    return PLATFORM_ASSET if seller is None else seller.asset


def currency_fits(currency: str, seller: App | None) -> bool:
    """A wallet of money is filled with that money; app tokens are sold for any."""
    asset = asset_of(seller)
    return asset in (TOK, currency)


async def seller_of(registry: Registry, actor: Actor, enterprise_id: str | None) -> App | None:
    """Whose offers an actor looks at: the app's that it names, or is of; None is the platform. NotFound, Forbidden."""
    if enterprise_id is None:
        enterprise_id = actor.enterprise_id
    if enterprise_id is not None:
        return await registry.app(actor, enterprise_id)
    if actor.role not in (Role.OPERATOR, Role.CREATOR):
        raise Forbidden("This credential is of an app.", param="enterprise_id")
    return None


async def managed_seller(registry: Registry, actor: Actor, enterprise_id: str | None) -> App | None:
    """Whose offers an actor may make: its app's, the platform's for an operator. NotFound, Forbidden."""
    if enterprise_id is not None:
        return await registry.managed_app(actor, enterprise_id)
    if actor.role != Role.OPERATOR:
        raise Forbidden("Only an operator sells for the platform: name an app of yours.", param="enterprise_id")
    return None


async def buyer_of(registry: Registry, actor: Actor, seller: App | None, named: Named) -> WalletKey:
    """Whose wallet is to be filled: an end user's of the app, or a creator's. InvalidRequest, NotFound, Forbidden.

    An end user acts for itself alone, an app's server for anyone of the app, a creator for itself and anyone of its apps.
    """
    if seller is None:
        if named.platform_user_id is not None:
            raise InvalidRequest("The platform sells to creators, not to end users.", param="platform_user_id")
        user_id = named.user_id or actor.user_id
        if user_id is None:
            raise InvalidRequest("Say who buys.", param="user_id")
        return WalletKey((await registry.creator(actor, user_id)).user_id)
    if named.user_id is not None:
        raise InvalidRequest("An app sells to its end users, not to creators.", param="user_id")
    owner = named.platform_user_id
    if actor.role == Role.END_USER:
        assert actor.platform_user_id is not None
        if owner not in (None, actor.platform_user_id):
            raise Forbidden("An end user acts for itself.", code="end_user_mismatch", param="platform_user_id")
        return WalletKey(actor.platform_user_id, seller.enterprise_id)
    if owner is None:
        raise InvalidRequest("Say who buys.", param="platform_user_id")
    return WalletKey(outside_id(owner, "platform_user_id"), seller.enterprise_id)


async def owner_seen(registry: Registry, actor: Actor, seller: App | None, named: Named) -> str | None:
    """Whose sales an actor may list: of one buyer, or of all (None)."""
    sees_all = actor.role == Role.OPERATOR if seller is None else actor.role != Role.END_USER
    if sees_all and named == Named():
        return None
    return (await buyer_of(registry, actor, seller, named)).owner


def check_own(actor: Actor, wallet: WalletKey, what: str) -> None:
    """NotFound where an end user, or at level 1 a creator, asks for another's."""
    if actor.role == Role.END_USER:
        own = actor.platform_user_id == wallet.owner
    else:
        own = wallet.enterprise_id is not None or actor.role == Role.OPERATOR or actor.user_id == wallet.owner
    if not own:
        raise NotFound(f"There is no such {what}.", param=f"{what}_id")


def missing(seller: App | None, what: str) -> NotFound:
    """That a seller has no such thing, and where nobody named an app, which may have it, how one is named."""
    if seller is not None:
        return NotFound(f"There is no such {what}.", param=f"{what}_id")
    return NotFound(f"The platform has no such {what}: name `enterprise_id` for an app's.", param=f"{what}_id")


def told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the trail says of something new: what is not empty."""
    return {name: value for name, value in fields.items() if value not in (None, "", 0)}

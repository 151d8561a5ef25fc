"""Handlers: API keys, management keys and end-user tokens."""

from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType

from gateway.api.endpoint import ApiContext, Call
from gateway.api.served import unserved
from gateway.api.shapes import KeyAnswer, Listing, ManagementKeyAnswer, TokenAnswer, ms_of
from gateway.api.wire import listing
from gateway.core.clock import rfc3339
from gateway.core.errors import InvalidRequest
from gateway.identity.model import ApiKey, KeyChanges, Limits, ManagementKey, NewKey, NewToken


async def create_key(context: ApiContext, call: Call) -> KeyAnswer:
    """POST apps/{enterprise_id}/keys."""
    body = call.body
    new = NewKey(
        name=body.name,
        level=body.level,
        models=body.models or (),
        limits=body.limits or Limits(),
        expires_at_ms=_ms(body.expires_at),
        test=body.test,
    )
    key, secret = await context.registry.create_key(call.actor, call.path["enterprise_id"], new)
    return _key(key, secret, unserved(context.routing, context.catalog, key.models))


async def list_keys(context: ApiContext, call: Call) -> Listing[KeyAnswer]:
    """GET apps/{enterprise_id}/keys."""
    page = await context.registry.keys(call.actor, call.path["enterprise_id"], call.query.cursor, call.query.limit)
    return listing(page.rows, page.next_cursor, _key)


async def get_key(context: ApiContext, call: Call) -> KeyAnswer:
    """GET apps/{enterprise_id}/keys/{key_id}."""
    return _key(await context.registry.key(call.actor, call.path["enterprise_id"], call.path["key_id"]))


async def update_key(context: ApiContext, call: Call) -> KeyAnswer:
    """PATCH apps/{enterprise_id}/keys/{key_id}."""
    body = call.body
    changes = KeyChanges(
        name=body.name,
        models=() if body.models is None else body.models,
        limits=body.limits,
        expires_at_ms=UNSET if body.expires_at is UNSET else _ms(body.expires_at),
    )
    key = await context.registry.update_key(call.actor, call.path["enterprise_id"], call.path["key_id"], changes)
    return _key(key, warnings=() if not body.models else unserved(context.routing, context.catalog, key.models))


async def rotate_key(context: ApiContext, call: Call) -> KeyAnswer:
    """POST apps/{enterprise_id}/keys/{key_id}/rotate: the successor."""
    path = call.path
    key, secret = await context.registry.rotate_key(call.actor, path["enterprise_id"], path["key_id"], call.body.overlap_seconds)
    return _key(key, secret)


async def revoke_key(context: ApiContext, call: Call) -> KeyAnswer:
    """DELETE apps/{enterprise_id}/keys/{key_id}."""
    return _key(await context.registry.revoke_key(call.actor, call.path["enterprise_id"], call.path["key_id"]))


async def create_token(context: ApiContext, call: Call) -> TokenAnswer:
    """POST apps/{enterprise_id}/end-user-tokens."""
    new = NewToken(**msgspec.structs.asdict(call.body))
    token = await context.registry.mint_end_user_token(call.actor, call.path["enterprise_id"], new)
    return TokenAnswer(
        id=token.id,
        token=token.token,
        enterprise_id=token.enterprise_id,
        platform_user_id=token.platform_user_id,
        key_id=token.key_id,
        expires_at=rfc3339(token.expires_at_ms),
        warnings=unserved(context.routing, context.catalog, new.models),
    )


async def create_management_key(context: ApiContext, call: Call) -> ManagementKeyAnswer:
    """POST management-keys."""
    user_id = call.body.user_id or call.actor.user_id
    if user_id is None:
        raise InvalidRequest("Say whose key it is to be.", param="user_id")
    key, secret = await context.registry.create_management_key(call.actor, user_id, call.body.name, _ms(call.body.expires_at))
    return _management_key(key, secret)


async def list_management_keys(context: ApiContext, call: Call) -> Listing[ManagementKeyAnswer]:
    """GET management-keys."""
    page = await context.registry.management_keys(call.actor, call.query.cursor, call.query.limit)
    return listing(page.rows, page.next_cursor, _management_key)


async def revoke_management_key(context: ApiContext, call: Call) -> ManagementKeyAnswer:
    """DELETE management-keys/{key_id}."""
    return _management_key(await context.registry.revoke_management_key(call.actor, call.path["key_id"]))


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else ms_of(moment)


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def _key(key: ApiKey, secret: str | UnsetType = UNSET, warnings: tuple[str, ...] = ()) -> KeyAnswer:
    return KeyAnswer(
        id=key.id,
        enterprise_id=key.enterprise_id,
        name=key.name,
        level=key.level,
        hint=key.hint,
        models=key.models,
        limits=key.limits,
        created_at=rfc3339(key.created_at_ms),
        expires_at=_time(key.expires_at_ms),
        revoked_at=_time(key.revoked_at_ms),
        secret=secret,
        warnings=warnings,
    )


def _management_key(key: ManagementKey, secret: str | UnsetType = UNSET) -> ManagementKeyAnswer:
    return ManagementKeyAnswer(
        id=key.id,
        user_id=key.user_id,
        name=key.name,
        hint=key.hint,
        created_at=rfc3339(key.created_at_ms),
        expires_at=_time(key.expires_at_ms),
        revoked_at=_time(key.revoked_at_ms),
        secret=secret,
    )

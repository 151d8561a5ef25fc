"""Who calls the management API: one credential, one actor, or an error."""

from hmac import compare_digest

import msgspec
from starlette.requests import Request

from gateway.api.endpoint import ApiContext
from gateway.api.wire import read_once
from gateway.core.errors import Forbidden, Unauthenticated
from gateway.core.limits import CREDENTIAL_CHARS_MAX
from gateway.core.words import Level
from gateway.identity.keys import API_KEY_PREFIX, MANAGEMENT_KEY_PREFIX
from gateway.identity.model import Actor, Role
from gateway.identity.tokens import TOKEN_PREFIX


class Caller(msgspec.Struct, frozen=True):
    """The actor, and the browser origins that may read the answer (for end-user tokens only)."""

    actor: Actor
    cors_origins: tuple[str, ...] = ()


async def identify(context: ApiContext, request: Request) -> Caller:
    """The caller behind `Authorization: Bearer` or `x-api-key`. InvalidRequest, Unauthenticated, Forbidden, Unavailable."""
    for name in ("authorization", "x-api-key"):
        read_once(request, name)
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        credential = request.headers.get("x-api-key", "")
    credential = credential.strip()
    if not credential:
        raise Unauthenticated("Send a credential as `Authorization: Bearer <credential>`.")
    if len(credential) > CREDENTIAL_CHARS_MAX:
        raise Unauthenticated("The API key is not valid.")
    if credential.startswith(MANAGEMENT_KEY_PREFIX):
        return Caller(await context.identity.authenticate_management(credential))
    if credential.startswith((API_KEY_PREFIX, TOKEN_PREFIX)):
        return await _of_an_app(context, credential)
    expected = context.operator_token
    if expected and compare_digest(credential.encode(), expected.encode()):
        return Caller(Actor(role=Role.OPERATOR, name="operator"))
    raise Unauthenticated("The API key is not valid.")


async def _of_an_app(context: ApiContext, credential: str) -> Caller:
    principal = await context.identity.authenticate(credential)
    app = principal.app
    if principal.token_id is not None:
        actor = Actor(
            Role.END_USER, principal.token_id, app.user_id, app.enterprise_id, principal.key_id, principal.platform_user_id
        )
        return Caller(actor, app.cors_origins)
    if principal.level is not Level.APP_USAGE:
        raise Forbidden("A key of level platform calls models only.")
    return Caller(Actor(Role.APP_SERVER, principal.key_id, app.user_id, app.enterprise_id, principal.key_id))

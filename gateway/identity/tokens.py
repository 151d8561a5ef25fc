"""End-user tokens: short-lived, signed, bound to one app, one end user and the API key they hang on. Pure.

`mzu_` and a JWT (RFC 7519), HS256 and nothing else. The signing key is derived for each app from
the pepper, so a token of one app cannot be one of another. The header's `kid` is the API key's id:
when that key is revoked or expires, its tokens die with it. Nothing of a token is stored.
"""

import hmac
from typing import Any, Final

import jwt
import msgspec

TOKEN_PREFIX: Final = "mzu_"  # noqa: S105  a prefix, no secret

_ALGORITHM: Final = "HS256"
_REQUIRED: Final = ["aud", "sub", "jti", "iat", "exp"]
# Expiry is judged by the caller's clock, not by PyJWT's reading of the machine's.
_JWT = jwt.PyJWT(
    options={
        "require": _REQUIRED,
        "strict_aud": True,
        "verify_exp": False,
        "verify_iat": False,
        "verify_nbf": False,
        "enforce_minimum_key_length": True,
    }
)


class Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a token says. Times are Unix seconds; `spend` is micro-units over the token's whole life."""

    aud: str
    sub: str
    jti: str
    iat: int
    exp: int
    models: tuple[str, ...] = ()
    spend: int | None = None
    rpm: int | None = None


class TokenInvalid(Exception):
    """Not a token of ours, or not of this app."""


def signing_key(pepper: bytes, enterprise_id: str) -> bytes:
    """The key that signs one app's tokens."""
    return hmac.digest(pepper, f"end-user-token:v1:{enterprise_id}".encode(), "sha256")


def sign(pepper: bytes, claims: Claims, key_id: str) -> str:
    """The token."""
    payload: dict[str, Any] = msgspec.to_builtins(claims)
    return TOKEN_PREFIX + _JWT.encode(payload, signing_key(pepper, claims.aud), _ALGORITHM, {"kid": key_id})


def key_id_of(token: str) -> str:
    """The API key that a token names, still unproven. Raises TokenInvalid."""
    try:
        key_id = jwt.get_unverified_header(token.removeprefix(TOKEN_PREFIX)).get("kid")
    except (jwt.PyJWTError, ValueError) as broken:
        raise TokenInvalid from broken
    if not isinstance(key_id, str):
        raise TokenInvalid
    return key_id


def verify(pepper: bytes, token: str, enterprise_id: str) -> Claims:
    """The claims, once signature and audience are proven; expiry is left to the caller. Raises TokenInvalid."""
    key = signing_key(pepper, enterprise_id)
    try:
        payload = _JWT.decode(token.removeprefix(TOKEN_PREFIX), key, algorithms=[_ALGORITHM], audience=enterprise_id)
        return msgspec.convert(payload, Claims)
    except (jwt.PyJWTError, ValueError) as broken:
        raise TokenInvalid from broken

"""Who is calling, on the path of every request: credentials to principals, requests to end users.

A credential that was seen within KEY_CACHE_TTL_S costs one digest and one look-up, no SQL and no
suspension. The cache is keyed by the id inside the key and holds only digests; a change anywhere
arrives over the bus within milliseconds, the time to live bounds a message that was lost (it begins
anew each time that the trail was seen to name no change, see `following`), and expiry is checked at
every use. While the platform's database is down, keys that were known go on for KEY_STALE_MAX_S:
nobody can revoke one through a database that does not answer.
"""

import json
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any, Final

import msgspec

from gateway.core.clock import SYSTEM_CLOCK, Clock
from gateway.core.errors import Forbidden, InvalidRequest, MissingEndUser, Unauthenticated, Unavailable
from gateway.core.ids import is_outside_id, may_be_chosen, shard_of
from gateway.core.limits import (
    CREDENTIAL_CHARS_MAX,
    KEY_CACHE_MAX,
    KEY_CACHE_TTL_MAX_S,
    KEY_CACHE_TTL_S,
    KEY_STALE_MAX_S,
    UNKNOWN_KEY_TTL_S,
)
from gateway.core.words import Level
from gateway.identity import keys, tokens
from gateway.identity.cache import APP, CREATOR, KEY, PRICES, InvalidationBus
from gateway.identity.model import ACTIVE, Actor, Limits, Principal, Role
from gateway.identity.own_keys import OwnKeys
from gateway.identity.registry import Registry
from gateway.identity.rules import OUTSIDE_ID_RULE, model_allowed
from gateway.identity.store import KeyRecord, Store
from gateway.trail.model import Line

_NS: Final = 1_000_000_000
_PLATFORM: Final = Level.PLATFORM
_NEVER_NS: Final = 2**63
_FRESH_NS: Final = int(KEY_CACHE_TTL_S * _NS)
_FRESH_MAX_NS: Final = int(KEY_CACHE_TTL_MAX_S * _NS)
_UNKNOWN_NS: Final = int(UNKNOWN_KEY_TTL_S * _NS)
_STALE_NS: Final = int(KEY_STALE_MAX_S * _NS)
_NO_LIMITS: Final = Limits()
_REFUSALS: Final = {
    "invalid_api_key": "The API key is not valid.",
    "expired_api_key": "The API key has expired.",
    "revoked_api_key": "The API key was revoked.",
}
# Headers that may name the end user, in the order of precedence; x-portkey-metadata, JSON, comes after them.
_HEADERS: Final = tuple(
    (name, name.encode()) for name in ("x-platform-user-id", "x-litellm-end-user-id", "x-litellm-customer-id", "helicone-user-id")
)


class _Entry(msgspec.Struct):
    """A cached key. `refusal` is the code it is refused with, or empty; times are Unix nanoseconds.

    `fresh_until_ns` 0: it is doubted, and looked up before it is used again.
    """

    digest: bytes
    principal: Principal
    refusal: str
    expires_ns: int
    loaded_ns: int
    fresh_until_ns: int


class _Token(msgspec.Struct):
    """A verified token: good while the very entry of its key that it was verified with is in use."""

    principal: Principal
    parent: _Entry
    expires_ns: int


class Identity:
    """Authenticates callers. One instance serves a process; `registry` makes and changes what it reads."""

    def __init__(self, store: Store, pepper: bytes, bus: InvalidationBus | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        """`store` is on the platform's database; without a `bus`, other processes see a change after KEY_CACHE_TTL_S."""
        assert len(pepper) >= 16, "the key pepper is too short"
        self._store = store
        self._pepper = pepper
        self._hasher = keys.hasher(pepper)
        self._bus = bus
        self._clock = clock
        self._keys: dict[str, _Entry] = {}  # by the 26 characters inside the key
        self._unknown: dict[str, int] = {}  # the same, until when it needs no second look
        self._tokens: dict[bytes, _Token] = {}  # by digest
        self._generation = 0  # rises with every invalidation: what was read before one is not kept
        self._confirmed_ns = 0  # what is cached and not doubted was so then
        self.registry = Registry(self._store, pepper, self.announce, clock)
        self.own_keys = OwnKeys(self._store, self.registry, pepper, self.announce, clock)

    # ---- credentials ---------------------------------------------------------------------------

    def cached(self, credential: str) -> Principal | None:
        """The principal of a credential that is cached and good; None means: ask `authenticate`."""
        entry = self._keys.get(credential[9:35])  # after `mzk_live_` or `mzk_test_`
        if entry is None:
            return self._cached_token(credential) if credential.startswith("mzu_") else None
        now_ns = self._clock()
        if entry.refusal or now_ns >= entry.expires_ns:
            return None
        if now_ns >= entry.fresh_until_ns and not self._is_confirmed(entry, now_ns):
            return None
        return entry.principal if compare_digest(self._digest(credential), entry.digest) else None

    async def authenticate(self, credential: str) -> Principal:
        """The principal of a data-plane credential.

        Raises Unauthenticated (`invalid_api_key`, `expired_api_key`, `revoked_api_key`), Forbidden
        (`app_suspended`, `model_not_allowed`), or Unavailable when the database is needed and down.
        """
        principal = self.cached(credential)
        if principal is not None:
            return principal
        if len(credential) > CREDENTIAL_CHARS_MAX:
            raise _refused("invalid_api_key")
        if credential.startswith(tokens.TOKEN_PREFIX):
            return await self._authenticate_token(credential)
        key_id = keys.api_key_id(credential)
        entry = await self._entry(key_id[4:]) if key_id else None
        if entry is None or not compare_digest(self._digest(credential), entry.digest):
            raise _refused("invalid_api_key")
        self._admit(entry)
        return entry.principal

    async def authenticate_management(self, credential: str) -> Actor:
        """The creator behind a management key; errors as `authenticate`. Not cached: a revoked key ends at once."""
        key_id = keys.management_key_id(credential)
        record = await self._store.management_record(key_id) if key_id else None
        if record is None or not compare_digest(self._digest(credential).hex(), record[0]):
            raise _refused("invalid_api_key")
        _, key, creator_status = record
        if key.revoked_at_ms is not None:
            raise _refused("revoked_api_key")
        if key.expires_at_ms is not None and self._clock() >= key.expires_at_ms * 1_000_000:
            raise _refused("expired_api_key")
        if creator_status != ACTIVE:
            raise Forbidden("This account is suspended.", code="account_suspended")
        return Actor(role=Role.CREATOR, name=key.id, user_id=key.user_id)

    def _digest(self, credential: str) -> bytes:
        hasher = self._hasher.copy()
        hasher.update(credential.encode("utf-8", "surrogatepass"))
        return hasher.digest()

    def may_use(self, principal: Principal, model: str) -> bool:
        """Whether the key (and the token) allow a model; no list allows every one."""
        patterns = principal.models
        return not patterns or model in patterns or model_allowed(patterns, model)

    async def provider_keys(self, principal: Principal) -> Mapping[str, str]:
        """The keys that the app of a principal brought, by provider. Unavailable."""
        return await self.own_keys.of(principal.app.enterprise_id)

    # ---- end users -----------------------------------------------------------------------------

    def resolve_end_user(self, principal: Principal, headers: Mapping[bytes, bytes], body: Mapping[str, Any]) -> str | None:
        """Whose wallet an app_usage request draws on; None at level platform, where the creator pays.

        `headers` have lower-case names, `body` is the parsed request. Raises InvalidRequest (`param`
        names the source), MissingEndUser, Forbidden `end_user_mismatch`.
        """
        if principal.level is _PLATFORM:
            return None
        if principal.platform_user_id is not None:
            return _agreed(principal.platform_user_id, headers, body)
        accepted = principal.app.end_user_sources
        for source, header in _HEADERS:
            raw = headers.get(header)
            if raw and source in accepted:
                return _checked(raw.decode("latin-1"), source)
        if b"x-portkey-metadata" in headers and "x-portkey-metadata" in accepted:
            named = _portkey_user(headers)
            if named:
                return _checked(named, "x-portkey-metadata")
        for source, param, named in _in_body(body):
            if named and source in accepted:
                return _checked(named, param)
        if principal.app.default_end_user is not None:
            return principal.app.default_end_user
        raise MissingEndUser(f"This key needs an end user; the app accepts {', '.join(accepted) or 'no source'}.", param="user")

    # ---- cache ---------------------------------------------------------------------------------

    def forget(self, kind: str, subject: str) -> None:
        """Drop what is cached of the subject of a message; one of an unknown kind drops everything."""
        if kind == PRICES:
            return
        self._generation += 1
        self.own_keys.forget(kind, subject)
        if kind == KEY:
            self._keys.pop(subject[4:], None)
            self._unknown.pop(subject[4:], None)
        elif kind == APP:
            self._drop([part for part, entry in self._keys.items() if entry.principal.app.enterprise_id == subject])
        elif kind == CREATOR:
            self._drop([part for part, entry in self._keys.items() if entry.principal.app.user_id == subject])
        else:
            self.forget_all()

    def forget_lines(self, lines: list[Line]) -> None:
        """Drop what the changes of the trail concern: their keys, else their apps, else their creators."""
        self._generation += 1
        apps, users = set(), set()
        for line in lines:
            if line.act.startswith("key."):
                self.forget(KEY, line.subject)
            elif line.enterprise_id:
                apps.add(line.enterprise_id)
                self.own_keys.forget(APP, line.enterprise_id)
            elif line.user_id:
                users.add(line.user_id)
        if apps or users:
            whose = [(part, entry.principal.app) for part, entry in self._keys.items()]
            self._drop([part for part, app in whose if app.enterprise_id in apps or app.user_id in users])

    async def catch_up(self) -> None:
        """Nothing: who is asked for is looked up."""

    def confirm(self, at_ns: int) -> None:
        """What is cached, and not doubted, was still so at that time."""
        self._confirmed_ns = at_ns
        self.own_keys.confirm(at_ns)

    def forget_all(self) -> None:
        """Look up everything afresh: changes may have been missed."""
        self._generation += 1
        self.own_keys.forget_all()
        self._unknown.clear()
        self._tokens.clear()
        for entry in self._keys.values():
            entry.fresh_until_ns = 0

    async def announce(self, kind: str, subject: str) -> None:
        """Something was changed and committed: forget it here and in every other process."""
        self.forget(kind, subject)
        if self._bus is not None:
            await self._bus.publish(kind, subject)

    def _is_confirmed(self, entry: _Entry, now_ns: int) -> bool:
        """Whether an entry whose time to live is over is fresh all the same."""
        until_ns = min(self._confirmed_ns + _FRESH_NS, entry.loaded_ns + _FRESH_MAX_NS)
        if not entry.fresh_until_ns or now_ns >= until_ns:
            return False
        entry.fresh_until_ns = until_ns
        return True

    def _known_ns(self, entry: _Entry) -> int:
        """When an entry was last known to be so."""
        return max(entry.loaded_ns, self._confirmed_ns) if entry.fresh_until_ns else entry.loaded_ns

    def _drop(self, parts: list[str]) -> None:
        for part in parts:
            del self._keys[part]

    async def _entry(self, part: str) -> _Entry | None:
        """A key's entry, fresh; from the database where it must be. None for an unknown key."""
        now_ns = self._clock()
        entry = self._keys.get(part)
        if entry is not None and (now_ns < entry.fresh_until_ns or self._is_confirmed(entry, now_ns)):
            return entry
        if now_ns < self._unknown.get(part, 0):
            return None
        generation = self._generation
        try:
            record = await self._store.key_record(f"key_{part}")
        except Unavailable:
            if entry is not None and self._keys.get(part) is entry and now_ns < self._known_ns(entry) + _STALE_NS:
                return entry
            raise
        if record is None:
            self._keys.pop(part, None)
            _keep(self._unknown, part, now_ns + _UNKNOWN_NS)
            return None
        entry = _entry_of(record, now_ns)
        if generation == self._generation:
            _keep(self._keys, part, entry)
        return entry

    def _admit(self, entry: _Entry) -> None:
        if entry.refusal == "app_suspended":
            raise Forbidden("This app is suspended.", code="app_suspended")
        if entry.refusal:
            raise _refused(entry.refusal)
        if self._clock() >= entry.expires_ns:
            raise _refused("expired_api_key")

    def _cached_token(self, credential: str) -> Principal | None:
        if len(credential) > CREDENTIAL_CHARS_MAX:
            return None
        token = self._tokens.get(self._digest(credential))
        if token is None:
            return None
        parent, now_ns = token.parent, self._clock()
        if now_ns >= token.expires_ns or now_ns >= parent.expires_ns:
            return None
        if now_ns >= parent.fresh_until_ns and not self._is_confirmed(parent, now_ns):
            return None
        # A key that was changed or revoked has another entry by now, or none.
        return token.principal if self._keys.get(token.principal.key_id[4:]) is parent else None

    async def _authenticate_token(self, credential: str) -> Principal:
        if not credential.isascii():
            raise _refused("invalid_api_key")
        try:
            key_id = tokens.key_id_of(credential)
            parent = await self._entry(key_id[4:]) if keys.is_api_key_id(key_id) else None
            if parent is None:
                raise _refused("invalid_api_key")
            app = parent.principal.app
            claims = tokens.verify(self._pepper, credential, app.enterprise_id)
        except tokens.TokenInvalid as broken:
            raise _refused("invalid_api_key") from broken
        expires_ns = claims.exp * _NS
        if self._clock() >= expires_ns:
            raise Unauthenticated("The end-user token has expired.", code="expired_api_key")
        self._admit(parent)
        if parent.principal.level is not Level.APP_USAGE or not is_outside_id(claims.sub):
            raise _refused("invalid_api_key")
        if "token" not in app.end_user_sources:
            raise Forbidden("This app does not accept end-user tokens.")
        principal = Principal(
            key_id=parent.principal.key_id,
            level=Level.APP_USAGE,
            app=app,
            shard=parent.principal.shard,
            models=_narrowed(claims.models, parent.principal.models),
            limits=parent.principal.limits,
            platform_user_id=claims.sub,
            token_id=claims.jti,
            token_limits=Limits(rpm=claims.rpm, spend_micro_total=claims.spend),
        )
        _keep(self._tokens, self._digest(credential), _Token(principal, parent, expires_ns))
        return principal


def _keep(cache: dict[Any, Any], key: object, value: object) -> None:
    """Newest last; the oldest goes when the cache is full."""
    cache.pop(key, None)
    if len(cache) >= KEY_CACHE_MAX:
        del cache[next(iter(cache))]
    cache[key] = value


def _refused(code: str) -> Unauthenticated:
    return Unauthenticated(_REFUSALS[code], code=code)


def _entry_of(record: KeyRecord, now_ns: int) -> _Entry:
    key, app = record.key, record.app
    refusal = ""
    if key.revoked_at_ms is not None:
        refusal = "revoked_api_key"
    elif app.status != ACTIVE or record.creator_status != ACTIVE:
        refusal = "app_suspended"
    principal = Principal(
        key_id=key.id, level=key.level, app=app, shard=shard_of(app.user_id), models=key.models, limits=key.limits
    )
    return _Entry(
        digest=bytes.fromhex(record.digest),
        principal=principal,
        refusal=refusal,
        expires_ns=_NEVER_NS if key.expires_at_ms is None else key.expires_at_ms * 1_000_000,
        loaded_ns=now_ns,
        fresh_until_ns=now_ns + _FRESH_NS,
    )


def _narrowed(asked: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """A token's models, less what its key no longer allows: a token never outgrows its key."""
    if not asked:
        return allowed
    left = tuple(model for model in asked if model_allowed(allowed, model))
    if not left:
        raise Forbidden("The key of this token allows none of its models any more.", code="model_not_allowed")
    return left


def _checked(named: object, param: str) -> str:
    if not isinstance(named, str) or not may_be_chosen(named):
        raise InvalidRequest(f"an end user's id is {OUTSIDE_ID_RULE}", param=param)
    return named


def _portkey_user(headers: Mapping[bytes, bytes]) -> object:
    try:
        metadata = json.loads(headers[b"x-portkey-metadata"])
    except (ValueError, RecursionError) as broken:
        raise InvalidRequest("x-portkey-metadata is not JSON", param="x-portkey-metadata") from broken
    return metadata.get("_user") if isinstance(metadata, dict) else None


def _in_body(body: Mapping[str, Any]) -> tuple[tuple[str, str, object], ...]:
    """Source, parameter and value of each place in the body, in the order of precedence."""
    metadata = body.get("metadata")
    return (
        ("safety_identifier", "safety_identifier", body.get("safety_identifier")),
        ("user", "user", body.get("user")),
        ("metadata", "metadata.platform_user_id", metadata.get("platform_user_id") if isinstance(metadata, dict) else None),
    )


def _agreed(signed: str, headers: Mapping[bytes, bytes], body: Mapping[str, Any]) -> str:
    """The token's end user, unless any other source, accepted by the app or not, says someone else."""
    for source, header in _HEADERS:
        raw = headers.get(header)
        if raw and raw.decode("latin-1") != signed:
            raise _mismatch(source)
    if b"x-portkey-metadata" in headers:
        named = _portkey_user(headers)
        if named and named != signed:
            raise _mismatch("x-portkey-metadata")
    for _, param, named in _in_body(body):
        if named and named != signed:
            raise _mismatch(param)
    return signed


def _mismatch(param: str) -> Forbidden:
    return Forbidden(f"`{param}` names another end user than the token.", code="end_user_mismatch", param=param)

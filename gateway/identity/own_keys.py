"""Creators' own provider keys, one for each app and provider: what requests of apps with the cost policy `own_keys` run on.

A key goes in and is never shown again: lists have its last four characters, the trail has none. It is sealed in the
platform's database, and open only in the memory of processes that serve its app, as long as a cached API key.
"""

import logging
import re
from collections.abc import Mapping
from typing import Final

from gateway.core.clock import Clock
from gateway.core.errors import InvalidRequest, NotFound
from gateway.core.limits import KEY_CACHE_MAX, KEY_CACHE_TTL_S
from gateway.identity.cache import APP
from gateway.identity.model import Actor, App, ProviderKey
from gateway.identity.registry import Announce, Registry
from gateway.identity.sealing import Seal
from gateway.identity.store import SealedKey, Store
from gateway.trail.model import Act

_log = logging.getLogger(__name__)
_FRESH_NS: Final = int(KEY_CACHE_TTL_S * 1_000_000_000)
_PROVIDER: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_KEY: Final = re.compile(r"[!-~]{8,4096}")
# Their credentials are this machine's, not a key: a request would run on the operator's account all the same.
WITHOUT_KEYS: Final = frozenset(("bedrock", "demo", "sagemaker", "vertex_ai"))


class OwnKeys:
    """Reads for requests; sets, lists and deletes for their creators."""

    def __init__(self, store: Store, registry: Registry, pepper: bytes, announce: Announce, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._seal = Seal(pepper)
        self._announce = announce
        self._clock = clock
        self._open: dict[str, tuple[int, Mapping[str, str]]] = {}  # by app: until when (ns), and keys by provider
        self._generation = 0
        self._confirmed_ns = 0

    async def of(self, enterprise_id: str) -> Mapping[str, str]:
        """An app's keys by provider; Unavailable when the database is needed and down."""
        found = self._open.get(enterprise_id)
        now_ns = self._clock()
        if found is not None and now_ns < max(found[0], self._confirmed_ns + _FRESH_NS):
            return found[1]
        generation = self._generation
        opened = {}
        for row in await self._store.provider_keys(enterprise_id):
            key = self._opened(row)
            if key is not None:
                opened[row.provider] = key
        if generation == self._generation:  # else one was changed while these were read
            if len(self._open) >= KEY_CACHE_MAX:
                self._open.clear()
            self._open[enterprise_id] = now_ns + _FRESH_NS, opened
        return opened

    def forget(self, kind: str, subject: str) -> None:
        """Drop what is cached of an app that has changed."""
        if kind == APP:
            self._generation += 1
            self._open.pop(subject, None)

    def confirm(self, at_ns: int) -> None:
        """What is cached was still so at that time."""
        self._confirmed_ns = at_ns

    def forget_all(self) -> None:
        """Changes may have been missed."""
        self._generation += 1
        self._open.clear()

    async def put(self, actor: Actor, enterprise_id: str, provider: str, key: str) -> ProviderKey:
        """Set or replace an app's key for a provider. InvalidRequest, NotFound, Forbidden, Unavailable."""
        app = await self._registry.managed_app(actor, enterprise_id)
        if not _PROVIDER.fullmatch(provider):
            raise InvalidRequest("provider must be a provider's name, as the configuration has it.", param="provider")
        if provider in WITHOUT_KEYS:
            raise InvalidRequest(f"{provider} takes no key that an app could bring.", param="provider")
        if not _KEY.fullmatch(key):
            raise InvalidRequest("key must have 8 to 4096 characters of printable ASCII, and no space.", param="key")
        at_ms = self._clock() // 1_000_000
        sealed = self._seal.seal(key, _about(enterprise_id, provider))
        row = SealedKey(enterprise_id, provider, sealed, self._seal.key_id, key[-4:], at_ms)
        await self._store.put_provider_key(row, _act(actor, "provider_key.set", app, provider), at_ms)
        await self._announce(APP, enterprise_id)
        return _shown(row, readable=True)

    async def listed(self, actor: Actor, enterprise_id: str) -> tuple[ProviderKey, ...]:
        """An app's keys by provider, each without what it is."""
        await self._registry.managed_app(actor, enterprise_id)
        rows = await self._store.provider_keys(enterprise_id)
        return tuple([_shown(row, readable=self._opened(row) is not None) for row in rows])

    async def delete(self, actor: Actor, enterprise_id: str, provider: str) -> ProviderKey:
        """Forget an app's key for a provider. NotFound where it has none."""
        app = await self._registry.managed_app(actor, enterprise_id)
        held = [row for row in await self._store.provider_keys(enterprise_id) if row.provider == provider]
        at_ms = self._clock() // 1_000_000
        act = _act(actor, "provider_key.delete", app, provider)
        if not held or not await self._store.delete_provider_key(enterprise_id, provider, act, at_ms):
            raise NotFound("The app has no key for this provider.", param="provider")
        await self._announce(APP, enterprise_id)
        return _shown(held[0], readable=False)

    def _opened(self, row: SealedKey) -> str | None:
        key = self._seal.open(row.sealed, _about(row.enterprise_id, row.provider))
        if key is None:
            is_ours = row.sealed_by == self._seal.key_id
            why = "it was changed in the database" if is_ours else "it was sealed under another key pepper"
            _log.error("the key of %s for %s cannot be read: %s", row.enterprise_id, row.provider, why)
        return key


def _about(enterprise_id: str, provider: str) -> str:
    return f"{enterprise_id}\n{provider}"


def _shown(row: SealedKey, *, readable: bool) -> ProviderKey:
    return ProviderKey(row.enterprise_id, row.provider, row.hint, row.created_at_ms, readable)


def _act(actor: Actor, name: str, app: App, provider: str) -> Act:
    return Act(
        name,
        actor.role,
        actor.name,
        f"{app.enterprise_id}/{provider}",
        user_id=app.user_id,
        enterprise_id=app.enterprise_id,
        after={"provider": provider} if name == "provider_key.set" else None,
    )

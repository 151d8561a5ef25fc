"""An answer given again to the very same request, where the app, or the request itself, asks for that.

The same request is: the same app, surface, model and body, byte for byte as its JSON means, less what only says who asks or
how the answer travels; and the same end user, where the app wants that. What was kept is what the provider sent, so that it is
counted, shown and cut as the first time. It takes the way of every request: it is held for, settled and in the books, at the
part of its price that the app says (nothing, unless it says so), with no cost of a provider and the flag `cached`. What was
used is kept beside it, so that exactly its price is held, and a wallet that has less is refused.

Not kept: what was not whole, or says that it failed; what is as short as the wallet of who asked first; what another model
answered in a fallback; images and audio (large, or gone with their address); and responses that a provider stores (their ids
belong to one end user). A deployment that has become another one, by its model or address, has kept nothing.
"""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from gateway.core.clock import Clock
from gateway.core.errors import InvalidRequest
from gateway.core.limits import ANSWER_TTL_S_MAX
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.core.tasks import Tasks
from gateway.identity.model import AnswerCache, Principal
from gateway.pricing.rates import flat, scaled
from gateway.providers.model import MESSAGES, RESPONSES, Deployment, Reply, Route
from gateway.proxy import wire
from gateway.proxy.quote import Payer
from gateway.proxy.surface import Request

HEADER: Final = b"x-mozaiks-cache"
_VERSION: Final = 2
_KEPT_PATHS: Final = frozenset(
    ("/chat/completions", "/completions", "/embeddings", "/moderations", "/rerank", MESSAGES, RESPONSES)
)  # fmt: skip
_NOT_ASKED: Final = frozenset(
    ("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "stream_options", "user")
)
_ANSWER_BYTES_MAX: Final = 1024 * 1024
_DEFAULT: Final = AnswerCache(ttl_s=0)
# An `error` that holds something, or an event that says so, of any dialect. Quotes in a text that was written are escaped.
_FAILED: Final = re.compile(
    rb'"error"\s*:\s*[{"]|"type"\s*:\s*"(?:error|response\.(?:failed|incomplete))"|"status"\s*:\s*"(?:failed|incomplete|cancelled)"'
)
_deterministic: Final = msgspec.json.Encoder(order="deterministic").encode


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One kept answer: who gave it, when, the bytes that it sent, and what was used, by the kinds and the price it was."""

    deployment: str
    at_ms: int
    content_type: bytes
    body: bytes
    counts: tuple[int, ...]
    variant: str


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Kept).decode


class Store(Protocol):
    """Where answers are kept; see `answers.redis_answers`."""

    async def find(self, enterprise_id: str, digest: bytes) -> bytes | None:
        """What is kept, if anything."""
        ...

    async def keep(self, enterprise_id: str, digest: bytes, value: bytes, ttl_s: int) -> None:
        """Keep it; failures are silent."""
        ...


class Again:
    """What one request may have again, or leave behind. `hit` is what was found."""

    def __init__(self, enterprise_id: str, digest: bytes, policy: AnswerCache, ttl_s: int) -> None:
        self._enterprise_id = enterprise_id
        self._digest = digest
        self._percent = policy.price_percent
        self._ttl_s = ttl_s
        self._recorded: _Recorded | None = None
        self.hit: Kept | None = None

    @property
    def costs(self) -> bool:
        """Whether an answer that is given again is paid for."""
        return self._percent > 0

    def paying(self, paying: tuple[Payer, ...]) -> tuple[Payer, ...]:
        """Who pays, and at which rates: those of the model, or their part for an answer that is given again."""
        if self.hit is None:
            return paying
        if not self.costs:
            return ()
        made = []
        for payer in paying:
            rates = scaled(payer.rates.variant(self.hit.variant) if self.hit.variant else payer.rates, 100 * self._percent)
            amount = min(rates.price_of(self.hit.counts), AMOUNT_MICRO_MAX)
            made.append(Payer(payer.wallet, payer.role, flat(rates.asset, amount)))
        return tuple(made)

    def reply(self) -> Reply:
        """The answer that was found."""
        assert self.hit is not None
        return _Given(self.hit)

    def recorded(self, reply: Reply) -> Reply:
        """The same reply, of which what is read is noted."""
        if self.hit is not None:
            return reply
        self._recorded = _Recorded(reply)
        return self._recorded

    def keep(
        self, store: Store, tasks: Tasks, deployment: Deployment, now_ms: int, counts: tuple[int, ...], variant: str
    ) -> None:
        """Keep the answer that was read; it was whole."""
        found = self._recorded
        if self.hit is not None or found is None or found.parts is None:
            return
        body = b"".join(found.parts)
        if not _FAILED.search(body):
            kept = Kept(_who(deployment), now_ms, found.content_type, body, counts, variant)
            tasks.spawn(store.keep(self._enterprise_id, self._digest, _encode(kept), self._ttl_s), "keep an answer")


class Answers:
    """Looks for kept answers; holds no state of a request's."""

    def __init__(self, store: Store, tasks: Tasks, clock: Clock) -> None:
        self._store = store
        self._tasks = tasks
        self._clock = clock

    async def look(
        self, asked: bytes | None, request: Request, principal: Principal, end_user: str | None, route: Route
    ) -> tuple[Again | None, Route]:
        """What this request may have again, and where it goes. InvalidRequest for an `asked` that says nothing."""
        policy = principal.app.answer_cache or _DEFAULT
        ttl_s, looks = _wish(asked, policy, principal)
        if not ttl_s or not _may_be_kept(request):
            return None, route
        digest = _digest(request, end_user if policy.per_end_user else None)
        again = Again(principal.app.enterprise_id, digest, policy, ttl_s)
        value = await self._store.find(principal.app.enterprise_id, digest) if looks else None
        if value is not None:
            kept = _read(value)
            of = next((each for each in route.deployments if kept is not None and _who(each) == kept.deployment), None)
            if of is not None:
                again.hit = kept
                return again, replace(route, deployments=(of,), fallbacks=(), retries=0, several=False)
        return again, route

    def headers(self, again: Again) -> list[tuple[bytes, bytes]]:
        """What the client is told of it."""
        if again.hit is None:
            return [(HEADER, b"miss")]
        age_s = max(0, (self._clock() // 1_000_000 - again.hit.at_ms) // 1000)
        told = [(HEADER, b"hit"), (b"age", b"%d" % age_s)]
        return told if again.costs else [*told, *wire.money_headers(0, None)]

    def keep(self, again: Again, route: Route, deployment: Deployment, counts: tuple[int, ...], variant: str) -> None:
        """Keep what was answered whole, by a deployment that the same request would ask. `counts`: what was used, by kind."""
        if any(each.id == deployment.id for each in route.deployments):
            again.keep(self._store, self._tasks, deployment, self._clock() // 1_000_000, counts, variant)


def _wish(asked: bytes | None, policy: AnswerCache, principal: Principal) -> tuple[int, bool]:
    """For how many seconds the answer is to be kept (0: not), and whether a kept one will do."""
    if asked is None:
        return policy.ttl_s, True
    if asked == b"off":
        return 0, False
    if principal.token_id is not None and principal.app.answer_cache is None:
        return 0, False  # what an end user asks for is the app's to allow
    if asked == b"refresh":
        return policy.ttl_s, False
    if not asked.isdigit() or int(asked) > ANSWER_TTL_S_MAX:
        name = HEADER.decode()
        raise InvalidRequest(f"{name} must be off, refresh or a number of seconds up to {ANSWER_TTL_S_MAX}", param=name)
    return int(asked), True


def _may_be_kept(request: Request) -> bool:
    path = request.surface.path
    return path in _KEPT_PATHS and (path != RESPONSES or request.body.get("store") is False)


def _digest(request: Request, end_user: str | None) -> bytes:
    body: Mapping[str, Any] = {name: value for name, value in request.body.items() if name not in _NOT_ASKED}
    asked = [_VERSION, request.surface.path, request.streamed, request.headers, end_user, body]
    return sha256(_deterministic(asked)).hexdigest().encode()


def _who(deployment: Deployment) -> str:
    """A deployment, which another one of the same id is not: ids are places in the configuration."""
    return f"{deployment.id} {deployment.provider} {deployment.model} {deployment.api_base}"


def _read(value: bytes) -> Kept | None:
    try:
        return _decode(value)
    except msgspec.DecodeError:
        return None  # of another version


class _Given:
    """A kept answer as a reply."""

    status = 200

    def __init__(self, kept: Kept) -> None:
        self._body = kept.body
        self.content_type = kept.content_type
        self.headers: Mapping[str, str] = {}

    async def read(self, limit_s: float) -> bytes:
        """The body."""
        return self._body

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        """The body in one piece."""
        body, self._body = self._body, b""
        return not body or take(body)

    async def close(self) -> None:
        """Nothing is held."""


class _Recorded:
    """A reply whose bytes are noted as they are read; `parts` is None once they are too many."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.status = reply.status
        self.parts: list[bytes] | None = []
        self._size = 0

    @property
    def headers(self) -> Mapping[str, str]:
        """As the reply has them."""
        return self._reply.headers

    @property
    def content_type(self) -> bytes:
        """As the reply says."""
        return self._reply.content_type

    async def read(self, limit_s: float) -> bytes:
        """As the reply."""
        body = await self._reply.read(limit_s)
        self._note(body)
        return body

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        """As the reply."""

        def noted(piece: bytes) -> bool:
            self._note(piece)
            return take(piece)

        return await self._reply.relay(noted)

    async def close(self) -> None:
        """As the reply."""
        await self._reply.close()

    def _note(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > _ANSWER_BYTES_MAX:
            self.parts = None
        elif self.parts is not None:
            self.parts.append(piece)

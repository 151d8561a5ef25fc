"""What the data plane needs of the rooms below, as it calls them. The composer hands in what fits."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Protocol

from gateway.identity.model import Principal
from gateway.pricing.rates import Rates
from gateway.providers.health import Health
from gateway.providers.model import Route

ANSWER: Final = "mozaiks.answer"  # where a scope's extensions hold the `Answer`, when the server makes one


class Answer(Protocol):
    """The way to answer one request. Only `drained` and `gone` wait: a part of a stream passes without a turn of the loop."""

    @property
    def started(self) -> bool:
        """Whether there is a head."""
        ...

    def body_at_hand(self) -> bytes | None:
        """The request's whole body, when all of it is here already; None: receive it. Once."""
        ...

    def whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """All of the answer; the content-length is added. `drained` sends it."""
        ...

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head, names in lower case; it may leave with the first of the body only."""
        ...

    def write(self, part: bytes) -> bool:
        """A part of the body. False: write nothing more until `drained`."""
        ...

    def end(self, part: bytes = b"") -> None:
        """The last of the body; `drained` sends it."""
        ...

    async def drained(self) -> None:
        """Until more can be written, or nobody is there to read it."""
        ...

    @property
    def left(self) -> bool:
        """Whether the client is known to have left; `write` answers False then."""
        ...

    async def gone(self) -> bool:
        """The same, asked of the server where it does not tell by itself."""
        ...


class Gate(Protocol):
    """Identity, as the data plane needs it."""

    def cached(self, credential: str) -> Principal | None:
        """The principal of a credential in memory; None: ask `authenticate`."""
        ...

    async def authenticate(self, credential: str) -> Principal:
        """The principal, or Unauthenticated, Forbidden, Unavailable."""
        ...

    def resolve_end_user(self, principal: Principal, headers: Mapping[bytes, bytes], body: Mapping[str, Any]) -> str | None:
        """Whose wallet pays at level 2; None at level 1. MissingEndUser, InvalidRequest, Forbidden."""
        ...

    async def provider_keys(self, principal: Principal) -> Mapping[str, str]:
        """The keys that the principal's app brought, by provider; Unavailable."""
        ...

    def may_use(self, principal: Principal, model: str) -> bool:
        """Whether the credential's models include this one."""
        ...


class Router(Protocol):
    """Where a model is served."""

    def route(self, model: str, by: str = "") -> Route:
        """At least one deployment, in the order to try for a creator; NotFound `model_not_found`."""
        ...

    def took(self, deployment_id: str, took_s: float, output_tokens: int = 0) -> None:
        """A deployment of several took so long to the first byte of an answer, which had so much output then."""
        ...

    @property
    def health(self) -> Health:
        """Which deployments rest."""
        ...


class Opener(Protocol):
    """Opens wallets that the hot store does not know, from the ledger."""

    async def open_missing(self, shard: int, wallets: tuple[str, ...], needed: tuple[str, ...] = ()) -> bool:
        """False when one of them may not be opened; Unfunded when one that is `needed` to hold something is nobody's."""
        ...

    async def is_lapsed(self, wallet: str) -> bool:
        """Whether a wallet that was refused drew on subscriptions alone, of which none goes on."""
        ...


class Prices(Protocol):
    """Rates now, from books already in memory; `pricing.catalog.Catalog` is the one there is."""

    def cost(self, deployment_id: str, at_ms: int) -> Rates | None:
        """What the provider takes, None when nobody knows."""
        ...

    def platform(self, model: str, deployment_id: str, at_ms: int) -> Rates | None:
        """What the platform takes from a creator."""
        ...

    def app_cached(
        self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int
    ) -> Rates | Literal[False] | None:
        """What the app takes from its end users; False while its book is not in memory."""
        ...

    async def load_app(self, enterprise_id: str) -> None:
        """Bring the app's book into memory."""
        ...

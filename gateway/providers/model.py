"""Deployments, upstream replies, upstream faults, and the `Upstream` port."""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from gateway.core.limits import CHUNK_TIMEOUT_S, FIRST_BYTE_TIMEOUT_S, TOOL_CALLS

MESSAGES: Final = "/messages"
COUNT_TOKENS: Final = "/messages/count_tokens"
RESPONSES: Final = "/responses"
# Surfaces that are made of chat completions where a deployment does not speak them itself.
OWN_DIALECTS: Final = frozenset((MESSAGES, COUNT_TOKENS, RESPONSES))
# Surfaces that nobody translates: a translated provider is asked only where a deployment says that it speaks them itself.
UNTRANSLATED: Final = {
    "images": ("/images/generations", "/images/edits"),
    "audio": ("/audio/speech", "/audio/transcriptions", "/audio/translations"),
    "moderations": ("/moderations",),
    "rerank": ("/rerank",),
}


METHOD: Final = ":method"  # a header by this name, as HTTP/2 writes it, asks for another method than POST


class Capacity(msgspec.Struct, frozen=True):
    """How much one deployment is asked for at most, by all processes together: requests and tokens a minute, and at once.

    `name` is the deployment's in the configuration: one that serves many models has one capacity for all of them.
    """

    name: str
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


class Deployment(msgspec.Struct, frozen=True):
    """One place that serves a model.

    `id` is unique in the configuration ("gpt-4o-mini/openai/0") and is the key of its cost prices.
    `output_cap_field` is the body field that caps output there. `cached_inside` says whether the
    provider counts cached tokens inside the prompt count (OpenAI) or beside it (Anthropic).
    `hidden_reasoning` says whether it makes tokens that are paid for and not shown; None: nobody knows.
    `params` are what a translated provider needs besides: a region, a project, a version of its API.
    `speaks` are the paths of the surfaces in a dialect of their own (`OWN_DIALECTS`), and of those that nobody translates
    (`UNTRANSLATED`), that it serves itself.
    `surfaces` are the paths that the model is known to serve, None where nobody knows; one that chats with nobody has an
    `input_tokens_max` of 0.
    `api_version` is Azure's; see `azure`.
    `own_keys` says whether apps may bring a key for it; None: where the operator has one. A server that looks at no key serves
    anybody's.
    `names_tier`: a request that names no service tier would get that of a setting of its account, at another price.
    `tool_calls` is how often tools that the provider runs itself may run for a request that does not say; `tool_call_tokens` is
    what each call makes the model read, as it is held, None: all that it can; `vector_stores` are the ids of those under its
    account that every app may search.
    """

    id: str
    provider: str
    model: str
    api_base: str
    api_key: str
    weight: int = 1
    output_cap_field: str = "max_tokens"
    cached_inside: bool = True
    input_tokens_max: int | None = None
    output_tokens_max: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    first_byte_timeout_s: float = FIRST_BYTE_TIMEOUT_S
    chunk_timeout_s: float = CHUNK_TIMEOUT_S
    hidden_reasoning: bool | None = None
    params: tuple[tuple[str, str | int | float | bool], ...] = ()
    speaks: frozenset[str] = frozenset()
    surfaces: frozenset[str] | None = None
    capacity: Capacity | None = None
    api_version: str = ""
    own_keys: bool | None = None
    names_tier: bool = False
    tool_calls: int = TOOL_CALLS
    tool_call_tokens: int | None = None
    vector_stores: frozenset[str] = frozenset()


class Strategy(StrEnum):
    """By what the deployments of a model are put in order."""

    WEIGHT = "weight"  # by lot
    ORDER = "order"  # as they are listed
    LATENCY = "latency"  # who was the quickest to its first byte lately
    COST = "cost"  # who is the cheapest


class ModelEntry(msgspec.Struct, frozen=True):
    """One entry of the configuration: a name that clients ask for, and where it is served.

    The name may hold one or more `*` (any run of characters). A deployment of such an entry whose
    `model` is "*" is asked for the name that the client gave. `fallbacks` are names of models that are
    asked when every deployment failed; `retries` is how often the last one is asked again, after pauses.
    """

    name: str
    deployments: tuple[Deployment, ...]
    fallbacks: tuple[str, ...] = ()
    retries: int = 0
    strategy: Strategy = Strategy.WEIGHT


class Route(msgspec.Struct, frozen=True):
    """Where a request for `model` goes: `deployments` in the order to try, at least one; then as `ModelEntry` says."""

    model: str
    deployments: tuple[Deployment, ...]
    fallbacks: tuple[str, ...] = ()
    retries: int = 0
    several: bool = False  # whether there is a choice, so that it matters how each of them does; or a capacity to look at


class UpstreamFault(Exception):
    """The upstream could not be reached or broke. `reason` is safe to show (no address, no key).

    `sent` is False when the request certainly did not reach it, so another try cannot double it.
    """

    def __init__(self, reason: str, *, sent: bool, arrived: bytes = b"") -> None:
        """`arrived` is what there is of an answer that broke off, where somebody has it."""
        super().__init__(reason)
        self.reason = reason
        self.sent = sent
        self.arrived = arrived


class UpstreamSilent(UpstreamFault):
    """A time-out: connecting, waiting for the first byte, or in mid-stream."""


Headers = tuple[tuple[str, str], ...]


class Reply(Protocol):
    """An upstream's answer. Exactly one of `read` and `relay` is used, then `close` always."""

    status: int

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers, names in lower case."""
        ...

    @property
    def content_type(self) -> bytes:
        """What the answer says it is, empty when it does not say."""
        ...

    async def read(self, limit_s: float) -> bytes:
        """The whole body, at most `ANSWER_BYTES_MAX`, of images and embeddings more.

        UpstreamFault when it breaks off, UpstreamSilent after `limit_s`.
        """
        ...

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        """Hand each piece of the body to `take` as it arrives; True at the end, False as soon as `take` returned False.

        After False the rest waits for the next call. What `take` raises ends the reply and is raised here.
        UpstreamFault when the body breaks off, UpstreamSilent after `chunk_timeout_s` without a piece.
        """
        ...

    async def close(self) -> None:
        """Give the connection back, or drop it when the body was not read to its end. Never raises."""
        ...


class Dialect(Protocol):
    """Makes a surface with a dialect of its own out of chat completions: requests, whole answers, streams and errors."""

    def send(self, chat: "Upstream", deployment: Deployment, path: str, body: bytes, headers: Headers) -> Awaitable[Reply]:
        """As `Upstream.send`, by way of `chat`, which is asked for "/chat/completions"."""
        ...


class Upstream(Protocol):
    """Talks to deployments. One instance serves a whole process."""

    def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Awaitable[Reply]:
        """POST `body` to the deployment's `path` (such as "/chat/completions") and return at the first byte.

        It is JSON, unless one of `headers` (names in lower case), which go with this request alone, says otherwise. The
        byte path takes `METHOD` among them.

        A reused connection that dies before any answer byte is replaced by a fresh one, once, without
        counting as an attempt. Raises UpstreamFault or UpstreamSilent.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...

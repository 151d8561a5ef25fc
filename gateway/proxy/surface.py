"""What the straight line of an exchange asks of a surface, such as `/v1/chat/completions`.

A surface knows one endpoint's requests and answers: how one is read, what it can cost at most, what is sent upstream, how
an answer tells what it used, and what an error looks like to its clients. Who pays, holds and settles is the same for all.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from gateway.core.errors import GatewayError
from gateway.core.units import Usage
from gateway.providers.model import Deployment, Headers, Reply, Route
from gateway.proxy.allowed_calls import ToolCalls

Measured = tuple[Usage, tuple[str, ...]]  # and flags
AUTO_TIERS: Final = "default|priority|flex"  # what a request may be served at that leaves the service tier to its provider


class Request(msgspec.Struct):
    """One parsed request. `output_cap` is tokens per choice, None where the client set none; the plain surfaces need no more.

    `units` are the most that it uses of what is no token, by kind; `headers` go upstream with it; `kept` is what the surface
    itself wants to know again when the answer comes. `placed` narrows a route to where alone it can be served; it raises
    GatewayError where that is nowhere. `completed` is asked with our own count of tokens where `measured` found none; it takes
    what was told, the request, the deployment and the count. `calls` are those that the provider's own tools may get.
    """

    surface: "Surface"
    body: dict[str, Any]
    body_bytes: int
    model: str
    streamed: bool
    wants_usage: bool
    output_cap: int | None
    choices: int
    shows: bool  # all that it can cost shows in a stream as it is made
    units: tuple[tuple[str, int], ...] = ()
    variant: str = ""  # of the price, as `Rates.variant` takes it; `measured` puts there what the answer was served at
    headers: Headers = ()
    kept: Any = None
    placed: Callable[[Route], Route] | None = None
    completed: "Callable[[Any, Request, Deployment, Usage], Measured] | None" = None
    calls: ToolCalls | None = None


class Stream(Protocol):
    """One streamed answer on its way to the client; `relay.Relay` is the one of chats.

    `texts` are the texts generated so far, as they stand in JSON, `text_bytes` a bound on their tokens. After the end,
    `usage` is what it told of it (the surface can read it), `complete` whether the upstream ended it itself, `told_early`
    whether it went on after its last word on usage, `error` what an error event said, which was not forwarded.
    """

    texts: list[bytes]
    text_bytes: int
    error: str

    @property
    def usage(self) -> Any:
        """See above."""
        ...

    @property
    def content_type(self) -> bytes:
        """What the client is told that it is."""
        ...

    @property
    def complete(self) -> bool:
        """See above."""
        ...

    @property
    def told_early(self) -> bool:
        """See above."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """What of it to forward now. BrokenStream."""
        ...

    def end(self) -> bytes:
        """What to forward of what was left unfinished when the upstream closed."""
        ...

    def text(self) -> str:
        """Everything generated so far."""
        ...

    def finish(self) -> bytes:
        """What ends a stream that is cut here, because the payer's money ended, or its client had left."""
        ...

    def last(
        self,
        request: Request,
        request_id: str,
        counted: Usage | None,
        money: Mapping[str, Any],
        error: GatewayError | None,
        *,
        asked: bool,
    ) -> bytes:
        """What was kept back until the request was settled: its end, and its usage; with an error why it was cut.

        `counted` is our own count, where the upstream's word was not taken; `money` is what goes into the usage; `asked` is
        whether the client wants to see it even where its dialect would not show it.
        """
        ...

    def ended_by(self, error: GatewayError, request_id: str) -> bytes:
        """The end of a stream that broke."""
        ...


class Surface(Protocol):
    """One endpoint of the data plane. Holds no state of a request's."""

    path: str  # below /v1, and below a deployment's base

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """The request, checked as far as money and routing depend on it; InvalidRequest names the field."""
        ...

    def bound(self, request: Request, deployment: Deployment) -> int:
        """No fewer tokens than its prompt can have, at next to no cost."""
        ...

    def most(self, request: Request, deployment: Deployment) -> int:
        """Tokens of output that one choice has at most; 0 where output is none, and no cap is sent."""
        ...

    def prompt(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """For counting: a body, and its field that holds the prompt, as `metering.counting.input_tokens` takes them."""
        ...

    def outgoing(self, request: Request, deployment: Deployment, cap: int | None) -> bytes:
        """The body to send; `cap` None leaves the client's own output cap alone, a number replaces it."""
        ...

    def streams(self, request: Request, reply: Reply) -> bool:
        """Whether the answer is to be passed on piece by piece."""
        ...

    def stream(self, request: Request, reply: Reply) -> Stream:
        """For one such answer."""
        ...

    def told(self, body: bytes) -> Any:
        """What a whole answer tells of its usage, None for nothing. DecodeError, UnicodeDecodeError for what is no answer."""
        ...

    def text(self, body: bytes) -> str:
        """What a whole answer's text is, for counting."""
        ...

    def measured(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """The usage in what was told, and what was wrong with it; None where it says none that can be used."""
        ...

    def returned(self, request: Request, body: bytes) -> bytes:
        """A whole answer as the client gets it."""
        ...

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """A failure, as clients of this surface read one."""
        ...

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        """The event that ends a stream in trouble."""
        ...

"""ASGI endpoints of the data plane. Raw ASGI on purpose: a Request and a Response object would cost
a fifth of the whole request's CPU, a middleware class twice the request.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from time import perf_counter
from typing import Any, Final, Protocol

from gateway.core import limits
from gateway.core.errors import BodyTooLarge, GatewayError, InvalidRequest, Unauthenticated, Unavailable
from gateway.core.ids import new_id
from gateway.identity.model import END_USER_SOURCES, Principal
from gateway.proxy import wire
from gateway.proxy.meter import SEEN_MAX, Seen
from gateway.proxy.ports import ANSWER, Answer, Gate
from gateway.proxy.surface import Surface
from gateway.proxy.ticket import Call, Ticket

_log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
_EXPOSED: Final = (
    b"age, retry-after, x-mozaiks-balance, x-mozaiks-cache, x-mozaiks-cost, x-mozaiks-model, x-mozaiks-output-cap,"
    b" x-mozaiks-tool-calls, x-request-id, x-should-retry"
)


class DataPlane:
    """The whole application, with the hot endpoints found by one look-up before any router or middleware.

    The router and the error middleware of the application behind it cost a tenth of a plain request.
    """

    def __init__(self, behind: Application) -> None:
        self._behind = behind
        self.posts: dict[str, Application] = {}  # by path; filled when the services are open

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Any ASGI event. Hands the handler's own coroutine on: one more around each request would cost at each wait."""
        method = scope.get("method")  # a lifespan has none
        if method == "POST" and (handler := self.posts.get(scope["path"])):
            return handler(scope, receive, send)
        if method == "OPTIONS" and scope["path"].startswith("/v1/"):
            return preflight(scope, receive, send)
        return self._behind(scope, receive, send)


class Traffic:
    """What one web process is working on: bounded, and refused once the process drains."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.large_bytes = 0
        self.draining = False
        self.seen: deque[Seen] = deque(maxlen=SEEN_MAX)  # requests that have ended, until `meter` counts them

    def check(self) -> None:
        """Unavailable when no further request may start."""
        if self.draining:
            raise Unavailable("The gateway is shutting down.", code="draining", retry_after_s=1.0)
        if self.in_flight >= limits.IN_FLIGHT_MAX:
            raise Unavailable("The gateway has as many requests in flight as it takes.", retry_after_s=1.0)

    def take(self, body_bytes: int) -> None:
        """Count a large body in; Unavailable when the process holds as much of such bodies as it may."""
        if self.large_bytes + body_bytes > limits.LARGE_BODIES_BYTES_MAX:
            raise Unavailable("The gateway holds as many large requests as it takes.", retry_after_s=1.0)
        self.large_bytes += body_bytes

    def give_back(self, body_bytes: int) -> None:
        """Count a large body out."""
        self.large_bytes -= body_bytes


class Line(Protocol):
    """What answers the requests of known callers: `exchange.Exchange`, or what stands before it, or needs none of it."""

    async def run(self, call: Call, surface: Surface, principal: Principal) -> Ticket | None:
        """Answer one request; the ticket of one that was sent somewhere.

        GatewayError when it is refused or fails before the first byte.
        """
        ...


class ModelEndpoint:
    """POST of one model surface, such as `/v1/chat/completions`."""

    def __init__(
        self, surface: Surface, exchange: Line, gate: Gate, traffic: Traffic, bytes_max: int = limits.BODY_BYTES_MAX
    ) -> None:
        self._surface = surface
        self._bytes_max = bytes_max
        self._exchange = exchange
        self._gate = gate
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its first byte to its last; every failure is one JSON error."""
        started = perf_counter()
        call = Call(new_id("req"), self._surface, dict(scope["headers"]), b"", answer_of(scope, receive, send), started, [])
        self._traffic.in_flight += 1
        large = 0
        try:
            self._traffic.check()
            if len(call.headers) != len(scope["headers"]):
                check_once(scope["headers"])
            credential = credential_of(call.headers)
            principal = self._gate.cached(credential) or await self._gate.authenticate(credential)
            if b"origin" in call.headers:
                call.extra_headers = cors_headers(principal, call.headers)
            length = call.headers.get(b"content-length")
            if length is None or len(length) >= _LARGE_DIGITS:
                declared = declared_bytes(call.headers, self._bytes_max)
                if declared > limits.LARGE_BODY_BYTES:
                    self._traffic.take(declared)
                    large = declared
            body = call.answer.body_at_hand()
            if body is None or len(body) > self._bytes_max:
                body = await whole_body(receive, self._bytes_max, body or b"")
            call.raw = body
            ticket = await self._exchange.run(call, self._surface, principal)
            served_by, first_byte_at = ("", 0.0) if ticket is None else (ticket.deployment.id, ticket.first_byte_at)
            self._traffic.seen.append((self._surface.path, call.model, served_by, 200, started, first_byte_at, perf_counter()))
        except GatewayError as error:
            self._traffic.seen.append((self._surface.path, call.model, "", error.status, started, 0.0, perf_counter()))
            await answer_error(call, error)
        except asyncio.CancelledError:  # only the end of the process cancels a request
            put_error(call, Unavailable("The gateway is shutting down.", code="draining", retry_after_s=1.0))
            raise
        except ClientGone:
            _log.debug("%s: the client left before its request was complete", call.request_id)
        except Exception:  # noqa: BLE001 - process edge: a bug answers 500 and is logged, the server lives on
            _log.exception("request %s failed", call.request_id)
            self._traffic.seen.append((self._surface.path, call.model, "", 500, started, 0.0, perf_counter()))
            await answer_error(call, GatewayError("The gateway failed. The operator can find it by the request id."))
        finally:
            self._traffic.in_flight -= 1
            if large:
                self._traffic.give_back(large)


class AsgiAnswer:
    """An `Answer` out of ASGI's two calls, for servers that make none themselves: each part is sent by `drained`."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._events: list[MutableMapping[str, Any]] = []
        self.left = False
        self.started = False

    def body_at_hand(self) -> bytes | None:
        """Always None: it must be received."""
        return None

    def whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """See `Answer`."""
        self.start(status, (*headers, (b"content-length", b"%d" % len(body))))
        self.end(body)

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """See `Answer`."""
        self.started = True
        self._events.append({"type": "http.response.start", "status": status, "headers": list(headers)})

    def write(self, part: bytes) -> bool:
        """Always False: it is not sent before `drained`."""
        self._events.append({"type": "http.response.body", "body": part, "more_body": True})
        return False

    def end(self, part: bytes = b"") -> None:
        """See `Answer`."""
        self._events.append({"type": "http.response.body", "body": part, "more_body": False})

    async def drained(self) -> None:
        """Send what there is."""
        events, self._events = self._events, []
        try:
            for event in [] if self.left else events:
                await self._send(event)
        except OSError:  # what the ASGI specification lets servers raise when nobody is there any more
            self.left = True

    async def gone(self) -> bool:
        """The request was read to its end, so nothing else can be received than that the client left."""
        try:
            async with asyncio.timeout(0):  # `receive` returns at once when it knows, and is cancelled when it would wait
                return self.left or bool((await self._receive())["type"] == "http.disconnect")
        except TimeoutError:
            return False


def answer_of(scope: Scope, receive: Receive, send: Send) -> Answer:
    """The server's own, where it makes one."""
    found: Answer | None = scope.get("extensions", _NOTHING).get(ANSWER)
    return found or AsgiAnswer(receive, send)


_NOTHING: Final[Mapping[str, Any]] = {}


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


def check_once(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """InvalidRequest when a header that says who is calling or who pays is there twice: a proxy before us may read the other."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in _SAYS_WHO:
            raise InvalidRequest(f"{name.decode()} is there twice", param=name.decode())
        seen.add(name)


_SAYS_WHO: Final = frozenset((b"authorization", b"x-api-key", *[name.encode() for name in END_USER_SOURCES if "-" in name]))


def credential_of(headers: dict[bytes, bytes]) -> str:
    """What `Authorization: Bearer` or `x-api-key` says; Unauthenticated when neither does."""
    header = headers.get(b"authorization")
    if header is not None and header[:7].lower() == b"bearer ":
        credential = header[7:].strip().decode("latin-1")
    else:
        credential = headers.get(b"x-api-key", b"").decode("latin-1")
    if not credential:
        raise Unauthenticated("Send an API key as `Authorization: Bearer <key>`.")
    return credential


def declared_bytes(headers: dict[bytes, bytes], bytes_max: int) -> int:
    """The length that the client declares (the most there may be when it declares none); BodyTooLarge."""
    declared = headers.get(b"content-length")
    if declared is None:
        return bytes_max if b"transfer-encoding" in headers else 0
    if declared.isdigit() and int(declared) > bytes_max:
        raise BodyTooLarge(f"the body is larger than {bytes_max} bytes")
    return int(declared) if declared.isdigit() else bytes_max


_LARGE_DIGITS: Final = len(str(limits.LARGE_BODY_BYTES))  # a length of fewer digits needs no second look


async def whole_body(receive: Receive, bytes_max: int, first: bytes = b"") -> bytes:
    """The body, of which `first` is here; BodyTooLarge while it is read, ClientGone."""
    parts, size = [first], len(first)
    message: MutableMapping[str, Any] = {"type": "http.request", "more_body": True}
    while size <= bytes_max and message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > bytes_max:
        raise BodyTooLarge(f"the body is larger than {bytes_max} bytes")
    if message["type"] == "http.disconnect":
        raise ClientGone
    return b"".join(parts)


def cors_headers(principal: Principal, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Lets a browser page of the app read the answer; only for end-user tokens, as an API key is no browser's business."""
    origin = headers.get(b"origin")
    if origin is None or principal.token_id is None:
        return []
    allowed = principal.app.cors_origins
    if "*" not in allowed and origin.decode("latin-1") not in allowed:
        return []
    return [
        (b"access-control-allow-origin", origin),
        (b"vary", b"origin"),
        (b"access-control-expose-headers", _EXPOSED),
    ]


async def preflight(_: Scope, __: Receive, send: Send) -> None:
    """OPTIONS: which app is asking is unknown until the token comes, so the answer itself decides who may read it."""
    headers = [
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", b"authorization, content-type, x-workflow-type, x-session-id, x-agent-name, x-tags, *"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def answer_error(call: Call, error: GatewayError) -> None:
    """The error as a JSON answer, or as the last event of a stream that has begun."""
    put_error(call, error)
    await call.answer.drained()


def put_error(call: Call, error: GatewayError) -> None:
    """The same, without waiting until it is sent."""
    answer = call.answer
    if answer.started:
        answer.end((call.surface or wire).error_event(error, call.request_id))
        return
    body = (call.surface or wire).error_body(error, call.request_id)
    headers = [
        *wire.error_headers(error),
        (b"x-request-id", call.request_id.encode()),
        *call.extra_headers,
    ]
    answer.whole(error.status, headers, body)


Handler = Callable[[Call, Principal], Awaitable[bytes]]


class AccountEndpoint:
    """Something about the caller, asked without a body: `handler` returns the JSON."""

    def __init__(self, handler: Handler, gate: Gate, path_names: tuple[str, ...] = (), *, takes_query: bool = False) -> None:
        self._handler = handler
        self._gate = gate
        self._path_names = path_names
        self._takes_query = takes_query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; path parameters reach the handler as the call's `raw`, with the query behind a `?`."""
        path = scope.get("path_params", {})
        raw = "/".join(str(path[name]) for name in self._path_names).encode()
        if self._takes_query and scope.get("query_string"):
            raw += b"?" + scope["query_string"]
        answer = answer_of(scope, receive, send)
        call = Call(new_id("req"), None, dict(scope["headers"]), raw, answer, perf_counter(), [])
        try:
            if len(call.headers) != len(scope["headers"]):
                check_once(scope["headers"])
            credential = credential_of(call.headers)
            principal = self._gate.cached(credential) or await self._gate.authenticate(credential)
            call.extra_headers = cors_headers(principal, call.headers)
            body = await self._handler(call, principal)
        except GatewayError as error:
            await answer_error(call, error)
            return
        except Exception:  # noqa: BLE001 - process edge, as above
            _log.exception("request %s failed", call.request_id)
            await answer_error(call, GatewayError("The gateway failed. The operator can find it by the request id."))
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", call.request_id.encode()),
            *call.extra_headers,
        ]
        answer.whole(200, headers, body)
        await answer.drained()

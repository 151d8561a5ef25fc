"""A client's connection, and what its peer may do before the application is asked.

uvicorn's own protocol waits for ever: for the end of a head, for a body, for a peer to read its answer. The
protocol here bounds each of these, refuses in the shape of every other error, and leaves the rest as it is.

Bytes are counted down, not measured: `_room` is how many more may come before the parser completes something
(a head, a part of a body, a message). Time is counted in sweeps: one timer per process looks at every
connection once a second, so a request costs a few assignments and no timer, not even for keep-alive; and a
process that stalled does not blame its clients for the time in which it did not listen.
"""

import asyncio
import fcntl
import logging
import math
import struct
import termios
from enum import IntEnum
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.core import limits
from gateway.core.errors import GatewayError, InvalidRequest, Unavailable
from gateway.core.ids import new_id
from gateway.proxy import wire
from gateway.proxy.ports import ANSWER
from gateway.server.answer import EdgeAnswer

_log = logging.getLogger(__name__)


class EdgeLimits(msgspec.Struct, frozen=True):
    """What a peer may do; every time-out is exact to one sweep."""

    connections_max: int = limits.CONNECTIONS_MAX
    head_bytes_max: int = limits.HEAD_BYTES_MAX
    headers_max: int = limits.HEADERS_MAX
    url_bytes_max: int = limits.URL_BYTES_MAX
    pipelined_max: int = limits.PIPELINED_MAX
    head_timeout_s: float = limits.HEAD_TIMEOUT_S
    body_idle_timeout_s: float = limits.BODY_IDLE_TIMEOUT_S
    body_timeout_s: float = limits.BODY_TIMEOUT_S
    write_timeout_s: float = limits.WRITE_TIMEOUT_S
    linger_s: float = limits.LINGER_S
    sweep_s: float = 1.0


class Watch:
    """The open connections of one process, and the one timer that looks at them."""

    def __init__(self, bounds: EdgeLimits) -> None:
        self.bounds = bounds
        self.tick = 0  # sweeps so far
        self.open: set[EdgeProtocol] = set()
        self.refused = 0  # connections since the last sweep
        self.head_ticks = self._ticks(bounds.head_timeout_s)
        self.body_idle_ticks = self._ticks(bounds.body_idle_timeout_s)
        self.body_ticks = self._ticks(bounds.body_timeout_s)
        self.write_ticks = self._ticks(bounds.write_timeout_s)
        self.linger_ticks = self._ticks(bounds.linger_s)
        self._timer: asyncio.TimerHandle | None = None

    def _ticks(self, seconds: float) -> int:
        return math.ceil(seconds / self.bounds.sweep_s)

    def add(self, connection: "EdgeProtocol") -> bool:
        """Whether there is room for one more; the timer runs as long as a connection is open."""
        if len(self.open) >= self.bounds.connections_max:
            self.refused += 1
            return False
        self.open.add(connection)
        if self._timer is None:
            self._timer = connection.loop.call_later(self.bounds.sweep_s, self._sweep, connection.loop)
        return True

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self.bounds.sweep_s, self._sweep, loop) if self.open else None
        self.tick += 1
        if self.refused:
            _log.warning("refused %d connections: %d are open", self.refused, len(self.open))
            self.refused = 0
        for connection in tuple(self.open):
            connection.judge(self.tick)


class Phase(IntEnum):
    """Where a connection is in what its peer sends."""

    CONNECTED = 0  # nothing of a request yet
    HEAD = 1
    BODY = 2
    IDLE = 3  # a whole request was read: it is being answered, or uvicorn's keep-alive timer runs
    REFUSED = 4  # the refusal is written; what still comes is thrown away until the peer closes or LINGER_S passed


# Plain names: an attribute of an enum class costs a dictionary look-up more.
_HEAD, _BODY, _IDLE, _REFUSED = Phase.HEAD, Phase.BODY, Phase.IDLE, Phase.REFUSED


_TASK: Final = "request"  # who has no name is given one, made for each


class EdgeProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds; `protocol` makes one with other bounds than the defaults."""

    watch: ClassVar[Watch] = Watch(EdgeLimits())
    _room_max: ClassVar[int] = limits.HEAD_BYTES_MAX
    # Beyond thirty attributes in its dictionary every access to an object becomes slower.
    __slots__ = (
        "_answering", "_asked_again", "_clock", "_heard", "_idle_since", "_most", "_phase", "_room", "_since", "_taken",
        "_waited", "_waiting_bytes",
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock, self._most = self.watch, self._room_max  # what a class has is slower to reach
        self._phase = Phase.CONNECTED
        self._room = self._room_max  # bytes that may come before the parser completes something
        self._since = self._heard = self.watch.tick  # when this phase began; when the peer last sent anything
        self._waiting_bytes = 0  # of the answer, at the last sweep at which some waited
        self._waited = self._taken = 0  # when that was; when the peer last took a part of it
        self._asked_again = b""  # the head of a request with a body that offered to upgrade, without the offer
        self._idle_since = 0  # when the last request was answered, or was whole if that was later
        self._answering: RequestResponseCycle | None = None  # `cycle` is the last request read: not this one when pipelined

    # ---- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuses the connection when there are too many."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        if not self.watch.add(self):
            full = Unavailable("The gateway has as many connections as it takes.", code="too_many_connections", retry_after_s=1.0)
            self._phase = _REFUSED
            transport.write(self._refusal(full))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells every request of the connection, also the one that pipelined requests wait for."""
        self.watch.open.discard(self)
        self._leave()
        super().connection_lost(exc)
        # Each of these leads back here: without them the connection goes with its last reference, not with the collector.
        for answer in (self.cycle, self._answering):
            if answer is not None:
                answer.scope["extensions"].clear()
        self.cycle = self._answering = self.flow = None  # type: ignore[assignment]

    def data_received(self, data: bytes | memoryview) -> None:
        """Feed the parser at most what may come before something is complete."""
        if self._phase is _REFUSED:
            return
        room = self._room - len(data)
        if room < 0:
            self._in_pieces(data)
            return
        self._room = room
        self._heard = self._clock.tick
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as broken:
            cause = broken.__context__
            self._refuse(cause if isinstance(cause, GatewayError) else _refused(400, "invalid_http", "This is not valid HTTP."))
        except httptools.HttpParserUpgrade as upgrade:
            # Nothing here to upgrade to: the request is answered as if it had not asked.
            if self._asked_again:
                head, self._asked_again = self._asked_again, b""
                self.parser = httptools.HttpRequestParser(self)
                self.data_received(head)
                self.data_received(memoryview(data)[upgrade.args[0] :])

    def _in_pieces(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest and self._phase is not _REFUSED and not self.transport.is_closing():
            if self._room == 0:
                self._refuse(self._too_large())
                return
            piece = rest[: self._room]
            self.data_received(piece)
            rest = rest[len(piece) :]

    # ---- what the parser finds -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request. Only this ends keep-alive: blank lines between requests do not."""
        self._phase = _HEAD
        self._since = self._clock.tick
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head, or a trailer."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: bounded in parts now, in all while it came. The application begins."""
        bounds, url, parser = self._clock.bounds, self.url, self.parser
        if len(url) > bounds.url_bytes_max or len(self.headers) > bounds.headers_max:
            raise self._too_large()
        if self.pipeline and len(self.pipeline) >= bounds.pipelined_max:
            raise _refused(400, "invalid_http", "Too many requests wait on this connection.")
        path, query = url, b""
        if url[:1] != b"/" or url.find(b"?") >= 0 or url.find(b"#") >= 0:  # `in` tries a number first, and raises within
            parts = httptools.parse_url(url)
            path, query = parts.path, parts.query or b""
        name = path.decode("ascii")
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise _refused(505, "invalid_http", "This server speaks HTTP/1.1.")
        if parser.should_upgrade() and _has_body(self.headers):
            # The parser takes all that follows such a head for another protocol, the body too: it gets a head without the offer.
            kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in (b"upgrade", b"connection")]
            self._asked_again = b"%b %b HTTP/1.1\r\n%b\r\n" % (parser.get_method(), url, b"".join(kept))
            return
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": unquote(name) if "%" in name else name,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "server": self.server,
            "client": self.client,
            "state": self.app_state.copy(),
        }
        answer = EdgeAnswer(
            scope,  # type: ignore[arg-type]
            self.transport,
            self.flow,
            self.server_state.default_headers,
            version != "1.0" and parser.should_keep_alive(),
            self.on_response_complete,
            self.tasks,
        )
        scope["extensions"] = {ANSWER: answer}
        self.headers = []  # the application has the list: trailers do not become headers
        self._phase = _BODY
        self._since = self._clock.tick
        self._room = self._most
        before, self.cycle = self.cycle, answer
        if before is None or before.response_complete:
            self._start_asgi_task(answer, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((answer, self.app))

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._room = self._most
        answer: EdgeAnswer = self.cycle  # type: ignore[assignment]
        if answer.response_complete:
            return
        answer.pieces.append(body)
        answer.pieces_bytes += len(body)
        if answer.pieces_bytes > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        answer.message_event.set()

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._asked_again:
            return
        self._phase = _IDLE
        self._idle_since = self._clock.tick
        self._room = self._most
        answer = self.cycle
        if not answer.response_complete:
            answer.more_body = False
            answer.message_event.set()

    def on_response_complete(self) -> None:
        """The next request's turn, or keep-alive's."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._idle_since = self._clock.tick
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if self.flow.read_paused:  # because this one waited
            self.flow.resume_reading()
        # The answer takes itself off the list: a callback of the task would cost a turn of the loop each time.
        answer: EdgeAnswer = cycle  # type: ignore[assignment]
        answer.task = self.loop.create_task(answer.run_asgi(app), name=_TASK)
        self.tasks.add(answer.task)

    # ---- the sweep -------------------------------------------------------------------------------

    def judge(self, tick: int) -> None:
        """End the connection when its peer has kept it waiting for too long; called once a sweep."""
        waiting_bytes = self.transport.get_write_buffer_size()
        if waiting_bytes and self._is_stuck(waiting_bytes, tick):
            self.transport.abort()
            return
        phase = self._phase
        watch = self.watch
        if phase is _IDLE:
            idle_s = (tick - self._idle_since) * watch.bounds.sweep_s
            if idle_s > self.timeout_keep_alive and not self._is_answering():
                self.transport.close()
            return
        if phase is _REFUSED:
            if tick - self._since > watch.linger_ticks:
                self.transport.abort()
        elif self.flow.read_paused or (phase is _HEAD and self._is_answering()):
            self._since = self._heard = tick  # it is our turn, not the peer's
        elif phase is _BODY:
            if tick - self._heard > watch.body_idle_ticks or tick - self._since > watch.body_ticks:
                self._refuse(_refused(408, "request_timeout", "The body of the request did not come in time."))
        elif tick - self._since > watch.head_ticks:
            if phase is _HEAD:
                self._refuse(_refused(408, "request_timeout", "The head of the request did not come in time."))
            else:
                self.transport.close()

    def _is_stuck(self, waiting_bytes: int, tick: int) -> bool:
        """Whether the peer has taken nothing for too long of an answer that waits for it."""
        waiting_bytes += _in_kernel(self.transport)
        # While the application can write, bytes that were taken may have been replaced by as many.
        can_grow = not self.flow.write_paused and self._is_answering() and not self.transport.is_closing()
        if can_grow or waiting_bytes != self._waiting_bytes or tick != self._waited + 1:
            self._waiting_bytes = waiting_bytes
            self._taken = tick
        self._waited = tick
        return tick - self._taken > self.watch.write_ticks

    # ---- refusing --------------------------------------------------------------------------------

    def _too_large(self) -> GatewayError:
        bounds = self.watch.bounds
        if self._phase is _HEAD and len(self.url) > bounds.url_bytes_max:
            return _refused(414, "uri_too_long", f"A URL has at most {bounds.url_bytes_max} bytes here.")
        text = f"A request has at most {bounds.headers_max} headers of {bounds.head_bytes_max} bytes in all here."
        return _refused(431, "headers_too_large", text)

    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _leave(self) -> None:
        """Every request of this connection sees that its client has gone."""
        for cycle in (self._answering, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        self.flow.resume_writing()

    def _refuse(self, error: GatewayError) -> None:
        """Answer `error` where an answer can still be told from another one, and end the connection."""
        if self._phase is _BODY:
            may_answer = self._answering is self.cycle and not self.cycle.response_started
        else:
            may_answer = not self._is_answering()
        self._leave()
        self._phase = _REFUSED
        self._since = self.watch.tick
        if self.transport.is_closing():
            return
        if may_answer:
            self.transport.write(self._refusal(error))
        if may_answer and self.transport.can_write_eof():
            # Closing with unread bytes resets the connection, and the peer would lose the answer.
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()

    def _refusal(self, error: GatewayError) -> bytes:
        request_id = new_id("req")
        body = wire.error_body(error, request_id)
        headers = [
            *self.server_state.default_headers,
            *wire.error_headers(error),
            (b"x-request-id", request_id.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        return STATUS_LINE[error.status] + b"".join([b"%b: %b\r\n" % header for header in headers]) + b"\r\n" + body


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ")) for name, value in headers)


def _in_kernel(transport: asyncio.Transport) -> int:
    """Bytes that the kernel holds until the peer confirms them, where the system tells.

    It takes more from us only when a third of its megabytes is free: a slow reader would look like none.
    """
    link = transport.get_extra_info("socket")
    if link is None or link.fileno() < 0:
        return 0
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(link.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        return 0
    return int(count)


class _Flow(FlowControl):
    """Reading stays paused while requests wait: the one being answered would resume it to learn that its client left."""

    def __init__(self, transport: asyncio.Transport, connection: EdgeProtocol) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        if self.read_paused and not self._connection.pipeline:
            super().resume_reading()


def _refused(status: int, code: str, message: str) -> GatewayError:
    error = InvalidRequest(message, code=code)
    error.status = status
    return error


def protocol(bounds: EdgeLimits) -> type[EdgeProtocol]:
    """The protocol with other bounds and connections of its own, for one server in this process."""

    class Bounded(EdgeProtocol):
        watch: ClassVar[Watch] = Watch(bounds)
        _room_max: ClassVar[int] = bounds.head_bytes_max

    return Bounded

"""How one request is answered on its connection: uvicorn's cycle, with answers made in one piece.

uvicorn looks at every header with two regular expressions and writes the head by itself: a sixth of a plain
request's CPU. Here a head is joined and checked as a whole, and leaves together with the first of the body.
An application may use the ASGI calls, or `start`, `write` and `end` (see `proxy.ports.Answer`, found in the
scope's extensions), which do the same without a suspension.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, HTTPScope
    from uvicorn.protocols.http.flow_control import FlowControl

_log = logging.getLogger(__name__)
_JOINED_BYTES_MAX: Final = 64 * 1024  # up to here copying a body behind its head is cheaper than a second write
_UNTIL_CLOSED: Final = -1
_WITHOUT_BODY: Final = frozenset((204, 304))


def _block(named: list[tuple[bytes, bytes]]) -> bytes:
    """The lines of the headers, checked as a whole."""
    block = b"\r\n".join(map(b": ".join, named))
    breaks = max(0, len(named) - 1)
    if block.count(b"\n") != breaks or block.count(b"\r") != breaks or block.find(b"\0") >= 0:
        raise RuntimeError("a header has a control character")
    return block


class _News:
    """An event for one waiter: what uvicorn makes for many, in a fifth of the steps."""

    __slots__ = ("_waiter", "is_there")

    def __init__(self) -> None:
        self.is_there = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self.is_there = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def _nothing() -> None:
    return None


class EdgeAnswer(RequestResponseCycle):
    """One request and its answer.

    Header names are lower-case bytes, as ASGI asks; a line break or a zero inside a header is a RuntimeError,
    and so is a body that is longer or shorter than its content-length.
    """

    def __init__(
        self,
        scope: "HTTPScope",
        transport: asyncio.Transport,
        flow: "FlowControl",
        default_headers: list[tuple[bytes, bytes]],
        keep_alive: bool,
        on_response: Callable[[], None],
        tasks: set[asyncio.Task[Any]],
    ) -> None:
        # All that uvicorn reads of a cycle; its own constructor makes more, for every request.
        self.scope = scope
        self.transport = transport
        self.flow = flow
        self.logger = _log
        self.default_headers = default_headers
        self.message_event: Any = _News()
        self.on_response = on_response
        self.task: asyncio.Task[None] | None = None
        self._tasks = tasks
        self.disconnected = False
        self.keep_alive = keep_alive
        self._was_asked_for = False
        self.more_body = True
        self.response_started = False
        self.response_complete = False
        self.pieces: list[bytes] = []  # of the body, not yet taken by the application
        self.pieces_bytes = 0
        self._head = b""  # until it leaves
        self._chunked = False
        self._streams = False  # the head of a chunked answer has left
        self._left = 0  # bytes of the body that are still to come, where the head says how many

    async def run_asgi(self, app: "ASGI3Application") -> None:
        """The application, and what becomes of an answer that it left undone."""
        try:
            await app(self.scope, self.receive, self.send)
            if not (self.response_complete or self.disconnected):
                self._undone("the application returned before its answer was complete", None)
        except BaseException as failed:  # noqa: BLE001 - process edge, as uvicorn has it: the connection must know
            self._undone("the application failed", failed)
        finally:
            self.on_response = _nothing
            if self.task is not None:
                self._tasks.discard(self.task)
                self.task = None

    def _undone(self, what: str, failed: BaseException | None) -> None:
        _log.error(what, exc_info=failed)
        if self.response_started or self.disconnected:
            self.transport.close()
        else:
            self.keep_alive = False
            self.whole(500, [(b"content-type", b"text/plain; charset=utf-8")], b"Internal Server Error")

    # ---- answering without a suspension --------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether there is a head."""
        return self.response_started

    def body_at_hand(self) -> bytes | None:
        """The request's whole body, when it came with its head, as small ones do."""
        if self.more_body or self.disconnected or len(self.pieces) != 1:
            return None
        self.message_event.is_there = False
        self.pieces_bytes = 0
        return self.pieces.pop()

    def whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """The whole answer in one write; the content-length is added."""
        if self.response_started:
            raise RuntimeError("the answer has begun already")
        named = [*self.default_headers, *headers]
        head = b"%b%b\r\ncontent-length: %d" % (STATUS_LINE[status], _block(named), len(body))
        if not self.keep_alive:
            head += b"\r\nconnection: close"
        self.response_started = True
        if self.disconnected:
            self.scope["extensions"].clear()
            return
        if self.scope["method"] == "HEAD":
            body = b""
        if len(body) <= _JOINED_BYTES_MAX:
            self.transport.write(b"%b\r\n\r\n%b" % (head, body))
        else:
            self.transport.write(head + b"\r\n\r\n")
            self.transport.write(body)
        self._complete()

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head; it leaves with the first of the body."""
        if self.response_started:
            raise RuntimeError("the answer has begun already")
        named = [*self.default_headers, *headers]
        head = STATUS_LINE[status] + _block(named) + self._framing(status, dict(named))
        if status in _WITHOUT_BODY:
            self._left = 0  # whatever length the answer to another method would have
        if not self.keep_alive and b"\r\nconnection: close" not in head:
            head += b"\r\nconnection: close"
        self._head = head + b"\r\n\r\n"
        self.response_started = True

    def _framing(self, status: int, fields: dict[bytes, bytes]) -> bytes:
        """How the end of the body is told; returns what the head must say besides."""
        if fields.get(b"connection", b"").lower() == b"close":
            self.keep_alive = False
        if b"content-length" in fields:
            self._left = int(fields[b"content-length"])
        elif self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            if self.scope["http_version"] == "1.0":
                self._left = _UNTIL_CLOSED
            else:
                self._chunked = True
                return b"\r\ntransfer-encoding: chunked"
        return b""

    def write(self, part: bytes) -> bool:
        """A part of the body. False: the peer is slow, nothing more should be written until `drained`; or it has gone."""
        if self._streams and part and not self.disconnected:  # an empty chunk would be the end
            self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        else:
            self._put(part)
        return not (self.flow.write_paused or self.disconnected)

    def end(self, part: bytes = b"") -> None:
        """The last of the body."""
        if self.disconnected:
            self.scope["extensions"].clear()
            return
        self._put(part, b"0\r\n\r\n" if self._chunked else b"")
        if self._left > 0 and self.scope["method"] != "HEAD":
            raise RuntimeError("the body is shorter than its content-length")
        self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self._streams = False
        self.scope["extensions"].clear()  # the scope holds this object, which holds the scope
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def drained(self) -> None:
        """Until the peer has taken so much that more may be written, or has gone."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    @property
    def left(self) -> bool:
        """Whether the peer has closed the connection."""
        return self.disconnected

    async def gone(self) -> bool:
        """Whether the peer has closed the connection."""
        return self.disconnected

    def _put(self, part: bytes, last: bytes = b"") -> None:
        if self.disconnected:
            return
        if not self.response_started or self.response_complete:
            raise RuntimeError("a body belongs between the head and the end of an answer")
        head, self._head = self._head, b""
        if self._chunked:
            self._streams = True
            data = b"%b%x\r\n%b\r\n%b" % (head, len(part), part, last) if part else head + last
        elif self.scope["method"] == "HEAD":
            data = head
        else:
            if self._left != _UNTIL_CLOSED:
                if len(part) > self._left:
                    raise RuntimeError("the body is longer than its content-length")
                self._left -= len(part)
            if head and len(part) > _JOINED_BYTES_MAX:
                self.transport.write(head)
                head = b""
            data = head + part if head else part
        if data:
            self.transport.write(data)

    # ---- ASGI ----------------------------------------------------------------------------------

    async def send(self, message: "ASGISendEvent") -> None:
        """One ASGI event of the answer."""
        await self.drained()
        if self.disconnected:
            return
        event: Any = message
        if event["type"] == "http.response.start":
            self.start(event["status"], event.get("headers", ()))
        elif event["type"] != "http.response.body":
            raise RuntimeError(f"{event['type']} is no event of an answer here")
        elif event.get("more_body", False):
            self.write(event.get("body", b""))
        else:
            self.end(event.get("body", b""))

    def _ask_for_body(self) -> None:
        """Some clients send a body only when they are told to."""
        self._was_asked_for = True
        expects = [value for name, value in self.scope["headers"] if name == b"expect" and value.lower() == b"100-continue"]
        if expects and not self.response_started and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def receive(self) -> "ASGIReceiveEvent":
        """What came of the body since the last call, or else the next that comes."""
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            news: _News = self.message_event
            if not news.is_there:
                if not self._was_asked_for:
                    self._ask_for_body()
                await news.wait()
            news.is_there = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces = self.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.pieces_bytes = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

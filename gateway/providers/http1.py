"""HTTP/1.1 from the client's side: a pool of connections, each carrying one POST at a time.

Owns connecting (name, TCP, TLS), keep-alive, framing, back-pressure and the clock of an exchange; what a
failure means to a caller is said by `direct`. httptools (llhttp, strict) parses. Nothing here starts a task:
a caller waits on a plain future that the connection's callbacks resolve, and one timer runs per exchange.

Not done, because no caller needs it: HTTP/2, proxies, redirects, cookies, pipelining, chunked requests,
upgrades. Trailers are dropped. A transfer coding other than `chunked` is refused: none is asked for.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.providers.connecting import Address, first_that_connects, resolved
from gateway.providers.wire_errors import Invalid, Lost, Silent, TooLarge, WireError

IDLE_S: Final = 30.0  # servers give up an idle connection after 60 s and more
HEAD_BYTES_MAX: Final = 64 * 1024
BUFFER_BYTES_MAX: Final = 256 * 1024  # above it nothing more is read until the consumer has taken what there is
# What one connection may bring in a turn of the loop: a server that sends faster than anybody reads waits for its next turn,
# so that a hundred such streams do not hold up all others by the time that a socket's whole buffer takes to relay.
READ_BYTES: Final = 64 * 1024
_JOINED_BODY_BYTES_MAX: Final = 64 * 1024  # up to here copying a body behind its head is cheaper than a second write


_HEAD_TOO_LARGE: Final = "the head of the upstream's answer is too large"


class _Awaits(IntEnum):
    HEAD = 0
    CHUNK = 1
    WHOLE = 2


class Connection(asyncio.BufferedProtocol):
    """One connection: `ask`, then `whole` or `relay` until True, then `release`, and so on.

    `status` and `head` (names in lower case) are the latest answer's. `answered` says whether any byte
    came since the request. Every wait that is cancelled drops the connection.
    """

    __slots__ = (
        "_awaits", "_body_max", "_buffered", "_came", "_complete", "_due", "_fault", "_heard", "_keep", "_limit_s", "_lines",
        "_loop", "_origin", "_overhead", "_parser", "_parts", "_paused", "_stopped", "_take", "_then_s", "_timer", "_transport",
        "_unread", "_waiter", "answered", "head", "idle_since", "on_body", "on_header", "status",
    )  # fmt: skip

    def __init__(self, origin: "Origin") -> None:
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []  # of the body, what the consumer has not taken
        self.on_body = self._parts.append
        self._lines: dict[bytes, bytes] = {}  # of the head, as they come; trailers land here too, where nobody looks
        self.on_header = self._lines.__setitem__
        self._parser = HttpResponseParser(self)
        self._take: Callable[[bytes], bool] | None = None  # who gets each piece at once
        self._then_s = 0.0  # the time limit once a piece has come
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fault: WireError | None = None
        self._paused = self._unread = self._keep = self._stopped = self.answered = False
        self._complete = True  # nothing was asked yet, so whatever comes is too much
        self._awaits = _Awaits.HEAD
        self._buffered = self._came = self._overhead = self._body_max = self.status = 0
        self._heard = self._due = self._limit_s = self.idle_since = 0.0
        self.head: Mapping[bytes, bytes] = {}

    # ---- the caller's side ---------------------------------------------------------------------

    async def ask(self, head: bytes, body: bytes, limit_s: float) -> None:
        """Write the request (`head` ends in "content-length: ") and wait for the answer's head.

        The head must be whole within `limit_s` from when the server has taken the request, and the
        server must take it within `limit_s`. Raises Lost, Silent, Invalid.
        """
        transport = self._transport
        if transport.is_closing():
            raise Lost
        self.answered = self._complete = self._keep = False
        self.status = self._overhead = self._buffered = 0
        self._lines.clear()
        self._parts.clear()
        self._awaits = _Awaits.HEAD
        self._limit_silence(limit_s)
        if len(body) <= _JOINED_BODY_BYTES_MAX:
            transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        else:
            transport.write(b"%b%d\r\n\r\n" % (head, len(body)))
            transport.write(body)
        while not self.status:
            await self._wait()

    async def whole(self, bytes_max: int, limit_s: float) -> bytes:
        """The rest of the body. Raises Lost, Silent, Invalid, TooLarge, and TimeoutError when it took more than `limit_s`."""
        if not self._complete:
            self._awaits = _Awaits.WHOLE
            self._body_max = bytes_max
            self._resume()
            async with asyncio.timeout(limit_s):
                while not self._complete and self._buffered <= bytes_max:
                    await self._wait()
        if self._buffered > bytes_max:
            self.drop()
            raise TooLarge
        return self._taken()

    @property
    def arrived(self) -> bytes:
        """What of the body nobody has taken."""
        return b"".join(self._parts)

    async def relay(self, take: Callable[[bytes], bool], then_s: float) -> bool:
        """Hand each piece to `take` as it comes: True at the end, False as soon as `take` returned False.

        `take` is called from the transport's callback, so a piece costs no turn of the loop. From the first
        piece on a silence may last `then_s`. Raises Lost, Silent, Invalid, and what `take` raises.
        """
        self._awaits = _Awaits.CHUNK
        self._then_s = then_s
        if self._parts:
            self._limit_silence(then_s)
            if not take(self._taken()):
                return False
        self._take = take
        self._stopped = False
        try:
            while not self._complete:
                await self._wait()
                if self._stopped:
                    return False
        finally:
            self._take = None
        return True

    def release(self) -> None:
        """The exchange is over: back to the pool when the answer is whole and both sides keep the connection, else dropped."""
        transport = self._transport
        if (
            self._keep
            and self._waiter is None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()  # an early answer: the rest of the body would meet the next request
        ):
            self._parts.clear()
            self._resume()
            self._origin.put(self)
        else:
            self.drop()

    def drop(self) -> None:
        """End the connection at once."""
        self._keep = False
        self._disarm()
        self._origin.forget(self)
        self._transport.abort()

    async def _wait(self) -> None:
        """Until something happened that matters to the caller. Raises what ended the exchange before."""
        if self._fault is not None:
            raise self._fault
        waiter = self._waiter = self._loop.create_future()
        self._heard = self._loop.time()
        try:
            await waiter
        except BaseException:  # also when cancelled: what was opened is closed, and the failure goes on
            self.drop()
            raise
        finally:
            self._waiter = None

    def _taken(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered = 0
        if self._paused:
            self._resume()
        return data

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # ---- the clock -----------------------------------------------------------------------------

    def _limit_silence(self, limit_s: float) -> None:
        """From now on a wait may last so long. A timer that is due before stays: it looks again when it rings."""
        self._limit_s = limit_s
        due = self._loop.time() + limit_s
        if self._timer is None or self._due > due:
            self._disarm()
            self._due = due
            self._timer = self._loop.call_at(due, self._tick)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        """Silence counts only while somebody waits: a slow consumer is not the server's fault."""
        self._timer = None
        if self._waiter is None and self._complete:
            return  # idle: the next request arms it again
        now = self._loop.time()
        waits = self._waiter is not None and not self._waiter.done()
        due = (self._heard if waits else now) + self._limit_s
        if due > now:
            self._due = due
            self._timer = self._loop.call_at(due, self._tick)
        else:
            self._fail(Silent(unread=self._unread))

    # ---- the transport's side ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to write."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape, not by class
        self._origin.pool.connections.add(self)

    def pause_writing(self) -> None:
        """The server is slow to take the request."""
        self._unread = True

    def resume_writing(self) -> None:
        """The request is as good as taken: the wait for the answer begins."""
        self._unread = False
        self._heard = self._loop.time()

    def get_buffer(self, sizehint: int) -> memoryview:
        """One for all connections: what was read is taken out before anything else is read."""
        return self._origin.pool.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse, and wake the caller when it has something to do. Where more may wait to be read, the others come first."""
        data = bytes(self._origin.pool.buffer[:nbytes])
        if nbytes == READ_BYTES:
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)
        if self._complete:  # a byte that nobody asked for: the next answer could not be told from it
            self.drop()
            return
        self.answered = True
        self._came = len(data)
        parts, take = self._parts, self._take
        had = len(parts)
        fault = None
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            fault = self._fault_of(error)
        if len(parts) > had:
            self._overhead = 0
            if take is not None:
                self._hand_over(take)
            else:
                self._buffered += sum(map(len, parts[had:]))
        elif not self._complete:
            self._overhead += len(data)
            if self._overhead > HEAD_BYTES_MAX and fault is None:
                fault = Invalid(_HEAD_TOO_LARGE)
        if fault is not None:
            self._fail(fault)
        elif take is None or self._complete:
            self._go_on()

    def _read_on(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _fault_of(self, error: Exception) -> WireError | None:
        """Why parsing stopped; None when the answer was whole before."""
        self._keep = False
        if self._complete:
            return None
        known = error.__context__
        return known if isinstance(known, Invalid) else Invalid("the upstream did not answer in HTTP")

    def _hand_over(self, take: Callable[[bytes], bool]) -> None:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._heard = self._loop.time()
        if self._limit_s != self._then_s:
            self._limit_silence(self._then_s)
        try:
            if take(data):
                return
        except Exception as wrong:  # noqa: BLE001 - raised where `relay` waits
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(wrong)
        self._take = None
        self._stopped = True
        self._wake()

    def _go_on(self) -> None:
        """More of the answer came."""
        awaits = self._awaits
        if self._complete:
            self._wake()
            return
        if awaits is _Awaits.WHOLE:
            self._heard = self._loop.time()
            if self._buffered > self._body_max:
                self._wake()
            return
        # A head or a chunk that comes byte by byte does not move the clock.
        if self._parts or (awaits is _Awaits.HEAD and self.status):
            self._wake()
        if self._buffered > BUFFER_BYTES_MAX and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The server will send no more."""
        self._end(clean=True)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end(clean=exc is None)
        self._origin.pool.connections.discard(self)
        del self._parser, self.on_body  # the parser refers back to this object

    def _end(self, *, clean: bool) -> None:
        self._origin.forget(self)
        self._disarm()
        self._keep = False
        if not self._complete and self._fault is None:
            if clean and self.status and b"content-length" not in self.head and b"transfer-encoding" not in self.head:
                self._complete = True
            else:
                self._fault = Lost()
        self._wake()

    def _fail(self, fault: WireError) -> None:
        if self._fault is None:
            self._fault = fault
        self.drop()
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ---- the parser's side ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins; one that was not asked for ends the parsing and the connection."""
        if self._complete:
            raise Invalid("the upstream sent more than one answer")

    def on_headers_complete(self) -> None:
        """The head of the answer, or of an interim one, which is dropped."""
        status = self._parser.get_status_code()
        lines = self._lines
        if status < 200:
            if not status >= 100 or status == 101:
                raise Invalid("the upstream did not answer in HTTP" if status != 101 else "the upstream switched protocols")
            lines.clear()
            return
        values = lines.values()
        if self._overhead + self._came > HEAD_BYTES_MAX and sum(map(len, lines)) + sum(map(len, values)) > HEAD_BYTES_MAX:
            raise Invalid(_HEAD_TOO_LARGE)
        head = {name.lower(): value for name, value in lines.items()}
        if head.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise Invalid("the upstream's answer has a transfer coding that was not asked for")
        self.head = head
        self.status = status
        self._overhead = 0

    def on_message_complete(self) -> None:
        """The end of the answer, or of an interim one."""
        if self.status:
            self._complete = True
            self._keep = self._parser.should_keep_alive()


class Origin:
    """One server, and the connections to it that are idle, the latest used last."""

    __slots__ = ("_addresses", "_host", "_idle", "_name", "_port", "_tls", "pool")

    def __init__(self, pool: "Pool", host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.pool = pool
        self._idle: dict[Connection, None] = {}
        self._host, self._port, self._tls = host, port, tls
        self._name = host.rstrip(".")  # a certificate's names have no final dot
        self._addresses: list[Address] = []
        try:
            self._addresses = resolved(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
        except socket.gaierror:
            self._addresses = []  # a name: resolved each time that a connection is made

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> Connection | None:
        """The connection that was used last, or None."""
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if not connection._transport.is_closing():
                return connection
        return None

    def put(self, connection: Connection) -> None:
        """Keep it for the next request."""
        self._idle[connection] = None
        self.pool.watch(connection)

    def forget(self, connection: Connection) -> None:
        """It must not be lent again."""
        self._idle.pop(connection, None)

    def expire(self, before: float) -> float | None:
        """Drop what has been idle since `before`; returns since when the oldest of the others is idle."""
        while self._idle:
            oldest = next(iter(self._idle))
            if oldest.idle_since > before:
                return oldest.idle_since
            oldest.drop()
        return None

    async def connect(self, limit_s: float) -> Connection:
        """A fresh connection. Raises TimeoutError, socket.gaierror, ssl.SSLError, OSError; Lost when the pool is closed."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(limit_s):
            addresses = self._addresses or resolved(await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
            link = await first_that_connects(addresses, limit_s)
            name = self._name if self._tls is not None else None
            _, connection = await loop.create_connection(lambda: Connection(self), sock=link, ssl=self._tls, server_hostname=name)
        if self.pool.closed:
            connection.drop()
            raise Lost
        return connection


class Pool:
    """Every connection of a process. Unlimited: requests in flight are limited before they come here."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._origins: dict[tuple[bool, str, int], Origin] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.connections: set[Connection] = set()
        self.closed = False

    def origin(self, *, tls: bool, host: str, port: int) -> Origin:
        """The one object of this server."""
        key = (tls, host, port)
        if key not in self._origins:
            self._origins[key] = Origin(self, host, port, self._tls if tls else None)
        return self._origins[key]

    def watch(self, connection: Connection) -> None:
        """It is idle from now on. One timer serves all that are."""
        connection.idle_since = self._loop.time()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._loop.time()
        oldest = [since for origin in self._origins.values() if (since := origin.expire(now - IDLE_S)) is not None]
        if oldest:
            self._sweeper = self._loop.call_later(min(oldest) + IDLE_S - now, self._sweep)

    async def close(self) -> None:
        """Drop every connection, those in use too."""
        self.closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self.connections):
            connection.drop()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

"""One pipelined connection to a Redis-protocol server, for asyncio.

Own code, because it was measured: awaiting each call through redis-py, or sharing its pipelines
between requests, costs about 70 us of CPU a request more than this. Here a command is packed by
hiredis, every command issued within one turn of the event loop leaves in one `transport.write`, and
replies, which Redis sends in order, are handed to their futures. No timer exists per command.

Owns the connection: URL, TLS, handshake, back-off, time-outs. Knows nothing about balances. It connects
on first use and again after a loss; a command in flight at a loss fails with `RedisLinkLost`, and
whether it may be repeated is the caller's knowledge. One server, or one node that answers for all keys.
"""

import asyncio
import logging
import re
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import msgspec

from gateway.core.limits import REDIS_TIMEOUT_S

Part = str | bytes | int
pack: Final = cast(Callable[[tuple[Part, ...]], bytes], hiredis.pack_command)

_log = logging.getLogger(__name__)
_INFO: Final = re.compile(rb"^(maxmemory|maxmemory_policy):(\S+)", re.MULTILINE)
_CHECKS: Final = 4  # a time-out is noticed at most a quarter of itself late
_BACK_OFF_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_NOT_YET: Final = object()


class RedisLinkLost(ConnectionError):
    """The connection is not there, or went away before the reply: the command may or may not have been applied."""


class RedisLinkDown(RedisLinkLost):
    """There was no connection: nothing was sent."""


class RedisReplyError(Exception):
    """The server answered with an error; the text starts with its code (`NOSCRIPT`, `OOM`, `LOADING`, ...)."""


class RedisAddress(msgspec.Struct, frozen=True):
    """A parsed URL. `path` is set for a Unix socket; `label` has no password in it."""

    label: str
    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    username: str = ""
    password: str = ""
    database: int = 0
    tls: bool = False
    ca_file: str = ""


def parse_redis_url(url: str) -> RedisAddress:
    """`redis://[user:password@]host[:port][/db]`, `rediss://...[?ssl_ca_certs=file]`, `unix://path[?db=n]`.

    ValueError, without the password in it, for anything else.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    unknown = set(query) - {"db", "password", "ssl_ca_certs"}
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"a Redis URL starts with redis://, rediss:// or unix://, not {parts.scheme!r}")
    if unknown:
        raise ValueError(f"a Redis URL has no option {sorted(unknown)[0]!r}")
    is_unix = parts.scheme == "unix"
    database = query.get("db", [""])[0] or ("" if is_unix else parts.path.strip("/")) or "0"
    if not database.isdecimal():
        raise ValueError(f"{database!r} is not the number of a Redis database")
    if is_unix and not parts.path:
        raise ValueError("a unix:// URL names the path of a socket")
    host, port = parts.hostname or "127.0.0.1", parts.port or 6379
    path = unquote(parts.path) if is_unix else ""
    return RedisAddress(
        label=f"unix://{path}" if is_unix else f"{parts.scheme}://{host}:{port}",
        host=host,
        port=port,
        path=path,
        username=unquote(parts.username or ""),
        password=unquote(parts.password or "") or query.get("password", [""])[0],
        database=int(database),
        tls=parts.scheme == "rediss",
        ca_file=query.get("ssl_ca_certs", [""])[0],
    )


class _Wire(asyncio.Protocol):
    """One connection from its making to its loss; never reused."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float, on_lost: Callable[["_Wire"], None]) -> None:
        self._loop = loop
        self._check_s = timeout_s / _CHECKS
        self._on_lost = on_lost
        self._reader = hiredis.Reader(replyError=RedisReplyError, notEnoughData=_NOT_YET)
        self._out: list[bytes] = []
        self._pending: deque[asyncio.Future[Any]] = deque()
        self._sent = 0
        self._marks: deque[int] = deque(maxlen=_CHECKS)
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._alone = False
        self.lost = False
        self.writes = 0

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """Queue a packed command for the write of this turn; its reply resolves the future.

        Where nobody else waits for a reply, and the write before had one command, it leaves at once: a turn of the loop
        would bring it no company.
        """
        if self.lost:
            raise RedisLinkLost("the connection to Redis is gone")
        pending, out = self._pending, self._out
        future: asyncio.Future[Any] = self._loop.create_future()
        at_once = self._alone and not pending
        if not (at_once or out):
            self._loop.call_soon(self._flush)
        pending.append(future)
        out.append(command)
        if at_once:
            self._flush()
        return future

    def _flush(self) -> None:
        if self._transport is None or self.lost:
            return
        out = self._out
        self._sent += len(out)
        self.writes += 1
        self._alone = len(out) == 1
        self._transport.write(out[0] if self._alone else b"".join(out))
        out.clear()
        if self._timer is None:
            self._timer = self._loop.call_later(self._check_s, self._check)

    def _check(self) -> None:
        """Drop the connection when what was sent a whole time-out ago is still unanswered.

        Later commands go down with it: replies come in order, so they are waiting behind it anyway.
        """
        self._timer = None
        if not self._pending:
            self._marks.clear()
            return
        answered = self._sent + len(self._out) - len(self._pending)
        if len(self._marks) == _CHECKS and answered < self._marks[0]:
            self.drop("Redis did not answer in time")
            return
        self._marks.append(self._sent)
        self._timer = self._loop.call_later(self._check_s, self._check)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        reader.feed(data)
        gets = reader.gets
        try:
            while (reply := gets()) is not _NOT_YET:
                future = pending.popleft()
                if future.done():
                    continue  # its caller was cancelled; the reply still had its place in the order
                if reply.__class__ is RedisReplyError:
                    future.set_exception(reply)
                    if reply.args[0].startswith("READONLY"):
                        # Its place was taken: the address may lead to the server that has it by now, this connection never will.
                        self.drop("Redis has become a replica")
                        return
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.drop("Redis sent what is not a reply to anything asked")

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop(f"the connection to Redis was lost: {exc}" if exc else "Redis closed the connection")

    def drop(self, reason: str) -> None:
        """Close and fail every command in flight; once."""
        if self.lost:
            return
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._on_lost(self)
        for future in self._pending:
            if not future.done():
                future.set_exception(RedisLinkLost(reason))
        self._pending.clear()
        self._out.clear()


class RedisLink:
    """The connection as its users see it: up, or coming up again.

    `scripts` are loaded on every new connection, so EVALSHA works from the first command on. A reply
    that takes longer than `timeout_s` costs the connection; `connect_timeout_s` bounds waiting for one.
    """

    def __init__(
        self,
        url: str,
        scripts: Iterable[str] = (),
        *,
        timeout_s: float = REDIS_TIMEOUT_S,
        connect_timeout_s: float = REDIS_TIMEOUT_S,
    ) -> None:
        self._address = parse_redis_url(url)
        self._load = [pack(("SCRIPT", "LOAD", text)) for text in scripts]
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._wire: _Wire | None = None
        self._connecting = asyncio.Lock()
        self._failures = 0
        self._past_writes = 0
        self.life = 0  # connections made: what was answered in another life the server may have forgotten since
        self._closed = False

    @property
    def writes(self) -> int:
        """How many writes went to the socket so far."""
        return self._past_writes + (self._wire.writes if self._wire is not None else 0)

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """Send a packed command now. RedisLinkDown at once when there is no connection; RedisLinkLost when it goes."""
        wire = self._wire
        if wire is None:
            raise RedisLinkDown(f"not connected to {self._address.label}")
        return wire.send(command)

    async def call(self, *parts: Part) -> Any:
        """Connect if need be, send, and wait for the reply."""
        if self._wire is None:
            await self.connect()
        return await self.send(pack(parts))

    async def connect(self) -> None:
        """Return once the connection is up; RedisLinkLost when it is not within the time-out.

        Callers wait on one attempt at a time, with a growing pause between attempts.
        """
        problem = "another caller is still trying"
        try:
            async with asyncio.timeout(self._connect_timeout_s), self._connecting:
                while self._wire is None:
                    if self._closed:
                        raise RedisLinkLost("the link was closed")
                    try:
                        await self._open()
                    except (OSError, RedisReplyError) as failed:
                        problem = str(failed)
                        pause_s = _BACK_OFF_S[min(self._failures, len(_BACK_OFF_S) - 1)]
                        self._failures += 1
                        await asyncio.sleep(pause_s)
        except TimeoutError as late:
            raise RedisLinkLost(f"no connection to {self._address.label}: {problem}") from late

    async def load_scripts(self) -> None:
        """Load the scripts again, after the server forgot them (SCRIPT FLUSH, failover)."""
        await asyncio.gather(*[self.send(command) for command in self._load])

    async def close(self) -> None:
        """Close for good; commands in flight fail."""
        self._closed = True
        if self._wire is not None:
            self._wire.drop("the link was closed")
            await asyncio.sleep(0)  # lets the transport close its socket within this loop

    async def _open(self) -> None:
        address = self._address
        loop = asyncio.get_running_loop()

        def make() -> _Wire:
            return _Wire(loop, self._timeout_s, self._lost)

        if address.path:
            _, wire = await loop.create_unix_connection(make, address.path)
        else:
            context = ssl.create_default_context(cafile=address.ca_file or None) if address.tls else None
            _, wire = await loop.create_connection(make, address.host, address.port, ssl=context)
        try:
            handshake: list[bytes] = []
            if address.password:
                user = (address.username,) if address.username else ()
                handshake.append(pack(("AUTH", *user, address.password)))
            if address.database:
                handshake.append(pack(("SELECT", address.database)))
            handshake += self._load or [pack(("PING",))]  # any command: a server that is still loading refuses it
            handshake.append(pack(("INFO", "memory")))
            *answers, memory = await asyncio.gather(*[wire.send(command) for command in handshake], return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
            self._check_memory(memory)
        except BaseException:  # also when cancelled: what was opened is closed, and the failure goes on
            wire.drop("the handshake failed")
            raise
        self._failures = 0
        self.life += 1
        self._wire = wire

    def _check_memory(self, told: bytes | BaseException) -> None:
        """RedisReplyError when the server throws keys away as it fills: money would go with them."""
        if isinstance(told, BaseException):
            _log.warning("%s does not say whether it evicts keys: %s", self._address.label, told)
            return
        found = dict(_INFO.findall(told))
        if found.get(b"maxmemory", b"0") != b"0" and found.get(b"maxmemory_policy", b"noeviction") != b"noeviction":
            raise RedisReplyError(f"it evicts keys (maxmemory-policy {found[b'maxmemory_policy'].decode()}): set noeviction")

    def _lost(self, wire: _Wire) -> None:
        if self._wire is wire:
            self._past_writes += wire.writes
            self._wire = None

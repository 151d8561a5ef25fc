"""What a peer can do to the HTTP server before, around and after the application: raw sockets against a real server."""

import asyncio
import contextlib
import gc
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn

from gateway.app import application
from gateway.server.answer import EdgeAnswer
from gateway.server.connection import EdgeLimits, EdgeProtocol, protocol
from gateway.settings import load
from tests.path.conftest import OPERATOR, PEPPER, free_port, start_gateway, write_config

SHORT = EdgeLimits(
    head_timeout_s=0.4, body_idle_timeout_s=0.4, body_timeout_s=2.0, write_timeout_s=0.5, linger_s=0.3, sweep_s=0.05
)
CHUNK = b"x" * 65_536


class App:
    """A small ASGI application that remembers what it met."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.bodies: list[int] = []
        self.release = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
            return
        path = scope["path"]
        if path.startswith("/stream"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while path not in self.left:
                await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
                await self._look(path, receive)
            return
        if path.startswith("/held"):
            while not self.release.is_set():
                await self._look(path, receive)
                await asyncio.sleep(0.01)
        answer = b"hi"
        if path == "/big":
            answer = b"b" * 32_000_000
        elif path.startswith("/echo"):
            size, more = 0, True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.left.append(path)
                    return
                size += len(message["body"])
                more = message["more_body"]
            self.bodies.append(size)
            names = b",".join(name for name, _ in scope["headers"])
            answer = b"%d %b" % (size, names)
        elif path != "/":
            answer = path.encode()
        status = 413 if path == "/early" else 200
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _look(self, path: str, receive: Any) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                if (await receive())["type"] == "http.disconnect":
                    self.left.append(path)


class Server:
    """uvicorn with the protocol under test, on a loop and a thread of its own."""

    def __init__(self, app: Any, bounds: EdgeLimits, lifespan: Any = "on") -> None:
        self.app = app
        self.kind: type[EdgeProtocol] = protocol(bounds)
        self.port = free_port()
        config = uvicorn.Config(
            app,
            interface="asgi3",
            port=self.port,
            http=self.kind,
            loop="uvloop",
            ws="none",
            lifespan=lifespan,
            log_config=None,
            timeout_keep_alive=1,
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> "Server":
        self.thread.start()
        deadline = time.monotonic() + 60
        while not self.server.started:
            assert self.thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert not self.server.server_state.tasks, "each request takes itself off the list"

    @property
    def open(self) -> int:
        return len(self.kind.watch.open)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(App(), SHORT) as running:
        yield running


class Peer:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def flood(self, piece: bytes, bytes_max: int) -> int:
        """Send until the server stops taking it; returns how much was sent."""
        sent = 0
        with contextlib.suppress(OSError):
            while sent < bytes_max and not self.reader.at_eof():
                self.writer.write(piece)
                await self.writer.drain()
                sent += len(piece)
        return sent

    async def end(self, timeout_s: float = 60.0) -> bytes:
        """Everything until the server closes."""
        parts = []
        async with asyncio.timeout(timeout_s):
            with contextlib.suppress(ConnectionResetError):
                while part := await self.reader.read(1_000_000):
                    parts.append(part)
        return b"".join(parts)

    async def answer(self) -> tuple[int, bytes]:
        """One answer with a length; the connection stays."""
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None, head
            return int(head[9:12]), await self.reader.readexactly(int(length.group(1)))


@contextlib.asynccontextmanager
async def peer(port: int, *, receive_bytes: int = 0) -> AsyncIterator[Peer]:
    made = socket.socket()
    if receive_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=made, limit=65_536)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


def refused(raw: bytes, status: int, code: str) -> None:
    """One refusal, in the shape of every error, and nothing after it."""
    assert raw.count(b"HTTP/1.1 ") == 1, raw[:500]
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), raw[:500]
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-type: application/json" in head
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["type"]
    assert "param" in error
    assert f"x-request-id: {error['request_id']}".encode() in head


async def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def slowest_meanwhile(port: int, attack: Awaitable[Any]) -> float:
    """Seconds that the slowest of another connection's requests took while `attack` ran."""
    slowest = 0.0
    running = asyncio.ensure_future(attack)
    async with peer(port) as other:
        while not running.done():
            began = time.monotonic()
            other.writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await other.answer() == (200, b"hi")
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.01)
    await running
    return slowest


# ---- heads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "piece", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nx: ", CHUNK, 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 10_000, 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n", CHUNK, 431, "headers_too_large"),
        (b"GET /", CHUNK, 414, "uri_too_long"),
        (b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ", CHUNK, 431, "headers_too_large"),
        (b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;", CHUNK, 431, "headers_too_large"),
    ],
    ids=["header", "headers", "name", "url", "trailer", "chunk extension"],
)
async def test_what_never_ends_is_refused_and_others_are_served_meanwhile(
    server: Server, start: bytes, piece: bytes, status: int, code: str
) -> None:
    async with peer(server.port) as attacker:

        async def attack() -> None:
            attacker.writer.write(start)
            reading = asyncio.ensure_future(attacker.end())
            await attacker.flood(piece, 100_000_000)
            refused(await reading, status, code)

        assert await slowest_meanwhile(server.port, attack()) < 1.0
    await eventually(lambda: server.open == 0)


@pytest.mark.parametrize("pieces", [1, 7])
async def test_a_head_may_be_as_large_as_the_limit_says_and_no_larger(server: Server, pieces: int) -> None:
    for beyond, status in ((0, 200), (1, 431)):
        head = b"GET / HTTP/1.1\r\nx: \r\n\r\n"
        head = head.replace(b"x: ", b"x: " + b"y" * (SHORT.head_bytes_max - len(head) + beyond))
        async with peer(server.port) as client:
            step = len(head) // pieces + 1
            for at in range(0, len(head), step):
                client.writer.write(head[at : at + step])
                await client.writer.drain()
                await asyncio.sleep(0.01)
            assert (await client.answer())[0] == status


async def test_a_request_may_have_as_many_headers_and_as_long_a_url_as_the_limits_say(server: Server) -> None:
    for headers, url_bytes, status, code in (
        (100, 8192, 200, ""),
        (101, 1, 431, "headers_too_large"),
        (1, 8193, 414, "uri_too_long"),
    ):
        async with peer(server.port) as client:
            url = b"/?" + b"u" * url_bytes
            client.writer.write(b"GET %b HTTP/1.1\r\n%b\r\n" % (url[:url_bytes], b"a: b\r\n" * headers))
            if status == 200:
                assert await client.answer() == (200, b"hi")
            else:
                refused(await client.end(), status, code)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HELO there\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nnot a size\r\n",
    ],
)
async def test_what_is_not_http_is_refused_in_the_shape_of_every_error(server: Server, raw: bytes) -> None:
    async with peer(server.port) as client:
        client.writer.write(raw)
        refused(await client.end(), 400, "invalid_http")


async def test_a_refused_peer_that_does_not_close_is_closed(server: Server) -> None:
    await eventually(lambda: server.open == 0)
    async with peer(server.port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(b"nonsense\r\n\r\n")
        await eventually(lambda: server.open == 1)
        await eventually(lambda: server.open == 0, 2 * SHORT.linger_s + 0.5)


async def test_a_head_that_does_not_come_is_not_waited_for(server: Server) -> None:
    async with contextlib.AsyncExitStack() as opened:
        silent = [await opened.enter_async_context(peer(server.port)) for _ in range(50)]
        halves = [await opened.enter_async_context(peer(server.port)) for _ in range(50)]
        began = time.monotonic()
        for half in halves:
            half.writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx:")

        async def drip() -> None:
            for _ in range(20):
                await asyncio.sleep(0.1)
                halves[0].writer.write(b"y")

        dripping = asyncio.ensure_future(drip())
        for each in halves:
            refused(await each.end(2), 408, "request_timeout")
        for each in silent:
            assert await each.end(2) == b""
        assert 0.3 < time.monotonic() - began < 1.5
        dripping.cancel()
    await eventually(lambda: server.open == 0)


# ---- bodies ------------------------------------------------------------------------------------------


async def test_a_body_that_stalls_is_not_waited_for_and_the_application_learns_it(server: Server) -> None:
    async with peer(server.port) as client:
        began = time.monotonic()
        client.writer.write(b"POST /echo-stalled HTTP/1.1\r\ncontent-length: 10\r\n\r\nabc")
        refused(await client.end(), 408, "request_timeout")
        assert 0.3 < time.monotonic() - began < 1.8
    await eventually(lambda: server.app.left.count("/echo-stalled") == 1)


async def test_a_body_that_drips_ends_too(server: Server) -> None:
    async with peer(server.port) as client:
        began = time.monotonic()
        client.writer.write(b"POST /echo-dripping HTTP/1.1\r\ncontent-length: 1000\r\n\r\n")
        reading = asyncio.ensure_future(client.end())
        while not reading.done() and time.monotonic() - began < 4:
            client.writer.write(b"x")
            await asyncio.sleep(0.05)
        refused(await reading, 408, "request_timeout")
        assert 1.8 < time.monotonic() - began < 3.5
    await eventually(lambda: server.app.left.count("/echo-dripping") == 1)


async def test_a_slow_body_that_makes_progress_is_taken(server: Server) -> None:
    async with peer(server.port) as client:
        client.writer.write(b"POST /echo HTTP/1.1\r\ncontent-length: 3\r\n\r\n")
        for _ in range(3):
            await asyncio.sleep(0.25)
            client.writer.write(b"x")
        assert (await client.answer())[0] == 200


async def test_a_large_body_in_one_piece_and_in_chunks_arrives_whole(server: Server) -> None:
    body = b"z" * 5_000_000
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 9999]), body[at : at + 9999]) for at in range(0, len(body), 9999))
    async with peer(server.port) as client:
        client.writer.write(b"POST /echo HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert await client.answer() == (200, b"5000000 content-length")
        client.writer.write(b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + chunked + b"0\r\nx: trailer\r\n\r\n")
        assert await client.answer() == (200, b"5000000 transfer-encoding")


async def test_an_early_answer_is_not_followed_by_another_when_the_body_stalls(server: Server) -> None:
    async with peer(server.port) as client:
        client.writer.write(b"POST /early HTTP/1.1\r\ncontent-length: 10\r\n\r\nabc")
        raw = await client.end(2)
        assert raw.count(b"HTTP/1.1 ") == 1
        assert raw.startswith(b"HTTP/1.1 413 ")


# ---- answers -----------------------------------------------------------------------------------------


async def test_a_stream_that_nobody_reads_ends_and_the_application_learns_it(server: Server) -> None:
    async with peer(server.port, receive_bytes=8192) as client:
        client.writer.write(b"GET /stream-unread HTTP/1.1\r\n\r\n")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        began = time.monotonic()
        await eventually(lambda: "/stream-unread" in server.app.left)
        assert 0.4 < time.monotonic() - began < 3
    await eventually(lambda: server.open == 0)


@pytest.mark.parametrize("paused", [True, False])
async def test_an_answer_that_nobody_reads_does_not_keep_its_connection(server: Server, paused: bool) -> None:
    async with peer(server.port, receive_bytes=4096) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: server.open == 1)
        [connection] = server.kind.watch.open
        if not paused:  # as an answer that is complete and smaller than what the transport takes without a pause
            connection.loop.call_soon_threadsafe(connection.transport.set_write_buffer_limits, 10**9)
        client.writer.write(b"GET /big HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.4)
        assert (server.open, connection.flow.write_paused) == (1, paused)
        began = time.monotonic()
        await eventually(lambda: server.open == 0)
        assert time.monotonic() - began < 0.8  # by the write time-out, before keep-alive would end it


async def test_a_slow_reader_is_left_alone(server: Server) -> None:
    async with peer(server.port, receive_bytes=65_536) as client:
        client.writer.write(b"GET /big HTTP/1.1\r\n\r\n")
        size, began = 0, time.monotonic()
        while time.monotonic() - began < 1.5:
            size += len(await client.reader.read(500_000))
            await asyncio.sleep(0.1)
        assert time.monotonic() - began > 2 * SHORT.write_timeout_s
        while size < 32_000_000:
            part = await client.reader.read(1_000_000)
            assert part
            size += len(part)


async def test_a_request_that_takes_long_is_left_alone(server: Server) -> None:
    server.app.release.clear()
    async with peer(server.port) as client:
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await client.answer() == (200, b"hi")  # the keep-alive time after this one does not count for the next
        client.writer.write(b"GET /held-alone HTTP/1.1\r\n\r\n")
        await asyncio.sleep(1.5)
        server.app.release.set()
        assert await client.answer() == (200, b"/held-alone")


# ---- one connection, many requests -------------------------------------------------------------------


async def test_an_idle_connection_is_kept_as_long_as_keep_alive_says_and_blank_lines_do_not_prolong_it(server: Server) -> None:
    async with peer(server.port) as client:
        for _ in range(2):
            client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await client.answer() == (200, b"hi")
            await asyncio.sleep(0.7)
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await client.answer() == (200, b"hi")
        began = time.monotonic()
        reading = asyncio.ensure_future(client.end(4))
        while not reading.done():
            client.writer.write(b"\r\n")
            await asyncio.sleep(0.1)
        assert await reading == b""
        assert 0.9 < time.monotonic() - began < 2


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    async with peer(server.port) as client:
        raw = b"".join(b"POST /echo HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (size, b"x" * size) for size in range(50))
        client.writer.write(raw + b"GET / HTTP/1.1\r\n\r\n")
        for size in range(50):
            assert (await client.answer())[1].split()[0] == b"%d" % size
        assert await client.answer() == (200, b"hi")


async def test_half_a_head_behind_a_running_request_neither_breaks_nor_outlives_it(server: Server) -> None:
    server.app.release.clear()
    async with peer(server.port) as client:
        client.writer.write(b"GET /held-first HTTP/1.1\r\n\r\nGET /ne")
        await asyncio.sleep(1.0)
        server.app.release.set()
        assert await client.answer() == (200, b"/held-first")
        refused(await client.end(2), 408, "request_timeout")


async def test_a_broken_request_behind_a_running_one_ends_it_without_an_answer_that_is_not_its_own(server: Server) -> None:
    server.app.release.clear()
    async with peer(server.port) as client:
        client.writer.write(b"GET /held-broken HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.1)
        client.writer.write(b"nonsense\r\n\r\n")
        assert await client.end(2) == b""
    await eventually(lambda: "/held-broken" in server.app.left)
    server.app.release.set()


async def test_requests_do_not_pile_up_behind_a_running_one(server: Server) -> None:
    server.app.release.clear()
    async with peer(server.port) as client:
        client.writer.write(b"GET /held-crowd HTTP/1.1\r\n\r\n" * (2 + SHORT.pipelined_max))
        assert await client.end(2) == b""
    async with peer(server.port) as client:
        client.writer.write(b"GET /held-body HTTP/1.1\r\n\r\nPOST /echo HTTP/1.1\r\ncontent-length: 99000000\r\n\r\n")
        flooding = asyncio.ensure_future(client.flood(CHUNK, 99_000_000))
        await asyncio.sleep(0.5)
        [connection] = server.kind.watch.open
        assert isinstance(connection.cycle, EdgeAnswer)
        assert connection.cycle.pieces_bytes < 1_000_000
        flooding.cancel()
    server.app.release.set()
    await eventually(lambda: server.open == 0)


async def test_an_upgrade_that_is_not_offered_is_an_ordinary_request(server: Server) -> None:
    async with peer(server.port) as client:
        for _ in range(2):
            client.writer.write(b"GET / HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n")
            assert await client.answer() == (200, b"hi")


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
async def test_the_body_behind_an_offer_to_upgrade_is_a_body_and_no_request(
    server: Server, together: bool, chunked: bool
) -> None:
    hidden = b"GET /hidden HTTP/1.1\r\n\r\n"
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(hidden)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden) if chunked else hidden
    offer = b"POST /echo HTTP/1.1\r\nx-first: 1\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n%b\r\n\r\n" % length
    async with peer(server.port) as client:
        for _ in range(2):
            client.writer.write(offer + body if together else offer)
            if not together:
                await asyncio.sleep(0.1)
                client.writer.write(body)
            client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            status, answer = await client.answer()
            assert (status, answer.split(b" ")[0]) == (200, b"%d" % len(hidden))
            assert b"x-first" in answer
            assert await client.answer() == (200, b"hi")


@pytest.mark.parametrize("version", [b"0.9", b"2.0"])
async def test_another_version_of_http_is_refused(server: Server, version: bytes) -> None:
    async with peer(server.port) as client:
        client.writer.write(b"GET / HTTP/" + version + b"\r\n\r\n")
        raw = await client.end()
    assert raw.startswith((b"HTTP/1.1 505 ", b"HTTP/1.1 400 ")), raw[:200]


async def test_a_connection_that_has_gone_leaves_nothing_for_the_collector(server: Server) -> None:
    async def visit() -> None:
        async with peer(server.port) as client:
            client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await client.answer() == (200, b"hi")
        await eventually(lambda: server.open == 0)

    for _ in range(3):
        await visit()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await visit()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(found).__name__ for found in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not {"Bounded", "EdgeAnswer", "_Flow"} & set(left)


async def test_connections_beyond_the_limit_are_refused_and_there_is_room_again() -> None:
    with Server(App(), msgspec.structs.replace(SHORT, connections_max=3, head_timeout_s=20)) as server:
        async with contextlib.AsyncExitStack() as opened:
            for _ in range(3):
                await opened.enter_async_context(peer(server.port))
            await eventually(lambda: server.open == 3)
            for _ in range(5):
                async with peer(server.port) as client:
                    refused(await client.end(), 503, "too_many_connections")
            assert server.open == 3
        await eventually(lambda: server.open == 0)
        async with peer(server.port) as client:
            client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await client.answer() == (200, b"hi")


# ---- the gateway -------------------------------------------------------------------------------------


def resident_bytes(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


async def test_an_endless_header_does_not_hold_up_a_paid_request(tmp_path: Path, upstream_url: str) -> None:
    stack = await asyncio.to_thread(start_gateway, tmp_path, upstream_url)
    try:
        app = stack.app()
        stack.fund(app, "ann", 1_000_000)
        headers = {"authorization": f"Bearer {stack.key(app)}", "x-platform-user-id": "ann"}
        body = {"model": "ok", "messages": [{"role": "user", "content": "hi"}]}
        port = httpx.URL(stack.url).port
        assert port is not None
        async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=60) as http, peer(port) as attacker:
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
            before = resident_bytes(stack.process.child.pid)
            attacker.writer.write(b"GET /v1/models HTTP/1.1\r\nx: ")
            reading = asyncio.ensure_future(attacker.end(10))
            flooding = asyncio.ensure_future(attacker.flood(CHUNK, 108_000_000))
            slowest, paid = 0.0, 1
            while not flooding.done() or paid < 10:
                began = time.monotonic()
                assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
                slowest, paid = max(slowest, time.monotonic() - began), paid + 1
            refused(await reading, 431, "headers_too_large")
            assert slowest < 2
            assert resident_bytes(stack.process.child.pid) - before < 30_000_000
        stack.events(app, paid)
    finally:
        stack.admin.close()
        stack.process.stop()


async def test_a_stream_that_nobody_reads_is_settled_as_one_whose_client_left(tmp_path: Path, upstream_url: str) -> None:
    settings = load(
        {
            "MOZAIKS_CONFIG": str(write_config(tmp_path, upstream_url)),
            "MOZAIKS_DATA_DIR": str(tmp_path / "data"),
            "MOZAIKS_OPERATOR_TOKEN": OPERATOR,
            "MOZAIKS_KEY_PEPPER": PEPPER,
        }
    )
    with Server(application(settings), msgspec.structs.replace(SHORT, body_idle_timeout_s=5, body_timeout_s=20)) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {OPERATOR}"}, timeout=60) as admin:

            async def manage(path: str, body: dict[str, Any]) -> Any:
                made = await admin.post("/api/v1" + path, json=body, headers={"idempotency-key": f"key{path}"})
                assert made.status_code == 201, made.text
                return made.json()

            await manage("/creators", {"user_id": "c", "name": "c"})
            await manage("/apps", {"enterprise_id": "a", "user_id": "c", "name": "a", "asset": "USD"})
            key = (await manage("/apps/a/keys", {"name": "k", "level": "app_usage"}))["secret"]
            wallet = {"enterprise_id": "a", "platform_user_id": "u"}
            await manage("/grants", {"wallet": wallet, "amount_micro": 10**9, "source": "promo", "reason": "test"})
            # The echo of a megabyte, eight times: more than the system's buffers take for a peer that does not read.
            body = {"model": "echo", "stream": True, "n": 8, "messages": [{"role": "user", "content": "w" * 1_000_000}]}
            raw = json.dumps(body).encode()
            async with peer(server.port, receive_bytes=8192) as client:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                client.writer.write(
                    b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer %b\r\nx-platform-user-id: u\r\n"
                    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (key.encode(), len(raw), raw)
                )
                events: list[dict[str, Any]] = []
                deadline = time.monotonic() + 60
                while not events:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
                    events = (await admin.get("/api/v1/apps/a/usage-events")).json()["data"]
            [event] = events
            assert (event["status"], event["http_status"]) == ("client_left", 499)
            left = (await admin.get("/api/v1/apps/a/wallets/u")).json()
            assert left["held_micro"] == 0
            assert left["available_micro"] == 10**9 - event["amount_micro"]
            assert event["amount_micro"] > 0

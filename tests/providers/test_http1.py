"""The client's connections on the wire, against raw servers, on asyncio's loop and on the production one."""

import asyncio
import contextlib
import gc
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from gateway.providers import connecting, http1
from gateway.providers.direct import DirectUpstream
from gateway.providers.model import UpstreamFault, UpstreamSilent
from tests.providers.test_direct import CHAT, ask, collect, deployment, raw_server, read_request
from tests.replies import chunks

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n"


pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:pytest.PytestDeprecationWarning")


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy
    policy = uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()
    return policy


@pytest.fixture
async def upstream() -> AsyncIterator[DirectUpstream]:
    made = DirectUpstream()
    yield made
    await made.close()


class Served:
    """A server that gives each request the next answer (the last one again and again), cut into the pieces given."""

    def __init__(self, *answers: bytes | list[bytes], close: bool = False) -> None:
        self.answers = [[answer] if isinstance(answer, bytes) else answer for answer in answers]
        self.close = close
        self.connections: list[int] = []
        self.requests = self.ended = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.connections)
        self.connections.append(0)
        try:
            while True:
                await read_request(reader)
                self.connections[number] += 1
                answer = self.answers[min(self.requests, len(self.answers) - 1)]
                self.requests += 1
                for piece in answer:
                    writer.write(piece)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                if self.close:
                    return
        finally:
            self.ended += 1


async def streamed(upstream: DirectUpstream, raw: str, **changes: Any) -> bytes:
    reply = await upstream.send(deployment(raw, **changes), CHAT, b"{}")
    got: list[bytes] = []
    try:
        await collect(reply, got)
    finally:
        await reply.close()
    return b"".join(got)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(400):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to hold")


def armed(connection: http1.Connection) -> bool:
    return connection._timer is not None


def in_bytes(answer: bytes) -> list[bytes]:
    return [answer[at : at + 1] for at in range(len(answer))]


VALID = [  # answer, status, body, whether the connection is kept, whether it ends with the connection
    (OK, 200, b"{}", True, False),
    (CHUNKED + b"5;name=value\r\nhello\r\n1\r\n!\r\n0\r\ntrailer: x\r\n\r\n", 200, b"hello!", True, False),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, 200, b"{}", True, False),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True, False),
    (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b"", True, False),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-empty:\r\n\r\n", 200, b"", True, False),
    (b"HTTP/1.1 200 \r\nConnection: Close\r\ncontent-length: 3\r\n\r\nabc", 200, b"abc", False, False),
    (b"HTTP/1.1 500 Oh\r\n\r\nto the end", 500, b"to the end", False, True),
    (b"HTTP/1.0 200 OK\r\n\r\nold", 200, b"old", False, True),
    (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold", 200, b"old", False, False),
    (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nold", 200, b"old", True, False),
]  # fmt: skip


@pytest.mark.parametrize("answer", VALID, ids=range(len(VALID)))
async def test_every_framing_is_read_byte_by_byte_and_the_connection_kept_where_it_may_be(
    upstream: DirectUpstream, answer: tuple[bytes, int, bytes, bool, bool]
) -> None:
    wire, status, body, kept, close = answer
    served = Served(in_bytes(wire), close=close)
    async with raw_server(served) as raw:
        assert await ask(upstream, deployment(raw), b"{}") == (status, body)
        assert await streamed(upstream, raw) == body
    assert served.connections == ([2] if kept else [1, 1])


async def test_headers_of_interim_answers_and_trailers_are_left_out(upstream: DirectUpstream) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    async with raw_server(Served(interim + CHUNKED + b"0\r\ntrailer: x\r\n\r\n")) as raw:
        reply = await upstream.send(deployment(raw), CHAT, b"{}")
        assert await reply.read(60) == b""
        assert reply.headers == {"content-type": "a/b", "transfer-encoding": "chunked"}
        await reply.close()


async def test_random_cuts_of_valid_answers_change_nothing(upstream: DirectUpstream) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(150):
        wire, status, body, _, close = dice.choice(VALID)
        cuts = sorted(dice.randrange(len(wire) + 1) for _ in range(dice.randrange(6)))
        pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
        async with raw_server(Served([piece for piece in pieces if piece], close=close)) as raw:
            if dice.random() < 0.5:
                assert await ask(upstream, deployment(raw), b"{}") == (status, body), pieces
            else:
                assert await streamed(upstream, raw) == body, pieces


async def test_damaged_answers_end_as_an_answer_or_a_fault_and_never_hang(upstream: DirectUpstream) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(200):
        damaged = bytearray(dice.choice(VALID)[0])
        for _ in range(dice.randrange(1, 4)):
            damaged[dice.randrange(len(damaged))] = (
                dice.choice(b"\r\n:0 \x00\xff9a") if dice.random() < 0.8 else dice.randrange(256)
            )
        async with raw_server(Served(bytes(damaged), close=True)) as raw:
            with contextlib.suppress(UpstreamFault):
                await asyncio.wait_for(ask(upstream, deployment(raw), b"{}"), 30)
    await until(lambda: not upstream._pool.connections)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "did not answer in HTTP"),
        (b"\x00\x01\x02\x03", "did not answer in HTTP"),
        (b"HTTP/1.1 two hundred\r\n\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 042 OK\r\n\r\n", "did not answer in HTTP"),
        (b"HTTP/9.9 200 OK\r\n\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", "switched protocols"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "switched protocols"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx", "transfer coding"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000 + b"\r\n\r\n", "head .* too large"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 40_000 + b"\r\n", "head .* too large"),
        (b"HTTP/1.1 200 OK\r\nendless: " + b"x" * 300_000, "head .* too large"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "head .* too large"),
    ],
)  # fmt: skip
async def test_what_is_no_acceptable_answer_is_a_fault_that_says_so(upstream: DirectUpstream, answer: bytes, reason: str) -> None:
    served = Served(answer)
    async with raw_server(served) as raw:
        with pytest.raises(UpstreamFault, match=reason) as fault:
            await upstream.send(deployment(raw), CHAT, b"{}")
        await until(lambda: served.ended == 1 and not upstream._pool.connections)
    assert fault.value.sent


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"zz\r\n",
        CHUNKED + b"1\r\nxBAD",
        CHUNKED + b"0\r\nendless: " + b"x" * 300_000,
        CHUNKED + b"1;" + b"x" * 300_000,
    ],
)
@pytest.mark.parametrize("read", [ask, None])
async def test_a_body_with_broken_framing_is_a_fault(upstream: DirectUpstream, answer: bytes, read: Any) -> None:
    async with raw_server(Served([CHUNKED, answer.removeprefix(CHUNKED)])) as raw:
        with pytest.raises(UpstreamFault):
            await (ask(upstream, deployment(raw), b"{}") if read else streamed(upstream, raw))
        await until(lambda: not upstream._pool.connections)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", CHUNKED + b"4\r\nhalf\r\n", CHUNKED])
async def test_a_body_that_ends_early_is_a_fault(upstream: DirectUpstream, answer: bytes) -> None:
    async with raw_server(Served(answer, close=True)) as raw:
        with pytest.raises(UpstreamFault, match="broke off"):
            await ask(upstream, deployment(raw), b"{}")
        with pytest.raises(UpstreamFault, match="broke off"):
            await streamed(upstream, raw)


async def test_a_reset_is_not_the_end_of_a_body_that_ends_with_its_connection(upstream: DirectUpstream) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await asyncio.sleep(0.03)
        link: socket.socket = writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with raw_server(handle) as raw:
        with pytest.raises(UpstreamFault, match="broke off"):
            await ask(upstream, deployment(raw), b"{}")


async def test_a_connection_that_the_server_closes_while_idle_leaves_the_pool_at_once(upstream: DirectUpstream) -> None:
    async with raw_server(Served(OK, close=True)) as raw:
        assert await ask(upstream, deployment(raw), b"{}") == (200, b"{}")
        origin = upstream._target(deployment(raw), CHAT).origin
        await until(lambda: not upstream._pool.connections)
        assert len(origin) == 0


@pytest.mark.parametrize("pieces", [[OK + b"more"], [OK + b"HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\nevil"], [OK, b"late"]])
async def test_a_connection_that_carries_more_than_its_answer_is_dropped(upstream: DirectUpstream, pieces: list[bytes]) -> None:
    served = Served(pieces, OK)
    async with raw_server(served) as raw:
        assert await ask(upstream, deployment(raw), b"{}") == (200, b"{}")
        await until(lambda: served.ended == 1)
        assert await ask(upstream, deployment(raw), b"{}") == (200, b"{}")
    assert served.connections == [1, 1]


async def test_a_byte_on_an_idle_connection_drops_it(upstream: DirectUpstream) -> None:
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await asyncio.sleep(0.03)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        ended.set()

    async with raw_server(handle) as raw:
        await ask(upstream, deployment(raw), b"{}")
        assert len(upstream._pool.connections) == 1
        await asyncio.wait_for(ended.wait(), 30)
        assert not upstream._pool.connections


async def test_the_connection_used_last_is_lent_first_and_idle_ones_expire(
    upstream: DirectUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "IDLE_S", 0.2)
    served = Served(OK)
    async with raw_server(served) as raw:
        to = deployment(raw)
        replies = [await upstream.send(to, CHAT, b"{}") for _ in range(5)]
        for reply in replies:
            assert await reply.read(60) == b"{}"
            await reply.close()
            await reply.close()
        origin = upstream._target(to, CHAT).origin
        assert (len(origin), len(upstream._pool.connections)) == (5, 5)
        for _ in range(6):
            await asyncio.sleep(0.05)
            await ask(upstream, to, b"{}")
        assert sorted(served.connections) == [1, 1, 1, 1, 7]
        assert (len(origin), len(upstream._pool.connections)) == (1, 1)
        await until(lambda: served.ended == 5)
        assert upstream._pool._sweeper is None


async def test_a_thousand_requests_at_once_get_their_own_answers(upstream: DirectUpstream) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = (await read_request(reader)).rpartition(b"\r\n\r\n")[2]
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with raw_server(handle) as raw:
        for _ in range(2):
            answers = await asyncio.gather(*[ask(upstream, deployment(raw), b"%d" % number) for number in range(1000)])
            assert [int(body) for _, body in answers] == list(range(1000))
            assert len(upstream._pool.connections) <= 1000


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 20", CHUNKED, CHUNKED + b"1\r\nx\r\n"], ids=["none", "head", "body", "chunk"])
@pytest.mark.parametrize("whole", [True, False])
async def test_cancelling_leaves_no_connection_and_no_timer(upstream: DirectUpstream, sent: bytes, whole: bool) -> None:
    served = Served(sent)
    async with raw_server(served) as raw:
        work = ask(upstream, deployment(raw), b"{}") if whole else streamed(upstream, raw)
        task: asyncio.Task[Any] = asyncio.create_task(work)
        await until(lambda: served.requests == 1)
        await asyncio.sleep(0.02)
        (connection,) = upstream._pool.connections
        assert armed(connection)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not armed(connection)
        await until(lambda: served.ended == 1 and not upstream._pool.connections)
        del connection, task, work
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is http1.Connection]


async def test_cancelling_while_connecting_leaves_no_socket(upstream: DirectUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and never speaks TLS
        to = deployment(f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
        task = asyncio.create_task(upstream.send(to, CHAT, b"{}"))
        await asyncio.sleep(0.05)
        accepted, _ = listener.accept()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.02)
        with accepted:
            accepted.settimeout(1)
            while accepted.recv(65536):
                pass


async def test_a_lagging_consumer_holds_the_server_back_and_is_not_taken_for_silence(upstream: DirectUpstream) -> None:
    total, sent = 24 * 1024 * 1024, 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()
        await reader.read()

    async with raw_server(handle) as raw:
        reply = await upstream.send(deployment(raw, chunk_timeout_s=0.1), CHAT, b"{}")
        (connection,) = upstream._pool.connections
        got = largest = 0
        async for chunk in chunks(reply):
            if not got:
                await asyncio.sleep(0.4)
                stuck = sent
                await asyncio.sleep(0.05)
                assert sent == stuck < total - 4 * 1024 * 1024
                assert connection._paused
            assert connection._buffered <= 2 * http1.BUFFER_BYTES_MAX
            got += len(chunk)
            largest = max(largest, len(chunk))
        assert got == total
        assert largest <= 2 * http1.BUFFER_BYTES_MAX
        await reply.close()
        assert len(upstream._target(deployment(raw), CHAT).origin) == 1


async def test_a_server_that_sends_all_at_once_gets_its_turn_and_no_more(upstream: DirectUpstream) -> None:
    served = Served(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % 8_000_000 + b"x" * 8_000_000)
    loop, got, in_a_turn, most = asyncio.get_running_loop(), 0, 0, 0

    def turn() -> None:
        nonlocal in_a_turn, most
        most, in_a_turn = max(most, in_a_turn), 0
        if not done:
            loop.call_soon(turn)

    def take(data: bytes) -> bool:
        nonlocal in_a_turn, got
        in_a_turn += len(data) if got else 0  # not what had come before anybody read
        got += len(data)
        return True

    async with raw_server(served) as raw:
        reply = await upstream.send(deployment(raw), CHAT, b"{}")
        await asyncio.sleep(0.05)  # for its buffers to fill
        done = False
        turn()
        try:
            await reply.relay(take)
        finally:
            done = True
        turn()
        assert got == 8_000_000
        assert most == http1.READ_BYTES
        await reply.close()


async def test_a_connection_paused_for_a_lagging_consumer_serves_the_next_request(upstream: DirectUpstream) -> None:
    size = 4 * http1.BUFFER_BYTES_MAX
    served = Served([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size, b"x" * size], OK)
    async with raw_server(served) as raw:
        reply = await upstream.send(deployment(raw), CHAT, b"{}")
        await asyncio.sleep(0.1)
        assert len(await reply.read(60)) == size
        await reply.close()
        assert await ask(upstream, deployment(raw), b"{}") == (200, b"{}")
    assert served.connections == [2]


async def test_an_answer_before_the_body_is_written_counts_and_its_connection_is_dropped(upstream: DirectUpstream) -> None:
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
        with contextlib.suppress(ConnectionError):
            await asyncio.sleep(0.1)
            while await reader.read(2**20):
                pass
        ended.set()

    async with raw_server(handle) as raw:
        assert await ask(upstream, deployment(raw), b"x" * 16_000_000) == (413, b"{}")
        await asyncio.wait_for(ended.wait(), 30)
        assert not upstream._pool.connections


async def test_a_head_that_drips_is_cut_by_the_first_byte_limit(upstream: DirectUpstream) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in in_bytes(OK):
            writer.write(byte)
            await asyncio.sleep(0.03)

    async with raw_server(handle) as raw:
        with pytest.raises(UpstreamSilent, match="in time"):
            await asyncio.wait_for(upstream.send(deployment(raw, first_byte_timeout_s=0.15), CHAT, b"{}"), 30)


@pytest.mark.parametrize("whole", [True, False])
async def test_each_silence_has_its_limit_and_steady_data_none(upstream: DirectUpstream, whole: bool) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first_s = 0.2
        while True:
            silent = b"silent" in await read_request(reader)
            writer.write(CHUNKED)
            await asyncio.sleep(first_s)
            for _ in range(8):
                writer.write(b"1\r\nx\r\n")
                await asyncio.sleep(3600 if silent else 0.05)
            writer.write(b"0\r\n\r\n")

    async with raw_server(handle) as raw:
        to = deployment(raw, first_byte_timeout_s=0.3, chunk_timeout_s=0.3 if whole else 0.12)
        for body in (b"steady", b"silent"):
            reply = await upstream.send(to, CHAT, body)
            started = asyncio.get_running_loop().time()
            got: list[bytes] = []
            with contextlib.nullcontext() if body == b"steady" else pytest.raises(UpstreamSilent, match="mid-"):
                if whole:
                    got.append(await reply.read(60))
                else:
                    await collect(reply, got)
            await reply.close()
            if body == b"steady":
                assert b"".join(got) == b"x" * 8
            else:
                assert asyncio.get_running_loop().time() - started < (0.65 if whole else 0.45)


async def test_a_stream_resumed_after_its_close_never_reads_the_next_request(upstream: DirectUpstream) -> None:
    served = Served([CHUNKED + b"1\r\na\r\n0\r\n\r\n"], [CHUNKED + b"1\r\nb\r\n0\r\n\r\n"])
    async with raw_server(served) as raw:
        first = await upstream.send(deployment(raw), CHAT, b"{}")
        pieces = chunks(first)
        assert await anext(pieces) == b"a"
        await first.close()
        second = await upstream.send(deployment(raw), CHAT, b"{}")
        assert await anext(pieces, b"the end") == b"the end"
        assert await second.read(60) == b"b"
        await second.close()
    assert served.connections == [2]


async def test_closing_ends_what_is_in_flight_and_nothing_is_sent_afterwards(upstream: DirectUpstream) -> None:
    served = Served(b"")
    async with raw_server(served) as raw:
        task = asyncio.create_task(upstream.send(deployment(raw), CHAT, b"{}"))
        await until(lambda: served.requests == 1)
        await upstream.close()
        with pytest.raises(UpstreamFault):
            await task
        with pytest.raises(UpstreamFault) as late:
            await upstream.send(deployment(raw), CHAT, b"{}")
        assert not late.value.sent
        await until(lambda: not upstream._pool.connections)
    assert served.requests == 1


async def test_an_address_that_never_answers_does_not_hide_the_next_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as good, socket.socket() as full:
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]  # the kernel drops further SYNs
        for filler in fillers:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(full.getsockname())
        await asyncio.sleep(0.05)
        stream = int(socket.SOCK_STREAM)
        found: list[connecting.Address] = [(int(socket.AF_INET), stream, 0, each.getsockname()) for each in (full, good)]
        with await connecting.first_that_connects(found, 0.6) as link:
            assert link.getpeername() == good.getsockname()
        for filler in fillers:
            filler.close()

"""The streaming upstream and its load agree on every chunk, and the load sees what is missing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bench.stream_load import FRAMES_AROUND, Client, load
from bench.stream_upstream import AFTER_TIME, Stream, Wheel


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    wheels: dict[int, Wheel] = {}
    server = await asyncio.get_running_loop().create_server(lambda: Stream(wheels, AFTER_TIME), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def losing_proxy(upstream_port: int, lost: bytes) -> AsyncIterator[int]:
    """Passes everything on, except the first occurrence of `lost` on each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", upstream_port)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.rpartition(b"content-length: ")[2])
        up_writer.write(head + await reader.readexactly(length))
        left = True
        with contextlib.closing(writer), contextlib.closing(up_writer):
            while data := await up_reader.read(65536):
                if left and lost in data:
                    data, left = data.replace(lost, b"x" * len(lost), 1), False
                writer.write(data)
                if data.endswith(b"0\r\n\r\n"):
                    return

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_every_chunk_of_every_stream_is_counted_once() -> None:
    async with upstream() as port:
        seen = await load(port, streams=7, rate=100, chunks=20, key="", end_users=0, ramp_s=0.02)
    assert (seen.streams, seen.served, seen.refused, seen.broken) == (7, 7, 0, 0)
    assert seen.frames == 7 * (20 + FRAMES_AROUND)
    assert seen.dropped == 0


async def test_a_frame_that_arrives_in_pieces_is_counted_once() -> None:
    client = Client(b"", asyncio.Event(), [])
    for piece in (b"HTTP/1.1 200 OK\r\n\r\nda", b"ta", b": 1\n\ndata: 2\n\ndata:", b" 3\n\n"):
        client.data_received(piece)
    assert client.frames == 3


async def test_a_lost_frame_is_seen_as_dropped() -> None:
    async with upstream() as port, losing_proxy(port, b'data: {"id"') as proxy:
        seen = await load(proxy, streams=3, rate=100, chunks=10, key="", end_users=0, ramp_s=0.02)
    assert seen.dropped == 3


async def test_a_stream_without_its_done_is_not_counted_as_served() -> None:
    async with upstream() as port, losing_proxy(port, b"[DONE]") as proxy:
        seen = await load(proxy, streams=3, rate=100, chunks=10, key="", end_users=0, ramp_s=0.02)
    assert (seen.served, seen.broken) == (0, 3)


async def test_a_stream_without_its_usage_is_not_counted_as_served() -> None:
    async with upstream() as port, losing_proxy(port, b'"prompt_tokens":57') as proxy:
        seen = await load(proxy, streams=3, rate=100, chunks=10, key="", end_users=0, ramp_s=0.02)
    assert (seen.served, seen.broken, seen.dropped) == (0, 3, 0)

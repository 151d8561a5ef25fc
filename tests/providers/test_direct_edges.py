"""The direct path at its edges: encodings that were not asked for, headers and addresses that cannot be sent."""

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.providers import direct
from gateway.providers.direct import DirectUpstream
from gateway.providers.model import UpstreamFault
from tests import scripted_upstream
from tests.providers.test_direct import CHAT, ask, collect, deployment, journal, raw_server, read_request
from tests.providers.test_http1 import Served


@pytest.fixture
async def base() -> AsyncIterator[str]:
    async with scripted_upstream.serving() as url:
        yield url


@pytest.fixture
async def upstream() -> AsyncIterator[DirectUpstream]:
    made = DirectUpstream()
    yield made
    await made.close()


GZIPPED, DEFLATED = gzip.compress(b"text " * 400_000), zlib.compress(b"text")


@pytest.mark.parametrize(
    ("coding", "wire", "body"),
    [
        ("gzip", GZIPPED, b"text " * 400_000),
        ("X-GZip", gzip.compress(b"text"), b"text"),
        ("deflate", DEFLATED, b"text"),
        ("deflate", DEFLATED[2:-4], b"text"),
        ("identity", b"text", b"text"),
        ("br", b"", b""),
        ("gzip", GZIPPED[:-9], "not encoded as it says"),
        ("gzip", b"not gzip", "not encoded as it says"),
        ("gzip", GZIPPED + b"more", "not encoded as it says"),
        ("gzip", gzip.compress(b"x" * 3_000_001), "too large"),
        ("br", b"text", "encoding that was not asked for"),
    ],
    ids=range(11),
)
async def test_an_encoding_that_was_not_asked_for_is_undone_or_refused(
    upstream: DirectUpstream, monkeypatch: pytest.MonkeyPatch, coding: str, wire: bytes, body: bytes | str
) -> None:
    monkeypatch.setattr(direct, "ANSWER_BYTES_MAX", 3_000_000)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\ncontent-length: {len(wire)}\r\n\r\n".encode()
            for start in range(0, len(head + wire), 997):
                writer.write((head + wire)[start : start + 997])
                await asyncio.sleep(0)

    async with raw_server(handle) as raw:
        if isinstance(body, bytes):
            assert await ask(upstream, deployment(raw), b"{}") == (200, body)
        else:
            with pytest.raises(UpstreamFault, match=body):
                await ask(upstream, deployment(raw), b"{}")
        reply = await upstream.send(deployment(raw), CHAT, b"{}")
        got: list[bytes] = []
        with contextlib.nullcontext() if isinstance(body, bytes) or body == "too large" else pytest.raises(UpstreamFault):
            await collect(reply, got)
        assert max(map(len, got), default=0) <= 256 * 1024
        assert body == b"".join(got) or not isinstance(body, bytes)
        await reply.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": (("X-Team", "a\r\nX-Admin: 1"),)},
        {"headers": (("X-Team", "a\nb"),)},
        {"headers": (("X-Team: a\r\nX-Admin", "1"),)},
        {"headers": (("", "1"),)},
        {"headers": (("Content-Length", "1"),)},
        {"headers": (("transfer-encoding", "chunked"),)},
        {"api_key": "sk-secret\r\nX-Admin: 1"},
    ],
)
async def test_headers_that_would_change_the_request_are_refused(base: str, upstream: DirectUpstream, changes: Any) -> None:
    with pytest.raises(ValueError) as refused:
        await upstream.send(deployment(base, **changes), CHAT, b"{}")
    assert "sk-secret" not in str(refused.value)
    assert await journal(base) == []


@pytest.mark.parametrize(
    "address", ["", "nowhere", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://a\r\nb/v1", "http://u:p@127.0.0.1"]
)
async def test_an_address_that_is_none_is_a_fault_not_sent(upstream: DirectUpstream, address: str) -> None:
    with pytest.raises(UpstreamFault, match="address is not valid") as fault:
        await upstream.send(deployment(address), CHAT, b"{}")
    assert not fault.value.sent


async def test_the_request_line_and_host_follow_the_address(upstream: DirectUpstream) -> None:
    async def head(base: str, path: str) -> bytes:
        return upstream._target(deployment(base), path).head.partition(b"\r\nAccept")[0]

    assert await head("https://Api.Example.com./v1/", CHAT) == b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.example.com"
    assert await head("http://[::1]:8080", "/\u00e0?v=\u00e9&w#x") == b"POST /%C3%A0?v=%C3%A9&w HTTP/1.1\r\nHost: [::1]:8080"


async def test_a_reader_that_pauses_is_not_given_what_a_few_bytes_inflate_to(upstream: DirectUpstream) -> None:
    piece = gzip.compress(b"x" * 20_000_000)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(piece)
    async with raw_server(Served(head + piece)) as raw:
        reply = await upstream.send(deployment(raw), CHAT, b"{}")
        taken: list[int] = []

        def take(part: bytes) -> bool:
            taken.append(len(part))
            return False

        calls = 1
        while not await reply.relay(take):
            assert len(taken) == calls
            calls += 1
        assert sum(taken) == 20_000_000
        assert max(taken) < 1_000_000
        await reply.close()

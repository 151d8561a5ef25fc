"""The direct path against a scripted server, and against raw sockets where the fault is below HTTP."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.providers import direct
from gateway.providers.direct import DirectUpstream
from gateway.providers.model import Deployment, Reply, UpstreamFault, UpstreamSilent
from tests import scripted_upstream
from tests.replies import chunks

CHAT = "/chat/completions"


def deployment(base: str, **changes: Any) -> Deployment:
    fields: dict[str, Any] = {"id": "m/x/0", "provider": "openai", "model": "m", "api_base": base, "api_key": "sk-secret"}
    return Deployment(**{**fields, **changes})


def chat(script: str, **more: Any) -> bytes:
    return json.dumps({"model": script, "messages": [{"role": "user", "content": "hello there"}], **more}).encode()


@pytest.fixture
async def base() -> AsyncIterator[str]:
    async with scripted_upstream.serving() as url:
        yield url


@pytest.fixture
async def upstream() -> AsyncIterator[DirectUpstream]:
    made = DirectUpstream()
    yield made
    await made.close()


async def journal(base: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(base.removesuffix("/v1") + "/journal") as answer:
        found: list[dict[str, Any]] = (await answer.json())["requests"]
        return found


async def ask(upstream: DirectUpstream, to: Deployment, body: bytes) -> tuple[int, bytes]:
    reply = await upstream.send(to, CHAT, body)
    try:
        return reply.status, await reply.read(60)
    finally:
        await reply.close()


async def collect(reply: Reply, got: list[bytes]) -> None:
    async for chunk in chunks(reply):
        got.append(chunk)  # noqa: PERF401 (what came before a fault is kept)


@contextlib.asynccontextmanager
async def raw_server(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handle(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def test_the_upstream_gets_the_body_unchanged_and_exactly_our_headers(base: str, upstream: DirectUpstream) -> None:
    body = b'{"model": "ok",  "messages":[], "x_unknown": [1, 2.50, "\xc3\xa9"]}'
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with raw_server(handle) as raw:
        to = deployment(raw, headers=(("OpenAI-Organization", "org-1"), ("user-agent", "spoofed")))
        assert await ask(upstream, to, body) == (200, b"{}")
    head, _, sent = seen[0].partition(b"\r\n\r\n")
    names = {line.split(b":")[0].lower(): line.split(b": ", 1)[1] for line in head.split(b"\r\n")[1:]}
    assert sent == body
    assert names.pop(b"host").startswith(b"127.0.0.1")
    assert names == {
        b"authorization": b"Bearer sk-secret",
        b"content-type": b"application/json",
        b"accept-encoding": b"identity",
        b"accept": b"*/*",
        b"user-agent": b"mozaiks-gateway",
        b"openai-organization": b"org-1",
        b"content-length": str(len(body)).encode(),
    }


async def test_without_a_key_no_authorization_is_sent(base: str, upstream: DirectUpstream) -> None:
    await ask(upstream, deployment(base, api_key=""), chat("ok"))
    assert "authorization" not in (await journal(base))[0]["headers"]


async def test_connections_are_reused(base: str, upstream: DirectUpstream) -> None:
    for _ in range(5):
        await ask(upstream, deployment(base), chat("ok"))
    assert {entry["connection"] for entry in await journal(base)} == {1}


async def test_a_reused_connection_that_dies_before_any_byte_is_replaced_once(base: str, upstream: DirectUpstream) -> None:
    to = deployment(base)
    await ask(upstream, to, chat("ok"))
    status, _ = await ask(upstream, to, chat("die-if-reused"))
    assert status == 200
    assert [entry["connection"] for entry in await journal(base)] == [1, 1, 2]


async def test_the_replacement_is_fresh_even_when_the_pool_holds_more_dead_ones(base: str, upstream: DirectUpstream) -> None:
    to = deployment(base)
    await asyncio.gather(*[ask(upstream, to, chat("slow:30")) for _ in range(8)])
    status, _ = await ask(upstream, to, chat("die-if-reused"))
    assert status == 200
    assert len(await journal(base)) == 10


async def test_a_fresh_connection_that_dies_is_not_retried(base: str, upstream: DirectUpstream) -> None:
    with pytest.raises(UpstreamFault) as fault:
        await ask(upstream, deployment(base), chat("die-before-byte"))
    assert fault.value.sent
    assert len(await journal(base)) == 1


async def test_it_is_never_sent_a_third_time(base: str, upstream: DirectUpstream) -> None:
    to = deployment(base)
    await ask(upstream, to, chat("ok"))
    with pytest.raises(UpstreamFault) as fault:
        await ask(upstream, to, chat("die-before-byte"))
    assert fault.value.sent
    assert [entry["connection"] for entry in await journal(base)] == [1, 1, 2]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_reused_connection_that_dies_after_a_byte_of_an_answer_is_not_retried(upstream: DirectUpstream, how: str) -> None:
    requests = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        while True:
            await read_request(reader)
            requests += 1
            if requests == 2:
                writer.write(b"HTTP/1.1 2")
                await asyncio.sleep(0.05)
                if how == "reset":
                    writer.transport.abort()
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with raw_server(handle) as raw:
        assert await ask(upstream, deployment(raw), b"{}") == (200, b"{}")
        with pytest.raises(UpstreamFault) as fault:
            await ask(upstream, deployment(raw), b"{}")
    assert fault.value.sent
    assert requests == 2


async def test_when_the_replacement_cannot_connect_the_request_still_counts_as_sent(upstream: DirectUpstream) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    to = deployment(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")

    async def serve() -> None:
        client, _ = await loop.sock_accept(listener)
        await loop.sock_recv(client, 65536)
        await loop.sock_sendall(client, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await loop.sock_recv(client, 65536)
        listener.close()
        client.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(serve())
        await ask(upstream, to, b"{}")
        with pytest.raises(UpstreamFault) as fault:
            await ask(upstream, to, b"{}")
    assert fault.value.sent


async def test_a_pooled_connection_that_the_server_closed_while_idle_is_not_used(base: str, upstream: DirectUpstream) -> None:
    to = deployment(base)
    await ask(upstream, to, chat("close-after:0"))
    await asyncio.sleep(0.05)
    await ask(upstream, to, chat("ok"))
    assert [entry["connection"] for entry in await journal(base)] == [1, 2]


async def test_a_refused_connection_was_certainly_not_sent_and_names_no_address(upstream: DirectUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UpstreamFault) as fault:
        await upstream.send(deployment(f"http://127.0.0.1:{port}/v1"), CHAT, b"{}")
    assert not fault.value.sent
    assert "127.0.0.1" not in fault.value.reason
    assert str(port) not in fault.value.reason


async def test_a_name_that_does_not_resolve_was_not_sent(upstream: DirectUpstream) -> None:
    with pytest.raises(UpstreamFault) as fault:
        await upstream.send(deployment("http://nowhere.invalid/v1"), CHAT, b"{}")
    assert not fault.value.sent
    assert "nowhere" not in fault.value.reason


async def test_plain_http_behind_https_is_a_tls_fault_not_sent(base: str, upstream: DirectUpstream) -> None:
    with pytest.raises(UpstreamFault) as fault:
        await upstream.send(deployment(base.replace("http:", "https:")), CHAT, b"{}")
    assert not fault.value.sent


async def test_a_server_that_never_accepts_times_out_while_connecting(
    upstream: DirectUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "CONNECT_TIMEOUT_S", 0.2)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):  # fill the accept queue: the kernel then drops further SYNs
        filler = socket.socket()
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            filler.connect(listener.getsockname())
        fillers.append(filler)
    await asyncio.sleep(0.05)
    with pytest.raises(UpstreamSilent) as silence:
        await upstream.send(deployment(f"http://127.0.0.1:{listener.getsockname()[1]}/v1"), CHAT, b"{}")
    assert not silence.value.sent
    for each in (*fillers, listener):
        each.close()


async def test_silence_before_the_first_byte_times_out_and_is_not_retried(base: str, upstream: DirectUpstream) -> None:
    to = deployment(base, first_byte_timeout_s=0.15)
    await ask(upstream, to, chat("ok"))
    with pytest.raises(UpstreamSilent) as silence:
        await ask(upstream, to, chat("hang"))
    assert silence.value.sent
    assert len(await journal(base)) == 2


async def test_silence_between_chunks_times_out_by_the_chunk_limit(base: str, upstream: DirectUpstream) -> None:
    to = deployment(base, chunk_timeout_s=0.15)
    reply = await upstream.send(to, CHAT, chat("hang-midstream", stream=True))
    got: list[bytes] = []
    started = time.monotonic()
    with pytest.raises(UpstreamSilent):
        await collect(reply, got)
    await reply.close()
    assert b"tok1" in b"".join(got)
    assert time.monotonic() - started < 3


async def test_a_slow_stream_within_the_chunk_limit_is_not_cut_by_it(base: str, upstream: DirectUpstream) -> None:
    to = deployment(base, chunk_timeout_s=0.4, first_byte_timeout_s=0.4)
    reply = await upstream.send(to, CHAT, chat("ok:tokens=10,ms=60", stream=True))
    body = b"".join([chunk async for chunk in chunks(reply)])
    await reply.close()
    assert body.endswith(b"data: [DONE]\n\n")


async def test_the_chunk_limit_does_not_cut_a_pooled_connection_later(base: str, upstream: DirectUpstream) -> None:
    to = deployment(base, chunk_timeout_s=0.1)
    reply = await upstream.send(to, CHAT, chat("ok", stream=True))
    assert b"".join([chunk async for chunk in chunks(reply)])
    await reply.close()
    await asyncio.sleep(0.15)
    status, _ = await ask(upstream, to, chat("slow:200"))
    assert status == 200
    assert {entry["connection"] for entry in await journal(base)} == {1}


async def test_a_server_that_does_not_read_a_large_body_times_out(
    upstream: DirectUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "CONNECT_TIMEOUT_S", 0.1)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2)

    async with raw_server(handle) as raw:
        with pytest.raises(UpstreamSilent):
            await upstream.send(deployment(raw, first_byte_timeout_s=0.1), CHAT, b"x" * 16_000_000)


async def test_dying_in_mid_stream_is_a_fault_after_what_was_delivered(base: str, upstream: DirectUpstream) -> None:
    reply = await upstream.send(deployment(base), CHAT, chat("die-midstream", stream=True))
    got: list[bytes] = []
    with pytest.raises(UpstreamFault) as fault:
        await collect(reply, got)
    await reply.close()
    assert fault.value.sent
    assert b"tok1" in b"".join(got)
    assert len(await journal(base)) == 1


async def test_half_a_body_is_a_fault(base: str, upstream: DirectUpstream) -> None:
    with pytest.raises(UpstreamFault):
        await ask(upstream, deployment(base), chat("die-midstream"))


async def test_an_answer_without_a_length_is_read_to_its_end(base: str, upstream: DirectUpstream) -> None:
    status, body = await ask(upstream, deployment(base), chat("no-length"))
    assert status == 200
    assert json.loads(body)["usage"]["completion_tokens"] == 20


async def test_a_compressed_answer_is_given_decoded(base: str, upstream: DirectUpstream) -> None:
    reply = await upstream.send(deployment(base), CHAT, chat("gzip"))
    assert json.loads(await reply.read(60))["id"]
    assert "content-encoding" not in reply.headers
    assert "content-length" not in reply.headers
    await reply.close()


async def test_interim_answers_are_skipped(upstream: DirectUpstream) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with raw_server(handle) as raw:
        assert await ask(upstream, deployment(raw), b"{}") == (200, b"{}")


async def test_what_is_not_http_is_a_fault(upstream: DirectUpstream) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    async with raw_server(handle) as raw:
        with pytest.raises(UpstreamFault) as fault:
            await upstream.send(deployment(raw), CHAT, b"{}")
    assert "SSH" not in fault.value.reason


async def test_redirects_are_not_followed(base: str, upstream: DirectUpstream) -> None:
    status, _ = await ask(upstream, deployment(base), chat("redirect"))
    assert status == 307


async def test_cookies_are_not_kept(base: str, upstream: DirectUpstream) -> None:
    await ask(upstream, deployment(base), chat("cookie"))
    await ask(upstream, deployment(base), chat("ok"))
    assert "cookie" not in (await journal(base))[1]["headers"]


async def test_proxies_of_the_environment_are_ignored(
    base: str, upstream: DirectUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    status, _ = await ask(upstream, deployment(base), chat("ok"))
    assert status == 200


async def test_an_answer_above_the_limit_is_refused(base: str, upstream: DirectUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "ANSWER_BYTES_MAX", 100_000)
    assert (await ask(upstream, deployment(base), chat("huge:100000")))[0] == 200
    with pytest.raises(UpstreamFault, match="too large"):
        await ask(upstream, deployment(base), chat("huge:100001"))


@pytest.mark.parametrize("script", ["hang", "ok:ms=20,tokens=500"])
async def test_cancelling_closes_the_connection(upstream: DirectUpstream, script: str) -> None:
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if script != "hang":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        assert await reader.read(1) == b""
        ended.set()

    async with raw_server(handle) as raw:

        async def talk() -> None:
            reply = await upstream.send(deployment(raw), CHAT, b"{}")
            try:
                async for _ in chunks(reply):
                    pass
            finally:
                await reply.close()

        task = asyncio.create_task(talk())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 30)


async def test_closing_a_half_read_answer_drops_its_connection(base: str, upstream: DirectUpstream) -> None:
    to = deployment(base)
    reply = await upstream.send(to, CHAT, chat("ok:ms=10,tokens=100", stream=True))
    async for _ in chunks(reply):
        break
    await reply.close()
    await ask(upstream, to, chat("ok"))
    assert [entry["connection"] for entry in await journal(base)] == [1, 2]


async def test_a_thousand_streams_at_once_all_end_whole(base: str, upstream: DirectUpstream) -> None:
    async def one(number: int) -> bytes:
        reply = await upstream.send(deployment(base), CHAT, chat(f"ok:tokens={number % 7 + 1},ms=20", stream=True))
        body = b"".join([chunk async for chunk in chunks(reply)])
        await reply.close()
        return body

    bodies = await asyncio.gather(*[one(number) for number in range(1000)])
    for number, body in enumerate(bodies):
        assert body.count(b" tok") == number % 7 + 1
        assert body.endswith(b"[DONE]\n\n")


def test_deployments_that_share_a_server_and_key_share_a_target_and_others_do_not() -> None:
    async def check() -> None:
        upstream = DirectUpstream()
        one = deployment("http://127.0.0.1:1/v1")
        assert upstream._target(one, CHAT) is upstream._target(msgspec.structs.replace(one, model="n", id="n"), CHAT)
        assert upstream._target(one, CHAT) is not upstream._target(msgspec.structs.replace(one, api_key="other"), CHAT)
        assert upstream._target(one, CHAT) is not upstream._target(one, "/embeddings")
        await upstream.close()

    asyncio.run(check())

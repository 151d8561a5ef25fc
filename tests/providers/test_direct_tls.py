"""TLS of the direct path: certificates made here by the openssl binary, on asyncio's loop and on the production one."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from gateway.providers import direct
from gateway.providers.direct import DirectUpstream
from gateway.providers.model import UpstreamFault, UpstreamSilent
from tests.providers.test_direct import CHAT, ask, deployment, read_request
from tests.replies import chunks

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:pytest.PytestDeprecationWarning")
SIZE = 3_000_000


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy
    policy = uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()
    return policy


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and what it signed: good.pem for 127.0.0.1 and localhost, other.pem for localhost alone; keys beside them."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")
    for name, alternatives in (("good", "IP:127.0.0.1,DNS:localhost"), ("other", "DNS:localhost")):
        (folder / "names").write_text(f"subjectAltName={alternatives}\n")
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "request")
        openssl(
            "x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1",
            "-extfile", "names", "-out", f"{name}.pem",
        )  # fmt: skip
    return folder


class TlsServer:
    """Answers by what the body asks for, and counts connections."""

    def __init__(self) -> None:
        self.connections: list[int] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.connections)
        self.connections.append(0)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await read_request(reader)
                self.connections[number] += 1
                if request.endswith(b"die") and self.connections[number] > 1:
                    break
                if request.endswith(b"large"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE + b"x" * SIZE)
                elif request.endswith(b"half"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
                    break
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()


@contextlib.asynccontextmanager
async def tls_server(folder: Path, name: str) -> AsyncIterator[tuple[TlsServer, str]]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    served = TlsServer()
    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=context)
    try:
        yield served, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


@pytest.fixture
async def trusting(certificates: Path) -> AsyncIterator[DirectUpstream]:
    made = DirectUpstream(tls=ssl.create_default_context(cafile=certificates / "ca.pem"))
    yield made
    await made.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_trusted_server_is_spoken_to_over_kept_connections(
    certificates: Path, trusting: DirectUpstream, host: str
) -> None:
    async with tls_server(certificates, "good") as (served, raw):
        to = deployment(raw.replace("127.0.0.1", host))
        for _ in range(3):
            assert await ask(trusting, to, b"{}") == (200, b"{}")
        assert await ask(trusting, to, b"large") == (200, b"x" * SIZE)
        assert await ask(trusting, to, b"y" * 2_000_000) == (200, b"{}")
        assert served.connections == [5]


async def test_a_lagging_consumer_of_a_tls_stream_gets_all_of_it(certificates: Path, trusting: DirectUpstream) -> None:
    async with tls_server(certificates, "good") as (served, raw):
        reply = await trusting.send(deployment(raw), CHAT, b"large")
        await asyncio.sleep(0.1)
        got = 0
        async for chunk in chunks(reply):
            got += len(chunk)
            await asyncio.sleep(0.005)
        await reply.close()
        assert got == SIZE
        assert await ask(trusting, deployment(raw), b"{}") == (200, b"{}")
        assert served.connections == [2]


async def test_a_certificate_of_an_unknown_authority_is_refused_before_anything_is_sent(certificates: Path) -> None:
    upstream = DirectUpstream()
    async with tls_server(certificates, "good") as (served, raw):
        with pytest.raises(UpstreamFault, match="certificate") as fault:
            await upstream.send(deployment(raw), CHAT, b"{}")
        assert not fault.value.sent
        assert sum(served.connections) == 0
        assert not upstream._pool.connections
    await upstream.close()


async def test_a_certificate_for_another_host_is_refused(certificates: Path, trusting: DirectUpstream) -> None:
    async with tls_server(certificates, "other") as (served, raw):
        with pytest.raises(UpstreamFault, match="certificate") as fault:
            await trusting.send(deployment(raw), CHAT, b"{}")
        assert not fault.value.sent
        assert "127.0.0.1" not in fault.value.reason
        assert sum(served.connections) == 0


async def test_over_tls_too_a_reused_connection_that_died_is_replaced_once(certificates: Path, trusting: DirectUpstream) -> None:
    async with tls_server(certificates, "good") as (served, raw):
        assert await ask(trusting, deployment(raw), b"{}") == (200, b"{}")
        assert await ask(trusting, deployment(raw), b"die") == (200, b"{}")
        assert served.connections == [2, 1]


async def test_over_tls_too_half_a_body_is_a_fault(certificates: Path, trusting: DirectUpstream) -> None:
    async with tls_server(certificates, "good") as (_, raw):
        with pytest.raises(UpstreamFault, match="broke off"):
            await ask(trusting, deployment(raw), b"half")
        await asyncio.sleep(0.02)
        assert not trusting._pool.connections


async def test_a_server_that_never_shakes_hands_times_out_while_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "CONNECT_TIMEOUT_S", 0.15)
    upstream = DirectUpstream()
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    with pytest.raises(UpstreamSilent, match="connecting") as silence:
        await upstream.send(deployment(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"), CHAT, b"{}")
    assert not silence.value.sent
    await asyncio.wait_for(ended.wait(), 30)
    server.close()
    await upstream.close()

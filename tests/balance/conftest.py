"""A server of this folder's own, empty for each test, and a proxy that can lose replies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.balance.redis_balance import RedisBalance
from tests.balance.server import running_server


class Proxy:
    """Passes bytes between a socket of its own and the server's, until it is told to misbehave.

    `drop_replies` = n cuts the connection n times when the next reply to an operation arrives, after the
    server has acted; `silent` swallows replies and keeps the connection.
    """

    def __init__(self, path: Path, server_path: str) -> None:
        self.url = f"unix://{path}"
        self.drop_replies = 0
        self.dropped = 0
        self.silent = False
        self.connections = 0
        self._path = path
        self._server_path = server_path
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server_reader, server_writer = await asyncio.open_unix_connection(self._server_path)
        self._writers += [writer, server_writer]
        await asyncio.gather(self._forward(reader, server_writer), self._back(server_reader, writer, server_writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server_writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            if self.silent:
                continue
            if self.drop_replies and not data.startswith(b"$40\r\n"):  # the answer to SCRIPT LOAD of a handshake
                self.drop_replies -= 1
                self.dropped += 1
                break
            writer.write(data)
        writer.close()
        server_writer.close()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with running_server() as url:
        yield url


@pytest.fixture
async def balance(server_url: str) -> AsyncIterator[RedisBalance]:
    balance = RedisBalance(server_url)
    await balance.link.call("FLUSHALL")
    yield balance
    await balance.close()


@pytest.fixture
async def proxy(server_url: str, tmp_path: Path) -> AsyncIterator[Proxy]:
    proxy = Proxy(tmp_path / "p.sock", server_url.removeprefix("unix://"))
    await proxy.start()
    yield proxy
    await proxy.stop()

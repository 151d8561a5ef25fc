"""A second Redis that copies the first, the link between them, and what happens when it is promoted while it is behind."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from gateway.balance import embedded_redis
from gateway.balance.redis_link import RedisLink
from tests.chaos.house import Redis, _gone
from tests.chaos.taps import until
from tests.path.conftest import free_port


class Cord:
    """Passes bytes between the replica and the primary, until it is told to pass none and to tell nobody."""

    def __init__(self, primary_port: int) -> None:
        self._primary_port = primary_port
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def freeze(self) -> None:
        self._flows.clear()

    async def cut(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there = None
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._primary_port)
            await asyncio.gather(self._pass(reader, there), self._pass(there_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()  # what waits for the other side never arrives
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()


class Replica:
    """A server of its own that copies `primary` until it is left behind and takes its place."""

    def __init__(self, primary: Redis) -> None:
        self._primary = primary
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="mzk-replica-", dir=memory if memory.is_dir() else None))
        self._socket = self._folder / "socket"

    async def start(self) -> None:
        """Returns when it has all that the primary has."""
        port = free_port()
        await self._ask(self._primary.socket, "CONFIG", "SET", "port", port)
        self._cord = Cord(port)
        through = await self._cord.start()
        command = [str(embedded_redis.find_server()), "--port", "0", "--unixsocket", str(self._socket), "--save", ""]
        command += ["--dir", str(self._folder), "--logfile", "log", "--appendonly", "yes", "--repl-diskless-sync-delay", "0"]
        command += ["--repl-diskless-load", "disabled", "--replicaof", f"127.0.0.1 {through}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        await until(self._copies, "the replica copies the primary", 20)

    async def _copies(self) -> bool:
        if not self._socket.exists():
            return False
        said: bytes = await self._ask(str(self._socket), "INFO", "replication")
        return b"master_link_status:up" in said

    def freeze(self) -> None:
        """Nothing reaches the replica any more, and neither side is told."""
        self._cord.freeze()

    async def leave(self) -> None:
        """The replica ends its copying, as one does whose operator took it out."""
        await self._ask(str(self._socket), "REPLICAOF", "NO", "ONE")

    async def behind(self) -> int:
        """How many bytes of the primary's operations the replica has not got."""
        there: bytes = await self._ask(self._primary.socket, "INFO", "replication")
        here: bytes = await self._ask(str(self._socket), "INFO", "replication")
        word = b"slave_repl_offset:" if b"slave_repl_offset:" in here else b"master_repl_offset:"
        return _number(there, b"master_repl_offset:") - _number(here, word)

    async def take_over(self, unpromoted_s: float) -> None:
        """The primary dies, and its address is the replica's, which takes no writes for the first `unpromoted_s`."""
        self._primary.kill()
        await asyncio.to_thread(_gone, self._primary.pid)
        await self._cord.cut()
        os.replace(self._socket, self._primary.socket)  # a socket of that name leads to whoever made it
        if unpromoted_s:
            await asyncio.sleep(unpromoted_s)
        await self._ask(self._primary.socket, "REPLICAOF", "NO", "ONE")
        self._primary.pid = self.process.pid

    async def stop(self) -> None:
        """After the last use, whichever state it is in."""
        await self._cord.cut()
        if self.process.poll() is None:
            self.process.kill()
        await asyncio.to_thread(self.process.wait, 20)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _ask(self, socket: str, *words: str | int) -> bytes:
        link = RedisLink(f"unix://{socket}")
        try:
            return bytes(await link.call(*words))
        finally:
            await link.close()


def _number(said: bytes, name: bytes) -> int:
    return int(said.partition(name)[2].split()[0])


async def left_behind(replica: Replica, way: str, lag_s: float) -> int:
    """Let the replica fall behind for so long; by how many bytes it did."""
    if way == "frozen":
        replica.freeze()
    else:
        await replica.leave()
    ends = time.monotonic() + lag_s
    await asyncio.sleep(max(ends - time.monotonic(), 0))
    return await replica.behind()

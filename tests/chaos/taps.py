"""Taps: small proxies that know from the bytes what passes, name it, and can kill at that moment."""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import hiredis

from gateway.balance.redis_scripts import load_scripts

_SCRIPTS = load_scripts()
SCRIPT_OF = {
    script.sha.encode(): name
    for name, script in (
        ("reserve", _SCRIPTS.reserve),
        ("settle", _SCRIPTS.settle),
        ("release", _SCRIPTS.release),
        ("abandon", _SCRIPTS.abandon),
        ("sweep", _SCRIPTS.sweep),
        ("credit", _SCRIPTS.credit),
        ("open", _SCRIPTS.open),
    )
}


@dataclass
class Trap:
    """What to do when `step` has come by `skip` times: `act`, and whether the bytes still go on before it."""

    step: str
    skip: int
    pass_on: bool
    act: Callable[[], None]
    sprung: asyncio.Event = field(default_factory=asyncio.Event)


class Steps:
    """Every step that comes by is counted; at most one trap is set."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.trap: Trap | None = None

    def set(self, trap: Trap) -> None:
        assert self.trap is None
        self.trap = trap

    def unset(self) -> None:
        self.trap = None

    def comes(self, step: str) -> Trap | None:
        """The trap, when it springs now."""
        self.seen[step] += 1
        trap = self.trap
        if trap is None or trap.step != step:
            return None
        if trap.skip:
            trap.skip -= 1
            return None
        self.trap = None
        return trap


class Side(Protocol):
    """Reads one direction of a connection."""

    def read(self, data: bytes) -> list[str]:
        """The steps that these bytes are."""


Sides = Callable[[str], tuple[Side, Side]]


class Tap:
    """Listens where the client of a part expects that part, and passes bytes on both ways."""

    def __init__(self, steps: Steps, name: str, sides: Sides, listen: str | Path | int, target: str | Path | int) -> None:
        """`listen` and `target` are ports of 127.0.0.1 or paths of Unix sockets; `sides` makes readers for a connection."""
        self._steps = steps
        self._name = name
        self._sides = sides
        self._listen = listen
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        if isinstance(self._listen, int):
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._listen, backlog=1024)
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            self._server = await asyncio.start_unix_server(self._serve, self._listen)
            Path(self._listen).chmod(0o777)

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if isinstance(self._target, int):
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            else:
                there_reader, there_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.close()
            self._tasks.discard(task)
            return
        forth, back = self._sides(self._name)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, there_writer, forth))
                both.create_task(self._pass(there_reader, writer, back))
        except* (OSError, ConnectionError):
            pass
        except* asyncio.CancelledError:
            pass
        finally:
            writer.close()
            there_writer.close()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, side: Side) -> None:
        while data := await reader.read(65536):
            sprung = None
            for step in side.read(data):
                sprung = sprung or self._steps.comes(step)
            if sprung is None:
                writer.write(data)
                await writer.drain()
                continue
            if sprung.pass_on:
                writer.write(data)
                await writer.drain()
            sprung.act()
            sprung.sprung.set()
            if not sprung.pass_on:
                # What was on its way is lost with the connection, as it is when its reader or writer dies.
                raise ConnectionResetError("the trap was sprung")
        writer.write_eof() if writer.can_write_eof() else writer.close()


class Commands(Side):
    """What is asked of Redis: `<who>>redis <operation>`."""

    def __init__(self, who: str, sent: deque[str]) -> None:
        self._who = who
        self._sent = sent
        self._buffer = b""

    def read(self, data: bytes) -> list[str]:
        self._buffer += data
        found = []
        at = 0
        while (parsed := _command(self._buffer, at)) is not None:
            words, at = parsed
            name = words[0].decode()
            if name == "EVALSHA":
                name = SCRIPT_OF.get(words[1], "script")
            self._sent.append(name)
            found.append(f"{self._who}>redis {name}")
        self._buffer = self._buffer[at:]
        return found


def _command(data: bytes, at: int) -> tuple[list[bytes], int] | None:
    """The first two words of the command at `at`, and where the next begins; None while it is not whole."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    count = int(data[at + 1 : end])
    at = end + 2
    words = []
    for number in range(count):
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at + 1 : end])
        at = end + 2 + size + 2
        if at > len(data):
            return None
        if number < 2:
            words.append(data[end + 2 : at - 2])
    return words, at


class Replies(Side):
    """What Redis answers: `redis>who <operation>`; the answer to XREADGROUP only when there are events in it."""

    def __init__(self, who: str, sent: deque[str]) -> None:
        self._who = who
        self._sent = sent
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)

    def read(self, data: bytes) -> list[str]:
        self._reader.feed(data)
        found = []
        while (reply := self._reader.gets()) is not Ellipsis:
            name = self._sent.popleft()
            if name == "XREADGROUP" and reply is None:
                continue
            found.append(f"redis>{self._who} {name}")
        return found


def redis_sides(who: str) -> tuple[Side, Side]:
    sent: deque[str] = deque()
    return Commands(who, sent), Replies(who, sent)


class Sql(Side):
    """What is asked of Postgres: `<who>><book> insert` into usage rows or transactions, `... commit` of such a transaction."""

    def __init__(self, who: str, state: dict[str, Any]) -> None:
        self._who = who
        self._state = state
        self._buffer = b""
        self._begun = False
        self._statements: dict[bytes, bytes] = {}

    def read(self, data: bytes) -> list[str]:
        self._buffer += data
        found: list[str] = []
        while True:
            head = 1 if self._begun else 0
            if len(self._buffer) < head + 4:
                return found
            size = int.from_bytes(self._buffer[head : head + 4], "big")
            if len(self._buffer) < head + size:
                return found
            kind, body = self._buffer[:head], self._buffer[head + 4 : head + size]
            self._buffer = self._buffer[head + size :]
            if not self._begun:
                self._startup(body)
                continue
            name = self._message(kind, body)
            if name is not None:
                found.append(f"{self._who}>{self._state['book']} {name}")

    def _startup(self, body: bytes) -> None:
        if int.from_bytes(body[:4], "big") != 196608:  # a question about TLS, or a cancellation
            return
        self._begun = True
        words = body[4:].split(b"\0")
        pairs = dict(zip(words[::2], words[1::2], strict=False))
        database = pairs.get(b"database", b"").decode()
        self._state["book"] = "app" if "_app-" in database else "platform"

    def _message(self, kind: bytes, body: bytes) -> str | None:
        if kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self._statements[name] = sql
            return None
        if kind == b"B":
            sql = self._statements.get(body.split(b"\0", 2)[1], b"")
        elif kind == b"Q":
            sql = body
        else:
            return None
        if sql.startswith(b"BEGIN"):
            self._state["writes"] = False
            return None
        if sql.startswith(b"COMMIT"):
            if not self._state.get("writes"):
                return None
            self._state["writes"] = False
            self._state["committing"] = True
            return "commit"
        if _WRITES.match(sql):
            self._state["writes"] = True
            return "insert"
        return None


_WRITES = re.compile(rb'\s*(?:INSERT INTO|COPY)\s+"?(?:usage|usage_hours|txns|entries)\b', re.IGNORECASE)


class SqlReplies(Side):
    """What Postgres answers: `<book>><who> commit`, for transactions that `Sql` saw write."""

    def __init__(self, who: str, state: dict[str, Any]) -> None:
        self._who = who
        self._state = state

    def read(self, data: bytes) -> list[str]:
        if self._state.get("committing") and b"COMMIT\0" in data:
            self._state["committing"] = False
            return [f"{self._state['book']}>{self._who} commit"]
        return []


def sql_sides(who: str) -> tuple[Side, Side]:
    state: dict[str, Any] = {"book": "platform"}
    return Sql(who, state), SqlReplies(who, state)


class Http(Side):
    """A direction of HTTP: `<name> head` where a message begins, `<name> part` for what follows."""

    def __init__(self, name: str, begins: bytes) -> None:
        self._name = name
        self._begins = begins

    def read(self, data: bytes) -> list[str]:
        if data.startswith(self._begins):
            return [f"{self._name} head"]
        return [f"{self._name} part"] if b"data:" in data else []


def provider_sides(_: str) -> tuple[Side, Side]:
    return Http("gateway>provider", b"POST "), Http("provider>gateway", b"HTTP/1.1 200")


def client_sides(_: str) -> tuple[Side, Side]:
    return Http("client>gateway", b"POST "), Http("gateway>client", b"HTTP/1.1 200")


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, timeout_s: float = 60.0) -> None:
    """Wait until it holds; the time-out ends a hang and judges nothing."""
    async with asyncio.timeout(timeout_s):
        try:
            while True:
                answer = condition()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.01)
        except TimeoutError:
            raise
        except asyncio.CancelledError:
            print(f"waited in vain until {what}")
            raise

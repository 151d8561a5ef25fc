"""The connection: one write a turn, replies in order, time-outs, losses, URLs, passwords, TLS."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from gateway.balance import embedded_redis
from gateway.balance.model import BalanceUnavailable, WalletState
from gateway.balance.redis_balance import RedisBalance
from gateway.balance.redis_link import RedisAddress, RedisLink, RedisLinkLost, RedisReplyError, pack, parse_redis_url
from tests.balance.conftest import Proxy


async def test_commands_of_one_turn_share_one_write(balance: RedisBalance) -> None:
    link = balance.link
    for most in (2, 1, 1):  # behind a command of its own, the first may leave before there are others
        before = link.writes
        replies = await asyncio.gather(*[link.send(pack(("ECHO", number))) for number in range(500)])
        assert replies == [b"%d" % number for number in range(500)]
        assert link.writes <= before + most
    await link.call("PING")
    assert link.writes == before + 2


async def test_a_command_that_follows_one_of_its_own_leaves_at_once(balance: RedisBalance) -> None:
    link = balance.link
    await asyncio.gather(*[link.send(pack(("PING",))) for _ in range(5)])
    before = link.writes
    first = link.send(pack(("PING",)))
    assert link.writes == before  # it waits for others of its turn
    await first
    second, third = link.send(pack(("PING",))), link.send(pack(("PING",)))
    assert link.writes == before + 2  # the second has left, the third waits
    await asyncio.gather(second, third)
    assert link.writes == before + 3


async def test_a_cancelled_caller_does_not_shift_the_replies_of_others(balance: RedisBalance) -> None:
    link = balance.link
    futures = [link.send(pack(("ECHO", number))) for number in range(9)]
    futures[4].cancel()
    assert [await future for future in futures if not future.cancelled()] == [b"%d" % n for n in range(9) if n != 4]


async def test_an_error_reply_reaches_its_own_caller_only(balance: RedisBalance) -> None:
    wrong, right = balance.link.send(pack(("NONSENSE",))), balance.link.send(pack(("ECHO", "x")))
    with pytest.raises(RedisReplyError, match=r"^ERR"):
        await wrong
    assert await right == b"x"


async def test_a_silent_server_fails_every_command_within_the_time_out_and_a_quarter(proxy: Proxy) -> None:
    link = RedisLink(proxy.url, timeout_s=0.2)
    await link.connect()
    proxy.silent = True
    started = asyncio.get_running_loop().time()
    results = await asyncio.gather(*[link.send(pack(("PING",))) for _ in range(3)], return_exceptions=True)
    took = asyncio.get_running_loop().time() - started
    assert all(isinstance(result, RedisLinkLost) for result in results)
    assert 0.19 < took < 0.45
    proxy.silent = False
    assert await link.call("PING") == b"PONG"
    assert proxy.connections == 2
    await link.close()


async def test_a_busy_connection_is_not_taken_for_a_silent_one(proxy: Proxy) -> None:
    link = RedisLink(proxy.url, timeout_s=0.1)
    loop = asyncio.get_running_loop()
    started = loop.time()
    while loop.time() < started + 0.5:
        assert await link.call("PING") == b"PONG"
    assert proxy.connections == 1
    await asyncio.sleep(0.3)  # idle: nothing is overdue
    assert await link.call("PING") == b"PONG"
    assert proxy.connections == 1
    await link.close()


async def test_replies_that_take_most_of_the_time_out_are_waited_for(server_url: str) -> None:
    link = RedisLink(server_url, timeout_s=1.5)
    for _ in range(3):  # a machine with other work may be half a second late
        assert await link.call("BLPOP", "nothing", "0.9") is None
    await link.close()


async def test_a_lost_connection_fails_what_is_in_flight(proxy: Proxy) -> None:
    link = RedisLink(proxy.url)
    await link.connect()
    proxy.drop_replies = 1
    results = await asyncio.gather(*[link.send(pack(("PING",))) for _ in range(3)], return_exceptions=True)
    assert all(isinstance(result, RedisLinkLost) for result in results)
    with pytest.raises(RedisLinkLost):
        link.send(pack(("PING",)))
    await link.connect()
    assert await link.send(pack(("PING",))) == b"PONG"
    await link.close()


async def test_a_server_that_was_killed_is_found_again_with_its_data(tmp_path: Path) -> None:
    server = await embedded_redis.start(tmp_path)
    balance = RedisBalance(server.url)
    await balance.open(1, "p/u", 5)
    said = await balance.link.call("INFO", "server")
    pid = int(said.split(b"process_id:")[1].split()[0])
    subprocess.run(["kill", "-9", str(pid)], check=True)
    again = await embedded_redis.start(tmp_path)
    assert again.url == server.url
    assert await balance.open(1, "p/u", 9) is False
    await balance.close()
    await server.stop()
    await again.stop()


async def test_a_server_that_has_become_a_replica_is_left_for_the_one_that_has_its_address(tmp_path: Path) -> None:
    servers = [await embedded_redis.start(tmp_path / name) for name in ("old", "new")]
    paths = [server.url.removeprefix("unix://") for server in servers]
    old, new = [RedisBalance(server.url) for server in servers]
    for balance in (old, new):
        await balance.open(1, "p/u", 5)
    aside = RedisBalance(servers[0].url)
    await aside.link.call("REPLICAOF", "127.0.0.1", "1")
    os.rename(paths[0], f"{paths[0]}.old")
    os.rename(paths[1], paths[0])  # a socket leads to whoever made it
    with pytest.raises(BalanceUnavailable, match="READONLY"):
        await old.credit("txn_1", 1, "p/u", 7)
    assert await old.credit("txn_1", 1, "p/u", 7) == WalletState(12, 0)
    assert await new.read(1, ["p/u"]) == [WalletState(12, 0)]
    os.rename(paths[0], paths[1])
    os.rename(f"{paths[0]}.old", paths[0])
    for used in (old, new, aside):
        await used.close()
    for server in servers:
        await server.stop()


async def test_nobody_listening_is_a_loss_after_the_time_out(tmp_path: Path) -> None:
    link = RedisLink(f"unix://{tmp_path}/none", connect_timeout_s=0.1)
    started = asyncio.get_running_loop().time()
    with pytest.raises(RedisLinkLost, match="No such file"):
        await link.connect()
    assert 0.09 < asyncio.get_running_loop().time() - started < 1


async def test_scripts_that_the_server_forgot_are_loaded_again(balance: RedisBalance) -> None:
    await balance.link.call("SCRIPT", "FLUSH")
    assert await balance.open(1, "p/u", 5) is True


async def test_a_password_and_a_database_of_the_url_are_used(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "s"
    server = subprocess.Popen(
        [embedded_redis.find_server(), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "p@ss word",
         "--save", "", "--unixsocket", path, "--dir", tmp_path], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for url in (f"redis://:p%40ss%20word@127.0.0.1:{port}/3", f"unix://{path}?db=3&password=p%40ss+word"):
            link = RedisLink(url)
            assert b" db=3 " in await link.call("CLIENT", "INFO")
            await link.close()
        link = RedisLink(f"redis://default:p%40ss%20word@127.0.0.1:{port}")
        assert b" db=0 " in await link.call("CLIENT", "INFO")
        await link.close()
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_a_rediss_url_speaks_tls_and_checks_the_certificate(server_url: str, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    inner = Proxy(tmp_path / "unused", server_url.removeprefix("unix://"))
    outer = await asyncio.start_server(inner._serve, "127.0.0.1", 0, ssl=context)
    port = outer.sockets[0].getsockname()[1]
    link = RedisLink(f"rediss://localhost:{port}?ssl_ca_certs={certificate}")
    assert await link.call("PING") == b"PONG"
    await link.close()
    stranger = RedisLink(f"rediss://localhost:{port}", connect_timeout_s=0.3)
    with pytest.raises(RedisLinkLost, match="CERTIFICATE_VERIFY_FAILED"):
        await stranger.connect()
    outer.close()


def test_urls_are_read_as_redis_clients_read_them() -> None:
    assert parse_redis_url("redis://h:1234/5") == RedisAddress("redis://h:1234", "h", 1234, database=5)
    assert parse_redis_url("redis://").host == "127.0.0.1"
    assert parse_redis_url("rediss://u:p%3A@h").password == "p:"
    assert parse_redis_url("unix:///a/b%20c?db=2") == RedisAddress("unix:///a/b c", path="/a/b c", database=2)
    assert "secret" not in parse_redis_url("redis://u:secret@h").label


@pytest.mark.parametrize("url", ["http://h", "redis://h/x", "redis://h?what=1", "unix://", "", "redis://u:secret@h/x"])
def test_other_urls_are_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_redis_url(url)
    assert "secret" not in str(refused.value)


async def test_a_server_that_evicts_keys_is_not_used_until_it_stops_that(balance: RedisBalance, server_url: str) -> None:
    await balance.link.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await balance.link.call("CONFIG", "SET", "maxmemory", "1gb")
    link = RedisLink(server_url, connect_timeout_s=0.3)
    try:
        with pytest.raises(RedisLinkLost, match=r"allkeys-lru.*noeviction"):
            await link.call("PING")
        await balance.link.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert await link.call("PING") == b"PONG"
    finally:
        await link.close()
        await balance.link.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await balance.link.call("CONFIG", "SET", "maxmemory", "0")

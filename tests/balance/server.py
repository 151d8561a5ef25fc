"""A real server for the tests of this room, and its scripts with a clock that tests move."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.balance import embedded_redis
from gateway.balance.model import Hold, HoldRequest
from gateway.balance.redis_balance import RedisBalance
from gateway.balance.redis_scripts import Scripts, load_scripts

REAL_TIME = "redis.call('TIME')"
MOVED_TIME = "(function() local us = redis.call('GET', 'clock') return {string.sub(us, 1, -7), string.sub(us, -6)} end)()"


@contextmanager
def running_server() -> Iterator[str]:
    """The URL of a server of its own in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="mzk-"))
    server = asyncio.run(embedded_redis.start(folder))
    try:
        yield server.url
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)


def scripts_with_moved_clock() -> Scripts:
    """The shipped scripts, but for the one line that asks for the time: it reads the key `clock` (microseconds)."""
    return load_scripts(lambda text: text.replace(REAL_TIME, MOVED_TIME))


async def stored_events(balance: RedisBalance, shard: int) -> list[bytes]:
    entries = await balance.link.call("XRANGE", f"mzk:{{s{shard:03d}}}:events", "-", "+")
    return [entry[1][1] for entry in entries]


def handle(request: HoldRequest) -> Hold:
    wallets = tuple(charge.wallet for charge in request.charges)
    return Hold(request.request_id, request.shard, wallets, request.limits)

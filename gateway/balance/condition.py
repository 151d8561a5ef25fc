"""The condition of the hot store, for who asks whether it is set up as it should be: off the path of requests."""

import msgspec

from gateway.balance.model import BalanceUnavailable
from gateway.balance.redis_balance import RedisBalance
from gateway.balance.redis_events import WORKER_SEEN_FOR_S, WORKERS
from gateway.balance.redis_link import RedisLinkLost, RedisReplyError
from gateway.core.clock import Clock, now_ms


class Condition(msgspec.Struct, frozen=True):
    """As the server tells. `clock_ahead_ms`: beside this machine. `workers` showed themselves lately."""

    version: str
    eviction: str
    is_append_only: bool
    fsync: str
    role: str
    used_bytes: int
    limit_bytes: int
    clock_ahead_ms: int
    workers: int


async def condition(balance: RedisBalance, clock: Clock) -> Condition:
    """Ask the server; BalanceUnavailable when it does not serve."""
    try:
        told = _info(await balance.link.call("INFO"))
        before_ms = now_ms(clock)
        seconds, micro = await balance.link.call("TIME")
        between_ms = (before_ms + now_ms(clock)) // 2
        fsync = told.get("aof_enabled") == "1" and await balance.link.call("CONFIG", "GET", "appendfsync")
        since_ms = int(seconds) * 1000 + int(micro) // 1000 - 1000 * WORKER_SEEN_FOR_S
        workers = await balance.link.call("ZCOUNT", WORKERS, since_ms, "+inf")
    except (RedisLinkLost, RedisReplyError) as failed:
        raise BalanceUnavailable(str(failed)) from failed
    return Condition(
        version=told.get("valkey_version") or told.get("redis_version", "?"),
        eviction=told.get("maxmemory_policy", "?"),
        is_append_only=told.get("aof_enabled") == "1",
        fsync=fsync[1].decode() if fsync else "",
        role=told.get("role", "?"),
        used_bytes=int(told.get("used_memory", 0)),
        limit_bytes=int(told.get("maxmemory", 0)),
        clock_ahead_ms=int(seconds) * 1000 + int(micro) // 1000 - between_ms,
        workers=workers,
    )


def _info(told: bytes) -> dict[str, str]:
    lines = [line.partition(":") for line in told.decode("utf-8", "replace").splitlines()]
    return {name: value for name, _, value in lines}

"""What only the Redis adapter has: lost replies, its keys in the server, the server's own clock."""

import asyncio
import time

import pytest
from msgspec import structs

from gateway.balance.memory_balance import MemoryBalance
from gateway.balance.model import (
    Admitted,
    BalanceUnavailable,
    Charge,
    HoldRequest,
    Limit,
    LimitKind,
    RefusedByLimit,
    WalletState,
)
from gateway.balance.redis_balance import _PACKED_MAX, RedisBalance
from gateway.core.limits import REDIS_ATTEMPTS, RESULT_TTL_S
from gateway.core.money import AMOUNT_MICRO_MAX
from tests.balance.conftest import Proxy
from tests.balance.server import handle, stored_events

LIMITS = (
    Limit("k/1", LimitKind.REQUESTS_PER_MINUTE, 100),
    Limit("k/1", LimitKind.CONCURRENCY, 10),
    Limit("k/2", LimitKind.SPEND_PER_DAY, 1000),
)


def request_of(number: int) -> HoldRequest:
    return HoldRequest(f"req_{number}", 3, (Charge("p/u", 100, 100),), LIMITS, 60_000, b"{}")


async def test_a_reply_lost_after_the_operation_was_applied_has_no_second_effect(balance: RedisBalance, proxy: Proxy) -> None:
    behind = RedisBalance(proxy.url)
    await behind.ping()
    proxy.drop_replies = 1
    assert await behind.open(3, "p/u", 1000) is False  # the repeat finds what the first call made
    proxy.drop_replies = 1
    held = await behind.reserve(request_of(1))
    assert held == Admitted((100,), (900,), (99, 9, 900))
    proxy.drop_replies = 1
    settled = await behind.settle(handle(request_of(1)), [30], 0, b"e")
    assert settled.available == (970,)
    proxy.drop_replies = 1
    credited = await behind.credit("txn", 3, "p/u", 5)
    assert credited is not None
    assert credited.available_micro == 975
    assert isinstance(await behind.reserve(request_of(2)), Admitted)
    proxy.drop_replies = 1
    await behind.release(handle(request_of(2)))
    assert proxy.dropped == 5
    state = (await balance.read(3, ["p/u"]))[0]
    assert state is not None
    assert (state.available_micro, state.held_micro) == (975, 0)
    assert await stored_events(balance, 3) == [b"{,"]
    assert await balance.link.call("HGET", "mzk:{s003}:l:k/1", "concurrency") == b"0"
    await behind.close()


async def test_many_requests_survive_connections_that_break_all_the_time(balance: RedisBalance, proxy: Proxy) -> None:
    await balance.open(3, "p/u", 100_000)
    behind = RedisBalance(proxy.url)

    async def one(number: int) -> None:
        request = HoldRequest(f"req_{number}", 3, (Charge("p/u", 100, 100),), (), 60_000, b"{}")
        for operation in (behind.reserve(request), behind.settle(handle(request), [40], 0, b"{%d}" % number)):
            if number % 40 == 0:
                proxy.drop_replies = 1
            await operation

    for group in range(0, 400, 20):
        await asyncio.gather(*[one(number) for number in range(group, group + 20)])
    assert proxy.dropped >= 10
    state = (await balance.read(3, ["p/u"]))[0]
    assert state is not None
    assert (state.available_micro, state.held_micro) == (100_000 - 400 * 40, 0)
    assert sorted(await stored_events(balance, 3)) == sorted(b"{,%d}" % number for number in range(400))
    await behind.close()


async def test_repeats_are_bounded_and_end_unavailable(proxy: Proxy) -> None:
    behind = RedisBalance(proxy.url)
    await behind.ping()
    proxy.drop_replies = 1000
    with pytest.raises(BalanceUnavailable):
        await behind.ping()
    assert proxy.dropped == REDIS_ATTEMPTS
    await behind.close()


async def test_an_error_of_the_server_is_unavailable(balance: RedisBalance) -> None:
    await balance.link.call("SET", "mzk:{s003}:w:p/u", "not a hash")
    with pytest.raises(BalanceUnavailable, match="WRONGTYPE"):
        await balance.reserve(request_of(1))


async def test_a_handle_that_does_not_fit_its_hold_changes_nothing(balance: RedisBalance, server_url: str) -> None:
    await balance.open(3, "p/u", 1000)
    await balance.open(3, "p/other", 1000)
    await balance.reserve(request_of(1))
    wrong = handle(HoldRequest("req_1", 3, (Charge("p/other", 100, 100),), LIMITS, 60_000, b""))
    elsewhere = RedisBalance(server_url)  # what reserve packed is at hand in the process that reserved alone
    with pytest.raises(BalanceUnavailable, match="does not fit"):
        await elsewhere.settle(wrong, [1], 0, b"e")
    await elsewhere.close()
    assert (await balance.settle(handle(request_of(1)), [1], 0, b"e")).first


async def test_every_key_carries_the_hash_tag_of_its_shard_and_expires_unless_it_is_state(balance: RedisBalance) -> None:
    await balance.open(3, "p/u", 1000)
    await balance.credit("txn", 3, "p/u", 5)
    await balance.reserve(request_of(1))
    await balance.reserve(request_of(2))
    await balance.settle(handle(request_of(2)), [1], 0, b"e")
    keys = sorted(await balance.link.call("KEYS", "*"))
    lives = {key.decode(): await balance.link.call("TTL", key) for key in keys}
    assert all(key.startswith("mzk:{s003}:") for key in lives)
    for_ever = {key.removeprefix("mzk:{s003}:") for key, ttl_s in lives.items() if ttl_s < 0}
    assert for_ever == {"w:p/u", "r:req_1", "deadlines", "events"}
    assert RESULT_TTL_S - 2 <= lives["mzk:{s003}:r:req_2"] <= RESULT_TTL_S
    assert 24 * 3600 < lives["mzk:{s003}:l:k/1"] <= 2 * 24 * 3600 + 60 * 2  # a day past the last hold, at least
    assert 2 * 24 * 3600 < lives["mzk:{s003}:l:k/2"] <= 3 * 24 * 3600


async def test_time_is_the_servers(balance: RedisBalance) -> None:
    await balance.open(3, "p/u", 1000)
    before = time.time()
    await balance.reserve(request_of(1))
    after = time.time()
    deadline_ms = float((await balance.link.call("ZRANGE", "mzk:{s003}:deadlines", 0, -1, "WITHSCORES"))[1])
    assert int(before * 1000) <= deadline_ms - 60_000 <= after * 1000
    minute = int.from_bytes((await balance.link.call("HGET", "mzk:{s003}:l:k/1", "rpm"))[:8], "little")
    assert int(before // 60) <= minute <= int(after // 60)
    day = int((await balance.link.call("HGET", "mzk:{s003}:l:k/2", "spend_day")).split(b":")[0])
    assert int(before // 86400) <= day <= int(after // 86400)


async def test_a_hold_can_end_when_the_server_has_no_memory_left(balance: RedisBalance) -> None:
    await balance.open(3, "p/u", 1000)
    for number in range(3):
        await balance.reserve(request_of(number))
    await balance.link.call("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(BalanceUnavailable, match="OOM"):
            await balance.reserve(request_of(9))
        assert (await balance.settle(handle(request_of(0)), [30], 0, b"e")).first
        assert await balance.release(handle(request_of(1)))
    finally:
        await balance.link.call("CONFIG", "SET", "maxmemory", "0")
    state = (await balance.read(3, ["p/u"]))[0]
    assert state is not None
    assert (state.available_micro, state.held_micro) == (870, 100)


async def test_a_deadline_without_a_hold_is_swept_away(balance: RedisBalance) -> None:
    await balance.link.call("ZADD", "mzk:{s003}:deadlines", 1, "mzk:{s003}:r:gone")
    assert await balance.sweep(3) == 0
    assert await balance.link.call("ZCARD", "mzk:{s003}:deadlines") == 0


async def test_a_reserve_of_one_wallet_costs_the_server_six_commands(balance: RedisBalance) -> None:
    await balance.open(3, "p/u", 1000)
    await balance.link.call("CONFIG", "RESETSTAT")

    async def commands() -> int:
        lines = (await balance.link.call("INFO", "commandstats")).decode().splitlines()
        calls = {line.split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in lines if "calls=" in line}
        return sum(count for name, count in calls.items() if "|" not in name and name not in ("cmdstat_info", "cmdstat_evalsha"))

    request = HoldRequest("req_1", 3, (Charge("p/u", 100, 100),), (), 60_000, b"{}")
    await balance.reserve(request)
    after_reserve = await commands()
    await balance.settle(handle(request), [1], 0, b"e")
    assert (after_reserve, await commands() - after_reserve) == (6, 6)


async def test_what_is_kept_of_holds_that_nobody_ends_is_bounded(balance: RedisBalance) -> None:
    await balance.open(3, "p/u", 10**12)
    balance._packed.update({(3, f"dead_{number}"): ((0, b""), b"", 0.0) for number in range(_PACKED_MAX)})
    for number in range(9):
        await balance.reserve(request_of(number))
    assert len(balance._packed) == _PACKED_MAX
    for number in range(9):
        assert (await balance.settle(handle(request_of(number)), [1], 0, b"e")).first


async def test_the_same_request_id_in_another_shard_is_another_hold(balance: RedisBalance) -> None:
    for shard in (3, 4):
        await balance.open(shard, "p/u", 1000)
        assert isinstance(await balance.reserve(structs.replace(request_of(1), shard=shard)), Admitted)
    for shard in (3, 4):
        assert (await balance.settle(handle(structs.replace(request_of(1), shard=shard)), [1], 0, b"e")).first
        assert await balance.read(shard, ["p/u"]) == [WalletState(999, 0)]


async def test_a_credit_leaves_room_for_what_is_held(balance: RedisBalance) -> None:
    for side in (balance, MemoryBalance()):
        await side.open(3, "p/u", AMOUNT_MICRO_MAX)
        request = HoldRequest("req_1", 3, (Charge("p/u", AMOUNT_MICRO_MAX, 1),), (), 60_000, b"")
        assert isinstance(await side.reserve(request), Admitted)
        with pytest.raises(BalanceUnavailable):
            await side.credit("txn", 3, "p/u", 1)
        assert await side.release(handle(request))
        assert await side.read(3, ["p/u"]) == [WalletState(AMOUNT_MICRO_MAX, 0)]


async def test_an_over_run_does_not_carry_a_counter_out_of_range(balance: RedisBalance) -> None:
    total = Limit("k/1", LimitKind.SPEND_TOTAL, AMOUNT_MICRO_MAX)
    await balance.open(3, "p/u", AMOUNT_MICRO_MAX)
    for number in range(3):
        request = HoldRequest(f"req_{number}", 3, (Charge("p/u", 1, 0),), (total,), 60_000, b"")
        assert isinstance(await balance.reserve(request), Admitted)
        assert (await balance.settle(handle(request), [AMOUNT_MICRO_MAX // 2 + 10], 0, b"e")).first
        await balance.credit(f"txn_{number}", 3, "p/u", AMOUNT_MICRO_MAX // 2)
    request = HoldRequest("req_9", 3, (Charge("p/u", 1, 1),), (total,), 60_000, b"")
    assert await balance.reserve(request) == RefusedByLimit(0, AMOUNT_MICRO_MAX, 0)

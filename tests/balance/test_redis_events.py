"""Delivery of events: claimed once, acknowledged away, taken over from dead consumers."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gateway.balance.condition import condition
from gateway.balance.model import BalanceUnavailable
from gateway.balance.redis_balance import EVENT_STREAMS, RedisBalance
from gateway.balance.redis_events import WORKER_SEEN_FOR_S, WORKERS, Claimed, RedisEvents
from gateway.core.clock import SYSTEM_CLOCK
from tests.balance.conftest import Proxy


@pytest.fixture
async def events(balance: RedisBalance, server_url: str) -> AsyncIterator[RedisEvents]:
    events = RedisEvents(server_url, min_idle_ms=50)
    yield events
    await events.close()


async def append(balance: RedisBalance, shard: int, data: bytes) -> None:
    await balance.link.call("XADD", EVENT_STREAMS[shard], "*", "e", data)


async def test_events_of_all_shards_come_in_order_and_are_gone_once_acknowledged(
    balance: RedisBalance, events: RedisEvents
) -> None:
    for number in range(30):
        await append(balance, (0, 7, 255)[number % 3], b"%d" % number)
    assert await events.depth() == 30
    claimed: list[Claimed] = []
    while more := await events.claim("a", 10, 1):
        claimed += more
    assert [[int(event.data) for event in claimed if event.shard == shard] for shard in (0, 7, 255)] == [
        list(range(0, 30, 3)), list(range(1, 30, 3)), list(range(2, 30, 3)),
    ]  # fmt: skip
    await events.ack(claimed[:10])
    assert await events.depth() == 20
    await events.ack(claimed[10:])
    assert await events.depth() == 0
    assert await balance.link.call("XPENDING", "mzk:{s007}:events", "ledger") == [0, None, None, None]


async def test_a_batch_is_filled_from_the_busy_shards(balance: RedisBalance, events: RedisEvents) -> None:
    for number in range(700):
        await balance.link.call("XADD", "mzk:{s009}:events", "*", "e", b"%d" % number)
    for shard in range(40, 60):
        await append(balance, shard, b"other %d" % shard)
    first = await events.claim("a", 500, 1)
    assert 480 <= len(first) <= 1012
    assert sum(event.shard == 9 for event in first) >= 400
    assert {event.shard for event in first} == {9, *range(40, 60)}
    rest = await events.claim("a", 500, 1)
    assert [event.data for event in first + rest if event.shard == 9] == [b"%d" % number for number in range(700)]


async def test_what_waits_is_seen_as_often_as_one_looks_claimed_or_not(balance: RedisBalance, events: RedisEvents) -> None:
    wanted = [b"%d" % number for number in range(1001)]  # a page and one
    await asyncio.gather(*[append(balance, 9, data) for data in wanted])
    assert await events.claim("a", 10, 1)
    for _ in range(2):
        assert sorted([data async for data in events.waiting(9)]) == sorted(wanted)
    assert [data async for data in events.waiting(8)] == []


async def test_two_consumers_share_the_events(balance: RedisBalance, events: RedisEvents, server_url: str) -> None:
    other = RedisEvents(server_url, min_idle_ms=60_000)
    for number in range(100):
        await append(balance, number, b"%d" % number)
    batches = await asyncio.gather(events.claim("a", 60, 1), other.claim("b", 60, 1))
    data = [event.data for batch in batches for event in batch]
    assert len(data) == len(set(data))
    await other.close()


async def test_a_waiting_claim_wakes_for_the_first_event(balance: RedisBalance, events: RedisEvents) -> None:
    await events.claim("a", 10, 1)
    waiting = asyncio.gather(events.claim("a", 10, 3000))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    await append(balance, 3, b"now")
    assert [event.data for event in (await waiting)[0]] == [b"now"]
    assert time.monotonic() - started < 1
    assert await events.depth() == 1


async def test_a_waiting_claim_does_not_stand_before_depth_and_ack(balance: RedisBalance, events: RedisEvents) -> None:
    await append(balance, 3, b"x")
    claimed = await events.claim("a", 10, 1)
    waiting = asyncio.gather(events.claim("a", 10, 600))
    await asyncio.sleep(0.02)
    started = time.monotonic()
    await events.ack(claimed)
    assert await events.depth() == 0
    assert time.monotonic() - started < 0.3
    assert (await waiting)[0] == []


async def test_waiting_costs_almost_nothing(events: RedisEvents) -> None:
    await events.claim("a", 500, 1)
    started = time.process_time()
    assert await events.claim("a", 500, 1500) == []
    assert time.process_time() - started < 0.03


async def test_events_of_a_dead_consumer_are_taken_over_after_a_while(
    balance: RedisBalance, events: RedisEvents, server_url: str
) -> None:
    for number in range(90):
        await append(balance, number % 3 * 100, b"%d" % number)
    dead = RedisEvents(server_url)
    assert len(await dead.claim("dead", 500, 1)) == 90
    await dead.close()
    await asyncio.sleep(0.06)
    taken: list[Claimed] = []
    while more := await events.claim("alive", 64, 1):
        await events.ack(more)
        taken += more
    assert sorted(int(event.data) for event in taken) == list(range(90))
    assert await events.depth() == 0


async def test_events_in_the_hands_of_a_live_consumer_are_left_alone(balance: RedisBalance, server_url: str) -> None:
    await append(balance, 3, b"x")
    busy, other = RedisEvents(server_url), RedisEvents(server_url)
    assert len(await busy.claim("busy", 10, 1)) == 1
    assert await other.claim("other", 10, 1) == []
    await busy.close()
    await other.close()


async def test_an_emptied_server_gets_its_groups_again(balance: RedisBalance, events: RedisEvents) -> None:
    await events.claim("a", 10, 1)
    await balance.link.call("FLUSHALL")
    await append(balance, 3, b"x")
    assert await events.claim("a", 10, 1) == []
    assert [event.data for event in await events.claim("a", 10, 1)] == [b"x"]


async def test_a_lost_claim_is_unavailable_and_its_events_come_back(balance: RedisBalance, proxy: Proxy) -> None:
    events = RedisEvents(proxy.url, min_idle_ms=50)
    await events.claim("a", 10, 1)
    await append(balance, 3, b"x")
    proxy.drop_replies = 1
    with pytest.raises(BalanceUnavailable):
        await events.claim("a", 10, 1)
    await events.close()
    await asyncio.sleep(0.06)
    again = RedisEvents(proxy.url, min_idle_ms=50)
    assert [event.data for event in await again.claim("a", 10, 1)] == [b"x"]
    await again.close()


async def test_events_whose_delivery_was_lost_on_the_way_come_with_the_next_claim(balance: RedisBalance, proxy: Proxy) -> None:
    events = RedisEvents(proxy.url, min_idle_ms=0)
    assert await events.claim("a", 10, 1) == []
    await append(balance, 3, b"lost on the way")
    proxy.drop_replies = 1
    with pytest.raises(BalanceUnavailable):
        await events.claim("a", 10, 1)
    assert proxy.dropped == 1
    [again] = await events.claim("a", 10, 1)
    assert again.data == b"lost on the way"
    await events.close()


async def test_workers_are_seen_while_they_live_and_not_a_moment_longer_when_they_stop(
    balance: RedisBalance, events: RedisEvents, server_url: str
) -> None:
    other = RedisEvents(server_url)
    assert (await condition(balance, SYSTEM_CLOCK)).workers == 0
    await events.claim("one", 10, 1)
    await other.claim("two", 10, 1)
    assert (await condition(balance, SYSTEM_CLOCK)).workers == 2
    await events.leave("one")
    assert (await condition(balance, SYSTEM_CLOCK)).workers == 1
    # The other was killed: it is there until its time is over, and gone with the next who says so.
    await balance.link.call("ZINCRBY", WORKERS, -1000 * WORKER_SEEN_FOR_S - 1, "two")
    assert (await condition(balance, SYSTEM_CLOCK)).workers == 0
    third = RedisEvents(server_url)
    await third.claim("three", 10, 1)
    assert await balance.link.call("ZRANGE", WORKERS, 0, -1) == [b"three"]
    await other.close()
    await third.close()

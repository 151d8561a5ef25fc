"""Replies that are lost after the operation was applied: nothing happens twice, however often, and nothing is lost.

    LOST_SEED=n       other histories; each run of the suite has the same
    LOST_REPLIES=n    how many replies are lost; 3,000 unless told
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import pytest

from gateway.balance.model import Admitted, BalanceUnavailable, Charge, HoldRequest, Limit, LimitKind, WalletState
from gateway.balance.redis_balance import RedisBalance
from tests.balance.conftest import Proxy
from tests.balance.server import handle, stored_events

REPLIES = int(os.environ.get("LOST_REPLIES", 3_000))
SHARDS = 8
START = 10**12
# A hold that was counted twice would leave no room for the next one.
LIMITS = (Limit("k/1", LimitKind.CONCURRENCY, 1), Limit("k/1", LimitKind.SPEND_TOTAL, START))
T = TypeVar("T")


@pytest.mark.timeout(300 + REPLIES // 20)
async def test_a_lost_reply_never_doubles_an_effect(balance: RedisBalance, proxy: Proxy) -> None:
    seed = int(os.environ.get("LOST_SEED", 20_261_122))
    print(f"LOST_SEED={seed} LOST_REPLIES={REPLIES} pytest -s tests/balance/test_lost_replies.py")
    chance = random.Random(seed)
    behind = RedisBalance(proxy.url)
    expected = dict.fromkeys(range(SHARDS), START)
    events: dict[int, list[bytes]] = {shard: [] for shard in range(SHARDS)}
    for shard in range(SHARDS):
        await balance.open(shard, "p/u", START)

    async def done(operation: Callable[[], Awaitable[T]]) -> T:
        """The answer, however many of its replies are lost: callers, too, repeat what they have no answer to."""
        if chance.random() < 0.5 and proxy.dropped < REPLIES:
            proxy.drop_replies = 1
        for _ in range(50):
            try:
                return await operation()
            except BalanceUnavailable:
                continue
        raise AssertionError("fifty times no answer")

    async def history(shard: int) -> None:
        number = 0
        while proxy.dropped < REPLIES:
            number += 1
            request = HoldRequest(
                f"req_{shard}_{number}",
                shard,
                (Charge("p/u", 1000, 1000),),
                chance.choice((LIMITS, ())),
                60_000,
                b"abandoned",
            )
            assert isinstance(await done(partial(behind.reserve, request)), Admitted)
            if chance.random() < 0.7:
                amount = chance.randrange(0, 1500)
                event = f"{shard} {number}".encode()
                settled = await done(partial(behind.settle, handle(request), [amount], 7, event))
                expected[shard] -= amount
                events[shard].append(request.context[:-1] + b"," + event[1:])
                assert settled.available == (expected[shard],)
            else:
                await done(partial(behind.release, handle(request)))
            delta = chance.randrange(-500, 500)
            expected[shard] += delta
            credit = partial(behind.credit, f"txn_{shard}_{number}", shard, "p/u", delta)
            assert await done(credit) == WalletState(expected[shard], 0)

    # A broken connection ends what the others have under way as well: their replies are lost with it.
    await asyncio.gather(*[history(shard) for shard in range(SHARDS)])
    await behind.close()
    for shard in range(SHARDS):
        assert await balance.read(shard, ["p/u"]) == [WalletState(expected[shard], 0)]
        assert await stored_events(balance, shard) == events[shard]
        assert await balance.link.call("HGET", f"mzk:{{s{shard:03d}}}:l:k/1", "concurrency") == b"0"
        assert await balance.link.call("ZCARD", f"mzk:{{s{shard:03d}}}:deadlines") == 0
    print(f"{proxy.dropped} connections cut with a reply on the way, {sum(map(len, events.values()))} settled, none twice")

"""A replica that is behind takes over, under load: nothing that a client was told is lost, nothing is there twice.

    STALE_REPLICAS=n   how many times; 1 unless told
    CHAOS_SEED=n       other moments

The replica copies the primary through a link that is frozen, or is taken out of the copying, for some time before the
primary is killed; then it has the primary's address, at times before it was promoted, when it takes no writes. What it
missed is less than KEPT_LEAST_S old: what is older than that a gateway keeps no longer, once the books have it.
"""

import asyncio
import os
import random
import time
from collections import Counter

import pytest

from gateway.core.limits import KEPT_LEAST_S
from tests.chaos.books import compared, settled_down
from tests.chaos.house import House
from tests.chaos.load import Clients
from tests.chaos.replica import Replica, left_behind
from tests.chaos.test_recovery import come_to_rest, everybody_served, served_again

ROUNDS = int(os.environ.get("STALE_REPLICAS", 1))
LAG_S_MAX = KEPT_LEAST_S - 2  # the death, the new address and the settling again take their time, too


@pytest.mark.timeout(300 + 15 * ROUNDS)
async def test_a_replica_that_is_behind_takes_over_and_every_answered_request_is_charged_once(house: House) -> None:
    seed = int(os.environ.get("CHAOS_SEED", 20_261_123))
    print(f"CHAOS_SEED={seed} STALE_REPLICAS={ROUNDS} pytest -s tests/chaos/test_stale_replica.py")
    chance = random.Random(seed)
    fates: Counter[str] = Counter()
    replicas: list[Replica] = []
    away: list[float] = []
    try:
        for number in range(ROUNDS):
            name = f"r{number}"
            replica = Replica(house.redis)
            replicas.append(replica)
            await replica.start()
            async with Clients(house.url, house.key, chance, name) as clients:
                await served_again(clients)
                lag_s = LAG_S_MAX if number % 4 < 2 else chance.uniform(0.2, LAG_S_MAX)
                behind = await left_behind(replica, ("frozen", "left")[number % 2], lag_s)
                assert behind > 10_000, "the primary went on without it"
                began = time.monotonic()
                await replica.take_over(chance.choice((0.0, 0.5)))
                await served_again(clients)
                away.append(time.monotonic() - began)
                await everybody_served(clients)
                await clients.stop()
            await come_to_rest(house, clients)
            abandoned = await settled_down(house, "redis")
            await come_to_rest(house, clients)
            fates.update(await compared(house, clients.asked, name, "redis", abandoned))
        await house.audit()
        told = await asyncio.to_thread(house.stack.cli, "reconcile")
        assert "are those of the books" in told
    finally:
        for replica in replicas:
            await replica.stop()
    print(f"  {ROUNDS} take-overs, served again after {max(away):5.2f} s at most")
    print(f"  {fates.total()} requests: {dict(fates.most_common())}; none lost")

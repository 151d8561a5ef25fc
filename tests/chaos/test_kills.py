"""SIGKILL of each part at named steps under load: nothing lost, nothing doubled.

    CHAOS_KILLS=n     how many; 20 unless told
    CHAOS_SEED=n      other moments and another order; each run of the suite has the same
    CHAOS_PART=name   only one part dies: gateway, worker, redis or postgres

What is printed at the end is for the documentation: how long each part was away, and what became of the requests.
"""

import asyncio
import os
import random
import time
from collections import Counter
from functools import partial

import pytest

from tests.chaos.books import compared, settled_down
from tests.chaos.house import House
from tests.chaos.load import Clients
from tests.chaos.taps import Trap

KILLS = int(os.environ.get("CHAOS_KILLS", 20))
PART = os.environ.get("CHAOS_PART", "")
AUDIT_EVERY = 20

# Where each part dies: what it is at, the step as a tap sees it, whether its bytes still arrive.
GATEWAY = (
    ("reserve sent, not arrived", "gateway>redis reserve", False),
    ("reserve sent, arrived", "gateway>redis reserve", True),
    ("reserve applied, reply not delivered", "redis>gateway reserve", False),
    ("reserve applied, reply delivered", "redis>gateway reserve", True),
    ("provider's request sent", "gateway>provider head", True),
    ("provider's head received", "provider>gateway head", True),
    ("in mid-stream", "provider>gateway part", True),
    ("settle sent, not arrived", "gateway>redis settle", False),
    ("settle sent, arrived", "gateway>redis settle", True),
    ("settle applied, reply not delivered", "redis>gateway settle", False),
    ("release sent, not arrived", "gateway>redis release", False),
    ("release applied, reply not delivered", "redis>gateway release", False),
    ("answer begun, not delivered", "gateway>client head", False),
    ("answer delivered", "gateway>client head", True),
    ("part of an answer delivered", "gateway>client part", True),
)
WORKER = (
    ("events claimed, not delivered", "redis>worker XREADGROUP", False),
    ("events claimed", "redis>worker XREADGROUP", True),
    ("app book's rows sent", "worker>app insert", True),
    ("app commit sent, not arrived", "worker>app commit", False),
    ("app commit sent, arrived", "worker>app commit", True),
    ("app committed, not told", "app>worker commit", False),
    ("app committed, platform not yet", "worker>platform insert", False),
    ("platform commit sent, not arrived", "worker>platform commit", False),
    ("platform commit sent, arrived", "worker>platform commit", True),
    ("platform committed, not told", "platform>worker commit", False),
    ("deletion and acknowledgement sent, not arrived", "worker>redis XDEL", False),
    ("deletion and acknowledgement sent, arrived", "worker>redis XACK", True),
    ("acknowledged, not told", "redis>worker XACK", False),
)
REDIS = (
    ("reserve arrives", "gateway>redis reserve", True),
    ("reserve applied, reply not delivered", "redis>gateway reserve", False),
    ("settle arrives", "gateway>redis settle", True),
    ("settle applied, reply not delivered", "redis>gateway settle", False),
    ("settle applied, reply delivered", "redis>gateway settle", True),
    ("release applied, reply not delivered", "redis>gateway release", False),
    ("events claimed, reply not delivered", "redis>worker XREADGROUP", False),
    ("app book committed", "app>worker commit", True),
    ("deletion and acknowledgement arrive", "worker>redis XACK", True),
    ("acknowledged, reply not delivered", "redis>worker XACK", False),
)
POSTGRES = (
    ("app book's rows arrive", "worker>app insert", True),
    ("app commit arrives", "worker>app commit", True),
    ("app committed, reply not delivered", "app>worker commit", False),
    ("platform commit arrives", "worker>platform commit", True),
    ("platform committed, reply not delivered", "platform>worker commit", False),
    ("nothing asked of it", "client>gateway head", True),
)
PARTS = {"gateway": GATEWAY, "worker": WORKER, "redis": REDIS, "postgres": POSTGRES}
SHARE = {"gateway": 32, "worker": 26, "redis": 30, "postgres": 12}  # of a hundred kills


def plan(chance: random.Random, kills: int) -> list[tuple[str, str, str, bool]]:
    """Which part dies when: every step of a part in turn, the parts mixed."""
    chosen = []
    for part, steps in PARTS.items():
        count = round(kills * SHARE[part] / 100) if not PART else kills * (part == PART)
        chosen += [(part, *steps[number % len(steps)]) for number in range(count)]
    chance.shuffle(chosen)
    return chosen


class Log:
    """How long each part was away, what became of the requests; the seconds are told, never judged."""

    def __init__(self) -> None:
        self.away: dict[str, list[float]] = {}
        self.fates: Counter[str] = Counter()
        self.asked = 0
        self.abandoned = 0

    def tell(self) -> None:
        for name in sorted(self.away):
            times = self.away[name]
            print(f"  {name:62} {len(times):4} kills, back after {max(times):5.2f} s at most")
        print(f"  {self.asked} requests: {dict(self.fates.most_common())}; {self.abandoned} holds ended by sweeping")


async def killed_once(house: House, chance: random.Random, number: int, kill: tuple[str, str, str, bool], log: Log) -> None:
    part, what, step, pass_on = kill
    name = f"k{number}"
    # The worker's steps come by once a batch, the others once a request.
    skip = chance.randrange(2 if "worker" in step else 8)
    trap = Trap(step, skip, pass_on, partial(house.kill, part))
    print(f"{name}: {part} at {what!r}, {skip} passed before")
    async with Clients(house.url, house.key, chance, name) as clients:
        await asyncio.sleep(chance.uniform(0.01, 0.06))
        house.steps.set(trap)
        try:
            async with asyncio.timeout(60):
                await trap.sprung.wait()
        finally:
            house.steps.unset()
        died = time.monotonic()
        at = asyncio.get_running_loop().time()
        await house.restart(part)
        async with asyncio.timeout(60):
            while clients.answered_since(at) < 10:
                await asyncio.sleep(0.005)
        if part in ("gateway", "redis"):
            back = time.monotonic()
        await clients.stop()
    abandoned = await settled_down(house, part)
    log.abandoned += len(abandoned)
    assert part in ("gateway", "redis") or not abandoned, "no gateway died, and yet a hold was left"
    if part in ("worker", "postgres"):
        back = time.monotonic()
    log.away.setdefault(f"{part}: {what}", []).append(back - died)
    log.fates.update(await compared(house, clients.asked, name, part, abandoned))
    log.asked += len(clients.asked)


@pytest.mark.timeout(300 + 6 * KILLS)
async def test_no_part_that_is_killed_at_any_step_loses_or_doubles_a_request(house: House) -> None:
    seed = int(os.environ.get("CHAOS_SEED", 20_261_122))
    print(f"CHAOS_SEED={seed} CHAOS_KILLS={KILLS} CHAOS_PART={PART} pytest -s tests/chaos/test_kills.py")
    chance = random.Random(seed)
    log = Log()
    for number, kill in enumerate(plan(chance, KILLS)):
        if number % AUDIT_EVERY == 0:
            await house.redis.set_policy("always" if number % (2 * AUDIT_EVERY) else "everysec")
        await killed_once(house, chance, number, kill, log)
        if number % AUDIT_EVERY == AUDIT_EVERY - 1:
            await house.audit()
    await house.audit()
    log.tell()

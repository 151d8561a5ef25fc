"""Redis loses what it answered, under load: everything, or its last moments. Nothing that a client was told is lost.

    RECOVERY_LOSSES=n  how many, of all kinds; 20 unless told
    CHAOS_SEED=n       other moments and another order; each run of the suite has the same

Kinds: FLUSHALL; SIGKILL, and a start on an empty folder; SIGKILL, and a start on a copy of its append-only file from
some time before. The gateway lives all the time. Printed at the end: how long nobody was served.
"""

import asyncio
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from gateway.core.ids import app_wallet, platform_wallet, shard_of
from tests.chaos.books import compared, settled_down
from tests.chaos.house import APP, CREATOR, FUNDS, USERS, House, _gone
from tests.chaos.load import Clients

LOSSES = int(os.environ.get("RECOVERY_LOSSES", 20))
FLUSHES_A_ROUND = 6
AUDIT_EVERY = 4  # rounds


def files(house: House) -> Path:
    return house._redis_folder / "redis" / "appendonlydir"


async def lose(house: House, kind: str, chance: random.Random) -> None:
    if kind == "emptied":
        await house.direct.link.call("FLUSHALL")
        return
    copy = files(house).with_name("copy")
    if kind == "older":
        shutil.copytree(files(house), copy)
        await asyncio.sleep(chance.uniform(0.05, 1.5))
    house.kill("redis")
    await asyncio.to_thread(_gone, house.redis.pid)
    shutil.rmtree(files(house))
    if kind == "older":
        copy.rename(files(house))
    await house.restart("redis")


async def served_again(clients: Clients) -> float:
    """Seconds until ten requests that were asked from now on have been answered."""
    at, began = asyncio.get_running_loop().time(), time.monotonic()
    async with asyncio.timeout(60):
        while clients.answered_since(at) < 10:
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def everybody_served(clients: Clients) -> None:
    """Until each user has been: a wallet that was lost is there again when it is asked for."""
    at = asyncio.get_running_loop().time()
    async with asyncio.timeout(60):
        while len({each.user for each in clients.asked if each.at > at and each.is_whole and each.status == 200}) < USERS:
            await asyncio.sleep(0.005)


async def come_to_rest(house: House, clients: Clients, patience_s: float = 10.0) -> None:
    """Give the gateway the time to settle again what it kept; whether it did is for `compared` to say."""
    answered = {each.request_id for each in clients.asked if each.is_whole and each.status == 200}
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up:
        rows = await house.rows("SELECT request_id, amount_micro, creator_micro FROM usage")
        spent = [sum(int(row[1]) for row in rows), sum(int(row[2]) for row in rows)]
        names = [app_wallet(APP, f"user-{number}") for number in range(USERS)]
        states = await house.direct.read(shard_of(CREATOR), [*names, platform_wallet(CREATOR)])
        has = [0 if state is None else state.available_micro + state.held_micro for state in states]
        if answered <= {row[0] for row in rows} and [sum(has[:-1]), has[-1]] == [USERS * FUNDS - spent[0], FUNDS - spent[1]]:
            return
        await asyncio.sleep(0.1)


@pytest.mark.timeout(300 + 6 * LOSSES)
async def test_whatever_redis_loses_every_answered_request_is_charged_once(house: House) -> None:
    seed = int(os.environ.get("CHAOS_SEED", 20_261_122))
    print(f"CHAOS_SEED={seed} RECOVERY_LOSSES={LOSSES} pytest -s tests/chaos/test_recovery.py")
    chance = random.Random(seed)
    away: dict[str, list[float]] = {"emptied": [], "empty folder": [], "older": []}
    fates: Counter[str] = Counter()
    rounds = ["emptied"] * round(LOSSES * 0.8 / FLUSHES_A_ROUND)
    rounds += ["empty folder"] * round(LOSSES * 0.1) + ["older"] * round(LOSSES * 0.1)
    chance.shuffle(rounds)
    for number, kind in enumerate(rounds):
        name = f"l{number}"
        async with Clients(house.url, house.key, chance, name) as clients:
            await served_again(clients)
            for _ in range(FLUSHES_A_ROUND if kind == "emptied" else 1):
                await asyncio.sleep(chance.uniform(0.01, 0.3))
                began = time.monotonic()
                await lose(house, kind, chance)
                await served_again(clients)
                away[kind].append(time.monotonic() - began)
            await everybody_served(clients)
            await clients.stop()
        await come_to_rest(house, clients)
        abandoned = await settled_down(house, "redis")
        await come_to_rest(house, clients)
        fates.update(await compared(house, clients.asked, name, "redis", abandoned))
        if number % AUDIT_EVERY == AUDIT_EVERY - 1:
            await house.audit()
    await house.audit()
    told = await asyncio.to_thread(house.stack.cli, "reconcile")
    assert "are those of the books" in told
    for kind, times in away.items():
        if times:
            print(f"  {kind:14} {len(times):4} times, served again after {max(times):5.2f} s at most")
    print(f"  {fates.total()} requests: {dict(fates.most_common())}; none lost")

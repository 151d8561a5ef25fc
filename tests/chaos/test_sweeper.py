"""A worker that is killed while it ends what a dead gateway held.

    CHAOS_SEED=n      other moments; each run of the suite has the same
"""

import asyncio
import os
import random
from functools import partial

import pytest

from tests.chaos.books import compared
from tests.chaos.house import House
from tests.chaos.load import Clients
from tests.chaos.taps import Trap, until


@pytest.fixture
def worker_settings() -> dict[str, str]:
    """It looks for the first time half a hold's life after it began, which is half a minute. The holds live as ever."""
    return {"MOZAIKS_HOLD_TTL_S": "5"}


@pytest.mark.timeout(300)
async def test_a_worker_that_dies_while_it_sweeps_ends_each_abandoned_hold_once(house: House) -> None:
    """Holds of a dead gateway are ended by the worker's own sweeper, which dies at it and is started again."""
    chance = random.Random(int(os.environ.get("CHAOS_SEED", 20_261_122)))
    for number, (step, pass_on) in enumerate((("worker>redis abandon", True), ("redis>worker abandon", False))):
        name = f"w{number}"
        async with Clients(house.url, house.key, chance, name, 16) as clients:
            await until(lambda: clients.answered_since(0) > 20, "the load runs")
            died = Trap("provider>gateway head", 5, True, partial(house.kill, "gateway"))
            house.steps.set(died)
            await died.sprung.wait()
            await house.restart("gateway")
            await clients.stop()
        await house.worker_is_up()
        while await house.running():  # those that the living gateway still meters, as their clients left
            await asyncio.sleep(0.02)
        trap = Trap(step, 0, pass_on, partial(house.kill, "worker"))
        house.steps.set(trap)
        abandoned = await house.age_holds()
        assert abandoned
        async with asyncio.timeout(90):
            await trap.sprung.wait()
        await house.restart("worker")
        await until(house.nothing_held, "the sweeper has ended every hold", 90)
        await house.drained()
        await compared(house, clients.asked, name, "gateway", abandoned)
    await house.audit()

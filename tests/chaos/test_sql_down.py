"""The books cannot be written for a while, under load: usage waits in Redis up to a bound, then nothing is served."""

import asyncio
import os
import random
import signal

import aiohttp
import pytest

from tests.chaos.books import compared, settled_down
from tests.chaos.house import House
from tests.chaos.load import Clients
from tests.chaos.taps import until

BACKLOG = 120
CLIENTS = 8


@pytest.fixture
def settings() -> dict[str, str]:
    return {"MOZAIKS_EVENT_BACKLOG_MAX": str(BACKLOG)}


async def refused(house: House) -> None:
    """One request of a client that reads everything it is told."""
    body = {"model": "ok:tokens=3", "messages": [{"role": "user", "content": "refused-0"}], "max_tokens": 3}
    headers = {"authorization": f"Bearer {house.key}", "x-platform-user-id": "user-0", "x-session-id": "refused-0"}
    url = house.gateway_url + "/v1/chat/completions"
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as answer:
        assert answer.status == 503
        assert answer.headers["x-should-retry"] == "false"
        assert int(answer.headers["retry-after"]) >= 1
        error = (await answer.json())["error"]
        assert error["code"] == "balance_unavailable"
        assert error["request_id"] == answer.headers["x-request-id"]


async def overage_told(house: House) -> int | None:
    """What a balance says is lent: it is told also without the books, which alone know that."""
    headers = {"authorization": f"Bearer {house.key}", "x-platform-user-id": "user-0"}
    limit = aiohttp.ClientTimeout(60)
    async with aiohttp.ClientSession(timeout=limit) as http, http.get(house.gateway_url + "/v1/balance", headers=headers) as told:
        assert told.status == 200
        wallet = (await told.json())["wallet"]
    assert wallet["available_micro"] > 0
    overage: int | None = wallet["overage_micro"]
    return overage


@pytest.mark.timeout(300)
async def test_while_sql_is_down_usage_waits_up_to_a_bound_then_requests_are_refused_and_nothing_is_lost(house: House) -> None:
    """First the server dies, then it stands still without an answer, which looks different to whoever waits for it."""
    seed = int(os.environ.get("CHAOS_SEED", 20_261_122))
    print(f"CHAOS_SEED={seed} pytest -s tests/chaos/test_sql_down.py")
    chance = random.Random(seed)
    for name in ("dead", "frozen"):
        async with Clients(house.url, house.key, chance, name, CLIENTS) as clients:
            await until(lambda: clients.told()[200] > 20, "the load runs")
            await house.worker_is_up()
            # Several at once leave connections behind that stand still with the server.
            assert await asyncio.gather(*[overage_told(house) for _ in range(CLIENTS)]) == [0] * CLIENTS
            if name == "dead":
                house.kill("postgres")
            else:
                house.postgres.signal(signal.SIGSTOP)
            before, waiting = clients.told(), await house.waiting()  # on a busy machine the worker may be behind already
            await until(lambda: clients.told()[503] > 20, "requests are refused", 60)
            during = clients.told() - before
            assert during[200] + waiting >= BACKLOG // 2, "usage did not wait: requests were refused at once"
            most = 0
            for _ in range(50):
                most = max(most, await house.waiting())
                await asyncio.sleep(0.005)
            # Each request that was under way may add its event, also of a client that left and asked anew.
            assert BACKLOG <= most <= BACKLOG + 3 * CLIENTS
            await refused(house)
            assert await asyncio.gather(*[overage_told(house) for _ in range(CLIENTS)]) == [None] * CLIENTS
            at = asyncio.get_running_loop().time()
            if name == "dead":
                await house.restart("postgres")
            else:
                house.postgres.signal(signal.SIGCONT)
            async with asyncio.timeout(60):
                while clients.answered_since(at) < 50:
                    await asyncio.sleep(0.01)
            await clients.stop()
        abandoned = await settled_down(house)
        assert abandoned == set(), "a refusal holds nothing"
        fates = await compared(house, clients.asked, name, "postgres")
        print(f"{name}: {len(clients.asked)} requests: {fates}")
        assert fates["refused"] > 20
        assert await house.rows("SELECT 1 FROM usage WHERE session_id = 'refused-0'") == []
        await house.audit()

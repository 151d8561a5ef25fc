"""SIGTERM with requests in flight: they finish, or are cut at the limit and billed for what was delivered; nothing stays held."""

import asyncio
import json
import os
import random
import signal
import time

import aiohttp
import pytest

from gateway.core.limits import DRAIN_ON_SHUTDOWN_S, REDIS_TIMEOUT_S
from tests.chaos.books import compared, settled_down
from tests.chaos.house import DEADLINES, EVENTS, GROUP, House
from tests.chaos.load import Clients
from tests.chaos.taps import until


class Caller:
    """One request of its own, and all that came of its answer."""

    def __init__(self, house: House, name: str, model: str, streamed: bool, leaves: bool = False) -> None:
        self.name = name
        self.text = b""
        self.status = 0
        self.is_whole = False
        self._leaves = leaves
        self._url = house.gateway_url + "/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {house.key}", "x-platform-user-id": "user-1", "x-session-id": name}
        message = {"role": "user", "content": name}
        self._body = {"model": model, "messages": [message], "max_tokens": 1000, "stream": streamed}
        self.task = asyncio.create_task(self._run())

    def told(self) -> str:
        """The code of the error that the answer is, or ends with."""
        error = json.loads(self.text.rpartition(b"event: error\ndata: ")[2].partition(b"\n")[0])["error"]
        return str(error["code"])

    async def _run(self) -> None:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as http,
                http.post(self._url, json=self._body, headers=self._headers) as answer,
            ):
                self.status = answer.status
                async for part in answer.content.iter_any():
                    self.text += part
                    if self._leaves:
                        return
                self.is_whole = True
        except aiohttp.ClientError:
            return


@pytest.mark.timeout(300)
async def test_sigterm_finishes_what_is_in_flight_cuts_at_the_limit_and_leaves_no_money_held(house: House) -> None:
    plain = Caller(house, "t-plain", "slow:800", streamed=False)
    short = Caller(house, "t-short", "ok:tokens=60,ms=40", streamed=True)
    left = Caller(house, "t-left", "ok:tokens=60,ms=40", streamed=True, leaves=True)
    endless = Caller(house, "t-endless", "ok:tokens=1000,ms=100", streamed=True)
    await until(lambda: bool(short.text and left.text and endless.text), "the streams run")
    assert await house.holds() == 4
    loop = asyncio.get_running_loop()
    signalled = loop.time()
    house.gateway.child.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    late = Caller(house, "t-late", "ok:tokens=3", streamed=False)
    await asyncio.gather(plain.task, short.task, left.task, late.task)
    assert (plain.status, plain.is_whole) == (200, True)
    assert short.text.endswith(b"data: [DONE]\n\n")
    assert (late.status, late.told()) == (503, "draining")
    assert house.gateway.child.poll() is None, "the long stream still runs"
    await endless.task
    took_s = loop.time() - signalled
    assert took_s >= DRAIN_ON_SHUTDOWN_S - 2, "cut before its time"
    assert b"[DONE]" not in endless.text
    assert endless.told() == "draining"
    assert await asyncio.to_thread(house.gateway.child.wait, 30) == 0
    assert await house.holds() == 0, "a hold was left to the sweeper"
    await house.drained()
    sql = "SELECT session_id, status, usage_source, output_tokens, amount_micro FROM usage"
    rows = {row[0]: row[1:] for row in await house.rows(sql)}
    assert set(rows) == {"t-plain", "t-short", "t-left", "t-endless"}
    assert rows["t-plain"][:2] == rows["t-short"][:2] == ("served", "upstream")
    assert rows["t-left"][:3] == ("client_left", "upstream", 60)
    status, source, tokens, amount_micro = rows["t-endless"]
    delivered = endless.text.count(b" tok")
    assert (status, source) == ("abandoned", "counted")
    assert delivered <= tokens <= 4 * delivered, "billed for what was delivered, by the tokenizer's count of it"
    assert amount_micro >= tokens * 10
    await house.audit()
    await house.start_gateway()  # so that there is one to stop


@pytest.mark.timeout(300)
async def test_a_second_signal_cuts_streams_at_once_and_no_number_of_them_cuts_a_settlement(house: House) -> None:
    """Redis is frozen for longer than it is waited for: each settlement has to be made again."""
    names = [f"m-{number}" for number in range(3)]
    callers = [Caller(house, name, "ok:tokens=1000,ms=100", streamed=True) for name in names]
    await until(lambda: all(caller.text for caller in callers), "the streams run")
    os.kill(house.redis.pid, signal.SIGSTOP)
    try:
        signalled = time.monotonic()
        house.gateway.child.send_signal(signal.SIGTERM)
        await asyncio.sleep(2.2)
        for _ in range(6):
            house.gateway.child.send_signal(signal.SIGINT)
            await asyncio.sleep(0.3)
        await asyncio.gather(*[caller.task for caller in callers])
        assert time.monotonic() - signalled < DRAIN_ON_SHUTDOWN_S / 2, "the second signal ends the wait"
        await asyncio.sleep(3 * REDIS_TIMEOUT_S)
        assert house.gateway.child.poll() is None, "what was used is not settled yet"
    finally:
        os.kill(house.redis.pid, signal.SIGCONT)
    assert await asyncio.to_thread(house.gateway.child.wait, 30) == 0
    assert await house.holds() == 0, "a hold was left to the sweeper"
    await house.drained()
    rows = await house.rows("SELECT session_id, status, output_tokens FROM usage")
    assert {row[0]: row[1] for row in rows} == dict.fromkeys(names, "abandoned")
    delivered = {caller.name: caller.text.count(b" tok") for caller in callers}
    assert all(row[2] >= delivered[row[0]] > 0 for row in rows), "billed for what was delivered"
    await house.audit()
    await house.start_gateway()  # so that there is one to stop


@pytest.mark.timeout(300)
async def test_sigterm_under_load_and_a_start_again_lose_and_double_nothing(house: House) -> None:
    chance = random.Random(4)
    for number in range(3):
        name = f"s{number}"
        async with Clients(house.url, house.key, chance, name) as clients:
            await until(lambda: clients.told()[200] > 20, "the load runs")
            house.gateway.child.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(house.gateway.child.wait, 30) == 0
            assert await house.direct.link.call("ZRANGE", DEADLINES, 0, -1) == [], "a hold was left to the sweeper"
            at = asyncio.get_running_loop().time()
            await house.start_gateway()
            async with asyncio.timeout(60):
                while clients.answered_since(at) < 10:
                    await asyncio.sleep(0.01)
            await clients.stop()
        assert await settled_down(house) == set()
        fates = await compared(house, clients.asked, name, "")
        assert not [fate for fate in fates if fate.startswith("cut off")], fates
    await house.audit()


@pytest.mark.timeout(300)
async def test_a_worker_that_is_told_to_stop_finishes_what_it_has_claimed(house: House) -> None:
    """Otherwise those events would wait for another worker, a minute at least."""
    chance = random.Random(5)
    for number in range(4):
        name = f"w{number}"
        async with Clients(house.url, house.key, chance, name) as clients:
            await until(lambda: clients.told()[200] > 20, "the load runs")
            await house.worker_is_up()
            await asyncio.sleep(chance.uniform(0, 0.05))
            house.worker.child.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(house.worker.child.wait, 30) == 0
            assert await house.direct.link.call("XPENDING", EVENTS, GROUP) == [0, None, None, None]
            await house.start_worker()
            await clients.stop()
        assert await settled_down(house) == set()
        await compared(house, clients.asked, name, "worker")
    await house.audit()

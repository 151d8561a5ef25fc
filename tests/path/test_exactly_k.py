"""The promise in one test: however many ask at once, exactly those run that the wallet covers.

    EXACTLY_K_REPEATS=n    how often; 15 unless told, 500 in `make long` (a quarter of a million requests: minutes)
    EXACTLY_K_SEED=n       other numbers; each run of the suite has the same

The 500 times 500 that every run of the suite makes are in tests/balance/test_exactly_k.py, on the hot store alone.
"""

import asyncio
import os
import random
from collections import Counter

import aiohttp
import pytest

from tests.path.conftest import Stack

REPEATS = int(os.environ.get("EXACTLY_K_REPEATS", 15))
AT_ONCE = 500
PRICE_MICRO = 250
BODY = {"model": "flat-model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
# How the provider answers: at once, or after a time in which every hold stands beside the others.
SCRIPTS = ("ok:tokens=3", "slow:300", "ok:tokens=3")


@pytest.mark.timeout(300 + 4 * REPEATS)
async def test_500_requests_at_once_on_a_wallet_that_covers_k_run_exactly_k_times(stack: Stack) -> None:
    """In every third repeat answers are late; in another third, clients leave without an answer, which frees nothing."""
    seed = int(os.environ.get("EXACTLY_K_SEED", 500_50))
    print(f"EXACTLY_K_SEED={seed} EXACTLY_K_REPEATS={REPEATS} pytest -s tests/path/test_exactly_k.py")
    source = random.Random(seed)
    app = stack.app()
    key = stack.key(app)
    served = 0
    left = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:

        async def ask(end_user: str, script: str, patience_s: float | None) -> int:
            """The status; 0 for a client that left before it had one."""
            headers = {"authorization": f"Bearer {key}", "x-platform-user-id": end_user}
            try:
                async with asyncio.timeout(patience_s):
                    body = {**BODY, "script": script}
                    async with session.post(stack.url + "/v1/chat/completions", json=body, headers=headers) as answer:
                        await answer.read()
                        return answer.status
            except TimeoutError:
                return 0

        for repeat in range(REPEATS):
            leaves = repeat % 3 == 2
            leavers = source.randint(1, 150) if leaves else 0
            k = source.randint(1, AT_ONCE - leavers - 1)  # those who stay could use all of it
            patience = [source.uniform(0.0, 0.4) for _ in range(leavers)] + [None] * (AT_ONCE - leavers)
            source.shuffle(patience)
            end_user = f"user-{repeat}"
            # The odd micro-units cover a part of one more request, which must not run.
            await asyncio.to_thread(stack.fund, app, end_user, k * PRICE_MICRO + PRICE_MICRO - 1)
            told = Counter(await asyncio.gather(*[ask(end_user, SCRIPTS[repeat % 3], each) for each in patience]))
            if leaves:
                assert set(told) <= {200, 402, 0}, f"repeat {repeat}: {told}"
                assert told[200] <= k, f"repeat {repeat}: {told}"
            else:
                assert told == {200: k, 402: AT_ONCE - k}, f"repeat {repeat}"
            served += k
            left += told[0]
    for _ in range(300):
        [total] = stack.get("/usage", enterprise_id=app, group_by="model")["data"]
        if total["requests"] == served:
            break
        await asyncio.sleep(0.1)
    assert total["requests"] == served
    assert total["amount_micro"] == served * PRICE_MICRO
    for repeat in range(REPEATS):
        wallet = await asyncio.to_thread(stack.wallet, app, f"user-{repeat}")
        assert (wallet["available_micro"], wallet["held_micro"], wallet["debt_micro"]) == (PRICE_MICRO - 1, 0, 0)
        assert sum(lot["left_micro"] for lot in wallet["lots"]) == PRICE_MICRO - 1
    assert left or REPEATS < 3, "no client left early"
    print(f"{AT_ONCE * REPEATS} requests, {served} covered and served, {left} clients left before their answer")

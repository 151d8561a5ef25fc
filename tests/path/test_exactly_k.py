"""The promise in one test: however many ask at once, exactly those run that the wallet covers."""

import asyncio
import random
from collections import Counter

import aiohttp

from tests.path.conftest import Stack

REPEATS = 50
AT_ONCE = 300
PRICE_MICRO = 250


async def test_300_requests_at_once_on_a_wallet_that_covers_k_admit_exactly_k_fifty_times(stack: Stack) -> None:
    seed = 300_50
    print(f"seed {seed}")
    source = random.Random(seed)
    app = stack.app()
    key = stack.key(app)
    body = {"model": "flat-model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    served = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:

        async def ask(end_user: str) -> int:
            headers = {"authorization": f"Bearer {key}", "x-platform-user-id": end_user}
            async with session.post(stack.url + "/v1/chat/completions", json=body, headers=headers) as answer:
                await answer.read()
                return answer.status

        for repeat in range(REPEATS):
            k = source.randint(1, AT_ONCE - 1)
            end_user = f"user-{repeat}"
            # The odd micro-units cover a part of one more request, which must not run.
            await asyncio.to_thread(stack.fund, app, end_user, k * PRICE_MICRO + PRICE_MICRO - 1)
            statuses = Counter(await asyncio.gather(*[ask(end_user) for _ in range(AT_ONCE)]))
            assert statuses == {200: k, 402: AT_ONCE - k}, f"repeat {repeat}"
            served += k
    for _ in range(200):
        [total] = stack.get("/usage", enterprise_id=app, group_by="model")["data"]
        if total["requests"] == served:
            break
        await asyncio.sleep(0.1)
    assert total["requests"] == served
    assert total["amount_micro"] == served * PRICE_MICRO
    for repeat in range(REPEATS):
        wallet = stack.wallet(app, f"user-{repeat}")
        assert (wallet["available_micro"], wallet["held_micro"], wallet["debt_micro"]) == (PRICE_MICRO - 1, 0, 0)
        assert sum(lot["left_micro"] for lot in wallet["lots"]) == PRICE_MICRO - 1

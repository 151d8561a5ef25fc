"""Clients that ask without end, and remember what they were told."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

import aiohttp

from tests.chaos.house import USERS

KINDS = {  # model, whether streamed, how many in twenty
    "plain": ("ok:tokens=3", False, 7),
    "slow": ("slow:25", False, 3),
    "stream": ("ok:tokens=6,ms=4", True, 5),
    "fails": ("status:500", False, 2),
    "breaks": ("die-midstream", True, 1),
    "leaves": ("ok:tokens=12,ms=4", True, 2),
}


@dataclass
class Asked:
    """One request, and what its client saw of the answer. Never asked again: a second try is another request."""

    marker: str
    kind: str
    user: str
    at: float
    status: int = 0
    request_id: str = ""
    cost_micro: int = -1
    is_whole: bool = False  # the answer was read to its end
    broke: bool = False  # the end was an error event
    left: bool = False


class Clients:
    """`count` clients, each one request after the other, until `stop`."""

    def __init__(self, url: str, key: str, chance: random.Random, name: str, count: int = 8) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {key}", "x-include-cost": "true"}
        self._chance = chance
        self._name = name
        self._count = count
        self._stopping = False
        self.asked: list[Asked] = []

    async def __aenter__(self) -> "Clients":
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=False), timeout=aiohttp.ClientTimeout(total=30)
        )
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Let every request under way end, and ask no more."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._http.close()

    def answered_since(self, at: float) -> int:
        return sum(asked.status == 200 and asked.is_whole and asked.at > at for asked in self.asked)

    def told(self) -> Counter[int]:
        return Counter(asked.status for asked in self.asked)

    async def _client(self) -> None:
        names, weights = list(KINDS), [kind[2] for kind in KINDS.values()]
        while not self._stopping:
            [kind] = self._chance.choices(names, weights)
            user = f"user-{self._chance.randrange(USERS)}"
            asked = Asked(f"{self._name}-{len(self.asked)}", kind, user, asyncio.get_running_loop().time())
            self.asked.append(asked)
            try:
                await self._ask(asked)
            except (aiohttp.ClientError, TimeoutError, OSError, EOFError, json.JSONDecodeError):
                await asyncio.sleep(0.1)
            if asked.status == 503:
                await asyncio.sleep(0.02)

    async def _ask(self, asked: Asked) -> None:
        model, streamed, _ = KINDS[asked.kind]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": asked.marker}],
            "max_tokens": 20,
            "stream": streamed,
        }
        headers = {**self._headers, "x-platform-user-id": asked.user, "x-session-id": asked.marker}
        async with self._http.post(self._url + "/v1/chat/completions", json=body, headers=headers) as answer:
            asked.request_id = answer.headers.get("x-request-id", "")
            asked.status = answer.status
            if asked.kind == "leaves" and answer.status == 200:
                await answer.content.readany()
                asked.left = True
                answer.close()
                return
            text = (await answer.read()).decode()
        if streamed and answer.status == 200:
            frames = [frame for frame in text.split("\n\n") if frame]
            asked.broke = frames[-1].startswith("event: error")
            asked.is_whole = asked.broke or frames[-1] == "data: [DONE]"
            if frames[-1] == "data: [DONE]":
                usage = json.loads(frames[-2].removeprefix("data: "), parse_float=str)["usage"]
                if "cost" in usage:  # it is not told when the settlement could not be made at once
                    asked.cost_micro = _micro(usage["cost"])
            return
        json.loads(text)
        asked.is_whole = True
        if answer.status == 200:
            asked.cost_micro = _micro(answer.headers["x-mozaiks-cost"])


def _micro(told: str | int) -> int:
    amount = Decimal(told) * 1_000_000
    assert amount == int(amount)
    return int(amount)

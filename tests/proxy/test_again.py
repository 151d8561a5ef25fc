"""What is kept of an answer to be given again, and for whom it counts as kept."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.tasks import Tasks
from gateway.identity.model import AnswerCache
from gateway.providers.model import Deployment, Route
from gateway.proxy.again import Again, Answers
from gateway.proxy.chat import Chat
from tests.proxy.test_exchange import PRINCIPAL, Reply

CACHING = replace(PRINCIPAL, app=replace(PRINCIPAL.app, answer_cache=AnswerCache(ttl_s=60)))
DEPLOYMENT = Deployment("m/openai/0", "openai", "small", "http://127.0.0.1:1/v1", "sk-made-up")
COUNTS = (3, 0, 0, 0, 5)


class Shelf:
    """Kept answers of one app, in memory."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}

    async def find(self, enterprise_id: str, digest: bytes) -> bytes | None:
        return self.held.get(digest)

    async def keep(self, enterprise_id: str, digest: bytes, value: bytes, ttl_s: int) -> None:
        self.held[digest] = value


class House:
    def __init__(self) -> None:
        self.tasks = Tasks()
        self.answers = Answers(Shelf(), self.tasks, lambda: 0)

    async def look(self, deployment: Deployment = DEPLOYMENT) -> tuple[Again, Route]:
        request = Chat().parse(b'{"model": "m", "messages": [{"role": "user", "content": "one"}]}', b"application/json")
        again, route = await self.answers.look(None, request, CACHING, "ann", Route("m", (deployment,)))
        assert again is not None
        return again, route

    async def answered(self, *body: bytes) -> None:
        again, route = await self.look()
        reply = again.recorded(Reply(list(body)))
        await reply.relay(lambda _: True)
        self.answers.keep(again, route, DEPLOYMENT, COUNTS, "")
        await self.tasks.finish(5)


@pytest.mark.parametrize(
    "body",
    [
        [b'{"error": {"message": "Provider returned error", "code": 502}}'],
        [b'{"error":"no"}'],
        [b'data: {"choices": []}\n\n', b'data: {"err', b'or":{"message":"no"}}\n\n'],
        [b'{"status": "failed", "output": []}'],
        [b'{"status": "incomplete", "output": []}'],
        [b'event: response.failed\ndata: {"type": "response.failed"}\n\n'],
    ],
)
async def test_what_says_that_it_failed_is_not_given_again(body: list[bytes]) -> None:
    house = House()
    await house.answered(*body)
    assert (await house.look())[0].hit is None


@pytest.mark.parametrize(
    "body", [{"error": None, "status": "completed"}, {"choices": [{"message": {"content": 'an "error": {"type":"error"}'}}]}]
)
async def test_an_answer_that_speaks_of_errors_is_given_again(body: dict[str, Any]) -> None:
    house = House()
    await house.answered(json.dumps(body).encode())
    hit = (await house.look())[0].hit
    assert hit is not None
    assert (json.loads(hit.body), hit.counts) == (body, COUNTS)


@pytest.mark.parametrize("other", [{"model": "LARGE"}, {"api_base": "http://127.0.0.1:2/v1"}, {"id": "m/openai/1"}])
async def test_another_deployment_at_the_same_place_has_kept_nothing(other: dict[str, str]) -> None:
    house = House()
    await house.answered(b"{}")
    assert (await house.look())[0].hit is not None
    assert (await house.look(replace(DEPLOYMENT, **other)))[0].hit is None

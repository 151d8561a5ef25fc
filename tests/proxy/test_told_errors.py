"""An answer with status 200 that is an error is a failure of its deployment, and its words lose what nobody may see."""

from typing import Any

import msgspec
import pytest

from gateway.core.errors import GatewayError
from gateway.providers.model import UpstreamFault
from gateway.proxy.audio import Transcriptions, Translations
from gateway.proxy.chat import Chat, Completions, Embeddings
from gateway.proxy.images import Edits, Generations
from gateway.proxy.messages import Messages
from gateway.proxy.ranking import Moderations, Rerank
from gateway.proxy.responses import Responses
from tests.proxy.test_attempts import Many, good
from tests.proxy.test_exchange import KEY, House, Reply

ERROR = {"error": {"message": "Upstream idle", "code": 502}}
MEDIA: Any = (lambda _: None, lambda _: True)
ANSWERS: list[tuple[Any, dict[str, Any]]] = [
    (Chat(), {"choices": [{"message": {"content": "x"}}]}),
    (Completions(), {"choices": [{"text": "x"}]}),
    (Embeddings(), {"data": [{"embedding": [0.5]}]}),
    (Messages(), {"content": [{"type": "text", "text": "x"}]}),
    (Responses(None, None, lambda _: None), {"output": [{"type": "message"}]}),  # type: ignore[arg-type]
    (Generations(*MEDIA), {"data": [{"url": "u"}]}),
    (Edits(*MEDIA), {"data": [{"url": "u"}]}),
    (Transcriptions(*MEDIA), {"text": "x"}),
    (Translations(*MEDIA), {"text": "x"}),
    (Moderations(*MEDIA), {"results": [{"flagged": False}]}),
    (Rerank(*MEDIA), {"results": [{"index": 0}]}),
]


@pytest.mark.parametrize(("surface", "answer"), ANSWERS, ids=[type(surface).__name__ for surface, _ in ANSWERS])
def test_every_surface_knows_an_error_from_an_answer(surface: Any, answer: dict[str, Any]) -> None:
    empty = {name: type(value)() for name, value in answer.items()}
    for error in (ERROR, {"error": "Upstream idle"}, {**empty, **ERROR}):
        with pytest.raises((UpstreamFault, msgspec.ValidationError)) as told:  # the latter: not even its members are there
            surface.told(msgspec.json.encode(error))
        if isinstance(told.value, UpstreamFault):
            assert told.value.reason == "it answered with an error: Upstream idle"
    for whole in (answer, {**answer, "error": None}, {**answer, **ERROR}):
        surface.told(msgspec.json.encode(whole))


def test_a_response_that_failed_is_a_response() -> None:
    failed: dict[str, Any] = {"status": "failed", "output": [], "usage": None, **ERROR}
    Responses(None, None, lambda _: None).told(msgspec.json.encode(failed))  # type: ignore[arg-type]


def error_reply(message: str) -> Reply:
    return Reply([msgspec.json.encode({"error": {"message": message, "code": 401}})], kind="application/json")


@pytest.mark.parametrize("streamed", [False, True])
async def test_another_deployment_answers_in_its_place(streamed: bool) -> None:
    house = Many({"a": [error_reply("no instance")], "b": [good()]})
    await house.run(stream=streamed, max_tokens=50)
    assert house.asked_in_turn() == ["a", "b"]
    assert b"hello" in house.body()
    assert b"no instance" not in house.body()
    assert await house.wallet() == (1_000_000 - 108, 0)


async def test_when_nobody_else_serves_it_is_a_502_that_nobody_pays_without_keys_and_addresses() -> None:
    house = House(error_reply(f"bad key {KEY} at http://models.internal/v1, 10.1.2.3:8000 (Bearer other)"))
    house.deployment = msgspec.structs.replace(house.deployment, api_base="http://models.internal/v1")
    with pytest.raises(GatewayError) as failed:
        await house.run(max_tokens=50)
    assert (failed.value.status, failed.value.code) == (502, "upstream_error")
    cleaned = "bad key [removed] at [removed], [removed] ([removed]"
    assert failed.value.message == f"The provider failed: it answered with an error: {cleaned}."
    assert await house.wallet() == (1_000_000, 0)

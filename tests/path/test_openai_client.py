"""The unmodified `openai` client against the gateway: only `base_url` and a key are ours."""

from typing import Any

import openai
import pytest
from anthropic import Anthropic
from anthropic import NotFoundError as AnthropicNotFound
from openai import AsyncOpenAI, OpenAI

from tests.path.conftest import Stack

SAY: list[Any] = [{"role": "user", "content": "say it"}]
RETRIES = 0


@pytest.fixture
def app(stack: Stack) -> str:
    enterprise_id = stack.app()
    stack.fund(enterprise_id, "ann", 1_000_000)
    return enterprise_id


@pytest.fixture
def client(stack: Stack, app: str) -> OpenAI:
    return OpenAI(
        base_url=stack.url + "/v1",
        api_key=stack.key(app),
        max_retries=RETRIES,
        default_headers={"X-Platform-User-Id": "ann"},
    )


def chat(client: OpenAI, model: str = "ok", **fields: Any) -> Any:
    return client.chat.completions.create(model=model, messages=SAY, **fields)


def test_a_chat_is_answered_charged_and_recorded(stack: Stack, app: str, client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="ok:tokens=20",
        messages=[{"role": "user", "content": "one two three"}],
        extra_headers={"X-Workflow-Type": "build", "X-Session-Id": "s1", "X-Agent-Name": "planner", "X-Tags": "a, b"},
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "".join(f" tok{n}" for n in range(20))
    assert answer.usage is not None
    prompt = answer.usage.prompt_tokens
    cost_micro = -(-(prompt * 1_000_000 + 20 * 10_000_000) // 1_000_000)
    assert raw.headers["x-mozaiks-cost"] == f"{cost_micro / 1e6:.6f}".rstrip("0")
    assert raw.headers["x-mozaiks-balance"] == f"{(1_000_000 - cost_micro) / 1e6:.6f}".rstrip("0")
    assert raw.headers["x-mozaiks-level"] == "app_usage"
    assert raw.headers["x-request-id"].startswith("req_")
    [event] = stack.events(app, 1)
    assert event["request_id"] == raw.headers["x-request-id"]
    assert event["amount_micro"] == cost_micro
    assert event["platform_user_id"] == "ann"
    assert event["tokens_used"] == prompt + 20
    assert (event["workflow_type"], event["session_id"], event["agent_name"]) == ("build", "s1", "planner")
    assert event["tags"] == ["a", "b"]
    assert event["usage_source"] == "upstream"
    wallet = stack.wallet(app, "ann")
    assert (wallet["available_micro"], wallet["held_micro"]) == (1_000_000 - cost_micro, 0)


def test_a_stream_arrives_whole_and_hides_the_usage_that_nobody_asked_for(stack: Stack, app: str, client: OpenAI) -> None:
    chunks = list(chat(client, "ok:tokens=7", stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(f" tok{n}" for n in range(7))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    [event] = stack.events(app, 1)
    assert event["streamed"]
    assert event["usage_source"] == "upstream"
    assert event["amount_micro"] > 0


def test_a_stream_with_usage_carries_its_cost_and_the_balance(stack: Stack, app: str, client: OpenAI) -> None:
    chunks = list(chat(client, "ok:tokens=7", stream=True, stream_options={"include_usage": True}))
    last = chunks[-1]
    assert last.choices == []
    assert last.usage.completion_tokens == 7
    [event] = stack.events(app, 1)
    assert round(last.usage.cost * 1_000_000) == event["amount_micro"]
    assert round(last.usage.balance * 1_000_000) == 1_000_000 - event["amount_micro"]


def test_tool_calls_pass(client: OpenAI) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    answer = chat(client, "tools", tools=tools)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls[0].function.name
    streamed = list(chat(client, "tools", tools=tools, stream=True))
    assert any(chunk.choices[0].delta.tool_calls for chunk in streamed)


def test_completions_and_embeddings_are_metered(stack: Stack, app: str, client: OpenAI) -> None:
    text = client.completions.create(model="ok:tokens=3", prompt="one two")
    assert text.usage is not None
    vectors = client.embeddings.create(model="ok", input=["one two", "three"])
    assert len(vectors.data) == 2
    events = {event["endpoint"]: event for event in stack.events(app, 2)}
    assert events["/completions"]["output_tokens"] == 3
    assert events["/embeddings"]["output_tokens"] == 0
    assert events["/embeddings"]["amount_micro"] > 0


def test_a_text_completion_streams(client: OpenAI) -> None:
    parts = list(client.completions.create(model="ok:tokens=3", prompt="one two", stream=True))
    assert "".join(part.choices[0].text for part in parts if part.choices) == " tok0 tok1 tok2"


def test_models_are_listed_for_the_key_that_asks(stack: Stack, app: str, client: OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {"flat-model", "unsized-model"} <= listed
    assert "unpriced-model" not in listed  # it would be refused
    narrow = OpenAI(base_url=stack.url + "/v1", api_key=stack.key(app, models=["unsized-*"]))
    assert {model.id for model in narrow.models.list()} == {"unsized-model"}
    assert client.models.retrieve("unsized-model").id == "unsized-model"
    with pytest.raises(openai.NotFoundError):
        narrow.models.retrieve("flat-model")


def test_an_address_that_has_v1_twice_says_what_to_do(stack: Stack, app: str) -> None:
    anthropic = Anthropic(base_url=stack.url + "/v1", api_key=stack.key(app), max_retries=0)
    with pytest.raises(AnthropicNotFound, match="/v1 twice: leave it out of the client's base_url"):
        anthropic.messages.create(model="ok", max_tokens=5, messages=[{"role": "user", "content": "one"}])


@pytest.mark.asyncio
async def test_the_async_client_works_alike(stack: Stack, app: str) -> None:
    async with AsyncOpenAI(
        base_url=stack.url + "/v1", api_key=stack.key(app), max_retries=RETRIES, default_headers={"X-Platform-User-Id": "ann"}
    ) as client:
        answer = await client.chat.completions.create(model="ok:tokens=2", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == " tok0 tok1"
        text = ""
        async for chunk in await client.chat.completions.create(
            model="ok:tokens=2", messages=[{"role": "user", "content": "hi"}], stream=True
        ):
            text += chunk.choices[0].delta.content or ""
        assert text == " tok0 tok1"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nothing-here")


def test_each_refusal_is_the_clients_own_exception(stack: Stack, app: str, client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as wrong_key:
        chat(client.with_options(api_key="mzk_live_01m8242g3f9n06vfsmq3vsp8ah_made-up-and-forged"))
    assert wrong_key.value.code == "invalid_api_key"
    with pytest.raises(openai.APIStatusError) as broke:
        chat(client.with_options(default_headers={"X-Platform-User-Id": "bob"}))
    assert broke.value.status_code == 402
    assert broke.value.code == "insufficient_balance"
    body: Any = broke.value.body
    assert (body["level"], body["limit_source"], body["balance"]) == ("app_usage", "end_user", "0")
    with pytest.raises(openai.APIStatusError) as unpriced:
        chat(client, "unpriced-model")
    assert (unpriced.value.status_code, unpriced.value.code) == (402, "unpriced_model")
    with pytest.raises(openai.BadRequestError) as nobody:
        chat(client.with_options(default_headers={"X-Platform-User-Id": ""}))
    assert nobody.value.code in ("missing_end_user", "invalid_request")
    with pytest.raises(openai.BadRequestError) as empty:
        client.chat.completions.create(model="ok", messages=[])
    assert empty.value.param == "messages"
    narrow = client.with_options(api_key=stack.key(app, models=["other"]))
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        chat(narrow)
    assert forbidden.value.code == "model_not_allowed"
    slow = client.with_options(api_key=stack.key(app, limits={"rpm": 1}))
    chat(slow)
    with pytest.raises(openai.RateLimitError) as limited:
        chat(slow)
    assert limited.value.code == "rate_limit_exceeded"
    assert int(limited.value.response.headers["retry-after"]) >= 1


def test_an_unknown_model_is_not_found(stack: Stack, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("never-heard-of")
    assert missing.value.code == "model_not_found"


def test_fields_that_the_gateway_does_not_know_survive_both_ways(client: OpenAI) -> None:
    answer = chat(client, "echo", extra_body={"vendor_option": {"deep": [1, 2.5, None]}, "seed": 7})
    assert '"vendor_option"' in answer.choices[0].message.content
    assert "2.5" in answer.choices[0].message.content

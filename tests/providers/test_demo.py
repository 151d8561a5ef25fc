"""The demo model beyond the contract: true counts, stop, tools, streams that a person sees, and the official client."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from gateway.providers.demo import DemoUpstream
from gateway.providers.model import Deployment
from gateway.providers.tokenizer import O200K, encode
from tests.replies import chunks

DEMO = Deployment(id="demo/demo/0", provider="demo", model="demo", api_base="", api_key="")
CHAT = "/chat/completions"


async def ask(body: dict[str, Any], path: str = CHAT, status: int = 200) -> dict[str, Any]:
    reply = await DemoUpstream(pause_s=0).send(DEMO, path, json.dumps({"model": "demo", **body}).encode())
    assert reply.status == status
    found: dict[str, Any] = json.loads(await reply.read(60))
    return found


def user(text: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


async def test_it_quotes_the_users_last_words_and_counts_its_own_tokens_truly() -> None:
    answer = await ask(
        {"messages": [*user("first")["messages"], {"role": "assistant", "content": "x"}, *user("my last words")["messages"]]}
    )
    text = answer["choices"][0]["message"]["content"]
    assert '"my last words"' in text
    assert "first" not in text.partition("Before")[0]
    assert answer["usage"]["completion_tokens"] == len(encode(O200K, text))
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_parts_of_a_message_are_read() -> None:
    parts = [
        {"type": "text", "text": "look at"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "this"},
    ]
    assert '"look at this"' in (await ask(user(parts)))["choices"][0]["message"]["content"]


async def test_a_cut_inside_a_character_still_gives_text() -> None:
    for cap in range(10, 40):
        answer = await ask(user("🧑‍🚀🦄 ߷ẞ" * 5, max_tokens=cap))
        assert answer["usage"]["completion_tokens"] == cap
        assert answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stop", ["gateway", ["nothing", "gateway"]])
async def test_stop_ends_the_answer_before_it(stop: Any) -> None:
    answer = await ask(user("hi", stop=stop))
    assert answer["choices"][0]["message"]["content"].endswith("Mozaiks ")
    assert answer["choices"][0]["finish_reason"] == "stop"


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 6},
        "unit": {"enum": ["c", "f"]},
        "days": {"type": "integer", "minimum": 2},
        "where": {"$ref": "#/$defs/Place"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "maybe": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        "unwanted": {"type": "string"},
    },
    "$defs": {"Place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}},
    "required": ["city", "unit", "days", "where", "tags", "maybe"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "time"}},
]
FITTING = {"city": "demooo", "unit": "c", "days": 2, "where": {"lat": 1}, "tags": ["demo", "demo"], "maybe": None}


@pytest.mark.parametrize(
    ("more", "text", "called"),
    [
        ({"tool_choice": "required"}, "hi", "weather"),
        ({"tool_choice": {"type": "function", "function": {"name": "time"}}}, "hi", "time"),
        ({}, "Please use the tool now", "weather"),
        ({"tool_choice": "auto"}, "USE THE TOOL", "weather"),
        ({"tool_choice": "none"}, "use the tool", None),
        ({"tool_choice": "auto"}, "hi", None),
        ({"tool_choice": {"type": "function", "function": {"name": "unknown"}}}, "hi", None),
    ],
)
async def test_it_calls_a_tool_when_it_must_or_is_asked_to(more: dict[str, Any], text: str, called: str | None) -> None:
    choice = (await ask(user(text, tools=TOOLS, **more)))["choices"][0]
    if called is None:
        assert "tool_calls" not in choice["message"]
        assert choice["finish_reason"] == "stop"
        return
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    function = choice["message"]["tool_calls"][0]["function"]
    assert function["name"] == called
    assert json.loads(function["arguments"]) == (FITTING if called == "weather" else {})


async def test_it_answers_with_what_the_tool_said() -> None:
    history = [
        *user("use the tool")["messages"],
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "call_1", "content": "17 degrees"},
    ]
    message = (await ask({"messages": history, "tools": TOOLS}))["choices"][0]["message"]
    assert '"17 degrees"' in message["content"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages"),
        (user("x", n=0), "n"),
        (user("x", n=129), "n"),
        (user("x", max_tokens=0), "max_tokens"),
        (user("x", max_completion_tokens="5"), "max_completion_tokens"),
    ],
)
async def test_a_malformed_request_is_a_400_that_names_the_parameter(body: dict[str, Any], param: str) -> None:
    assert (await ask(body, status=400))["error"]["param"] == param


@pytest.mark.parametrize("body", [{"input": ""}, {"input": []}, {"input": [None]}, {}, {"input": "x", "dimensions": 0}])
async def test_a_malformed_embedding_request_is_a_400(body: dict[str, Any]) -> None:
    await ask(body, "/embeddings", 400)


async def test_what_is_not_json_or_not_an_endpoint_is_refused() -> None:
    assert (await DemoUpstream().send(DEMO, CHAT, b"[")).status == 400
    assert (await DemoUpstream().send(DEMO, CHAT, b"[" * 100_000)).status == 400
    assert (await DemoUpstream().send(DEMO, "/images", b"{}")).status == 404


async def test_embeddings_are_the_same_for_the_same_text_and_honour_dimensions() -> None:
    found = (await ask({"input": ["a", "a", "b"], "dimensions": 16}, "/embeddings"))["data"]
    vectors = [item["embedding"] for item in found]
    assert vectors[0] == vectors[1] != vectors[2]
    assert len(vectors[0]) == 16
    assert (await ask({"input": [[1, 2], [3]]}, "/embeddings"))["usage"]["prompt_tokens"] == 3


async def test_a_stream_pauses_between_tokens_so_that_a_person_sees_it() -> None:
    await ask(user("warm up the tokenizer"))
    started = time.monotonic()
    reply = await DemoUpstream(pause_s=0.01).send(DEMO, CHAT, json.dumps(user("x", max_tokens=10, stream=True)).encode())
    arrivals = [time.monotonic() - started async for _ in chunks(reply)]
    assert len(arrivals) == 13
    assert arrivals[-1] - arrivals[0] >= 0.1


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, on a transport that hands requests to the demo model."""

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            reply = await DemoUpstream(pause_s=0).send(DEMO, request.url.path.removeprefix("/v1"), await request.aread())
            return httpx.Response(reply.status, headers=dict(reply.headers), content=chunks(reply))

    async with httpx.AsyncClient(transport=Transport()) as http:
        yield openai.AsyncOpenAI(api_key="x", base_url="http://demo/v1", http_client=http, max_retries=0)


async def test_the_official_client_understands_every_answer(client: openai.AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "hi"}])
    assert chat.usage is not None
    assert chat.choices[0].message.content
    embedded = await client.embeddings.create(model="demo", input="hi", dimensions=8)
    assert len(embedded.data[0].embedding) == 8
    completed = await client.completions.create(model="demo", prompt="hi")
    assert completed.choices[0].text


async def test_the_official_client_puts_a_streamed_tool_call_together(client: openai.AsyncOpenAI) -> None:
    # The helper insists on `strict`, which changes nothing here.
    tools: Any = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]  # type: ignore[dict-item]
    async with client.chat.completions.stream(
        model="demo",
        messages=[{"role": "user", "content": "use the tool"}],
        tools=tools,
        stream_options={"include_usage": True},
    ) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert json.loads(calls[0].function.arguments) == FITTING
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.usage is not None
    assert final.usage.completion_tokens > 0


async def test_leaving_a_stream_early_is_harmless() -> None:
    reply = await DemoUpstream(pause_s=5).send(DEMO, CHAT, json.dumps(user("x", stream=True)).encode())

    async def drain() -> None:
        async for _ in chunks(reply):
            pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(drain(), 0.05)
    await reply.close()

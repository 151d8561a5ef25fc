"""One conversation, whichever way it goes: the client gets the same, and the books the right kinds of tokens.

A picture and a question, a call of a tool, its result, an answer in the shape of a schema; whole and streamed; asked for with the
official clients of three surfaces; at servers that say the same in dialects of their own. And, of the same gateway, which
surfaces each provider serves: the table of docs/providers.md.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.path import surface_table
from tests.path.conftest import ROOT, Process, Stack, plain_env, start_gateway

FUNDS_MICRO = 10**12
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SAID = "What is the weather in the place of this picture?"
RESULT = "18 degrees, and sunny"
ABOUT_TOOL, ABOUT_ANSWER = "Looks at the sky.", "Where it is."
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
SHAPE: dict[str, Any] = {**PLACE, "properties": {"city": {"type": "string", "description": ABOUT_ANSWER}}}
CALLED: dict[str, Any] = {"call": ("weather", {"city": "Paris"})}
ANSWERED: dict[str, Any] = {"answer": {"city": "Paris"}}

# USD per million tokens: what was thought costs what is said, and a picture what is written, so every way costs the same.
PRICES = {"input": "1", "cached_input": "0.5", "output": "10"}
AMOUNT_MICRO = 410  # 90 * 1 + 40 * 0.5 + 30 * 10
KINDS = {"input": 90, "cached_input": 40, "output": 18, "reasoning": 12}
BY_GEMINI = {"input": 70, "cached_input": 40, "image_input": 20, "output": 18, "reasoning": 12}

CHAT, MESSAGES, RESPONSES = "/chat/completions", "/messages", "/responses"
WHOLE, STREAMED = ":generateContent", ":streamGenerateContent"
# By model and surface: where the provider is asked, whole and streamed, and what it counts.
WAYS: dict[tuple[str, str], tuple[tuple[str, str], dict[str, int]]] = {
    ("bytes", "chat"): ((CHAT, CHAT), KINDS),
    ("bytes", "messages"): ((CHAT, CHAT), KINDS),
    ("bytes", "responses"): ((CHAT, CHAT), KINDS),
    ("spoken", "messages"): ((MESSAGES, MESSAGES), KINDS),
    ("spoken", "responses"): ((RESPONSES, RESPONSES), KINDS),
    ("claude", "chat"): ((MESSAGES, MESSAGES), KINDS),
    ("claude", "messages"): ((MESSAGES, MESSAGES), KINDS),
    ("claude", "responses"): ((MESSAGES, MESSAGES), KINDS),
    ("gemini", "chat"): ((WHOLE, STREAMED), BY_GEMINI),
    ("gemini", "messages"): ((WHOLE, STREAMED), BY_GEMINI),
    ("gemini", "responses"): ((WHOLE, STREAMED), BY_GEMINI),
}


@pytest.fixture(scope="module")
def providers_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("providers") / "log"
    process = Process([sys.executable, "-m", "tests.scripted_providers", "--port", "0"], plain_env(), log)
    try:
        port = process.wait_for(r"port (\d+)").group(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream_url: str, providers_url: str) -> Iterator[Stack]:
    def model(name: str, provider: str, model: str, base: str, **more: Any) -> dict[str, Any]:
        given = {"provider": provider, "model": model, "api_base": providers_url + base, "output_tokens_max": 1000, **more}
        return {"name": name, "deployments": [{**given, "api_key": surface_table.SECRET}], "prices": PRICES}

    models = [
        model("bytes", "openai", "m", "/v1"),
        model("spoken", "openai", "m", "/v1", speaks=["messages", "responses"]),
        model("claude", "anthropic", "claude-sonnet-4-5", "/v1"),
        model("gemini", "gemini", "gemini-2.5-flash", ""),
        *surface_table.models(providers_url),
    ]
    stack = start_gateway(tmp_path_factory.mktemp("house"), upstream_url, more_models=models)
    try:
        yield stack
    finally:
        stack.admin.close()
        stack.process.stop()


@pytest.fixture
def app(house: Stack) -> str:
    enterprise_id = house.app()
    house.fund(enterprise_id, "ann", FUNDS_MICRO)
    return enterprise_id


@pytest.fixture
def headers(house: Stack, app: str) -> dict[str, str]:
    return {"authorization": f"Bearer {house.key(app)}", "x-platform-user-id": "ann"}


# ---- the conversation, as each client says it --------------------------------------------------------------------------------


def chat(client: OpenAI, model: str, asked: str, *, answered: bool, streamed: bool) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    said: list[Any] = [{"role": "user", "content": [{"type": "text", "text": asked}, picture]}]
    function = {"name": "weather", "description": ABOUT_TOOL, "parameters": PLACE, "strict": True}
    fields: Any = {"model": model, "messages": said, "tools": [{"type": "function", "function": function}]}
    if answered:
        call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
        said += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "content": RESULT}]
        schema = {"name": "place", "strict": True, "schema": SHAPE}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    if streamed:
        with client.chat.completions.stream(**fields) as stream:
            choice: Any = stream.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**fields).choices[0]
    assert choice.finish_reason == ("stop" if answered else "tool_calls")
    if answered:
        return {"answer": json.loads(choice.message.content)}
    (made,) = choice.message.tool_calls
    return {"call": (made.function.name, json.loads(made.function.arguments))}


def messages(client: Anthropic, model: str, asked: str, *, answered: bool, streamed: bool) -> dict[str, Any]:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    said: list[Any] = [{"role": "user", "content": [{"type": "text", "text": asked}, picture]}]
    tools = [{"name": "weather", "description": ABOUT_TOOL, "input_schema": PLACE}]
    fields: Any = {"model": model, "messages": said, "tools": tools, "max_tokens": 500}
    if answered:
        call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": RESULT}
        said += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        fields["output_config"] = {"format": {"type": "json_schema", "schema": SHAPE}}
    if streamed:
        with client.messages.stream(**fields) as stream:
            message: Any = stream.get_final_message()
    else:
        message = client.messages.create(**fields)
    assert message.stop_reason == ("end_turn" if answered else "tool_use")
    (block,) = message.content
    return {"answer": json.loads(block.text)} if answered else {"call": (block.name, block.input)}


def responses(client: OpenAI, model: str, asked: str, *, answered: bool, streamed: bool) -> dict[str, Any]:
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"}
    said: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": asked}, picture]}]
    tool = {"type": "function", "name": "weather", "description": ABOUT_TOOL, "parameters": PLACE, "strict": True}
    fields: Any = {"model": model, "input": said, "tools": [tool]}
    if answered:
        said.append({"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'})
        said.append({"type": "function_call_output", "call_id": "call_1", "output": RESULT})
        fields["text"] = {"format": {"type": "json_schema", "name": "place", "strict": True, "schema": SHAPE}}
    if streamed:
        with client.responses.stream(**fields) as stream:
            response: Any = stream.get_final_response()
    else:
        response = client.responses.create(**fields)
    assert response.status == "completed"
    (item,) = [each for each in response.output if each.type != "reasoning"]
    return {"answer": json.loads(response.output_text)} if answered else {"call": (item.name, json.loads(item.arguments))}


SURFACES: Final[dict[str, Callable[..., dict[str, Any]]]] = {"chat": chat, "messages": messages, "responses": responses}


@pytest.mark.parametrize(("model", "surface"), WAYS)
def test_the_same_conversation_has_the_same_content_kinds_and_cost_on_every_way(
    house: Stack, app: str, headers: dict[str, str], providers_url: str, model: str, surface: str
) -> None:
    paths, kinds = WAYS[model, surface]
    key = headers["authorization"].removeprefix("Bearer ")
    shared: Any = {"api_key": key, "max_retries": 0, "timeout": 60, "default_headers": {"x-platform-user-id": "ann"}}
    client: Any = (
        Anthropic(base_url=house.url, **shared) if surface == "messages" else OpenAI(base_url=house.url + "/v1", **shared)
    )
    for streamed in (False, True):
        for answered in (False, True):
            asked = f"{SAID} ({model} {surface} {streamed} {answered})"
            told = SURFACES[surface](client, model, asked, answered=answered, streamed=streamed)
            assert told == (ANSWERED if answered else CALLED)
            (seen,) = [each for each in journal(providers_url) if json.dumps(asked)[1:-1] in each["text"]]
            assert seen["path"].endswith(paths[streamed])
            for words in (PIXEL, ABOUT_TOOL, *((RESULT, ABOUT_ANSWER) if answered else ())):
                assert words in seen["text"], words
    for row in house.events(app, 4):
        assert row["units"] == kinds, row
        assert (row["usage_source"], row["flags"], row["amount_micro"]) == ("upstream", [], AMOUNT_MICRO)


def journal(providers_url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(providers_url + "/journal").json()["requests"]
    return found


# ---- the table ---------------------------------------------------------------------------------------------------------------


def test_the_table_of_surfaces_by_provider_is_what_they_serve(house: Stack, headers: dict[str, str]) -> None:
    rows = asyncio.run(surface_table.asked(house.url, headers))
    listed = httpx.get(house.url + "/v1/models", headers=headers).json()["data"]
    surfaces = {model["id"]: model["surfaces"] for model in listed}
    assert surface_table.claimed_too_much(surfaces, rows) == []
    chats = {"/chat/completions", "/completions", "/messages", "/messages/count_tokens", "/responses"}
    assert set(surfaces["claude"]) == chats
    assert set(surfaces[f"row-{len(rows) - 1}"]) == {*chats, "/embeddings"}  # the demo model
    table = surface_table.table(rows)
    document = (ROOT / "docs" / "providers.md").read_text()
    told = document.partition("<!-- the table -->\n")[2].partition("\n<!-- end of the table -->")[0]
    assert told == table, f"docs/providers.md does not say what is so. It is:\n\n{table}\n"

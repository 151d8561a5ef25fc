"""`/v1/messages` through a whole gateway, with the unmodified `anthropic` client: native, translated, and the demo model."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import OpenAI

from tests.path.conftest import Process, Stack, plain_env, start_gateway

# USD per million tokens. What one scripted answer costs is counted by hand from the counts in `tests/scripted_dialects.py`.
CLAUDE_PRICES = {"input": "3", "cached_input": "0.30", "cache_write": "3.75", "cache_write_1h": "6", "output": "15"}
CLAUDE_MICRO = 845  # 100 * 3 + 40 * 0.30 + 30 * 3.75 + 20 * 6 + 20 * 15 = 844.5, rounded up
# Its stream tells the ages of what was cached in `message_start` alone, as Anthropic does: the same.
FUNDS_MICRO = 100_000_000
SECRET = "sk-ant-made-up-secret"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
HTTP = httpx.Client(timeout=60)
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search"}
FETCH: Any = {"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 2, "max_content_tokens": 1000}
TOOL: Any = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}


@pytest.fixture(scope="module")
def dialects_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("dialects") / "log"
    process = Process([sys.executable, "-m", "tests.scripted_dialects", "--port", "0"], plain_env(), log)
    try:
        port = process.wait_for(r"port (\d+)").group(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, upstream_url: str, dialects_url: str) -> Iterator[Stack]:
    claude = {"provider": "anthropic", "model": "claude-sonnet-4-5", "api_base": dialects_url + "/v1", "api_key": SECRET}
    local = {"provider": "openai", "model": "local", "api_base": dialects_url + "/v1", "api_key": SECRET, "speaks": ["messages"]}
    gemini = {"provider": "gemini", "model": "gemini-2.5-flash", "api_base": dialects_url, "api_key": SECRET}
    chats = {"provider": "openai", "model": "ok:tokens=5", "api_base": upstream_url, "api_key": "sk-made-up-upstream-key"}
    models = [
        {"name": "claude", "deployments": [claude], "prices": CLAUDE_PRICES},
        {"name": "searcher", "deployments": [claude], "prices": {**CLAUDE_PRICES, "web_searches": "0.01"}},
        {"name": "narrow", "deployments": [{**claude, "limits": {"rpm": 1}}], "prices": CLAUDE_PRICES},
        {"name": "local", "deployments": [local], "prices": CLAUDE_PRICES},
        {"name": "gemini", "deployments": [gemini], "prices": {"input": "0.30", "cached_input": "0.075", "output": "2.50"}},
        {"name": "hasty", "deployments": [{**claude, "first_byte_timeout_s": 0.3}], "prices": CLAUDE_PRICES},
        {"name": "backed", "deployments": [claude], "fallbacks": ["chats"], "prices": CLAUDE_PRICES},
        {"name": "chats", "deployments": [chats], "prices": {"input": "1", "output": "10"}},
        {"name": "demo", "deployments": [{"provider": "demo", "model": "demo"}], "prices": {"input": "0.50", "output": "2"}},
    ]
    stack = start_gateway(tmp_path_factory.mktemp("far"), upstream_url, more_models=models)
    try:
        yield stack
        print(stack.cli("audit"))
    finally:
        stack.admin.close()
        stack.process.stop()


@pytest.fixture
def app(far: Stack) -> str:
    enterprise_id = far.app()
    far.fund(enterprise_id, "ann", FUNDS_MICRO)
    return enterprise_id


@pytest.fixture
def client(far: Stack, app: str) -> Anthropic:
    headers = {"X-Platform-User-Id": "ann"}
    return Anthropic(base_url=far.url, api_key=far.key(app), max_retries=0, timeout=60, default_headers=headers)


@pytest.fixture
def chats(far: Stack, app: str) -> OpenAI:
    headers = {"X-Platform-User-Id": "ann"}
    return OpenAI(base_url=far.url + "/v1", api_key=far.key(app), max_retries=0, default_headers=headers, http_client=HTTP)


def say(client: Anthropic, model: str, text: Any, **fields: Any) -> Any:
    return client.messages.create(model=model, max_tokens=500, messages=[{"role": "user", "content": text}], **fields)


def texts(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def journal(url: str) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = HTTP.get(url + "/journal").json()["requests"]
    return requests


@pytest.mark.parametrize("model", ["claude", "local"])
def test_a_server_of_messages_is_asked_in_its_own_dialect_and_charged_to_the_micro_unit(
    far: Stack, app: str, client: Anthropic, dialects_url: str, model: str
) -> None:
    HTTP.delete(dialects_url + "/journal")
    raw = client.messages.with_raw_response.create(
        model=model, max_tokens=500, messages=[{"role": "user", "content": "hello"}], extra_body={"new_field": {"a": 1}},
        extra_headers={"anthropic-beta": "token-efficient-tools-2025-02-19, context-1m-2025-08-07"},
    )  # fmt: skip
    whole = raw.parse()
    assert texts(whole) == "Hello from afar."
    assert (whole.usage.input_tokens, whole.usage.cache_read_input_tokens, whole.usage.output_tokens) == (100, 40, 20)
    assert raw.headers["x-mozaiks-cost"] == "0.000845"
    assert raw.headers["request-id"] == raw.headers["x-request-id"] == whole._request_id
    [asked] = journal(dialects_url)
    assert asked["path"] == "/v1/messages"
    assert asked["body"]["new_field"] == {"a": 1}
    assert asked["headers"]["x-api-key"] == SECRET
    assert asked["headers"].get("authorization") == (None if model == "claude" else f"Bearer {SECRET}")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", asked["headers"]["anthropic-version"])
    assert asked["headers"]["anthropic-beta"] == "token-efficient-tools-2025-02-19,context-1m-2025-08-07"
    thinking: Any = [{"role": "user", "content": "do:thinking"}]
    headers = {"X-Include-Cost": "true"}
    with client.messages.stream(model=model, max_tokens=500, messages=thinking, extra_headers=headers) as stream:
        final: Any = stream.get_final_message()
    assert texts(final) == "Hello from afar."
    rows = far.events(app, 2)
    for row in rows:
        assert (row["endpoint"], row["usage_source"], row["amount_micro"]) == ("/messages", "upstream", CLAUDE_MICRO)
        assert (row["input_tokens"], row["output_tokens"]) == (190, 20)
    assert far.wallet(app, "ann")["available_micro"] == FUNDS_MICRO - 2 * CLAUDE_MICRO


def test_only_who_asks_sees_the_cost_in_a_stream(far: Stack, client: Anthropic) -> None:
    def last_usage(**headers: str) -> dict[str, Any]:
        events = list(say(client, "claude", "hello", stream=True, extra_headers=headers))
        assert [event.type for event in events[-2:]] == ["message_delta", "message_stop"]
        usage: dict[str, Any] = events[-2].usage.to_dict()
        return usage

    assert {name: count for name, count in last_usage().items() if count is not None} == {"output_tokens": 20}
    told = last_usage(**{"X-Include-Cost": "true"})
    assert told["cost"] == 0.000845
    assert told["balance"] == (FUNDS_MICRO - 2 * CLAUDE_MICRO) / 1e6


def test_a_chat_server_answers_in_this_dialect(far: Stack, app: str, client: Anthropic) -> None:
    whole = say(client, "chats", "one two three", system="Be brief.", stop_sequences=["STOP"], extra_body={"temperature": 0.5})
    assert (whole.type, whole.role, whole.stop_reason) == ("message", "assistant", "end_turn")
    assert texts(whole) == "".join(f" tok{n}" for n in range(5))
    with client.messages.stream(
        model="chats", max_tokens=500, messages=[{"role": "user", "content": "one two three"}]
    ) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert pieces == [f" tok{n}" for n in range(5)]
    assert (final.usage.input_tokens, final.usage.output_tokens, final.stop_reason) == (9, 5, "end_turn")
    short = say(client, "chats", "one", stream=False)
    assert short.usage.output_tokens == 5
    rows = {row["input_tokens"]: row for row in far.events(app, 3)}
    assert rows[9]["amount_micro"] == 9 * 1 + 5 * 10
    assert all(row["usage_source"] == "upstream" for row in rows.values())


def test_tools_go_there_and_back(client: Anthropic) -> None:
    for model in ("claude", "demo", "ok:tokens=3"):
        asked = "use the tool do:tools" if model != "ok:tokens=3" else "hello"
        first = say(client, model if model != "ok:tokens=3" else "tools", asked, tools=[TOOL], tool_choice={"type": "any"})
        assert first.stop_reason == "tool_use", model
        [call] = [block for block in first.content if block.type == "tool_use"]
        assert call.name == "weather"
        assert isinstance(call.input, dict)
        with client.messages.stream(
            model=model if model != "ok:tokens=3" else "tools", max_tokens=500, tools=[TOOL], tool_choice={"type": "any"},
            messages=[{"role": "user", "content": asked}],
        ) as stream:  # fmt: skip
            [streamed] = [block for block in stream.get_final_message().content if block.type == "tool_use"]
        assert (streamed.name, streamed.input) == ("weather", call.input)
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "rain"}, IMAGE]}
        answer = client.messages.create(
            model=model, max_tokens=500, tools=[TOOL],
            messages=[
                {"role": "user", "content": asked},
                {"role": "assistant", "content": first.content},
                {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
            ],
        )  # fmt: skip
        assert answer.stop_reason == "end_turn"
        assert texts(answer)


def test_an_image_and_a_schema_reach_a_chat_server_as_it_knows_them(client: Anthropic, upstream_url: str) -> None:
    echoed = say(
        client, "echo", [{"type": "text", "text": "what?"}, IMAGE], metadata={"user_id": "u-1", "workflow_type": "w"},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )  # fmt: skip
    sent = json.loads(texts(echoed))
    address = "data:image/png;base64," + PIXEL
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": address}}]
    assert sent["messages"] == [{"role": "user", "content": parts}]
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    assert sent["user"] == "u-1"
    assert sent["max_tokens"] == 500
    assert "metadata" not in sent


def test_the_same_conversation_says_the_same_over_both_dialects(client: Anthropic, chats: OpenAI) -> None:
    question = [{"type": "text", "text": "What is in it?"}, {"type": "image_url", "image_url": {"url": "http://a.example/b.png"}}]
    image: Any = {"type": "image", "source": {"type": "url", "url": "http://a.example/b.png"}}
    for streamed in (False, True):
        messages: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": question}]
        told: Any = chats.chat.completions.create(model="demo", messages=messages, max_tokens=60, stream=streamed)
        said: Any = client.messages.create(
            model="demo", system="Be kind.", max_tokens=60, stream=streamed,
            messages=[{"role": "user", "content": [{"type": "text", "text": "What is in it?"}, image]}],
        )  # fmt: skip
        if streamed:
            one = "".join(chunk.choices[0].delta.content or "" for chunk in told if chunk.choices)
            other = "".join(event.delta.text for event in said if event.type == "content_block_delta")
        else:
            one, other = told.choices[0].message.content, texts(said)
            assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (said.usage.input_tokens, said.usage.output_tokens)
        assert one == other
        assert one


async def test_the_async_client_works_alike(far: Stack, app: str) -> None:
    async with AsyncAnthropic(
        base_url=far.url, auth_token=far.key(app), max_retries=0, default_headers={"X-Platform-User-Id": "ann"}
    ) as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        whole = await client.messages.create(model="claude", max_tokens=50, messages=messages)
        assert texts(whole) == "Hello from afar."
        async with client.messages.stream(model="demo", max_tokens=50, messages=messages) as stream:
            final = await stream.get_final_message()
        assert final.stop_reason == "max_tokens"
        assert final.usage.output_tokens == 50
        assert (await client.messages.count_tokens(model="claude", messages=messages)).input_tokens == 123


def test_counting_is_free_and_counts_as_a_request(far: Stack, app: str, client: Anthropic, dialects_url: str) -> None:
    messages: Any = [{"role": "user", "content": "one two three"}]
    assert client.messages.count_tokens(model="claude", messages=messages).input_tokens == 123
    ours = client.messages.count_tokens(model="demo", messages=messages, system="Be brief.").input_tokens
    assert 5 < ours < 20
    with pytest.raises(anthropic.BadRequestError, match="no"):
        client.messages.count_tokens(model="claude", messages=[{"role": "user", "content": "do:status:400"}])
    key = far.key(app, models=["demo"], limits={"rpm": 1})
    narrow = Anthropic(base_url=far.url, api_key=key, max_retries=0, default_headers={"X-Platform-User-Id": "ann"})
    with pytest.raises(anthropic.PermissionDeniedError):
        narrow.messages.count_tokens(model="claude", messages=messages)
    assert narrow.messages.count_tokens(model="demo", messages=messages).input_tokens
    with pytest.raises(anthropic.RateLimitError) as limited:
        narrow.messages.count_tokens(model="demo", messages=messages)
    assert limited.value.response.headers["retry-after"]
    with pytest.raises(anthropic.AuthenticationError):
        Anthropic(base_url=far.url, api_key="mzk_live_none", max_retries=0).messages.count_tokens(model="demo", messages=messages)
    rows = far.events(app, 3)
    assert {(row["endpoint"], row["amount_micro"], row["tokens_used"]) for row in rows} == {("/messages/count_tokens", 0, 0)}
    assert far.wallet(app, "ann")["available_micro"] == FUNDS_MICRO


def test_a_deployment_that_is_full_is_not_asked_to_count(client: Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "one two three"}]
    counted = [client.messages.count_tokens(model="narrow", messages=messages).input_tokens for _ in range(2)]
    assert counted[0] == 123
    assert 3 <= counted[1] < 20  # our own count
    with pytest.raises(anthropic.RateLimitError):
        say(client, "narrow", "hello")


def test_failures_are_the_clients_own_exceptions(far: Stack, app: str, client: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as odd:
        say(client, "claude", "do:status:400")
    body: Any = odd.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert "prompt is odd" in body["error"]["message"]
    assert body["request_id"] == odd.value.request_id
    with pytest.raises(anthropic.BadRequestError) as untranslated:
        say(client, "chats", "hello", tools=[{"type": "bash_20250124", "name": "bash"}])
    assert "tools[0]" in str(untranslated.value)
    with pytest.raises(anthropic.BadRequestError) as priceless:
        say(client, "claude", "hello", tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert "no price here" in str(priceless.value)
    with pytest.raises(anthropic.BadRequestError, match="anthropic-beta"):
        say(client, "claude", "hello", extra_headers={"anthropic-beta": "fast-mode-2026-02-01"})
    with pytest.raises(anthropic.NotFoundError):
        say(Anthropic(base_url=far.url, api_key=far.key(app, models=["claude"]), max_retries=0,
                      default_headers={"X-Platform-User-Id": "ann"}), "claude", "do:status:404")  # fmt: skip
    with pytest.raises(anthropic.RateLimitError) as limited:
        say(client, "claude", "do:status:429")
    assert limited.value.response.headers["retry-after"] == "7"
    assert "sk-ant" not in limited.value.response.text
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        say(client, "claude", "do:status:529")
    said: Any = overloaded.value.body
    assert (overloaded.value.status_code, said["error"]["type"]) == (502, "overloaded_error")
    with pytest.raises(anthropic.APIStatusError) as late:
        say(client, "hasty", "do:hang")
    late_body: Any = late.value.body
    assert (late.value.status_code, late_body["error"]["type"]) == (504, "timeout_error")
    poor = Anthropic(
        base_url=far.url, api_key=far.key(app), max_retries=0, default_headers={"X-Platform-User-Id": "nobody"}
    )
    with pytest.raises(anthropic.APIStatusError) as unpaid:
        say(poor, "claude", "hello")
    told: Any = unpaid.value.body
    assert (unpaid.value.status_code, told["error"]["type"], told["error"]["code"]) == (
        402, "billing_error", "insufficient_balance",
    )  # fmt: skip
    assert told["error"]["limit_source"] == "end_user"
    wallet = far.wallet(app, "ann")
    assert (wallet["held_micro"], wallet["available_micro"]) == (0, FUNDS_MICRO)


def test_a_stream_that_breaks_ends_in_an_error_and_costs_what_came(far: Stack, app: str, client: Anthropic) -> None:
    for model, text in (("claude", "do:error-midstream"), ("claude", "do:half"), ("half-stream", "hello"),
                        ("error-event-midstream", "hello"), ("die-midstream", "hello")):  # fmt: skip
        seen: list[str] = []
        events = say(client, model, text, stream=True)
        with pytest.raises(anthropic.APIStatusError) as broken:
            seen.extend(event.type for event in events)
        assert "content_block_delta" in seen, model
        assert "message_stop" not in seen
        body: Any = broken.value.body
        assert body["error"]["code"] == "upstream_error"
        assert "sk-ant" not in str(body)
    rows = far.events(app, 5)
    assert all(row["amount_micro"] > 0 and row["status"] == "upstream_broke" for row in rows)


def test_a_fallback_answers_in_the_same_dialect(client: Anthropic) -> None:
    raw = client.messages.with_raw_response.create(
        model="backed", max_tokens=500, messages=[{"role": "user", "content": "do:status:500"}]
    )
    assert raw.headers["x-mozaiks-model"] == "chats/openai/0"
    assert texts(raw.parse()) == "".join(f" tok{n}" for n in range(5))


def test_an_answer_without_usage_is_counted(far: Stack, app: str, client: Anthropic) -> None:
    say(client, "claude", "do:no-usage")
    say(client, "no-usage", "hello")
    last = list(say(client, "no-usage", "hello", stream=True))[-2]
    assert last.usage.output_tokens > 0
    list(say(client, "claude", "do:no-usage", stream=True))
    for row in far.events(app, 4):
        assert row["usage_source"] == "counted"
        assert row["amount_micro"] > 0


def test_cached_and_reasoned_tokens_of_a_chat_are_priced_as_such(far: Stack, app: str, client: Anthropic) -> None:
    cached = say(client, "cached:prompt=100,tokens=10", "hello")
    assert (cached.usage.input_tokens, cached.usage.cache_read_input_tokens) == (50, 50)
    say(client, "reasoning:prompt=100,tokens=10", "hello")
    amounts = sorted(row["amount_micro"] for row in far.events(app, 2))
    assert amounts == [50 * 1 + 25 + 10 * 10, 100 + 10 * 10]


def test_what_litellm_translates_is_asked_in_this_dialect_too(far: Stack, app: str, client: Anthropic) -> None:
    whole = say(client, "gemini", "hello", extra_body={"top_k": 5})
    assert texts(whole) == "Hello from afar."
    asked: Any = [{"role": "user", "content": "do:tools"}]
    with client.messages.stream(model="gemini", max_tokens=500, messages=asked, tools=[TOOL]) as stream:
        assert stream.get_final_message().stop_reason == "tool_use"
    for row in far.events(app, 2):
        assert row["amount_micro"] == 132  # as the same answer of a chat, in tests/path/test_translated.py


# ---- tools that Anthropic runs itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_searches_cost_their_fee_to_the_micro_unit(
    far: Stack, app: str, client: Anthropic, dialects_url: str, streamed: bool
) -> None:
    asked: Any = {"model": "searcher", "max_tokens": 500, "messages": [{"role": "user", "content": "do:search"}]}
    asked["tools"] = [SEARCH, FETCH, TOOL]
    headers = {"anthropic-beta": "web-fetch-2025-09-10"}
    if streamed:
        with client.messages.stream(**asked, extra_headers=headers) as stream:
            answer = stream.get_final_message()
    else:
        answer = client.messages.create(**asked, extra_headers=headers)
    assert texts(answer) == "Hello from afar."
    assert answer.usage.server_tool_use is not None
    assert answer.usage.server_tool_use.web_search_requests == 3
    [event] = far.events(app, 1)
    assert event["units"]["web_searches"] == 3
    assert (event["amount_micro"], event["usage_source"]) == (30_845, "upstream")
    assert far.wallet(app, "ann")["available_micro"] == FUNDS_MICRO - 30_845
    sent = journal(dialects_url)[-1]["body"]["tools"]
    assert [tool.get("max_uses") for tool in sent] == [10, 2, None]


def test_searches_of_a_stream_that_breaks_off_are_billed(far: Stack, app: str, client: Anthropic) -> None:
    tools: Any = [{**SEARCH, "max_uses": 2}]
    with pytest.raises(anthropic.APIStatusError), client.messages.stream(
        model="searcher", max_tokens=500, messages=[{"role": "user", "content": "do:die-searching"}], tools=tools
    ) as stream:
        for _ in stream:
            pass
    [event] = far.events(app, 1)
    assert event["units"]["web_searches"] == 2  # the third failed
    assert event["status"] == "upstream_broke"
    assert event["amount_micro"] > 20_000
    assert far.wallet(app, "ann")["available_micro"] == FUNDS_MICRO - event["amount_micro"]


def test_a_wallet_that_covers_some_searches_gets_so_many(far: Stack, client: Anthropic, dialects_url: str) -> None:
    app = far.app()
    # Each search is held for its fee and all that the model reads, 200,000 tokens at $3 (or $6, where it writes to the cache).
    far.fund(app, "ann", 3 * 1_210_000)
    headers = {"X-Platform-User-Id": "ann"}
    poor = Anthropic(base_url=far.url, api_key=far.key(app), max_retries=0, timeout=60, default_headers=headers)
    raw = poor.messages.with_raw_response.create(
        model="searcher", max_tokens=500, messages=[{"role": "user", "content": "do:search"}], tools=[SEARCH]
    )
    assert raw.headers["x-mozaiks-tool-calls"] == "2"
    assert journal(dialects_url)[-1]["body"]["tools"][0]["max_uses"] == 2
    assert far.events(app, 1)[0]["amount_micro"] == 20_845
    with pytest.raises(anthropic.APIStatusError) as refused:  # its own bound is not cut
        say(poor, "searcher", "do:search", tools=[{**SEARCH, "max_uses": 3}])
    assert refused.value.status_code == 402


def test_a_search_without_a_price_or_at_another_provider_is_refused_by_name(app: str, client: Anthropic) -> None:
    for model, words in (("claude", "must name web_searches"), ("chats", "run by Anthropic")):
        with pytest.raises(anthropic.BadRequestError) as refused:
            say(client, model, "hello", tools=[TOOL, SEARCH])
        body: Any = refused.value.body
        assert body["error"]["param"] == "tools[1].type"
        assert words in str(refused.value)

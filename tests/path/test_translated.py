"""Translated providers through a whole gateway, with the unmodified `openai` client: answers, and their cost exactly."""

import sys
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.path.conftest import Process, Stack, plain_env, start_gateway

# USD per million tokens. What one scripted answer costs is counted by hand from the counts in `tests/scripted_dialects.py`.
CLAUDE_PRICES = {"input": "3", "cached_input": "0.30", "cache_write": "3.75", "cache_write_1h": "6", "output": "15"}
CLAUDE_MICRO = 845  # 100 * 3 + 40 * 0.30 + 30 * 3.75 + 20 * 6 + 20 * 15 = 844.5, rounded up
GEMINI_PRICES = {"input": "0.30", "cached_input": "0.075", "output": "2.50"}
GEMINI_MICRO = 132  # 60 * 0.30 + 40 * 0.075 + 20 (the image) * 0.30 + (30 + 12) * 2.50
FUNDS_MICRO = 100_000_000


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
    """A gateway with translated models beside those of the byte path."""
    shared = {"api_base": dialects_url, "api_key": "sk-ant-made-up-secret", "output_tokens_max": 1000}
    claude = {**shared, "provider": "anthropic", "model": "claude-sonnet-4-5"}
    gemini = {**shared, "provider": "gemini", "model": "gemini-2.5-flash"}
    models = [
        {"name": "claude", "deployments": [claude], "prices": CLAUDE_PRICES},
        {"name": "gemini", "deployments": [gemini], "prices": GEMINI_PRICES},
        {"name": "hasty-claude", "deployments": [{**claude, "first_byte_timeout_s": 0.3}], "prices": CLAUDE_PRICES},
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
def client(far: Stack, app: str) -> OpenAI:
    headers = {"X-Platform-User-Id": "ann"}
    return OpenAI(base_url=far.url + "/v1", api_key=far.key(app), max_retries=0, timeout=60, default_headers=headers)


def chat(client: OpenAI, model: str, text: str, **fields: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **fields)


def test_a_journey_through_a_translated_provider_is_charged_to_the_micro_unit(far: Stack, app: str, client: OpenAI) -> None:
    # The byte path does not wait for the translation, which is loaded meanwhile.
    chat(client, "ok:tokens=1", "hello")
    whole = chat(client, "claude", "hello")
    assert whole.choices[0].message.content == "Hello from afar."
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (190, 20)
    streamed = list(chat(client, "claude", "hello", stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == "Hello from afar."
    assert round(streamed[-1].usage.cost * 1_000_000) == CLAUDE_MICRO
    quiet = list(chat(client, "gemini", "hello", stream=True))
    assert quiet[-1].choices[0].finish_reason == "stop"
    chat(client, "gemini", "hello")
    rows = far.events(app, 5)
    amounts: dict[str, list[int]] = {}
    for row in rows:
        assert row["usage_source"] == "upstream"
        amounts.setdefault(row["model"], []).append(row["amount_micro"])
    assert amounts["claude"] == [CLAUDE_MICRO] * 2
    assert amounts["gemini"] == [GEMINI_MICRO] * 2
    wallet = far.wallet(app, "ann")
    assert wallet["held_micro"] == 0
    assert wallet["available_micro"] == FUNDS_MICRO - 2 * CLAUDE_MICRO - 2 * GEMINI_MICRO - sum(amounts["ok:tokens=1"])


def test_tools_and_schemas_are_the_clients_own_objects(client: OpenAI) -> None:
    shape = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": shape}}]
    answer = chat(client, "claude", "do:tools", tools=tools)
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"city": "Paris"}'
    with client.chat.completions.stream(
        model="claude", messages=[{"role": "user", "content": "do:tools"}], tools=tools  # type: ignore[arg-type]
    ) as stream:
        final = stream.get_final_completion()
    call = final.choices[0].message.tool_calls
    assert call is not None
    assert (call[0].function.name, call[0].function.arguments) == ("weather", '{"city": "Paris"}')
    schema = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": shape}}
    assert chat(client, "gemini", "do:json", response_format=schema).choices[0].message.content == '{"city": "Paris"}'


def test_what_fails_costs_nothing_and_says_who_can_mend_it(far: Stack, app: str, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as odd:
        chat(client, "claude", "do:status:400")
    assert "prompt is odd" in odd.value.message
    with pytest.raises(openai.BadRequestError) as untranslated:
        chat(client, "claude", "hello", seed=7)
    assert untranslated.value.param == "seed"
    for script in ("status:401", "status:529", "status:500"):
        with pytest.raises(openai.InternalServerError) as failed:
            chat(client, "claude", f"do:{script}")
        assert failed.value.status_code == 502
    with pytest.raises(openai.RateLimitError) as limited:
        chat(client, "claude", "do:status:429")
    assert limited.value.response.headers["retry-after"] == "7"
    assert "sk-ant" not in limited.value.response.text
    with pytest.raises(openai.InternalServerError) as silent:
        chat(client, "hasty-claude", "do:hang")
    assert silent.value.status_code == 504
    with pytest.raises(openai.APIError):
        list(chat(client, "claude", "do:error-midstream", stream=True))
    broken, late = far.events(app, 2)  # what was delivered of the stream that broke, and what an answer nobody saw may have cost
    assert (broken["usage_source"], broken["amount_micro"] > 0) == ("counted", True)
    assert (late["amount_micro"], late["provider_cost_micro"] > 0, late["flags"]) == (0, True, ["cost_estimated"])
    wallet = far.wallet(app, "ann")
    assert (wallet["held_micro"], wallet["available_micro"]) == (0, FUNDS_MICRO - broken["amount_micro"])


def test_the_models_are_listed_with_the_others(far: Stack, client: OpenAI) -> None:
    assert {"claude", "gemini"} <= {model.id for model in client.models.list()}
    assert httpx.get(far.url + "/readyz").status_code == 200

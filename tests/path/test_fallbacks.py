"""Deployments that fail and what stands in for them, over the wire."""

import time
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.path.conftest import Stack


@pytest.fixture
def app(stack: Stack) -> str:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    return app


@pytest.fixture
def client(stack: Stack, app: str) -> OpenAI:
    headers = {"X-Platform-User-Id": "ann"}
    return OpenAI(base_url=stack.url + "/v1", api_key=stack.key(app), default_headers=headers, max_retries=0)


def test_an_app_with_its_own_provider_keys_runs_on_them_and_on_nothing_else(stack: Stack) -> None:
    app, key = stack.app(cost_policy="own_keys"), "sk-brought-by-the-app-0815"
    stack.fund(app, "ann", 1_000_000)
    headers = {"X-Platform-User-Id": "ann"}
    client = OpenAI(base_url=stack.url + "/v1", api_key=stack.key(app), default_headers=headers, max_retries=0)
    with pytest.raises(openai.BadRequestError) as missing:
        client.chat.completions.create(model="own-key-model", messages=MESSAGES)
    assert missing.value.code == "missing_provider_key"
    put = stack.admin.put(f"/apps/{app}/provider-keys/openai", json={"key": key})
    assert (put.status_code, put.json()["hint"], key in put.text) == (200, "0815", False)
    told = client.chat.completions.create(model="own-key-model", messages=MESSAGES)
    assert told.usage is not None
    journal = httpx.get(stack.upstream_url.removesuffix("/v1") + "/journal").json()["requests"]
    assert [each["headers"]["authorization"] for each in journal if each["model"] == "own-key-model"] == [f"Bearer {key}"]
    [event] = stack.events(app, 1)
    assert (event["provider_cost_micro"], event["amount_micro"] > 0) == (0, True)
    assert key not in stack.process.log.read_text()
    assert key not in stack.cli("provider-keys", "list", "--app", app)


MESSAGES: Any = [{"role": "user", "content": "one two three"}]


def test_a_deployment_that_is_down_is_stood_in_for_by_the_next(stack: Stack, app: str, client: OpenAI) -> None:
    for number in range(5):
        raw = client.chat.completions.with_raw_response.create(model="backed-model", messages=MESSAGES)
        assert raw.headers["x-mozaiks-model"] == "backed-model/openai/1"
        # Three failures in a row, then it is left alone.
        assert raw.headers["x-mozaiks-attempts"] == ("2" if number < 3 else "1")
    chunks = list(client.chat.completions.create(model="backed-model", messages=MESSAGES, stream=True))
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == 9
    events = stack.events(app, 6)
    assert {(event["model"], event["deployment"]) for event in events} == {("backed-model", "backed-model/openai/1")}
    assert sorted(event["flags"] for event in events) == [[]] * 3 + [["failed:backed-model/openai/0"]] * 3
    spent = sum(event["amount_micro"] for event in events)
    assert stack.wallet(app, "ann")["available_micro"] == 1_000_000 - spent


def test_a_fallback_model_answers_at_its_own_price(stack: Stack, app: str, client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="fallen-model", messages=MESSAGES)
    assert raw.headers["x-mozaiks-model"] == "flat-model/openai/0"
    [event] = stack.events(app, 1)
    assert (event["model"], event["provider"], event["attempts"]) == ("flat-model", "openai", 2)
    assert event["amount_micro"] == 1_000_000 - stack.wallet(app, "ann")["available_micro"]


def test_without_any_stand_in_the_failure_is_told(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="unreachable-model", messages=MESSAGES)
    assert failed.value.code == "upstream_error"


def test_a_deployment_that_is_full_leaves_the_rest_to_the_next(client: OpenAI) -> None:
    served = []
    for _ in range(4):
        raw = client.chat.completions.with_raw_response.create(model="shared-model", messages=MESSAGES)
        served.append((raw.headers["x-mozaiks-model"], raw.headers["x-mozaiks-attempts"]))
    assert served == [("shared-model/openai/0", "1")] * 2 + [("shared-model/openai/1", "1")] * 2


def test_a_model_that_is_full_is_a_429_that_says_when_to_come_back(client: OpenAI) -> None:
    # A request may make 1,000 tokens, and is counted with the 9 that it makes once it has ended.
    for _ in range(5):
        client.chat.completions.create(model="narrow-model", messages=MESSAGES)
        time.sleep(0.1)  # its place is given back beside its answer
    with client.chat.completions.with_streaming_response.create(
        model="narrow-model", messages=MESSAGES, max_tokens=900, extra_body={"script": "ok:tokens=10,ms=60"}, stream=True
    ) as stream:
        assert stream.status_code == 200
        with pytest.raises(openai.RateLimitError) as full:
            client.chat.completions.create(model="narrow-model", messages=MESSAGES)
    assert (full.value.code, full.value.body["limit_source"]) == ("rate_limit_exceeded", "provider")  # type: ignore[index]
    assert 1 <= int(full.value.response.headers["retry-after"]) <= 120

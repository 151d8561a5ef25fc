"""Azure OpenAI over the byte path, by the official client: what is asked, what it costs, and how its refusals read."""

import re
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.path.conftest import Stack

FUNDS_MICRO = 1_000_000
MESSAGES: Any = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def app(stack: Stack) -> str:
    app = stack.app()
    stack.fund(app, "ann", FUNDS_MICRO)
    return app


@pytest.fixture
def client(stack: Stack, app: str) -> OpenAI:
    headers = {"X-Platform-User-Id": "ann"}
    return OpenAI(base_url=stack.url + "/v1", api_key=stack.key(app), default_headers=headers, max_retries=0)


def sent(stack: Stack) -> dict[str, Any]:
    last: dict[str, Any] = httpx.get(stack.upstream_url.removesuffix("/v1") + "/journal").json()["requests"][-1]
    return last


def test_a_dated_version_is_asked_by_its_address_with_its_own_key(stack: Stack, app: str, client: OpenAI) -> None:
    whole = client.chat.completions.create(model="azure-chat", messages=MESSAGES, max_tokens=50)
    assert whole.usage is not None
    asked = sent(stack)
    assert (asked["path"], asked["query"]) == ("/openai/deployments/prod/chat/completions", "api-version=2024-10-21")
    assert asked["headers"]["api-key"] == "sk-made-up-upstream-key"
    assert "authorization" not in asked["headers"]
    assert asked["body"]["max_tokens"] == 50
    streamed = list(client.chat.completions.create(model="azure-chat", messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == "".join(
        f" tok{number}" for number in range(20)
    )
    assert sent(stack)["body"]["max_tokens"] > 50  # the hold's own cap, by the name that older versions know
    for event in stack.events(app, 2):
        assert (event["provider"], event["usage_source"]) == ("azure", "upstream")
        assert event["amount_micro"] == -(-(9 * 15 + 20 * 60) // 100)


def test_the_version_without_dates_is_asked_as_openai_is(stack: Stack, app: str, client: OpenAI) -> None:
    client.chat.completions.create(model="azure-newest", messages=MESSAGES)
    asked = sent(stack)
    assert (asked["path"], asked["query"], asked["model"]) == ("/openai/v1/chat/completions", "", "gpt-4o")
    assert asked["body"]["max_completion_tokens"] > 0
    assert asked["headers"]["api-key"] == "sk-made-up-upstream-key"
    client.embeddings.create(
        model="azure-vectors", input="one two three", encoding_format="float", extra_body={"script": "ok:prompt=1000"}
    )
    assert sent(stack)["path"] == "/openai/v1/embeddings"
    # 0.022 USD a million is the list's price of Azure; OpenAI's own is 0.02.
    assert [event["amount_micro"] for event in stack.events(app, 2)] == [22, -(-(9 * 25 + 20 * 100) // 10)]


def test_a_filtered_prompt_is_the_callers_to_mend_and_costs_nothing(stack: Stack, app: str, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as filtered:
        client.chat.completions.create(model="azure-chat", messages=MESSAGES, extra_body={"script": "filtered"})
    assert (filtered.value.code, filtered.value.param) == ("content_filter", "prompt")
    assert "The response was filtered" in filtered.value.message
    wallet = stack.wallet(app, "ann")
    assert (wallet["available_micro"], wallet["held_micro"]) == (FUNDS_MICRO, 0)


def test_nothing_is_translated_for_it(stack: Stack, client: OpenAI) -> None:
    client.chat.completions.create(model="azure-chat", messages=MESSAGES)
    mapped = Path(f"/proc/{stack.process.child.pid}/maps").read_text()
    assert re.search(r"/msgspec/", mapped)  # what is imported shows there
    assert "/pydantic_core/" not in mapped  # which comes with what translates

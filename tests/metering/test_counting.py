"""Counting by ourselves: OpenAI's published examples, and the event loop kept free."""

import asyncio
import time
from typing import Any

import pytest

from gateway.metering import counting
from gateway.metering.counting import Counter, text_tokens
from gateway.metering.usage import IMAGE_TOKENS_MAX


def field_of(body: Any) -> str:
    """Where a body's prompt stands."""
    return next((name for name in ("messages", "prompt", "input") if name in body), "messages")


def input_tokens(model: str, body: Any) -> int:
    return counting.input_tokens(model, body, field_of(body))


# The example of OpenAI's cookbook "How to count tokens with tiktoken", whose API answers were 124 (gpt-4o) and 129 (gpt-4).
COOKBOOK = [
    ("system", None, "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."),
    ("system", "example_user", "New synergies will help drive top-line growth."),
    ("system", "example_assistant", "Things working well together will increase revenue."),
    (
        "system",
        "example_user",
        "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    ),
    ("system", "example_assistant", "Let's talk later when we're less busy about how to do better."),
    (
        "user",
        None,
        "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    ),
]
MESSAGES = [{"role": role, **({"name": name} if name else {}), "content": content} for role, name, content in COOKBOOK]


@pytest.mark.parametrize(("model", "published"), [("gpt-4o", 124), ("gpt-4", 129), ("gpt-4o-mini", 124), ("gpt-3.5-turbo", 129)])
def test_a_chat_counts_as_openai_counts_it(model: str, published: int) -> None:
    assert input_tokens(model, {"messages": MESSAGES}) == published


async def test_texts_and_prompts_are_counted() -> None:
    counter = Counter()
    assert await counter.count_text("gpt-4o", "") == 0
    assert await counter.count_text("gpt-4o", "hello world") == 2
    assert await counter.count_input("gpt-4o", {"prompt": "hello world"}, "prompt") == 2
    assert await counter.count_input("gpt-4o", {"prompt": ["hello world", "hello"]}, "prompt") == 3
    assert await counter.count_input("gpt-4o", {"input": [[1, 2], [3]]}, "input") == 3
    assert await counter.count_input("gpt-4o", {"prompt": "hello", "suffix": " world"}, "prompt") == 2


def test_tool_calls_of_earlier_answers_are_counted() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": '{"city": "Reykjavik in winter"}'}}
    plain = input_tokens("gpt-4o", {"messages": [{"role": "assistant", "content": None}]})
    assert input_tokens("gpt-4o", {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}) > plain + 8


def test_an_image_at_low_detail_counts_less() -> None:
    def body(detail: str) -> dict[str, object]:
        part = {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": detail}}
        return {"messages": [{"role": "user", "content": [part]}]}

    assert input_tokens("gpt-4o", body("low")) < 3_000 < IMAGE_TOKENS_MAX <= input_tokens("gpt-4o", body("high"))


async def test_the_event_loop_runs_on_while_a_long_prompt_is_counted() -> None:
    counter = Counter()
    await counter.count_text("gpt-4o", "warm")
    text = "The quick brown fox jumps over the lazy dog. " * 40_000
    counting = asyncio.gather(*[counter.count_text("gpt-4o", text) for _ in range(4)])
    longest_s = 0.0
    while not counting.done():
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        longest_s = max(longest_s, time.perf_counter() - started)
    assert await counting == [text_tokens("gpt-4o", text)] * 4
    assert longest_s < 0.25


BIG = "word " * 20_000  # some 20,000 tokens


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [BIG]}]},
        {"messages": [{"role": "user", "content": "hi"}], "documents": [{"text": BIG}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "extra": [{"deep": BIG}]}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}, "text": BIG}]}]},
        {"prompt": ["a", [1] * 20_000]},
        {"prompt": {"text": BIG}},
        {"input": [{"text": BIG}]},
        {"input": "hi", "instruction": BIG},
    ],
)
def test_nothing_that_an_upstream_might_read_counts_as_nothing(body: dict[str, Any]) -> None:
    assert counting.input_tokens("gpt-4o", body, field_of(body)) >= 20_000


def test_only_the_endpoints_own_field_is_its_prompt() -> None:
    body = {"prompt": [1], "input": BIG}
    assert counting.input_tokens("gpt-4o", body, "input") >= 20_000


def test_another_familys_tokenizer_is_given_a_margin() -> None:
    body = {"messages": [{"role": "user", "content": BIG}]}
    assert input_tokens("some-llama", body) == input_tokens("gpt-4o", body) * 3 // 2

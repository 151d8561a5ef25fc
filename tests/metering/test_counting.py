"""Counting by ourselves: OpenAI's published examples, and the event loop kept free."""

import asyncio
import time

import pytest

from gateway.metering.counting import Counter, input_tokens, text_tokens
from gateway.metering.usage import IMAGE_TOKENS_MAX

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
    assert await counter.count_input("gpt-4o", {"prompt": "hello world"}) == 2
    assert await counter.count_input("gpt-4o", {"prompt": ["hello world", "hello"]}) == 3
    assert await counter.count_input("gpt-4o", {"input": [[1, 2], [3]]}) == 3
    assert await counter.count_input("gpt-4o", {"prompt": "hello", "suffix": " world"}) == 2


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

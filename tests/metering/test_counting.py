"""Counting by ourselves: OpenAI's published examples, and the event loop kept free."""

import asyncio
import time
from typing import Any

import pytest

from gateway.metering import counting
from gateway.metering.counting import Counter, text_tokens
from gateway.metering.event import EventFront
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
    text = "The quick brown fox jumps over the lazy dog. " * 20_000
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


def asked_by(app: str, end_user: str) -> EventFront:
    return EventFront(
        request_id="req_1", level="app_usage", user_id="creator", enterprise_id=app, key_id="key_1", endpoint="/rerank",
        model="m", platform_user_id=end_user, workflow_type="", session_id="", agent_name="", provider="openai",
        deployment="m/openai/0", payers=(), cost_policy="platform_pays", streamed=False,
    )  # fmt: skip


async def test_what_one_app_or_end_user_has_counted_keeps_no_other_waiting() -> None:
    counter, text = Counter(), "The quick brown fox jumps over the lazy dog. " * 10_000
    done: list[str] = []

    async def count(app: str, end_user: str, what: str) -> None:
        await counter.count_text("gpt-4o", what, asked_by(app, end_user))
        done.append(f"{app}/{end_user}")

    await count("warm", "up", "warm")
    busy = [asyncio.ensure_future(count("app", f"user-{n % 3}", text)) for n in range(12)]
    await asyncio.sleep(0)
    await asyncio.gather(count("other", "bob", "hello"), count("app", "ann", "hello"))
    assert done.index("other/bob") < 4
    assert done.index("app/ann") < 10
    await asyncio.gather(*busy)
    assert not counter._apps._slots
    assert not counter._end_users._waiting


async def test_a_text_of_many_megabytes_counts_by_its_beginning() -> None:
    each = text_tokens("gpt-4o", "hello world, " * 1_000) / 1_000
    assert await Counter().count_text("gpt-4o", "hello world, " * 400_000) == pytest.approx(400_000 * each, rel=0.01)

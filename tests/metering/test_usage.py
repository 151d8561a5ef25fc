"""Usage as upstreams report it, and lies about it; the cheap bound on a prompt."""

import json
import random
from typing import Any

import pytest

from gateway.core.units import Usage
from gateway.metering import counting
from gateway.metering import usage as reading
from gateway.metering.usage import (
    COUNT_MAX,
    IMAGE_TOKENS_MAX,
    IMAGE_TOKENS_MAX_GPT_4O_MINI,
    UNBOUNDED_PART_TOKENS,
    read_usage,
)


def field_of(body: Any) -> str:
    """Where a body's prompt stands."""
    return next((name for name in ("messages", "prompt", "input") if name in body), "messages")


def input_bound(body: Any, body_bytes: int) -> int:
    return reading.input_bound(body, body_bytes, field_of(body), body.get("model", "m"))


def input_tokens(model: str, body: Any) -> int:
    return counting.input_tokens(model, body, field_of(body))


GOLDEN: list[tuple[str, dict[str, Any], bool, Usage]] = [
    (
        "openai chat, all details",
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 200,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        True,
        Usage(input=86, cached_input=1920, output=100, reasoning=200),
    ),
    (
        "openai chat, nothing but totals",
        {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
        True,
        Usage(input=9, output=12),
    ),
    (
        "openai audio",
        {
            "prompt_tokens": 120,
            "completion_tokens": 80,
            "total_tokens": 200,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 100, "text_tokens": 20, "image_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 60, "text_tokens": 20},
        },
        True,
        Usage(input=20, audio_input=100, output=20, audio_output=60),
    ),
    ("openai embeddings", {"prompt_tokens": 8, "total_tokens": 8}, True, Usage(input=8)),
    (
        "openai responses",
        {
            "input_tokens": 36,
            "input_tokens_details": {"cached_tokens": 6},
            "output_tokens": 87,
            "output_tokens_details": {"reasoning_tokens": 50},
            "total_tokens": 123,
        },
        True,
        Usage(input=30, cached_input=6, output=37, reasoning=50),
    ),
    (
        "anthropic, cache beside the input",
        {
            "input_tokens": 21,
            "cache_creation_input_tokens": 300,
            "cache_read_input_tokens": 5000,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 503,
        },
        False,
        Usage(input=21, cached_input=5000, cache_write=200, cache_write_1h=100, output=503),
    ),
    (
        "deepseek",
        {
            "prompt_tokens": 100,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
            "completion_tokens": 5,
            "total_tokens": 105,
        },
        True,
        Usage(input=36, cached_input=64, output=5),
    ),
    (
        "xai, reasoning beside the completion",
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        True,
        Usage(input=32, output=9, reasoning=94),
    ),
    (
        "details that are null",
        {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": None},
        },
        True,
        Usage(input=3, output=4),
    ),
    ("floats that are whole", {"prompt_tokens": 3.0, "completion_tokens": 4.0}, True, Usage(input=3, output=4)),
    ("a full refusal to produce", {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}, True, Usage(input=3)),
]


@pytest.mark.parametrize(("raw", "inside", "expected"), [case[1:] for case in GOLDEN], ids=[case[0] for case in GOLDEN])
def test_what_providers_send_is_taken_apart_without_flags(raw: dict[str, Any], inside: bool, expected: Usage) -> None:
    assert read_usage(raw, inside) == (expected, ())


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"total_tokens": 5},
        {"prompt_tokens": 5},
        {"prompt_tokens": 5, "total_tokens": 9},
        {"completion_tokens": 5, "total_tokens": 5},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": -1},
        {"prompt_tokens": COUNT_MAX + 1, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": 10**15},
        {"prompt_tokens": 5.5, "completion_tokens": 5},
        {"prompt_tokens": "5", "completion_tokens": 5},
        {"prompt_tokens": True, "completion_tokens": 5},
        {"prompt_tokens": float("inf"), "completion_tokens": 5},
        {"prompt_tokens": float("nan"), "completion_tokens": 5},
        {"prompt_tokens": [], "completion_tokens": {}},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    ],
)
def test_usage_that_cannot_be_believed_is_none_so_that_it_is_counted(raw: dict[str, Any]) -> None:
    assert read_usage(raw, True) is None


def usage(prompt: int, completion: int, total: int | None = None, inputs: Any = None, outputs: Any = None) -> dict[str, Any]:
    raw = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {
        **raw,
        "total_tokens": prompt + completion if total is None else total,
        "prompt_tokens_details": inputs,
        "completion_tokens_details": outputs,
    }


@pytest.mark.parametrize(
    ("raw", "expected", "flag"),
    [
        (usage(10, 5, inputs={"cached_tokens": 11}), Usage(cached_input=10, output=5), "cached_exceeds_input"),
        (usage(10, 5, inputs={"cached_tokens": -1}), Usage(input=10, output=5), "usage_detail_invalid"),
        (usage(10, 5, inputs={"cached_tokens": "7"}), Usage(input=10, output=5), "usage_detail_invalid"),
        (usage(10, 5, inputs={"cached_tokens": 10**10}), Usage(input=10, output=5), "usage_detail_invalid"),
        (usage(10, 5, inputs=[1]), Usage(input=10, output=5), "usage_detail_invalid"),
        (usage(10, 5, outputs={"reasoning_tokens": 6}), Usage(input=10, reasoning=5), "reasoning_exceeds_output"),
        (
            usage(10, 5, outputs={"reasoning_tokens": 3, "audio_tokens": 3}),
            Usage(input=10, reasoning=3, audio_output=2),
            "output_parts_overlap",
        ),
        (
            usage(10, 5, inputs={"cached_tokens": 8, "audio_tokens": 6}),
            Usage(cached_input=4, audio_input=6, output=5),
            "input_parts_overlap",
        ),
        (usage(10, 5, total=99), Usage(input=10, output=5), "usage_total_mismatch"),
        (usage(10, 5, total=-1), Usage(input=10, output=5), "usage_total_mismatch"),
    ],
)
def test_contradictions_are_cut_down_and_flagged(raw: dict[str, Any], expected: Usage, flag: str) -> None:
    assert read_usage(raw, True) == (expected, (flag,))


def sum_of(raw: dict[str, Any]) -> int:
    return int(raw["prompt_tokens"] + (raw["completion_tokens"] or 0))


def test_whatever_an_upstream_sends_the_buckets_are_whole_not_negative_and_add_up() -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    odd: list[Any] = [None, -1, 0, 1, 5, 50, 10**12, 2.0, 2.5, "7", True, [], {}, float("nan")]

    def some() -> Any:
        return dice.choice(odd) if dice.random() < 0.2 else dice.randrange(100)

    for _ in range(20_000):
        raw = {
            "prompt_tokens": some(),
            "completion_tokens": some(),
            "total_tokens": some(),
            "prompt_tokens_details": dice.choice(
                [None, "x", {"cached_tokens": some(), "audio_tokens": some(), "image_tokens": some()}]
            ),
            "completion_tokens_details": dice.choice([None, 7, {"reasoning_tokens": some(), "audio_tokens": some()}]),
            "cache_creation_input_tokens": dice.choice([0, some()]),
            "cache_read_input_tokens": dice.choice([0, some()]),
            "cache_creation": dice.choice([None, 3, {"ephemeral_1h_input_tokens": some()}]),
        }
        inside = dice.random() < 0.5
        read = read_usage(raw, inside)
        if read is None:
            continue
        found, _ = read
        counts = [getattr(found, name) for name in Usage.__struct_fields__]
        assert all(type(count) is int and count >= 0 for count in counts), f"seed {seed}: {raw}"
        if inside:
            assert found.input_total == raw["prompt_tokens"], f"seed {seed}: {raw}"
        else:
            assert found.input + found.audio_input + found.image_input == raw["prompt_tokens"], f"seed {seed}: {raw}"
        details = raw["completion_tokens_details"]
        claimed = details["reasoning_tokens"] if isinstance(details, dict) else 0
        beside = type(claimed) is int and claimed > 0 and raw["total_tokens"] == sum_of(raw) + claimed
        assert found.output_total == (raw["completion_tokens"] or 0) + (found.reasoning if beside else 0), f"seed {seed}: {raw}"


def random_text(dice: random.Random, length: int) -> str:
    ranges = [(32, 127), (0, 32), (0xA0, 0x500), (0x4E00, 0x9FFF), (0xE000, 0xFFFF), (0x1F300, 0x1FAFF), (0x10000, 0x10FFFF)]
    low, high = dice.choice(ranges)
    mixed = dice.random() < 0.5
    made = []
    for _ in range(length):
        if mixed:
            low, high = dice.choice(ranges)
        made.append(chr(dice.randrange(low, high)))
    return "".join(made)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_bound_is_never_below_the_exact_count(ascii_only: bool) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(400):
        model = dice.choice(["gpt-4o", "gpt-4", "gpt-4o-mini", "text-embedding-3-small"])
        text = random_text(dice, dice.choice([0, 1, 3, 40, 300]))
        kind = dice.randrange(4)
        body: dict[str, Any] = {"model": model}
        if kind == 0:
            body["messages"] = [
                {"role": dice.choice(["user", "system", "assistant"]), "content": text, "name": text[:5]}
                for _ in range(dice.choice([1, 2, 20]))
            ]
        elif kind == 1:
            address = dice.choice(["https://x.test/a.png", "data:image/png;base64," + "A" * dice.choice([40, 60_000])])
            parts: list[Any] = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": address}}]
            parts.append({"type": "input_audio", "input_audio": {"data": "A" * 500, "format": "mp3"}})
            body["messages"] = [{"role": "user", "content": parts}]
        elif kind == 2:
            body["prompt"] = dice.choice([text, [text, text], [1, 2, 3], [[1, 2], [3]], [7] * 999])
        else:
            body["input"] = dice.choice([text, [text], [5], [[5], [6, 7]]])
        if dice.random() < 0.3:
            body["tools"] = [{"type": "function", "function": {"name": "f", "description": text, "parameters": {}}}]
        raw = json.dumps(body, ensure_ascii=ascii_only, separators=(",", ":")).encode()
        bound, exact = input_bound(body, len(raw)), input_tokens(model, body)
        assert bound >= exact, f"seed {seed}: {bound} < {exact} for {raw[:300]!r}"


def test_token_ids_bound_themselves_however_long_their_digits() -> None:
    # What is not the list of ids is still bounded by its bytes, or a second prompt could hide beside it.
    assert input_bound({"model": "m", "input": [100_000, 100_001]}, 50) == 2 + 50 - len("[100000,100001]")
    assert input_bound({"model": "m", "input": [[100_000], [100_001, 5]]}, 50) == 3 + 50 - len("[[100000],[100001,5]]")
    assert reading.input_bound({"prompt": [1], "input": "x" * 900}, 1000, "input", "m") == 1000
    assert input_bound({"model": "m", "prompt": [1, "two"]}, 50) == 50


def test_a_base64_image_is_bounded_by_rule_and_not_by_its_bytes() -> None:
    def body(url: str, model: str = "gpt-4o") -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}

    small = body("data:image/png;base64," + "A" * 60)
    large = body("data:image/png;base64," + "A" * 4_000_000)
    assert input_bound(small, len(json.dumps(small))) >= IMAGE_TOKENS_MAX
    assert IMAGE_TOKENS_MAX <= input_bound(large, len(json.dumps(large))) < IMAGE_TOKENS_MAX + 500
    mini = body("https://x.test/a.png", "gpt-4o-mini")
    assert input_bound(mini, 200) == 200 + IMAGE_TOKENS_MAX_GPT_4O_MINI


def test_what_only_names_content_elsewhere_is_not_bounded_by_its_bytes() -> None:
    part = {"type": "file", "file": {"file_id": "file-1"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    assert input_bound(body, 100) >= UNBOUNDED_PART_TOKENS


@pytest.mark.parametrize(
    "body", [{"messages": [None, 7, {"content": [None, "x", {"type": []}]}]}, {"messages": "x"}, {"prompt": []}, {}]
)
def test_a_body_that_makes_no_sense_is_bounded_all_the_same(body: dict[str, Any]) -> None:
    assert input_bound(body, 60) >= 58
    assert input_tokens("m", body) >= 0

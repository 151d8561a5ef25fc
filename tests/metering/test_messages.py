"""The bound, the count and the usage of requests in Anthropic's dialect."""

import os
import random
from typing import Any

import msgspec
import pytest

from gateway.core.units import Usage
from gateway.metering.counting import input_tokens, text_tokens
from gateway.metering.messages import merged_usage, messages_bound, messages_prompt, read_messages_usage
from gateway.metering.usage import IMAGE_TOKENS_MAX, TOOLS_TOKENS, UNBOUNDED_PART_TOKENS

DATA = "A" * 100_000
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}
NOTE = {"type": "document", "title": "Note", "source": {"type": "text", "media_type": "text/plain", "data": "one two three"}}
TOOL = {"name": "weather", "input_schema": {"type": "object"}}


def body(*blocks: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": list(blocks)}], **fields}


def bound(asked: dict[str, Any]) -> int:
    return messages_bound(asked, len(msgspec.json.encode(asked)), "m")


def counted(asked: dict[str, Any]) -> int:
    return input_tokens("gpt-4o", *messages_prompt(asked))


def size(asked: dict[str, Any]) -> int:
    return len(msgspec.json.encode(asked))


def test_text_is_bounded_by_its_bytes_and_images_by_rule() -> None:
    text = body({"type": "text", "text": "hello"}, system="Be kind.")
    assert bound(text) == size(text)
    assert bound(body(IMAGE)) == size(body(IMAGE)) + IMAGE_TOKENS_MAX - len(DATA)
    shown = body({"type": "tool_result", "tool_use_id": "t", "content": [IMAGE, IMAGE]})
    assert bound(shown) == size(shown) + 2 * (IMAGE_TOKENS_MAX - len(DATA))
    address = {"type": "image", "source": {"type": "url", "url": "http://a.example"}}
    assert bound(body(address)) == size(body(address)) + IMAGE_TOKENS_MAX


@pytest.mark.parametrize(
    "block",
    [
        PDF, {"type": "document", "source": {"type": "url", "url": "u"}}, {"type": "document", "source": {"type": "file"}},
        {"type": "tool_result", "content": [PDF]}, {"type": "document", "source": {"type": "content", "content": [PDF]}},
        {"type": "web_search_tool_result", "content": []}, {"type": "new"}, {"type": ["text"]}, {}, {"type": "document"},
    ],
)  # fmt: skip
def test_what_has_no_bound_counts_as_all_that_a_model_reads(block: dict[str, Any]) -> None:
    assert bound(body(block)) >= UNBOUNDED_PART_TOKENS
    assert counted(body(block)) >= UNBOUNDED_PART_TOKENS


def test_what_is_cited_from_inside_of_what_is_cited_from_counts_twice_and_not_again() -> None:
    block: dict[str, Any] = {"type": "text", "text": "one two three"}
    for _ in range(60):
        block = {"type": "tool_result", "tool_use_id": "t", "citations": {"enabled": True}, "content": [block]}
    deep = {"model": "m", "messages": [{"role": "user", "content": [block]}]}
    assert msgspec.json.encode(messages_prompt(deep)[0]).count(b"one two three") == 2
    assert counted(deep) <= bound(deep)


def test_a_small_body_that_refers_to_its_tools_without_end_is_unbounded_instead_of_written_out() -> None:
    tools = [{"name": "t", "description": "d" * 100_000, "input_schema": {"type": "object"}}]
    references = [{"type": "tool_reference", "tool_name": "t"}] * 2_000
    asked = {"model": "m", "tools": tools, "messages": [{"role": "user", "content": references}]}
    told = messages_prompt(asked)[0]["messages"][0]["content"]
    assert sum(len(part.get("text", "")) for part in told) <= 4_000_000
    assert told[-1] == {"type": "file"}, "counted by rule, as all that a model reads"


def test_documents_of_text_count_as_text_and_twice_where_they_are_cited() -> None:
    assert bound(body(NOTE)) == size(body(NOTE))
    cited = {**NOTE, "citations": {"enabled": True}}
    assert bound(body(cited)) > size(body(cited)) + len(NOTE["source"]["data"])  # type: ignore[index]
    assert counted(body(cited)) > counted(body(NOTE)) + text_tokens("gpt-4o", "one two three")
    assert 3 < counted(body(NOTE)) < bound(body(NOTE))


def test_tools_count_with_what_providers_say_around_them() -> None:
    plain = body({"type": "text", "text": "hello"})
    with_tools = body({"type": "text", "text": "hello"}, tools=[TOOL])
    assert bound(with_tools) == size(with_tools) + TOOLS_TOKENS
    assert counted(with_tools) > counted(plain) + TOOLS_TOKENS
    own = body({"type": "text", "text": "hello"}, tools=[{"type": "bash_20250124", "name": "bash"}])
    assert bound(own) >= size(own) + TOOLS_TOKENS + IMAGE_TOKENS_MAX
    assert counted(own) > counted(with_tools) + IMAGE_TOKENS_MAX - 100
    again = body(*[{"type": "tool_result", "content": [{"type": "tool_reference", "tool_name": "weather"}]}] * 3, tools=[TOOL])
    assert bound(again) == size(again) + TOOLS_TOKENS + 3 * len(msgspec.json.encode([TOOL]))


def test_the_count_never_exceeds_the_bound() -> None:
    seed = int(os.environ.get("MESSAGES_SEED", "5"))
    print(f"replay with MESSAGES_SEED={seed}")
    source = random.Random(seed)
    words = ["hello", " wörld", "{}", "  ", "\n", "漢字", "🙂", "<|endoftext|>", "0123"]

    def text() -> str:
        return "".join(source.choices(words, k=source.randint(0, 30)))

    def block(depth: int = 0) -> dict[str, Any]:
        kinds = ["text", "thinking", "redacted_thinking", "tool_use", "image", "note"] + (["tool_result"] if depth < 2 else [])
        match source.choice(kinds):
            case "text":
                return {"type": "text", "text": text()}
            case "thinking":
                return {"type": "thinking", "thinking": text(), "signature": text()}
            case "redacted_thinking":
                return {"type": "redacted_thinking", "data": text()}
            case "tool_use":
                return {"type": "tool_use", "id": "toolu_1", "name": "n", "input": {text(): text()}}
            case "image":
                return IMAGE
            case "note":
                data = {"type": "text", "media_type": "text/plain", "data": text()}
                return {"type": "document", "title": text(), "source": data, "citations": {"enabled": source.random() < 0.5}}
        return {"type": "tool_result", "tool_use_id": "t", "content": [block(depth + 1) for _ in range(2)]}

    for _ in range(150):
        system = source.choice([text(), [{"type": "text", "text": text()}]])
        asked = body(*[block() for _ in range(source.randint(0, 4))], system=system)
        assert counted(asked) <= bound(asked), asked


def test_cached_tokens_lie_beside_and_thinking_inside() -> None:
    told = {
        "input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 50,
        "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 20},
        "output_tokens_details": {"thinking_tokens": 5}, "server_tool_use": None, "service_tier": "standard",
    }  # fmt: skip
    usage = Usage(input=100, cached_input=40, cache_write=30, cache_write_1h=20, output=15, reasoning=5)
    assert read_messages_usage(told) == (usage, ())
    parts = {"input_tokens": 100, "output_tokens": 20, "input_tokens_details": {"audio_tokens": 7, "image_tokens": 3}}
    assert read_messages_usage(parts) == (Usage(input=90, audio_input=7, image_input=3, output=20), ())


@pytest.mark.parametrize(
    "told", [{}, {"input_tokens": -1, "output_tokens": 2}, {"output_tokens": 2}, {"input_tokens": 0, "output_tokens": 0}]
)
def test_counts_that_make_no_sense_are_none(told: dict[str, Any]) -> None:
    assert read_messages_usage(told) is None


def test_of_two_tellings_the_larger_counts_stand() -> None:
    first = {"input_tokens": 9, "output_tokens": 1, "cache_creation": {"a": 1}}
    assert merged_usage(first, {"input_tokens": 0, "output_tokens": 5, "cache_creation": None}) == {**first, "output_tokens": 5}
    assert merged_usage(None, {"output_tokens": 5}) == {"output_tokens": 5}

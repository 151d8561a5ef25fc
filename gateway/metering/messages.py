"""Anthropic's Messages: the strict bound on a prompt, the prompt as `counting` takes it, and the counts of an answer. Pure.

Sources: Anthropic's reference of the Messages API (blocks, tools, usage). Cached tokens lie beside `input_tokens`, thinking
inside `output_tokens`; a stream tells cumulative counts, in `message_start` and again in `message_delta`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from gateway.core.limits import JSON_DEPTH_MAX
from gateway.core.units import Usage
from gateway.metering.usage import (
    COUNT_MAX,
    IMAGE_TOKENS_MAX,
    TOOLS_TOKENS,
    UNBOUNDED_PART_TOKENS,
    image_tokens_max,
    read_usage,
)

# What a tool whose definition is the provider's own (bash, text editor, computer) adds unseen: some hundreds to some thousands.
_OWN_TOOL_TOKENS: Final = IMAGE_TOKENS_MAX
_TEXTS: Final = frozenset(("text", "thinking", "redacted_thinking", "tool_use"))
_FORMATS: Final = ("output_config", "output_format")
_NOT_PROMPT: Final = frozenset(
    (
        "anthropic_beta", "anthropic_version", "cache_control", "context_management", "diagnostics", "inference_geo",
        "max_tokens", "messages", "metadata", "model", "service_tier", "speed", "stop_sequences", "stream", "system",
        "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p", "user_profile_id", "workspace_id", *_FORMATS,
    )
)  # fmt: skip
_encode: Final = msgspec.json.Encoder().encode


def messages_bound(body: Mapping[str, Any], body_bytes: int, model: str) -> int:
    """More tokens than the prompt of this request can have, at next to no cost; see `usage.input_bound`, whose rules these are.

    What is no text counts by rule: images as the most that one takes, a document in a format of its own as all that a model
    reads, a document that is cited from twice, as it is cut into sentences with a mark each.
    """
    bound = body_bytes
    tools = body.get("tools")
    tools_bytes = 0
    if tools or any(body.get(name) for name in _FORMATS):
        bound += TOOLS_TOKENS
    if type(tools) is list:
        bound += _OWN_TOOL_TOKENS * sum(map(is_provider_defined, tools))
        tools_bytes = len(_encode(tools))
    messages = body.get("messages")
    for message in messages if type(messages) is list else ():
        if type(message) is dict:
            bound += _blocks_bound(message.get("content"), model, tools_bytes)
    return bound + _blocks_bound(body.get("system"), model, 0)


def is_provider_defined(tool: object) -> bool:
    """Whether a tool's definition is the provider's, known by its type."""
    return isinstance(tool, dict) and tool.get("type") not in (None, "custom")


def _blocks_bound(blocks: Any, model: str, tools_bytes: int, depth: int = 0, times: int = 1) -> int:
    """What blocks add to their bytes in the body; an image's own bytes are taken off again.

    `times`: 2 inside of what is cited from, whose bytes its outermost block has added once more already.
    """
    if type(blocks) is not list:
        return 0
    added = 0
    for block in blocks:
        kind = block.get("type") if type(block) is dict else "text"
        if type(kind) is not str or depth > JSON_DEPTH_MAX:
            added += times * UNBOUNDED_PART_TOKENS
        elif kind in _TEXTS:
            continue
        elif kind == "image":
            added += times * image_tokens_max(model) - len(_data(block, "base64"))
        elif (inside := _inside(block, kind)) is not None:
            if block.get("citations") and times == 1:
                added += len(_encode(block)) + _blocks_bound(inside[0], model, tools_bytes, depth + 1, 2)
            else:
                added += _blocks_bound(inside[0], model, tools_bytes, depth + 1, times)
        elif kind == "tool_reference":
            added += times * tools_bytes
        else:
            added += times * UNBOUNDED_PART_TOKENS
    return added


def _inside(block: Mapping[str, Any], kind: str) -> tuple[Any] | None:
    """The blocks, or the text, that a block holds; None for a kind that holds none."""
    if kind in ("tool_result", "search_result"):
        return (block.get("content"),)
    inner = _inner(block) if kind == "document" else None
    return None if inner is None else (inner,)


def _data(block: Mapping[str, Any], kind: str) -> str:
    source = block.get("source")
    data = source.get("data") if type(source) is dict and source.get("type") == kind else None
    return data if type(data) is str else ""


def _inner(document: Mapping[str, Any]) -> Any:
    """What a document of plain text, or of blocks, says; None for any other."""
    source = document.get("source")
    kind = source.get("type") if type(source) is dict else None
    if kind == "text":
        return _data(document, "text")
    return source.get("content") if type(source) is dict and kind == "content" else None


# ---- exact counts ----------------------------------------------------------------------------------------------------------


def messages_prompt(body: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The prompt as a chat for `counting.input_tokens`: the same texts, and what has none as parts that it counts by rule."""
    told: dict[str, Any] = {name: value for name, value in body.items() if name not in _NOT_PROMPT}
    tools = body.get("tools")
    listed = tools if type(tools) is list else []
    references = _References(listed)
    chat: list[Any] = []
    if body.get("system"):
        chat.append({"role": "system", "content": list(_parts(body["system"], references))})
    messages = body.get("messages")
    said = [message for message in messages if type(message) is dict] if type(messages) is list else []
    chat += [{"role": message.get("role"), "content": list(_parts(message.get("content"), references))} for message in said]
    own = sum(map(is_provider_defined, listed))
    if own:
        chat.append({"role": "system", "content": [_IMAGE] * own})  # an image counts as no less than such a tool
    told["messages"] = chat
    if tools:
        told["tools"] = tools
    formats = [body[name] for name in _FORMATS if body.get(name)]
    if formats:
        told["response_format"] = formats
    return told, "messages"


_REFERRED_CHARS_MAX: Final = 4_000_000
_IMAGE: Final = {"type": "image_url", "image_url": {"url": ""}}
_UNBOUNDED: Final = {"type": "file"}


class _References:
    """What references to tools stand for: their definitions, for as much text as anybody would count."""

    def __init__(self, tools: list[Any]) -> None:
        self._tools = tools
        self._told = ""
        self._left = _REFERRED_CHARS_MAX

    def part(self) -> dict[str, Any]:
        """All tools for one reference; unbounded beyond the most: a small body could ask for gigabytes."""
        self._told = self._told or _encode(self._tools).decode()
        self._left -= len(self._told)
        return _text(self._told) if self._left >= 0 else _UNBOUNDED


def _parts(blocks: Any, references: _References, depth: int = 0, times: int = 1) -> Iterator[dict[str, Any]]:
    """`times`: 2 inside of what is cited from, which is cut into sentences with a mark each; once, however deep it is cited."""
    if type(blocks) is str:
        yield from [_text(blocks)] * times
    for block in blocks if type(blocks) is list else ():
        kind = block.get("type") if type(block) is dict else None
        if type(kind) is not str or depth > JSON_DEPTH_MAX:
            yield from [_UNBOUNDED] * times
        elif kind == "text" and type(block.get("text")) is str and not block.get("citations"):
            yield from [_text(block["text"])] * times
        elif kind in _TEXTS:
            yield from [_text(_encode(block).decode())] * times
        elif kind == "image":
            yield from [_IMAGE] * times
        elif (inside := _inside(block, kind)) is not None:
            yield from [_text(_encode({**block, "content": None, "source": None}).decode())] * times
            yield from _parts(inside[0], references, depth + 1, 2 if block.get("citations") else times)
        elif kind == "tool_reference":
            yield from [references.part() for _ in range(times)]
        else:
            yield from [_UNBOUNDED] * times


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


# ---- usage -----------------------------------------------------------------------------------------------------------------


def merged_usage(first: Mapping[str, Any] | None, then: Mapping[str, Any]) -> dict[str, Any]:
    """Two tellings of one answer's usage: counts are cumulative, so the larger stands; null says nothing."""
    merged = dict(first or {})
    for name, value in then.items():
        before = merged.get(name)
        if value is None or (type(value) is int and type(before) is int and before > value):
            continue
        merged[name] = value
    return merged


def read_messages_usage(told: Mapping[str, Any]) -> tuple[Usage, tuple[str, ...]] | None:
    """As `usage.read_usage`, of an answer in Anthropic's dialect.

    `input_tokens_details` (audio and images inside the input) are no field of Anthropic's: answers that were translated from
    chats have them where those had.
    """
    made = told.get("output_tokens_details")
    outputs: Mapping[str, Any] = made if isinstance(made, dict) else {}
    raw = {
        "prompt_tokens": told.get("input_tokens"),
        "completion_tokens": told.get("output_tokens"),
        "prompt_tokens_details": told.get("input_tokens_details"),
        "completion_tokens_details": {
            "reasoning_tokens": outputs.get("thinking_tokens") or 0,
            "audio_tokens": outputs.get("audio_tokens") or 0,
        },
        **{name: told[name] for name in _CACHE_COUNTS if told.get(name) is not None},
    }
    return read_usage(raw, cached_inside=False)


def web_searches(told: Mapping[str, Any]) -> int:
    """How many searches of the web the usage of an answer counts."""
    made = told.get("server_tool_use")
    count = made.get("web_search_requests") if isinstance(made, dict) else None
    return count if type(count) is int and 0 <= count <= COUNT_MAX else 0


def tells_searches(told: Mapping[str, Any]) -> bool:
    """Whether the usage of an answer counts them at all, in a number that can be one."""
    made = told.get("server_tool_use")
    count = made.get("web_search_requests") if isinstance(made, dict) else None
    return type(count) is int and 0 <= count <= COUNT_MAX


def with_searches(told: Mapping[str, Any] | None, count: int) -> dict[str, Any]:
    """The usage of an answer that has so many searches in it, no fewer than it counts itself."""
    made = (told or {}).get("server_tool_use")
    counted = {**(made if isinstance(made, dict) else {}), "web_search_requests": max(count, web_searches(told or {}))}
    return {**(told or {}), "server_tool_use": counted}


_CACHE_COUNTS: Final = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation")

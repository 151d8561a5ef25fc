"""The prompt of a request for `/responses`, in the form that `usage.input_bound` and `counting.input_tokens` know. Pure.

Each item of the input becomes one message whose texts, images and files count as those of a chat. Reasoning that the
provider encrypted counts by its bytes. A follow-up of a stored response has a prompt that nobody here sees: `unseen` stands
for it where a bound is asked for, and counts more than any model can read.
"""

from collections.abc import Mapping
from typing import Any, Final

PROMPT_FIELD: Final = "messages"
_UNSEEN_PARTS: Final = 32  # each of them counts `usage.UNBOUNDED_PART_TOKENS`
_PROMPT_FIELDS: Final = frozenset(("input", "instructions", "tools", "text"))
# Said of the request, not to the model.
_NOT_PROMPT: Final = frozenset(
    (
        "background", "include", "max_output_tokens", "max_tool_calls", "metadata", "model", "parallel_tool_calls",
        "previous_response_id", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning",
        "safety_identifier", "service_tier", "store", "stream", "stream_options", "temperature", "tool_choice", "top_logprobs",
        "top_p", "truncation", "user",
    )
)  # fmt: skip


def as_chat(body: Mapping[str, Any], *, unseen: bool = False) -> dict[str, Any]:
    """A body whose `messages`, `tools` and `response_format` hold what the model reads of this one; fields nobody knows stay."""
    messages: list[Any] = []
    instructions = body.get("instructions")
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    given = body.get("input")
    if isinstance(given, list):
        messages += [_message(item) for item in given]
    elif given is not None:
        messages.append({"role": "user", "content": given})
    if unseen:
        messages.append({"role": "user", "content": [{"type": "unseen"}] * _UNSEEN_PARTS})
    chat: dict[str, Any] = {PROMPT_FIELD: messages}
    if body.get("tools"):
        chat["tools"] = body["tools"]
    text = body.get("text")
    if isinstance(text, dict) and text.get("format") not in (None, {"type": "text"}):
        chat["response_format"] = text["format"]
    return {**chat, **{name: value for name, value in body.items() if name not in _NOT_PROMPT and name not in _PROMPT_FIELDS}}


def _message(item: Any) -> Any:
    """One item. What is no object counts by its bytes."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type", "message")
    if kind == "reasoning":
        hidden = item.get("encrypted_content")
        return hidden if isinstance(hidden, str) else {"role": "assistant", **item}
    message = {"role": "user", **item}
    if isinstance(item.get("output"), list):
        message["content"] = message.pop("output")
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = [_part(part) for part in content]
    return message


def _part(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url"), "detail": part.get("detail")}}
    return part

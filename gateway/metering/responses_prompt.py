"""The prompt of a request for `/responses`, in the form that `usage.input_bound` and `counting.input_tokens` know. Pure.

Each item of the input becomes one message whose texts, images and files count as those of a chat. Reasoning that the
provider encrypted counts by its bytes. A follow-up of a stored response has a prompt that nobody here sees: `unseen` stands
for it where a bound is asked for, and counts more than any model can read.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.providers.responses_request import CUSTOM_INPUT, NAMESPACE

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
        chat["tools"] = _functions(body["tools"])
    text = body.get("text")
    if isinstance(text, dict) and text.get("format") not in (None, {"type": "text"}):
        chat["response_format"] = text["format"]
    return {**chat, **{name: value for name, value in body.items() if name not in _NOT_PROMPT and name not in _PROMPT_FIELDS}}


def added_bytes(body: Mapping[str, Any]) -> int:
    """How many bytes more the tools have as functions of a chat, where they are none: a bound on the tokens that this adds."""
    tools = body.get("tools")
    if not isinstance(tools, list) or all(isinstance(tool, dict) and tool.get("type") == "function" for tool in tools):
        return 0
    return max(0, len(msgspec.json.encode(_functions(tools))) - len(msgspec.json.encode(tools)))


def _functions(tools: Any) -> Any:
    """Custom tools and those of namespaces as `providers.responses_request` makes functions of them."""
    if not isinstance(tools, list):
        return tools
    made = []
    for tool in tools:
        if not isinstance(tool, dict):
            made.append(tool)
            continue
        inner = tool.get("tools") if tool.get("type") == "namespace" else None
        for each in inner if isinstance(inner, list) else [tool]:
            function = each
            if isinstance(each, dict) and inner is not None:
                function = {**function, "name": f"{tool.get('name')}{NAMESPACE}{each.get('name')}"}
            if isinstance(each, dict) and each.get("type") == "custom":
                function = {**function, "parameters": CUSTOM_INPUT}
            made.append(function)
        if inner is not None:
            made.append({"type": "namespace", "name": tool.get("name"), "description": tool.get("description")})
    return made


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

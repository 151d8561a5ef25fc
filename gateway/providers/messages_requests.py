"""A request in Anthropic's dialect as a chat completion. Pure.

A field is translated, meaningless there, or refused by its name; what changes the answer is never dropped in silence. Dropped
are marks that only say what to cache and how to stream, thoughts of earlier turns (a chat has no place for them), who asks
where that is too long, and thinking where the model is not known to reason. Models of Anthropic's that are reached through
litellm (on Bedrock, Vertex AI) keep all of these, because it hands them on.

An earlier answer at the end, which Anthropic's own models go on with, is refused elsewhere: others would answer it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from gateway.providers.model import Deployment
from gateway.providers.translation import TRANSLATED, Untranslatable

_WHO_CHARS_MAX: Final = 64  # OpenAI's own limit
_LITTLE_BUDGET: Final = 4_096  # tokens of thinking below which the effort is low
_MUCH_BUDGET: Final = 16_384  # from which on it is high
_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_SAME: Final = ("temperature", "top_k", "top_p")
_KNOWN: Final = frozenset(
    (
        "max_tokens", "messages", "metadata", "model", "output_config", "output_format", "stop_sequences", "stream", "system",
        "thinking", "tool_choice", "tools", "context_management", *_SAME,
        # These say how to cache or route what is answered all the same, or name the one price that there is.
        "anthropic_beta", "anthropic_version", "cache_control", "diagnostics", "inference_geo", "service_tier", "speed",
        "user_profile_id", "workspace_id",
    )
)  # fmt: skip
_TOOL_KNOWN: Final = frozenset(
    ("cache_control", "description", "eager_input_streaming", "input_schema", "name", "strict", "type")
)
_TOOL_SAYS_NOTHING: Final = {"allowed_callers": ["direct"], "defer_loading": False, "input_examples": []}
_THOUGHTS: Final = ("redacted_thinking", "thinking")
_encode: Final = msgspec.json.Encoder().encode


def chat_of(given: Any, deployment: Deployment) -> dict[str, Any]:
    """The body for "/chat/completions"; Untranslatable names the field."""
    if type(given) is not dict:
        raise Untranslatable("The body is not a JSON object.")
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := given.keys() - _KNOWN:
        raise _cannot(min(unknown))
    own = is_anthropics(deployment)
    chat: dict[str, Any] = {"model": deployment.model, "messages": list(_messages(given, own))}
    cap = given.get("max_tokens")
    if cap == 0:
        raise _cannot("max_tokens", " as 0, which asks only for the prompt to be cached")
    most = deployment.output_tokens_max
    # What no answer of the model's can have need not be asked for: many providers refuse it.
    chat[deployment.output_cap_field] = min(cap, most) if type(cap) is int and most is not None else cap
    if deployment.names_tier:
        chat["service_tier"] = "default"  # messages have the price of no other tier
    chat |= {name: given[name] for name in _SAME if name in given}
    if given.get("stop_sequences"):
        chat["stop"] = given["stop_sequences"]
    if given.get("stream") is True:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if given.get("tools"):
        chat["tools"] = [_tool(tool, f"tools[{place}]", own) for place, tool in enumerate(given["tools"])]
        chat |= _tool_choice(given.get("tool_choice"))
    chat |= _effort(given, deployment, own)
    chat |= _format(given)
    metadata = given.get("metadata")
    who = metadata.get("user_id") if type(metadata) is dict else None
    if type(who) is str and 0 < len(who) <= _WHO_CHARS_MAX:
        chat["user"] = who
    managed = given.get("context_management")
    edits = managed.get("edits") if type(managed) is dict else None
    for place, edit in enumerate(edits if type(edits) is list else ()):
        if type(edit) is not dict or not str(edit.get("type")).startswith("clear_thinking_"):  # thoughts are not sent anyway
            raise _cannot(f"context_management.edits[{place}]")
    return chat


def is_anthropics(deployment: Deployment) -> bool:
    """Whether litellm hands on to one of Anthropic's models what only those know."""
    return deployment.provider in TRANSLATED and "claude" in deployment.model


def _cannot(field: str, why: str = "") -> Untranslatable:
    return Untranslatable(f"{field} cannot be translated for this model's provider{why}.", field)


# ---- options -------------------------------------------------------------------------------------------------------------


def _tool(tool: Any, where: str, own: bool) -> dict[str, Any]:
    if type(tool) is not dict or type(tool.get("name")) is not str or tool.get("type") not in (None, "custom"):
        raise _cannot(where, ": only tools with a name and a schema of their own can")
    for name, value in tool.items():
        if name not in _TOOL_KNOWN and value not in (None, _TOOL_SAYS_NOTHING.get(name)):
            raise _cannot(f"{where}.{name}")
    function: dict[str, Any] = {"name": tool["name"]}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    function["parameters"] = tool.get("input_schema") or {"type": "object", "properties": {}}
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function, **_marks(tool, own)}


def _tool_choice(choice: Any) -> dict[str, Any]:
    if choice is None:
        return {}
    kind = choice.get("type") if type(choice) is dict else None
    chosen: dict[str, Any] = {}
    if kind == "tool" and type(choice.get("name")) is str:
        chosen["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif type(kind) is str and kind in _CHOICES:
        chosen["tool_choice"] = _CHOICES[kind]
    else:
        raise _cannot("tool_choice")
    if choice.get("disable_parallel_tool_use") is True:
        chosen["parallel_tool_calls"] = False
    return chosen


def _effort(given: Mapping[str, Any], deployment: Deployment, own: bool) -> dict[str, Any]:
    """How much to think, where the model is known to."""
    thinking = given.get("thinking", {"type": "disabled"})
    kind = thinking.get("type") if type(thinking) is dict else None
    if kind not in ("adaptive", "disabled", "enabled"):
        raise _cannot("thinking.type")
    configured = given.get("output_config")
    wanted = configured.get("effort") if type(configured) is dict else None
    if wanted is not None and (type(wanted) is not str or wanted not in _EFFORTS):
        raise _cannot("output_config.effort")
    if own and "thinking" in given:
        return {"thinking": thinking}
    effort = _EFFORTS.get(wanted or "")
    budget = thinking.get("budget_tokens")
    if effort is None and kind == "enabled" and type(budget) is int:
        effort = "low" if budget < _LITTLE_BUDGET else "medium" if budget < _MUCH_BUDGET else "high"
    return {"reasoning_effort": effort} if effort and deployment.hidden_reasoning else {}


def _format(given: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a structured answer."""
    configured = given.get("output_config") or {}
    if type(configured) is not dict or (unknown := configured.keys() - {"effort", "format"}):
        raise _cannot(f"output_config.{min(unknown)}" if type(configured) is dict else "output_config")
    field = "output_config.format" if configured.get("format") else "output_format"
    wanted = configured.get("format") or given.get("output_format")
    if wanted is None:
        return {}
    if type(wanted) is not dict or wanted.get("type") != "json_schema" or type(wanted.get("schema")) is not dict:
        raise _cannot(field)
    named = {"name": wanted.get("name") or "answer", "schema": wanted["schema"], "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


# ---- messages ------------------------------------------------------------------------------------------------------------


def _messages(given: Mapping[str, Any], own: bool) -> Iterator[dict[str, Any]]:
    if given.get("system"):
        yield {"role": "system", "content": _system(given["system"], "system", own)}
    messages = given["messages"]
    for place, message in enumerate(messages):
        role, content, where = message["role"], message["content"], f"messages[{place}]"
        if role == "system":
            yield {"role": "system", "content": _system(content, f"{where}.content", own)}
        elif role == "assistant":
            if place == len(messages) - 1 and not own:
                raise Untranslatable("An answer that the model is to go on with cannot be translated for its provider.", where)
            yield _answer(content, f"{where}.content", own)
        else:
            yield from _question(content, f"{where}.content", own)


def _system(content: Any, where: str, own: bool) -> Any:
    if type(content) is str:
        return content
    parts = []
    for place, block in enumerate(content if type(content) is list else ()):
        if type(block) is not dict or block.get("type") != "text" or type(block.get("text")) is not str:
            raise _cannot(f"{where}[{place}]")
        parts.append({"type": "text", "text": block["text"], **_marks(block, own)})
    if any("cache_control" in part for part in parts):
        return parts
    return "\n\n".join(part["text"] for part in parts)


def _marks(block: Mapping[str, Any], own: bool) -> dict[str, Any]:
    return {"cache_control": block["cache_control"]} if own and block.get("cache_control") else {}


def _answer(content: Any, where: str, own: bool) -> dict[str, Any]:
    """An earlier turn of the model's."""
    if type(content) is str:
        return {"role": "assistant", "content": content}
    texts, calls, thoughts = [], [], []
    for place, block in enumerate(content):
        kind = block.get("type") if type(block) is dict else None
        if kind == "text" and type(block.get("text")) is str:
            texts.append(block["text"])
        elif kind == "tool_use" and type(block.get("id")) is str and type(block.get("name")) is str:
            arguments = _encode(block.get("input") or {}).decode()
            calls.append({"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}})
        elif kind in _THOUGHTS:
            thoughts.append(block)
        else:
            raise _cannot(f"{where}[{place}]")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    if calls:
        message["tool_calls"] = calls
    elif not texts:
        message["content"] = ""
    if own and thoughts:
        message["thinking_blocks"] = thoughts
    return message


def _question(content: Any, where: str, own: bool) -> Iterator[dict[str, Any]]:
    """A turn of the user's: what its tools answered first, each a message of its own, then the rest."""
    if type(content) is str:
        yield {"role": "user", "content": content}
        return
    parts: list[dict[str, Any]] = []
    for place, block in enumerate(content):
        at = f"{where}[{place}]"
        if type(block) is dict and block.get("type") == "tool_result":
            said, shown = _tool_result(block, at, own)
            yield said
            parts += shown
        else:
            parts += _parts(block, at, own)
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        yield {"role": "user", "content": parts[0]["text"]}
    elif parts:
        yield {"role": "user", "content": parts}


def _tool_result(block: Mapping[str, Any], where: str, own: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The answer of a tool, and what of it is no text: a chat takes that from the user only."""
    content = block.get("content")
    if type(block.get("tool_use_id")) is not str:
        raise _cannot(f"{where}.tool_use_id")
    parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if type(content) is str else []
    for place, inner in enumerate(content if type(content) is list else ()):
        parts += _parts(inner, f"{where}.content[{place}]", own)
    texts = [part["text"] for part in parts if part["type"] == "text"]
    shown = [part for part in parts if part["type"] != "text"]
    if shown:
        texts.append("(What it shows follows.)")
    text = "\n".join(texts)
    if block.get("is_error") is True:
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text, **_marks(block, own)}, shown


def _parts(block: Any, where: str, own: bool) -> list[dict[str, Any]]:
    """A block of the user's as parts of a chat's message."""
    kind = block.get("type") if type(block) is dict else None
    if kind == "text" and type(block.get("text")) is str:
        return [{"type": "text", "text": block["text"], **_marks(block, own)}]
    if kind == "image":
        if block.get("transformations"):
            raise _cannot(f"{where}.transformations")
        return [{"type": "image_url", "image_url": {"url": _address(block.get("source"), where)}, **_marks(block, own)}]
    cites = block.get("citations") if type(block) is dict else None
    if type(cites) is dict and cites.get("enabled"):
        raise _cannot(f"{where}.citations")
    if kind == "document":
        return _document(block, where, own)
    if kind == "search_result" and type(block.get("content")) is list:
        head = f"{block.get('title')} ({block.get('source')})"
        inner = [each for place, part in enumerate(block["content"]) for each in _parts(part, f"{where}.content[{place}]", own)]
        return [{"type": "text", "text": head}, *inner]
    raise _cannot(where)


def _address(source: Any, where: str) -> str:
    """Where an image is, or the image itself."""
    if type(source) is dict and source.get("type") == "url" and type(source.get("url")) is str:
        return str(source["url"])
    if type(source) is dict and source.get("type") == "base64" and type(source.get("data")) is str:
        return f"data:{source.get('media_type')};base64,{source['data']}"
    raise _cannot(f"{where}.source")


def _document(block: Mapping[str, Any], where: str, own: bool) -> list[dict[str, Any]]:
    source, title, context = block.get("source"), block.get("title"), block.get("context")
    kind = source.get("type") if type(source) is dict else None
    head = [{"type": "text", "text": text} for text in (title, context) if type(text) is str and text]
    if type(source) is not dict or kind not in ("base64", "content", "text"):
        raise _cannot(f"{where}.source")
    if kind == "content":
        content = source.get("content")
        if type(content) is str:
            return [*head, {"type": "text", "text": content}]
        inner = enumerate(content if type(content) is list else ())
        return head + [each for place, part in inner for each in _parts(part, f"{where}.source.content[{place}]", own)]
    if type(source.get("data")) is not str:
        raise _cannot(f"{where}.source.data")
    if kind == "text":
        return [*head, {"type": "text", "text": source["data"], **_marks(block, own)}]
    media = source.get("media_type")
    file = {"filename": title or "document.pdf", "file_data": f"data:{media};base64,{source['data']}"}
    return [*head, {"type": "file", "file": file, **_marks(block, own)}]

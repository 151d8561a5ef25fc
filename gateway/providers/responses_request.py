"""A request for `/responses` as one for `/chat/completions`, for deployments that speak only that. Pure.

A field is translated, meaningless, or refused with 400 and its name. Meaningless are fields that say what happens anyway
(`store`: nothing is stored; `truncation: disabled`), those about tools of the provider, and how its cache is kept.
Two lose something, and docs/surfaces.md says so: reasoning of earlier turns is left out, as chats have no place for it, and
`reasoning.summary` asks for a summary where only the reasoning itself is told, if anything is.

A chat has functions only: a custom tool becomes a function with the text `input`, and one of a namespace has both names.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

NAMESPACE: Final = "__"  # between the names of a namespace and its function
_SAME: Final = frozenset(
    ("model", "prompt_cache_key", "safety_identifier", "service_tier", "stream", "temperature", "top_p", "user")
)  # fmt: skip
_MEANINGLESS: Final = frozenset(
    (
        "include", "instructions", "input", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls",
        "prompt_cache_options", "prompt_cache_retention", "reasoning", "store", "stream_options", "text", "tool_choice", "tools",
        "top_logprobs",
    )
)  # fmt: skip
_SAYS_NOTHING: Final[dict[str, tuple[Any, ...]]] = {"background": (False,), "truncation": ("disabled",)}
_LOGPROBS: Final = "message.output_text.logprobs"
_ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_NAME_CHARS_MAX: Final = 64  # OpenAI's own
# The arguments of the function that a custom tool becomes.
CUSTOM_INPUT: Final = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


class Untold(Exception):
    """A chat cannot be asked for this: a 400, `param` names the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class Tool(msgspec.Struct, frozen=True):
    """What a function of the chat is to the client."""

    name: str
    namespace: str = ""
    custom: bool = False


class Translated(msgspec.Struct, frozen=True):
    """A chat's body, what its functions are, and the fields of the request that an answer repeats."""

    body: dict[str, Any]
    tools: dict[str, Tool]
    repeated: dict[str, Any]
    streamed: bool


def translated(given: Mapping[str, Any], cap_field: str) -> Translated:
    """The chat; `cap_field` is its field for the output cap. Untold."""
    said = {name: value for name, value in given.items() if value is not None}
    for name, value in said.items():
        if name not in _SAME and name not in _MEANINGLESS and value not in _SAYS_NOTHING.get(name, ()):
            if name == "previous_response_id":
                raise Untold("This model keeps no responses: send the whole conversation as input.", name)
            raise Untold(f"{name} cannot be translated for this model.", name)
    tools: dict[str, Tool] = {}
    body = {name: value for name, value in said.items() if name in _SAME}
    body["messages"] = _messages(said)
    if said.get("tools"):
        functions = _functions(said["tools"], tools)
        _choose(said.get("tool_choice"), functions, tools, body)
        if "parallel_tool_calls" in said and "tools" in body:
            body["parallel_tool_calls"] = said["parallel_tool_calls"]
    if "max_output_tokens" in said:
        body[cap_field] = said["max_output_tokens"]
    _format(said.get("text"), body)
    if (effort := _object(said, "reasoning").get("effort")) is not None:
        body["reasoning_effort"] = effort
    include = said.get("include")
    if said.get("top_logprobs") or (isinstance(include, list) and _LOGPROBS in include):
        body["logprobs"] = True
        if said.get("top_logprobs"):
            body["top_logprobs"] = said["top_logprobs"]
    streamed = said.get("stream") is True
    if streamed:
        body["stream_options"] = {"include_usage": True}
    return Translated(body, tools, _repeated(said), streamed)


def _object(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = given.get(name)
    if value is not None and not isinstance(value, dict):
        raise Untold(f"{name} must be an object.", name)
    return value or {}


def _repeated(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a response says again of its request, as OpenAI's do."""
    reasoning = _object(said, "reasoning")
    return {
        "background": False,
        "instructions": said.get("instructions"),
        "max_output_tokens": said.get("max_output_tokens"),
        "max_tool_calls": said.get("max_tool_calls"),
        "metadata": said.get("metadata") or {},
        "parallel_tool_calls": said.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "service_tier": said.get("service_tier", "default"),
        "store": False,
        "temperature": said.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, **_object(said, "text")},
        "tool_choice": said.get("tool_choice", "auto"),
        "tools": said.get("tools") or [],
        "top_logprobs": said.get("top_logprobs", 0),
        "top_p": said.get("top_p", 1.0),
        "truncation": "disabled",
        "user": said.get("user"),
    }


# ---- the prompt ----------------------------------------------------------------------------------------------------------


def _messages(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if said.get("instructions"):
        messages.append({"role": "system", "content": said["instructions"]})
    given = said.get("input", "")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for place, item in enumerate(given):
        _add(messages, item, f"input[{place}]")
    return messages


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any], param: str) -> None:
    match item.get("type", "message"):
        case "message":
            role = _ROLES.get(str(item.get("role")))
            if role is None:
                raise Untold(f"A message of the role {str(item.get('role'))[:40]!r} cannot be translated.", f"{param}.role")
            content = _content(item.get("content"), f"{param}.content", texts_only=role == "assistant")
            messages.append({"role": role, "content": content})
        case "function_call" | "custom_tool_call" as kind:
            name, arguments = str(item.get("name", "")), item.get("arguments")
            if kind == "custom_tool_call":
                arguments = msgspec.json.encode({"input": item.get("input", "")}).decode()
            if item.get("namespace"):
                name = f"{item['namespace']}{NAMESPACE}{name}"
            call = {"id": item.get("call_id"), "type": "function", "function": {"name": name, "arguments": arguments or "{}"}}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)  # calls of one turn are one message
        case "function_call_output" | "custom_tool_call_output":
            output = _content(item.get("output"), f"{param}.output", texts_only=True)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        case "reasoning":
            return
        case other:
            raise Untold(f"An item of the type {str(other)[:40]!r} cannot be translated.", param)


def _content(content: Any, param: str, *, texts_only: bool) -> Any:
    """Content of a chat: text where it is nothing else, which every server understands."""
    if not isinstance(content, list):
        return "" if content is None else content
    parts = [_part(part, f"{param}[{place}]") for place, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts) and (texts_only or len(parts) < 2):
        return "".join([part["text"] for part in parts])
    for place, part in enumerate(parts):
        if texts_only and part["type"] != "text":
            raise Untold("Only text can be translated here.", f"{param}[{place}]")
    return parts


def _part(part: Any, param: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    match kind:
        case "input_text" | "output_text" | "text" if isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        case "refusal" if isinstance(part.get("refusal"), str):
            return {"type": "text", "text": part["refusal"]}
        case "input_image" if isinstance(part.get("image_url"), str):
            image = {"url": part["image_url"]}
            if part.get("detail") in ("low", "high", "auto"):
                image["detail"] = part["detail"]
            return {"type": "image_url", "image_url": image}
        case "input_file" if isinstance(part.get("file_data"), str):
            return {"type": "file", "file": {"filename": part.get("filename") or "file", "file_data": part["file_data"]}}
        case "input_audio" if isinstance(part.get("input_audio"), dict):
            return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise Untold(f"A part of the type {str(kind)[:40]!r} cannot be translated as it is given.", param)


# ---- tools and form ------------------------------------------------------------------------------------------------------


def _functions(given: list[Any], tools: dict[str, Tool]) -> list[dict[str, Any]]:
    functions = []
    for place, tool in enumerate(given):
        param = f"tools[{place}]"
        if tool.get("type") != "namespace":
            functions.append(_function(tool, "", param, tools))
            continue
        for number, inner in enumerate(tool.get("tools") or ()):
            functions.append(_function(inner, str(tool.get("name", "")), f"{param}.tools[{number}]", tools))
    return functions


def _function(tool: Mapping[str, Any], namespace: str, param: str, tools: dict[str, Tool]) -> dict[str, Any]:
    name = tool.get("name")
    if not isinstance(name, str):
        raise Untold("A tool has a name.", f"{param}.name")
    if tool.get("defer_loading"):
        raise Untold("defer_loading cannot be translated for this model.", f"{param}.defer_loading")
    custom = tool.get("type") == "custom"
    flat = f"{namespace}{NAMESPACE}{name}" if namespace else name
    if len(flat) > _NAME_CHARS_MAX:
        raise Untold(f"A tool's name, with its namespace, has at most {_NAME_CHARS_MAX} characters.", f"{param}.name")
    if flat in tools:
        raise Untold("Two tools have one name.", f"{param}.name")
    tools[flat] = Tool(name, namespace, custom)
    function: dict[str, Any] = {"name": flat}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    if custom:
        form = tool.get("format")
        if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
            raise Untold("A custom tool's grammar cannot be translated for this model.", f"{param}.format")
        return {"type": "function", "function": {**function, "parameters": CUSTOM_INPUT}}
    for field in ("parameters", "strict"):
        if tool.get(field) is not None:
            function[field] = tool[field]
    return {"type": "function", "function": function}


def _choose(choice: Any, functions: list[dict[str, Any]], tools: dict[str, Tool], body: dict[str, Any]) -> None:
    """`tools` and `tool_choice` of the chat."""
    kept = functions
    chosen: Any = choice
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            listed = choice.get("tools")
            allowed = {_flat_name(each, tools) for each in (listed if isinstance(listed, list) else ())}
            kept = [function for function in functions if function["function"]["name"] in allowed]
            chosen = choice.get("mode", "auto")
        else:
            name = _flat_name(choice, tools)
            if name is None:
                raise Untold("This tool_choice names none of the request's tools.", "tool_choice")
            chosen = {"type": "function", "function": {"name": name}}
    elif choice not in (None, "auto", "none", "required"):
        raise Untold("tool_choice must be auto, none, required or an object.", "tool_choice")
    if kept:
        body["tools"] = kept
        if chosen is not None:
            body["tool_choice"] = chosen


def _flat_name(named: Any, tools: dict[str, Tool]) -> str | None:
    """The chat's name of the tool that a choice names."""
    if not isinstance(named, dict) or named.get("type") not in ("function", "custom"):
        return None
    custom, namespace = named["type"] == "custom", named.get("namespace") or ""
    for flat, tool in tools.items():
        if tool.name == named.get("name") and tool.custom is custom and (not namespace or tool.namespace == namespace):
            return flat
    return None


def _format(text: Any, body: dict[str, Any]) -> None:
    if text is None:
        return
    if not isinstance(text, dict):
        raise Untold("text must be an object.", "text")
    if text.get("verbosity") is not None:
        body["verbosity"] = text["verbosity"]
    form = text.get("format") or {"type": "text"}
    kind = form.get("type") if isinstance(form, dict) else None
    match kind:
        case "text":
            return
        case "json_object":
            body["response_format"] = {"type": "json_object"}
        case "json_schema":
            schema = {name: form[name] for name in ("name", "description", "schema", "strict") if form.get(name) is not None}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        case _:
            raise Untold(f"A text format of the type {str(kind)[:40]!r} cannot be translated.", "text.format")

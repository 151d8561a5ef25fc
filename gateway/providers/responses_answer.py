"""What `/chat/completions` answered, as `/responses` says it: whole, and event by event. Pure but for ids.

The order of a stream's events is OpenAI's: `response.created`, `response.in_progress`, then for each output item
`output_item.added`, its parts and their deltas, what each of them came to, `output_item.done`; at last `response.completed` or
`response.incomplete`, with the usage. Reasoning that a server tells (`reasoning_content`, `reasoning`) becomes an item
of the type reasoning, in the server's own words. Items follow one another: one is done when the next begins.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core.ids import new_id
from gateway.providers.responses_request import Tool, Translated

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_REASONING: Final = ("reasoning_content", "reasoning")
_MADE: Final = ("content", "refusal", "tool_calls", *_REASONING)
# Counts of other families that stand beside OpenAI's, and are read by the same names wherever they stand.
_KEPT_COUNTS: Final = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation", "prompt_cache_hit_tokens")


class MixedUp(Exception):
    """A stream that cannot be told in order. The words are safe to show."""


def usage_of(said: Any) -> dict[str, Any] | None:
    """A chat's usage by the names of a response; None where there is none. Counts stay as they were told."""
    if not isinstance(said, dict):
        return None
    inputs, outputs = said.get("prompt_tokens_details"), said.get("completion_tokens_details")
    inputs, outputs = inputs if isinstance(inputs, dict) else {}, outputs if isinstance(outputs, dict) else {}
    cached = inputs.get("cached_tokens") or said.get("cache_read_input_tokens") or said.get("prompt_cache_hit_tokens") or 0
    written = inputs.get("cache_write_tokens") or said.get("cache_creation_input_tokens") or 0
    return {
        "input_tokens": said.get("prompt_tokens"),
        "input_tokens_details": {**inputs, "cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": said.get("completion_tokens"),
        "output_tokens_details": {"reasoning_tokens": 0, **outputs},
        "total_tokens": said.get("total_tokens"),
        **{name: said[name] for name in _KEPT_COUNTS if name in said},
    }


def response(
    asked: Translated, response_id: str, created_at: int, model: Any, output: list[Any], usage: Any, finish: Any
) -> dict[str, Any]:
    """A response that has ended for the reason that the chat gave."""
    cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(str(finish))
    return {
        **_begun(asked, response_id, created_at, model),
        "status": "incomplete" if cut else "completed",
        "completed_at": None if cut else created_at,
        "incomplete_details": {"reason": cut} if cut else None,
        "output": output,
        "usage": usage_of(usage),
    }


def _begun(asked: Translated, response_id: str, created_at: int, model: Any) -> dict[str, Any]:
    return {
        "id": response_id, "object": "response", "created_at": created_at, "status": "in_progress", "completed_at": None,
        "error": None, "incomplete_details": None, "model": model, "output": [], "usage": None, **asked.repeated,
    }  # fmt: skip


def whole(asked: Translated, answer: Mapping[str, Any], now_s: int) -> dict[str, Any]:
    """A response, of a chat completion. Of several choices the first is told."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    status = "incomplete" if choice.get("finish_reason") in ("length", "content_filter") else "completed"
    output: list[dict[str, Any]] = []
    if reasoning := _reasoning_of(message):
        output.append(_reasoning_item(new_id("rs"), reasoning))
    parts = []
    if isinstance(message.get("content"), str) and (message["content"] or not message.get("tool_calls")):
        parts.append(_text_part(message["content"], _logprobs(choice)))
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        parts = [part for part in parts if part["text"]] + [{"type": "refusal", "refusal": message["refusal"]}]
    if parts:
        output.append(_message_item(new_id("msg"), parts, status))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            tool = asked.tools.get(str(function.get("name")), Tool(str(function.get("name", ""))))
            arguments = function.get("arguments")
            item = _call_item(_call_id(tool), call.get("id"), tool, arguments if isinstance(arguments, str) else "", status)
            output.append(item)
    created = answer.get("created")
    made_at = created if type(created) is int else now_s
    finish = choice.get("finish_reason")
    return response(asked, new_id("resp"), made_at, answer.get("model"), output, answer.get("usage"), finish)


def _reasoning_of(said: Mapping[str, Any]) -> str:
    return next((said[name] for name in _REASONING if isinstance(said.get(name), str) and said[name]), "")


def _logprobs(choice: Mapping[str, Any]) -> list[Any]:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    return content if isinstance(content, list) else []


def _text_part(text: str, logprobs: list[Any]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _message_item(item_id: str, parts: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": parts}


def _reasoning_item(item_id: str, text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content}


def _call_id(tool: Tool) -> str:
    return new_id("ctc" if tool.custom else "fc")


def _call_item(item_id: str, call_id: Any, tool: Tool, arguments: str, status: str) -> dict[str, Any]:
    head: dict[str, Any] = {"id": item_id, "call_id": call_id, "name": tool.name, "status": status}
    if tool.namespace:
        head["namespace"] = tool.namespace
    if tool.custom:
        return {**head, "type": "custom_tool_call", "input": _input_of(arguments)}
    return {**head, "type": "function_call", "arguments": arguments}


def _input_of(arguments: str) -> str:
    """A custom tool's text, out of its function's arguments; all of them where the model did not keep to the form."""
    try:
        given = _decode(arguments)
    except msgspec.DecodeError:
        return arguments
    text = given.get("input") if isinstance(given, dict) else None
    return text if isinstance(text, str) else arguments


class _Typed:
    """The text `input` of a custom tool's arguments, as they come in pieces."""

    _BEGIN: Final = re.compile(r'\s*\{\s*"input"\s*:\s*"')
    _SAFE: Final = re.compile(
        r'(?:[^"\\]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\u[dD][89abAB]..\\u[0-9a-fA-F]{4}|\\[^u])*', re.DOTALL
    )

    def __init__(self) -> None:
        self._told = ""
        self._at = -1

    def more(self, arguments: str) -> str:
        """What can be told now that was not, of the arguments so far."""
        if self._at < 0:
            begin = self._BEGIN.match(arguments)
            if begin is None:
                return ""
            self._at = begin.end()
        safe = self._SAFE.match(arguments, self._at)
        assert safe is not None  # it matches nothing, too
        self._at = safe.end()
        try:
            text: str = _decode(f'"{safe.group()}"') if safe.group() else ""
        except msgspec.DecodeError:
            return ""
        self._told += text
        return text

    def rest(self, whole: str) -> str:
        """What is left to tell of the text as it turned out."""
        return whole.removeprefix(self._told) if whole.startswith(self._told) else ""


class _Open:
    """The output item that is being told."""

    def __init__(self, kind: str, item_id: str, place: int) -> None:
        self.kind = kind  # message, reasoning, call
        self.id = item_id
        self.place = place
        self.part = ""  # the type of its open part
        self.text = ""  # of the part, or the call's arguments
        self.logprobs: list[Any] = []
        self.parts: list[dict[str, Any]] = []
        self.index: Any = None  # of a call, and what else is known of it
        self.call_id: Any = None
        self.tool = Tool("")
        self.typed = _Typed()


class Events:
    """The events of one response, out of the chunks of one chat."""

    def __init__(self, asked: Translated, now_s: int) -> None:
        self._asked = asked
        self._id = new_id("resp")
        self._created_at = now_s
        self._model: Any = asked.body.get("model")
        self._number = 0
        self._out: list[bytes] = []
        self._open: _Open | None = None
        self._output: list[dict[str, Any]] = []
        self._begun = self._ended = False
        self._finish: Any = None
        self._usage: dict[str, Any] | None = None
        self._counted_last = False  # a chunk that tells the usage alone is the last

    def chunk(self, said: Mapping[str, Any]) -> bytes:
        """What one chunk comes to. MixedUp."""
        if self._ended:
            return b""
        if said.get("error") and not said.get("choices"):
            self._fail(said["error"])
            return self._taken()
        if not self._begun:
            self._begin(said)
        choices = said.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                self._choice(choice)
        if isinstance(said.get("usage"), dict):
            self._count(said["usage"], last=not choices)
        return self._taken()

    def end(self, *, done: bool) -> bytes:
        """The end of the chat's stream; `done` where it said so. One that broke off has no last event."""
        if self._ended or not self._begun or not (done or self._counted_last or self._finish is not None):
            return b""
        self._ended = True
        self._close()
        ended = response(self._asked, self._id, self._created_at, self._model, self._output, self._usage, self._finish)
        self._put("response." + ended["status"], {"response": ended})
        return self._taken()

    def _taken(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _put(self, kind: str, fields: Mapping[str, Any]) -> None:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        self._out.append(b"event: " + kind.encode() + b"\ndata: " + _encode(event) + b"\n\n")

    def _fail(self, error: Any) -> None:
        self._ended = True
        told = error if isinstance(error, dict) else {"message": error if isinstance(error, str) else None}
        self._put("error", {"code": told.get("code"), "message": told.get("message"), "param": told.get("param")})

    def _begin(self, said: Mapping[str, Any]) -> None:
        self._begun = True
        if type(said.get("created")) is int:
            self._created_at = said["created"]
        self._model = said.get("model") or self._model
        begun = _begun(self._asked, self._id, self._created_at, self._model)
        self._put("response.created", {"response": begun})
        self._put("response.in_progress", {"response": begun})

    def _count(self, usage: dict[str, Any], *, last: bool) -> None:
        """Counts that grow from chunk to chunk end with the largest; a smaller one afterwards is no correction."""
        if self._usage is None or _size(usage) >= _size(self._usage):
            self._usage = usage
        self._counted_last = last

    def _choice(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        if any(delta.get(name) for name in _MADE):
            self._usage = None  # what was told before does not count this: told again, or counted by the gateway
        if text := _reasoning_of(delta):
            self._say("reasoning", "reasoning_text", text)
        if isinstance(delta.get("content"), str) and delta["content"]:
            self._say("message", "output_text", delta["content"], _logprobs(choice))
        if isinstance(delta.get("refusal"), str) and delta["refusal"]:
            self._say("message", "refusal", delta["refusal"])
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._call(call)
        if choice.get("finish_reason") is not None:
            self._finish = choice["finish_reason"]

    # ---- texts ---------------------------------------------------------------------------------

    def _say(self, kind: str, part: str, text: str, logprobs: list[Any] | None = None) -> None:
        item = self._open
        if item is None or item.kind != kind:
            self._close()
            item = self._open = _Open(kind, new_id("msg" if kind == "message" else "rs"), len(self._output))
            added = _message_item(item.id, [], "in_progress") if kind == "message" else _reasoning_item(item.id, "")
            self._put("response.output_item.added", {"output_index": item.place, "item": added})
        if item.part != part:
            self._close_part(item)
            item.part = part
            self._put("response.content_part.added", {**_at(item), "part": _part(part, "", [])})
        item.text += text
        said: dict[str, Any] = {**_at(item), "delta": text}
        if part == "output_text":
            item.logprobs += logprobs or []
            said["logprobs"] = logprobs or []
        self._put(f"response.{part}.delta", said)

    def _close_part(self, item: _Open) -> None:
        if not item.part:
            return
        done: dict[str, Any] = {"refusal" if item.part == "refusal" else "text": item.text}
        if item.part == "output_text":
            done["logprobs"] = item.logprobs
        made = _part(item.part, item.text, item.logprobs)
        self._put(f"response.{item.part}.done", {**_at(item), **done})
        self._put("response.content_part.done", {**_at(item), "part": made})
        item.parts.append(made)
        item.part, item.text, item.logprobs = "", "", []

    def _close(self) -> None:
        """The open item is done."""
        item, self._open = self._open, None
        if item is None:
            return
        status = "incomplete" if self._finish in ("length", "content_filter") else "completed"
        if item.kind == "call":
            done = self._called(item, status)
        else:
            self._close_part(item)
            if item.kind == "message":
                done = _message_item(item.id, item.parts, status)
            else:
                done = {**_reasoning_item(item.id, ""), "content": item.parts}
        self._put("response.output_item.done", {"output_index": item.place, "item": done})
        self._output.append(done)

    # ---- calls ---------------------------------------------------------------------------------

    def _call(self, call: Mapping[str, Any]) -> None:
        index, call_id, function = call.get("index"), call.get("id"), call.get("function")
        function = function if isinstance(function, dict) else {}
        item = self._open
        # Some servers number all of their calls 0: then a new id says that it is another.
        if item is None or item.kind != "call" or index != item.index or (call_id and call_id != item.call_id):
            if not isinstance(function.get("name"), str) or not function["name"]:
                raise MixedUp("the upstream mixed its tool calls")
            self._close()
            tool = self._asked.tools.get(function["name"], Tool(function["name"]))
            item = self._open = _Open("call", _call_id(tool), len(self._output))
            item.index, item.call_id, item.tool = index, call_id or new_id("call"), tool
            added = _call_item(item.id, item.call_id, tool, "", "in_progress")
            self._put("response.output_item.added", {"output_index": item.place, "item": added})
        piece = function.get("arguments")
        if not isinstance(piece, str) or not piece:
            return
        item.text += piece
        if not item.tool.custom:
            self._put("response.function_call_arguments.delta", {**_of(item), "delta": piece})
        elif text := item.typed.more(item.text):
            self._put("response.custom_tool_call_input.delta", {**_of(item), "delta": text})

    def _called(self, item: _Open, status: str) -> dict[str, Any]:
        done = _call_item(item.id, item.call_id, item.tool, item.text, status)
        if item.tool.custom:
            if rest := item.typed.rest(done["input"]):
                self._put("response.custom_tool_call_input.delta", {**_of(item), "delta": rest})
            self._put("response.custom_tool_call_input.done", {**_of(item), "input": done["input"]})
        else:
            self._put("response.function_call_arguments.done", {**_of(item), "name": item.tool.name, "arguments": item.text})
        return done


def _size(usage: Mapping[str, Any]) -> int:
    return max([value for value in usage.values() if type(value) is int], default=0)


def _of(item: _Open) -> dict[str, Any]:
    return {"item_id": item.id, "output_index": item.place}


def _at(item: _Open) -> dict[str, Any]:
    return {**_of(item), "content_index": len(item.parts)}


def _part(kind: str, text: str, logprobs: list[Any]) -> dict[str, Any]:
    if kind == "output_text":
        return _text_part(text, logprobs)
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}

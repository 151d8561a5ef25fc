"""Chat completions, whole and streamed, as answers in Anthropic's dialect. Pure.

Usage: a chat counts cached tokens inside its prompt or beside it, as the deployment says; here they lie beside
`input_tokens`, and reasoning inside `output_tokens`. Audio and images inside the input, which Anthropic does not count apart,
are told as `input_tokens_details`, because they may have prices of their own. Counts that make no sense stay as they are told.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from gateway.core.ids import new_id
from gateway.providers.frames import Frames, NotEvents, payload
from gateway.providers.model import UpstreamFault

_STOPS: Final = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use",
    "content_filter": "refusal",
}  # fmt: skip
# Anthropic's description has these in every answer: null where there is nothing to tell.
USAGE_OF_A_DELTA: Final = dict.fromkeys(
    ("cache_creation_input_tokens", "cache_read_input_tokens", "input_tokens", "output_tokens_details", "server_tool_use")
)
_USAGE: Final = {**USAGE_OF_A_DELTA, **dict.fromkeys(("cache_creation", "inference_geo", "service_tier"))}
ENDS_PLAINLY: Final = {"stop_details": None, "container": None}
_NOTHING: Final[Mapping[str, Any]] = {}
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def message_of(said: Any, model: str, cached_inside: bool) -> bytes:
    """A whole answer. UpstreamFault where it is no chat completion."""
    choices = said.get("choices") if type(said) is dict else None
    if type(choices) is not list or not choices or type(choices[0]) is not dict:
        raise UpstreamFault("its answer is no chat completion", sent=True)
    message = _dict(choices[0], "message")
    content = [*_thoughts(message)]
    if text := message.get("content"):
        content.append(_text(text if type(text) is str else "".join(_texts(text))))
    if type(message.get("refusal")) is str and message["refusal"]:
        content.append(_text(message["refusal"]))
    calls = message.get("tool_calls")
    for call in calls if type(calls) is list else ():
        function = _dict(call, "function")
        asked = _arguments(function.get("arguments"))
        content.append({"type": "tool_use", "id": _tool_id(call), "name": function.get("name"), "input": asked})
    reason, sequence = _ended(choices[0], bool(calls), bool(message.get("refusal")))
    told = said.get("usage")
    usage = {**_USAGE, **(usage_of(told, cached_inside) if type(told) is dict else {"input_tokens": 0, "output_tokens": 0})}
    return _encode({**_head(said, model, content), "stop_reason": reason, "stop_sequence": sequence, "usage": usage})


def _head(said: Mapping[str, Any], model: str, content: list[Any]) -> dict[str, Any]:
    name = said.get("model")
    return {
        "id": _message_id(said),
        "type": "message",
        "role": "assistant",
        "model": name if type(name) is str else model,
        "content": content,
        **ENDS_PLAINLY,
    }


def _message_id(said: Mapping[str, Any]) -> str:
    """The chat's own with the letters that a message's begins with."""
    found = said.get("id")
    return "msg_" + found.removeprefix("chatcmpl-").removeprefix("msg_") if type(found) is str and found else new_id("msg")


def _tool_id(call: Mapping[str, Any]) -> str:
    """The chat's own: it comes back with the tool's result."""
    found = call.get("id")
    return found if type(found) is str and found else new_id("toolu")


def _dict(said: Any, name: str) -> Mapping[str, Any]:
    value = said.get(name) if type(said) is dict else None
    return value if type(value) is dict else _NOTHING


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": None}


def _texts(parts: Any) -> Iterator[str]:
    for part in parts if type(parts) is list else ():
        if type(part) is dict and type(part.get("text")) is str:
            yield part["text"]


def _thoughts(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What was thought: Anthropic's own blocks where litellm kept them, else the text under the names that servers use."""
    blocks = message.get("thinking_blocks")
    own = [block for block in blocks if type(block) is dict] if type(blocks) is list else []
    yield from own
    text = message.get("reasoning_content") or message.get("reasoning")
    if not own and type(text) is str and text:
        yield {"type": "thinking", "thinking": text, "signature": ""}


def _arguments(text: Any) -> Any:
    """The input of a tool. What a model wrote that is no object cannot be said in this dialect but as a text."""
    try:
        asked = _decode(text) if type(text) is str and text.strip() else {}
    except (msgspec.DecodeError, RecursionError):
        asked = text
    return asked if type(asked) is dict else {"arguments": asked}


def _ended(choice: Mapping[str, Any], calls: bool, refused: bool) -> tuple[str, str | None]:
    """Why it ended, and at which of the caller's sequences, where a server says so (vLLM's `stop_reason`)."""
    told = choice.get("finish_reason")
    sequence = choice.get("stop_reason")
    if refused:
        return "refusal", None
    if calls and told != "length":
        return "tool_use", None
    if told == "stop" and type(sequence) is str and sequence:
        return "stop_sequence", sequence
    return _STOPS.get(told if type(told) is str else "", "end_turn"), None


def usage_of(told: Mapping[str, Any], cached_inside: bool) -> dict[str, Any]:
    """A chat's usage; see the module."""
    prompt, made, total = told.get("prompt_tokens"), told.get("completion_tokens"), told.get("total_tokens")
    if type(prompt) is not int or type(made) is not int or prompt < 0 or made < 0:
        return {"input_tokens": prompt, "output_tokens": made}
    inputs, outputs = _dict(told, "prompt_tokens_details"), _dict(told, "completion_tokens_details")
    cached = _count(inputs, "cached_tokens") or _count(told, "cache_read_input_tokens") or _count(told, "prompt_cache_hit_tokens")
    written = _count(told, "cache_creation_input_tokens")
    audio, image = _count(inputs, "audio_tokens"), _count(inputs, "image_tokens")
    if cached_inside:
        # A part that its whole does not hold is cut down, the cached one, which is the cheapest, first.
        audio = min(audio, prompt)
        image = min(image, prompt - audio)
        written = min(written, prompt - audio - image)
        cached = min(cached, prompt - audio - image - written)
        prompt -= cached + written
    usage: dict[str, Any] = {
        "input_tokens": prompt, "cache_creation_input_tokens": written, "cache_read_input_tokens": cached,
    }  # fmt: skip
    if written and type(told.get("cache_creation")) is dict:
        usage["cache_creation"] = told["cache_creation"]
    if audio or image:
        usage["input_tokens_details"] = {"audio_tokens": audio, "image_tokens": image}
    reasoning, spoken = _count(outputs, "reasoning_tokens"), _count(outputs, "audio_tokens")
    if reasoning and total == told["prompt_tokens"] + made + reasoning:
        made += reasoning  # some count it beside the completion, and their total says so
    usage["output_tokens"] = made
    if reasoning or spoken:
        usage["output_tokens_details"] = {"thinking_tokens": reasoning, **({"audio_tokens": spoken} if spoken else {})}
    return usage


def _count(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    return value if type(value) is int and value > 0 else 0


class Events:
    """One stream of chunks on its way into Anthropic's events: a block at a time, and one last `message_delta`."""

    def __init__(self, model: str, cached_inside: bool) -> None:
        self._frames = Frames()
        self._model = model
        self._cached_inside = cached_inside
        self._begun = self._done = self._failed = self._refused = False
        self._blocks = 0
        self._open = ""  # the kind of the open block
        self._call: Any = None  # which call of the answer's the open block is
        self._calls: set[int] = set()
        self._finish: dict[str, Any] | None = None
        self._usage: dict[str, Any] | None = None

    def feed(self, piece: bytes) -> bytes:
        """The events that a piece of the stream becomes. UpstreamFault where it is none."""
        try:
            frames = self._frames.feed(piece)
        except NotEvents as wrong:
            raise UpstreamFault(str(wrong), sent=True) from wrong
        return b"".join([said for frame in frames for said in self._said(payload(frame))])

    def end(self) -> bytes:
        """The last events, where the stream ended as it should."""
        rest = b"".join(self._said(payload(self._frames.rest())))
        if self._failed or not self._begun or not (self._done or self._finish is not None or self._usage is not None):
            return rest
        reason, sequence = _ended(self._finish or _NOTHING, bool(self._calls), self._refused)
        delta = {"stop_reason": reason, "stop_sequence": sequence, **ENDS_PLAINLY}
        # Without a count of the upstream's the zero says that there is none.
        usage = {**USAGE_OF_A_DELTA, **(self._usage or {"output_tokens": 0})}
        ending = [*self._stopped(), _event("message_delta", delta=delta, usage=usage), _event("message_stop")]
        return rest + b"".join(ending)

    def _said(self, data: bytes) -> Iterator[bytes]:
        if not data or self._failed:
            return
        if data == b"[DONE]":
            self._done = True
            return
        chunk = _parsed(data)
        error = chunk.get("error")
        if error and not chunk.get("choices"):
            self._failed = True
            message = error.get("message") if type(error) is dict else error
            yield _event("error", error={"type": "api_error", "message": message})
            return
        if not self._begun:
            self._begun = True
            empty = {"stop_reason": None, "stop_sequence": None, "usage": {**_USAGE, "input_tokens": 0, "output_tokens": 0}}
            yield _event("message_start", message={**_head(chunk, self._model, []), **empty})
        told = chunk.get("usage")
        if type(told) is dict and told:
            self._usage = usage_of(told, self._cached_inside)
        choices = chunk.get("choices")
        for choice in choices if type(choices) is list else ():
            if type(choice) is dict and choice.get("index") in (0, None):
                yield from self._added(_dict(choice, "delta"))
                if choice.get("finish_reason") is not None:
                    self._finish = choice

    def _added(self, delta: Mapping[str, Any]) -> Iterator[bytes]:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if type(thought) is str and thought:
            yield from self._in_block("thinking", thinking="", signature="")
            yield self._delta("thinking_delta", thinking=thought)
        yield from self._signed(delta.get("thinking_blocks"))
        for name in ("content", "refusal"):
            text = delta.get(name)
            self._refused = self._refused or (name == "refusal" and bool(text))
            if type(text) is str and text:
                yield from self._in_block("text", text="", citations=None)
                yield self._delta("text_delta", text=text)
        calls = delta.get("tool_calls")
        for call in calls if type(calls) is list else ():
            if type(call) is dict:
                yield from self._called(call)

    def _signed(self, blocks: Any) -> Iterator[bytes]:
        """What litellm keeps of Anthropic's own thinking blocks besides their text."""
        for block in blocks if type(blocks) is list else ():
            if type(block) is not dict:
                continue
            if block.get("type") == "redacted_thinking":
                yield from self._stopped()
                yield from self._in_block("redacted_thinking", data=block.get("data"))
                yield from self._stopped()
            elif block.get("signature"):
                yield from self._in_block("thinking", thinking="", signature="")
                yield self._delta("signature_delta", signature=block["signature"])

    def _called(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        number, function = call.get("index"), _dict(call, "function")
        if type(number) is not int:
            number = 0
        if self._open != "tool_use" or self._call != number:
            if number in self._calls:
                raise UpstreamFault("it mixes the calls of its tools", sent=True)
            self._calls.add(number)
            yield from self._stopped()
            yield from self._in_block("tool_use", id=_tool_id(call), name=function.get("name") or "", input={})
            self._call = number
        text = function.get("arguments")
        if type(text) is str and text:
            yield self._delta("input_json_delta", partial_json=text)

    def _in_block(self, kind: str, **start: Any) -> Iterator[bytes]:
        """Begin a block, unless one of its kind is open."""
        if self._open != kind:
            yield from self._stopped()
            self._open = kind
            yield _event("content_block_start", index=self._blocks, content_block={"type": kind, **start})

    def _stopped(self) -> Iterator[bytes]:
        if self._open:
            self._open = ""
            yield _event("content_block_stop", index=self._blocks)
            self._blocks += 1

    def _delta(self, kind: str, **said: Any) -> bytes:
        return _event("content_block_delta", index=self._blocks, delta={"type": kind, **said})


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **fields}) + b"\n\n"


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        chunk = _decode(data)
    except UnicodeDecodeError:
        return _parsed(data.decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise UpstreamFault("an event of the stream is not JSON", sent=True) from wrong
    if type(chunk) is not dict:
        raise UpstreamFault("an event of the stream is no chunk of a chat", sent=True)
    return chunk

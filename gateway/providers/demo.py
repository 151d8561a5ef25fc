"""The demo model: an `Upstream` in this process, so that a metered, streamed answer exists before any provider key.

It answers chat, completions and embeddings in exactly OpenAI's shapes and with true counts of its
tokens (o200k). It obeys `max_tokens`/`max_completion_tokens`, `n`, `stop`, `stream` with
`include_usage`, and calls a tool when it must or is asked to. It is not clever.
"""

import asyncio
import base64
import hashlib
import math
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.core.clock import SYSTEM_CLOCK, Clock
from gateway.core.ids import new_id
from gateway.providers import demo_tools
from gateway.providers.model import Deployment, Headers, Reply
from gateway.providers.tokenizer import O200K, encode, load

_MESSAGE_TOKENS: Final = 3
_ANSWER_TOKENS: Final = 3
_QUOTE_CHARS: Final = 200
_DIMENSIONS: Final = 256
_DIMENSIONS_MAX: Final = 4096
_CHOICES_MAX: Final = 128
_INPUTS_MAX: Final = 2048
_JSON: Final = {"content-type": "application/json"}
_EVENTS: Final = {"content-type": "text/event-stream; charset=utf-8"}
_GREETING: Final = "Hello from the demo model inside the Mozaiks gateway. You said: "
_EXPLAINED: Final = (
    " Before this answer began, the gateway checked your key and set money aside from your wallet. While it streams,"
    " the gateway counts its tokens; when it ends, you are charged for exactly those tokens, the rest of the hold is"
    " given back, and the charge becomes one entry in a double-entry ledger. Add a provider key to the"
    " configuration to talk to a real model in the same way."
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _Wrong(Exception):
    """The request is malformed: message and parameter, for a 400 as OpenAI gives it."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class _Choice(msgspec.Struct, frozen=True):
    """One answer: its pieces of text (their number is that of its tokens), or a tool call."""

    pieces: tuple[str, ...]
    tokens: int
    finish: str
    call: demo_tools.Call | None = None


class _Whole:
    """A reply whose body is ready."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self._body = body

    @property
    def headers(self) -> Mapping[str, str]:
        return _JSON

    @property
    def content_type(self) -> bytes:
        return b"application/json"

    async def read(self, limit_s: float) -> bytes:
        return self._body

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        body, self._body = self._body, b""
        return not body or take(body)

    async def close(self) -> None:
        """Nothing is held."""


class _Stream:
    """A reply that is sent frame by frame."""

    status = 200

    def __init__(self, frames: Sequence[bytes], pause_s: float) -> None:
        self._frames = deque(frames)
        self._pause_s = pause_s

    @property
    def headers(self) -> Mapping[str, str]:
        return _EVENTS

    @property
    def content_type(self) -> bytes:
        return b"text/event-stream"

    async def read(self, limit_s: float) -> bytes:
        return b"".join(self._frames)

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        while self._frames:
            goes_on = take(self._frames.popleft())
            # A turn of the loop even without a pause, as a socket would give.
            await asyncio.sleep(self._pause_s)
            if not goes_on:
                return False
        return True

    async def close(self) -> None:
        """Nothing is held."""


class DemoUpstream:
    """The adapter of provider "demo". `pause_s` lies between two tokens of a stream."""

    def __init__(self, pause_s: float = 0.015, clock: Clock = SYSTEM_CLOCK) -> None:
        self._pause_s = pause_s
        self._clock = clock

    async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
        """As `Upstream.send`; never fails. Unknown paths are answered 404, malformed requests 400."""
        try:
            request = _decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            request = None
        try:
            if not isinstance(request, dict):
                raise _Wrong("The body is not a JSON object.")
            # Tokenizing takes milliseconds, loading the tokenizer the first time half a second.
            return await asyncio.to_thread(self._answer, path, request)
        except _Wrong as wrong:
            return _Whole(400, _error(str(wrong), wrong.param))

    async def close(self) -> None:
        """Nothing to close."""

    def _answer(self, path: str, request: dict[str, Any]) -> Reply:
        created = self._clock() // 1_000_000_000
        if path == "/embeddings":
            return _Whole(200, _embeddings(request))
        if path not in ("/chat/completions", "/completions"):
            return _Whole(404, _error("The demo model has no such endpoint."))
        chat = path == "/chat/completions"
        prompt_tokens, choices = _chat(request) if chat else _completions(request)
        model = request.get("model", "demo")
        if request.get("stream") is True:
            return _Stream(_frames(request, chat, model, created, prompt_tokens, choices), self._pause_s)
        head = {"id": new_id("chatcmpl" if chat else "cmpl"), "object": "chat.completion" if chat else "text_completion"}
        shaped = [_whole_choice(index, choice, chat) for index, choice in enumerate(choices)]
        usage = _usage(prompt_tokens, choices)
        return _Whole(200, _encode({**head, "created": created, "model": model, "choices": shaped, "usage": usage}))


def _chat(request: dict[str, Any]) -> tuple[int, list[_Choice]]:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise _Wrong("messages must be a list of at least one message.", "messages")
    texts = [_text(message.get("content")) for message in messages]
    prompt_tokens = _ANSWER_TOKENS + sum(_MESSAGE_TOKENS + _count(text) for text in texts)
    prompt_tokens += sum(_count(str(message.get("role", ""))) for message in messages)
    if request.get("tools"):
        prompt_tokens += _count(_encode(request["tools"]).decode())
    said = next((text for message, text in zip(messages[::-1], texts[::-1], strict=True) if message.get("role") == "user"), "")
    called = [message for message in messages if message.get("role") == "tool"]
    tool = (
        None
        if called and messages[-1] is called[-1]
        else demo_tools.chosen(request.get("tools"), request.get("tool_choice"), said)
    )
    if tool is not None:
        return prompt_tokens, [_call_choice(tool) for _ in range(_choices(request))]
    text = (
        f"The tool answered: {_quoted(texts[-1])}"
        if called and messages[-1] is called[-1]
        else _GREETING + _quoted(said) + _EXPLAINED
    )
    return prompt_tokens, [_choice(text, request)] * _choices(request)


def _completions(request: dict[str, Any]) -> tuple[int, list[_Choice]]:
    prompt = request.get("prompt", "")
    prompts: list[Any] = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    if len(prompts) * _choices(request) > _CHOICES_MAX:
        raise _Wrong(f"prompts times n may be at most {_CHOICES_MAX}.", "prompt")
    texts, prompt_tokens = _inputs(prompts, "prompt")
    choices = [
        choice for text in texts for choice in [_choice(_GREETING + _quoted(text) + _EXPLAINED, request)] * _choices(request)
    ]
    return prompt_tokens, choices


def _inputs(given: list[Any], param: str) -> tuple[list[str], int]:
    """Texts of a list of strings or lists of token ids, and the number of their tokens."""
    texts, tokens = [], 0
    for item in given:
        if isinstance(item, str):
            texts.append(item)
            tokens += _count(item)
        elif isinstance(item, list) and all(type(number) is int and number >= 0 for number in item):
            texts.append(" ".join(map(str, item)))
            tokens += len(item)
        else:
            raise _Wrong(f"{param} must be a string, a list of strings, a list of tokens or a list of those.", param)
    return texts, tokens


def _choice(text: str, request: dict[str, Any]) -> _Choice:
    stopped, stop = text, request.get("stop")
    for end in [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []:
        if isinstance(end, str) and end:
            stopped = stopped.partition(end)[0]
    tokens = encode(O200K, stopped)
    cap = _cap(request)
    cut = cap is not None and cap < len(tokens)
    kept = tokens[:cap] if cut else tokens
    return _Choice(_pieces(kept), len(kept), "length" if cut else "stop")


def _call_choice(tool: Mapping[str, Any]) -> _Choice:
    call = demo_tools.call(tool)
    return _Choice((), _count(call.name) + _count(call.arguments), "tool_calls", call)


def _pieces(tokens: Sequence[int]) -> tuple[str, ...]:
    """The text of the tokens, cut between them where a character ends."""
    pieces, held = [], b""
    for token in tokens:
        held += load(O200K).decode_single_token_bytes(token)
        try:
            pieces.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            continue
    return (*pieces, held.decode(errors="replace")) if held else tuple(pieces)


def _cap(request: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = request.get(name)
        if value is not None:
            if type(value) is not int or value < 1:
                raise _Wrong(f"{name} must be a whole number of at least 1.", name)
            return value
    return None


def _choices(request: dict[str, Any]) -> int:
    count = request.get("n")
    if count is None:
        return 1
    if type(count) is not int or not 1 <= count <= _CHOICES_MAX:
        raise _Wrong(f"n must be from 1 to {_CHOICES_MAX}.", "n")
    return count


def _usage(prompt_tokens: int, choices: Sequence[_Choice]) -> dict[str, Any]:
    produced = sum(choice.tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": produced,
        "total_tokens": prompt_tokens + produced,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _whole_choice(index: int, choice: _Choice, chat: bool) -> dict[str, Any]:
    end = {"logprobs": None, "finish_reason": choice.finish}
    text = "".join(choice.pieces)
    if not chat:
        return {"index": index, "text": text, **end}
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    if choice.call is not None:
        message |= {"content": None, "tool_calls": [choice.call.shaped()]}
    return {"index": index, "message": message, **end}


def _frames(
    request: dict[str, Any], chat: bool, model: str, created: int, prompt_tokens: int, choices: Sequence[_Choice]
) -> list[bytes]:
    """The events of a stream. As OpenAI does: `usage` is null in every chunk and full in a last one, only where asked for."""
    options = request.get("stream_options")
    counted = isinstance(options, dict) and options.get("include_usage") is True
    shape = "chat.completion.chunk" if chat else "text_completion"
    head = {"id": new_id("chatcmpl" if chat else "cmpl"), "object": shape, "created": created, "model": model}
    nothing: dict[str, Any] = {"usage": None} if counted else {}

    def event(shaped: list[dict[str, Any]], extra: dict[str, Any] = nothing) -> bytes:
        return b"data: " + _encode({**head, "choices": shaped, **extra}) + b"\n\n"

    def part(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        body = {"delta": delta} if chat else {"text": delta.get("content", "")}
        return event([{"index": index, **body, "logprobs": None, "finish_reason": finish}])

    frames = []
    for index, choice in enumerate(choices):
        if chat:
            frames.append(part(index, {"role": "assistant", "content": None if choice.call else "", "refusal": None}))
        if choice.call is not None:
            frames += [part(index, {"tool_calls": [piece]}) for piece in choice.call.streamed()]
        frames += [part(index, {"content": piece}) for piece in choice.pieces]
        frames.append(part(index, {}, choice.finish))
    if counted:
        frames.append(event([], {"usage": _usage(prompt_tokens, choices)}))
    frames.append(b"data: [DONE]\n\n")
    return frames


def _embeddings(request: dict[str, Any]) -> bytes:
    given = request.get("input")
    if not given:
        raise _Wrong("input must not be empty.", "input")
    items: list[Any] = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if len(items) > _INPUTS_MAX:
        raise _Wrong(f"input may hold at most {_INPUTS_MAX} texts.", "input")
    dimensions = request.get("dimensions")
    if dimensions is None:
        dimensions = _DIMENSIONS
    if type(dimensions) is not int or not 1 <= dimensions <= _DIMENSIONS_MAX:
        raise _Wrong(f"dimensions must be from 1 to {_DIMENSIONS_MAX}.", "dimensions")
    texts, tokens = _inputs(items, "input")
    data = []
    for index, text in enumerate(texts):
        packed = struct.pack(f"<{dimensions}f", *_vector(text, dimensions))
        if request.get("encoding_format") == "base64":
            data.append({"object": "embedding", "index": index, "embedding": base64.b64encode(packed).decode()})
        else:
            data.append({"object": "embedding", "index": index, "embedding": struct.unpack(f"<{dimensions}f", packed)})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _encode({"object": "list", "data": data, "model": request.get("model", "demo"), "usage": usage})


def _vector(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    stream = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(4 * dimensions)
    raw = [number / 2**31 - 1 for number in struct.unpack(f"<{dimensions}I", stream)]
    length = math.sqrt(sum(number * number for number in raw)) or 1.0
    return [number / length for number in raw]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return " ".join(part for part in parts if isinstance(part, str))
    return ""


def _quoted(text: str) -> str:
    shown = " ".join(text.split())
    return f'"{shown[:_QUOTE_CHARS]}{"..." if len(shown) > _QUOTE_CHARS else ""}".'


def _count(text: str) -> int:
    return len(encode(O200K, text))


def _error(message: str, param: str | None = None) -> bytes:
    return _encode({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}})

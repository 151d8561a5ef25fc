"""Server-sent events on their way to the client: whole frames pass as bytes, and usage is read as they pass.

The upstream is always asked for usage, so its last chunk (`choices: []` with `usage`) arrives whether or
not the client asked. That frame, and the `[DONE]` behind it, are kept back until the request is settled:
a client that wants usage gets it with its cost, the others never see it. Generated text is kept in its
JSON-escaped form, the smallest that can still be counted when the upstream tells no usage.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core import limits
from gateway.core.errors import GatewayError
from gateway.core.units import Usage
from gateway.proxy import wire
from gateway.proxy.surface import Request

_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n|\r\r")
_BLANK_LINE_BYTES: Final = 4
_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_STRING: Final = rb'"\s*:\s*"((?:[^"\\]|\\.)*)"'
_TEXT: Final = re.compile(rb'"(?:content|text|arguments|reasoning_content|refusal)' + _STRING, re.DOTALL)
_FINISHED: Final = re.compile(rb'"finish_reason"\s*:\s*"')
_FIELD: Final = re.compile(rb"\s*(?:event|id|retry|data|:)")  # what a line of an event may begin with

_NO_TEXT: Final = frozenset(b'"\n\r')  # what the text of an event, as it stands in JSON, does not contain

DONE: Final = b"data: [DONE]\n\n"
_decode = wire.decode_json
_encode = wire.encode_json


class BrokenStream(Exception):
    """The upstream sent something that is not a stream of events."""


class Streamed:
    """What the streams of all dialects have in common; see `surface.Stream`."""

    content_type = b"text/event-stream; charset=utf-8"
    __slots__ = ("error", "text_bytes", "texts")

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.text_bytes = 0
        self.error = ""

    @property
    def told_early(self) -> bool:
        """Never, where the event that tells of the usage is the last."""
        return False

    def text(self) -> str:
        """Everything generated so far, in order, unescaped."""
        return text_of(self.texts)

    def finish(self) -> bytes:
        """Nothing, where an error event, or the end itself, says it."""
        return b""

    def ended_by(self, error: GatewayError, request_id: str) -> bytes:
        """An error event, and nothing behind it."""
        return wire.error_event(error, request_id)


class Relay(Streamed):
    """One stream. `feed` returns the bytes to forward now; after the end, the attributes tell what was seen.

    `texts` is the generated text as it stands in JSON, `text_bytes` how much of it there is (a bound on its tokens).
    `error` is what an error event of the upstream said; such an event is not forwarded, because the words
    may name addresses or keys, and nothing after it is.
    """

    __slots__ = (
        "_after", "_before", "_frames_to_learn", "_last", "_tail", "_told_at", "done", "usage", "usage_chunk",
    )  # fmt: skip

    def __init__(self) -> None:  # of `Streamed` as well: the plain path makes no call for it
        self._tail = bytearray()
        self._last = b""
        self._before = self._after = b""  # what stood around the text of the last plain event
        self._frames_to_learn = 16  # a stream whose every event differs is not worth looking for more
        self._told_at = 0  # how many texts there were when the usage was told
        self.texts: list[bytes] = []
        self.text_bytes = 0
        self.done = False
        self.error = ""
        self.usage: dict[str, Any] | None = None
        self.usage_chunk: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Bytes to forward: `chunk` as it is while it holds whole frames and neither usage, an error nor the end."""
        before, after = self._before, self._after
        if before and chunk.startswith(before) and chunk.endswith(after):
            # The events of most streams differ in their text alone: one that does needs no second look.
            text = chunk[len(before) : -len(after)]
            if len(before) + len(text) + len(after) == len(chunk) and _NO_TEXT.isdisjoint(text) and text[-1:] != b"\\":
                self._last = chunk
                self.texts.append(text)
                self.text_bytes += len(text)  # a frame is learned of events that say nothing besides
                return chunk
        plain = b"[DONE]" not in chunk and b'"error"' not in chunk and not _USAGE.search(chunk)
        if plain and not self._tail and not self.error and chunk.startswith(b"data:") and chunk.endswith(b"\n\n"):
            self._last = chunk
            found = _texts_in(chunk)
            self._keep(found)
            self._before = b""
            text_at = _TEXT.search(chunk) if self._frames_to_learn and len(found) == 1 else None
            if text_at is not None and text_at[1] == found[0] and chunk.count(b"\n\n") == 1:
                self._frames_to_learn -= 1
                self._before, self._after = chunk[: text_at.start(1)], chunk[text_at.end(1) :]
            return chunk
        self._before = b""
        tail, forward = self._tail, []
        # What was there before holds no blank line: looking at it again would make a long event cost its square.
        start, look_from = 0, max(0, len(tail) - _BLANK_LINE_BYTES)
        tail += chunk
        while blank := _BLANK_LINE.search(tail, look_from):
            frame = bytes(tail[start : blank.end()])
            start = look_from = blank.end()
            if self._passes(frame):
                forward.append(frame)
        if start:
            del tail[:start]
        if len(tail) > limits.SSE_FRAME_BYTES_MAX:
            raise BrokenStream("an event of the stream is too large")
        return b"".join(forward)

    def end(self) -> bytes:
        """What was left unfinished when the upstream closed: forwarded if it is a whole event but for its blank line."""
        tail = bytes(self._tail).strip()
        self._tail.clear()
        payload = _payload(tail)
        if payload and (payload == b"[DONE]" or _parsed(payload) is not None) and self._passes(tail):
            return tail + b"\n\n"
        return b""

    @property
    def complete(self) -> bool:
        """Whether the upstream ended the answer itself, rather than breaking off."""
        return not self.error and (self.done or self.usage_chunk is not None or _FINISHED.search(self._last) is not None)

    @property
    def told_early(self) -> bool:
        """Whether the upstream went on after its last word on usage."""
        return self.usage is not None and any(self.texts[self._told_at :])

    def finish(self) -> bytes:
        """The event that ends the choices of a stream which is cut here, in the shape of the events before."""
        chunk = _parsed(_payload(self._last))
        if type(chunk) is not dict:
            return b""
        choices = chunk.get("choices")
        said = [choice for choice in choices if type(choice) is dict] if type(choices) is list else []
        ended = [{"index": choice.get("index", 0), **_nothing_in(choice), "finish_reason": "length"} for choice in said]
        chunk.pop("usage", None)
        choices = ended or [{"index": 0, "delta": {}, "finish_reason": "length"}]
        return b"data: " + _encode({**chunk, "choices": choices}) + b"\n\n"

    def last(
        self,
        request: Request,
        request_id: str,
        counted: Usage | None,
        money: Mapping[str, Any],
        error: GatewayError | None,
        *,
        asked: bool,
    ) -> bytes:
        """The end, behind the upstream's usage chunk with what it cost, or one of our own, for a client that wants it."""
        end = DONE if error is None else wire.error_event(error, request_id) + DONE
        if not (request.wants_usage or asked):
            return end
        chunk = self.usage_chunk or {"id": request_id, "object": "chat.completion.chunk", "model": request.model, "choices": []}
        usage = {**(self.usage or {}), **({} if counted is None else wire.usage_of(counted)), **money}
        if "service_tier" in chunk:
            usage.pop("service_tier", None)  # it stands beside the usage
        return b"data: " + _encode({**chunk, "usage": usage}) + b"\n\n" + end

    def _keep(self, texts: list[bytes]) -> None:
        self.texts += texts
        self.text_bytes += sum(map(len, texts)) + texts.count(b"")

    def _passes(self, frame: bytes) -> bool:
        """Read one event; False keeps it from the client."""
        if self.error:
            return False
        if not _FIELD.match(frame) and frame.strip():
            raise BrokenStream("what it sent is not a stream of events")
        payload = _payload(frame)
        if payload == b"[DONE]":
            self.done = True
            return False
        if b'"error"' in payload and self._is_error(payload):
            return False
        told = self.usage
        if _USAGE.search(payload) and not self._read_usage(payload):
            return False
        self._last = payload
        self._keep(_texts_in(payload))
        if self.usage is not told:
            self._told_at = len(self.texts)
        return True

    def _is_error(self, payload: bytes) -> bool:
        event = _parsed(payload)
        told = event.get("error") if type(event) is dict and not event.get("choices") else None
        if not told:
            return False
        message = told.get("message") if type(told) is dict else told
        self.error = f"it sent an error: {message}" if type(message) is str and message else "it sent an error"
        return True

    def _read_usage(self, payload: bytes) -> bool:
        chunk = _parsed(payload)
        if chunk is None:
            raise BrokenStream("an event of the stream is not JSON")
        usage = chunk.get("usage") if type(chunk) is dict else None
        if type(usage) is dict:
            if "service_tier" in chunk:
                usage["service_tier"] = chunk["service_tier"]
            # Counts that grow from chunk to chunk end with the largest; a smaller one afterwards is no correction.
            if self.usage is None or _size(usage) >= _size(self.usage):
                self.usage = usage
                self._told_at = len(self.texts)
            if not chunk.get("choices"):
                self.usage_chunk = chunk
                return False
        return True


def _payload(frame: bytes) -> bytes:
    """The data of an event, its lines joined."""
    if frame.startswith(b"data:") and frame.count(b"data:") == 1:
        return frame[5:].strip()
    lines = [line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def _parsed(payload: bytes) -> Any:
    """The JSON, None when it is none. Bytes that are no UTF-8 spoil the text that they stand in, not what stands beside it."""
    try:
        return _decode(payload)
    except UnicodeDecodeError:
        return _parsed(payload.decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError):
        return None


def _nothing_in(choice: dict[str, Any]) -> dict[str, Any]:
    return {"text": ""} if "text" in choice else {"delta": {}}


def _size(usage: dict[str, Any]) -> int:
    counts = [value for value in usage.values() if type(value) is int]
    return max(counts, default=0)


def _texts_in(payload: bytes) -> list[bytes]:
    """What the events of some bytes say, as it stands in JSON: every string under their choices that may be generated.

    Servers put what they generate into fields that nobody agreed on, and all of it is paid for. An event of
    choices without any still counts as one empty text: something was made, or it would not have been sent.
    """
    texts: list[bytes] = []
    for frame in payload.split(b"\n\n"):
        event = _parsed(_payload(frame) or frame) if frame.strip() else None
        choices = event.get("choices") if type(event) is dict else None
        if choices is None:
            texts += _TEXT.findall(frame)
        elif type(choices) is list and choices:
            found: list[str] = []
            for choice in choices:
                if type(choice) is dict:
                    _gather({name: choice.get(name) for name in _GENERATED}, found)
            texts += [_encode(text)[1:-1] for text in found] or [b""]
    return texts


def _gather(value: Any, found: list[str], name: str = "") -> None:
    if type(value) is str:
        if name not in _NOT_GENERATED:
            found.append(value)
    elif type(value) is dict:
        # The same text under two names is one text.
        again = ("reasoning", "reasoning_details") if value.get("reasoning_content") else ("reasoning_details",)
        skipped = again if value.get("reasoning_content") or value.get("reasoning") else ()
        for key, each in value.items():
            if key not in skipped:
                _gather(each, found, key)
    elif type(value) is list:
        for each in value:
            _gather(each, found, name)


_GENERATED: Final = ("delta", "text", "message")
_NOT_GENERATED: Final = frozenset(("role", "id", "type", "object", "format", "data", "url", "expires_at", ""))


def text_of(escaped: list[bytes]) -> str:
    """Unescaped text of JSON string bodies; one that does not decode counts by its raw characters."""
    try:
        return "".join(_decode(b'["' + b'","'.join(escaped) + b'"]')) if escaped else ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        return b"".join(escaped).decode("utf-8", "replace")


def generated_text(body: bytes) -> str:
    """The generated text inside a whole answer, for counting when it carries no usage."""
    return text_of(_texts_in(body))

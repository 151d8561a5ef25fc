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

_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")
_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_TEXT: Final = re.compile(
    rb'"(?:content|text|arguments|reasoning_content|reasoning|refusal)"\s*:\s*"((?:[^"\\]|\\.)*)"', re.DOTALL
)
_FINISHED: Final = re.compile(rb'"finish_reason"\s*:\s*"')
_FIELD: Final = re.compile(rb"\s*(?:event|id|retry|data|:)")  # what a line of an event may begin with
_ERROR: Final = re.compile(rb'^data:\s*\{\s*"error"\s*:\s*\{', re.MULTILINE)

DONE: Final = b"data: [DONE]\n\n"
_decode = msgspec.json.Decoder().decode


class BrokenStream(Exception):
    """The upstream sent something that is not a stream of events."""


class Relay:
    """One stream. `feed` returns the bytes to forward now; after the end, the attributes tell what was seen."""

    __slots__ = ("_last", "_tail", "_texts", "done", "error", "usage", "usage_chunk")

    def __init__(self) -> None:
        self._tail = b""
        self._last = b""
        self._texts: list[bytes] = []
        self.done = False
        self.error = False
        self.usage: Mapping[str, Any] | None = None
        self.usage_chunk: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Bytes to forward: `chunk` as it is while it holds whole frames and neither usage nor the end."""
        plain = b"[DONE]" not in chunk and b'"error"' not in chunk and not _USAGE.search(chunk)
        if plain and not self._tail and chunk.startswith(b"data:") and chunk.endswith(b"\n\n"):
            self._last = chunk
            self._texts += _TEXT.findall(chunk)
            return chunk
        data = self._tail + chunk
        start, forward = 0, []
        for blank in _BLANK_LINE.finditer(data):
            frame = data[start : blank.end()]
            start = blank.end()
            if self._passes(frame):
                forward.append(frame)
        self._tail = data[start:]
        if len(self._tail) > limits.SSE_FRAME_BYTES_MAX:
            raise BrokenStream("an event of the stream is too large")
        return b"".join(forward)

    def end(self) -> bytes:
        """What was left unfinished when the upstream closed: forwarded if it is a whole event but for its blank line."""
        tail, self._tail = self._tail.strip(), b""
        if tail.startswith(b"data:") and self._is_json(tail) and self._passes(tail):
            return tail + b"\n\n"
        return b""

    @property
    def complete(self) -> bool:
        """Whether the upstream ended the answer itself, rather than breaking off."""
        return not self.error and (self.done or self.usage is not None or _FINISHED.search(self._last) is not None)

    def text(self) -> str:
        """Everything generated so far, in order, unescaped."""
        return text_of(self._texts)

    def _passes(self, frame: bytes) -> bool:
        if frame.startswith(b"data:"):
            payload = frame[5:].strip()
            if payload == b"[DONE]":
                self.done = True
                return False
            if _USAGE.search(frame):
                return self._read_usage(payload)
        elif not _FIELD.match(frame):
            raise BrokenStream("what it sent is not a stream of events")
        if _ERROR.search(frame):
            self.error = True
        self._last = frame
        self._texts += _TEXT.findall(frame)
        return True

    def _read_usage(self, payload: bytes) -> bool:
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, RecursionError) as broken:
            raise BrokenStream("an event of the stream is not JSON") from broken
        usage = chunk.get("usage") if type(chunk) is dict else None
        if type(usage) is dict:
            self.usage = usage
            if not chunk.get("choices"):
                self.usage_chunk = chunk
                return False
        self._texts += _TEXT.findall(payload)
        self._last = payload
        return True

    @staticmethod
    def _is_json(frame: bytes) -> bool:
        payload = frame[5:].strip()
        if payload == b"[DONE]":
            return True
        try:
            _decode(payload)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


def text_of(escaped: list[bytes]) -> str:
    """Unescaped text of JSON string bodies; one that does not decode counts by its raw characters."""
    try:
        return "".join(_decode(b'["' + b'","'.join(escaped) + b'"]')) if escaped else ""
    except msgspec.DecodeError:
        return b"".join(escaped).decode("utf-8", "replace")


def generated_text(body: bytes) -> str:
    """The generated text inside a whole answer, for counting when it carries no usage."""
    return text_of(_TEXT.findall(body))

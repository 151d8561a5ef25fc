"""Streams of the surfaces of images and audio: events with a type, as OpenAI's newer surfaces send them, and plain bytes.

The last event of a stream of events carries its usage. It is kept back until the request is settled, and goes out with
its cost where the client asked for that. Bytes, such as speech, pass as they come; what can be told of them is how many
they are and how long they play.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core.errors import GatewayError
from gateway.core.units import Usage
from gateway.metering.audio import Meter
from gateway.proxy import wire
from gateway.proxy.relay import DONE, BrokenStream, Streamed, text_of
from gateway.proxy.surface import Request

_BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")
_BLANK_BYTES: Final = 4


class _Event(msgspec.Struct):
    type: str = ""
    error: Any = None
    usage: Any = None
    delta: Any = None
    audio: Any = None


_decode_event: Final = msgspec.json.Decoder(_Event, float_hook=wire.read_float).decode


class TypedEvents(Streamed):
    """A stream of events, of which those whose type is in `last` end it and tell its usage.

    `usage` is that event's `usage`, None where it has none; with it come `made`, how many such events came, `begun`, whether
    anything was delivered before or it was cut here, so that nobody knows, and `nanos`, how long the audio in the events plays,
    where `audio` says in what form it comes. See `Stream`.
    """

    def __init__(self, last: frozenset[str], event_bytes_max: int, audio: str = "") -> None:
        super().__init__()  # its texts stay empty: it has no checkpoints, as their price is not of its tokens alone
        self._last_types = last
        self._bytes_max = event_bytes_max
        self._tail = bytearray()
        self._seen = 0  # bytes of the tail that hold no blank line
        self._kept: list[bytes] = []
        self._done = False
        self._told: Any = None
        self._meter = Meter(audio) if audio else None
        self.made = 0
        self._passed = 0  # events that were not kept back
        self._cut = False
        self._said: list[bytes] = []

    @property
    def usage(self) -> dict[str, Any]:
        """What was told, and what was seen besides."""
        nanos = None if self._meter is None else self._meter.nanos
        return {"usage": self._told, "made": self.made, "begun": self._cut or self._passed > 0, "nanos": nanos}

    @property
    def complete(self) -> bool:
        """Whether its last event came."""
        return not self.error and self.made > 0

    def feed(self, chunk: bytes) -> bytes:
        """The whole events that are not kept back. BrokenStream."""
        tail = self._tail
        tail += chunk
        forward, start = [], 0
        look_from = max(0, self._seen - _BLANK_BYTES)
        while (end := _after_blank_line(tail, look_from)) > 0:
            frame = bytes(tail[start:end])
            start = look_from = end
            if self._passes(frame):
                forward.append(frame)
        if start:
            del tail[:start]
        self._seen = len(tail)
        if len(tail) > self._bytes_max:
            raise BrokenStream("an event of the stream is too large")
        return b"".join(forward)

    def end(self) -> bytes:
        """A last event may lack its blank line."""
        tail = bytes(self._tail).strip()
        self._tail.clear()
        if tail and self._passes(tail + b"\n\n"):
            return tail + b"\n\n"
        return b""

    def text(self) -> str:
        """What came in pieces of text, as a transcript does."""
        return text_of(self._said)

    def finish(self) -> bytes:
        """Nothing: its error event, or its end, says it."""
        self._cut = True
        return b""

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
        """The events that were kept back; the last of them with what it cost."""
        kept, self._kept = self._kept, []
        if money and asked and kept:
            event = wire.decode_json(_payload(kept[-1]))
            event["usage"] = {**(event.get("usage") or {}), **money}
            name = f"event: {event['type']}\n" if kept[-1].startswith(b"event:") else ""
            kept[-1] = name.encode() + b"data: " + wire.encode_json(event) + b"\n\n"
        if error is not None:
            kept.append(wire.error_event(error, request_id))
        if self._done:
            kept.append(DONE)
        return b"".join(kept)

    def _passes(self, frame: bytes) -> bool:
        if self.error:
            return False
        payload = _payload(frame)
        if not payload:
            return True  # a comment that keeps the connection alive
        if payload == b"[DONE]":
            self._done = True
            return False
        try:
            event = _decode_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as garbage:
            raise BrokenStream("an event of the stream is not as it should be") from garbage
        if event.type == "error" or (event.error and event.type not in self._last_types):
            told = event.error
            message = told.get("message") if type(told) is dict else None
            self.error = f"it sent an error: {message}" if type(message) is str else "it sent an error"
            return False
        if type(event.delta) is str:
            self._said.append(wire.encode_json(event.delta)[1:-1])
        if self._meter is not None and type(event.audio) is str:
            self._meter.feed(_audio_in(event.audio))
        if event.type not in self._last_types:
            self._passed += 1
            return True
        self.made += 1
        self._told = event.usage
        self._kept.append(frame)
        return False


class Bytes(Streamed):
    """An answer of bytes that pass as they come. `audio` is the form of what they play, "" where nobody needs to know it."""

    def __init__(self, content_type: bytes, audio: str) -> None:
        super().__init__()
        self.content_type = content_type or b"application/octet-stream"
        self._meter = Meter(audio)
        self._size = 0
        self._ended = False

    @property
    def usage(self) -> dict[str, Any]:
        """How long it plays, None where that cannot be told, and its size."""
        return {"usage": None, "made": int(self._ended), "nanos": self._meter.nanos, "bytes": self._size}

    @property
    def complete(self) -> bool:
        """Whether it came to its end, and there was anything."""
        return self._ended and self._size > 0

    def feed(self, chunk: bytes) -> bytes:
        """All of it."""
        self._size += len(chunk)
        self._meter.feed(chunk)
        return chunk

    def end(self) -> bytes:
        """Nothing is left."""
        self._ended = True
        return b""

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
        """Nothing was kept back."""
        return b""

    def ended_by(self, error: GatewayError, request_id: str) -> bytes:
        """Nothing that a player would take for sound."""
        return b""


def _after_blank_line(data: bytearray, start: int) -> int:
    """Where the first event behind `start` ends, with its blank line; -1 where none does."""
    found = [(at, at + len(line)) for line in _BLANK_LINES if (at := data.find(line, start)) >= 0]
    return min(found)[1] if found else -1


def _payload(frame: bytes) -> bytes:
    """The data of an event, its lines joined."""
    lines = [line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:")]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def _audio_in(text: str) -> bytes:
    try:
        return msgspec.convert(text, bytes)  # of base64
    except msgspec.ValidationError:
        return b""

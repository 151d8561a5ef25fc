"""Server-sent events, taken apart: whole events out of pieces that are cut anywhere. Pure."""

import re
from typing import Final

from gateway.core.limits import SSE_FRAME_BYTES_MAX

_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n|\r\r")
_BLANK_LINE_BYTES: Final = 4
_FIELD: Final = re.compile(rb"\s*(?:event|id|retry|data|:)")  # what a line of an event may begin with


class NotEvents(Exception):
    """What came is no stream of events, or has an event that is too large."""


class Frames:
    """Cuts a stream into its events."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that are whole now, each with its blank line. NotEvents."""
        if not self._tail and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            frames = [frame + b"\n\n" for frame in chunk[:-2].split(b"\n\n")]
        else:
            frames = self._cut(chunk)
        for frame in frames:
            if not _FIELD.match(frame) and frame.strip():
                raise NotEvents("what it sent is not a stream of events")
        return frames

    def rest(self) -> bytes:
        """What was left without a blank line when the stream ended, with one."""
        tail = bytes(self._tail).strip()
        self._tail.clear()
        return tail + b"\n\n" if tail else b""

    def _cut(self, chunk: bytes) -> list[bytes]:
        # What was there before holds no blank line: looking at it again would make a long event cost its square.
        tail, frames = self._tail, []
        start, look_from = 0, max(0, len(tail) - _BLANK_LINE_BYTES)
        tail += chunk
        while blank := _BLANK_LINE.search(tail, look_from):
            frames.append(bytes(tail[start : blank.end()]))
            start = look_from = blank.end()
        if start:
            del tail[:start]
        if len(tail) > SSE_FRAME_BYTES_MAX:
            raise NotEvents("an event of the stream is too large")
        return frames


def payload(frame: bytes) -> bytes:
    """The data of an event, its lines joined; empty where it has none."""
    lines = [line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:")]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)

"""Server-sent events out of bytes that come in any pieces: whole frames, and the data in one."""

import re
from typing import Final

from gateway.core.limits import SSE_FRAME_BYTES_MAX

_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n|\r\r")
_BLANK_LINE_BYTES: Final = 4
_FIELD: Final = re.compile(rb"\s*(?:event|data|id|retry|:)")  # what a line of an event may begin with


class NoEvents(Exception):
    """What came is not a stream of events. The words are safe to show."""


class Frames:
    """Gathers pieces until they hold whole frames. A frame is given with the blank line that ends it."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """The frames that this piece completes. NoEvents when one is too large or is none."""
        tail, found = self._tail, []
        # What was there before holds no blank line: looking at it again would make a long event cost its square.
        start, look_from = 0, max(0, len(tail) - _BLANK_LINE_BYTES)
        tail += piece
        while blank := _BLANK_LINE.search(tail, look_from):
            frame = bytes(tail[start : blank.end()])
            start = look_from = blank.end()
            if not frame.isspace():
                if not _FIELD.match(frame):
                    raise NoEvents("what it sent is not a stream of events")
                found.append(frame)
        if start:
            del tail[:start]
        if len(tail) > SSE_FRAME_BYTES_MAX:
            raise NoEvents("an event of the stream is too large")
        return found

    def rest(self) -> bytes:
        """What was left without its blank line when the stream closed, stripped; it is given once."""
        rest = bytes(self._tail).strip()
        self._tail.clear()
        return rest


def data_of(frame: bytes) -> bytes:
    """The data of a frame, its lines joined; empty where it has none, as a comment."""
    if frame.startswith(b"data:") and frame.count(b"data:") == 1 and b"\nevent:" not in frame:
        return frame[5:].strip()
    return b"\n".join([line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:")])

"""An upstream that streams: one chunk of a chat completion a write, at a steady rate. Its own process.

The model's name in the request says what to send: `stream-50x250` is 250 chunks at 50 a second. All
streams of a rate share one wheel of milliseconds, so that thousands of them cost one timer. The text
of a chunk is the time it was sent, in microseconds of the monotonic clock, for the load to read; `--padding` characters
more are in a field beside it, where some providers have such ones.
"""

import argparse
import asyncio
import json
import re
import time
from typing import Final, cast

import uvloop

_MODEL: Final = re.compile(rb'"model"\s*:\s*"(?:stream|large)-(\d+)x(\d+)"')
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
_TICK_S: Final = 0.001


def _event(delta: dict[str, str], finish: str | None) -> bytes:
    chunk = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": "stream",
        "service_tier": "default",
        "system_fingerprint": "fp_b376dfbbd5",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _framed(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


_BEFORE_TIME, AFTER_TIME = _event({"content": "@"}, None).split(b"@")


def _last(chunks: int) -> bytes:
    usage = {"prompt_tokens": 57, "completion_tokens": chunks, "total_tokens": 57 + chunks}
    chunk = {"id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "object": "chat.completion.chunk", "created": 1741569952}
    told = {**chunk, "model": "stream", "choices": [], "usage": usage}
    return b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\ndata: [DONE]\n\n"


class Wheel:
    """The streams of one rate, spread over the milliseconds of their period."""

    def __init__(self, chunks_per_s: int, after_time: bytes) -> None:
        self._after_time = after_time
        self._slots: list[dict[Stream, None]] = [{} for _ in range(max(1, 1000 // chunks_per_s))]
        self._joined = 0
        self._done = 0
        self._began = time.monotonic()
        asyncio.get_running_loop().call_later(_TICK_S, self._turn)

    def join(self, stream: "Stream") -> None:
        """Serve this stream from now on."""
        self._joined += 1
        self._slots[self._joined % len(self._slots)][stream] = None

    def _turn(self) -> None:
        due = int((time.monotonic() - self._began) / _TICK_S)
        while self._done < due:  # a late turn makes up for the ticks it missed
            self._done += 1
            slot = self._slots[self._done % len(self._slots)]
            if slot:
                chunk = _framed(b"%b%d%b" % (_BEFORE_TIME, time.monotonic_ns() // 1000, self._after_time))
                for stream in list(slot):
                    if not stream.push(chunk):
                        del slot[stream]
        asyncio.get_running_loop().call_later(_TICK_S, self._turn)


class Stream(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, wheels: dict[int, Wheel], after_time: bytes) -> None:
        self._after_time = after_time
        self._wheels = wheels
        self._got = b""
        self._left = self._chunks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to write."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape, not by class

    def data_received(self, data: bytes) -> None:
        """Read a request; the stream starts when it is whole."""
        self._got += data
        head_end = self._got.find(b"\r\n\r\n")
        length = _LENGTH.search(self._got, 0, head_end) if head_end >= 0 else None
        if length is None or len(self._got) < head_end + 4 + int(length[1]):
            return
        asked = _MODEL.search(self._got, head_end)
        self._got = b""
        if asked is None:
            self._transport.write(_NOT_FOUND)
            return
        rate, self._chunks = int(asked[1]), int(asked[2])
        self._left = self._chunks
        self._transport.write(_HEAD + _framed(_event({"role": "assistant", "content": ""}, None)))
        if rate not in self._wheels:
            self._wheels[rate] = Wheel(rate, self._after_time)
        self._wheels[rate].join(self)

    def push(self, chunk: bytes) -> bool:
        """Write one chunk; False when the stream is over."""
        if self._left <= 0 or self._transport.is_closing():
            return False
        self._transport.write(chunk)
        self._left -= 1
        if self._left:
            return True
        self._transport.write(_framed(_event({}, "stop")) + _framed(_last(self._chunks)) + b"0\r\n\r\n")
        return False


async def _serve(port: int, padding: int) -> None:
    wheels: dict[int, Wheel] = {}
    after_time = AFTER_TIME.replace(b"}\n\n", b',"obfuscation":"%b"}\n\n' % (b"x" * padding)) if padding else AFTER_TIME
    server = await asyncio.get_running_loop().create_server(lambda: Stream(wheels, after_time), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--padding", type=int, default=0)
    given = arguments.parse_args()
    uvloop.run(_serve(given.port, given.padding))

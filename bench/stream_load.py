"""Load of streamed requests: so many at once, raw sockets, counting `data:` frames. Its own process.

Prints one JSON object, a `StreamLoad`.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, cast

import msgspec
import uvloop

from bench.contestants import Door

_FRAME: Final = b"data: "
_KEPT: Final = len(_FRAME) - 1
_TIME: Final = re.compile(rb'"content":"(\d+)"')
_END: Final = b"[DONE]"
_USAGE: Final = b'"prompt_tokens":57'
_READS_KEPT: Final = 9  # some proxies send the head of an HTTP chunk, its body and its end apart
_SAMPLE_EVERY: Final = 19  # odd: some proxies send the head of an HTTP chunk and its body apart
FRAMES_AROUND: Final = 4  # role, finish, usage, [DONE]


class StreamLoad(msgspec.Struct, frozen=True):
    """What one load saw. `served` streams came to their usage and their `[DONE]`.

    Delays are of chunks, sampled, from the upstream to the load.
    """

    streams: int
    served: int
    refused: int
    broken: int
    frames: int
    frames_expected: int
    seconds: float
    delay_p50_us: int
    delay_p99_us: int
    first_byte_p50_us: int

    @property
    def dropped(self) -> int:
        """Frames that never came."""
        return self.frames_expected - self.frames


class Client(asyncio.Protocol):
    """One stream."""

    def __init__(self, request: bytes, ended: asyncio.Event, delays: list[int]) -> None:
        self._request = request
        self._ended = ended
        self._delays = delays
        self._tail = b""
        self._reads = 0
        self._sent_at = 0.0
        self.frames = 0
        self.first_byte_s = 0.0
        self.ok = self.done = self.told = self.failed = False
        self._recent: deque[bytes] = deque(maxlen=_READS_KEPT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape, not by class
        self._sent_at = time.monotonic()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count; now and then, read how long a chunk took."""
        self._reads += 1
        if self._reads == 1:
            self.ok = data.startswith(b"HTTP/1.1 200")
            self.first_byte_s = time.monotonic() - self._sent_at
        seen = self._tail + data
        self.frames += seen.count(_FRAME)
        self._tail = seen[-_KEPT:]
        if self._reads % _SAMPLE_EVERY == 0:
            sent = _TIME.search(data)
            if sent:
                self._delays.append(time.monotonic_ns() // 1000 - int(sent[1]))
        self.failed = self.failed or b"event: error" in data
        self._recent.append(data)
        if not self.done and _END in seen:
            self.done = True
            self.told = _USAGE in b"".join(self._recent)
        if data.endswith(b"0\r\n\r\n") or not self.ok:
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        """Over."""
        self._ended.set()


def stream_model(rate: int, chunks: int) -> str:
    """The model's name that has the upstream send so many chunks at this rate."""
    return f"stream-{rate}x{chunks}"


def stream_headers(door: Door) -> list[str]:
    """The arguments of this program that send a door's header lines."""
    return [f"--header={line}" for line in door.headers]


def request_of(model: str, key: str, user: str, headers: Sequence[str] = ()) -> bytes:
    """One whole HTTP request for a stream; `key` and `headers` may be empty."""
    own = "".join(f"{line}\r\n" for line in (*headers, *([f"Authorization: Bearer {key}"] if key else [])))
    messages = [{"role": "user", "content": "Which of the two tents is better for a week of rain in the mountains, and why?"}]
    asked = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 4096}
    body = json.dumps(asked).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"{own}x-platform-user-id: {user}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(
    port: int, streams: int, rate: int, chunks: int, key: str, end_users: int, ramp_s: float, headers: Sequence[str] = ()
) -> StreamLoad:
    """Open the streams evenly over `ramp_s` and wait for the end of each; those that take too long are broken."""
    loop = asyncio.get_running_loop()
    model = stream_model(rate, chunks)
    delays: list[int] = []
    clients: list[Client] = []
    endings: list[asyncio.Event] = []
    began = time.monotonic()
    for number in range(streams):
        ended = asyncio.Event()
        request = request_of(model, key, f"user-{number % max(end_users, 1) + 1}", headers)
        client = Client(request, ended, delays)
        await loop.create_connection(lambda made=client: made, "127.0.0.1", port)  # type: ignore[misc]
        clients.append(client)
        endings.append(ended)
        await asyncio.sleep(max(0.0, began + ramp_s * (number + 1) / streams - time.monotonic()))
    try:
        async with asyncio.timeout(chunks / rate * 3 + 10):
            for ended in endings:
                await ended.wait()
    except TimeoutError:
        print("some streams did not end in time", file=sys.stderr)
    served = sum(client.ok and client.done and client.told and not client.failed for client in clients)
    refused = sum(not client.ok for client in clients)
    return StreamLoad(
        streams=streams,
        served=served,
        refused=refused,
        broken=streams - served - refused,
        frames=sum(client.frames for client in clients),
        frames_expected=streams * (chunks + FRAMES_AROUND),
        seconds=round(time.monotonic() - began, 3),
        delay_p50_us=round(statistics.median(delays)) if delays else 0,
        delay_p99_us=sorted(delays)[int(len(delays) * 0.99)] if delays else 0,
        first_byte_p50_us=round(statistics.median(client.first_byte_s for client in clients) * 1e6),
    )


def main() -> None:
    """Run one load as the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "streams", "rate", "chunks"):
        arguments.add_argument(f"--{name}", type=int, required=True)
    arguments.add_argument("--key", default="")
    arguments.add_argument("--header", action="append", default=[], help="a line to send along; may be repeated")
    arguments.add_argument("--end-users", type=int, default=0)
    arguments.add_argument("--ramp", type=float, default=1.0)
    given = arguments.parse_args()
    asked = (given.port, given.streams, given.rate, given.chunks, given.key, given.end_users, given.ramp, given.header)
    seen = uvloop.run(load(*asked))
    print(msgspec.json.encode(seen).decode())


if __name__ == "__main__":
    main()

"""Clients that ask for fast streams and read nothing for a while: what a gateway must not keep in memory. Its own process.

Prints one JSON object, a `StalledLoad`.
"""

import argparse
import asyncio
from typing import Final

import msgspec

from bench.stream_load import request_of

_RATE: Final = 200  # chunks a second of each stream: some 800 KB/s


class StalledLoad(msgspec.Struct, frozen=True):
    """What came of them: `whole` streams were read to their end once reading began."""

    clients: int
    whole: int
    bytes_read: int


async def _one(port: int, key: str, user: str, chunks: int, stall_s: float) -> tuple[bool, int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2048)
    writer.write(request_of(f"large-{_RATE}x{chunks}", key, user))
    await asyncio.sleep(stall_s)  # its own buffer fills up, then the kernel's, then the gateway must wait
    count, last = 0, b""
    while part := await reader.read(65_536):
        count += len(part)
        last = (last + part)[-64:]
        if last.endswith(b"0\r\n\r\n"):
            break
    writer.close()
    return b"[DONE]" in last, count


async def _load(port: int, key: str, clients: int, chunks: int, stall_s: float) -> StalledLoad:
    asked = [_one(port, key, f"user-{number % 50 + 1}", chunks, stall_s) for number in range(clients)]
    ends = await asyncio.gather(*asked)
    return StalledLoad(clients, sum(whole for whole, _ in ends), sum(count for _, count in ends))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "clients", "chunks"):
        arguments.add_argument(f"--{name}", type=int, required=True)
    arguments.add_argument("--key", required=True)
    arguments.add_argument("--stall", type=float, required=True)
    given = arguments.parse_args()
    print(msgspec.json.encode(asyncio.run(_load(given.port, given.key, given.clients, given.chunks, given.stall))).decode())

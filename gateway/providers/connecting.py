"""Reaching a server: from the addresses of a name to a connected socket."""

import asyncio
import socket
from collections.abc import Sequence

Address = tuple[int, int, int, tuple[str | int | bytes, ...]]


def resolved(found: Sequence[tuple[int, int, int, str, tuple[str | int | bytes, ...]]]) -> list[Address]:
    """Addresses out of what `getaddrinfo` found, in its order."""
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]


async def first_that_connects(addresses: list[Address], limit_s: float) -> socket.socket:
    """A connected TCP socket, or OSError, TimeoutError.

    Each address gets an equal share of what is left of the time, so that a black hole does not hide the next one.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + limit_s
    failed: OSError = OSError("the name has no address")
    for number, (family, kind, protocol, address) in enumerate(addresses):
        link = None
        try:
            link = socket.socket(family, kind, protocol)
            link.setblocking(False)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout((ends - loop.time()) / (len(addresses) - number)):
                await loop.sock_connect(link, address)
        except OSError as refused:
            failed = refused
            if link is not None:
                link.close()
        except BaseException:  # also when cancelled: what was opened is closed, and the failure goes on
            if link is not None:
                link.close()
            raise
        else:
            return link
    raise failed

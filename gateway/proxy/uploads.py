"""Forms with large files, read in worker threads: to measure 25 MB of audio takes up to a second, and others are served then."""

import asyncio
from collections.abc import Callable
from copy import copy
from typing import Any, Final

from msgspec.structs import replace

from gateway.core import limits
from gateway.identity.model import Principal
from gateway.proxy.routes import Line
from gateway.proxy.surface import Request, Surface
from gateway.proxy.ticket import Call, Ticket

_AT_ONCE_MAX: Final = 2  # as `metering.counting` has it: files must not take every thread that other work needs


class ReadAside:
    """Hands requests on; of those that are large, the surface has read and measured the body before, beside the event loop."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._turns = asyncio.Semaphore(_AT_ONCE_MAX)

    async def run(self, call: Call, surface: Surface, principal: Principal) -> Ticket | None:
        """As `Line.run`."""
        if len(call.raw) <= limits.LARGE_BODY_BYTES:
            return await self._line.run(call, surface, principal)
        own: Any = copy(surface)
        async with self._turns:
            read = await asyncio.to_thread(own.parse, call.raw, call.headers.get(b"content-type", b""))
        own.parse = _again(read)
        try:
            return await self._line.run(call, own, principal)
        finally:
            del own.parse  # they know each other, and with them the file would stay until somebody looks for such rings


def _again(read: Request) -> Callable[[bytes, bytes], Request]:
    """`Surface.parse` of a body that was read, whose request knows the same surface: as it was, however often it is asked for."""

    def parse(raw: bytes, content_type: bytes) -> Request:
        return replace(read, body=dict(read.body))

    return parse

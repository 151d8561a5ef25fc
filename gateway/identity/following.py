"""What is cached stays good without being looked up again, as long as the trail says that nothing about it has changed.

Messages of the bus are quick and can be lost; a time to live bounds that, and costs a look-up of every key every half
minute, which is most of the work of a process that serves ten thousand of them. Every change of a key, an app, a creator or a
price is a line of the platform's trail, written in the change's own commit, and the lines have numbers without a gap: so a
look at the lines since the last look tells all that was missed, and what they do not name is as it was.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.core.clock import Clock
from gateway.db.faults import SqlDown
from gateway.trail import store as trail
from gateway.trail.model import Line

LOOK_EVERY_S: Final = 5.0
LINES_MAX: Final = 1000  # more, and everything is looked up again
_log = logging.getLogger(__name__)


class Cache(Protocol):
    """Something that remembers what the platform's database says."""

    def forget_lines(self, lines: list[Line]) -> None:
        """Drop what these changes concern."""
        ...

    def forget_all(self) -> None:
        """Doubt everything."""
        ...

    async def catch_up(self) -> None:
        """Read again at once what is not looked up when it is asked for. SqlDown, and it is due with the next look."""
        ...

    def confirm(self, at_ns: int) -> None:
        """What is remembered, and not doubted, was still so at that time."""
        ...


class Following:
    """One process's place in the trail."""

    def __init__(self, engine: AsyncEngine, caches: tuple[Cache, ...], clock: Clock) -> None:
        """`engine` is the platform's."""
        self._engine = engine
        self._caches = caches
        self._clock = clock
        self._seq: int | None = None
        self._asked = asyncio.Event()

    def look_soon(self) -> None:
        """There is word of a change that the trail tells of."""
        self._asked.set()

    async def run(self) -> None:
        """Look again and again until cancelled. While the database does not answer nothing is confirmed."""
        while True:
            self._asked.clear()
            try:
                await self.look()
            except SqlDown as down:
                _log.info("what is cached cannot be confirmed: %s", down)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), LOOK_EVERY_S)

    async def look(self) -> None:
        """Learn what changed since the last look. Raises SqlDown."""
        at_ns = self._clock()
        async with trail.reading(self._engine) as conn:
            seq, lines = await trail.since(conn, trail.trail_of(None), self._seq, LINES_MAX)
        for cache in self._caches:
            if lines is None:
                cache.forget_all()
            elif lines:
                cache.forget_lines(lines)
            await cache.catch_up()
            cache.confirm(at_ns)
        self._seq = seq

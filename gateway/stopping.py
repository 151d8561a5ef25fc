"""The end of a web process: requests in flight are finished, new ones are told that it drains, and then it closes.

uvicorn closes its sockets on the first signal. Here the signal first turns `Traffic.draining` on, while the process
still listens: a load balancer sees `/readyz` fail and clients get a 503 that says so, instead of a refused
connection. The server's own end begins when nothing is in flight any more, or when the limit has passed; what
still runs then is cut, told why, and billed for what was delivered. A second signal,
after two seconds, skips the wait: streams are cut at once.

No further signal does anything. uvicorn takes one more for the order to leave everything as it is, and what was cut, or
is waiting for the hot store, would then never be settled: that is awaited however often somebody asks, up to
SETTLE_ON_SHUTDOWN_S. Who cannot wait for it has SIGKILL.
"""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from gateway.core.tasks import Tasks
from gateway.proxy.routes import Traffic

_log = logging.getLogger(__name__)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_LOOK_S: Final = 0.05
# A terminal, or systemd, tells every process of a group, and the server's parent then tells its workers again.
_SAME_SIGNAL_S: Final = 2.0


def drain_first(traffic: Traffic, tasks: Tasks, limit_s: float) -> None:
    """Put the draining before what the server does on a signal. Call it in the server's loop, once it handles signals."""
    if threading.current_thread() is not threading.main_thread():
        return  # a server in a thread gets no signals
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, _Drain(handler, traffic, tasks, limit_s, loop))


class _Drain:
    def __init__(
        self,
        then: Callable[[int, FrameType | None], Any],
        traffic: Traffic,
        tasks: Tasks,
        limit_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._then = then
        self._traffic = traffic
        self._tasks = tasks
        self._limit_s = limit_s
        self._loop = loop
        self._ignored_until = 0.0
        self._ends = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._traffic.draining:
            self._traffic.draining = True
            self._ignored_until = time.monotonic() + _SAME_SIGNAL_S
            self._loop.call_soon_threadsafe(self._begin, number)
        elif time.monotonic() >= self._ignored_until:
            self._end(number, frame)

    def _begin(self, number: int) -> None:
        self._tasks.spawn(self._wait(number), "drain")

    async def _wait(self, number: int) -> None:
        ends = self._loop.time() + self._limit_s
        while self._traffic.in_flight and self._loop.time() < ends:  # noqa: ASYNC110 - a request in flight pays for no event
            await asyncio.sleep(_LOOK_S)
        self._end(number, None)

    def _end(self, number: int, frame: FrameType | None) -> None:
        """Begin the server's own end, once."""
        if self._ends:
            # Not logged from within a handler of signals, which may have interrupted the log.
            self._loop.call_soon_threadsafe(_log.warning, "ending already: what was used is being settled")
            return
        self._ends = True
        self._then(number, frame)

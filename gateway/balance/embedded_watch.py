"""Looks after the local Redis server while this process does something else: in a thread with a loop of its own.

`gateway serve` needs it there, because its main thread belongs to the web server, or to what starts several of them.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable

from gateway.balance.embedded_redis import EmbeddedRedis, EmbeddedRedisFailed


class EmbeddedWatch:
    """`start`, and `stop` before the server is left. `failed` says why the server is not started again any more."""

    def __init__(self, server: EmbeddedRedis, given_up: Callable[[], None]) -> None:
        """`given_up` is called in the thread, once, after `failed` was set."""
        self.failed: EmbeddedRedisFailed | None = None
        self._server = server
        self._given_up = given_up
        self._thread = threading.Thread(target=self._run, name="watch the local Redis", daemon=True)
        self._running = threading.Event()

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()
        self._running.wait()

    def stop(self) -> None:
        """Watch no longer; returns when nothing is being started any more. Harmless without a start."""
        if not self._running.is_set():
            return
        with contextlib.suppress(RuntimeError):  # its loop has ended already
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except asyncio.CancelledError:
            pass
        except EmbeddedRedisFailed as failed:
            self.failed = failed
            self._given_up()

    async def _watch(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._loop, self._task = asyncio.get_running_loop(), task
        self._running.set()
        await self._server.watch()

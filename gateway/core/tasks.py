"""Background tasks: the one place that starts them, keeps a reference, and says when one fails."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Tasks:
    """Tasks of one process. A task that dies of an exception is logged with its name, never lost silently."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` beside the caller."""
        task = asyncio.create_task(work, name=name)  # noqa: TID251 - this is the one home
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("task %s failed", task.get_name(), exc_info=task.exception())

    async def finish(self, timeout_s: float) -> int:
        """Wait for what is running, and what that starts; cancel the rest. Returns how many had to be cancelled."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        while self._running and (left_s := ends - loop.time()) > 0:
            await asyncio.wait(set(self._running), timeout=left_s)
        late = set(self._running)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)
        return len(late)

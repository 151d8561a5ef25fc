"""Background tasks: waited for at the end, with whatever they start, as long as is allowed."""

import asyncio

from gateway.core.tasks import Tasks


async def test_what_a_task_starts_while_it_is_waited_for_is_waited_for_too() -> None:
    tasks, done = Tasks(), []

    async def settle() -> None:
        await asyncio.sleep(0.01)
        done.append("settled")

    async def request() -> None:
        await asyncio.sleep(0.01)
        tasks.spawn(settle(), "settle")

    tasks.spawn(request(), "request")
    assert await tasks.finish(5) == 0
    assert done == ["settled"]
    assert len(tasks) == 0
    assert await tasks.finish(5) == 0


async def test_what_never_ends_is_cancelled_when_the_time_is_up() -> None:
    tasks, ended = Tasks(), []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    for _ in range(2):
        tasks.spawn(endless(), "endless")
    assert await tasks.finish(0.02) == 2
    assert ended == ["cancelled", "cancelled"]

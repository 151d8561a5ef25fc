"""The worker process: the background loops and nothing else, until a signal ends it."""

import asyncio
import signal

from gateway import background
from gateway.compose import opened
from gateway.settings import Settings


async def main(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; what is claimed by then is finished."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    async with opened(settings) as services:
        listening = services.tasks.spawn(services.follow_changes(), "follow changes")
        try:
            await background.run(services, stop)
        finally:
            listening.cancel()

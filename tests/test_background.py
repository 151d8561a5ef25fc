"""The loops that run beside the requests: when they look."""

import asyncio
from types import SimpleNamespace
from typing import Any

from gateway.background import _look_after_books
from gateway.core.clock import SYSTEM_CLOCK, now_ms


class Lots:
    """Wallets of which one lot ends in a moment, and then another in an hour."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop, self.looks = stop, 0
        self.ends_ms = now_ms(SYSTEM_CLOCK) + 300

    async def apply_waiting_credits(self) -> int:
        return 0

    async def expire_lots(self) -> int:
        self.looks += 1
        if now_ms(SYSTEM_CLOCK) >= self.ends_ms:
            self.stop.set()
        return 0

    async def next_expiry_ms(self) -> int:
        return self.ends_ms if now_ms(SYSTEM_CLOCK) < self.ends_ms else self.ends_ms + 3_600_000


async def test_a_lot_that_ends_is_seen_to_in_that_moment_and_not_a_minute_later() -> None:
    stop = asyncio.Event()
    lots = Lots(stop)
    services: Any = SimpleNamespace(wallets=lots, clock=SYSTEM_CLOCK)
    await asyncio.wait_for(_look_after_books(services, stop), 20)
    assert 2 <= lots.looks <= 4

"""Settling a request whose settlement the hot store did not take at once: its client has the answer, its hold stands."""

import asyncio
import logging
from typing import Final

from gateway.balance.model import Balance, BalanceUnavailable, Hold

_log = logging.getLogger(__name__)
# Once the store is back the sweeper waits for half the life of a hold: whoever asks this often comes before it.
_PAUSES_S: Final = (0.1, 0.3, 1.0, *[2.0] * 1800)


async def settle_later(balance: Balance, hold: Hold, amounts: list[int], tokens: int, event: bytes) -> None:
    """Ask again, for an hour."""
    for pause_s in _PAUSES_S:
        await asyncio.sleep(pause_s)
        try:
            await balance.settle(hold, amounts, tokens, event)
        except BalanceUnavailable:
            continue
        return
    _log.error("settle of %s was not taken; the sweeper ends its hold", hold.request_id)

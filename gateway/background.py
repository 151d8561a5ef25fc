"""Everything that need not happen while a client waits.

It drains usage events into the books, ends abandoned holds, applies credits that a crash left
between the books and the hot balances, ends lots whose time has passed, and looks for hot balances that are not
those of the books: lost wallets are rebuilt, other differences are logged, for `gateway reconcile --fix`.
Any number of processes may run these loops beside each other.
"""

import asyncio
import logging
import os
import socket
from contextlib import suppress
from typing import Final

from gateway.balance.model import BalanceUnavailable
from gateway.compose import Services
from gateway.core.ids import SHARDS
from gateway.db.faults import SqlDown

_log = logging.getLogger(__name__)
_SWEEP_EVERY_S: Final = 5.0
_BOOKS_EVERY_S: Final = 60.0
_RECONCILE_EVERY_S: Final = 300.0


async def run(services: Services, stop: asyncio.Event) -> None:
    """All loops until `stop` is set; a loop that fails for a passing reason goes on."""
    consumer = f"{socket.gethostname()}:{os.getpid()}"
    loops = [
        services.tasks.spawn(services.drain(consumer).run(stop), "drain"),
        services.tasks.spawn(_sweep(services, stop), "sweep holds"),
        services.tasks.spawn(_look_after_books(services, stop), "look after books"),
        services.tasks.spawn(_reconcile(services, stop), "reconcile"),
    ]
    try:
        await asyncio.gather(*loops)
    finally:
        with suppress(BalanceUnavailable):
            await services.events.leave(consumer)


async def _sweep(services: Services, stop: asyncio.Event) -> None:
    # Deadlines pass while balances cannot be reached, too: live gateways get the time to say that they live.
    pause_s = grace_s = services.settings.hold_ttl_s / 2
    while not await _stopped(stop, pause_s):
        pause_s = _SWEEP_EVERY_S
        try:
            ended = sum(await asyncio.gather(*[services.balance.sweep(shard) for shard in range(SHARDS)]))
        except BalanceUnavailable:
            pause_s = grace_s
            continue
        if ended:
            _log.warning("%d abandoned holds were settled at their checkpoints or given back", ended)


async def _look_after_books(services: Services, stop: asyncio.Event) -> None:
    """Waiting credits first: a lot whose own money is not in the hot wallet yet cannot expire."""
    while True:
        try:
            applied = await services.wallets.apply_waiting_credits()
            if applied:
                _log.warning("%d credits that had been waiting were applied", applied)
            expired = await services.wallets.expire_lots()
            if expired:
                _log.info("%d lots expired", expired)
        except (BalanceUnavailable, SqlDown) as down:
            _log.warning("waiting credits and expiries: %s", down)
        if await _stopped(stop, _BOOKS_EVERY_S):
            return


async def _reconcile(services: Services, stop: asyncio.Event) -> None:
    """What is found is logged by who finds it."""
    while not await _stopped(stop, _RECONCILE_EVERY_S):
        try:
            await services.reconciler.run(rebuild=True, repair=False, actor="worker")
        except (BalanceUnavailable, SqlDown) as down:
            _log.warning("reconciling waits: %s", down)


async def _stopped(stop: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), timeout_s)
    except TimeoutError:
        return False
    return True

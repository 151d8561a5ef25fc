"""Everything that need not happen while a client waits.

It drains usage events into the books, ends abandoned holds, applies credits that a crash left
between the books and the hot balances, ends lots whose time has passed, and looks for hot balances that are not
those of the books: lost wallets are rebuilt, other differences are logged, for `gateway reconcile --fix`. Where Stripe's key
is given it acts upon what Stripe told, looks at Stripe for what it never told, and fills wallets that asked for it.
Any number of processes may run these loops beside each other.
"""

import asyncio
import logging
import os
import socket
from typing import Final

from gateway.balance.model import BalanceUnavailable
from gateway.billing.reconciler import BillingReconciler
from gateway.compose import Services
from gateway.core.clock import now_ms
from gateway.core.ids import SHARDS
from gateway.db.faults import SqlDown

_log = logging.getLogger(__name__)
_SWEEP_EVERY_S: Final = 5.0
_BOOKS_EVERY_S: Final = 60.0
_EXPIRY_PAUSE_S: Final = 0.1
_RECONCILE_EVERY_S: Final = 300.0
_BILLING_EVERY_S: Final = 3600.0


async def run(services: Services, stop: asyncio.Event) -> None:
    """All loops until `stop` is set; a loop that fails for a passing reason goes on."""
    consumer = f"{socket.gethostname()}:{os.getpid()}"
    loops = [
        services.tasks.spawn(services.drain(consumer).run(stop), "drain"),
        services.tasks.spawn(_sweep(services, stop), "sweep holds"),
        services.tasks.spawn(_look_after_books(services, stop), "look after books"),
        services.tasks.spawn(_reconcile(services, stop), "reconcile"),
    ]
    if services.receiving is not None:
        loops.append(services.tasks.spawn(services.receiving.inbox.run(stop), "webhooks"))
        loops.append(services.tasks.spawn(_look_at_stripe(services.receiving.reconciler, stop), "look at Stripe"))
    if services.topping_up is not None:
        loops.append(services.tasks.spawn(services.topping_up.run(stop), "top up"))
    await asyncio.gather(*loops)


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
    """Waiting credits first: a lot whose own money is not in the hot wallet yet cannot expire.

    Every minute, and in the moment in which a lot ends, so that what has ended is not served.
    """
    while True:
        pause_s = _BOOKS_EVERY_S
        try:
            applied = await services.wallets.apply_waiting_credits()
            if applied:
                _log.warning("%d credits that had been waiting were applied", applied)
            expired = await services.wallets.expire_lots()
            if expired:
                _log.info("%d lots expired", expired)
            ends_at_ms = await services.wallets.next_expiry_ms()
            if ends_at_ms is not None:
                pause_s = min(pause_s, max((ends_at_ms - now_ms(services.clock)) / 1000, _EXPIRY_PAUSE_S))
        except (BalanceUnavailable, SqlDown) as down:
            _log.warning("waiting credits and expiries: %s", down)
        if await _stopped(stop, pause_s):
            return


async def _reconcile(services: Services, stop: asyncio.Event) -> None:
    """What is found is logged by who finds it."""
    while not await _stopped(stop, _RECONCILE_EVERY_S):
        try:
            await services.reconciler.run(rebuild=True, repair=False, actor="worker")
        except (BalanceUnavailable, SqlDown) as down:
            _log.warning("reconciling waits: %s", down)


async def _look_at_stripe(reconciler: BillingReconciler, stop: asyncio.Event) -> None:
    """What is found wrong is logged by who finds it."""
    while not await _stopped(stop, _BILLING_EVERY_S):
        try:
            await reconciler.run()
        except (BalanceUnavailable, SqlDown) as down:
            _log.warning("looking at Stripe waits: %s", down)


async def _stopped(stop: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), timeout_s)
    except TimeoutError:
        return False
    return True

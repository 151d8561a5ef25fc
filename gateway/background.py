"""Everything that need not happen while a client waits.

It drains usage events into the books, ends abandoned holds, applies credits that a crash left
between the books and the hot balances, ends lots whose time has passed, and looks for hot balances that are not
those of the books: lost wallets are rebuilt, other differences are logged, for `gateway reconcile --fix`. Where Stripe's key
is given it acts upon what Stripe told, looks at Stripe for what it never told, fills wallets that asked for it, and bills what
was used beyond allowances.
Any number of processes may run these loops beside each other.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
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
_AGAIN_S: Final = 1.0  # and twice as long each time
_AGAIN_MAX_S: Final = 60.0

Loop = Callable[[], Awaitable[None]]


async def run(services: Services, stop: asyncio.Event) -> None:
    """All loops until `stop` is set. One that fails goes on, and keeps none of the others from it."""
    consumer = f"{socket.gethostname()}:{os.getpid()}"
    loops: dict[str, Loop] = {
        "drain": lambda: services.drain(consumer).run(stop),
        "sweep holds": lambda: _sweep(services, stop),
        "look after books": lambda: _look_after_books(services, stop),
        "reconcile": lambda: _reconcile(services, stop),
    }
    receiving, topping_up = services.receiving, services.topping_up
    if receiving is not None:
        loops["webhooks"] = lambda: receiving.inbox.run(stop)
        loops["overage"] = lambda: receiving.effects.overages.run(stop)
        loops["look at Stripe"] = lambda: _look_at_stripe(receiving.reconciler, stop)
    if topping_up is not None:
        loops["top up"] = lambda: topping_up.run(stop)
    try:
        await asyncio.gather(*[services.tasks.spawn(lasting(name, loop, stop), name) for name, loop in loops.items()])
    finally:
        with suppress(BalanceUnavailable):
            await services.events.leave(consumer)


async def lasting(name: str, loop: Loop, stop: asyncio.Event) -> None:
    """A loop that is begun again whenever it fails, later each time it does so soon, until it ends or `stop` is set."""
    clock, pause_s = asyncio.get_running_loop().time, _AGAIN_S
    while True:
        begun = clock()
        try:
            await loop()
        except Exception:  # noqa: BLE001 - the edge of a loop: a defect of ours in one must not end the others
            if clock() - begun > _AGAIN_MAX_S:
                pause_s = _AGAIN_S
            _log.exception("%s failed, and goes on in %.0f s", name, pause_s)
            if await _stopped(stop, pause_s):
                return
            pause_s = min(2 * pause_s, _AGAIN_MAX_S)
        else:
            return


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
    while not await _stopped(stop, _RECONCILE_EVERY_S):
        try:
            for outcome in await services.reconciler.run(rebuild=True, repair=False, actor="worker"):
                _log.error("reconcile: %s", outcome)
        except (BalanceUnavailable, SqlDown) as down:
            _log.warning("reconciling waits: %s", down)


async def _look_at_stripe(reconciler: BillingReconciler, stop: asyncio.Event) -> None:
    while not await _stopped(stop, _BILLING_EVERY_S):
        try:
            looked = await reconciler.run()
            for reason in looked.reasons:
                _log.error("looking at Stripe: %s", reason)
            for note in looked.notes:
                _log.info("looking at Stripe, a creator's own: %s", note)
        except (BalanceUnavailable, SqlDown) as down:
            _log.warning("looking at Stripe waits: %s", down)


async def _stopped(stop: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), timeout_s)
    except TimeoutError:
        return False
    return True

"""Workers of the inbox that are killed: `python -m tests.billing.dying <folder> <redis> <stripe>`.

It has everything imported and nothing open. Each line on stdin, "<change> <ms ahead>", forks a worker that acts upon what is due,
the inbox's clock being so far ahead, and ends it by SIGKILL after its change of that number: a commit of SQL, a call of the
balance store, or what is asked of Stripe, and before anything else. The line that answers is the number of changes, or "killed".
"""

import asyncio
import inspect
import os
import signal
import sys
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from gateway.balance.redis_balance import RedisBalance
from gateway.balance.wallets import Wallets
from gateway.billing.effects import Effects
from gateway.billing.store import Store
from gateway.billing.stripe.client import Stripe
from gateway.billing.webhooks.inbox import Inbox
from gateway.billing.webhooks.store import InboxStore
from gateway.db.engines import Databases
from gateway.ledger.service import Ledger
from tests.fake_stripe.control import KEY


class Changes:
    """Counts what stays when a process ends, and kills this one right after the `fatal`th."""

    def __init__(self, fatal: int) -> None:
        self._fatal, self._is_changed, self.count = fatal, False, 0

    def step(self, *_: Any) -> None:
        """Something begins: what was changed before it is done by now."""
        if self._is_changed:
            self.count, self._is_changed = self.count + 1, False
            if self.count == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def change(self, *_: Any) -> None:
        self.step()
        self._is_changed = True


class Watched:
    """A port whose calls are steps; all of them, or those that are named, are changes."""

    def __init__(self, target: Any, changes: Changes, *names: str) -> None:
        self._target, self._changes, self._names = target, changes, names

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not inspect.iscoroutinefunction(value):
            return value

        async def call(*args: Any, **more: Any) -> Any:
            self._changes.change() if not self._names or name in self._names else self._changes.step()
            return await value(*args, **more)

        return call


async def work(folder: str, redis_url: str, stripe: Stripe, fatal: int, ahead_ms: int) -> int:
    changes = Changes(fatal)
    databases = Databases(f"sqlite:///{folder}/platform.db", f"sqlite:///{folder}/app-{{enterprise_id}}.db")
    balance = RedisBalance(redis_url)
    hot: Any = Watched(balance, changes)
    payments: Any = Watched(stripe, changes, "return_fee")

    def clock() -> int:
        return time.time_ns() + ahead_ms * 1_000_000

    async def apps() -> list[str]:
        return ["shop"]

    ledger, rows = Ledger(databases), InboxStore(databases)
    effects = Effects(payments, Store(databases), rows, Wallets(hot, ledger, apps), ledger, clock)
    sa.event.listen(Engine, "before_cursor_execute", changes.step)
    sa.event.listen(Engine, "commit", changes.change)
    await Inbox(rows, payments, effects, frozenset(), clock).work()
    changes.step()
    return changes.count


def main() -> None:
    folder, redis_url, base = sys.argv[1:]
    stripe = Stripe(KEY, {}, base)  # its context of TLS takes longest
    for line in sys.stdin:
        fatal, ahead_ms = map(int, line.split())
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            taken = asyncio.run(work(folder, redis_url, stripe, fatal, ahead_ms))
            os.write(writing, str(taken).encode())
            os._exit(0)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        told = "killed" if os.WIFSIGNALED(status) else os.read(reading, 20).decode() or "failed"
        os.close(reading)
        print(told, flush=True)


if __name__ == "__main__":
    main()

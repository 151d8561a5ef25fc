"""A seller's inbox, effects and reconciler in the test's own process, on the fake of Stripe: they can die, wait and see late."""

import inspect
import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.billing.effects import Effects
from gateway.billing.reconciler import BillingReconciler
from gateway.billing.stripe.client import Stripe
from gateway.billing.webhooks.inbox import Inbox
from gateway.billing.webhooks.store import InboxStore
from gateway.ledger.audit import audit
from gateway.ledger.model import WalletKey
from tests.api.conftest import Api
from tests.billing.market import Market
from tests.fake_stripe.control import KEY, Control
from tests.fake_stripe.delivery import signature

SECRET = "whsec_made_up"
HOURS = 3_600_000


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ms * 1_000_000


class Died(BaseException):
    """The process was killed."""


class Mortal:
    """Dies before the `fatal`th step of what it stands for, which is after the one before it."""

    def __init__(self, target: Any, steps: "itertools.count[int]", fatal: int) -> None:
        self._target, self._steps, self._fatal = target, steps, fatal

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name == "payments":
            return Mortal(value, self._steps, self._fatal)
        if not inspect.iscoroutinefunction(value):
            return value

        async def step(*args: Any, **more: Any) -> Any:
            if next(self._steps) == self._fatal:
                raise Died
            return await value(*args, **more)

        return step


class House:
    """A seller's gateway in this process, with its inbox."""

    def __init__(self, api: Api, control: Control, market: Market) -> None:
        self.api, self.control, self.market = api, control, market
        self.clock = Clock()
        self.payments = Stripe(KEY, {"connect": SECRET}, control.base)
        self.rows = InboxStore(api.databases)
        self.inbox = self.born()
        self.seen = 0

    def born(self, payments: Any = None) -> Inbox:
        """Another process's inbox."""
        stripe: Any = payments or self.payments
        return Inbox(self.rows, stripe, self.effects(payments), frozenset(["connect"]), self.clock)

    def effects(self, payments: Any = None) -> Effects:
        """Those of a process that has not died."""
        stripe: Any = payments or self.payments
        return Effects(stripe, self.api.billing.store, self.rows, self.api.wallets, self.api.ledger, self.clock)

    def reconciler(self, payments: Any = None) -> BillingReconciler:
        """A process's."""
        stripe: Any = payments or self.payments
        return BillingReconciler(stripe, self.rows, self.effects(payments), self.api.registry.enterprise_ids, self.clock)

    async def told(self, *types: str, account: str | None = "") -> int:
        """Receive what the fake has to tell of these types since the last time; how many it were.

        Of one account (None: the platform's), or of all.
        """
        events = self.control.events()
        wanted = [each for each in events[self.seen :] if each["type"] in types and account in ("", each.get("account"))]
        self.seen = len(events)
        for event in wanted:
            body = json.dumps(event)
            signed = signature(body, [SECRET], int(time.time()))
            assert await self.inbox.receive("connect", body.encode(), signed)
            assert not await self.inbox.receive("connect", body.encode(), signed)
        return len(wanted)

    async def buy(self, plan: str, owner: str) -> str:
        session = await self.market.checkout(plan, role="operator", platform_user_id=owner)
        done = self.control.pay(self.market.account, session["id"])["session"]
        return str(done["payment_intent"] or done["subscription"])

    async def available(self, owner: str) -> int:
        return (await self.api.wallets.view(WalletKey(owner, "shop"))).available_micro

    async def states(self) -> list[tuple[str, int]]:
        return [(row.state, row.attempts) for row in await self.rows.events(None, None, 50)]


@pytest.fixture
async def house(api: Api, control: Control) -> AsyncIterator[House]:
    market = Market(api, control)
    await market.connect()
    house = House(api, control, market)
    await house.told()
    yield house
    await house.payments.close()
    report = await audit(api.databases, ["shop", "second", "bobs"], None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]

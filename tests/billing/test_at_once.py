"""Of several processes each acts at once on what another one was told: nothing waits for a look that comes round by itself.

Two processes' services on one set of stores: one only serves, the other one is the worker, whose own looks are days apart.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from gateway import background
from gateway.billing.ports import Metadata
from gateway.compose import Services, opened
from gateway.identity.model import Role
from gateway.ledger.audit import audit
from gateway.ledger.model import WalletKey
from gateway.settings import load
from tests.billing.inside import SECRET
from tests.billing.market import KEYS, MONTHLY, PACKAGE, Market
from tests.fake_stripe.control import KEY
from tests.fake_stripe.delivery import signature

WAIT_S = 30.0  # less than the minute after which the worker would find a rule by itself


class Pair:
    """`web` serves, `worker` works; the seller is `market`'s."""

    def __init__(self, market: Market, web: Services, worker: Services) -> None:
        self.market, self.web, self.worker = market, web, worker
        self.seen = len(market.control.events())

    async def told(self, *types: str) -> None:
        """The web process is told of what has happened since."""
        events = self.market.control.events()
        assert self.web.receiving is not None
        for event in events[self.seen :]:
            if event["type"] in types:
                body = json.dumps(event)
                signed = signature(body, [SECRET], int(time.time()))
                assert await self.web.receiving.inbox.receive("connect", body.encode(), signed)
        self.seen = len(events)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Returns as soon as it is true."""
    began = time.monotonic()
    while not await true():
        assert time.monotonic() - began < WAIT_S, "it waited for a look"
        await asyncio.sleep(0.02)
    print("after", round(time.monotonic() - began, 3), "s")


@pytest.fixture
async def pair(market: Market, redis_server: str, tmp_path: Path) -> AsyncIterator[Pair]:
    databases = market.api.databases
    settings = load(
        {
            "MOZAIKS_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/platform.db",
            "MOZAIKS_APP_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/app-{{enterprise_id}}.db",
            "MOZAIKS_REDIS_URL": redis_server,
            "MOZAIKS_OPERATOR_TOKEN": "operator-token-made-up-for-tests",
            "MOZAIKS_KEY_PEPPER": "a pepper of the tests, made up",
            "MOZAIKS_STRIPE_SECRET_KEY": KEY,
            "MOZAIKS_STRIPE_CONNECT_WEBHOOK_SECRET": SECRET,
            "MOZAIKS_STRIPE_API_BASE": market.control.base,
            "MOZAIKS_INLINE_WORKER": "false",
            "MOZAIKS_DATA_DIR": str(tmp_path),
        }
    )
    async with AsyncExitStack() as stack:
        web, worker = [await stack.enter_async_context(opened(settings)) for _ in range(2)]
        stop = asyncio.Event()
        assert worker.receiving is not None
        worker.receiving.inbox.look_every_s = 86_400.0
        tasks = [asyncio.ensure_future(each) for each in (web.follow_changes(), worker.follow_changes())]
        working = asyncio.ensure_future(background.run(worker, stop))
        try:
            for services in (web, worker):
                await until(lambda of=services: subscribed(of))  # type: ignore[misc]
            yield Pair(market, web, worker)
        finally:
            stop.set()
            worker.receiving.inbox.noticed()
            await asyncio.wait_for(working, WAIT_S)
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        report = await audit(databases, ["shop", "second", "bobs"], None)
        assert report.ok, [check.violations for check in report.checks if not check.ok]


async def subscribed(services: Services) -> bool:
    """Whether this process hears of what others publish: its number of look-ups rises by it."""
    before = services.identity._generation
    await services.bus.publish("key", "mzk_none")
    await asyncio.sleep(0.05)
    return services.identity._generation > before


async def test_a_webhook_that_one_process_took_is_acted_upon_by_another(pair: Pair) -> None:
    owner = f"told{next(KEYS)}"  # wallets outlive a test
    session = await pair.market.checkout(await pair.market.plan(PACKAGE), role=Role.OPERATOR, platform_user_id=owner)
    pair.market.control.pay(pair.market.account, session["id"])
    await pair.told("payment_intent.succeeded")

    async def is_granted() -> bool:
        return (await pair.web.wallets.view(WalletKey(owner, "shop"))).available_micro == 10_000_000

    await until(is_granted)


async def test_a_rule_on_a_wallet_that_is_low_already_buys_whichever_process_has_it_set(pair: Pair) -> None:
    assert pair.worker.topping_up is not None
    until_it_walked = pair.worker.topping_up

    async def has_walked() -> bool:
        return until_it_walked._sellers is not None

    await until(has_walked)  # it knows of no rule now, and the next walk is a minute later
    plan, wallet = await pair.market.plan(PACKAGE), WalletKey(f"low{next(KEYS)}", "shop")
    assert pair.web.billing is not None
    payments, store = pair.web.billing.payments, pair.web.billing.store
    customer = await payments.create_customer("at-once", pair.market.account, Metadata("shop", wallet.owner, ""), "")
    await store.add_customer(wallet, pair.market.account, customer, 1)
    method = pair.market.control.client().v1.payment_methods.attach(
        "pm_card_visa", {"customer": customer}, {"stripe_account": pair.market.account}
    )
    wish = {"invoice_settings": {"default_payment_method": method.id}}
    pair.market.control.client().v1.customers.update(customer, wish, {"stripe_account": pair.market.account})  # type: ignore[arg-type]
    pair.market.api.billing.top_ups.turned_on = pair.web.billing.top_ups.turned_on
    rule = {"plan_id": plan, "below_micro": 1, "monthly_max_micro": 100_000_000, "platform_user_id": wallet.owner}
    await pair.market.ok("PUT", "/top-ups", rule, role=Role.APP_SERVER)

    async def is_bought() -> bool:
        return (await pair.web.wallets.view(wallet)).available_micro == 10_000_000

    await until(is_bought)


async def test_what_a_process_remembers_of_a_subscription_is_forgotten_when_it_changes(pair: Pair) -> None:
    market, wallet = pair.market, WalletKey(f"lapsing{next(KEYS)}", "shop")
    session = await market.checkout(await market.plan(MONTHLY), role=Role.OPERATOR, platform_user_id=wallet.owner)
    subscription = market.control.pay(market.account, session["id"])["session"]["subscription"]
    await pair.told("invoice.paid", "customer.subscription.created")

    async def is_granted() -> bool:
        return (await pair.web.wallets.view(wallet)).available_micro == 10_000_000

    await until(is_granted)
    now = time.time_ns()
    pair.web.wallets._clock = lambda: now  # what it remembers, it would remember for ever
    assert not await pair.web.wallets.is_lapsed(wallet.name)
    market.control.client().v1.subscriptions.cancel(subscription, None, {"stripe_account": market.account})
    await pair.told("customer.subscription.deleted")
    await until(lambda: pair.web.wallets.is_lapsed(wallet.name))

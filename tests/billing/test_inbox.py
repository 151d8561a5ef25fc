"""The inbox and its effects in one process: deaths between any two steps, claims, putting off, what was seen too late."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.billing.ports import PaymentsDown, PaymentsRefused
from gateway.billing.stripe.client import Stripe
from gateway.billing.webhooks.inbox import ATTEMPTS_MAX
from gateway.db.tables import webhooks
from gateway.ledger.model import WalletKey
from gateway.trail.model import Act
from tests.billing.inside import HOURS, SECRET, House
from tests.billing.inside import house as house
from tests.billing.market import KEYS, MONTHLY, PACKAGE
from tests.fake_stripe.control import KEY


class Dying:
    """Workers of processes of their own, that are killed."""

    def __init__(self, house: House, folder: Path, redis_url: str) -> None:
        self._house = house
        command = [sys.executable, "-m", "tests.billing.dying", str(folder), redis_url, house.control.base]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def work(self, fatal: int) -> str:
        """How many changes it made, or "killed"."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(fatal, self._house.clock.ahead_ms, file=self._process.stdin)
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


@pytest.fixture
def dying(house: House, tmp_path: Path, redis_server: str) -> Iterator[Dying]:
    workers = Dying(house, tmp_path, redis_server)
    yield workers
    workers.end()


async def test_killed_after_any_change_the_next_process_ends_it_with_the_same_books(house: House, dying: Dying) -> None:
    """A refund that was made in the dashboard brings its payment with it: all that there is to do for a purchase, and back.

    After every fourth change, or with BILLING_KILLS_EVERY=1 after every one.
    """
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "10"}, 201)
    plan = await house.market.plan(PACKAGE)
    every = int(os.environ.get("BILLING_KILLS_EVERY", "4"))
    for fatal in itertools.count(every, every):
        owner = f"u{fatal}"
        intent = await house.buy(plan, owner)
        house.control.refund_in_dashboard(house.market.account, intent, 500)
        assert await house.told("refund.created") == 1
        done = dying.work(fatal)
        house.clock.ahead_ms += HOURS  # the leases of the dead one end
        await house.inbox.work()
        assert await house.available(owner) == 10_000_000 - 10_000_000 * 500 // 999, fatal
        if done != "killed":
            break
    assert fatal > int(done) > 15
    assert {state for state, _ in await house.states()} == {"done"}
    fees = house.control.state()["acct_1FakePlatform00"]["application_fee"]
    theirs = [row for row in fees if row["account"] == house.market.account]
    assert {(row["amount"], row["amount_refunded"]) for row in theirs} == {(100, 50)}
    (due,) = [row["balance_micro"] for row in await _accounts(house) if row["account"] == "due_to_platform"]
    assert due == 500_000 * (fatal // every)


async def _accounts(house: House) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await house.market.ok("GET", "/ledger/accounts", enterprise_id="shop", limit=200))["data"]
    return rows


class Slow:
    """Stripe, which knows no subscriptions, and does not say so until it may; how often it was asked for one."""

    def __init__(self, payments: Stripe) -> None:
        self._payments, self.looks, self.go_on = payments, 0, asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._payments, name)

    async def subscription(self, account_id: str, subscription_id: str) -> Any:
        self.looks += 1
        await self.go_on.wait()
        raise PaymentsRefused("no such subscription", "resource_missing")


async def test_a_flood_of_one_account_keeps_nobodys_purchase_waiting(house: House) -> None:
    wish = {"user_id": "bob", "email": f"bob+{next(KEYS)}@example.com"}
    theirs = str((await house.market.ok("POST", "/billing-accounts", wish, 201))["account_id"])
    house.control.onboard(theirs)
    plan = await house.market.plan({**PACKAGE, "enterprise_id": "bobs"})
    await house.told()
    kind, now = "customer.subscription.updated", house.clock() // 1_000_000
    told = {"endpoint": "connect", "type": kind, "account_id": house.market.account, "created_at": 1, "received_at": now}
    waits = {"state": "waiting", "attempts": 0, "due_at": now - 1000, "reason": "", "rank": 2}
    flood = []
    for name in (f"sub_{min(number, 100)}" for number in range(400)):  # 300 of them of one subscription
        event = {"id": f"whk_{next(KEYS)}", "event_id": f"evt_{next(KEYS)}", "object_id": name}
        flood.append({**event, **told, **waits})
    await house.market.write(sa.insert(webhooks).values(flood), None)
    slow, stop = Slow(house.payments), asyncio.Event()
    inbox = house.born(payments=slow)
    running = asyncio.ensure_future(inbox.run(stop))
    while slow.looks < 8:  # which is half of the places, and hangs
        await asyncio.sleep(0.01)
    session = await house.market.checkout(plan, role="operator", platform_user_id="waiting")
    house.control.pay(theirs, session["id"])
    assert await house.told("payment_intent.succeeded") == 1
    buyer = WalletKey("waiting", "bobs")
    async with asyncio.timeout(20):
        while not (await house.api.wallets.view(buyer)).available_micro:
            await asyncio.sleep(0.02)
    assert slow.looks == 8
    slow.go_on.set()
    async with asyncio.timeout(20):
        while await house.rows.events("waiting", None, 1):
            await asyncio.sleep(0.05)
    stop.set()
    await running
    assert slow.looks == 101  # one for each object
    failed = await house.rows.events("failed", None, 1000)
    assert [row.reason for row in failed] == ["Stripe: no such subscription (resource_missing)"] * 101


async def test_what_stripe_does_not_answer_is_put_off_longer_each_time_and_fails_after_the_last(house: House) -> None:
    await house.buy(await house.market.plan(PACKAGE), "late")
    await house.told("payment_intent.succeeded")
    down = Stripe(KEY, {"connect": SECRET}, "http://127.0.0.1:9")
    inbox, pauses = house.born(payments=_Unreachable(down)), []
    try:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            assert await inbox.work() == 1
            (row,) = await house.rows.events(None, None, 5)
            assert row.attempts == attempt
            now = house.clock() // 1_000_000
            pauses.append(row.due_at_ms - now)
            house.clock.ahead_ms += max(row.due_at_ms - now, 0) + 1
    finally:
        await down.close()
    assert pauses[:-1] == sorted(pauses[:-1])
    assert pauses[3] > 8 * pauses[1] > 0
    (row,) = await house.rows.events("failed", None, 5)
    assert "no answer" in row.reason
    replayed = await house.inbox.replay(row.id, Act("webhook.replay", "operator", "operator", row.id))
    assert (replayed.state, replayed.attempts) == ("waiting", 0)
    assert (await house.market.acts(None))[0] == "webhook.replay"
    await house.inbox.work()
    assert await house.available("late") == 10_000_000


class _Unreachable:
    def __init__(self, payments: Stripe) -> None:
        self._payments = payments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._payments, name)

    async def payment(self, account_id: str, payment_id: str) -> Any:
        raise PaymentsDown("no answer")


@pytest.mark.parametrize(("call", "told"), [("void_invoice", "voided"), ("mark_uncollectible", "marked_uncollectible")])
async def test_an_invoice_that_nobody_is_asked_for_any_more_is_a_look_at_its_subscription(
    house: House, call: str, told: str
) -> None:
    api: Any = house.control.client().v1
    at: Any = {"stripe_account": house.market.account}
    subscription = await house.buy(await house.market.plan(MONTHLY), "sub")
    customer = api.subscriptions.retrieve(subscription, None, at).customer
    card = api.payment_methods.attach("pm_card_chargeCustomerFail", {"customer": customer}, at).id
    api.subscriptions.update(subscription, {"default_payment_method": card}, at)
    house.control.advance(32 * 86_400)
    invoice = api.subscriptions.retrieve(subscription, None, at).latest_invoice
    assert await house.told("customer.subscription.created") == 1
    await house.inbox.work()
    getattr(api.invoices, call)(invoice, None, at)
    assert await house.told(f"invoice.{told}") == 1
    await house.inbox.work()
    assert await house.states() == [("done", 1), ("done", 1)]


async def test_a_subscription_seen_earlier_never_overwrites_what_was_seen_later(house: House) -> None:
    subscription = await house.buy(await house.market.plan(MONTHLY), "sub")
    await house.told("customer.subscription.created", "invoice.paid")
    await house.inbox.work()
    assert await house.available("sub") == 10_000_000
    api: Any = house.control.client().v1
    at: Any = {"stripe_account": house.market.account}
    for ends, goes_on in ((True, False), (False, True)):  # to where it was, and away from there
        api.subscriptions.update(subscription, {"cancel_at_period_end": ends}, at)
        await house.told("customer.subscription.updated")
        late = _Late(house.payments, 2)
        slow = asyncio.ensure_future(house.born(payments=late).work())
        await late.looked.wait()
        api.subscriptions.update(subscription, {"cancel_at_period_end": not ends}, at)
        await house.told("customer.subscription.updated")
        await house.inbox.work()
        late.go_on.set()
        await slow
        held = await house.rows.subscription("shop", subscription)
        assert held is not None
        assert held.cancel_at_period_end is goes_on
    api.subscriptions.cancel(subscription, None, at)
    await house.told("customer.subscription.deleted", "customer.subscription.updated")
    await house.inbox.work()
    held = await house.rows.subscription("shop", subscription)
    assert held is not None
    assert held.state == "canceled"


class _Late:
    """Stripe, whose `nth` answer about a subscription arrives late."""

    def __init__(self, payments: Stripe, nth: int) -> None:
        self._payments, self._left = payments, nth
        self.looked, self.go_on = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._payments, name)

    async def subscription(self, account_id: str, subscription_id: str) -> Any:
        facts = await self._payments.subscription(account_id, subscription_id)
        self._left -= 1
        if not self._left:
            self.looked.set()
            await self.go_on.wait()
        return facts


def _fees(house: House) -> list[Any]:
    """The platform's shares at Stripe, of this account."""
    rows = house.control.state()["acct_1FakePlatform00"]["application_fee"]
    return [row for row in rows if row["account"] == house.market.account]


@pytest.mark.parametrize("amounts", [(500, 500), (333, 333, 334)], ids=["rounded up", "rounded down"])
async def test_refunds_at_once_return_all_of_the_fee_and_no_more(house: House, amounts: tuple[int, ...]) -> None:
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "0.1"}, 201)
    plan = await house.market.plan(PACKAGE, price_micro=10_000_000)
    owner = f"fee{len(amounts)}"
    intent = await house.buy(plan, owner)  # a fee of one cent
    for amount in amounts:
        house.control.refund_in_dashboard(house.market.account, intent, amount)
    await house.told("refund.created")
    await house.inbox.work()
    assert await house.available(owner) == 0
    (fee,) = _fees(house)
    assert (fee["amount"], fee["amount_refunded"]) == (1, 1)
    assert [row for row in await _accounts(house) if row["account"] == "due_to_platform" and row["balance_micro"]] == []


async def test_a_share_that_somebody_gave_back_by_hand_keeps_no_refund_from_the_books(house: House) -> None:
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "50"}, 201)
    plan = await house.market.plan(PACKAGE)
    api: Any = house.control.client().v1
    intents = [await house.buy(plan, "hand") for _ in range(2)]
    await house.told("payment_intent.succeeded")
    await house.inbox.work()
    fees = _fees(house)
    api.application_fees.refunds.create(fees[0]["id"], {"amount": 499})
    for intent in intents:  # of the first little is left to give back, of the second everything
        house.control.refund_in_dashboard(house.market.account, intent, 500)
    await house.told("refund.created")
    await house.inbox.work()
    fees = _fees(house)
    assert [row["amount"] - row["amount_refunded"] for row in fees] == [0, 250]
    assert [row["balance_micro"] for row in await _accounts(house) if row["account"] == "due_to_platform"] == [2_500_000]
    assert await house.available("hand") == 2 * (10_000_000 - 10_000_000 * 500 // 999)


async def test_many_small_refunds_return_the_share_of_their_sum(house: House) -> None:
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "13"}, 201)
    intent = await house.buy(await house.market.plan(PACKAGE, price_micro=1_000_000), "small")
    for _ in range(8):
        house.control.refund_in_dashboard(house.market.account, intent, 4)
    await house.told("refund.created")
    await house.inbox.work()
    (fee,) = _fees(house)
    assert (fee["amount"], fee["amount_refunded"]) == (13, 4)  # 32 % of it


async def test_the_reconciler_marks_how_far_it_looked_and_ends_purchases_that_nobody_paid(house: House) -> None:
    plan = await house.market.plan(PACKAGE)
    session = await house.market.checkout(plan)
    house.control.abandon(house.market.account, session["id"])
    house.clock.ahead_ms += 49 * HOURS
    looked = await house.reconciler().run()
    assert looked.ok, looked
    mark = await house.rows.mark(house.market.account)
    assert mark is not None
    await house.rows.set_mark(house.market.account, 5)
    assert await house.rows.mark(house.market.account) == mark
    (purchase,) = (await house.market.ok("GET", "/purchases", enterprise_id="shop"))["data"]
    assert purchase["status"] == "expired"

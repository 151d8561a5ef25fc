"""Overage in this process, on the fake of Stripe: lent, billed, paid, given up, and the same after a death at any step."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from gateway.billing.model import PLATFORM_ACCOUNT
from gateway.billing.overage.model import BillState
from gateway.billing.webhooks.inbox import _EFFECTS
from gateway.core.ids import shard_of
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.core.words import Level
from gateway.identity.model import NewToken, Role
from gateway.ledger.audit import audit
from gateway.ledger.lending import Lent
from gateway.ledger.model import WalletKey
from gateway.trail.model import Act
from tests.api.conftest import OPERATOR
from tests.api.test_money import posting
from tests.billing.inside import HOURS, Died, House, Mortal
from tests.billing.inside import house as house
from tests.billing.market import KEYS, MONTHLY

DAY = 86_400
MONTH = 31 * DAY + 7200
ALLOWANCE, MOST = 30_000_000, 20_000_000
OVERAGE = {"max_micro": MOST, "price_micro": 2_000_000, "per_micro": 1_000_000}  # twice as dear as what was paid before
PLAN = {**MONTHLY, "grant_micro": ALLOWANCE, "overage": OVERAGE}
KINDS = tuple(_EFFECTS)
BROKE, VISA = "pm_card_chargeCustomerFail", "pm_card_visa"


class Subscriber:
    """Somebody who subscribes at the market."""

    def __init__(self, house: House, plan: str, app: str | None = "shop") -> None:
        """Of alice's `app`, or (None) alice herself at the platform."""
        self.house, self.plan, self.app = house, plan, app
        self.owner = "alice" if app is None else f"u{next(KEYS)}"
        in_app: dict[str, Any] = {"platform_user_id": self.owner, "enterprise_id": app}
        self.names = {"user_id": "alice"} if app is None else in_app
        self.account = PLATFORM_ACCOUNT if app is None else house.market.account
        self.at: Any = {} if app is None else {"stripe_account": self.account}
        self.wallet = WalletKey(self.owner, app)
        self.subscription = ""

    async def subscribe(self, card: str = VISA) -> "Subscriber":
        who: Any = {name: value for name, value in self.names.items() if name != "enterprise_id"}
        session = await self.house.market.checkout(self.plan, role=Role.OPERATOR, **who)
        done = self.house.control.pay(self.account, session["id"], card)["session"]
        self.subscription = str(done["subscription"])
        await self.told()
        return self

    async def agree(self, limit: int = MOST) -> Any:
        role = Role.APP_SERVER if self.app == "shop" else Role.CREATOR
        return await self.house.market.ok("PUT", "/overage", {"limit_micro": limit, **self.names}, role=role)

    async def use(self, amount: int, *, left: int | None = None) -> None:
        """A request that was served: it is in the hot wallet and in the books."""
        api, number, level = self.house.api, next(KEYS), Level.PLATFORM if self.app is None else Level.APP_USAGE
        row = posting(number, self.house.clock() // 1_000_000, level=level, end_user=self.owner, app=self.app or "shop")
        paid = {"amount_micro": amount, "creator_micro": 0 if self.app else amount}
        row = msgspec.structs.replace(row, row=msgspec.structs.replace(row.row, **paid))
        await api.balance.credit(f"used {number}", shard_of("alice"), self.wallet.name, -amount)
        await api.ledger.post_app_usage(row.enterprise_id, [row])
        await api.ledger.post_platform_usage([row])
        if left is not None:
            assert await self.available() == left

    async def available(self) -> int:
        return (await self.house.api.wallets.view(self.wallet)).available_micro

    async def stands(self) -> Any:
        """Its agreement, as it is shown."""
        return (await self.house.market.ok("GET", "/overage", **self.names))["data"][0]

    async def told(self) -> None:
        await told(self.house, self.account or None)

    async def lent(self) -> Lent:
        return await self.house.api.ledger.lending.standing(self.wallet)

    async def bills(self) -> list[tuple[str, int, int]]:
        """(state, minor units, used) of this wallet's, the oldest first."""
        found = await self.house.rows.overages.bills(self.app, self.owner, None, 100)
        return [(bill.state, bill.amount_minor, bill.used_micro) for bill in reversed(found)]

    async def work(self) -> None:
        """What the worker's walk does."""
        await self.house.effects().overages.step(self.wallet)

    async def next_period(self) -> None:
        self.house.control.advance(MONTH)
        await self.told()
        await self.work()
        await self.told()
        await self.house.api.wallets.expire_lots()

    def card(self, card: str) -> None:
        api: Any = self.house.control.client().v1
        method = api.payment_methods.attach(card, {"customer": self.customer()}, self.at)
        api.subscriptions.update(self.subscription, {"default_payment_method": method.id}, self.at)

    def customer(self) -> str:
        api: Any = self.house.control.client().v1
        return str(api.subscriptions.retrieve(self.subscription, None, self.at).customer)

    def cancel(self) -> None:
        api: Any = self.house.control.client().v1
        api.subscriptions.cancel(self.subscription, None, self.at)

    def invoices(self) -> list[Any]:
        """The bills of this buyer at Stripe."""
        api: Any = self.house.control.client().v1
        rows = [row.to_dict() for row in api.invoices.list({"limit": 100}, self.at).data]
        return [row for row in rows if "mozaiks_bill" in row["metadata"] and row["metadata"]["mozaiks_owner"] == self.owner]


async def told(house: House, account: str | None = "") -> None:
    """Everything that Stripe tells of an account (None: the platform's; by default the seller's), acted upon."""
    await house.told(*KINDS, account=house.market.account if account == "" else account)
    await house.inbox.work()
    failed = await house.rows.events("failed", None, 50)
    assert not failed, [(row.type, row.reason) for row in failed]


class Hot:
    """The hot store, as far as it is of this test: others have left wallets there."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def read(self, shard: int, wallets: Sequence[str]) -> Sequence[Any]:
        return await self._house.api.balance.read(shard, wallets)

    async def names(self) -> AsyncIterator[str]:
        for enterprise_id in (None, "shop", "second"):
            async for _, wallet, _ in self._house.api.ledger.wallets_owed(enterprise_id):
                yield wallet.name


async def clean(house: House) -> None:
    report = await audit(house.api.databases, ["shop", "second", "bobs"], Hot(house))
    assert report.ok, [check.violations for check in report.checks if not check.ok]
    assert not house.control.audit()
    state = house.control.state()["acct_1FakePlatform00"]["application_fee"]
    at_stripe = sum(row["amount"] - row["amount_refunded"] for row in state if row["account"] == house.market.account)
    due = 0
    for app in ("shop", "second"):
        rows = (await house.market.ok("GET", "/ledger/accounts", enterprise_id=app, limit=200))["data"]
        due += sum(row["balance_micro"] for row in rows if row["account"] == "due_to_platform")
    assert due == at_stripe * 10_000


@pytest.fixture
async def ann(house: House) -> Subscriber:
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "10"}, 201)
    return Subscriber(house, await house.market.plan(PLAN))


async def test_what_is_used_beyond_the_allowance_is_billed_after_the_period_and_the_limit_is_there_again(
    house: House, ann: Subscriber
) -> None:
    await ann.subscribe()
    assert await ann.available() == ALLOWANCE  # nobody has agreed
    await ann.agree()
    assert await ann.available() == ALLOWANCE + MOST
    await ann.use(ALLOWANCE + 5_000_000, left=MOST - 5_000_000)
    assert await ann.lent() == Lent(5_000_000, MOST - 5_000_000)
    await ann.next_period()
    assert await ann.bills() == [("paid", 1000, 5_000_000)]
    assert await ann.lent() == Lent(0, MOST)
    assert await ann.available() == ALLOWANCE + MOST
    (invoice,) = ann.invoices()
    assert (invoice["status"], invoice["amount_paid"], invoice["parent"]) == ("paid", 1000, None)
    await clean(house)
    await ann.next_period()  # nothing was used
    assert await ann.bills() == [("paid", 1000, 5_000_000)]
    assert await ann.available() == ALLOWANCE + MOST
    await clean(house)


async def test_whoever_does_not_pay_owes_no_more_than_the_limit(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 15_000_000)
    ann.card(BROKE)
    await ann.next_period()
    assert await ann.bills() == [("open", 3000, 15_000_000)]
    assert (await house.market.ok("GET", "/subscriptions", enterprise_id="shop"))["data"][0]["status"] == "past_due"
    assert await ann.lent() == Lent(15_000_000, 0)
    assert await ann.available() == 0
    await clean(house)
    ann.card(VISA)
    await _pay_all(house, ann)
    assert await ann.bills() == [("paid", 3000, 15_000_000)]
    assert await ann.lent() == Lent(0, MOST)
    assert await ann.available() == ALLOWANCE + MOST
    await clean(house)


async def _pay_all(house: House, ann: Subscriber) -> None:
    api: Any = house.control.client().v1
    at: Any = {"stripe_account": house.market.account}
    customer = api.subscriptions.retrieve(ann.subscription, None, at).customer
    method = api.subscriptions.retrieve(ann.subscription, None, at).default_payment_method
    for invoice in api.invoices.list({"customer": customer, "status": "open"}, at).data:
        api.invoices.pay(invoice.id, {"payment_method": method}, at)
    await told(house)


async def test_part_of_the_limit_stays_while_a_bill_is_open(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 5_000_000)
    house.control.fault("error", method="POST", path="/pay", times=1)
    await ann.next_period()
    lent, bills = await ann.lent(), await ann.bills()
    assert bills[0][0] in ("open", "paid")
    assert lent.used_micro + lent.left_micro == MOST
    await clean(house)


async def test_an_invoice_that_is_void_is_a_gift_and_one_that_is_uncollectible_a_loss(house: House, ann: Subscriber) -> None:
    api: Any = house.control.client().v1
    at: Any = {"stripe_account": house.market.account}
    for end, state in (("void_invoice", "given"), ("mark_uncollectible", "lost")):
        buyer = await Subscriber(house, ann.plan).subscribe()
        await buyer.agree()
        await buyer.use(ALLOWANCE + 5_000_000)
        buyer.card(BROKE)
        await buyer.next_period()
        (invoice,) = buyer.invoices()
        getattr(api.invoices, end)(invoice["id"], None, at)
        await told(house)
        assert await buyer.bills() == [(state, 1000, 5_000_000)]
        assert (await buyer.lent()).used_micro == 0
        await clean(house)
    assert await buyer.available() == 0
    standing = await buyer.stands()
    assert (standing["status"], standing["reason"]) == ("paused", "unpaid")
    house.api.credentials["buyer"] = await token(house, buyer)
    refused = await house.market.refused("PUT", "/overage", {"limit_micro": MOST}, role="buyer")
    assert refused[:2] == (403, "unpaid")
    await buyer.agree()  # its seller may
    buyer.card(VISA)
    await _pay_all(house, buyer)
    method = api.subscriptions.retrieve(buyer.subscription, None, at).default_payment_method
    api.invoices.pay(invoice["id"], {"payment_method": method}, at)  # the one that was given up, too
    await told(house)
    assert await buyer.bills() == [("paid", 1000, 5_000_000)]
    assert await buyer.available() == ALLOWANCE + MOST
    await clean(house)


async def test_what_was_used_is_seen_with_its_cost_before_it_is_billed(house: House, ann: Subscriber) -> None:
    ann.plan = await house.market.plan({**PLAN, "overage": {**OVERAGE, "price_micro": 1_102_999}})
    await ann.subscribe()
    await ann.agree()
    shown = ("status", "reason", "lent_micro", "used_micro", "unbilled_micro", "cost_micro")

    async def stands() -> tuple[Any, ...]:
        found = await ann.stands()
        return tuple(found[name] for name in shown)

    await ann.use(ALLOWANCE)
    assert await stands() == ("on", "", MOST, 0, 0, 0)
    await ann.use(5_000_000)
    assert await stands() == ("on", "", MOST, 5_000_000, 0, 5_510_000)
    await ann.agree(8_000_000)  # what was lent ends, and what is left of the limit is lent anew
    await ann.work()
    assert await stands() == ("on", "", 3_000_000, 0, 5_000_000, 5_510_000)
    await ann.use(2_700_000)
    assert await stands() == ("on", "", 3_000_000, 2_700_000, 5_000_000, 8_490_000)
    await ann.use(300_000, left=0)
    assert await stands() == ("idle", "limit_reached", 3_000_000, 3_000_000, 5_000_000, 8_820_000)
    await ann.use(50)  # of a request beyond its hold
    assert (await stands())[:2] == ("idle", "limit_reached")
    await clean(house)
    ann.card(BROKE)
    await ann.next_period()
    assert await ann.bills() == [("open", 882, 8_000_000)]  # as much as was seen
    assert await stands() == ("idle", "not_paid_for", 0, 0, 0, 0)
    await clean(house)


async def test_a_limit_is_changed_at_once_and_what_was_used_stays_owed(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    await ann.agree(1_000_000)
    assert await ann.available() == ALLOWANCE + 1_000_000
    await ann.agree(50_000_000)  # more than the plan has
    assert await ann.available() == ALLOWANCE + MOST
    await ann.use(ALLOWANCE + 4_000_000, left=MOST - 4_000_000)
    await ann.agree(6_000_000)
    await ann.work()
    assert await ann.available() == 2_000_000
    await ann.agree(1_000_000)
    await ann.work()
    assert await ann.available() == 0
    shown = await house.market.ok("DELETE", "/overage", platform_user_id=ann.owner, enterprise_id="shop")
    assert shown["status"] == "off"
    assert await ann.lent() == Lent(4_000_000, 0)
    assert await ann.bills() == []  # its period goes on
    await ann.next_period()
    assert await ann.bills() == [("paid", 800, 4_000_000)]
    assert await ann.available() == ALLOWANCE
    await clean(house)


async def test_the_last_bill_comes_when_the_subscription_ends(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 3_000_000)
    ann.cancel()
    await told(house)
    await ann.work()
    await told(house)
    assert await ann.bills() == [("paid", 600, 3_000_000)]
    assert await ann.available() == 0
    await clean(house)


async def test_less_than_stripe_charges_waits_for_the_next_bill_and_is_given_at_the_end(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 200_000)
    await ann.next_period()
    assert await ann.bills() == []
    assert await ann.lent() == Lent(200_000, MOST - 200_000)
    await ann.use(ALLOWANCE + 100_000)
    await ann.next_period()
    assert await ann.bills() == [("paid", 60, 300_000)]
    await ann.use(ALLOWANCE + 100_000)
    ann.cancel()
    await told(house)
    await ann.work()
    assert await ann.bills() == [("paid", 60, 300_000), ("given", 0, 100_000)]
    assert await ann.lent() == Lent(0, 0)
    await clean(house)


async def test_a_trial_and_a_gift_lend_nothing_and_a_change_of_plans_has_its_own_price(house: House, ann: Subscriber) -> None:
    trial = await Subscriber(house, await house.market.plan({**PLAN, "trial_days": 7})).subscribe()
    await trial.agree()
    assert await trial.available() == ALLOWANCE
    house.control.advance(8 * DAY)
    await told(house)
    assert await trial.available() >= ALLOWANCE + MOST  # the trial's may be there still

    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 2_000_000)
    dear = await house.market.plan({**PLAN, "price_micro": 90_000_000, "overage": {**OVERAGE, "price_micro": 3_000_000}})
    (held,) = (await house.market.ok("GET", "/subscriptions", enterprise_id="shop", platform_user_id=ann.owner))["data"]
    await house.market.ok("PATCH", f"/subscriptions/{held['id']}", {"plan_id": dear}, enterprise_id="shop")
    await told(house)
    await ann.work()
    lent = await ann.lent()
    assert (lent.used_micro, lent.used_micro + lent.left_micro) == (2_000_000, MOST)
    await ann.use(await ann.available())
    await ann.next_period()
    assert await ann.bills() == [("paid", 2 * 200 + 18 * 300, MOST)]
    await clean(house)


async def test_a_dispute_or_a_refund_of_a_bill_ends_what_is_lent(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 5_000_000)
    await ann.next_period()
    (bill,) = await house.rows.overages.bills("shop", ann.owner, None, 10)
    assert bill.payment_id is not None
    house.control.refund_in_dashboard(house.market.account, bill.payment_id, 400)
    await told(house)
    await ann.work()
    assert await ann.lent() == Lent(0, 0)
    assert await ann.available() == ALLOWANCE - 2_000_000  # what was used and went back is a debt
    await clean(house)
    assert (await ann.agree())["reason"] == "in_debt"
    assert await ann.lent() == Lent(0, 0)  # nothing is lent to who is in debt
    await ann.next_period()
    await ann.work()
    assert await ann.lent() == Lent(0, MOST)
    api: Any = house.control.client().v1
    charge = api.payment_intents.retrieve(bill.payment_id, None, {"stripe_account": house.market.account}).latest_charge
    house.control.dispute(house.market.account, str(charge), amount=600)
    await told(house)
    assert (await ann.lent()).left_micro == 0
    await clean(house)


async def test_an_invoice_that_its_creator_changes_pays_nothing(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 5_000_000)
    house.control.advance(MONTH)
    await told(house)
    api: Any = house.control.client().v1
    at: Any = {"stripe_account": house.market.account}

    class Meddling:
        """Stripe, between whose draft and whose sending its creator takes the platform's share out."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return Meddling(self._inner.bills) if name == "bills" else getattr(self._inner, name)

        async def send(self, op_id: str, account_id: str, invoice_id: str) -> Any:
            api.invoices.update(invoice_id, {"application_fee_amount": 0}, at)
            return await self._inner.send(op_id, account_id, invoice_id)

    await house.effects(Meddling(house.payments)).overages.step(ann.wallet)
    await house.told(*KINDS, account=house.market.account)
    await house.inbox.work()
    reasons = {row.reason for row in await house.rows.events("failed", None, 50)}
    assert any("the platform's share of it is 0" in reason for reason in reasons), reasons
    assert await ann.bills() == [("open", 1000, 5_000_000)]
    lent = await ann.lent()
    assert (lent.used_micro, lent.left_micro) == (5_000_000, MOST - 5_000_000)


async def test_killed_at_any_step_the_next_process_ends_it_with_the_same_books(house: House, ann: Subscriber) -> None:
    """After every fourth step, or with BILLING_KILLS_EVERY=1 after every one."""
    every = int(os.environ.get("BILLING_KILLS_EVERY", "4"))
    for fatal in itertools.count(every, every):
        buyer = await Subscriber(house, ann.plan).subscribe()
        await buyer.agree()
        await buyer.use(ALLOWANCE + 5_000_000)
        house.control.advance(MONTH)
        await told(house)
        steps = itertools.count(1)
        effects = house.effects(Mortal(house.payments, steps, fatal))
        _mortal(effects.overages, steps, fatal)
        try:
            await effects.overages.step(buyer.wallet)
            done = True
        except Died:
            done = False
        house.clock.ahead_ms += 120_000
        await buyer.work()
        await told(house)
        assert await buyer.bills() == [("paid", 1000, 5_000_000)], fatal
        assert await buyer.lent() == Lent(0, MOST), fatal
        assert len(buyer.invoices()) == 1
        if done:
            break
        buyer.cancel()  # it would renew with the next one
    assert fatal > 12
    await clean(house)


def _mortal(overages: Any, steps: "itertools.count[int]", fatal: int) -> None:
    """Its rows and wallets die, too."""
    mortal = {name: Mortal(getattr(overages._with, name), steps, fatal) for name in ("rows", "wallets")}
    for part in (overages._lines, overages._bills):
        part._with = msgspec.structs.replace(part._with, **mortal)


async def test_who_agrees_and_ends_it_at_once_from_many_places_is_lent_what_was_said_last(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    overages = [house.effects().overages for _ in range(6)]
    for last in (MOST, 3_000_000):
        await asyncio.gather(*[ann.agree(limit) for limit in (1_000_000, 5_000_000, 9_000_000)])
        await ann.agree(last)
        await asyncio.gather(*[each.follow(ann.wallet) for each in overages], *[each.step(ann.wallet) for each in overages])
        assert await ann.lent() == Lent(0, last)
        assert await ann.available() == ALLOWANCE + last
    stale = overages[0]
    read = stale._with.rows.agreement

    async def slow(wallet: WalletKey) -> Any:
        """It ends after it was read, and before anything is lent for it."""
        found = await read(wallet)
        if found is not None and found.is_enabled:
            await house.market.ok("DELETE", "/overage", platform_user_id=ann.owner, enterprise_id="shop")
        return found

    await house.market.ok("DELETE", "/overage", platform_user_id=ann.owner, enterprise_id="shop")
    await ann.work()
    assert await ann.lent() == Lent(0, 0)
    held = await house.rows.overages.agreement(ann.wallet)
    assert held is not None
    on = msgspec.structs.replace(held, is_enabled=True, reason="")
    await house.rows.overages.agree(on, Act("overage.agree", "end_user", ann.owner, ann.owner, "alice", "shop"), lifts=True)
    late: Any = stale._with.rows
    late.agreement = slow
    await stale.follow(ann.wallet)
    assert await ann.lent() == Lent(0, 0)
    await clean(house)


async def test_the_walk_finds_what_waits_and_one_wallet_keeps_no_other_waiting(house: House, ann: Subscriber) -> None:
    bob = Subscriber(house, ann.plan)
    for buyer in (ann, bob):
        await buyer.subscribe()
        await buyer.agree()
        await buyer.use(ALLOWANCE + 5_000_000)
    house.control.advance(MONTH)
    await told(house)
    effects, stop, steps = house.effects(), asyncio.Event(), 0
    step = effects.overages.step

    async def broken(wallet: WalletKey) -> None:
        nonlocal steps
        steps += 1
        if wallet == ann.wallet:
            raise AssertionError("a defect")
        await step(wallet)

    effects.overages.step = broken  # type: ignore[method-assign]
    running = asyncio.ensure_future(effects.overages.run(stop))
    async with asyncio.timeout(60):
        while await bob.bills() != [("paid", 1000, 5_000_000)]:
            await asyncio.sleep(0.05)
            await told(house)
    stop.set()
    await running
    assert await ann.bills() == []
    await ann.work()
    await told(house)
    assert await ann.bills() == [("paid", 1000, 5_000_000)]
    await clean(house)


async def test_what_is_put_off_is_not_looked_at_all_the_time(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 200_000)
    await ann.next_period()
    rows, now = house.rows.overages, house.clock() // 1_000_000
    assert ann.owner not in await rows.restless("shop", now, "", 500)
    assert ann.owner in await rows.restless("shop", now + 7 * HOURS, "", 500)
    assert "shop" in await rows.sellers()


async def test_what_its_seller_alone_turns_on_again_no_write_of_the_buyers_takes_away(house: House, ann: Subscriber) -> None:
    """Whatever the buyer's requests had read before the bill was given up, or the payment disputed."""
    await ann.subscribe()
    rows = house.rows.overages
    for reason in ("payment_disputed", "unpaid"):
        await ann.agree()
        held = await rows.agreement(ann.wallet)
        assert held is not None
        await house.effects().overages.stop(ann.wallet, reason)
        act = Act("overage.agree", "end_user", ann.owner, ann.owner, "alice", "shop")
        for late in (held, msgspec.structs.replace(held, is_enabled=False)):
            assert not await rows.agree(late, act, lifts=False)
        house.api.credentials["buyer"] = await token(house, ann)
        assert (await house.market.refused("PUT", "/overage", {"limit_micro": MOST}, role="buyer"))[:2] == (403, "unpaid")
        shown = await house.market.ok("DELETE", "/overage", role="buyer")
        assert (shown["status"], shown["reason"]) == ("paused", reason)
        assert not await rows.pause(ann.wallet, "payment_refunded", 1)
    assert not await rows.pause(ann.wallet, "payment_disputed", 1)  # what was not paid stays the reason
    await ann.agree()
    await house.market.ok("DELETE", "/overage", role="buyer")
    assert await rows.pause(ann.wallet, "payment_disputed", 1)  # who ends it in time is no better off
    await clean(house)


async def token(house: House, buyer: Subscriber) -> str:
    """Of the end user itself."""
    return str((await house.api.registry.mint_end_user_token(OPERATOR, "shop", NewToken(buyer.owner))).token)


async def test_a_payment_that_cannot_be_the_bills_keeps_nothing_else_waiting(house: House, ann: Subscriber) -> None:
    """A bill is put off with the reason, and the wallet's other work goes on."""
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 5_000_000)
    house.control.advance(MONTH)
    await told(house)

    class Odd:
        """Stripe, where every payment is of euros."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        async def payment(self, account_id: str, payment_id: str) -> Any:
            return msgspec.structs.replace(await self._inner.payment(account_id, payment_id), currency="EUR")

    await house.effects(Odd(house.payments)).overages.step(ann.wallet)
    (bill,) = await house.rows.overages.bills("shop", ann.owner, None, 10)
    assert (bill.state, bill.attempts) == ("open", 1)
    assert "in EUR" in bill.reason
    assert bill.due_at_ms > house.clock() // 1_000_000
    await told(house)
    assert await ann.bills() == [("paid", 1000, 5_000_000)]
    assert await ann.lent() == Lent(0, MOST)
    await clean(house)


async def test_a_full_wallet_pays_its_bill_and_many_limits_are_few_lots(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    for limit in range(1_000_000, 13_000_000, 1_000_000):
        await ann.agree(limit)
    assert await ann.lent() == Lent(0, 12_000_000)
    assert len([line for line in await house.rows.overages.lines(ann.wallet) if line.state == "open"]) <= 4
    await ann.use(ALLOWANCE + 2_000_000)
    body = {"wallet": {"enterprise_id": "shop", "platform_user_id": ann.owner}, "reason": "full"}
    amount = AMOUNT_MICRO_MAX - 45_000_000
    await house.market.ok("POST", "/grants", {**body, "amount_micro": amount}, 201)
    house.control.advance(MONTH)
    await told(house)
    await ann.work()
    await told(house)
    assert await ann.bills() == [("paid", 400, 2_000_000)]
    await clean(house)


async def test_an_older_subscription_ends_nothing_and_what_nobody_was_told_of_is_found(house: House, ann: Subscriber) -> None:
    first = (await ann.subscribe()).subscription
    await ann.agree()
    ann.cancel()
    await told(house)
    await ann.work()
    await ann.subscribe()
    assert await ann.lent() == Lent(0, MOST)
    await house.effects().subscription(house.market.account, first, 0)
    await house.reconciler().run()
    assert await ann.lent() == Lent(0, MOST)

    rows, now = house.rows.overages, house.clock() // 1_000_000
    for limit, left in ((5_000_000, 5_000_000), (MOST, 0)):  # the process ends before it lends, or ends what is lent
        held = await rows.agreement(ann.wallet)
        assert held is not None
        act = Act("overage.agree", "end_user", ann.owner, ann.owner, "alice", "shop")
        less = msgspec.structs.replace(held, limit_micro=limit, is_enabled=left > 0)
        assert await rows.agree(less, act, lifts=False)
        assert ann.owner in await rows.restless("shop", now, "", 500)
        await ann.work()
        assert await ann.lent() == Lent(0, left)
        assert ann.owner not in await rows.restless("shop", now, "", 500)
    await clean(house)


async def test_a_bill_that_one_sees_paid_and_another_lost_is_one_of_them(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 5_000_000)
    ann.card(BROKE)
    await ann.next_period()
    (bill,) = await rows_of(house, ann)
    ann.card(VISA)
    await _pay_all(house, ann)
    await ann.use(ALLOWANCE + 6_000_000)
    late = house.effects().overages._bills
    await late._give_up(bill, BillState.LOST, bill.used_micro, "seen before it was paid")
    assert await ann.bills() == [("paid", 1000, 5_000_000)]
    assert (await ann.lent()).used_micro == 6_000_000
    await ann.next_period()
    assert await ann.bills() == [("paid", 1000, 5_000_000), ("paid", 1200, 6_000_000)]
    await clean(house)


async def rows_of(house: House, buyer: Subscriber) -> list[Any]:
    return list(await house.rows.overages.bills("shop", buyer.owner, None, 10))

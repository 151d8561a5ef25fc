"""Automatic top-up in one process: who may turn it on, what it buys and when it stops, deaths between any two steps."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.billing.effects import Effects
from gateway.billing.model import PurchaseState, TopUpRule
from gateway.billing.ports import Metadata, PaymentsDown
from gateway.billing.reconciler import BillingReconciler
from gateway.billing.stripe.client import Stripe
from gateway.billing.top_ups.charging import ToppingUp
from gateway.billing.top_ups.store import TopUpStore
from gateway.billing.webhooks.store import InboxStore
from gateway.db.tables import APP_SALES
from gateway.identity.model import Role
from gateway.ledger.audit import audit
from gateway.ledger.model import WalletKey
from gateway.trail.model import Act
from tests.api.conftest import Api
from tests.billing.inside import Clock, Died, Mortal
from tests.billing.market import MONTHLY, PACKAGE, URLS, Market
from tests.fake_stripe.control import KEY, Control

TEN = 10_000_000
DAY_MS = 86_400_000


class Shop:
    """The app `shop`, an automatic top-up at work on it, and buyers with a saved card."""

    def __init__(self, api: Api, control: Control, market: Market) -> None:
        self.api, self.control, self.market = api, control, market
        self.clock = Clock()
        self.payments = Stripe(KEY, {}, control.base, retries=0)
        self.worker = self.born()
        self.plan = ""

    def born(self, fatal: int = 0) -> ToppingUp:
        """A process's; it dies at the `fatal`th moment."""
        steps = itertools.count(1)
        stripe, store, rows, inbox_rows, wallets, ledger = (
            Mortal(each, steps, fatal)
            for each in (
                self.payments,
                self.api.billing.store,
                TopUpStore(self.api.databases),
                InboxStore(self.api.databases),
                self.api.wallets,
                self.api.ledger,
            )
        )
        effects: Any = Effects(stripe, store, inbox_rows, wallets, ledger, self.clock)  # type: ignore[arg-type]
        of_apps = self.api.registry.enterprise_ids
        made: Any = ToppingUp(stripe, store, rows, effects, ledger, self.api.registry, of_apps, self.clock)  # type: ignore[arg-type]
        return made  # type: ignore[no-any-return]

    async def saved(self, owner: str, card: str = "pm_card_visa") -> None:
        page = await self.market.ok(
            "POST", "/payment-method-sessions", {"platform_user_id": owner, **URLS}, 201, role=Role.APP_SERVER
        )
        assert self.control.pay(self.market.account, page["id"], card)["refused"] is None

    async def turn_on(self, owner: str, **more: Any) -> Any:
        body = {"plan_id": self.plan, "below_micro": 1, "monthly_max_micro": 100_000_000, "platform_user_id": owner}
        return await self.market.ok("PUT", "/top-ups", {**body, **more}, role=Role.APP_SERVER)

    async def buyer(self, owner: str, card: str = "pm_card_visa", **more: Any) -> WalletKey:
        await self.saved(owner, card)
        await self.turn_on(owner, **more)
        return WalletKey(owner, "shop")

    async def quick_buyer(self, owner: str, **more: Any) -> WalletKey:
        """The same, without the pages."""
        wallet, account = WalletKey(owner, "shop"), self.market.account
        customer = await self.payments.create_customer(f"quick-{owner}-{account}", account, Metadata("shop", owner, ""), "")
        await self.api.billing.store.add_customer(wallet, account, customer, 1)
        rows = TopUpStore(self.api.databases)
        await rows.save(wallet, account, "pm_card_visa")
        given: dict[str, Any] = {"below_micro": 1, "monthly_max_minor": 100_000, "daily_max": 5, **more}
        rule = TopUpRule(wallet=wallet, plan_id=self.plan, is_enabled=True, reason="", updated_at_ms=1, **given)
        await rows.put(rule, Act("top_up.turn_on", "end_user", owner, owner, enterprise_id="shop"))
        return wallet

    async def rule(self, owner: str) -> tuple[str, str, int]:
        (row,) = (await self.market.ok("GET", "/top-ups", platform_user_id=owner, role=Role.APP_SERVER))["data"]
        return row["status"], row["reason"], row["spent_micro"]

    async def purchases(self, owner: str) -> list[str]:
        rows = (await self.market.ok("GET", "/purchases", platform_user_id=owner, role=Role.APP_SERVER))["data"]
        assert all(row["automatic"] for row in rows)
        return [row["status"] for row in rows]

    async def available(self, owner: str) -> int:
        return (await self.api.wallets.view(WalletKey(owner, "shop"))).available_micro

    def payers(self) -> list[str]:
        """Who has paid, as often as it is, by the fake's payments."""
        api: Any = self.control.client().v1
        listed = api.payment_intents.list({"limit": 100}, {"stripe_account": self.market.account})
        return [row.metadata["mozaiks_owner"] for row in listed.auto_paging_iter() if row.status == "succeeded"]

    def charged(self, owner: str) -> int:
        return self.payers().count(owner)


@pytest.fixture
async def shop(api: Api, control: Control, market: Market) -> AsyncIterator[Shop]:
    await market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "10"}, 201)
    await api.balance.link.call("FLUSHALL")
    shop = Shop(api, control, market)
    shop.plan = await market.plan(PACKAGE)
    await market.ok("GET", "/billing-accounts/alice")  # which can take charges by now
    yield shop
    await shop.payments.close()
    report = await audit(api.databases, ["shop", "second", "bobs"], None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]
    fees = sum(
        row["amount"] - row["amount_refunded"]
        for row in control.state()["acct_1FakePlatform00"].get("application_fee", [])
        if row["account"] == market.account
    )
    rows = (await market.ok("GET", "/ledger/accounts", query={"enterprise_id": "shop", "limit": "200"}))["data"]
    income = sum(row["balance_micro"] for row in rows if (row["account"], row["asset"]) == ("due_to_platform", "USD"))
    assert income == fees * 10_000


# ---- rules -------------------------------------------------------------------------------------


async def test_a_buyer_turns_it_on_with_a_saved_card_and_off_again(shop: Shop) -> None:
    market = shop.market
    body = {"plan_id": shop.plan, "below_micro": TEN, "monthly_max_micro": 30_000_000}
    assert (await market.refused("PUT", "/top-ups", body, role=Role.END_USER))[:2] == (409, "no_payment_method")
    paid = await market.checkout(shop.plan, save_payment_method=True)
    market.control.pay(market.account, paid["id"])
    made = await market.ok("PUT", "/top-ups", body, role=Role.END_USER)
    assert (made["wallet"]["platform_user_id"], made["status"], made["daily_max"]) == ("u1", "on", 5)
    assert (made["currency"], made["monthly_max_micro"], made["spent_micro"]) == ("USD", 30_000_000, 0)
    for role, body_more, (status, param) in (
        (Role.OPERATOR, {"platform_user_id": "u1"}, (403, None)),
        (Role.END_USER, {"platform_user_id": "u2"}, (403, "platform_user_id")),
        ("bob", {"platform_user_id": "u1"}, (404, "plan_id")),
        (Role.END_USER, {"monthly_max_micro": 9_980_000}, (400, "monthly_max_micro")),
        (Role.END_USER, {"monthly_max_micro": 10_000_001}, (400, "monthly_max_micro")),
        (Role.END_USER, {"below_micro": 0}, (400, "below_micro")),
        (Role.END_USER, {"daily_max": 25}, (400, "daily_max")),
        (Role.END_USER, {"plan_id": await market.plan(MONTHLY)}, (400, "plan_id")),
    ):
        found = await market.refused("PUT", "/top-ups", {**body, **body_more}, role=role)
        assert (found[0], found[2]) == (status, param), (role, body_more)
    for role, query, rows in (
        (Role.END_USER, {}, 1), (Role.APP_SERVER, {}, 1), (Role.APP_SERVER, {"platform_user_id": "u2"}, 0),
        (Role.OPERATOR, {"enterprise_id": "shop"}, 1), (Role.OPERATOR, {}, 0),
    ):  # fmt: skip
        assert len((await market.ok("GET", "/top-ups", query=query, role=role))["data"]) == rows, (role, query)
    assert (await market.refused("GET", "/top-ups", role="bob", enterprise_id="shop"))[0] == 404
    gone = await market.ok("DELETE", "/top-ups", role=Role.OPERATOR, enterprise_id="shop", platform_user_id="u1")
    assert (gone["status"], gone["reason"]) == ("off", "")
    assert {"top_up.turn_on", "top_up.turn_off"} <= set(await market.acts())
    await shop.worker.step([WalletKey("u1", "shop")])
    assert await shop.purchases("u9") == []
    facts = await shop.payments.checkout_session(market.account, paid["id"])
    await shop.worker._effects.payment(market.account, await shop.payments.payment(market.account, facts.payment_id or ""))


async def test_it_buys_until_the_balance_is_there_one_after_the_other(shop: Shop) -> None:
    ann = await shop.quick_buyer("ann", below_micro=25_000_000)
    for bought in (1, 2, 3, 3):
        await asyncio.gather(*[shop.born().step([ann]) for _ in range(3)])  # of three workers, one buys
        assert (await shop.available("ann"), shop.charged("ann")) == (bought * TEN, bought)
    assert await shop.purchases("ann") == ["paid"] * 3
    assert await shop.rule("ann") == ("on", "", 29_970_000)


async def test_a_creator_is_filled_up_by_the_platform_without_a_share(shop: Shop) -> None:
    market = shop.market
    plan = await market.plan(PACKAGE, enterprise_id=None)
    page = await market.ok("POST", "/payment-method-sessions", URLS, 201, role=Role.CREATOR)
    market.control.pay("", page["id"])
    body = {"plan_id": plan, "below_micro": 1, "monthly_max_micro": 10_000_000}
    assert (await market.refused("PUT", "/top-ups", {**body, "user_id": "alice"}, role="bob"))[0] in (403, 404)
    made = await market.ok("PUT", "/top-ups", body, role=Role.CREATOR)
    assert made["wallet"]["user_id"] == "alice"
    for _ in range(2):
        await shop.worker.step([WalletKey("alice")])
    assert (await shop.api.wallets.view(WalletKey("alice"))).available_micro == TEN
    (row,) = (await market.ok("GET", "/purchases", role=Role.CREATOR))["data"]
    assert (row["status"], row["automatic"], row["fee_micro"]) == ("paid", True, 0)
    assert "purchase.create" in await market.acts(None)


# ---- where it stops ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "reason"),
    [("pm_card_chargeCustomerFail", "generic_decline"), ("pm_card_authenticationRequired", "authentication_required")],
)
async def test_a_refused_card_pauses_the_rule_until_the_buyer_sets_it_again(shop: Shop, card: str, reason: str) -> None:
    ann = await shop.buyer("ann", card)
    for _ in range(3):
        await shop.worker.step([ann])
    assert await shop.purchases("ann") == ["failed"]
    assert await shop.rule("ann") == ("paused", reason, 0)
    assert "top_up.pause" in await shop.market.acts()
    await shop.saved("ann")
    await shop.turn_on("ann")
    await shop.worker.step([ann])
    assert (await shop.purchases("ann"), shop.charged("ann")) == (["paid", "failed"], 1)


async def test_what_stripe_tells_of_a_refused_card_pauses_the_rule_too(shop: Shop) -> None:
    ann = await shop.buyer("ann", "pm_card_chargeCustomerFail")
    shop.control.fault("drop_after", path="/v1/payment_intents", method="POST", account=shop.market.account)
    with pytest.raises(PaymentsDown):
        await shop.worker.step([ann])
    assert await shop.rule("ann") == ("buying", "", 9_990_000)
    (event,) = [
        each
        for each in shop.control.events()
        if each["type"] == "payment_intent.payment_failed" and each.get("account") == shop.market.account
    ]
    facts = await shop.payments.payment(shop.market.account, event["data"]["object"]["id"])
    await shop.worker._effects.payment(shop.market.account, facts)
    assert await shop.rule("ann") == ("paused", "generic_decline", 0)
    await shop.worker.step([ann])
    assert await shop.purchases("ann") == ["failed"]


async def test_a_cap_of_a_month_and_one_of_a_day_are_kept_to_and_end_with_their_time(shop: Shop) -> None:
    ann = await shop.quick_buyer("ann", below_micro=900_000_000, monthly_max_minor=2000)
    bob = await shop.quick_buyer("bob", below_micro=900_000_000, daily_max=3)
    for _ in range(4):
        await shop.worker.step([ann, bob])
    assert (shop.charged("ann"), shop.charged("bob")) == (2, 3)
    assert await shop.rule("ann") == ("waiting", "monthly_max_reached", 19_980_000)
    assert await shop.rule("bob") == ("waiting", "daily_max_reached", 29_970_000)
    shop.clock.ahead_ms = 32 * DAY_MS
    await shop.worker.step([ann, bob])
    assert (shop.charged("ann"), shop.charged("bob")) == (3, 4)


async def test_an_archived_plan_a_method_that_is_gone_and_an_account_that_cannot_sell(shop: Shop) -> None:
    market = shop.market
    ann, bob, cy = [await shop.buyer(owner) for owner in ("ann", "bob", "cy")]
    table = APP_SALES["customers"]
    api: Any = market.control.client().v1
    rows = market.control.state()[market.account]["payment_method"]
    async with (await shop.api.databases.app("shop")).connect() as connection:
        method = await connection.scalar(sa.select(table.c.method_id).where(table.c.owner == "bob"))
    assert method in {row["id"] for row in rows}
    api.payment_methods.detach(method, {}, {"stripe_account": market.account})
    await shop.worker.step([bob])
    status, reason, spent = await shop.rule("bob")
    assert (status, spent, shop.charged("bob")) == ("paused", 0, 0)
    assert reason
    market.control.onboard(market.account, "restricted")
    await market.ok("GET", "/billing-accounts/alice")
    await shop.worker.step([ann])
    assert await shop.rule("ann") == ("waiting", "selling_blocked", 0)
    assert await shop.purchases("ann") == []
    market.control.onboard(market.account)
    await market.ok("GET", "/billing-accounts/alice")
    await shop.worker.step([ann])
    assert await shop.rule("ann") == ("on", "", 9_990_000)
    archived = await market.plan(PACKAGE)
    await shop.turn_on("cy", plan_id=archived)
    await market.ok("DELETE", f"/plans/{archived}")
    await shop.worker.step([cy])
    assert await shop.rule("cy") == ("paused", "plan_archived", 0)
    await shop.turn_on("cy")
    market.control.deauthorize(market.account)  # of which nobody told us
    await shop.worker.step([cy])
    assert await shop.rule("cy") == ("paused", "account_deauthorized", 0)
    assert (await shop.api.billing.store.account("alice")).state == "deauthorized"  # type: ignore[union-attr]


async def test_what_was_given_back_is_not_bought_by_itself_again(shop: Shop) -> None:
    ann = await shop.buyer("ann", below_micro=TEN)
    await shop.worker.step([ann])
    api: Any = shop.control.client().v1
    (intent,) = api.payment_intents.list({}, {"stripe_account": shop.market.account}).data
    refund = shop.control.refund_in_dashboard(shop.market.account, intent.id, intent.amount)
    effects = shop.worker._effects
    for _ in range(2):
        await effects.refund(shop.market.account, await shop.payments.refund_of(shop.market.account, refund["id"]))
        await shop.worker.step([ann])
    assert (await shop.rule("ann"), await shop.available("ann"), shop.charged("ann")) == (
        ("paused", "payment_refunded", 9_990_000), 0, 1,
    )  # fmt: skip


async def test_whoever_disputes_a_payment_is_not_charged_for_what_that_takes_until_it_is_wanted_again(shop: Shop) -> None:
    ann = await shop.buyer("ann", below_micro=TEN)
    await shop.worker.step([ann])
    api: Any = shop.control.client().v1
    at = {"stripe_account": shop.market.account}
    (intent,) = api.payment_intents.list({}, at).data
    effects = shop.worker._effects
    dispute = shop.control.dispute(shop.market.account, intent.latest_charge)
    for _ in range(2):
        await effects.dispute(shop.market.account, await shop.payments.dispute(shop.market.account, dispute["id"]))
        await shop.worker.step([ann])
    assert (await shop.rule("ann"), await shop.available("ann"), shop.charged("ann")) == (
        ("paused", "payment_disputed", 9_990_000), 0, 1,
    )  # fmt: skip
    await shop.turn_on("ann", below_micro=TEN)
    await effects.dispute(shop.market.account, await shop.payments.dispute(shop.market.account, dispute["id"]))  # told again
    await shop.worker.step([ann])
    assert (await shop.rule("ann"), shop.charged("ann")) == (("on", "", 19_980_000), 2)


async def test_the_reconciler_finds_a_payment_of_a_process_that_died(shop: Shop) -> None:
    ann = await shop.quick_buyer("ann")
    shop.control.fault("drop_after", path="/v1/payment_intents", method="POST", account=shop.market.account)
    with pytest.raises(PaymentsDown):
        await shop.worker.step([ann])
    rows, of_apps = InboxStore(shop.api.databases), shop.api.registry.enterprise_ids
    found = await BillingReconciler(shop.payments, rows, shop.worker._effects, of_apps, shop.clock).run()
    print(found)
    assert (await shop.purchases("ann"), shop.charged("ann"), await shop.available("ann")) == (["paid"], 1, TEN)
    await shop.worker.step([ann])
    assert shop.charged("ann") == 1


# ---- deaths ------------------------------------------------------------------------------------


async def test_killed_between_any_two_steps_the_next_process_ends_it_and_buys_once(shop: Shop) -> None:
    wallets: list[WalletKey] = []
    for fatal in itertools.count(1):
        wallets.append(await shop.quick_buyer(f"u{fatal}"))
        try:
            await shop.born(fatal).step([wallets[-1]])
        except Died:
            continue
        break
    assert fatal > 10
    print(f"killed at {fatal - 1} moments")
    for _ in range(2):
        await shop.worker.step(wallets)
    await shop.api.wallets.apply_waiting_credits()
    for wallet in wallets:
        assert (await shop.purchases(wallet.owner), await shop.available(wallet.owner)) == (["paid"], TEN), wallet
    paid = Counter(shop.payers())
    assert paid == dict.fromkeys([wallet.owner for wallet in wallets], 1)


async def test_when_stripe_has_forgotten_the_operation_its_payments_are_looked_through(shop: Shop) -> None:
    """One payment was made and one was not, before two processes died a day ago."""
    ann, bob = [await shop.quick_buyer(owner) for owner in ("ann", "bob")]
    shop.control.fault("drop_after", path="/v1/payment_intents", method="POST", account=shop.market.account)
    with pytest.raises(PaymentsDown):
        await shop.worker.step([ann])
    shop.control.clear_faults()
    shop.control.fault("drop_before", path="/v1/payment_intents", method="POST", account=shop.market.account)
    with pytest.raises(PaymentsDown):
        await shop.worker.step([bob])
    shop.control.clear_faults()
    shop.clock.ahead_ms = 23 * 3_600_000
    for _ in range(2):
        await shop.worker.step([ann, bob])
    assert (await shop.purchases("ann"), shop.charged("ann")) == (["paid"], 1)
    assert (await shop.purchases("bob"), shop.charged("bob")) == (["expired"], 0)
    assert await shop.rule("bob") == ("paused", "never_asked", 0)


async def test_a_payment_that_takes_its_time_keeps_the_next_one_waiting(shop: Shop) -> None:
    ann = await shop.buyer("ann")
    api: Any = shop.control.client().v1
    at = {"stripe_account": shop.market.account}
    table = APP_SALES["customers"]
    async with (await shop.api.databases.app("shop")).begin() as connection:
        customer = await connection.scalar(sa.select(table.c.customer_id).where(table.c.owner == "ann"))
        bank = api.payment_methods.attach("pm_usBankAccount_success", {"customer": customer}, at).id
        await connection.execute(sa.update(table).where(table.c.owner == "ann").values(method_id=bank))
    for _ in range(3):
        await shop.worker.step([ann])
    assert (await shop.purchases("ann"), await shop.available("ann")) == (["open"], 0)
    (intent,) = [
        row["id"]
        for row in shop.control.state()[shop.market.account]["payment_intent"]
        if row["metadata"].get("mozaiks_owner") == "ann"
    ]
    await shop.market.ok("DELETE", "/top-ups", role=Role.OPERATOR, enterprise_id="shop", platform_user_id="ann")
    assert (await shop.rule("ann"))[0] == "buying"
    shop.control.settle(shop.market.account, intent)
    await shop.worker._sweep()  # turned off meanwhile: what is on its way is brought to its end all the same
    assert await shop.worker._tasks.finish(10) == 0
    assert (await shop.purchases("ann"), await shop.available("ann")) == (["paid"], TEN)
    assert (await shop.rule("ann"))[0] == "off"


async def test_an_app_without_rules_is_not_asked_until_it_has_one(shop: Shop) -> None:
    await shop.worker._sweep()
    ann = await shop.quick_buyer("ann")  # by another process
    await shop.worker.step([ann])
    assert shop.charged("ann") == 0
    await shop.worker._sweep()
    assert await shop.worker._tasks.finish(10) == 0
    assert shop.charged("ann") == 1
    assert None not in (shop.worker._sellers or {None})
    shop.worker.turned_on([WalletKey("alice")])
    assert None in (shop.worker._sellers or set())


async def test_it_runs_by_itself_finds_what_nobody_told_and_stops(shop: Shop) -> None:
    await shop.quick_buyer("ann")
    stop = asyncio.Event()
    running = asyncio.ensure_future(shop.worker.run(stop))
    deadline = time.monotonic() + 5
    while await shop.purchases("ann") != [PurchaseState.PAID]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    bob = await shop.quick_buyer("bob")
    shop.worker.noticed([bob])
    while await shop.purchases("bob") != [PurchaseState.PAID]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    stop.set()
    await asyncio.wait_for(running, 3)

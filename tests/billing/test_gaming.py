"""Buyers who try to have more than they paid for: by changes of plans, trials, second subscriptions, disputes.

Each test has an app of its own. At the end of the module the audit is clean and the fake's own books add up.
"""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.billing.webhooks.inbox import _EFFECTS
from tests.billing.at_stripe import OnFake
from tests.billing.house import DAY, PATHS, SECRETS, House, Shop
from tests.fake_stripe.control import KEY, Control, Refused, running
from tests.path.conftest import Stack, start_gateway
from tests.path.conftest import upstream_url as upstream_url


class Quiet(House):
    """A house that is told only of what changes something here, and once."""

    def __init__(self, stack: Stack, control: Control) -> None:
        self.stack, self.stripe, self.control = stack, OnFake(control), control
        for name in ("platform", "connect"):
            control.endpoint(stack.url + PATHS[name], connect=name == "connect", secret=SECRETS[name])

    def deliver(self, senders: int = 6, **how: Any) -> None:
        super().deliver(senders, types=tuple(_EFFECTS), **how)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream_url: str) -> Iterator[House]:
    """Stripe's clock is 500 days behind, so that months can pass in it."""
    with running(now=int(time.time()) - 500 * DAY) as control:
        env: dict[str, Any] = {
            "MOZAIKS_STRIPE_SECRET_KEY": KEY,
            "MOZAIKS_STRIPE_WEBHOOK_SECRET": SECRETS["platform"],
            "MOZAIKS_STRIPE_CONNECT_WEBHOOK_SECRET": SECRETS["connect"],
            "MOZAIKS_STRIPE_API_BASE": control.base,
        }
        stack = start_gateway(tmp_path_factory.mktemp("gaming"), upstream_url, **env)
        try:
            yield Quiet(stack, control)
            print(stack.cli("audit"))
            assert control.audit() == []
            assert control.violations() == []
            assert control.shape_faults() == []
        finally:
            stack.admin.close()
            stack.process.stop()


def paid(shop: Shop) -> int:
    """Micro-units of money that an account's invoices were paid with."""
    return int(sum(row.amount_paid for row in shop.api.invoices.list({"limit": 100}, shop.at).data)) * 10_000


def leave(shop: Shop) -> None:
    """Nothing of this shop goes on in the next test's months."""
    for row in shop.api.subscriptions.list({"limit": 100}, shop.at).data:
        shop.api.subscriptions.cancel(row.id, None, shop.at)
    shop.control.drop_waiting()
    shop.check()


def in_dashboard(shop: Shop, subscription: str, plan: str, behavior: str = "always_invoice") -> None:
    """The seller, or the buyer in a portal that the seller has set so, changes the plan at Stripe itself."""
    item = shop.api.subscriptions.retrieve(subscription, None, shop.at)["items"].data[0].id
    wish = {"items": [{"id": item, "price": shop.price(plan)}], "proration_behavior": behavior}
    shop.api.subscriptions.update(subscription, wish, shop.at)


def pay_by_hand(shop: Shop, plan: str, end_user: str, **more: Any) -> str:
    """A page that our API did not open, as one of two that were opened in the same moment; paid on. The subscription."""
    ours = shop.open(plan, end_user)["id"]
    known = shop.api.checkout.sessions.retrieve(ours, None, shop.at)
    data = {"metadata": dict(known.metadata.to_dict()), "application_fee_percent": "12.5", **more}
    wish = {
        "mode": "subscription",
        "customer": known.customer,
        "line_items": [{"price": shop.price(plan), "quantity": 1}],
        "success_url": "https://app.invalid/ok",
        "metadata": data["metadata"],
        "subscription_data": data,
    }
    other = shop.api.checkout.sessions.create(wish, shop.at).id
    assert shop.control.pay(shop.account, ours)["session"]["subscription"]
    return str(shop.control.pay(shop.account, other)["session"]["subscription"])


def test_going_up_and_down_grants_no_more_than_was_paid(house: House) -> None:
    shop = house.shop("USD")
    basic, best = shop.monthly(1_000_000, 1_000_000), shop.monthly(1000_000_000, 1000_000_000)
    shop.buy(basic, "ann")
    house.deliver()
    house.control.advance(10 * DAY)
    for plan in (best, basic, best, basic, best):
        shop.change("ann", plan_id=plan)
        house.deliver()
        house.control.advance(60)
    once = paid(shop)
    assert 600_000_000 < once < 800_000_000  # the way up was paid for once, and no second time
    assert once - 10_000 <= shop.available("ann") <= once
    house.control.advance(31 * DAY)
    house.deliver()
    assert shop.lots("ann") == [("paid", 1000_000_000)]
    shop.change("ann", plan_id=basic)
    house.deliver()
    assert shop.subscriptions("ann")[0]["plan_id"] == basic
    assert shop.lots("ann") == [("paid", 1000_000_000)]
    house.control.advance(31 * DAY)
    house.deliver()
    assert shop.lots("ann") == [("paid", 1_000_000)]
    leave(shop)


def test_what_was_left_over_of_a_change_at_stripe_pays_and_grants_nothing_and_a_gift_does(house: House) -> None:
    shop = house.shop("USD")
    basic, best = shop.monthly(10_000_000, 10_000_000), shop.monthly(30_000_000, 30_000_000)
    subscription = shop.buy(best, "ann")
    house.deliver()
    for plan in (basic, best, basic, best, basic):
        in_dashboard(shop, subscription, plan)
        house.deliver()
        assert (shop.lots("ann"), paid(shop)) == ([("paid", 30_000_000)], 30_000_000)
        house.control.advance(60)
    for _ in range(2):  # what was left over, near $20, pays for two periods, but for some cents
        house.control.advance(31 * DAY)
        house.deliver()
    spent = paid(shop)
    assert 30_000_000 <= spent <= 30_500_000
    assert sum(left for _, left in shop.lots("ann")) <= spent
    house.control.advance(31 * DAY)
    house.deliver()
    assert shop.lots("ann") == [("paid", 10_000_000)]
    customer = shop.api.subscriptions.retrieve(subscription, None, shop.at).customer
    shop.api.customers.update(customer, {"balance": -1000}, shop.at)
    house.control.advance(31 * DAY)
    house.deliver()
    assert shop.lots("ann") == [("promo", 10_000_000)]
    leave(shop)


def test_a_dearer_plan_that_grants_more_for_the_money_is_not_had_twice_in_a_period(house: House) -> None:
    shop = house.shop()
    basic, best = shop.monthly(10_000_000, 1000), shop.monthly(11_000_000, 100_000)
    subscription = shop.buy(basic, "ann")
    house.deliver()
    for _ in range(3):
        in_dashboard(shop, subscription, best)
        in_dashboard(shop, subscription, basic, "none")
        house.control.advance(60)
    house.deliver()
    assert sum(left for _, left in shop.lots("ann")) == 100_000 + 2  # what was paid for again is in the books
    leave(shop)


def test_one_page_one_trial_and_one_subscription_for_a_buyer(house: House) -> None:
    shop = house.shop("USD")
    plan = shop.monthly(20_000_000, 20_000_000, trial_days=7)
    pages = [shop.open(plan, "ann")["id"] for _ in range(4)]
    for page in pages[:-1]:
        with pytest.raises(Refused, match="expired"):
            house.control.pay(shop.account, page)
    house.control.pay(shop.account, pages[-1])
    house.deliver()
    assert shop.lots("ann") == [("trial", 20_000_000)]

    second = pay_by_hand(shop, plan, "bob", trial_period_days=7)
    house.deliver()
    house.deliver()  # what that made Stripe tell
    assert shop.lots("bob") == [("trial", 20_000_000)]
    assert sorted(row["status"] for row in shop.subscriptions("bob")) == ["canceled", "trialing"]
    (why,) = {row["reason"] for row in house.webhooks("failed") if row["account_id"] == shop.account}
    assert why.startswith("the buyer has the subscription ")
    assert "second one" in why
    assert shop.api.subscriptions.retrieve(second, None, shop.at).status in ("canceled", "trialing")

    live = next(
        row for row in shop.api.subscriptions.list({"limit": 100}, shop.at).data if row.metadata["mozaiks_owner"] == "ann"
    )
    shop.api.subscriptions.cancel(live.id, None, shop.at)
    house.deliver()
    page = shop.open(plan, "ann")["id"]  # without a trial, as ours are; the one by hand has one
    assert house.control.pay(shop.account, page)["session"]["subscription"]
    house.deliver()
    assert sorted(shop.lots("ann")) == [("paid", 20_000_000), ("trial", 20_000_000)]
    leave(shop)


def test_a_second_subscription_is_paid_back_in_full_and_its_fee_with_it(house: House) -> None:
    shop = house.shop("USD")
    plan = shop.monthly(20_000_000, 20_000_000)
    pay_by_hand(shop, plan, "ann")
    house.deliver(order="shuffle", seed=5)
    house.deliver()
    assert sum(left for _, left in shop.lots("ann")) == 20_000_000
    assert sorted(row["status"] for row in shop.subscriptions("ann")) == ["active", "canceled"]
    refunds = shop.api.refunds.list({"limit": 100}, shop.at).data
    assert [row.amount for row in refunds] == [2000]
    assert house.fees(shop.account) == 250
    leave(shop)


def test_a_trial_after_a_trial_grants_nothing_and_keeps_no_renewal_waiting(house: House) -> None:
    shop = house.shop("USD")
    plan = shop.monthly(20_000_000, 20_000_000, trial_days=7)
    first = shop.buy(plan, "ann")
    house.deliver()
    known = shop.api.subscriptions.retrieve(first, None, shop.at)
    shop.api.subscriptions.cancel(first, None, shop.at)
    house.control.advance(9 * DAY)
    wish = {
        "customer": known.customer,
        "items": [{"price": shop.price(plan)}],
        "metadata": dict(known.metadata.to_dict()),
        "trial_period_days": 7,
        "default_payment_method": known.default_payment_method,
        "application_fee_percent": "12.5",
    }
    shop.api.subscriptions.create(wish, shop.at)
    house.deliver()
    assert shop.lots("ann") == [("trial", 20_000_000)]  # the first: by the gateway's clock it has a day left
    assert "this buyer has had a trial: it is granted once" in {row["reason"] for row in house.webhooks("ignored")}
    house.control.advance(8 * DAY)
    house.deliver()
    assert sorted(shop.lots("ann")) == [("paid", 20_000_000), ("trial", 20_000_000)]
    leave(shop)


def test_a_dispute_above_what_a_refund_left_takes_what_is_left(house: House) -> None:
    shop = house.shop("USD")
    plan = shop.plan(10_000_000, 10_000_000)
    intents = {name: shop.buy(plan, name) for name in ("ann", "bob", "cy")}
    house.deliver()
    house.control.refund_in_dashboard(shop.account, intents["ann"], 100)
    house.control.refund_in_dashboard(shop.account, intents["cy"], 100)
    house.deliver()
    for name, amount, won in (("ann", 1000, False), ("bob", 1001, False), ("cy", 1000, True)):
        dispute = house.control.dispute(shop.account, shop.charge(intents[name]), amount=amount)["id"]
        house.deliver()
        assert shop.available(name) == 0
        house.control.close_dispute(shop.account, dispute, won=won)
    house.deliver()
    assert [shop.available(name) for name in intents] == [0, 0, 9_000_000]
    accounts = shop.accounts()
    assert (accounts["/disputes/USD"], accounts["/expense.disputes/USD"]) == (20_010_000, -1_010_000)
    leave(shop)


def of_codes(shop: Shop) -> int:
    """Micro-units that codes have given of what was granted, by the books."""
    rows = shop.house.stack.get("/ledger/accounts", enterprise_id=shop.app, limit=200)["data"]
    return -sum(int(row["balance_micro"]) for row in rows if row["account"] == "expense.promo")


def test_a_dispute_of_what_was_bought_with_a_code_takes_and_frees_the_given_part_with_the_paid(house: House) -> None:
    shop = house.shop("USD")
    key, package, monthly = house.stack.key(shop.app), shop.plan(1_000_000, 500), shop.monthly(1_000_000, 500)
    said = house.post("/promo-codes", {"code": "half", "enterprise_id": shop.app, "percent_off": "50"})["code"]
    charges = {}
    for name, plan in (("ann", package), ("bob", package), ("cy", package), ("dee", monthly), ("eve", package)):
        page = shop.open(plan, name, promo_code=said)["id"]
        done = house.control.pay(shop.account, page)["session"]
        intent = done["payment_intent"]
        if intent is None:
            invoice = shop.api.invoices.retrieve(done["invoice"], {"expand": ["payments"]}, shop.at)
            intent = invoice.payments.data[0].payment.payment_intent
        charges[name] = shop.charge(intent)
    house.deliver()
    assert (of_codes(shop), [shop.lots(name) for name in charges]) == (5 * 250, [[("paid", 500)]] * 5)
    assert [ask(house, key, "bob"), ask(house, key, "eve")] == [(200, "")] * 2  # 250 of each are spent
    house.stack.events(shop.app, 2)
    amounts = {"ann": 50, "bob": 50, "cy": 20, "dee": 50, "eve": 50}
    disputes = {name: house.control.dispute(shop.account, charges[name], amount=amounts[name])["id"] for name in charges}
    house.deliver()
    assert [shop.available(name) for name in charges] == [0, 0, 300, 0, 0]
    assert [shop.accounts().get(f"{name}/user.frozen/USD", 0) for name in charges] == [500, 250, 200, 500, 250]
    assert of_codes(shop) == 5 * 250  # nothing is decided
    for name, won in (("ann", True), ("bob", False), ("cy", False), ("dee", False), ("eve", True)):
        house.control.close_dispute(shop.account, disputes[name], won=won)
    house.deliver(order="reverse", copies=2)
    assert [shop.available(name) for name in charges] == [500, 0, 300, 0, 250]
    assert [shop.wallet(name)["debt_micro"] for name in charges] == [0, 250, 0, 0, 0]
    assert of_codes(shop) == 250 + 0 + 150 + 0 + 250
    assert shop.accounts()["/disputes/USD"] == 500_000 + 200_000 + 500_000
    shop.buy(package, "bob")  # the debt is paid first, and what the code gave is a part of it
    house.deliver()
    assert (shop.available("bob"), shop.wallet("bob")["debt_micro"]) == (250, 0)
    leave(shop)


def ask(house: House, key: str, end_user: str) -> tuple[int, str]:
    """(status, code) of a request that costs 250 micro-units."""
    body = {"model": "flat-model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": end_user}
    answer = httpx.post(house.stack.url + "/v1/chat/completions", json=body, headers=headers, timeout=20)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def test_a_wallet_of_a_subscription_that_is_not_paid_says_so_and_is_open_again_once_it_is(house: House) -> None:
    shop = house.shop("USD")
    key = house.stack.key(shop.app)
    monthly, package = shop.monthly(1_000_000, 500), shop.plan(1_000_000, 500)
    shop.buy(package, "bob")
    subscriptions = {name: shop.buy(monthly, name) for name in ("ann", "bob")}
    house.deliver()
    assert [ask(house, key, "ann") for _ in range(3)] == [(200, ""), (200, ""), (402, "insufficient_balance")]
    for subscription in subscriptions.values():
        shop.card(subscription, "pm_card_chargeCustomerFail")
    house.control.advance(31 * DAY + 7200)
    assert ask(house, key, "ann") == (402, "insufficient_balance")  # that is remembered, until a webhook says otherwise
    told_at = time.monotonic()
    house.deliver()
    assert ask(house, key, "ann") == (402, "subscription_inactive")
    print("past due: refused", round(time.monotonic() - told_at, 3), "s after the first of its webhooks was sent")
    (held,) = shop.subscriptions("ann")
    assert held["status"] == "past_due"
    assert held["grace_until"] is not None  # by Stripe's clock: by the gateway's it is over
    # What a package bought, and what is left of a period that was paid for, goes on being spendable.
    assert [ask(house, key, "bob") for _ in range(5)] == [(200, "")] * 4 + [(402, "insufficient_balance")]
    shop.card(subscriptions["ann"], "pm_card_visa")
    (unpaid,) = shop.api.invoices.list({"status": "open", "subscription": subscriptions["ann"]}, shop.at).data
    shop.api.invoices.pay(unpaid.id, None, shop.at)
    told_at = time.monotonic()
    house.deliver()
    assert ask(house, key, "ann") == (200, "")
    print("paid: served", round(time.monotonic() - told_at, 3), "s after the first of its webhooks was sent")
    assert shop.subscriptions("ann")[0]["status"] == "active"
    house.stack.events(shop.app, 7)
    leave(shop)

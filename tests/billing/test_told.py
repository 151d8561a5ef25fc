"""What Stripe tells, through a whole gateway: buyers' journeys, and webhooks that are doubled, shuffled, forged or never come.

Each test has an app of its own. At the end of the module the audit is clean and the fake's own books add up. With a key in
STRIPE_TEST_KEY the journeys are made in that sandbox of Stripe, but for those that need what only the fake can do.
"""

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.billing.webhooks.inbox import _EFFECTS
from gateway.core.limits import END_USER_SALES_RPM
from tests.billing import sandbox
from tests.billing.at_stripe import AtStripe, OnFake, processing
from tests.billing.house import DAY, PATHS, SECRETS, URLS, House, Shop
from tests.commands import run_command
from tests.fake_stripe.control import running
from tests.path.conftest import Stack, start_gateway
from tests.path.conftest import upstream_url as upstream_url

ASK = {"model": "flat-model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream_url: str) -> Iterator[House]:
    """The fake's clock is 500 days behind, so that months can pass in it."""
    folder = tmp_path_factory.mktemp("house")
    if key := sandbox.given_key():
        with contextlib.closing(sandbox.Sandbox(key)) as stripe:
            yield from opened(folder, upstream_url, stripe)
        return
    with running(now=int(time.time()) - 500 * DAY) as control:
        yield from opened(folder, upstream_url, OnFake(control))


def opened(folder: Path, upstream_url: str, stripe: AtStripe) -> Iterator[House]:
    """A gateway that sells there; in the end all is well with both."""
    env: dict[str, Any] = {
        "MOZAIKS_STRIPE_SECRET_KEY": stripe.key,
        "MOZAIKS_STRIPE_WEBHOOK_SECRET": SECRETS["platform"],
        "MOZAIKS_STRIPE_CONNECT_WEBHOOK_SECRET": SECRETS["connect"],
        "MOZAIKS_STRIPE_API_BASE": stripe.api_base,
    }
    stack = start_gateway(folder, upstream_url, **env)
    try:
        yield House(stack, stripe)
        print(stack.cli("audit"))
        stripe.checked()
    finally:
        stack.admin.close()
        stack.process.stop()


def fake_alone(why: str) -> pytest.MarkDecorator:
    """For a test that no sandbox can be made to play."""
    return pytest.mark.skipif(bool(sandbox.given_key()), reason=f"the fake alone can do this: {why}")


def ask(stack: Stack, key: str, end_user: str) -> int:
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": end_user}
    return httpx.post(stack.url + "/v1/chat/completions", json=ASK, headers=headers, timeout=20).status_code


def test_an_end_user_buys_spends_to_the_last_token_is_refused_and_buys_again(house: House) -> None:
    shop = house.shop("USD")
    key = house.stack.key(shop.app)
    plan = shop.plan(1_000_000, 500)  # two requests of 250 micro-units
    with house.stripe.listening():
        for _ in range(2):
            assert ask(house.stack, key, "ann") == 402
            paid_at = time.monotonic()
            shop.buy(plan, "ann")
            while shop.available("ann") < 500:
                assert time.monotonic() - paid_at < house.stripe.patience_s
                time.sleep(0.02)
            print("served after", round(time.monotonic() - paid_at, 3))
            assert [ask(house.stack, key, "ann") for _ in range(3)] == [200, 200, 402]
    house.deliver()
    house.stack.events(shop.app, 4)
    purchases = house.stack.get("/purchases", enterprise_id=shop.app)["data"]
    assert [row["status"] for row in purchases] == ["paid", "paid"]
    shop.check()
    stripes = processing(house.stripe, shop.account) * 10_000
    assert stripes > 0
    assert shop.accounts() == {
        "/stripe_clearing/USD": -2_000_000 + stripes,
        "/expense.processing/USD": -stripes,
        "/expense.platform_fee/USD": -260_000,  # 12.5 % of 1.00, to the cent
        "/due_to_platform/USD": 260_000,
        "/exchange/USD": 2_000_000 - 1000,
        "/revenue.usage/USD": 1000,
    }


def test_a_creator_buys_of_the_platform_and_builds_with_it(house: House) -> None:
    shop = house.shop()
    plan = house.post(
        "/plans",
        {"kind": "package", "name": "Build", "currency": "USD", "price_micro": 5_000_000, "grant_micro": 5_000_000},
    )["id"]
    before = house.stack.get(f"/wallets/{shop.user_id}")["available_micro"]
    session = house.post("/checkout-sessions", {"plan_id": plan, "user_id": shop.user_id, **URLS})
    house.stripe.pay("", session["id"])
    house.deliver()
    assert house.stack.get(f"/wallets/{shop.user_id}")["available_micro"] == before + 5_000_000
    key = house.stack.key(shop.app, "platform")
    headers = {"authorization": f"Bearer {key}"}
    assert httpx.post(house.stack.url + "/v1/chat/completions", json=ASK, headers=headers).status_code == 200


@fake_alone("its timing is of milliseconds")
def test_a_burst_of_requests_buys_exactly_as_often_as_the_balance_needs_it(house: House) -> None:
    shop = house.shop("USD")
    key = house.stack.key(shop.app)
    server = httpx.Client(base_url=house.stack.url + "/api/v1", headers={"authorization": f"Bearer {key}"})
    plan = shop.plan(1_000_000, 1000)  # four requests of 250 micro-units
    page = shop.open(plan, "ann", save_payment_method=True)
    house.control.pay(shop.account, page["id"])
    house.deliver()
    rule = {"plan_id": plan, "platform_user_id": "ann", "below_micro": 500, "monthly_max_micro": 50_000_000, "daily_max": 24}
    with server:
        made = server.put("/top-ups", json=rule)
        link = server.post(f"/apps/{shop.app}/payment-links", json={"platform_user_id": "ann", "plan_id": plan}).json()["url"]
    assert made.status_code == 200, made.text
    assert (httpx.get(link).status_code, httpx.post(link).status_code) == (200, 303)
    assert httpx.post(link, data={"a": "b"}).headers["location"].startswith("https://checkout.stripe.invalid/")
    back = httpx.get(f"{house.stack.url}/returned/paid/{shop.app}")
    assert (back.status_code, back.headers["content-type"], "Thank you" in back.text) == (200, "text/html; charset=utf-8", True)
    house.control.deliver_at_once()  # what is granted by Stripe's reply is told as well, twice
    served, refused = 0, 0
    deadline = time.monotonic() + 20
    with ThreadPoolExecutor(4) as pool:
        while served < 14:
            assert time.monotonic() < deadline
            found = Counter(pool.map(lambda _: ask(house.stack, key, "ann"), range(min(4, 14 - served))))
            served, refused = served + found[200], refused + found[402]
            assert set(found) <= {200, 402}
    print("served", served, "refused", refused)
    house.stack.events(shop.app, 14)
    while (left := shop.available("ann")) < 500:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    house.control.deliver_at_once(False)
    house.handled()
    bought = [
        row["automatic"] for row in house.stack.get("/purchases", enterprise_id=shop.app)["data"] if row["status"] == "paid"
    ]
    # Each began below 500 and brought 1000: whatever came when, there is one number of purchases that leaves 500 to 1499.
    assert (left, Counter(bought)) == (500, {True: 3, False: 1})
    (row,) = house.stack.get("/top-ups", enterprise_id=shop.app)["data"]
    assert (row["status"], row["spent_micro"]) == ("on", 3_000_000)
    assert shop.wallet("ann")["debt_micro"] == 0
    shop.check()


# ---- refunds and disputes ----------------------------------------------------------------------


def test_with_a_refund_its_part_of_the_wallet_goes_and_the_fee_comes_back_whoever_made_it(house: House) -> None:
    shop = house.shop()
    plan = shop.plan(10_000_000, 1_000_000)
    ann, bob, cy = [shop.buy(plan, end_user) for end_user in ("ann", "bob", "cy")]
    house.deliver()
    shop.refund_by_us(ann, 4_000_000)
    house.stripe.refund(shop.account, bob, 333)
    house.stripe.refund(shop.account, cy)
    house.deliver()
    assert [shop.available(end_user) for end_user in ("ann", "bob", "cy")] == [600_000, 667_000, 0]
    shop.check()
    assert shop.fee_income() == 3_750_000 - 500_000 - 420_000 - 1_250_000
    house.stripe.refund(shop.account, bob)  # the rest
    house.deliver()
    assert shop.available("bob") == 0
    shop.check()


@fake_alone("a refund fails when the test says so")
def test_a_refund_of_what_was_spent_is_a_debt_that_closes_the_wallet_and_one_that_fails_is_corrected(house: House) -> None:
    shop = house.shop("USD")
    key = house.stack.key(shop.app)
    plan = shop.plan(1_000_000, 500)
    intent = shop.buy(plan, "ann")
    house.deliver()
    assert ask(house.stack, key, "ann") == 200
    house.stack.events(shop.app, 1)
    refund = shop.refund_by_us(intent)
    house.deliver()
    assert (shop.available("ann"), shop.wallet("ann")["debt_micro"]) == (0, 250)
    assert ask(house.stack, key, "ann") == 402
    house.control.finish_refund(shop.account, refund, "failed")
    house.deliver()
    assert (shop.available("ann"), shop.wallet("ann")["debt_micro"]) == (250, 0)
    assert ask(house.stack, key, "ann") == 200
    house.stack.events(shop.app, 2)
    shop.check()


@fake_alone("a refund is pending until the test says so")
def test_a_refund_that_is_pending_counts_once_it_has_succeeded(house: House) -> None:
    shop = house.shop()
    intent = shop.buy(shop.plan(10_000_000, 1_000_000), "ann", "pm_card_pendingRefund")
    house.deliver()
    refund = house.control.refund_in_dashboard(shop.account, intent, 500)["id"]
    house.deliver()
    assert shop.available("ann") == 1_000_000
    house.control.finish_refund(shop.account, refund)
    house.deliver(order="reverse")
    assert shop.available("ann") == 500_000
    shop.check()


def test_a_dispute_freezes_and_a_won_one_frees(house: House) -> None:
    shop = house.shop()
    intent = shop.buy(shop.plan(), "ann", "pm_card_createDispute")
    dispute = house.stripe.dispute_of(shop.account, intent)
    house.deliver()
    assert shop.available("ann") == 0
    assert shop.accounts()["ann/user.frozen/TOK"] == 1_000_000
    house.stripe.close_dispute(shop.account, dispute, won=True)
    house.deliver()
    assert shop.available("ann") == 1_000_000
    shop.check()


def test_a_card_that_is_declined_pays_nothing_and_the_page_takes_another(house: House) -> None:
    shop = house.shop()
    page = shop.open(shop.plan(), "ann")["id"]
    refused = house.stripe.pay(shop.account, page, "pm_card_chargeDeclined")["refused"]
    assert refused["code"] == "card_declined"
    house.deliver()
    assert shop.available("ann") == 0
    assert house.stripe.pay(shop.account, page)["refused"] is None
    house.deliver()
    assert shop.available("ann") == 1_000_000
    shop.check()


@fake_alone("a dispute is opened when the test says so")
def test_a_dispute_lost_after_spending_is_a_debt_that_the_next_payment_pays(house: House) -> None:
    shop = house.shop("USD")
    key = house.stack.key(shop.app)
    plan = shop.plan(1_000_000, 500)
    intent = shop.buy(plan, "ann")
    house.deliver()
    assert [ask(house.stack, key, "ann") for _ in range(2)] == [200, 200]
    house.stack.events(shop.app, 2)
    dispute = house.control.dispute(shop.account, shop.charge(intent))["id"]
    house.control.close_dispute(shop.account, dispute, won=False)
    house.deliver(order="shuffle", seed=3)
    assert shop.wallet("ann")["debt_micro"] == 500
    assert shop.accounts()["/disputes/USD"] == 1_000_000
    for _ in range(2):
        shop.buy(plan, "ann")
    house.deliver()
    assert (shop.wallet("ann")["debt_micro"], shop.available("ann")) == (0, 500)
    assert ask(house.stack, key, "ann") == 200
    house.stack.events(shop.app, 3)
    shop.check()


@fake_alone("an inquiry is closed when the test says so")
def test_an_inquiry_takes_nothing(house: House) -> None:
    shop = house.shop()
    intent = shop.buy(shop.plan(), "ann")
    dispute = house.control.dispute(shop.account, shop.charge(intent), inquiry=True)["id"]
    house.deliver()
    house.control.close_dispute(shop.account, dispute, won=False)
    house.deliver()
    assert shop.available("ann") == 1_000_000
    assert {row["state"] for row in house.stack.get("/webhooks", limit=50)["data"] if row["object_id"] == dispute} == {"ignored"}


# ---- subscriptions -----------------------------------------------------------------------------


@fake_alone("how a renewal is collected is set in the dashboard")
def test_a_subscription_renews_rolls_over_is_upgraded_fails_recovers_and_ends(house: House) -> None:
    shop = house.shop()
    basic = shop.monthly(10_000_000, 1000, rollover_max_micro=300)
    better = shop.monthly(30_000_000, 5000, rollover_max_micro=300)
    house.control.billing_settings(shop.account, retry_days=(3, 5), after_retries="past_due")
    subscription = shop.buy(basic, "ann")
    house.deliver()
    assert shop.lots("ann") == [("paid", 1000)]
    (held,) = shop.subscriptions("ann")
    assert (held["status"], held["plan_id"]) == ("active", basic)
    for _ in range(2):
        house.control.advance(31 * DAY + 7200)
        house.deliver()
        assert sorted(shop.lots("ann")) == [("paid", 1000), ("rollover", 300)]
    shop.change("ann", plan_id=better)  # three weeks or so are left: their part of 4000 more
    house.deliver()
    (upgraded,) = [left for source, left in shop.lots("ann") if source == "paid" and left != 1000]
    assert 1000 < upgraded < 4000
    assert shop.subscriptions("ann")[0]["plan_id"] == better
    house.control.advance(32 * DAY)
    house.deliver()
    assert sorted(shop.lots("ann")) == [("paid", 5000), ("rollover", 300)]

    shop.card(subscription, "pm_card_chargeCustomerFail")
    house.control.advance(31 * DAY)
    house.deliver()
    (held,) = shop.subscriptions("ann")
    assert held["status"] == "past_due"
    assert held["grace_until"] is not None
    assert sorted(shop.lots("ann")) == [("paid", 5000), ("rollover", 300)]  # nothing new
    shop.card(subscription, "pm_card_visa")
    house.control.advance(6 * DAY)
    house.deliver()
    (held,) = shop.subscriptions("ann")
    assert (held["status"], held["grace_until"]) == ("active", None)
    assert sorted(shop.lots("ann")) == [("paid", 5000), ("rollover", 300)]

    shop.change("ann", cancel_at_period_end=True)
    house.control.advance(31 * DAY)
    house.deliver(order="reverse")
    assert shop.subscriptions("ann")[0]["status"] == "canceled"
    shop.check()


def test_a_change_to_a_cheaper_plan_takes_nothing_back_and_the_next_periods_are_of_that(house: House) -> None:
    shop = house.shop(clock=True)
    basic, better = shop.monthly(10_000_000, 1000), shop.monthly(60_000_000, 5000)
    shop.buy(better, "ann")
    house.deliver()
    shop.change("ann", plan_id=basic)
    house.deliver()
    assert shop.lots("ann") == [("paid", 5000)]
    for _ in range(2):
        house.stripe.advance(shop.account, 31 * DAY + 7200)
        house.deliver()
        assert shop.lots("ann") == [("paid", 1000)]
    shop.check()


def test_a_trial_grants_as_a_trial_and_a_refund_of_a_renewal_takes_its_allowance(house: House) -> None:
    shop = house.shop(clock=True)
    shop.buy(shop.monthly(10_000_000, 1000, trial_days=7), "ann")
    house.deliver()
    assert shop.lots("ann") == [("trial", 1000)]
    house.stripe.advance(shop.account, 8 * DAY)
    house.deliver()
    assert shop.lots("ann") == [("paid", 1000)]
    (invoice,) = [row for row in shop.api.invoices.list({"expand": ["data.payments"]}, shop.at).data if row.amount_paid]
    house.stripe.refund(shop.account, invoice.payments.data[0].payment.payment_intent, 250)
    house.deliver()
    assert shop.lots("ann") == [("paid", 750)]
    shop.check()


# ---- whatever becomes of the webhooks ----------------------------------------------------------


COPIES = int(os.environ.get("BILLING_COPIES", 3))


def scenario(shop: Shop) -> None:
    """A bit of everything at Stripe, without a word from there; every period has thirty days."""
    plan = shop.plan(9_990_000, 1_000_003)
    basic = shop.plan(10_000_000, 1000, kind="subscription", interval="day", interval_count=30, rollover_max_micro=400)
    better = shop.plan(30_000_000, 5000, kind="subscription", interval="day", interval_count=30, rollover_max_micro=400)
    bought = {name: shop.buy(plan, name) for name in ("ann", "bob", "cy", "dee", "fay")}
    shop.control.refund_in_dashboard(shop.account, bought["bob"], 333)
    wish = {"payment_intent": bought["cy"], "refund_application_fee": True}
    shop.api.refunds.create(wish, shop.at)
    again = shop.api.refunds.create({"payment_intent": bought["fay"], "amount": 500}, shop.at)
    shop.control.finish_refund(shop.account, again.id, "failed")
    for name, won in (("ann", True), ("dee", False)):
        dispute = shop.control.dispute(shop.account, shop.charge(bought[name]))["id"]
        shop.control.close_dispute(shop.account, dispute, won=won)
    tried = shop.plan(
        20_000_000, 3000, kind="subscription", interval="day", interval_count=30, rollover_max_micro=400, trial_days=7
    )
    subscription, tries = shop.buy(basic, "eve"), shop.buy(tried, "gil")
    pending = shop.control.refund_in_dashboard(shop.account, shop.buy(plan, "hal", "pm_card_pendingRefund"), 300)["id"]
    shop.control.advance(35 * DAY)
    shop.control.finish_refund(shop.account, pending)
    dearer = shop.price(better)
    item = shop.api.subscriptions.retrieve(subscription, None, shop.at)["items"].data[0].id
    change = {"items": [{"id": item, "price": dearer}], "proration_behavior": "always_invoice"}
    shop.api.subscriptions.update(subscription, change, shop.at)
    shop.control.advance(31 * DAY)
    # Of periods that were renewed since: some of the one had gone on into the next, in the place of what expired there.
    for name, minor in ((subscription, 900), (tries, 1900)):
        paid = shop.api.invoices.list({"subscription": name, "expand": ["data.payments"]}, shop.at).data
        first = [row.payments.data[0].payment.payment_intent for row in paid if row.amount_paid][-1]
        shop.control.refund_in_dashboard(shop.account, first, minor)
    for name in (subscription, tries):
        shop.api.subscriptions.cancel(name, None, shop.at)


def outcome(shop: Shop) -> Any:
    lots = {name: sorted(shop.lots(name)) for name in ("ann", "bob", "cy", "dee", "eve", "fay", "gil", "hal")}
    states = sorted(row["status"] for row in house_rows(shop, "/purchases"))
    held = [(row["status"], row["wallet"]) for row in house_rows(shop, "/subscriptions")]
    return shop.accounts(), lots, states, sorted((status, wallet["platform_user_id"]) for status, wallet in held)


def house_rows(shop: Shop, path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = shop.house.stack.get(path, enterprise_id=shop.app)["data"]
    return rows


@fake_alone("webhooks are shuffled and dropped there")
def test_webhooks_in_order_several_times_shuffled_and_never_make_the_same_books(house: House) -> None:
    """BILLING_COPIES: how often each is sent; three times unless told."""
    house.deliver()
    # Only what changes something here is sent: of the rest, the other tests send enough.
    shops = [house.shop() for _ in range(3)]
    scenario(shops[0])
    told = tuple(_EFFECTS)
    house.deliver(types=told)
    expected = outcome(shops[0])
    assert expected[1]["eve"] == [("paid", 5000), ("rollover", 400)], expected
    assert expected[1]["bob"] == [("paid", 1_000_003 - 1_000_003 * 333 // 999)]
    assert expected[1]["gil"] == [("paid", 3000), ("rollover", 400)], expected
    assert not any("receivable.clawback" in name for name in expected[0]), expected
    assert expected[1]["hal"] == [("paid", 1_000_003 - 1_000_003 * 300 // 999)]
    assert expected[3] == [("canceled", "eve"), ("canceled", "gil")]
    shops[0].check()

    scenario(shops[1])
    house.deliver(order="shuffle", seed=11, copies=COPIES, senders=8, types=told)
    assert outcome(shops[1]) == expected
    shops[1].check()

    scenario(shops[2])
    house.control.drop_waiting()
    assert outcome(shops[2])[0] == {}
    looked = house.stack.cli("reconcile", "--billing", "--since", "600d")
    assert "0 wrong, " in looked, looked
    assert " paid and not in the books until now" in looked, looked
    assert outcome(shops[2]) == expected
    shops[2].check()
    assert [outcome(shop) for shop in shops[:2]] == [expected] * 2  # they were looked at again


# ---- what is not believed ----------------------------------------------------------------------


def test_what_cannot_be_verified_is_400_and_nothing_is_kept(house: House) -> None:
    event = house.event("payment_intent.succeeded", {"id": "pi_made_up", "object": "payment_intent"}, "acct_made_up")
    before = house.stack.get("/webhooks", limit=1)["data"]
    refused = [
        house.send("connect", event, secret="whsec_wrong"),
        house.send("platform", event, secret=SECRETS["connect"]),
        house.send("connect", event, age_s=301),
        house.send("connect", {"id": "evt_1", "object": "event"}),
        httpx.post(house.stack.url + PATHS["connect"], content=b"{}"),
        httpx.post(house.stack.url + PATHS["connect"], content=b"{}", headers={"stripe-signature": "t=x,v1=y"}),
    ]
    assert [answer.status_code for answer in refused] == [400] * len(refused)
    assert {answer.json()["error"]["code"] for answer in refused} == {"bad_signature", "bad_payload"}
    large = httpx.post(house.stack.url + PATHS["connect"], content=b" " * (1 << 20 | 1), headers={"stripe-signature": "t=1,v1=1"})
    assert large.status_code == 413
    assert httpx.get(house.stack.url + PATHS["connect"]).status_code == 405
    assert house.stack.get("/webhooks", limit=1)["data"] == before


@fake_alone("endpoints have secrets there")
def test_a_rolled_secret_is_one_of_several_signatures(house: House) -> None:
    shop = house.shop()
    endpoint = house.control.endpoint(house.stack.url + PATHS["connect"], connect=True, secret="whsec_new")
    house.control.endpoint_secrets(endpoint, "whsec_new", SECRETS["connect"])
    shop.buy(shop.plan(), "ann")
    house.deliver()
    assert shop.available("ann") == 1_000_000


def test_of_another_mode_or_kind_it_is_kept_and_ignored_and_a_repeat_is_nothing_new(house: House) -> None:
    about = {"id": "pi_other", "object": "payment_intent"}
    live = house.event("payment_intent.succeeded", about, "acct_other", livemode=True)
    odd = house.event("charge.refunded", {"id": "ch_1", "object": "charge", "payment_intent": "pi_other"}, "acct_other")
    assert [house.send("connect", event).status_code for event in (live, odd, odd, live)] == [200] * 4
    rows = [row for row in house.webhooks("ignored") if row["object_id"] == "pi_other"]
    assert [(row["type"], row["reason"]) for row in rows] == [
        ("charge.refunded", "of a type that changes nothing here"),
        ("payment_intent.succeeded", "of live mode, which this gateway's key is not"),
    ]


def paid_by_hand(house: House, account: str, metadata: dict[str, str]) -> None:
    """A payment that a creator made by itself on its own account, with whatever metadata."""
    api: Any = house.control.client().v1
    wish = {"amount": 1000, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True, "metadata": metadata}
    api.payment_intents.create({**wish, "payment_method_types": ["card"]}, {"stripe_account": account})
    house.deliver()


@fake_alone("accounts are there at once")
def test_metadata_is_believed_only_on_the_account_of_the_apps_own_creator(house: House) -> None:
    shop, other = house.shop(), house.shop()
    intent = shop.buy(shop.plan(), "ann")
    house.deliver()
    said = dict(shop.api.payment_intents.retrieve(intent, None, shop.at).metadata.to_dict())
    stranger = house.control.connected()
    ours = {"mozaiks_app": other.app, "mozaiks_owner": "zed", "mozaiks_plan": other.plan()}
    for account, metadata, why in (
        (other.account, said, f"app {shop.app} is not of creator {other.user_id}, whose account it is"),
        (other.account, {**ours, "mozaiks_app": "gone"}, "there is no app gone"),
        (other.account, {"mozaiks_owner": other.user_id}, f"a sale of the platform's on the account of creator {other.user_id}"),
        (other.account, ours, "there is no purchase behind it of that buyer on that account"),
        (stranger, said, f"no creator has the account {stranger}"),
    ):
        paid_by_hand(house, account, metadata)
        newest = house.webhooks("failed")[0]
        assert (newest["account_id"], newest["reason"]) == (account, why)
    paid_by_hand(house, other.account, {**ours, "mozaiks_plan": "plan_of_another_gateway"})
    assert house.webhooks("ignored")[0]["reason"] == "neither its purchase nor its plan is of this gateway"
    paid_by_hand(house, other.account, {})
    assert house.webhooks("ignored")[0]["reason"] in ("it does not carry our metadata", "of a type that changes nothing here")
    assert shop.available("ann") == 1_000_000
    assert other.accounts() == {}
    made_up = house.event("payment_intent.succeeded", {"id": "pi_none", "object": "payment_intent"}, other.account)
    assert house.send("connect", made_up).status_code == 200
    house.handled()
    assert house.webhooks("failed")[0]["reason"].startswith("Stripe: No such payment_intent")


@fake_alone("an account's owner disconnects it there")
def test_an_account_that_shut_us_out_sells_no_more(house: House) -> None:
    shop = house.shop()
    plan = shop.plan()
    shop.buy(plan, "ann")
    house.control.deauthorize(shop.account)
    house.deliver()
    wish = {"plan_id": plan, "platform_user_id": "ann", **URLS}
    answer = house.stack.admin.post("/checkout-sessions", json=wish, headers={"idempotency-key": "shut-out"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "selling_blocked")
    rows = house.stack.get("/webhooks", state="failed", limit=50)["data"]
    assert any(row["account_id"] == shop.account and row["type"] == "payment_intent.succeeded" for row in rows)


def test_an_end_user_asks_only_so_often_for_what_asks_stripe(house: House) -> None:
    shop = house.shop()
    house.stack.key(shop.app)
    plan = shop.plan()
    made = [
        house.stack.post(f"/apps/{shop.app}/end-user-tokens", {"platform_user_id": name})["token"]
        for name in ("ann", "ann", "bob")
    ]

    def pages(token: str, count: int) -> list[int]:
        with httpx.Client(base_url=house.stack.url + "/api/v1", headers={"authorization": f"Bearer {token}"}) as client:
            wish: dict[str, Any] = {"plan_id": plan, **URLS}
            answers = [client.post("/checkout-sessions", json=wish, headers={"idempotency-key": "one"}) for _ in range(count)]
            assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status_code == 429)
            assert client.get("/purchases").status_code == 200
        return [answer.status_code for answer in answers]

    asked = pages(made[0], END_USER_SALES_RPM - 1) + pages(made[1], 3)
    assert (asked.count(201), asked.count(429)) == (END_USER_SALES_RPM, 2)
    assert pages(made[2], 1) == [201]


@fake_alone("requests go wrong there")
def test_a_webhook_that_failed_is_listed_with_its_reason_and_replayed_when_that_is_gone(house: House) -> None:
    shop = house.shop()
    plan = shop.plan()
    house.control.fault("error_500", times=10, path="/v1/payment_intents")
    try:
        shop.buy(plan, "ann")
        assert all(each["status"] == 200 for each in house.control.deliver())
        time.sleep(0.3)
        waiting = [row for row in house.webhooks("waiting") if row["account_id"] == shop.account]
        assert waiting
    finally:
        house.control.clear_faults()
    replayed = house.stack.post(f"/webhooks/{waiting[0]['id']}/replay", {}, 200)
    assert (replayed["state"], replayed["attempts"]) == ("waiting", 0)
    house.handled()
    assert shop.available("ann") == 1_000_000
    listed = house.stack.cli("webhooks", "list", "--limit", "100")
    assert waiting[0]["id"] in listed
    assert waiting[0]["event_id"] in listed
    assert house.stack.post(f"/webhooks/{waiting[0]['event_id']}/replay", {}, 200)["id"] in [row["id"] for row in waiting]
    assert house.stack.admin.get("/webhooks", headers={"authorization": "Bearer nobody"}).status_code == 401


@fake_alone("its clock is moved for all")
def test_money_for_a_price_of_no_plan_is_a_failed_webhook_that_doctor_and_metrics_tell_of(house: House) -> None:
    shop = house.shop(clock=True)
    subscription = shop.buy(shop.monthly(10_000_000, 1000), "ann")
    house.deliver()
    held = shop.api.subscriptions.retrieve(subscription, None, shop.at)
    (item,) = held.items.data
    recurring = {"interval": "month", "interval_count": 1}
    made = {"currency": "usd", "unit_amount": 700, "recurring": recurring, "product": item.price.product}
    price = shop.api.prices.create(made, shop.at).id
    wish = {"items": [{"id": item.id, "price": price}], "proration_behavior": "none"}
    shop.api.subscriptions.update(subscription, wish, shop.at)
    stranger = {"customer": held.customer, "items": [{"price": price}], "default_payment_method": held.default_payment_method}
    stranger |= {"metadata": {"mozaiks_owner": "ann", "mozaiks_app": shop.app, "mozaiks_plan": "plan_elsewhere"}}
    shop.api.subscriptions.create(stranger, shop.at)
    house.stripe.advance(shop.account, 32 * DAY)
    house.deliver()

    def told(state: str) -> set[str]:
        return {
            row["reason"]
            for row in house.webhooks(state)
            if row["account_id"] == shop.account and row["type"] == "invoice.paid"
        }

    assert told("failed") == {"7.00 USD was paid and nothing granted: no line of it is of a plan"}
    assert "no line of it is of a plan" in told("ignored")  # the stranger's
    assert shop.lots("ann") == [("paid", 1000)]
    failed = len(house.webhooks("failed"))
    deadline = time.monotonic() + 60
    while f'mozaiks_webhook_events{{state="failed"}} {failed}' not in (seen := metrics(house.stack)):
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
    assert 'mozaiks_webhook_events{state="waiting"} 0' in seen
    doctor = json.loads(run_command(["doctor", "--json"], house.stack.env).stdout)
    (found,) = [each for each in doctor if each["about"] == "webhooks"]
    assert found["verdict"] == "warning"
    assert found["says"].startswith(f"{failed} webhook events of Stripe failed")
    assert "gateway webhooks list --state failed" in found["says"]
    ours = [row["id"] for row in house.webhooks("failed") if row["account_id"] == shop.account]
    for name in ours:
        assert "ignored" in house.stack.cli("webhooks", "ignore", name)
    assert len(house.webhooks("failed")) == failed - len(ours) < failed
    again = house.stack.admin.post(f"/webhooks/{ours[0]}/ignore", json={})
    assert (again.status_code, again.json()["error"]["param"]) == (409, "webhook_id")


def metrics(stack: Stack) -> list[str]:
    token = stack.admin.headers["authorization"]
    return httpx.get(f"{stack.url}/metrics", headers={"authorization": token}).text.splitlines()

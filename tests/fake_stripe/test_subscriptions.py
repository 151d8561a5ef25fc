"""Subscriptions through the fake: the clock, invoices, failing cards, changes, overage; the books always add up."""

from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.fake_stripe.control import Control, running

DAY = 86_400


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    with running(now=1_800_000_000) as fake:
        yield fake
        assert fake.audit() == []
        assert fake.shape_faults() == []
        assert fake.violations() == []


class Shop:
    def __init__(self, control: Control) -> None:
        self.control, self.account = control, control.connected()
        at: Any = {"stripe_account": self.account}
        api: Any = control.client().v1
        self.at, self.api = at, api
        self.product = str(api.products.create({"name": "Plan"}, at).id)

    def price(self, amount: int, interval: str = "month") -> str:
        wish = {"product": self.product, "currency": "usd", "unit_amount": amount, "recurring": {"interval": interval}}
        return str(self.api.prices.create(wish, self.at).id)

    def customer(self, card: str = "pm_card_visa") -> str:
        made = self.api.customers.create({"email": "a@example.com", "payment_method": card}, self.at).id
        self.card(made, card)
        return str(made)

    def card(self, customer: str, card: str) -> None:
        method = self.api.payment_methods.attach(card, {"customer": customer}, self.at)
        self.api.customers.update(customer, {"invoice_settings": {"default_payment_method": method.id}}, self.at)

    def subscribe(self, amount: int = 3000, card: str = "pm_card_visa", **more: Any) -> Any:
        wish = {"customer": self.customer(card), "items": [{"price": self.price(amount)}], **more}
        return self.api.subscriptions.create(wish, self.at)

    def get(self, subscription: str) -> Any:
        return self.api.subscriptions.retrieve(subscription, {"expand": ["latest_invoice"]}, self.at)

    def told(self, start: str = "") -> list[str]:
        return [e["type"] for e in self.control.events() if e.get("account") == self.account and e["type"].startswith(start)]


@pytest.fixture
def shop(control: Control) -> Shop:
    return Shop(control)


def test_a_year_is_thirteen_invoices_each_with_the_platforms_share(shop: Shop) -> None:
    sub = shop.subscribe(3000, application_fee_percent=12.5)
    shop.control.advance(366 * DAY)
    rows = shop.api.invoices.list({"subscription": sub.id, "limit": 100}, shop.at).data
    assert [row.amount_paid for row in rows] == [3000] * 13
    fees = shop.api.application_fees.list({"limit": 100}).data
    assert [fee.amount for fee in fees if fee.account == shop.account] == [375] * 13


def test_a_trial_ends_in_a_paid_period_and_is_told_before(shop: Shop) -> None:
    sub = shop.subscribe(3000, trial_period_days=7)
    assert (sub.status, shop.get(sub.id).latest_invoice.amount_due) == ("trialing", 0)
    shop.control.advance(5 * DAY)
    assert "customer.subscription.trial_will_end" in shop.told()
    shop.control.advance(3 * DAY)
    after = shop.get(sub.id)
    assert (after.status, after.latest_invoice.amount_paid, after.latest_invoice.billing_reason) == ("active", 3000,
        "subscription_cycle")


def test_a_trial_without_a_card_pauses_and_resumes(shop: Shop) -> None:
    customer = shop.api.customers.create({"email": "b@example.com"}, shop.at).id
    settings = {"end_behavior": {"missing_payment_method": "pause"}}
    wish = {"customer": customer, "items": [{"price": shop.price(500)}], "trial_period_days": 1, "trial_settings": settings}
    sub = shop.api.subscriptions.create(wish, shop.at)
    shop.control.advance(2 * DAY)
    assert shop.get(sub.id).status == "paused"
    shop.card(customer, "pm_card_visa")
    assert shop.api.subscriptions.resume(sub.id, None, shop.at).status == "active"


@pytest.mark.parametrize(("setting", "status"), [("cancel", "canceled"), ("unpaid", "unpaid"), ("past_due", "past_due")])
def test_a_renewal_that_fails_is_retried_and_ends_as_the_setting_says(shop: Shop, setting: str, status: str) -> None:
    shop.control.billing_settings(shop.account, retry_days=(1, 2), after_retries=setting)
    sub = shop.subscribe(3000)
    shop.card(sub.customer, "pm_card_chargeCustomerFail")
    shop.control.advance(31 * DAY + 7200)
    assert shop.get(sub.id).status == "past_due"
    shop.control.advance(4 * DAY)
    assert shop.get(sub.id).status == status
    assert shop.told("invoice.payment_failed") == ["invoice.payment_failed"] * 3


def test_a_retry_with_a_better_card_brings_the_subscription_back(shop: Shop) -> None:
    sub = shop.subscribe(3000)
    shop.card(sub.customer, "pm_card_threeDSecure2Required")
    shop.control.advance(32 * DAY)
    assert shop.told("invoice.payment_action") == ["invoice.payment_action_required"]
    shop.card(sub.customer, "pm_card_visa")
    shop.control.advance(3 * DAY)
    assert (shop.get(sub.id).status, shop.get(sub.id).latest_invoice.status) == ("active", "paid")


def test_an_invoice_that_is_paid_out_of_band_takes_no_money_and_cancels_its_intent(shop: Shop) -> None:
    sub = shop.subscribe(3000, "pm_card_chargeCustomerFail", application_fee_percent=10)
    before = len(shop.control.events())
    paid = shop.api.invoices.pay(shop.get(sub.id).latest_invoice.id, {"paid_out_of_band": True, "expand": ["payments"]}, shop.at)
    assert (paid.status, paid.amount_paid, paid.amount_remaining, paid.amount_paid_off_stripe) == ("paid", 3000, 0, 3000)
    record, default = paid.payments.data
    assert (record.payment.type, record.status, record.amount_paid, record.is_default) == ("payment_record", "paid", 3000, False)
    assert (default.payment.type, default.status, default.amount_paid) == ("payment_intent", "canceled", None)
    intent = shop.api.payment_intents.retrieve(default.payment.payment_intent, None, shop.at)
    assert (intent.status, intent.amount_received) == ("canceled", 0)
    told = [event["type"] for event in shop.control.events()[before:]]
    assert told == ["payment_intent.canceled", "invoice.paid", "customer.subscription.updated"]
    assert shop.get(sub.id).status == "active"


def test_an_invoice_that_is_sent_is_paid_in_parts_by_intents_and_out_of_band(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="days_until_due"):
        shop.subscribe(3000, collection_method="send_invoice")
    sub = shop.subscribe(3000, collection_method="send_invoice", days_until_due=30, application_fee_percent=10)
    assert (sub.status, shop.get(sub.id).latest_invoice.status) == ("active", "open")
    invoice = sub.latest_invoice
    wish: Any = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    intent = shop.api.payment_intents.create({**wish, "payment_method_types": ["card"]}, shop.at).id
    asked = {"value": 1500, "currency": "usd"}
    record = shop.api.payment_records.report_payment(
        {"amount_requested": asked, "initiated_at": 1, "outcome": "guaranteed", "payment_method_details": {"type": "custom"}},
        shop.at,
    ).id
    left = [
        shop.api.invoices.attach_payment(invoice, {kind: name}, shop.at).amount_remaining
        for kind, name in (("payment_intent", intent), ("payment_record", record))
    ]
    assert left == [2500, 1000]
    with pytest.raises(stripe.InvalidRequestError, match="used up"):
        shop.api.invoices.attach_payment(invoice, {"payment_intent": intent}, shop.at)
    paid = shop.api.invoices.pay(invoice, {"payment_method": "pm_card_visa", "expand": ["payments"]}, shop.at)
    assert (paid.status, paid.amount_paid, paid.amount_paid_off_stripe) == ("paid", 3000, 1500)
    rows = [(row.payment.type, row.status, row.amount_paid, row.is_default) for row in paid.payments.data]
    assert sorted(rows) == [
        ("payment_intent", "paid", 500, False), ("payment_intent", "paid", 1000, True), ("payment_record", "paid", 1500, False)
    ]  # fmt: skip
    assert [fee.amount for fee in shop.api.application_fees.list({"limit": 100}).data if fee.account == shop.account] == [100]
    charged = shop.subscribe(3000, "pm_card_chargeCustomerFail").latest_invoice
    with pytest.raises(stripe.InvalidRequestError, match="charged automatically"):
        shop.api.invoices.attach_payment(charged, {"payment_intent": intent}, shop.at)


def test_a_first_payment_that_fails_leaves_it_incomplete_or_makes_none(shop: Shop) -> None:
    sub = shop.subscribe(3000, "pm_card_chargeCustomerFail")
    assert sub.status == "incomplete"
    shop.control.advance(DAY)
    assert shop.get(sub.id).status == "incomplete_expired"
    with pytest.raises(stripe.CardError):
        shop.subscribe(3000, "pm_card_chargeCustomerFail", payment_behavior="error_if_incomplete")


def test_an_upgrade_is_prorated_to_the_second_and_a_downgrade_becomes_credit(shop: Shop) -> None:
    sub = shop.subscribe(3000)
    item = sub["items"].data[0]
    half = (item.current_period_end - item.current_period_start) // 2
    shop.control.advance(half)
    higher = {"items": [{"id": item.id, "price": shop.price(6000)}], "proration_behavior": "always_invoice"}
    shop.api.subscriptions.update(sub.id, higher, shop.at)
    invoice = shop.get(sub.id).latest_invoice
    assert ([line.amount for line in invoice.lines.data], invoice.amount_paid) == ([-1500, 3000], 1500)
    lower = {"items": [{"id": item.id, "price": shop.price(1000)}], "proration_behavior": "always_invoice"}
    shop.api.subscriptions.update(sub.id, lower, shop.at)
    assert shop.api.customers.retrieve(sub.customer, None, shop.at).balance == -2500
    shop.control.advance(half + 7200)
    renewed = shop.get(sub.id).latest_invoice
    assert (renewed.total, renewed.amount_due, renewed.starting_balance, renewed.ending_balance) == (1000, 0, -2500, -1500)


def test_overage_joins_the_draft_of_the_next_period(shop: Shop) -> None:
    sub = shop.subscribe(3000, application_fee_percent=10)
    waiting = {"customer": sub.customer, "amount": 250, "currency": "usd", "subscription": sub.id, "description": "Overage"}
    shop.api.invoice_items.create(waiting, shop.at)
    shop.control.advance_to(sub["items"].data[0].current_period_end)
    draft = shop.get(sub.id).latest_invoice
    assert (draft.status, draft.total) == ("draft", 3250)
    shop.api.invoice_items.create({"customer": sub.customer, "amount": 50, "currency": "usd", "invoice": draft.id}, shop.at)
    shop.control.advance(3600)
    paid = shop.get(sub.id).latest_invoice
    assert (paid.status, paid.amount_paid, len(paid.lines.data)) == ("paid", 3300, 3)
    assert shop.api.application_fees.list({"limit": 1}).data[0].amount == 330


def test_ends_at_the_period_or_now_and_pauses_collection(shop: Shop) -> None:
    sub, other, held = shop.subscribe(), shop.subscribe(), shop.subscribe()
    shop.api.subscriptions.update(sub.id, {"cancel_at_period_end": True}, shop.at)
    shop.api.subscriptions.update(held.id, {"pause_collection": {"behavior": "void"}}, shop.at)
    assert shop.api.subscriptions.cancel(other.id, None, shop.at).status == "canceled"
    assert shop.get(sub.id).status == "active"
    shop.control.advance(32 * DAY)
    assert (shop.get(sub.id).status, shop.get(held.id).status) == ("canceled", "active")
    assert shop.get(held.id).latest_invoice.status == "void"
    shop.api.subscriptions.update(held.id, {"pause_collection": ""}, shop.at)
    assert [s.id for s in shop.api.subscriptions.list(None, shop.at).data] == [held.id]
    assert shop.told("customer.subscription.deleted") == ["customer.subscription.deleted"] * 2


def test_checkout_of_a_plan_with_a_promotion_code_saves_the_card_and_pays(shop: Shop) -> None:
    coupon = shop.api.coupons.create({"percent_off": 25, "duration": "once", "max_redemptions": 1}, shop.at)
    shop.api.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "HELLO"}, shop.at)
    data = {"application_fee_percent": 10, "metadata": {"app": "a"}}
    lines = [{"price": shop.price(2000), "quantity": 1}]
    wish = {"mode": "subscription", "line_items": lines, "success_url": "https://app.invalid/ok", "subscription_data": data,
        "allow_promotion_codes": True}
    session = shop.api.checkout.sessions.create(wish, shop.at)
    assert shop.control.pay(shop.account, session.id, "pm_card_chargeDeclined")["refused"]["code"] == "card_declined"
    done = shop.control.pay(shop.account, session.id, "pm_card_authenticationRequiredOnSetup", code="hello")["session"]
    sub = shop.get(done["subscription"])
    assert (done["amount_total"], sub.latest_invoice.amount_paid, sub.metadata["app"]) == (1500, 1500, "a")
    shop.control.advance(32 * DAY)
    assert shop.get(sub.id).latest_invoice.amount_paid == 2000
    portal = shop.api.billing_portal.sessions.create({"customer": sub.customer, "return_url": "https://app.invalid"}, shop.at)
    assert portal.url.startswith("https://")


def test_another_interval_begins_a_new_period_and_a_cancellation_gives_the_rest_as_credit(shop: Shop) -> None:
    sub = shop.subscribe(3000)
    shop.control.advance((sub["items"].data[0].current_period_end - shop.control.now()) // 2)
    yearly = {"id": sub["items"].data[0].id, "price": shop.price(30_000, "year")}
    shop.api.subscriptions.update(sub.id, {"items": [yearly]}, shop.at)
    assert sorted(line.amount for line in shop.get(sub.id).latest_invoice.lines.data) == [-1500, 30_000]
    assert shop.api.subscriptions.cancel(sub.id, {"prorate": True, "invoice_now": True}, shop.at).status == "canceled"
    assert shop.api.customers.retrieve(sub.customer, None, shop.at).balance == -30_000


def test_an_invoice_by_hand_collects_what_waits(shop: Shop) -> None:
    customer = shop.customer()
    shop.api.invoice_items.create({"customer": customer, "amount": 500, "currency": "usd"}, shop.at)
    invoice = shop.api.invoices.create({"customer": customer, "pending_invoice_items_behavior": "include"}, shop.at)
    assert (invoice.status, invoice.total) == ("draft", 500)
    paid = shop.api.invoices.pay(invoice.id, {"expand": ["payments.data.payment.payment_intent"]}, shop.at)
    assert (paid.status, paid.payments.data[0].payment.payment_intent.amount_received) == ("paid", 500)
    with pytest.raises(stripe.InvalidRequestError):
        shop.api.invoices.pay(invoice.id, None, shop.at)


def test_a_trial_that_checkout_began_can_be_ended_now(shop: Shop) -> None:
    lines, data = [{"price": shop.price(2000), "quantity": 2}], {"trial_period_days": 14}
    wish = {"mode": "subscription", "line_items": lines, "success_url": "https://app.invalid/ok", "subscription_data": data}
    done = shop.control.pay(shop.account, shop.api.checkout.sessions.create(wish, shop.at).id)["session"]
    assert done["payment_status"] == "no_payment_required"
    assert shop.api.subscriptions.update(done["subscription"], {"trial_end": "now"}, shop.at).status == "active"
    assert shop.get(done["subscription"]).latest_invoice.amount_paid == 4000

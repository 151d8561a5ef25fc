"""The adapter on a fake of Stripe, through the real SDK: every method, what it promises, and every way to fail."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import stripe

from gateway.billing import ports
from gateway.billing.model import PLATFORM_ACCOUNT, Plan
from gateway.billing.ports import Metadata, Payments, PaymentsDown, PaymentsRefused
from gateway.billing.stripe.client import API_VERSION, Stripe
from tests.fake_stripe.control import KEY, Control

PACKAGE = Plan("plan_package", "shop", "package", "A hundred", "USD", 1000, 100_000_000, 0)
MONTHLY = Plan("plan_month", "shop", "subscription", "Monthly", "USD", 3000, 30_000_000, 0, interval="month")
DEARER = Plan("plan_dear", "shop", "subscription", "Dearer", "USD", 6000, 70_000_000, 0, interval="month")
BUYER = Metadata("shop", "u1", PACKAGE.id, "pur_1")
URLS = {"success_url": "https://app.invalid/ok", "cancel_url": "https://app.invalid/no"}


@pytest.fixture(scope="module")
def account(control: Control) -> str:
    return control.connected()


@pytest.fixture
async def payments(control: Control) -> AsyncIterator[Stripe]:
    adapter = Stripe(KEY, {"connect": "whsec_connect", "platform": ""}, control.base)
    yield adapter
    await adapter.close()


class Shop:
    """A buyer of plans on one account; operations count up."""

    def __init__(self, control: Control, payments: Payments, account: str) -> None:
        self.control, self.payments, self.account = control, payments, account
        self.name = f"{time.monotonic_ns()}"
        self.count = 0

    def op(self) -> str:
        self.count += 1
        return f"{self.name}-{self.count}"

    async def open(self, plan: Plan, metadata: Metadata = BUYER, **more: Any) -> ports.CheckoutFacts:
        _, price_id = await self.payments.create_price(f"price:{plan.id}:{self.account}", self.account, plan)
        customer = await self.payments.create_customer(self.op(), self.account, metadata, "buyer@example.com")
        wish = {"fee_minor": 0, "fee_bp": 0, **URLS, **more}
        return await self.payments.checkout(
            self.op(), self.account, plan=plan, price_id=price_id, customer_id=customer, metadata=metadata, **wish
        )

    async def bought(self, plan: Plan, **more: Any) -> ports.CheckoutFacts:
        opened = await self.open(plan, **more)
        self.control.pay(self.account, opened.session_id)
        return await self.payments.checkout_session(self.account, opened.session_id)


@pytest.fixture
def shop(control: Control, payments: Stripe, account: str) -> Shop:
    return Shop(control, payments, account)


async def test_a_creators_account_tells_when_it_can_take_charges(control: Control, payments: Payments) -> None:
    made = await payments.create_account("op-account", "alice", "Alice's", "alice@example.com")
    assert (made.can_charge, made.account_id[:5]) == (False, "acct_")
    assert await payments.create_account("op-account", "alice", "Alice's", "alice@example.com") == made
    link = await payments.onboarding_link(made.account_id, "https://app.invalid/back", "https://app.invalid/again")
    assert link.startswith("https://")
    control.onboard(made.account_id)
    assert (await payments.account(made.account_id)).can_charge
    control.deauthorize(made.account_id)
    for asked in (payments.account(made.account_id), payments.portal_link(made.account_id, "cus_1", "https://app.invalid")):
        with pytest.raises(PaymentsRefused) as refused:
            await asked
        assert refused.value.is_revoked


async def test_a_plan_has_one_price_on_an_account_also_when_the_key_is_forgotten(shop: Shop) -> None:
    account = shop.control.connected()
    first = await shop.payments.create_price("op-price", account, MONTHLY)
    assert await shop.payments.create_price("another op", account, MONTHLY) == first
    price = shop.control.client().v1.prices.retrieve(first[1], None, {"stripe_account": account})
    assert (price.unit_amount, price.currency, price.lookup_key) == (3000, "usd", MONTHLY.id)
    assert price.recurring is not None
    assert price.recurring.interval == "month"


async def test_a_package_is_paid_with_the_platforms_share_and_its_metadata(shop: Shop) -> None:
    opened = await shop.open(PACKAGE, fee_minor=125, save_method=True)
    assert (opened.status, opened.payment_status, opened.metadata) == ("open", "unpaid", BUYER)
    shop.control.pay(shop.account, opened.session_id)
    done = await shop.payments.checkout_session(shop.account, opened.session_id)
    assert (done.status, done.payment_status) == ("complete", "paid")
    assert done.payment_id is not None
    paid = await shop.payments.payment(shop.account, done.payment_id)
    assert (paid.status, paid.amount_minor, paid.currency, paid.fee_minor) == ("succeeded", 1000, "USD", 125)
    assert (paid.stripe_fee_minor, paid.metadata, paid.customer_id) == (59, BUYER, done.customer_id)
    assert paid.invoice_id is None
    charged = await shop.payments.charge_saved(
        shop.op(), shop.account, customer_id=paid.customer_id or "", method_id=paid.method_id or "", amount_minor=700,
        currency="USD", fee_minor=70, metadata=BUYER,
    )  # fmt: skip
    assert (charged.status, charged.amount_minor, charged.fee_minor, charged.failure) == ("succeeded", 700, 70, "")


async def test_a_refused_saved_card_is_a_payment_that_failed_and_stays_so(shop: Shop) -> None:
    customer = await shop.payments.create_customer(shop.op(), shop.account, BUYER, "")
    wish: Any = {"customer_id": customer, "method_id": "pm_card_chargeDeclinedInsufficientFunds", "amount_minor": 700}
    op_id = shop.op()
    for _ in range(2):
        failed = await shop.payments.charge_saved(op_id, shop.account, **wish, currency="USD", fee_minor=0, metadata=BUYER)
        assert (failed.status, failed.failure, failed.amount_minor) == ("requires_payment_method", "insufficient_funds", 0)
        assert failed.metadata == BUYER


async def test_a_subscription_is_invoiced_with_its_share_changed_and_ended(shop: Shop) -> None:
    metadata = Metadata("shop", "u2", MONTHLY.id)
    done = await shop.bought(MONTHLY, metadata=metadata, fee_bp=1250)
    found = await shop.payments.subscription(shop.account, done.subscription_id or "")
    assert (found.status, found.metadata, found.cancel_at_period_end) == ("active", metadata, False)
    assert found.period_end_ms - found.period_start_ms >= 28 * 86_400_000
    now_ms = shop.control.now() * 1000
    rows = [row async for row in shop.payments.invoices_between(shop.account, now_ms - 60_000, now_ms + 1000)]
    invoice = next(row for row in rows if row.subscription_id == found.subscription_id)
    assert (invoice.status, invoice.reason, invoice.amount_paid_minor) == ("paid", "subscription_create", 3000)
    assert (invoice.metadata, [line.price_id for line in invoice.lines]) == (metadata, [found.price_id])
    assert [line.is_proration for line in invoice.lines] == [False]
    assert await shop.payments.invoice(shop.account, invoice.invoice_id) == invoice
    (part,) = invoice.payments
    assert (part.amount_minor, part.is_default, invoice.out_of_band_minor) == (3000, True, 0)
    paid = await shop.payments.payment(shop.account, part.payment_id)
    assert (paid.invoice_id, paid.fee_minor) == (invoice.invoice_id, 375)
    _, dearer = await shop.payments.create_price(shop.op(), shop.account, DEARER)
    other = Metadata("shop", "u2", DEARER.id)
    changed = await shop.payments.change_subscription(
        shop.op(), shop.account, found.subscription_id, price_id=dearer, metadata=other, fee_bp=0
    )
    assert (changed.price_id, changed.metadata) == (dearer, other)
    later_ms = shop.control.now() * 1000
    after = [row async for row in shop.payments.invoices_between(shop.account, now_ms, later_ms + 1000)]
    (update,) = [row for row in after if row.reason == "subscription_update" and row.subscription_id == found.subscription_id]
    assert [line.is_proration for line in update.lines] == [True, True]
    ending = await shop.payments.change_subscription(shop.op(), shop.account, found.subscription_id, cancel_at_period_end=True)
    assert ending.cancel_at_period_end
    for _ in range(2):
        ended = await shop.payments.cancel_subscription(shop.op(), shop.account, found.subscription_id)
        assert ended.status == "canceled"
    assert ended.subscription_id in [each.subscription_id async for each in shop.payments.subscriptions_of(shop.account)]
    assert (await shop.payments.portal_link(shop.account, found.customer_id, "https://app.invalid")).startswith("https://")


async def test_a_portal_offers_what_its_account_set_or_else_what_we_do(shop: Shop) -> None:
    account = shop.control.connected()
    api: Any = shop.control.client().v1.billing_portal.configurations
    customer = await shop.payments.create_customer(shop.op(), account, BUYER, "")
    for _ in range(2):
        assert (await shop.payments.portal_link(account, customer, "https://app.invalid")).startswith("https://")
        shop.control.advance(86_401)  # Stripe has forgotten the operation
    [made] = api.list(None, {"stripe_account": account}).data
    assert made.features.subscription_cancel.mode == "at_period_end"
    assert (made.features.subscription_update.enabled, made.is_default) == (False, False)
    asked = [
        row["body"]
        for row in shop.control.requests()
        if row["path"] == "/v1/billing_portal/sessions" and row["account"] == account
    ]
    assert [f"configuration={made.id}" in body for body in asked] == [True, True]
    other = shop.control.connected()
    customer = await shop.payments.create_customer(shop.op(), other, BUYER, "")
    sessions: Any = shop.control.client().v1.billing_portal.sessions
    sessions.create({"customer": customer}, {"stripe_account": other})  # by which the fake makes a default
    await shop.payments.portal_link(other, customer, "https://app.invalid")
    assert [each.is_default for each in api.list(None, {"stripe_account": other}).data] == [True]


async def test_the_platforms_own_sales_have_no_account_and_no_share(shop: Shop) -> None:
    own = Shop(shop.control, shop.payments, PLATFORM_ACCOUNT)
    shop.control.onboard("")
    trial = Plan("plan_own", None, "subscription", "Own", "EUR", 500, 5_000_000, 0, interval="week", trial_days=7)
    done = await own.bought(trial, metadata=Metadata(None, "alice", trial.id))
    found = await own.payments.subscription(PLATFORM_ACCOUNT, done.subscription_id or "")
    assert (found.status, found.metadata) == ("trialing", Metadata(None, "alice", trial.id))
    assert found.trial_end_ms == found.period_end_ms


async def test_a_refund_returns_the_share_where_it_is_asked_to(shop: Shop) -> None:
    done = await shop.bought(PACKAGE, fee_minor=100)
    assert done.payment_id is not None
    op_id = shop.op()
    made = await shop.payments.refund(op_id, shop.account, done.payment_id, 400, return_fee=True)
    assert (made.amount_minor, made.status, made.fee_returned_minor) == (400, "succeeded", 40)
    assert await shop.payments.refund(op_id, shop.account, done.payment_id, 400, return_fee=True) == made
    assert await shop.payments.refund_of(shop.account, made.refund_id) == made
    kept = await shop.payments.refund(shop.op(), shop.account, done.payment_id, 100, return_fee=False)
    assert kept.fee_returned_minor == 0
    paid = await shop.payments.payment(shop.account, done.payment_id)
    assert paid.refunded_minor == 500
    assert paid.fee_id is not None
    await shop.payments.return_fee(shop.op(), paid.fee_id, 10, kept.refund_id)
    assert await shop.payments.fee_returned(paid.fee_id, kept.refund_id) == (10, 50)
    assert await shop.payments.fee_returned(paid.fee_id, "re_other") == (None, 50)
    assert shop.control.client().v1.application_fees.retrieve(paid.fee_id).amount_refunded == 50
    now_ms = shop.control.now() * 1000
    rows = [row async for row in shop.payments.refunds_between(shop.account, now_ms - 60_000, now_ms + 1000)]
    assert {made, kept} <= set(rows)
    free = await shop.bought(PACKAGE)
    with pytest.raises(PaymentsRefused):
        await shop.payments.refund(shop.op(), shop.account, free.payment_id or "", 100, return_fee=True)


async def test_a_dispute_holds_what_stripe_withdrew_until_it_is_won(shop: Shop) -> None:
    done = await shop.bought(PACKAGE)
    intent = shop.control.client().v1.payment_intents.retrieve(done.payment_id or "", None, {"stripe_account": shop.account})
    opened = shop.control.dispute(shop.account, str(intent.latest_charge))
    seen = await shop.payments.dispute(shop.account, opened["id"])
    assert (seen.status, seen.withdrawn_minor, seen.payment_id) == ("needs_response", 1000, done.payment_id)
    shop.control.close_dispute(shop.account, opened["id"], won=True)
    now_ms = shop.control.now() * 1000
    rows = [row async for row in shop.payments.disputes_between(shop.account, now_ms - 60_000, now_ms + 1000)]
    assert [(row.status, row.withdrawn_minor) for row in rows if row.dispute_id == opened["id"]] == [("won", 0)]


async def test_a_window_is_walked_to_its_end_and_no_further(control: Control, payments: Stripe) -> None:
    shop = Shop(control, payments, control.connected())
    made = []
    for amount in range(1, 4):
        done = await shop.open(Plan(f"plan_{amount}", "shop", "package", "One", "USD", amount * 100, 1, 0))
        control.pay(shop.account, done.session_id)
        made.append((control.now() * 1000, amount * 100))
        control.advance(10)
    payments.page_rows = 1
    from_ms, until_ms = made[0][0], made[2][0]
    rows = [row async for row in payments.payments_between(shop.account, from_ms, until_ms)]
    assert [(row.created_at_ms, row.amount_minor) for row in rows] == made[1::-1]
    assert [row async for row in payments.payments_between(shop.account, from_ms + 1, from_ms + 10_000)] == []


async def test_all_lines_of_a_long_invoice_are_there(shop: Shop) -> None:
    api: Any = shop.control.client().v1
    at = {"stripe_account": shop.account}
    customer = await shop.payments.create_customer(shop.op(), shop.account, BUYER, "")
    for number in range(12):
        api.invoice_items.create({"customer": customer, "amount": 100 + number, "currency": "usd"}, at)
    made = api.invoices.create({"customer": customer, "pending_invoice_items_behavior": "include"}, at)
    found = await shop.payments.invoice(shop.account, made.id)
    assert sorted(line.amount_minor for line in found.lines) == [100 + number for number in range(12)]


async def test_all_payments_of_an_invoice_are_there_and_no_other_counts(shop: Shop) -> None:
    api: Any = shop.control.client().v1
    at = {"stripe_account": shop.account}
    _, price = await shop.payments.create_price(shop.op(), shop.account, MONTHLY)
    customer = await shop.payments.create_customer(shop.op(), shop.account, BUYER, "")
    wish: Any = {"customer": customer, "items": [{"price": price}], "collection_method": "send_invoice", "days_until_due": 1}
    invoice = api.subscriptions.create(wish, at).latest_invoice
    pays: Any = {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    intents = [api.payment_intents.create({**pays, "payment_method_types": ["card"]}, at).id for _ in range(11)]
    for intent in intents:
        api.invoices.attach_payment(invoice, {"payment_intent": intent}, at)
    open_yet = await shop.payments.invoice(shop.account, invoice)
    assert (len(open_yet.payments), open_yet.amount_paid_minor, open_yet.out_of_band_minor) == (11, 1100, 0)
    api.invoices.pay(invoice, {"paid_out_of_band": True}, at)
    found = await shop.payments.invoice(shop.account, invoice)
    assert [(part.payment_id, part.amount_minor, part.is_default) for part in found.payments] == [
        (intent, 100, False) for intent in sorted(intents)
    ]
    assert (found.status, found.amount_paid_minor, found.out_of_band_minor) == ("paid", 3000, 1900)


@pytest.mark.parametrize("kind", ["drop_after", "error_500"])
async def test_what_is_lost_on_the_way_is_repeated_once(shop: Shop, kind: str) -> None:
    shop.control.fault(kind, method="POST", path="/v1/customers")
    await shop.payments.create_customer(shop.op(), shop.account, Metadata("shop", kind, ""), f"{kind}@example.com")
    at: Any = {"stripe_account": shop.account}
    assert len(shop.control.client().v1.customers.list({"email": f"{kind}@example.com"}, at).data) == 1


@pytest.mark.parametrize("kind", ["error_500", "rate_limit"])
async def test_trouble_that_passes_is_not_a_refusal(shop: Shop, kind: str) -> None:
    impatient = Stripe(KEY, {}, shop.control.base, retries=0)
    shop.control.fault(kind, path="/v1/disputes")
    with pytest.raises(PaymentsDown):
        await impatient.dispute(shop.account, "du_1")
    await impatient.close()


async def test_a_refusal_names_its_reason_and_no_key(control: Control, shop: Shop) -> None:
    with pytest.raises(PaymentsRefused) as missing:
        await shop.payments.dispute(shop.account, "du_none")
    assert missing.value.code == "resource_missing"
    op_id = shop.op()
    await shop.payments.create_customer(op_id, shop.account, BUYER, "")
    with pytest.raises(PaymentsRefused) as reused:
        await shop.payments.create_customer(op_id, shop.account, BUYER, "other@example.com")
    assert reused.value.code == "idempotency_error"
    with pytest.raises(PaymentsRefused) as revoked:
        await shop.payments.account("acct_nobody")
    assert revoked.value.is_revoked
    wrong = Stripe("sk_test_invalid_and_secret", {}, control.base)
    with pytest.raises(PaymentsDown) as down:
        await wrong.account("acct_nobody")
    reader = Stripe("rk_test_reader", {}, control.base)
    with pytest.raises(PaymentsDown) as denied:
        await reader.create_customer("op", PLATFORM_ACCOUNT, BUYER, "")
    await reader.close()
    for told in (revoked, down, denied, reused):
        assert "sk_test" not in str(told.value)
        assert "rk_test" not in str(told.value)
        assert told.value.__cause__ is None
    await wrong.close()


async def test_a_stripe_that_is_not_there_is_down() -> None:
    nowhere = Stripe(KEY, {}, "http://127.0.0.1:9", retries=0)
    with pytest.raises(PaymentsDown):
        await nowhere.account("acct_1")
    await nowhere.close()


async def test_every_request_has_our_version_and_the_account_and_a_key_where_it_makes_something(shop: Shop) -> None:
    await shop.bought(PACKAGE)
    ours = [row for row in shop.control.requests() if row["version"] == API_VERSION and shop.name in row["idempotency_key"]]
    assert [row["path"] for row in ours] == ["/v1/customers", "/v1/checkout/sessions"]
    assert {row["account"] for row in ours} == {shop.account}
    assert shop.payments.is_live is False
    assert Stripe("sk_live_x", {}).is_live


def test_an_event_is_read_only_with_its_endpoints_signature(payments: Stripe) -> None:
    body = json.dumps({"id": "evt_1", "object": "event", "account": "acct_1"})
    sign: Any = stripe.WebhookSignature.generate_signature_header
    good = sign(body, "whsec_connect")
    assert payments.event("connect", body.encode(), good)["account"] == "acct_1"
    old = sign(body, "whsec_connect", int(time.time()) - 301)
    for endpoint, text, header in (
        ("platform", body, good),
        ("connect", body + " ", good),
        ("connect", body, sign(body, "whsec_other")),
        ("connect", body, old),
        ("connect", body, ""),
        ("connect", body, "t=,v1="),
        ("connect", body, "rubbish"),
    ):
        with pytest.raises(PaymentsRefused) as refused:
            payments.event(endpoint, text.encode(), header)
        assert refused.value.code == "bad_signature"
    for text in ("[]", "{"):
        with pytest.raises(PaymentsRefused) as broken:
            payments.event("connect", text.encode(), sign(text, "whsec_connect"))
        assert broken.value.code == "bad_payload"

"""Invoices of ours beside those of subscriptions: drafted, sent, found and void, through the real SDK on a fake of Stripe."""

from typing import Any

import msgspec
import pytest

from gateway.billing.model import PLATFORM_ACCOUNT
from gateway.billing.ports import Bill, InvoiceFacts, Metadata, PaymentsDown, PaymentsRefused
from gateway.billing.stripe.bills import StripeBills
from gateway.billing.stripe.client import API_VERSION, Stripe
from tests.billing.test_stripe_client import MONTHLY, Shop
from tests.billing.test_stripe_client import account as account
from tests.billing.test_stripe_client import payments as payments
from tests.billing.test_stripe_client import shop as shop

VISA, BROKE, OWNER = "pm_card_visa", "pm_card_chargeCustomerFail", "pm_card_authenticationRequired"
DAY = 86_400


class Buyer:
    """A customer with a card, and bills of 8.00 USD for it, with a share of 1.00."""

    def __init__(self, shop: Shop, card: str = VISA, **more: Any) -> None:
        self.shop, self.bills, self.account = shop, shop.payments.bills, shop.account
        api: Any = shop.control.client().v1
        at: Any = {"stripe_account": shop.account}
        self.api, self.at = api, at
        self.id = str(self.api.customers.create({"email": "buyer@example.com", **more}, self.at).id)
        self.method = self.card(card)
        self.since_ms = shop.control.now() * 1000

    def card(self, card: str) -> str:
        method = str(self.api.payment_methods.attach(card, {"customer": self.id}, self.at).id)
        self.api.customers.update(self.id, {"invoice_settings": {"default_payment_method": method}}, self.at)
        return method

    def bill(self, **more: Any) -> Bill:
        metadata = Metadata("shop", "u1", MONTHLY.id)
        made = Bill(f"ovr_{self.shop.op()}", self.id, self.method, 800, "USD", 100, "Usage beyond the allowance", metadata)
        return msgspec.structs.replace(made, **more)

    async def drafted(self, **more: Any) -> InvoiceFacts:
        return await self.bills.draft(self.shop.op(), self.account, self.bill(**more))

    async def sent(self, **more: Any) -> InvoiceFacts:
        return await self.bills.send(self.shop.op(), self.account, (await self.drafted(**more)).invoice_id)

    async def now(self, facts: InvoiceFacts) -> InvoiceFacts:
        return await self.shop.payments.invoice(self.account, facts.invoice_id)

    def raw(self, facts: InvoiceFacts) -> Any:
        return self.api.invoices.retrieve(facts.invoice_id, None, self.at)

    def intents(self) -> list[Any]:
        return list(self.api.payment_intents.list({"customer": self.id}, self.at).data)

    def balance(self) -> int:
        return int(self.api.customers.retrieve(self.id, None, self.at).balance)

    def told(self, facts: InvoiceFacts) -> list[str]:
        return [each["type"] for each in self.shop.control.events() if each["data"]["object"]["id"] == facts.invoice_id]


async def test_a_bill_is_drafted_and_paid_once_with_the_platforms_share(shop: Shop) -> None:
    buyer = Buyer(shop)
    waiting = {"customer": buyer.id, "amount": 77, "currency": "usd"}
    buyer.api.invoice_items.create(waiting, buyer.at)
    bill, op_id = buyer.bill(), shop.op()
    draft = await buyer.bills.draft(op_id, shop.account, bill)
    assert (draft.status, draft.subscription_id, draft.total_minor, draft.currency) == ("draft", None, 800, "USD")
    assert ([line.amount_minor for line in draft.lines], draft.customer_id, draft.payments) == ([800], buyer.id, ())
    assert draft.metadata == Metadata("shop", "u1", MONTHLY.id, "", bill.bill_id)
    assert await buyer.bills.draft(op_id, shop.account, bill) == draft
    shop.control.advance(DAY // 2)
    assert await buyer.now(draft) == draft  # nothing is asked for until it is sent
    sending = shop.op()
    paid = await buyer.bills.send(sending, shop.account, draft.invoice_id)
    assert (paid.status, paid.amount_paid_minor, paid.credit_minor, paid.metadata) == ("paid", 800, 0, draft.metadata)
    payment = await shop.payments.payment(shop.account, paid.payments[0].payment_id)
    assert (payment.status, payment.amount_minor, payment.fee_minor) == ("succeeded", 800, 100)
    assert (payment.invoice_id, payment.method_id, payment.metadata) == (paid.invoice_id, buyer.method, None)
    assert shop.control.client().v1.application_fees.retrieve(payment.fee_id or "").amount == 100
    assert await buyer.bills.send(shop.op(), shop.account, draft.invoice_id) == paid
    assert await buyer.bills.draft(op_id, shop.account, bill) == paid
    assert len(buyer.intents()) == 1
    asked = [row for row in shop.control.requests() if row["version"] == API_VERSION and shop.name in row["idempotency_key"]]
    drafting = [("invoices", f"{op_id}:invoice"), ("invoiceitems", f"{op_id}:line")]
    asking = [("finalize", f"{sending}:finalize"), ("pay", f"{sending}:pay")]
    assert [(row["path"].split("/")[-1], row["idempotency_key"]) for row in asked] == [*drafting * 2, *asking, *drafting]
    assert {row["account"] for row in asked} == {shop.account}
    assert all(("discounts=&" in row["body"]) == row["path"].endswith("/invoices") for row in asked)  # it inherits none
    assert buyer.told(paid) == [
        "invoice.created", "invoice.updated", "invoice.finalized", "invoice.paid", "invoice.payment_succeeded"
    ]  # fmt: skip
    assert [item.amount for item in buyer.api.invoice_items.list({"customer": buyer.id, "pending": True}, buyer.at).data] == [77]


async def test_the_platforms_own_bills_have_no_share(shop: Shop) -> None:
    shop.control.onboard("")
    api: Any = shop.control.client().v1
    customer = api.customers.create({"payment_method": VISA}).id
    method = api.customers.payment_methods.list(customer).data[0].id
    bill = Bill("ovr_own", customer, method, 500, "EUR", 0, "Usage", Metadata(None, "alice", MONTHLY.id))
    draft = await shop.payments.bills.draft(shop.op(), PLATFORM_ACCOUNT, bill)
    paid = await shop.payments.bills.send(shop.op(), PLATFORM_ACCOUNT, draft.invoice_id)
    assert (paid.status, paid.amount_paid_minor, paid.currency) == ("paid", 500, "EUR")
    with pytest.raises(PaymentsRefused):
        await shop.payments.bills.draft(shop.op(), PLATFORM_ACCOUNT, msgspec.structs.replace(bill, fee_minor=50))


@pytest.mark.parametrize(("card", "told"), [(BROKE, []), (OWNER, ["invoice.payment_action_required"])])
async def test_a_refused_bill_stays_open_and_stripe_tries_again(shop: Shop, card: str, told: list[str]) -> None:
    buyer = Buyer(shop, card)
    op_id = shop.op()
    draft = await buyer.drafted(method_id=None)
    for _ in range(2):
        refused = await buyer.bills.send(op_id, shop.account, draft.invoice_id)
        assert (refused.status, refused.amount_paid_minor) == ("open", 0)
    assert (await buyer.bills.send(shop.op(), shop.account, draft.invoice_id)).status == "open"
    assert buyer.raw(draft).attempt_count == 1
    assert buyer.told(draft)[3:] == [*told, "invoice.payment_failed"]
    buyer.card(VISA)
    shop.control.advance(3 * DAY)
    paid = await buyer.now(draft)
    assert (paid.status, paid.amount_paid_minor) == ("paid", 800)
    assert (await shop.payments.payment(shop.account, paid.payments[0].payment_id)).fee_minor == 100


async def test_what_is_lost_on_the_way_is_done_once(shop: Shop) -> None:
    buyer = Buyer(shop)
    bill, op_id = buyer.bill(), shop.op()
    once = Stripe("sk_test_fake", {}, shop.control.base, retries=0)
    for path in ("/v1/invoices", "/v1/invoiceitems"):
        shop.control.fault("drop_after", method="POST", path=path)
        with pytest.raises(PaymentsDown):
            await once.bills.draft(op_id, shop.account, bill)
    draft = await once.bills.draft(op_id, shop.account, bill)
    assert [line.amount_minor for line in draft.lines] == [800]
    for path in ("finalize", "pay"):
        shop.control.fault("drop_after", method="POST", path=f"/v1/invoices/{draft.invoice_id}/{path}")
        with pytest.raises(PaymentsDown):
            await once.bills.send(op_id, shop.account, draft.invoice_id)
    assert (await once.bills.send(op_id, shop.account, draft.invoice_id)).status == "paid"
    assert (len(buyer.intents()), buyer.raw(draft).attempt_count) == (1, 1)
    assert [each.id for each in buyer.api.invoices.list({"customer": buyer.id}, buyer.at).data] == [draft.invoice_id]
    other = await buyer.drafted()
    shop.control.fault("drop_before", method="POST", path=f"/v1/invoices/{other.invoice_id}/pay")
    with pytest.raises(PaymentsDown):
        await once.bills.send(shop.op(), shop.account, other.invoice_id)
    shop.control.advance(3600)
    assert (await buyer.now(other)).status == "paid"  # one that was sent is asked for, whatever became of us
    await once.close()


async def test_a_bill_is_found_when_its_operation_is_forgotten(shop: Shop, payments: Stripe) -> None:
    buyer = Buyer(shop)
    bill = buyer.bill()
    await buyer.drafted()
    find = buyer.bills.find
    assert await find(shop.account, buyer.id, bill.bill_id, buyer.since_ms) is None
    once = Stripe("sk_test_fake", {}, shop.control.base, retries=0)
    shop.control.fault("drop_before", method="POST", path="/v1/invoiceitems")
    with pytest.raises(PaymentsDown):
        await once.bills.draft(shop.op(), shop.account, bill)
    await once.close()
    assert await find(shop.account, buyer.id, bill.bill_id, buyer.since_ms) is None  # a draft without its line
    gone = await buyer.bills.draft(shop.op(), shop.account, bill)
    assert await find(shop.account, buyer.id, bill.bill_id, buyer.since_ms) == gone
    await buyer.bills.send(shop.op(), shop.account, (await buyer.drafted(method_id=None)).invoice_id)
    void = await buyer.sent(bill_id="ovr_void", method_id=buyer.card(BROKE))
    await buyer.bills.void(shop.account, void.invoice_id)
    payments.page_rows = 1
    assert await find(shop.account, buyer.id, bill.bill_id, buyer.since_ms) == gone
    assert (await find(shop.account, buyer.id, "ovr_void", buyer.since_ms) or gone).invoice_id == void.invoice_id
    live = await buyer.drafted(bill_id="ovr_void")
    await buyer.bills.void(shop.account, (await buyer.sent(bill_id="ovr_void", method_id=buyer.card(BROKE))).invoice_id)
    assert await find(shop.account, buyer.id, "ovr_void", buyer.since_ms) == live
    other = Buyer(shop)
    assert await find(shop.account, other.id, bill.bill_id, buyer.since_ms) is None
    shop.control.advance(10)
    assert await find(shop.account, buyer.id, bill.bill_id, shop.control.now() * 1000) is None


async def test_a_void_bill_is_asked_of_nobody_and_a_paid_one_stays(shop: Shop) -> None:
    buyer = Buyer(shop, BROKE, balance=-300)
    draft = await buyer.drafted()
    for _ in range(2):
        assert (await buyer.bills.void(shop.account, draft.invoice_id)).status == "void"
    assert buyer.api.invoice_items.list({"customer": buyer.id}, buyer.at).data == []
    with pytest.raises(PaymentsRefused) as missing:
        await buyer.bills.send(shop.op(), shop.account, draft.invoice_id)
    assert missing.value.code == "resource_missing"
    refused = await buyer.sent()
    assert (refused.status, refused.credit_minor, buyer.balance()) == ("open", 300, 0)
    for _ in range(2):
        void = await buyer.bills.void(shop.account, refused.invoice_id)
        assert (void.status, void.amount_paid_minor, buyer.balance()) == ("void", 0, -300)
    assert buyer.told(refused)[-1] == "invoice.voided"
    assert (await buyer.bills.send(shop.op(), shop.account, refused.invoice_id)).status == "void"
    lost = await buyer.sent()
    buyer.api.invoices.mark_uncollectible(lost.invoice_id, None, buyer.at)
    assert (await buyer.now(lost)).status == "uncollectible"
    assert (await buyer.bills.send(shop.op(), shop.account, lost.invoice_id)).status == "uncollectible"
    assert (await buyer.bills.void(shop.account, lost.invoice_id)).status == "void"
    buyer.card(VISA)
    shop.control.advance(9 * DAY)
    assert {intent.status for intent in buyer.intents()} == {"canceled"}
    paid = await buyer.sent(method_id=None)
    assert paid.status == "paid"
    assert await buyer.bills.void(shop.account, paid.invoice_id) == paid


@pytest.mark.parametrize(
    ("credit", "paid", "used", "taken"), [(300, 500, 300, 100), (720, 80, 720, 80), (800, 0, 800, None), (1000, 0, 800, None)]
)
async def test_a_customers_credit_pays_first_and_the_share_is_of_the_rest_as_far_as_that_goes(
    shop: Shop, credit: int, paid: int, used: int, taken: int | None
) -> None:
    buyer = Buyer(shop, balance=-credit)
    facts = await buyer.sent()
    assert (facts.status, facts.total_minor, facts.amount_paid_minor, facts.credit_minor) == ("paid", 800, paid, used)
    assert buyer.balance() == used - credit
    if taken is None:
        assert (facts.payments, buyer.intents()) == ((), [])
    else:
        payment = await shop.payments.payment(shop.account, facts.payments[0].payment_id)
        assert (payment.amount_minor, payment.fee_minor) == (paid, taken)
        assert shop.control.client().v1.application_fees.retrieve(payment.fee_id or "").amount == taken
    assert shop.control.audit() == []


async def test_a_bill_takes_no_method_of_anothers_and_no_refusal_that_is_not_the_cards_for_one(shop: Shop) -> None:
    buyer, other = Buyer(shop), Buyer(shop)
    with pytest.raises(PaymentsRefused):
        await buyer.drafted(method_id=other.method)
    draft = await buyer.drafted()
    shop.control.onboard(shop.account, "restricted")
    with pytest.raises(PaymentsRefused):
        await buyer.bills.send(shop.op(), shop.account, draft.invoice_id)
    shop.control.onboard(shop.account)
    assert (await buyer.bills.send(shop.op(), shop.account, draft.invoice_id)).status == "paid"
    bare = buyer.api.customers.create({"email": "b@example.com"}, buyer.at).id
    assert (await buyer.sent(customer_id=bare, method_id=None)).status == "open"  # its owner may pay it, on Stripe's page
    unasked = buyer.api.invoices.finalize_invoice((await buyer.drafted()).invoice_id, None, buyer.at)
    shop.control.onboard(shop.account, "restricted")
    with pytest.raises(PaymentsRefused):
        await buyer.bills.send(shop.op(), shop.account, unasked.id)
    shop.control.onboard(shop.account)


async def test_who_is_overtaken_tells_what_there_is_then_and_a_refusal_is_one(shop: Shop) -> None:
    buyer, stripe = Buyer(shop), shop.payments
    assert isinstance(stripe, Stripe)
    others = {"finalize_invoice_async": buyer.api.invoices.finalize_invoice, "pay_async": buyer.api.invoices.pay}

    async def overtaken(call: Any, *ids: str, **more: Any) -> dict[str, Any]:
        if call.__name__ in others:
            others[call.__name__](*ids, None, buyer.at)
        return await stripe._ask(call, *ids, **more)

    async def refused(call: Any, *ids: str, **more: Any) -> dict[str, Any]:
        if call.__name__ == "void_invoice_async":
            raise PaymentsRefused("No.")
        return await overtaken(call, *ids, **more)

    def late(ask: Any) -> StripeBills:
        return StripeBills(stripe._api, ask, stripe._walk, stripe.invoice)

    paid = await late(overtaken).send(shop.op(), shop.account, (await buyer.drafted()).invoice_id)
    assert (paid.status, len(buyer.intents())) == ("paid", 1)
    waiting = await buyer.sent(method_id=buyer.card(BROKE))
    with pytest.raises(PaymentsRefused):
        await late(refused).void(shop.account, waiting.invoice_id)
    others["void_invoice_async"] = lambda name, wish, at: buyer.api.invoices.pay(name, {"payment_method": VISA}, at)
    assert (await late(overtaken).void(shop.account, waiting.invoice_id)).status == "paid"


async def test_what_is_less_than_stripe_charges_is_paid_by_nobody_and_the_customers_debt(shop: Shop) -> None:
    buyer = Buyer(shop)
    small = await buyer.sent(amount_minor=49, fee_minor=5)
    assert (small.status, small.total_minor, small.amount_paid_minor, small.credit_minor) == ("paid", 49, 0, 0)
    assert (buyer.balance(), buyer.intents()) == (49, [])
    following = await buyer.sent()
    assert (following.total_minor, following.amount_paid_minor, following.credit_minor, buyer.balance()) == (800, 849, 0, 0)


async def test_a_subscription_tells_what_it_is_paid_with(shop: Shop) -> None:
    done = await shop.bought(MONTHLY, metadata=Metadata("shop", "u9", MONTHLY.id))
    held = await shop.payments.subscription(shop.account, done.subscription_id or "")
    api: Any = shop.control.client().v1
    at = {"stripe_account": shop.account}
    assert held.method_id == api.subscriptions.retrieve(held.subscription_id, None, at).default_payment_method is not None
    bare = {"customer": held.customer_id, "items": [{"price": held.price_id}], "payment_behavior": "default_incomplete"}
    assert (await shop.payments.subscription(shop.account, api.subscriptions.create(bare, at).id)).method_id is None

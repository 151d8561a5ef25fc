"""The fake's audit sees what it is there to see: each planted fault in a state that was right is told."""

from collections.abc import Callable

import pytest

from tests.fake_stripe import checkout
from tests.fake_stripe.audit import audit
from tests.fake_stripe.server import Fake
from tests.fake_stripe.spec import Obj
from tests.fake_stripe.world import Account, World


def traded() -> tuple[World, Account]:
    """A creator who sold once and took a part back, with a subscriber."""
    world = World(1, 1_800_000_000)
    account = world.account("acct_1Test")
    fake = Fake(world)

    def act(path: str, **params: Obj | str) -> Obj:
        return fake.act(account, "POST", path, params, {"id": None, "idempotency_key": None})

    def line(**more: Obj) -> Obj:
        price = {"currency": "usd", "unit_amount": "1000", "product_data": {"name": "x"}, **more}
        return {"0": {"price_data": price, "quantity": "1"}}

    data: Obj = {"application_fee_amount": "100"}
    at = "https://a.invalid"
    once = act("/v1/checkout/sessions", mode="payment", line_items=line(), success_url=at, payment_intent_data=data)
    paid = checkout.pay(world, account, account.get("checkout.session", once["id"]))["session"]
    act("/v1/refunds", payment_intent=paid["payment_intent"], amount="500", refund_application_fee="true")
    plan = line(recurring={"interval": "month"})
    often = act("/v1/checkout/sessions", mode="subscription", line_items=plan, success_url=at)
    checkout.pay(world, account, account.get("checkout.session", often["id"]))
    assert fake.shape_faults == []
    return world, account


def first(account: Account, kind: str) -> Obj:
    return next(iter(account.of(kind).values()))


Fault = Callable[[World, Account], object]
# What is planted, and a word of the sentence that must tell it.
FAULTS: dict[str, tuple[Fault, str]] = {
    "a refund that its charge does not know": (lambda w, a: first(a, "charge").update(amount_refunded=0), "refunds 500"),
    "a refund of more than was paid": (
        lambda w, a: (first(a, "refund").update(amount=1500), first(a, "charge").update(amount_refunded=1500)),
        "refunds 1500, of 1000",
    ),
    "a charge never put on the balance": (lambda w, a: first(a, "charge").update(balance_transaction=None),
        "with balance transaction None"),
    "an intent that received what no charge paid": (lambda w, a: first(a, "payment_intent").update(amount_received=999),
        "received 999, charges"),
    "a balance that moved without a reason": (lambda w, a: w.move(a, "adjustment", 5, "usd", "du_none"),
        "5 on the balance instead of 0"),
    "a balance transaction that does not add up": (lambda w, a: first(a, "balance_transaction").update(net=1), "does not add up"),
    "a fee that the platform never got": (lambda w, a: first(a, "balance_transaction")["fee_details"][-1].update(type="x"),
        "in fees, the platform"),
    "a fee refund that its fee does not know": (lambda w, a: first(w.platform, "application_fee").update(amount_refunded=51),
        "refunded 51"),
    "an invoice that is not its lines": (lambda w, a: first(a, "invoice").update(subtotal=1), "lines 1000"),
    "an invoice that is due more than its total": (lambda w, a: first(a, "invoice").update(amount_due=1001), "due 1001"),
    "an invoice that is paid with nothing": (lambda w, a: first(a, "invoice").update(amount_paid=0), "paid 0, payments 1000"),
    "an invoice that its payment did not pay": (lambda w, a: first(a, "invoice_payment").update(amount_paid=1001), "of 1000"),
    "a payment that its invoice does not know": (lambda w, a: first(a, "invoice_payment").update(status="open"), "paid 0 of"),
    "a payment out of band that was none": (lambda w, a: first(a, "invoice").update(amount_paid_off_stripe=1), "out of band"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_audit_tells(fault: str) -> None:
    world, account = traded()
    assert audit(world) == []
    plant, words = FAULTS[fault]
    plant(world, account)
    assert [text for text in audit(world) if words in text]

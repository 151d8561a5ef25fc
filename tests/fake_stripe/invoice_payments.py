"""What pays an invoice: the default payment that Stripe makes, payment intents attached by hand, and payments out of band.

The default payment is for whatever the others leave of the invoice; it is canceled, with its intent, once they leave nothing. A
payment out of band is a payment record with another processor than Stripe, which is also what `paid_out_of_band` makes. Of an
invoice that is charged automatically for a subscription only the whole can be paid otherwise.
"""

from decimal import Decimal

from . import charges
from .errors import bad
from .routes import Call, collection, included, page, route
from .spec import Obj
from .world import Account, World, rounded

EMBEDDED = 10


def of_invoice(account: Account, invoice: Obj) -> list[Obj]:
    return [row for row in account.of("invoice_payment").values() if row["invoice"] == invoice["id"]]


def add(world: World, account: Account, invoice: Obj, amount: int, is_default: bool = False, **payment: str) -> Obj:
    """An open payment; `payment`: its kind and id."""
    ((kind, name),) = payment.items()
    row = world.new(
        "invoice_payment", "inpay_1", amount_requested=amount, currency=invoice["currency"], invoice=invoice["id"],
        is_default=is_default, payment={"type": kind, kind: name}, status="open", status_transitions={},
    )  # fmt: skip
    del row["metadata"]
    return account.add(row)


def prepare(world: World, account: Account, invoice: Obj, description: str | None) -> None:
    """The default payment of an invoice that is finalized, with the platform's share of it."""
    hidden, amount = account.hidden[invoice["id"]], invoice["amount_due"]
    wish = {"amount": amount, "currency": invoice["currency"], "customer": invoice["customer"], "description": description}
    intent = charges.make_intent(world, account, {**wish, "application_fee_amount": _share(hidden, amount)},
        invoice=invoice["id"])
    hidden["intent"] = intent["id"]
    invoice["confirmation_secret"] = {"type": "payment_intent", "client_secret": intent["client_secret"]}
    add(world, account, invoice, amount, is_default=True, payment_intent=intent["id"])


def _share(hidden: Obj, amount: int) -> int | None:
    percent = int(Decimal(str(hidden["fee_percent"] or 0)) * 100)
    share: int = min(hidden["fee"] or 0, amount) or rounded(amount * percent, 10_000)
    return share or None


def credit(world: World, account: Account, invoice: Obj, payment: Obj, amount: int) -> None:
    """A payment has come: the invoice has so much less left, and the default payment is for that."""
    payment |= {"status": "paid", "amount_paid": amount}
    payment["status_transitions"]["paid_at"] = world.now
    invoice["amount_paid"] += amount
    invoice["amount_remaining"] = left = invoice["amount_due"] - invoice["amount_paid"]
    if payment["payment"]["type"] == "payment_record":
        invoice["amount_paid_off_stripe"] += amount
    for other in of_invoice(account, invoice):
        if other["status"] == "open" and other["is_default"]:
            intent = account.get("payment_intent", other["payment"]["payment_intent"])
            if left:
                other["amount_requested"] = intent["amount"] = left
                intent["application_fee_amount"] = _share(account.hidden[invoice["id"]], left)
            else:
                other["status"] = "canceled"
                other["status_transitions"]["canceled_at"] = world.now
                intent |= {"status": "canceled", "canceled_at": world.now, "cancellation_reason": "automatic"}
                world.emit(account, "payment_intent.canceled", intent)


def out_of_band(world: World, account: Account, invoice: Obj) -> None:
    """What is left of it was paid elsewhere."""
    record = f"pr_{world.id('')}"
    credit(world, account, invoice, add(world, account, invoice, invoice["amount_remaining"], payment_record=record),
        invoice["amount_remaining"])


def attach(world: World, account: Account, invoice: Obj, params: Obj) -> None:
    """A payment by hand; one that is there already counts at once."""
    if invoice["status"] != "open":
        raise bad(f"You can only attach payments to open invoices. This invoice is {invoice['status']}.")
    if len(params.keys() & {"payment_intent", "payment_record"}) != 1:
        raise bad("Provide a payment_intent or a payment_record.")
    if "payment_record" in params:
        record = account.get("payment_record", params["payment_record"], "payment_record")
        took, name = record["amount_guaranteed"]["value"], {"payment_record": record["id"]}
    else:
        intent = account.get("payment_intent", params["payment_intent"], "payment_intent")
        if intent["status"] != "succeeded":
            raise bad("The fake attaches payment intents that have succeeded only", "payment_intent")
        took, name = intent["amount_received"], {"payment_intent": intent["id"]}
    is_collected = invoice["collection_method"] == "charge_automatically" and invoice["parent"] is not None
    if is_collected and took < invoice["amount_remaining"]:  # docs.stripe.com/invoicing/partial-payments
        raise bad("Partial payments are not supported for subscription invoices that are charged automatically.")
    used = [row["amount_paid"] or 0 for row in account.of("invoice_payment").values() if name.items() <= row["payment"].items()]
    took = min(took - sum(used), invoice["amount_remaining"])
    if took <= 0:
        raise bad("This payment has been used up.")
    credit(world, account, invoice, add(world, account, invoice, took, **name), took)


@included("invoice", "payments")
def payments(world: World, account: Account, invoice: Obj) -> Obj:
    rows = of_invoice(account, invoice)[::-1]
    return collection(rows[:EMBEDDED], "/v1/invoice_payments", len(rows) > EMBEDDED)


@route("GET", "/v1/invoice_payments")
def payment_list(call: Call) -> Obj:
    wanted = (call.params.get("payment") or {}).get("payment_intent")
    rows = [p for p in call.account.of("invoice_payment").values() if not wanted
        or p["payment"].get("payment_intent") == wanted]
    return page(call, rows, ("invoice", "status"))


@route("POST", "/v1/payment_records/report_payment")
def record_report(call: Call) -> Obj:
    world, asked = call.world, call.params["amount_requested"]
    if call.params.get("outcome") != "guaranteed":
        raise bad("The fake plays payments that were made only", "outcome")
    none = {"currency": asked["currency"], "value": 0}
    amounts = {f"amount_{name}": dict(none) for name in ("authorized", "canceled", "failed", "refunded")}
    record = world.new(
        "payment_record", "pr_1", amount=dict(asked), amount_guaranteed=dict(asked), amount_requested=dict(asked), **amounts,
        metadata=call.params.get("metadata"), processor_details={"type": "custom", "custom": {"payment_reference": "by hand"}},
        reported_by="self",
    )  # fmt: skip
    return call.account.add(record)

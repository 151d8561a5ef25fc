"""Invoices, their lines and payments, invoice items: draft, finalized, paid, failed, retried, void.

Totals: subtotal = sum of lines; total = subtotal - discounts; the customer's credit (a negative balance) is used when the invoice
is finalized; a total below zero becomes the customer's credit, and what is due and less than Stripe charges the customer's debt,
which the next invoice asks for. Taxes are not played.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from . import charges, invoice_payments
from .catalog import discounted, redeem
from .customers import method_of
from .errors import StripeFault, bad
from .routes import Call, collection, page, route
from .spec import Obj, complete
from .world import APPLICATION, DAY, Account, World, merge_metadata, rounded

LEAST = {  # else 50
    "gbp": 30, "czk": 1500, "dkk": 250, "hkd": 400, "huf": 17_500, "nok": 300, "pln": 200, "sek": 300, "uah": 2000,
}  # fmt: skip
# Called with (world, account, invoice, what): what is paid, failed, action, voided, uncollectible.
ON_INVOICE: list[Callable[[World, Account, Obj, str], None]] = []


def pricing_of(price: Obj) -> Obj:
    return {
        "type": "price_details", "price_details": {"price": price["id"], "product": price["product"]},
        "unit_amount_decimal": price["unit_amount_decimal"],
    }  # fmt: skip


def price_amount(price: Obj, quantity: int) -> int:
    exact = Decimal(price["unit_amount_decimal"]) * quantity * 10**12
    return rounded(int(exact), 10**12)


def item_line(world: World, item: Obj) -> Obj:
    """The line of an invoice item."""
    about = item["parent"] and item["parent"]["subscription_details"]
    parent: Obj
    if about and about.get("subscription_item"):
        kind = "subscription_item_details"
        parent = {"invoice_item": item["id"], "proration": item["proration"], "subscription": about["subscription"],
            "subscription_item": about["subscription_item"]}
    else:
        kind = "invoice_item_details"
        parent = {"invoice_item": item["id"], "proration": item["proration"], "subscription": about and about["subscription"]}
    line = make_line(world, item["amount"], item["currency"], item["period"], {"type": kind, kind: parent}, item["description"])
    return line | {"pricing": item["pricing"], "quantity": item["quantity"], "metadata": dict(item["metadata"]),
        "discountable": item["discountable"]}


def make_line(world: World, amount: int, currency: str, period: Obj, parent: Obj, description: str | None) -> Obj:
    return {
        "id": world.id("il_1"), "object": "line_item", "amount": amount, "currency": currency, "description": description,
        "discount_amounts": [],
        "discountable": True, "discounts": [], "livemode": False, "metadata": {}, "parent": parent, "period": dict(period),
        "quantity": 1,
        "subtotal": amount, "taxes": [], "pretax_credit_amounts": [],
    }  # fmt: skip


def make_invoice(world: World, account: Account, customer: Obj, currency: str, lines: list[Obj], reason: str, **more: Any) -> Obj:
    """A draft invoice. `more`: subscription, period, discounts, fee_percent or fee, auto_advance, and properties as they are."""
    subscription: Obj | None = more.pop("subscription", None)
    period = more.pop("period", (world.now, world.now))
    parent: Obj | None = None
    if subscription:
        about = {"subscription": subscription["id"], "metadata": dict(subscription["metadata"])}
        parent = {"type": "subscription_details", "subscription_details": about}
    hidden = {"fee_percent": more.pop("fee_percent", None), "fee": more.pop("fee", None), "intent": None}
    invoice = world.new(
        "invoice", "in_1", amount_due=0, amount_overpaid=0, amount_paid=0, amount_paid_off_stripe=0, amount_remaining=0,
        amount_shipping=0,
        attempt_count=0, attempted=False, auto_advance=more.pop("auto_advance", True), automatic_tax={"enabled": False},
        collection_method=subscription["collection_method"] if subscription else "charge_automatically", currency=currency,
        customer=customer["id"], default_tax_rates=[],
        discounts=more.pop("discounts", []), issuer={"type": "self"}, payment_settings={}, period_start=period[0],
        period_end=period[1],
        post_payment_credit_notes_amount=0, pre_payment_credit_notes_amount=0, starting_balance=customer["balance"],
        status="draft",
        status_transitions={}, subtotal=0, total=0, billing_reason=reason, parent=parent, customer_email=customer["email"],
        customer_name=customer["name"],
        total_taxes=[], metadata=more.pop("metadata", None), lines=collection([], ""), application=None if account.is_platform
        else APPLICATION, **more,
    )  # fmt: skip
    invoice["lines"]["url"] = f"/v1/invoices/{invoice['id']}/lines"
    account.add(invoice)
    account.hidden[invoice["id"]] = hidden
    add_lines(account, invoice, lines)
    world.emit(account, "invoice.created", invoice)
    return invoice


def add_lines(account: Account, invoice: Obj, lines: list[Obj]) -> None:
    for line in lines:
        line["invoice"] = invoice["id"]
        invoice["lines"]["data"].append(complete("line_item", line))
    total_up(account, invoice)


def total_up(account: Account, invoice: Obj) -> None:
    lines = invoice["lines"]["data"]
    invoice["subtotal"] = sum(line["amount"] for line in lines)
    off = discounted(account, invoice["discounts"], sum(line["amount"] for line in lines if line["discountable"]),
        invoice["currency"])
    invoice["total_discount_amounts"] = off
    invoice["total"] = invoice["subtotal"] - sum(item["amount"] for item in off)
    invoice["subtotal_excluding_tax"], invoice["total_excluding_tax"] = invoice["subtotal"], invoice["total"]
    invoice["amount_due"] = max(0, invoice["total"] + invoice["starting_balance"])
    invoice["amount_remaining"] = invoice["amount_due"] - invoice["amount_paid"]


def pending_items(account: Account, customer: str, subscription: str | None = None) -> list[Obj]:
    """Invoice items that wait for an invoice of this customer: those of no subscription, and those of this one."""
    rows = [item for item in account.of("invoiceitem").values() if item["customer"] == customer and not item["invoice"]]
    return [item for item in rows if subscription_of(item) in (None, subscription)]


def subscription_of(item: Obj) -> str | None:
    """The subscription that an invoice or an invoice item is of."""
    parent = item["parent"]
    found: str | None = parent["subscription_details"]["subscription"] if parent and parent[
        "type"] == "subscription_details" else None
    return found


def take_items(world: World, account: Account, invoice: Obj, items: list[Obj]) -> None:
    for item in items:
        item["invoice"] = invoice["id"]
    add_lines(account, invoice, [item_line(world, item) for item in items])


def finalize(world: World, account: Account, invoice: Obj) -> Obj:
    """Draft to open: a number, the customer's credit, a payment intent; paid at once when nothing is due."""
    if invoice["status"] != "draft":
        raise bad("This invoice is already finalized, you can't re-finalize a non-draft invoice.", code="invoice_not_editable")
    customer = account.of("customer").get(invoice["customer"]) or {"balance": 0, "invoice_prefix": "GONE",
        "next_invoice_sequence": 1}
    invoice["starting_balance"] = customer["balance"]
    total_up(account, invoice)
    if invoice["amount_due"]:
        charges.check_ready(account)
    if invoice["total"] < 0 or customer["balance"]:
        customer["balance"] = min(0, customer["balance"] + invoice["total"]) if customer["balance"] + invoice["total"] < 0 else 0
    if 0 < invoice["amount_due"] < LEAST.get(invoice["currency"], 50):
        customer["balance"] = invoice["amount_due"]
        invoice["amount_due"] = invoice["amount_remaining"] = 0
    invoice["ending_balance"] = customer["balance"]
    invoice |= {"status": "open", "number": f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04}",
        "automatically_finalizes_at": None}
    page = f"https://invoice.stripe.invalid/i/{invoice['id']}"
    invoice |= {"hosted_invoice_url": page, "invoice_pdf": f"{page}/pdf", "effective_at": world.now}
    customer["next_invoice_sequence"] += 1
    invoice["status_transitions"]["finalized_at"] = world.now
    if invoice["amount_due"]:
        invoice_payments.prepare(world, account, invoice, "Subscription creation" if subscription_of(invoice) else None)
    world.emit(account, "invoice.finalized", invoice)
    if not invoice["amount_due"]:
        mark_paid(world, account, invoice)
    return invoice


def payer_of(account: Account, invoice: Obj) -> str | None:
    """The payment method that an invoice is collected with: its own, its subscription's, its customer's."""
    subscription = account.of("subscription").get(subscription_of(invoice) or "")
    customer = account.of("customer").get(invoice["customer"])
    found = [invoice["default_payment_method"], subscription and subscription["default_payment_method"]]
    found.append(customer and customer["invoice_settings"]["default_payment_method"])
    return next((method for method in found if method), None)


def collect(
    world: World, account: Account, invoice: Obj, method: str | None = None, present: bool = False, asked: bool = False
) -> StripeFault | None:
    """One attempt to collect an open invoice; the fault of a refused one. `present`: the buyer is there to authenticate.

    One that is sent to the buyer is collected only when it is `asked` for.
    """
    if invoice["collection_method"] == "send_invoice" and not asked:
        return None
    intent = account.get("payment_intent", account.hidden[invoice["id"]]["intent"])
    method = method or payer_of(account, invoice)
    invoice["attempt_count"] += 1
    invoice["attempted"] = True
    fault: StripeFault | None = None
    if method is None:
        fault = bad("This customer has no attached payment source or default payment method.",
            code="invoice_payment_intent_requires_action")
    else:
        intent["payment_method"] = method_of(world, account, method)["id"]
        try:
            charges.confirm(world, account, intent, off_session=not present, authenticated=present)
        except StripeFault as refused:
            fault = refused
    if intent["status"] == "succeeded":
        mark_paid(world, account, invoice)
    elif fault is not None:
        failed(world, account, invoice, "action" if fault.error.get("code") == "authentication_required" else "failed")
    return fault


def failed(world: World, account: Account, invoice: Obj, what: str) -> None:
    if subscription_of(invoice) is None and invoice["auto_advance"]:  # that of a subscription: see `subscriptions`
        invoice["next_payment_attempt"] = retry_at(world, account, invoice)
    for told in ON_INVOICE:
        told(world, account, invoice, what)
    if what == "action":
        world.emit(account, "invoice.payment_action_required", invoice)
    world.emit(account, "invoice.payment_failed", invoice)


def mark_paid(world: World, account: Account, invoice: Obj) -> None:
    by_stripe = not invoice["amount_paid_off_stripe"]
    for payment in invoice_payments.of_invoice(account, invoice):
        if payment["is_default"] and payment["status"] == "open":
            invoice_payments.credit(world, account, invoice, payment, invoice["amount_remaining"])
            by_stripe = True
    invoice |= {"status": "paid", "next_payment_attempt": None, "attempted": True}
    invoice["status_transitions"]["paid_at"] = world.now
    world.emit(account, "invoice.paid", invoice)
    if by_stripe:
        world.emit(account, "invoice.payment_succeeded", invoice)
    for told in ON_INVOICE:
        told(world, account, invoice, "paid")


def end(world: World, account: Account, invoice: Obj, status: str) -> Obj:
    """An invoice that will not be collected: void, by which the customer has the credit again that it used, or uncollectible."""
    if invoice["status"] not in ("open", "draft", "uncollectible"):
        raise bad(f"You can only pass in open invoices. This invoice isn't open: {invoice['status']}")
    if status == "void" and invoice["status"] != "draft":
        customer = account.of("customer").get(invoice["customer"])
        if customer is not None:
            customer["balance"] += invoice["starting_balance"] - invoice["ending_balance"]
        _let_go(world, account, invoice)
    invoice |= {"status": status, "next_payment_attempt": None, "auto_advance": False}
    invoice["status_transitions"]["voided_at" if status == "void" else "marked_uncollectible_at"] = world.now
    world.emit(account, "invoice.voided" if status == "void" else "invoice.marked_uncollectible", invoice)
    for told in ON_INVOICE:
        told(world, account, invoice, status)
    return invoice


def _let_go(world: World, account: Account, invoice: Obj) -> None:
    """Nothing pays a void invoice any more."""
    for payment in account.of("invoice_payment").values():
        if payment["invoice"] == invoice["id"] and payment["status"] == "open":
            payment["status"] = "canceled"
            payment["status_transitions"]["canceled_at"] = world.now
    intent = account.of("payment_intent").get(account.hidden[invoice["id"]]["intent"] or "")
    if intent is not None and intent["status"] not in ("succeeded", "canceled", "processing"):
        intent |= {"status": "canceled", "canceled_at": world.now, "cancellation_reason": "void_invoice"}
        world.emit(account, "payment_intent.canceled", intent)


def _settled(world: World, account: Account, intent: Obj, ok: bool) -> None:
    """The buyer authenticated an invoice's payment, or the bank told how it ended."""
    name = account.hidden[intent["id"]].get("invoice")
    if name:
        invoice = account.get("invoice", name)
        if ok and invoice["status"] == "open":
            mark_paid(world, account, invoice)
        elif not ok:
            failed(world, account, invoice, "failed")


charges.ON_SETTLED.append(_settled)


@route("POST", "/v1/invoices")
def invoice_create(call: Call) -> Obj:
    world, account, params = call.world, call.account, call.params
    customer = account.get("customer", params.get("customer", ""), "customer")
    items = pending_items(account, customer["id"]) if params.get("pending_invoice_items_behavior") == "include" else []
    currency = params.get("currency") or (items[0]["currency"] if items else account.currency)
    fee, method = params.get("application_fee_amount"), params.get("default_payment_method")
    if fee is not None:
        charges.check_fee(account, fee, fee)
    if method is not None and account.get("payment_method", method, "default_payment_method")["customer"] != customer["id"]:
        raise bad("The customer does not have a payment method with that ID.", "default_payment_method", "resource_missing")
    invoice = make_invoice(
        world, account, customer, currency, [], "manual", auto_advance=params.get("auto_advance", False),
        metadata=params.get("metadata"), fee=fee,
        description=params.get("description"), default_payment_method=method,
        discounts=redeem(world, account, params.get("discounts") or [], {"customer": customer["id"]}),
    )  # fmt: skip
    take_items(world, account, invoice, items)
    return invoice


@route("GET", "/v1/invoices/{invoice}")
def invoice_get(call: Call) -> Obj:
    return call.account.get("invoice", call.arg)


@route("GET", "/v1/invoices")
def invoice_list(call: Call) -> Obj:
    wanted = call.params.get("subscription")
    rows = [i for i in call.account.of("invoice").values() if not wanted or subscription_of(i) == wanted]
    return page(call, rows, ("customer", "status"))


@route("GET", "/v1/invoices/{invoice}/lines")
def invoice_lines(call: Call) -> Obj:
    lines = call.account.get("invoice", call.arg)["lines"]["data"]
    return page(call, lines[::-1])


@route("POST", "/v1/invoices/{invoice}")
def invoice_update(call: Call) -> Obj:
    invoice = call.account.get("invoice", call.arg)
    for name in ("auto_advance", "description", "default_payment_method"):
        if name in call.params:
            invoice[name] = call.params[name]
    if "application_fee_amount" in call.params:
        if invoice["status"] != "draft":
            raise bad("The application fee of an invoice can only be changed while it is a draft.", "application_fee_amount")
        call.account.hidden[invoice["id"]]["fee"] = call.params["application_fee_amount"] or None
    merge_metadata(invoice, call.params.get("metadata"))
    call.world.emit(call.account, "invoice.updated", invoice)
    return invoice


@route("POST", "/v1/invoices/{invoice}/finalize")
def invoice_finalize(call: Call) -> Obj:
    invoice = call.account.get("invoice", call.arg)
    if invoice["status"] == "draft":
        invoice["auto_advance"] = call.params.get("auto_advance", invoice["auto_advance"])
    return finalize(call.world, call.account, invoice)


@route("DELETE", "/v1/invoices/{invoice}")
def invoice_delete(call: Call) -> Obj:
    """What it was to ask for waits for the customer's next invoice: Stripe does not say, and so it is the worst that may be."""
    invoice = call.account.get("invoice", call.arg)
    if invoice["status"] != "draft" or subscription_of(invoice):
        raise bad("You can only delete draft invoices that are of no subscription.")
    for item in call.account.of("invoiceitem").values():
        if item["invoice"] == invoice["id"]:
            item["invoice"] = None
    del call.account.of("invoice")[call.arg]
    call.world.emit(call.account, "invoice.deleted", invoice)
    return {"id": call.arg, "object": "invoice", "deleted": True}


@route("POST", "/v1/invoices/{invoice}/pay")
def invoice_pay(call: Call) -> Obj:
    invoice = call.account.get("invoice", call.arg)
    if invoice["status"] == "draft":
        finalize(call.world, call.account, invoice)
    can_be_paid = invoice["status"] in ("open", "uncollectible")
    if can_be_paid and call.params.get("paid_out_of_band"):
        invoice_payments.out_of_band(call.world, call.account, invoice)
        mark_paid(call.world, call.account, invoice)
    elif can_be_paid:
        fault = collect(call.world, call.account, invoice, call.params.get("payment_method"),
            call.params.get("off_session") is False, asked=True)
        if fault is not None:
            raise fault
    elif not (invoice["status"] == "paid" and not invoice["amount_due"]):
        raise bad(f"Invoice is already {invoice['status']}", code="invoice_already_paid")
    return invoice


@route("POST", "/v1/invoices/{invoice}/attach_payment")
def invoice_attach(call: Call) -> Obj:
    invoice = call.account.get("invoice", call.arg)
    invoice_payments.attach(call.world, call.account, invoice, call.params)
    if not invoice["amount_remaining"]:
        mark_paid(call.world, call.account, invoice)
    return invoice


@route("POST", "/v1/invoices/{invoice}/void")
def invoice_void(call: Call) -> Obj:
    invoice = call.account.get("invoice", call.arg)
    if invoice["status"] == "draft":
        raise bad("You can only pass in open invoices. This invoice isn't open: draft")
    return end(call.world, call.account, invoice, "void")


@route("POST", "/v1/invoices/{invoice}/mark_uncollectible")
def invoice_uncollectible(call: Call) -> Obj:
    return end(call.world, call.account, call.account.get("invoice", call.arg), "uncollectible")


def make_item(world: World, account: Account, customer: str, amount: int, currency: str, **more: Any) -> Obj:
    """An invoice item; `about` names its subscription (and subscription item)."""
    about: Obj | None = more.pop("about", None)
    item: Obj = {
        "id": world.id("ii_1"), "object": "invoiceitem", "amount": amount, "currency": currency, "customer": customer,
        "date": world.now,
        "discountable": True, "discounts": [], "invoice": None, "livemode": False,
        "metadata": dict(more.pop("metadata", None) or {}), "net_amount": amount,
        "parent": about and {"type": "subscription_details", "subscription_details": about},
        "period": {"start": world.now, "end": world.now},
        "proration": False, "quantity": 1, "quantity_decimal": "1", "tax_rates": [], "pricing": None, **more,
    }  # fmt: skip
    world.emit(account, "invoiceitem.created", account.add(item))
    return item


def retry_at(world: World, account: Account, invoice: Obj) -> int | None:
    """When the next attempt is, by the account's setting; None after the last."""
    done = invoice["attempt_count"] - 1
    return world.now + account.retry_days[done] * DAY if done < len(account.retry_days) else None

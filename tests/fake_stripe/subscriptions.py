"""Subscriptions: trials, periods, changes with proration, failing payments, cancelling, pausing.

An invoice decides over a subscription's state: paid makes it active; the first one unpaid leaves it incomplete; a renewal that
fails makes it past_due, and after the last retry what the account's setting says (cancel, unpaid, past_due).
"""

import calendar
from datetime import UTC, datetime
from typing import Any

from . import invoices
from .catalog import make_price, redeem
from .customers import method_of
from .errors import bad
from .routes import Call, collection, page, route
from .spec import Obj
from .world import APPLICATION, DAY, Account, World, rounded

DONE = ("canceled", "incomplete_expired")


def period_end(start: int, price: Obj, anchor: int) -> int:
    """The end of the period that begins at `start`; months keep the anchor's day where the month has it."""
    step: int = price["recurring"]["interval_count"]
    interval = price["recurring"]["interval"]
    if interval in ("day", "week"):
        return start + step * DAY * (7 if interval == "week" else 1)
    at, day = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(anchor, UTC).day
    months = at.year * 12 + at.month - 1 + step * (12 if interval == "year" else 1)
    year, month = divmod(months, 12)
    return int(at.replace(year=year, month=month + 1, day=min(day, calendar.monthrange(year, month + 1)[1])).timestamp())


def make_item(world: World, account: Account, subscription: Obj, wish: Obj) -> Obj:
    if "price_data" in wish:
        price = make_price(world, account, wish["price_data"], inline=True)
    else:
        price = account.get("price", wish.get("price", ""), "items[0][price]")
    if price["type"] != "recurring":
        raise bad(f"This field only accepts prices with `type=recurring`: {price['id']}", "items[0][price]")
    return account.add(
        {
            "id": world.id("si_"), "object": "subscription_item", "created": world.now, "current_period_start": 0,
            "current_period_end": 0,
            "discounts": [], "metadata": dict(wish.get("metadata") or {}), "price": dict(price),
            "quantity": wish.get("quantity", 1),
            "subscription": subscription["id"], "tax_rates": [],
        }
    )  # fmt: skip


def items_of(subscription: Obj) -> list[Obj]:
    found: list[Obj] = subscription["items"]["data"]
    return found


def make(world: World, account: Account, params: Obj, present: bool = False) -> Obj:
    """A subscription with its first invoice; `present` means that the buyer is there (checkout) and authenticates."""
    customer = account.get("customer", params.get("customer", ""), "customer")
    if not params.get("items"):
        raise bad("Missing required param: items.", "items", "parameter_missing")
    percent = params.get("application_fee_percent")
    if percent and account.is_platform:
        raise bad("Can only apply an application_fee_percent with a connected account.", "application_fee_percent")
    trial_end = params.get("trial_end")
    if params.get("trial_period_days"):
        trial_end = world.now + params["trial_period_days"] * DAY
    if trial_end == "now":
        trial_end = None
    if (params.get("collection_method") == "send_invoice") != bool(params.get("days_until_due")):
        raise bad("days_until_due is for, and needed of, subscriptions whose invoices are sent.", "days_until_due")
    settings = params.get("trial_settings") or {"end_behavior": {"missing_payment_method": "create_invoice"}}
    method = params.get("default_payment_method")
    sub = world.new(
        "subscription", "sub_1", automatic_tax={"enabled": False}, billing_cycle_anchor=trial_end or world.now,
        billing_mode={"type": "flexible", "flexible": {}},
        billing_schedules=[], cancel_at_period_end=params.get("cancel_at_period_end", False),
        collection_method=params.get("collection_method", "charge_automatically"), currency="",
        days_until_due=params.get("days_until_due"),
        customer=customer["id"], discounts=[], invoice_settings={"issuer": {"type": "self"}}, start_date=world.now,
        status="trialing" if trial_end else "active" if params.get("days_until_due") else "incomplete",
        application=None if account.is_platform else APPLICATION,
        application_fee_percent=None if percent is None else float(percent), trial_end=trial_end, trial_start=world.now
        if trial_end else None,
        trial_settings=settings if trial_end else None, description=params.get("description"), metadata=params.get("metadata"),
        default_tax_rates=[], test_clock=customer["test_clock"],
        default_payment_method=method_of(world, account, method)["id"] if method else None,
        payment_settings={"save_default_payment_method": "off"},
    )  # fmt: skip
    sub["items"] = collection([], f"/v1/subscription_items?subscription={sub['id']}")
    sub["items"]["data"] = [make_item(world, account, sub, wish) for wish in params["items"]]
    currencies = {item["price"]["currency"] for item in items_of(sub)}
    if len(currencies) > 1 or len({str(item["price"]["recurring"]["interval"]) for item in items_of(sub)}) > 1:
        raise bad("The fake plays subscriptions of one currency and one interval", "items")
    sub["currency"] = customer["currency"] = currencies.pop()
    account.add(sub, reminded=False)
    sub["discounts"] = redeem(world, account, params.get("discounts") or [],
        {"customer": customer["id"], "subscription": sub["id"]})
    set_period(sub, world.now, trial_end or period_end(world.now, items_of(sub)[0]["price"], world.now))
    cancel_at_end(sub)
    _first_invoice(world, account, sub, customer, params, present)
    return sub


def _first_invoice(world: World, account: Account, sub: Obj, customer: Obj, params: Obj, present: bool) -> None:
    invoice = bill(world, account, sub, "subscription_create", draft=True)
    behavior = params.get("payment_behavior", "allow_incomplete")
    extra = [
        invoices.make_item(world, account, customer["id"], invoices.price_amount(price, wish.get("quantity", 1)),
            price["currency"], pricing=invoices.pricing_of(price))
        for wish in params.get("add_invoice_items") or []
        for price in [account.get("price", wish["price"], "add_invoice_items")]
    ]  # fmt: skip
    invoices.take_items(world, account, invoice, extra)
    world.emit(account, "customer.subscription.created", sub)
    invoices.finalize(world, account, invoice)
    if invoice["status"] == "paid" or behavior == "default_incomplete":
        return
    fault = invoices.collect(world, account, invoice, present=present)
    if fault is not None and behavior == "error_if_incomplete":
        change(world, account, sub, status="incomplete_expired", ended_at=world.now)
        raise fault


def set_period(sub: Obj, start: int, end: int) -> None:
    for item in items_of(sub):
        item["current_period_start"], item["current_period_end"] = start, end


def cancel_at_end(sub: Obj) -> None:
    """`cancel_at` tells the moment while `cancel_at_period_end` is set."""
    if sub["cancel_at_period_end"]:
        sub["cancel_at"] = items_of(sub)[0]["current_period_end"]


def change(world: World, account: Account, sub: Obj, **fields: Any) -> Obj:
    """Sets properties and tells what changed."""
    before = {name: sub[name] for name, value in fields.items() if sub[name] != value}
    if before:
        sub |= fields
        world.emit(account, "customer.subscription.updated", sub, before)
    return sub


def bill(world: World, account: Account, sub: Obj, reason: str, draft: bool = False, only_pending: bool = False) -> Obj:
    """An invoice of the current period and of all that waits (overage, prorations); drafts of a cycle finalize an hour later."""
    customer = account.get("customer", sub["customer"])
    lines = []
    for item in [] if only_pending else items_of(sub):
        trial = sub["status"] == "trialing"
        period = {"start": item["current_period_start"], "end": item["current_period_end"]}
        kind = {"proration": False, "subscription": sub["id"], "subscription_item": item["id"]}
        product = account.of("product")[item["price"]["product"]]["name"]
        text = f"Trial period for {product}" if trial else f"{item['quantity']} x {product}"
        amount = 0 if trial else invoices.price_amount(item["price"], item["quantity"])
        line = invoices.make_line(world, amount, sub["currency"], period,
            {"type": "subscription_item_details", "subscription_item_details": kind}, text)
        lines.append(line | {"pricing": invoices.pricing_of(item["price"]), "quantity": item["quantity"]})
    live = [d for d in sub["discounts"] if account.of("discount")[d]["end"] is None
        or account.of("discount")[d]["end"] > world.now]
    invoice = invoices.make_invoice(
        world, account, customer, sub["currency"], lines, reason, subscription=sub, fee_percent=sub["application_fee_percent"],
        discounts=list(live),
        period=(items_of(sub)[0]["current_period_start"], items_of(sub)[0]["current_period_end"]),
        automatically_finalizes_at=None if draft else world.now + 3600,
    )  # fmt: skip
    sub["discounts"] = [d for d in live if account.hidden[d]["coupon"]["duration"] != "once"]
    invoices.take_items(world, account, invoice, invoices.pending_items(account, sub["customer"], sub["id"]))
    sub["latest_invoice"] = invoice["id"]
    return invoice


def _of_invoice(world: World, account: Account, invoice: Obj, what: str) -> None:
    sub = account.of("subscription").get(invoices.subscription_of(invoice) or "")
    if sub is None or sub["status"] in DONE:
        return
    first = invoice["billing_reason"] == "subscription_create"
    if what == "paid":
        if first and sub["default_payment_method"] is None and account.hidden[sub["id"]].get("save_method"):
            sub["default_payment_method"] = account.get("payment_intent", account.hidden[invoice["id"]]["intent"])[
                "payment_method"]
        if sub["status"] in ("incomplete", "past_due", "unpaid"):
            open_ones = [i for i in account.of("invoice").values() if i["status"] == "open"
                and invoices.subscription_of(i) == sub["id"]]
            if not open_ones:
                change(world, account, sub, status="active")
    elif what in ("failed", "action") and not first:
        invoice["next_payment_attempt"] = invoices.retry_at(world, account, invoice)
        if invoice["next_payment_attempt"] is not None:
            change(world, account, sub, status="past_due")
        elif account.after_retries == "cancel":
            cancel(world, account, sub, "payment_failed")
        else:
            change(world, account, sub, status=account.after_retries)
    elif what == "void" and first:
        change(world, account, sub, status="incomplete_expired", ended_at=world.now)


invoices.ON_INVOICE.append(_of_invoice)


def cancel(world: World, account: Account, sub: Obj, reason: str = "cancellation_requested") -> Obj:
    """The end. Open invoices stay open, and are not retried."""
    details = {**(sub["cancellation_details"] or {"comment": None, "feedback": None}), "reason": reason}
    sub |= {"status": "canceled", "canceled_at": sub["canceled_at"] or world.now, "ended_at": world.now,
        "cancellation_details": details}
    for invoice in account.of("invoice").values():
        if invoices.subscription_of(invoice) == sub["id"] and invoice["status"] in ("draft", "open"):
            invoice |= {"auto_advance": False, "next_payment_attempt": None}
    world.emit(account, "customer.subscription.deleted", sub)
    return sub


@route("POST", "/v1/subscriptions")
def sub_create(call: Call) -> Obj:
    sub = make(call.world, call.account, call.params)
    settings = call.params.get("payment_settings") or {}
    if settings.get("save_default_payment_method"):
        sub["payment_settings"]["save_default_payment_method"] = settings["save_default_payment_method"]
        call.account.hidden[sub["id"]]["save_method"] = settings["save_default_payment_method"] == "on_subscription"
    return sub


@route("GET", "/v1/subscriptions/{subscription_exposed_id}")
def sub_get(call: Call) -> Obj:
    return call.account.get("subscription", call.arg)


@route("GET", "/v1/subscriptions")
def sub_list(call: Call) -> Obj:
    """Cancelled ones only when they are asked for (status canceled, ended or all)."""
    status, price = call.params.get("status"), call.params.get("price")
    rows = list(call.account.of("subscription").values())
    if status is None or status == "all":
        rows = [s for s in rows if status == "all" or s["status"] not in DONE]
    else:
        rows = [s for s in rows if s["status"] in (DONE if status == "ended" else (status,))]
    call.params.pop("status", None)
    return page(call, [s for s in rows if not price or price in [i["price"]["id"] for i in items_of(s)]], ("customer",))


@route("DELETE", "/v1/subscriptions/{subscription_exposed_id}")
def sub_delete(call: Call) -> Obj:
    world, account = call.world, call.account
    sub = account.get("subscription", call.arg)
    if sub["status"] in DONE:
        raise bad(f"No such subscription: '{sub['id']}'", "id", "resource_missing")
    if call.params.get("prorate"):
        for item in items_of(sub):
            prorate(world, account, sub, item, item["price"], item["quantity"], -1)
    cancel(world, account, sub)
    if call.params.get("invoice_now") and invoices.pending_items(account, sub["customer"], sub["id"]):
        invoice = bill(world, account, sub, "manual", draft=True, only_pending=True)
        invoices.finalize(world, account, invoice)
        if invoice["status"] == "open":
            invoices.collect(world, account, invoice)
    return sub


def prorate(world: World, account: Account, sub: Obj, item: Obj, price: Obj, quantity: int, sign: int,
    at: int | None = None) -> None:
    """An invoice item for the rest of the period: a credit of what was paid (-1), or the charge of what is new (+1)."""
    now = world.now if at is None else at
    start, end = item["current_period_start"], item["current_period_end"]
    amount = sign * rounded(invoices.price_amount(price, quantity) * (end - now), end - start)
    name = account.of("product")[price["product"]]["name"]
    text = f"{'Unused' if sign < 0 else 'Remaining'} time on {quantity} x {name}"
    invoices.make_item(
        world, account, sub["customer"], amount, sub["currency"],
        about={"subscription": sub["id"], "subscription_item": item["id"]}, proration=True,
        description=text, period={"start": now, "end": end}, pricing=invoices.pricing_of(price), quantity=quantity,
        discountable=False,
    )  # fmt: skip


@route("POST", "/v1/subscriptions/{subscription}/resume")
def sub_resume(call: Call) -> Obj:
    """Of a subscription that is `paused` because its trial ended without a payment method."""
    sub = call.account.get("subscription", call.arg)
    if sub["status"] != "paused":
        raise bad("You can only resume a subscription that is paused.")
    first = items_of(sub)[0]["price"]
    set_period(sub, call.world.now, period_end(call.world.now, first, call.world.now))
    sub |= {"status": "incomplete", "billing_cycle_anchor": call.world.now}
    invoice = bill(call.world, call.account, sub, "subscription_cycle", draft=True)
    invoices.finalize(call.world, call.account, invoice)
    fault = None if invoice["status"] == "paid" else invoices.collect(call.world, call.account, invoice)
    if fault is not None:
        sub["status"] = "paused"
        raise fault
    call.world.emit(call.account, "customer.subscription.resumed", sub)
    return sub

"""Payment intents and charges: confirming, declines, authentication, payments that settle later; Stripe's fee and the platform's.

A direct charge on a connected account: its balance transaction has the whole amount, and as fees Stripe's own and the
application fee; the platform has an `application_fee` with a balance transaction of its own.
"""

from collections.abc import Callable
from typing import Any

from .customers import method_of
from .errors import StripeFault, bad
from .routes import Call, collection, included, page, route
from .spec import Obj
from .world import APPLICATION, Account, World, merge_metadata

Settled = Callable[[World, Account, Obj, bool], None]
# Called when a payment that was `processing` or wanted the buyer's action came to its end.
ON_SETTLED: list[Settled] = []
ON_CHARGED: list[Callable[[World, Account, Obj, str], None]] = []


def make_intent(world: World, account: Account, params: Obj, **hidden: Any) -> Obj:
    amount, fee = params["amount"], params.get("application_fee_amount")
    if amount <= 0:
        raise bad("This value must be greater than or equal to 1.", "amount", "parameter_invalid_integer")
    if fee is not None:
        check_fee(account, fee, fee if "invoice" in hidden else amount)  # an invoice's customer may have had credit
    if params.get("customer"):
        account.get("customer", params["customer"], "customer")
    check_ready(account)
    intent = world.new(
        "payment_intent", "pi_3", amount=amount, amount_capturable=0, amount_received=0, application_fee_amount=fee,
        application=None if account.is_platform else APPLICATION, capture_method="automatic", confirmation_method="automatic",
        currency=params["currency"].lower(), customer=params.get("customer"), description=params.get("description"),
        metadata=params.get("metadata"), payment_method_types=params.get("payment_method_types") or ["card"],
        status="requires_payment_method",
        setup_future_usage=params.get("setup_future_usage"), receipt_email=params.get("receipt_email"),
    )  # fmt: skip
    intent["client_secret"] = f"{intent['id']}_secret_{world.id('')}"
    account.add(intent)
    account.hidden[intent["id"]] = hidden
    if params.get("payment_method"):
        intent["payment_method"] = method_of(world, account, params["payment_method"])["id"]
        intent["status"] = "requires_confirmation"
    world.emit(account, "payment_intent.created", intent)
    return intent


def check_ready(account: Account) -> None:
    if account.capability != "active":
        raise bad("Your account cannot currently make live charges.", code="account_not_ready")


def check_fee(account: Account, fee: int, amount: int) -> None:
    if account.is_platform:
        raise bad("Can only apply an application_fee when attempting a direct payment.", "application_fee_amount")
    if fee < 1:
        raise bad("This value must be greater than or equal to 1.", "application_fee_amount", "parameter_invalid_integer")
    if fee > amount:
        raise bad("The application fee cannot be larger than the total charge amount.", "application_fee_amount")


def make_charge(world: World, account: Account, intent: Obj, status: str) -> Obj:
    method = account.get("payment_method", intent["payment_method"])
    kind = method["type"]
    details: Obj = {"type": kind, kind: {"brand": "visa", "exp_month": 12, "exp_year": 2034, "last4": "4242"} if kind == "card"
        else {"last4": "6789"}}
    charge = world.new(
        "charge", "ch_3" if kind == "card" else "py_3", amount=intent["amount"], amount_captured=intent["amount"]
        if status == "succeeded" else 0,
        amount_refunded=0, application=intent["application"], application_fee_amount=intent["application_fee_amount"],
        billing_details=dict(method["billing_details"]),
        captured=status == "succeeded", currency=intent["currency"], customer=intent["customer"],
        description=intent["description"],
        disputed=False, metadata=intent["metadata"], paid=status == "succeeded", payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details=details, refunded=False, status=status, receipt_email=intent["receipt_email"],
    )  # fmt: skip
    account.add(charge)
    intent["latest_charge"] = charge["id"]
    return charge


def confirm(world: World, account: Account, intent: Obj, off_session: bool = False, authenticated: bool = False) -> Obj:
    """Tries to take the money. Raises the 402 of a decline, after the failed charge is kept and told."""
    if not intent["payment_method"]:
        raise bad("You cannot confirm this PaymentIntent because it's missing a payment method.",
            code="payment_intent_unexpected_state")
    if intent["status"] not in ("requires_payment_method", "requires_confirmation", "requires_action"):
        raise bad(f"This PaymentIntent could not be confirmed because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state")
    check_ready(account)
    hidden = account.hidden[intent["payment_method"]]
    card, _, rest = hidden["card"].partition(":")
    if card in ("decline", "late_decline"):
        code, _, decline = rest.partition(":")
        raise fail(world, account, intent, code, decline)
    if card == "3ds" or (card == "3ds_once" and not hidden["authenticated"]):
        if off_session:
            raise fail(world, account, intent, "authentication_required", "authentication_required")
        if not authenticated:
            intent["status"] = "requires_action"
            url = f"https://hooks.stripe.invalid/3d_secure_2/{intent['id']}"
            intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": {"url": url, "return_url": None}}
            world.emit(account, "payment_intent.requires_action", intent)
            return intent
        hidden["authenticated"] = True
    intent["last_payment_error"] = intent["next_action"] = None
    if card == "async":
        intent["status"] = "processing"
        world.emit(account, "charge.pending", make_charge(world, account, intent, "pending"))
        world.emit(account, "payment_intent.processing", intent)
        return intent
    return succeed(world, account, intent, make_charge(world, account, intent, "succeeded"))


def fail(world: World, account: Account, intent: Obj, code: str, decline: str, charge: Obj | None = None) -> StripeFault:
    charge = charge or make_charge(world, account, intent, "failed")
    message = "Your card was declined." if code == "card_declined" else f"The payment failed: {code}."
    charge |= {"status": "failed", "failure_code": code, "failure_message": message, "paid": False}
    fault = StripeFault(402, message, code, decline_code=decline, charge=charge["id"])
    method = account.get("payment_method", intent["payment_method"])
    intent |= {"status": "requires_payment_method", "payment_method": None, "next_action": None}
    intent["last_payment_error"] = {**fault.error, "payment_method": method}
    world.emit(account, "charge.failed", charge)
    world.emit(account, "payment_intent.payment_failed", intent)
    fault.error["payment_intent"] = dict(intent)
    fault.error["payment_method"] = method
    return fault


def succeed(world: World, account: Account, intent: Obj, charge: Obj) -> Obj:
    """What was asked for as the platform's share is capped at what was paid, as Stripe's description of it says."""
    amount, currency = intent["amount"], intent["currency"]
    fee = min(intent["application_fee_amount"] or 0, amount)
    charge |= {"status": "succeeded", "paid": True, "captured": True, "amount_captured": amount}
    charge["receipt_url"] = f"https://pay.stripe.invalid/receipts/payment/{charge['id']}"
    fees = [world.fee_line("stripe_fee", world.fee_of(amount, currency), currency)]
    if fee:
        fees.append(world.fee_line("application_fee", fee, currency, APPLICATION))
    charge["balance_transaction"] = world.move(account, kind_of(charge, "charge"), amount, currency, charge["id"], fees=fees,
        category="charge")["id"]
    intent |= {"status": "succeeded", "amount_received": amount, "next_action": None, "last_payment_error": None}
    if fee:
        charge["application_fee"] = application_fee(world, account, charge, fee)["id"]
    if intent["setup_future_usage"] and intent["customer"]:
        account.get("payment_method", intent["payment_method"])["customer"] = intent["customer"]
        account.hidden[intent["payment_method"]]["authenticated"] = True
    world.emit(account, "charge.succeeded", charge)
    world.emit(account, "payment_intent.succeeded", intent)
    for charged in ON_CHARGED:
        charged(world, account, charge, account.hidden[charge["payment_method"]]["card"])
    return intent


def kind_of(charge: Obj, of_cards: str) -> str:
    """A balance transaction's type, which has other words for what is not paid by card."""
    by_card = charge["payment_method_details"]["type"] == "card"
    return of_cards if by_card else {"charge": "payment", "refund": "payment_refund"}[of_cards]


def application_fee(world: World, account: Account, charge: Obj, amount: int) -> Obj:
    platform = world.platform
    fee = world.new(
        "application_fee", "fee_1", account=account.id, amount=amount, amount_refunded=0, application=APPLICATION,
        charge=charge["id"], currency=charge["currency"], originating_transaction=charge["id"], refunded=False,
        refunds=collection([], "/v1/application_fees/refunds"),
    )  # fmt: skip
    del fee["metadata"]
    fee["refunds"]["url"] = f"/v1/application_fees/{fee['id']}/refunds"
    fee["balance_transaction"] = world.move(platform, "application_fee", amount, charge["currency"], fee["id"],
        category="platform_earning")["id"]
    platform.add(fee)
    world.emit(platform, "application_fee.created", fee)
    return fee


def settle(world: World, account: Account, intent: Obj, ok: bool, code: str = "") -> Obj:
    """The end of a payment that was processing (the bank's word) or wanted the buyer (who authenticated, or did not)."""
    if intent["status"] == "processing":
        charge = account.get("charge", intent["latest_charge"])
        if ok:
            succeed(world, account, intent, charge)
        else:
            fail(world, account, intent, code or "insufficient_funds", code or "insufficient_funds", charge)
    elif intent["status"] == "requires_action":
        if ok:
            confirm(world, account, intent, authenticated=True)
        else:
            fail(world, account, intent, "payment_intent_authentication_failure", "")
    else:
        raise bad(f"nothing to settle: the intent is {intent['status']}")
    for settled in ON_SETTLED:
        settled(world, account, intent, ok)
    return intent


@route("POST", "/v1/payment_intents")
def intent_create(call: Call) -> Obj:
    params = call.params
    if params.get("off_session") and not params.get("confirm"):
        raise bad("`off_session` can only be used with `confirm`.", "off_session")
    saved = call.account.of("payment_method").get(params.get("payment_method", ""))
    if saved is not None and saved["customer"] != params.get("customer"):
        raise bad("The provided PaymentMethod does not belong to this customer: it may have been detached.", "payment_method")
    intent = make_intent(call.world, call.account, params)
    if params.get("confirm"):
        confirm(call.world, call.account, intent, off_session=params.get("off_session") not in (None, False, "false"))
    return intent


@route("GET", "/v1/payment_intents/{intent}")
def intent_get(call: Call) -> Obj:
    return call.account.get("payment_intent", call.arg)


@route("GET", "/v1/payment_intents")
def intent_list(call: Call) -> Obj:
    return page(call, call.account.of("payment_intent").values(), ("customer",))


@route("POST", "/v1/payment_intents/{intent}")
def intent_update(call: Call) -> Obj:
    intent = call.account.get("payment_intent", call.arg)
    if {"amount", "application_fee_amount"} & call.params.keys() and intent["status"] in ("succeeded", "canceled", "processing"):
        raise bad(f"This PaymentIntent's amount could not be updated because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state")
    for name in ("amount", "application_fee_amount", "description", "receipt_email", "customer"):
        if name in call.params:
            intent[name] = call.params[name]
    merge_metadata(intent, call.params.get("metadata"))
    return intent


@route("POST", "/v1/payment_intents/{intent}/confirm")
def intent_confirm(call: Call) -> Obj:
    intent = call.account.get("payment_intent", call.arg)
    if call.params.get("payment_method"):
        intent["payment_method"] = method_of(call.world, call.account, call.params["payment_method"])["id"]
    return confirm(call.world, call.account, intent, off_session=call.params.get("off_session") not in (None, False, "false"))


@route("POST", "/v1/payment_intents/{intent}/cancel")
def intent_cancel(call: Call) -> Obj:
    intent = call.account.get("payment_intent", call.arg)
    if intent["status"] in ("succeeded", "canceled", "processing"):
        raise bad(f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state")
    intent |= {"status": "canceled", "canceled_at": call.world.now, "cancellation_reason": call.params.get("cancellation_reason")}
    call.world.emit(call.account, "payment_intent.canceled", intent)
    return intent


@route("GET", "/v1/charges/{charge}")
def charge_get(call: Call) -> Obj:
    return call.account.get("charge", call.arg)


@route("GET", "/v1/charges")
def charge_list(call: Call) -> Obj:
    return page(call, call.account.of("charge").values(), ("customer", "payment_intent"))


@included("charge", "refunds")
def charge_refunds(world: World, account: Account, charge: Obj) -> Obj:
    rows = [r for r in account.of("refund").values() if r["charge"] == charge["id"]]
    return collection(rows[::-1][:10], f"/v1/charges/{charge['id']}/refunds", len(rows) > 10)

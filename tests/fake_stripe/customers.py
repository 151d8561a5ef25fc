"""Customers and payment methods. A payment method is made of Stripe's test tokens, each of which behaves in its own way."""

from typing import Any

from .errors import StripeFault, bad
from .routes import Call, page, route
from .spec import Obj
from .world import Account, World, merge_metadata

# What a test payment method does. `decline:CODE:DECLINE_CODE`; `3ds` asks each time, `3ds_once` until it was set up once.
BEHAVIOURS = {
    "pm_card_visa": "ok",
    "pm_card_mastercard": "ok",
    "pm_card_chargeDeclined": "decline:card_declined:generic_decline",
    "pm_card_visa_chargeDeclined": "decline:card_declined:generic_decline",
    "pm_card_chargeDeclinedInsufficientFunds": "decline:card_declined:insufficient_funds",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "decline:card_declined:insufficient_funds",
    "pm_card_visa_chargeDeclinedLostCard": "decline:card_declined:lost_card",
    "pm_card_chargeDeclinedExpiredCard": "decline:expired_card:expired_card",
    "pm_card_chargeDeclinedIncorrectCvc": "decline:incorrect_cvc:incorrect_cvc",
    "pm_card_chargeDeclinedProcessingError": "decline:processing_error:processing_error",
    "pm_card_chargeCustomerFail": "late_decline:card_declined:generic_decline",
    "pm_card_threeDSecure2Required": "3ds",
    "pm_card_authenticationRequired": "3ds",
    "pm_card_authenticationRequiredOnSetup": "3ds_once",
    "pm_card_createDispute": "dispute:fraudulent",
    "pm_card_createDisputeProductNotReceived": "dispute:product_not_received",
    "pm_card_createDisputeInquiry": "inquiry:fraudulent",
    "pm_card_refundFail": "refund_fail",
    "pm_card_pendingRefund": "refund_pending",
    "pm_usBankAccount_success": "async",
}

CLOCK_CUSTOMERS_MAX = 3


def make_method(world: World, account: Account, token: str, customer: str | None = None) -> Obj:
    """A payment method of its own for a test token, as Stripe makes one each time that a token is used."""
    if token not in BEHAVIOURS:
        raise bad(f"No such PaymentMethod: '{token}'", "payment_method", "resource_missing")
    fields: Obj = {"billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        "allow_redisplay": "unspecified"}
    fields["type"] = "us_bank_account" if "BankAccount" in token else "card"
    if fields["type"] == "card":
        fields["card"] = {
            "brand": "mastercard" if "master" in token else "visa", "checks": {}, "country": "US", "display_brand": "visa",
            "exp_month": 12,
            "exp_year": 2034, "fingerprint": world.id("", 16), "funding": "credit", "last4": "4242",
            "networks": {"available": ["visa"], "preferred": None}, "three_d_secure_usage": {"supported": True},
        }  # fmt: skip
    else:
        fields["us_bank_account"] = {"account_type": "checking", "bank_name": "STRIPE TEST BANK", "last4": "6789",
            "routing_number": "110000000"}
    method = world.new("payment_method", "pm_1", customer=customer, **fields)
    return account.add(method, card=BEHAVIOURS[token], authenticated=False)


def method_of(world: World, account: Account, name: str) -> Obj:
    """The payment method of an id, or a fresh one of a test token."""
    return account.of("payment_method").get(name) or make_method(world, account, name)


def attach(world: World, account: Account, method: Obj, customer: str) -> Obj:
    account.get("customer", customer, "customer")
    card = account.hidden[method["id"]]["card"]
    if card.startswith("decline"):
        _, code, decline = card.split(":")
        raise StripeFault(402, "Your card was declined.", code, decline_code=decline)
    if method["customer"] not in (None, customer):
        raise bad("The payment method you provided has already been attached to a customer.")
    method["customer"] = customer
    world.emit(account, "payment_method.attached", method)
    return method


def clock_of(account: Account, name: str | None) -> str | None:
    """The test clock of a customer that is being made."""
    if name is None:
        return None
    account.get("test_helpers.test_clock", name, "test_clock")
    if sum(customer["test_clock"] == name for customer in account.of("customer").values()) >= CLOCK_CUSTOMERS_MAX:
        raise bad(f"A test clock has at most {CLOCK_CUSTOMERS_MAX} customers.", "test_clock")
    return name


def make_customer(world: World, account: Account, params: Obj) -> Obj:
    fields = {name: params.get(name) or None for name in ("email", "name", "phone", "description")}
    settings = params.get("invoice_settings") or {}
    customer = world.new(
        "customer", "cus_", balance=params.get("balance", 0), delinquent=False, next_invoice_sequence=1, tax_exempt="none",
        invoice_prefix=world.id("", 8).upper(), preferred_locales=[], metadata=params.get("metadata"), currency=None,
        invoice_settings={"custom_fields": None, "default_payment_method": None, "footer": None, "rendering_options": None},
        test_clock=clock_of(account, params.get("test_clock")), **fields,
    )  # fmt: skip
    account.add(customer)
    world.emit(account, "customer.created", customer)
    if "payment_method" in params:
        attach(world, account, method_of(world, account, params["payment_method"]), customer["id"])
    if "default_payment_method" in settings:
        customer["invoice_settings"]["default_payment_method"] = account.get("payment_method",
            settings["default_payment_method"], "invoice_settings")["id"]
    return customer


@route("POST", "/v1/customers")
def customer_create(call: Call) -> Obj:
    return make_customer(call.world, call.account, call.params)


@route("GET", "/v1/customers/{customer}")
def customer_get(call: Call) -> Obj:
    gone = call.account.hidden.get(call.arg, {}).get("deleted")
    return {"id": call.arg, "object": "customer", "deleted": True} if gone else call.account.get("customer", call.arg)


@route("GET", "/v1/customers")
def customer_list(call: Call) -> Obj:
    return page(call, call.account.of("customer").values(), ("email",))


@route("POST", "/v1/customers/{customer}")
def customer_update(call: Call) -> Obj:
    customer = call.account.get("customer", call.arg)
    before: dict[str, Any] = {}
    for name in ("email", "name", "phone", "description", "balance"):
        if name in call.params:
            before[name] = customer[name]
            customer[name] = call.params[name] if call.params[name] != "" else None
    default = (call.params.get("invoice_settings") or {}).get("default_payment_method")
    if default is not None:
        if default:
            method = call.account.get("payment_method", default, "invoice_settings[default_payment_method]")
            if method["customer"] != customer["id"]:
                raise bad("The customer does not have a payment method with that ID.", "invoice_settings[default_payment_method]")
        customer["invoice_settings"]["default_payment_method"] = default or None
    merge_metadata(customer, call.params.get("metadata"))
    call.world.emit(call.account, "customer.updated", customer, before)
    return customer


@route("DELETE", "/v1/customers/{customer}")
def customer_delete(call: Call) -> Obj:
    customer = call.account.get("customer", call.arg)
    del call.account.of("customer")[call.arg]
    call.account.hidden[call.arg] = {"deleted": True}
    call.world.emit(call.account, "customer.deleted", customer)
    return {"id": call.arg, "object": "customer", "deleted": True}


@route("GET", "/v1/customers/{customer}/payment_methods")
def customer_methods(call: Call) -> Obj:
    call.account.get("customer", call.arg)
    return page(call, [m for m in call.account.of("payment_method").values() if m["customer"] == call.arg], ("type",))


@route("POST", "/v1/payment_methods")
def method_create(call: Call) -> Obj:
    """Of a card's test token: the fake takes no numbers."""
    token = (call.params.get("card") or {}).get("token")
    if call.params.get("type") != "card" or not token:
        raise bad("The fake makes payment methods of test tokens: card[token]=tok_visa.", "card")
    method = make_method(call.world, call.account, f"pm_card_{token.removeprefix('tok_')}")
    method["billing_details"] |= call.params.get("billing_details") or {}
    return method


@route("GET", "/v1/payment_methods")
def methods(call: Call) -> Obj:
    return page(call, call.account.of("payment_method").values(), ("customer", "type"))


@route("GET", "/v1/payment_methods/{payment_method}")
def method_get(call: Call) -> Obj:
    return method_of(call.world, call.account, call.arg)


@route("POST", "/v1/payment_methods/{payment_method}/attach")
def method_attach(call: Call) -> Obj:
    return attach(call.world, call.account, method_of(call.world, call.account, call.arg), call.params["customer"])


@route("POST", "/v1/payment_methods/{payment_method}/detach")
def method_detach(call: Call) -> Obj:
    method = call.account.get("payment_method", call.arg)
    for customer in call.account.of("customer").values():
        if customer["invoice_settings"]["default_payment_method"] == method["id"]:
            customer["invoice_settings"]["default_payment_method"] = None
    method["customer"] = None
    call.world.emit(call.account, "payment_method.detached", method)
    return method

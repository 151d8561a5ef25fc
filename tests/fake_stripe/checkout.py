"""Checkout sessions, and what a buyer does on Stripe's page: pays, fails, authenticates or not, leaves; setups."""

from typing import Any

from . import charges, invoices, subscriptions
from .catalog import check_terms, discounted, make_price, redeem
from .customers import attach, make_customer, method_of
from .errors import StripeFault, bad
from .routes import Call, collection, included, page, route
from .spec import Obj, complete
from .world import APPLICATION, DAY, Account, World, merge_metadata, minor


@route("POST", "/v1/checkout/sessions")
def session_create(call: Call) -> Obj:
    world, account, params = call.world, call.account, call.params
    mode = params.get("mode")
    if mode is None:
        raise bad("Missing required param: mode.", "mode", "parameter_missing")
    if params.get("ui_mode", "hosted_page") == "hosted_page" and not params.get("success_url"):
        raise bad("Missing required param: success_url.", "success_url", "parameter_missing")
    if mode != "setup" and not params.get("line_items"):
        raise bad("Missing required param: line_items.", "line_items", "parameter_missing")
    for name, only in (("payment_intent_data", "payment"), ("subscription_data", "subscription"), ("setup_intent_data", "setup")):
        if name in params and mode != only:
            raise bad(f"You can not pass `{name}` in `{mode}` mode.", name)
    if params.get("customer"):
        account.get("customer", params["customer"], "customer")
        if params.get("customer_email"):
            raise bad("You may only specify one of these parameters: customer, customer_email.", "customer_email")
    if account.capability != "active":
        raise bad("In order to use Checkout, you must set an account or business name and finish onboarding.",
            code="account_not_ready")
    lines, currency = _lines(world, account, params, mode)
    expires = params.get("expires_at", world.now + DAY)
    if not world.now + 1800 <= expires <= world.now + DAY:
        raise bad("The `expires_at` timestamp must be from 30 minutes to 24 hours from Checkout Session creation.", "expires_at")
    subtotal = sum(line["amount_total"] for line in lines)
    fee = (params.get("payment_intent_data") or {}).get("application_fee_amount")
    if fee is not None:
        charges.check_fee(account, fee, subtotal)
    if (params.get("subscription_data") or {}).get("application_fee_percent") and account.is_platform:
        raise bad("Can only apply an application_fee_percent with a connected account.",
            "subscription_data[application_fee_percent]")
    if params.get("discounts") and params.get("allow_promotion_codes"):
        raise bad("You may only specify one of these parameters: allow_promotion_codes, discounts.", "discounts")
    session = world.new(
        "checkout.session", "cs_test_a1", automatic_tax={"enabled": False, "liability": None, "provider": None, "status": None},
        custom_fields=[],
        custom_text={}, expires_at=expires, mode=mode, payment_method_types=params.get("payment_method_types") or ["card"],
        shipping_options=[],
        payment_status="unpaid" if mode != "setup" else "no_payment_required", status="open", amount_subtotal=subtotal if lines
        else None,
        amount_total=subtotal if lines else None, currency=currency, customer=params.get("customer"),
        customer_email=params.get("customer_email"),
        client_reference_id=params.get("client_reference_id"), success_url=params.get("success_url"),
        cancel_url=params.get("cancel_url"),
        allow_promotion_codes=params.get("allow_promotion_codes"), ui_mode=params.get("ui_mode", "hosted_page"),
        metadata=params.get("metadata"),
        customer_creation=params.get("customer_creation", "if_required" if mode == "payment" else "always"),
        total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0}, discounts=[],
    )  # fmt: skip
    session["url"] = f"https://checkout.stripe.invalid/c/pay/{session['id']}" if session["ui_mode"] == "hosted_page" else None
    account.add(session, params=params, lines=lines)
    if params.get("discounts"):
        _discount(world, account, session, params["discounts"])
    if mode == "payment" and 0 < session["amount_total"] < invoices.LEAST.get(session["currency"], 50):
        amount = minor(session["amount_total"], session["currency"])
        raise bad(f"Amount must convert to at least 50 cents. {amount} does not.", code="amount_too_small")
    return session


def _lines(world: World, account: Account, params: Obj, mode: str) -> tuple[list[Obj], str | None]:
    lines: list[Obj] = []
    for wish in params.get("line_items") or []:
        inline = "price_data" in wish
        price = make_price(world, account, wish["price_data"], inline=True) if inline else account.get("price",
            wish.get("price", ""), "line_items[0][price]")
        if mode == "payment" and price["type"] == "recurring":
            raise bad("You specified `payment` mode but passed a recurring price.", "line_items[0][price]")
        if not inline and not price["active"]:
            raise bad("The price specified is inactive. This field only accepts active prices.", "line_items[0][price]")
        quantity = wish.get("quantity", 1)
        amount = invoices.price_amount(price, quantity)
        line: Obj = {
            "id": world.id("li_1"), "object": "item", "amount_discount": 0, "amount_subtotal": amount, "amount_tax": 0,
            "amount_total": amount,
            "currency": price["currency"], "description": account.of("product")[price["product"]]["name"], "price": dict(price),
            "quantity": quantity,
        }  # fmt: skip
        lines.append(complete("item", line))
    if mode == "subscription" and not any(line["price"]["type"] == "recurring" for line in lines):
        raise bad("You must provide at least one recurring price in `subscription` mode when using prices.", "line_items")
    if len({line["currency"] for line in lines}) > 1:
        raise bad("All prices on a Checkout Session must have the same currency.", "line_items")
    return lines, lines[0]["currency"] if lines else params.get("currency")


def _discount(world: World, account: Account, session: Obj, given: list[Obj]) -> None:
    _check_terms(account, session, given)
    ids = redeem(world, account, given, {"checkout_session": session["id"]}, count=False)
    off = sum(item["amount"] for item in discounted(account, ids, session["amount_subtotal"], session["currency"]))
    account.hidden[session["id"]]["given"] = given
    session["discounts"] = [{"coupon": item.get("coupon"), "promotion_code": item.get("promotion_code")} for item in given]
    session["amount_total"] = session["amount_subtotal"] - off
    session["total_details"]["amount_discount"] = off


def _check_terms(account: Account, session: Obj, given: list[Obj]) -> None:
    products = [line["price"]["product"] for line in account.hidden[session["id"]]["lines"]]
    check_terms(account, given, session["customer"], products)


@included("checkout.session", "line_items")
def line_items(world: World, account: Account, session: Obj) -> Obj:
    return collection(account.hidden[session["id"]]["lines"], f"/v1/checkout/sessions/{session['id']}/line_items")


@route("GET", "/v1/checkout/sessions/{session}/line_items")
def line_item_list(call: Call) -> Obj:
    call.account.get("checkout.session", call.arg)
    return page(call, call.account.hidden[call.arg]["lines"][::-1])


@route("GET", "/v1/checkout/sessions/{session}")
def session_get(call: Call) -> Obj:
    return call.account.get("checkout.session", call.arg)


@route("GET", "/v1/checkout/sessions")
def session_list(call: Call) -> Obj:
    return page(call, call.account.of("checkout.session").values(), ("customer", "payment_intent", "subscription", "status"))


@route("POST", "/v1/checkout/sessions/{session}")
def session_update(call: Call) -> Obj:
    session = call.account.get("checkout.session", call.arg)
    merge_metadata(session, call.params.get("metadata"))
    return session


@route("POST", "/v1/checkout/sessions/{session}/expire")
def session_expire(call: Call) -> Obj:
    session = call.account.get("checkout.session", call.arg)
    if session["status"] != "open":
        raise bad(f"Only open Checkout Sessions can be expired. This Checkout Session has a status of {session['status']}.")
    return expire(call.world, call.account, session)


def expire(world: World, account: Account, session: Obj) -> Obj:
    session |= {"status": "expired", "url": None}
    world.emit(account, "checkout.session.expired", session)
    return session


def pay(world: World, account: Account, session: Obj, card: str = "pm_card_visa", code: str = "", authenticates: bool = True,
    email: str = "") -> Obj:
    """The buyer submits the page. A refused payment leaves the session open and is told as `{"refused": error}`."""
    if session["status"] != "open":
        raise bad(f"the session is {session['status']}")
    if code:
        promo = next((p for p in account.of("promotion_code").values() if p["code"].lower() == code.lower() and p["active"]),
            None)
        if promo is None or not session["allow_promotion_codes"]:
            raise bad("This code is invalid.", "promotion_code")
        _discount(world, account, session, [{"promotion_code": promo["id"]}])
    params = account.hidden[session["id"]]["params"]
    wanted = session["mode"] != "payment" or session["customer_creation"] == "always" or (params.get("payment_intent_data")
        or {}).get("setup_future_usage")
    if session["customer"] is None and wanted:
        session["customer"] = make_customer(world, account,
            {"email": session["customer_email"] or email or "buyer@example.com"})["id"]
    mail = session["customer_email"] or email or "buyer@example.com"
    session["customer_details"] = {"address": None, "business_name": None, "email": mail, "individual_name": None, "name": None,
        "phone": None, "tax_exempt": "none", "tax_ids": []}
    method = method_of(world, account, card)
    uses = [(kind, c["id"], c["times_redeemed"]) for kind in ("coupon", "promotion_code") for c in account.of(kind).values()]
    act = {"payment": _pay_once, "subscription": _subscribe, "setup": _set_up}[session["mode"]]
    try:
        act(world, account, session, params, method, authenticates)
    except StripeFault as refused:
        for kind, name, times in uses:
            account.of(kind)[name]["times_redeemed"] = times
        return {"session": session, "refused": refused.error}
    session |= {"status": "complete", "url": None}
    world.emit(account, "checkout.session.completed", session)
    return {"session": session, "refused": None}


def _pay_once(world: World, account: Account, session: Obj, params: Obj, method: Obj, authenticates: bool) -> None:
    given = account.hidden[session["id"]].get("given", [])
    _check_terms(account, session, given)
    redeem(world, account, given, {"checkout_session": session["id"]})
    if session["amount_total"] == 0:
        session["payment_status"] = "no_payment_required"
        return
    data: dict[str, Any] = params.get("payment_intent_data") or {}
    if session["payment_intent"]:
        intent = account.get("payment_intent", session["payment_intent"])
    else:
        wish = {**data, "amount": session["amount_total"], "currency": session["currency"], "customer": session["customer"]}
        intent = charges.make_intent(world, account, wish, session=session["id"])
        session["payment_intent"] = intent["id"]
    intent["payment_method"] = method["id"]
    charges.confirm(world, account, intent)
    if intent["status"] == "requires_action":
        charges.settle(world, account, intent, authenticates)
        if not authenticates:
            raise StripeFault(402, "We are unable to authenticate your payment method.", "payment_intent_authentication_failure")
    session["payment_status"] = "paid" if intent["status"] == "succeeded" else "unpaid"


def _subscribe(world: World, account: Account, session: Obj, params: Obj, method: Obj, authenticates: bool) -> None:
    data: dict[str, Any] = params.get("subscription_data") or {}
    card = account.hidden[method["id"]]["card"]
    if card.startswith("3ds") and not authenticates:
        raise StripeFault(402, "We are unable to authenticate your payment method.", "setup_intent_authentication_failure")
    attach(world, account, method, session["customer"])
    lines = account.hidden[session["id"]]["lines"]
    _check_terms(account, session, account.hidden[session["id"]].get("given", []))
    wish = {
        **data, "customer": session["customer"], "default_payment_method": method["id"],
        "payment_behavior": "error_if_incomplete",
        "items": [{"price": x["price"]["id"], "quantity": x["quantity"]} for x in lines if x["price"]["type"] == "recurring"],
        "add_invoice_items": [{"price": x["price"]["id"], "quantity": x["quantity"]} for x in lines
            if x["price"]["type"] != "recurring"],
        "discounts": account.hidden[session["id"]].get("given", []),
    }  # fmt: skip
    subscription = subscriptions.make(world, account, wish, present=True)
    account.hidden[method["id"]]["authenticated"] = True
    session |= {"subscription": subscription["id"], "invoice": subscription["latest_invoice"]}
    paid = account.get("invoice", subscription["latest_invoice"])
    session["payment_status"] = "paid" if paid["amount_due"] and paid[
        "status"] == "paid" else "no_payment_required" if not paid["amount_due"] else "unpaid"


def _set_up(world: World, account: Account, session: Obj, params: Obj, method: Obj, authenticates: bool) -> None:
    if account.hidden[method["id"]]["card"].startswith("3ds") and not authenticates:
        raise StripeFault(402, "We are unable to authenticate your payment method.", "setup_intent_authentication_failure")
    attach(world, account, method, session["customer"])
    account.hidden[method["id"]]["authenticated"] = True
    intent = world.new(
        "setup_intent", "seti_1", payment_method_types=["card"], status="succeeded", usage="off_session",
        customer=session["customer"],
        payment_method=method["id"], metadata=(params.get("setup_intent_data") or {}).get("metadata"), application=None
        if account.is_platform else APPLICATION,
    )  # fmt: skip
    session["setup_intent"] = account.add(intent)["id"]
    world.emit(account, "setup_intent.succeeded", intent)


@route("GET", "/v1/setup_intents/{intent}")
def setup_get(call: Call) -> Obj:
    return call.account.get("setup_intent", call.arg)


def _settled(world: World, account: Account, intent: Obj, ok: bool) -> None:
    session = account.of("checkout.session").get(account.hidden[intent["id"]].get("session", ""))
    if session and session["status"] == "complete":
        session["payment_status"] = "paid" if ok else "unpaid"
        world.emit(account, f"checkout.session.async_payment_{'succeeded' if ok else 'failed'}", session)


charges.ON_SETTLED.append(_settled)

"""Products, prices (an amount never changes), coupons, promotion codes."""

from decimal import Decimal
from typing import Any

from .errors import bad, missing
from .routes import Call, page, route
from .spec import Obj
from .world import Account, World, merge_metadata, rounded


def make_product(world: World, account: Account, params: Obj) -> Obj:
    fields = {name: params[name] for name in ("id", "description", "statement_descriptor", "tax_code", "unit_label", "url")
        if name in params}
    product = world.new(
        "product", "prod_", name=params["name"], active=params.get("active", True), images=params.get("images", []),
        marketing_features=[], updated=world.now, metadata=params.get("metadata"), type="service", **fields,
    )  # fmt: skip
    del product["type"]
    if product["id"] in account.of("product"):
        raise bad(f"Product already exists: {product['id']}", "id", "resource_already_exists")
    account.add(product)
    world.emit(account, "product.created", product)
    return product


@route("POST", "/v1/products")
def product_create(call: Call) -> Obj:
    product = make_product(call.world, call.account, call.params)
    if "default_price_data" in call.params:
        price = make_price(call.world, call.account, {**call.params["default_price_data"], "product": product["id"]})
        product["default_price"] = price["id"]
    return product


@route("GET", "/v1/products/{id}")
def product_get(call: Call) -> Obj:
    return call.account.get("product", call.arg)


@route("GET", "/v1/products")
def product_list(call: Call) -> Obj:
    rows = [p for p in call.account.of("product").values() if p["id"] in call.params.get("ids", [p["id"]])]
    return page(call, rows, ("active", "url"))


@route("POST", "/v1/products/{id}")
def product_update(call: Call) -> Obj:
    product = call.account.get("product", call.arg)
    for name in ("name", "active", "description", "default_price", "url", "unit_label", "images"):
        if name in call.params:
            product[name] = call.params[name]
    merge_metadata(product, call.params.get("metadata"))
    product["updated"] = call.world.now
    call.world.emit(call.account, "product.updated", product)
    return product


@route("DELETE", "/v1/products/{id}")
def product_delete(call: Call) -> Obj:
    product = call.account.get("product", call.arg)
    if any(price["product"] == product["id"] for price in call.account.of("price").values()):
        raise bad("This product cannot be deleted because it has one or more user-created prices.")
    del call.account.of("product")[product["id"]]
    call.world.emit(call.account, "product.deleted", product)
    return {"id": product["id"], "object": "product", "deleted": True}


def make_price(world: World, account: Account, params: Obj, inline: bool = False) -> Obj:
    """A price; `inline` ones come of `price_data` and are not active, as Stripe's are."""
    if "product_data" in params:
        product = make_product(world, account, params["product_data"])
    elif "product" in params:
        product = account.get("product", params["product"], "product")
    else:
        raise bad("You must specify either `product` or `product_data` when creating a price.", "product", "parameter_missing")
    amount = params.get("unit_amount")
    text = params.get("unit_amount_decimal")
    if (amount is None) == (text is None):
        raise bad("You must pass exactly one of `unit_amount` and `unit_amount_decimal`.", "unit_amount", "parameter_missing")
    if text is not None:
        exact = Decimal(str(text))
        amount = int(exact) if exact == int(exact) else None
    if amount is not None and amount < 0:
        raise bad("Invalid non-negative integer", "unit_amount", "parameter_invalid_integer")
    given = params.get("recurring")
    recurring = given and {
        "interval": given["interval"], "interval_count": given.get("interval_count", 1), "meter": given.get("meter"),
        "usage_type": given.get("usage_type", "licensed"),
    }  # fmt: skip
    price = world.new(
        "price", "price_1", active=params.get("active", not inline), billing_scheme="per_unit",
        currency=params["currency"].lower(),
        product=product["id"], type="recurring" if recurring else "one_time", unit_amount=amount,
        unit_amount_decimal=str(text if text is not None else amount), recurring=recurring, lookup_key=params.get("lookup_key"),
        nickname=params.get("nickname"), tax_behavior=params.get("tax_behavior", "unspecified"), metadata=params.get("metadata"),
    )  # fmt: skip
    account.add(price)
    world.emit(account, "price.created", price)
    return price


@route("POST", "/v1/prices")
def price_create(call: Call) -> Obj:
    key = call.params.get("lookup_key")
    same = [p for p in call.account.of("price").values() if key and p["lookup_key"] == key]
    if same and not call.params.get("transfer_lookup_key"):
        raise bad(f"A price (`{same[0]['id']}`) already uses that lookup key.", "lookup_key")
    for price in same:
        price["lookup_key"] = None
    return make_price(call.world, call.account, call.params)


@route("GET", "/v1/prices/{price}")
def price_get(call: Call) -> Obj:
    return call.account.get("price", call.arg)


@route("GET", "/v1/prices")
def price_list(call: Call) -> Obj:
    keys = call.params.get("lookup_keys")
    return page(call, [p for p in call.account.of("price").values() if not keys or p["lookup_key"] in keys],
        ("active", "product", "currency", "type"))


@route("POST", "/v1/prices/{price}")
def price_update(call: Call) -> Obj:
    """Stripe's description has no parameter that would change an amount, an interval or a currency."""
    price = call.account.get("price", call.arg)
    for name in ("active", "nickname", "lookup_key", "tax_behavior"):
        if name in call.params:
            price[name] = call.params[name]
    merge_metadata(price, call.params.get("metadata"))
    call.world.emit(call.account, "price.updated", price)
    return price


@route("POST", "/v1/coupons")
def coupon_create(call: Call) -> Obj:
    params = call.params
    if ("percent_off" in params) == ("amount_off" in params):
        raise bad("You must pass exactly one of `percent_off` and `amount_off`.", "percent_off")
    percent = params.get("percent_off")
    fields: dict[str, Any] = {name: params.get(name)
        for name in ("amount_off", "currency", "duration_in_months", "max_redemptions", "name", "redeem_by")}
    coupon = call.world.new(
        "coupon", "", duration=params.get("duration", "once"), times_redeemed=0, valid=True, applies_to=params.get("applies_to"),
        percent_off=None if percent is None else float(percent), id=params.get("id") or call.world.id("", 8),
        metadata=params.get("metadata"), **fields,
    )  # fmt: skip
    call.world.emit(call.account, "coupon.created", call.account.add(coupon))
    return coupon


@route("GET", "/v1/coupons/{coupon}")
def coupon_get(call: Call) -> Obj:
    return call.account.get("coupon", call.arg)


@route("GET", "/v1/coupons")
def coupon_list(call: Call) -> Obj:
    return page(call, call.account.of("coupon").values())


@route("DELETE", "/v1/coupons/{coupon}")
def coupon_delete(call: Call) -> Obj:
    coupon = call.account.get("coupon", call.arg)
    coupon["valid"] = False
    del call.account.of("coupon")[call.arg]
    return {"id": call.arg, "object": "coupon", "deleted": True}


@route("POST", "/v1/promotion_codes")
def promotion_create(call: Call) -> Obj:
    promotion = call.params["promotion"]
    call.account.get("coupon", promotion.get("coupon", ""), "promotion[coupon]")
    code = call.params.get("code") or call.world.id("", 8).upper()
    if any(p["active"] and p["code"].lower() == code.lower() for p in call.account.of("promotion_code").values()):
        raise bad(f"An active promotion code with `code: {code}` already exists.", "code")
    promo = call.world.new(
        "promotion_code", "promo_1", active=call.params.get("active", True), code=code,
        promotion={"type": "coupon", "coupon": promotion["coupon"]},
        restrictions={"first_time_transaction": False, "minimum_amount": None, "minimum_amount_currency": None,
            **(call.params.get("restrictions") or {})},
        times_redeemed=0,
        customer=call.params.get("customer"), expires_at=call.params.get("expires_at"),
        max_redemptions=call.params.get("max_redemptions"),
        metadata=call.params.get("metadata"),
    )  # fmt: skip
    return call.account.add(promo)


@route("GET", "/v1/promotion_codes/{promotion_code}")
def promotion_get(call: Call) -> Obj:
    return call.account.get("promotion_code", call.arg)


@route("GET", "/v1/promotion_codes")
def promotion_list(call: Call) -> Obj:
    return page(call, call.account.of("promotion_code").values(), ("active", "code"))


@route("POST", "/v1/promotion_codes/{promotion_code}")
def promotion_update(call: Call) -> Obj:
    """Of its terms Stripe's description has only `restrictions[currency_options]` to be changed."""
    promo = call.account.get("promotion_code", call.arg)
    if "active" in call.params:
        promo["active"] = call.params["active"]
    merge_metadata(promo, call.params.get("metadata"))
    return promo


def check_terms(account: Account, given: list[Obj], customer: str | None, products: list[str]) -> None:
    """Whether whoever buys may redeem: who buys for the first time, and one of the products. Raises where Stripe refuses."""
    for item in given:
        promo = account.get("promotion_code", item["promotion_code"], "discounts") if item.get("promotion_code") else None
        coupon = account.get("coupon", promo["promotion"]["coupon"] if promo else item.get("coupon", ""), "discounts")
        wanted = (coupon["applies_to"] or {}).get("products")
        if wanted and not set(wanted) & set(products):
            raise bad("This promotion code or coupon is not for any of these products.", "discounts", "coupon_expired")
        paid = [c for c in account.of("charge").values() if c["customer"] == customer and c["status"] == "succeeded"]
        if promo and promo["restrictions"]["first_time_transaction"] and customer and paid:
            raise bad("This promotion code cannot be redeemed because the associated customer has prior transactions.",
                "discounts", "promotion_code_customer_not_first_time_buyer")


def redeem(world: World, account: Account, given: list[Obj], where: Obj, count: bool = True) -> list[str]:
    """Discount objects for coupons and promotion codes; their ids. `count` says that they are used now, not only shown.

    Raises where Stripe refuses one.
    """
    ids = []
    for item in given:
        promo = account.get("promotion_code", item["promotion_code"], "discounts") if item.get("promotion_code") else None
        coupon = account.get("coupon", promo["promotion"]["coupon"] if promo else item.get("coupon", ""), "discounts")
        for limited in filter(None, (promo, coupon)):
            over = limited["max_redemptions"] is not None and limited["times_redeemed"] >= limited["max_redemptions"]
            late = max(limited.get("redeem_by") or 0, limited.get("expires_at") or 0)
            if over or not limited.get("active", True) or (late and late < world.now):
                raise bad("This promotion code or coupon is not redeemable any more.", "discounts", "coupon_expired")
            limited["times_redeemed"] += count
        months = coupon["duration_in_months"] or 0
        end = world.now + months * 30 * 86_400 if coupon["duration"] == "repeating" else None
        discount: Obj = {
            "id": world.id("di_1"), "object": "discount", "source": {"type": "coupon", "coupon": coupon["id"]},
            "start": world.now,
            "end": end, "promotion_code": promo and promo["id"], **where,
        }  # fmt: skip
        ids.append(account.add(discount, coupon=dict(coupon))["id"])
    return ids


def discounted(account: Account, discounts: list[str], subtotal: int, currency: str) -> list[Obj]:
    """What each discount takes off, in order, never below zero."""
    left, out = max(0, subtotal), []
    for discount in discounts:
        coupon = account.hidden[discount]["coupon"]
        if coupon["amount_off"] is not None:
            if coupon["currency"] != currency:
                raise missing("coupon of this currency", coupon["id"])
            off = min(left, coupon["amount_off"])
        else:
            off = rounded(left * int(Decimal(str(coupon["percent_off"])) * 10_000), 1_000_000)
        left -= off
        out.append({"amount": off, "discount": discount})
    return out

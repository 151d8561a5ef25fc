"""The calls of invoice items: amounts that wait for a customer's next invoice, or join a draft."""

from .catalog import make_price
from .errors import bad
from .invoices import make_item, price_amount, pricing_of, take_items, total_up
from .routes import Call, page, route
from .spec import Obj


@route("POST", "/v1/invoiceitems")
def item_create(call: Call) -> Obj:
    world, account, params = call.world, call.account, call.params
    customer = account.get("customer", params.get("customer", ""), "customer")
    quantity = params.get("quantity", 1)
    named = (params.get("pricing") or {}).get("price")
    price = account.get("price", named, "pricing[price]") if named else None
    if "price_data" in params:
        price = make_price(world, account, params["price_data"], inline=True)
    if price is None and "amount" not in params:
        raise bad("You must pass one of amount, pricing or price_data.", "amount", "parameter_missing")
    amount = price_amount(price, quantity) if price else params["amount"]
    currency = (price["currency"] if price else params.get("currency", account.currency)).lower()
    more: Obj = {"metadata": params.get("metadata"), "description": params.get("description"),
        "discountable": params.get("discountable", amount > 0)}
    more |= {"quantity": quantity, "quantity_decimal": str(quantity), "pricing": price and pricing_of(price)}
    if "period" in params:
        more["period"] = params["period"]
    if "subscription" in params:
        more["about"] = {"subscription": account.get("subscription", params["subscription"], "subscription")["id"]}
    invoice = account.get("invoice", params["invoice"], "invoice") if "invoice" in params else None
    if invoice and invoice["status"] != "draft":
        raise bad("This invoice is no longer editable.", "invoice", "invoice_not_editable")
    if invoice and invoice["currency"] != currency:
        raise bad("The currency of the invoice item must be the invoice's.", "currency")
    item = make_item(world, account, customer["id"], amount, currency, **more)
    if invoice:
        take_items(world, account, invoice, [item])
        world.emit(account, "invoice.updated", invoice)
    return item


@route("GET", "/v1/invoiceitems/{invoiceitem}")
def item_get(call: Call) -> Obj:
    return call.account.get("invoiceitem", call.arg)


@route("GET", "/v1/invoiceitems")
def item_list(call: Call) -> Obj:
    rows = [i for i in call.account.of("invoiceitem").values() if not call.params.get("pending") or not i["invoice"]]
    return page(call, [{**i, "created": i["date"]} for i in rows] if "created" in call.params else rows, ("customer", "invoice"))


def _item_of(line: Obj) -> str | None:
    parent = line["parent"]
    found: str | None = parent[parent["type"]].get("invoice_item")
    return found


@route("DELETE", "/v1/invoiceitems/{invoiceitem}")
def item_delete(call: Call) -> Obj:
    item = call.account.get("invoiceitem", call.arg)
    invoice = call.account.get("invoice", item["invoice"]) if item["invoice"] else None
    if invoice and invoice["status"] != "draft":
        raise bad("You can delete an invoice item only while no invoice has it, or a draft.")
    if invoice:
        lines = invoice["lines"]["data"]
        lines[:] = [line for line in lines if _item_of(line) != item["id"]]
        total_up(call.account, invoice)
    del call.account.of("invoiceitem")[call.arg]
    return {"id": call.arg, "object": "invoiceitem", "deleted": True}

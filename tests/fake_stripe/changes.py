"""Updates of subscriptions: other prices and quantities with proration, ends of trials, pauses, ends at the period's end."""

from typing import Any

from . import invoices
from .catalog import redeem
from .customers import method_of
from .errors import bad
from .routes import Call, route
from .spec import Obj
from .subscriptions import DONE, bill, cancel_at_end, items_of, make_item, period_end, prorate, set_period
from .world import Account, World, merge_metadata


@route("POST", "/v1/subscriptions/{subscription_exposed_id}")
def sub_update(call: Call) -> Obj:
    world, account, params = call.world, call.account, call.params
    sub = account.get("subscription", call.arg)
    if sub["status"] in DONE and set(params) - {"metadata", "cancellation_details"}:
        raise bad("A canceled subscription can only update its cancellation_details and metadata.")
    before = {name: sub[name] for name in sub if name not in ("items", "metadata")} | {"metadata": dict(sub["metadata"])}
    _simple(world, account, sub, params)
    if params.get("trial_end") == "now" and sub["status"] == "trialing":
        sub["trial_end"] = world.now
        _restart(world, account, sub)
    elif params.get("items"):
        _items(world, account, sub, params)
    changed = {name: value for name, value in before.items() if sub[name] != value}
    world.emit(account, "customer.subscription.updated", sub, changed)
    return sub


def _simple(world: World, account: Account, sub: Obj, params: Obj) -> None:
    if "application_fee_percent" in params:
        if account.is_platform:
            raise bad("Can only apply an application_fee_percent with a connected account.", "application_fee_percent")
        sub["application_fee_percent"] = float(params["application_fee_percent"]) if params[
            "application_fee_percent"] != "" else None
    if params.get("default_payment_method"):
        sub["default_payment_method"] = method_of(world, account, params["default_payment_method"])["id"]
    if "cancel_at_period_end" in params:
        sub["cancel_at_period_end"] = params["cancel_at_period_end"]
        sub["cancel_at"] = None
        sub["canceled_at"] = world.now if params["cancel_at_period_end"] else None
        cancel_at_end(sub)
    if "cancel_at" in params:
        sub["cancel_at"] = params["cancel_at"] if isinstance(params["cancel_at"], int) else None
        sub["canceled_at"] = world.now if sub["cancel_at"] else None
    if "pause_collection" in params:
        pause: Any = params["pause_collection"]
        sub["pause_collection"] = {"resumes_at": None, **pause} if pause else None
    if "description" in params:
        sub["description"] = params["description"] or None
    if "cancellation_details" in params:
        sub["cancellation_details"] = {"comment": None, "feedback": None, "reason": None, **(sub["cancellation_details"] or {}),
            **params["cancellation_details"]}
    if "discounts" in params:
        where = {"customer": sub["customer"], "subscription": sub["id"]}
        sub["discounts"] = redeem(world, account, params["discounts"] or [], where)
    merge_metadata(sub, params.get("metadata"))


def _items(world: World, account: Account, sub: Obj, params: Obj) -> None:
    """New, changed and deleted items; a change of the interval begins a new period now."""
    behavior = params.get("proration_behavior", "create_prorations")
    at = params.get("proration_date")
    known = {item["id"]: item for item in items_of(sub)}
    old_interval = items_of(sub)[0]["price"]["recurring"]
    credited: list[tuple[Obj, Obj, int]] = []
    debits: list[Obj] = []
    for wish in params["items"]:
        if "id" in wish and wish["id"] not in known:
            raise bad(f"No such subscription item: '{wish['id']}'", "items[0][id]", "resource_missing")
        fresh = None if wish.get("deleted") and "id" in wish else make_item(world, account, sub,
            {**_kept(known.get(wish.get("id", ""))), **wish})
        if fresh:
            first = items_of(sub)[0]
            fresh["current_period_start"], fresh["current_period_end"] = first["current_period_start"], first[
                "current_period_end"]
            if fresh["price"]["currency"] != sub["currency"]:
                raise bad("The price's currency must be the subscription's.", "items")
        if "id" in wish:
            item = known[wish["id"]]
            if fresh:
                del account.of("subscription_item")[fresh["id"]]
                if (fresh["price"]["id"], fresh["quantity"]) == (item["price"]["id"], item["quantity"]):
                    continue
                credited.append((item, item["price"], item["quantity"]))
                item |= {"price": fresh["price"], "quantity": fresh["quantity"]}
                debits.append(item)
            else:
                credited.append((item, item["price"], item["quantity"]))
                sub["items"]["data"].remove(item)
        elif fresh:
            sub["items"]["data"].append(fresh)
            debits.append(fresh)
    if not items_of(sub):
        raise bad("A subscription must have at least one active plan.", "items")
    other = any(item["price"]["recurring"] != old_interval for item in items_of(sub))
    if behavior != "none" and sub["status"] != "trialing":
        for item, price, quantity in credited:
            prorate(world, account, sub, item, price, quantity, -1, at)
        for item in debits if not other else []:
            prorate(world, account, sub, item, item["price"], item["quantity"], 1, at)
    if other and sub["status"] != "trialing":
        _restart(world, account, sub)
    elif behavior == "always_invoice" and invoices.pending_items(account, sub["customer"], sub["id"]):
        collect_now(world, account, sub, "subscription_update", only_pending=True)


def _kept(item: Obj | None) -> Obj:
    return {"price": item["price"]["id"], "quantity": item["quantity"]} if item else {}


def _restart(world: World, account: Account, sub: Obj) -> None:
    """A new period from now on, invoiced at once."""
    if sub["status"] == "trialing":
        sub["status"] = "active"
    sub["billing_cycle_anchor"] = world.now
    set_period(sub, world.now, period_end(world.now, items_of(sub)[0]["price"], world.now))
    cancel_at_end(sub)
    collect_now(world, account, sub, "subscription_update")


def collect_now(world: World, account: Account, sub: Obj, reason: str, only_pending: bool = False) -> Obj:
    invoice = bill(world, account, sub, reason, draft=True, only_pending=only_pending)
    invoices.finalize(world, account, invoice)
    if invoice["status"] == "open":
        invoices.collect(world, account, invoice)
    return invoice

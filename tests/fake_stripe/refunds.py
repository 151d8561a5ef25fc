"""Refunds, and the platform's fees with their refunds.

A refund takes its amount from the account that was paid; Stripe keeps its own fee. The application fee comes back only when it is
asked for (`refund_application_fee`, in proportion) or refunded by itself. Simplified: a refund that fails later gives the charge
its money back, and does not take a returned application fee back.
"""

from typing import Any

from .charges import kind_of
from .errors import bad
from .routes import Call, collection, page, route
from .spec import Obj
from .world import APPLICATION, Account, World, merge_metadata, rounded


def make_refund(world: World, account: Account, charge: Obj, params: Obj, dashboard: bool = False) -> Obj:
    if charge["status"] != "succeeded":
        raise bad(f"Charge {charge['id']} has not been paid.", "charge")
    if charge["refunded"]:
        raise bad(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    lost = [d for d in account.of("dispute").values() if d["charge"] == charge["id"] and not d["is_charge_refundable"]
        and d["status"] != "won"]
    if lost:
        raise bad(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    left = charge["amount"] - charge["amount_refunded"]
    amount = params.get("amount", left)
    if not 0 < amount <= left:
        raise bad(f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", "amount")
    give_fee = params.get("refund_application_fee", False)
    if give_fee and not charge["application_fee"]:
        raise bad("The charge has no application fee to refund.", "refund_application_fee")
    card = account.hidden[charge["payment_method"]]["card"]
    status = "pending" if card in ("refund_pending", "async") else "succeeded"
    short = world.strict_balance and world.balance_of(account, charge["currency"]) < amount
    refund = world.new(
        "refund", "re_3", amount=amount, charge=charge["id"], currency=charge["currency"],
        payment_intent=charge["payment_intent"],
        reason=params.get("reason"), status="pending" if short else status, metadata=params.get("metadata"),
        destination_details={"type": "card",
            "card": {"reference": "1" * 12, "reference_status": "available", "type": "refund"}} if status == "succeeded"
                else None,
    )  # fmt: skip
    del refund["livemode"]
    if refund["destination_details"] is None:
        del refund["destination_details"]
    if refund["status"] == "pending":
        refund["pending_reason"] = "insufficient_funds" if short else "processing"
    account.add(refund, fails=card == "refund_fail", unpaid=short)
    back = fee_share(world, charge, amount) if give_fee else 0
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    if not short:
        _take(world, account, refund, back)
    if back:
        refund_fee(world, world.platform.get("application_fee", charge["application_fee"]), back)
    world.emit(account, "refund.created", refund)
    world.emit(account, "charge.refunded", charge)
    if back and short:
        account.hidden[refund["id"]]["back"] = back
    return refund


def _take(world: World, account: Account, refund: Obj, back: int) -> None:
    fees = [world.fee_line("application_fee", -back, refund["currency"], APPLICATION)] if back else []
    kind = kind_of(account.get("charge", refund["charge"]), "refund")
    refund["balance_transaction"] = world.move(account, kind, -refund["amount"], refund["currency"], refund["id"],
        fees=fees, wait=0, category="refund")["id"]


def fee_share(world: World, charge: Obj, amount: int) -> int:
    """What of the application fee goes with a refund of `amount`: its share, and all that is left with the last."""
    fee = world.platform.get("application_fee", charge["application_fee"])
    left: int = fee["amount"] - fee["amount_refunded"]
    if charge["amount_refunded"] + amount == charge["amount"]:
        return left
    return min(left, rounded(fee["amount"] * amount, charge["amount"]))


def refund_fee(world: World, fee: Obj, amount: int, metadata: Any = None) -> Obj:
    platform = world.platform
    row: Obj = {
        "id": world.id("fr_1"), "object": "fee_refund", "amount": amount, "created": world.now, "currency": fee["currency"],
        "fee": fee["id"], "metadata": dict(metadata or {}),
    }  # fmt: skip
    row["balance_transaction"] = world.move(platform, "application_fee_refund", -amount, fee["currency"], row["id"], wait=0,
        category="platform_earning_refund")["id"]
    platform.add(row)
    fee["amount_refunded"] += amount
    fee["refunded"] = fee["amount_refunded"] == fee["amount"]
    fee["refunds"]["data"].insert(0, row)
    world.emit(platform, "application_fee.refunded", fee)
    return row


def finish(world: World, account: Account, refund: Obj, status: str, reason: str = "expired_or_canceled_card") -> Obj:
    """A refund's later end: succeeded, or failed (also after it had succeeded, as banks do)."""
    before = {"status": refund["status"]}
    charge = account.get("charge", refund["charge"])
    hidden = account.hidden[refund["id"]]
    if refund["status"] == "failed" or (status == "succeeded" and refund["status"] != "pending"):
        raise bad(f"the refund is {refund['status']} already")
    if hidden.pop("unpaid", False) and status == "succeeded":
        _take(world, account, refund, hidden.pop("back", 0))
    refund.pop("pending_reason", None)
    refund["status"] = status
    if status == "failed":
        refund["failure_reason"] = reason
        if refund["balance_transaction"]:
            undo = world.move(account, "refund_failure", refund["amount"], refund["currency"], refund["id"], wait=0)
            refund["failure_balance_transaction"] = undo["id"]
        charge["amount_refunded"] -= refund["amount"]
        charge["refunded"] = False
        world.emit(account, "refund.failed", refund)
    world.emit(account, "refund.updated", refund, before)
    world.emit(account, "charge.refund.updated", refund, before)
    return refund


@route("POST", "/v1/refunds")
def refund_create(call: Call) -> Obj:
    if "payment_intent" in call.params:
        intent = call.account.get("payment_intent", call.params["payment_intent"], "payment_intent", 404)
        if not intent["latest_charge"]:
            raise bad("This PaymentIntent does not have a successful charge to refund.", "payment_intent")
        charge = call.account.get("charge", intent["latest_charge"])
    elif "charge" in call.params:
        charge = call.account.get("charge", call.params["charge"], "charge", 404)
    else:
        raise bad("One of the following params should be provided for this request: payment_intent or charge.",
            code="parameter_missing")
    return make_refund(call.world, call.account, charge, call.params)


@route("GET", "/v1/refunds/{refund}")
def refund_get(call: Call) -> Obj:
    return call.account.get("refund", call.arg)


@route("GET", "/v1/refunds")
def refund_list(call: Call) -> Obj:
    return page(call, call.account.of("refund").values(), ("charge", "payment_intent"))


@route("POST", "/v1/refunds/{refund}")
def refund_update(call: Call) -> Obj:
    refund = call.account.get("refund", call.arg)
    merge_metadata(refund, call.params.get("metadata"))
    call.world.emit(call.account, "refund.updated", refund)
    return refund


@route("GET", "/v1/application_fees/{id}")
def fee_get(call: Call) -> Obj:
    return call.account.get("application_fee", call.arg)


@route("GET", "/v1/application_fees")
def fee_list(call: Call) -> Obj:
    return page(call, call.account.of("application_fee").values(), ("charge",))


@route("POST", "/v1/application_fees/{id}/refunds")
def fee_refund(call: Call) -> Obj:
    """The platform gives a fee back by itself: the connected account gets it as an adjustment of its balance."""
    fee = call.account.get("application_fee", call.arg)
    left = fee["amount"] - fee["amount_refunded"]
    amount = call.params.get("amount", left)
    if not 0 < amount <= left:
        raise bad(f"Refund amount ({amount}) is greater than unrefunded amount on application fee ({left})", "amount",
            "application_fee_refund_too_large")
    account = call.world.accounts[fee["account"]]
    row = refund_fee(call.world, fee, amount, call.params.get("metadata"))
    call.world.move(account, "adjustment", amount, fee["currency"], fee["charge"], wait=0, category="fee",
        description="Application fee refund")
    return row


@route("GET", "/v1/application_fees/{id}/refunds")
def fee_refund_list(call: Call) -> Obj:
    fee = call.account.get("application_fee", call.arg)
    return collection(list(fee["refunds"]["data"])[: call.params.get("limit", 10)], call.url)

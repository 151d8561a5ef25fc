"""Balances, balance transactions and payouts to the bank."""

from .errors import bad
from .routes import Call, page, route
from .spec import Obj
from .world import DAY, Account, World


@route("GET", "/v1/balance")
def balance(call: Call) -> Obj:
    world, account = call.world, call.account
    currencies = sorted({t["currency"] for t in account.of("balance_transaction").values()} | {account.currency})
    ready = {c: world.balance_of(account, c, available=True) for c in currencies}
    rows = [{"amount": ready[c], "currency": c, "source_types": {"card": ready[c]}} for c in currencies]
    totals = [(c, world.balance_of(account, c)) for c in currencies]
    waiting: list[Obj] = [{"amount": total - ready[c], "currency": c, "source_types": {}} for c, total in totals]
    return {"object": "balance", "available": rows, "livemode": False, "pending": waiting}


def _seen(world: World, row: Obj) -> Obj:
    return {**row, "status": "available" if row["available_on"] <= world.now else "pending"}


@route("GET", "/v1/balance_transactions/{id}")
def transaction(call: Call) -> Obj:
    return _seen(call.world, call.account.get("balance_transaction", call.arg))


@route("GET", "/v1/balance_transactions")
def transactions(call: Call) -> Obj:
    rows = [_seen(call.world, row) for row in call.account.of("balance_transaction").values()]
    return page(call, rows, ("type", "source", "currency"))


@route("POST", "/v1/payouts")
def payout_create(call: Call) -> Obj:
    world, account = call.world, call.account
    amount, currency = call.params["amount"], call.params["currency"].lower()
    if amount > world.balance_of(account, currency, available=True):
        raise bad("You have insufficient funds in your Stripe account for this transfer.", code="balance_insufficient")
    payout = world.new(
        "payout", "po_1", amount=amount, arrival_date=world.now + 2 * DAY, automatic=False, currency=currency, method="standard",
        reconciliation_status="not_applicable", source_type="card", status="pending", type="bank_account",
        metadata=call.params.get("metadata"),
        description=call.params.get("description"),
    )  # fmt: skip
    payout["balance_transaction"] = world.move(account, "payout", -amount, currency, payout["id"], wait=0)["id"]
    world.emit(account, "payout.created", account.add(payout))
    return payout


def finish(world: World, account: Account, payout: Obj, paid: bool) -> Obj:
    if payout["status"] == "failed" or (paid and payout["status"] == "paid"):
        raise bad(f"the payout is {payout['status']}")
    payout["status"] = "paid" if paid else "failed"
    if not paid:
        payout |= {"failure_code": "account_closed", "failure_message": "The bank account has been closed"}
        back = world.move(account, "payout_failure", payout["amount"], payout["currency"], payout["id"], wait=0)
        payout["failure_balance_transaction"] = back["id"]
    world.emit(account, "payout.paid" if paid else "payout.failed", payout)
    return payout


@route("GET", "/v1/payouts/{payout}")
def payout_get(call: Call) -> Obj:
    return call.account.get("payout", call.arg)


@route("GET", "/v1/payouts")
def payout_list(call: Call) -> Obj:
    return page(call, call.account.of("payout").values(), ("status",))

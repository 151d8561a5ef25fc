"""The fake's own books: what must be true of its state at every moment, whatever was asked of it."""

from .spec import Obj
from .world import Account, World


def audit(world: World) -> list[str]:
    """Sentences about what is wrong; empty when nothing is."""
    wrong: list[str] = []
    for account in world.accounts.values():
        wrong += [f"{account.id}: {text}" for text in [*_charges(account), *_invoices(account), *_moves(account)]]
    return wrong + _fees(world)


def _charges(account: Account) -> list[str]:
    wrong = []
    refunds: dict[str, int] = {}
    for refund in account.of("refund").values():
        if refund["status"] != "failed":
            refunds[refund["charge"]] = refunds.get(refund["charge"], 0) + refund["amount"]
    for charge in account.of("charge").values():
        back = refunds.get(charge["id"], 0)
        if charge["amount_refunded"] != back or back > charge["amount"]:
            wrong.append(f"charge {charge['id']}: refunded {charge['amount_refunded']}, refunds {back}, of {charge['amount']}")
        if (charge["status"] == "succeeded") != bool(charge["balance_transaction"]):
            wrong.append(f"charge {charge['id']} is {charge['status']} with balance transaction {charge['balance_transaction']}")
    for intent in account.of("payment_intent").values():
        paid = [c for c in account.of("charge").values() if c["payment_intent"] == intent["id"] and c["status"] == "succeeded"]
        if sum(c["amount"] for c in paid) != intent["amount_received"] or len(paid) > 1:
            wrong.append(f"intent {intent['id']}: received {intent['amount_received']}, charges {len(paid)}")
    return wrong


def _expected(account: Account) -> dict[str, int]:
    """What each object should have moved on the account's balance, before fees."""
    out = {c["id"]: c["amount"] for c in account.of("charge").values() if c["status"] == "succeeded"}
    for refund in account.of("refund").values():
        out[refund["id"]] = -refund["amount"] if refund["balance_transaction"] and refund["status"] != "failed" else 0
    for dispute in account.of("dispute").values():
        took = bool(dispute["balance_transactions"]) and dispute["status"] != "won"
        out[dispute["id"]] = -dispute["amount"] if took else 0
    for payout in account.of("payout").values():
        out[payout["id"]] = 0 if payout["status"] == "failed" else -payout["amount"]
    for fee in account.of("application_fee").values():
        out[fee["id"]] = fee["amount"]
    for back in account.of("fee_refund").values():
        out[back["id"]] = -back["amount"]
    return out


def _moves(account: Account) -> list[str]:
    """The balance transactions are the objects' amounts, each once, and add up by themselves."""
    wrong = []
    sums: dict[str, int] = {}
    for row in account.of("balance_transaction").values():
        if row["reporting_category"] != "fee":
            sums[row["source"]] = sums.get(row["source"], 0) + row["amount"]
        if row["net"] != row["amount"] - row["fee"] or row["fee"] != sum(item["amount"] for item in row["fee_details"]):
            wrong.append(f"balance transaction {row['id']} does not add up")
    expected = _expected(account)
    off = [key for key in sorted(expected.keys() | sums.keys()) if expected.get(key, 0) != sums.get(key, 0)]
    return wrong + [f"{key}: {sums.get(key, 0)} on the balance instead of {expected.get(key, 0)}" for key in off]


def _invoices(account: Account) -> list[str]:
    wrong = []
    for invoice in account.of("invoice").values():
        lines = sum(line["amount"] for line in invoice["lines"]["data"])
        off = sum(item["amount"] for item in invoice["total_discount_amounts"] or [])
        if invoice["subtotal"] != lines or invoice["total"] != lines - off:
            wrong.append(f"{invoice['id']}: lines {lines}, discounts {off}, but {invoice['subtotal']} and {invoice['total']}")
        owed = max(0, invoice["ending_balance"] or 0)
        if invoice["amount_due"] != max(0, invoice["total"] + invoice["starting_balance"]) - owed:
            wrong.append(f"{invoice['id']}: due {invoice['amount_due']} of {invoice['total']} and {invoice['starting_balance']}")
        paid = [row for row in account.of("invoice_payment").values() if row["invoice"] == invoice["id"]
            and row["status"] == "paid"]
        came = sum(row["amount_paid"] for row in paid)
        if invoice["amount_paid"] != came or (invoice["status"] == "paid" and came != invoice["amount_due"]):
            wrong.append(f"invoice {invoice['id']} is {invoice['status']}: paid {invoice['amount_paid']}, payments {came}")
        elsewhere = sum(row["amount_paid"] for row in paid if row["payment"]["type"] == "payment_record")
        if invoice["amount_paid_off_stripe"] != elsewhere:
            wrong.append(f"invoice {invoice['id']}: {elsewhere} out of band, and not {invoice['amount_paid_off_stripe']}")
    return wrong + _used(account)


def _used(account: Account) -> list[str]:
    """No payment intent pays more of invoices than it took, and one that was made for an invoice pays all of it there."""
    used = {name: 0 for name in account.of("payment_intent") if account.hidden[name].get("invoice")}
    for row in account.of("invoice_payment").values():
        if row["status"] == "paid" and row["payment"]["type"] == "payment_intent":
            name = row["payment"]["payment_intent"]
            used[name] = used.get(name, 0) + row["amount_paid"]
    took = account.of("payment_intent")
    return [
        f"intent {name} paid {paid} of {took[name]['amount_received']}"
        for name, paid in used.items()
        if paid > took[name]["amount_received"] or (account.hidden[name].get("invoice") and paid < took[name]["amount_received"])
    ]


def _fee_details(account: Account) -> int:
    rows = account.of("balance_transaction").values()
    paid: int = sum(item["amount"] for row in rows for item in row["fee_details"] if item["type"] == "application_fee")
    returned: int = sum(row["amount"] for row in rows if row["reporting_category"] == "fee")
    return paid - returned


def _fees(world: World) -> list[str]:
    """What connected accounts paid in application fees is what the platform got, less what it gave back."""
    wrong = []
    fees = world.platform.of("application_fee").values()
    refunds = world.platform.of("fee_refund").values()
    for account in world.connected():
        got = sum(fee["amount"] - fee["amount_refunded"] for fee in fees if fee["account"] == account.id)
        # A refund that waits for funds has returned its fee to an account whose balance does not show it yet.
        waiting = sum(account.hidden.get(r["id"], {}).get("back", 0) for r in account.of("refund").values())
        if got + waiting != _fee_details(account):
            wrong.append(f"{account.id}: paid {_fee_details(account)} in fees, the platform has {got}")
    for fee in fees:
        back = sum(row["amount"] for row in refunds if row["fee"] == fee["id"])
        charge = world.accounts[fee["account"]].of("charge")[fee["charge"]]
        if fee["amount_refunded"] != back or back > fee["amount"] or min(charge["application_fee_amount"], charge[
            "amount"]) != fee["amount"]:
            wrong.append(f"fee {fee['id']}: {fee['amount']}, refunded {fee['amount_refunded']}, refunds {back}")
    return wrong


def state(world: World) -> Obj:
    """Everything, by account and kind."""
    return {
        account.id: {"deauthorized": account.deauthorized, "capability": account.capability,
            **{k: list(v.values()) for k, v in account.kinds.items()}}
        for account in world.accounts.values()
    }

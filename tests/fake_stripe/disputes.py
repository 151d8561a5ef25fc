"""Disputes: what the card's issuer does, and what the account may answer."""

from typing import Any

from .charges import ON_CHARGED
from .errors import bad
from .routes import Call, page, route
from .spec import Obj, schemas
from .world import DAY, DISPUTE_FEE, Account, World, merge_metadata


def open_dispute(world: World, account: Account, charge: Obj, reason: str = "fraudulent", amount: int | None = None,
    inquiry: bool = False) -> Obj:
    """The issuer disputes a charge: the money (and Stripe's fee for it) leaves at once, unless it only inquires."""
    if charge["disputed"] or charge["status"] != "succeeded":
        raise bad("the charge cannot be disputed")
    evidence = dict.fromkeys(schemas()["dispute_evidence"]["properties"]) | {"enhanced_evidence": {}}
    dispute = world.new(
        "dispute", "du_1", amount=amount if amount is not None else charge["amount"] - charge["amount_refunded"],
        balance_transactions=[], charge=charge["id"], currency=charge["currency"],
        enhanced_eligibility_types=[], evidence=evidence, is_charge_refundable=inquiry, payment_intent=charge["payment_intent"],
        reason=reason,
        evidence_details={"due_by": world.now + 7 * DAY, "enhanced_eligibility": {}, "has_evidence": False, "past_due": False,
            "submission_count": 0},
        status="warning_needs_response" if inquiry else "needs_response",
    )  # fmt: skip
    account.add(dispute)
    charge["disputed"] = True
    if not inquiry:
        _move(world, account, dispute, -dispute["amount"], DISPUTE_FEE.get(dispute["currency"], 1500))
    world.emit(account, "charge.dispute.created", dispute)
    if not inquiry:
        world.emit(account, "charge.dispute.funds_withdrawn", dispute)
    return dispute


def _move(world: World, account: Account, dispute: Obj, amount: int, fee: int) -> None:
    fees = [world.fee_line("stripe_fee", fee, dispute["currency"])] if fee else []
    category = "dispute" if amount < 0 else "dispute_reversal"
    row = world.move(account, "adjustment", amount, dispute["currency"], dispute["id"], fees=fees, wait=0, category=category)
    dispute["balance_transactions"] = [*dispute["balance_transactions"], row]


def close(world: World, account: Account, dispute: Obj, won: bool, fee_back: bool = False) -> Obj:
    """The issuer's decision; what was withdrawn comes back when the account won, and in some countries Stripe's fee."""
    if dispute["status"] in ("won", "lost", "warning_closed"):
        raise bad(f"This dispute is already closed: {dispute['status']}")
    before = {"status": dispute["status"]}
    inquiry = dispute["status"].startswith("warning")
    dispute["status"] = "warning_closed" if inquiry else "won" if won else "lost"
    if won and not inquiry:
        fee = sum(row["fee"] for row in dispute["balance_transactions"])
        _move(world, account, dispute, dispute["amount"], -fee if fee_back else 0)
        world.emit(account, "charge.dispute.funds_reinstated", dispute)
    world.emit(account, "charge.dispute.closed", dispute, before)
    return dispute


def _of_card(world: World, account: Account, charge: Obj, card: str) -> None:
    kind, _, reason = card.partition(":")
    if kind in ("dispute", "inquiry"):
        open_dispute(world, account, charge, reason, inquiry=kind == "inquiry")


ON_CHARGED.append(_of_card)


@route("GET", "/v1/disputes/{dispute}")
def dispute_get(call: Call) -> Obj:
    return call.account.get("dispute", call.arg)


@route("GET", "/v1/disputes")
def dispute_list(call: Call) -> Obj:
    return page(call, call.account.of("dispute").values(), ("charge", "payment_intent"))


@route("POST", "/v1/disputes/{dispute}")
def dispute_update(call: Call) -> Obj:
    """Evidence: kept with submit=false; otherwise under review. Stripe's test words win and lose at once."""
    dispute = call.account.get("dispute", call.arg)
    if dispute["status"] not in ("needs_response", "warning_needs_response"):
        raise bad(f"This dispute is already {dispute['status']}")
    evidence: dict[str, Any] = call.params.get("evidence") or {}
    dispute["evidence"] |= evidence
    merge_metadata(dispute, call.params.get("metadata"))
    dispute["evidence_details"]["has_evidence"] = bool(evidence) or dispute["evidence_details"]["has_evidence"]
    if call.params.get("submit", True):
        before = {"status": dispute["status"]}
        dispute["evidence_details"]["submission_count"] += 1
        dispute["status"] = "warning_under_review" if dispute["status"].startswith("warning") else "under_review"
        call.world.emit(call.account, "charge.dispute.updated", dispute, before)
        word = evidence.get("uncategorized_text")
        if word in ("winning_evidence", "losing_evidence"):
            close(call.world, call.account, dispute, word == "winning_evidence")
    return dispute


@route("POST", "/v1/disputes/{dispute}/close")
def dispute_close(call: Call) -> Obj:
    return close(call.world, call.account, call.account.get("dispute", call.arg), won=False)

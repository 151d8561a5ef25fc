"""What falls due when the clock moves: every moment in its order, so that a jump of a year plays as the year would."""

from collections.abc import Callable, Iterator

from . import checkout, invoices, payouts, refunds
from .errors import bad
from .spec import Obj
from .subscriptions import bill, cancel, cancel_at_end, change, items_of, period_end, set_period
from .world import DAY, Account, World

Work = tuple[int, Callable[[], object]]
INCOMPLETE_S = 23 * 3600
STEPS_MAX = 100_000


def advance(world: World, to: int) -> int:
    """Moves the clock to `to` (Unix seconds) and does what falls due until then; the number of things done."""
    if to < world.now:
        raise bad("the clock does not go back")
    for done in range(STEPS_MAX):
        work = min(_due(world), key=lambda item: item[0], default=None)
        if work is None or work[0] > to:
            world.now = to
            return done
        world.now = max(world.now, work[0])
        work[1]()
    raise AssertionError("the clock's work does not end")


def _due(world: World) -> Iterator[Work]:
    for account in list(world.accounts.values()):
        if account.deauthorized:
            continue
        for sub in account.of("subscription").values():
            yield from _of_subscription(world, account, sub)
        for invoice in account.of("invoice").values():
            yield from _of_invoice(world, account, invoice)
        for session in account.of("checkout.session").values():
            if session["status"] == "open":
                yield session["expires_at"], lambda a=account, s=session: checkout.expire(world, a, s)  # type: ignore[misc]
        for refund in account.of("refund").values():
            if account.hidden[refund["id"]]["fails"] and refund["status"] == "succeeded":
                yield refund["created"] + DAY, lambda a=account, r=refund: refunds.finish(world, a, r, "failed")  # type: ignore[misc]
        for payout in account.of("payout").values():
            if payout["status"] == "pending":
                yield payout["arrival_date"], lambda a=account, p=payout: payouts.finish(world, a, p, True)  # type: ignore[misc]


def _of_subscription(world: World, account: Account, sub: Obj) -> Iterator[Work]:
    if sub["status"] == "incomplete":
        yield sub["created"] + INCOMPLETE_S, lambda: _give_up(world, account, sub)
    if sub["status"] not in ("active", "trialing", "past_due", "unpaid"):
        return
    if sub["cancel_at"]:
        yield sub["cancel_at"], lambda: cancel(world, account, sub)
    if sub["status"] == "trialing" and not account.hidden[sub["id"]]["reminded"]:
        yield max(sub["trial_end"] - 3 * DAY, sub["start_date"]), lambda: _remind(world, account, sub)
    if sub["pause_collection"] and sub["pause_collection"]["resumes_at"]:
        yield sub["pause_collection"]["resumes_at"], lambda: change(world, account, sub, pause_collection=None)
    yield items_of(sub)[0]["current_period_end"], lambda: _renew(world, account, sub)


def _remind(world: World, account: Account, sub: Obj) -> None:
    account.hidden[sub["id"]]["reminded"] = True
    world.emit(account, "customer.subscription.trial_will_end", sub)


def _give_up(world: World, account: Account, sub: Obj) -> None:
    invoice = account.get("invoice", sub["latest_invoice"])
    if invoice["status"] == "open":
        invoices.end(world, account, invoice, "void")
    else:
        change(world, account, sub, status="incomplete_expired", ended_at=world.now)


def _renew(world: World, account: Account, sub: Obj) -> None:
    """The next period: its invoice is a draft for an hour, in which overage can still be added to it."""
    customer = account.of("customer").get(sub["customer"])
    if customer is None:
        cancel(world, account, sub)
        return
    before = {"current_period_end": items_of(sub)[0]["current_period_end"], "status": sub["status"]}
    start = before["current_period_end"]
    if sub["status"] == "trialing":
        payable = sub["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
        wish = sub["trial_settings"]["end_behavior"]["missing_payment_method"]
        if not payable and wish == "cancel":
            cancel(world, account, sub)
            return
        if not payable and wish == "pause":
            change(world, account, sub, status="paused")
            world.emit(account, "customer.subscription.paused", sub)
            return
        sub["status"] = "active"
    set_period(sub, start, period_end(start, items_of(sub)[0]["price"], sub["billing_cycle_anchor"]))
    cancel_at_end(sub)
    invoice = bill(world, account, sub, "subscription_cycle")
    if sub["status"] == "unpaid":
        invoice |= {"auto_advance": False, "automatically_finalizes_at": None}
    if sub["pause_collection"] and sub["pause_collection"]["behavior"] == "keep_as_draft":
        invoice |= {"auto_advance": False, "automatically_finalizes_at": None}
    world.emit(account, "customer.subscription.updated", sub, {"latest_invoice": None, "status": before["status"]})


def _of_invoice(world: World, account: Account, invoice: Obj) -> Iterator[Work]:
    if invoice["status"] == "draft" and invoice["auto_advance"]:
        yield invoice["automatically_finalizes_at"] or invoice["created"] + 3600, lambda: _advance_draft(world, account, invoice)
    by_itself = invoices.subscription_of(invoice) is None and invoice["auto_advance"]
    if invoice["status"] == "open" and by_itself and not invoice["attempted"]:
        asked = invoice["status_transitions"]["finalized_at"] + 3600
        yield asked, lambda: invoices.collect(world, account, invoice)
    if invoice["status"] == "open" and invoice["next_payment_attempt"]:
        yield invoice["next_payment_attempt"], lambda: _retry(world, account, invoice)


def _advance_draft(world: World, account: Account, invoice: Obj) -> None:
    sub = account.of("subscription").get(invoices.subscription_of(invoice) or "")
    pause = sub and sub["pause_collection"]
    invoices.finalize(world, account, invoice)
    if pause and invoice["status"] == "open":
        invoices.end(world, account, invoice, "void" if pause["behavior"] == "void" else "uncollectible")
    elif invoice["status"] == "open":
        invoices.collect(world, account, invoice)


def _retry(world: World, account: Account, invoice: Obj) -> None:
    invoice["next_payment_attempt"] = None
    invoices.collect(world, account, invoice)



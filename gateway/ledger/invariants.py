"""The invariants of the books, each a pure function: None when it holds, else the violation in plain words.

Numbered as in the design's list. The random tests run them after every step, the audit on live data. Number 13 is for
tests alone: a book does not say what was refused.
"""

from typing import Final

from gateway.core.words import Level
from gateway.ledger.model import (
    AVAILABLE,
    CORRECTION,
    DEBT,
    DISPUTE_LOST,
    DISPUTE_OPENED,
    DISPUTE_WON,
    EXPIRY,
    FROZEN,
    GRANT,
    OVERAGE,
    REFUND,
    REINSTATE,
    USAGE,
)

REVERSIBLE: Final = {
    DISPUTE_WON: (DISPUTE_OPENED,),
    DISPUTE_LOST: (DISPUTE_OPENED,),
    REINSTATE: (DISPUTE_LOST,),
    CORRECTION: (GRANT, REFUND, EXPIRY, USAGE),
}


def txn_sums_to_zero(txn_id: str, asset: str, total_micro: int) -> str | None:
    """1: `total_micro` is the sum of a transaction's entries in one asset."""
    if total_micro == 0:
        return None
    return f"transaction {txn_id} does not balance: its {asset} entries sum to {total_micro}"


def balance_is_sum(account: str, balance_micro: int, entries_micro: int) -> str | None:
    """2: an account's balance is the sum of its entries."""
    if balance_micro == entries_micro:
        return None
    return f"account {account} stands at {balance_micro}, its entries sum to {entries_micro}"


def lot_adds_up(lot_id: str, granted: int, spent: int, expired: int, refunded: int, frozen: int, left: int) -> str | None:
    """3: a lot's parts make up what was granted, and none is negative."""
    if min(granted, spent, expired, refunded, frozen, left) < 0:
        return f"lot {lot_id} has a negative part"
    if granted == spent + expired + refunded + frozen + left:
        return None
    return f"lot {lot_id} was granted {granted}, its parts sum to {spent + expired + refunded + frozen + left}"


def lots_make_available(account: str, available_micro: int, left_micro: int) -> str | None:
    """3: what a wallet's lots have left is its available balance."""
    if available_micro == left_micro:
        return None
    return f"account {account} has {available_micro} available, its lots have {left_micro} left"


def lots_make_frozen(account: str, frozen_micro: int, lots_micro: int) -> str | None:
    """3: what is frozen of a wallet's lots is its frozen balance."""
    if frozen_micro == lots_micro:
        return None
    return f"account {account} has {frozen_micro} frozen, of its lots {lots_micro} is"


def right_side_of_zero(account: str, kind: str, balance_micro: int) -> str | None:
    """4: available and frozen are never below zero, and a receivable never above (that would be money of its owner)."""
    if kind in (AVAILABLE, FROZEN) and balance_micro < 0:
        return f"account {account} is below zero: {balance_micro}"
    if kind in (DEBT, OVERAGE) and balance_micro > 0:
        return f"account {account} is a debt above zero: {balance_micro}"
    return None


def no_more_repaid_than_used(wallet: str, overage_micro: int, left_micro: int) -> str | None:
    """4: what stands on an owner's overage is what can still be used of what was lent, and what was used and is unpaid.

    `overage_micro` is the balance of `receivable.overage`, `left_micro` what is left of the lots that were lent.
    """
    if -overage_micro >= left_micro:
        return None
    return f"wallet {wallet} has {left_micro} left of what was lent, and stands for {-overage_micro} of it"


def captured_once(request_id: str, level: str, amount_micro: int, captures: int) -> str | None:
    """5: an end user's request that cost something has one transaction in the app's book, any other has none."""
    due = int(level == Level.APP_USAGE and amount_micro != 0)
    if captures == due:
        return None
    return f"request {request_id} was charged {amount_micro} at level {level} and is captured {captures} times"


def every_capture_has_its_request(enterprise_id: str, captures: int, requests: int) -> str | None:
    """5: an app's book has as many captures as charged requests."""
    if captures == requests:
        return None
    return f"app {enterprise_id} has {captures} captures, {requests} charged requests"


def overrun_is_recorded(request_id: str, role: str, amount_micro: int, held_micro: int | None, recorded: bool) -> str | None:
    """6: a request is charged more than its hold where an over-run says so, and only there. None: the hold is not known."""
    if held_micro is None or (amount_micro > held_micro) == recorded:
        return None
    said = "an over-run is recorded" if recorded else "no over-run is recorded"
    return f"request {request_id} was charged {amount_micro} ({role}), {held_micro} was held, {said}"


def one_grant_a_payment(external_ref: str, lots: int) -> str | None:
    """7: a payment has one lot."""
    return None if lots == 1 else f"payment {external_ref} has {lots} lots"


def went_back_in_step(external_ref: str, paid: int, gone: int, granted: int, taken: int, moves: int) -> str | None:
    """7: of a payment no more goes back than was paid, and the lot loses that part of it: all of it for all of the money.

    `moves` transactions rounded it, each by less than one.
    """
    in_step = 0 <= gone <= paid and abs(taken * paid - granted * gone) < moves * max(paid, 1)
    at_ends = (gone != 0 or taken == 0) and (gone != paid or taken == granted)
    if in_step and at_ends:
        return None
    return f"of payment {external_ref} {gone} of {paid} went back, and {taken} of the {granted} that were granted for it"


def reversed_once(txn_id: str, times: int) -> str | None:
    """7: a transaction is reversed, and a dispute closed, at most once."""
    return None if times == 1 else f"transaction {txn_id} is reversed {times} times"


def reverses_what_it_may(txn_id: str, kind: str, reversed_kind: str | None) -> str | None:
    """7: a win or a loss closes a dispute, a reinstatement undoes a loss, a correction what can be corrected; else nothing."""
    if reversed_kind in REVERSIBLE.get(kind, (None,)):
        return None
    return f"transaction {txn_id} of kind {kind} reverses {reversed_kind or 'nothing'}"


def clawback_within_lot(lot_id: str, spent: int, expired: int, clawback: int) -> str | None:
    """8: what a lot's refunds and disputes made a debt is not more than was spent or expired of it, so not more than granted."""
    if 0 <= clawback <= spent + expired:
        return None
    return f"of lot {lot_id} {clawback} was clawed back, {spent + expired} was spent or expired"


def thawed_what_was_frozen(txn_id: str, frozen_micro: int, thawed_micro: int) -> str | None:
    """8: the end of a dispute frees exactly what its opening froze."""
    if frozen_micro == thawed_micro:
        return None
    return f"transaction {txn_id} ends a dispute that froze {frozen_micro} and frees {thawed_micro}"


def fee_is_income(enterprise_id: str, asset: str, expense_micro: int, income_micro: int) -> str | None:
    """9: the fees that an app bore are the platform's income from it, what was returned taken off both."""
    if expense_micro == income_micro:
        return None
    return f"app {enterprise_id} bore fees of {expense_micro} {asset}, the platform earned {income_micro}"


def dues_agree(enterprise_id: str, asset: str, due_to_micro: int, due_from_micro: int) -> str | None:
    """10: what the app's book says is due to the platform is what the platform's says is due from the app."""
    if due_to_micro == due_from_micro:
        return None
    return f"app {enterprise_id} owes the platform {due_to_micro} {asset}, in the platform's book {due_from_micro}"


def revenue_is_usage(book: str, asset: str, revenue_micro: int, usage_micro: int) -> str | None:
    """11: revenue.usage of a book is what its usage rows charged."""
    if revenue_micro == usage_micro:
        return None
    return f"{book}: revenue.usage is {revenue_micro} {asset}, usage rows sum to {usage_micro}"


def hot_is_sql(wallet: str, hot_micro: int | None, sql_micro: int) -> str | None:
    """12: the hot wallet's available + held is the books' available - debt - credits not applied yet. None: no wallet."""
    if hot_micro == sql_micro:
        return None
    if hot_micro is None:
        return f"wallet {wallet} was opened but is missing in the hot store; the books say {sql_micro}"
    return f"wallet {wallet} has {hot_micro} in the hot store, {sql_micro} in the books"


def nothing_changed(operation: str, before: object, after: object) -> str | None:
    """13: a refused operation leaves every row as it was."""
    return None if before == after else f"{operation} was refused and changed {before} to {after}"


def owner_is_creator(account: str, owner: str, is_creator: bool) -> str | None:
    """14: an account of the platform's book belongs to the book or to a creator, never to an end user."""
    if owner == "" or is_creator:
        return None
    return f"platform account {account} belongs to {owner!r}, who is no creator"


def database_is_own(enterprise_id: str, place: str, other: str | None) -> str | None:
    """14: an app's database is no other's; `other` names who else has it."""
    if other is None:
        return None
    return f"app {enterprise_id} and {other} share the database {place}"


def posted_request_has_row(enterprise_id: str, request_id: str, has_row: bool) -> str | None:
    """11: every request that the platform's book has of an app is among the app's usage rows."""
    if has_row:
        return None
    return f"request {request_id} of app {enterprise_id} is in the platform's book, but the app has no usage row of it"

"""Rules for how lots end and grants are taken back: balanced transactions with the lots as they are afterwards. Pure.

    expiry, paid          user.available (the lot) -> revenue.breakage
    expiry, overage       user.available (the lot) -> receivable.overage: lent, and not used
    expiry, the others    user.available (the lot) -> expense.promo
      owner in debt       user.available (the lot) -> receivable.clawback: what would be lost pays the debt first
    rollover              user.available (the lots) -> user.available (a new lot)
      owner in debt       user.available (what a renewal leaves behind) -> receivable.clawback, as of an expiry
    refund                user.available (what is left of the lot), receivable.clawback (the rest) -> stripe_clearing
      what other money covers of it comes back into the lot before (`recovery`), also for a dispute, opened or lost
      fee returned        due_to_platform -> expense.platform_fee
    dispute opened        user.available (what is left of the lot) -> user.frozen
      heard of too late   nothing: it is closed in the same moment
    dispute won           user.frozen -> user.available (the lot: exactly what was frozen)
    dispute lost          user.frozen, what is left by now, receivable.clawback (the rest) -> disputes
      beyond what is left of the payment, after refunds, or as the bank's rates differ: expense.disputes -> disputes
    reinstated            disputes -> user.available (the lot), receivable.clawback: the loss, reversed
      of exchanged money  each of the four: the money's side -> exchange, of what was paid; exchange -> the wallet's side
        partly given      the wallet's side: expense.promo for the part of it that was given, exchange for the rest
    correction            the reverse of a grant, a refund, an expiry or a usage
    fee (platform's book) due_from_app -> revenue.platform_fee
    overage written off   expense.promo, or expense.bad_debt for a loss -> receivable.overage
    settled, app          due_to_platform -> stripe_clearing
    settled, platform     stripe_clearing -> due_from_app

Where what was granted is not what was paid, the amounts of refunds and disputes are of the money, and the lot loses its
share of it: rounded down, of all that went back so far, so that the whole of the money takes exactly the whole of the lot.

Nothing is erased: a lot's parts are its history, and what comes back after it was spent is a new lot. Money
that comes back pays the owner's debt first. A usage that is given back goes against `revenue.corrections`, so that
`revenue.usage` stays the sum of the usage rows.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.core.errors import InvalidRequest
from gateway.core.words import LotSource
from gateway.ledger.journal import balanced, burn_order, moved
from gateway.ledger.model import (
    AVAILABLE,
    BAD_DEBT,
    BOOK,
    BREAKAGE,
    CORRECTION,
    CORRECTIONS,
    DEBT,
    DISPUTE_EXCESS,
    DISPUTE_LOST,
    DISPUTE_OPENED,
    DISPUTE_WON,
    DISPUTES,
    DUE_FROM_APP,
    DUE_TO_PLATFORM,
    EXCHANGE,
    EXPIRY,
    FEE,
    FEE_EXPENSE,
    FEE_INCOME,
    FROZEN,
    GRANT,
    NETTING,
    OVERAGE,
    PROCESSING,
    PROMO,
    REFUND,
    REINSTATE,
    ROLLOVER,
    SETTLEMENT,
    STRIPE,
    USAGE,
    WRITE_OFF,
    AccountKey,
    Entry,
    Exchanged,
    Lot,
    Txn,
)

_change: Final = msgspec.structs.replace
EXPIRY_ACTOR: Final = "expiry"


class Head(msgspec.Struct, frozen=True):
    """What every transaction says of itself; `owner` and `asset` are of the wallet that it is about."""

    txn_id: str
    op_id: str
    owner: str
    asset: str
    actor: str
    reason: str
    at_ms: int
    fingerprint: str | None = None


class Posting(msgspec.Struct, frozen=True):
    """A transaction, the lots that it changes as they are afterwards, and the one that it makes."""

    txn: Txn
    lots: tuple[Lot, ...] = ()
    made: Lot | None = None

    def delta_micro(self, owner: str) -> int:
        """What the transaction adds to what the owner may spend: available and debt together."""
        return sum(
            entry.amount_micro
            for entry in self.txn.entries
            if entry.account.owner == owner and entry.account.kind in (AVAILABLE, DEBT)
        )


def expirable(lot: Lot, lots: Iterable[Lot], in_flight_micro: int, now_ms: int) -> int:
    """How much of `lot` no request in flight can still burn. `in_flight_micro`: held, or charged and not in the books yet.

    What is in flight will burn the wallet's lots in their order, so this lot loses what those before it do not cover.
    """
    before = sum(
        other.left_micro
        for other in lots
        if other.id != lot.id
        and other.effective_at_ms <= max(now_ms, other.created_at_ms)
        and burn_order(other) < burn_order(lot)
    )
    return lot.left_micro - min(max(in_flight_micro - before, 0), lot.left_micro)


def expiry(head: Head, lot: Lot, amount_micro: int) -> Posting:
    """An expired lot loses `amount_micro`. With 0 (it was used up since the hot wallet gave its money) nothing moves."""
    assert 0 <= amount_micro <= lot.left_micro
    entries: list[Entry] = []
    if amount_micro:
        entries = [_available(head, -amount_micro, lot.id), Entry(_unspent(head, lot), amount_micro)]
    left = _change(lot, left_micro=lot.left_micro - amount_micro, expired_micro=lot.expired_micro + amount_micro, expiring=None)
    return Posting(_txn(head, EXPIRY, entries), (left,))


def _unspent(head: Head, lot: Lot) -> AccountKey:
    """Where what is left of a lot goes when its time has passed."""
    if lot.source == LotSource.OVERAGE:
        return AccountKey(head.owner, OVERAGE, head.asset)
    return AccountKey(BOOK, BREAKAGE if lot.source == LotSource.PAID else PROMO, head.asset)


def written_off(head: Head, amount_micro: int, *, is_gift: bool) -> Posting:
    """Overage that was used and will not be paid: no wallet moves, as it was spent."""
    lost = Entry(AccountKey(BOOK, PROMO if is_gift else BAD_DEBT, head.asset), -amount_micro)
    return Posting(_txn(head, WRITE_OFF, [lost, Entry(AccountKey(head.owner, OVERAGE, head.asset), amount_micro)]))


def netting(head: Head, lot: Lot, amount_micro: int) -> Posting:
    """A lot pays `amount_micro` of its owner's debt."""
    assert 0 < amount_micro <= lot.left_micro
    entries = [_available(head, -amount_micro, lot.id), _debt(head, amount_micro)]
    left = _change(lot, left_micro=lot.left_micro - amount_micro, spent_micro=lot.spent_micro + amount_micro)
    return Posting(_txn(head, NETTING, entries), (left,))


def rollover(head: Head, lot: Lot, lot_id: str, *, amount_micro: int, expires_at_ms: int | None, priority: int) -> Posting:
    """`amount_micro` of what is left of a lot goes on in a new one; in the old one it counts as expired."""
    assert 0 < amount_micro <= lot.left_micro
    made = _lot(head, lot_id, LotSource.ROLLOVER, priority, amount_micro, expires_at_ms)
    entries = [_available(head, -amount_micro, lot.id), _available(head, amount_micro, lot_id)]
    left = _change(lot, left_micro=lot.left_micro - amount_micro, expired_micro=lot.expired_micro + amount_micro)
    return Posting(_txn(head, ROLLOVER, entries), (left,), made)


def renewal(
    head: Head, lots: Iterable[Lot], lot_id: str, amount_max_micro: int, expires_at_ms: int | None, debt_micro: int = 0
) -> Posting:
    """Lots of a series end now, and what is left of them, `amount_max_micro` in all, goes on in a new one.

    What does not go on pays the owner's debt: at once, as the grant that follows would pay it else, and this would be lost. What
    is left then stays in its lot, which has expired: the next expiry takes it.
    """
    entries: list[Entry] = []
    ended, rest, priority = [], amount_max_micro, 0
    for lot in sorted(lots, key=burn_order):
        part = min(lot.left_micro, rest)
        rest -= part
        priority = lot.priority
        if part:
            entries.append(_available(head, -part, lot.id))
        paid = min(lot.left_micro - part, debt_micro)
        debt_micro -= paid
        if paid:
            entries += [_available(head, -paid, lot.id), _debt(head, paid)]
        ends_at = head.at_ms if lot.expires_at_ms is None else min(lot.expires_at_ms, head.at_ms)
        ended.append(
            _change(
                lot,
                left_micro=lot.left_micro - part - paid,
                expired_micro=lot.expired_micro + part,
                spent_micro=lot.spent_micro + paid,
                expires_at_ms=ends_at,
            )
        )
    made = None
    if rest < amount_max_micro:
        made = _lot(head, lot_id, LotSource.ROLLOVER, priority, amount_max_micro - rest, expires_at_ms)
        entries.append(_available(head, amount_max_micro - rest, lot_id))
    return Posting(_txn(head, ROLLOVER, entries), tuple(ended), made)


def processing(head: Head, money: str, amount_micro: int) -> Txn:
    """What the payment processor kept of a payment, in the money that was paid."""
    return _txn(head, FEE, moved(money, PROCESSING, STRIPE, amount_micro))


def share(lot: Lot, amount_micro: int, exchanged: Exchanged | None, what: str) -> int:
    """What of a lot goes with `amount_micro` of what was paid for it. InvalidRequest beyond what can still go back."""
    most = lot.refundable_micro if exchanged is None else exchanged.paid_micro - exchanged.gone_micro
    if amount_micro > most:
        raise InvalidRequest(f"of this payment {most} can be {what}", param="amount_micro")
    if exchanged is None:
        return amount_micro
    went = lot.refunded_micro + lot.clawback_micro
    part = max(lot.granted_micro * (exchanged.gone_micro + amount_micro) // exchanged.paid_micro - went, 0)
    if part > lot.refundable_micro:
        raise InvalidRequest(f"of this payment's lot {lot.refundable_micro} can be {what}", param="amount_micro")
    return part


def still_paid(lot: Lot, amount_micro: int, exchanged: Exchanged | None) -> int:
    """What of a disputed amount the payment still has. A bank may take more, which is not its payer's to bear."""
    return min(amount_micro, lot.refundable_micro if exchanged is None else exchanged.paid_micro - exchanged.gone_micro)


def refund(head: Head, lot: Lot, amount_micro: int, fee_returned_micro: int = 0, exchanged: Exchanged | None = None) -> Posting:
    """Money of a payment went back to the payer. InvalidRequest beyond what the payment has left to give back."""
    part = share(lot, amount_micro, exchanged, "refunded")
    entries, after = _taken_back(head, lot, part)
    entries += _went(head, STRIPE, lot, amount_micro, part, exchanged)
    entries += moved(_money(head, exchanged), FEE_EXPENSE, DUE_TO_PLATFORM, -fee_returned_micro)
    return Posting(_txn(head, REFUND, entries), (after,))


def dispute_opened(head: Head, lot: Lot, amount_micro: int, exchanged: Exchanged | None = None) -> Posting:
    """Of the disputed amount, as far as the payment has it still, what is left of the lot is frozen."""
    frozen = min(share(lot, still_paid(lot, amount_micro, exchanged), exchanged, "disputed"), lot.left_micro)
    entries = [_available(head, -frozen, lot.id), _frozen(head, frozen, lot.id)] if frozen else []
    after = _change(lot, left_micro=lot.left_micro - frozen, frozen_micro=lot.frozen_micro + frozen)
    return Posting(_txn(head, DISPUTE_OPENED, entries), (after,))


def dispute_implied(head: Head) -> Posting:
    """The opening of a dispute that was closed before anybody heard of it: it froze nothing."""
    return Posting(_txn(head, DISPUTE_OPENED, []))


def dispute_won(head: Head, lot: Lot, opened: Txn) -> Posting:
    """Exactly what the opening froze is available again."""
    frozen, after = thawed(lot, opened)
    entries = [_frozen(head, -frozen, lot.id), _available(head, frozen, lot.id)] if frozen else []
    return Posting(_txn(head, DISPUTE_WON, entries, opened.id), (after,))


def thawed(lot: Lot, opened: Txn) -> tuple[int, Lot]:
    """What a dispute's opening froze of a lot, and the lot without that."""
    frozen = _sum(opened, FROZEN)
    return frozen, _change(lot, left_micro=lot.left_micro + frozen, frozen_micro=lot.frozen_micro - frozen)


def dispute_lost(head: Head, lot: Lot, opened: Txn, amount_micro: int, exchanged: Exchanged | None = None) -> Posting:
    """The disputed amount is gone: first what was frozen for it, then what is left, the rest a debt.

    What was frozen beyond the amount is available again. What was taken beyond what the payment has left is a loss of the
    seller's, as the wallet bore its part before.
    """
    frozen, free = thawed(lot, opened)
    within_micro = still_paid(free, amount_micro, exchanged)
    part = share(free, within_micro, exchanged, "lost")
    entries = [_frozen(head, -frozen, lot.id)] if frozen else []
    taken, after = _taken_back(head, free, part)
    left = after.left_micro - lot.left_micro  # what was thawed less what was lost
    if left:
        entries.append(_available(head, left, lot.id))
    entries += [entry for entry in taken if entry.account.kind == DEBT]
    entries += _went(head, DISPUTES, free, within_micro, part, exchanged) if within_micro else []
    entries += moved(_money(head, exchanged), DISPUTE_EXCESS, DISPUTES, amount_micro - within_micro)
    return Posting(_txn(head, DISPUTE_LOST, entries, opened.id), (after,))


def reinstated(head: Head, lot: Lot, lost: Txn, lot_id: str, debt_micro: int) -> Posting:
    """A loss that the payer's bank took back. `lot_id` is for what paid a debt by now: it becomes a new lot."""
    entries, after, made = _given_back(head, lot, _taken(lost), -_lot_debt(lost, lot.id), lot_id, debt_micro)
    entries += _undone(lost)
    return Posting(_txn(head, REINSTATE, entries, lost.id), (after,), made)


def correction(head: Head, wrong: Txn, lots: dict[str, Lot], lot_id: str, debt_micro: int, *, fee_stays: bool = False) -> Posting:
    """The reverse of a transaction. `lots` are those it names, as they stand; `lot_id` is for a lot that comes of it.

    `fee_stays`: what it returned of a fee stays returned.

    InvalidRequest for a kind that is corrected by other means, or when nothing is left to correct.
    """
    if wrong.kind == GRANT:
        return _grant_corrected(head, wrong, lots)
    if wrong.kind == REFUND:
        (lot,) = lots.values()
        entries, after, made = _given_back(head, lot, _taken(wrong), -_lot_debt(wrong, lot.id), lot_id, debt_micro)
        kept = (FEE_EXPENSE, DUE_TO_PLATFORM) if fee_stays else ()
        entries += [entry for entry in _undone(wrong) if entry.account.kind not in kept]
        return Posting(_txn(head, CORRECTION, entries, wrong.id), (after,), made)
    if wrong.kind not in (USAGE, EXPIRY):
        raise InvalidRequest(f"a transaction of kind {wrong.kind} is not corrected by a reverse", param="txn_id")
    amount = -sum(entry.amount_micro for entry in wrong.entries if entry.account.kind in (AVAILABLE, DEBT))
    if not amount:
        raise InvalidRequest("that transaction moved nothing of a wallet", param="txn_id")
    if wrong.kind == USAGE:
        source = AccountKey(BOOK, CORRECTIONS, head.asset)
    else:
        (source,) = [entry.account for entry in wrong.entries if entry.account.kind in (BREAKAGE, PROMO, OVERAGE)]
        if source.kind == OVERAGE:
            raise InvalidRequest("what was lent and not used has gone back: lend it again", param="txn_id")
    repaid = min(amount, debt_micro)
    entries = [Entry(source, -amount)]
    entries += [_debt(head, repaid)] if repaid else []
    made = None
    if amount > repaid:
        first = next((lots[entry.lot_id] for entry in wrong.entries if entry.lot_id is not None), None)
        kind, priority = (LotSource.PROMO.value, 0) if first is None else (first.source, first.priority)
        if kind == LotSource.OVERAGE:  # what was used of it is billed all the same
            kind, priority = LotSource.PROMO.value, 0
        made = _lot(head, lot_id, kind, priority, amount - repaid, None)
        entries.append(_available(head, amount - repaid, lot_id))
    return Posting(_txn(head, CORRECTION, entries, wrong.id), (), made)


def _grant_corrected(head: Head, wrong: Txn, lots: dict[str, Lot]) -> Posting:
    """Whatever of the grant did not expire comes back; what was spent of it is a debt."""
    (lot,) = lots.values()
    if lot.external_ref is not None:
        raise InvalidRequest("what was paid is given back by a refund of the payment", param="txn_id")
    if lot.source == LotSource.OVERAGE:
        raise InvalidRequest("what was lent is taken back by its end", param="txn_id")
    amount = lot.refundable_micro - lot.expired_micro
    if lot.frozen_micro or amount <= 0:
        raise InvalidRequest("nothing is left of that grant", param="txn_id")
    entries, after = _taken_back(head, lot, amount)
    entries.append(Entry(wrong.entries[0].account, amount))
    return Posting(_txn(head, CORRECTION, entries, wrong.id), (after,))


def fee(txn_id: str, op_id: str, enterprise_id: str, asset: str, amount_micro: int, at_ms: int) -> Txn:
    """The platform's side of an app's fee (below zero: one that is returned). `reason` names the app."""
    due = Entry(AccountKey(enterprise_id, DUE_FROM_APP, asset), -amount_micro)
    income = Entry(AccountKey(BOOK, FEE_INCOME, asset), amount_micro)
    return balanced(Txn(txn_id, op_id, FEE, "ledger", enterprise_id, at_ms, (due, income)))


def settled(head: Head, amount_micro: int, enterprise_id: str | None) -> Txn:
    """An app paid what was due, in its own book; or, with `enterprise_id`, in the platform's."""
    if enterprise_id is None:
        return _txn(head, SETTLEMENT, moved(head.asset, DUE_TO_PLATFORM, STRIPE, amount_micro))
    due = Entry(AccountKey(enterprise_id, DUE_FROM_APP, head.asset), amount_micro)
    return _txn(head, SETTLEMENT, [Entry(AccountKey(BOOK, STRIPE, head.asset), -amount_micro), due])


def _taken_back(head: Head, lot: Lot, amount_micro: int) -> tuple[list[Entry], Lot]:
    """Take from what is left of a lot, the rest as a debt that names it: (the owner's entries, the lot afterwards)."""
    assert 0 <= amount_micro <= lot.refundable_micro
    left = min(amount_micro, lot.left_micro)
    rest = amount_micro - left
    entries = [_available(head, -left, lot.id)] if left else []
    entries += [Entry(AccountKey(head.owner, DEBT, head.asset), -rest, lot.id)] if rest else []
    after = _change(
        lot,
        left_micro=lot.left_micro - left,
        refunded_micro=lot.refunded_micro + left,
        clawback_micro=lot.clawback_micro + rest,
    )
    return entries, after


def _given_back(
    head: Head, lot: Lot, amount_micro: int, clawback_micro: int, lot_id: str, debt_micro: int
) -> tuple[list[Entry], Lot, Lot | None]:
    """Undo `_taken_back` of `amount_micro`, `clawback_micro` of it by debt: (the owner's entries, the lot, a new lot).

    Of the debt, what was paid meanwhile cannot be paid again: it becomes the new lot.
    """
    restored = amount_micro - clawback_micro
    paid = max(clawback_micro - debt_micro, 0)
    entries = [_available(head, restored, lot.id)] if restored else []
    made = None
    if clawback_micro:
        entries.append(Entry(AccountKey(head.owner, DEBT, head.asset), clawback_micro, lot.id))
    if paid:
        made = _lot(head, lot_id, lot.source, lot.priority, paid, None)
        entries += [_debt(head, -paid), _available(head, paid, lot_id)]
    after = _change(
        lot,
        left_micro=lot.left_micro + restored,
        refunded_micro=lot.refunded_micro - restored,
        clawback_micro=lot.clawback_micro - clawback_micro,
    )
    return entries, after, made


def _money(head: Head, exchanged: Exchanged | None) -> str:
    return head.asset if exchanged is None else exchanged.asset


def _went(head: Head, book: str, lot: Lot, amount_micro: int, part_micro: int, exchanged: Exchanged | None) -> list[Entry]:
    """The money's side of what went back: `part_micro` of the wallet's asset was taken for it of the lot as it was before."""
    if exchanged is None:
        return [Entry(AccountKey(BOOK, book, head.asset), amount_micro)]
    entries = moved(exchanged.asset, EXCHANGE, book, amount_micro)
    # Of all that was taken so far, so that the whole of the lot is the whole of what was given.
    went = lot.refunded_micro + lot.clawback_micro
    given = exchanged.given_micro * (went + part_micro) // lot.granted_micro
    given -= exchanged.given_micro * went // lot.granted_micro
    for kind, micro in ((PROMO, given), (EXCHANGE, part_micro - given)):
        if micro:
            entries.append(Entry(AccountKey(BOOK, kind, head.asset), micro))
    return entries


def _undone(wrong: Txn) -> list[Entry]:
    """The reverse of what a transaction moved on the book's own accounts."""
    return [Entry(entry.account, -entry.amount_micro) for entry in wrong.entries if entry.account.owner == BOOK]


def _taken(wrong: Txn) -> int:
    """What a refund or a loss took of its owner."""
    return -sum(entry.amount_micro for entry in wrong.entries if entry.account.owner != BOOK)


def _lot(head: Head, lot_id: str, source: str, priority: int, amount_micro: int, expires_at_ms: int | None) -> Lot:
    return Lot(
        id=lot_id,
        source=source,
        priority=priority,
        effective_at_ms=head.at_ms,
        expires_at_ms=expires_at_ms,
        created_at_ms=head.at_ms,
        granted_micro=amount_micro,
        spent_micro=0,
        left_micro=amount_micro,
    )


def _available(head: Head, amount_micro: int, lot_id: str) -> Entry:
    return Entry(AccountKey(head.owner, AVAILABLE, head.asset), amount_micro, lot_id)


def _frozen(head: Head, amount_micro: int, lot_id: str) -> Entry:
    return Entry(AccountKey(head.owner, FROZEN, head.asset), amount_micro, lot_id)


def _debt(head: Head, amount_micro: int) -> Entry:
    return Entry(AccountKey(head.owner, DEBT, head.asset), amount_micro)


def _sum(txn: Txn, kind: str) -> int:
    """What a transaction moved on accounts of a kind."""
    return sum(entry.amount_micro for entry in txn.entries if entry.account.kind == kind)


def _lot_debt(txn: Txn, lot_id: str) -> int:
    """What a transaction moved on the debt in the name of a lot."""
    return sum(entry.amount_micro for entry in txn.entries if entry.account.kind == DEBT and entry.lot_id == lot_id)


def _txn(head: Head, kind: str, entries: list[Entry], reverses: str | None = None) -> Txn:
    txn = Txn(
        id=head.txn_id,
        op_id=head.op_id,
        kind=kind,
        actor=head.actor,
        reason=head.reason,
        at_ms=head.at_ms,
        entries=tuple(entries),
        fingerprint=head.fingerprint,
        reverses=reverses,
    )
    return balanced(txn)

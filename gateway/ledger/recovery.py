"""What comes back into a lot when its payment is refunded or disputed, before what is left of it is taken. Pure.

    expired of it             revenue.breakage or expense.promo, of the lot -> user.available (the lot)
    rolled over by itself     user.available (the lot that was made of it) -> user.available (the lot)
    of its series since       revenue.breakage or expense.promo, of another lot -> user.available (that lot)
                              user.available (that lot) -> user.available (the lot)

What is wanted is taken from these in this order, and the rest, which no other money covers, is a debt.

A series of allowances is one stream of money: at a renewal, what is left of a period goes on up to the cap, the rest expires, and
what is missing is a debt that the next period's grant pays. So whatever is taken out of a period, however early, is missing in
what expired of that period; beyond it in the roll-over, or as a debt, so in the next period, and in what expired of that; and so
on, and at last in what stands. That alone is done here: what expired of the series from that period on, the oldest first, and
then what its last roll-over has left. It follows no path of single lots through the renewals, as every path ends alike: after
each refund the books are those of a series that was granted as much less from the start. So neither the order of refunds nor that
of refunds, renewals and expiries changes what a wallet has less its debt, nor what is a debt after the last expiry. What was made
of a lot by a roll-over of its own is no stream: nothing else goes into that, so it gives back itself what it has of the lot.

Where the lot's own part had gone on, the other's goes on in its place; where it was spent, the other's counts as spent in its
place. Two things stay as they are, and are a debt beside them until they end: paid periods that have not ended, and, where what
is wanted was spent, the roll-over that still can be. Lots of no common series do not stand in for each other once they
expired: one that expires later pays the debt (`expiry`).

The transaction moves no money of a payment; the one that takes it back, or freezes it, follows in the same commit.

Where that is undone (a refund failed, a dispute was won, or lost for less, or reinstated) all of it goes back by the way that it
came: what had expired expires again in its lot, what had ended is left of its lot until the next expiry, and what could be spent
goes on again in a lot like the one that gave it. So what had expired neither pays a debt of its owner nor can be spent; but for
the debts that refunds and losses left since: they would have found it, so it pays them.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gateway.core.words import LotSource
from gateway.ledger.endings import Head, Posting
from gateway.ledger.journal import balanced
from gateway.ledger.model import AVAILABLE, BOOK, BREAKAGE, PROMO, RECOVERY, AccountKey, Entry, Lot, Txn

_change: Final = msgspec.structs.replace


class Place(msgspec.Struct, frozen=True):
    """Where a lot stands in a series of allowances: the start of the renewal that ended it, or will, and when it ended.

    The first is beyond every renewal where there was none yet. Unix milliseconds.
    """

    series: str
    renewed_at_ms: int
    ends_at_ms: int


class Family(msgspec.Struct, frozen=True):
    """A wallet's lots, and what became of them. By id of a lot: `expired_micro` is what of it expired and did not come back,
    `onward` the lots that were made of it by roll-overs of its own, `places` where it stands in a series; each the oldest first.
    """

    lots: Mapping[str, Lot]
    expired_micro: Mapping[str, int]
    onward: Mapping[str, Sequence[str]]
    places: Mapping[str, Place]

    def since(self, lot_id: str) -> list[str]:
        """The other lots of a lot's series that end when it does or later, in that order; of one moment, what went on first."""
        mine = self.places.get(lot_id)
        if mine is None:
            return []
        ends = (mine.renewed_at_ms, mine.ends_at_ms)
        found = [
            (place.renewed_at_ms, place.ends_at_ms, self.lots[name].source != LotSource.ROLLOVER, at, name)
            for at, (name, place) in enumerate(self.places.items())
            if name != lot_id and place.series == mine.series and (place.renewed_at_ms, place.ends_at_ms) >= ends
        ]
        return [name for *_, name in sorted(found)]

    def reach(self, lot_id: str) -> set[str]:
        """The lots of which a recovery into a lot takes what expired."""
        found = {lot_id, *self.since(lot_id)}
        more = set(found)
        while more := {made for name in more for made in self.onward.get(name, ())} - found:
            found |= more
        return found


def op_id(of: str) -> str:
    """`op_id` of the recovery for an operation that takes a payment back."""
    return f"recovery:{of}"


def recovery(head: Head, family: Family, lot_id: str, wanted_micro: int) -> tuple[Posting | None, Lot]:
    """`wanted_micro` comes back into a lot, or as much of it as there is: (None for nothing, the lot as it is then)."""
    moves = _Moves(head, family)
    came = moves.into(lot_id, wanted_micro)
    for other_id in family.since(lot_id):
        came += moves.instead(other_id, lot_id, wanted_micro - came)
    lot = moves.lots[lot_id]
    if not moves.entries:
        return None, lot
    txn = Txn(head.txn_id, op_id(head.op_id), RECOVERY, head.actor, head.reason, head.at_ms, tuple(moves.entries))
    changed = tuple(after for name, after in moves.lots.items() if after != family.lots[name])
    return Posting(balanced(txn), changed), lot


class Gave(msgspec.Struct, frozen=True):
    """What a lot gave to a recovery: of what had expired of it, or of what was left.

    `is_spendable`: that could still be spent then, for `lasted_ms` (None: without end).
    """

    lot: Lot
    amount_micro: int
    is_expired: bool
    is_spendable: bool = False
    lasted_ms: int | None = None


def given(
    recovered: Sequence[Txn], lot_id: str, lots: Mapping[str, Lot], skip_micro: int = 0, most_micro: int | None = None
) -> list[Gave]:
    """What recoveries into `lot_id` took, the last taken first.

    Without the first `skip_micro` of it, which went back before, and `most_micro` at most.
    """
    gave: dict[tuple[str, bool, bool], Gave] = {}
    for txn in recovered:
        for one in txn.entries:
            assert one.lot_id is not None
            lot, is_expired = lots[one.lot_id], one.account.kind != AVAILABLE
            if one.lot_id == lot_id and not is_expired:
                continue
            ends_at_ms = lot.expires_at_ms
            is_spendable = not is_expired and (ends_at_ms is None or ends_at_ms > txn.at_ms)
            lasted = None if ends_at_ms is None else ends_at_ms - txn.at_ms
            before = gave.pop((lot.id, is_expired, is_spendable), None)
            amount = (before.amount_micro if before else 0) - one.amount_micro  # what came into it and went on is no part
            gave[lot.id, is_expired, is_spendable] = Gave(lot, amount, is_expired, is_spendable, lasted)
    found: list[Gave] = []
    for each in reversed(gave.values()):
        skipped = min(skip_micro, each.amount_micro)
        part = each.amount_micro - skipped
        skip_micro -= skipped
        if most_micro is not None:
            part = min(part, most_micro)
            most_micro -= part
        if part > 0:
            found.append(_change(each, amount_micro=part))
    return found


def expired_again(head: Head, family: Family, lot: Lot, gave: Sequence[Gave], debts: Mapping[str, int]) -> Posting | None:
    """What had expired and recoveries took into `lot` expires again where it had; None for nothing.

    `debts`, by lot: what of each became a debt since, and would have found this instead. So much stays in the lot.
    """
    moves, owed = _Moves(head, family), dict(debts)
    moves.lots[lot.id] = lot
    for each in reversed(gave):  # what is wanted takes the oldest first
        amount = each.amount_micro
        if not each.is_expired and not each.is_spendable:
            moves.unspent_again(each.lot.id, lot.id, amount)
        if not each.is_expired:
            continue
        for name in owed:
            part = min(amount, owed[name]) if each.lot.id in family.reach(name) else 0
            owed[name] -= part
            amount -= part
        moves.expired_again(each.lot.id, lot.id, amount)
    if not moves.entries:
        return None
    txn = Txn(head.txn_id, head.op_id, RECOVERY, head.actor, head.reason, head.at_ms, tuple(moves.entries))
    changed = tuple(after for name, after in moves.lots.items() if name == lot.id or after != family.lots[name])
    return Posting(balanced(txn), changed)


class _Moves:
    """A recovery in the making."""

    def __init__(self, head: Head, family: Family) -> None:
        self._head = head
        self._family = family
        self._expired = dict(family.expired_micro)
        self.lots = dict(family.lots)
        self.entries: list[Entry] = []

    def into(self, lot_id: str, wanted_micro: int) -> int:
        """What came back into the lot of what expired of it, and of what was rolled over by itself."""
        came = self._unexpired(lot_id, wanted_micro)
        for onward_id in self._family.onward.get(lot_id, ()):
            lot = self.lots[lot_id]
            wanted = min(wanted_micro - came, lot.expired_micro - self._expired.get(lot_id, 0))
            short = wanted - self.lots[onward_id].left_micro
            if short > 0:
                self.into(onward_id, short)
            part = min(wanted, self.lots[onward_id].left_micro)
            self._moved(onward_id, lot_id, part)
            came += part
        return came

    def instead(self, other_id: str, lot_id: str, wanted_micro: int) -> int:
        """What of another lot of the series stands in for the lot's own."""
        came = self.into(other_id, wanted_micro)
        other = self.lots[other_id]
        if other.expires_at_ms is not None and other.expires_at_ms <= self._head.at_ms:
            stands = other.left_micro - came
        elif other.source == LotSource.ROLLOVER:
            stands = min(other.left_micro - came, max(self.lots[lot_id].expired_micro - came, 0))
        else:
            stands = 0
        part = came + min(stands, wanted_micro - came)
        self._moved(other_id, lot_id, part)
        return part

    def expired_again(self, other_id: str, lot_id: str, amount_micro: int) -> None:
        """What `into` or `instead` took of what had expired of a lot goes back from the lot that it was taken for."""
        amount = min(amount_micro, self.moved_back(other_id, lot_id, amount_micro))
        if amount <= 0:
            return
        other = self.lots[other_id]
        self._expired[other_id] = self._expired.get(other_id, 0) + amount
        book = BREAKAGE if other.source == LotSource.PAID else PROMO
        self.entries.append(Entry(AccountKey(self._head.owner, AVAILABLE, self._head.asset), -amount, other_id))
        self.entries.append(Entry(AccountKey(BOOK, book, self._head.asset), amount, other_id))
        self.lots[other_id] = _change(
            other, left_micro=other.left_micro - amount, expired_micro=other.expired_micro + amount
        )

    def unspent_again(self, other_id: str, lot_id: str, amount_micro: int) -> None:
        """What was left of a lot that had ended is left of it again; but for what a debt of its own refunds stands for since."""
        other = self.lots[other_id]
        may = other.spent_micro + other.expired_micro - other.clawback_micro if other.clawback_micro else amount_micro
        self.moved_back(other_id, lot_id, min(amount_micro, may))

    def moved_back(self, other_id: str, lot_id: str, amount_micro: int) -> int:
        """The reverse of `_moved`, by the way that it came; how much."""
        if other_id == lot_id:
            return min(amount_micro, self.lots[lot_id].left_micro)
        from_id = next((name for name, made in self._family.onward.items() if other_id in made), lot_id)
        amount = self.moved_back(from_id, lot_id, amount_micro)
        if amount <= 0:
            return 0
        lot, other = self.lots[from_id], self.lots[other_id]
        is_rollover = other.source == LotSource.ROLLOVER
        # Whatever of it stands for what expired, and is not what did, went on in the other's place; the rest was spent in it.
        on = min(amount, other.refunded_micro if is_rollover else other.expired_micro - self._expired.get(other_id, 0))
        spent = min(amount - on, other.spent_micro)
        amount = on + spent
        if amount <= 0:  # what it stood for was taken back by another since: it stays where it is
            return 0
        self.lots[from_id] = _change(
            lot,
            left_micro=lot.left_micro - amount,
            expired_micro=lot.expired_micro + on,
            spent_micro=lot.spent_micro + spent,
        )
        self.lots[other_id] = _change(
            other,
            left_micro=other.left_micro + amount,
            spent_micro=other.spent_micro - spent,
            refunded_micro=other.refunded_micro - (on if is_rollover else 0),
            expired_micro=other.expired_micro - (0 if is_rollover else on),
        )
        account = AccountKey(self._head.owner, AVAILABLE, self._head.asset)
        self.entries += [Entry(account, -amount, from_id), Entry(account, amount, other_id)]
        return amount

    def _unexpired(self, lot_id: str, wanted_micro: int) -> int:
        lot = self.lots[lot_id]
        part = min(wanted_micro, self._expired.get(lot_id, 0))
        if part <= 0:
            return 0
        self._expired[lot_id] -= part
        book = BREAKAGE if lot.source == LotSource.PAID else PROMO
        self.entries.append(Entry(AccountKey(BOOK, book, self._head.asset), -part, lot_id))
        self.entries.append(Entry(AccountKey(self._head.owner, AVAILABLE, self._head.asset), part, lot_id))
        self.lots[lot_id] = _change(lot, left_micro=lot.left_micro + part, expired_micro=lot.expired_micro - part)
        return part

    def _moved(self, other_id: str, lot_id: str, amount_micro: int) -> None:
        """What is left of another lot is left of this one: it went on in this one's place, or was spent in its place."""
        if amount_micro <= 0:
            return
        lot, other = self.lots[lot_id], self.lots[other_id]
        on = min(amount_micro, lot.expired_micro)
        spent = amount_micro - on
        self.lots[lot_id] = _change(
            lot,
            left_micro=lot.left_micro + amount_micro,
            expired_micro=lot.expired_micro - on,
            spent_micro=lot.spent_micro - spent,
        )
        is_rollover = other.source == LotSource.ROLLOVER
        self.lots[other_id] = _change(
            other,
            left_micro=other.left_micro - amount_micro,
            spent_micro=other.spent_micro + spent,
            refunded_micro=other.refunded_micro + (on if is_rollover else 0),
            expired_micro=other.expired_micro + (0 if is_rollover else on),
        )
        account = AccountKey(self._head.owner, AVAILABLE, self._head.asset)
        self.entries += [Entry(account, -amount_micro, other_id), Entry(account, amount_micro, lot_id)]

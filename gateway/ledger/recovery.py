"""What of an ended lot was not spent comes back into it for a refund or a lost dispute of its payment. Pure.

    expired           revenue.breakage or expense.promo, of that lot -> user.available (the lot)
    went on           user.available (the lot that it went on in) -> user.available (the lot)
      replaced        what the same renewal left behind goes on in its place: user.available, or what expired, of that other lot

So a refund ends in the same books whether it comes before or after the lot is renewed, rolled over and expired: what a renewal
could not let go on, for its cap, would have gone on in the place of what the refund had taken before it. Only what was really
spent is a debt. The transaction moves no money of a payment; the one that takes it back follows in the same commit.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gateway.core.words import LotSource
from gateway.ledger.endings import Head, Posting
from gateway.ledger.journal import balanced
from gateway.ledger.model import AVAILABLE, BOOK, BREAKAGE, PROMO, RECOVERY, AccountKey, Entry, Lot, Txn

_change: Final = msgspec.structs.replace


class Family(msgspec.Struct, frozen=True):
    """A wallet's lots, and what became of them. By id of a lot: `expired_micro` is what of it expired and did not come back,
    `onward` the lots that it went on in, oldest first, `beside` the others that ended with what went on in it.
    """

    lots: Mapping[str, Lot]
    expired_micro: Mapping[str, int]
    onward: Mapping[str, Sequence[str]]
    beside: Mapping[str, Sequence[str]]


def op_id(of: str) -> str:
    """`op_id` of the recovery for an operation that takes a payment back."""
    return f"recovery:{of}"


def recovery(head: Head, family: Family, lot_id: str, wanted_micro: int) -> tuple[Posting | None, Lot]:
    """`wanted_micro` comes back into a lot, or as much of it as was not spent: (None for nothing, the lot as it is then)."""
    moves = _Moves(head, family)
    moves.into(lot_id, wanted_micro)
    lot = moves.lots[lot_id]
    if not moves.entries:
        return None, lot
    txn = Txn(head.txn_id, op_id(head.op_id), RECOVERY, head.actor, head.reason, head.at_ms, tuple(moves.entries))
    changed = tuple(after for name, after in moves.lots.items() if after != family.lots[name])
    return Posting(balanced(txn), changed), lot


def went_on(recovered: Txn, lot_id: str, lots: Mapping[str, Lot]) -> list[tuple[Lot, int]]:
    """The lots that a recovery into `lot_id` took from while they could still be spent, with what each gave."""
    gave: dict[str, int] = {}
    for one in recovered.entries:
        if one.lot_id not in (None, lot_id) and one.account.kind == AVAILABLE:
            assert one.lot_id is not None
            gave[one.lot_id] = gave.get(one.lot_id, 0) - one.amount_micro
    open_then = [lots[name] for name in gave if gave[name] > 0]
    return [(lot, gave[lot.id]) for lot in open_then if lot.expires_at_ms is None or lot.expires_at_ms > recovered.at_ms]


class _Moves:
    """A recovery in the making."""

    def __init__(self, head: Head, family: Family) -> None:
        self._head = head
        self._family = family
        self._expired = dict(family.expired_micro)
        self.lots = dict(family.lots)
        self.entries: list[Entry] = []

    def into(self, lot_id: str, wanted_micro: int) -> int:
        """What came back into the lot."""
        came = self._unexpired(lot_id, lot_id, wanted_micro)
        for onward_id in self._family.onward.get(lot_id, ()):
            lot = self.lots[lot_id]
            wanted = min(wanted_micro - came, lot.expired_micro - self._expired.get(lot_id, 0))
            for other_id in self._family.beside.get(onward_id, ()):
                if other_id != lot_id:
                    replaced = self._replaced(other_id, lot_id, wanted)
                    came, wanted = came + replaced, wanted - replaced
            short = wanted - self.lots[onward_id].left_micro
            if short > 0:
                self.into(onward_id, short)
            part = min(wanted, self.lots[onward_id].left_micro)
            self._moved(onward_id, lot_id, part, "refunded")
            came += part
        return came

    def _replaced(self, other_id: str, lot_id: str, wanted_micro: int) -> int:
        """What a renewal left behind in another lot goes on after all, in the place of what comes back."""
        left = min(wanted_micro, self.lots[other_id].left_micro)
        self._moved(other_id, lot_id, left, "expired")
        return left + self._unexpired(other_id, lot_id, wanted_micro - left)

    def _unexpired(self, other_id: str, lot_id: str, wanted_micro: int) -> int:
        part = min(wanted_micro, self._expired.get(other_id, 0))
        if part <= 0:
            return 0
        self._expired[other_id] -= part
        book = BREAKAGE if self.lots[other_id].source == LotSource.PAID else PROMO
        self.entries.append(Entry(AccountKey(BOOK, book, self._head.asset), -part, other_id))
        self._back(lot_id, part)
        return part

    def _moved(self, other_id: str, lot_id: str, amount_micro: int, as_part: str) -> None:
        if amount_micro <= 0:
            return
        other = self.lots[other_id]
        counted = {f"{as_part}_micro": getattr(other, f"{as_part}_micro") + amount_micro}
        self.lots[other_id] = _change(other, left_micro=other.left_micro - amount_micro, **counted)
        self.entries.append(Entry(AccountKey(self._head.owner, AVAILABLE, self._head.asset), -amount_micro, other_id))
        self._back(lot_id, amount_micro)

    def _back(self, lot_id: str, amount_micro: int) -> None:
        lot = self.lots[lot_id]
        left, expired = lot.left_micro + amount_micro, lot.expired_micro - amount_micro
        self.lots[lot_id] = _change(lot, left_micro=left, expired_micro=expired)
        self.entries.append(Entry(AccountKey(self._head.owner, AVAILABLE, self._head.asset), amount_micro, lot_id))

"""A wallet by the words of the design, in plain integers: the reference of the random histories.

Shares no code with the books.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

NEVER = 2**63


@dataclass
class RLot:
    """One lot; `order` is when and under which id it was made."""

    source: str
    priority: int
    ends: int | None
    order: tuple[int, str]
    granted: int
    left: int
    spent: int = 0
    expired: int = 0
    refunded: int = 0
    frozen: int = 0
    clawback: int = 0
    ref: str | None = None
    lost: int = 0  # of what is expired, what did not go on
    onward: list[str] = field(default_factory=list)  # the lots that it went on in, oldest first

    @property
    def key(self) -> tuple[int, int, int, tuple[int, str]]:
        return (self.priority, self.ends if self.ends is not None else NEVER, int(self.source == "paid"), self.order)

    @property
    def can_go_back(self) -> int:
        return self.granted - self.refunded - self.clawback - self.frozen

    @property
    def parts(self) -> tuple[int, ...]:
        return (self.granted, self.spent, self.expired, self.refunded, self.frozen, self.left, self.clawback)


@dataclass(frozen=True)
class Gave:
    """What a lot gave for a refund or a dispute: of what had expired of it, had ended and was not swept, or could be spent."""

    lot: RLot
    part: int
    how: Literal["expired", "ended", "spendable"]
    lasts: int | None = None


@dataclass
class RWallet:
    """A wallet: its lots by id, what its owner owes, and what the hot store has to say."""

    lots: dict[str, RLot] = field(default_factory=dict)
    debt: int = 0
    available: int = 0  # in the hot store
    held: int = 0
    charged: list[int] = field(default_factory=list)  # settled there, not in the books yet

    @property
    def in_flight(self) -> int:
        return self.held + sum(self.charged)

    @property
    def spendable(self) -> int:
        return sum(lot.left for lot in self.lots.values()) - self.debt

    def add(self, lot_id: str, lot: RLot) -> None:
        """A grant: the debt first."""
        paid = min(self.debt, lot.left)
        self.debt -= paid
        lot.left -= paid
        lot.spent += paid
        self.lots[lot_id] = lot

    def burn(self, amount: int) -> list[str]:
        """Usage; the lots that paid, in order."""
        paid = []
        for lot_id, lot in sorted(self.lots.items(), key=lambda pair: pair[1].key):
            part = min(amount, lot.left)
            if part:
                lot.left -= part
                lot.spent += part
                amount -= part
                paid.append(lot_id)
        self.debt += amount
        return paid

    def unspent(self, lot: RLot, wanted: int, gave: list[Gave], now: int) -> int:
        """What ended of a lot unspent is left of it again, as far as it is wanted; returns what of it nobody had any more.

        `gave` is told what each lot gave.
        """
        gone = min(wanted, lot.lost)
        lot.lost -= gone
        lot.expired -= gone
        lot.left += gone
        gave.append(Gave(lot, gone, "expired"))
        wanted -= gone
        for child in [self.lots[name] for name in lot.onward]:
            part, before = min(wanted, lot.expired - lot.lost), child.left
            if part > child.left:
                gone += self.unspent(child, part - child.left, gave, now)
                part = min(part, child.left)
            child.left -= part
            lasts = None if child.ends is None else child.ends - now
            gave.append(Gave(child, before - child.left, "spendable" if lasts is None or lasts > 0 else "ended", lasts))
            child.refunded += part
            lot.expired -= part
            lot.left += part
            wanted -= part
        return gone

    def reaches(self, lot: RLot, other: RLot) -> bool:
        """Whether what expired of another lot stands for this one: it is this one, or was made of it by roll-overs."""
        return lot is other or any(self.reaches(self.lots[name], other) for name in lot.onward)

    def returned(self, lot: RLot, other: RLot, part: int) -> None:
        """What another lot gave to a lot is left of that one again."""
        if lot is other:
            return
        (child,) = [one for one in (self.lots[name] for name in lot.onward) if self.reaches(one, other)]
        lot.left -= part
        lot.expired += part
        child.left += part
        child.refunded -= part
        self.returned(child, other, part)

    def take_back(self, lot: RLot, amount: int) -> int:
        """From what is left, the rest as a debt, which is returned."""
        assert amount <= lot.can_go_back
        left = min(lot.left, amount)
        lot.left -= left
        lot.refunded += left
        lot.clawback += amount - left
        self.debt += amount - left
        return amount - left

    def give_back(self, lot: RLot, amount: int, owed: int) -> int:
        """The reverse; returns what had been paid of the debt meanwhile, which is the owner's in a new lot."""
        lot.left += amount - owed
        lot.refunded -= amount - owed
        lot.clawback -= owed
        repaid = min(self.debt, owed)
        self.debt -= repaid
        return owed - repaid

    def after_flight(self) -> dict[str, int]:
        """What each lot has left once all that is in flight has burned, each hold to its last unit."""
        copy = RWallet({name: replace(lot) for name, lot in self.lots.items()}, self.debt)
        copy.burn(self.in_flight)
        return {name: lot.left for name, lot in copy.lots.items()}

"""Random histories of money against a reference of the design's own words: top-up, spend, expire, refund, dispute, correct ...

The 100,000 steps of the suite run on the rules alone (`journal` and `endings` over dictionaries, no SQL): after each
step the wallet's lots and debt are those of the reference, and invariants 1, 3, 4, 7, 8, 9, 10, 11 and 12 hold of all
that the step touched; every 250 steps, and at the end, every balance is added up from every entry (2). The services over
SQL, with invariants 5, 6, 13 and 14 too, run some hundred steps in `test_random_services.py`.

    RANDOM_SEED=n           other histories; each run of the suite has the same
    RANDOM_HISTORIES=n      how many steps in all; 100,000 unless told
    RANDOM_HISTORY=n        that history alone
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.errors import Conflict, InvalidRequest
from gateway.ledger import invariants
from gateway.ledger.model import Lot
from tests.ledger.engines import Rules
from tests.ledger.reference import Gave, RLot, RWallet

SEED = int(os.environ.get("RANDOM_SEED", 20_261_122))
STEPS = int(os.environ.get("RANDOM_HISTORIES", 100_000))
ALONE = os.environ.get("RANDOM_HISTORY")
STEPS_A_HISTORY = 500
OWNERS = ("ann", "bob", "cy")
CHUNKS = 4  # tests that share the histories


def parts(lot: Lot) -> tuple[int, ...]:
    return (
        *(lot.granted_micro, lot.spent_micro, lot.expired_micro, lot.refunded_micro),
        *(lot.frozen_micro, lot.left_micro, lot.clawback_micro),
    )


class History:
    """Both sides of one history, a step at a time."""

    def __init__(self, number: int, books: Any = None) -> None:
        """`books` are the rules alone, unless others are given that have the same methods."""
        self.pick = random.Random(f"{SEED}:{number}")
        self.books = books or Rules()
        self.wallets = {owner: RWallet() for owner in OWNERS}
        self.done: Counter[str] = Counter()
        self.refunds: list[tuple[str, str, str, int, int, int]] = []  # owner, txn, lot, amount, owed, fee
        self.disputes: dict[str, dict[str, Any]] = {}
        self.clawed: list[tuple[str, RLot, int]] = []  # what became a debt: by which transaction, of which lot
        self.undone: set[str] = set()  # transactions that were reversed
        self.correctable: list[tuple[str, str, str, Any]] = []  # owner, txn, kind, what the reference needs
        self.fees: dict[str, int] = {}  # of each payment's lot, not returned yet
        self.due = 0
        self.fee_income = 0
        self.usage = 0
        self.given_back = 0
        self.number = 0

    def step(self) -> None:
        """One thing that happens; what cannot happen now is none."""
        while not self.try_step():
            pass

    def try_step(self) -> bool:
        self.books.now += self.pick.randrange(40)
        names = list(WEIGHTS)
        name = self.pick.choices(names, list(WEIGHTS.values()))[0]
        self.owner = self.pick.choice(OWNERS)
        self.wallet = self.wallets[self.owner]
        act: Callable[[], int | None] = getattr(self, name)
        delta = act()
        if delta is None:
            return False
        self.done[name] += 1
        self.wallet.available += delta
        self.check()
        return True

    def check(self) -> None:
        """The books and the reference say the same of this wallet, and so does the hot store."""
        theirs, ours = self.books.lots_of(self.owner), self.wallet.lots
        assert {name: parts(lot) for name, lot in theirs.items()} == {name: lot.parts for name, lot in ours.items()}
        assert self.books.debt(self.owner) == self.wallet.debt
        owed = self.wallet.spendable - sum(self.wallet.charged)
        assert not invariants.hot_is_sql(self.owner, self.wallet.available + self.wallet.held, owed)
        assert not invariants.revenue_is_usage("shop", "USD", self.books.balance("", "revenue.usage"), self.usage)
        assert self.books.balance("", "revenue.corrections") == -self.given_back
        assert (self.books.balance("", "revenue.platform_fee"), self.books.balance("", "due_to_platform")) == (
            *(self.fee_income, self.due),
        )
        self.books.check_books()

    def born(self, source: str, priority: int, amount: int, ends: int | None, ref: str | None = None) -> tuple[str, RLot]:
        """The lot that the books made last, as the reference has it."""
        lot_id = self.books.newest_lot
        return lot_id, RLot(source, priority, ends, (self.books.now, lot_id), amount, amount, ref=ref)

    # ---- money in ------------------------------------------------------------------------------

    def top_up(self) -> int:
        amount, priority = self.pick.randrange(1, 400), self.pick.randrange(3)
        ends = self.books.now + self.pick.randrange(1, 3000) if self.pick.random() < 0.3 else None
        fee = min(amount - 1, self.pick.choice([0, 3, 12]))
        self.number += 1
        ref = f"pi_{self.number}"
        self.books.grant(self.owner, amount, "paid", priority, ends, ref, fee)
        lot_id, lot = self.born("paid", priority, amount, ends, ref)
        self.wallet.add(lot_id, lot)
        self.fees[lot_id] = fee
        self.fee_income += fee
        self.due += fee
        return amount

    def give(self) -> int:
        amount, priority = self.pick.randrange(1, 300), self.pick.randrange(3)
        source = self.pick.choice(["promo", "trial", "paid"])
        ends = self.books.now + self.pick.randrange(1, 2000) if self.pick.random() < 0.8 else None
        txn = self.books.grant(self.owner, amount, source, priority, ends, None, 0)
        lot_id, lot = self.born(source, priority, amount, ends)
        self.wallet.add(lot_id, lot)
        self.correctable.append((self.owner, txn, "grant", lot_id))
        return amount

    # ---- requests ------------------------------------------------------------------------------

    def hold(self) -> int | None:
        if self.wallet.available <= 0:
            return None
        amount = self.pick.randrange(1, self.wallet.available + 1)
        self.wallet.held += amount
        return -amount

    def settle_request(self) -> int | None:
        """A part of what is held ends in a charge: less, all, or an over-run."""
        if not self.wallet.held:
            return None
        held = self.pick.randrange(1, self.wallet.held + 1)
        charge = self.pick.choice([0, held // 2, held, held, held + self.pick.randrange(1, 30)])
        self.wallet.held -= held
        if charge:
            self.wallet.charged.append(charge)
        return held - charge

    def drain(self) -> int | None:
        if not self.wallet.charged:
            return None
        charge = self.wallet.charged.pop(0)
        txn = self.books.spend(self.owner, charge)
        paid = self.wallet.burn(charge)
        self.usage += charge
        self.correctable.append((self.owner, txn, "usage", (charge, paid)))
        self.wallet.available += charge  # it left the hot wallet when it was settled
        return -charge

    # ---- lots end ------------------------------------------------------------------------------

    def expire(self) -> int | None:
        """What is in flight burns what it would have burned, nobody falls into debt by it, and all else is gone."""
        due = [name for name, lot in self.wallet.lots.items() if lot.left and lot.ends is not None and lot.ends <= self.books.now]
        if not due:
            return None
        lot_id = self.pick.choice(due)
        lot, untouched = self.wallet.lots[lot_id], self.wallet.after_flight()
        keep = lot.left - untouched[lot_id]
        paid = min(self.wallet.debt, lot.left - keep)
        gone = max(0, min(self.wallet.available, lot.left - keep - paid))
        txn, taken, netted = self.books.expire(self.owner, lot_id, self.wallet.available)
        assert (taken, netted) == (gone, paid)
        lot.left -= gone + paid
        lot.expired += gone
        lot.lost += gone
        lot.spent += paid
        self.wallet.debt -= paid
        after = self.wallet.after_flight()
        assert {**untouched, lot_id: 0} == {**after, lot_id: 0}, "what is in flight burns other lots than before"
        if txn is not None:
            self.correctable.append((self.owner, txn, "expiry", (gone, lot_id)))
        return -gone

    def roll_over(self) -> int | None:
        lots = [name for name, lot in self.wallet.lots.items() if lot.left]
        if not lots:
            return None
        lot_id = self.pick.choice(lots)
        lot = self.wallet.lots[lot_id]
        amount = self.pick.randrange(1, lot.left + 1)
        ends = self.books.now + self.pick.randrange(1, 3000)
        self.books.rollover(self.owner, lot_id, amount, ends)
        new, made = self.born("rollover", 1, amount, ends)
        self.wallet.lots[new] = made
        lot.left -= amount
        lot.expired += amount
        lot.onward.append(new)
        return 0

    # ---- payments go back ----------------------------------------------------------------------

    def paid_lot(self) -> tuple[str, RLot] | None:
        lots = [(name, lot) for name, lot in self.wallet.lots.items() if lot.ref is not None and lot.can_go_back]
        return self.pick.choice(lots) if lots else None

    def refund(self) -> int | None:
        found = self.paid_lot()
        if found is None:
            return None
        lot_id, lot = found
        amount = self.pick.choice([lot.can_go_back, self.pick.randrange(1, lot.can_go_back + 1)])
        fee = self.pick.randrange(self.fees[lot_id] + 1)
        txn = self.books.refund(self.owner, lot_id, amount, fee)
        since, (gone, gave) = len(self.clawed), self.unspent(lot_id, amount)
        owed = self.owed(txn, lot, amount)
        self.fees[lot_id] -= fee
        self.fee_income -= fee
        self.due -= fee
        self.correctable.append((self.owner, txn, "refund", (lot_id, amount, owed, fee, gave, since)))
        return gone - amount

    def unspent(self, lot_id: str, amount: int) -> tuple[int, list[Gave]]:
        """(what no lot had any more, what each lot gave) of what a lot is short of for an amount."""
        gave: list[Gave] = []
        lot = self.wallet.lots[lot_id]
        gone = self.wallet.unspent(lot, max(amount - lot.left, 0), gave, self.books.now)
        return gone, [one for one in gave if one.part]

    def owed(self, txn: str, lot: RLot, amount: int) -> int:
        """What is taken back of a lot; what became a debt of that."""
        owed = self.wallet.take_back(lot, amount)
        self.clawed.append((txn, lot, owed))
        return owed

    def refused(self) -> int | None:
        """More than there is: said so, and nothing changes. A bank disputes what it likes, and may take it."""
        found = self.paid_lot()
        if found is None:
            return None
        lot_id, lot = found
        before = (dict(self.books.balances), dict(self.books.lots), len(self.books.txns))
        with pytest.raises(InvalidRequest):
            self.books.refund(self.owner, lot_id, lot.can_go_back + 1, 0)
        after = (dict(self.books.balances), dict(self.books.lots), len(self.books.txns))
        assert not invariants.nothing_changed("too much", before, after)
        return 0

    def dispute(self) -> int | None:
        found = self.paid_lot()
        if found is None:
            return None
        lot_id, lot = found
        amount = self.pick.choice([lot.can_go_back, self.pick.randrange(1, lot.can_go_back + 1)])
        txn = self.books.dispute(self.owner, lot_id, amount)
        gone, gave = self.unspent(lot_id, amount)
        frozen = min(amount, lot.left)
        lot.left -= frozen
        lot.frozen += frozen
        since = len(self.clawed) if gave else None
        opened = {"owner": self.owner, "lot": lot_id, "amount": amount, "frozen": frozen, "gave": gave, "since": since}
        self.disputes[txn] = {**opened, "state": "opened"}
        return gone - frozen

    def of_disputes(self, state: str) -> tuple[str, dict[str, Any], RLot] | None:
        found = [(name, one) for name, one in self.disputes.items() if one["state"] == state and one["owner"] == self.owner]
        if not found:
            return None
        name, one = self.pick.choice(found)
        return name, one, self.wallet.lots[one["lot"]]

    def win(self) -> int | None:
        found = self.of_disputes("opened")
        if found is None:
            return None
        name, one, lot = found
        self.books.close(self.owner, one["lot"], name, one["amount"], True)
        lot.frozen -= one["frozen"]
        lot.left += one["frozen"]
        one["state"] = "won"
        return int(one["frozen"] - self.again(lot, one["gave"], one["since"], name, as_long=True))

    def lose(self) -> int | None:
        found = self.of_disputes("opened")
        if found is None:
            return None
        name, one, lot = found
        amount = min(one["amount"], lot.can_go_back + one["frozen"])  # refunds may have come in between
        if not amount:
            return None
        amount = self.pick.choice([amount, amount, self.pick.randrange(1, amount + 1)])  # a bank may take less
        txn = self.books.close(self.owner, one["lot"], name, amount, False)
        lot.frozen -= one["frozen"]
        lot.left += one["frozen"]
        since, (gone, gave) = len(self.clawed), self.unspent(one["lot"], amount)
        owed = self.owed(txn, lot, amount)
        one["state"] = "closed"
        freed, still, back = max(one["frozen"] - amount, 0), list[Gave](), list[Gave]()
        for each in reversed(one["gave"]):
            part = min(each.part, freed)
            back.insert(0, replace(each, part=part))
            still.insert(0, replace(each, part=each.part - part))
            freed -= part
        again = self.again(lot, back, one["since"], name, as_long=True)
        since = one["since"] if one["since"] is not None else since
        self.disputes[txn] = {**one, "amount": amount, "owed": owed, "gave": [*still, *gave], "since": since, "state": "lost"}
        return int(one["frozen"] + gone - amount - again)

    def close_unopened(self) -> int | None:
        """The processor's messages overtook each other: nothing was frozen in between."""
        found = self.paid_lot()
        if found is None:
            return None
        lot_id, lot = found
        amount, won = self.pick.randrange(1, lot.can_go_back + 1), self.pick.random() < 0.5
        txn = self.books.close_unopened(self.owner, lot_id, amount, won)
        if won:
            return 0
        since, (gone, gave) = len(self.clawed), self.unspent(lot_id, amount)
        owed = self.owed(txn, lot, amount)
        lost = {"owner": self.owner, "lot": lot_id, "amount": amount, "owed": owed, "gave": gave, "since": since}
        self.disputes[txn] = {**lost, "state": "lost"}
        return gone - amount

    def reinstate(self) -> int | None:
        found = self.of_disputes("lost")
        if found is None:
            return None
        name, one, lot = found
        self.books.reinstate(self.owner, one["lot"], name)
        one["state"] = "back"
        return int(one["amount"] - self.back(lot, one["amount"], one["owed"], one["gave"], one["since"], name))

    def back(self, lot: RLot, amount: int, owed: int, gave: list[Gave], since: int, txn: str) -> int:
        """A refund or a loss is undone; what of it had expired."""
        rest = self.wallet.give_back(lot, amount, owed)
        new = sorted(self.books.lots_of(self.owner).keys() - self.wallet.lots.keys())
        if rest:
            self.wallet.lots[new[0]] = RLot(lot.source, lot.priority, None, (self.books.now, new[0]), rest, rest)
        return self.again(lot, gave, since, txn)

    def again(self, lot: RLot, gave: list[Gave], since: int | None, undone: str, *, as_long: bool = False) -> int:
        """What had expired expires again, and that much is returned; but for what would cover what became a debt since.

        What lots gave that had not ended goes on again, the last first, in lots that end as those do, or after as long as they
        had.
        """
        made = self.books.lots_of(self.owner).keys() - self.wallet.lots.keys()
        new = {name: self.books.lots_of(self.owner)[name] for name in sorted(made)}
        sums: dict[tuple[int, str], Gave] = {}
        for one in gave:
            before = sums.pop((id(one.lot), one.how), None)
            sums[id(one.lot), one.how] = replace(one, part=one.part + (before.part if before else 0))
        debts, owed, gone = dict[int, tuple[RLot, int]](), self.wallet.debt, 0
        for txn, clawed, part in self.clawed[since:] if since is not None else ():
            if txn != undone and txn not in self.undone and any(clawed is mine for mine in self.wallet.lots.values()):
                debts[id(clawed)] = (clawed, part + debts.get(id(clawed), (clawed, 0))[1])
        for clawed, part in debts.values():
            debts[id(clawed)] = (clawed, min(part, owed))
            owed -= min(part, owed)
        for one in sums.values():
            part = one.part
            for clawed, most in debts.values() if one.how == "expired" else ():
                covers = min(part, most) if self.wallet.reaches(clawed, one.lot) else 0
                debts[id(clawed)] = (clawed, most - covers)
                part -= covers
            if one.how != "spendable":
                self.wallet.returned(lot, one.lot, part)
            if one.how == "expired":
                one.lot.left -= part
                one.lot.expired += part
                one.lot.lost += part
                gone += part
        for one in reversed(sums.values()):
            if one.how == "spendable" and one.part:
                self.goes_on(lot, one, new, as_long)
        assert not new
        self.undone.add(undone)
        return gone

    def goes_on(self, lot: RLot, one: Gave, new: dict[str, Lot], as_long: bool) -> None:
        ends = one.lot.ends
        if as_long and ends is not None and one.lasts is not None and ends <= self.books.now:
            ends = self.books.now + one.lasts
        alike = (self.at(ends), one.part)
        name = next(name for name, made in new.items() if (made.expires_at_ms, made.granted_micro) == alike)
        del new[name]
        self.wallet.lots[name] = RLot("rollover", one.lot.priority, ends, (self.books.now, name), one.part, one.part)
        lot.left -= one.part
        lot.expired += one.part
        lot.onward.append(name)

    def at(self, ends: int | None) -> int | None:
        """When the books say that a lot ends."""
        return None if ends is None else ends + int(getattr(self.books, "starts_at_ms", 0))

    # ---- corrections ---------------------------------------------------------------------------

    def correct(self) -> int | None:
        mine = [one for one in self.correctable if one[0] == self.owner]
        if not mine:
            return None
        chosen = self.pick.choice(mine)
        self.correctable.remove(chosen)
        _, txn, kind, about = chosen
        if kind == "grant":
            return self.correct_grant(txn, about)
        if kind == "expiry" and self.wallet.lots[about[1]].lost < about[0]:
            with pytest.raises(InvalidRequest):  # it went back to the payer since
                self.books.correct(self.owner, txn)
            return None
        self.books.correct(self.owner, txn)
        with pytest.raises((InvalidRequest, Conflict)):
            self.books.correct(self.owner, txn)
        if kind == "refund":
            lot_id, amount, owed, fee, gave, since = about
            self.fees[lot_id] += fee
            self.fee_income += fee
            self.due += fee
            return int(amount - self.back(self.wallet.lots[lot_id], amount, owed, gave, since, txn))
        if kind == "expiry":
            self.wallet.lots[about[1]].lost -= about[0]
        amount, burned = about if kind == "usage" else (about[0], [about[1]])
        if kind == "usage":
            self.given_back += amount
        repaid = min(self.wallet.debt, amount)
        self.wallet.debt -= repaid
        if amount > repaid:
            first = self.wallet.lots[burned[0]] if burned else RLot("promo", 0, None, (0, ""), 0, 0)
            new, made = self.born(first.source, first.priority, amount - repaid, None)
            self.wallet.lots[new] = made
        return int(amount)

    def correct_grant(self, txn: str, lot_id: str) -> int | None:
        lot = self.wallet.lots[lot_id]
        amount = lot.can_go_back - lot.expired
        if amount <= 0:
            with pytest.raises(InvalidRequest):
                self.books.correct(self.owner, txn)
            return None
        self.books.correct(self.owner, txn)
        self.wallet.take_back(lot, amount)
        return -amount

    def pay_due(self) -> int | None:
        if not self.due:
            return None
        amount = self.pick.choice([self.due, self.due // 2 or self.due])
        self.books.settle(amount)
        self.due -= amount
        return 0


WEIGHTS = {
    "top_up": 4,
    "give": 4,
    "hold": 5,
    "settle_request": 5,
    "drain": 6,
    "expire": 6,
    "roll_over": 1,
    "refund": 3,
    "refused": 1,
    "dispute": 3,
    "win": 2,
    "lose": 2,
    "close_unopened": 1,
    "reinstate": 2,
    "correct": 3,
    "pay_due": 1,
}


def run(number: int, steps: int) -> Counter[str]:
    history = History(number)
    try:
        for step in range(steps):
            history.step()
            if step % 250 == 249:
                history.books.check_all()
        history.books.check_all()
    except BaseException:
        print(f"replay: RANDOM_SEED={SEED} RANDOM_HISTORY={number} pytest -n 0 tests/ledger/test_random_histories.py")
        raise
    return history.done


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_history_leaves_the_books_as_the_reference_has_them_after_each_step(chunk: int) -> None:
    numbers = [int(ALONE)] if ALONE else range(chunk, -(-STEPS // STEPS_A_HISTORY), CHUNKS)
    done: Counter[str] = Counter()
    for number in numbers:
        done += run(number, STEPS_A_HISTORY)
    print(dict(done))
    if not ALONE and STEPS >= 100_000:
        assert all(done[name] > 200 for name in WEIGHTS), done


def test_the_reference_adds_up_by_itself() -> None:
    wallet = RWallet()
    wallet.add("a", RLot("paid", 0, None, (1, "a"), 100, 100, ref="pi"))
    wallet.burn(130)
    assert (wallet.debt, wallet.spendable) == (30, -30)
    assert wallet.take_back(wallet.lots["a"], 60) == 60
    wallet.add("b", replace(wallet.lots["a"], granted=50, left=50, spent=0, clawback=0))
    assert (wallet.debt, wallet.lots["b"].left) == (40, 0)

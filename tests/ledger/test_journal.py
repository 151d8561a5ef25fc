import random

import msgspec
import pytest

from gateway.ledger import invariants, journal
from gateway.ledger.model import AVAILABLE, DEBT, AccountKey, Entry, Lot, Txn, WalletKey
from tests.ledger.values import grant_request

NOW = 1_000


def lot(name: str, left: int = 10, **changed: object) -> Lot:
    given = {"source": "paid", "priority": 0, "effective_at_ms": 0, "expires_at_ms": None, "created_at_ms": 0, **changed}
    return Lot(id=name, granted_micro=left, spent_micro=0, left_micro=left, **given)  # type: ignore[arg-type]


def burned(lots: list[Lot], amount: int) -> list[tuple[str | None, int]]:
    return [(entry.lot_id, entry.amount_micro) for entry in journal.Purse("u", "USD", lots, NOW).burn(amount)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lot("z", priority=1), lot("a", priority=2, expires_at_ms=5)),
        (lot("z", expires_at_ms=5_000), lot("a", expires_at_ms=6_000, source="promo")),
        (lot("z", expires_at_ms=5_000), lot("a", source="promo")),
        (lot("z", source="promo", created_at_ms=9), lot("a")),
        (lot("z", source="trial", created_at_ms=9), lot("a")),
        (lot("z", created_at_ms=1), lot("a", created_at_ms=2)),
        (lot("a"), lot("z")),
        (lot("z", expires_at_ms=NOW - 1), lot("a", expires_at_ms=NOW + 1)),
    ],
)
def test_lots_burn_by_priority_then_expiry_then_given_before_paid_then_oldest(first: Lot, second: Lot) -> None:
    for order in ([first, second], [second, first]):
        assert burned(order, 12) == [(first.id, -10), (second.id, -2)]


def test_what_the_lots_do_not_cover_is_debt() -> None:
    assert burned([lot("a"), lot("b", left=5)], 18) == [("a", -10), ("b", -5), (None, -3)]
    assert burned([], 3) == [(None, -3)]


def test_a_lot_that_is_not_in_effect_yet_is_left_alone() -> None:
    assert burned([lot("later", effective_at_ms=NOW + 1), lot("now", effective_at_ms=NOW)], 11) == [("now", -10), (None, -1)]


def test_a_lot_made_by_a_machine_whose_clock_is_ahead_burns_at_once() -> None:
    assert burned([lot("ahead", effective_at_ms=NOW + 50, created_at_ms=NOW + 50)], 4) == [("ahead", -4)]


def test_a_purse_goes_on_where_the_last_request_stopped() -> None:
    purse = journal.Purse("u", "USD", [lot("a"), lot("b")], NOW)
    parts = [[(entry.lot_id, entry.amount_micro) for entry in purse.burn(6)] for _ in range(4)]
    assert parts == [[("a", -6)], [("a", -4), ("b", -2)], [("b", -6)], [("b", -2), (None, -4)]]
    assert purse.spent == {"a": 10, "b": 10}


def test_a_grant_pays_the_debt_first_and_the_lot_says_so() -> None:
    txn, made = journal.grant("txn_1", "lot_1", grant_request("op", 100), "print", 30, NOW)
    available = AccountKey("ann", AVAILABLE, "USD")
    assert txn.entries[1:] == (
        Entry(available, 100, "lot_1"),
        Entry(available, -30, "lot_1"),
        Entry(AccountKey("ann", DEBT, "USD"), 30),
    )
    assert (made.granted_micro, made.spent_micro, made.left_micro) == (100, 30, 70)


@pytest.mark.parametrize(
    ("source", "account"), [("paid", "stripe_clearing"), ("promo", "expense.promo"), ("trial", "expense.promo")]
)
def test_a_grant_comes_from_the_account_of_its_source(source: str, account: str) -> None:
    txn, _ = journal.grant("txn_1", "lot_1", grant_request("op", 100, WalletKey("carol"), source=source), "print", 0, NOW)
    assert txn.entries[0] == Entry(AccountKey("", account, "USD"), -100)


def test_every_transaction_that_the_rules_build_balances() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    pick = random.Random(seed)
    for _ in range(500):
        lots = [lot(str(n), left=pick.randrange(1, 50), priority=pick.randrange(3)) for n in range(pick.randrange(4))]
        purse = journal.Purse("u", "TOK", lots, NOW)
        txn = journal.usage("t", "r", "app", NOW, purse, pick.randrange(0, 120), pick.randrange(0, 9))
        sums: dict[str, int] = {}
        for entry in txn.entries:
            sums[entry.account.asset] = sums.get(entry.account.asset, 0) + entry.amount_micro
        assert not any(sums.values())
        assert sum(purse.spent.values()) <= sum(one.left_micro for one in lots)


class Book:
    """A whole book in memory, moved by the rules alone."""

    def __init__(self) -> None:
        self.balances: dict[AccountKey, int] = {}
        self.lots: dict[str, tuple[str, Lot]] = {}
        self.usage_micro = 0

    def post(self, txn: Txn) -> None:
        totals: dict[str, int] = {}
        for entry in txn.entries:
            totals[entry.account.asset] = totals.get(entry.account.asset, 0) + entry.amount_micro
        assert not [one for asset, total in totals.items() if (one := invariants.txn_sums_to_zero(txn.id, asset, total))]
        for key, delta in journal.changes([txn]).items():
            self.balances[key] = self.balances.get(key, 0) + delta

    def spend(self, spent: dict[str, int]) -> None:
        for lot_id, part in spent.items():
            owner, was = self.lots[lot_id]
            self.lots[lot_id] = (
                owner,
                msgspec.structs.replace(was, spent_micro=was.spent_micro + part, left_micro=was.left_micro - part),
            )

    def violations(self) -> list[str]:
        found = []
        for key, balance in self.balances.items():
            found.append(invariants.right_side_of_zero(key.owner, key.kind, balance))
            if key.kind == AVAILABLE:
                left = sum(one.left_micro for owner, one in self.lots.values() if owner == key.owner)
                found.append(invariants.lots_make_available(key.owner, balance, left))
        for _, one in self.lots.values():
            parts = (one.spent_micro, one.expired_micro, one.refunded_micro, one.frozen_micro, one.left_micro)
            found.append(invariants.lot_adds_up(one.id, one.granted_micro, *parts))
        revenue = self.balances.get(AccountKey("", "revenue.usage", "USD"), 0)
        found.append(invariants.revenue_is_usage("book", "USD", revenue, self.usage_micro))
        return [one for one in found if one]


def test_the_invariants_hold_after_each_of_thousands_of_steps_and_spendable_is_what_went_in_less_what_was_used() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    pick, book = random.Random(seed), Book()
    net = dict.fromkeys(("ann", "bob"), 0)
    debts = 0
    for step in range(3000):
        now, owner = step, pick.choice(list(net))
        available, debt = AccountKey(owner, AVAILABLE, "USD"), AccountKey(owner, DEBT, "USD")
        if pick.random() < 0.12:
            ends = now + pick.randrange(1, 200) if pick.random() < 0.5 else None
            request = grant_request(
                f"op{step}", pick.randrange(1, 300), WalletKey(owner), priority=pick.randrange(3), expires_at_ms=ends
            )
            txn, made = journal.grant(f"t{step}", f"l{step}", request, "print", -book.balances.get(debt, 0), now)
            book.post(txn)
            book.lots[made.id] = (owner, made)
            net[owner] += request.amount_micro
        else:
            purse = journal.Purse(owner, "USD", [one for who, one in book.lots.values() if who == owner], now)
            amount = pick.choice([0, 1, 20, 90])
            book.post(journal.usage(f"t{step}", f"r{step}", "", now, purse, amount, pick.choice([0, 5])))
            book.spend(purse.spent)
            book.usage_micro += amount
            net[owner] -= amount
        book.lots = {name: one for name, one in book.lots.items() if one[1].left_micro or pick.random() < 0.9}
        assert book.violations() == []
        assert book.balances.get(available, 0) + book.balances.get(debt, 0) == net[owner]
        debts += book.balances.get(debt, 0) < 0
    assert debts > 50, "the history has to run into debt to mean something"

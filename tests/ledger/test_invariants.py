"""Each invariant, on its own: silent where it holds, in words where it does not."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.ledger import invariants as rules

CASES: list[tuple[Callable[..., str | None], list[tuple[Any, ...]], list[tuple[Any, ...]]]] = [
    (rules.txn_sums_to_zero, [("t", "USD", 0)], [("t", "USD", 1), ("t", "USD", -1)]),
    (rules.balance_is_sum, [("a", 5, 5)], [("a", 5, 4)]),
    (rules.lot_adds_up, [("l", 10, 1, 2, 3, 4, 0)], [("l", 10, 1, 2, 3, 4, 1), ("l", 0, -1, 1, 0, 0, 0)]),
    (rules.lots_make_available, [("a", 5, 5)], [("a", 5, 6)]),
    (rules.lots_make_frozen, [("a", 5, 5)], [("a", 5, 6)]),
    (
        rules.right_side_of_zero,
        [("a", "user.available", 0), ("a", "user.frozen", 1), ("a", "receivable.clawback", -1), ("a", "expense.promo", -1)],
        [("a", "user.available", -1), ("a", "user.frozen", -1), ("a", "receivable.clawback", 1), ("a", "receivable.overage", 1)],
    ),
    (rules.no_more_repaid_than_used, [("w", -5, 5), ("w", -6, 5), ("w", 0, 0)], [("w", -4, 5), ("w", 1, 0)]),
    (
        rules.captured_once,
        [("r", "app_usage", 5, 1), ("r", "app_usage", 0, 0), ("r", "platform", 5, 0)],
        [("r", "app_usage", 5, 0), ("r", "app_usage", 5, 2), ("r", "app_usage", 0, 1), ("r", "platform", 5, 1)],
    ),
    (rules.every_capture_has_its_request, [("a", 2, 2)], [("a", 3, 2)]),
    (
        rules.overrun_is_recorded,
        [("r", "creator", 5, 5, False), ("r", "creator", 6, 5, True), ("r", "creator", 6, None, False)],
        [("r", "creator", 6, 5, False), ("r", "creator", 5, 5, True)],
    ),
    (rules.one_grant_a_payment, [("pi", 1)], [("pi", 2)]),
    (
        rules.went_back_in_step,
        [("pi", 10, 0, 7, 0, 1), ("pi", 10, 10, 7, 7, 3), ("pi", 10, 5, 7, 3, 2), ("pi", 10, 1, 7, 0, 2)],
        [
            ("pi", 10, 11, 7, 7, 3),
            ("pi", 10, -1, 7, 0, 3),
            ("pi", 10, 0, 7, 1, 2),
            ("pi", 10, 10, 7, 6, 3),
            ("pi", 10, 5, 7, 6, 2),
        ],
    ),
    (rules.reversed_once, [("t", 1)], [("t", 2)]),
    (
        rules.reverses_what_it_may,
        [("t", "dispute_won", "dispute_opened"), ("t", "reinstate", "dispute_lost"), ("t", "grant", None)],
        [("t", "dispute_lost", "refund"), ("t", "reinstate", "dispute_won"), ("t", "correction", None), ("t", "grant", "grant")],
    ),
    (rules.clawback_within_lot, [("l", 3, 4, 7), ("l", 0, 0, 0)], [("l", 3, 4, 8), ("l", 3, 4, -1)]),
    (rules.thawed_what_was_frozen, [("t", 5, 5)], [("t", 5, 4), ("t", 5, 6)]),
    (rules.fee_is_income, [("a", "USD", 5, 5)], [("a", "USD", 5, 4)]),
    (rules.dues_agree, [("a", "USD", 5, 5)], [("a", "USD", 5, 0)]),
    (rules.revenue_is_usage, [("b", "USD", 5, 5)], [("b", "USD", 5, 4)]),
    (rules.hot_is_sql, [("w", 5, 5), ("w", -5, -5)], [("w", 5, 4), ("w", None, 0)]),
    (rules.nothing_changed, [("op", {"a": 1}, {"a": 1})], [("op", {"a": 1}, {"a": 2})]),
    (rules.owner_is_creator, [("a", "", False), ("a", "carol", True)], [("a", "zoe", False)]),
    (rules.database_is_own, [("a", "here", None)], [("a", "here", "app b")]),
    (rules.posted_request_has_row, [("a", "r", True)], [("a", "r", False)]),
]


@pytest.mark.parametrize(("rule", "held", "broken"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_rule_is_silent_where_it_holds_and_speaks_where_it_does_not(
    rule: Callable[..., str | None], held: list[tuple[Any, ...]], broken: list[tuple[Any, ...]]
) -> None:
    assert [rule(*given) for given in held] == [None] * len(held)
    assert all(rule(*given) for given in broken)


def test_every_rule_is_here_and_every_number_has_one() -> None:
    functions = {
        name: rule for name, rule in vars(rules).items() if callable(rule) and getattr(rule, "__module__", "") == rules.__name__
    }
    assert set(functions) == {case[0].__name__ for case in CASES}
    numbers = {int((rule.__doc__ or "").partition(":")[0]) for rule in functions.values()}
    assert numbers == set(range(1, 15))

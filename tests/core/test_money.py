import random
from decimal import Decimal

import pytest

from gateway.core.money import AMOUNT_MICRO_MAX, ceil_div, decimal_from_micro, is_asset, micro_from_decimal


@pytest.mark.parametrize(
    ("text", "micro"),
    [("0.15", 150_000), ("1", 1_000_000), ("-0.00002", -20), ("1e-6", 1), ("0", 0), ("9007199254.740991", AMOUNT_MICRO_MAX - 0)],
)
def test_a_decimal_becomes_exact_micro_units(text: str, micro: int) -> None:
    if micro == AMOUNT_MICRO_MAX:
        with pytest.raises(ValueError, match="range"):
            micro_from_decimal(text)  # the cap is on whole units, so that sums stay below 2**53
        return
    assert micro_from_decimal(text) == micro


@pytest.mark.parametrize("text", ["0.0000001", "abc", "", "NaN", "Infinity", "1e30", "0.15.1", "1_000", "\uff11", " 1", "0x1"])
def test_a_decimal_that_is_not_exact_money_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"decimal|range"):
        micro_from_decimal(text)


def test_writing_and_reading_an_amount_gives_the_amount_back() -> None:
    seed = 20261
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(2000):
        micro = source.randint(-(10**15), 10**15)
        text = decimal_from_micro(micro)
        assert Decimal(text) * 1_000_000 == micro
        assert micro_from_decimal(text) == micro


def test_division_rounds_up_for_both_signs() -> None:
    assert [ceil_div(n, 10) for n in (0, 1, 10, 11, -1, -10, -11)] == [0, 1, 1, 2, 0, -1, -1]


def test_an_asset_is_three_capitals() -> None:
    assert is_asset("USD")
    assert is_asset("TOK")
    assert not is_asset("usd")
    assert not is_asset("EURO")

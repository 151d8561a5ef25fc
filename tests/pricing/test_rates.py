"""The one price arithmetic, against exact fractions."""

import math
import random
import re
from fractions import Fraction
from typing import Any

import pytest

from gateway.core.units import KINDS, TOKEN_KINDS, TOOL_KINDS, UNIT_KINDS, Usage
from gateway.pricing.rates import decimal_from_rate, marked_up, rate_from_decimal, rates_from


def test_a_price_is_the_exact_sum_rounded_up_once() -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(5_000):
        given = {kind: dice.choice([0, 1, dice.randrange(10**6), dice.randrange(10**9)]) for kind in (*KINDS, "request")}
        usage = Usage(**{kind: dice.choice([0, 0, 1, dice.randrange(10**6)]) for kind in KINDS})
        exact = sum((Fraction(getattr(usage, kind) * given[kind], 10**6) for kind in KINDS), Fraction(given["request"], 10**6))
        assert rates_from("USD", given).price(usage) == math.ceil(exact), f"seed {seed}"


def test_published_example() -> None:
    # gpt-4o-mini: 2,006 prompt tokens of which 1,920 cached, 300 out: 12.9 + 144 + 180 micro-USD.
    rates = rates_from("USD", {"input": 150_000, "cached_input": 75_000, "output": 600_000})
    assert rates.price(Usage(input=86, cached_input=1920, output=300)) == 337


def test_the_ceiling_covers_every_way_to_spend_the_tokens() -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(3_000):
        given: dict[str, Any] = {kind: dice.randrange(10**7) for kind in (*KINDS, "request")}
        if dice.random() < 0.5:
            given |= {"above": dice.randrange(1, 30_000), "long": {kind: dice.randrange(10**7) for kind in TOKEN_KINDS}}
        rates = rates_from("USD", given)
        usage = Usage(**{kind: dice.randrange(5_000) for kind in KINDS})
        units = tuple((kind, getattr(usage, kind) + dice.randrange(3)) for kind in (*UNIT_KINDS, *TOOL_KINDS))
        most = rates.ceiling(usage.input_total + dice.randrange(3), usage.output_total) + rates.units_price(units)
        assert most >= rates.price(usage), f"seed {seed}"


def test_a_prompt_above_a_size_is_priced_by_the_rates_of_long_ones_alone() -> None:
    rates = rates_from("USD", {"input": 3_000_000, "output": 15_000_000, "above": 200_000, "long": {"input": 6_000_000}})
    assert rates.price(Usage(input=200_000, output=10)) == 600_150
    assert rates.price(Usage(input=1, cached_input=199_999, cache_write=1, output=10)) == 1_200_156
    assert rates.ceiling(200_000, 10) == 600_150
    assert rates.ceiling(200_001, 10) == 1_200_156
    assert marked_up(rates, 1_000).price(Usage(input=200_001)) == 1_320_007


def test_units_are_priced_one_by_one_and_have_no_price_of_their_like() -> None:
    rates = rates_from("USD", {"images": rate_from_decimal("images", "0.04"), "variants": {"hd": {"images": 80_000 * 10**6}}})
    assert rates.price(Usage(images=2)) == 80_000
    assert rates.variant("hd").price(Usage(images=2)) == 160_000
    assert rates.variant("another").price(Usage(images=1)) == 40_000
    assert rates_from("USD", {"input": 5, "output": 5}).price(Usage(images=10**6, seconds=10**6)) == 0
    assert rate_from_decimal("seconds", "0.0001") == 100 * 10**6
    assert decimal_from_rate("seconds", 100 * 10**6) == "0.0001"
    assert rate_from_decimal("characters", "15") == 15 * 10**6
    for kind, text in (("images", "NaN"), ("images", "Infinity"), ("seconds", "a"), ("images", "0.0000000000001")):
        with pytest.raises(ValueError, match=re.escape(text[:3])):
            rate_from_decimal(kind, text)


def test_what_is_covered_never_costs_more_than_the_amount_and_one_more_token_would() -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(3_000):
        rates = rates_from("USD", {"input": dice.randrange(10**7), "output": dice.randrange(1, 10**7)})
        amount, tokens = dice.randrange(10**7), dice.randrange(10_000)
        covered = rates.output_covered(amount, tokens)
        if covered:
            assert rates.ceiling(tokens, covered) <= amount, f"seed {seed}"
        assert rates.ceiling(tokens, covered + 1) > amount, f"seed {seed}"


def test_a_markup_raises_every_rate_and_rounds_up() -> None:
    raised = marked_up(rates_from("USD", {"input": 3, "output": 10, "request": 1}), 2_000)
    assert (raised.input, raised.cached_input, raised.output, raised.request) == (4, 4, 12, 2)

"""Prices as people write them: read whole or refused with the field, and shown as they were written."""

import re
from typing import Any

import pytest

from gateway.core.units import Usage
from gateway.pricing.rates import dearest, rates_from
from gateway.pricing.written import WrongPrice, given_of, read_prices, shown, told, written

PRICES: dict[str, Any] = {
    "input": "3", "cached_input": "0.3", "output": "15", "images": "0.04",
    "above": 200_000, "long": {"input": "6", "output": "22.5", "above": 500_000, "long": {"input": "9"}},
    "variants": {
        "priority": {"input": "5", "output": "30"},
        "flex": {"input": "1.5", "output": "7.5", "above": 100_000, "long": {"input": "2"}},
    },
}  # fmt: skip


def test_what_was_written_is_shown_again() -> None:
    assert written(read_prices(PRICES)) == PRICES
    assert written(given_of(rates_from("USD", read_prices(PRICES))))["long"]["long"]["input"] == "9"
    line = told(PRICES, {"cached_input": "input"})
    assert line.startswith("input 3, cached_input 0.3, output 15, images 0.04; above 200000: input 6, output 22.5; above 5")
    assert line.endswith("; flex: input 1.5, output 7.5; above 100000: input 2")


def test_nothing_is_told_of_what_costs_the_same_and_what_is_free_costs_0() -> None:
    variants = {"priority": {"input": "9"}, "flex": {}}
    given = {"input": "1", "output": "2", "above": 2000, "long": {"input": "3"}, "variants": variants}
    rates = rates_from("USD", read_prices(given))
    like = dict.fromkeys(("cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input"), "input")
    like |= dict.fromkeys(("reasoning", "audio_output", "image_output"), "output")
    assert told(shown(rates), like) == "input 1, output 2; above 2000: input 3; priority: input 9; flex: above 2000: input 3"
    plain = rates_from("USD", read_prices({"input": "1", "output": "2", "variants": {"flex": {}}}))
    assert told(shown(plain), like) == "input 1, output 2; flex: the same"
    assert shown(rates_from("USD", read_prices({"input": "0", "output": "0"}))) == {"input": "0"}


def test_each_size_of_a_prompt_and_each_variant_has_its_price() -> None:
    rates = rates_from("USD", read_prices(PRICES))
    assert rates.price(Usage(input=200_000)) == 600_000
    assert rates.price(Usage(input=200_001)) == 1_200_006
    assert rates.price(Usage(input=500_001)) == 4_500_009
    assert rates.price(Usage(cached_input=500_001, output=2)) == 150_001 + 45
    assert rates.variant("flex").price(Usage(input=100_001, output=2)) == 200_017
    # A variant without prices of long prompts takes the dearer of its own and theirs.
    assert rates.variant("priority").price(Usage(input=200_001, output=2)) == 1_200_006 + 60


def test_what_may_be_served_in_several_ways_costs_the_dearest_until_the_answer_says_which() -> None:
    rates = rates_from("USD", read_prices(PRICES))
    either = rates.variant("default|flex|priority")
    assert (either.input, either.output, either.cached_input) == (5_000_000, 30_000_000, 300_000)
    assert either.ceiling(100_001, 5) >= rates.variant("flex").ceiling(100_001, 5)
    assert either.variant("default") == rates
    assert either.variant("priority") == rates.variant("priority")
    assert either.variant("default|flex|priority") == either
    assert rates.variant("default|nothing").input == rates.input
    assert dearest(rates, rates.variant("flex")).long_above == 100_000


def test_a_model_that_only_reads_needs_no_price_of_what_it_makes() -> None:
    assert read_prices({"input": "0"}, makes_tokens=False) == {"input": 0}
    with pytest.raises(WrongPrice, match="both be named"):
        read_prices({"output": "1"}, makes_tokens=False)


@pytest.mark.parametrize(
    ("wrong", "field", "says"),
    [
        ({"input": "1"}, "", "input and output must both be named"),
        ({"long": {"input": "1"}}, "", "named together"),
        ({"above": 5}, "", "named together"),
        ({"above": 0, "long": {}}, "above", "whole number of tokens"),
        ({"above": "5", "long": {}}, "above", "whole number of tokens"),
        ({"above": 5, "long": {"inptu": "1"}}, "long.inptu", "no kind of price"),
        ({"above": 5, "long": {"input": "1", "above": 5, "long": {}}}, "long.above", "above the one before"),
        ({"above": 5, "long": {"variants": {}}}, "long.variants", "no kind of price"),
        ({"above": 5, "long": "1"}, "long", "given by kind"),
        ({"variants": {"flex": {"input": 1}}}, "variants.flex.input", "in quotes"),
        ({"variants": {"flex": {"input": "-1"}}}, "variants.flex.input", "negative"),
        ({"variants": {"a|b": {}}}, "variants", "no | in it"),
        ({"variants": ["flex"]}, "variants", "given by name"),
        ({"variants": {"flex": {"variants": {}}}}, "variants.flex.variants", "no kind of price"),
        ({"images": "NaN"}, "images", "NaN"),
    ],
)
def test_a_price_that_cannot_stand_is_refused_with_its_field(wrong: dict[str, Any], field: str, says: str) -> None:
    given = {**({} if wrong == {"input": "1"} else {"input": "1", "output": "2"}), **wrong}
    with pytest.raises(WrongPrice, match=re.escape(says)) as refused:
        read_prices(given)
    assert refused.value.field == field

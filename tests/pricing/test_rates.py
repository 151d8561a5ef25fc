"""The one price arithmetic, against exact fractions."""

import math
import random
from fractions import Fraction

from gateway.core.units import KINDS, Usage
from gateway.pricing.rates import marked_up, rates_from


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
        rates = rates_from("USD", {kind: dice.randrange(10**7) for kind in (*KINDS, "request")})
        parts = {kind: dice.randrange(5_000) for kind in KINDS}
        usage = Usage(**parts)
        assert rates.ceiling(usage.input_total, usage.output_total) >= rates.price(usage), f"seed {seed}"


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

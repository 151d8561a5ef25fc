"""Amounts go to Stripe and come back as what they were, in currencies of every kind."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.billing import minor_units
from gateway.billing.minor_units import (
    AMOUNT_MINOR_MAX,
    check,
    decimals,
    is_charged,
    least_charged,
    micro_from_minor,
    minor_from_micro,
    price,
)

SCALES = {"USD": 10_000, "EUR": 10_000, "JPY": 1_000_000, "KWD": 1_000}


@pytest.mark.parametrize(
    ("currency", "micro"), [("USD", 10_990_000), ("EUR", 10_990_000), ("JPY", 1_099_000_000), ("KWD", 1_099_000)]
)
def test_one_thousand_and_ninety_nine_minor_units_are_what_they_are_in_each_currency(currency: str, micro: int) -> None:
    assert micro_from_minor(1099, currency) == micro


@given(st.sampled_from(sorted(SCALES)), st.integers(-AMOUNT_MINOR_MAX, AMOUNT_MINOR_MAX))
def test_minor_units_come_back_exactly(currency: str, amount_minor: int) -> None:
    amount_micro = micro_from_minor(amount_minor, currency)
    assert amount_micro == amount_minor * SCALES[currency]
    assert minor_from_micro(amount_micro, currency) == amount_minor


@given(st.sampled_from(sorted(SCALES)), st.integers(-(10**15), 10**15))
def test_micro_units_are_whole_minor_units_or_refused(currency: str, amount_micro: int) -> None:
    whole = amount_micro % SCALES[currency] == 0
    try:
        amount_minor = minor_from_micro(amount_micro, currency)
    except ValueError:
        assert not whole
    else:
        assert whole
        assert micro_from_minor(amount_minor, currency) == amount_micro


@pytest.mark.parametrize("currency", ["TOK", "usd", "US", ""])
def test_what_is_no_currency_has_no_minor_units(currency: str) -> None:
    with pytest.raises(ValueError, match="no currency"):
        decimals(currency)


@pytest.mark.parametrize(
    ("amount_minor", "currency"), [(0, "USD"), (-1, "USD"), (AMOUNT_MINOR_MAX + 1, "USD"), (1055, "ISK"), (1001, "KWD")]
)
def test_an_amount_that_stripe_does_not_take_is_refused(amount_minor: int, currency: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        check(amount_minor, currency)


@pytest.mark.parametrize(("amount_minor", "currency"), [(1, "USD"), (AMOUNT_MINOR_MAX, "JPY"), (1100, "ISK"), (1010, "KWD")])
def test_an_amount_that_stripe_takes_is_taken(amount_minor: int, currency: str) -> None:
    assert check(amount_minor, currency) == amount_minor


def test_only_what_stripe_charges_in_is_a_currency_for_prices() -> None:
    assert all(map(is_charged, ["USD", "EUR", "JPY", "KWD", "UAH", "ISK"]))
    assert not any(map(is_charged, ["ZZZ", "TOK", "usd", "XXX", "XTS", "BTC", "DEM", "US", "USDC", ""]))
    for table in (minor_units._NONE, minor_units._THREE, minor_units._STEP, minor_units._LEAST):
        assert all(map(is_charged, table))


@pytest.mark.parametrize(("currency", "least"), [("USD", 50), ("GBP", 30), ("JPY", 50), ("HUF", 17_500), ("MXN", 1000)])
def test_a_price_is_what_stripe_charges_at_least_in_its_currency(currency: str, least: int) -> None:
    assert price(least, currency) == least_charged(currency) == least
    assert check(least - 1, currency) == least - 1  # which a promo code may take off
    with pytest.raises(ValueError, match=f"Stripe charges {minor_units.shown(least, currency)} at least"):
        price(least - 1, currency)


def test_a_currency_without_a_least_of_its_own_has_none_for_prices() -> None:
    assert (price(1, "UAH"), price(10, "KWD"), least_charged("UAH")) == (1, 10, 50)
    with pytest.raises(ValueError, match="amount"):
        price(0, "UAH")


def test_a_wrong_amount_is_told_for_the_one_thing_that_is_wrong_with_it() -> None:
    for amount_micro, says in (
        (1_005_000, "1.005 USD is not a multiple of 0.01 USD"),
        (9_007_199_254_750_000, "9007199254.75 USD is more than 9007199254.740991 USD"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
            minor_from_micro(amount_micro, "USD")

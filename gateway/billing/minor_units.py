"""Micro-units of a currency and the minor units in which Stripe counts it: the one table, exact both ways.

Stripe counts in the smallest unit of a currency: cents, but whole yen, and thousandths of a dinar. Its list
(docs.stripe.com/currencies) is not ISO 4217's in every line: it counts ISK and UGX with two decimals, for the sake of old
callers, where they have none; such amounts must be whole, which `check` holds to.
"""

from decimal import Decimal
from typing import Final

from gateway.core.money import AMOUNT_MICRO_MAX, MICRO, TOK, decimal_from_micro, is_asset

_NONE: Final = frozenset(
    ["BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"]
)
_THREE: Final = frozenset(("BHD", "JOD", "KWD", "OMR", "TND"))
# Counted in hundredths, though there are none; and in thousandths, of which the last must be 0.
_WHOLE: Final = frozenset(("ISK", "UGX"))
_STEP: Final = dict.fromkeys(_WHOLE, 100) | dict.fromkeys(_THREE, 10)
# What Stripe charges in (docs.stripe.com/currencies, "Supported presentment currencies"), of all countries: one that an
# account's country does not have is Stripe's to refuse, at the first sale.
_CHARGED: Final = frozenset(
    [
        "AED", "AFN", "ALL", "AMD", "ANG", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BHD", "BIF", "BMD",
        "BND", "BOB", "BRL", "BSD", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CLP", "CNY", "COP", "CRC", "CVE", "CZK", "DJF",
        "DKK", "DOP", "DZD", "EGP", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL",
        "HTG", "HUF", "IDR", "ILS", "INR", "ISK", "JMD", "JOD", "JPY", "KES", "KGS", "KHR", "KMF", "KRW", "KWD", "KYD", "KZT",
        "LAK", "LBP", "LKR", "LRD", "LSL", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MUR", "MVR", "MWK", "MXN", "MYR",
        "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON",
        "RSD", "RUB", "RWF", "SAR", "SBD", "SCR", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "STD", "SVC", "SZL", "THB", "TJS",
        "TND", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "UGX", "USD", "UYU", "UZS", "VND", "VUV", "WST", "XAF", "XCD", "XCG",
        "XOF", "XPF", "YER", "ZAR", "ZMW"
    ]
)  # fmt: skip
LISTED_AT: Final = "https://docs.stripe.com/currencies#presentment-currencies"
# The least that Stripe charges (docs.stripe.com/currencies, "Minimum charge amount by currency"), in minor units, where an
# account is paid out in the same currency; of any other currency it takes what such a least is worth, which only Stripe knows.
_LEAST: Final = {
    "AED": 200, "ARS": 50, "AUD": 50, "BGN": 100, "BRL": 50, "CAD": 50, "CHF": 50, "COP": 50, "CZK": 1500, "DKK": 250, "EUR": 50,
    "GBP": 30, "HKD": 400, "HUF": 17_500, "IDR": 50, "ILS": 50, "INR": 50, "JPY": 50, "KRW": 50, "MXN": 1000, "MYR": 200,
    "NOK": 300, "NZD": 50, "PHP": 50, "PLN": 200, "RON": 200, "RUB": 50, "SEK": 300, "SGD": 50, "THB": 1000, "USD": 50, "ZAR": 50,
}  # fmt: skip
_LEAST_OF_OTHERS: Final = 50  # half a dollar is at least as many minor units of any but the dearest
AMOUNT_MINOR_MAX: Final = 99_999_999  # eight digits, which is what Stripe takes of most currencies


def decimals(currency: str) -> int:
    """How many decimals Stripe's amounts in a currency have. ValueError for what is no currency, such as TOK."""
    if not is_asset(currency) or currency == TOK:
        raise ValueError(f"{currency!r} is no currency")
    if currency in _NONE:
        return 0
    return 3 if currency in _THREE else 2


def is_charged(currency: str) -> bool:
    """Whether it is one of Stripe's currencies for buyers, which `LISTED_AT` has."""
    return currency in _CHARGED


def check(amount_minor: int, currency: str) -> int:
    """An amount that can be asked of a buyer: above 0, at most AMOUNT_MINOR_MAX, in the currency's steps. ValueError."""
    decimals(currency)
    if not 0 < amount_minor <= AMOUNT_MINOR_MAX:
        raise ValueError(f"an amount is {shown(1, currency)} to {shown(AMOUNT_MINOR_MAX, currency)}")
    step = _STEP.get(currency, 1)
    if amount_minor % step:
        raise ValueError(f"amounts in {currency} are multiples of {shown(step, currency)}")
    return amount_minor


def price(amount_minor: int, currency: str) -> int:
    """What a plan can cost, or what a promo code leaves of that: as `check`, and what Stripe charges at least. ValueError.

    That is the currency's own least. An account that is paid out in another must reach the other's with what Stripe makes of it,
    which is told when it sells; and a currency for which Stripe names none has none here.
    """
    least = _LEAST.get(currency, 0)
    if check(amount_minor, currency) < least:
        raise ValueError(f"Stripe charges {shown(least, currency)} at least")
    return amount_minor


def bounds(currency: str) -> tuple[int, int]:
    """The least and the most that can be asked of a buyer: those that `check` takes. ValueError for what is no currency."""
    decimals(currency)
    step = _STEP.get(currency, 1)
    return step, AMOUNT_MINOR_MAX - AMOUNT_MINOR_MAX % step


def least_charged(currency: str) -> int:
    """The least that Stripe charges by itself: what is less is put off."""
    return _LEAST.get(currency, _LEAST_OF_OTHERS)


def floor_from_micro(amount_micro: int, currency: str) -> int:
    """The most that can be asked of a buyer for so much, in minor units: rounded down to the currency's steps."""
    amount_minor = amount_micro // _micro_per_minor(currency)
    return amount_minor - amount_minor % _STEP.get(currency, 1)


def micro_from_minor(amount_minor: int, currency: str) -> int:
    """Micro-units of an amount of minor units; exact, as no currency has more than six decimals."""
    return amount_minor * _micro_per_minor(currency)


def minor_from_micro(amount_micro: int, currency: str) -> int:
    """Minor units of an amount of micro-units. ValueError when it is not a whole number of them, or beyond AMOUNT_MICRO_MAX."""
    amount_minor, rest = divmod(amount_micro, _micro_per_minor(currency))
    amount = f"{decimal_from_micro(amount_micro)} {currency}"
    if abs(amount_micro) > AMOUNT_MICRO_MAX:
        raise ValueError(f"{amount} is more than {decimal_from_micro(AMOUNT_MICRO_MAX)} {currency}")
    if rest:
        raise ValueError(f"{amount} is not a multiple of {shown(1, currency)}")
    return amount_minor


def shown(amount_minor: int, currency: str) -> str:
    """For people: with the currency's decimals and code, as "10.00 USD"."""
    return f"{Decimal(amount_minor).scaleb(-decimals(currency))} {currency}"


def _micro_per_minor(currency: str) -> int:
    return MICRO // int(10 ** decimals(currency))

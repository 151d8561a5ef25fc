"""Amounts are integers of micro-units of an asset; decimals exist only where people read and write.

1 USD = 1,000,000 micro. TOK (app tokens) likewise. Lua in Redis compares doubles, which are exact
below 2**53, so no balance, hold or sum of them may reach that: `AMOUNT_MICRO_MAX` is asserted at
every edge where an amount enters.
"""

import re
from decimal import Decimal, localcontext
from typing import Final

MICRO: Final = 1_000_000
AMOUNT_MICRO_MAX: Final = 2**53 - 1
TOK: Final = "TOK"
USD: Final = "USD"

_ASSET = re.compile(r"[A-Z]{3}")
# Python also reads 1_5, which a typing error makes of 1.5, and the digits of every script.
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


def is_asset(text: str) -> bool:
    """True for an ISO 4217 style code (three capital letters); `TOK` is the app-token asset."""
    return _ASSET.fullmatch(text) is not None


def micro_from_decimal(text: str) -> int:
    """Micro-units from a decimal string such as "0.15"; ValueError when it is not exact.

    A price finer than one micro-unit per million tokens does not exist at any provider, so more
    than six decimals is taken for a mistake, not rounded.
    """
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text!r} is not a decimal number")
    value = Decimal(text)
    if abs(value) > AMOUNT_MICRO_MAX // MICRO:
        raise ValueError(f"{text!r} is out of range")
    with localcontext() as context:
        context.prec = 60
        scaled = value * MICRO
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{text!r} has more than six decimals")
    return int(scaled)


def decimal_from_micro(amount_micro: int) -> str:
    """The shortest exact decimal of an amount: 1500000 -> "1.5", -20 -> "-0.00002"."""
    sign = "-" if amount_micro < 0 else ""
    whole, fraction = divmod(abs(amount_micro), MICRO)
    if not fraction:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{fraction:06d}".rstrip("0")


def ceil_div(numerator: int, denominator: int) -> int:
    """Integer division rounded up, for numerators of either sign."""
    assert denominator > 0
    return -(-numerator // denominator)

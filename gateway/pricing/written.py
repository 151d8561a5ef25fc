"""Prices as people write them, in the configuration, over REST and on the command line: decimals by kind.

    {"input": "3", "output": "15", "above": 200000, "long": {"input": "6", "output": "22.5"},
     "variants": {"priority": {"input": "6", "output": "30"}}}

`rates` has the units. `long` are the prices of prompts of more than `above` tokens, and may hold `above` and `long` again for
the next size; each of the `variants` may hold them, too. What `long` or a variant leaves out costs what it does above it.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.core.units import UNIT_KINDS
from gateway.pricing.rates import PRICED_KINDS, Rates, decimal_from_rate, rate_from_decimal

Written = Mapping[str, Any]
SIZES_MAX: Final = 8  # of prompts, one above the other
VARIANTS_MAX: Final = 64
VARIANT_CHARS_MAX: Final = 64
ABOVE_MAX: Final = 1_000_000_000
# What prices must name, or one of the others: the model is not sold by the token.
_BY_TOKENS: Final = frozenset(("input", "output"))
_BY_UNITS: Final = frozenset((*UNIT_KINDS, "request"))


class WrongPrice(ValueError):
    """A sentence about prices, and the field in them: `long.input`; "" for all of them."""

    def __init__(self, field: str, says: str) -> None:
        super().__init__(f"{field}: {says}" if field else says)
        self.field = field


def read_prices(written: object, *, makes_tokens: bool = True) -> dict[str, Any]:
    """What `rates_from` takes, of prices as they are written. WrongPrice."""
    given = _read(written, "", 1)
    check_whole(given, makes_tokens=makes_tokens)
    return given


def check_whole(given: Mapping[str, Any], *, makes_tokens: bool = True) -> None:
    """WrongPrice where rates leave out what a model must have; one that is known to make no tokens needs no price of them."""
    if "input" in given and not makes_tokens:
        return
    if not (given.keys() >= _BY_TOKENS or given.keys() & _BY_UNITS):
        told = "input and output must both be named: a price takes the place of the whole former one"
        raise WrongPrice("", f'{told} (say output: "0" for embeddings, moderations and rerank)')


def check_rates(given: object, most: int, field: str = "", depth: int = 1) -> None:
    """WrongPrice for what is no rates as `rates_from` takes them, in whole micro-units from 0 to `most`."""
    if not isinstance(given, Mapping):
        raise WrongPrice(field, "rates are given by kind")
    _check_shape(given, field, depth)
    for name, value in given.items():
        where = _within(field, name)
        if name == "long":
            check_rates(value, most, where, depth + 1)
        elif name == "variants":
            for variant, rates in value.items():
                check_rates(rates, most, _within(where, variant), depth + 1)
        elif name != "above" and (type(value) is not int or not 0 <= value <= most):
            raise WrongPrice(where, f"rates are whole micro-units per million, from 0 to {most}")


def written(given: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `read_prices`."""
    shown: dict[str, Any] = {}
    for name, value in given.items():
        if name == "long":
            shown[name] = written(value)
        elif name == "variants":
            shown[name] = {variant: written(rates) for variant, rates in value.items()}
        else:
            shown[name] = value if name == "above" else decimal_from_rate(name, value)
    return shown


def given_of(rates: Rates) -> dict[str, Any]:
    """The rates to look at: every kind that costs something; in `long` and variants, what differs from the rates above them."""
    return _given({kind: getattr(rates, kind) for kind in PRICED_KINDS}, rates, dict.fromkeys(PRICED_KINDS, 0))


def shown(rates: Rates) -> dict[str, Any]:
    """The same as they are written; of what is free, that the input is."""
    return written(given_of(rates)) or {"input": "0"}


def _given(own: Mapping[str, int], rates: Rates, above: Mapping[str, int]) -> dict[str, Any]:
    given: dict[str, Any] = {kind: rate for kind, rate in own.items() if rate != above[kind]}
    if rates.long is not None:
        given["above"] = rates.long_above
        given["long"] = _given({kind: getattr(rates.long, kind) for kind in PRICED_KINDS}, rates.long, own)
    if rates.variants:
        variants = {name: (each, {kind: getattr(each, kind) for kind in PRICED_KINDS}) for name, each in rates.variants}
        given["variants"] = {name: _given(kinds, each, own) for name, (each, kinds) in variants.items()}
    return given


def _read(given: object, field: str, depth: int) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise WrongPrice(field, "prices are given by kind")
    _check_shape(given, field, depth)
    read: dict[str, Any] = {}
    for name, value in given.items():
        where = _within(field, name)
        if name == "above":
            read[name] = value
        elif name == "long":
            read[name] = _read(value, where, depth + 1)
        elif name == "variants":
            read[name] = {variant: _read(prices, _within(where, variant), depth + 1) for variant, prices in value.items()}
        else:
            read[name] = _rate(name, value, where)
    return read


def _rate(kind: str, value: object, where: str) -> int:
    if type(value) is not str:
        raise WrongPrice(where, f'a price is a decimal number in quotes, such as "0.15", not {value!r}')
    try:
        rate = rate_from_decimal(kind, value)
    except ValueError as wrong:
        raise WrongPrice(where, str(wrong)) from wrong
    if not 0 <= rate <= AMOUNT_MICRO_MAX:
        raise WrongPrice(where, "a price cannot be negative")
    return rate


def _check_shape(given: Mapping[str, Any], field: str, depth: int) -> None:
    for name in given:
        if name not in PRICED_KINDS and not (name in ("above", "long") or (name == "variants" and not field)):
            known = ", ".join(PRICED_KINDS)
            raise WrongPrice(_within(field, name), f"`{name}` is no kind of price; known are {known}")
    if ("above" in given) != ("long" in given):
        raise WrongPrice(field, "above (a number of tokens) and long (the prices above it) are named together")
    if "above" in given and (type(given["above"]) is not int or not 0 < given["above"] <= ABOVE_MAX):
        raise WrongPrice(_within(field, "above"), f"it is a whole number of tokens, from 1 to {ABOVE_MAX}")
    if depth > SIZES_MAX:
        raise WrongPrice(field, f"there may be at most {SIZES_MAX} sizes of prompts")
    above = given["long"].get("above") if isinstance(given.get("long"), Mapping) else None
    if type(above) is int and above <= given["above"]:
        raise WrongPrice(_within(field, "long.above"), "the next size must be above the one before")
    variants = given.get("variants", {})
    if not isinstance(variants, Mapping) or len(variants) > VARIANTS_MAX:
        raise WrongPrice(_within(field, "variants"), f"they are given by name, at most {VARIANTS_MAX}")
    for name in variants:
        if type(name) is not str or not 0 < len(name) <= VARIANT_CHARS_MAX or "|" in name:
            raise WrongPrice(_within(field, "variants"), f"a name has 1 to {VARIANT_CHARS_MAX} characters, and no | in it")


def _within(field: str, name: object) -> str:
    return f"{field}.{name}" if field else str(name)


def told(given: Mapping[str, Any], like: Mapping[str, str]) -> str:
    """Written prices in one line, without kinds that cost as their like (`like` names it)."""
    kinds = [
        f"{kind} {price}"
        for kind, price in given.items()
        if kind in PRICED_KINDS and price != given.get(like.get(kind, ""))
    ]
    parts = [", ".join(kinds)] if kinds else []
    if given.get("long"):  # where nothing is different above it, there is nothing to tell
        parts.append(f"above {given['above']}: {told(given['long'], like)}")
    parts += [f"{name}: {told(each, like) or 'the same'}" for name, each in given.get("variants", {}).items()]
    return "; ".join(parts)


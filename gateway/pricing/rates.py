"""Rates and the only price arithmetic there is.

A rate is an integer of micro-units of one asset per million units. amount = ceil(sum(units * rate) /
1,000,000): every bucket is summed first, then rounded once, up.
"""

from collections.abc import Mapping
from decimal import Decimal, localcontext
from functools import lru_cache
from operator import gt
from typing import Any, Final

import msgspec
from msgspec.structs import astuple, force_setattr, replace

from gateway.core.money import decimal_from_micro, micro_from_decimal
from gateway.core.units import KINDS, TOOL_KINDS, UNIT_KINDS, Usage

MILLION = 1_000_000
PRICED_KINDS = (*KINDS, "request")
# People say the price of one of these, and that of a million of the others.
ONE_BY_ONE: Final = frozenset(("images", "seconds", "searches", *TOOL_KINDS, "request"))
_NO_PARTS: Final = (0,) * (len(KINDS) - 5)
_NO_CACHE: Final = (0, 0, 0)
assert KINDS[:5] == ("input", "cached_input", "cache_write", "cache_write_1h", "output")
assert (KINDS[6], KINDS[8]) == ("audio_input", "image_input")
_INPUTS: Final = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input")
_OUTPUTS: Final = ("output", "reasoning", "audio_output", "image_output")


class Rates(msgspec.Struct, frozen=True):
    """Rates of one model in one asset, per million units, every kind filled in.

    Use `rates_from` to build one: token kinds that a price list leaves out take the rate of the kind that
    they are part of (cached input and audio input that of input, reasoning and audio output that of
    output), never zero. `request` is micro-units per million requests.

    Where prompts of more than `long_above` tokens cost otherwise, all of such a request is priced by `long`. `variants`
    are the rates of what a request can ask for by name, such as a service tier or the size of an image. `long` may have a
    `long` of its own, for the next size.
    """

    asset: str
    input: int
    cached_input: int
    cache_write: int
    cache_write_1h: int
    output: int
    reasoning: int
    audio_input: int
    audio_output: int
    image_input: int
    image_output: int
    images: int = 0
    seconds: int = 0
    characters: int = 0
    searches: int = 0
    web_searches: int = 0
    web_searches_preview: int = 0
    file_searches: int = 0
    container_gb: int = 0
    request: int = 0
    long_above: int = 0
    long: "Rates | None" = None
    variants: tuple[tuple[str, "Rates"], ...] = ()
    # Made of the above, because each request asks for them: the rates in the order of `KINDS`, and the highest
    # rates that an input and an output token can be billed at, which a ceiling must assume.
    by_kind: tuple[int, ...] = ()
    dearest_input: int = 0
    dearest_output: int = 0

    def __post_init__(self) -> None:
        force_setattr(self, "by_kind", tuple([getattr(self, kind) for kind in KINDS]))
        force_setattr(self, "dearest_input", max([getattr(self, kind) for kind in _INPUTS]))
        force_setattr(self, "dearest_output", max([getattr(self, kind) for kind in _OUTPUTS]))

    def price(self, usage: Usage) -> int:
        """What `usage` costs, in micro-units of `asset`: exact sum, one rounding, up."""
        return self.price_of(astuple(usage))

    def price_of(self, counts: tuple[int, ...]) -> int:
        """What this many units of each of the `KINDS` cost."""
        if self.long is not None and sum(counts[:4]) + counts[6] + counts[8] > self.long_above:
            return self.long.price_of(counts)
        if counts[1:4] == _NO_CACHE and counts[5:] == _NO_PARTS:  # most requests, each of which asks for two or three prices
            return -(-(counts[0] * self.input + counts[4] * self.output + self.request) // MILLION)
        total = self.request
        for count, rate in zip(counts, self.by_kind, strict=True):
            total += count * rate
        return -(-total // MILLION)

    def ceiling(self, input_tokens: int, output_tokens: int) -> int:
        """The most that this many tokens can cost."""
        most = -(-(input_tokens * self.dearest_input + output_tokens * self.dearest_output + self.request) // MILLION)
        if self.long is not None and input_tokens > self.long_above:
            return max(most, self.long.ceiling(input_tokens, output_tokens))
        return most

    def output_covered(self, amount_micro: int, input_tokens: int) -> int:
        """How many output tokens `amount_micro` still covers after `input_tokens`; at least 0."""
        left = amount_micro * MILLION - input_tokens * self.dearest_input - self.request
        if left <= 0:
            return 0
        dearest = self.dearest_output
        covered = left // dearest if dearest else 2**31
        if self.long is not None and input_tokens > self.long_above:
            return min(covered, self.long.output_covered(amount_micro, input_tokens))
        return covered

    def units_price(self, units: tuple[tuple[str, int], ...]) -> int:
        """What units that are no tokens cost, by the names of their kinds; less what the request itself costs."""
        total: int = sum([count * getattr(self, kind) for kind, count in units])
        return -(-total // MILLION)

    def variant(self, name: str) -> "Rates":
        """The rates of what a request asked for by name; these where that costs nothing else.

        Names with `|` between them are what it may turn out to have been: the dearest of each kind, from which `variant`
        still finds each of them. See `short_of` for another one.
        """
        for each, rates in self.variants:
            if each == name:
                return rates
        return _any_of(self, name) if "|" in name else self

    def has_variant(self, name: str) -> bool:
        """Whether it has rates of its own."""
        return any(each == name for each, _ in self.variants)


PLAIN: Final = "default"  # as a variant: these rates themselves
SEARCH: Final = "search"  # as a variant: with a search of the web, of no size in particular; of one: search_low and so on


def short_of(tokens: int) -> str:
    """As a variant: a request of many prompts, none of which has more tokens, whatever they add up to."""
    return f"|{tokens}"


@lru_cache(maxsize=4096)
def _any_of(rates: Rates, names: str) -> Rates:
    if names[0] == "|":
        return replace(rates, long=None, long_above=0) if int(names[1:]) <= rates.long_above else rates
    found = dearest(*[rates.variant(name) for name in names.split("|")])
    kept = rates.variants if rates.has_variant(PLAIN) else ((PLAIN, rates), *rates.variants)
    return replace(found, variants=kept)


def cheaper(held: Rates, served: Rates) -> Rates:
    """The rates of what was served, or those held where any of the served is dearer; of long prompts alike."""
    if any(map(gt, served.by_kind, held.by_kind)) or served.request > held.request:
        return held
    if served.long is not None and cheaper(held if held.long is None else held.long, served.long) is not served.long:
        return held
    return served


def dearest(*each: Rates) -> Rates:
    """Of every kind the highest rate, of long prompts from the smallest size on which any of them has it; no variants."""
    above = min([rates.long_above for rates in each if rates.long is not None], default=0)
    return Rates(
        asset=each[0].asset,
        **{kind: max([getattr(rates, kind) for rates in each]) for kind in PRICED_KINDS},
        long_above=above,
        long=dearest(*[rates if rates.long is None else rates.long for rates in each]) if above else None,
    )


def rates_from(asset: str, given: Mapping[str, Any]) -> Rates:
    """Rates from what a list names: micro-units per million, by kind.

    Beside the kinds, `above` (tokens) with `long` (rates by kind) and `variants` (rates by kind, by name), each of which takes
    what it leaves out from the plain rates; a variant without a `long` of its own has long prompts at the dearer of its and the
    plain long ones' rates. Raises ValueError for an unknown kind, a negative rate, or no kind at all that every request has.
    """
    plain = {kind: rate for kind, rate in given.items() if kind not in ("above", "long", "variants")}
    unknown = set(plain) - set(PRICED_KINDS)
    if unknown:
        raise ValueError(f"{min(unknown)!r} is no kind of price; known are {', '.join(PRICED_KINDS)}")
    if any(rate < 0 for rate in plain.values()):
        raise ValueError("a price cannot be negative")
    if not plain.keys() & {"input", "output", "request", *UNIT_KINDS}:
        raise ValueError("a price needs input, output, request or another unit")
    long = given.get("long")
    variants = given.get("variants") or {}
    if long and not given.get("above"):
        raise ValueError("prices of long prompts need the number of tokens above which they hold")
    base_input = plain.get("input", 0)
    base_output = plain.get("output", 0)
    rates = Rates(
        asset=asset,
        input=base_input,
        cached_input=plain.get("cached_input", base_input),
        cache_write=plain.get("cache_write", base_input),
        cache_write_1h=plain.get("cache_write_1h", plain.get("cache_write", base_input)),
        output=base_output,
        reasoning=plain.get("reasoning", base_output),
        audio_input=plain.get("audio_input", base_input),
        audio_output=plain.get("audio_output", base_output),
        image_input=plain.get("image_input", base_input),
        image_output=plain.get("image_output", base_output),
        images=plain.get("images", 0),
        seconds=plain.get("seconds", 0),
        characters=plain.get("characters", 0),
        searches=plain.get("searches", 0),
        web_searches=plain.get("web_searches", 0),
        web_searches_preview=plain.get("web_searches_preview", 0),
        file_searches=plain.get("file_searches", 0),
        container_gb=plain.get("container_gb", 0),
        request=plain.get("request", 0),
        long_above=given.get("above") or 0,
        long=rates_from(asset, {**plain, **long}) if long else None,
    )
    if not variants:
        return rates
    return replace(rates, variants=tuple([(name, _varied(rates, plain, each)) for name, each in variants.items()]))


def _varied(rates: Rates, plain: Mapping[str, Any], variant: Mapping[str, Any]) -> Rates:
    varied = rates_from(rates.asset, {**plain, **variant})
    if varied.long is None and rates.long is not None:
        return replace(varied, long_above=rates.long_above, long=dearest(varied, rates.long))
    return varied


def marked_up(rates: Rates, percent_bp: int) -> Rates:
    """Every rate raised by `percent_bp` basis points (2000 = 20 %), each rounded up."""
    assert percent_bp >= 0
    return scaled(rates, 10_000 + percent_bp)


def scaled(rates: Rates, part_bp: int) -> Rates:
    """`part_bp` basis points of every rate (10000 = all of it), each rounded up."""
    assert part_bp >= 0
    raised = {kind: -(-getattr(rates, kind) * part_bp // 10_000) for kind in PRICED_KINDS}
    return Rates(
        asset=rates.asset,
        **raised,
        long_above=rates.long_above,
        long=None if rates.long is None else scaled(rates.long, part_bp),
        variants=tuple([(name, scaled(each, part_bp)) for name, each in rates.variants]),
    )


def flat(asset: str, amount_micro: int) -> Rates:
    """The same price for a request, whatever it uses."""
    nothing: dict[str, Any] = dict.fromkeys(KINDS, 0)
    return Rates(asset=asset, **nothing, request=amount_micro * MILLION)


def rate_from_decimal(kind: str, text: str) -> int:
    """A rate from what people write: of one of `ONE_BY_ONE`, of a million of anything else. ValueError."""
    if kind not in ONE_BY_ONE:
        return micro_from_decimal(text)
    with localcontext() as context:
        context.prec = 60
        try:
            a_million = Decimal(text) * MILLION
        except ArithmeticError as wrong:
            raise ValueError(f"{text!r} is not a decimal number") from wrong
        return micro_from_decimal(f"{a_million:f}" if a_million.is_finite() else text)


def decimal_from_rate(kind: str, rate: int) -> str:
    """The reverse of `rate_from_decimal`."""
    if kind not in ONE_BY_ONE:
        return decimal_from_micro(rate)
    with localcontext() as context:
        context.prec = 60
        return f"{(Decimal(rate) / MILLION / MILLION).normalize():f}"

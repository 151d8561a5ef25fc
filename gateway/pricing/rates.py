"""Rates and the only price arithmetic there is.

A rate is an integer of micro-units of one asset per million units. amount = ceil(sum(units * rate) /
1,000,000): every bucket is summed first, then rounded once, up.
"""

import msgspec
from msgspec.structs import astuple, force_setattr

from gateway.core.units import KINDS, Usage

MILLION = 1_000_000
PRICED_KINDS = (*KINDS, "request")


class Rates(msgspec.Struct, frozen=True):
    """Rates of one model in one asset, per million units, every kind filled in.

    Use `rates_from` to build one: kinds that a price list leaves out take the rate of the kind that
    they are part of (cached input and audio input that of input, reasoning and audio output that of
    output), never zero. `request` is micro-units per million requests.
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
    request: int = 0
    # Made of the above, because each request asks for them: the rates in the order of `KINDS`, and the highest
    # rates that an input and an output token can be billed at, which a ceiling must assume.
    by_kind: tuple[int, ...] = ()
    dearest_input: int = 0
    dearest_output: int = 0

    def __post_init__(self) -> None:
        inputs = (self.input, self.cached_input, self.cache_write, self.cache_write_1h, self.audio_input, self.image_input)
        force_setattr(self, "by_kind", tuple([getattr(self, kind) for kind in KINDS]))
        force_setattr(self, "dearest_input", max(inputs))
        force_setattr(self, "dearest_output", max(self.output, self.reasoning, self.audio_output))

    def price(self, usage: Usage) -> int:
        """What `usage` costs, in micro-units of `asset`: exact sum, one rounding, up."""
        return self.price_of(astuple(usage))

    def price_of(self, counts: tuple[int, ...]) -> int:
        """What this many units of each of the `KINDS` cost."""
        a, b, c, d, e, f, g, h, i = counts
        # Written out: each request asks for two or three prices, and `map` takes three times as long.
        r, s, t, u, v, w, x, y, z = self.by_kind
        total = a * r + b * s + c * t + d * u + e * v + f * w + g * x + h * y + i * z + self.request
        return -(-total // MILLION)

    def ceiling(self, input_tokens: int, output_tokens: int) -> int:
        """The most that this many tokens can cost."""
        return -(-(input_tokens * self.dearest_input + output_tokens * self.dearest_output + self.request) // MILLION)

    def output_covered(self, amount_micro: int, input_tokens: int) -> int:
        """How many output tokens `amount_micro` still covers after `input_tokens`; at least 0."""
        left = amount_micro * MILLION - input_tokens * self.dearest_input - self.request
        if left <= 0:
            return 0
        dearest = self.dearest_output
        return left // dearest if dearest else 2**31


def rates_from(asset: str, given: dict[str, int]) -> Rates:
    """Rates from the kinds that a list names (micro-units per million); `input` or `output` must be among them.

    Raises ValueError for an unknown kind, a negative rate, or neither input nor output.
    """
    unknown = set(given) - set(PRICED_KINDS)
    if unknown:
        raise ValueError(f"{min(unknown)!r} is no kind of price; known are {', '.join(PRICED_KINDS)}")
    if any(rate < 0 for rate in given.values()):
        raise ValueError("a price cannot be negative")
    if "input" not in given and "output" not in given and "request" not in given:
        raise ValueError("a price needs input, output or request")
    base_input = given.get("input", 0)
    base_output = given.get("output", 0)
    return Rates(
        asset=asset,
        input=base_input,
        cached_input=given.get("cached_input", base_input),
        cache_write=given.get("cache_write", base_input),
        cache_write_1h=given.get("cache_write_1h", given.get("cache_write", base_input)),
        output=base_output,
        reasoning=given.get("reasoning", base_output),
        audio_input=given.get("audio_input", base_input),
        audio_output=given.get("audio_output", base_output),
        image_input=given.get("image_input", base_input),
        request=given.get("request", 0),
    )


def marked_up(rates: Rates, percent_bp: int) -> Rates:
    """Every rate raised by `percent_bp` basis points (2000 = 20 %), each rounded up."""
    assert percent_bp >= 0
    factor = 10_000 + percent_bp
    raised = {kind: -(-getattr(rates, kind) * factor // 10_000) for kind in (*KINDS, "request")}
    return Rates(asset=rates.asset, **raised)

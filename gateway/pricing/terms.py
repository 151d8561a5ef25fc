"""What one entry of a price list in litellm's format says of tokens, in our kinds. Pure.

A field is a price ("input_cost_per_token"), with a size of the prompt above which it holds ("..._above_200k_tokens") or a
service tier ("..._flex", "..._priority", "..._batches") or both. Prices are USD per token. What a tier or a size leaves out is
never taken to be cheaper there: it costs what it does elsewhere, raised by as much as its like is raised.

Every other price that an entry names is in `IGNORED`, with the reason why leaving it out makes no request too cheap, or it makes
the entry unpriced: a price of a kind that nobody here knows is not guessed.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any, Final

from gateway.pricing.media import micro_per_million
from gateway.pricing.rates import SEARCH

KIND: Final = {
    "input_cost_per_token": "input",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
    "input_cost_per_request": "request",
}
# As an entry writes a tier, and as a request and its answer name it.
TIERS: Final = {"flex": "flex", "priority": "priority", "batches": "batch", "balanced": "balanced", "ultrafast": "ultrafast"}
_STEM: Final = "|".join(sorted(KIND, key=len, reverse=True))
_TIER: Final = "|".join(TIERS)
_FIELD: Final = re.compile(rf"({_STEM})(?:_({_TIER}))?(?:_above_(\d+)(k?)_tokens)?(?:_({_TIER}))?")
_IS_PRICE: Final = re.compile(r"cost|pric|multiplier|(?:^|_)fee")
_TIERED: Final = "tiered_pricing"
_SEARCHES: Final = "search_context_cost_per_query"
# Whose sizes begin at the very number of tokens; elsewhere behind it.
_INCLUSIVE: Final = frozenset(("xai",))
# By provider and region, where the list does not say: docs.x.ai, "Regional Endpoints".
_UPLIFTS_BP: Final = {("xai", "us"): 1_000}
_OUTPUTS: Final = frozenset(("output", "reasoning", "audio_output", "image_output"))
_WRITES: Final = frozenset(("cache_write", "cache_write_1h"))

_SAME: Final = "says the price per token once more, in another unit"
_FEE: Final = "is asked for with a tool or option, which is refused where no price is named for it (`tools` has some)"
_TEXT_ALONE: Final = "is of what no request to this surface can hold: prompts for embeddings are text"
IGNORED: Final = {  # by a pattern of the whole field
    "input_cost_per_token_cache_hit": "says cache_read_input_token_cost once more",
    "explicit_cache_read_input_token_cost": "is lower than cache_read_input_token_cost, at which every cached token is charged",
    "cache_read_input_audio_token_cost": "cached audio is charged as audio that is not cached, which is dearer",
    "off_peak_pricing": "is lower than the prices by day, which are charged around the clock",
    "(input|output)_dbu_cost_per_token": _SAME,
    "input_cost_per_character": _SAME,
    _SEARCHES: _FEE + "; models that search unasked have it as the price of a request, or no price",
    "google_maps_grounding_cost_per_query": _FEE,
    "regional_processing_uplift_multiplier_(eu|us)": "is added for a deployment in that region",
    "regional_endpoint_uplift_multiplier": "is added for a deployment that is not global",
    "output_cost_per_image": "is of images, which a model that is no image model does not make",
    ".*_decisions": "is of an endpoint of its own, which is not served here",
}
IGNORED_OF_EMBEDDINGS: Final = {
    "input_cost_per_(image|query|video_token|video_token_batches)": _TEXT_ALONE,
    "input_cost_per_(audio|video)_per_second(_above_[0-9]+s_interval)?": _TEXT_ALONE,
}
# They look on the web for every request, whether it asks for it or not.
_SEARCHES_UNASKED: Final = re.compile(r"(?:^|/)sonar(?!.*-chat$)|-online$|search-preview|search-api|-search$|deep-research")
_BY_TOOL_ALONE: Final = re.compile(r"(?:^|/)o\d(?:-mini)?-deep-research")  # they refuse a request without the tool
_SEARCH_SIZE: Final = {"perplexity": "search_context_size_low"}  # what a request that names none gets; elsewhere medium
SEARCH_SIZES: Final = ("low", "medium", "high")
_Prices = dict[str, int]


@cache
def ignored(field: str, mode: str) -> str | None:
    """Why a price is left out without making a request too cheap; None where it is not."""
    known = {**IGNORED, **IGNORED_OF_EMBEDDINGS} if mode == "embedding" else IGNORED
    return next((reason for pattern, reason in known.items() if re.fullmatch(pattern, field)), None)


def is_read(field: str) -> bool:
    """Whether a price is understood."""
    return _FIELD.fullmatch(field) is not None or field == _TIERED


def unpriced_because(name: str, entry: Mapping[str, Any]) -> str:
    """Why the prices of an entry do not say what every one of its requests costs, as a sentence; "" where they do."""
    mode = str(entry.get("mode"))
    for field, value in entry.items():
        if _IS_PRICE.search(field) and not is_read(field) and ignored(field, mode) is None and value not in (0, None):
            return f"It has a price of a kind that is not known here: {field}."
    if entry.get("output_cost_per_image") and mode != "embedding":
        makes = entry.get("supported_output_modalities") or ()
        if "image" in makes and "output_cost_per_image_token" not in entry:
            return "It makes images that are priced one by one."
    if searches_unasked(name) and _search_fee(name, entry) is None and "input_cost_per_request" not in entry:
        return "It searches the web for every request, at a price that the list does not say."
    return ""


def prices_of(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What `rates_from` takes, of all token prices that the entry names; integer micro-USD per million tokens."""
    named: dict[tuple[str, int], _Prices] = {}
    for field, value in entry.items():
        found = _FIELD.fullmatch(field)
        if found is None or value is None:
            continue
        kind, rate = KIND[found[1]], micro_per_million(value)
        if not rate and kind in _WRITES:
            continue  # no price of its own: what is written to a cache is read as input
        named.setdefault((found[2] or found[5] or "", _size(found[3], found[4], entry)), {})[kind] = rate
    for above, prices in _tiered(entry.get(_TIERED) or ()):
        named.setdefault(("", above), {}).update(prices)
    fee = _search_fee(name, entry) if searches_unasked(name) else None
    if fee is not None:
        plain = named.setdefault(("", 0), {})
        plain["request"] = plain.get("request", 0) + micro_per_million(fee)
    given = _chained("", named)
    variants = {TIERS[tier]: _chained(tier, named) for tier in TIERS if any(each == tier for each, _ in named)}
    if fee is not None:
        rest = given["request"] - micro_per_million(fee)
        variants |= {of_size: {"request": rest + micro_per_million(each)} for of_size, each in _search_fees(entry).items()}
    return {**given, **({"variants": variants} if variants else {})}


def uplift_bp(entry: Mapping[str, Any], region: str) -> int:
    """Basis points that a region adds to every price: `eu`, `us` of OpenAI, `us` of xAI, `regional` for one of Google's that is
    not global.
    """
    if (entry.get("litellm_provider"), region) in _UPLIFTS_BP:
        return _UPLIFTS_BP[entry["litellm_provider"], region]
    fields = {"regional": "regional_endpoint_uplift_multiplier"}
    factor = entry.get(fields.get(region, f"regional_processing_uplift_multiplier_{region}")) if region else None
    if factor is None:
        return 0
    numerator, denominator = factor.as_integer_ratio()
    return max(0, int(-(-numerator * 10_000 // denominator)) - 10_000)


def _size(digits: str | None, thousands: str | None, entry: Mapping[str, Any]) -> int:
    if digits is None:
        return 0
    size = int(digits) * (1000 if thousands else 1)
    return size - 1 if entry.get("litellm_provider") in _INCLUSIVE else size


def _tiered(tiers: object) -> list[tuple[int, _Prices]]:
    """(size of the prompt above which they hold, prices) of a table of sizes, as Alibaba's models have it."""
    if not isinstance(tiers, list | tuple):
        return []
    found = []
    for tier in tiers:
        if isinstance(tier, dict) and isinstance(tier.get("range"), list) and tier["range"]:
            prices = {KIND[field]: micro_per_million(tier[field]) for field in KIND if tier.get(field) is not None}
            found.append((int(tier["range"][0]), prices))
    return found


def _chained(tier: str, named: Mapping[tuple[str, int], _Prices]) -> dict[str, Any]:
    """The prices of a tier ("" for none), with those of the next size of prompts in them, and so on."""
    sizes = sorted({above for each, above in named if each in ("", tier)} | {0})
    made = [_complete(tier, above, sizes, named) for above in sizes]
    result: dict[str, Any] = dict(made[-1])
    for above, prices in reversed(list(zip(sizes[1:], made[:-1], strict=True))):
        result = {**prices, "above": above, "long": result}
    return result


def _complete(tier: str, above: int, sizes: list[int], named: Mapping[tuple[str, int], _Prices]) -> _Prices:
    """Every price of one tier and size: the named ones, and what the others are by those of the plain tier and smaller sizes."""
    own = named.get((tier, above), {})
    if not tier and not above:
        return dict(own)
    smaller = _complete(tier, _before(above, sizes), sizes, named) if above else {}
    if not tier:
        return {**{kind: _raised(kind, smaller, own) for kind in smaller}, **own}
    plain = _complete("", above, sizes, named)
    made = {kind: _raised(kind, plain, own) for kind in plain}
    if above:  # the size raises what the tier costs by as much as what there is without one
        base = _complete("", _before(above, sizes), sizes, named)
        for kind, rate in smaller.items():
            raised = -(-rate * plain[kind] // base[kind]) if plain.get(kind) and base.get(kind) else rate
            made[kind] = max(made.get(kind, 0), raised)
    return {**made, **own}


def _before(above: int, sizes: list[int]) -> int:
    return sizes[sizes.index(above) - 1]


def _raised(kind: str, base: _Prices, named: _Prices) -> int:
    """A price that is not named, by the one there is: as much dearer as its like, or as any where its like is not named."""
    like = "output" if kind in _OUTPUTS else "input"
    ratios = [each for each in ([like] if like in named and base.get(like) else named) if base.get(each)]
    return max([base[kind], *[-(-base[kind] * named[each] // base[each]) for each in ratios if kind != "request"]])


def searches_unasked(name: str) -> bool:
    """Whether a model looks on the web for every request, with no tool for it."""
    return _SEARCHES_UNASKED.search(name) is not None and _BY_TOOL_ALONE.search(name) is None


def _search_fees(entry: Mapping[str, Any]) -> dict[str, Decimal | int]:
    """USD for a search of each size that a request may name, as a variant of the price."""
    sizes = {size: entry[_SEARCHES].get(f"search_context_size_{size}") for size in SEARCH_SIZES}
    return {f"{SEARCH}_{size}": fee for size, fee in sizes.items() if isinstance(fee, Decimal | int)}


def _search_fee(name: str, entry: Mapping[str, Any]) -> Decimal | int | None:
    """USD for the search of a request that names no size of it; None where that is not said, or there may be several."""
    sizes = entry.get(_SEARCHES)
    if not isinstance(sizes, dict) or "deep-research" in name:
        return None
    fee = sizes.get(_SEARCH_SIZE.get(str(entry.get("litellm_provider")), "search_context_size_medium"))
    return fee if isinstance(fee, Decimal | int) else None

"""How the shipped list prices models of images, audio, moderation and ranking, in the kinds of `core.units`.

A model is sold one way, and what its entry does not say plainly it has no price for, rather than one that is too low:

    images          by the token, text and pictures read and made; else by the picture (litellm: either of the fields
                    "per image" is that of one that is made); by quality and size where the list names them in the model's
                    name ("hd/1024-x-1792/dall-e-3"). By the pixel: no price, as a rounded one of a pixel is not exact.
    speech          by the character of its text; or by the second that is made with its text by the token; or by the token
    transcripts     by the token, of text and audio; else by the second heard. The list gives that price under input or
                    output, or twice the same (OpenAI bills whisper once, 0.006 USD a minute).
    moderation      by the token; nothing, where the list says 0
    ranking         by the search, or by the token
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

MEDIA_MODES: Final = frozenset(
    ("image_generation", "image_edit", "audio_speech", "audio_transcription", "moderation", "rerank")
)
_MICRO_PER_MILLION: Final = 10**12  # USD for one -> micro-USD for a million
_SIZED: Final = re.compile(r"(?:([a-z]+)/)?(\d+)-x-(\d+)/([^/]+)")
_Price = Decimal | None


class MediaPrices(msgspec.Struct):
    """The fields of an entry that price media, as the list names them; USD for one."""

    input_cost_per_token: _Price = None
    output_cost_per_token: _Price = None
    input_cost_per_audio_token: _Price = None
    output_cost_per_audio_token: _Price = None
    input_cost_per_image_token: _Price = None
    output_cost_per_image_token: _Price = None
    input_cost_per_image: _Price = None
    output_cost_per_image: _Price = None
    output_cost_per_image_512: _Price = None
    output_cost_per_image_1K: _Price = None
    input_cost_per_pixel: _Price = None
    output_cost_per_pixel: _Price = None
    input_cost_per_second: _Price = None
    output_cost_per_second: _Price = None
    input_cost_per_character: _Price = None
    output_cost_per_character: _Price = None
    input_cost_per_query: _Price = None


def media_rates(mode: str, entry: MediaPrices) -> dict[str, int]:
    """Micro-USD per million, by kind, as `rates_from` takes them; nothing where the entry has no plain price."""
    costs = {name: cost for name in entry.__struct_fields__ if "_cost_per_" in name and (cost := getattr(entry, name))}
    found = _WAYS[mode](entry, {name for name in costs if name in _MEANT}) if mode in _WAYS else {}
    return {kind: micro_per_million(price) for kind, price in found.items()}


def rates_by_size(entries: Iterable[tuple[str, str, MediaPrices]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Of (name, provider, entry): the rates of models that stand in the list by quality and size, by provider and model.

    A variant is named "hd/1024x1792"; the plain price is that of the dearest.
    """
    variants: dict[tuple[str, str], dict[str, dict[str, int]]] = {}
    for name, provider, entry in entries:
        sized = _SIZED.fullmatch(name.removeprefix(f"{provider}/"))
        rates = media_rates("image_generation", entry) if sized else {}
        if sized and rates.keys() == {"images"}:
            quality, width, height, model = sized.groups()
            variants.setdefault((provider, model), {})[f"{quality or 'standard'}/{width}x{height}"] = rates
    return {
        key: {"images": max(each["images"] for each in found.values()), "variants": found} for key, found in variants.items()
    }


def is_sized(name: str, provider: str) -> bool:
    """Whether an entry's name is that of a model in one quality and size."""
    return _SIZED.fullmatch(name.removeprefix(f"{provider}/")) is not None


def micro_per_million(usd_for_one: Decimal | int) -> int:
    """Integer micro-USD per million, rounded up."""
    numerator, denominator = usd_for_one.as_integer_ratio()
    return -(-numerator * _MICRO_PER_MILLION // denominator)


def _images(entry: MediaPrices, given: set[str]) -> Mapping[str, Decimal]:
    by_token = {"input_cost_per_token", "output_cost_per_image_token"}
    read, made, text = entry.input_cost_per_token, entry.output_cost_per_image_token, entry.output_cost_per_token
    if read and made and given <= by_token | {"input_cost_per_image_token", "output_cost_per_token"}:
        pictures = entry.input_cost_per_image_token or read
        return {"input": read, "image_input": pictures, "output": text or made, "image_output": made}
    one = entry.output_cost_per_image or entry.input_cost_per_image
    both = entry.input_cost_per_image and entry.output_cost_per_image not in (None, entry.input_cost_per_image)
    # Those that have a price of a picture and of a pixel are of a fixed size, and the first is what is published.
    if one and not both and given <= {"input_cost_per_image", "output_cost_per_image", "input_cost_per_pixel"}:
        return {"images": one}
    return {}


def _speech(entry: MediaPrices, given: set[str]) -> Mapping[str, Decimal]:
    read, made, second = entry.input_cost_per_token, entry.output_cost_per_audio_token, entry.output_cost_per_second
    if given == {"input_cost_per_character"} and entry.input_cost_per_character:
        return {"characters": entry.input_cost_per_character}
    by_token = {"input_cost_per_token", "output_cost_per_token", "output_cost_per_audio_token"}
    if read and second and given <= by_token | {"output_cost_per_second"}:
        return {"input": read, "seconds": second}
    if read and made and given <= by_token:
        return {"input": read, "output": max(made, entry.output_cost_per_token or made), "audio_output": made}
    return {}


def _transcripts(entry: MediaPrices, given: set[str]) -> Mapping[str, Decimal]:
    read, heard, written = entry.input_cost_per_token, entry.input_cost_per_audio_token, entry.output_cost_per_token
    seconds = {"input_cost_per_second", "output_cost_per_second"}
    by_token = {"input_cost_per_token", "input_cost_per_audio_token", "output_cost_per_token"}
    if read and written and given <= by_token | {"input_cost_per_second"}:  # beside tokens it is an estimate of theirs
        return {"input": read, "audio_input": heard or read, "output": written}
    second = max(entry.input_cost_per_second or Decimal(0), entry.output_cost_per_second or Decimal(0))
    return {"seconds": second} if second and given <= seconds else {}


def _moderation(entry: MediaPrices, given: set[str]) -> Mapping[str, Decimal]:
    if entry.input_cost_per_token is None or not given <= {"input_cost_per_token"}:
        return {}
    return {"input": entry.input_cost_per_token, "output": Decimal(0)}


def _ranking(entry: MediaPrices, given: set[str]) -> Mapping[str, Decimal]:
    if given == {"input_cost_per_query"} and entry.input_cost_per_query:
        return {"searches": entry.input_cost_per_query}
    if entry.input_cost_per_token and given <= {"input_cost_per_token", "output_cost_per_token"}:
        return {"input": entry.input_cost_per_token, "output": entry.output_cost_per_token or Decimal(0)}
    return {}


_WAYS: Final = {
    "image_generation": _images,
    "image_edit": _images,
    "audio_speech": _speech,
    "audio_transcription": _transcripts,
    "moderation": _moderation,
    "rerank": _ranking,
}
_MEANT: Final = frozenset(MediaPrices.__struct_fields__)

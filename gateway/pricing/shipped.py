"""The shipped price list: litellm's `model_prices_and_context_window_backup.json`, read without importing litellm.

Its numbers are USD per token, written as 1.5e-07: they are read as decimals, never as floats, and
become integer micro-USD per million tokens, a finer price rounded up. A model is taken as priced only
where the list prices every token of it: entries of zeros (local or subscription models) and chat
models without an output price are not. Models of images, audio, moderation and ranking: see `pricing.media`.

Not in the list's terms here: tiers above a context size, batch, flex and priority tiers, search fees.
"""

import functools
import importlib.util
import re
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.core.money import USD
from gateway.pricing.media import MEDIA_MODES, MediaPrices, is_sized, media_rates, micro_per_million, rates_by_size
from gateway.pricing.rates import Rates, rates_from

_FILE: Final = "model_prices_and_context_window_backup.json"
_EXAMPLE: Final = "sample_spec"
_GENERATES: Final = ("chat", "completion", "responses")
_CHAT: Final = "/chat/completions"
_TEXT: Final = frozenset((_CHAT, "/completions", "/embeddings", "/messages", "/messages/count_tokens", "/responses"))
_SURFACES: Final = {
    **dict.fromkeys((*_GENERATES, "embedding"), _TEXT),
    **dict.fromkeys(("image_generation", "image_edit"), frozenset(("/images/generations", "/images/edits"))),
    "audio_speech": frozenset(("/audio/speech",)),
    "audio_transcription": frozenset(("/audio/transcriptions", "/audio/translations")),
    "moderation": frozenset(("/moderations",)),
    "rerank": frozenset(("/rerank",)),
}
_EMBEDS: Final = ("embedding",)
_Price = Decimal | None
_Size = int | str | None


class PriceListMissing(Exception):
    """litellm's package is not installed whole."""


class _Entry(MediaPrices):
    litellm_provider: str = ""
    mode: str | None = None
    cache_read_input_token_cost: _Price = None
    cache_creation_input_token_cost: _Price = None
    cache_creation_input_token_cost_above_1hr: _Price = None
    output_cost_per_reasoning_token: _Price = None
    input_cost_per_request: _Price = None
    max_tokens: _Size = None
    max_input_tokens: _Size = None
    max_output_tokens: _Size = None
    supports_reasoning: bool | None = None
    supports_vision: Any = None
    supports_function_calling: Any = None
    supports_parallel_function_calling: Any = None
    supports_response_schema: Any = None
    supports_prompt_caching: Any = None
    supports_pdf_input: Any = None
    supports_audio_input: Any = None
    supports_audio_output: Any = None
    supports_video_input: Any = None
    supported_endpoints: list[str] | None = None


_KIND: Final = {
    "input": "input_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "output": "output_cost_per_token",
    "reasoning": "output_cost_per_reasoning_token",
    "audio_input": "input_cost_per_audio_token",
    "audio_output": "output_cost_per_audio_token",
    "image_input": "input_cost_per_image_token",
    "request": "input_cost_per_request",
}


_CAPABILITIES: Final = {
    "vision": "supports_vision",
    "tools": "supports_function_calling",
    "parallel_tools": "supports_parallel_function_calling",
    "structured_output": "supports_response_schema",
    "reasoning": "supports_reasoning",
    "prompt_caching": "supports_prompt_caching",
    "pdf_input": "supports_pdf_input",
    "audio_input": "supports_audio_input",
    "audio_output": "supports_audio_output",
    "video_input": "supports_video_input",
}


class Shipped(msgspec.Struct, frozen=True):
    """What the list says of one model. `rates` are in USD, None where the list does not price its tokens."""

    mode: str
    rates: Rates | None
    input_tokens_max: int | None
    output_tokens_max: int | None
    reasons: bool
    surfaces: frozenset[str] | None = None  # paths below /v1 that it serves, None where the list does not say
    capabilities: tuple[str, ...] = ()


def shipped(provider: str, model: str) -> Shipped | None:
    """The list's entry for a provider's model; a fine-tune without its own takes its base model's fine-tuned one.

    An entry of another provider is never taken: the same name costs differently elsewhere. The first
    call reads the list (some 60 ms). Raises PriceListMissing.
    """
    entries = _entries()
    for name in _names(provider, model):
        entry = entries.get(name)
        if entry is not None and _is_of(provider, entry.litellm_provider):
            return _converted(entry)
    by_size = _by_size().get((provider, model))
    return None if by_size is None else Shipped("image_generation", by_size, None, None, False, _SURFACES["image_generation"])


def shipped_surfaces(provider: str, model: str) -> frozenset[str] | None:
    """The paths of the surfaces that a provider's model serves; None where the list does not say."""
    found = shipped(provider, model)
    return None if found is None else found.surfaces


def shipped_sizes(provider: str, model: str) -> tuple[int | None, int | None, bool | None]:
    """Tokens of input and of output at most, and whether it reasons unseen; None where the list does not say."""
    found = shipped(provider, model)
    return (None, None, None) if found is None else (found.input_tokens_max, found.output_tokens_max, found.reasons)


def shipped_names(provider: str, pattern: str) -> list[str]:
    """The priced models of a provider whose plain names match a pattern with `*`, in the list's order."""
    matches = re.compile(".*".join(map(re.escape, pattern.split("*"))))
    names = []
    for name, entry in _entries().items():
        if matches.fullmatch(name) and _is_of(provider, entry.litellm_provider) and _converted(entry).rates is not None:
            names.append(name)
    return names


def _names(provider: str, model: str) -> list[str]:
    names = [f"{provider}/{model}", model]
    if model.startswith("ft:") and model.count(":") > 1:
        names.append(":".join(model.split(":")[:2]))
    return names


def _is_of(provider: str, listed: str) -> bool:
    """The list splits some providers: "text-completion-openai", "vertex_ai-language-models", "bedrock_converse"."""
    return listed in (provider, f"text-completion-{provider}", f"{provider}_converse") or listed.startswith(f"{provider}-")


def _converted(entry: _Entry) -> Shipped:
    mode = entry.mode or ""
    given = {kind: micro_per_million(price) for kind, field in _KIND.items() if (price := getattr(entry, field)) is not None}
    priced = bool(given.get("input")) and (bool(given.get("output")) or mode in _EMBEDS) and mode in (*_GENERATES, *_EMBEDS)
    if mode in MEDIA_MODES:
        given = media_rates(mode, entry) if not _chats(entry) else {}
        priced = bool(given)
    most_output = entry.max_output_tokens if entry.max_output_tokens is not None else entry.max_tokens
    return Shipped(
        mode=mode,
        rates=rates_from(USD, given) if priced else None,
        input_tokens_max=_size(entry.max_input_tokens),
        output_tokens_max=_size(most_output) if mode in _GENERATES else None,
        reasons=bool(entry.supports_reasoning),
        surfaces=_surfaces(mode, entry),
        capabilities=tuple([name for name, field in _CAPABILITIES.items() if getattr(entry, field) is True]),
    )


def _surfaces(mode: str, entry: _Entry) -> frozenset[str] | None:
    if mode not in _SURFACES:
        return None
    return _SURFACES[mode] | _TEXT if _chats(entry) else _SURFACES[mode] | _listed(entry)


def _listed(entry: _Entry) -> frozenset[str]:
    return frozenset(path.removeprefix("/v1") for path in entry.supported_endpoints or ())


def _chats(entry: _Entry) -> bool:
    """Also: its text and its images cost otherwise, and the usage of a chat does not tell them apart."""
    return not _TEXT.isdisjoint(_listed(entry))


@functools.cache
def _by_size() -> dict[tuple[str, str], Rates]:
    """Models of images that the list names by quality and size alone, by provider and model."""
    entries = ((name, entry.litellm_provider, entry) for name, entry in _listed_entries().items() if entry.mode in MEDIA_MODES)
    return {key: rates_from(USD, given) for key, given in rates_by_size(entries).items()}


def _size(value: _Size) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


@functools.cache
def _entries() -> dict[str, _Entry]:
    """Those whose names are names of models."""
    return {name: entry for name, entry in _listed_entries().items() if not is_sized(name, entry.litellm_provider)}


@functools.cache
def _listed_entries() -> dict[str, _Entry]:
    package = importlib.util.find_spec("litellm")
    if package is None or package.origin is None:
        raise PriceListMissing("litellm is not installed")
    try:
        content = (Path(package.origin).parent / _FILE).read_bytes()
        entries = msgspec.json.decode(content, type=dict[str, _Entry])
    except (OSError, msgspec.DecodeError) as broken:
        raise PriceListMissing(f"litellm's {_FILE} cannot be read") from broken
    entries.pop(_EXAMPLE, None)
    return entries

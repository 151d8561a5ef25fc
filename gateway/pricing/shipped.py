"""The shipped price list: litellm's `model_prices_and_context_window_backup.json`, read without importing litellm.

Its numbers are USD per token, written as 1.5e-07: they are read as decimals, never as floats, and
become integer micro-USD per million tokens, a finer price rounded up. A model is taken as priced only
where the list prices every token of it: entries of zeros (local or subscription models) and chat
models without an output price are not; `terms` says which of an entry's prices are read, which are left out and why.
Models of images, audio, moderation and ranking: see `pricing.media`.
"""

import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.core.money import USD
from gateway.pricing.media import MEDIA_MODES, MediaPrices, is_sized, media_rates, rates_by_size
from gateway.pricing.rates import Rates, marked_up, rates_from
from gateway.pricing.terms import prices_of, searches_unasked, unpriced_because, uplift_bp
from gateway.pricing.tools import tool_rates

_FILE: Final = "model_prices_and_context_window_backup.json"
_EXAMPLE: Final = "sample_spec"
_GENERATES: Final = ("chat", "completion", "responses")
_CHAT: Final = "/chat/completions"
_TEXT: Final = frozenset((_CHAT, "/completions", "/embeddings", "/messages", "/messages/count_tokens", "/responses"))
_SURFACES: Final = {
    **dict.fromkeys(_GENERATES, _TEXT),
    "embedding": frozenset(("/embeddings",)),
    **dict.fromkeys(("image_generation", "image_edit"), frozenset(("/images/generations", "/images/edits"))),
    "audio_speech": frozenset(("/audio/speech",)),
    "audio_transcription": frozenset(("/audio/transcriptions", "/audio/translations")),
    "moderation": frozenset(("/moderations",)),
    "rerank": frozenset(("/rerank",)),
}
_EMBEDS: Final = ("embedding",)
_Size = int | str | None


class PriceListMissing(Exception):
    """litellm's package is not installed whole."""


class NotAPriceList(ValueError):
    """A sentence that says what is wrong with a list, and with which of its entries."""


class _Entry(MediaPrices):
    litellm_provider: str = ""
    mode: str | None = None
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
    fields: dict[str, Any] = msgspec.field(default_factory=dict)  # all of them, as they stand there


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
    unpriced: str = ""  # why its prices cannot be used, where it has some


class PriceList:
    """A list in litellm's format, whose entries are read when they are asked for. NotAPriceList."""

    def __init__(self, content: bytes) -> None:
        try:
            self._raw = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError) as broken:
            raise NotAPriceList(f"It is no JSON object of models: {broken}.") from broken
        self._raw.pop(_EXAMPLE, None)

    def __len__(self) -> int:
        return len(self._raw)

    def get(self, name: str) -> _Entry | None:
        """One entry, whose name is a model's."""
        entry = self._entry(name)
        return None if entry is None or is_sized(name, entry.litellm_provider) else entry

    def _entry(self, name: str) -> _Entry | None:
        raw = self._raw.get(name)
        if raw is None:
            return None
        try:
            entry = _decode_entry(raw)
            entry.fields = _decode_fields(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as broken:
            raise NotAPriceList(f"Its entry {name} cannot be read: {broken}.") from broken
        return entry

    def items(self) -> Iterator[tuple[str, _Entry]]:
        """Every entry whose name is a model's, in the list's order."""
        for name in self._raw:
            entry = self.get(name)
            if entry is not None:
                yield name, entry

    @functools.cached_property
    def by_size(self) -> dict[tuple[str, str], Rates]:
        """Models of images that the list names by quality and size alone, by provider and model."""
        sized = [(name, self._entry(name)) for name in self._raw if "-x-" in name]
        entries = [(name, entry.litellm_provider, entry) for name, entry in sized if entry and entry.mode in MEDIA_MODES]
        return {key: rates_from(USD, given) for key, given in rates_by_size(entries).items()}

    def check(self) -> int:
        """How many of its models have prices; NotAPriceList where one of them cannot be read."""
        priced = len(self.by_size)
        for name, entry in self.items():
            try:
                priced += _converted(name, entry).rates is not None
            except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError) as wrong:
                raise NotAPriceList(f"Its entry {name} cannot be read: {wrong}.") from wrong
        if not priced:
            raise NotAPriceList("It has no model with prices.")
        return priced


_decode_entry: Final = msgspec.json.Decoder(_Entry).decode
_decode_fields: Final = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


def shipped(provider: str, model: str, region: str = "", listed: PriceList | None = None) -> Shipped | None:
    """The list's entry for a provider's model; a fine-tune without its own takes its base model's fine-tuned one.

    An entry of another provider is never taken: the same name costs differently elsewhere. `region` is as `terms.uplift_bp`
    has it; `listed` is another list than the shipped one. The first call reads the list (some 20 ms). Raises PriceListMissing.
    """
    entries = _entries() if listed is None else listed
    for name in _names(provider, model):
        entry = entries.get(name)
        if entry is not None and _is_of(provider, entry.litellm_provider):
            found = _converted(name, entry)
            added_bp = uplift_bp(entry.fields, region)
            if added_bp and found.rates is not None:
                found = msgspec.structs.replace(found, rates=marked_up(found.rates, added_bp))
            return found
    by_size = entries.by_size.get((provider, model))
    return None if by_size is None else Shipped("image_generation", by_size, None, None, False, _SURFACES["image_generation"])


def shipped_surfaces(provider: str, model: str) -> frozenset[str] | None:
    """The paths of the surfaces that a provider's model serves; None where the list does not say."""
    found = shipped(provider, model)
    return None if found is None else found.surfaces


def shipped_sizes(provider: str, model: str) -> tuple[int | None, int | None, bool | None]:
    """Tokens of input and of output at most, and whether it reasons unseen; None where the list does not say."""
    found = shipped(provider, model)
    return (None, None, None) if found is None else (found.input_tokens_max, found.output_tokens_max, found.reasons)


def shipped_names(provider: str, pattern: str, listed: PriceList | None = None) -> list[str]:
    """The priced models of a provider whose plain names match a pattern with `*`, in the order of the list."""
    matches = re.compile(".*".join(map(re.escape, pattern.split("*"))))
    names = []
    for name, entry in (_entries() if listed is None else listed).items():
        if matches.fullmatch(name) and _is_of(provider, entry.litellm_provider) and _converted(name, entry).rates is not None:
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


def _converted(name: str, entry: _Entry) -> Shipped:
    mode = entry.mode or ""
    given = prices_of(name, entry.fields)
    if not searches_unasked(name):
        given |= tool_rates(entry.fields)
    priced = bool(given.get("input")) and (bool(given.get("output")) or mode in _EMBEDS) and mode in (*_GENERATES, *_EMBEDS)
    unpriced = unpriced_because(name, entry.fields) if priced else ""
    if mode in MEDIA_MODES:
        given = media_rates(mode, entry) if not _chats(entry) else {}
        priced = bool(given)
    most_output = entry.max_output_tokens if entry.max_output_tokens is not None else entry.max_tokens
    return Shipped(
        mode=mode,
        rates=rates_from(USD, given) if priced and not unpriced else None,
        input_tokens_max=_size(entry.max_input_tokens),
        output_tokens_max=_size(most_output) if mode in _GENERATES else None,
        reasons=bool(entry.supports_reasoning),
        surfaces=_surfaces(mode, entry),
        capabilities=tuple([name for name, field in _CAPABILITIES.items() if getattr(entry, field) is True]),
        unpriced=unpriced,
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


def _size(value: _Size) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


@functools.cache
def _entries() -> PriceList:
    try:
        return PriceList((_folder() / _FILE).read_bytes())
    except (OSError, NotAPriceList) as broken:
        raise PriceListMissing(f"litellm's {_FILE} cannot be read") from broken


def _folder() -> Path:
    package = importlib.util.find_spec("litellm")
    if package is None or package.origin is None:
        raise PriceListMissing("litellm is not installed")
    return Path(package.origin).parent


@functools.cache
def shipped_models() -> int:
    """How many models of the shipped list have prices, as `PriceList.check` counts them. PriceListMissing."""
    return _entries().check()


@functools.cache
def shipped_version() -> str:
    """The version of litellm that the shipped list came with; "" where that is not known."""
    try:
        return importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        return ""

"""What the shipped list says of images, audio, moderation and ranking, in our kinds."""

from decimal import Decimal
from typing import Any

import pytest

from gateway.core.units import KINDS
from gateway.pricing.media import MEDIA_MODES, MediaPrices, media_rates, rates_by_size
from gateway.pricing.shipped import shipped, shipped_surfaces

USD = 10**12  # micro-USD of a million, for one USD of one


def prices(**fields: str) -> MediaPrices:
    return MediaPrices(**{name: Decimal(text) for name, text in fields.items()})


@pytest.mark.parametrize(
    ("provider", "model", "told"),
    [
        ("openai", "gpt-image-1", {"input": "5e-6", "image_input": "1e-5", "output": "4e-5", "image_output": "4e-5"}),
        ("openai", "gpt-image-1.5", {"input": "5e-6", "image_input": "8e-6", "output": "1e-5", "image_output": "3.2e-5"}),
        ("openai", "tts-1-hd", {"characters": "3e-5"}),
        ("openai", "gpt-4o-mini-tts", {"input": "6e-7", "seconds": "0.00025"}),
        ("openai", "whisper-1", {"seconds": "0.0001"}),
        ("openai", "gpt-4o-transcribe", {"input": "2.5e-6", "audio_input": "2.5e-6", "output": "1e-5"}),
        ("groq", "whisper-large-v3", {"seconds": "3.083e-5"}),
        ("cohere", "rerank-v3.5", {"searches": "0.002"}),
        ("voyage", "rerank-2", {"input": "5e-8", "output": "0"}),
        ("openai", "omni-moderation-latest", {"input": "0", "output": "0"}),
    ],
)
def test_a_listed_model_has_its_kinds(provider: str, model: str, told: dict[str, str]) -> None:
    found = shipped(provider, model)
    assert found is not None
    assert found.rates is not None
    assert found.mode in MEDIA_MODES
    assert {kind: getattr(found.rates, kind) for kind in told} == {kind: Decimal(text) * USD for kind, text in told.items()}
    units = ("images", "seconds", "characters", "searches")
    assert {kind for kind in units if getattr(found.rates, kind)} == told.keys() & set(units)


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        ("image_generation", {"input_cost_per_pixel": "4e-8"}),
        ("image_generation", {"output_cost_per_image": "0.04", "output_cost_per_image_1K": "0.08"}),
        ("image_generation", {"output_cost_per_image": "0.04", "input_cost_per_image": "0.01"}),
        ("image_generation", {"output_cost_per_image": "0.04", "output_cost_per_pixel": "1e-8"}),
        ("image_generation", {"output_cost_per_image": "0.04", "input_cost_per_token": "1e-6"}),
        ("image_generation", {"output_cost_per_image": "0"}),
        ("audio_speech", {"output_cost_per_image": "0.06"}),
        ("audio_speech", {"output_cost_per_second": "0.06"}),
        ("audio_speech", {"input_cost_per_character": "1e-5", "input_cost_per_token": "1e-6"}),
        ("audio_transcription", {"input_cost_per_second": "1e-4", "input_cost_per_audio_token": "1e-6"}),
        ("audio_transcription", {"input_cost_per_token": "1e-6"}),
        ("audio_transcription", {}),
        ("moderation", {}),
        ("rerank", {"input_cost_per_query": "0.002", "input_cost_per_token": "1e-6"}),
        ("rerank", {"input_cost_per_token": "0", "output_cost_per_token": "0"}),
        ("chat", {"output_cost_per_image": "0.04"}),
    ],
)
def test_what_is_not_said_plainly_has_no_price(mode: str, fields: dict[str, str]) -> None:
    assert media_rates(mode, prices(**fields)) == {}


def test_a_model_that_is_listed_by_quality_and_size_has_a_price_for_each() -> None:
    listed = [
        ("hd/1024-x-1792/dall-e-3", "openai", prices(input_cost_per_image="0.12")),
        ("standard/1024-x-1024/dall-e-3", "openai", prices(output_cost_per_image="0.04")),
        ("1024-x-1024/dall-e-2", "openai", prices(input_cost_per_image="0.02")),
        ("azure/hd/1024-x-1024/dall-e-3", "azure", prices(input_cost_per_pixel="8e-8")),
        ("1024-x-1024/50-steps/xl", "bedrock", prices(output_cost_per_image="0.04")),
    ]
    found: dict[tuple[str, str], dict[str, Any]] = rates_by_size(listed)
    assert found == {
        ("openai", "dall-e-3"): {
            "images": USD * 12 // 100,
            "variants": {"hd/1024x1792": {"images": USD * 12 // 100}, "standard/1024x1024": {"images": USD * 4 // 100}},
        },
        ("openai", "dall-e-2"): {"images": USD * 2 // 100, "variants": {"standard/1024x1024": {"images": USD * 2 // 100}}},
    }


def test_no_model_of_media_is_cheap_in_a_kind_that_its_surface_counts() -> None:
    """A model sold by the token has a price of every kind of token that its surface counts."""
    counted = {"image_generation": ("input", "image_input", "output", "image_output"), "audio_transcription": ("input", "output")}
    for model in ("gpt-image-1", "gpt-image-1-mini", "gpt-image-2", "chatgpt-image-latest", "gpt-4o-mini-transcribe"):
        found = shipped("openai", model)
        assert found is not None
        assert found.rates is not None
        assert all(getattr(found.rates, kind) for kind in counted[found.mode])
    assert "image_output" in KINDS


@pytest.mark.parametrize(
    ("provider", "model", "path", "serves"),
    [
        ("openai", "gpt-image-1", "/images/edits", True),
        ("openai", "gpt-image-1", "/chat/completions", False),
        ("openai", "gpt-4o", "/chat/completions", True),
        ("openai", "gpt-4o", "/audio/speech", False),
        ("openai", "text-embedding-3-small", "/embeddings", True),
        ("openai", "whisper-1", "/audio/translations", True),
        ("gemini", "gemini-2.5-flash-image", "/chat/completions", True),
    ],
)
def test_the_list_says_what_a_model_serves(provider: str, model: str, path: str, serves: bool) -> None:
    found = shipped_surfaces(provider, model)
    assert found is not None
    assert (path in found) is serves


def test_of_a_model_that_is_not_listed_nobody_knows_what_it_serves() -> None:
    assert shipped_surfaces("openai", "my-own") is None

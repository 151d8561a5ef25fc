"""The shipped list: prices that providers publish, read exactly, and nothing free by accident."""

import importlib.util
import json
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from gateway.core.units import KINDS
from gateway.pricing.media import MEDIA_MODES, micro_per_million
from gateway.pricing.rates import Rates
from gateway.pricing.shipped import _KIND, Shipped, shipped


def rates(provider: str, model: str) -> Rates:
    found = shipped(provider, model)
    assert found is not None
    assert found.rates is not None
    return found.rates


# USD per million tokens, from the providers' price pages.
@pytest.mark.parametrize(
    ("provider", "model", "prices"),
    [
        ("openai", "gpt-4o-mini", {"input": "0.15", "cached_input": "0.075", "output": "0.60"}),
        ("openai", "gpt-4o", {"input": "2.50", "cached_input": "1.25", "output": "10"}),
        ("openai", "gpt-5", {"input": "1.25", "cached_input": "0.125", "output": "10", "reasoning": "10"}),
        ("openai", "text-embedding-3-small", {"input": "0.02", "output": "0"}),
        ("openai", "ft:gpt-4o-mini-2024-07-18:org::id", {"input": "0.30", "output": "1.20"}),
        (
            "anthropic",
            "claude-sonnet-4-5",
            {"input": "3", "cached_input": "0.30", "cache_write": "3.75", "cache_write_1h": "6", "output": "15"},
        ),
        ("azure", "gpt-4o", {"input": "2.50", "output": "10"}),
    ],
)
def test_published_prices_are_in_it(provider: str, model: str, prices: dict[str, str]) -> None:
    found = rates(provider, model)
    assert {kind: getattr(found, kind) for kind in prices} == {kind: Decimal(text) * 10**6 for kind, text in prices.items()}


def raw_list() -> dict[str, dict[str, Any]]:
    package = importlib.util.find_spec("litellm")
    assert package is not None
    assert package.origin is not None
    text = (Path(package.origin).parent / "model_prices_and_context_window_backup.json").read_text()
    found: dict[str, dict[str, Any]] = json.loads(text, parse_float=Fraction, parse_int=int)
    return found


def test_every_price_of_the_list_is_exact_or_rounded_up_by_less_than_one_micro() -> None:
    checked = 0
    entries = raw_list()
    for name, entry in entries.items():
        provider = str(entry.get("litellm_provider"))
        model = name.removeprefix(f"{provider}/")
        found = shipped(provider, model)
        if found is None or found.rates is None or (f"{provider}/{model}" in entries and name != f"{provider}/{model}"):
            continue
        for kind, field in _KIND.items() if found.mode not in MEDIA_MODES else ():
            if entry.get(field) is not None:
                exact = Fraction(entry[field]) * 10**12
                assert 0 <= getattr(found.rates, kind) - exact < 1, f"{name} {kind}"
                checked += 1
    assert checked > 5_000


def test_nothing_that_the_list_calls_priced_is_free() -> None:
    priced = 0
    for name, entry in raw_list().items():
        found = shipped(str(entry.get("litellm_provider")), name)
        if found is not None and found.rates is not None:
            priced += 1
            if found.mode in MEDIA_MODES:
                sold = [kind for kind in ("input", "images", "seconds", "characters", "searches") if getattr(found.rates, kind)]
                assert sold or found.mode == "moderation", name
                continue
            assert found.rates.input > 0, name
            assert found.rates.output > 0 or found.mode == "embedding", name
            assert all(getattr(found.rates, kind) >= 0 for kind in KINDS)
    assert priced > 2_500


@pytest.mark.parametrize(
    ("provider", "model"),
    [("vertex_ai", "gemini-3.5-transcribe"), ("gemini", "gemini-2.5-flash-image"), ("azure", "model-router")],
)
def test_what_is_sold_in_several_ways_at_once_has_no_rates(provider: str, model: str) -> None:
    found = shipped(provider, model)
    assert isinstance(found, Shipped)
    assert found.rates is None


def test_a_name_of_another_provider_is_not_taken() -> None:
    assert shipped("openai", "claude-sonnet-4-5") is None
    assert shipped("my-vllm", "gpt-4o") is None
    assert shipped("azure", "o3-mini-high-nope") is None
    assert shipped("openai", "sample_spec") is None


def test_a_provider_that_the_list_splits_is_found() -> None:
    found = shipped("openai", "gpt-3.5-turbo-instruct") or shipped("openai", "davinci-002")
    assert found is not None
    assert found.rates is not None
    converse = shipped("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert converse is not None
    assert converse.rates is not None


def test_sizes_come_with_it() -> None:
    found = shipped("openai", "gpt-4o-mini")
    assert found is not None
    assert (found.mode, found.input_tokens_max, found.output_tokens_max) == ("chat", 128_000, 16_384)
    embedding = shipped("openai", "text-embedding-3-small")
    assert embedding is not None
    assert (embedding.input_tokens_max, embedding.output_tokens_max) == (8191, None)


@pytest.mark.parametrize(
    ("usd_per_token", "micro"),
    [("1.5e-07", 150_000), ("0.1", 10**11), ("1e-12", 1), ("1e-13", 1), ("1.0000000000001e-6", 1_000_001), ("0", 0)],
)
def test_a_price_becomes_integer_micro_units_rounded_up(usd_per_token: str, micro: int) -> None:
    assert micro_per_million(Decimal(usd_per_token)) == micro


def test_litellm_is_not_imported() -> None:
    look = "import sys, gateway.pricing.shipped as s; assert s.shipped('openai', 'gpt-4o'); print('litellm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"

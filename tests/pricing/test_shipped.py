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

from gateway.core.units import KINDS, TOOL_KINDS, Usage
from gateway.pricing.media import MEDIA_MODES, micro_per_million
from gateway.pricing.rates import Rates, marked_up
from gateway.pricing.shipped import NotAPriceList, PriceList, Shipped, shipped
from gateway.pricing.terms import KIND, ignored, is_read
from gateway.pricing.tools import tool_rates


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


def priced_entries() -> list[tuple[str, dict[str, Any], Rates]]:
    entries = raw_list()
    found = []
    for name, entry in entries.items():
        provider = str(entry.get("litellm_provider"))
        model = name.removeprefix(f"{provider}/")
        listed = shipped(provider, model)
        is_it = name == f"{provider}/{model}" or f"{provider}/{model}" not in entries
        if is_it and listed is not None and listed.rates is not None:
            found.append((name, entry, listed.rates))
    return found


TOKEN_MODES = ("chat", "completion", "responses", "embedding")


def is_price(field: str) -> bool:
    return any(word in field for word in ("cost", "pric", "multiplier", "fee")) and field != "search_free_requests"


def rates_of(rates: Rates, field: str, entry: dict[str, Any]) -> tuple[Rates, str]:
    """The rates and the plain field's name that a field of an entry is about, taken apart in another way than it is read."""
    for tier, name in (("flex", "flex"), ("priority", "priority"), ("batches", "batch"), ("balanced",) * 2, ("ultrafast",) * 2):
        if field.endswith(f"_{tier}"):
            assert rates.has_variant(name), field
            rates, field = rates.variant(name), field.removesuffix(f"_{tier}")
    head, _, size = field.rpartition("_above_")
    if size.endswith("k_tokens"):
        tokens = 1000 * int(size.removesuffix("k_tokens"))
        assert rates.long_above == tokens - (entry["litellm_provider"] == "xai")
        assert rates.long is not None
        rates, field = rates.long, head
    return rates, field


def test_every_price_of_the_list_is_exact_or_left_out_for_a_reason_and_no_request_is_too_cheap() -> None:
    checked = 0
    for name, entry, rates in priced_entries():
        if entry["mode"] not in TOKEN_MODES:
            continue
        for field, value in entry.items():
            if not is_price(field) or value is None or value == 0:
                continue
            if not is_read(field):
                assert ignored(field, entry["mode"]), f"{name}: {field} is neither read nor left out for a reason"
                continue
            if field == "tiered_pricing":
                checked += tiers_checked(name, value, rates)
                continue
            of, plain = rates_of(rates, field, entry)
            assert 0 <= getattr(of, KIND[plain]) - Fraction(value) * 10**12 < 1, f"{name} {field}"
            checked += 1
    assert checked > 12_000


def tiers_checked(name: str, tiers: list[dict[str, Any]], rates: Rates) -> int:
    checked = 0
    for tier in tiers:
        read = int(tier["range"][0]) + 1
        for field, value in tier.items():
            if field != "range":
                counts = {"input": read, KIND[field]: 10**6} if KIND[field] != "input" else {"input": max(read, 10**6)}
                if KIND[field] in ("output", "reasoning"):
                    exact = Fraction(tier["input_cost_per_token"]) * read * 10**6 + Fraction(value) * 10**12
                    assert rates.price(Usage(**counts)) == -(-exact.numerator // exact.denominator), f"{name} {tier}"
                    checked += 1
    return checked


def test_the_reasons_for_leaving_prices_out_are_true_of_every_entry() -> None:
    for name, entry, rates in priced_entries():
        if entry["mode"] not in TOKEN_MODES:
            continue
        for field, price in entry.get("off_peak_pricing", {}).items():
            assert "cost" not in field or price <= entry[field], f"{name}: {field} is dearer off the peak"
        cached = entry.get("cache_read_input_token_cost", entry.get("input_cost_per_token", 0))
        assert entry.get("explicit_cache_read_input_token_cost", 0) <= cached, name
        assert entry.get("input_cost_per_token_cache_hit", 0) <= cached, name
        assert entry.get("cache_read_input_audio_token_cost", 0) * 10**12 <= rates.audio_input, name
        assert entry.get("input_cost_per_character", 0) * 4 <= entry.get("input_cost_per_token", 0), name
        if entry.get("output_cost_per_image") and entry["mode"] != "embedding":
            assert "image" not in entry.get("supported_output_modalities", ()), name


def test_a_price_of_an_unknown_kind_leaves_its_entry_unpriced() -> None:
    entry = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}

    def found(**more: object) -> Shipped:
        made = shipped("openai", "new", listed=PriceList(json.dumps({"new": {**entry, **more}}).encode()))
        assert made is not None
        return made

    assert found().rates is not None
    assert found(input_cost_per_thought=0).rates is not None
    assert found(input_cost_per_thought=1).unpriced == "It has a price of a kind that is not known here: input_cost_per_thought."
    assert found(input_cost_per_thought=1).rates is None
    assert found(input_cost_per_token_overnight=1e-9).rates is None


def test_what_a_tier_or_a_size_leaves_out_is_no_cheaper_there() -> None:
    entry = {
        "litellm_provider": "openai", "mode": "chat",
        "input_cost_per_token": 2e-06, "output_cost_per_token": 10e-06, "cache_read_input_token_cost": 1e-06,
        "input_cost_per_token_priority": 4e-06, "output_cost_per_token_priority": 30e-06,
        "input_cost_per_token_flex": 1e-06, "output_cost_per_token_flex": 5e-06,
        "input_cost_per_token_above_100k_tokens": 6e-06, "output_cost_per_token_above_100k_tokens": 20e-06,
        "output_cost_per_token_above_200k_tokens": 25e-06,
    }  # fmt: skip
    listed = shipped("openai", "new", listed=PriceList(json.dumps({"new": entry}).encode()))
    assert listed is not None
    assert listed.rates is not None
    plain, flex, priority = listed.rates, listed.rates.variant("flex"), listed.rates.variant("priority")
    long, flex_long, priority_long = plain.long, flex.long, priority.long
    assert long is not None
    assert flex_long is not None
    assert priority_long is not None
    assert (flex.cached_input, priority.cached_input) == (1_000_000, 2_000_000)
    assert (long.cached_input, long.long_above, long.long and (long.long.input, long.long.output)) == (
        3_000_000, 200_000, (7_500_000, 25_000_000),
    )  # fmt: skip
    assert (flex_long.input, flex_long.output, flex_long.cached_input) == (6_000_000, 20_000_000, 3_000_000)
    assert (priority_long.input, priority_long.output, priority_long.cached_input) == (12_000_000, 60_000_000, 6_000_000)


def test_a_model_that_searches_unasked_has_the_fee_in_the_price_of_a_request_or_no_price() -> None:
    assert rates("perplexity", "sonar").price(Usage(input=1_000, output=100)) == 5_000 + 1_000 + 100
    assert rates("openai", "gpt-4o-mini-search-preview").request == 25_000 * 10**6
    for provider, model in (("perplexity", "sonar-deep-research"), ("vercel_ai_gateway", "perplexity/sonar")):
        listed = shipped(provider, model)
        assert listed is not None
        assert listed.rates is None
        assert listed.unpriced


def test_models_have_the_fees_of_their_providers_tools_and_others_have_none() -> None:
    def fees(provider: str, model: str) -> list[int]:
        return [getattr(rates(provider, model), kind) // 10**6 for kind in TOOL_KINDS]

    assert fees("openai", "gpt-5") == [10_000, 10_000, 2_500, 30_000]
    assert fees("openai", "gpt-4.1-mini") == [10_000, 25_000, 2_500, 30_000]
    assert fees("anthropic", "claude-haiku-4-5") == [10_000, 0, 0, 0]
    for provider, model in (
        ("openai", "gpt-4o-search-preview"), ("openai", "text-embedding-3-small"), ("azure", "gpt-5"),
        ("gemini", "gemini-2.5-pro"), ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ):  # fmt: skip
        assert fees(provider, model) == [0, 0, 0, 0]
    entry = {"litellm_provider": "openai", "mode": "chat", "supports_reasoning": True}
    dearer = tool_rates({**entry, "search_context_cost_per_query": {"search_context_size_medium": Decimal("0.05")}})
    assert (dearer["web_searches"], dearer["web_searches_preview"]) == (50_000 * 10**6, 50_000 * 10**6)
    session = raw_list()["openai/container"]["code_interpreter_cost_per_session"]
    assert micro_per_million(session) == tool_rates(entry)["container_gb"]


def test_a_region_that_costs_more_does() -> None:
    plain, eu = shipped("openai", "gpt-5.4"), shipped("openai", "gpt-5.4", "eu")
    assert plain is not None
    assert plain.rates is not None
    assert eu is not None
    assert eu.rates == marked_up(plain.rates, 1_000)
    old = shipped("openai", "gpt-4o", "eu")
    assert old is not None
    assert old.rates == rates("openai", "gpt-4o")


def test_a_list_that_cannot_be_read_whole_names_the_entry() -> None:
    good = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
    assert PriceList(json.dumps({"sample_spec": {"mode": 1}, "a": good, "b": {"mode": "chat"}}).encode()).check() == 1
    for content, says in [
        (b"[]", "no JSON object"),
        (b"\xff", "no JSON object"),
        (json.dumps({"b": {**good, "mode": 7}}).encode(), "entry b "),
        (json.dumps({"b": {**good, "input_cost_per_token": "much"}}).encode(), "entry b "),
        (json.dumps({"b": {**good, "input_cost_per_token": -1e-6}}).encode(), "entry b "),
        (json.dumps({"b": {**good, "tiered_pricing": [{"range": ["x"], "input_cost_per_token": 1}]}}).encode(), "entry b "),
        (json.dumps({"b": {"mode": "chat"}}).encode(), "no model with prices"),
    ]:
        with pytest.raises(NotAPriceList, match=says):
            PriceList(content).check()


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

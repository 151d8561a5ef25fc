"""What providers publish that a request costs, priced to the micro-unit: from the usage in an answer to the amount.

Each case is an answer's usage as its dialect tells it, through the mapping that the gateway has for that dialect, at the price
that the shipped list has; and what it costs by the provider's own page, worked out by hand beside it. The pages are of 2026, the
list is that of litellm 1.106.2: a case that fails after a newer list was taken is a price that moved. The pages of OpenAI's,
Google's and DeepSeek's prices were read in the transcriptions of others, the rest in copies.

Where the counts are from: OpenAI's API description (examples of usage), xAI's page on prompt caching, Google's forum on cached
tokens (11,500 tokens read, of which 10,000 cached; 1,000 said and 10,000 thought).
"""

from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import pytest

from gateway.core.units import Usage
from gateway.metering.messages import read_messages_usage
from gateway.metering.usage import read_usage
from gateway.pricing.rates import Rates
from gateway.pricing.shipped import shipped
from gateway.providers.model import Deployment
from gateway.providers.translation import usage_of
from gateway.proxy import messages_tools, responses_tools
from gateway.proxy.audio import Speech, Transcriptions
from gateway.proxy.images import Generations

OPENAI_MODELS: Final = "https://developers.openai.com/api/docs/models/"
OPENAI: Final = "https://developers.openai.com/api/docs/pricing"
PRIORITY: Final = "https://openai.com/api-priority-processing/"
CLAUDE: Final = "https://platform.claude.com/docs/en/about-claude/pricing"
CLAUDE_MODELS: Final = "https://platform.claude.com/docs/en/models/"
GEMINI: Final = "https://ai.google.dev/gemini-api/docs/pricing"
XAI: Final = "https://docs.x.ai/developers/pricing"
DEEPSEEK: Final = "https://api-docs.deepseek.com/quick_start/pricing"


class Case(NamedTuple):
    dialect: str
    provider: str
    model: str
    usage: Any
    micro: int
    source: str
    tier: str = ""
    region: str = ""


def chat(prompt: int, made: int, *, cached: int = 0, thought: int = 0, heard: int = 0, spoken: int = 0) -> dict[str, Any]:
    """OpenAI's usage of a chat."""
    return {
        "prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": heard},
        "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": spoken},
    }  # fmt: skip


def responses(prompt: int, made: int, *, cached: int = 0, thought: int = 0) -> dict[str, Any]:
    """OpenAI's usage of a response."""
    return {
        "input_tokens": prompt, "output_tokens": made, "total_tokens": prompt + made,
        "input_tokens_details": {"cached_tokens": cached}, "output_tokens_details": {"reasoning_tokens": thought},
    }  # fmt: skip


def pictures(text: int, image: int, made: int) -> dict[str, Any]:
    details = {"text_tokens": text, "image_tokens": image}
    totals = {"total_tokens": text + image + made, "input_tokens": text + image, "output_tokens": made}
    return {**totals, "input_tokens_details": details}


def texts(tokens: int) -> dict[str, Any]:
    """Of embeddings."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}


CACHED = responses(1500, 500, cached=1024, thought=300)  # 476 read anew
THOUGHT = responses(81, 1035, thought=832)
HEARD = chat(132, 121, heard=13, spoken=91)  # 119 read and 30 written
# 2,048 read anew, 1,800 from the cache, 148 written to it for five minutes and 100 for an hour
WRITTEN = {
    "input_tokens": 2048, "cache_read_input_tokens": 1800, "cache_creation_input_tokens": 248, "output_tokens": 503,
    "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
}  # fmt: skip
FORUM = chat(11_500, 11_000, cached=10_000, thought=10_000)
XAI_CACHED = chat(125, 48, cached=98)  # 27 read anew
# xAI counts what was thought beside what was said.
XAI_THOUGHT = {**chat(32, 9, thought=94), "total_tokens": 135}
HIT = {
    "prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200, "prompt_cache_hit_tokens": 640,
    "prompt_cache_miss_tokens": 360,
}  # fmt: skip

EMBEDDINGS: Final = OPENAI_MODELS + "text-embedding-3-large"

CASES = [
    # ---- OpenAI, by the pages of its models
    Case("chat", "openai", "gpt-4", chat(19, 10), 1_170, OPENAI_MODELS + "gpt-4"),  # 19 * 30 + 10 * 60
    Case("chat", "openai", "gpt-4-turbo", chat(1117, 46), 12_550, OPENAI_MODELS + "gpt-4-turbo"),  # 1,117 * 10 + 46 * 30
    # 119 * 2.50 + 13 * 32 + 30 * 10 + 91 * 64 = 6,837.5
    Case("chat", "openai", "gpt-audio", HEARD, 6_838, OPENAI_MODELS + "gpt-audio"),
    Case("chat", "openai", "gpt-audio-1.5", HEARD, 6_838, OPENAI_MODELS + "gpt-audio-1.5"),
    Case("chat", "openai", "gpt-audio-mini", chat(19, 10), 36, OPENAI_MODELS + "gpt-audio-mini"),  # 19 * 0.60 + 10 * 2.40 = 35.4
    Case("images", "openai", "gpt-image-1", pictures(10, 40, 50), 2_450, OPENAI_MODELS + "gpt-image-1"),  # 50 + 400 + 2,000
    # A square picture of low and of medium quality takes 272 and 1,056 tokens; the page says $0.011 and $0.042 of each.
    Case("images", "openai", "gpt-image-1", pictures(0, 0, 272), 10_880, OPENAI_MODELS + "gpt-image-1"),
    Case("images", "openai", "gpt-image-1", pictures(0, 0, 1056), 42_240, OPENAI_MODELS + "gpt-image-1"),
    # 10 * 2 + 40 * 2.50 + 50 * 8
    Case("images", "openai", "gpt-image-1-mini", pictures(10, 40, 50), 520, OPENAI_MODELS + "gpt-image-1-mini"),
    Case(
        "heard", "openai", "gpt-4o-mini-transcribe",
        {"type": "tokens", "input_tokens": 14, "input_token_details": {"audio_tokens": 14}, "output_tokens": 45},
        243, OPENAI_MODELS + "compare?model=gpt-4o-mini-transcribe",  # 14 * 1.25 + 45 * 5 = 242.5
    ),
    Case("heard", "openai", "whisper-1", {"type": "duration", "seconds": 9}, 900, OPENAI_MODELS + "whisper-1"),  # $0.006 a minute
    Case("heard", "openai", "whisper-1", {"type": "duration", "seconds": 43}, 4_300, OPENAI_MODELS + "whisper-1"),
    Case("spoken", "openai", "tts-1", 4096, 61_440, OPENAI_MODELS + "tts-1"),  # $15 for a million characters
    Case("spoken", "openai", "tts-1-hd", 4096, 122_880, OPENAI_MODELS + "tts-1"),  # $30
    Case("chat", "openai", "text-embedding-3-large", texts(8), 2, EMBEDDINGS),  # 8 * 0.13 = 1.04
    Case("chat", "openai", "text-embedding-3-large", texts(8191), 1_065, EMBEDDINGS),  # 1,064.83
    Case("chat", "openai", "text-embedding-3-small", texts(8191), 164, EMBEDDINGS),  # 8,191 * 0.02
    # ---- OpenAI, by its page of prices: 476 read, 1,024 cached, 500 made
    Case("responses", "openai", "gpt-5.5", CACHED, 17_892, OPENAI),  # 5, 0.50, 30
    Case("responses", "openai", "gpt-5.4", CACHED, 8_946, OPENAI),  # 2.50, 0.25, 15
    Case("responses", "openai", "gpt-5.4-mini", CACHED, 2_684, OPENAI),  # 0.75, 0.075, 4.50: 2,683.8
    Case("responses", "openai", "gpt-5.4-nano", CACHED, 741, OPENAI),  # 0.20, 0.02, 1.25: 740.68
    Case("responses", "openai", "gpt-5.5-pro", THOUGHT, 188_730, OPENAI),  # 81 * 30 + 1,035 * 180
    # ---- and at the service tier `priority`
    Case("responses", "openai", "gpt-5.5", CACHED, 44_730, PRIORITY, "priority"),  # 12.50, 1.25, 75
    Case("responses", "openai", "gpt-5.4", CACHED, 17_892, PRIORITY, "priority"),  # 5, 0.50, 30
    Case("responses", "openai", "gpt-5.4-mini", CACHED, 5_368, PRIORITY, "priority"),  # 1.50, 0.15, 9: 5,367.6
    Case("responses", "openai", "gpt-5.2", CACHED, 16_025, PRIORITY, "priority"),  # 3.50, 0.35, 28: 16,024.4
    Case("responses", "openai", "gpt-5.1", CACHED, 11_446, PRIORITY, "priority"),  # 2.50, 0.25, 20
    Case("chat", "openai", "gpt-5", chat(1500, 500, cached=1024, thought=300), 11_446, PRIORITY, "priority"),
    Case("chat", "openai", "gpt-5-mini", chat(1500, 500, cached=1024), 2_061, PRIORITY, "priority"),  # 0.45, 0.045, 3.60
    Case("chat", "openai", "gpt-4.1", chat(1500, 500, cached=1024), 9_562, PRIORITY, "priority"),  # 3.50, 0.875, 14
    # ---- Anthropic: cached tokens beside the input, by age; thinking inside the output
    Case("messages", "anthropic", "claude-opus-4-6", WRITTEN, 25_640, CLAUDE),  # 5, 0.50, 6.25, 10, 25
    Case("messages", "anthropic", "claude-opus-4-5", WRITTEN, 25_640, CLAUDE),
    Case("messages", "anthropic", "claude-sonnet-4-6", WRITTEN, 15_384, CLAUDE),  # 3, 0.30, 3.75, 6, 15
    Case("messages", "anthropic", "claude-sonnet-4-5", WRITTEN, 15_384, CLAUDE),
    Case("messages", "anthropic", "claude-haiku-4-5", WRITTEN, 5_128, CLAUDE),  # 1, 0.10, 1.25, 2, 5
    Case("messages", "anthropic", "claude-opus-5", WRITTEN, 25_640, CLAUDE_MODELS + "opus-5/overview"),
    Case("messages", "anthropic", "claude-opus-5-5", WRITTEN, 20_152, CLAUDE_MODELS + "opus-5-5/overview"),  # 4, 0.20, 5, 8, 20
    Case(
        "messages", "anthropic", "claude-fable-5",
        {"input_tokens": 81, "output_tokens": 1035, "output_tokens_details": {"thinking_tokens": 832}},
        52_560, CLAUDE_MODELS + "opus-5/overview",  # 81 * 10 + 1,035 * 50
    ),
    Case(
        "messages", "anthropic", "claude-sonnet-5", {"input_tokens": 81, "output_tokens": 1035},
        10_512, CLAUDE_MODELS + "opus-5/overview",  # 2 and 10
    ),
    # Half of everything where it is a batch: 81 * 2.50 + 1,035 * 12.50
    Case(
        "messages", "anthropic", "claude-opus-5", {"input_tokens": 81, "output_tokens": 1035},
        13_140, CLAUDE_MODELS + "opus-5/overview", "batch",
    ),
    # ---- Google: by the size of the prompt, sound apart, thoughts as output
    Case("translated", "gemini", "gemini-2.5-pro", FORUM, 113_125, GEMINI),  # 1,500 * 1.25 + 10,000 * 0.125 + 11,000 * 10
    Case("translated", "gemini", "gemini-2.5-pro", chat(200_000, 1000), 260_000, GEMINI),
    Case("translated", "gemini", "gemini-2.5-pro", chat(200_001, 1000), 515_003, GEMINI),  # at 2.50 and 15: 515,002.5
    Case("translated", "gemini", "gemini-2.5-pro", chat(300_000, 100, cached=250_000), 189_000, GEMINI),  # 2.50, 0.25, 15
    Case("translated", "gemini", "gemini-3.1-pro-preview", chat(200_000, 1000), 412_000, GEMINI),  # 2 and 12
    Case("translated", "gemini", "gemini-3.1-pro-preview", chat(200_001, 1000, thought=900), 818_004, GEMINI),  # 4 and 18
    Case("translated", "gemini", "gemini-2.5-flash", chat(1000, 100, heard=400), 830, GEMINI),  # 0.30, sound 1, 2.50
    Case("translated", "gemini", "gemini-2.5-flash-lite", chat(1000, 500), 300, GEMINI),  # 0.10 and 0.40
    Case("translated", "gemini", "gemini-3.5-flash", chat(1000, 500, thought=300), 6_000, GEMINI),  # 1.50 and 9
    Case("translated", "gemini", "gemini-3.5-flash-lite", chat(1000, 500, heard=400), 1_550, GEMINI),  # 0.30, sound too, and 2.50
    Case("translated", "gemini", "gemini-3.8-flash", chat(1000, 500), 2_625, GEMINI),  # 0.75 and 3.75 until the end of 2026
    Case("chat", "gemini", "gemini-embedding-2", texts(1000), 200, GEMINI),  # 0.20
    # ---- xAI: long prompts begin at 200,000 tokens, not behind them
    Case("chat", "xai", "grok-4.7", XAI_CACHED, 391, XAI),  # 27 * 2 + 98 * 0.50 + 48 * 6
    Case("chat", "xai", "grok-4.5", XAI_CACHED, 372, XAI),  # 2, 0.30, 6: 371.4
    Case("chat", "xai", "grok-4.3", XAI_CACHED, 174, XAI),  # 1.25, 0.20, 2.50: 173.35
    Case("chat", "xai", "grok-build-0.1", XAI_CACHED, 143, XAI),  # 1, 0.20, 2: 142.6
    Case("chat", "xai", "grok-4.3", XAI_THOUGHT, 298, XAI),  # 32 * 1.25 + (9 + 94) * 2.50 = 297.5
    Case("chat", "xai", "grok-4.6", chat(199_999, 1000), 405_998, XAI),
    Case("chat", "xai", "grok-4.6", chat(200_000, 1000), 812_000, XAI),  # 4 and 12
    # A tenth more at the address of the United States: 391 and 39.1
    Case("chat", "xai", "grok-4.6", XAI_CACHED, 431, "https://docs.x.ai/developers/advanced-api-usage/regions", region="us"),
    Case("chat", "xai", "grok-4.3", chat(250_000, 1000, cached=200_000), 210_000, XAI),  # 50,000 * 2.50 + 200,000 * 0.40 + 5,000
    # ---- DeepSeek, by day: cache hits in a field of their own
    Case("chat", "deepseek", "deepseek-v4-pro", HIT, 1_296, DEEPSEEK),  # 360 * 1.32 + 640 * 0.044 + 200 * 3.96 = 1,295.36
    Case("chat", "deepseek", "deepseek-flash", HIT, 352, DEEPSEEK),  # 0.30, 0.006, 1.20: 351.84
]  # fmt: skip


SEARCH: Final = {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}}
PAGE: Final = {"type": "web_search_call", "status": "completed", "action": {"type": "open_page", "url": "https://example.com/"}}
FILES: Final = {"type": "file_search_call", "status": "completed", "queries": ["x"]}
CODE: Final = {"type": "code_interpreter_call", "status": "completed", "container_id": "cntr_1"}


def called(usage: dict[str, Any], tool: dict[str, Any], *items: dict[str, Any]) -> dict[str, Any]:
    """An answer with calls of one of OpenAI's tools."""
    return {"usage": usage, "tool": tool, "output": list(items)}


WEB: Final = {"type": "web_search"}
PREVIEW: Final = {"type": "web_search_preview"}
CONTAINER: Final = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}}
FORUM_TOOLS: Final = "https://community.openai.com/t/1347529"
CASES += [
    # ---- OpenAI's tools, beside the tokens: $10 for a thousand searches, opening a page is none; 8,946 as above
    Case("tools", "openai", "gpt-5.4", called(CACHED, WEB, SEARCH, PAGE, SEARCH), 28_946, OPENAI),
    Case("tools", "openai", "gpt-4.1", called(responses(347, 540), WEB, SEARCH), 15_014, OPENAI),  # 694 + 4,320 + 10,000
    # ---- the preview: $10 where the model reasons, else $25; the second as a user of it has worked it out, $0.026003
    Case("tools", "openai", "gpt-5-mini", called(responses(13_102, 1_060, cached=8_448), PREVIEW, SEARCH), 13_495, FORUM_TOOLS),
    Case("tools", "openai", "gpt-4.1-mini", called(responses(347, 540), PREVIEW, SEARCH), 26_003, FORUM_TOOLS),
    Case("tools", "openai", "gpt-4o", called(responses(100, 100), PREVIEW, SEARCH), 26_250, OPENAI),  # 250 + 1,000
    # ---- $2.50 for a thousand searches of files; $0.12 for a container of four gigabytes, however often it is used
    Case("tools", "openai", "gpt-5.4", called(CACHED, {"type": "file_search", "vector_store_ids": ["v"]}, FILES), 11_446, OPENAI),
    Case("tools", "openai", "gpt-5.4", called(CACHED, CONTAINER, CODE, CODE), 128_946, OPENAI),
    Case(
        "tools", "openai", "gpt-5.4", called(CACHED, {"type": "code_interpreter", "container": {"type": "auto"}}, CODE),
        38_946, OPENAI,  # $0.03
    ),
    # ---- Anthropic's: $10 for a thousand; 105 * 3 + 7,123 * 0.30 + 7,345 * 3.75 + 6,039 * 15 = 120,580.65
    Case(
        "searched", "anthropic", "claude-sonnet-4-5",
        {
            "input_tokens": 105, "output_tokens": 6039, "cache_read_input_tokens": 7123, "cache_creation_input_tokens": 7345,
            "server_tool_use": {"web_search_requests": 1},
        },
        130_581, CLAUDE,
    ),
    # ---- a chat of a model that searches for every request
    Case("chat", "openai", "gpt-4o-mini-search-preview", chat(1000, 500), 25_450, OPENAI, "search_high"),  # 150 + 300
    Case("chat", "perplexity", "sonar", chat(1000, 100), 13_100, "https://docs.perplexity.ai/guides/pricing", "search_high"),
]  # fmt: skip


def measured(case: Case, rates: Rates) -> Usage:
    """The usage through the gateway's mapping of its dialect; nothing may be wrong with it."""
    deployment = Deployment(id="x", provider=case.provider, model=case.model, api_base="", api_key="")
    read: Any = None
    request: Any
    match case.dialect:
        case "chat" | "responses":
            read = read_usage(case.usage, cached_inside=True)
        case "translated":
            read = read_usage(usage_of(case.usage) or {}, cached_inside=True)
        case "messages":
            read = read_messages_usage(case.usage)
        case "searched":
            request = SimpleNamespace(units=(("web_searches", 1),))
            counted = read_messages_usage(case.usage)
            assert counted is not None
            read = messages_tools.with_told(counted, case.usage, request)
        case "tools":
            calls = responses_tools.tool_calls({}, [(0, case.usage["tool"])])
            assert calls is not None
            calls.number = 5
            request = SimpleNamespace(calls=calls, units=calls.units())
            told = {**case.usage["usage"], responses_tools.CALLS: responses_tools.calls_in(case.usage["output"])}
            counted = read_usage(told, cached_inside=True)
            assert counted is not None
            read = responses_tools.with_told(counted, told, request)
        case "images":
            request = SimpleNamespace(kept=None)
            read = Generations(lambda _: rates, bool).read({"usage": case.usage, "made": 1}, request, deployment)
        case "heard":
            request = SimpleNamespace(kept=SimpleNamespace(form="json", seconds=None, seconds_most=60))
            read = Transcriptions(lambda _: rates, bool).read({"usage": case.usage, "text": "hello"}, request, deployment)
        case "spoken":
            request = SimpleNamespace(kept=SimpleNamespace(characters=case.usage, text="", seconds_most=60))
            read = Speech(lambda _: rates, bool).read({"usage": None, "nanos": None}, request, deployment)
    assert read is not None
    usage, flags = read
    assert flags == ()
    assert isinstance(usage, Usage)
    return usage


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.micro}")
def test_a_published_price_is_charged_to_the_micro_unit(case: Case) -> None:
    found = shipped(case.provider, case.model, case.region)
    assert found is not None
    assert found.rates is not None, found.unpriced
    assert not case.tier or found.rates.has_variant(case.tier)
    rates = found.rates.variant(case.tier)
    assert rates.price(measured(case, rates)) == case.micro, case.source


def test_every_case_has_a_page_of_its_provider_and_they_are_of_every_kind() -> None:
    assert len(CASES) >= 40
    assert all(case.source.startswith("https://") for case in CASES)
    kinds: set[str] = set()
    for case in CASES:
        found = shipped(case.provider, case.model)
        assert found is not None
        assert found.rates is not None
        usage = measured(case, found.rates)
        kinds |= {kind for kind in Usage.__struct_fields__ if getattr(usage, kind)}
    assert kinds == set(Usage.__struct_fields__) - {"searches"}  # no provider's page that says what one costs was to be had

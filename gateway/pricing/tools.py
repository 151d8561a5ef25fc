"""What providers take for tools that run on their own servers, besides the tokens, in the kinds of `core.units`.

litellm's list names the price of a search of some models, of OpenAI's older tool where its two differ, and not those of file
search; so what a provider publishes for all of its models stands here. What is of none of these providers has a price where the
configuration names one.

Sources: OpenAI's page of prices ("Built-in tools": web search 10 USD for a thousand calls on all models, its preview 10 on
models that reason and 25 on others, file search 2.50; a container 0.03 for each gigabyte of 1, 4, 16 or 64 and session of 20
minutes), Anthropic's page of prices (web search 10 USD for a thousand).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from gateway.pricing.media import micro_per_million

_WEB_SEARCH: Final = Decimal("0.01")
_PREVIEW_WITHOUT_REASONING: Final = Decimal("0.025")
_FILE_SEARCH: Final = Decimal("0.0025")
_CONTAINER_GB: Final = Decimal("0.03")
_SIZE: Final = "search_context_size_medium"  # those of OpenAI and Anthropic cost the same at every size
_MODES: Final = ("chat", "responses")
_RESPONSES: Final = "/v1/responses"


def tool_rates(entry: Mapping[str, Any]) -> dict[str, int]:
    """Micro-USD per million, by kind, of one entry of a price list; nothing for a provider whose prices are not known here.

    What the list says of a search stands above what is known here, where it is dearer.
    """
    if entry.get("mode") not in _MODES:
        return {}
    sizes = entry.get("search_context_cost_per_query")
    told = sizes.get(_SIZE) if isinstance(sizes, dict) else None
    listed = told if isinstance(told, Decimal | int) else Decimal(0)
    match entry.get("litellm_provider"):
        case "anthropic":
            found = {"web_searches": max(_WEB_SEARCH, listed)}
        case "openai" if _RESPONSES in (entry.get("supported_endpoints") or (_RESPONSES,)):
            reasons = bool(entry.get("supports_reasoning"))
            found = {
                "web_searches": max(_WEB_SEARCH, listed) if reasons else _WEB_SEARCH,
                "web_searches_preview": max(_WEB_SEARCH if reasons else _PREVIEW_WITHOUT_REASONING, listed),
                "file_searches": _FILE_SEARCH,
                "container_gb": _CONTAINER_GB,
            }
        case _:
            found = {}
    return {kind: micro_per_million(price) for kind, price in found.items()}

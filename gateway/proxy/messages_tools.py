"""Anthropic's own tools in `/v1/messages`: which have a price, and how often they may run.

Sources: Anthropic's guides to web search and web fetch and its page of prices. A search has a fee unless it fails, a fetch costs
the tokens that it brings in; `max_uses` bounds each tool. What else runs at Anthropic (code, later versions of these tools that
run code of their own, servers of others) is billed by the hour, which no answer tells.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.core import limits
from gateway.core.errors import InvalidRequest
from gateway.core.units import Usage
from gateway.metering.messages import web_searches
from gateway.providers.model import MESSAGES, Deployment
from gateway.proxy.allowed_calls import Tool, ToolCalls
from gateway.proxy.surface import Measured, Request
from gateway.proxy.tool_calls import credible, with_calls

KINDS: Final = {"web_search_20250305": "web_searches", "web_fetch_20250910": ""}
MAX_USES: Final = "max_uses"
_CONTEXT_1M: Final = 1_000_000


def tool_calls(body: Mapping[str, Any], *, reads_long: bool) -> ToolCalls | None:
    """What Anthropic's tools among those of a checked request may do; None without any. InvalidRequest.

    `reads_long`: the model may read more than the price list says of it.
    """
    found: list[Tool] = []
    for place, tool in enumerate(body.get("tools") or ()):
        kind = tool.get("type")
        if type(kind) is not str or kind not in KINDS:
            continue
        param = f"tools[{place}]"
        if any(each.type == kind for each in found):
            raise InvalidRequest("a request may name one tool of a kind", param=param)
        most = tool.get(MAX_USES)
        if most is not None and not (type(most) is int and 1 <= most <= limits.TOOL_CALLS_MAX):
            told = f"{MAX_USES} must be a whole number from 1 to {limits.TOOL_CALLS_MAX}"
            raise InvalidRequest(told, param=f"{param}.{MAX_USES}")
        found.append(Tool(kind, f"{param}.type", KINDS[kind], place, most or 0))
    if not found:
        return None
    return ToolCalls(tuple(found), reads_least=_CONTEXT_1M if reads_long else 0, check_served=_check_served)


def _check_served(calls: ToolCalls, deployment: Deployment) -> None:
    if MESSAGES not in deployment.speaks:
        first = calls.tools[0]
        told = f"a tool of the type {first.type!r} is run by Anthropic: {deployment.model} does not have it here"
        raise InvalidRequest(told, param=first.param)


def bounded(body: dict[str, Any], calls: ToolCalls) -> None:
    """Say in a body how often each of the tools may run."""
    for tool in calls.tools:
        body["tools"][tool.place][MAX_USES] = calls.uses(tool)


def with_told(found: Measured, told: Any, request: Request) -> Measured:
    """A count of tokens with the searches that an answer told."""
    if type(told) is not dict:
        return found
    return credible((with_calls(found[0], {"web_searches": web_searches(told)}), found[1]), request)


def searches_in(content: Any) -> int:
    """How many searches stand in the content of an answer, less those that failed."""
    found = 0
    for block in content if type(content) is list else ():
        if type(block) is dict and block.get("type") == "server_tool_use":
            found += block.get("name") == "web_search"
        elif type(block) is dict and block.get("type") == "web_search_tool_result":
            found -= type(block.get("content")) is dict  # an error; results are a list
    return max(0, found)


def completed(told: Any, request: Request, deployment: Deployment, counted: Usage) -> Measured:
    """See `Request.completed`."""
    return with_told((counted, () if told is None else ("usage_unusable",)), told, request)

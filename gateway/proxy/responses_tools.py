"""OpenAI's own tools in `/v1/responses`: which have a price, and how often they ran, by the items of an answer.

Sources: OpenAI's reference of responses (`max_tool_calls` counts the calls of all built-in tools) and its guides to the tools:
of what `web_search_call` can be, `search` alone has a fee; web search reads no more than 128,000 tokens whatever the model does;
a container is one session however many calls run in it.
"""

from collections.abc import Sequence
from typing import Any, Final

from gateway.core import limits
from gateway.core.errors import InvalidRequest
from gateway.core.units import Usage
from gateway.metering.usage import IMAGE_TOKENS_MAX
from gateway.pricing.rates import short_of
from gateway.providers.model import RESPONSES, Deployment
from gateway.proxy import wire
from gateway.proxy.allowed_calls import Tool, ToolCalls
from gateway.proxy.surface import Measured, Request
from gateway.proxy.tool_calls import credible, with_calls

CALLS: Final = "\0calls"  # beside the usage that an answer told: how often each type of item is in it
MAX_CALLS: Final = "max_tool_calls"
CONTAINER: Final = "container_gb"
_FREE_ACTIONS: Final = ("find_in_page", "open_page")
_SEARCHES_THE_WEB: Final = "web_search_call"
_RUNS_CODE: Final = "code_interpreter_call"
_SEARCHES_FILES: Final = "file_search_call"
ITEMS: Final = frozenset((_SEARCHES_THE_WEB, _RUNS_CODE, _SEARCHES_FILES))
_KINDS: Final = {
    "web_search": "web_searches",
    "web_search_2025_08_26": "web_searches",
    "web_search_preview": "web_searches_preview",
    "web_search_preview_2025_03_11": "web_searches_preview",
    "file_search": "file_searches",
    "code_interpreter": CONTAINER,
}
_ALLOWED: Final = "allowed_tools"
_CALLERS: Final = ("custom", "function", "namespace")  # what a choice may name of the caller's own
_WEB: Final = ("web_searches", "web_searches_preview")
_MEMORY_GB: Final = {None: 1, "1g": 1, "4g": 4, "16g": 16, "64g": 64}
_WEB_SEARCH_READS_MOST: Final = 128_000
_DEFINITION_TOKENS: Final = IMAGE_TOKENS_MAX  # what a tool's definition adds unseen: some hundreds to some thousands
_BOUND_BY: Final = frozenset(("openai", "azure"))  # who is known to keep `max_tool_calls`
_STORES_MAX: Final = 100


def tool_calls(body: dict[str, Any], tools: Sequence[tuple[int, Any]]) -> ToolCalls | None:
    """What the tools (with their places) that the caller does not run itself may do; None without any. InvalidRequest."""
    found: list[Tool] = []
    container_gb, reads_most = 0, _WEB_SEARCH_READS_MOST
    for place, tool in tools:
        param = f"tools[{place}]"
        kind = _KINDS.get(tool["type"]) if type(tool.get("type")) is str else None
        if kind is None:
            raise InvalidRequest(f"a tool of the type {str(tool.get('type'))[:64]!r} has no price here", param=param)
        if any(each.kind == kind or (kind in _WEB and each.kind in _WEB) for each in found):
            raise InvalidRequest("a request may name one tool of a kind", param=param)
        if kind == CONTAINER:
            container_gb = _memory_gb(tool.get("container"), param)
        if kind == "file_searches":
            _check_stores(tool.get("vector_store_ids"), param)
        if kind not in _WEB or tool.get("return_token_budget") not in (None, "default"):
            reads_most = 0
        found.append(Tool(tool["type"], param, kind, place))
    if not found:
        return None
    asked = wire.whole(body, MAX_CALLS, 1, limits.TOOL_CALLS_MAX, 0)
    unseen = _DEFINITION_TOKENS * len(found)
    made = ToolCalls(tuple(found), asked, together=True, container_gb=container_gb, reads_most=reads_most, unseen=unseen)
    searching = [tool for _, tool in tools if _KINDS[tool["type"]] == "file_searches"]
    made.stores = tuple(store for tool in searching for store in tool["vector_store_ids"])
    return made


def check_choice(choice: Any, calls: ToolCalls | None) -> None:
    """InvalidRequest where `tool_choice` names a tool of the provider's that is not among those of the request."""
    if type(choice) is not dict:
        return
    kinds = set() if calls is None else {each.kind for each in calls.tools}
    chosen = choice.get("tools") if choice.get("type") == _ALLOWED else [choice]
    for each in chosen if type(chosen) is list else ():
        kind = each.get("type") if type(each) is dict else None
        if type(kind) is str and kind not in _CALLERS and _KINDS.get(kind) not in kinds:
            told = f"there is no tool of the type {kind[:64]!r} among those of this request"
            raise InvalidRequest(told, param="tool_choice")


def _memory_gb(container: Any, param: str) -> int:
    given = {name for name, value in container.items() if value not in (None, [])} if type(container) is dict else set()
    if not given <= {"type", "memory_limit"} or "type" not in given or container["type"] != "auto":
        told = "what the provider keeps (containers, files, skills) is not taken here, only a container of the type auto"
        raise InvalidRequest(told, param=f"{param}.container")
    memory = container.get("memory_limit")
    if not (memory is None or type(memory) is str) or memory not in _MEMORY_GB:
        raise InvalidRequest("memory_limit is one of 1g, 4g, 16g and 64g", param=f"{param}.container.memory_limit")
    return _MEMORY_GB[memory]


def _check_stores(given: Any, param: str) -> None:
    if type(given) is not list or not 0 < len(given) <= _STORES_MAX or not all(type(each) is str for each in given):
        raise InvalidRequest("vector_store_ids is a list of ids", param=f"{param}.vector_store_ids")


def check_served(calls: ToolCalls, deployment: Deployment, *, own_account: bool) -> None:
    """InvalidRequest where a deployment cannot be asked for such calls. `own_account`: all that is in it is the creator's."""
    first = calls.tools[0]
    if RESPONSES not in deployment.speaks or deployment.provider not in _BOUND_BY:
        told = f"a tool of the type {first.type!r} is run by OpenAI: {deployment.model} does not have it here"
        raise InvalidRequest(told, param=first.param)
    foreign = [] if own_account else [store for store in calls.stores if store not in deployment.vector_stores]
    if foreign:
        tool = next(each for each in calls.tools if each.kind == "file_searches")
        told = f"There is no vector store {foreign[0][:64]!r} here."
        raise InvalidRequest(told, param=f"{tool.param}.vector_store_ids")


def calls_in(output: Any) -> dict[str, int]:
    """How often each type of item stands in the output of an answer, begun ones too; of containers how many there are."""
    found: dict[str, int] = {}
    containers: set[str] = set()
    for item in output if type(output) is list else ():
        kind = item.get("type") if type(item) is dict else None
        if type(kind) is not str or kind not in ITEMS:
            continue
        if kind == _RUNS_CODE:
            containers.add(str(item.get("container_id")))
            found[kind] = len(containers)
        elif item.get("status") != "failed" and (kind != _SEARCHES_THE_WEB or _searches(item.get("action"))):
            found[kind] = found.get(kind, 0) + 1
    return found


def _searches(action: Any) -> bool:
    """Whether it has a fee. What does not say what it did, or something that nobody here knows, has searched."""
    return type(action) is not dict or action.get("type") not in _FREE_ACTIONS


def with_told(found: Measured, told: Any, request: Request) -> Measured:
    """A count of tokens with the calls that an answer told, at their fees."""
    calls, seen = request.calls, told.get(CALLS) if type(told) is dict else None
    if calls is None or not seen:
        return found
    kinds = {each.kind for each in calls.tools}
    web = "web_searches" if "web_searches" in kinds else "web_searches_preview"
    units = {
        web: seen.get(_SEARCHES_THE_WEB, 0),
        "file_searches": seen.get(_SEARCHES_FILES, 0),
        CONTAINER: calls.container_gb * seen.get(_RUNS_CODE, 0),
    }
    # Where a tool was called, no prompt was longer than the window, unless they add up to more than so many could.
    turns = 1 + sum(seen.values())
    request.variant = short_of(calls.window if found[0].input_total <= turns * calls.window else calls.longest)
    return credible((with_calls(found[0], units), found[1]), request)


def completed(told: Any, request: Request, deployment: Deployment, counted: Usage) -> Measured:
    """See `Request.completed`."""
    is_usage = told is not None and (type(told) is not dict or told.keys() != {CALLS})
    return with_told((counted, ("usage_unusable",) if is_usage else ()), told, request)

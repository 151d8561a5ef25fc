"""Anthropic's surface: `/v1/messages`, on any model.

The exchange and the metering see Anthropic's dialect whatever serves the request: a deployment that does not speak it is asked
by way of `providers.messages_over_chat`. `max_tokens` is required here as it is there, so a hold covers all of the answer
from its start. What has a fee that no price here counts is refused by its name; of Anthropic's own tools those of
`messages_tools` have one.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core import limits
from gateway.core.errors import InvalidRequest
from gateway.identity.model import Principal
from gateway.metering.messages import (
    is_provider_defined,
    messages_bound,
    messages_prompt,
    read_messages_usage,
    tells_searches,
    with_searches,
)
from gateway.providers.model import MESSAGES, Deployment, Headers, Reply
from gateway.proxy import anthropic_errors, messages_tools, wire
from gateway.proxy.chat import OTHER_FEES
from gateway.proxy.messages_stream import MessageStream
from gateway.proxy.routes import Line
from gateway.proxy.surface import Measured, Request, Surface
from gateway.proxy.ticket import Call, Ticket
from gateway.proxy.told_errors import check_answered

_THINKING_TOKENS_MIN: Final = 1024  # Anthropic's least budget
_ROLES: Final = ("assistant", "system", "user")
# Tools of Anthropic's that the caller runs.
_CLIENT_TOOL: Final = re.compile(r"(bash|browser_toolset|computer|computer_toolset|memory|text_editor)_\d{8}")
_CLEARS: Final = re.compile(r"clear_(thinking|tool_uses)_\d{8}")  # edits of the context that make no answer of their own
# Another model or server than was asked for, or fees a call.
_OTHER_FEES: Final = ("advisor", "container", "fallback", "fallback_credit", "fallbacks", "mcp_servers")
_ONE_PRICE: Final = {
    "inference_geo": (None, "global"), "service_tier": (None, "auto", "standard_only"), "speed": (None, "standard"),
}  # fmt: skip
_OTHER_DIALECTS: Final = ("best_of", "input", "max_completion_tokens", "n", "prompt", "use_beam_search")
_VERSION: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_BETA: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
_BETAS_MAX: Final = 32
_LONG_CONTEXT: Final = "context-1m-"
_PRICED_BETAS: Final = ("web-fetch-2025-09-10", "web-search-2025-03-05")  # of the tools that have a price here
# Betas that let a request cost what no price here counts.
_UNPRICED_BETAS: Final = re.compile(
    r"(advisor-tool|agent-memory|code-execution|compact|fallback-credit|fast-mode|managed-agents|mcp-client|mcp-tunnels"
    r"|server-side-fallback|skills|web-fetch|web-search)-.*"
)


_SEARCH_RESULT: Final = b"web_search_tool_result"
_BODY_BETAS: Final = "anthropic_beta"  # where some servers of this dialect take them from


def _is_unpriced(beta: str) -> bool:
    return beta not in _PRICED_BETAS and _UNPRICED_BETAS.fullmatch(beta) is not None


class _Answer(msgspec.Struct):
    usage: Any = None
    error: Any = None


_decode_answer: Final = msgspec.json.Decoder(_Answer, float_hook=wire.read_float).decode


class Messages:
    """`/v1/messages`; see `surface.Surface`. One for each set of `anthropic-` headers that clients send."""

    path = MESSAGES
    error_body = staticmethod(anthropic_errors.error_body)
    error_event = staticmethod(anthropic_errors.error_event)

    def __init__(self, version: str = "", betas: str = "") -> None:
        """`version` and `betas` are the headers of a client, which go on to a server that speaks this dialect."""
        self._betas = tuple(filter(None, map(str.strip, betas.split(","))))
        self._version = version.strip()
        self._reads_long = any(beta.startswith(_LONG_CONTEXT) for beta in self._betas)

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        headers = self.passed_on()
        body = wire.read_body(raw, content_type)
        model = wire.read_model(body)
        check_prompt(body)
        if body.get("max_tokens") is None:
            raise InvalidRequest("max_tokens is required", param="max_tokens")
        cap = wire.whole(body, "max_tokens", 0, limits.OUTPUT_TOKENS_MAX, 0)
        streamed = body.get("stream")
        if streamed is not None and type(streamed) is not bool:
            raise InvalidRequest("stream must be true or false", param="stream")
        thinking = body.get("thinking")
        # Thoughts are shown in part, or as a summary, and paid for in whole.
        shows = bool(streamed) and (thinking is None or (type(thinking) is dict and thinking.get("type") == "disabled"))
        request = Request(self, body, len(raw), model, bool(streamed), False, cap, 1, shows, headers=headers)
        calls = messages_tools.tool_calls(body, reads_long=self._reads_long) if body.get("tools") else None
        if calls is not None:
            request.calls, request.units, request.completed = calls, calls.units(), messages_tools.completed
            request.placed, request.shows = calls.placed, False
        return request

    def passed_on(self) -> Headers:
        """The headers for a server of this dialect; InvalidRequest."""
        headers: list[tuple[str, str]] = []
        if self._version:
            if not _VERSION.fullmatch(self._version):
                raise InvalidRequest("anthropic-version must be a date such as 2023-06-01", param="anthropic-version")
            headers.append(("anthropic-version", self._version))
        if len(self._betas) > _BETAS_MAX or not all(map(_BETA.fullmatch, self._betas)):
            raise InvalidRequest(f"anthropic-beta must be at most {_BETAS_MAX} names of betas", param="anthropic-beta")
        for beta in self._betas:
            if _is_unpriced(beta):
                raise InvalidRequest(f"{beta} has no price here", param="anthropic-beta")
        if self._betas:
            headers.append(("anthropic-beta", ",".join(self._betas)))
        return tuple(headers)

    def bound(self, request: Request, deployment: Deployment) -> int:
        """The strict bound, or all that the model can read."""
        bound = messages_bound(request.body, request.body_bytes, deployment.model)
        most = deployment.input_tokens_max
        if most is not None and bound > most and not self._reads_long:
            bound = most
        return bound if request.calls is None else bound + request.calls.tokens

    def most(self, request: Request, deployment: Deployment) -> int:
        """As the client caps it; 0 asks only for the prompt to be cached."""
        assert request.output_cap is not None
        return request.output_cap

    def prompt(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """As a chat, which the counter knows."""
        return messages_prompt(body)

    def outgoing(self, request: Request, deployment: Deployment, cap: int | None) -> bytes:
        """The deployment's model name, and the output cap where the hold needs one; thinking must stay below it."""
        body = request.body
        body["model"] = deployment.model
        if cap is not None:
            body["max_tokens"] = cap
            thinking = body.get("thinking")
            if type(thinking) is dict and type(thinking.get("budget_tokens")) is int and cap > _THINKING_TOKENS_MIN:
                thinking["budget_tokens"] = min(thinking["budget_tokens"], cap - 1)
        if request.calls is not None:
            messages_tools.bounded(body, request.calls)
        return wire.encode_json(body)

    def streams(self, request: Request, reply: Reply) -> bool:
        """A stream that was asked for."""
        return request.streamed and reply.content_type.startswith(b"text/event-stream")

    def stream(self, request: Request, reply: Reply) -> MessageStream:
        """Events as Anthropic has them."""
        return MessageStream(counts_calls=request.calls is not None)

    def told(self, body: bytes) -> Any:
        """`usage`; None where it counts nothing at all. Searches that it does not count are counted in the content."""
        answer = _decode_answer(body)
        if answer.error:
            check_answered(body)
        usage = answer.usage
        if type(usage) is dict and not any(usage.values()):
            usage = None
        if _SEARCH_RESULT in body and (usage is None or (type(usage) is dict and not tells_searches(usage))):
            searches = messages_tools.searches_in(wire.decode_json(body).get("content"))
            return with_searches(usage, searches) if searches else usage
        return usage

    def text(self, body: bytes) -> str:
        """All that was generated: texts, thoughts, and the calls of tools."""
        answer = wire.decode_json(body)
        content = answer.get("content") if type(answer) is dict else None
        return "".join(map(_block_text, content if type(content) is list else ()))

    def measured(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """Cached tokens lie beside the input in this dialect, whatever the deployment says of its own."""
        read = read_messages_usage(told) if isinstance(told, dict) else None
        return read if read is None or request.calls is None else messages_tools.with_told(read, told, request)

    def returned(self, request: Request, body: bytes) -> bytes:
        """As the upstream wrote it."""
        return body


def _block_text(block: Any) -> str:
    if type(block) is not dict:
        return ""
    texts = [block.get("name"), block.get("text"), block.get("thinking")]
    if "input" in block:
        texts.append(wire.encode_json(block["input"]).decode())
    return "".join(text for text in texts if type(text) is str)


def check_prompt(body: dict[str, Any]) -> None:
    """What all requests with messages have in common; InvalidRequest names the field."""
    messages = body.get("messages")
    if type(messages) is not list or not 0 < len(messages) <= limits.MESSAGES_MAX:
        raise InvalidRequest(f"messages must be a list of 1 to {limits.MESSAGES_MAX} messages", param="messages")
    for index, message in enumerate(messages):
        if type(message) is not dict or message.get("role") not in _ROLES:
            raise InvalidRequest("a message is an object with the role user or assistant", param=f"messages[{index}]")
        if type(message.get("content")) not in (str, list):
            raise InvalidRequest("content must be a string or a list of blocks", param=f"messages[{index}].content")
    for field in _OTHER_DIALECTS:
        if field in body:
            raise InvalidRequest(f"{field} has no meaning on this endpoint", param=field)
    _check_price_known(body)


def _check_price_known(body: dict[str, Any]) -> None:
    """A request is never run at a price that its hold does not cover."""
    for field in _OTHER_FEES:
        if body.get(field):
            raise InvalidRequest(f"{field} has no price here", param=field)
    for field in OTHER_FEES:
        if body.get(field) not in (None, False):
            raise InvalidRequest(f"{field} has no price here", param=field)
    _check_body_betas(body.get(_BODY_BETAS))
    for field, priced in _ONE_PRICE.items():
        if field in body and body[field] not in priced:
            raise InvalidRequest(f"{field} may be {priced[-1]}: anything else has no price here", param=field)
    tools = body.get("tools")
    if tools is not None and type(tools) is not list:
        raise InvalidRequest("tools must be a list", param="tools")
    for place, tool in enumerate(tools or ()):
        if type(tool) is not dict:
            raise InvalidRequest("a tool is an object", param=f"tools[{place}]")
        kind = tool.get("type")
        is_known = type(kind) is str and (kind in messages_tools.KINDS or _CLIENT_TOOL.fullmatch(kind) is not None)
        if is_provider_defined(tool) and not is_known:
            raise InvalidRequest(f"a tool of the type {str(tool['type'])[:64]!r} has no price here", param=f"tools[{place}].type")
    managed = body.get("context_management")
    edits = managed.get("edits") if type(managed) is dict else None
    for place, edit in enumerate(edits if type(edits) is list else ()):
        kind = edit.get("type") if type(edit) is dict else None
        if type(kind) is not str or not _CLEARS.fullmatch(kind):
            param = f"context_management.edits[{place}].type"
            raise InvalidRequest("an edit of another type than clear_tool_uses or clear_thinking has no price here", param=param)


def _check_body_betas(betas: Any) -> None:
    for beta in betas if type(betas) is list else () if betas is None else (betas,):
        if type(beta) is not str or not _BETA.fullmatch(beta) or _is_unpriced(beta) or beta.startswith(_LONG_CONTEXT):
            raise InvalidRequest(f"betas are taken in the header anthropic-beta: {str(beta)[:64]!r}", param=_BODY_BETAS)


class WithAnthropicHeaders:
    """Hands requests on with what their `anthropic-` headers say, and gives answers the header that the clients look for."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def run(self, call: Call, surface: Surface, principal: Principal) -> Ticket | None:
        """As `Line.run`; `surface` is what renders errors."""
        call.extra_headers += [(b"request-id", call.request_id.encode())]
        return await self._line.run(call, surface_of(call.headers), principal)


def surface_of(headers: Mapping[bytes, bytes]) -> Messages:
    """The surface for a request with these headers."""
    version, betas = (headers.get(name, b"").decode("latin-1") for name in (b"anthropic-version", b"anthropic-beta"))
    return Messages(version, betas) if version or betas else _PLAIN


_PLAIN: Final = Messages()

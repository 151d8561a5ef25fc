"""OpenAI's `/v1/responses`: requests, whole answers, and whose they are.

What has no price here is refused with 400 and its name: work in the background, stored prompts and conversations, files that
the provider keeps, tools of the provider's own without a fee in the price (`responses_tools`). Items of the input are sent
without their ids, because an id alone refers to what is stored under the provider's account, which all apps share; a reasoning
item that says nothing besides is left out, and so are calls of the provider's own tools in earlier answers.

A response that the provider stored is known to its owner alone, by an id of ours (`response_ids`). A follow-up of one goes to
the deployment that has it, and is held for all that the model can read: its prompt is not in the request.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from gateway.core import limits
from gateway.core.errors import GatewayError, InvalidRequest, NotFound, PaymentRequired
from gateway.core.units import Usage
from gateway.identity.model import Principal
from gateway.metering.responses_prompt import PROMPT_FIELD, added_bytes, as_chat
from gateway.metering.usage import UNBOUNDED_PART_TOKENS, input_bound, read_usage
from gateway.pricing.rates import PLAIN
from gateway.providers.model import RESPONSES, Deployment, Reply, Route
from gateway.proxy import responses_tools, wire
from gateway.proxy.allowed_calls import ToolCalls
from gateway.proxy.chat import OUTPUT_TOKENS_DEFAULT, check_price_known, shows_all
from gateway.proxy.exchange import Exchange
from gateway.proxy.own_keys import is_on_own_keys
from gateway.proxy.ports import Gate
from gateway.proxy.response_ids import Owner, OwnNames, ResponseIds, Stored
from gateway.proxy.responses_stream import (
    NOTHING_USED,
    ResponsesStream,
    cleaned_error,
    decode_fields,
    error_event,
    texts_in,
)
from gateway.proxy.responses_tools import CALLS, MAX_CALLS, calls_in, check_served, with_told
from gateway.proxy.surface import Measured, Request, Surface
from gateway.proxy.ticket import Call, Ticket
from gateway.proxy.told_errors import check_answered

OUTPUT_TOKENS_LEAST: Final = 16  # OpenAI's own: it refuses a lower cap
PREVIOUS: Final = "previous_response_id"
FindDeployment = Callable[[str], Deployment | None]

_NO_PRICE: Final = ("background", "context_management", "conversation", "moderation", "prompt")
_NO_MEANING: Final = ("best_of", "functions", "max_completion_tokens", "max_tokens", "messages", "n")
_REFUSED: Final = frozenset((*_NO_PRICE, *_NO_MEANING))
_OWN_TOOLS: Final = frozenset(("function", "custom"))  # what the caller runs
_NAME_CHARS_MAX: Final = 64  # OpenAI's own; a namespace's name counts again for each of its tools
_ITEMS: Final = frozenset(
    ("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning")
)


class _Answer(msgspec.Struct):
    usage: Any = None
    status: Any = None
    output: Any = None
    error: Any = None


_decode_answer: Final = msgspec.json.Decoder(_Answer, float_hook=wire.read_float).decode


class Responses:
    """`/v1/responses` for one caller and one request, whose deployment it remembers from `outgoing` to the answer.

    Without a principal it only says what errors look like.
    """

    path = RESPONSES
    error_body = staticmethod(wire.error_body)
    error_event = staticmethod(error_event)

    def __init__(
        self,
        ids: ResponseIds,
        gate: Gate,
        find: FindDeployment,
        principal: Principal | None = None,
        headers: dict[bytes, bytes] | None = None,
    ) -> None:
        self._ids = ids
        self._gate = gate
        self._find = find
        self._principal = principal
        self._headers = headers or {}
        self._owner: Owner | None = None
        self._follows: tuple[Stored, str] | None = None  # and how the client wrote it
        self._deployment: Deployment | None = None

    def of(self, principal: Principal, headers: dict[bytes, bytes]) -> "Responses":
        """For one request of this caller."""
        return Responses(self._ids, self._gate, self._find, principal, headers)

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`; NotFound `response_not_found` too."""
        body = wire.read_body(raw, content_type)
        model = wire.read_model(body)
        _check_fields(body)
        calls = _tools(body)
        assert self._principal is not None
        self._owner = Owner.of(self._principal, self._gate.resolve_end_user(self._principal, self._headers, body))
        self._follows = self._previous(body, self._owner)
        _check_input(body, needed=self._follows is None)
        streamed = body.get("stream")
        if streamed is not None and type(streamed) is not bool:
            raise InvalidRequest("stream must be true or false", param="stream")
        cap = wire.whole(body, "max_output_tokens", OUTPUT_TOKENS_LEAST, limits.OUTPUT_TOKENS_MAX, 0) or None
        follows = self._follows is not None
        shows = bool(streamed) and not follows and shows_all(body)  # a prompt that is not here is paid for, and does not show
        placed = self._placed if follows else None
        request = Request(self, body, len(raw), model, bool(streamed), False, cap, 1, shows and calls is None, placed=placed)
        if calls is not None:
            own_account = is_on_own_keys(self._principal)
            calls.check_served = partial(check_served, own_account=own_account)
            request.calls, request.units, request.completed = calls, calls.units(), responses_tools.completed
            request.placed = placed or calls.placed
        return request

    def bound(self, request: Request, deployment: Deployment) -> int:
        """The strict bound of what is here, and of what is stored all that the model can read."""
        bound = input_bound(as_chat(request.body), request.body_bytes, PROMPT_FIELD, deployment.model)
        bound += added_bytes(request.body)
        if self._follows is not None:
            bound += UNBOUNDED_PART_TOKENS
        if deployment.input_tokens_max is not None and bound > deployment.input_tokens_max:
            bound = deployment.input_tokens_max
        if request.calls is None:
            return bound
        return bound + request.calls.tokens

    def most(self, request: Request, deployment: Deployment) -> int:
        """As the client caps it, or the model."""
        return request.output_cap or deployment.output_tokens_max or OUTPUT_TOKENS_DEFAULT

    def prompt(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """In the form of a chat. Of a parsed follow-up it counts more than any model reads; of a raw one only what it says.

        (The first is for holds; the second bills an answer whose provider tells no usage.)
        """
        unseen = self._follows is not None and body.get(PREVIOUS) == self._follows[0].response_id
        return as_chat(body, unseen=unseen), PROMPT_FIELD

    def outgoing(self, request: Request, deployment: Deployment, cap: int | None) -> bytes:
        """The deployment's model name, the output cap where the hold needs one. PaymentRequired where that is below the least."""
        self._deployment = deployment
        body = request.body
        body["model"] = deployment.model
        if cap is not None:
            if cap < OUTPUT_TOKENS_LEAST and RESPONSES in deployment.speaks:
                raise PaymentRequired(f"The balance covers less than {OUTPUT_TOKENS_LEAST} tokens of output, the least here.")
            body["max_output_tokens"] = cap
        if request.calls is not None:
            body[MAX_CALLS] = request.calls.number
        if deployment.names_tier:
            body["service_tier"] = PLAIN  # the only tier with a price here
        return wire.encode_json(body)

    def streams(self, request: Request, reply: Reply) -> bool:
        """A stream that was asked for; some servers answer whole all the same."""
        return request.streamed and reply.content_type.startswith(b"text/event-stream")

    def stream(self, request: Request, reply: Reply) -> ResponsesStream:
        """Typed events."""
        return ResponsesStream(self._names(), counts_calls=request.calls is not None)

    def told(self, body: bytes) -> Any:
        """`usage`, as it stands there, with the calls of tools. An answer that failed before anything was made used nothing."""
        answer = _decode_answer(body)
        if answer.error and answer.status is None:  # a response that failed has a status
            check_answered(body)
        calls = calls_in(answer.output)
        if answer.status == "failed" and type(answer.usage) is not dict and not calls and not texts_in(answer.output):
            return NOTHING_USED
        return {**(answer.usage if type(answer.usage) is dict else {}), CALLS: calls} if calls else answer.usage

    def text(self, body: bytes) -> str:
        """All that was generated."""
        try:
            return "".join(texts_in(_decode_answer(body).output))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return body.decode("utf-8", "replace")

    def measured(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """As `read_usage`; what was written to the provider's cache stands among the details here."""
        if told is NOTHING_USED:
            return Usage(), ("failed_unused",)
        if not isinstance(told, dict):
            return None
        details = told.get("input_tokens_details")
        if isinstance(details, dict) and details.get("cache_write_tokens") and "cache_creation_input_tokens" not in told:
            told = {**told, "cache_creation_input_tokens": details["cache_write_tokens"]}
        read = read_usage(told, deployment.cached_inside)
        return read if read is None or CALLS not in told else with_told(read, told, request)

    def returned(self, request: Request, body: bytes) -> bytes:
        """Under an id of ours."""
        return returned(body, self._names())

    def unfound(self, refused: InvalidRequest) -> GatewayError:
        """A provider that has no longer the response that was to be followed says so with an id of its own."""
        if self._follows is not None and (refused.status == 404 or refused.code == "previous_response_not_found"):
            return not_found(self._follows[1], PREVIOUS)
        return refused

    def _names(self) -> OwnNames:
        assert self._owner is not None
        assert self._deployment is not None
        given = None if self._follows is None else (self._follows[0].response_id, self._follows[1])
        return OwnNames(self._ids, self._owner, self._deployment, given)

    def _previous(self, body: dict[str, Any], owner: Owner) -> tuple[Stored, str] | None:
        text = body.get(PREVIOUS)
        if text is None:
            return None
        stored = self._ids.opened(owner, text) if type(text) is str else None
        if stored is None:
            raise not_found(text if type(text) is str else "", PREVIOUS)
        body[PREVIOUS] = stored.response_id
        return stored, text

    def _placed(self, route: Route) -> Route:
        """Where the response is that this request follows; no other deployment, and no other model, knows of it."""
        assert self._follows is not None
        stored, text = self._follows
        home = self._find(stored.deployment_id)
        if home is None:
            raise not_found(text, PREVIOUS)
        if RESPONSES not in home.speaks:
            raise InvalidRequest(
                f"the model behind {PREVIOUS} keeps no responses: send the conversation as input", param=PREVIOUS
            )
        account = home.api_base, home.api_key
        found = [each for each in route.deployments if each.id == stored.deployment_id] or [
            each for each in route.deployments if RESPONSES in each.speaks and (each.api_base, each.api_key) == account
        ]
        if not found:
            raise InvalidRequest(f"{PREVIOUS} is kept by another provider than this model's", param=PREVIOUS)
        return replace(route, deployments=(found[0],), fallbacks=(), several=found[0].capacity is not None)


class OwnExchange:
    """Runs each request with a surface of its own, which knows the caller."""

    def __init__(self, exchange: Exchange, surface: Responses) -> None:
        self._exchange = exchange
        self._surface = surface

    async def run(self, call: Call, surface: Surface, principal: Principal) -> Ticket | None:
        """As `Exchange.run`."""
        own = self._surface.of(principal, call.headers)
        try:
            return await self._exchange.run(call, own, principal)
        except InvalidRequest as refused:
            raise own.unfound(refused) from refused


def returned(body: bytes, names: OwnNames) -> bytes:
    """A whole response as its owner sees it."""
    try:
        response: dict[str, Any] = names.renamed(dict(decode_fields(body)))
        if response.get("error"):
            cleaned_error(response, names)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body  # it names nothing that could be used
    return wire.encode_json(response)


def not_found(text: str, param: str) -> NotFound:
    """The same for a response that never was and one of somebody else's."""
    return NotFound(f"There is no response {text[:64]!r} here.", code="response_not_found", param=param)


def _check_fields(body: dict[str, Any]) -> None:
    if not _REFUSED.isdisjoint(body):
        for field in _NO_PRICE:
            if body.get(field) not in (None, False, []):
                raise InvalidRequest(f"{field} has no price here", param=field)
        for field in _NO_MEANING:
            if field in body:
                raise InvalidRequest(f"{field} has no meaning on this endpoint", param=field)
    check_price_known({**body, "tools": None})
    if type(body.get("instructions")) not in (str, type(None)):
        raise InvalidRequest("instructions must be a string", param="instructions")


def _tools(body: dict[str, Any]) -> ToolCalls | None:
    """What the provider's own tools among them may do. InvalidRequest."""
    tools = body.get("tools")
    if tools is None:
        tools = []
    if type(tools) is not list:
        raise InvalidRequest("tools must be a list", param="tools")
    providers: list[tuple[int, Any]] = []
    for place, tool in enumerate(tools):
        kind = tool.get("type") if type(tool) is dict else None
        inner = tool.get("tools") if kind == "namespace" else []
        if kind == "namespace" and type(inner) is list:
            name = tool.get("name")
            if type(name) is not str or not 0 < len(name) <= _NAME_CHARS_MAX:
                raise InvalidRequest(f"a namespace has at most {_NAME_CHARS_MAX} characters", param=f"tools[{place}].name")
            kinds = [each.get("type") if type(each) is dict else None for each in inner]
            if not all(type(each) is str and each in _OWN_TOOLS for each in kinds):
                raise InvalidRequest("a namespace holds functions and custom tools", param=f"tools[{place}]")
        elif type(tool) is not dict:
            raise InvalidRequest("a tool is an object", param=f"tools[{place}]")
        elif type(kind) is not str or kind not in _OWN_TOOLS:
            providers.append((place, tool))
    calls = responses_tools.tool_calls(body, providers)
    responses_tools.check_choice(body.get("tool_choice"), calls)
    return calls


def _check_input(body: dict[str, Any], *, needed: bool) -> None:
    """Check the input, and take out of it what refers to what the provider stored."""
    given = body.get("input")
    if given is None and not needed:
        return
    if type(given) not in (str, list) or not given:
        raise InvalidRequest("input must be a string or a list, and not empty", param="input")
    if type(given) is not list:
        return
    if len(given) > limits.MESSAGES_MAX:
        raise InvalidRequest(f"input has more than {limits.MESSAGES_MAX} items", param="input")
    kept = [_checked_item(item, f"input[{place}]") for place, item in enumerate(given) if not _is_call(item)]
    body["input"] = [item for item in kept if item is not None]


def _is_call(item: Any) -> bool:
    """Whether it is a call of the provider's own tools: what it told the model is known to the provider alone."""
    return type(item) is dict and type(item.get("type")) is str and item["type"] in responses_tools.ITEMS


def _names_file(part: Any) -> bool:
    """Whether it refers to a file by its id, itself or in an object in it."""
    inside = [part, *part.values()] if type(part) is dict else []
    return any(type(each) is dict and each.get("file_id") is not None for each in inside)


def _checked_item(item: Any, place: str) -> dict[str, Any] | None:
    """The item without its id; None for reasoning that only the provider's store could tell."""
    kind = item.get("type") or ("message" if "role" in item else None) if type(item) is dict else None
    if type(kind) is not str or kind not in _ITEMS:
        raise InvalidRequest(f"items of this type are not taken here, only {', '.join(sorted(_ITEMS))}", param=place)
    if kind == "message" and type(item.get("role")) is not str:
        raise InvalidRequest("a message is an object with a role", param=place)
    if kind == "reasoning" and not (item.get("encrypted_content") or item.get("content")):
        return None
    for field in ("content", "output"):
        parts = item.get(field)
        for number, part in enumerate(parts if type(parts) is list else (parts,)):
            if _names_file(part):
                raise InvalidRequest(
                    "files that the provider keeps are not taken here", param=f"{place}.{field}[{number}].file_id"
                )
    return {name: value for name, value in item.items() if name != "id"}

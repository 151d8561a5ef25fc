"""Requests as clients write them, and errors as clients read them.

A body is parsed once and sent upstream as it was understood: a body with a key twice
(`{"max_tokens": 1, "max_tokens": 100000}`) would otherwise be priced by one and run by the other.
Fields that are not ours pass through untouched.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain, compress
from typing import Any, Final

import msgspec

from gateway.balance.model import Limit, LimitKind
from gateway.core import limits
from gateway.core.errors import GatewayError, InvalidRequest, UnsupportedMedia
from gateway.core.money import decimal_from_micro
from gateway.core.units import Usage
from gateway.core.words import Level

CHAT: Final = "/chat/completions"
COMPLETIONS: Final = "/completions"
COMPLETION_TOKENS_DEFAULT: Final = 16  # OpenAI's own; said aloud, because other servers default to the whole context
EMBEDDINGS: Final = "/embeddings"
_CAP_FIELDS: Final = ("max_completion_tokens", "max_tokens")
PROMPT_FIELD: Final = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}
_OTHER_FEES: Final = (  # another model or server than was asked for, or fees a call
    "enable_search", "models", "plugins", "preset", "provider", "search_parameters", "web_search_options",
)  # fmt: skip
_OWN_TOOLS: Final = frozenset(("function", "custom"))  # what the caller runs; a provider's tools have fees, and read on
_PRICED_APART: Final = frozenset(("service_tier", "tools", *_OTHER_FEES))
_UNSEEN: Final = frozenset(  # ask for tokens that no event shows, or may
    (
        "audio", "best_of", "chat_template_kwargs", "enable_reasoning", "enable_thinking", "extra_body", "generation_config",
        "google", "include_reasoning", "logit_bias", "max_reasoning_tokens", "modalities", "prediction", "reasoning",
        "reasoning_budget", "reasoning_effort", "reasoning_format", "think", "thinking", "thinking_budget", "thinking_config",
        "use_beam_search",
    )
)  # fmt: skip
_STREAMING: Final = frozenset(("stream", "stream_options"))
_PLAIN_BYTES: Final = 256 * 1024  # below it no body parses into much memory
_OTHER_PROMPTS: Final = {endpoint: {*PROMPT_FIELD.values()} - {field} for endpoint, field in PROMPT_FIELD.items()}


def read_float(text: str) -> float:
    """A decimal of JSON. The decoder's own reading of one like 1e300 takes ten microseconds, and a body can hold millions."""
    value = float(text)
    if value - value:  # not a number, as the difference of two infinities is none
        raise ValueError("a number is out of range")
    return value


class _FewFloats:
    """Reads the decimals of one large body, up to a bound: where there are many, even a fast reading holds everybody up."""

    def __init__(self) -> None:
        self._left = limits.JSON_NODES_MAX

    def __call__(self, text: str) -> float:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it has more than {limits.JSON_NODES_MAX} decimals")
        return read_float(text)


decode_json = msgspec.json.Decoder(float_hook=read_float).decode
encode_json = msgspec.json.Encoder().encode


class Tags(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a request says about itself for analytics."""

    workflow_type: str = ""
    session_id: str = ""
    agent_name: str = ""
    tags: tuple[str, ...] = ()


NO_TAGS: Final = Tags()


class Request(msgspec.Struct):
    """One parsed request. `output_cap` is per choice, None where the client set none."""

    endpoint: str
    body: dict[str, Any]
    body_bytes: int
    model: str
    streamed: bool
    wants_usage: bool
    output_cap: int | None
    choices: int
    shows: bool  # all that it can cost shows in a stream as it is made


def parse(endpoint: str, raw: bytes, content_type: bytes) -> Request:
    """The request, checked as far as money and routing depend on it; InvalidRequest names the field."""
    if content_type and b"json" not in content_type:
        raise UnsupportedMedia("send the request as application/json", param="content-type")
    decode = decode_json
    if len(raw) > _PLAIN_BYTES:
        if raw.count(b"[") + raw.count(b"{") > limits.JSON_NODES_MAX:
            raise InvalidRequest(f"the body has more than {limits.JSON_NODES_MAX} objects and lists")
        decode = msgspec.json.Decoder(float_hook=_FewFloats()).decode
    try:
        body = decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as broken:
        raise InvalidRequest(f"the body is not valid JSON: {broken}") from broken
    if type(body) is not dict:
        raise InvalidRequest("the body must be a JSON object")
    model = body.get("model")
    if type(model) is not str or not 0 < len(model) <= 256 or not model.isprintable() or not model.isascii():
        raise InvalidRequest("model must be a string of 1 to 256 printable ASCII characters", param="model")
    _check_prompt(endpoint, body)
    _check_price_known(body)
    streamed = wants_usage = False
    cap, choices = None, 1
    if endpoint != EMBEDDINGS:
        if not _STREAMING.isdisjoint(body):
            streamed, wants_usage = _stream_options(body)
        cap = _output_cap(body)
        if cap is None and endpoint == COMPLETIONS:
            cap = body["max_tokens"] = COMPLETION_TOKENS_DEFAULT
        if "n" in body:
            choices = _whole(body, "n", 1, limits.CHOICES_MAX, 1)
        if endpoint == COMPLETIONS:
            choices = max(choices, _whole(body, "best_of", 1, limits.CHOICES_MAX, 1))
            if type(body["prompt"]) is list and type(body["prompt"][0]) is not int:
                choices *= len(body["prompt"])  # one completion for each prompt of the batch
    shows = streamed and _UNSEEN.isdisjoint(body)
    return Request(endpoint, body, len(raw), model, streamed, wants_usage, cap, choices, shows)


def _check_price_known(body: dict[str, Any]) -> None:
    """A request is never run at a price that its hold does not cover."""
    if _PRICED_APART.isdisjoint(body):
        return
    if body.get("service_tier") not in (None, "auto", "default"):
        raise InvalidRequest("service_tier must be auto or default: other tiers have no price here", param="service_tier")
    for field in _OTHER_FEES:
        if body.get(field) not in (None, False):
            raise InvalidRequest(f"{field} has no price here", param=field)
    tools = body.get("tools")
    for place, tool in enumerate(tools if type(tools) is list else ()):
        kind = tool.get("type") if type(tool) is dict else None
        if kind is not None and (type(kind) is not str or kind not in _OWN_TOOLS):
            raise InvalidRequest("a tool of another type than function or custom has no price here", param=f"tools[{place}]")


def _check_prompt(endpoint: str, body: dict[str, Any]) -> None:
    field = PROMPT_FIELD[endpoint]
    prompt = body.get(field)
    if endpoint == CHAT:
        if type(prompt) is not list or not 0 < len(prompt) <= limits.MESSAGES_MAX:
            raise InvalidRequest(f"messages must be a list of 1 to {limits.MESSAGES_MAX} messages", param="messages")
        for index, message in enumerate(prompt):
            if type(message) is not dict or type(message.get("role")) is not str:
                raise InvalidRequest("a message is an object with a role", param=f"messages[{index}]")
    elif type(prompt) not in (str, list) or not prompt:
        raise InvalidRequest(f"{field} must be a string or a list, and not empty", param=field)
    elif type(prompt) is list:
        kinds = set(map(type, prompt))
        if kinds != {int} and len(prompt) > limits.MESSAGES_MAX:
            raise InvalidRequest(f"{field} has more than {limits.MESSAGES_MAX} items", param=field)
        nested = kinds == {list} and all(item and set(map(type, item)) == {int} for item in prompt)
        if not (kinds == {str} or kinds == {int} or nested):
            raise InvalidRequest(f"{field} must be all strings, all token ids, or all lists of token ids", param=field)
    if not _OTHER_PROMPTS[endpoint].isdisjoint(body):  # a server might read it as well, and it is not counted here
        others = _OTHER_PROMPTS[endpoint] & body.keys()
        raise InvalidRequest(f"{min(others)} has no meaning on this endpoint", param=min(others))


def _stream_options(body: dict[str, Any]) -> tuple[bool, bool]:
    streamed = body.get("stream")
    if streamed is not None and type(streamed) is not bool:
        raise InvalidRequest("stream must be true or false", param="stream")
    options = body.get("stream_options")
    if options is None:
        return bool(streamed), False
    if type(options) is not dict:
        raise InvalidRequest("stream_options must be an object", param="stream_options")
    if not streamed:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    return True, options.get("include_usage") is True


def _output_cap(body: dict[str, Any]) -> int | None:
    # An upstream may honour either field, so the hold must cover the larger.
    most = _whole(body, "max_tokens", 1, limits.OUTPUT_TOKENS_MAX, 0) if "max_tokens" in body else 0
    if "max_completion_tokens" in body:
        most = max(most, _whole(body, "max_completion_tokens", 1, limits.OUTPUT_TOKENS_MAX, 0))
    return most or None


def _whole(body: dict[str, Any], field: str, least: int, most: int, default: int) -> int:
    value = body.get(field)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(f"{field} must be a whole number from {least} to {most}", param=field)
    return value


def read_tags(headers: Mapping[bytes, bytes], body: dict[str, Any]) -> Tags:
    """Tags from `X-Workflow-Type`, `X-Session-Id`, `X-Agent-Name`, `X-Tags`, else the same names in `metadata`.

    Names that are ours leave `metadata`, so that a provider never sees them.
    """
    metadata = body.get("metadata")
    own: dict[str, Any] = {}
    if type(metadata) is dict:
        own = {name: metadata.pop(name) for name in _METADATA_NAMES if name in metadata}
        if not metadata:
            del body["metadata"]
    if not own and _TAG_HEADERS.isdisjoint(headers):
        return NO_TAGS
    workflow, session = headers.get(b"x-workflow-type"), headers.get(b"x-session-id")
    agent, listed = headers.get(b"x-agent-name"), headers.get(b"x-tags")
    tags = listed.decode("latin-1").split(",") if listed else own.get("tags", ())
    if type(tags) is str:
        tags = tags.split(",")
    if type(tags) not in (list, tuple) or len(tags) > limits.TAGS_MAX:
        raise InvalidRequest(f"tags must be a list of at most {limits.TAGS_MAX}", param="tags")
    return Tags(
        _tag("workflow_type", workflow, own),
        _tag("session_id", session, own),
        _tag("agent_name", agent, own),
        tuple(_tag("tags", None, {"tags": tag.strip() if type(tag) is str else tag}) for tag in tags),
    )


_TAG_HEADERS: Final = frozenset((b"x-workflow-type", b"x-session-id", b"x-agent-name", b"x-tags"))
_METADATA_NAMES: Final = ("workflow_type", "session_id", "agent_name", "tags", "platform_user_id")


def _tag(name: str, header: bytes | None, own: dict[str, Any]) -> str:
    value = header.decode("latin-1") if header is not None else own.get(name, "")
    if type(value) is not str or len(value) > limits.TAG_CHARS_MAX:
        raise InvalidRequest(f"{name} must be a string of at most {limits.TAG_CHARS_MAX} characters", param=name)
    return value


def outgoing(request: Request, upstream_model: str, cap_field: str, cap: int | None) -> bytes:
    """The body to send: the deployment's model name, usage asked for, the output cap where the hold needs one.

    `cap` None leaves the client's own cap alone; a number replaces it.
    """
    body = request.body
    body["model"] = upstream_model
    if request.streamed:
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    if cap is not None:
        given = [field for field in _CAP_FIELDS if body.get(field) is not None]
        for field in given or (cap_field,):
            body[field] = cap
    return encode_json(body)


def usage_of(usage: Usage) -> dict[str, int]:
    """OpenAI's usage object, of what was counted here."""
    asked, made = usage.input_total, usage.output_total
    return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


def error_body(error: GatewayError, request_id: str) -> bytes:
    """The OpenAI error object; `request_id` is inside too, because people paste bodies, not headers."""
    return encode_json(
        {
            "error": {
                "message": error.message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
                "request_id": request_id,
                **error.details,
            }
        }
    )


def error_event(error: GatewayError, request_id: str) -> bytes:
    """The SSE event that ends a stream in trouble."""
    return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"


def error_headers(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """Retry-After and x-should-retry, where the error has an opinion."""
    headers = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after_s + 0.499))).encode()))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return headers


def answer_headers(
    content_type: bytes, request_id: str, level: Level, model: str, attempts: int, overhead_ms: float
) -> list[tuple[bytes, bytes]]:
    """What every answer of a provider's says about itself."""
    return [
        (b"content-type", content_type),
        (b"x-request-id", request_id.encode()),
        _LEVEL_HEADERS[level],
        (b"x-mozaiks-model", model.encode("ascii", "backslashreplace")),
        (b"x-mozaiks-attempts", b"%d" % attempts),
        (b"x-mozaiks-overhead-ms", b"%.2f" % overhead_ms),
    ]


def money_headers(cost_micro: int, available_micro: int | None) -> list[tuple[bytes, bytes]]:
    """What a whole answer cost, and what the payer has left where that is known."""
    headers = [(b"x-mozaiks-cost", decimal_from_micro(cost_micro).encode())]
    if available_micro is not None:
        headers.append((b"x-mozaiks-balance", decimal_from_micro(available_micro).encode()))
    return headers


def limit_headers(counted: tuple[Limit, ...], remaining: tuple[int, ...]) -> Iterator[tuple[bytes, bytes]]:
    """What the limits are, and what remains of each; of several of a kind the one of which the least remains."""
    maxima, names, told = _limits_told(counted)
    if len(maxima) > len(set(names)):
        tightest: dict[LimitKind, tuple[int, Limit]] = {}
        for left, limit in sorted(zip(remaining, counted, strict=True), key=lambda pair: -pair[0]):
            tightest[limit.kind] = left, limit
        remaining, counted = zip(*tightest.values(), strict=True)
        maxima, names, told = _limits_told(counted)
    return chain(maxima, zip(names, map(_DIGITS, compress(remaining, told)), strict=True))


@lru_cache(maxsize=8192)
def _limits_told(counted: tuple[Limit, ...]) -> tuple[tuple[tuple[bytes, bytes], ...], tuple[bytes, ...], tuple[bool, ...]]:
    """The headers that say what the limits are, the names of those that say what remains, and which limits have one."""
    told = [limit for limit in counted if limit.kind in _LIMIT_HEADERS]
    maxima = tuple([(b"x-ratelimit-limit-" + _LIMIT_HEADERS[limit.kind], b"%d" % limit.maximum) for limit in told])
    names = tuple([b"x-ratelimit-remaining-" + _LIMIT_HEADERS[limit.kind] for limit in told])
    return maxima, names, tuple([limit in told for limit in counted])


_DIGITS: Final = b"%d".__mod__
_LEVEL_HEADERS: Final = {level: (b"x-mozaiks-level", level.encode()) for level in Level}
_LIMIT_HEADERS: Final = {
    LimitKind.REQUESTS_PER_MINUTE: b"requests",
    LimitKind.TOKENS_PER_MINUTE: b"tokens",
    LimitKind.CONCURRENCY: b"concurrency",
}

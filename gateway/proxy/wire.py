"""What all surfaces have in common: bodies as JSON, tags, what an answer's headers say, and OpenAI's errors."""

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

_PLAIN_BYTES: Final = 256 * 1024  # below it no body parses into much memory


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


def read_body(raw: bytes, content_type: bytes) -> dict[str, Any]:
    """A body that is one JSON object; InvalidRequest, UnsupportedMedia."""
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
    return body


# Servers of OpenAI's dialect that serve others' models, such as litellm's, take these of a request: another model, server, key or
# number of attempts than the hold is for, or an answer that nobody made.
_WHO_SERVES: Final = frozenset(
    (
        "api_base", "api_key", "api_version", "base_url", "content_policy_fallbacks", "context_window_fallback_dict",
        "context_window_fallbacks", "custom_llm_provider", "default_fallbacks", "deployment_id", "extra_body", "extra_headers",
        "fallbacks", "headers", "litellm_metadata", "litellm_params", "max_retries", "mock_delay", "mock_response",
        "mock_testing_content_policy_fallbacks", "mock_testing_context_fallbacks", "mock_testing_fallbacks",
        "mock_testing_rate_limit_error", "mock_timeout", "mock_tool_calls", "model_list", "num_retries", "organization",
        "retry_policy", "router_settings_override", "specific_deployment", "user_config", "vector_store_ids",
    )
)  # fmt: skip
_EXTRA: Final = "extra_body"  # what such servers put over the request; Google's own has a part of that name
_MODEL_IS: Final = "must be a string of 1 to 256 printable ASCII characters"


def read_model(body: dict[str, Any]) -> str:
    """The name of the model that is asked for; InvalidRequest, also where a body says besides who is to serve it."""
    if not _WHO_SERVES.isdisjoint(body):
        for field in sorted(_WHO_SERVES & body.keys()):
            if field == _EXTRA and type(body[field]) is dict and body[field].keys() <= {"google"}:
                continue
            if body[field] not in (None, False):
                raise InvalidRequest(f"{field} is not a request's to say: the gateway decides who serves it", param=field)
            del body[field]
    model = body.get("model")
    if type(model) is not str or not 0 < len(model) <= 256 or not model.isprintable() or not model.isascii():
        says = "is missing: name one that GET /v1/models lists" if model is None else _MODEL_IS
        raise InvalidRequest(f"model {says}", param="model")
    return model


def whole(body: dict[str, Any], field: str, least: int, most: int, default: int) -> int:
    """A field's whole number, or the default where it is not there or null; InvalidRequest."""
    value = body.get(field)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(f"{field} must be a whole number from {least} to {most}", param=field)
    return value


class Tags(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a request says about itself for analytics."""

    workflow_type: str = ""
    session_id: str = ""
    agent_name: str = ""
    tags: tuple[str, ...] = ()


NO_TAGS: Final = Tags()


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

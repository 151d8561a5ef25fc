"""OpenAI's surfaces of tokens: chat completions, text completions, embeddings.

A body is parsed once and sent upstream as it was understood: a body with a key twice
(`{"max_tokens": 1, "max_tokens": 100000}`) would otherwise be priced by one and run by the other.
Fields that are not ours pass through untouched.
"""

from typing import Any, Final

import msgspec

from gateway.core import limits
from gateway.core.errors import InvalidRequest
from gateway.metering.usage import input_bound, read_usage
from gateway.pricing.rates import PLAIN, SEARCH
from gateway.providers.model import Deployment, Reply
from gateway.proxy import wire
from gateway.proxy.media import check_listed
from gateway.proxy.relay import Relay, generated_text
from gateway.proxy.surface import AUTO_TIERS, Measured, Request
from gateway.proxy.told_errors import check_answered

CHAT: Final = "/chat/completions"
COMPLETIONS: Final = "/completions"
EMBEDDINGS: Final = "/embeddings"
COMPLETION_TOKENS_DEFAULT: Final = 16  # OpenAI's own; said aloud, because other servers default to the whole context
OUTPUT_TOKENS_DEFAULT: Final = 16_384  # of a model whose own limit nobody states; it is sent upstream as the cap
_CAP_FIELDS: Final = ("max_completion_tokens", "max_tokens")
_PROMPT_FIELD: Final = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}
OTHER_FEES: Final = (  # another model or server than was asked for, or fees a call
    "enable_search", "models", "plugins", "preset", "provider", "search_parameters", "web_search_options",
)  # fmt: skip
_SEARCH_OPTIONS: Final = "web_search_options"
_SEARCH_SIZES: Final = ("low", "medium", "high")
# Of a provider's dearer ways to serve a request: faster, or in one country.
_OTHER_PRICES: Final = ("inference_geo", "speed")
_AUTO: Final = "auto"
_AS_USUAL: Final = frozenset((PLAIN, "standard"))  # as answers name the tier that has no name in a price
_TIER_CHARS_MAX: Final = 64
_OWN_TOOLS: Final = frozenset(("function", "custom"))  # what the caller runs; a provider's tools have fees, and read on
# What is said of a function. A tool of a provider's own may be known by a field alone (`googleSearch`, `systemTool`).
_FUNCTION_FIELDS: Final = frozenset(
    (
        "allowed_callers", "cache_control", "custom", "defer_loading", "description", "eager_input_streaming", "format",
        "function", "input_examples", "input_schema", "name", "parameters", "strict", "type",
    )
)  # fmt: skip
_PRICED_APART: Final = frozenset(("functions", "service_tier", "tools", *OTHER_FEES, *_OTHER_PRICES))
_UNSEEN: Final = frozenset(  # ask for tokens that no event shows, or may
    (
        "audio", "best_of", "chat_template_kwargs", "enable_reasoning", "enable_thinking", "extra_body", "generation_config",
        "google", "include_reasoning", "logit_bias", "max_reasoning_tokens", "modalities", "prediction", "reasoning",
        "reasoning_budget", "reasoning_effort", "reasoning_format", "think", "thinking", "thinking_budget", "thinking_config",
        "use_beam_search",
    )
)  # fmt: skip
_STREAMING: Final = frozenset(("stream", "stream_options"))
_OTHER_PROMPTS: Final = {endpoint: {*_PROMPT_FIELD.values()} - {field} for endpoint, field in _PROMPT_FIELD.items()}


class _Answer(msgspec.Struct):
    usage: Any = None
    service_tier: Any = None
    error: Any = None


_decode_answer: Final = msgspec.json.Decoder(_Answer, float_hook=wire.read_float).decode


class OpenAISurface:
    """What OpenAI's surfaces of JSON and tokens share; see `Surface`."""

    path: str
    prompt_field: str
    error_body = staticmethod(wire.error_body)
    error_event = staticmethod(wire.error_event)

    def bound(self, request: Request, deployment: Deployment) -> int:
        """The strict bound of the prompt's bytes, or all that the model can read; InvalidRequest where it serves no chat."""
        bound = input_bound(request.body, request.body_bytes, self.prompt_field, deployment.model)
        if deployment.input_tokens_max is not None and bound > deployment.input_tokens_max:
            check_listed(self.path, deployment)
            return deployment.input_tokens_max
        return bound

    def most(self, request: Request, deployment: Deployment) -> int:
        """As the client caps it, or the model."""
        return request.output_cap or deployment.output_tokens_max or OUTPUT_TOKENS_DEFAULT

    def prompt(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The body is as the counter takes it."""
        return body, self.prompt_field

    def outgoing(self, request: Request, deployment: Deployment, cap: int | None) -> bytes:
        """The deployment's model name, usage asked for, the output cap where the hold needs one."""
        body = request.body
        body["model"] = deployment.model
        if request.streamed:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        if cap is not None:
            given = [field for field in _CAP_FIELDS if body.get(field) is not None]
            for field in given or (deployment.output_cap_field,):
                body[field] = cap
        if deployment.names_tier and self.path == CHAT and body.get("service_tier") is None:
            body["service_tier"] = PLAIN  # as it was held
        return wire.encode_json(body)

    def streams(self, request: Request, reply: Reply) -> bool:
        """A stream that was asked for; some servers answer whole all the same."""
        return request.streamed and reply.content_type.startswith(b"text/event-stream")

    def stream(self, request: Request, reply: Reply) -> Relay:
        """Chunks as OpenAI has them."""
        return Relay()

    def told(self, body: bytes) -> Any:
        """`usage`, as it stands there, with the service tier that the answer names."""
        answer = _decode_answer(body)
        if answer.error:
            check_answered(body)
        if answer.service_tier is not None and type(answer.usage) is dict:
            answer.usage["service_tier"] = answer.service_tier
        return answer.usage

    def text(self, body: bytes) -> str:
        """All that was generated."""
        return generated_text(body)

    def measured(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """As `read_usage`; None where there is no object. The request's `variant` becomes the tier it was served at."""
        if not isinstance(told, dict):
            return None
        read = read_usage(told, deployment.cached_inside)
        if "service_tier" in told and (flag := served_at(request, told["service_tier"])) and read is not None:
            return read[0], (*read[1], flag)
        return read

    def returned(self, request: Request, body: bytes) -> bytes:
        """As the upstream wrote it."""
        return body


class Chat(OpenAISurface):
    """`/v1/chat/completions`."""

    path = CHAT
    prompt_field = _PROMPT_FIELD[CHAT]

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        body = wire.read_body(raw, content_type)
        model = wire.read_model(body)
        prompt = body.get("messages")
        if type(prompt) is not list or not 0 < len(prompt) <= limits.MESSAGES_MAX:
            raise InvalidRequest(f"messages must be a list of 1 to {limits.MESSAGES_MAX} messages", param="messages")
        for index, message in enumerate(prompt):
            if type(message) is not dict or type(message.get("role")) is not str:
                raise InvalidRequest("a message is an object with a role", param=f"messages[{index}]")
        _check_other_prompts(CHAT, body)
        variant = ""
        if not _PRICED_APART.isdisjoint(body):
            _check_fees({**body, _SEARCH_OPTIONS: None})
            variant = _asked_search(body) or asked_tier(body)
        streamed = wants_usage = False
        if not _STREAMING.isdisjoint(body):
            streamed, wants_usage = _stream_options(body)
        choices = wire.whole(body, "n", 1, limits.CHOICES_MAX, 1) if "n" in body else 1
        shows = streamed and _UNSEEN.isdisjoint(body)
        return Request(self, body, len(raw), model, streamed, wants_usage, _output_cap(body), choices, shows, (), variant)


class Completions(OpenAISurface):
    """`/v1/completions`."""

    path = COMPLETIONS
    prompt_field = _PROMPT_FIELD[COMPLETIONS]

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        body = wire.read_body(raw, content_type)
        model = wire.read_model(body)
        _check_texts(COMPLETIONS, body)
        check_price_known(body)
        streamed, wants_usage = _stream_options(body)
        cap = _output_cap(body)
        if cap is None:
            cap = body["max_tokens"] = COMPLETION_TOKENS_DEFAULT
        choices = wire.whole(body, "n", 1, limits.CHOICES_MAX, 1)
        choices = max(choices, wire.whole(body, "best_of", 1, limits.CHOICES_MAX, 1))
        if type(body["prompt"]) is list and type(body["prompt"][0]) is not int:
            choices *= len(body["prompt"])  # one completion for each prompt of the batch
        shows = streamed and _UNSEEN.isdisjoint(body)
        return Request(self, body, len(raw), model, streamed, wants_usage, cap, choices, shows)


class Embeddings(OpenAISurface):
    """`/v1/embeddings`."""

    path = EMBEDDINGS
    prompt_field = _PROMPT_FIELD[EMBEDDINGS]

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        body = wire.read_body(raw, content_type)
        model = wire.read_model(body)
        _check_texts(EMBEDDINGS, body)
        check_price_known(body)
        return Request(self, body, len(raw), model, streamed=False, wants_usage=False, output_cap=None, choices=1, shows=False)

    def bound(self, request: Request, deployment: Deployment) -> int:
        """Of all its texts: each of them may be as long as the model can read. InvalidRequest as in `OpenAISurface.bound`."""
        if deployment.input_tokens_max == 0:
            check_listed(self.path, deployment)
        return input_bound(request.body, request.body_bytes, self.prompt_field, deployment.model)

    def most(self, request: Request, deployment: Deployment) -> int:
        """Nothing is generated."""
        return 0


def check_price_known(body: dict[str, Any]) -> None:
    """A request is never run at a price that its hold does not cover."""
    if _PRICED_APART.isdisjoint(body):
        return
    if body.get("service_tier") not in (None, _AUTO, PLAIN):
        raise InvalidRequest("service_tier must be auto or default: other tiers have no price here", param="service_tier")
    _check_fees(body)


def asked_tier(body: dict[str, Any]) -> str:
    """The variant of the price that `service_tier` asks for: a tier, or as usual, where its provider has no room in the tier."""
    tier = body.get("service_tier")
    if tier in (None, PLAIN):
        return ""
    if type(tier) is not str or not 0 < len(tier) <= _TIER_CHARS_MAX or "|" in tier:
        raise InvalidRequest("service_tier is the name of a tier", param="service_tier")
    return AUTO_TIERS if tier == _AUTO else f"{PLAIN}|{tier}"


def _asked_search(body: dict[str, Any]) -> str:
    """The variant of the price with a search of the web: models that search for every request take its size by this option."""
    options = body.get(_SEARCH_OPTIONS)
    if options in (None, False):
        return ""
    if type(options) is not dict:
        raise InvalidRequest(f"{_SEARCH_OPTIONS} must be an object", param=_SEARCH_OPTIONS)
    if body.get("service_tier") not in (None, PLAIN, _AUTO):
        raise InvalidRequest("a search of the web has no price here at a service tier", param="service_tier")
    if body.get("service_tier") == _AUTO:
        body["service_tier"] = PLAIN
    size = options.get("search_context_size")
    if size is None:
        return SEARCH
    if type(size) is not str or size not in _SEARCH_SIZES:
        told = f"search_context_size is one of {', '.join(_SEARCH_SIZES)}"
        raise InvalidRequest(told, param=f"{_SEARCH_OPTIONS}.search_context_size")
    return f"{SEARCH}_{size}"


def served_at(request: Request, tier: object) -> str:
    """Note the tier that an answer names as the variant of the price, instead of what was asked for; the flag of a dearer or
    cheaper one. A name that says nothing leaves the dearest of what was asked for.
    """
    if type(tier) is not str or tier == _AUTO or not 0 < len(tier) <= _TIER_CHARS_MAX or "|" in tier:
        return ""
    if request.variant.startswith(SEARCH):
        return "" if tier in _AS_USUAL else f"service_tier_{tier}"
    if tier in _AS_USUAL:
        if request.variant:
            request.variant = PLAIN
        return ""
    request.variant = tier
    return f"service_tier_{tier}"


def _check_fees(body: dict[str, Any]) -> None:
    for field in (*OTHER_FEES, *_OTHER_PRICES):
        if body.get(field) not in (None, False):
            raise InvalidRequest(f"{field} has no price here", param=field)
    for field in ("tools", "functions"):
        if body.get(field) is not None:
            _check_tools(field, body[field])


def _check_tools(field: str, tools: Any) -> None:
    """None of them is the provider's own."""
    if type(tools) is not list:
        raise InvalidRequest(f"{field} must be a list", param=field)
    for place, tool in enumerate(tools):
        if type(tool) is not dict:
            raise InvalidRequest("a tool is an object", param=f"{field}[{place}]")
        kind = tool.get("type")
        if kind is not None and (type(kind) is not str or kind not in _OWN_TOOLS):
            raise InvalidRequest("a tool of another type than function or custom has no price here", param=f"{field}[{place}]")
        if not tool.keys() <= _FUNCTION_FIELDS:
            unknown = min(tool.keys() - _FUNCTION_FIELDS)[:64]
            told = f"{unknown} is no part of a function, and has no price here"
            raise InvalidRequest(told, param=f"{field}[{place}].{unknown}")


def shows_all(body: dict[str, Any]) -> bool:
    """Whether nothing in it asks for tokens that no event shows."""
    return _UNSEEN.isdisjoint(body)


def _check_texts(endpoint: str, body: dict[str, Any]) -> None:
    field = _PROMPT_FIELD[endpoint]
    prompt = body.get(field)
    if type(prompt) not in (str, list) or not prompt:
        raise InvalidRequest(f"{field} must be a string or a list, and not empty", param=field)
    if type(prompt) is list:
        kinds = set(map(type, prompt))
        if kinds != {int} and len(prompt) > limits.MESSAGES_MAX:
            raise InvalidRequest(f"{field} has more than {limits.MESSAGES_MAX} items", param=field)
        nested = kinds == {list} and all(item and set(map(type, item)) == {int} for item in prompt)
        if not (kinds == {str} or kinds == {int} or nested):
            raise InvalidRequest(f"{field} must be all strings, all token ids, or all lists of token ids", param=field)
    _check_other_prompts(endpoint, body)


def _check_other_prompts(endpoint: str, body: dict[str, Any]) -> None:
    """A server might read another prompt as well, and it is not counted here."""
    if not _OTHER_PROMPTS[endpoint].isdisjoint(body):
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
    most = wire.whole(body, "max_tokens", 1, limits.OUTPUT_TOKENS_MAX, 0) if "max_tokens" in body else 0
    if "max_completion_tokens" in body:
        most = max(most, wire.whole(body, "max_completion_tokens", 1, limits.OUTPUT_TOKENS_MAX, 0))
    return most or None

"""What is asked of a translated provider, and what its answers, usage and refusals look like in the OpenAI dialect. Pure.

A field of the body is translated, meaningless, or refused with 400 and its name; nothing that changes the answer is dropped
in silence, because the caller would pay for another answer than the one asked for. Dropped are fields that say what happens
anyway (`n: 1`, `store: false`) and those that only say who asks (`user`, where the provider has no place for it). Fields that
nobody here knows are refused too: litellm takes its own settings from the same namespace (`api_base`, `mock_response`,
`fallbacks`), and a caller must not reach those.
"""

import base64
import re
import struct
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

CHAT: Final = "/chat/completions"
COMPLETIONS: Final = "/completions"
EMBEDDINGS: Final = "/embeddings"

# litellm's names of the providers that it asks with one POST, with a key or credentials of the configuration.
TRANSLATED: Final = frozenset(
    (
        "ai21_chat", "anthropic", "azure", "azure_ai", "baseten", "bedrock", "cerebras", "cloudflare", "cohere", "cohere_chat",
        "dashscope", "databricks", "deepinfra", "deepseek", "featherless_ai", "fireworks_ai", "friendliai", "gemini", "groq",
        "hosted_vllm", "hyperbolic", "jina_ai", "lambda_ai", "llamafile", "lm_studio", "meta_llama", "mistral",
        "moonshot", "nebius", "novita", "nscale", "nvidia_nim", "ollama", "ollama_chat", "openrouter", "perplexity",
        "sambanova", "snowflake", "together_ai", "vercel_ai_gateway", "vertex_ai", "volcengine", "voyage",
        "xai", "zai",
    )
)  # fmt: skip
# What a deployment's `params` may not set: this package's own part of the call, and what would turn litellm's habits on again.
RESERVED: Final = frozenset(
    (
        "acompletion", "api_base", "api_key", "base_url", "cache", "caching", "callbacks", "client",
        "context_window_fallback_dict", "custom_llm_provider", "drop_params", "extra_headers", "failure_callback", "fallbacks",
        "headers", "input", "logger_fn", "max_retries", "messages", "mock_response", "mock_timeout", "mock_tool_calls", "model",
        "model_list", "num_retries", "retry_policy", "retry_strategy", "shared_session", "stream", "stream_options",
        "success_callback", "timeout",
    )
)  # fmt: skip

EMBEDS_ONLY: Final = frozenset(("jina_ai", "voyage"))
# litellm 1.106 cannot read their streams: it takes the names of events for answers (cohere/common_utils.py).
_UNSTREAMED: Final = frozenset(("cohere", "cohere_chat"))
_ALWAYS: Final = frozenset(("messages", "stream", "stream_options"))
_TRANSLATED_FIELDS: Final = _ALWAYS | {
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens",
    "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty", "reasoning_effort", "response_format", "seed",
    "stop", "temperature", "thinking", "tool_choice", "tools", "top_logprobs", "top_p", "verbosity",
}  # fmt: skip
# Of the provider's own dialect; litellm passes it on as it is.
_OWN_FIELDS: Final[dict[str, Collection[str]]] = {"top_k": ("anthropic", "bedrock", "gemini", "vertex_ai")}
_WHO_ASKS: Final = frozenset(("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"))
_ASKS_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True,),
    "presence_penalty": (0, 0.0),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "stream": (False,),
    "suffix": ("",),
    "tools": ([],),
    "top_logprobs": (0,),
}
_PARTS: Final = frozenset(("file", "image_url", "input_audio", "redacted_thinking", "refusal", "text", "thinking"))
_EMBEDDING_FIELDS: Final = frozenset(("dimensions", "input"))

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_SECRET_CHARS_MIN: Final = 12
_WORDS_MAX: Final = 2000


class Untranslatable(Exception):
    """The provider cannot be asked for this: a 400, `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Asked(msgspec.Struct, frozen=True):
    """One request in litellm's words. `fields` are its arguments, less the model's."""

    path: str
    fields: dict[str, Any]
    streamed: bool = False
    wants_usage: bool = False
    packed: bool = False  # embeddings as base64


def parse(path: str, body: bytes, provider: str, takes: Collection[str]) -> Asked:
    """The request; Untranslatable. `takes` are OpenAI's fields that litellm can translate for this provider's model."""
    try:
        given = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        given = None
    if type(given) is not dict:
        raise Untranslatable("The body is not a JSON object.")
    given = {name: value for name, value in given.items() if value is not None and name != "model"}
    if path == EMBEDDINGS:
        return _embedding(given, provider)
    if provider in EMBEDS_ONLY:
        raise unserved(path, provider)
    if path == COMPLETIONS:
        given = _as_chat(given)
    elif path != CHAT:
        raise Untranslatable(f"{path} is not translated.")
    _check_messages(given.get("messages"))
    fields = _fields(given, provider, takes)
    streamed = fields.get("stream") is True
    if streamed and provider in _UNSTREAMED:
        raise Untranslatable("Streams of this model's provider cannot be translated: ask for the whole answer.", "stream")
    if streamed and "n" in fields:
        raise Untranslatable("n cannot be translated in a stream: ask for one choice.", "n")
    options = fields.get("stream_options")
    wants_usage = type(options) is dict and options.get("include_usage") is True
    if streamed:
        fields["stream_options"] = {"include_usage": True}  # without it litellm does not put the parts of its count together
    return Asked(path, fields, streamed, wants_usage)


def unserved(path: str, provider: str) -> Untranslatable:
    """Nobody serves this surface there."""
    return Untranslatable(f"{path} is not served for models of {provider} here", "model")


def _fields(given: dict[str, Any], provider: str, takes: Collection[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in _one_cap(given, takes).items():
        if any(type(value) is type(nothing) and value == nothing for nothing in _ASKS_NOTHING.get(name, ())):
            continue
        if name in _WHO_ASKS:
            if name == "user" and name in takes:
                fields[name] = value
            continue
        known = provider in _OWN_FIELDS[name] if name in _OWN_FIELDS else name in _TRANSLATED_FIELDS
        if known and (name in _ALWAYS or name in _OWN_FIELDS or name in takes):
            fields[name] = value
        else:
            raise Untranslatable(f"{name} cannot be translated for this model's provider.", name)
    return fields


def _one_cap(given: dict[str, Any], takes: Collection[str]) -> dict[str, Any]:
    """OpenAI's two names of the output cap are one: the lower, by the name that the provider's translation knows."""
    caps = {name: given[name] for name in _CAPS if name in given}
    if not caps or (len(caps) == 1 and all(name in takes for name in caps)):
        return given
    name = next((name for name in _CAPS if name in takes), None)
    if name is None or not all(type(cap) is int for cap in caps.values()):
        return given  # to be refused, or the provider's to refuse
    rest = {name: value for name, value in given.items() if name not in caps}
    return {**rest, name: min(caps.values())}


_CAPS: Final = ("max_tokens", "max_completion_tokens")


def _embedding(given: dict[str, Any], provider: str) -> Asked:
    form = given.pop("encoding_format", "float")
    if form not in ("float", "base64"):
        raise Untranslatable("encoding_format must be float or base64.", "encoding_format")
    fields = {name: value for name, value in given.items() if name not in _WHO_ASKS}
    if unknown := fields.keys() - _EMBEDDING_FIELDS:
        raise Untranslatable(f"{min(unknown)} cannot be translated for this model's provider.", min(unknown))
    if type(fields.get("input")) is str:
        fields["input"] = [fields["input"]]
    texts = fields.get("input")
    if type(texts) is not list or set(map(type, texts)) != {str}:
        raise Untranslatable("input must be a string or a list of strings: token ids differ from provider to provider.", "input")
    return Asked(EMBEDDINGS, fields, packed=form == "base64")


def _as_chat(given: dict[str, Any]) -> dict[str, Any]:
    """A text completion as a chat of one message: the providers have no other."""
    prompt = given.pop("prompt", None)
    if type(prompt) is list and len(prompt) == 1:
        prompt = prompt[0]
    if type(prompt) is not str:
        raise Untranslatable("prompt must be one string for this model's provider.", "prompt")
    if type(given.get("logprobs")) is int:
        raise Untranslatable("logprobs cannot be translated for this model's provider.", "logprobs")
    return {"messages": [{"role": "user", "content": prompt}], **given}


def _check_messages(messages: object) -> None:
    if type(messages) is not list or not all(type(message) is dict for message in messages):
        raise Untranslatable("messages must be a list of objects.", "messages")
    for place, message in enumerate(messages):
        content = message.get("content")
        for part in content if type(content) is list else ():
            kind = part.get("type") if type(part) is dict else None
            if kind not in _PARTS:
                raise Untranslatable(f"A part of the type {str(kind)[:40]!r} cannot be translated.", f"messages[{place}].content")


# ---- answers -------------------------------------------------------------------------------------------------------------


def usage_of(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """litellm's usage in OpenAI's shape, every count inside its total; None where it says no prompt tokens.

    litellm puts zeros where a provider said nothing, and no prompt is free of tokens: such usage is no usage, and is counted.
    """
    prompt, made = _count(said, "prompt_tokens"), _count(said, "completion_tokens")
    if not prompt:
        return None
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
    inputs, outputs = _details(said, "prompt_tokens_details"), _details(said, "completion_tokens_details")
    cached = _count(inputs, "cached_tokens") or _count(said, "cache_read_input_tokens")
    usage["prompt_tokens_details"] = {"cached_tokens": cached, "audio_tokens": _count(inputs, "audio_tokens")}
    if image := _count(inputs, "image_tokens"):
        usage["prompt_tokens_details"]["image_tokens"] = image
    if written := _count(said, "cache_creation_input_tokens") or _count(inputs, "cache_creation_tokens"):
        usage["cache_creation_input_tokens"] = written
        ages = _details(inputs, "cache_creation_token_details")
        hour = _count(ages, "ephemeral_1h_input_tokens")
        usage["cache_creation"] = {"ephemeral_5m_input_tokens": max(written - hour, 0), "ephemeral_1h_input_tokens": hour}
    reasoning = _count(outputs, "reasoning_tokens")
    usage["completion_tokens_details"] = {"reasoning_tokens": reasoning, "audio_tokens": _count(outputs, "audio_tokens")}
    return usage


def _count(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    return value if type(value) is int else 0


def _details(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = said.get(name)
    return value if isinstance(value, Mapping) else {}


def whole_answer(asked: Asked, model: str, said: Mapping[str, Any]) -> bytes:
    """A chat or text completion, from litellm's `ModelResponse` as a dict."""
    answer: dict[str, Any] = {
        "id": said.get("id"),
        "object": "chat.completion" if asked.path == CHAT else "text_completion",
        "created": said.get("created"),
        "model": model,
        "choices": [_choice(asked, choice) for choice in said.get("choices") or ()],
    }
    usage = usage_of(_details(said, "usage"))
    if usage is not None:
        answer["usage"] = usage
    return _encode(answer)


def _choice(asked: Asked, said: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, **_details(said, "message")}
    shared = {"finish_reason": said.get("finish_reason"), "logprobs": said.get("logprobs")}
    if asked.path == COMPLETIONS:
        return {"index": said.get("index", 0), "text": message["content"] or "", **shared}
    _without_copies(message)
    return {"index": said.get("index", 0), "message": message, **shared}


def _without_copies(message: dict[str, Any]) -> None:
    """litellm says the same twice: in `provider_specific_fields` and beside it; and nothing, in lists that are empty."""
    for name in ("images", "thinking_blocks", "annotations"):
        if message.get(name) == []:
            del message[name]
    own = message.get("provider_specific_fields")
    if type(own) is dict:
        kept = {name: value for name, value in own.items() if value is not None and message.get(name) != value}
        kept.pop("thinking_blocks", None)
        if kept:
            message["provider_specific_fields"] = kept
        else:
            del message["provider_specific_fields"]


def stream_event(asked: Asked, model: str, said: Mapping[str, Any], *, first: bool) -> bytes:
    """One event of a stream, from litellm's `ModelResponseStream` as a dict; empty when it says nothing."""
    choices = []
    for choice in said.get("choices") or ():
        delta = dict(_details(choice, "delta"))
        _without_copies(delta)
        if delta.get("reasoning_content"):
            # The same text again, whole, where only a signature is to be told: nobody should count it twice.
            delta.pop("thinking_blocks", None)
        if first:
            delta = {"role": "assistant", "content": "", **delta}
        else:
            delta.pop("role", None)
            for name in ("content", "reasoning_content"):
                if delta.get(name) == "":
                    del delta[name]
        ended = choice.get("finish_reason")
        if not (delta or ended):
            continue
        told = {"finish_reason": ended, "logprobs": choice.get("logprobs")}
        made = {"text": delta.get("content") or ""} if asked.path == COMPLETIONS else {"delta": delta}
        choices.append({"index": choice.get("index", 0), **made, **told})
    return _event(asked, model, said, choices, None) if choices else b""


def usage_event(asked: Asked, model: str, said: Mapping[str, Any], usage: Mapping[str, Any]) -> bytes:
    """The event behind the last choice's: `choices` empty, and what was used."""
    return _event(asked, model, said, [], usage)


def _event(
    asked: Asked, model: str, said: Mapping[str, Any], choices: list[dict[str, Any]], usage: Mapping[str, Any] | None
) -> bytes:
    event: dict[str, Any] = {
        "id": said.get("id"),
        "object": "chat.completion.chunk" if asked.path == CHAT else "text_completion",
        "created": said.get("created"),
        "model": model,
        "choices": choices,
    }
    if asked.wants_usage:
        event["usage"] = usage
    return b"data: " + _encode(event) + b"\n\n"


def embeddings_answer(asked: Asked, model: str, said: Mapping[str, Any]) -> bytes:
    """Embeddings, from litellm's `EmbeddingResponse` as a dict."""
    data = []
    for place, item in enumerate(said.get("data") or ()):
        vector: Any = item["embedding"]
        if asked.packed:
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": item.get("index", place), "embedding": vector})
    answer: dict[str, Any] = {"object": "list", "data": data, "model": model}
    prompt = _count(_details(said, "usage"), "prompt_tokens")
    if prompt:
        answer["usage"] = {"prompt_tokens": prompt, "total_tokens": prompt}
    return _encode(answer)


# ---- refusals ------------------------------------------------------------------------------------------------------------


def refusal_body(message: str, code: str | None = None, kind: str = "invalid_request_error", param: str | None = None) -> bytes:
    """OpenAI's error object."""
    return _encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def provider_refusal(status: int, said: bytes, code: str | None, secrets: Collection[str] = ()) -> tuple[int, bytes]:
    """Status and OpenAI error body of what a provider refused with, in the words of whichever dialect it speaks.

    `code` is litellm's reading of it, `secrets` are taken out of the words. A refusal of the gateway's own key or account gets
    the status that says so (Gemini refuses a wrong key, and Anthropic an empty account, with 400).
    """
    try:
        answer = _decode(said)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        answer = None
    if type(answer) is list and answer:  # Gemini, where a stream was asked for
        answer = answer[0]
    error = answer.get("error", answer) if type(answer) is dict else None
    told = error if type(error) is dict else {"message": error}
    message = next((told[name] for name in ("message", "Message", "detail") if type(told.get(name)) is str), None)
    if message is None:
        message = f"The provider refused the request with status {status}."
    if status == 400 and (code == "invalid_api_key" or "API key not valid" in message):
        status, code = 401, "invalid_api_key"
    elif status == 400 and "credit balance is too low" in message:
        status, code = 402, "insufficient_quota"
    for secret in secrets:
        if len(secret) >= _SECRET_CHARS_MIN:
            message = message.replace(secret, "[removed]")
    words = [told.get(name) for name in ("type", "status", "__type")]
    kind = next((word for word in words if type(word) is str and _WORD.fullmatch(word)), "upstream_error")
    own = told.get("code")
    if code is None and type(own) is str and _WORD.fullmatch(own):
        code = own
    param = told.get("param")
    return status, refusal_body(message[:_WORDS_MAX], code, kind, param if type(param) is str else None)

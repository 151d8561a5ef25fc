"""Requests in litellm's words, and its answers, counts and providers' refusals in OpenAI's: without litellm."""

import json
from typing import Any

import pytest

from gateway.providers.translation import CHAT, COMPLETIONS, EMBEDDINGS, Untranslatable, parse, provider_refusal, usage_of

TAKES = frozenset(("max_tokens", "stop", "temperature", "tools", "user", "stream"))
SAY = [{"role": "user", "content": "hi"}]


def fields(**body: Any) -> dict[str, Any]:
    path, takes = body.pop("path", CHAT), body.pop("takes", TAKES)
    return parse(path, json.dumps({"model": "m", **body}).encode(), "anthropic", takes).fields


def test_what_says_nothing_is_left_out_and_what_says_something_is_not() -> None:
    quiet = {"n": 1, "presence_penalty": 0, "logprobs": False, "store": False, "response_format": {"type": "text"}, "seed": None}
    assert fields(messages=SAY, **quiet, metadata={"a": "b"}) == {"messages": SAY}
    for name, value in (("n", 2), ("presence_penalty", 0.1), ("logprobs", True), ("store", True), ("n", True)):
        with pytest.raises(Untranslatable) as refused:
            fields(messages=SAY, **{name: value})
        assert refused.value.param == name


def test_an_output_cap_is_never_lost() -> None:
    assert fields(messages=SAY, max_completion_tokens=7) == {"messages": SAY, "max_tokens": 7}
    assert fields(messages=SAY, max_tokens=9, max_completion_tokens=7) == {"messages": SAY, "max_tokens": 7}
    assert fields(messages=SAY, max_completion_tokens=9, max_tokens=7)["max_tokens"] == 7
    modern = frozenset(("max_completion_tokens",))
    assert fields(takes=modern, messages=SAY, max_tokens=7) == {"messages": SAY, "max_completion_tokens": 7}
    assert fields(takes=modern, messages=SAY, max_tokens=7, max_completion_tokens=9)["max_completion_tokens"] == 7
    for capped in ({"max_tokens": 7}, {"max_completion_tokens": 7}):
        with pytest.raises(Untranslatable):
            fields(takes=frozenset(), messages=SAY, **capped)


def test_a_text_completion_is_a_chat_of_one_message() -> None:
    once = [{"role": "user", "content": "Once"}]
    assert fields(path=COMPLETIONS, prompt="Once", max_tokens=16) == {"messages": once, "max_tokens": 16}
    assert fields(path=COMPLETIONS, prompt=["Once"], echo=False, best_of=1)["messages"][0]["content"] == "Once"
    for wrong in ({"prompt": [1, 2]}, {"prompt": ["a", "b"]}, {"prompt": "a", "echo": True}, {"prompt": "a", "logprobs": 0}):
        with pytest.raises(Untranslatable):
            fields(path=COMPLETIONS, **wrong)


def test_embeddings_take_texts() -> None:
    assert fields(path=EMBEDDINGS, input="one", user="u") == {"input": ["one"]}
    assert parse(EMBEDDINGS, b'{"input": ["one"], "encoding_format": "base64"}', "gemini", TAKES).packed
    numbers, odd, foreign = {"input": [1, 2]}, {"input": "a", "encoding_format": "int8"}, {"input": "a", "api_base": "x"}
    for wrong in (numbers, odd, foreign, {"input": [[1]]}):
        with pytest.raises(Untranslatable):
            fields(path=EMBEDDINGS, **wrong)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"messages": "hi"}', b'{"messages": ["hi"]}', b"\xff"])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Untranslatable):
        parse(CHAT, body, "anthropic", TAKES)


@pytest.mark.parametrize(
    ("path", "provider", "body", "param"),
    [
        (CHAT, "voyage", {"messages": [{"role": "user", "content": "hello"}]}, "model"),
        (COMPLETIONS, "jina_ai", {"prompt": "hello"}, "model"),
        (CHAT, "cohere_chat", {"messages": [{"role": "user", "content": "hello"}], "stream": True}, "stream"),
    ],
)
def test_what_a_provider_does_not_have_is_refused_by_its_name(path: str, provider: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        parse(path, json.dumps(body).encode(), provider, TAKES)
    assert refused.value.param == param
    assert parse(EMBEDDINGS, b'{"input": "one"}', provider, TAKES).fields == {"input": ["one"]}


def test_usage_is_none_where_no_prompt_was_counted() -> None:
    assert usage_of({"prompt_tokens": 0, "completion_tokens": 5, "total_tokens": 5}) is None
    assert usage_of({}) is None
    told = usage_of({"prompt_tokens": 9, "completion_tokens": 0, "cache_creation_input_tokens": 4})
    assert told is not None
    assert told["cache_creation"] == {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 0}


@pytest.mark.parametrize(
    ("status", "said", "expected", "message", "code"),
    [
        (400, {"error": {"message": "Your credit balance is too low."}}, 402, "Your credit", "insufficient_quota"),
        (400, [{"error": {"code": 400, "message": "API key not valid.", "status": "X"}}], 401, "API key", "invalid_api_key"),
        (400, {"message": "from Bedrock"}, 400, "from Bedrock", None),
        (404, {"error": "model 'x' not found"}, 404, "model 'x' not found", None),
        (500, "plain", 500, "The provider refused the request with status 500.", None),
        (429, {"error": {"message": "slow", "code": "rate_limited"}}, 429, "slow", "rate_limited"),
        (403, {"message": "no, made-up-secret-key has no rights"}, 403, "no, [removed] has no rights", None),
    ],
)
def test_a_refusal_is_told_in_openais_shape(status: int, said: Any, expected: int, message: str, code: str | None) -> None:
    found, body = provider_refusal(status, json.dumps(said).encode(), None, ["made-up-secret-key", "eu-west-1"])
    error = json.loads(body)["error"]
    assert (found, error["code"]) == (expected, code)
    assert error["message"].startswith(message)

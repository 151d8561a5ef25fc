import contextlib
import sys
from typing import Any

import msgspec
import pytest

from gateway.core.errors import GatewayError, InvalidRequest, RateLimited
from gateway.core.limits import JSON_NODES_MAX
from gateway.providers.model import Deployment
from gateway.proxy import chat, wire
from gateway.proxy.audio import Speech
from gateway.proxy.images import Generations
from gateway.proxy.messages import Messages
from gateway.proxy.ranking import Moderations, Rerank
from gateway.proxy.surface import Request, Surface

SURFACES = {surface.path: surface for surface in (chat.Chat(), chat.Completions(), chat.Embeddings())}
GOOD = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def deployment(model: str, cap_field: str = "max_tokens") -> Deployment:
    return Deployment("d", "openai", model, "http://127.0.0.1:1/v1", "", output_cap_field=cap_field)


def outgoing(body: Any, cap: int) -> bytes:
    return chat.Chat().outgoing(parse(body), deployment("m", "max_completion_tokens"), cap)


def parse(body: Any, endpoint: str = chat.CHAT) -> Request:
    return SURFACES[endpoint].parse(msgspec.json.encode(body), b"application/json")


BAD: list[tuple[str, Any, str | None]] = [
    ("a list", [], None),
    ("a number", 7, None),
    ("no model", {"messages": GOOD["messages"]}, "model"),
    ("model of another type", {**GOOD, "model": 7}, "model"),
    ("an empty model", {**GOOD, "model": ""}, "model"),
    ("an endless model", {**GOOD, "model": "m" * 300}, "model"),
    ("no messages", {"model": "m"}, "messages"),
    ("empty messages", {"model": "m", "messages": []}, "messages"),
    ("messages as text", {"model": "m", "messages": "hi"}, "messages"),
    ("a message as text", {"model": "m", "messages": ["hi"]}, "messages[0]"),
    ("a message without a role", {"model": "m", "messages": [{"content": "hi"}]}, "messages[0]"),
    ("too many messages", {"model": "m", "messages": [{"role": "user"}] * 10_001}, "messages"),
    ("stream as a number", {**GOOD, "stream": 1}, "stream"),
    ("stream options without a stream", {**GOOD, "stream_options": {"include_usage": True}}, "stream_options"),
    ("stream options as a list", {**GOOD, "stream": True, "stream_options": []}, "stream_options"),
    ("a negative cap", {**GOOD, "max_tokens": -1}, "max_tokens"),
    ("a cap of zero", {**GOOD, "max_tokens": 0}, "max_tokens"),
    ("a cap as text", {**GOOD, "max_completion_tokens": "5"}, "max_completion_tokens"),
    ("an absurd cap", {**GOOD, "max_tokens": 10**12}, "max_tokens"),
    ("a true cap", {**GOOD, "max_tokens": True}, "max_tokens"),
    ("a service tier that is no name", {**GOOD, "service_tier": 1}, "service_tier"),
    ("two service tiers", {**GOOD, "service_tier": "flex|priority"}, "service_tier"),
    ("a dearer country", {**GOOD, "inference_geo": "us"}, "inference_geo"),
    ("a search with a fee", {**GOOD, "search_parameters": {"mode": "on"}}, "search_parameters"),
    ("another server's price", {**GOOD, "provider": {"order": ["dear"]}}, "provider"),
    ("a tool of the provider", {**GOOD, "tools": [{"type": "function"}, {"type": "web_search"}]}, "tools[1]"),
    ("a tool of no type", {**GOOD, "tools": [{"type": ["function"]}]}, "tools[0]"),
    ("a provider's tool without a type", {**GOOD, "tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
    ("one called a function", {**GOOD, "tools": [{"type": "function", "googleSearch": {}}]}, "tools[0].googleSearch"),
    ("one among functions", {**GOOD, "functions": [{"name": "f"}, {"urlContext": {}}]}, "functions[1].urlContext"),
    ("one beside a function", {**GOOD, "tools": [{"function": {}, "systemTool": {}}]}, "tools[0].systemTool"),
    ("tools that are no list", {**GOOD, "tools": {"0": {"type": "web_search"}}}, "tools"),
    ("a tool that is no object", {**GOOD, "tools": ["web_search"]}, "tools[0]"),
    ("another model", {**GOOD, "fallbacks": ["dear"]}, "fallbacks"),
    ("another server", {**GOOD, "api_base": "http://127.0.0.1:1"}, "api_base"),
    ("another key", {**GOOD, "api_key": "sk-other"}, "api_key"),
    ("another provider", {**GOOD, "custom_llm_provider": "dear"}, "custom_llm_provider"),
    ("another server below", {**GOOD, "extra_body": {"api_base": "http://127.0.0.1:1"}}, "extra_body"),
    ("another cap below", {**GOOD, "max_tokens": 1, "extra_body": {"google": {}, "max_tokens": 10**6}}, "extra_body"),
    ("more below, as text", {**GOOD, "extra_body": '{"models": ["dear"]}'}, "extra_body"),
    ("another account", {**GOOD, "organization": "org-other"}, "organization"),
    ("another's files", {**GOOD, "vector_store_ids": ["vs_1"]}, "vector_store_ids"),
    ("a fallback as a test", {**GOOD, "mock_testing_fallbacks": True}, "mock_testing_fallbacks"),
    ("an answer that nobody made", {**GOOD, "mock_response": ""}, "mock_response"),
    ("zero choices", {**GOOD, "n": 0}, "n"),
    ("too many choices", {**GOOD, "n": 129}, "n"),
    ("fractional choices", {**GOOD, "n": 1.5}, "n"),
]


@pytest.mark.parametrize(("body", "param"), [(b, p) for _, b, p in BAD], ids=[name for name, _, _ in BAD])
def test_a_malformed_request_is_one_error_that_names_the_field(body: Any, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(body)
    assert refused.value.status == 400
    assert refused.value.param == param


@pytest.mark.parametrize("raw", [b"", b"{", b"nope", b'{"model": "\xff"}', b"\x00", b'{"model":"m"} trailing', b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        chat.Chat().parse(raw, b"")


def test_the_callers_own_tools_and_a_search_that_is_off_pass() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "c"}}, {"name": "old"}]
    assert parse({**GOOD, "tools": tools, "enable_search": False, "plugins": None}).body["tools"] == tools


def test_googles_own_part_of_a_request_passes() -> None:
    extra = {"google": {"thinking_config": {"include_thoughts": True}}}
    assert parse({**GOOD, "extra_body": extra}).body["extra_body"] == extra


@pytest.mark.parametrize("number", [b"1e300", b"9.5367431640625e-310"])
@pytest.mark.parametrize("count", [2_000, 199_000, 201_000])
def test_decimals_that_are_hard_to_read_hold_nobody_up(number: bytes, count: int) -> None:
    raw = b'{"model":"m","messages":[{"role":"user"}],"x":[' + b",".join([number] * count) + b"]}"
    read = 0

    def reading(frame: Any, event: str, arg: Any) -> None:
        nonlocal read
        read += event == "call" and frame.f_code is wire.read_float.__code__

    sys.setprofile(reading)
    try:
        with contextlib.nullcontext() if count < JSON_NODES_MAX else pytest.raises(InvalidRequest, match="decimals"):
            request = chat.Chat().parse(raw, b"")
            assert set(request.body["x"]) == {float(number)}
    finally:
        sys.setprofile(None)
    assert read == min(count, JSON_NODES_MAX), "none by the decoder's own slow path, and no more than the bound"


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1e309"])
def test_a_decimal_that_is_out_of_range_is_refused(number: bytes) -> None:
    with pytest.raises(InvalidRequest, match="out of range"):
        chat.Chat().parse(b'{"model":"m","messages":[{"role":"user"}],"temperature":' + number + b"}", b"")


def test_another_media_type_is_refused() -> None:
    with pytest.raises(GatewayError) as refused:
        chat.Chat().parse(msgspec.json.encode(GOOD), b"multipart/form-data; boundary=x")
    assert refused.value.status == 415


def test_what_is_sent_upstream_is_what_was_understood() -> None:
    raw = b'{"model":"cheap","max_tokens":1,"messages":[{"role":"user","content":"x"}],"max_tokens":100000,"model":"dear"}'
    request = chat.Chat().parse(raw, b"")
    sent = request.surface.outgoing(request, deployment(request.model), None)
    assert sent.count(b'"max_tokens"') == 1
    assert msgspec.json.decode(sent)["max_tokens"] == request.output_cap
    assert msgspec.json.decode(sent)["model"] == request.model


def test_the_larger_of_two_caps_counts() -> None:
    assert parse({**GOOD, "max_tokens": 5, "max_completion_tokens": 9}).output_cap == 9


def test_a_batch_of_prompts_is_that_many_choices() -> None:
    body = {"model": "m", "prompt": ["a", "b", "c"], "n": 2}
    assert parse(body, chat.COMPLETIONS).choices == 6
    assert parse({"model": "m", "prompt": [1, 2, 3]}, chat.COMPLETIONS).choices == 1
    assert parse({"model": "m", "prompt": "a", "best_of": 4}, chat.COMPLETIONS).choices == 4


def test_unknown_fields_reach_the_upstream_and_usage_is_asked_for() -> None:
    body = {**GOOD, "stream": True, "stream_options": {"x": 1}, "logit_bias": {"5": -100}, "vendor": [1, 2.5, None]}
    request = parse(body)
    sent = msgspec.json.decode(request.surface.outgoing(request, deployment("upstream-name"), None))
    assert sent == {**body, "model": "upstream-name", "stream_options": {"x": 1, "include_usage": True}}
    assert not request.wants_usage


def test_a_cap_replaces_the_clients_own_field_or_takes_the_deployments() -> None:
    assert msgspec.json.decode(outgoing({**GOOD, "max_tokens": 9}, 4))["max_tokens"] == 4
    assert msgspec.json.decode(outgoing(GOOD, 4))["max_completion_tokens"] == 4


def test_tags_come_from_headers_first_and_leave_the_metadata() -> None:
    body: dict[str, Any] = {
        "metadata": {"workflow_type": "a", "agent_name": "b", "tags": "x, y", "platform_user_id": "u", "own": "1"}
    }
    tags = wire.read_tags({b"x-workflow-type": b"from-header"}, body)
    assert tags == wire.Tags("from-header", "", "b", ("x", "y"))
    assert body == {"metadata": {"own": "1"}}
    body = {"metadata": {"session_id": "s"}}
    assert wire.read_tags({}, body).session_id == "s"
    assert body == {}


@pytest.mark.parametrize(
    "body", [{"metadata": {"tags": ["x"] * 17}}, {"metadata": {"tags": [1]}}, {"metadata": {"agent_name": "x" * 129}}]
)
def test_absurd_tags_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        wire.read_tags({}, body)


def test_an_error_renders_with_its_details_and_its_wait() -> None:
    error = RateLimited("slow down", retry_after_s=1.2, should_retry=False, details={"limit_source": "key"})
    assert msgspec.json.decode(wire.error_body(error, "req_1"))["error"] == {
        "message": "slow down",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
        "request_id": "req_1",
        "limit_source": "key",
    }
    headers = dict(wire.error_headers(error))
    assert headers[b"retry-after"] == b"2"
    assert headers[b"x-should-retry"] == b"false"


def test_who_serves_is_no_requests_to_say_on_any_surface_and_nothing_where_it_says_nothing() -> None:
    asked: list[tuple[Surface, dict[str, Any]]] = [
        (chat.Chat(), GOOD),
        (chat.Completions(), {"model": "m", "prompt": "x"}),
        (chat.Embeddings(), {"model": "m", "input": "x"}),
        (Messages(), {**GOOD, "max_tokens": 5}),
        (Generations(lambda _: None, bool), {"model": "m", "prompt": "x"}),
        (Speech(lambda _: None, bool), {"model": "m", "input": "x", "voice": "v"}),
        (Moderations(lambda _: None, bool), {"model": "m", "input": "x"}),
        (Rerank(lambda _: None, bool), {"model": "m", "query": "x", "documents": ["y"]}),
    ]
    for surface, body in asked:
        with pytest.raises(InvalidRequest) as refused:
            surface.parse(msgspec.json.encode({**body, "base_url": "http://127.0.0.1:1"}), b"application/json")
        assert refused.value.param == "base_url"
        silent = surface.parse(msgspec.json.encode({**body, "base_url": None, "fallbacks": False}), b"application/json")
        assert not silent.body.keys() & {"base_url", "fallbacks"}

"""Requests in Anthropic's dialect as the exchange sees them, and failures as its clients read them."""

from typing import Any

import msgspec
import pytest

from gateway.core.errors import (
    BodyTooLarge,
    Forbidden,
    GatewayError,
    InvalidRequest,
    NotFound,
    PaymentRequired,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.core.units import Usage
from gateway.providers.model import Deployment
from gateway.proxy import refusals
from gateway.proxy.anthropic_errors import error_body, error_event
from gateway.proxy.messages import Messages, surface_of
from gateway.proxy.surface import Request

HI: list[Any] = [{"role": "user", "content": "hi"}]
DEPLOYMENT = Deployment("m/anthropic/0", "anthropic", "claude", "", "sk-ant", input_tokens_max=1000)


def parse(surface: Messages | None = None, **fields: Any) -> Request:
    body = {"model": "m", "max_tokens": 5000, "messages": HI, **fields}
    return (surface or Messages()).parse(msgspec.json.encode(body), b"application/json")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0]"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0]"),
        ({"messages": [*HI, {"role": "user"}]}, "messages[1].content"),
        ({"stream": 1}, "stream"),
        ({"tools": {}}, "tools"),
        ({"tools": ["a"]}, "tools[0]"),
        ({"tools": [{"name": "a"}, {"type": "web_search_20260209"}]}, "tools[1].type"),
        ({"tools": [{"type": "web_search_20250305"}, {"type": "web_search_20250305"}]}, "tools[1]"),
        ({"tools": [{"type": "web_search_20250305", "max_uses": 0}]}, "tools[0].max_uses"),
        ({"tools": [{"type": "web_fetch_20250910", "max_uses": "3"}]}, "tools[0].max_uses"),
        ({"tools": [{"type": "code_execution_20250825"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp_toolset"}]}, "tools[0].type"),
        ({"tools": [{"type": "bash_20250124_x"}]}, "tools[0].type"),
        ({"tools": [{"type": ["bash_20250124"]}]}, "tools[0].type"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"models": ["dear"]}, "models"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"provider": {"order": ["dear"]}}, "provider"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"anthropic_beta": ["context-1m-2025-08-07"]}, "anthropic_beta"),
        ({"anthropic_beta": ["fast-mode-2026-02-01"]}, "anthropic_beta"),
        ({"anthropic_beta": "code-execution-2025-05-22,skills-2025-10-02"}, "anthropic_beta"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management.edits[0].type"),
        ({"n": 2}, "n"),
        ({"max_completion_tokens": 9}, "max_completion_tokens"),
        ({"prompt": "hi"}, "prompt"),
    ],
)
def test_what_is_wrong_or_has_no_price_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(**fields)
    assert refused.value.param == param


def test_tools_that_the_client_runs_are_allowed() -> None:
    kinds = ["custom", None, "bash_20250124", "text_editor_20250728", "computer_20250124", "memory_20250818"]
    kinds += ["computer_toolset_20260801", "browser_toolset_20260801"]
    asked = parse(tools=[{"type": kind, "name": "t"} for kind in kinds], service_tier="standard_only", speed=None)
    assert len(asked.body["tools"]) == len(kinds)


def test_headers_of_this_dialect_go_on_where_they_are_known_to_be_harmless() -> None:
    asked = parse(surface_of({b"anthropic-version": b"2026-10-21", b"anthropic-beta": b"a-1, b-2"}))
    assert asked.headers == (("anthropic-version", "2026-10-21"), ("anthropic-beta", "a-1,b-2"))
    assert parse(surface_of({})).headers == ()
    for version, betas in (
        ("2023-6-1", ""), ("2023-06-01\r\nx: y", ""), ("", "a\r\nx: y"), ("", "A_b"), ("", ",".join(["a"] * 40)),
        ("", "fast-mode-2026-02-01"), ("", "a-1,compact-2026-01-12"), ("", "mcp-client-2025-11-20"),
        ("", "web-search-2026-02-09"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest) as refused:
            parse(Messages(version, betas))
        assert refused.value.param == ("anthropic-version" if version else "anthropic-beta")


def test_the_bound_ends_where_the_model_ends_but_for_those_who_ask_for_more() -> None:
    long: Any = [{"role": "user", "content": "x" * 5000}]
    surface = Messages()
    assert surface.bound(parse(surface, messages=long), DEPLOYMENT) == 1000
    longer = Messages(betas="context-1m-2025-08-07")
    assert longer.bound(parse(longer, messages=long), DEPLOYMENT) > 5000


def test_the_cap_is_the_clients_until_the_wallet_covers_less_and_thinking_stays_below_it() -> None:
    surface = Messages()
    asked = parse(surface, thinking={"type": "enabled", "budget_tokens": 4000}, new_field=[1])
    assert surface.most(asked, DEPLOYMENT) == 5000
    assert surface.most(parse(max_tokens=0), DEPLOYMENT) == 0  # asks for the prompt to be cached
    sent = msgspec.json.decode(surface.outgoing(asked, DEPLOYMENT, None))
    assert (sent["model"], sent["max_tokens"], sent["new_field"]) == ("claude", 5000, [1])
    sent = msgspec.json.decode(surface.outgoing(asked, DEPLOYMENT, 2000))
    assert (sent["max_tokens"], sent["thinking"]["budget_tokens"]) == (2000, 1999)


def test_all_shows_but_where_it_thinks() -> None:
    assert parse(stream=True).shows
    assert parse(stream=True, thinking={"type": "disabled"}).shows
    assert not parse().shows
    assert not parse(stream=True, thinking={"type": "adaptive"}).shows


def test_a_whole_answer_tells_its_usage_and_its_text() -> None:
    surface = Messages()
    blocks = [
        {"type": "thinking", "thinking": "Hm. "}, {"type": "text", "text": "Hi. "}, 5,
        {"type": "tool_use", "name": "f", "input": {"a": 1}},
    ]  # fmt: skip
    body = msgspec.json.encode({"content": blocks, "usage": {"input_tokens": 3, "output_tokens": 2}})
    assert surface.text(body) == 'Hm. Hi. f{"a":1}'
    assert surface.measured(surface.told(body), parse(), DEPLOYMENT) == (Usage(input=3, output=2), ())
    assert surface.told(b'{"usage": {"input_tokens": 0, "output_tokens": 0}}') is None
    assert surface.measured(surface.told(b'{"usage": 5}'), parse(), DEPLOYMENT) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x"), "invalid_request_error"),
        (Unauthenticated("x"), "authentication_error"),
        (PaymentRequired("x"), "billing_error"),
        (Forbidden("x"), "permission_error"),
        (NotFound("x"), "not_found_error"),
        (BodyTooLarge("x"), "request_too_large"),
        (RateLimited("x"), "rate_limit_error"),
        (GatewayError("x"), "api_error"),
        (UpstreamFailed("x"), "api_error"),
        (UpstreamFailed("x", details={"upstream_status": 529}), "overloaded_error"),
        (Unavailable("x"), "overloaded_error"),
        (UpstreamTimeout("x"), "timeout_error"),
    ],
)
def test_failures_have_the_types_that_clients_know(error: GatewayError, kind: str) -> None:
    said = msgspec.json.decode(error_body(error, "req_1"))
    assert (said["type"], said["request_id"]) == ("error", "req_1")
    assert (said["error"]["type"], said["error"]["message"], said["error"]["code"]) == (kind, "x", error.code)
    assert error_event(error, "req_1") == b"event: error\ndata: " + error_body(error, "req_1") + b"\n\n"


def test_details_stand_inside_the_error_and_replace_nothing() -> None:
    error = PaymentRequired("x", param="p", details={"balance": "1.5", "type": "mine"})
    said = msgspec.json.decode(error_body(error, "req_1"))["error"]
    assert (said["balance"], said["param"], said["type"]) == ("1.5", "p", "billing_error")


def test_the_gateways_own_empty_account_is_not_the_callers_to_mend() -> None:
    words = b'{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access"}}'
    error = refusals.answer_error(400, {}, words, DEPLOYMENT, 1)
    assert (error.status, "credit" in error.message) == (502, False)
    mended = refusals.answer_error(400, {}, words.replace(b"credit balance", b"max_tokens"), DEPLOYMENT, 1)
    assert (mended.status, mended.message) == (400, "Your max_tokens is too low to access")

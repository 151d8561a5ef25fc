"""Every kind of bad input is one clear JSON error; nothing is held, nothing is charged."""

import json
from typing import Any

import httpx
import pytest

from tests.path.conftest import OPERATOR, Stack

MESSAGES = [{"role": "user", "content": "hi"}]
GOOD = {"model": "ok", "messages": MESSAGES}


@pytest.fixture(scope="module")
def caller(stack: Stack) -> tuple[Stack, str, str]:
    app = stack.app(end_user_sources=["x-platform-user-id", "user"])
    stack.fund(app, "ann", 1_000_000)
    return stack, app, stack.key(app)


ROWS: list[tuple[str, bytes | dict[str, Any], dict[str, str], int, str, str | None]] = [
    ("malformed JSON", b'{"model": ', {}, 400, "invalid_request", None),
    ("nothing at all", b"", {}, 400, "invalid_request", None),
    ("broken UTF-8", b'{"model":"ok","messages":[{"role":"user","content":"\xff\xfe"}]}', {}, 400, "invalid_request", None),
    ("a JSON list", b"[]", {}, 400, "invalid_request", None),
    ("depth without end", b"[" * 200_000, {}, 400, "invalid_request", None),
    (
        "another media type",
        json.dumps(GOOD).encode(),
        {"content-type": "text/plain"},
        415,
        "unsupported_media_type",
        "content-type",
    ),
    ("an oversized body", b'{"model":"ok","x":"' + b"a" * 17_000_000 + b'"}', {}, 413, "body_too_large", None),
    ("no model", {"messages": MESSAGES}, {}, 400, "invalid_request", "model"),
    ("an empty list of messages", {"model": "ok", "messages": []}, {}, 400, "invalid_request", "messages"),
    ("a negative cap", {**GOOD, "max_tokens": -5}, {}, 400, "invalid_request", "max_tokens"),
    ("absurd choices", {**GOOD, "n": 10**9}, {}, 400, "invalid_request", "n"),
    ("an unpriced model", {**GOOD, "model": "unpriced-model"}, {}, 402, "unpriced_model", "model"),
    ("no key", GOOD, {"authorization": ""}, 401, "invalid_api_key", None),
    ("another scheme", GOOD, {"authorization": "Basic abc"}, 401, "invalid_api_key", None),
    (
        "a forged key",
        GOOD,
        {"authorization": "Bearer mzk_live_01m8242g3f9n06vfsmq3vsp8ah_AAAAAAAAAAAAAAAAAAAAAAAAA"},
        401,
        "invalid_api_key",
        None,
    ),
    ("a key of another product", GOOD, {"authorization": "Bearer sk-made-up"}, 401, "invalid_api_key", None),
    ("a key that is no text", GOOD, {"authorization": "Bearer \xff\xfe"}, 401, "invalid_api_key", None),
    ("no end user", GOOD, {"x-platform-user-id": ""}, 400, "", None),
    (
        "an end user from a source that the app does not accept",
        GOOD,
        {"x-platform-user-id": "", "helicone-user-id": "ann"},
        400,
        "",
        None,
    ),
    ("an end user that is no id", GOOD, {"x-platform-user-id": "a/b c"}, 400, "invalid_request", None),
    ("tags without end", GOOD, {"x-tags": ",".join("x" * 20)}, 400, "invalid_request", "tags"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code", "param"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_bad_input(
    caller: tuple[Stack, str, str], body: Any, headers: dict[str, str], status: int, code: str, param: str | None
) -> None:
    stack, app, key = caller
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-platform-user-id": "ann", **headers}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items() if value]
    answer = httpx.post(stack.url + "/v1/chat/completions", content=content, headers=raw, timeout=60)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["message"]
    if code:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    wallet = stack.wallet(app, "ann")
    assert (wallet["available_micro"], wallet["held_micro"]) == (1_000_000, 0)
    assert stack.get(f"/apps/{app}/usage-events")["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/models", 405),
        ("GET", "/v1/usage/req_nothing", 404),
    ],
)
def test_a_path_or_method_that_is_not_there_is_a_json_error(
    caller: tuple[Stack, str, str], method: str, path: str, status: int
) -> None:
    stack, _, key = caller
    answer = httpx.request(method, stack.url + path, headers={"authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code == status
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "x-platform-user-id", "x-portkey-metadata"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/balance")])
def test_who_is_calling_is_said_once(caller: tuple[Stack, str, str], method: str, path: str, name: str) -> None:
    stack, app, key = caller
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-platform-user-id": "ann"}
    for other in ("Bearer other", sent.get(name, "")):
        headers = [(name, other), *sent.items(), *([] if name in sent else [(name, "x")])]
        answer = httpx.request(method, stack.url + path, content=json.dumps(GOOD).encode(), headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert stack.wallet(app, "ann")["available_micro"] == 1_000_000


@pytest.mark.parametrize("name", ["authorization", "idempotency-key"])
def test_a_manager_says_once_who_is_calling_and_which_request_it_is(caller: tuple[Stack, str, str], name: str) -> None:
    stack, app, _ = caller
    sent = {"authorization": f"Bearer {OPERATOR}", "idempotency-key": "twice"}
    body = {"wallet": {"enterprise_id": app, "platform_user_id": "ann"}, "amount_micro": 5}
    answer = httpx.post(stack.url + "/api/v1/grants", json=body, headers=[*sent.items(), (name, "other")], timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert stack.wallet(app, "ann")["available_micro"] == 1_000_000

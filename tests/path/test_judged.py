"""What the gateway sends to providers and gives to clients, held against the providers' own descriptions of their APIs."""

import json
from typing import Any

import httpx
import pytest

from tests.judge import judge
from tests.path.conftest import Stack

TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CONVERSATION: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]},
    {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
]
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"x": {"type": "string"}}}, "strict": True},
}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a plain chat": ("/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    "a chat with everything": (
        "/chat/completions",
        {
            "messages": CONVERSATION, "tools": [TOOL], "tool_choice": "auto", "response_format": FORMAT, "temperature": 0.2,
            "top_p": 0.9,
            "n": 2, "stop": ["x"], "seed": 7, "user": "ann", "metadata": {"workflow_type": "w", "session_id": "s", "own": "kept"},
            "parallel_tool_calls": False, "max_completion_tokens": 30, "logprobs": True, "top_logprobs": 2,
        },
    ),
    "tags alone": ("/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "metadata": {"workflow_type": "w"}}),
    "a text completion": ("/completions", {"prompt": "once upon"}),
    "embeddings": ("/embeddings", {"input": ["a", "b"], "encoding_format": "float"}),
}  # fmt: skip


HTTP = httpx.Client(timeout=60)


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    app = stack.app(name="judged")
    stack.fund(app, "ann", 100_000_000)
    return stack.key(app)


def sent_upstream(stack: Stack) -> tuple[str, dict[str, Any]]:
    last = HTTP.get(stack.upstream_url.removesuffix("/v1") + "/journal").json()["requests"][-1]
    return last["path"].removeprefix("/v1"), last["body"]


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_goes_upstream_and_what_comes_back_are_as_openai_describes_them(
    stack: Stack, key: str, name: str, streamed: bool
) -> None:
    path, fields = REQUESTS[name]
    if path == "/embeddings" and streamed:
        pytest.skip("embeddings are not streamed")
    asked = {"model": "tools" if "tools" in fields else "ok", **fields, **({"stream": True} if streamed else {})}
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": "ann", "x-include-cost": "true"}
    answer = HTTP.post(f"{stack.url}/v1{path}", json=asked, headers=headers)
    assert answer.status_code == 200, answer.text
    openai = judge("openai")
    sent_to, sent = sent_upstream(stack)
    assert sent_to == path
    assert openai.request(path, sent) == []
    assert "workflow_type" not in json.dumps(sent)
    if not streamed:
        assert openai.answer(path, answer.json()) == []
        return
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    for event in events[:-1]:
        assert openai.event(path, json.loads(event)) == [], event
    assert json.loads(events[-2])["usage"]["cost"] > 0


def test_refusals_are_as_openai_describes_them(stack: Stack, key: str) -> None:
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": "ann"}
    for body, status in (({"model": "ok"}, 400), ({"model": "status:500", "messages": [{"role": "user", "content": "x"}]}, 502)):
        answer = HTTP.post(stack.url + "/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == status
        assert judge("openai").error("ErrorResponse", answer.json()) == []


def test_the_judge_sees_what_is_wrong() -> None:
    openai = judge("openai")
    good: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert openai.request("/chat/completions", good) == []
    assert openai.request("/chat/completions", {**good, "workflow_type": "w"}) == ["unknown field workflow_type"]
    assert openai.request("/chat/completions", {**good, "max_tokens": "many"}) != []
    assert openai.request("/chat/completions", {**good, "messages": [{"role": "nobody", "content": "x"}]}) != []
    assert openai.answer("/chat/completions", {"choices": []}) != []
    assert openai.event("/chat/completions", {"choices": [{"delta": {"content": 7}}]}) != []
    assert openai.answer("/embeddings", {"object": "list", "model": "m", "data": [{}], "usage": None}) != []

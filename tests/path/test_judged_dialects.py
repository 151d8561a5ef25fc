"""Responses, Messages and media: what goes upstream and what clients get, held against OpenAI's and Anthropic's descriptions."""

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.judge import judge
from tests.path.conftest import PRICED, Process, Stack, plain_env, start_gateway
from tests.scripted_media import wave

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
MEDIA_MODELS = ("gpt-image-1", "tts-1", "gpt-4o-mini-tts", "whisper-1", "gpt-4o-transcribe", "omni-moderation-latest")
EVERYTHING = {"input": "1", "cached_input": "0.1", "cache_write": "1", "cache_write_1h": "2", "output": "10"}


HTTP = httpx.Client(timeout=60)


@dataclass
class House:
    stack: Stack
    urls: dict[str, str]
    key: str

    def post(self, path: str, **given: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}", "x-platform-user-id": "ann", "x-include-cost": "true"}
        return HTTP.post(f"{self.stack.url}/v1{path}", headers=headers, **given)

    def sent(self, upstream: str) -> dict[str, Any]:
        """The last request that one of the scripted providers got."""
        found = HTTP.get(self.urls[upstream] + "/journal").json()
        last: dict[str, Any] = (found if isinstance(found, list) else found["requests"])[-1]
        return last


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream_url: str) -> Iterator[House]:
    names = ("scripted_responses", "scripted_dialects", "scripted_media")
    folder = tmp_path_factory.mktemp("judged")
    commands = {name: [sys.executable, "-m", f"tests.{name}", "--port", "0"] for name in names}
    started = {name: Process(command, plain_env(), folder / name) for name, command in commands.items()}
    stack = None
    try:
        urls = {name: "http://127.0.0.1:" + process.wait_for(r"port (\d+)").group(1) for name, process in started.items()}
        urls["scripted_upstream"] = upstream_url.removesuffix("/v1")

        def model(name: str, upstream: str, prices: Any = None, **more: Any) -> dict[str, Any]:
            given = {"provider": "openai", "model": name, "api_base": urls[upstream] + "/v1", "api_key": "sk-made-up", **more}
            return {"name": name, "deployments": [given], **({"prices": prices} if prices else {})}

        native = model("native/*", "scripted_responses", EVERYTHING, model="*", speaks=["responses"], output_tokens_max=1000)
        claude = model("claude-sonnet-4-5", "scripted_dialects", EVERYTHING, provider="anthropic")
        chats = model("*", "scripted_upstream", PRICED, model="*", output_tokens_max=1000, hidden_reasoning=True)
        media = [model(name, "scripted_media") for name in MEDIA_MODELS]
        stack = start_gateway(folder, upstream_url, more_models=[native, claude, {**chats, "name": "chat/*"}, *media])
        app = stack.app()
        stack.fund(app, "ann", 100_000_000)
        yield House(stack, urls, stack.key(app))
    finally:
        if stack is not None:
            stack.admin.close()
            stack.process.stop()
        for process in started.values():
            process.stop()


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


# ---- Responses -----------------------------------------------------------------------------------

FUNCTION: dict[str, Any] = {"type": "function", "name": "weather", "description": "It.", "parameters": SCHEMA, "strict": True}
TALK: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"},
    ]},
    {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
     "content": [{"type": "output_text", "text": "A pixel.", "annotations": [], "logprobs": []}]},
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
]  # fmt: skip
RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {"input": "say it"},
    "everything": {
        "input": TALK, "instructions": "Answer in English.", "max_output_tokens": 50, "temperature": 0.5, "top_p": 0.9,
        "text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}, "user": "ann",
        "parallel_tool_calls": False, "store": False,
        "reasoning": {"effort": "low"}, "service_tier": "auto",
    },
    "a tool": {"input": "use it", "tools": [FUNCTION], "tool_choice": "auto"},
    "a tool that must": {"input": "use it", "tools": [FUNCTION], "tool_choice": {"type": "function", "name": "weather"}},
    "reasoning": {"input": "think"},
    "cut": {"input": "x", "max_output_tokens": 17},
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", RESPONSES)
@pytest.mark.parametrize("by", ["native", "chat"])
def test_responses_are_as_openai_describes_them(house: House, by: str, case: str, streamed: bool) -> None:
    scripts = {"a tool": "tools", "a tool that must": "tools", "reasoning": "reasoning"}
    model = f"{by}/{scripts.get(case, 'ok')}"
    tags = {"metadata": {"workflow_type": "w", "own": "kept"}}
    answer = house.post("/responses", json={"model": model, **RESPONSES[case], **tags, **({"stream": True} if streamed else {})})
    assert answer.status_code == 200, answer.text
    openai = judge("openai")
    path = "/responses" if by == "native" else "/chat/completions"
    sent = house.sent("scripted_responses" if by == "native" else "scripted_upstream")
    assert sent["path"] == "/v1" + path
    for item in sent["body"].get("input", ()):
        if isinstance(item, dict) and item.get("role") == "assistant":
            assert "id" not in item  # required there, and taken out here: it may name what others have stored
            item["id"] = "msg_1"
    assert openai.request(path, sent["body"]) == []
    assert "workflow_type" not in json.dumps(sent["body"])
    if not streamed:
        assert openai.answer("/responses", answer.json()) == []
        return
    events = events_of(answer)
    for event in events:
        assert openai.event("/responses", event) == [], event
    assert events[-1]["response"]["usage"]["cost"] > 0
    assert openai.answer("/responses", events[-1]["response"]) == []


# ---- Messages ------------------------------------------------------------------------------------

TOOL: dict[str, Any] = {"name": "weather", "description": "It.", "input_schema": SCHEMA}
TURNS: list[Any] = [
    {"role": "user", "content": [
        {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
    ]},
    {"role": "assistant", "content": [
        {"type": "text", "text": "I look."}, {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
    ]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "rain"}], "is_error": True},
        {"type": "text", "text": "Well?"},
    ]},
]  # fmt: skip
MESSAGES: dict[str, dict[str, Any]] = {
    "plain": {"messages": [{"role": "user", "content": "hi"}]},
    "everything": {
        "messages": TURNS, "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}, "stop_sequences": ["STOP"],
        "temperature": 0.5, "top_p": 0.9, "metadata": {"user_id": "ann"},
    },
    "a tool": {"messages": [{"role": "user", "content": "do:tools"}], "tools": [TOOL], "tool_choice": {"type": "any"}},
    "a tool that must": {
        "messages": [{"role": "user", "content": "do:tools"}], "tools": [TOOL],
        "tool_choice": {"type": "tool", "name": "weather"},
    },
    "thinking": {
        "messages": [{"role": "user", "content": "do:thinking"}], "thinking": {"type": "enabled", "budget_tokens": 1024},
        "max_tokens": 2000,
    },
    "cut": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "structured": {
        "messages": [{"role": "user", "content": "do:json"}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
}  # fmt: skip


def with_callers(said: dict[str, Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """A call of a tool that is made of a chat's does not say that the model called it: not every server takes that back."""
    for block in blocks:
        if block["type"] == "tool_use":
            block.setdefault("caller", {"type": "direct"})
    return said


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", MESSAGES)
@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "chat/ok"])
def test_messages_are_as_anthropic_describes_them(house: House, model: str, case: str, streamed: bool) -> None:
    if model == "chat/ok" and case.startswith("a tool"):
        model = "chat/tools"
    asked = {"model": model, "max_tokens": 100, **MESSAGES[case], **({"stream": True} if streamed else {})}
    answer = house.post("/messages", json=asked)
    assert answer.status_code == 200, answer.text
    anthropic = judge("anthropic")
    if model == "claude-sonnet-4-5":
        assert anthropic.request("/v1/messages", house.sent("scripted_dialects")["body"]) == []
    else:
        assert judge("openai").request("/chat/completions", house.sent("scripted_upstream")["body"]) == []
    if not streamed:
        message = answer.json()
        assert anthropic.answer("/v1/messages", with_callers(message, message["content"])) == []
    else:
        events = events_of(answer)
        for event in events:
            if event != {"type": "ping"}:  # it has no schema
                block = event.get("content_block")
                assert anthropic.event("/v1/messages", with_callers(event, [block] if block else [])) == [], event
        assert [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")] == [each["type"] for each in events]
        message = events[0]["message"]
        assert events[-2]["usage"]["cost"] > 0
    assert message["id"].startswith("msg_")


def test_a_count_of_tokens_and_refusals_are_as_anthropic_describes_them(house: House) -> None:
    anthropic = judge("anthropic")
    for model in ("claude-sonnet-4-5", "chat/ok"):
        answer = house.post("/messages/count_tokens", json={"model": model, "messages": TURNS, "tools": [TOOL]})
        assert answer.status_code == 200, answer.text
        assert anthropic.answer("/v1/messages/count_tokens", answer.json()) == []
    assert anthropic.request("/v1/messages/count_tokens", house.sent("scripted_dialects")["body"]) == []
    refused: list[tuple[dict[str, Any], int]] = [
        ({"model": "chat/ok", "messages": []}, 400), ({"model": "", "messages": TURNS}, 400),
        ({"model": "chat/status:500", "messages": TURNS}, 502), ({"model": "chat/status:429", "messages": TURNS}, 429),
        ({"model": "unpriced-model", "messages": TURNS}, 402),
    ]  # fmt: skip
    for body, status in refused:
        answer = house.post("/messages", json={"max_tokens": 10, **body})
        assert (answer.status_code, anthropic.error("ErrorResponse", answer.json())) == (status, [])
    broken = house.post("/messages", json={"model": "chat/die-midstream", "messages": TURNS, "max_tokens": 10, "stream": True})
    assert anthropic.error("ErrorResponse", events_of(broken)[-1]) == []


# ---- Images, audio, moderations ------------------------------------------------------------------

WAVE = ("2s.wav", wave(2), "audio/wav")
PICTURE = ("a.png", base64.b64decode(PNG), "image/png")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/images/generations", {"model": "gpt-image-1", "prompt": "a cat", "n": 2, "size": "1024x1024", "quality": "low",
                                 "background": "opaque", "output_format": "png", "moderation": "low", "user": "ann"}),
        ("/images/generations", {"model": "gpt-image-1", "prompt": "a cat", "stream": True, "partial_images": 1}),
        ("/moderations", {"model": "omni-moderation-latest", "input": ["a", "b"]}),
        ("/audio/speech", {"model": "gpt-4o-mini-tts", "input": "a b", "voice": "alloy", "instructions": "slowly", "speed": 2}),
        ("/audio/speech", {"model": "gpt-4o-mini-tts", "input": "a b", "voice": "alloy", "stream_format": "sse"}),
    ],
)  # fmt: skip
def test_media_of_json_are_as_openai_describes_them(house: House, path: str, body: dict[str, Any]) -> None:
    answer, openai = house.post(path, json=body), judge("openai")
    assert answer.status_code == 200, answer.text
    assert openai.request(path, house.sent("scripted_media")["body"]) == []
    if answer.headers["content-type"].startswith("text/event-stream"):
        events = events_of(answer)
        assert len(events) > 1
        assert [found for event in events for found in openai.event(path, event)] == []
        assert events[-1]["usage"]["cost"] > 0
    elif path != "/audio/speech":
        assert openai.answer(path, answer.json()) == []


FORMS: list[tuple[str, str, dict[str, Any], list[Any]]] = [
    ("/images/edits", "gpt-image-1", {"prompt": "a cat", "n": "1", "size": "1024x1024", "background": "opaque"},
     [("image[]", PICTURE), ("image[]", PICTURE), ("mask", PICTURE)]),
    ("/images/edits", "gpt-image-1", {"prompt": "a cat", "stream": "true", "partial_images": "1"}, [("image", PICTURE)]),
    ("/audio/transcriptions", "whisper-1", {"language": "en", "temperature": "0.5"}, [("file", WAVE)]),
    ("/audio/transcriptions", "whisper-1", {"response_format": "verbose_json", "timestamp_granularities[]": "word"},
     [("file", WAVE)]),
    ("/audio/transcriptions", "gpt-4o-transcribe", {"include[]": "logprobs", "prompt": "plain"}, [("file", WAVE)]),
    ("/audio/transcriptions", "gpt-4o-transcribe", {"stream": "true"}, [("file", WAVE)]),
    ("/audio/translations", "whisper-1", {"prompt": "plain", "temperature": "0"}, [("file", WAVE)]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "model", "fields", "files"), FORMS)
def test_forms_and_their_answers_are_as_openai_describes_them(
    house: House, path: str, model: str, fields: dict[str, Any], files: list[Any]
) -> None:
    answer, openai = house.post(path, data={"model": model, **fields}, files=files), judge("openai")
    assert answer.status_code == 200, answer.text
    sent = house.sent("scripted_media")
    assert sent["path"] == "/v1" + path
    assert openai.form(path, [*sent["body"], *sent["files"]]) == []
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert [found for event in events_of(answer) for found in openai.event(path, event)] == []
    else:
        assert openai.answer(path, answer.json()) == []


def test_the_judges_see_what_is_wrong() -> None:
    openai, anthropic = judge("openai"), judge("anthropic")
    good: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    assert anthropic.request("/v1/messages", good) == []
    assert "unknown field workflow_type" in anthropic.request("/v1/messages", {**good, "workflow_type": "w"})
    assert anthropic.request("/v1/messages", {**good, "messages": [{"role": "tool", "content": "x"}]}) != []
    assert anthropic.request("/v1/messages", {**good, "tools": [{"type": "function", "function": {"name": "f"}}]}) != []
    assert anthropic.answer("/v1/messages", {"type": "message", "content": "x"}) != []
    assert anthropic.event("/v1/messages", {"type": "content_block_delta", "index": 0, "delta": {"content": "x"}}) != []
    assert anthropic.event("/v1/messages", {"type": "message_delta", "delta": {"stop_reason": "length"}, "usage": {}}) != []
    assert anthropic.error("ErrorResponse", {"error": {"message": "x"}}) != []
    assert openai.request("/responses", {"model": "m", "input": [{"role": "nobody", "content": "x"}]}) != []
    assert openai.request("/responses", {"model": "m", "input": "x", "max_tokens": 5}) == ["unknown field max_tokens"]
    assert openai.answer("/responses", {"id": "resp_1", "object": "response", "output": [{"type": "message"}]}) != []
    assert openai.event("/responses", {"type": "response.output_text.delta", "delta": "x"}) != []
    assert openai.event("/images/generations", {"type": "image_generation.completed", "b64_json": 7}) != []
    assert openai.form("/images/edits", ["prompt", "workflow_type"]) == ["unknown field workflow_type", "no field image"]
    assert openai.answer("/moderations", {"id": "x", "model": "m", "results": [{}]}) != []

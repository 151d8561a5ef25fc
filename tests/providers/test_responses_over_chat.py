"""Responses made of chat completions: what is asked of the chat, and what its answers become."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from openai.types.responses import Response
from pydantic import TypeAdapter

from gateway.providers.model import Deployment, Headers, Reply, UpstreamFault
from gateway.providers.responses_over_chat import ResponsesOverChat
from gateway.providers.responses_request import Untold, translated
from tests.replies import chunks

DEPLOYMENT = Deployment("m/x/0", "x", "m", "http://127.0.0.1:1/v1", "")
LOOKUP = {"type": "function", "name": "lookup", "parameters": {"type": "object"}, "strict": True}
SPACE = {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "get"}]}
SHELL = {"type": "custom", "name": "shell", "description": "run", "format": {"type": "text"}}
USAGE = {
    "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip


def chat(**fields: Any) -> dict[str, Any]:
    return translated({"model": "m", "input": "hi", **fields}, "max_tokens").body


# ---- requests ------------------------------------------------------------------------------------------------------------


def test_items_become_messages() -> None:
    given = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": "what is it?"}]},
        {"role": "user", "content": [
            {"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": "data:x", "detail": "low"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:y"},
        ]},
        {"type": "reasoning", "summary": [], "encrypted_content": "x"},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "let "}, {"type": "refusal", "refusal": "me"},
        ]},
        {"type": "function_call", "call_id": "c1", "name": "lookup", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "get", "namespace": "crm", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"type": "custom_tool_call", "call_id": "c3", "name": "shell", "input": 'echo "x"'},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "x"},
    ]  # fmt: skip
    assert chat(input=given, instructions="rule")["messages"] == [
        {"role": "system", "content": "rule"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what is it?"},
        {"role": "user", "content": [
            {"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:y"}},
        ]},
        {"role": "assistant", "content": "let me", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": "{}"}},
            {"id": "c2", "type": "function", "function": {"name": "crm__get", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c3", "type": "function", "function": {"name": "shell", "arguments": '{"input":"echo \\"x\\""}'}},
        ]},
        {"role": "tool", "tool_call_id": "c3", "content": "x"},
    ]  # fmt: skip


def test_fields_become_those_of_a_chat() -> None:
    asked = chat(
        max_output_tokens=99, temperature=0.5, top_p=0.9, top_logprobs=2, reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "low"}, stream=True,
        stream_options={"include_obfuscation": False}, user="u", store=True, truncation="disabled", include=[],
        metadata={"a": "b"}, background=False, previous_response_id=None, parallel_tool_calls=False,
    )  # fmt: skip
    del asked["messages"]
    assert asked == {
        "model": "m", "max_tokens": 99, "temperature": 0.5, "top_p": 0.9, "logprobs": True, "top_logprobs": 2,
        "reasoning_effort": "low", "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
        "stream": True, "stream_options": {"include_usage": True}, "user": "u",
    }  # fmt: skip


def test_tools_become_functions_and_a_choice_names_one() -> None:
    tools = [LOOKUP, SPACE, SHELL]
    asked = chat(tools=tools, tool_choice="required", parallel_tool_calls=False)
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["lookup", "crm__get", "shell"]
    assert asked["tools"][0]["function"] == {"name": "lookup", "parameters": {"type": "object"}, "strict": True}
    assert asked["tools"][2]["function"]["parameters"]["required"] == ["input"]
    assert (asked["tool_choice"], asked["parallel_tool_calls"]) == ("required", False)
    for choice, name in (({"type": "custom", "name": "shell"}, "shell"), ({"type": "function", "name": "get"}, "crm__get")):
        assert chat(tools=tools, tool_choice=choice)["tool_choice"] == {"type": "function", "function": {"name": name}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "lookup"}]}
    asked = chat(tools=tools, tool_choice=allowed)
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["lookup"]
    assert asked["tool_choice"] == "required"
    assert "tools" not in chat(tools=tools, tool_choice={**allowed, "tools": []})


IMAGE = {"type": "input_image", "image_url": "data:x"}


def asks(kind: str, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": kind, **fields}]}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("previous_response_id", {"previous_response_id": "resp_1"}),
        ("truncation", {"truncation": "auto"}),
        ("seed", {"seed": 1}),
        ("text.format", {"text": {"format": {"type": "xml"}}}),
        ("text", {"text": "x"}),
        ("reasoning", {"reasoning": "high"}),
        ("tools[0].format", {"tools": [{**SHELL, "format": {"type": "grammar"}}]}),
        ("tools[0].defer_loading", {"tools": [{**LOOKUP, "defer_loading": True}]}),
        ("tools[1].name", {"tools": [LOOKUP, LOOKUP]}),
        ("tools[0].tools[0].name", {"tools": [{**SPACE, "name": "x" * 64}]}),
        ("tool_choice", {"tools": [LOOKUP], "tool_choice": {"type": "mcp", "server_label": "x"}}),
        ("tool_choice", {"tools": [LOOKUP], "tool_choice": "any"}),
        ("input[0].content[0]", {"input": [asks("input_file", file_url="http://x")]}),
        ("input[0].content[0]", {"input": [asks("input_text", text=7)]}),
        ("input[0].content[0]", {"input": [asks("computer_screenshot")]}),
        ("input[0].role", {"input": [{"role": "judge", "content": "x"}]}),
        ("input[0].output[0]", {"input": [{"type": "function_call_output", "output": [IMAGE]}]}),
    ],
)  # fmt: skip
def test_what_a_chat_cannot_be_asked_names_its_field(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Untold) as wrong:
        chat(**fields)
    assert wrong.value.param == param


# ---- answers -------------------------------------------------------------------------------------------------------------


class ChatReply:
    status = 200

    def __init__(self, pieces: list[bytes], kind: bytes = b"text/event-stream", status: int = 200) -> None:
        self.headers: Mapping[str, str] = {}
        self.content_type = kind
        self.status = status
        self._pieces = list(pieces)

    async def read(self, limit_s: float) -> bytes:
        return b"".join(self._pieces)

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        while self._pieces:
            if not take(self._pieces.pop(0)):
                return False
        return True

    async def close(self) -> None:
        pass


class Chat:
    """An upstream that answers as told, and remembers what it was asked."""

    def __init__(self, reply: ChatReply) -> None:
        self.reply = reply
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
        self.asked.append((path, json.loads(body)))
        return self.reply

    async def close(self) -> None:
        pass


async def answered(reply: ChatReply, **fields: Any) -> Reply:
    body = json.dumps({"model": "m", "input": "hi", **fields}).encode()
    return await ResponsesOverChat(lambda: 10**18).send(Chat(reply), DEPLOYMENT, "/responses", body)


async def whole(message: dict[str, Any], finish: str = "stop", **fields: Any) -> dict[str, Any]:
    answer = {"created": 5, "model": "up", "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": USAGE}
    reply = await answered(ChatReply([json.dumps(answer).encode()], b"application/json"), **fields)
    found: dict[str, Any] = json.loads(await reply.read(1.0))
    TypeAdapter(Response).validate_python(found)
    return found


def bare(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in ("id", "logprobs", "annotations")}


async def test_a_whole_answer_is_a_response_with_its_request_in_it() -> None:
    message = {"content": "hello", "reasoning_content": "hm", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "crm__get", "arguments": "{}"}},
        {"id": "c2", "type": "function", "function": {"name": "shell", "arguments": '{"input": "ls"}'}},
        {"id": "c3", "type": "function", "function": {"name": "shell", "arguments": "no json"}},
    ]}  # fmt: skip
    found = await whole(message, "tool_calls", tools=[SPACE, SHELL], instructions="rule", metadata={"a": "b"}, temperature=0.5)
    assert (found["status"], found["model"], found["created_at"], found["store"]) == ("completed", "up", 5, False)
    assert (found["instructions"], found["metadata"], found["temperature"], found["tools"]) == (
        "rule",
        {"a": "b"},
        0.5,
        [SPACE, SHELL],
    )
    reasoning, said, first, second, third = map(bare, found["output"])
    assert reasoning == {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    assert bare(said["content"][0]) == {"type": "output_text", "text": "hello"}
    assert first == {
        "type": "function_call",
        "call_id": "c1",
        "name": "get",
        "namespace": "crm",
        "arguments": "{}",
        "status": "completed",
    }
    assert (second["type"], second["input"], third["input"]) == ("custom_tool_call", "ls", "no json")
    assert [item["id"].partition("_")[0] for item in found["output"]] == ["rs", "msg", "fc", "ctc", "ctc"]
    assert found["usage"] == {
        "input_tokens": 11, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0}, "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 18,
    }  # fmt: skip


async def test_how_it_ended_is_the_status() -> None:
    cut = await whole({"content": "x"}, "length")
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][0]["status"] == "incomplete"
    assert (await whole({"content": "x"}, "content_filter"))["incomplete_details"] == {"reason": "content_filter"}
    refused = await whole({"content": None, "refusal": "no"})
    assert refused["output"][0]["content"] == [{"type": "refusal", "refusal": "no"}]


async def test_what_is_no_answer_and_what_is_a_refusal_pass_as_they_came() -> None:
    for body in (b"<html>", b'{"error":{"message":"x"}}', b"[]"):
        assert await (await answered(ChatReply([body], b"application/json"))).read(1.0) == body
    reply = await answered(ChatReply([b"why"], b"application/json", 429))
    assert (reply.status, await reply.read(1.0)) == (429, b"why")


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **fields: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "c", "created": 5, "model": "up", "choices": choices, **fields}).encode() + b"\n\n"


def call(index: int | None, arguments: str, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **fields.pop("function", {})}, **fields}]}


CUSTOM = '{"input": "l\\u0073 \\ud83d\\ude00\\n"}'
STREAM = b"".join(
    [
        chunk({"role": "assistant", "content": ""}), chunk({"reasoning_content": "h"}), chunk({"reasoning_content": "m"}),
        chunk({"content": "hel"}), chunk({"content": "lo ü"}),
        chunk(call(0, "", id="c1", function={"name": "lookup"})), chunk(call(0, '{"q"')), chunk(call(0, ":1}")),
        chunk(call(1, "", id="c2", function={"name": "shell"})), *[chunk(call(1, letter)) for letter in CUSTOM],
        chunk({}, "tool_calls"), chunk(None, usage=USAGE), b"data: [DONE]\n\n",
    ]
)  # fmt: skip
TOOLS = [LOOKUP, SHELL]


async def events(pieces: list[bytes], **fields: Any) -> list[dict[str, Any]]:
    reply = await answered(ChatReply(pieces), stream=True, **fields)
    raw = b"".join([piece async for piece in chunks(reply)])
    found = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def test_a_stream_has_each_items_events_in_order() -> None:
    found = await events([STREAM], tools=TOOLS)
    kinds = [event["type"].removeprefix("response.") for event in found]
    customs = kinds.count("custom_tool_call_input.delta")
    assert kinds == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done",
        "output_item.added", *["custom_tool_call_input.delta"] * customs, "custom_tool_call_input.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert customs == 5
    assert "".join(event["delta"] for event in found if "custom" in event["type"] and "delta" in event) == "ls \U0001f600\n"
    ended = found[-1]["response"]
    TypeAdapter(Response).validate_python(ended)
    assert ended["output"] == [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in found if event["type"] == "response.output_item.added"] == [0, 1, 2, 3]
    reasoning, said, lookup, shell = ended["output"]
    assert (reasoning["content"][0]["text"], said["content"][0]["text"]) == ("hm", "hello ü")
    assert (lookup["arguments"], shell["input"]) == ('{"q":1}', "ls \U0001f600\n")
    assert ended["usage"]["input_tokens_details"]["cached_tokens"] == 4


async def test_any_cut_of_the_bytes_gives_the_same_events() -> None:
    def said(found: list[dict[str, Any]]) -> list[Any]:
        return [(event["type"], event.get("delta"), event.get("text")) for event in found]

    whole_one = said(await events([STREAM], tools=TOOLS))
    for at in range(1, len(STREAM), 7):
        assert said(await events([STREAM[:at], STREAM[at:]], tools=TOOLS)) == whole_one, at
    assert said(await events([STREAM[at : at + 1] for at in range(len(STREAM))], tools=TOOLS)) == whole_one


async def test_a_stream_that_breaks_off_has_no_last_event() -> None:
    begun = [chunk({"content": "x"})]
    assert (await events(begun))[-1]["type"] == "response.output_text.delta"
    for ends in ([chunk({}, "stop")], [b"data: [DONE]\n\n"], [chunk(None, usage=USAGE)], [chunk({}, "stop").strip()]):
        assert (await events([*begun, *ends]))[-1]["type"] == "response.completed"
    assert (await events([*begun, chunk({}, "length")]))[-1]["type"] == "response.incomplete"


async def test_usage_before_the_last_text_is_no_usage() -> None:
    last = (await events([chunk({"content": "x"}, usage=USAGE), chunk({"content": "y"}, "stop"), b"data: [DONE]\n\n"]))[-1]
    assert last["response"]["usage"] is None
    grown = [chunk({"content": "x"}, usage={**USAGE, "completion_tokens": n}) for n in (1, 2)]
    last = (await events([*grown, chunk({}, "stop"), b"data: [DONE]\n\n"]))[-1]
    assert last["response"]["usage"]["output_tokens"] == 2


async def test_an_error_in_mid_stream_is_an_error_event() -> None:
    found = await events([chunk({"content": "x"}), b'data: {"error":{"message":"why","code":"c"}}\n\n', chunk({"content": "y"})])
    assert (found[-1]["type"], found[-1]["message"], found[-1]["code"]) == ("error", "why", "c")


async def test_calls_that_all_have_one_number_are_told_apart_by_their_ids() -> None:
    calls = [call(0, "{}", id=f"c{n}", function={"name": "lookup"}) for n in (1, 2)]
    found = await events([*map(chunk, calls), chunk({}, "tool_calls")], tools=TOOLS)
    assert [item["call_id"] for item in found[-1]["response"]["output"]] == ["c1", "c2"]


@pytest.mark.parametrize("pieces", [[b"<html>\n\n"], [chunk(call(0, "{}"))]])
async def test_what_cannot_be_told_breaks_the_stream(pieces: list[bytes]) -> None:
    with pytest.raises(UpstreamFault):
        await events(pieces)

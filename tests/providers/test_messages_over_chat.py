"""Chats as answers in Anthropic's dialect: whole, streamed, refused; and servers that speak it themselves."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from gateway.providers.frames import payload
from gateway.providers.messages_answers import Events, message_of, usage_of
from gateway.providers.messages_over_chat import MessagesOverChat
from gateway.providers.model import COUNT_TOKENS, MESSAGES, RESPONSES, Deployment, Headers, UpstreamFault
from gateway.providers.native import as_spoken_to

DEPLOYMENT = Deployment("m/openai/0", "openai", "gpt", "http://a.example/v1", "sk-key")
USAGE = {
    "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens_details": {"reasoning_tokens": 5},
}  # fmt: skip
NOT_TOLD = {"server_tool_use": None}
TOLD = {
    "input_tokens": 60, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 40, "output_tokens": 20,
    "output_tokens_details": {"thinking_tokens": 5},
}  # fmt: skip


def whole(message: dict[str, Any], finish: str = "stop", **choice: Any) -> dict[str, Any]:
    said = {"id": "c1", "model": "gpt-x", "choices": [{"message": message, "finish_reason": finish, **choice}], "usage": USAGE}
    answer: dict[str, Any] = msgspec.json.decode(message_of(said, "gpt", True))
    return answer


def test_a_whole_answer_has_its_thoughts_texts_and_calls_in_order() -> None:
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
        {"id": "", "function": {"name": "time", "arguments": ""}},
    ]
    answer = whole({"reasoning_content": "Hm", "content": "I look.", "tool_calls": calls}, "tool_calls")
    made_up = answer["content"][3].pop("id")
    assert made_up.startswith("toolu_")
    assert answer == {
        "id": "msg_c1", "type": "message", "role": "assistant", "model": "gpt-x", "stop_reason": "tool_use",
        "stop_sequence": None, "stop_details": None, "container": None,
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": ""},
            {"type": "text", "text": "I look.", "citations": None},
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}},
            {"type": "tool_use", "name": "time", "input": {}},
        ],
        "usage": {**NOT_TOLD, "cache_creation": None, "inference_geo": None, "service_tier": None, **TOLD},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("message", "choice", "reason"),
    [
        ({"content": "a"}, {}, ("end_turn", None)),
        ({"content": "a"}, {"finish": "length"}, ("max_tokens", None)),
        ({"content": ""}, {"finish": "content_filter"}, ("refusal", None)),
        ({"content": None, "refusal": "No."}, {}, ("refusal", None)),
        ({"content": "a"}, {"stop_reason": "END"}, ("stop_sequence", "END")),
        ({"content": "a"}, {"finish": "odd"}, ("end_turn", None)),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, {}, ("tool_use", None)),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, {"finish": "length"}, ("max_tokens", None)),
    ],
)
def test_why_it_ended(message: dict[str, Any], choice: dict[str, Any], reason: tuple[str, str | None]) -> None:
    answer = whole(message, **choice)
    assert (answer["stop_reason"], answer["stop_sequence"]) == reason


@pytest.mark.parametrize("said", [[], {}, {"choices": []}, {"choices": "x"}, {"choices": [1]}, {"error": {}}])
def test_what_is_no_chat_is_no_answer(said: Any) -> None:
    with pytest.raises(UpstreamFault):
        message_of(said, "gpt", True)


def test_counts_are_taken_apart_as_the_deployment_says() -> None:
    assert usage_of(USAGE, True) == TOLD
    assert usage_of(USAGE, False) == {**TOLD, "input_tokens": 100}
    written = {**USAGE, "cache_creation_input_tokens": 50, "cache_creation": {"ephemeral_1h_input_tokens": 20}}
    assert usage_of(written, True) == {
        **TOLD, "input_tokens": 10, "cache_creation_input_tokens": 50, "cache_creation": {"ephemeral_1h_input_tokens": 20},
    }  # fmt: skip
    assert usage_of({**USAGE, "total_tokens": 125}, True)["output_tokens"] == 25  # reasoning beside the completion
    lies = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 99}}
    assert usage_of(lies, True) == {
        "input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 10, "output_tokens": 1,
    }  # fmt: skip
    assert usage_of({"prompt_tokens": -5, "completion_tokens": 1}, True) == {"input_tokens": -5, "output_tokens": 1}
    heard = {**lies, "prompt_tokens_details": {"audio_tokens": 4, "image_tokens": 2}}
    assert usage_of(heard, True)["input_tokens_details"] == {"audio_tokens": 4, "image_tokens": 2}


# ---- streams -------------------------------------------------------------------------------------------------------------


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + msgspec.json.encode({"id": "c1", "model": "gpt-x", "choices": choices, **fields}) + b"\n\n"


def call(index: int, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if name is not None:
        made |= {"id": f"call_{index}", "function": {"name": name, "arguments": arguments}}
    return {"tool_calls": [made]}


STREAM = (
    chunk({"role": "assistant", "content": ""})
    + chunk({"reasoning_content": "Hm"}) + chunk({"reasoning_content": ", well"})
    + chunk({"content": "I lo"}) + chunk({"content": "ök"})
    + chunk(call(0, "weather")) + chunk(call(0, None, '{"city":')) + chunk(call(0, None, '"Paris"}'))
    + chunk(call(1, "time", "{}"))
    + chunk({}, "tool_calls") + chunk(None, usage=USAGE) + b"data: [DONE]\n\n"
)  # fmt: skip


def events(pieces: list[bytes]) -> list[dict[str, Any]]:
    translated = Events("gpt", True)
    said = b"".join([translated.feed(piece) for piece in pieces]) + translated.end()
    frames = said.split(b"\n\n")[:-1]
    found = [msgspec.json.decode(payload(frame)) for frame in frames]
    assert [frame.partition(b"\n")[0].removeprefix(b"event: ").decode() for frame in frames] == [each["type"] for each in found]
    return found


def test_a_stream_is_the_events_that_anthropic_documents() -> None:
    expected: list[dict[str, Any]] = [
        {"type": "message_start", "message": {
            "id": "msg_c1", "type": "message", "role": "assistant", "model": "gpt-x", "content": [], "stop_reason": None,
            "stop_sequence": None, "stop_details": None, "container": None, "usage": {
                **NOT_TOLD, "cache_creation": None, "inference_geo": None, "service_tier": None,
                "cache_creation_input_tokens": None, "cache_read_input_tokens": None, "output_tokens_details": None,
                "input_tokens": 0, "output_tokens": 0,
            },
        }},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": ", well"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "", "citations": None}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "I lo"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "ök"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "content_block_start", "index": 2, "content_block": {
            "type": "tool_use", "id": "call_0", "name": "weather", "input": {},
        }},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"city":'}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '"Paris"}'}},
        {"type": "content_block_stop", "index": 2},
        {"type": "content_block_start", "index": 3, "content_block": {
            "type": "tool_use", "id": "call_1", "name": "time", "input": {},
        }},
        {"type": "content_block_delta", "index": 3, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 3},
        {"type": "message_delta", "usage": {**NOT_TOLD, **TOLD}, "delta": {
            "stop_reason": "tool_use", "stop_sequence": None, "stop_details": None, "container": None,
        }},
        {"type": "message_stop"},
    ]  # fmt: skip
    assert events([STREAM]) == expected
    for at in range(1, len(STREAM)):
        assert events([STREAM[:at], STREAM[at:]]) == expected
    assert events([STREAM.replace(b"\n", b"\r\n")]) == expected


def test_a_stream_without_an_end_is_given_none() -> None:
    assert events([chunk({"content": "a"})])[-1]["type"] == "content_block_delta"
    assert events([]) == []
    for end in (b"data: [DONE]\n\n", chunk({}, "stop"), chunk(None, usage=USAGE)):
        assert [event["type"] for event in events([chunk({"content": "a"}) + end])][-2:] == ["message_delta", "message_stop"]


def test_an_error_of_the_provider_is_an_error_event_and_the_end() -> None:
    failed = b'data: {"error": {"message": "overloaded"}}\n\n'
    found = events([chunk({"content": "a"}) + failed + chunk({"content": "b"}) + b"data: [DONE]\n\n"])
    assert found[-1] == {"type": "error", "error": {"type": "api_error", "message": "overloaded"}}


def test_signatures_and_hidden_thoughts_that_litellm_keeps_have_their_places() -> None:
    signed = {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "c2ln"}]}
    hidden = {"thinking_blocks": [{"type": "redacted_thinking", "data": "xyz"}]}
    found = events([chunk({"reasoning_content": "Hm"}) + chunk(signed) + chunk(hidden) + chunk({"content": "a"}, "stop")])
    shown = [event.get("delta") or event.get("content_block") or event["type"] for event in found[2:8]]
    assert shown == [
        {"type": "thinking_delta", "thinking": "Hm"}, {"type": "signature_delta", "signature": "c2ln"}, "content_block_stop",
        {"type": "redacted_thinking", "data": "xyz"}, "content_block_stop",
        {"type": "text", "text": "", "citations": None},
    ]  # fmt: skip


MIXED = chunk(call(0, "a")) + chunk(call(1, "b")) + chunk(call(0))


@pytest.mark.parametrize("broken", [b"<html>\n\n", b"data: {\n\n", b"data: [1]\n\n", MIXED])
def test_what_is_no_stream_of_a_chat_is_the_providers_fault(broken: bytes) -> None:
    with pytest.raises(UpstreamFault):
        events([broken])


# ---- the dialect ---------------------------------------------------------------------------------------------------------


class Reply:
    """A reply in pieces."""

    def __init__(self, pieces: list[bytes], kind: bytes = b"text/event-stream", status: int = 200) -> None:
        self.status = status
        self.content_type = kind
        self.headers: Mapping[str, str] = {"retry-after": "7"}
        self._pieces = pieces
        self.closed = False

    async def read(self, limit_s: float) -> bytes:
        return b"".join(self._pieces)

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        while self._pieces:
            if not take(self._pieces.pop(0)):
                return False
        return True

    async def close(self) -> None:
        self.closed = True


class Chat:
    """An upstream that answers with one reply."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
        assert not headers
        self.asked.append((path, msgspec.json.decode(body)))
        return self.reply

    async def close(self) -> None:
        return


async def ask(reply: Reply, **fields: Any) -> Any:
    body = {"model": "gpt", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **fields}
    headers = (("anthropic-version", "2023-06-01"),)
    return await MessagesOverChat().send(Chat(reply), DEPLOYMENT, MESSAGES, msgspec.json.encode(body), headers)


async def test_pieces_wait_while_the_client_is_slow() -> None:
    source = random.Random(3)
    cuts = sorted(source.sample(range(1, len(STREAM)), 20))
    inner = Reply([STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)])
    reply = await ask(inner)
    taken: list[bytes] = []

    def take(piece: bytes) -> bool:
        taken.append(piece)
        return False

    turns = 0
    while not await reply.relay(take):
        turns += 1
    assert turns == len(taken) > 5
    assert b"".join(taken) == Events("gpt", True).feed(STREAM) + b"".join(taken[-1:])
    await reply.close()
    assert inner.closed


async def test_a_refusal_keeps_its_words_and_its_headers() -> None:
    inner = Reply([b'{"error": {"message": "slow down"}}'], b"application/json", 429)
    assert await ask(inner) is inner
    refused = await ask(Reply([]), tools=[{"type": "bash_20250124", "name": "bash"}])
    error = msgspec.json.decode(await refused.read(1))["error"]
    assert (refused.status, error["param"], error["code"]) == (400, "tools[0]", "unsupported_parameter")


async def test_an_answer_that_is_no_json_is_the_providers_fault() -> None:
    reply = await ask(Reply([b"<html>"], b"application/json"))
    with pytest.raises(UpstreamFault):
        await reply.read(1)


# ---- servers of this dialect ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["", *["https://api.anthropic.com" + end for end in ("", "/v1/", "/v1/messages")]])
def test_anthropic_is_asked_with_its_own_headers_wherever_its_address_ends(base: str) -> None:
    claude = Deployment("m/anthropic/0", "anthropic", "claude", base, "sk-ant")
    for path in (MESSAGES, COUNT_TOKENS):
        asked = as_spoken_to(claude, path)
        assert asked.api_base == "https://api.anthropic.com/v1"
        assert asked.api_key == ""
        assert asked.headers == (("anthropic-version", "2023-06-01"), ("x-api-key", "sk-ant"))


def test_other_servers_get_the_key_in_both_places_and_keep_their_own_headers() -> None:
    local = Deployment("m/openai/0", "openai", "m", "http://a.example/v1", "k", headers=(("Anthropic-Version", "2024-01-01"),))
    asked = as_spoken_to(local, MESSAGES)
    assert (asked.api_base, asked.api_key) == ("http://a.example/v1", "k")
    assert asked.headers == (("Anthropic-Version", "2024-01-01"), ("x-api-key", "k"))
    assert as_spoken_to(local, RESPONSES) is local

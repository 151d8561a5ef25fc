"""One stream of `/v1/responses`, in whatever pieces it comes."""

import os
import random
from typing import Any

import msgspec
import pytest

from gateway.core.errors import PaymentRequired, UpstreamFailed
from gateway.core.units import Usage
from gateway.proxy.relay import BrokenStream
from gateway.proxy.responses_stream import NOTHING_USED, ResponsesStream
from gateway.proxy.surface import Request

ASKED: Any = Request(None, {}, 0, "m", True, False, None, 1, True)  # type: ignore[arg-type]
USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
BROKE = PaymentRequired("The balance is used up.")


class Names:
    """Ids in upper case, and no words of the upstream's."""

    def renamed(self, response: dict[str, Any]) -> dict[str, Any]:
        own = response["id"]
        own = msgspec.json.decode(own) if isinstance(own, msgspec.Raw) else own
        return {**response, "id": own.upper()}

    def cleaned(self, words: str) -> str:
        return words.replace("secret", "[removed]")


def event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"


def about(kind: str, number: int, **fields: Any) -> bytes:
    return event(f"response.{kind}", sequence_number=number, response={"id": "resp_a", "status": kind, **fields})


AT = {"output_index": 0, "item_id": "msg_1", "content_index": 0}
ADDED = {"output_index": 0, "item": {"id": "msg_1", "type": "message", "role": "assistant", "content": []}}
DELTAS = [
    event("response.output_text.delta", sequence_number=3, delta='he said "usage": {', **AT),
    event("response.output_text.delta", sequence_number=4, delta="\n\n[DONE] ünï", response_id="resp_a", **AT),
]
BEGUN = about("created", 0) + about("in_progress", 1) + event("response.output_item.added", sequence_number=2, **ADDED)
STREAM = BEGUN + DELTAS[0] + b": alive\n\n" + DELTAS[1] + about("completed", 5, usage=USAGE)
TEXT = 'he said "usage": {\n\n[DONE] ünï'


def passed(pieces: list[bytes]) -> tuple[bytes, ResponsesStream]:
    stream = ResponsesStream(Names())
    return b"".join(stream.feed(piece) for piece in pieces) + stream.end(), stream


def events_of(raw: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]


def test_the_event_that_tells_the_usage_is_kept_back_until_the_end() -> None:
    out, stream = passed([STREAM])
    assert [each["type"] for each in events_of(out)] == [
        "response.created", "response.in_progress", "response.output_item.added", *["response.output_text.delta"] * 2,
    ]  # fmt: skip
    assert (stream.complete, stream.usage, stream.text()) == (True, USAGE, TEXT)
    [last] = events_of(stream.last(ASKED, "req_1", None, {"cost": msgspec.Raw(b"0.1")}, None, asked=True))
    assert (last["type"], last["sequence_number"]) == ("response.completed", 5)
    assert last["response"] == {"id": "RESP_A", "status": "completed", "usage": {**USAGE, "cost": 0.1}}


def test_every_event_that_names_the_response_names_it_as_its_owner_does() -> None:
    out, stream = passed([STREAM])
    out += stream.last(ASKED, "req_1", None, {}, None, asked=False)
    assert b"resp_a" not in out
    assert out.count(b'"RESP_A"') == 4


def test_any_cut_of_the_bytes_gives_the_same_answer() -> None:
    whole, _ = passed([STREAM])
    for at in range(1, len(STREAM)):
        out, stream = passed([STREAM[:at], STREAM[at:]])
        assert out == whole, at
        assert (stream.complete, stream.usage, stream.text()) == (True, USAGE, TEXT), at
    out, stream = passed([STREAM[at : at + 1] for at in range(len(STREAM))])
    assert (out, stream.text_bytes) == (whole, passed([STREAM])[1].text_bytes)
    seed = int(os.environ.get("MOZAIKS_TEST_SEED", "77"))
    print(f"replay with MOZAIKS_TEST_SEED={seed}")
    source = random.Random(seed)
    for _ in range(200):
        cuts = sorted(source.sample(range(1, len(STREAM)), source.randint(2, 12)))
        assert passed([STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)])[0] == whole, cuts


@pytest.mark.parametrize("blank", [b"\r\n", b"\r"])
def test_other_line_ends_are_line_ends(blank: bytes) -> None:
    _, stream = passed([STREAM.replace(b"\n", blank)])
    assert (stream.complete, stream.text()) == (True, TEXT)


def test_the_last_event_counts_without_the_blank_line_behind_it() -> None:
    assert passed([STREAM.removesuffix(b"\n\n")])[1].complete
    assert not passed([STREAM[:-10]])[1].complete


def test_a_stream_that_is_cut_here_says_why_and_what_was_made() -> None:
    stream = ResponsesStream(Names())
    stream.feed(BEGUN + DELTAS[0])
    assert stream.finish() == b""
    error, last = events_of(stream.last(ASKED, "req_1", Usage(input=7, output=4, reasoning=1), {}, BROKE, asked=False))
    assert (error["type"], error["sequence_number"], error["code"]) == ("error", 4, "insufficient_balance")
    assert error["error"]["code"] == "insufficient_balance"
    assert (last["type"], last["sequence_number"]) == ("response.incomplete", 5)
    response = last["response"]
    assert (response["id"], response["status"]) == ("RESP_A", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    [message] = response["output"]
    assert (message["id"], message["status"]) == ("msg_1", "incomplete")
    assert message["content"] == [{"type": "output_text", "text": 'he said "usage": {', "annotations": []}]
    assert (response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (7, 5)


def test_calls_and_reasoning_are_in_what_was_made() -> None:
    stream = ResponsesStream(Names())
    items: list[dict[str, Any]] = [
        {"id": "rs_1", "type": "reasoning", "summary": []},
        {"id": "fc_1", "type": "function_call", "name": "add", "call_id": "c", "arguments": ""},
        {"id": "ct_1", "type": "custom_tool_call", "name": "run", "call_id": "d", "input": ""},
    ]
    stream.feed(about("created", 0))
    for place, item in enumerate(items):
        stream.feed(event("response.output_item.added", output_index=place, item=item))
    stream.feed(event("response.reasoning_summary_text.delta", output_index=0, summary_index=0, delta="think"))
    stream.feed(event("response.reasoning_text.delta", output_index=0, content_index=0, delta="hm"))
    stream.feed(event("response.function_call_arguments.delta", output_index=1, delta='{"a":'))
    stream.feed(event("response.custom_tool_call_input.delta", output_index=2, delta="ls"))
    done = {**items[1], "arguments": '{"a":1}', "status": "completed"}
    stream.feed(event("response.output_item.done", output_index=1, item=done))
    assert stream.text() == 'addrunthinkhm{"a":ls'
    [last] = events_of(stream.last(ASKED, "req_1", None, {}, None, asked=False))
    reasoning, call, custom = last["response"]["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "think"}]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert (call, custom["input"]) == (done, "ls")


def test_items_that_come_whole_are_counted_too() -> None:
    item = {"id": "fc_1", "type": "function_call", "name": "add", "call_id": "c", "arguments": '{"a":1}'}
    _, stream = passed([about("created", 0), event("response.output_item.done", output_index=0, item=item)])
    assert stream.text() == 'add{"a":1}'
    message = {"type": "message", "content": [{"type": "output_text", "text": "hi"}]}
    _, stream = passed([about("created", 0), about("completed", 1, output=[message])])
    assert (stream.text(), stream.usage, stream.complete) == ("hi", None, True)


def test_an_error_event_is_not_forwarded_and_nothing_behind_it() -> None:
    for told in ({"message": "at 10.1.2.3"}, {"error": {"message": "at 10.1.2.3"}}):
        out, stream = passed([BEGUN + event("error", **told) + DELTAS[0] + about("completed", 9, usage=USAGE)])
        assert b"10.1.2.3" not in out
        assert stream.error == "it sent an error: at 10.1.2.3"
        assert (stream.complete, stream.usage, stream.text()) == (False, None, "")
        [error] = events_of(stream.ended_by(UpstreamFailed("It broke."), "req_1"))
        assert (error["type"], error["message"], error["error"]["request_id"]) == ("error", "It broke.", "req_1")
        assert error["sequence_number"] == 3


def test_an_answer_that_failed_is_an_answer_without_the_providers_secrets() -> None:
    failed = {"error": {"code": "server_error", "message": "secret"}}
    _, stream = passed([BEGUN + about("failed", 3, **failed)])
    assert (stream.complete, stream.usage) == (True, NOTHING_USED)
    [last] = events_of(stream.last(ASKED, "req_1", None, {}, None, asked=False))
    assert (last["type"], last["response"]["error"]["message"]) == ("response.failed", "[removed]")
    assert "usage" not in last["response"]
    _, told = passed([BEGUN + about("failed", 3, usage=USAGE, **failed)])
    assert told.usage == USAGE
    _, made = passed([BEGUN + DELTAS[0] + about("failed", 4, **failed)])
    assert made.usage is None  # what was made is counted


@pytest.mark.parametrize("raw", [b"<html>no\n\nevents", b"data: {nope\n\n", b'data: {"type":7}\n\n', b"data: [1]\n\n"])
def test_what_is_no_stream_of_events_breaks(raw: bytes) -> None:
    with pytest.raises(BrokenStream):
        passed([raw])


def test_bytes_that_are_no_text_spoil_only_the_text_that_they_stand_in() -> None:
    bad = DELTAS[1].replace("ünï".encode(), b"\xff\xfe")
    _, stream = passed([BEGUN, bad, about("completed", 5, usage=USAGE)])
    assert stream.usage == USAGE
    assert stream.text().startswith("\n\n[DONE] ")


def test_no_text_weighs_nothing_so_that_every_event_is_seen_to_make_something() -> None:
    _, stream = passed([BEGUN, event("response.output_text.delta", delta="", **AT)])
    assert (len(stream.texts), stream.text_bytes) == (1, 1)


@pytest.mark.parametrize("what", [b'"usage":{"input_tokens":1e999}', b'"output":[{"x":1e999}]', b'"error":1e999'])
@pytest.mark.parametrize("kind", ["completed", "failed"])
def test_an_end_that_nobody_can_read_ends_the_stream_all_the_same(what: bytes, kind: str) -> None:
    end = b'event: x\ndata: {"type":"response.' + kind.encode() + b'","response":{"id":"resp_a",' + what + b"}}\n\n"
    stream = ResponsesStream(Names(), counts_calls=True)
    call = {"output_index": 0, "item": {"type": "web_search_call", "id": "ws_1"}}
    stream.feed(BEGUN + event("response.output_item.added", sequence_number=2, **call) + DELTAS[0] + end)
    assert stream.complete
    assert stream.usage == {"\0calls": {"web_search_call": 1}}
    assert stream.text() == 'he said "usage": {'

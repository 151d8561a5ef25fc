"""Anthropic's events on their way: cut anywhere, kept back at the end, counted, broken off."""

import asyncio
import os
import random
import time
from typing import Any

import msgspec
import pytest

from gateway.core.errors import PaymentRequired
from gateway.core.units import Usage
from gateway.metering.messages import read_messages_usage
from gateway.proxy.messages import Messages
from gateway.proxy.messages_stream import MessageStream, event
from gateway.proxy.relay import BrokenStream
from gateway.proxy.surface import Request
from gateway.proxy.ticket import Call
from tests.proxy.test_exchange import House, Reply
from tests.proxy.test_rolling import OUTPUT_MICRO, Watched

STARTED = {
    "input_tokens": 100, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 50, "output_tokens": 1,
    "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 20},
}  # fmt: skip


def start(usage: dict[str, Any] | None = None) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m"}
    return event({"type": "message_start", "message": {**message, "usage": STARTED if usage is None else usage}})


def block(index: int, begun: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    said = [event({"type": "content_block_start", "index": index, "content_block": begun})]
    said += [event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas]
    return b"".join([*said, event({"type": "content_block_stop", "index": index})])


def text(said: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": said}


def ended(reason: str = "end_turn", **usage: Any) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return event({"type": "message_delta", "delta": delta, "usage": usage}) + event({"type": "message_stop"})


CONTENT = (
    start()
    + event({"type": "ping"})
    + block(0, {"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": "Hm \n\n“so”"},
            {"type": "signature_delta", "signature": "c2lnbmVk"})
    + block(1, {"type": "text", "text": ""}, text('he said "usage": {'), text("\n\nmessage_stop ünï \\"))
    + block(2, {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"ci'}, {"type": "input_json_delta", "partial_json": 'ty": "Paris"}'})
)  # fmt: skip
STREAM = CONTENT + ended("tool_use", output_tokens=20)
SAID = 'Hm \n\n“so”he said "usage": {\n\nmessage_stop ünï \\weather{"city": "Paris"}'
MERGED = {**STARTED, "output_tokens": 20}


def request(**fields: Any) -> Request:
    body = {"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "hi"}], **fields}
    return Messages().parse(msgspec.json.encode(body), b"")


REQUEST = request()


def passed(pieces: list[bytes]) -> tuple[bytes, MessageStream]:
    stream = MessageStream()
    return b"".join([stream.feed(piece) for piece in pieces]) + stream.end(), stream


def last(stream: MessageStream, counted: Usage | None = None, money: Any = None, error: Any = None) -> bytes:
    return stream.last(REQUEST, "req_1", counted, money or {}, error, asked=bool(money))


def check(pieces: list[bytes]) -> None:
    out, stream = passed(pieces)
    assert out == CONTENT
    assert last(stream) == STREAM[len(CONTENT) :]
    assert (stream.text(), stream.usage) == (SAID, MERGED)
    assert stream.complete
    assert not stream.told_early
    assert stream.text_bytes >= len(SAID.encode())


def test_a_stream_cut_at_any_byte_is_the_same_stream() -> None:
    check([STREAM])
    for at in range(1, len(STREAM)):
        check([STREAM[:at], STREAM[at:]])
    check([STREAM[at : at + 1] for at in range(len(STREAM))])


def test_a_stream_cut_at_many_places_is_the_same_stream() -> None:
    seed = int(os.environ.get("MESSAGES_SEED", "77"))
    print(f"replay with MESSAGES_SEED={seed}")
    source = random.Random(seed)
    for _ in range(200):
        cuts = sorted(source.sample(range(1, len(STREAM)), source.randint(0, 12)))
        check([STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)])


def test_other_ends_of_lines_pass_as_they_are() -> None:
    for line in (b"\r\n", b"\r"):
        whole = STREAM.replace(b"\n", line)
        out, stream = passed([whole[:100], whole[100:]])
        assert out + last(stream) == whole
        assert stream.text() == SAID


def test_the_last_event_may_lack_its_blank_line() -> None:
    out, stream = passed([STREAM.rstrip()])
    assert out + last(stream) == STREAM


def test_the_counts_that_were_told_are_the_kinds_that_are_billed() -> None:
    _, stream = passed([STREAM])
    assert stream.usage is not None
    assert read_messages_usage(stream.usage) == (
        Usage(input=100, cached_input=40, cache_write=30, cache_write_1h=20, output=20), (),
    )  # fmt: skip


@pytest.mark.parametrize("late", [{"input_tokens": 0, "output_tokens": 20}, {"input_tokens": None, "output_tokens": 20}])
def test_a_later_count_that_says_less_corrects_nothing(late: dict[str, Any]) -> None:
    _, stream = passed([CONTENT + ended(**late)])
    assert stream.usage == MERGED
    _, stream = passed([start({"input_tokens": 0, "output_tokens": 0}) + ended(input_tokens=7, output_tokens=2)])
    assert stream.usage == {"input_tokens": 7, "output_tokens": 2}


def test_who_asked_sees_the_cost_beside_the_counts() -> None:
    _, stream = passed([STREAM])
    delta, stop = last(stream, money={"cost": msgspec.Raw(b"0.5"), "balance": msgspec.Raw(b"1.5")}).split(b"\n\n")[:2]
    said = msgspec.json.decode(delta.partition(b"data: ")[2])
    assert said["usage"] == {"output_tokens": 20, "cost": 0.5, "balance": 1.5}
    assert said["delta"]["stop_reason"] == "tool_use"
    assert stop.startswith(b"event: message_stop")


def test_what_was_counted_here_is_told_where_nobody_else_counted() -> None:
    _, stream = passed([start({}) + block(0, {"type": "text", "text": ""}, text("hi")) + event({"type": "message_stop"})])
    assert stream.complete
    delta, stop = last(stream, counted=Usage(input=5, output=1)).split(b"\n\n")[:2]
    said = msgspec.json.decode(delta.partition(b"data: ")[2])
    assert {name: count for name, count in said["usage"].items() if count is not None} == {"input_tokens": 5, "output_tokens": 1}
    assert said["delta"]["stop_reason"] == "end_turn"
    assert stop == b'event: message_stop\ndata: {"type":"message_stop"}'


def test_a_stream_that_is_cut_here_ends_as_a_message_does() -> None:
    open_block = CONTENT[: CONTENT.rindex(b"event: content_block_stop")]
    out, stream = passed([open_block])
    error = PaymentRequired("used up")
    said = (stream.finish() + last(stream, counted=Usage(input=5, output=3), error=error)).split(b"\n\n")[:-1]
    assert [frame.partition(b"\n")[0] for frame in said] == [
        b"event: content_block_stop", b"event: message_delta", b"event: error", b"event: message_stop",
    ]  # fmt: skip
    stop, delta, failed, _ = [msgspec.json.decode(frame.partition(b"data: ")[2]) for frame in said]
    assert stop == {"type": "content_block_stop", "index": 2}
    assert delta["delta"] == {"stop_reason": "max_tokens", **dict.fromkeys(("stop_sequence", "stop_details", "container"))}
    assert (delta["usage"]["input_tokens"], delta["usage"]["output_tokens"]) == (5, 3)
    assert failed["error"]["type"] == "billing_error"
    assert failed["error"]["code"] == "insufficient_balance"
    assert failed["request_id"] == "req_1"
    assert out == open_block


def test_before_it_began_a_stream_ends_with_the_error_alone() -> None:
    _, stream = passed([])
    assert stream.finish() == b""
    assert last(stream, error=PaymentRequired("used up")).startswith(b"event: error\n")
    assert stream.ended_by(PaymentRequired("used up"), "req_1").startswith(b"event: error\n")


def test_an_error_event_is_kept_back_with_all_behind_it() -> None:
    failed = event({"type": "error", "error": {"type": "overloaded_error", "message": "at 10.0.0.1"}})
    out, stream = passed([CONTENT + failed + STREAM])
    assert out == CONTENT
    assert stream.error == "it sent an error: at 10.0.0.1"
    assert not stream.complete


def test_a_stream_that_says_no_end_is_not_complete() -> None:
    _, stream = passed([CONTENT])
    assert not stream.complete
    assert stream.told_early  # nothing of the output but the first count


def test_what_comes_behind_the_counts_is_passed_on_and_known_to_be_uncounted() -> None:
    more = event({"type": "content_block_delta", "index": 1, "delta": text("more")})
    delta, stop = [frame + b"\n\n" for frame in ended(output_tokens=2).split(b"\n\n")[:2]]
    out, stream = passed([start() + delta + more + stop])
    assert out == start() + delta + more
    assert stream.told_early
    out, stream = passed([start() + delta + stop + more])
    assert out == start()
    assert stream.told_early


@pytest.mark.parametrize("broken", [b"<html>\n\n", b"data: {\n\n", b"data: [1]\n\n"])
def test_what_is_no_event_breaks_the_stream(broken: bytes) -> None:
    with pytest.raises(BrokenStream):
        passed([start() + broken])


def test_a_done_of_another_dialect_is_swallowed() -> None:
    out, stream = passed([STREAM + b"data: [DONE]\n\n"])
    assert out + last(stream) == STREAM


def test_bytes_that_are_no_text_and_kinds_that_nobody_knows_are_counted() -> None:
    odd = event({"type": "content_block_delta", "index": 0, "delta": {"type": "song_delta", "song": "la la", "key": "C"}})
    spoiled = event({"type": "content_block_delta", "index": 0, "delta": text("?")}).replace(b"?", b"\xff")
    out, stream = passed([start() + odd + spoiled])
    assert out == start() + odd + spoiled
    assert stream.text() == "la laC�"


class Cut(Messages):
    """As if the client had set no cap, which this dialect does not allow: the hold rolls."""

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        asked = super().parse(raw, content_type)
        asked.output_cap = None
        return asked

    def most(self, asked: Request, deployment: Any) -> int:
        return 100_000


async def run(house: House, surface: Messages) -> None:
    body = {"model": "m", "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "hi"}]}

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        house.sent.append(message)

    call = Call("req_1", surface, {}, msgspec.json.encode(body), house.answer(receive, send), time.perf_counter(), [])
    try:
        await house.exchange.run(call, surface, house.principal)
    finally:
        await house.tasks.finish(5)


def words(count: int) -> list[bytes | Exception]:
    said: list[bytes | Exception] = [start({"input_tokens": 8, "output_tokens": 1})]
    said.append(event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}))
    return said + [event({"type": "content_block_delta", "index": 0, "delta": text("hello ")})] * count


async def test_a_hold_that_rolls_cuts_this_dialect_too() -> None:
    house = House(Reply([*words(5000), ended(output_tokens=5000)]), Watched(), opening=10_000)
    await run(house, Cut())
    body = house.body()
    available, held = await house.wallet()
    assert held == 0
    assert -40 * OUTPUT_MICRO < available < 40 * OUTPUT_MICRO
    [done] = house.events()
    assert done.rest.flags == ("wallet_exhausted",)
    assert 10_000 - available == done.rest.amounts_micro[0]
    stop, delta, failed, end = body.split(b"\n\n")[-5:-1]
    assert stop.startswith(b"event: content_block_stop")
    told = msgspec.json.decode(delta.partition(b"data: ")[2])
    assert told["delta"]["stop_reason"] == "max_tokens"
    assert told["usage"]["output_tokens"] == done.rest.usage.output >= body.count(b"hello")
    assert msgspec.json.decode(failed.partition(b"data: ")[2])["error"]["limit_source"] == "end_user"
    assert end.startswith(b"event: message_stop")


async def test_a_stream_that_breaks_off_bills_what_came_not_the_first_count() -> None:
    house = House(Reply(words(30)), Watched())
    await run(house, Messages())
    [done] = house.events()
    assert (done.rest.status, done.rest.usage_source) == ("upstream_broke", "counted")
    assert 30 <= done.rest.usage.output <= 31
    assert b"event: error" in house.body()
    assert b"message_stop" not in house.body()


def test_a_number_out_of_range_breaks_the_stream_or_is_passed_by() -> None:
    begun = event({"type": "message_start", "message": {"usage": {"input_tokens": 5}}})
    with pytest.raises(BrokenStream):
        MessageStream().feed(begun + b'event: x\ndata: {"type":"content_block_delta","delta":{"type":"new","y":1e999}}\n\n')
    stream = MessageStream()
    end = b'event: x\ndata: {"type":"message_delta","z":1e999,"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}\n\n'
    stream.feed(begun + end + event({"type": "message_stop"}))
    assert stream.complete
    ended = stream.last(None, "req_1", None, {"cost": 1}, None, asked=True)  # type: ignore[arg-type]
    assert ended.startswith(end)

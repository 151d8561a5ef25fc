"""Streams of typed events and of bytes, fed in any pieces."""

import json
from typing import Any

import pytest

from gateway.core.units import Usage
from gateway.pricing.rates import rates_from
from gateway.proxy.chat import Chat
from gateway.proxy.images import Generations
from gateway.proxy.relay import BrokenStream
from gateway.proxy.surface import Request
from gateway.proxy.typed import Bytes, TypedEvents
from tests.proxy.test_exchange import Reply
from tests.proxy.test_messages import DEPLOYMENT
from tests.scripted_media import speech

LAST = frozenset(("done",))
REQUEST = Request(Chat(), {}, 0, "m", True, False, None, 1, False)


def event(**fields: Any) -> bytes:
    return f"event: {fields['type']}\ndata: {json.dumps(fields)}\n\n".encode()


def events(bytes_max: int = 10_000) -> TypedEvents:
    return TypedEvents(LAST, bytes_max)


STREAM = event(type="delta", delta="a b") + b": alive\n\n" + event(type="done", usage={"input_tokens": 1}) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1000])
def test_the_last_event_is_kept_back_in_whatever_pieces_it_comes(size: int) -> None:
    stream = events()
    passed = b"".join(stream.feed(STREAM[at : at + size]) for at in range(0, len(STREAM), size)) + stream.end()
    assert passed == event(type="delta", delta="a b") + b": alive\n\n"
    assert stream.complete
    assert (stream.usage["usage"], stream.usage["made"], stream.text()) == ({"input_tokens": 1}, 1, "a b")
    end = stream.last(REQUEST, "req", None, {}, None, asked=False)
    assert passed + end == STREAM


def test_the_cost_is_told_to_those_who_ask() -> None:
    stream = events()
    stream.feed(STREAM)
    end = stream.last(REQUEST, "req", None, {"cost": 1}, None, asked=True)
    assert (
        end
        == event(type="done", usage={"input_tokens": 1, "cost": 1})
        .replace(b": ", b":")
        .replace(b", ", b",")
        .replace(b"event:done", b"event: done")
        .replace(b"data:", b"data: ")
        + b"data: [DONE]\n\n"
    )


def test_a_last_event_without_its_blank_line_is_one() -> None:
    stream = events()
    stream.feed(event(type="done")[:-2])
    assert stream.end() == b""
    assert stream.complete


def test_a_stream_that_stops_before_its_last_event_is_not_complete() -> None:
    stream = events()
    stream.feed(event(type="delta", delta="a"))
    stream.end()
    assert not stream.complete


def test_an_error_event_is_not_passed_on_and_nothing_behind_it() -> None:
    stream = events()
    passed = stream.feed(event(type="error", error={"message": "no"}) + event(type="delta"))
    assert (passed, stream.error, stream.complete) == (b"", "it sent an error: no", False)


@pytest.mark.parametrize("garbage", [b"data: {\n\n", b"data: 3\n\n", b"x" * 10_001])
def test_what_is_no_stream_breaks(garbage: bytes) -> None:
    with pytest.raises(BrokenStream):
        events().feed(garbage)


def test_bytes_pass_and_are_measured() -> None:
    audio = speech("mp3", 2)
    stream = Bytes(b"audio/mpeg", "mp3")
    assert b"".join(stream.feed(audio[at : at + 999]) for at in range(0, len(audio), 999)) + stream.end() == audio
    assert stream.complete
    assert stream.usage == {"usage": None, "made": 1, "nanos": 1_968_000_000, "bytes": len(audio)}


def test_bytes_that_never_came_are_no_answer() -> None:
    stream = Bytes(b"", "mp3")
    stream.end()
    assert not stream.complete
    assert stream.content_type == b"application/octet-stream"


def test_a_stream_that_its_client_left_is_begun_and_one_that_brought_nothing_is_not() -> None:
    stream = events()
    stream.feed(b": alive\n\n")
    assert not stream.usage["begun"]
    stream.finish()
    assert stream.usage["begun"]
    partial = events()
    partial.feed(event(type="delta", delta="a"))
    assert partial.usage["begun"]


def test_a_picture_of_a_stream_that_was_left_is_billed_as_it_was_held() -> None:
    surface = Generations(lambda deployment: rates_from("USD", {"images": 40_000_000_000}), bool)
    body = b'{"model": "m", "prompt": "x", "stream": true, "partial_images": 3}'
    request = surface.parse(body, b"application/json")
    stream = surface.stream(request, Reply([]))
    stream.finish()
    assert surface.measured(stream.usage, request, DEPLOYMENT) == (Usage(images=1), ("estimated",))
    whole = surface.told(b'{"data": []}')
    assert surface.measured(whole, request, DEPLOYMENT) == (Usage(), ())

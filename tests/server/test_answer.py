"""An answer on the wire, and the port that the data plane answers through, on both of its adapters."""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from gateway.proxy.ports import ANSWER, Answer
from gateway.proxy.routes import AsgiAnswer, answer_of
from gateway.server.answer import EdgeAnswer

DATE = (b"date", b"today")
TYPE = (b"content-type", b"text/plain")


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def resume_reading(self) -> None:
        return

    @property
    def sent(self) -> bytes:
        return b"".join(self.writes)


class Made:
    def __init__(self, method: str = "GET", version: str = "1.1", keep_alive: bool = True, expects: bool = False) -> None:
        self.wire = Wire()
        self.flow = FlowControl(cast(Any, self.wire))
        self.ended = 0
        headers = [(b"host", b"x"), (b"expect", b"100-Continue")] if expects else []
        scope: Any = {"type": "http", "method": method, "http_version": version, "extensions": {}, "headers": headers}
        self.answer = EdgeAnswer(scope, cast(Any, self.wire), self.flow, [DATE], keep_alive, self._end, set())
        scope["extensions"][ANSWER] = self.answer
        self.scope = scope

    def _end(self) -> None:
        self.ended += 1


async def asgi(made: Made, *events: MutableMapping[str, Any]) -> None:
    for event in events:
        await made.answer.send(cast(Any, event))


def start(*headers: tuple[bytes, bytes], status: int = 200) -> MutableMapping[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(part: bytes, more: bool = False) -> MutableMapping[str, Any]:
    return {"type": "http.response.body", "body": part, "more_body": more}


async def test_head_and_body_leave_in_one_write() -> None:
    made = Made()
    await asgi(made, start(TYPE, (b"content-length", b"2")))
    assert made.wire.writes == []
    await asgi(made, body(b"hi"))
    assert made.wire.writes == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nhi"]
    assert (made.ended, made.wire.closed) == (1, False)


async def test_a_stream_is_chunked_and_ends() -> None:
    made = Made()
    await asgi(made, start(TYPE), body(b"abc", more=True), body(b"", more=True), body(b"0123456789abcdef", more=True), body(b""))
    head, _, rest = made.wire.sent.partition(b"\r\n\r\n")
    assert head.endswith(b"\r\ntransfer-encoding: chunked")
    assert rest == b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
    assert made.ended == 1


async def test_the_end_of_a_stream_may_carry_its_last_part() -> None:
    made = Made()
    made.answer.start(200, [TYPE])
    assert made.answer.write(b"a")
    made.answer.end(b"last")
    assert made.wire.sent.endswith(b"1\r\na\r\n4\r\nlast\r\n0\r\n\r\n")


async def test_an_old_client_gets_a_body_until_the_connection_closes() -> None:
    made = Made(version="1.0", keep_alive=False)
    await asgi(made, start(TYPE), body(b"abc", more=True), body(b"def"))
    head, _, rest = made.wire.sent.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert head.endswith(b"\r\nconnection: close")
    assert (rest, made.wire.closed) == (b"abcdef", True)


@pytest.mark.parametrize("length", [(), ((b"content-length", b"2"),), ((b"content-length", b"2"), TYPE)])
async def test_an_answer_to_head_has_no_body(length: tuple[tuple[bytes, bytes], ...]) -> None:
    made = Made(method="HEAD")
    await asgi(made, start(*length), body(b"hi"))
    assert made.wire.sent.endswith(b"\r\n\r\n")
    assert b"chunked" not in made.wire.sent
    assert made.ended == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_no_framing(status: int) -> None:
    for headers in [(), ((b"content-length", b"5"),), ((b"content-length", b"5"), TYPE)]:
        made = Made()
        await asgi(made, start(*headers, status=status), body(b""))
        assert b"chunked" not in made.wire.sent
        assert made.wire.sent.endswith(b"\r\n\r\n")
        assert made.ended == 1


async def test_an_application_may_end_the_connection() -> None:
    made = Made()
    await asgi(made, start((b"connection", b"close"), TYPE), body(b"x"))
    assert made.wire.sent.count(b"connection: close") == 1
    assert made.wire.closed


async def test_after_a_head_that_cannot_be_sent_another_can() -> None:
    made = Made()
    with pytest.raises(RuntimeError):
        made.answer.start(200, [(b"x", b"a\nb")])
    assert not made.answer.started
    await made.answer.send_500_response()
    assert made.wire.sent.startswith(b"HTTP/1.1 500 ")
    assert made.wire.closed


@pytest.mark.parametrize("bad", [b"a\r\nset-cookie: x=1", b"a\nb", b"a\rb", b"a\0b"])
@pytest.mark.parametrize("place", ["name", "value", "last"])
async def test_a_header_cannot_become_two(bad: bytes, place: str) -> None:
    made = Made()
    headers = {"name": [(bad, b"v"), TYPE], "value": [(b"x", bad), TYPE], "last": [TYPE, (b"x", bad)]}[place]
    with pytest.raises(RuntimeError, match="control character"):
        await asgi(made, start(*headers))
    assert made.wire.sent == b""


@pytest.mark.parametrize("parts", [[b"abc"], [b"ab", b"c"], [b"a"], []])
@pytest.mark.parametrize("last", [True, False])
async def test_a_body_has_the_length_that_its_head_says(parts: list[bytes], last: bool) -> None:
    made = Made()
    headers = (TYPE, (b"content-length", b"2")) if last else ((b"content-length", b"2"), TYPE)
    with pytest.raises(RuntimeError, match="content-length"):
        await asgi(made, start(*headers), *[body(part, more=True) for part in parts], body(b""))
    assert made.ended == 0


async def test_a_second_head_or_a_body_without_one_is_a_mistake() -> None:
    with pytest.raises(RuntimeError):
        await asgi(Made(), start(), start())
    with pytest.raises(RuntimeError):
        await asgi(Made(), body(b"x"))
    done = Made()
    await asgi(done, start(), body(b""))
    for late in (body(b"x", more=True), body(b"x")):
        with pytest.raises(RuntimeError):
            await asgi(done, late)
    with pytest.raises(RuntimeError):
        done.answer.write(b"x")
    assert done.ended == 1


async def test_nothing_is_written_to_a_peer_that_has_gone() -> None:
    made = Made()
    await asgi(made, start(TYPE), body(b"a", more=True))
    made.answer.disconnected = True
    before = made.wire.sent
    assert not made.answer.write(b"b")
    made.answer.end(b"c")
    assert (made.wire.sent, made.ended, await made.answer.gone()) == (before, 0, True)


async def test_a_slow_peer_is_waited_for() -> None:
    made = Made()
    made.answer.start(200, [TYPE])
    made.flow.pause_writing()
    assert not made.answer.write(b"a")
    waiting = asyncio.ensure_future(made.answer.drained())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    made.flow.resume_writing()
    await waiting
    assert made.answer.write(b"b")


async def test_a_large_body_is_not_copied_behind_its_head() -> None:
    made = Made()
    large = b"x" * 100_000
    await asgi(made, start((b"content-length", b"100000")), body(large))
    assert [len(write) for write in made.wire.writes][1:] == [100_000]


async def test_the_body_of_a_request_comes_in_what_has_arrived() -> None:
    made = Made(expects=True)
    answer = made.answer
    receiving = asyncio.ensure_future(answer.receive())
    await asyncio.sleep(0)
    assert made.wire.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    answer.pieces += [b"a", b"b"]
    answer.message_event.set()
    assert await receiving == {"type": "http.request", "body": b"ab", "more_body": True}
    answer.pieces.append(b"c")
    answer.more_body = False
    answer.message_event.set()
    assert await answer.receive() == {"type": "http.request", "body": b"c", "more_body": False}
    waiting = asyncio.ensure_future(answer.receive())
    await asyncio.sleep(0)
    assert not waiting.done()
    await asgi(made, start(TYPE), body(b""))
    assert await waiting == {"type": "http.disconnect"}


def test_an_answer_that_has_ended_leaves_no_circle() -> None:
    made = Made()
    assert answer_of(made.scope, cast(Any, None), cast(Any, None)) is made.answer
    made.answer.start(200, [])
    made.answer.end()
    assert made.scope["extensions"] == {}


class Asgi:
    """The other adapter, over the first one's ASGI calls."""

    def __init__(self) -> None:
        made = Made()
        self.wire = made.wire
        made.scope["extensions"].clear()
        self.answer = answer_of(made.scope, cast(Any, made.answer.receive), cast(Any, made.answer.send))


@pytest.mark.parametrize(("make", "kind"), [(Made, EdgeAnswer), (Asgi, AsgiAnswer)])
async def test_both_adapters_of_the_port_send_the_same(make: Callable[[], Any], kind: type) -> None:
    made = make()
    answer: Answer = made.answer
    assert isinstance(answer, kind)
    begun = [answer.started]
    answer.start(200, iter([TYPE]))
    begun.append(answer.started)
    assert begun == [False, True]
    for part in (b"one", b"two"):
        if not answer.write(part):
            await answer.drained()
    assert not await answer.gone()
    answer.end(b"three")
    await answer.drained()
    assert made.wire.sent.endswith(b"chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")

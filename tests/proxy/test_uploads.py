"""Forms with large files are read in threads, once, and as their surface reads them."""

import asyncio
import threading
import time
from typing import Any, ClassVar

import pytest

from gateway.core import limits
from gateway.core.errors import InvalidRequest
from gateway.proxy.audio import Transcriptions
from gateway.proxy.surface import Request, Surface
from gateway.proxy.ticket import Call
from gateway.proxy.uploads import ReadAside

TYPE = b"multipart/form-data; boundary=b"


def form(size: int, model: str = "whisper-1") -> bytes:
    head = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\n' + model.encode() + b"\r\n"
    head += b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
    return head + b"x" * size + b"\r\n--b--\r\n"


class Noting(Transcriptions):
    """Notes in which threads it reads, and how many at once."""

    threads: ClassVar[list[int]] = []
    at_once = busy = 0

    def __init__(self) -> None:
        super().__init__(lambda _: None, bool)

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        Noting.threads.append(threading.get_ident())
        Noting.busy += 1
        Noting.at_once = max(Noting.at_once, Noting.busy)
        time.sleep(0.01)
        try:
            return super().parse(raw, content_type)
        finally:
            Noting.busy -= 1


class Twice:
    """Asks for the request twice, as an exchange with a second attempt does, and changes the first."""

    def __init__(self) -> None:
        self.read: list[Request] = []

    async def run(self, call: Call, surface: Surface, principal: Any) -> None:
        first = surface.parse(call.raw, TYPE)
        first.body["model"], first.variant = "changed", "changed"
        second = first.surface.parse(call.raw, TYPE)
        self.read += [first, second]


def call_of(raw: bytes) -> Call:
    answer: Any = None
    return Call("req_1", None, {b"content-type": TYPE}, raw, answer, 0.0, [])


@pytest.fixture(autouse=True)
def clean() -> None:
    Noting.threads, Noting.at_once, Noting.busy = [], 0, 0


async def test_a_large_form_is_read_once_and_in_another_thread() -> None:
    line, principal, surface = Twice(), object(), Noting()
    raw = form(limits.LARGE_BODY_BYTES)
    await ReadAside(line).run(call_of(raw), surface, principal)  # type: ignore[arg-type]
    [thread] = Noting.threads
    assert thread != threading.get_ident()
    plain = Transcriptions(lambda _: None, bool).parse(raw, TYPE)
    [_, second] = line.read
    assert (second.body, second.units, second.variant, second.body_bytes) == (plain.body, plain.units, "", len(raw))
    assert second.kept.files[0].content == b"x" * limits.LARGE_BODY_BYTES
    own: Any = second.surface
    assert type(own) is Noting
    assert "parse" not in vars(own), "no ring of references keeps the file"


async def test_a_small_form_is_read_where_it_is_served() -> None:
    await ReadAside(Twice()).run(call_of(form(10)), Noting(), object())  # type: ignore[arg-type]
    assert Noting.threads == [threading.get_ident()] * 2


async def test_what_is_wrong_with_a_large_form_is_said_as_of_a_small_one() -> None:
    with pytest.raises(InvalidRequest) as refused:
        await ReadAside(Twice()).run(call_of(form(limits.LARGE_BODY_BYTES, "")), Noting(), object())  # type: ignore[arg-type]
    assert refused.value.param == "model"


async def test_few_are_read_at_once() -> None:
    aside, raw = ReadAside(Twice()), form(limits.LARGE_BODY_BYTES)
    await asyncio.gather(*[aside.run(call_of(raw), Noting(), object()) for _ in range(6)])  # type: ignore[arg-type]
    assert len(Noting.threads) == 6
    assert Noting.at_once == 2

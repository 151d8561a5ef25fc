"""`/responses` on any model: a dialect that asks for `/chat/completions` and answers as the Responses API does.

The request is translated by `responses_request`, the answer by `responses_answer`; what cannot be asked of a chat is
answered 400 with the field's name, as a provider would. What the chat refuses keeps its status and its words. Nothing is stored.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from gateway.core.clock import SYSTEM_CLOCK, Clock
from gateway.core.limits import ANSWER_BYTES_MAX
from gateway.providers.event_frames import Frames, NoEvents, data_of
from gateway.providers.model import Deployment, Headers, Reply, Upstream, UpstreamFault, UpstreamSilent
from gateway.providers.responses_answer import Events, MixedUp, whole
from gateway.providers.responses_request import Translated, Untold, translated
from gateway.providers.translated import ReadyReply
from gateway.providers.translation import CHAT, refusal_body

_JSON: Final = b"application/json"
_EVENTS: Final = b"text/event-stream; charset=utf-8"
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_WRONG: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class ResponsesOverChat:
    """The `Dialect` of "/responses"."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock

    async def send(self, chat: Upstream, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
        """As `Upstream.send`."""
        try:
            given = _decode(body)
        except _WRONG:
            given = None
        if not isinstance(given, dict):
            return ReadyReply(400, refusal_body("The body is not a JSON object."))
        try:
            asked = translated(given, deployment.output_cap_field)
        except Untold as wrong:
            return ReadyReply(400, refusal_body(str(wrong), "unsupported_parameter", param=wrong.param))
        reply = await chat.send(deployment, CHAT, _encode(asked.body), headers)
        if reply.status != 200:
            return reply
        now_s = self._clock() // 1_000_000_000
        if asked.streamed and reply.content_type.startswith(b"text/event-stream"):
            return _Streamed(reply, Events(asked, now_s))
        return _Whole(reply, asked, now_s)


class _Whole:
    """A chat completion that becomes a response when it is read."""

    status = 200
    content_type = _JSON

    def __init__(self, chat: Reply, asked: Translated, now_s: int) -> None:
        self.headers: Mapping[str, str] = {"content-type": _JSON.decode()}
        self._chat = chat
        self._asked = asked
        self._now_s = now_s
        self._gathered = bytearray()

    async def read(self, limit_s: float) -> bytes:
        """The response; what is no chat completion as it came."""
        return self._made(await self._chat.read(limit_s))

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        """The response in one piece."""

        def gather(piece: bytes) -> bool:
            _add(self._gathered, piece)
            return True

        if await self._chat.relay(gather) and self._gathered:
            body, self._gathered = bytes(self._gathered), bytearray()
            return take(self._made(body))
        return True

    async def close(self) -> None:
        """As the chat's."""
        await self._chat.close()

    def _made(self, body: bytes) -> bytes:
        try:
            answer = _decode(body)
        except _WRONG:
            return body
        if not isinstance(answer, dict) or not answer.get("choices"):
            return body  # it is no answer, and is not made to look like one
        return _encode(whole(self._asked, answer, self._now_s))


class _Streamed:
    """A chat's stream that becomes a response's as it is read."""

    status = 200
    content_type = _EVENTS

    def __init__(self, chat: Reply, events: Events) -> None:
        self.headers: Mapping[str, str] = {"content-type": _EVENTS.decode()}
        self._chat = chat
        self._events = events
        self._frames = Frames()
        self._over = False

    async def read(self, limit_s: float) -> bytes:
        """Every event, for a caller that did not expect a stream."""
        gathered = bytearray()

        def gather(piece: bytes) -> bool:
            _add(gathered, piece)
            return True

        try:
            async with asyncio.timeout(limit_s):
                await self.relay(gather)
        except TimeoutError as late:
            raise UpstreamSilent("the upstream's answer took too long", sent=True) from late
        return bytes(gathered)

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        """Events as they come."""

        def translate(piece: bytes) -> bool:
            out = b"".join([self._told(data_of(frame)) for frame in self._framed(piece)])
            return not out or take(out)

        if self._over:
            return True
        if not await self._chat.relay(translate):
            return False
        self._over = True
        rest = data_of(self._frames.rest())
        last = self._told(rest) if rest else b""
        last += self._events.end(done=False)
        return not last or take(last)

    async def close(self) -> None:
        """As the chat's."""
        await self._chat.close()

    def _framed(self, piece: bytes) -> list[bytes]:
        try:
            return self._frames.feed(piece)
        except NoEvents as broken:
            raise UpstreamFault(str(broken), sent=True) from broken

    def _told(self, data: bytes) -> bytes:
        if not data:
            return b""
        if data == b"[DONE]":
            return self._events.end(done=True)
        try:
            said: Any = _decode(data)
        except UnicodeDecodeError:
            return self._told(data.decode("utf-8", "replace").encode())
        except _WRONG:
            return b""  # as where the bytes pass: what cannot be read is no part of the answer
        try:
            return self._events.chunk(said) if isinstance(said, dict) else b""
        except MixedUp as wrong:
            raise UpstreamFault(str(wrong), sent=True) from wrong


def _add(gathered: bytearray, piece: bytes) -> None:
    gathered.extend(piece)
    if len(gathered) > ANSWER_BYTES_MAX:
        raise UpstreamFault("the upstream's answer is too large", sent=True)

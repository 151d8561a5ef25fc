"""Anthropic's Messages made of chat completions: the `Dialect` for deployments that do not speak them themselves.

What a request, an answer and a stream become is said in `messages_requests` and `messages_answers`. A provider's refusal goes
back as it came: refusals are read in OpenAI's shape, whatever the surface.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from gateway.providers.messages_answers import Events, message_of
from gateway.providers.messages_requests import chat_of
from gateway.providers.model import MESSAGES, Deployment, Headers, Reply, Upstream, UpstreamFault
from gateway.providers.translated import ReadyReply
from gateway.providers.translation import CHAT, Untranslatable, refusal_body

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class MessagesOverChat:
    """Asks deployments for chat completions, and answers as Anthropic's API would. Holds no state."""

    async def send(self, chat: Upstream, deployment: Deployment, path: str, body: bytes, headers: Headers) -> Reply:
        """See `Dialect`. What cannot be translated is answered 400, as the provider would; `headers` are for Anthropic only."""
        assert path == MESSAGES, "tokens are counted without asking who cannot"
        try:
            asked = chat_of(_decode(body), deployment)
        except Untranslatable as wrong:
            return ReadyReply(400, refusal_body(str(wrong), "unsupported_parameter", param=wrong.param))
        except RecursionError:
            return ReadyReply(400, refusal_body("The blocks lie too deep in each other to be translated."))
        reply = await chat.send(deployment, CHAT, _encode(asked))
        if reply.status != 200:
            return reply
        if reply.content_type.startswith(b"text/event-stream"):
            return _Streamed(reply, Events(deployment.model, deployment.cached_inside))
        return _Whole(reply, deployment)


class _Whole:
    """A whole answer, translated when it is read."""

    status = 200
    content_type = b"application/json"

    def __init__(self, reply: Reply, deployment: Deployment) -> None:
        self._reply = reply
        self._deployment = deployment

    @property
    def headers(self) -> Mapping[str, str]:
        return self._reply.headers

    async def read(self, limit_s: float) -> bytes:
        body = await self._reply.read(limit_s)
        try:
            said = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as garbage:
            raise UpstreamFault("its answer is not JSON", sent=True) from garbage
        return message_of(said, self._deployment.model, self._deployment.cached_inside)

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        raise UpstreamFault("its answer is no stream", sent=True)

    async def close(self) -> None:
        await self._reply.close()


class _Streamed:
    """A stream, translated piece by piece."""

    status = 200
    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, reply: Reply, events: Events) -> None:
        self._reply = reply
        self._events = events
        self._ended = False

    @property
    def headers(self) -> Mapping[str, str]:
        return self._reply.headers

    async def read(self, limit_s: float) -> bytes:
        return self._events.feed(await self._reply.read(limit_s)) + self._events.end()

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        if self._ended:
            return True

        def translated(piece: bytes) -> bool:
            said = self._events.feed(piece)
            return not said or take(said)

        if not await self._reply.relay(translated):
            return False
        self._ended = True
        rest = self._events.end()
        return not rest or take(rest)

    async def close(self) -> None:
        await self._reply.close()

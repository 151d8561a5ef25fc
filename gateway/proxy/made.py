"""What a stream has made so far, in tokens: a bound for nothing, or a count that is never made twice."""

import asyncio
from typing import Protocol

from gateway.metering.event import EventFront
from gateway.proxy.relay import text_of
from gateway.proxy.surface import Stream


class TextCounter(Protocol):
    """Counts the tokens of a text off the event loop."""

    async def count_text(self, model: str, text: str, of: EventFront | None = None) -> int:
        """Tokens, by the model's own tokenizer where it is known; `of` says whose text it is."""
        ...


class Made:
    """What a stream has made so far, counted no more than once."""

    __slots__ = ("_busy", "_bytes", "_counter", "_model", "_of", "_parts", "_tokens", "relay")

    def __init__(self, relay: Stream, counter: TextCounter, model: str, of: EventFront | None = None) -> None:
        self.relay = relay
        self._counter = counter
        self._model = model
        self._of = of
        self._tokens = self._parts = self._bytes = 0
        self._busy = asyncio.Lock()

    @property
    def tokens_at_most(self) -> int:
        """What was counted, and a token for each byte since; no less than a token for each text."""
        return max(self._tokens + self.relay.text_bytes - self._bytes, len(self.relay.texts))

    async def count(self) -> int:
        """Tokens of all the text, and no less than one for each text: joined, several may look like fewer than were made.

        A token that two counted pieces share counts twice: pieces are long, so it is noise.
        """
        async with self._busy:
            new = self.relay.texts[self._parts :]
            if new:
                size = sum(map(len, new)) + new.count(b"")
                counted = await self._counter.count_text(self._model, text_of(new), self._of)
                self._tokens, self._parts, self._bytes = self._tokens + counted, self._parts + len(new), self._bytes + size
        return max(self._tokens, len(self.relay.texts))

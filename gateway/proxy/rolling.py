"""The hold of a stream without an output cap: it covers a slice of the output ahead of what was made, and grows.

The wallet is not pinned by what a model could make at most. The bytes of the text bound its tokens, so most
growth needs no tokenizer; where the wallet does not cover that bound any more, the text is counted, and only
when it has really used up what the wallet covers does the stream end. Output that no event shows (see
`Deployment.hidden_reasoning`) is held whole instead.

The bound on the overspend: what one event of the upstream holds beyond `_LEAST_TOKENS`; and twice those more
where the upstream makes more than the cap that it was told.
"""

import asyncio
from typing import Final, Protocol

from gateway.balance.model import Balance, BalanceUnavailable, Hold
from gateway.proxy import quote
from gateway.proxy.relay import Relay, text_of

SLICE_TOKENS: Final = 1024  # of output, for each choice: what a hold covers ahead of the stream
_MARGIN_TOKENS: Final = 256  # growing begins so long before the slice is used up
_LEAST_TOKENS: Final = 16  # less is not worth another event


class TextCounter(Protocol):
    """Counts the tokens of a text off the event loop."""

    async def count_text(self, model: str, text: str) -> int:
        """Tokens, by the model's own tokenizer where it is known."""
        ...


class Made:
    """What a stream has made so far, counted no more than once."""

    __slots__ = ("_busy", "_bytes", "_counter", "_model", "_parts", "_tokens", "relay")

    def __init__(self, relay: Relay, counter: TextCounter, model: str) -> None:
        self.relay = relay
        self._counter = counter
        self._model = model
        self._tokens = self._parts = self._bytes = 0
        self._busy = asyncio.Lock()

    @property
    def tokens_at_most(self) -> int:
        """What was counted, and a token for each byte since."""
        return self._tokens + self.relay.text_bytes - self._bytes

    async def count(self) -> int:
        """Tokens of all the text. A token that two counted pieces share counts twice: pieces are long, so it is noise."""
        async with self._busy:
            new = self.relay.texts[self._parts :]
            if new:
                size = sum(map(len, new))
                counted = await self._counter.count_text(self._model, text_of(new))
                self._tokens, self._parts, self._bytes = self._tokens + counted, self._parts + len(new), self._bytes + size
        return self._tokens


class RollingHold:
    """Grows one hold. `pause_at`: when the stream's text has so many bytes, `grow` must be asked before more is sent."""

    def __init__(
        self,
        balance: Balance,
        hold: Hold,
        paying: tuple[quote.Payer, ...],
        granted: tuple[int, ...],
        input_tokens: int,
        slice_tokens: int,
        cap_tokens: int,
        ttl_ms: int,
        made: Made,
    ) -> None:
        """Of output, over all choices: `slice_tokens` to be ahead, `cap_tokens` as the upstream was told."""
        self._balance = balance
        self._hold = hold
        self._paying = paying
        self._input_tokens = input_tokens
        self._slice_tokens = slice_tokens
        self._cap_tokens = cap_tokens
        self._ttl_ms = ttl_ms
        self._made = made
        self.granted = granted
        self.pause_at = max(0, quote.output_covered(paying, granted, input_tokens) - _MARGIN_TOKENS)

    async def grow(self) -> bool:
        """Hold more, as far as the wallets go. False: they cover no more output. BalanceUnavailable."""
        made = self._made
        left = await self._extend(made.tokens_at_most)
        if left <= _MARGIN_TOKENS:
            # The bound is several times too large for most text: the truth may be far from the end.
            left = await self._extend(await made.count())
        if left < _LEAST_TOKENS:
            return False
        self.pause_at = made.relay.text_bytes + left - (_MARGIN_TOKENS if left > _MARGIN_TOKENS else _LEAST_TOKENS - 1)
        return True

    async def _extend(self, tokens: int) -> int:
        """How many tokens the hold now covers beyond these."""
        wanted = tokens + self._slice_tokens
        ceilings = [payer.rates.ceiling(self._input_tokens, wanted) for payer in self._paying]
        extended = await self._balance.extend(self._hold, ceilings, self._ttl_ms)
        if extended is None:
            raise BalanceUnavailable("the hold has ended")  # it was swept while this process stood still
        self.granted = extended.granted
        covered = quote.output_covered(self._paying, self.granted, self._input_tokens)
        if covered >= self._cap_tokens:
            covered += 2 * _LEAST_TOKENS  # the upstream was told to stop before: it ends by itself, or breaks its word
        return covered - tokens

    @property
    def dry(self) -> int:
        """The number of the payer whose wallet covers the least."""
        covered = [
            payer.rates.output_covered(amount, self._input_tokens)
            for payer, amount in zip(self._paying, self.granted, strict=True)
        ]
        return covered.index(min(covered))


"""The hold of a stream without an output cap: it covers a slice of the output ahead of what was made, and grows.

The wallet is not pinned by what a model could make at most. The bytes of the text bound its tokens, so most
growth needs no tokenizer; where the wallet does not cover that bound any more, the text is counted, and only
when it has really used up what the wallet covers does the stream end. Output that no event shows (see
`Deployment.hidden_reasoning`) is held whole instead.

The bound on the overspend: what one event of the upstream holds beyond `_LEAST_TOKENS`; and twice those more
where the upstream makes more than the cap that it was told.
"""

from collections.abc import Callable
from typing import Final

from gateway.balance.model import Balance, BalanceUnavailable, Hold
from gateway.core.errors import GatewayError
from gateway.proxy import quote, refusals
from gateway.proxy.made import Made, TextCounter
from gateway.proxy.surface import Stream
from gateway.proxy.ticket import Ticket

SLICE_TOKENS: Final = 1024  # of output, for each choice: what a hold covers ahead of the stream
_MARGIN_TOKENS: Final = 256  # growing begins so long before the slice is used up
_LEAST_TOKENS: Final = 16  # less is not worth another event


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
        self.waits = b""  # of the stream, behind what the hold covers
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


class Slices:
    """Hands a stream on event by event near the end of what its hold covers; what is behind it waits for `grow`."""

    def __init__(self, take: Callable[[bytes], bool], relay: Stream, rolling: RollingHold) -> None:
        self._take = take
        self._relay = relay
        self._rolling = rolling

    def __call__(self, chunk: bytes) -> bool:
        """As a reply's `relay` calls it: False to be asked again later, when what waits goes first."""
        rolling, relay = self._rolling, self._relay
        if rolling.waits:
            chunk, rolling.waits = rolling.waits + chunk, b""
        if len(chunk) < rolling.pause_at - relay.text_bytes:
            return self._take(chunk)
        at, goes_on = 0, True
        while at < len(chunk) and relay.text_bytes < rolling.pause_at:
            blank = chunk.find(b"\n\n", at)
            ends = len(chunk) if blank < 0 else blank + 2
            goes_on = self._take(chunk[at:ends]) and goes_on
            at = ends
        rolling.waits = chunk[at:]
        return goes_on and relay.text_bytes < rolling.pause_at


def rolling_hold(balance: Balance, counter: TextCounter, ticket: Ticket, relay: Stream, ttl_ms: int) -> RollingHold:
    """The hold of a ticket whose stream begins."""
    assert ticket.cap is not None
    choices = ticket.request.choices
    made = ticket.made = Made(relay, counter, ticket.deployment.model, ticket.front)
    return RollingHold(
        balance, ticket.hold, ticket.paying, ticket.granted, ticket.input_bound, SLICE_TOKENS * choices, ticket.cap * choices,
        ttl_ms, made,
    )  # fmt: skip


async def uncovered(balance: Balance, ticket: Ticket, ttl_ms: int) -> GatewayError | None:
    """Hold all that the upstream was told it may make: a whole answer came where a stream was asked for, and cannot be cut.

    Returns why it may not be taken, where the wallets do not cover it.
    """
    assert ticket.cap is not None
    tokens = ticket.cap * ticket.request.choices
    try:
        ceilings = [payer.rates.ceiling(ticket.input_bound, tokens) for payer in ticket.paying]
        extended = await balance.extend(ticket.hold, ceilings, ttl_ms)
    except BalanceUnavailable:
        extended = None
    if extended is None:
        return refusals.balance_unavailable()
    ticket.granted = extended.granted
    if quote.output_covered(ticket.paying, ticket.granted, ticket.input_bound) >= tokens:
        return None
    return refusals.exhausted(ticket.paying[0], ticket.principal.level)

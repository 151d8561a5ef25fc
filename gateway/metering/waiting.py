"""Usage events that wait for a worker, looked at where they lie. Owns what they charge; takes and acknowledges nothing."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import msgspec

from gateway.metering.event import decode_event


class EventsLyingThere(Protocol):
    """Where usage events wait."""

    def waiting(self, shard: int) -> AsyncIterator[bytes]:
        """Every event of the shard that is not acknowledged, claimed or not, oldest first."""
        ...


class Waiting:
    """What the events that wait have taken from the hot wallets."""

    def __init__(self, events: EventsLyingThere) -> None:
        self._events = events

    async def of(self, shard: int) -> AsyncIterator[tuple[str, Mapping[str, int]]]:
        """(request id, micro-units by wallet) of each event; one that cannot be read explains nothing, and is left out.

        Raises what the source raises.
        """
        async for data in self._events.waiting(shard):
            try:
                event = decode_event(data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            charges: dict[str, int] = {}
            for payer, amount_micro in zip(event.front.payers, event.rest.amounts_micro, strict=False):
                charges[payer.wallet] = charges.get(payer.wallet, 0) + amount_micro
            yield event.front.request_id, charges

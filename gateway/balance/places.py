"""A request's place within the capacity of a deployment: values, and the port that gives them."""

from typing import Protocol

import msgspec

from gateway.providers.model import Capacity


class Place(msgspec.Struct, frozen=True):
    """One request counts on a capacity: `tokens` of that `minute` (of the Redis server's clock)."""

    name: str
    request_id: str
    minute: int
    tokens: int


class Full(msgspec.Struct, frozen=True):
    """There is no place; nothing changed. `wait_s` is 0 when waiting cannot be timed."""

    wait_s: float


class Places(Protocol):
    """Counts requests on the capacities of deployments, for all processes together. No money: who cannot count lets pass."""

    async def take(self, capacity: Capacity, request_id: str, tokens: int) -> Place | Full | None:
        """A place for a request that may use so many tokens; None where nobody can count."""
        ...

    def leave(self, place: Place, tokens: int, *, asked: bool = True) -> None:
        """Give it back, soon: it used `tokens`; not `asked` where the deployment never heard of the request."""
        ...

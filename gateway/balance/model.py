"""Values of the balance port, and the port itself.

Amounts are integer micro-units of the wallet's asset. A wallet has `available` (spendable now; below
zero it is debt) and `held` (set aside for requests in flight); their sum is what the ledger must say
once every event is drained.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

import msgspec


class Charge(msgspec.Struct, frozen=True):
    """One wallet that a request draws on.

    The hold takes `ceiling_micro` where the wallet covers it, else what is available if that is at
    least `floor_micro`, else the request is refused. floor = ceiling means all or nothing.
    """

    wallet: str
    ceiling_micro: int
    floor_micro: int


class LimitKind(StrEnum):
    """What a limit counts. Windows are those of the Redis server's clock, in UTC."""

    REQUESTS_PER_MINUTE = "rpm"
    TOKENS_PER_MINUTE = "tpm"
    CONCURRENCY = "concurrency"
    SPEND_PER_DAY = "spend_day"
    SPEND_PER_MONTH = "spend_month"
    SPEND_TOTAL = "spend_total"


SPEND_KINDS: Final = frozenset((LimitKind.SPEND_PER_DAY, LimitKind.SPEND_PER_MONTH, LimitKind.SPEND_TOTAL))


class Limit(msgspec.Struct, frozen=True):
    """One limit in the same atomic step as the wallets.

    `subject` names the counter's owner (`k/<key>`, `u/<app>/<end user>`, `t/<token>`); `amount` is
    what this request adds before it runs: 1 for requests and concurrency, the token ceiling for
    tokens. For the spend kinds the amount is what charge number `charge` is granted, so `amount` is
    ignored. Limits of one subject follow each other. Sliding minute windows: the last whole minute
    counts by the share still inside the window.
    """

    subject: str
    kind: LimitKind
    maximum: int
    amount: int = 1
    charge: int = 0


class HoldRequest(msgspec.Struct, frozen=True):
    """Everything `reserve` needs. `context` is the usage event to append should the hold be abandoned."""

    request_id: str
    shard: int
    charges: tuple[Charge, ...]
    limits: tuple[Limit, ...]
    ttl_ms: int
    context: bytes


class Admitted(msgspec.Struct, frozen=True):
    """The hold stands. Per charge: what was granted, and what is available after it.

    `remaining` has one value per limit: what is left of it after this request.
    """

    granted: tuple[int, ...]
    available: tuple[int, ...]
    remaining: tuple[int, ...]


class RefusedByWallet(msgspec.Struct, frozen=True):
    """Charge number `charge` is not covered; nothing changed."""

    charge: int
    available_micro: int
    held_micro: int


class RefusedByLimit(msgspec.Struct, frozen=True):
    """Limit number `limit` is reached; nothing changed. `retry_after_ms` is 0 when waiting cannot be timed."""

    limit: int
    used: int
    retry_after_ms: int


class WalletMissing(msgspec.Struct, frozen=True):
    """These wallets are unknown to the hot store; nothing changed. Open them from the ledger and repeat."""

    wallets: tuple[str, ...]


class Settled(msgspec.Struct, frozen=True):
    """The hold ended. Per charge: available after it. `first` is False when this was a repeat."""

    available: tuple[int, ...]
    first: bool


class WalletState(msgspec.Struct, frozen=True):
    """One wallet, as the hot store has it."""

    available_micro: int
    held_micro: int


class Hold(msgspec.Struct, frozen=True):
    """The handle that `settle` and `release` need: what `reserve` was asked, less the context."""

    request_id: str
    shard: int
    wallets: tuple[str, ...]
    limits: tuple[Limit, ...]


class BalanceUnavailable(Exception):
    """The hot store did not answer in time, or answered that it is broken. Fail closed."""


class Balance(Protocol):
    """Hot balances. Every operation is idempotent by its id, so a lost reply is answered by repeating it.

    All raise `BalanceUnavailable` after their own bounded repeats.
    """

    async def reserve(self, request: HoldRequest) -> Admitted | RefusedByWallet | RefusedByLimit | WalletMissing:
        """Hold on every wallet and count on every limit of the request, or change nothing."""
        ...

    async def settle(self, hold: Hold, amounts_micro: Sequence[int], tokens: int, event: bytes) -> Settled:
        """Debit each wallet, free the hold, correct tokens and spend, append the event: one step.

        `amounts_micro` has one value per wallet of the hold. An amount may exceed the hold (then
        available may fall below zero). A hold that is gone (swept) is not charged: `first` is False.
        """
        ...

    async def release(self, hold: Hold) -> bool:
        """Give the hold back whole, with the minute's request and token counts. False when it had ended already."""
        ...

    async def credit(self, op_id: str, shard: int, wallet: str, delta_micro: int) -> WalletState | None:
        """Add to available (or take, below zero), once per `op_id`; None when the wallet is missing."""
        ...

    async def take(self, op_id: str, shard: int, wallet: str, most_micro: int) -> int | None:
        """Take what is available, at most `most_micro` and never below zero; None when the wallet is missing.

        Once per `op_id`: a repeat, whatever it asks for, answers what was taken. That there was nothing is not
        remembered, unless `most_micro` is 0: then the operation has taken nothing, for good.
        """
        ...

    async def open(self, shard: int, wallet: str, available_micro: int) -> bool:
        """Create a wallet; False (and no change) when it exists."""
        ...

    async def read(self, shard: int, wallets: Sequence[str]) -> list[WalletState | None]:
        """The wallets, in the order asked."""
        ...

    async def sweep(self, shard: int) -> int:
        """End holds past their deadline: release each and append its context as an event. Returns how many."""
        ...

    async def ping(self) -> None:
        """Raise when the store cannot serve."""
        ...

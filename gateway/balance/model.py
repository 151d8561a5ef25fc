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


# The amount of a limit that counts what the request says of itself (`HoldRequest.tokens`): at most its maximum, so
# that a request whose ceiling is above the whole limit takes the whole window, or it could never run.
BY_TOKENS: Final = -1


class Limit(msgspec.Struct, frozen=True, cache_hash=True):
    """One limit in the same atomic step as the wallets.

    `subject` names the counter's owner (`k/<key>`, `u/<app>/<end user>`, `t/<token>`); `amount` is
    what this request adds before it runs: 1 for requests and concurrency, `BY_TOKENS` (the token
    ceiling) for tokens. For the spend kinds the amount is what charge number `charge` is granted, so
    `amount` is ignored. Limits of one subject follow each other. Sliding minute windows: the last
    whole minute counts by the share still inside the window. Adapters keep what they make of a
    request's limits, so callers hand in the same tuple each time.
    """

    subject: str
    kind: LimitKind
    maximum: int
    amount: int = 1
    charge: int = 0


class HoldRequest(msgspec.Struct, frozen=True):
    """Everything `reserve` needs. `tokens` is the most that the request can use.

    `context` is the front of the usage event, a JSON object. Its rest, another one, comes with `settle`, or
    is the adapter's own should the hold be abandoned; the event that is appended has the fields of both.
    """

    request_id: str
    shard: int
    charges: tuple[Charge, ...]
    limits: tuple[Limit, ...]
    ttl_ms: int
    context: bytes
    tokens: int = 0


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
    """The hold ended. Per charge: available after it. `first` is False when this was a repeat.

    `stands` is False when it had been released, or swept (paid at its checkpoint, if at all): nothing is charged by this.
    """

    available: tuple[int, ...]
    first: bool
    stands: bool = True


class Extended(msgspec.Struct, frozen=True):
    """The hold stands. Per charge: what is held for it in all, and what is available beside that."""

    granted: tuple[int, ...]
    available: tuple[int, ...]


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


class Unfunded(Exception):
    """A wallet that must hold something belongs to somebody of whom the books never heard; it was not opened."""

    def __init__(self, wallet: str) -> None:
        super().__init__(wallet)
        self.wallet = wallet


class BalanceUnavailable(Exception):
    """The hot store did not answer in time, or answered that it is broken. Fail closed."""


class HoldLost(BalanceUnavailable):
    """The store has lost this hold with the rest of its memory. Its settlement is made without it all the same."""


class Balance(Protocol):
    """Hot balances. Every operation is idempotent by its id, so a lost reply is answered by repeating it.

    All raise `BalanceUnavailable` after their own bounded repeats.
    """

    async def reserve(self, request: HoldRequest) -> Admitted | RefusedByWallet | RefusedByLimit | WalletMissing:
        """Hold on every wallet and count on every limit of the request, or change nothing."""
        ...

    async def settle(self, hold: Hold, amounts_micro: Sequence[int], tokens: int, event: bytes) -> Settled:
        """Debit each wallet, free the hold, correct tokens and spend, append the event (`event` is its rest): one step.

        `amounts_micro` has one value per wallet of the hold. An amount may exceed the hold (then
        available may fall below zero). A hold that is gone (swept) is not charged: `first` is False. One that the
        store lost is settled all the same, without the hold. BalanceUnavailable when it cannot be settled yet: who
        reserved it in this process need not ask again, the implementation does.
        """
        ...

    async def extend(
        self,
        hold: Hold,
        ceilings_micro: Sequence[int],
        ttl_ms: int,
        owed_micro: Sequence[int] = (),
        event: bytes = b"",
        tokens: int = 0,
    ) -> Extended | None:
        """Hold up to `ceilings_micro` in all on each wallet, as far as it and the spend limits go, and put the deadline off.

        Never takes anything back, so it may be repeated; 0 leaves a wallet's hold as it is. `owed_micro` and
        `event` (the rest of the event, less time and amounts) are the checkpoint: what is charged and appended
        should nobody end the hold. `tokens` are those used by now: limits of tokens count them where they are more than was
        counted, and refuse nothing here; the settlement corrects that. None: the hold has ended. HoldLost.
        """
        ...

    async def release(self, hold: Hold, *, asked: bool = False) -> bool:
        """Give the hold back whole, with the minute's token count. False when it had ended already.

        The minute's request is given back, too, unless a provider was `asked`: what it refused is a request all the same.
        """
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

    async def rebuild(self, shard: int, wallet: str, available_micro: int, counted: Sequence[str], epoch: str) -> bool | None:
        """Create a wallet that was lost; False (and no change) when it exists, None when the epoch is not that one any more.

        `epoch` is from before the books were read: they must be read again when everything was lost since.
        `counted` are the ids of the requests that the amount counts already and that a gateway may still settle again.
        """
        ...

    async def epoch(self, shard: int) -> str:
        """A word that lasts as long as what the shard holds: another one means that everything in it was lost."""
        ...

    async def read(self, shard: int, wallets: Sequence[str]) -> list[WalletState | None]:
        """The wallets, in the order asked."""
        ...

    async def used(self, shard: int, limits: Sequence[Limit]) -> list[int]:
        """What counts against each limit now, in the order asked."""
        ...

    async def sweep(self, shard: int) -> int:
        """End holds past their deadline: settle each at its checkpoint, or release it, and append its event. Returns how many.

        The fields behind the context's are `"at_ms":<now>,"amounts_micro":[<owed>,..],"held_micro":[<granted>,..]` and
        those of the checkpoint; without one nothing is owed, and they are those that the adapter was given as `abandoned`.
        """
        ...

    async def ping(self) -> None:
        """Raise when the store cannot serve."""
        ...

"""The hot balances held against the books, wallet by wallet; and what to do where they differ.

Owns telling a difference from what is on its way: while requests run, a hot wallet is ahead of the books by its events.
A difference is told when several looks find the same one. It is repaired only after a look at the one wallet that finds
nothing on its way: under the lock of its book, no event that names it waits, and its hot state is the same before and
after. A repair adds what is missing (or takes what is too much) under an operation of its own, never overwrites, so
whatever happens to the wallet meanwhile stands too; it leaves a line in the trail.

A wallet that the hot store lost is made again from the books (see `wallets`), which is safe to do unasked. Other
differences (a credit that a store put back to an earlier state has forgotten, a wallet somebody edited) are money, and
for an operator to see first. What the books never heard of cannot be found here.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import groupby
from typing import Final, Protocol

import msgspec

from gateway.balance.model import Balance, WalletState
from gateway.core.ids import new_id
from gateway.core.limits import DRAIN_BATCH
from gateway.core.money import decimal_from_micro
from gateway.ledger.model import Reconciled, WalletKey, wallet_from_name
from gateway.ledger.service import Ledger

_LOOKS: Final = 4
_AGAIN_S: Final = 2.0  # all looks together take longer than live gateways are given after a loss
_QUIET_TRIES: Final = 20
_QUIET_PAUSE_S: Final = 0.1


class HotStore(Balance, Protocol):
    """Hot balances whose waiting events can be looked at."""

    async def waits_for(self, shard: int, wallet: str) -> bool:
        """Whether an event that names the wallet is not in the books yet, or may be."""
        ...


class Difference(msgspec.Struct, frozen=True):
    """One wallet. Micro-units; `hot_micro` is available and held together, None for a lost wallet."""

    wallet: str
    shard: int
    hot_micro: int | None
    books_micro: int

    @property
    def drift_micro(self) -> int | None:
        """What the hot wallet has too much."""
        return None if self.hot_micro is None else self.hot_micro - self.books_micro


class Outcome(msgspec.Struct, frozen=True):
    """A difference that stayed, in `asset`. `repaired_micro` is what was added to the hot wallet; None: nothing was done."""

    difference: Difference
    asset: str
    repaired_micro: int | None = None

    def __str__(self) -> str:
        """For people."""
        one, wallet = self.difference, wallet_from_name(self.difference.wallet)
        whose = one.wallet
        if wallet is not None:
            app = wallet.enterprise_id
            whose = f"creator {wallet.owner}" if app is None else f"end user {wallet.owner} of app {app}"
        books, drift_micro = self._money(one.books_micro), one.drift_micro
        if drift_micro is None:
            done = "left as it is" if self.repaired_micro is None else "made again from the books"
            return f"The hot balance of {whose} is lost; the books say {books}: {done}."
        done = "left as it is"
        if self.repaired_micro is not None:
            moved = f"{self._money(abs(self.repaired_micro))} {'added' if self.repaired_micro > 0 else 'taken off'}"
            done = f"repaired, {moved}" if self.repaired_micro else "it was right again before it was repaired"
        much = f"{self._money(abs(drift_micro))} too {'much' if drift_micro > 0 else 'little'}"
        return f"The hot balance of {whose} is {self._money(one.hot_micro or 0)}, the books say {books}: {much}; {done}."

    def _money(self, amount_micro: int) -> str:
        return f"{decimal_from_micro(amount_micro)} {self.asset}"


class Reconciler:
    """Looks and repairs. Any number may run beside each other: they meet at the lock of the book."""

    def __init__(
        self,
        balance: HotStore,
        ledger: Ledger,
        enterprise_ids: Callable[[], Awaitable[Sequence[str]]],
        rebuild_lost: Callable[[int, Sequence[str]], Awaitable[bool]],
        pause_s: float = _AGAIN_S,
    ) -> None:
        """`pause_s` is between two looks."""
        self._balance = balance
        self._ledger = ledger
        self._enterprise_ids = enterprise_ids
        self._rebuild_lost = rebuild_lost
        self._pause_s = pause_s

    async def run(self, *, rebuild: bool, repair: bool, actor: str) -> list[Outcome]:
        """The differences that stay, and what was done about each. Raises BalanceUnavailable, SqlDown."""
        found = {key: one async for key, one in self._look()}
        for _ in range(_LOOKS - 1):
            if not found:
                return []
            await asyncio.sleep(self._pause_s)
            again = {key: one async for key, one in self._look()}
            found = {key: one for key, one in again.items() if key in found and found[key].drift_micro == one.drift_micro}
        outcomes = []
        for key, one in found.items():
            asset = (await self._ledger.owner_of(key)).asset
            if one.hot_micro is None:
                made = rebuild and await self._rebuild_lost(one.shard, [one.wallet])
                outcomes.append(Outcome(one, asset, one.books_micro if made else None))
            else:
                outcomes.append(Outcome(one, asset, await self._repair(key, one, actor) if repair else None))
        return outcomes

    async def _look(self) -> AsyncIterator[tuple[WalletKey, Difference]]:
        for book in (None, *await self._enterprise_ids()):
            batch: list[tuple[int, WalletKey, int]] = []
            async for wallet in self._ledger.wallets_owed(book):
                batch.append(wallet)
                if len(batch) == DRAIN_BATCH:
                    for found in await self._compared(batch):
                        yield found
                    batch = []
            for found in await self._compared(batch):
                yield found

    async def _compared(self, batch: list[tuple[int, WalletKey, int]]) -> list[tuple[WalletKey, Difference]]:
        different = []
        for shard, group in groupby(sorted(batch, key=lambda each: each[0]), key=lambda each: each[0]):
            wallets = list(group)
            states = await self._balance.read(shard, [key.name for _, key, _ in wallets])
            for (_, key, owed_micro), state in zip(wallets, states, strict=True):
                has = None if state is None else state.available_micro + state.held_micro
                if has != owed_micro:
                    different.append((key, Difference(key.name, shard, has, owed_micro)))
        return different

    async def _repair(self, key: WalletKey, one: Difference, actor: str) -> int | None:
        """Add what is missing; 0 when nothing was any more, None when the wallet never stood still."""

        async def under_lock(owed_micro: int) -> Reconciled | None:
            state = await self._quiet(one)
            if state is None or state.available_micro + state.held_micro == owed_micro:
                added.append(None if state is None else 0)
                return None
            delta = owed_micro - state.available_micro - state.held_micro
            op_id = f"reconcile:{new_id('txn')}"
            after = await self._balance.credit(op_id, one.shard, one.wallet, delta)
            if after is None:
                return None
            added.append(delta)
            return Reconciled(op_id, state.available_micro, after.available_micro, state.held_micro, owed_micro)

        added: list[int | None] = []
        for _ in range(_QUIET_TRIES):
            await self._ledger.reconcile(key, actor, under_lock)
            if added and added[-1] is not None:
                return added[-1]
            await asyncio.sleep(_QUIET_PAUSE_S)
        return None

    async def _quiet(self, one: Difference) -> WalletState | None:
        """The wallet's state when nothing of it is on its way to the books; None otherwise."""
        before = (await self._balance.read(one.shard, [one.wallet]))[0]
        if await self._balance.waits_for(one.shard, one.wallet):
            return None
        after = (await self._balance.read(one.shard, [one.wallet]))[0]
        return after if before == after else None

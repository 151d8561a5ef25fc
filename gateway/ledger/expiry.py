"""Lots whose time has passed: their rest leaves the hot wallet first and the books second.

Money in goes books first; an expiry has to go the other way round. Posted first, it would reach a hot wallet whose
owner has spent the money in the meantime, and leave a debt for it. So the hot wallet is asked what it can give
(`take`, which never goes below zero), and exactly that is posted.

What is still in flight burns the lot, as it would have. All that the books hold for a wallet less what is available in
the hot wallet is held for a request, or charged and not drained yet; those requests will burn the lots in
their order. Only what they cannot reach is taken: a lot that a request in flight may need waits for the next round. So
no event has to be waited for, and a busy wallet expires all the same. What new requests burn until then is theirs.

1. `begin` commits, on the lot, the id of the transaction that its expiry will be.
2. `finish` holds the book's lock, so that no grant and no usage comes in between, asks the hot wallet under
   that id, and posts. Whoever dies between taking and the commit leaves the id: the next one is given the same answer for
   it and posts that. Two workers meet at the lock, and the second finds nothing left to do.
3. When usage burned the lot between such a death and the repeat, the lot has less than was taken: the line of the
   outbox gives the rest back.

A lot that would be lost while its owner is in debt pays the debt first, unless it was lent: that goes back whole. Either is
an act of the system, with its line in the trail: nobody asked for it, and a wallet has less than before.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from gateway.core.ids import new_id, shard_of
from gateway.core.limits import DRAIN_BATCH
from gateway.core.words import LotSource
from gateway.ledger import endings, store
from gateway.ledger.books import Books, commit, debt_of
from gateway.ledger.model import AVAILABLE, DEBT, AccountKey, AppFacts, Lot, Posted, WalletKey
from gateway.trail import store as trail
from gateway.trail.model import Act

_SOON_MS: Final = 60_000  # a credit due within this may be applied by a process whose clock is ahead


class HotState(Protocol):
    """A wallet of the hot store."""

    @property
    def available_micro(self) -> int:
        """Spendable now."""
        ...


class HotWallets(Protocol):
    """What an expiry needs of the hot store."""

    async def read(self, shard: int, wallets: Sequence[str]) -> Sequence[HotState | None]:
        """The wallets, in the order asked; None where there is none."""
        ...

    async def take(self, op_id: str, shard: int, wallet: str, most_micro: int) -> int | None:
        """Take what there is, at most that; a repeat takes no more and answers the same. None: no such wallet."""
        ...


class Expiries(Books):
    """Ends lots whose time has passed. Any number of processes may do so beside each other."""

    async def due(self, enterprise_id: str | None, after: str = "", limit: int = DRAIN_BATCH) -> list[tuple[Lot, WalletKey]]:
        """Lots of one book to expire, by id beyond `after`, with their wallets."""
        async with store.reading(await self.engine(enterprise_id)) as conn:
            found = await store.lots_to_expire(conn, store.books_of(enterprise_id), self.now_ms(), after, limit)
        return [(lot, WalletKey(owner, enterprise_id)) for lot, owner in found]

    async def next_ms(self, enterprise_id: str | None) -> int | None:
        """When the next lot of a book ends that has not ended yet."""
        async with store.reading(await self.engine(enterprise_id)) as conn:
            return await store.next_expiry(conn, store.books_of(enterprise_id), self.now_ms())

    async def expire(self, lot: Lot, wallet: WalletKey, hot: HotWallets) -> Posted | None:
        """Expire what can be of one lot that is due; None when that is nothing for now. Raises what `hot` raises."""
        owner = await self.owner_of(wallet)
        if lot.expiring is None:
            state = (await hot.read(shard_of(owner.user_id), [wallet.name]))[0]
            if state is None or (state.available_micro <= 0 and not await self._debt(wallet, owner.asset)):
                return None  # nothing to take: spare the books a transaction
            await self.begin(lot, wallet)
        return await self.finish(lot, wallet, owner, hot)

    async def begin(self, lot: Lot, wallet: WalletKey) -> None:
        """Name the transaction that will expire the lot, before any money moves."""
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            await store.begin_expiry(conn, store.books_of(wallet.enterprise_id), lot.id, new_id("txn"))

    async def finish(self, lot: Lot, wallet: WalletKey, owner: AppFacts, hot: HotWallets) -> Posted | None:
        """Take what the hot wallet can give, and post that."""
        tables = trail.trail_of(wallet.enterprise_id)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            acts: list[Act] = []
            posted = await self._finish(conn, lot.id, wallet, owner, hot, acts)
            for act in acts:  # after everything else that this transaction locks
                await trail.append(conn, tables, act, self.now_ms())
            return posted

    async def _finish(
        self, conn: store.Connection, lot_id: str, wallet: WalletKey, owner: AppFacts, hot: HotWallets, acts: list[Act]
    ) -> Posted | None:
        books, shard = store.books_of(wallet.enterprise_id), shard_of(owner.user_id)
        lot, _ = (await store.lots_of(conn, books, [lot_id]))[lot_id]
        if lot.expiring is None:
            return None  # another one was faster
        state = (await hot.read(shard, [wallet.name]))[0]
        if state is None:
            return None  # lost by the hot store: it is rebuilt from these books first
        most = await self._most(conn, lot, wallet, owner.asset, state.available_micro)
        in_debt = 0
        if lot.source == LotSource.OVERAGE:  # what is lent pays no debt; as the hot wallet counts it against it, it is not there
            in_debt = min(await debt_of(conn, wallet, owner.asset), most)
            most -= in_debt
        else:
            lot, most = await self._pay_debt(conn, lot, most, wallet, owner, acts)
        taken = await hot.take(f"expiry:{lot.expiring}", shard, wallet.name, most)
        if taken is None:
            return None
        if not taken + in_debt:
            # Nothing was taken under this id, and nobody else is taking, as the book is locked: the next round has another. One
            # that is kept could have been remembered by the hot store as having taken nothing, for good.
            await store.save_lots(conn, books, [msgspec.structs.replace(lot, expiring=None)])
            return None
        assert lot.expiring is not None
        head = self._head(lot.expiring, f"expiry:{lot.expiring}", wallet, owner)
        posting = endings.expiry(head, lot, min(taken + in_debt, lot.left_micro))
        if posting.txn.entries:
            acts.append(await _act(conn, "lot.expire", wallet, owner, posting, lot))
        return await commit(conn, wallet, owner, posting, taken)

    async def _debt(self, wallet: WalletKey, asset: str) -> int:
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            return await debt_of(conn, wallet, asset)

    async def _most(self, conn: store.Connection, lot: Lot, wallet: WalletKey, asset: str, available_micro: int) -> int:
        """How much of the lot no request in flight may still burn."""
        books, now = store.books_of(wallet.enterprise_id), self.now_ms()
        account = AccountKey(wallet.owner, AVAILABLE, asset)
        lots = (await store.open_lots(conn, books, [wallet.owner])).get(account, [])
        stands = (await store.balances(conn, books, wallet.owner, asset)).get(AVAILABLE, 0)
        stands -= await debt_of(conn, wallet, asset)
        ids = await store.account_ids(conn, books, [account])
        # What waits may be in the hot wallet already, or not: count what makes for more in flight.
        for delta, due_at in await store.waiting_of(conn, books, ids[account]):
            if delta < 0 or due_at > now + _SOON_MS:
                stands -= delta
        return endings.expirable(lot, lots, stands - available_micro, now)

    async def _pay_debt(
        self, conn: store.Connection, lot: Lot, most: int, wallet: WalletKey, owner: AppFacts, acts: list[Act]
    ) -> tuple[Lot, int]:
        """What would be lost pays the owner's debt first: (the lot, what of it can still expire)."""
        paid = min(await debt_of(conn, wallet, owner.asset), most)
        if not paid:
            return lot, most
        txn_id = new_id("txn")
        posting = endings.netting(self._head(txn_id, f"netting:{txn_id}", wallet, owner), lot, paid)
        acts.append(await _act(conn, "lot.repay", wallet, owner, posting, lot))
        await commit(conn, wallet, owner, posting)
        return posting.lots[0], most - paid

    def _head(self, txn_id: str, op_id: str, wallet: WalletKey, owner: AppFacts) -> endings.Head:
        return endings.Head(txn_id, op_id, wallet.owner, owner.asset, endings.EXPIRY_ACTOR, "", self.now_ms())


async def _act(conn: store.Connection, name: str, wallet: WalletKey, owner: AppFacts, posting: endings.Posting, lot: Lot) -> Act:
    """The trail's line of a posting that is about to be committed: nobody asked for it but the lot's own end."""
    stands = await store.balances(conn, store.books_of(wallet.enterprise_id), wallet.owner, owner.asset)
    before = {"available_micro": stands.get(AVAILABLE, 0), "debt_micro": -stands.get(DEBT, 0), "left_micro": lot.left_micro}
    (left,) = posting.lots
    amount_micro = lot.left_micro - left.left_micro
    after = {
        "available_micro": before["available_micro"] - amount_micro,
        "debt_micro": before["debt_micro"] - (left.spent_micro - lot.spent_micro),
        "left_micro": left.left_micro,
        "amount_micro": amount_micro,
        "asset": owner.asset,
        "lot_id": lot.id,
        "source": lot.source,
        "expires_at_ms": lot.expires_at_ms,
    }
    return Act(
        name=name,
        role="system",
        actor=endings.EXPIRY_ACTOR,
        subject=wallet.name,
        user_id=owner.user_id,
        enterprise_id=wallet.enterprise_id or "",
        reason="the lot's time has passed",
        before=before,
        after=after,
        txn_id=posting.txn.id,
    )

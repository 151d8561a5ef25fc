"""What a recovery, and its undoing, read of the books: see `recovery`, where the rules are."""

from collections.abc import Sequence

import msgspec

from gateway.core.errors import InvalidRequest
from gateway.core.ids import new_id
from gateway.ledger import endings, payment_queries, recovery, store
from gateway.ledger.books import debt_of
from gateway.ledger.model import DEBT, Lot, Txn, WalletKey


async def recovered(
    conn: store.Connection, wallet: WalletKey, head: endings.Head, lot: Lot, short_micro: int
) -> tuple[endings.Posting | None, Lot]:
    """What a lot is short of for what goes back or is disputed of its payment, as far as other money covers it: `recovery`."""
    if short_micro <= 0:
        return None, lot
    family = await payment_queries.family(conn, store.books_of(wallet.enterprise_id), wallet.owner, head.asset)
    named = msgspec.structs.replace(head, txn_id=new_id("txn"))
    return recovery.recovery(named, family, lot.id, short_micro)


async def expired_again(
    conn: store.Connection,
    wallet: WalletKey,
    head: endings.Head,
    undone: Sequence[Txn],
    came: Sequence[Txn],
    by: endings.Posting,
    given: Sequence[recovery.Gave],
) -> endings.Posting | None:
    """What had expired of what recoveries took; but for what pays debts that it would have covered, had they not taken it."""
    if all(one.is_spendable for one in given):
        return None
    books = store.books_of(wallet.enterprise_id)
    family = await payment_queries.family(conn, books, wallet.owner, head.asset)
    owed = await debt_of(conn, wallet, head.asset) - sum(e.amount_micro for e in by.txn.entries if e.account.kind == DEBT)
    debts: dict[str, int] = {}
    for lot_id, micro in await payment_queries.clawed_back_since(conn, books, wallet.owner, came[0].id, undone):
        debts[lot_id] = min(micro, owed)
        owed -= debts[lot_id]
    return recovery.expired_again(head, family, by.lots[0], given, debts)


async def check_still_expired(conn: store.Connection, wallet: WalletKey, expiry: Txn, asset: str) -> None:
    """InvalidRequest where what an expiry took has come back for a refund."""
    family = await payment_queries.family(conn, store.books_of(wallet.enterprise_id), wallet.owner, asset)
    for entry in expiry.entries:
        if entry.lot_id is not None and family.expired_micro.get(entry.lot_id, 0) < -entry.amount_micro:
            raise InvalidRequest("what expired has gone back to the payer since", param="txn_id")

"""What the books say of refunds: what one does to its wallet, and what went back of payments."""

from collections.abc import Sequence

import msgspec

from gateway.core.errors import InvalidRequest, NotFound
from gateway.core.ids import new_id
from gateway.ledger import endings, payment_queries, recovered, recovery, store
from gateway.ledger.books import Books
from gateway.ledger.model import AVAILABLE, DEBT, REFUND, RefundRequest, Txn
from gateway.ledger.payments import lot_paid


class RefundEffect(msgspec.Struct, frozen=True):
    """What a refund takes of what its wallet has, and what it leaves as a debt, in the wallet's asset.

    `is_posted`: the books have it. Otherwise it is what would be taken if they had it now.
    """

    taken_micro: int
    debt_micro: int
    is_posted: bool


class Refunds(Books):
    """Reads only. All raise SqlDown."""

    async def effect(self, request: RefundRequest) -> RefundEffect | None:
        """What a refund did to its wallet, or would do as the books stand now, where they have not heard of it yet.

        None for a payment that was not granted into this wallet, or has less to give back.
        """
        wallet, op_id = request.wallet, f"refund:{request.refund_ref}"
        books, owner = store.books_of(wallet.enterprise_id), await self.owner_of(wallet)
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            posted: list[Txn] = []
            for name in (recovery.op_id(op_id), op_id):
                known = await store.txn_of_op(conn, books, name)
                txn = None if known is None else await store.txn_by_id(conn, books, known[0])
                posted += [] if txn is None else [txn]
            if any(txn.kind == REFUND for txn in posted):
                return _effect(posted, is_posted=True)
            head = endings.Head(new_id("txn"), op_id, wallet.owner, owner.asset, request.actor, request.reason, self.now_ms())
            try:
                lot, exchanged = await lot_paid(conn, wallet, request.payment_ref)
                part = endings.share(lot, request.amount_micro, exchanged, "refunded")
            except (NotFound, InvalidRequest):
                return None
            before, lot = await recovered.recovered(conn, wallet, head, lot, part - lot.left_micro)
            posting = endings.refund(head, lot, request.amount_micro, 0, exchanged)
        return _effect([one.txn for one in (before, posting) if one is not None], is_posted=False)

    async def refunded(self, enterprise_id: str | None, payment_refs: Sequence[str]) -> dict[str, int]:
        """What refunds gave back of payments, in what was paid: of those of which something went, without what failed."""
        async with store.reading(await self.engine(enterprise_id)) as conn:
            return await payment_queries.refunded(conn, store.books_of(enterprise_id), payment_refs)


def _effect(txns: Sequence[Txn], *, is_posted: bool) -> RefundEffect:
    """Of a refund with its recovery: what came back and went at once was not the owner's to spend."""
    entries = [entry for txn in txns for entry in txn.entries]
    taken, debt = (-sum(each.amount_micro for each in entries if each.account.kind == kind) for kind in (AVAILABLE, DEBT))
    return RefundEffect(taken, debt, is_posted)

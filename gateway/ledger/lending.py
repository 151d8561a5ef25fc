"""Overage in the books: what is lent beyond an allowance, ended, repaid and given up.

A credit line is a lot like any other, so the same holds bound it and the same expiry ends it; only its money comes from
`receivable.overage` of its owner, and what is not used goes back there. What then stands there was used and is not paid:

    lent          receivable.overage -> user.available (a lot that burns after all others)      `Ledger.grant`, source overage
    ended         user.available (the lot) -> receivable.overage                                 an expiry
    paid          stripe_clearing -> user.available (a lot that is spent at once) -> receivable.overage   a grant that `repays`
    given up      expense.promo (a gift of the seller's) or expense.bad_debt -> receivable.overage        `write_off`
    paid after    stripe_clearing -> user.available (likewise) -> where it was given up to        the same grant

As its payment is the payment of a lot, its refund, its dispute and the platform's share are what they are of any payment.
"""

from typing import Final

import msgspec

from gateway.core.errors import Conflict, InvalidRequest, NotFound
from gateway.core.ids import new_id
from gateway.core.words import LotSource
from gateway.ledger import endings, payment_queries, store
from gateway.ledger.books import Books, check_amount, check_texts, commit, fingerprint_of, repeated
from gateway.ledger.model import OVERAGE, Lot, Posted, WalletKey
from gateway.trail import store as trail
from gateway.trail.model import Act

PRIORITY: Final = 1_000_000  # burns after whatever was paid for or given


class Lent(msgspec.Struct, frozen=True):
    """Of one wallet: what was used of what was lent and is neither paid nor given up, and what can still be used."""

    used_micro: int
    left_micro: int


class WriteOffRequest(msgspec.Struct, frozen=True):
    """Overage that was used and is not paid: a gift of the seller's (`is_gift`), or a loss; once per `op_id`."""

    wallet: WalletKey
    amount_micro: int
    op_id: str
    actor: str
    reason: str = ""
    is_gift: bool = False
    unless_op: str = ""  # an operation that may have paid for it: then there is nothing to give up


class Lending(Books):
    """Overage. Raises InvalidRequest, NotFound, Conflict, SqlDown."""

    async def standing(self, wallet: WalletKey) -> Lent:
        """How a wallet stands, by the books: usage follows in a moment. NotFound where there is no such creator or app."""
        owner = await self.owner_of(wallet)
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            return await standing(conn, wallet, owner.asset)

    async def left(self, wallet: WalletKey) -> int:
        """What is left of what is lent to a wallet, by the books. NotFound as `standing`."""
        owner = await self.owner_of(wallet)
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            return await payment_queries.left_of_lent(conn, store.books_of(wallet.enterprise_id), wallet.owner, owner.asset)

    async def lot(self, wallet: WalletKey, lot_id: str) -> Lot:
        """A lot that was lent to this wallet. NotFound."""
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            return await _lent(conn, wallet, lot_id)

    async def end(self, wallet: WalletKey, lot_id: str) -> None:
        """The time of a lot that was lent passes now: the next expiry takes what is left. NotFound."""
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            await _lent(conn, wallet, lot_id)
            await store.end_lot(conn, store.books_of(wallet.enterprise_id), lot_id, self.now_ms())

    async def write_off(self, request: WriteOffRequest) -> Posted:
        """Give up what was used. InvalidRequest for more than is unpaid, Conflict where `unless_op` was posted."""
        check_amount(request.amount_micro)
        check_texts(request.reason, op_id=request.op_id, actor=request.actor)
        wallet, print_ = request.wallet, fingerprint_of(request)
        owner = await self.owner_of(wallet)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            if done := await repeated(conn, wallet.enterprise_id, request.op_id, print_):
                return done
            if request.unless_op and await store.txn_of_op(conn, store.books_of(wallet.enterprise_id), request.unless_op):
                raise Conflict("that was paid", param="op_id")
            stands = await standing(conn, wallet, owner.asset)
            if request.amount_micro > stands.used_micro:
                raise InvalidRequest(f"of what was lent {stands.used_micro} is unpaid", param="amount_micro")
            head = endings.Head(
                new_id("txn"), request.op_id, wallet.owner, owner.asset, request.actor, request.reason, self.now_ms(), print_
            )
            posting = endings.written_off(head, request.amount_micro, is_gift=request.is_gift)
            posted = await commit(conn, wallet, owner, posting)
            act = Act(
                name="overage.write_off",
                role="system",
                actor=request.actor,
                subject=wallet.name,
                user_id=owner.user_id,
                enterprise_id=wallet.enterprise_id or "",
                reason=request.reason,
                before={"used_micro": stands.used_micro},
                after={"used_micro": stands.used_micro - request.amount_micro, "asset": owner.asset, "is_gift": request.is_gift},
                txn_id=posting.txn.id,
            )
            await trail.append(conn, trail.trail_of(wallet.enterprise_id), act, self.now_ms())
            return posted


async def standing(conn: store.Connection, wallet: WalletKey, asset: str) -> Lent:
    """How a wallet stands in a transaction."""
    books = store.books_of(wallet.enterprise_id)
    left = await payment_queries.left_of_lent(conn, books, wallet.owner, asset)
    stands = (await store.balances(conn, books, wallet.owner, asset)).get(OVERAGE, 0)
    return Lent(-stands - left, left)


async def given_up_to(conn: store.Connection, wallet: WalletKey, op_id: str) -> str | None:
    """The account that an operation gave overage up to; None: it did not."""
    books = store.books_of(wallet.enterprise_id)
    known = await store.txn_of_op(conn, books, op_id)
    txn = None if known is None else await store.txn_by_id(conn, books, known[0])
    return None if txn is None else next(entry.account.kind for entry in txn.entries if entry.amount_micro < 0)


async def _lent(conn: store.Connection, wallet: WalletKey, lot_id: str) -> Lot:
    lot, account = (await store.lots_of(conn, store.books_of(wallet.enterprise_id), [lot_id])).get(lot_id, (None, None))
    if lot is None or account is None or account.owner != wallet.owner or lot.source != LotSource.OVERAGE:
        raise NotFound("no such lot was lent to this wallet", param="lot_id")
    return lot

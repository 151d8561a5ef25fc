"""What happens to a payment, or to any grant, after it was granted: refunds, disputes, corrections, roll-overs, fees.

Each operation is posted once, by its own name: `refund:<refund>`, `dispute:<dispute>:opened`, `:closed` (won or lost),
`:reinstated`, `processing:<payment>`, `rollover:<series>:<start>`, or the caller's `op_id`. The same request again returns
the first result, another one under the same name is a Conflict. A refused operation changes nothing.

What a payment processor says of a dispute may arrive in any order. A closing that finds no opening posts one that froze
nothing, so that both are there and the end is the same; the opening that arrives after it does nothing.

The result's `credit` is what the hot store has to hear of; `balance.wallets.Wallets.deliver` tells it. A hot
wallet may fall below zero by it: spent money that went back to its payer is a debt.

An app's book and the platform's are two databases: what concerns both (fees, and what is due for them) is posted in
the app's first and then in the platform's, under names made of the same operation. A crash in between is
repaired by the repeat, and the audit sees it until then.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.errors import Conflict, InvalidRequest, NotFound
from gateway.core.ids import new_id
from gateway.core.words import LotSource
from gateway.ledger import endings, journal, payment_queries, recovered, recovery, store
from gateway.ledger.books import (
    Books,
    check_amount,
    check_moment,
    check_priority,
    check_texts,
    commit,
    debt_of,
    fingerprint_of,
    repeated,
)
from gateway.ledger.model import (
    AVAILABLE,
    DEBT,
    DISPUTE_LOST,
    DUE_TO_PLATFORM,
    EXPIRY,
    FEE_EXPENSE,
    FROZEN,
    REFUND,
    AppFacts,
    CorrectionRequest,
    DisputeRequest,
    Exchanged,
    Lot,
    PaymentStanding,
    Posted,
    RefundRequest,
    RenewalRequest,
    RolloverRequest,
    SettlementRequest,
    Txn,
    WalletKey,
)


class Payments(Books):
    """Refunds, disputes, corrections, roll-overs and fees. All raise InvalidRequest, NotFound, Conflict, SqlDown."""

    async def refund(self, request: RefundRequest) -> Posted:
        """Money of a payment went back to its payer: what is left of the lot, what ended of it unspent, and the rest as a debt.
        Partial ones add up.

        NotFound for a payment that was not granted; InvalidRequest for more than it has left to give back, or more fee
        than it bore.
        """
        check_amount(request.amount_micro)
        check_amount(request.fee_returned_micro, "fee_returned_micro", 0)
        check_texts(request.reason, refund_ref=request.refund_ref, payment_ref=request.payment_ref, actor=request.actor)
        op_id = f"refund:{request.refund_ref}"
        posted, asset = await self._refund(request, op_id)
        if request.fee_returned_micro:
            assert request.wallet.enterprise_id is not None, "a creator's payment bears no fee"
            await self.post_fee(request.wallet.enterprise_id, op_id, asset, -request.fee_returned_micro)
        return posted

    async def _refund(self, request: RefundRequest, op_id: str) -> tuple[Posted, str]:
        """(the result, the asset that was paid)."""
        wallet, print_ = request.wallet, fingerprint_of(request)
        owner = await self.owner_of(wallet)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            lot, exchanged = await lot_paid(conn, wallet, request.payment_ref)
            asset = owner.asset if exchanged is None else exchanged.asset
            if done := await repeated(conn, wallet.enterprise_id, op_id, print_):
                return done, asset
            borne = -await store.fees_of_lot(conn, store.books_of(wallet.enterprise_id), lot.id, FEE_EXPENSE)
            if request.fee_returned_micro > borne:
                raise InvalidRequest(f"of this payment's fee {borne} can be returned", param="fee_returned_micro")
            head = self._head(op_id, wallet, owner, request.actor, request.reason, print_)
            part = endings.share(lot, request.amount_micro, exchanged, "refunded")
            before, lot = await recovered.recovered(conn, wallet, head, lot, part - lot.left_micro)
            posting = endings.refund(head, lot, request.amount_micro, request.fee_returned_micro, exchanged)
            return await commit(conn, wallet, owner, posting, before=before), asset

    async def dispute_opened(self, request: DisputeRequest) -> Posted:
        """A payer disputes a payment: what is left of the lot, up to the amount, cannot be spent until it is closed.

        What a refund of that amount would find elsewhere (`recovery`) comes back and is frozen with it: of a period that was
        renewed, what went on could be spent else, and be a debt once the dispute is lost. Nothing happens when it was closed
        before.
        """
        _check_dispute(request)
        op_id, wallet, print_ = _dispute_op(request, "opened"), request.wallet, fingerprint_of(request)
        owner = await self.owner_of(wallet)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            if done := await repeated(conn, wallet.enterprise_id, op_id, print_, _implied(request)):
                return done
            lot, exchanged = await lot_paid(conn, wallet, request.payment_ref)
            head = self._head(op_id, wallet, owner, request.actor, request.reason, print_)
            part = endings.share(lot, endings.still_paid(lot, request.amount_micro, exchanged), exchanged, "disputed")
            before, lot = await recovered.recovered(conn, wallet, head, lot, part - lot.left_micro)
            posting = endings.dispute_opened(head, lot, request.amount_micro, exchanged)
            return await commit(conn, wallet, owner, posting, before=before)

    async def dispute_closed(self, request: DisputeRequest, *, won: bool) -> Posted:
        """The end of a dispute. Won: exactly what was frozen is available again. Lost: it is gone, and the rest is a debt.

        What is free again goes on again, as far as it had (`_undo`), for as long at least as it had when it was frozen.
        One that was not opened is opened with it. Conflict when it was closed the other way.
        """
        _check_dispute(request)
        op_id, wallet = _dispute_op(request, "closed"), request.wallet
        print_ = f"{'won' if won else 'lost'}:{fingerprint_of(request)}"
        owner = await self.owner_of(wallet)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            if done := await repeated(conn, wallet.enterprise_id, op_id, print_):
                return done
            lot, exchanged = await lot_paid(conn, wallet, request.payment_ref)
            opened = await _txn_of(conn, wallet.enterprise_id, _dispute_op(request, "opened"))
            if opened is None:
                first = self._head(_dispute_op(request, "opened"), wallet, owner, request.actor, _CLOSED_FIRST, _implied(request))
                posting = endings.dispute_implied(first)
                await commit(conn, wallet, owner, posting)
                opened = posting.txn
            head = self._head(op_id, wallet, owner, request.actor, request.reason, print_)
            before = None
            if won:
                posting = endings.dispute_won(head, lot, opened)
            else:
                _, free = endings.thawed(lot, opened)
                part = endings.share(free, endings.still_paid(free, request.amount_micro, exchanged), exchanged, "lost")
                before, lot = await recovered.recovered(conn, wallet, head, lot, part - free.left_micro)
                posting = endings.dispute_lost(head, lot, opened, request.amount_micro, exchanged)
            freed = _freed(posting.txn)
            return await self._undo(conn, wallet, owner, [opened], posting, before=before, most_micro=freed, as_long=True)

    async def reinstate(self, request: DisputeRequest) -> Posted:
        """The payer's bank took back a dispute that was lost: the loss is reversed, whatever `amount_micro` says.

        What was a debt and is paid by now becomes a new lot. NotFound when it was not lost.
        """
        _check_dispute(request)
        op_id, wallet, print_ = _dispute_op(request, "reinstated"), request.wallet, fingerprint_of(request)
        owner = await self.owner_of(wallet)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            if done := await repeated(conn, wallet.enterprise_id, op_id, print_):
                return done
            lot, _ = await lot_paid(conn, wallet, request.payment_ref)
            opened = await _txn_of(conn, wallet.enterprise_id, _dispute_op(request, "opened"))
            lost = await _txn_of(conn, wallet.enterprise_id, _dispute_op(request, "closed"))
            if lost is None or lost.kind != DISPUTE_LOST:
                raise NotFound("that dispute was not lost", param="dispute_ref")
            head = self._head(op_id, wallet, owner, request.actor, request.reason, print_)
            debt = await debt_of(conn, wallet, owner.asset)
            posting = endings.reinstated(head, lot, lost, new_id("lot"), debt)
            undone = [lost] if opened is None else [opened, lost]
            return await self._undo(conn, wallet, owner, undone, posting, skip_micro=_freed(lost))

    async def correct(self, request: CorrectionRequest) -> Posted:
        """Reverse a wrong transaction by another one, once: a grant, a refund (one that failed), an expiry, a usage.

        NotFound when there is none; Conflict when it was reversed already; InvalidRequest for other kinds.
        """
        check_texts(request.reason, op_id=request.op_id, txn_id=request.txn_id, actor=request.actor)
        posted, returned, asset = await self._correct(request)
        if returned and request.enterprise_id is not None:
            await self.post_fee(request.enterprise_id, request.op_id, asset, returned)
        return posted

    async def _correct(self, request: CorrectionRequest) -> tuple[Posted, int, str]:
        """(the result, the fee that the app bears again, its asset)."""
        books, print_ = store.books_of(request.enterprise_id), fingerprint_of(request)
        async with store.reading(await self.engine(request.enterprise_id)) as conn:
            wrong = await store.txn_by_id(conn, books, request.txn_id)
        account = next((entry.account for entry in wrong.entries if entry.account.kind in _OWNED), None) if wrong else None
        if wrong is None or account is None:
            raise NotFound("there is no such transaction of a wallet in this book", param="txn_id")
        wallet = WalletKey(account.owner, request.enterprise_id)
        owner = await self.owner_of(wallet)
        dues = [entry for entry in wrong.entries if entry.account.kind == DUE_TO_PLATFORM]
        if request.fee_stays:
            dues = []
        returned, money = -sum(entry.amount_micro for entry in dues), dues[0].account.asset if dues else account.asset
        async with store.writing(await self.engine(request.enterprise_id)) as conn:
            if done := await repeated(conn, request.enterprise_id, request.op_id, print_):
                return done, returned, money
            if await store.reversed_by(conn, books, wrong.id) is not None:
                raise Conflict("that transaction was reversed already", param="txn_id")
            named = sorted({entry.lot_id for entry in wrong.entries if entry.lot_id is not None})
            lots = {lot_id: lot for lot_id, (lot, _) in (await store.lots_of(conn, books, named)).items()}
            head = self._head(request.op_id, wallet, owner, request.actor, request.reason, print_)
            debt = await debt_of(conn, wallet, account.asset)
            if wrong.kind == EXPIRY:
                await recovered.check_still_expired(conn, wallet, wrong, account.asset)
            posting = endings.correction(head, wrong, lots, new_id("lot"), debt, fee_stays=request.fee_stays)
            if wrong.kind == REFUND:
                return await self._undo(conn, wallet, owner, [wrong], posting), returned, money
            return await commit(conn, wallet, owner, posting), returned, money

    async def _undo(
        self,
        conn: store.Connection,
        wallet: WalletKey,
        owner: AppFacts,
        undone: Sequence[Txn],
        by: endings.Posting,
        *,
        before: endings.Posting | None = None,
        skip_micro: int = 0,
        most_micro: int | None = None,
        as_long: bool = False,
    ) -> Posted:
        """Post `by`, which undoes refunds, losses or openings: of what they took, what had expired expires again with it.

        What could be spent goes on again, in lots that end as those it was taken from. `as_long`: where that is over by now,
        after as long as they had had; see `recovery.given` for the amounts.
        """
        found = [await _txn_of(conn, wallet.enterprise_id, recovery.op_id(each.op_id)) for each in undone]
        came = [each for each in found if each is not None]
        if not came:
            return await commit(conn, wallet, owner, by, before=before)
        books, (lot,), now = store.books_of(wallet.enterprise_id), by.lots, self.now_ms()
        named = sorted({entry.lot_id for txn in came for entry in txn.entries if entry.lot_id is not None})
        lots = {lot_id: one for lot_id, (one, _) in (await store.lots_of(conn, books, named)).items()}
        given = recovery.given(came, lot.id, lots, skip_micro, most_micro)
        head = self._head(f"recovery:again:{by.txn.id}", wallet, owner, by.txn.actor, "", by.txn.id)
        again = await recovered.expired_again(conn, wallet, head, undone, came, by, given)
        posted = await commit(conn, wallet, owner, by, before=before, after=again)
        lot = next((one for one in (again.lots if again else ()) if one.id == lot.id), lot)
        for gave in [one for one in given if one.is_spendable]:
            ends_at_ms = gave.lot.expires_at_ms
            if as_long and gave.lasted_ms is not None and ends_at_ms is not None and ends_at_ms <= now:
                ends_at_ms = now + gave.lasted_ms
            made_by = await payment_queries.made_by(conn, books, gave.lot.id) or f"rollover:{gave.lot.id}:0"
            # Named as of the renewal that made the other, so that the next one ends both.
            op_id = ":".join([*made_by.split(":")[:3], "again", by.txn.id, gave.lot.id])
            head, new = self._head(op_id, wallet, owner, by.txn.actor, "", by.txn.id), new_id("lot")
            posting = endings.rollover(
                head, lot, new, amount_micro=gave.amount_micro, expires_at_ms=ends_at_ms, priority=gave.lot.priority
            )
            await commit(conn, wallet, owner, posting)
            (lot,) = posting.lots
        return posted

    async def rollover(self, request: RolloverRequest) -> Posted | None:
        """What is left of a lot goes on in a new one with an expiry of its own; None when nothing is left.

        The wallet's balance stays, so the hot store has nothing to hear. NotFound for a lot of another wallet; Conflict
        while the lot's expiry is on its way.
        """
        check_texts(request.reason, op_id=request.op_id, lot_id=request.lot_id, actor=request.actor)
        check_priority(request.priority)
        check_moment(request.expires_at_ms, "expires_at")
        if request.amount_max_micro is not None:
            check_amount(request.amount_max_micro, "amount_max_micro")
        wallet, print_ = request.wallet, fingerprint_of(request)
        owner = await self.owner_of(wallet)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            if done := await repeated(conn, wallet.enterprise_id, request.op_id, print_):
                return done
            found = await store.lots_of(conn, store.books_of(wallet.enterprise_id), [request.lot_id])
            lot, account = found.get(request.lot_id, (None, None))
            if lot is None or account is None or account.owner != wallet.owner:
                raise NotFound("there is no such lot in this wallet", param="lot_id")
            if lot.source == LotSource.OVERAGE:
                raise InvalidRequest("what was lent does not go on", param="lot_id")
            if lot.expiring is not None:
                raise Conflict("the lot is about to expire", param="lot_id")
            if lot.effective_at_ms > self.now_ms():
                raise InvalidRequest("the lot is not in effect yet", param="lot_id")
            if request.expires_at_ms is not None and request.expires_at_ms <= self.now_ms():
                raise InvalidRequest("expires_at must be in the future", param="expires_at")
            amount = min(lot.left_micro, lot.left_micro if request.amount_max_micro is None else request.amount_max_micro)
            if not amount:
                return None
            head = self._head(request.op_id, wallet, owner, request.actor, request.reason, print_)
            posting = endings.rollover(
                head,
                lot,
                new_id("lot"),
                amount_micro=amount,
                expires_at_ms=request.expires_at_ms,
                priority=request.priority,
            )
            return await commit(conn, wallet, owner, posting)

    async def renew(self, request: RenewalRequest) -> Posted:
        """End what a series of allowances granted before, and let what is left of it go on, up to the cap; the rest pays a debt.

        The wallet's balance stays: what does not go on is expired as any lot is. Once per series and start, also when
        nothing was left.
        """
        check_texts(request.reason, series=request.series, actor=request.actor)
        check_amount(request.amount_max_micro, "amount_max_micro", 0)
        wallet, op_id = request.wallet, f"rollover:{request.series}:{request.starts_at_ms:015d}"
        owner = await self.owner_of(wallet)
        books = store.books_of(wallet.enterprise_id)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            if done := await repeated(conn, wallet.enterprise_id, op_id, request.series):
                return done
            head = self._head(op_id, wallet, owner, request.actor, request.reason, request.series)
            lots = [
                lot
                for starts_at_ms, lot in await payment_queries.lots_of_series(conn, books, wallet.owner, request.series)
                if starts_at_ms < request.starts_at_ms
                and lot.expiring is None
                and (lot.expires_at_ms is None or lot.expires_at_ms > head.at_ms)  # else what an expiry is late for would go on
            ]
            debt = await debt_of(conn, wallet, owner.asset)
            posting = endings.renewal(head, lots, new_id("lot"), request.amount_max_micro, request.expires_at_ms, debt)
            return await commit(conn, wallet, owner, posting)

    async def processing_fee(
        self, wallet: WalletKey, payment_ref: str, amount_micro: int, actor: str, cause: str = ""
    ) -> Posted:
        """What the processor kept of a payment, once it is known; in what was paid, once per payment.

        `cause` names what else it took something for, or (below zero) gave back, as for a dispute: once for each.
        """
        check_amount(abs(amount_micro))
        op_id, owner = f"processing:{cause or payment_ref}", await self.owner_of(wallet)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            if done := await repeated(conn, wallet.enterprise_id, op_id, payment_ref):
                return done
            _, exchanged = await lot_paid(conn, wallet, payment_ref)
            money = owner.asset if exchanged is None else exchanged.asset
            txn = endings.processing(self._head(op_id, wallet, owner, actor, "", payment_ref), money, amount_micro)
            await _post(conn, wallet.enterprise_id, txn)
            return Posted(txn.id, wallet.enterprise_id, None, first=True)

    async def standing(self, wallet: WalletKey, payment_ref: str) -> PaymentStanding | None:
        """How a payment stands; None for one that was not granted into this wallet."""
        owner = await self.owner_of(wallet)
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            try:
                lot, exchanged = await lot_paid(conn, wallet, payment_ref)
            except NotFound:
                return None
            fee = -await store.fees_of_lot(conn, store.books_of(wallet.enterprise_id), lot.id, FEE_EXPENSE)
        if exchanged is None:
            return PaymentStanding(owner.asset, lot.granted_micro, lot.refunded_micro + lot.clawback_micro, fee)
        return PaymentStanding(exchanged.asset, exchanged.paid_micro, exchanged.gone_micro, fee)

    async def payer(self, enterprise_id: str | None, payment_ref: str) -> str | None:
        """Whose wallet in a book a payment was granted into; None: nobody's."""
        async with store.reading(await self.engine(enterprise_id)) as conn:
            found = await store.lot_of_payment(conn, store.books_of(enterprise_id), payment_ref)
        return None if found is None else found[1].owner

    async def granted_as(self, enterprise_id: str | None, payment_ref: str) -> str | None:
        """`op_id` of the grant that a payment is; None: it bought nothing."""
        async with store.reading(await self.engine(enterprise_id)) as conn:
            return await payment_queries.granted_as(conn, store.books_of(enterprise_id), payment_ref)

    async def series(self, enterprise_id: str | None, name: str) -> list[tuple[int, int, str]]:
        """(start, end, name) of every allowance of a series."""
        async with store.reading(await self.engine(enterprise_id)) as conn:
            ops = await payment_queries.allowances(conn, store.books_of(enterprise_id), name)
        parts = [op_id.split(":", 4) for op_id in ops]
        return sorted((int(start), int(end), of) for _, _, start, end, of in parts)

    async def granted_until(self, wallet: WalletKey, name: str, ends_at_ms: int) -> int:
        """What a series of allowances granted for the period that ends then, in all."""
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            return await payment_queries.granted_until(conn, store.books_of(wallet.enterprise_id), name, ends_at_ms)

    async def paid_allowances(self, enterprise_id: str | None, owners: Sequence[str]) -> dict[tuple[str, int], int]:
        """What of the allowances of these wallets money paid for, and has not gone back: by series and the end of its period."""
        async with store.reading(await self.engine(enterprise_id)) as conn:
            return await payment_queries.paid_allowances(conn, store.books_of(enterprise_id), owners)

    async def posted_as(self, enterprise_id: str | None, op_id: str) -> Txn | None:
        """What an operation posted in a book, as `dispute:<dispute>:closed`; None: nothing yet."""
        async with store.reading(await self.engine(enterprise_id)) as conn:
            return await _txn_of(conn, enterprise_id, op_id)

    async def settle_due(self, request: SettlementRequest) -> Posted:
        """Money passed from an app to the platform for what was due (the processor withheld the fee), in both books."""
        check_amount(abs(request.amount_micro))
        check_texts(request.reason, op_id=request.op_id, actor=request.actor)
        wallet, print_ = WalletKey("-", request.enterprise_id), fingerprint_of(request)
        owner = await self.owner_of(wallet)
        result: Posted | None = None
        for book in (request.enterprise_id, None):
            async with store.writing(await self.engine(book)) as conn:
                op_id = request.op_id if book is not None else f"settlement:{request.enterprise_id}:{request.op_id}"
                done = await repeated(conn, book, op_id, print_)
                if done is None:
                    whose = "" if book is not None else request.enterprise_id
                    head = self._head(op_id, WalletKey("", book), owner, request.actor, request.reason or whose, print_)
                    txn = endings.settled(head, request.amount_micro, None if book is not None else request.enterprise_id)
                    await _post(conn, book, txn)
                    done = Posted(txn.id, book, None, first=True)
                result = result or done
        assert result is not None
        return result

    async def post_fee(self, enterprise_id: str, op_id: str, asset: str, amount_micro: int) -> None:
        """The platform's side of an app's fee, once; below zero, of one that is returned."""
        if not amount_micro:
            return
        op_id = f"fee:{enterprise_id}:{op_id}"
        async with store.writing(self.databases.platform) as conn:
            if not await store.known_ops(conn, store.books_of(None), [op_id]):
                await _post(conn, None, endings.fee(new_id("txn"), op_id, enterprise_id, asset, amount_micro, self.now_ms()))

    def _head(self, op_id: str, wallet: WalletKey, owner: AppFacts, actor: str, reason: str, fingerprint: str) -> endings.Head:
        return endings.Head(new_id("txn"), op_id, wallet.owner, owner.asset, actor, reason, self.now_ms(), fingerprint)


_OWNED: Final = (AVAILABLE, FROZEN, DEBT)
_CLOSED_FIRST: Final = "closed before it was opened"


def _check_dispute(request: DisputeRequest) -> None:
    check_amount(request.amount_micro)
    check_texts(request.reason, dispute_ref=request.dispute_ref, payment_ref=request.payment_ref, actor=request.actor)


def _dispute_op(request: DisputeRequest, state: str) -> str:
    return f"dispute:{request.dispute_ref}:{state}"


def _implied(request: DisputeRequest) -> str:
    """The fingerprint of an opening that a closing posted: of what both say alike, whatever else the opening will say."""
    whose = fingerprint_of(msgspec.structs.replace(request, amount_micro=0, actor="", reason=""))
    return f"implied:{whose}"


def allowance_op(series: str, starts_at_ms: int, ends_at_ms: int, name: str) -> str:
    """`op_id` of a grant that is one of a series: what `name` granted for a time."""
    return f"allowance:{series}:{starts_at_ms:015d}:{ends_at_ms:015d}:{name}"


async def lot_paid(conn: store.Connection, wallet: WalletKey, payment_ref: str) -> tuple[Lot, Exchanged | None]:
    """The lot that a payment made in this wallet; where something else was granted than paid, how the payment stands."""
    found = await store.lot_of_payment(conn, store.books_of(wallet.enterprise_id), payment_ref)
    if found is None or found[1].owner != wallet.owner or found[0].source != LotSource.PAID:
        raise NotFound("that payment was not granted into this wallet", param="payment_ref")
    return found[0], await payment_queries.exchanged(conn, store.books_of(wallet.enterprise_id), found[0].id)


def _freed(closed: Txn) -> int:
    """What of what a dispute had frozen its end made available."""
    return max(sum(entry.amount_micro for entry in closed.entries if entry.account.kind == AVAILABLE), 0)


async def _txn_of(conn: store.Connection, enterprise_id: str | None, op_id: str) -> Txn | None:
    """What an operation posted."""
    books = store.books_of(enterprise_id)
    known = await store.txn_of_op(conn, books, op_id)
    return None if known is None else await store.txn_by_id(conn, books, known[0])


async def _post(conn: store.Connection, enterprise_id: str | None, txn: Txn) -> None:
    """Write a transaction that touches no wallet."""
    books, sums = store.books_of(enterprise_id), journal.changes([txn])
    ids = await store.account_ids(conn, books, sums)
    await store.post(conn, books, [txn], ids)
    await store.add_balances(conn, books, sums, ids)

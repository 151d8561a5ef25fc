"""Money that goes back: refunds, whoever made them, and disputes, in whatever order they are told.

Each first makes sure that the payment behind it is in the books, so that one which is told before its payment finds it.

A refund counts once its money has moved (`succeeded`): a pending one may still fail, and is told again when it is decided. Stripe
returns the platform's share only with refunds that were asked for so; with any other, as from a creator's own dashboard,
we return the same part of it, unless the platform pays for what was bought. A refund that failed after all is corrected; what
was returned of the share stays returned, as Stripe takes none of it back.

A dispute is followed by its state as it is now, not by what was told: while it is open what is left is frozen, a lost one takes
the money that Stripe withdrew, a won one frees it, and one that was lost and won by the bank's change of mind is
reinstated. An inquiry (`warning_...`) has taken no money, and changes nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol
from weakref import WeakValueDictionary

from gateway.balance.wallets import Wallets
from gateway.billing.ports import DisputeFacts, PaymentFacts, Payments, PaymentsDown, RefundFacts
from gateway.billing.sellers import NotOurs, Rejected, Sellers, micro
from gateway.billing.webhooks.store import InboxStore
from gateway.core.clock import Clock, now_ms
from gateway.core.ids import new_id
from gateway.ledger.model import (
    DISPUTE_LOST,
    FEE_EXPENSE,
    CorrectionRequest,
    DisputeRequest,
    PaymentStanding,
    RefundRequest,
    WalletKey,
)
from gateway.ledger.service import Ledger

_ACTOR: Final = "stripe"
_FAILED: Final = ("failed", "canceled")
_OPEN: Final = ("needs_response", "under_review")
_LEASE_MS: Final = 180_000  # longer than Stripe's slowest answers to all that one refund asks
_TRY_EVERY_S: Final = 0.1
_TRIES: Final = 50


class Sold(Protocol):
    """What was sold, as a reversal of it sees it. Raises as `Effects`."""

    async def payment(self, account_id: str, facts: PaymentFacts) -> bool:
        """Makes sure that a payment is in the books; whether it is only now."""
        ...

    async def disputed(self, wallet: WalletKey) -> None:
        """Told before anything is taken of a wallet for a dispute."""
        ...

    async def undone(self, wallet: WalletKey, payment_id: str) -> None:
        """Told before anything is taken of a wallet for a payment's refund."""
        ...

    async def gone_back(self, wallet: WalletKey) -> None:
        """Told after a refund, or its failure, is in the books; however often."""
        ...


class Reversals:
    """Refunds and disputes. Raises as `Effects`."""

    def __init__(
        self,
        payments: Payments,
        rows: InboxStore,
        wallets: Wallets,
        ledger: Ledger,
        sellers: Sellers,
        sold: Sold,
        clock: Clock,
    ) -> None:
        self._payments = payments
        self._rows = rows
        self._clock = clock
        self._wallets = wallets
        self._ledger = ledger
        self._sellers = sellers
        self._sold = sold
        # Two refunds of one payment share what is left of its fee: one at a time, here, and by a lease among processes.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def refund(self, account_id: str, facts: RefundFacts) -> None:
        """A refund, as far as it has come."""
        if not facts.payment_id:
            raise NotOurs("it is of no payment intent")
        if facts.status in _FAILED:
            await self._failed(account_id, facts)
            return
        if facts.status != "succeeded":
            raise NotOurs(f"the refund is {facts.status}: it counts once it has succeeded")
        lock = self._locks.setdefault(facts.payment_id, asyncio.Lock())
        async with lock, self._alone(f"refunds of {facts.payment_id}"):
            wallet, payment = await self._payment(account_id, facts.payment_id)
            posted = await self._ledger.payments.posted_as(wallet.enterprise_id, f"refund:{facts.refund_id}")
            returned = 0
            if posted is None:
                await self._sold.undone(wallet, payment.payment_id)
                returned = await self._fee(wallet, payment, facts)
            else:
                returned = sum(entry.amount_micro for entry in posted.entries if entry.account.kind == FEE_EXPENSE)
            request = RefundRequest(
                wallet=wallet,
                payment_ref=payment.payment_id,
                refund_ref=facts.refund_id,
                amount_micro=micro(facts.amount_minor, facts.currency),
                actor=_ACTOR,
                fee_returned_micro=returned,
            )
            await self._wallets.deliver(await self._ledger.payments.refund(request))
            await self._sold.gone_back(wallet)

    async def _fee(self, wallet: WalletKey, payment: PaymentFacts, facts: RefundFacts) -> int:
        """What of the platform's share went back with a refund: what Stripe returned, or else what we return now."""
        if facts.fee_returned_minor:
            return micro(facts.fee_returned_minor, facts.currency)
        if await self._sellers.is_platforms_cost(wallet):
            return 0  # it paid for what may be spent already: only who asked for it here, an operator, gave the share back
        standing = await self._ledger.payments.standing(wallet, payment.payment_id)
        if standing is None or payment.fee_id is None or not standing.fee_micro:
            return 0
        # It goes back before the books have it, and a process may die in between. Stripe forgets within a day what was asked
        # under a name, so it is asked first what went back for this refund.
        share, in_all = await self._payments.fee_returned(payment.fee_id, facts.refund_id)
        left = payment.fee_minor - in_all
        if share is None:
            share = min(_share(standing, payment, facts), left)
            if share > 0:
                await self._payments.return_fee(f"fee of {facts.refund_id}", payment.fee_id, share, facts.refund_id)
                left -= share
        # Also what went back by somebody's hand, or with a refund that failed: what Stripe has left of it is what there is.
        return max(standing.fee_micro - micro(left, facts.currency), 0)

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """No other process does this meanwhile. PaymentsDown where one has for too long."""
        holder, patience = new_id("lease"), _TRIES
        while not await self._rows.lease(name, holder, now_ms(self._clock), now_ms(self._clock) + _LEASE_MS):
            patience -= 1
            if not patience:
                raise PaymentsDown(f"another process is at {name}")
            await asyncio.sleep(_TRY_EVERY_S)
        try:
            yield
        finally:
            await self._rows.release(name, holder)

    async def _failed(self, account_id: str, facts: RefundFacts) -> None:
        wallet, _ = await self._payment(account_id, facts.payment_id)
        posted = await self._ledger.payments.posted_as(wallet.enterprise_id, f"refund:{facts.refund_id}")
        if posted is None:
            raise NotOurs("the refund failed, and was never counted")
        request = CorrectionRequest(
            wallet.enterprise_id, posted.id, f"refund:{facts.refund_id}:failed", _ACTOR, "the refund failed", fee_stays=True
        )
        await self._wallets.deliver(await self._ledger.payments.correct(request))
        await self._sold.gone_back(wallet)

    async def dispute(self, account_id: str, facts: DisputeFacts) -> None:
        """A dispute, wherever it stands."""
        if not facts.payment_id:
            raise NotOurs("it is of no payment intent")
        wallet, payment = await self._payment(account_id, facts.payment_id)
        amount = micro(facts.amount_minor, facts.currency)
        request = DisputeRequest(wallet, payment.payment_id, facts.dispute_id, amount, _ACTOR)
        books, name = self._ledger.payments, f"dispute:{facts.dispute_id}"
        opened = await books.posted_as(wallet.enterprise_id, f"{name}:opened")
        closed = await books.posted_as(wallet.enterprise_id, f"{name}:closed")
        if opened is None and closed is None and facts.status in (*_OPEN, "lost"):
            await self._sold.disputed(wallet)
        if facts.status in _OPEN:
            if closed is None:
                await self._wallets.deliver(await books.dispute_opened(request))
        elif facts.status == "lost" and facts.withdrawn_minor:
            back = await books.posted_as(wallet.enterprise_id, f"{name}:reinstated")
            if back is not None or (closed is not None and closed.kind != DISPUTE_LOST):
                raise Rejected("it was won, and is lost now: this takes a person to see to it")
            await self._wallets.deliver(await books.dispute_closed(request, won=False))
        elif closed is not None and closed.kind == DISPUTE_LOST:
            await self._wallets.deliver(await books.reinstate(request))
        elif opened is not None or facts.status == "won":
            await self._wallets.deliver(await books.dispute_closed(request, won=True))
        else:
            raise NotOurs(f"a dispute that is {facts.status} has taken nothing")
        first_taken = next((movement_id for movement_id, fee_minor in facts.fees if fee_minor > 0), None)
        for movement_id, fee_minor in facts.fees:
            # Most disputes have one fee, which has the dispute's name; what came back may be of the same second.
            cause = name if movement_id == first_taken else f"{name}:{movement_id}"
            await books.processing_fee(wallet, payment.payment_id, micro(fee_minor, facts.currency), _ACTOR, cause)

    async def _payment(self, account_id: str, payment_id: str) -> tuple[WalletKey, PaymentFacts]:
        """The payment behind it, which is in the books when this returns. NotOurs for one that has bought nothing."""
        payment = await self._payments.payment(account_id, payment_id)
        wallet = await self._sellers.payer_of(account_id, payment)
        is_known = await self._ledger.payments.standing(wallet, payment_id) is not None
        try:
            # Also where it is known: a process may have died before the platform's book, or the hot wallet, had heard of it.
            await self._sold.payment(account_id, payment)
        except (NotOurs, Rejected):  # as of a payment whose metadata was changed since
            if not is_known:
                raise
        if not is_known and await self._ledger.payments.standing(wallet, payment_id) is None:
            raise NotOurs("its payment has bought nothing: it pays a part of an invoice, of which the rest is not paid")
        return wallet, payment


def _share(standing: PaymentStanding, payment: PaymentFacts, facts: RefundFacts) -> int:
    """Minor units of the platform's share that go with a refund: its part, rounded half up; with the last, all that is left."""
    unit = micro(1, facts.currency)
    left = standing.fee_micro // unit
    if standing.gone_micro + micro(facts.amount_minor, facts.currency) >= standing.paid_micro:
        return left
    # Of the sum that has gone by then, less what went before: many small refunds round no more than one.
    gone = standing.gone_micro // unit + facts.amount_minor
    due = (2 * payment.fee_minor * gone + payment.amount_minor) // (2 * payment.amount_minor)
    return min(left, max(due - (payment.fee_minor - left), 0))

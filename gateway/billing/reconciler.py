"""What webhooks never told: payments, invoices, subscriptions, refunds and disputes, walked at Stripe by time.

Whatever is found goes to the very effects that a webhook would have reached, so what was told is not done again. Each account
has a mark, how far it was looked at; a walk starts so much before it as a fact of its kind may change after it was made.

What is wrong with one object, one page or one account is told, and keeps nothing else waiting. What a creator did by hand on its
own account, and touches neither the platform's share nor a wallet, is told as well, and is nothing wrong; so is what was said
to be paid and is withheld, as nobody paid the platform for what it would grant. What could not be
looked at leaves its account's mark where it was, so that the next run begins there.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec

from gateway.balance.model import BalanceUnavailable
from gateway.billing.effects import Effects, NotOurs, Rejected
from gateway.billing.model import PLATFORM_ACCOUNT, PurchaseState
from gateway.billing.oddities import Fact
from gateway.billing.ports import (
    DisputeFacts,
    InvoiceFacts,
    PaymentFacts,
    Payments,
    PaymentsDown,
    PaymentsRefused,
    RefundFacts,
    SubscriptionFacts,
)
from gateway.billing.sellers import Withheld
from gateway.billing.webhooks.store import InboxStore, OpenPurchase
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import GatewayError
from gateway.db.faults import SqlDown, SqlRefused

_log = logging.getLogger(__name__)

_DAY_MS: Final = 86_400_000
_FIRST_MS: Final = 30 * _DAY_MS  # how far an account is looked back at that never was looked at
_PAID_LATE_MS: Final = 14 * _DAY_MS  # the slowest bank debits, and the last try to collect a renewal
_REFUNDED_LATE_MS: Final = 30 * _DAY_MS  # a refund that stays pending fails after that
_DISPUTED_LATE_MS: Final = 120 * _DAY_MS  # a dispute that is decided
_AHEAD_MS: Final = _DAY_MS  # Stripe's clock is not ours
_OPEN_FOR_MS: Final = 2 * _DAY_MS  # a checkout page is there for a day
_PAGE: Final = 200
_SILENT_MAX: Final = 3
_MISSES_MAX: Final = 3  # of one account, after which the rest of it waits for the next run
_SHOWN: Final = 50
_NOTES_SHOWN: Final = 5  # of one account


_Fact = TypeVar("_Fact", InvoiceFacts, PaymentFacts, RefundFacts, DisputeFacts, SubscriptionFacts)


class Looked(msgspec.Struct, frozen=True):
    """What one run did: objects that were looked at, those that are not ours, what was wrong, and what could not be looked at;
    of both the first in words. `made_up` are payments and invoices that were paid and not in the books: they are now. `noted`
    is what is odd on a creator's account and touches nothing of the platform's (see `oddities`), or was withheld; of each the
    first in words.
    """

    accounts: int
    objects: int
    not_ours: int
    wrong: int
    unseen: int
    reasons: tuple[str, ...]
    made_up: int = 0
    noted: int = 0
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything was looked at, and nothing was wrong."""
        return not self.wrong and not self.unseen


class _GivenUp(Exception):
    """Too much of one account could not be looked at."""


class _Run:
    def __init__(self) -> None:
        self.accounts = self.objects = self.not_ours = self.wrong = self.unseen = self.made_up = self.noted = 0
        self.reasons: list[str] = []
        self.notes: dict[str, list[str]] = {}  # by account
        self.misses = 0  # of the account that is looked at now
        self.silent = 0  # accounts one after another that were given up
        self.heard = False  # whether Stripe has answered at all

    def fail(self, where: str, why: object) -> None:
        self.wrong += 1
        self._tell(where, why)

    def miss(self, where: str, why: object) -> None:
        self.unseen += 1
        self._tell(where, why)

    def note(self, account_id: str, where: str, why: object) -> None:
        self.noted += 1
        told = self.notes.setdefault(account_id, [])
        if len(told) < _NOTES_SHOWN:
            told.append(f"account {account_id}, {where}: {why}")

    def _tell(self, where: str, why: object) -> None:
        told = f"{where}: {why}"
        if len(self.reasons) < _SHOWN and told not in self.reasons:
            self.reasons.append(told)

    def done(self) -> Looked:
        notes = tuple(note for of in self.notes.values() for note in of)
        counts = (self.accounts, self.objects, self.not_ours, self.wrong, self.unseen)
        return Looked(*counts, tuple(self.reasons), self.made_up, self.noted, notes)


class BillingReconciler:
    """Walks Stripe. Two at once do the same work twice, and nothing else."""

    def __init__(
        self,
        payments: Payments,
        rows: InboxStore,
        effects: Effects,
        enterprise_ids: Callable[[], Awaitable[Sequence[str]]],
        clock: Clock,
        kept_ms: int = 90 * _DAY_MS,
    ) -> None:
        """`kept_ms`: how long webhooks are kept that were handled."""
        self._payments = payments
        self._rows = rows
        self._effects = effects
        self._enterprise_ids = enterprise_ids
        self._clock = clock
        self._kept_ms = kept_ms

    async def run(self, since_ms: int | None = None) -> Looked:
        """Every account that lets us in, and the platform's own; `since_ms` instead of the accounts' marks.

        Raises SqlDown when the platform's database cannot be reached.
        """
        run = _Run()
        await self._rows.forget(now_ms(self._clock) - self._kept_ms)
        try:
            await self._all(run, since_ms)
        except PaymentsDown as down:
            run.unseen += 1
            run.reasons.append(str(down))
        return run.done()

    async def _all(self, run: _Run, since_ms: int | None) -> None:
        """Raises PaymentsDown where Stripe answers nothing at all."""
        for account_id in (PLATFORM_ACCOUNT, *await self._rows.accounts()):
            if run.silent >= _SILENT_MAX:
                run.miss("the other accounts", "they wait for the next run, as Stripe does not answer")
                break
            run.accounts += 1
            await self._looked_at(run, account_id, f"account {account_id or 'of the platform'}", since_ms)
        for enterprise_id in (None, *await self._enterprise_ids()):
            await self._abandoned(run, enterprise_id)

    async def _looked_at(self, run: _Run, account_id: str, where: str, since_ms: int | None) -> None:
        run.misses = 0
        now = now_ms(self._clock)
        try:
            await self._account(account_id, since_ms, now, run)
        except PaymentsRefused as refused:  # it does not let us in any more
            run.misses += 1
            run.miss(where, refused)
            await self._shut_out(run, account_id)
        except _GivenUp:
            run.silent += 1
        else:
            run.silent = 0
        if not run.misses:
            await self._rows.set_mark(account_id, now)

    async def _account(self, account_id: str, since_ms: int | None, now: int, run: _Run) -> None:
        mark = await self._rows.mark(account_id)
        start = since_ms if since_ms is not None else (now - _FIRST_MS if mark is None else mark)
        until = now + _AHEAD_MS

        def since(late_ms: int) -> int:
            return max(start if since_ms is not None else start - late_ms, 0)

        effects, payments = self._effects, self._payments
        where = f"account {account_id or 'of the platform'}"
        if account_id != PLATFORM_ACCOUNT:
            await self._effect(run, f"account {account_id}", effects.account(account_id))
        # Invoices before payments, which are theirs; all of that before what takes it back.
        for invoice in await self._oldest_first(run, where, payments.invoices_between(account_id, since(_PAID_LATE_MS), until)):
            if invoice.status == "paid":
                what = f"invoice {invoice.invoice_id}"
                await self._effect(run, what, effects.invoice(account_id, invoice), (account_id, invoice))
        for payment in await self._oldest_first(run, where, payments.payments_between(account_id, since(_PAID_LATE_MS), until)):
            if payment.metadata is not None:
                what = f"payment {payment.payment_id}"
                await self._effect(run, what, effects.payment(account_id, payment), (account_id, payment))
        async for held in self._seen(run, where, payments.subscriptions_of(account_id)):
            await self._subscription(run, account_id, held)
        refunds = payments.refunds_between(account_id, since(_REFUNDED_LATE_MS), until)
        for refund in await self._oldest_first(run, where, refunds):
            what = f"refund {refund.refund_id}"
            await self._effect(run, what, effects.refund(account_id, refund), (account_id, refund))
        for dispute in await self._oldest_first(
            run, where, payments.disputes_between(account_id, since(_DISPUTED_LATE_MS), until)
        ):
            what = f"dispute {dispute.dispute_id}"
            await self._effect(run, what, effects.dispute(account_id, dispute), (account_id, dispute))

    async def _subscription(self, run: _Run, account_id: str, held: SubscriptionFacts) -> None:
        name = held.subscription_id
        about = (account_id, held)
        await self._effect(run, f"subscription {name}", self._effects.subscription(account_id, name, 0, held), about)
        if held.metadata is not None:
            await self._effect(run, f"the share of subscription {name}", self._effects.share(account_id, held), about)

    async def _shut_out(self, run: _Run, account_id: str) -> None:
        if account_id != PLATFORM_ACCOUNT:
            try:
                await self._effect(run, f"account {account_id}", self._effects.account(account_id))
            except (PaymentsRefused, _GivenUp) as still:
                run.miss(f"account {account_id}", still)

    async def _abandoned(self, run: _Run, enterprise_id: str | None) -> None:
        """Purchases of a seller's that nobody paid, and whose page has run out."""
        before, after = now_ms(self._clock) - _OPEN_FOR_MS, ""
        silent: set[str] = set()  # accounts of which nothing more is asked here
        while True:
            try:
                page = await self._rows.open_purchases(enterprise_id, before, after, _PAGE)
                for each in page:
                    if each.account_id not in silent:
                        await self._left(run, enterprise_id, each, silent)
            except (SqlDown, SqlRefused) as down:
                run.miss(f"purchases of {enterprise_id or 'the platform'}", down)
                return
            if len(page) < _PAGE:
                return
            after = page[-1].id

    async def _left(self, run: _Run, enterprise_id: str | None, page: OpenPurchase, silent: set[str]) -> None:
        """One of them. What cannot be known of it any more ends it, too: should it have been paid after all, that comes first."""
        run.objects += 1
        where = f"checkout {page.session_id} of purchase {page.id}"
        try:
            if page.session_id is not None:  # else the page was never made
                await self._effects.checkout(page.account_id, page.session_id)
                return
        except (PaymentsDown, SqlDown, BalanceUnavailable) as down:
            if isinstance(down, PaymentsDown):
                silent.add(page.account_id)
            run.miss(where, down)
            return
        except PaymentsRefused as refused:
            if refused.is_revoked:
                await self._shut_out(run, page.account_id)
            elif refused.code != "resource_missing":
                run.fail(where, refused)
                return
            _log.warning("%s ends: %s", where, refused)
        except NotOurs as other:
            run.not_ours += 1
            _log.warning("%s ends: %s", where, other)
        except (Rejected, GatewayError, SqlRefused) as wrong:
            run.fail(where, wrong)
        except Exception as defect:  # noqa: BLE001 - likewise
            _log.exception("%s", where)
            run.fail(where, f"{type(defect).__name__}: {defect}")
            return
        await self._rows.end_purchase(enterprise_id, page.id, PurchaseState.EXPIRED, now_ms(self._clock))

    async def _effect(
        self, run: _Run, what: str, effect: Awaitable[object], about: tuple[str, Fact] | None = None
    ) -> None:
        """`effect` gives True where it granted what nobody had told of; it is `about` an object on an account. Raises
        PaymentsRefused of an account that shut us out, and _GivenUp.
        """
        run.objects += 1
        try:
            try:
                if await effect is True:
                    run.made_up += 1
                    _log.warning("%s was paid, and not in the books: granted", what)
            except Rejected as odd:
                if about is None or await self._effects.oddities.touches_us(*about):
                    raise
                run.note(about[0], what, odd)
        except NotOurs as other:
            run.not_ours += 1
            if about is not None and isinstance(other, Withheld):
                run.note(about[0], what, other)
        except PaymentsRefused as refused:
            if refused.is_revoked:
                raise
            run.fail(what, refused)
        except (PaymentsDown, SqlDown, BalanceUnavailable) as down:
            self._missed(run, what, down)
        except (Rejected, GatewayError, SqlRefused) as wrong:
            run.fail(what, wrong)
        except Exception as defect:  # noqa: BLE001 - a defect of ours with one object must not stop the look at the others
            _log.exception("%s", what)
            run.fail(what, f"{type(defect).__name__}: {defect}")

    async def _seen(self, run: _Run, where: str, walk: AsyncIterator[_Fact]) -> AsyncIterator[_Fact]:
        """What a walk finds, as far as it comes."""
        try:
            async for each in walk:
                yield each
            run.heard = True
        except PaymentsRefused as refused:
            if refused.is_revoked:
                raise
            run.misses += 1
            run.fail(f"what {where} has", refused)
        except PaymentsDown as down:
            if not run.heard:
                raise
            run.misses += 1
            run.miss(f"what {where} has", down)
            raise _GivenUp from down

    async def _oldest_first(self, run: _Run, where: str, walk: AsyncIterator[_Fact]) -> list[_Fact]:
        """Stripe tells the newest first."""
        return [each async for each in self._seen(run, where, walk)][::-1]

    def _missed(self, run: _Run, what: str, why: object) -> None:
        run.misses += 1
        run.miss(what, why)
        if run.misses >= _MISSES_MAX:
            raise _GivenUp

"""What webhooks never told: payments, invoices, subscriptions, refunds and disputes, walked at Stripe by time.

Whatever is found goes to the very effects that a webhook would have reached, so what was told is not done again. Each account
has a mark, how far it was looked at; a walk starts so much before it as a fact of its kind may change after it was made.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec

from gateway.billing.effects import Effects, NotOurs, Rejected
from gateway.billing.inbox_store import InboxStore
from gateway.billing.model import PLATFORM_ACCOUNT
from gateway.billing.ports import DisputeFacts, InvoiceFacts, PaymentFacts, Payments, PaymentsDown, PaymentsRefused, RefundFacts
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import GatewayError
from gateway.db.faults import SqlRefused

_log = logging.getLogger(__name__)

_DAY_MS: Final = 86_400_000
_FIRST_MS: Final = 30 * _DAY_MS  # how far an account is looked back at that never was looked at
_PAID_LATE_MS: Final = 14 * _DAY_MS  # the slowest bank debits, and the last try to collect a renewal
_REFUNDED_LATE_MS: Final = 30 * _DAY_MS  # a refund that stays pending fails after that
_DISPUTED_LATE_MS: Final = 120 * _DAY_MS  # a dispute that is decided
_AHEAD_MS: Final = _DAY_MS  # Stripe's clock is not ours
_OPEN_FOR_MS: Final = 2 * _DAY_MS  # a checkout page is there for a day
_OPEN_MAX: Final = 200
_SHOWN: Final = 50
_KEPT_MS: Final = 90 * _DAY_MS  # webhooks that were handled; Stripe repeats one for three days


class Looked(msgspec.Struct, frozen=True):
    """What one run did: objects that were looked at, those that are not ours, and what was wrong, the first of it in words.

    `made_up` are payments and invoices that were paid and not in the books: they are now.
    """

    accounts: int
    objects: int
    not_ours: int
    wrong: int
    reasons: tuple[str, ...]
    made_up: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.wrong


class _Run:
    def __init__(self) -> None:
        self.accounts = self.objects = self.not_ours = self.wrong = self.made_up = 0
        self.reasons: list[str] = []

    def fail(self, where: str, why: object) -> None:
        self.wrong += 1
        _log.error("%s: %s", where, why)
        if len(self.reasons) < _SHOWN:
            self.reasons.append(f"{where}: {why}")

    def done(self) -> Looked:
        return Looked(self.accounts, self.objects, self.not_ours, self.wrong, tuple(self.reasons), self.made_up)


class BillingReconciler:
    """Walks Stripe. Two at once do the same work twice, and nothing else."""

    def __init__(
        self,
        payments: Payments,
        rows: InboxStore,
        effects: Effects,
        enterprise_ids: Callable[[], Awaitable[Sequence[str]]],
        clock: Clock,
    ) -> None:
        self._payments = payments
        self._rows = rows
        self._effects = effects
        self._enterprise_ids = enterprise_ids
        self._clock = clock

    async def run(self, since_ms: int | None = None) -> Looked:
        """Every account that lets us in, and the platform's own; `since_ms` instead of the accounts' marks. Raises SqlDown.

        What is wrong with one object, or an account that cannot be looked at, does not keep the others waiting.
        """
        run = _Run()
        for account_id in (PLATFORM_ACCOUNT, *await self._rows.accounts()):
            run.accounts += 1
            where = f"account {account_id or 'of the platform'}"
            try:
                await self._account(account_id, since_ms, run)
            except PaymentsRefused as refused:
                if refused.is_revoked and account_id != PLATFORM_ACCOUNT:
                    await self._effects.account(account_id)
                run.fail(where, refused)
            except PaymentsDown as down:
                run.fail(where, down)
        await self._abandoned(run)
        await self._rows.forget(now_ms(self._clock) - _KEPT_MS)
        return run.done()

    async def _account(self, account_id: str, since_ms: int | None, run: _Run) -> None:
        now = now_ms(self._clock)
        mark = await self._rows.mark(account_id)
        start = since_ms if since_ms is not None else (now - _FIRST_MS if mark is None else mark)
        until = now + _AHEAD_MS

        def since(late_ms: int) -> int:
            return max(start if since_ms is not None else start - late_ms, 0)

        effects, payments = self._effects, self._payments
        if account_id != PLATFORM_ACCOUNT:
            await self._effect(run, f"account {account_id}", effects.account(account_id))
        # Invoices before payments, which are theirs; all of that before what takes it back.
        for invoice in await _oldest_first(payments.invoices_between(account_id, since(_PAID_LATE_MS), until)):
            if invoice.status == "paid":
                await self._effect(run, f"invoice {invoice.invoice_id}", effects.invoice(account_id, invoice))
        for payment in await _oldest_first(payments.payments_between(account_id, since(_PAID_LATE_MS), until)):
            if payment.metadata is not None:
                await self._effect(run, f"payment {payment.payment_id}", effects.payment(account_id, payment))
        async for held in payments.subscriptions_of(account_id):
            name = held.subscription_id
            await self._effect(run, f"subscription {name}", effects.subscription(account_id, name, 0, held))
        for refund in await _oldest_first(payments.refunds_between(account_id, since(_REFUNDED_LATE_MS), until)):
            await self._effect(run, f"refund {refund.refund_id}", effects.refund(account_id, refund))
        for dispute in await _oldest_first(payments.disputes_between(account_id, since(_DISPUTED_LATE_MS), until)):
            await self._effect(run, f"dispute {dispute.dispute_id}", effects.dispute(account_id, dispute))
        await self._rows.set_mark(account_id, now)

    async def _abandoned(self, run: _Run) -> None:
        """Purchases that nobody paid, and whose page has run out."""
        before = now_ms(self._clock) - _OPEN_FOR_MS
        for enterprise_id in (None, *await self._enterprise_ids()):
            for account_id, session_id in await self._rows.open_purchases(enterprise_id, before, _OPEN_MAX):
                await self._effect(run, f"checkout {session_id}", self._effects.checkout(account_id, session_id))

    async def _effect(self, run: _Run, what: str, effect: Awaitable[object]) -> None:
        """`effect` gives True where it granted what nobody had told of."""
        run.objects += 1
        try:
            if await effect is True:
                run.made_up += 1
                _log.warning("%s was paid, and not in the books: granted", what)
        except NotOurs:
            run.not_ours += 1
        except PaymentsRefused as refused:
            if refused.is_revoked:
                raise
            run.fail(what, refused)
        except (Rejected, GatewayError, SqlRefused) as wrong:
            run.fail(what, wrong)


_Fact = TypeVar("_Fact", InvoiceFacts, PaymentFacts, RefundFacts, DisputeFacts)


async def _oldest_first(walk: AsyncIterator[_Fact]) -> list[_Fact]:
    """Stripe tells the newest first."""
    return [each async for each in walk][::-1]

"""What became of the money: the platform's fee income, creators' payouts and statements. Reads only; nothing is changed.

Fee income is what the platform's book has; it can be held against the shares that Stripe says came in and went back.
Payouts are as Stripe reports them. A statement is Stripe's balance of a creator's account over a month, explained by the
apps' books (see `statements`): its opening and closing are Stripe's, and what the books do not explain is its difference.
"""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.billing.minor_units import micro_from_minor
from gateway.billing.model import PLATFORM_ACCOUNT, AccountState
from gateway.billing.papers import listed
from gateway.billing.ports import PaymentsRefused
from gateway.billing.revenue import statements
from gateway.billing.revenue.account_walk import AccountWalk, Walked
from gateway.billing.revenue.reports import Movement, Payout, Reports
from gateway.billing.revenue.statements import Known, Line, Section, Statement, Total, Unexplained
from gateway.billing.revenue.store import FeeRow, Month, RevenueStore
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from gateway.core.limits import REPORT_MONTHS_MAX, STATEMENT_LINES_MAX, STATEMENT_UNEXPLAINED_MAX
from gateway.identity import rules
from gateway.identity.model import Actor, Page, Role
from gateway.identity.registry import Registry

_MONTH: Final = re.compile(r"(20[0-9]{2})-(0[1-9]|1[0-2])")
_PAYOUT_STATES: Final = ("pending", "in_transit", "paid", "failed", "canceled")


class FeeTie(msgspec.Struct, frozen=True):
    """Shares of one creator's sales over all months that were asked for: in the platform's book, and by Stripe.

    `user_id` is None for an account that no creator has (any more).
    """

    user_id: str | None
    currency: str
    booked_micro: int
    stripe_micro: int


class FeeIncome(msgspec.Struct, frozen=True):
    """Fee income by month, creator, app and currency; `ties` where it was held against Stripe."""

    rows: tuple[FeeRow, ...]
    ties: tuple[FeeTie, ...] | None


class Outline(msgspec.Struct, frozen=True):
    """A creator's account in a month, before any line of it: `walked` has what its balance did, in one moment."""

    user_id: str
    account_id: str
    month: Month
    until_ms: int
    app_names: Mapping[str, str]
    walked: Walked


class Revenue:
    """Raises PaymentsDown and PaymentsRefused besides what each method says."""

    def __init__(self, store: Store, rows: RevenueStore, registry: Registry, payments: Reports, clock: Clock) -> None:
        self._store = store
        self._rows = rows
        self._registry = registry
        self._payments = payments
        self._clock = clock
        self.walk = AccountWalk(payments, clock)
        self.lines_max = STATEMENT_LINES_MAX

    # ---- the platform's income -----------------------------------------------------------------

    async def fee_income(
        self,
        actor: Actor,
        from_month: str | None,
        to_month: str | None,
        user_id: str | None = None,
        enterprise_id: str | None = None,
        *,
        with_stripe: bool = False,
    ) -> FeeIncome:
        """Of the months from one to another, both included; by default this one. Operator only.

        A share is of the month in which the book had it: within a second of its payment, or later where Stripe told it late.
        So a tie is of all the months together. InvalidRequest, NotFound, Forbidden.
        """
        if actor.role != Role.OPERATOR:
            raise Forbidden("Only an operator sees the platform's income.")
        months = self._months(from_month, to_month)
        if user_id is not None:
            await self._registry.creator(actor, user_id)
        if enterprise_id is not None:
            await self._registry.app(actor, enterprise_id)
            if with_stripe:
                raise InvalidRequest("Stripe knows fees by account, not by app: ask by `user_id`.", param="enterprise_id")
        rows = await self._rows.fee_income(months, user_id, enterprise_id)
        return FeeIncome(tuple(rows), await self._ties(months, rows, user_id) if with_stripe else None)

    async def _ties(self, months: Sequence[Month], rows: Iterable[FeeRow], user_id: str | None) -> tuple[FeeTie, ...]:
        sums: dict[tuple[str, str], tuple[int, int]] = {}

        def add(whose: str, currency: str, booked: int, stripes: int) -> None:
            before = sums.get((whose, currency), (0, 0))
            sums[whose, currency] = (before[0] + booked, before[1] + stripes)

        for row in rows:
            add(row.user_id, row.currency, row.income_micro - row.returned_micro, 0)
        moved: dict[tuple[str, str], int] = {}
        async for each in self._payments.fee_movements(months[0].from_ms, months[-1].until_ms):
            key = (each.account_id, each.currency)
            moved[key] = moved.get(key, 0) + each.amount_minor
        creators = await self._rows.creators_of([account_id for account_id, _ in moved])
        for (account_id, currency), amount_minor in moved.items():
            whose = creators.get(account_id, "")
            if user_id in (None, whose):
                add(whose, currency, 0, micro_from_minor(amount_minor, currency))
        return tuple(FeeTie(whose or None, currency, *both) for (whose, currency), both in sorted(sums.items()))

    # ---- payouts -------------------------------------------------------------------------------

    async def payouts(self, actor: Actor, user_id: str | None, status: str | None, after: str | None, count: int) -> Page[Payout]:
        """Of a creator's account, newest first; of the platform's own where an operator names no creator.

        InvalidRequest, NotFound; Conflict when its owner took our access away.
        """
        if status is not None and status not in _PAYOUT_STATES:
            raise InvalidRequest(f"`status` is one of {', '.join(_PAYOUT_STATES)}", param="status")
        whose = user_id or actor.user_id
        account_id = PLATFORM_ACCOUNT if whose is None else await self._account_id(actor, whose)
        count = rules.page(after, count)
        page = await listed(self._payments.payouts(account_id, status, after, count), after)
        return Page(page.rows, page.last_id)

    # ---- statements ----------------------------------------------------------------------------

    async def statement(self, actor: Actor, user_id: str, month: str | None, *, lines: bool = True) -> Statement:
        """A creator's month, by default this one: a month that is not over goes to now. InvalidRequest, NotFound, Conflict.

        InvalidRequest for `lines` of a month that has too many for one answer: `lines_page` has them, and `parts`.
        """
        outline = await self.outline(actor, user_id, month)
        if lines and outline.walked.movements is None:
            message = f"More than {self.lines_max} movements: take them page by page, from .../lines, or as CSV."
            raise InvalidRequest(message, param="lines")
        sections = []
        for currency in outline.walked.currencies:
            totals: tuple[Total, ...] = ()
            shown: list[Line] = []
            unexplained: list[Unexplained] = []
            async for part in self.parts(outline, currency):
                totals = statements.added((*totals, *part.totals))
                shown += part.lines if lines else ()
                unexplained += part.unexplained[: STATEMENT_UNEXPLAINED_MAX - len(unexplained)]
            opening, closing = outline.walked.opening_minor(currency), outline.walked.closing[currency]
            sections.append(Section(currency, opening, closing, tuple(shown), totals, tuple(unexplained)))
        of = outline
        return Statement(of.user_id, of.account_id, of.month, of.until_ms, tuple(sections), of.app_names)

    async def outline(self, actor: Actor, user_id: str, month: str | None) -> Outline:
        """What a month came to, before its lines. As `statement`."""
        account_id = await self._account_id(actor, user_id)
        wanted = self._month(month, "month")
        names = await self._rows.apps_of(user_id)
        walked = await self.walk.month(account_id, wanted, self.lines_max)
        return Outline(user_id, account_id, wanted, min(wanted.until_ms, now_ms(self._clock)), names, walked)

    async def parts(self, outline: Outline, currency: str) -> AsyncIterator[Section]:
        """The month in one currency, explained, part by part, oldest first; however much it is, little of it is held."""
        apps = tuple(outline.app_names)
        async with aclosing(self.walk.batches(outline.walked, currency)) as batches:
            async for batch in batches:
                known = await self._known(outline.account_id, apps, batch)
                yield statements.section(currency, 0, 0, batch, known)

    async def lines_page(
        self, actor: Actor, user_id: str, month: str | None, after: str | None, count: int
    ) -> tuple[list[tuple[str, Line | Unexplained]], str | None]:
        """(currency, line) of so many movements of a month, newest first, and what the next page goes on after.

        A movement is of some lines. InvalidRequest, NotFound, Conflict.
        """
        account_id, wanted = await self._account_id(actor, user_id), self._month(month, "month")
        count = rules.page(after, count)
        asked = self._payments.movements_page(account_id, wanted.from_ms, wanted.until_ms, after, count)
        page = await listed(asked, after)
        apps = tuple(await self._rows.apps_of(user_id))
        known = await self._known(account_id, apps, page.rows)
        found: list[tuple[str, Line | Unexplained]] = []
        for moved in page.rows:
            part = statements.section(moved.currency, 0, 0, [moved], known)
            found += [(moved.currency, line) for line in part.lines]
            found += [(moved.currency, each) for each in part.unexplained]
        return found, page.last_id

    async def _known(self, account_id: str, apps: Sequence[str], movements: Sequence[Movement]) -> Known:
        """What the creator's apps have in their books of what moved."""
        named = [each.source.payment_id for each in movements if each.source.payment_id]
        payments = {}
        for enterprise_id in apps if named else ():
            payments.update(await self._rows.payments(enterprise_id, named))
        ops: dict[str, list[str]] = {}
        for each in movements:
            booked = payments.get(each.source.payment_id or "")
            if booked is not None:
                ops.setdefault(booked.enterprise_id, []).extend(statements.ops_of(each))
        moved = {enterprise_id: await self._rows.moved(enterprise_id, op_ids) for enterprise_id, op_ids in ops.items()}
        strange = [each for each in movements if each.source.payment_id and each.source.payment_id not in payments]
        return Known(payments, moved, await self._ours(account_id, apps, strange))

    async def _ours(self, account_id: str, apps: Sequence[str], strange: Sequence[Movement]) -> frozenset[str]:
        """Those payments in no book that were made here all the same: by what we wrote on them, or on their invoice."""
        customers = [each.source.customer_id for each in strange if each.source.customer_id]
        buyers: set[str] = set()
        for enterprise_id in apps if customers else ():
            buyers.update(await self._rows.owners(enterprise_id, account_id, customers))
        found: dict[str, bool] = {}
        for each in strange:
            source, name = each.source, each.source.payment_id
            assert name is not None
            if source.kind == "charge" and source.metadata is not None:
                found[name] = source.metadata.enterprise_id in apps
            elif source.kind == "charge" and source.customer_id not in buyers:
                found[name] = False
        for each in strange:
            name = each.source.payment_id or ""
            if name not in found:
                found[name] = await self._is_of(account_id, apps, name)
        return frozenset(name for name, is_ours in found.items() if is_ours)

    async def _is_of(self, account_id: str, apps: Sequence[str], payment_id: str) -> bool:
        try:
            payment = await self._payments.payment(account_id, payment_id)
            metadata = payment.metadata
            if metadata is None and payment.invoice_id is not None:
                metadata = (await self._payments.invoice(account_id, payment.invoice_id)).metadata
        except PaymentsRefused as refused:
            if refused.code != "resource_missing":
                raise
            return False
        return metadata is not None and metadata.enterprise_id in apps

    # ---- months, accounts ----------------------------------------------------------------------

    async def _account_id(self, actor: Actor, user_id: str) -> str:
        await self._registry.creator(actor, user_id)
        held = await self._store.account(user_id)
        if held is None:
            details = {"account_state": "none", "user_id": user_id}
            raise NotFound("This creator has no account to sell with.", param="user_id", details=details)
        if held.state == AccountState.DEAUTHORIZED:
            raise Conflict("The account's owner has disconnected it.", code="account_deauthorized")
        return held.account_id

    def _month(self, text: str | None, param: str) -> Month:
        now = now_ms(self._clock)
        if text is None:
            text = f"{datetime.fromtimestamp(now / 1000, UTC):%Y-%m}"
        found = _MONTH.fullmatch(text)
        if found is None:
            raise InvalidRequest(f"`{param}` must be a month such as 2026-10", param=param)
        year, month = int(found[1]), int(found[2])
        begins = _begins_ms(year, month)
        if begins > now:
            raise InvalidRequest(f"`{param}` has not begun yet", param=param)
        return Month(text, begins, _begins_ms(year + month // 12, month % 12 + 1))

    def _months(self, from_text: str | None, to_text: str | None) -> list[Month]:
        last = self._month(to_text, "to")
        month = self._month(from_text, "from") if from_text is not None else last
        found = []
        while month.from_ms <= last.from_ms:
            found.append(month)
            if len(found) > REPORT_MONTHS_MAX:
                raise InvalidRequest(f"at most {REPORT_MONTHS_MAX} months at once", param="from")
            after = datetime.fromtimestamp(month.until_ms / 1000, UTC)
            month = Month(f"{after:%Y-%m}", month.until_ms, _begins_ms(after.year + after.month // 12, after.month % 12 + 1))
        if not found:
            raise InvalidRequest("`from` must not be after `to`", param="from")
        return found


def _begins_ms(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000

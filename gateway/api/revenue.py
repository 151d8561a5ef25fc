"""What became of the money, over REST: fee income, payouts, statements, invoices and receipts; their JSON, handlers and rows."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Final

from msgspec import Meta

from gateway.api.billing_shapes import SalesQuery, Url
from gateway.api.endpoint import ANYONE_KNOWN, MANAGERS, OPERATOR, ApiContext, Call, Endpoint
from gateway.api.shapes import Answer, Body, CsvAnswer, Listing, Micro, PageQuery, Stamp, WalletName
from gateway.api.wire import as_gateway_error, listing
from gateway.billing.acts import Named
from gateway.billing.minor_units import micro_from_minor
from gateway.billing.ports import PaymentsDown, PaymentsRefused
from gateway.billing.revenue import statement_csv
from gateway.billing.revenue.book import Outline
from gateway.billing.revenue.reports import Invoice, Payout, Receipt
from gateway.billing.revenue.statements import Line, LineKind, Section, Unexplained
from gateway.billing.revenue.store import FeeRow
from gateway.core.clock import rfc3339
from gateway.db.faults import SqlDown
from gateway.ledger.model import WalletKey

_log = logging.getLogger(__name__)
Month = Annotated[str, Meta(extra_json_schema={"pattern": "^20[0-9]{2}-(0[1-9]|1[0-2])$"})]


class FeeIncomeQuery(Body, frozen=True, rename={"from_": "from"}):
    """Which months, both included (2026-10; by default this one), of which creator or app.

    `stripe`: hold it against what Stripe says of the same months.
    """

    from_: Month | None = None
    to: Month | None = None
    user_id: str | None = None
    enterprise_id: str | None = None
    stripe: bool = False


class FeeIncomeRow(Answer, frozen=True):
    """The platform's shares of one app's sales in one currency: what came in in a month, and what of them, or of earlier
    ones, went back with refunds.
    """

    month: Month
    user_id: str
    enterprise_id: str
    currency: str
    income_micro: Micro
    returned_micro: Micro
    net_micro: Micro


class FeeTieRow(Answer, frozen=True):
    """Net shares of a creator's sales over all the months: in the platform's book, by Stripe, and what Stripe has more.

    `user_id` is null for accounts that no creator has any more. Near the ends of the months a share may be in the one already
    and not yet in the other.
    """

    user_id: str | None
    currency: str
    booked_micro: Micro
    stripe_micro: Micro
    difference_micro: Micro


class FeeIncomeAnswer(Answer, frozen=True):
    """Fee income; `ties` where `stripe` was asked for."""

    data: tuple[FeeIncomeRow, ...]
    ties: tuple[FeeTieRow, ...] | None


class PayoutsQuery(PageQuery, frozen=True):
    """Whose payouts: a creator's (its own by default), or, for an operator without `user_id`, the platform's; of one status."""

    user_id: str | None = None
    status: str | None = None


class PayoutAnswer(Answer, frozen=True):
    """A payout as Stripe reports it. `status` is Stripe's word: pending, in_transit, paid, failed or canceled."""

    id: str
    status: str
    currency: str
    amount_micro: Micro
    arrival_at: Stamp
    created_at: Stamp
    automatic: bool
    method: str
    failure: str


class StatementQuery(Body, frozen=True):
    """Which month (2026-10; by default this one); `lines`: each movement, besides the totals."""

    month: Month | None = None
    lines: bool = False


class MonthQuery(Body, frozen=True):
    """Which month; by default this one."""

    month: Month | None = None


class StatementLine(Answer, frozen=True):
    """One amount: above zero it came to the balance, below it left it."""

    at: Stamp
    kind: LineKind
    enterprise_id: str | None
    amount_micro: Micro
    payment_id: str | None
    source_id: str
    balance_transaction_id: str


class LinesQuery(PageQuery, frozen=True):
    """Which part of a month's lines (2026-10; by default this one): `limit` counts movements, of which each is some lines."""

    month: Month | None = None


class ListedLine(Answer, frozen=True):
    """One amount of a month. `kind` is as in a statement, or `unexplained`: then `reason` says why no book has it so."""

    at: Stamp
    currency: str
    kind: str
    enterprise_id: str | None
    amount_micro: Micro
    payment_id: str | None
    source_id: str
    balance_transaction_id: str
    reason: str = ""


class StatementTotal(Answer, frozen=True):
    """Lines of one kind and app, added up; without an app, what the account does besides the gateway's sales."""

    enterprise_id: str | None
    kind: LineKind
    count: int
    amount_micro: Micro


class UnexplainedLine(Answer, frozen=True):
    """A movement of something that was sold here, which no book has as Stripe does."""

    at: Stamp
    type: str
    amount_micro: Micro
    payment_id: str | None
    source_id: str
    balance_transaction_id: str
    reason: str


class StatementSection(Answer, frozen=True):
    """One currency. opening + all totals + difference = closing; opening and closing are Stripe's.

    `net_micro` is what the apps' sales came to with all fees taken off; `difference_micro` is what the books do not explain,
    which is 0 but for what is in `unexplained`.
    """

    currency: str
    opening_micro: Micro
    closing_micro: Micro
    net_micro: Micro
    difference_micro: Micro
    totals: tuple[StatementTotal, ...]
    unexplained: tuple[UnexplainedLine, ...]
    lines: tuple[StatementLine, ...]


class StatementAnswer(Answer, frozen=True):
    """A creator's month at Stripe. While it is not `complete`, it goes to now."""

    user_id: str
    account_id: str
    month: Month
    complete: bool
    currencies: tuple[StatementSection, ...]


class InvoiceAnswer(Answer, frozen=True):
    """An invoice of a subscription; `url` is Stripe's page of it, on which it can be paid while it is open."""

    id: str
    wallet: WalletName
    number: str | None
    status: str
    currency: str
    amount_due_micro: Micro
    amount_paid_micro: Micro
    created_at: Stamp
    url: Url | None
    pdf_url: Url | None


class ReceiptAnswer(Answer, frozen=True):
    """A payment that succeeded; `url` is Stripe's receipt, which shows refunds too."""

    id: str
    wallet: WalletName
    payment_id: str | None
    currency: str
    amount_micro: Micro
    refunded_micro: Micro
    created_at: Stamp
    url: Url | None


# ---- handlers ----------------------------------------------------------------------------------


async def fee_income(context: ApiContext, call: Call) -> FeeIncomeAnswer:
    """GET fee-income."""
    query = call.query
    found = await context.sales.revenue.fee_income(
        call.actor, query.from_, query.to, query.user_id, query.enterprise_id, with_stripe=query.stripe
    )
    ties = found.ties
    if ties is None:
        return FeeIncomeAnswer(tuple(_fee_row(row) for row in found.rows), None)
    shown = [
        FeeTieRow(tie.user_id, tie.currency, tie.booked_micro, tie.stripe_micro, tie.stripe_micro - tie.booked_micro)
        for tie in ties
    ]
    return FeeIncomeAnswer(tuple(_fee_row(row) for row in found.rows), tuple(shown))


async def list_payouts(context: ApiContext, call: Call) -> Listing[PayoutAnswer]:
    """GET payouts, newest first."""
    query = call.query
    page = await context.sales.revenue.payouts(call.actor, query.user_id, query.status, query.cursor, query.limit)
    return listing(page.rows, page.next_cursor, _payout)


async def get_statement(context: ApiContext, call: Call) -> StatementAnswer:
    """GET statements/{user_id}."""
    query = call.query
    found = await context.sales.revenue.statement(call.actor, call.path["user_id"], query.month, lines=query.lines)
    sections = tuple(_section(section) for section in found.sections)
    return StatementAnswer(found.user_id, found.account_id, found.month.name, found.is_over, sections)


async def get_statement_csv(context: ApiContext, call: Call) -> CsvAnswer:
    """GET statements/{user_id}/csv. What fails before the first line is an error; later, the answer breaks off."""
    revenue = context.sales.revenue
    found = await revenue.outline(call.actor, call.path["user_id"], call.query.month)
    text = statement_csv.written(found, lambda currency: revenue.parts(found, currency))
    first = await anext(text)
    return CsvAnswer(_filename(found), _from(first, text))


async def list_statement_lines(context: ApiContext, call: Call) -> Listing[ListedLine]:
    """GET statements/{user_id}/lines, newest first."""
    query = call.query
    asked = (call.actor, call.path["user_id"], query.month, query.cursor, query.limit)
    found, after = await context.sales.revenue.lines_page(*asked)
    return listing(found, after, lambda row: _listed_line(*row))


async def _from(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    try:
        async for piece in rest:
            yield piece
    except (PaymentsDown, PaymentsRefused, SqlDown) as fault:
        _log.warning("a statement breaks off: %s", fault)
        raise as_gateway_error(fault) from fault


async def list_invoices(context: ApiContext, call: Call) -> Listing[InvoiceAnswer]:
    """GET invoices, newest first."""
    query = call.query
    page = await context.sales.papers.invoices(call.actor, query.enterprise_id, _buyer(query), query.cursor, query.limit)
    return listing(page.rows, page.next_cursor, lambda row: _invoice(*row))


async def list_receipts(context: ApiContext, call: Call) -> Listing[ReceiptAnswer]:
    """GET receipts, newest first."""
    query = call.query
    page = await context.sales.papers.receipts(call.actor, query.enterprise_id, _buyer(query), query.cursor, query.limit)
    return listing(page.rows, page.next_cursor, lambda row: _receipt(*row))


def _buyer(query: SalesQuery) -> Named:
    return Named(query.platform_user_id, query.user_id)


def _wallet(key: WalletKey) -> WalletName:
    if key.enterprise_id is None:
        return WalletName(user_id=key.owner)
    return WalletName(enterprise_id=key.enterprise_id, platform_user_id=key.owner)


def _filename(statement: Outline) -> str:
    """Of characters that no header minds: ids have no others but `:` and `@`."""
    return f"statement-{statement.user_id}-{statement.month.name}.csv".replace(":", "_").replace("@", "_")


def _fee_row(row: FeeRow) -> FeeIncomeRow:
    net = row.income_micro - row.returned_micro
    return FeeIncomeRow(row.month, row.user_id, row.enterprise_id, row.currency, row.income_micro, row.returned_micro, net)


def _payout(payout: Payout) -> PayoutAnswer:
    return PayoutAnswer(
        id=payout.id,
        status=payout.status,
        currency=payout.currency,
        amount_micro=micro_from_minor(payout.amount_minor, payout.currency),
        arrival_at=rfc3339(payout.arrival_at_ms),
        created_at=rfc3339(payout.created_at_ms),
        automatic=payout.is_automatic,
        method=payout.method,
        failure=payout.failure,
    )


def _section(section: Section) -> StatementSection:
    def micro(amount_minor: int) -> int:
        return micro_from_minor(amount_minor, section.currency)

    return StatementSection(
        currency=section.currency,
        opening_micro=micro(section.opening_minor),
        closing_micro=micro(section.closing_minor),
        net_micro=micro(section.net_minor),
        difference_micro=micro(section.difference_minor),
        totals=tuple(
            StatementTotal(each.enterprise_id, each.kind, each.count, micro(each.amount_minor)) for each in section.totals
        ),
        unexplained=tuple(
            UnexplainedLine(
                at=rfc3339(each.at_ms),
                type=each.type,
                amount_micro=micro(each.amount_minor),
                payment_id=each.payment_id,
                source_id=each.source_id,
                balance_transaction_id=each.movement_id,
                reason=each.reason,
            )
            for each in section.unexplained
        ),
        lines=tuple(
            StatementLine(
                at=rfc3339(line.at_ms),
                kind=line.kind,
                enterprise_id=line.enterprise_id,
                amount_micro=micro(line.amount_minor),
                payment_id=line.payment_id,
                source_id=line.source_id,
                balance_transaction_id=line.movement_id,
            )
            for line in section.lines
        ),
    )


def _listed_line(currency: str, line: Line | Unexplained) -> ListedLine:
    unexplained = line if isinstance(line, Unexplained) else None
    return ListedLine(
        at=rfc3339(line.at_ms),
        currency=currency,
        kind="unexplained" if isinstance(line, Unexplained) else line.kind.value,
        enterprise_id=None if isinstance(line, Unexplained) else line.enterprise_id,
        amount_micro=micro_from_minor(line.amount_minor, currency),
        payment_id=line.payment_id,
        source_id=line.source_id,
        balance_transaction_id=line.movement_id,
        reason=unexplained.reason if unexplained else "",
    )


def _invoice(wallet: WalletKey, invoice: Invoice) -> InvoiceAnswer:
    return InvoiceAnswer(
        id=invoice.id,
        wallet=_wallet(wallet),
        number=invoice.number,
        status=invoice.status,
        currency=invoice.currency,
        amount_due_micro=micro_from_minor(invoice.amount_due_minor, invoice.currency),
        amount_paid_micro=micro_from_minor(invoice.amount_paid_minor, invoice.currency),
        created_at=rfc3339(invoice.created_at_ms),
        url=invoice.hosted_url,
        pdf_url=invoice.pdf_url,
    )


def _receipt(wallet: WalletKey, receipt: Receipt) -> ReceiptAnswer:
    return ReceiptAnswer(
        id=receipt.id,
        wallet=_wallet(wallet),
        payment_id=receipt.payment_id,
        currency=receipt.currency,
        amount_micro=micro_from_minor(receipt.amount_minor, receipt.currency),
        refunded_micro=micro_from_minor(receipt.refunded_minor, receipt.currency),
        created_at=rfc3339(receipt.created_at_ms),
        url=receipt.url,
    )


# ---- rows of the table -------------------------------------------------------------------------

_V1: Final = "/api/v1"
ROWS: Final[tuple[Endpoint, ...]] = (
    Endpoint(
        "GET",
        f"{_V1}/fee-income",
        OPERATOR,
        fee_income,
        FeeIncomeAnswer,
        "Add up the platform's shares by month, creator, app and currency",
        query=FeeIncomeQuery,
        sells=True,
        asks_stripe=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/payouts",
        MANAGERS,
        list_payouts,
        Listing[PayoutAnswer],
        "List payouts to an account's bank, newest first",
        query=PayoutsQuery,
        sells=True,
        asks_stripe=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/statements/{{user_id}}",
        MANAGERS,
        get_statement,
        StatementAnswer,
        "Show what a creator's account at Stripe did in a month",
        query=StatementQuery,
        sells=True,
        asks_stripe=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/statements/{{user_id}}/csv",
        MANAGERS,
        get_statement_csv,
        CsvAnswer,
        "The same, line by line, as CSV",
        query=MonthQuery,
        sells=True,
        asks_stripe=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/statements/{{user_id}}/lines",
        MANAGERS,
        list_statement_lines,
        Listing[ListedLine],
        "The same, line by line, newest first",
        query=LinesQuery,
        sells=True,
        asks_stripe=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/invoices",
        ANYONE_KNOWN,
        list_invoices,
        Listing[InvoiceAnswer],
        "List invoices, newest first, with the addresses of Stripe's pages of them",
        query=SalesQuery,
        sells=True,
        asks_stripe=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/receipts",
        ANYONE_KNOWN,
        list_receipts,
        Listing[ReceiptAnswer],
        "List payments, newest first, with the addresses of Stripe's receipts",
        query=SalesQuery,
        sells=True,
        asks_stripe=True,
    ),
)

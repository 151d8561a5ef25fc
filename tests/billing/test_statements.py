"""Statements line by line, their CSV, and what the books say by Stripe's ids and by month."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.billing.revenue.account_walk import Walked
from gateway.billing.revenue.book import Outline
from gateway.billing.revenue.reports import Movement, Source
from gateway.billing.revenue.statement_csv import decimal, safe, written
from gateway.billing.revenue.statements import Known, LineKind, Section, Statement, section
from gateway.billing.revenue.store import Booked, FeeRow, Month, RevenueStore
from gateway.core.words import LotSource
from gateway.db.engines import Databases
from gateway.ledger.model import Fees, GrantRequest, Paid, RefundRequest, WalletKey
from gateway.ledger.service import Ledger
from tests.db.conftest import databases as databases
from tests.db.conftest import urls as urls
from tests.ledger.conftest import add_owners

ANN = WalletKey("ann", "shop")
CHARGE = Source("charge", "ch_1", "pi_1", 1000, "EUR", share_minor=100, status="succeeded")
# Ten euros on an account in dollars: Stripe converted them, and its fee and the share with them.
PAID = Movement("txn_1", "charge", "charge", 1100, 170, 110, "USD", 1000, CHARGE)
REFUND = Movement(
    "txn_2", "refund", "refund", -550, -55, -55, "USD", 2000, Source("refund", "re_1", "pi_1", 500, "EUR", 0, "succeeded")
)
BOOKED = Booked("shop", "EUR", 10_000_000, 1_000_000)
KNOWN = Known({"pi_1": BOOKED}, {"shop": {"refund:re_1": 5_000_000}}, frozenset())


def lines(known: Known, *moved: Movement) -> dict[LineKind, int]:
    made = section("USD", 0, sum(each.net_minor for each in moved), moved, known)
    assert (made.difference_minor, made.unexplained) == (0, ())
    return {line.kind: line.amount_minor for line in made.lines}


def unexplained(known: Known, *moved: Movement) -> list[str]:
    net = sum(each.net_minor for each in moved)
    made = section("USD", 5, 5 + net, moved, known)
    assert made.difference_minor == sum(row.amount_minor for row in made.unexplained)
    assert made.difference_minor + sum(line.amount_minor for line in made.lines) == net
    return [row.reason for row in made.unexplained]


def test_amounts_are_those_of_the_balance_also_where_stripe_converted_them() -> None:
    assert lines(KNOWN, PAID) == {LineKind.PAYMENT: 1100, LineKind.PROCESSING_FEE: -60, LineKind.PLATFORM_SHARE: -110}
    assert lines(KNOWN, REFUND) == {LineKind.REFUND: -550, LineKind.SHARE_RETURNED: 55}


@pytest.mark.parametrize(
    ("booked", "reason"),
    [
        (msgspec.structs.replace(BOOKED, paid_micro=10_010_000), "the book has 10.01 EUR paid"),
        (msgspec.structs.replace(BOOKED, currency="USD"), "the book has 10 USD paid"),
        (msgspec.structs.replace(BOOKED, share_micro=0), "the book has 0 EUR for the platform"),
    ],
)
def test_a_payment_that_the_book_has_as_another_is_no_line(booked: Booked, reason: str) -> None:
    assert unexplained(Known({"pi_1": booked}, {}, frozenset()), PAID) == [reason]


def test_a_refund_is_a_line_as_far_as_the_book_bears_it_out() -> None:
    def of(status: str, kind: str = "refund") -> Movement:
        sign = 1 if kind == "refund_failure" else -1
        source = msgspec.structs.replace(REFUND.source, status=status)
        return Movement("txn_9", kind, kind, sign * 550, 0, 0, "USD", 1, source)

    nothing = Known({"pi_1": BOOKED}, {}, frozenset())
    both = Known({"pi_1": BOOKED}, {"shop": {"refund:re_1": 5_000_000, "refund:re_1:failed": -5_000_000}}, frozenset())
    assert lines(nothing, of("pending")) == {LineKind.REFUND_PENDING: -550}
    assert unexplained(nothing, of("succeeded")) == ["the book does not have the refund"]
    other = Known({"pi_1": BOOKED}, {"shop": {"refund:re_1": 1}}, frozenset())
    assert unexplained(other, of("succeeded")) == ["the book has 0.000001 EUR refunded"]
    for known in (nothing, both):  # one that failed before it was counted, and one that had been
        assert lines(known, of("failed")) == {LineKind.REFUND: -550}
        assert lines(known, of("failed", "refund_failure")) == {LineKind.REFUND_FAILURE: 550}
    assert unexplained(KNOWN, of("failed")) == ["the book does not have the refund's failure"]


def test_a_dispute_needs_its_payment_and_itself_in_the_book() -> None:
    source = Source("dispute", "du_1", "pi_1", 1000, "EUR", 0, "lost")
    took = Movement("txn_3", "adjustment", "dispute", -1100, 1500, 0, "USD", 3, source)
    assert unexplained(KNOWN, took) == ["the book does not have the dispute"]
    known = Known({"pi_1": BOOKED}, {"shop": {"dispute:du_1:opened": 0}}, frozenset())
    assert lines(known, took) == {LineKind.DISPUTE: -1100, LineKind.DISPUTE_FEE: -1500}
    won = Movement("txn_4", "adjustment", "dispute_reversal", 1100, 0, 0, "USD", 4, source)
    assert lines(known, won) == {LineKind.DISPUTE_REVERSAL: 1100}


def test_what_is_not_sold_here_is_of_the_account() -> None:
    def of(kind: str, net: int) -> Movement:
        return Movement("txn_5", kind, kind, net, 0, 0, "USD", 5, Source(kind, "x_1", "pi_9", 1, "USD"))

    nothing = Known({}, {}, frozenset())
    for kind, told in (("payout", "payout"), ("payout_failure", "payout"), ("stripe_fee", "stripe_fee"), ("charge", "other")):
        assert lines(nothing, of(kind, -7)) == {LineKind(told): -7}
    assert unexplained(Known({}, {}, frozenset(("pi_9",))), of("charge", 7)) == ["no book has its payment"]
    returned = Movement("txn_6", "adjustment", "fee", 100, 0, 0, "USD", 6, CHARGE)
    assert lines(KNOWN, returned) == {LineKind.SHARE_RETURNED: 100}
    back = msgspec.structs.replace(returned, type="payment_failure_refund", category="charge_failure", amount_minor=-1000)
    assert unexplained(KNOWN, back) == ["the book has no charge_failure of that payment"]
    assert lines(KNOWN, msgspec.structs.replace(returned, type="stripe_fx_fee", category="fee", amount_minor=-9)) == {
        LineKind.STRIPE_FEE: -9
    }


def test_a_balance_that_did_more_than_its_movements_say_leaves_a_difference() -> None:
    made = section("USD", 10, 10 + PAID.net_minor - 3, [PAID], KNOWN)
    assert (made.difference_minor, made.net_minor) == (-3, PAID.net_minor)


# ---- CSV ---------------------------------------------------------------------------------------


def test_amounts_have_all_the_digits_of_their_currency() -> None:
    assert [decimal(amount, "USD") for amount in (0, 5, -5, 123456, -1250)] == ["0.00", "0.05", "-0.05", "1234.56", "-12.50"]
    assert [decimal(amount, "JPY") for amount in (0, -1250)] == ["0", "-1250"]
    assert [decimal(amount, "KWD") for amount in (1, -1250)] == ["0.001", "-1.250"]


async def test_no_text_is_a_formula() -> None:
    seen = ("=1+1", "+1", "-1", "@SUM(A1)", " =1", "  @x", "\N{FULLWIDTH EQUALS SIGN}1", "\N{FULLWIDTH PLUS SIGN}1")
    wide = ("\N{FULLWIDTH HYPHEN-MINUS}1", "\N{FULLWIDTH COMMERCIAL AT}x", "\N{SMALL EQUALS SIGN}1")
    unseen = ("\tx", "\rx", "\nx", "\r=x", "\N{ZERO WIDTH SPACE}=1", "\N{IDEOGRAPHIC SPACE}=1", "\N{BOM}=1", " \t=1")
    for text in (*seen, *wide, *unseen):
        assert safe(text) == f"'{text}"
    for text in ("shop", "a=b", "", "'x", "12"):
        assert safe(text) == text
    month = Month("2026-10", 1_790_812_800_000, 1_793_491_200_000)
    part: Section = section(
        "USD", 0, PAID.net_minor, [PAID], Known({"pi_1": msgspec.structs.replace(BOOKED, enterprise_id="-1")}, {}, frozenset())
    )
    walked = Walked("acct_1", month, {"USD": PAID.net_minor}, {"USD": PAID.net_minor}, {"USD": 1}, (PAID,), 0, frozenset())

    async def parts(currency: str) -> AsyncIterator[Section]:
        yield part

    async def table(of: Outline) -> str:
        return "".join([piece async for piece in written(of, parts)])

    outline = Outline("alice", "acct_1", month, month.until_ms, {"-1": '=cmd|"x",\r\n@y'}, walked)
    text = await table(outline)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["kind"] for row in rows] == ["opening", "payment", "processing_fee", "platform_share", "closing", "difference"]
    assert {(row["enterprise_id"], row["app"]) for row in rows[1:-2]} == {("'-1", '\'=cmd|"x",\r\n@y')}
    assert [row["amount"] for row in rows] == ["0.00", "11.00", "-0.60", "-1.10", "9.30", "0.00"]
    assert "2026-10-31T23:59:59.000Z,closing" in await table(msgspec.structs.replace(outline, until_ms=month.until_ms - 1000))
    assert not Statement("alice", "acct_1", month, month.until_ms - 1000, (part,), {}).is_over
    assert (rows[0]["time"], rows[-1]["time"]) == ("2026-10-01T00:00:00.000Z", "2026-11-01T00:00:00.000Z")


# ---- the books ---------------------------------------------------------------------------------


class Moment:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at_ms = 0

    def __call__(self) -> int:
        return self.at_ms * 1_000_000


async def test_fee_income_is_by_the_month_of_the_book_and_what_moved_is_found_by_stripes_ids(databases: Databases) -> None:
    await add_owners(databases)
    clock, rows = Moment(), RevenueStore(databases)
    ledger = Ledger(databases, clock)
    months = [Month("1970-01", 0, 2_678_400_000), Month("1970-02", 2_678_400_000, 5_097_600_000)]
    paid: Any = {"asset": "USD", "source": LotSource.PAID, "actor": "stripe", "fees": Fees(platform_micro=1_250_000)}
    clock.at_ms = months[0].until_ms - 1
    for number in (1, 2):
        request = GrantRequest(
            wallet=ANN, amount_micro=10_000_000, op_id=f"payment:pi_{number}", external_ref=f"pi_{number}", **paid
        )
        await ledger.grant(request)
    yen = {**paid, "fees": Fees(platform_micro=3_000_000, processing_micro=2_000_000), "paid": Paid("JPY", 24_000_000)}
    await ledger.grant(GrantRequest(wallet=ANN, amount_micro=7, op_id="payment:pi_3", external_ref="pi_3", **yen))
    clock.at_ms += 1
    refund = RefundRequest(ANN, "pi_1", "re_1", 4_000_000, "stripe", fee_returned_micro=500_000)
    await ledger.payments.refund(refund)
    found = await rows.fee_income(months, None, None)
    user_id = found[0].user_id
    assert found == [
        FeeRow("1970-01", user_id, "shop", "JPY", 3_000_000, 0),
        FeeRow("1970-01", user_id, "shop", "USD", 2_500_000, 0),
        FeeRow("1970-02", user_id, "shop", "USD", 0, 500_000),
    ]
    assert await rows.fee_income(months[1:], user_id, "shop") == found[2:]
    assert await rows.fee_income(months, "nobody", None) == await rows.fee_income(months, None, "other") == []
    many = [f"pi_{number}" for number in range(1200)]
    assert await rows.payments("shop", many) == {
        "pi_1": Booked("shop", "USD", 10_000_000, 1_250_000),
        "pi_2": Booked("shop", "USD", 10_000_000, 1_250_000),
        "pi_3": Booked("shop", "JPY", 24_000_000, 3_000_000),
    }
    assert await rows.moved("shop", ["refund:re_1", "refund:re_2", "payment:pi_1"]) == {
        "refund:re_1": 4_000_000,
        "payment:pi_1": -10_000_000,
    }
    assert list(await rows.apps_of(user_id)) == ["chat", "shop"]

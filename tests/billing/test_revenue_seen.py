"""Who sees what of the money, and what is refused: payouts, statements, fee income, invoices and receipts over REST."""

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gateway.billing.ports import PaymentsDown
from gateway.billing.revenue.account_walk import AccountWalk
from gateway.billing.revenue.book import Revenue
from gateway.billing.revenue.reports import Movement, Source
from gateway.billing.revenue.store import RevenueStore
from gateway.billing.stripe.reports import StripeReports
from gateway.core.clock import SYSTEM_CLOCK, now_ms
from gateway.core.errors import InvalidRequest, Unavailable
from gateway.core.limits import REPORT_MONTHS_MAX
from gateway.db.tables import billing_accounts
from gateway.identity.model import Role
from tests.api.conftest import OPERATOR
from tests.billing.market import MONTHLY, PACKAGE, Market

THIS = f"{datetime.now(UTC):%Y-%m}"


async def bought(market: Market, body: dict[str, Any], owner: str, account: str | None = None) -> None:
    plan_id = await market.plan(body)
    who = "platform_user_id" if body["enterprise_id"] else "user_id"
    made = await market.checkout(plan_id, role=Role.OPERATOR, **{who: owner})
    market.control.pay(market.account if account is None else account, made["id"])


def buyers(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(row["wallet"]["platform_user_id"] or row["wallet"]["user_id"] for row in rows)


async def test_receipts_and_invoices_are_shown_to_the_buyer_and_to_the_seller_only(market: Market) -> None:
    for owner in ("u1", "u2"):
        await bought(market, PACKAGE, owner)
        await bought(market, MONTHLY, owner)
    await bought(market, {**PACKAGE, "enterprise_id": "second"}, "u1")  # of another app, on the same account
    market.control.onboard("")
    await bought(market, {**PACKAGE, "enterprise_id": None}, "alice", "")
    await bought(market, {**MONTHLY, "enterprise_id": None}, "bob", "")
    seen: list[tuple[str, dict[str, str], list[str]]] = [
        (Role.END_USER, {}, ["u1", "u1"]),
        (Role.END_USER, {"platform_user_id": "u1"}, ["u1", "u1"]),
        (Role.APP_SERVER, {}, ["u1", "u1", "u2", "u2"]),
        (Role.APP_SERVER, {"platform_user_id": "u2"}, ["u2", "u2"]),
        (Role.CREATOR, {"enterprise_id": "shop"}, ["u1", "u1", "u2", "u2"]),
        (Role.CREATOR, {"enterprise_id": "second"}, ["u1"]),
        (Role.CREATOR, {}, ["alice"]),
        ("bob", {}, ["bob"]),
        (Role.OPERATOR, {"enterprise_id": "shop", "platform_user_id": "u2"}, ["u2", "u2"]),
        (Role.OPERATOR, {"user_id": "alice"}, ["alice"]),
    ]
    for role, query, whose in seen:
        rows = (await market.ok("GET", "/receipts", query=query, role=role))["data"]
        assert buyers(rows) == whose, (role, query)
        rows = (await market.ok("GET", "/invoices", query=query, role=role))["data"]
        assert buyers(rows) == [name for name in dict.fromkeys(whose) if whose.count(name) > 1 or name == "bob"], (role, query)
    everybody = (await market.ok("GET", "/receipts", role=Role.OPERATOR))["data"]
    assert {"alice", "bob"} <= set(buyers(everybody))
    refused: list[tuple[str, dict[str, str], tuple[int, str | None]]] = [
        (Role.END_USER, {"platform_user_id": "u2"}, (403, "platform_user_id")),
        (Role.END_USER, {"enterprise_id": "second"}, (404, "enterprise_id")),
        (Role.END_USER, {"user_id": "alice"}, (400, "user_id")),
        (Role.APP_SERVER, {"enterprise_id": "second"}, (404, "enterprise_id")),
        (Role.APP_SERVER, {"user_id": "alice"}, (400, "user_id")),
        ("bob", {"enterprise_id": "shop"}, (404, "enterprise_id")),
        ("bob", {"user_id": "alice"}, (404, "user_id")),
        (Role.CREATOR, {"platform_user_id": "u1"}, (400, "platform_user_id")),
        (Role.OPERATOR, {"enterprise_id": "bobs"}, (404, None)),  # which has no account
        (Role.OPERATOR, {"enterprise_id": "shop", "cursor": "ch_none"}, (400, "cursor")),
        (Role.OPERATOR, {"enterprise_id": "shop", "limit": "0"}, (400, "limit")),
    ]
    for path in ("/receipts", "/invoices"):
        for role, query, (status, param) in refused:
            found = await market.refused("GET", path, query=query, role=role)
            assert (found[0], found[2]) == (status, param), (path, role, query)


async def test_payouts_and_statements_are_the_creators_own_and_the_operators(market: Market) -> None:
    await bought(market, PACKAGE, "u1")
    for path in ("/payouts", "/statements/alice", "/statements/alice/csv"):
        who = {"user_id": "alice"} if path == "/payouts" else {}
        for role in (Role.OPERATOR, Role.CREATOR):
            answer = await market.call("GET", path, query=who, role=role)
            assert answer.status_code == 200, answer.text
        for role in (Role.APP_SERVER, Role.END_USER):
            assert (await market.refused("GET", path, role=role))[:2] == (403, "forbidden")
        assert await market.refused("GET", path, query=who, role="bob") == (404, "not_found", "user_id")
    assert (await market.ok("GET", "/payouts", role=Role.CREATOR))["data"] == []
    part = (await market.ok("GET", "/statements/alice", role=Role.CREATOR))["currencies"][0]
    assert part["unexplained"][0]["reason"] == "no book has its payment"  # these tests hear no webhooks
    assert await market.refused("GET", "/payouts", role="bob") == (404, "not_found", "user_id")  # no account
    assert await market.refused("GET", "/statements/bob", role="bob") == (404, "not_found", "user_id")
    for query, param in (
        ({"month": "2026-13"}, "month"), ({"month": "26-01"}, "month"), ({"month": "2099-01"}, "month"), ({"day": "1"}, "day"),
    ):  # fmt: skip
        assert (await market.refused("GET", "/statements/alice", query=query))[::2] == (400, param)
    assert (await market.refused("GET", "/payouts", query={"user_id": "alice", "status": "lost"}))[::2] == (400, "status")
    assert (await market.refused("GET", "/payouts", query={"user_id": "alice", "cursor": "po_none"}))[::2] == (400, "cursor")
    market.control.deauthorize(market.account)
    for path in ("/payouts?user_id=alice", "/statements/alice", "/receipts?enterprise_id=shop"):
        answer = await market.call("GET", path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "account_deauthorized")
    await market.write(sa.update(billing_accounts).values(state="deauthorized"), None)
    assert (await market.refused("GET", "/statements/alice"))[:2] == (409, "account_deauthorized")


class Restless(StripeReports):
    """Stripe, with a balance that is another one each time."""

    looks = 0

    async def balance(self, account_id: str) -> Mapping[str, int]:
        self.looks += 1
        return {"USD": self.looks}


class Broken(StripeReports):
    """Stripe, which tells what moved once, and slices of it never."""

    async def movements(
        self, account_id: str, from_ms: int, until_ms: int | None, currency: str | None = None
    ) -> AsyncGenerator[Movement, None]:
        if currency is not None:
            raise PaymentsDown("away")
        async for each in super().movements(account_id, from_ms, until_ms):
            yield each


def untimed(table: str) -> list[list[str]]:
    """A statement's rows, less when they were told: the month is not over."""
    return [[cell for at, cell in enumerate(row) if at != 2] for row in csv.reader(io.StringIO(table))]


async def test_a_statement_is_of_one_moment_of_all_pages_or_not_at_all(market: Market) -> None:
    for owner in ("u1", "u2", "u3"):
        await bought(market, PACKAGE, owner)
    billing = market.api.billing
    whole = await market.ok("GET", "/statements/alice?lines=true")
    table = (await market.call("GET", "/statements/alice/csv")).text
    billing.payments.page_rows = 1  # type: ignore[attr-defined]
    assert await market.ok("GET", "/statements/alice?lines=true") == whole
    assert len(whole["currencies"][0]["unexplained"]) == 3
    billing.revenue.lines_max = 2
    assert (await market.refused("GET", "/statements/alice?lines=true"))[::2] == (400, "lines")
    assert await market.ok("GET", "/statements/alice") == await market.ok("GET", "/statements/alice?lines=false") == whole
    assert untimed((await market.call("GET", "/statements/alice/csv")).text) == untimed(table)
    # What fails after the first line breaks the answer off: half of it never passes for the whole.
    broken = Broken("sk_test_made_up", {}, market.control.base)
    billing.revenue.walk = AccountWalk(broken, SYSTEM_CLOCK)
    with pytest.raises(Unavailable):
        await market.call("GET", "/statements/alice/csv")
    await broken.close()
    restless = Restless("sk_test_made_up", {}, market.control.base)
    revenue = Revenue(billing.store, RevenueStore(market.api.databases), market.api.registry, restless, SYSTEM_CLOCK)
    with pytest.raises(PaymentsDown):
        await revenue.statement(OPERATOR, "alice", None)
    await restless.close()


async def test_lines_are_listed_page_by_page_newest_first(market: Market) -> None:
    for owner in ("u1", "u2", "u3"):
        await bought(market, PACKAGE, owner)
    api: Any = market.control.client().v1
    wish = {"amount": 700, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True, "payment_method_types": ["card"]}
    api.payment_intents.create(wish, {"stripe_account": market.account})  # one that was not sold here
    (part,) = (await market.ok("GET", "/statements/alice?lines=true"))["currencies"]
    pages, cursor = [], ""
    while True:
        query = {"limit": "1", "cursor": cursor} if cursor else {"limit": "1"}
        page = await market.ok("GET", "/statements/alice/lines", role=Role.CREATOR, query=query)
        pages.append(page["data"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(pages) == 4, "a movement a page"
    rows = [row for page in pages for row in page]
    assert [row["at"] for row in rows] == sorted([row["at"] for row in rows], reverse=True)
    assert {row["balance_transaction_id"] for row in rows if row["kind"] == "unexplained"} == {
        row["balance_transaction_id"] for row in part["unexplained"]
    }
    assert all(row["reason"] == "no book has its payment" for row in rows if row["kind"] == "unexplained")
    others = [row for row in rows if row["kind"] != "unexplained"]
    assert [(row["kind"], row["amount_micro"]) for row in others] == [(row["kind"], row["amount_micro"]) for row in part["lines"]]
    assert (await market.refused("GET", "/statements/alice/lines", query={"cursor": "txn_none"}))[::2] == (400, "cursor")
    assert (await market.refused("GET", "/statements/alice/lines", role="bob"))[0] == 404


NOW = now_ms() // 1000 * 1000
LAST_MONTH_ENDS = int(datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()) * 1000
HOURS = [NOW - number * 3_600_000 for number in range(960)]
HOURS += [LAST_MONTH_ENDS - 5 * 86_400_000 + number * 1000 for number in range(120)]  # and in two minutes, one every second


class Busy(StripeReports):
    """Stripe, with an account on which one payout of a cent leaves every hour, for 40 days before now, and once many at once."""

    asked: tuple[tuple[int, int | None], ...] = ()
    at_once = most = 0

    async def balance(self, account_id: str) -> Mapping[str, int]:
        return {"USD": -len(HOURS)}

    async def movements(
        self, account_id: str, from_ms: int, until_ms: int | None, currency: str | None = None
    ) -> AsyncGenerator[Movement, None]:
        self.asked += ((from_ms, until_ms),)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(0)
            for number, at_ms in sorted(enumerate(HOURS), key=lambda each: -each[1]):
                if from_ms <= at_ms and (until_ms is None or at_ms < until_ms):
                    about = Source("payout", f"po_{number}")
                    yield Movement(f"txn_{number}", "payout", "payout", -1, 0, 0, "USD", at_ms, about)
        finally:
            self.at_once -= 1


class Moving(StripeReports):
    """Stripe, with an account on which a cent leaves whenever it has been looked at, three times."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.left = [NOW]

    async def balance(self, account_id: str) -> Mapping[str, int]:
        return {"USD": -len(self.left)}

    async def movements(
        self, account_id: str, from_ms: int, until_ms: int | None, currency: str | None = None
    ) -> AsyncGenerator[Movement, None]:
        for number, at_ms in reversed(list(enumerate(self.left))):
            if from_ms <= at_ms:
                yield Movement(f"txn_{number}", "payout", "payout", -1, 0, 0, "USD", at_ms, Source("payout", f"po_{number}"))
        if len(self.left) < 3:
            self.left.append(now_ms() // 1000 * 1000)


async def test_what_moves_while_it_is_read_is_in_the_statement_once(market: Market) -> None:
    moving = Moving("sk_test_made_up", {}, market.control.base)
    revenue = Revenue(market.api.billing.store, RevenueStore(market.api.databases), market.api.registry, moving, SYSTEM_CLOCK)
    (part,) = (await revenue.statement(OPERATOR, "alice", None)).sections
    assert (part.opening_minor, part.closing_minor, part.difference_minor, len(part.lines)) == (0, -3, 0, 3)
    await moving.close()


async def test_a_busy_months_movements_are_asked_for_in_parts_and_each_is_there_once(market: Market) -> None:
    busy = Busy("sk_test_made_up", {}, market.control.base)
    billing = market.api.billing
    revenue = Revenue(billing.store, RevenueStore(market.api.databases), market.api.registry, busy, SYSTEM_CLOCK)
    before = datetime.now(UTC).replace(day=1) - timedelta(days=1)
    told = await revenue.statement(OPERATOR, "alice", f"{before:%Y-%m}")
    begins, ends = told.month.from_ms, told.month.until_ms
    (part,) = told.sections
    assert len({line.movement_id for line in part.lines}) == len(part.lines) == sum(begins <= at < ends for at in HOURS)
    assert (part.opening_minor, part.closing_minor) == (-sum(at < begins for at in HOURS), -sum(at < ends for at in HOURS))
    assert (part.difference_minor, part.net_minor) == (0, 0)
    assert (len(busy.asked), busy.most) == (17, 4)
    # More than is kept: the lines come by slices of time, the oldest first, and come to the same.
    revenue.lines_max, revenue.walk.batch_rows = 400, 50
    outline = await revenue.outline(OPERATOR, "alice", f"{before:%Y-%m}")
    assert outline.walked.movements is None
    slices = [part async for part in revenue.parts(outline, "USD")]
    assert [line for each in slices for line in each.lines] == list(part.lines)
    assert max(len(each.lines) for each in slices) <= 50
    brief = await revenue.statement(OPERATOR, "alice", f"{before:%Y-%m}", lines=False)
    assert brief.sections == (msgspec.structs.replace(part, lines=()),)
    with pytest.raises(InvalidRequest, match="More than 400 movements"):
        await revenue.statement(OPERATOR, "alice", f"{before:%Y-%m}")
    await busy.close()


async def test_the_platforms_income_is_the_operators_alone(market: Market) -> None:
    assert await market.ok("GET", "/fee-income") == {"data": [], "ties": None}
    for role in (Role.CREATOR, "bob", Role.APP_SERVER, Role.END_USER):
        assert (await market.refused("GET", "/fee-income", role=role))[:2] == (403, "forbidden")
    long_ago = f"{int(THIS[:4]) - REPORT_MONTHS_MAX // 12}-{THIS[5:]}"
    for query, status, param in (
        ({"from": "2099-01"}, 400, "from"), ({"from": THIS, "to": "2020-01"}, 400, "from"), ({"to": "x"}, 400, "to"),
        ({"from": long_ago}, 400, "from"), ({"user_id": "nobody"}, 404, "user_id"),
        ({"enterprise_id": "none"}, 404, "enterprise_id"),
        ({"enterprise_id": "shop", "stripe": "true"}, 400, "enterprise_id"),
    ):  # fmt: skip
        assert (await market.refused("GET", "/fee-income", query=query))[::2] == (status, param), query


async def test_when_stripe_fails_nothing_is_half_told(market: Market) -> None:
    await bought(market, PACKAGE, "u1")
    for path in ("/statements/alice", "/payouts?user_id=alice", "/receipts?enterprise_id=shop", "/fee-income?stripe=true"):
        market.control.fault("error_500", times=5)
        assert (await market.refused("GET", path))[:2] == (503, "payments_unavailable")
        market.control.clear_faults()

"""What became of the money, through a whole gateway: statements that tie to Stripe's balance, fee income, payouts, papers.

Stripe's clock begins on the 20th of the month before last and walks into this one.
"""

import csv
import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from gateway.billing.webhooks.inbox import _EFFECTS
from tests.billing.house import DAY, SECRETS, House, Shop
from tests.fake_stripe.control import KEY, running
from tests.path.conftest import start_gateway
from tests.path.conftest import upstream_url as upstream_url

PLATFORM = "acct_1FakePlatform00"
DECIMALS = {"USD": 2, "JPY": 0, "KWD": 3}


def month_of(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m}"


def months_back(count: int) -> int:
    """The first second of a month, so many before this one."""
    today = datetime.fromtimestamp(time.time(), UTC)
    months = today.year * 12 + today.month - 1 - count
    return int(datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream_url: str) -> Iterator[House]:
    with running(now=months_back(2) + 19 * DAY) as control:
        env: dict[str, Any] = {
            "MOZAIKS_STRIPE_SECRET_KEY": KEY,
            "MOZAIKS_STRIPE_WEBHOOK_SECRET": SECRETS["platform"],
            "MOZAIKS_STRIPE_CONNECT_WEBHOOK_SECRET": SECRETS["connect"],
            "MOZAIKS_STRIPE_API_BASE": control.base,
        }
        stack = start_gateway(tmp_path_factory.mktemp("house"), upstream_url, **env)
        try:
            yield House(stack, control)
            print(stack.cli("audit"))
            assert control.audit() == []
            assert control.violations() == []
            assert control.shape_faults() == []
        finally:
            stack.admin.close()
            stack.process.stop()


def told(house: House) -> None:
    """Only what changes something here is sent."""
    house.deliver(types=tuple(_EFFECTS))
    house.control.drop_waiting()


def statement(shop: Shop, month: str, **more: Any) -> dict[str, dict[str, Any]]:
    """By currency."""
    answer = shop.house.stack.get(f"/statements/{shop.user_id}", month=month, lines=True, **more)
    assert (answer["account_id"], answer["month"]) == (shop.account, month)
    return {part["currency"]: part for part in answer["currencies"]}


def moved(shop: Shop, month: str) -> dict[str, list[dict[str, Any]]]:
    """The fake's own balance transactions of a month, by currency."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in shop.control.state()[shop.account].get("balance_transaction", []):
        if month_of(row["created"]) == month:
            found.setdefault(row["currency"].upper(), []).append(row)
    return found


def micro(minor: int, currency: str) -> int:
    return minor * int(10 ** (6 - DECIMALS[currency]))


def check(shop: Shop, months: list[str]) -> None:
    """Every month ties to Stripe's balance transactions, begins where the one before ended, and leaves no difference."""
    closing: dict[str, int] = {}
    for month in months:
        found, stripes = statement(shop, month), moved(shop, month)
        assert set(stripes) <= set(found)
        for currency, part in found.items():
            assert part["opening_micro"] == closing.get(currency, 0), (month, currency)
            net = sum(micro(row["net"], currency) for row in stripes.get(currency, []))
            assert part["closing_micro"] - part["opening_micro"] == net
            assert sum(line["amount_micro"] for line in part["lines"]) == net
            assert sum(total["amount_micro"] for total in part["totals"]) == net
            assert (part["difference_micro"], part["unexplained"]) == (0, [])
            closing[currency] = part["closing_micro"]


def totals(part: dict[str, Any]) -> dict[str, int]:
    """By kind; those of the account itself name no app."""
    alone = ("payout", "other", "stripe_fee")
    assert all((each["enterprise_id"] is None) == (each["kind"] in alone) for each in part["totals"]), part["totals"]
    return {each["kind"]: each["amount_micro"] for each in part["totals"]}


def stripe_fees(shop: Shop, currency: str) -> tuple[int, int]:
    """(micro-units that came in as fees of an account, that went back), by the fake's fee objects."""
    rows = shop.control.state()[PLATFORM].get("application_fee", [])
    mine = [row for row in rows if row["account"] == shop.account and row["currency"] == currency.lower()]
    return sum(micro(row["amount"], currency) for row in mine), sum(micro(row["amount_refunded"], currency) for row in mine)


def by_hand(shop: Shop, amount: int = 700, **more: Any) -> str:
    """A payment that the creator took by itself; no share of the platform is in it."""
    wish = {"amount": amount, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    return str(shop.api.payment_intents.create({**wish, "payment_method_types": ["card"], **more}, shop.at).id)


@pytest.fixture(scope="module")
def shop(house: House) -> Shop:
    """Three months of a bit of everything: the months are in `MONTHS`."""
    shop = house.shop()
    ten = shop.plan(10_000_000, 1_000_000)
    yen = shop.plan(1_250_000_000, 1_000_000, currency="JPY")
    dinar = shop.plan(12_340_000, 1_000_000, currency="KWD")
    monthly = shop.monthly(20_000_000, 5000)
    ann, bob, cy, dee = [shop.buy(ten, name) for name in ("ann", "bob", "cy", "dee")]
    in_yen, in_dinar = shop.buy(yen, "ann"), shop.buy(dinar, "bob")
    shop.buy(monthly, "eve")
    by_hand(shop, 9000)
    told(house)
    shop.refund_by_us(ann, 3_330_000)  # the share goes back with the refund
    house.control.refund_in_dashboard(shop.account, bob, 500)  # and here by itself
    house.control.refund_in_dashboard(shop.account, in_yen, 125)
    house.control.refund_in_dashboard(shop.account, in_dinar)
    told(house)
    lost = house.control.dispute(shop.account, shop.charge(cy))["id"]
    won = house.control.dispute(shop.account, shop.charge(dee))["id"]
    house.control.advance(3 * DAY)
    house.control.dashboard(shop.account, "POST", "/v1/payouts", amount="1200", currency="usd")
    house.control.advance_to(months_back(1) + 25 * DAY)  # with the renewal of the subscription
    house.control.close_dispute(shop.account, lost, won=False)
    house.control.close_dispute(shop.account, won, won=True)
    late = house.control.refund_in_dashboard(shop.account, ann)["id"]
    failed = house.control.dashboard(shop.account, "POST", "/v1/payouts", amount="100", currency="usd")["id"]
    told(house)
    house.control.advance_to(months_back(0) + 3600)
    house.control.finish_refund(shop.account, late, "failed")
    house.control.finish_payout(shop.account, failed, paid=False)
    told(house)
    return shop


MONTHS = [month_of(months_back(count)) for count in (2, 1, 0)]


def test_three_months_tie_to_stripes_balance_and_each_begins_where_the_last_ended(house: House, shop: Shop) -> None:
    check(shop, MONTHS)
    shop_fees = {currency: stripe_fees(shop, currency) for currency in DECIMALS}
    assert {currency: came - back for currency, (came, back) in shop_fees.items()} == {
        currency: shop.accounts().get(f"/due_to_platform/{currency}", 0) for currency in DECIMALS
    }
    first, second, third = [statement(shop, month) for month in MONTHS]
    kinds = totals(first["USD"])
    assert kinds == {
        "payment": 4 * 10_000_000 + 20_000_000,
        "processing_fee": -(4 * 590_000 + 880_000),
        "platform_share": -(4 * 1_250_000 + 2_500_000),
        "platform_share_returned": 420_000 + 630_000,  # of 12.5 %: of 3.33, and of 5.00 rounded half up
        "refund": -8_330_000,
        "dispute": -20_000_000,
        "dispute_fee": -30_000_000,
        "payout": -12_000_000,
        "other": 90_000_000 - 2_910_000,
    }
    assert first["USD"]["net_micro"] == sum(amount for kind, amount in kinds.items() if kind not in ("payout", "other"))
    assert totals(first["JPY"]) == {
        "payment": 1_250_000_000, "processing_fee": -66_000_000, "platform_share": -156_000_000,
        "platform_share_returned": 16_000_000, "refund": -125_000_000,
    }  # fmt: skip
    assert totals(first["KWD"]) == {
        "payment": 12_340_000, "processing_fee": -448_000, "platform_share": -1_543_000,
        "platform_share_returned": 1_543_000, "refund": -12_340_000,
    }  # fmt: skip
    kinds = totals(second["USD"])
    assert (kinds["payment"], kinds["dispute_reversal"], kinds["refund"]) == (20_000_000, 10_000_000, -6_670_000)
    assert kinds["payout"] == -1_000_000
    assert totals(third["USD"]) == {"refund_failure": 6_670_000, "payout": 1_000_000}
    assert {line["enterprise_id"] for line in first["USD"]["lines"]} == {shop.app, None}
    assert [house.stack.get(f"/statements/{shop.user_id}", month=month)["complete"] for month in MONTHS] == [True, True, False]
    assert "lines" in first["USD"]
    assert house.stack.get(f"/statements/{shop.user_id}")["currencies"][0]["lines"] == []


def test_what_no_book_has_is_a_difference_that_is_shown_until_it_is_told(house: House) -> None:
    shop = house.shop("USD")
    house.stack.post("/apps", {"enterprise_id": f"{shop.app}-2", "user_id": shop.user_id, "name": "another"})
    ten, monthly = shop.plan(10_000_000, 10_000_000), shop.monthly(20_000_000, 5_000_000)
    known = shop.buy(ten, "ann")
    told(house)
    this = month_of(house.control.now())
    assert statement(shop, this)["USD"]["difference_micro"] == 0
    unheard = shop.buy(ten, "bob")
    shop.buy(monthly, "eve")
    refund = house.control.refund_in_dashboard(shop.account, known, 100)["id"]
    gone = house.control.refund_in_dashboard(shop.account, unheard, 100)["id"]
    customer = shop.api.payment_intents.retrieve(known, None, shop.at).customer
    by_hand(shop, customer=customer)  # of a customer of ours, and not of ours
    part = statement(shop, this)["USD"]
    found = {row["source_id"]: (row["amount_micro"], row["reason"]) for row in part["unexplained"]}
    assert found == {
        shop.charge(unheard): (10_000_000 - 590_000 - 1_250_000, "no book has its payment"),
        refund: (-1_000_000, "the book does not have the refund"),
        gone: (-1_000_000, "no book has its payment"),
        next(name for name in found if name not in (shop.charge(unheard), refund, gone)): (
            20_000_000 - 880_000 - 2_500_000,
            "no book has its payment",
        ),
    }
    assert part["difference_micro"] == sum(amount for amount, _ in found.values())
    assert totals(part)["other"] == 6_500_000
    net = sum(line["amount_micro"] for line in part["lines"])
    assert part["closing_micro"] == part["opening_micro"] + net + part["difference_micro"]
    asked = {"user_id": shop.user_id, "from": this, "stripe": True}
    (tie,) = house.stack.get("/fee-income", **asked)["ties"]
    assert (tie["booked_micro"], tie["difference_micro"]) == (1_250_000, 1_250_000 + 2_500_000)
    told(house)
    by_hand(shop, metadata={"mozaiks_app": "another", "mozaiks_owner": "ann"})
    house.control.drop_waiting()
    check(shop, [this])  # with the shares of what was refunded, which the gateway returned
    assert totals(statement(shop, this)["USD"])["other"] == 2 * 6_500_000
    assert house.stack.get("/fee-income", **asked)["ties"][0]["difference_micro"] == 0
    shop.check()


def test_a_payment_by_bank_debit_and_its_refund_that_takes_days_tie_too(house: House) -> None:
    shop = house.shop()
    intent = shop.buy(shop.plan(), "ann", "pm_usBankAccount_success")
    told(house)
    this = month_of(house.control.now())
    assert statement(shop, this) == {}
    house.control.settle(shop.account, intent)
    told(house)
    refund = shop.refund_by_us(intent, 5_000_000)
    told(house)
    assert {row["type"] for row in moved(shop, this)["USD"]} == {"payment", "payment_refund"}
    check(shop, [this])
    expected = {"payment": 10_000_000, "processing_fee": -590_000, "platform_share": -1_250_000}
    expected |= {"platform_share_returned": 630_000, "refund_pending": -5_000_000}
    assert totals(statement(shop, this)["USD"]) == expected
    house.control.finish_refund(shop.account, refund)
    told(house)
    check(shop, [this])
    assert totals(statement(shop, this)["USD"])["refund"] == -5_000_000
    shop.check()


def test_a_change_of_plans_and_a_trial_tie_too(house: House) -> None:
    shop = house.shop()
    basic, better = shop.monthly(10_000_000, 1000), shop.monthly(30_000_000, 5000)
    shop.buy(basic, "ann")
    shop.buy(shop.monthly(10_000_000, 1000, trial_days=7), "bob")
    told(house)
    shop.change("ann", plan_id=better)
    told(house)
    shop.change("ann", plan_id=basic)  # which takes no money
    told(house)
    this = month_of(house.control.now())
    check(shop, [this])
    assert totals(statement(shop, this)["USD"])["payment"] == 30_000_000
    invoices = house.stack.get("/invoices", enterprise_id=shop.app)["data"]
    assert sorted(row["amount_paid_micro"] for row in invoices if row["amount_paid_micro"]) == [10_000_000, 20_000_000]
    assert len(house.stack.get("/receipts", enterprise_id=shop.app)["data"]) == 2
    shop.check()


def test_a_statement_as_csv_adds_up_to_the_cent_and_no_cell_is_a_formula(house: House, shop: Shop) -> None:
    house.stack.admin.patch(f"/apps/{shop.app}", json={"name": '=HYPERLINK("https://evil.invalid","x")'}).raise_for_status()
    for month in MONTHS:
        answer = house.stack.admin.get(f"/statements/{shop.user_id}/csv", params={"month": month})
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"] == f'attachment; filename="statement-{shop.user_id}-{month}.csv"'
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        whole = statement(shop, month)
        assert {row["currency"] for row in rows} == set(whole)
        for currency, part in whole.items():
            mine = [row for row in rows if row["currency"] == currency]
            amounts = [Decimal(row["amount"]) for row in mine]
            assert [row["kind"] for row in (mine[0], *mine[-2:])] == ["opening", "closing", "difference"]
            assert amounts[-2] == sum(amounts[:-2]) + amounts[-1]
            assert amounts[0] * 1_000_000 == part["opening_micro"]
            assert len(mine) == len(part["lines"]) + 3
            assert {len(row["amount"].partition(".")[2]) for row in mine} == {DECIMALS[currency]}
        names = {row["app"] for row in rows} - {""}
        assert names <= {'\'=HYPERLINK("https://evil.invalid","x")'}
        assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())


def test_fee_income_is_what_stripes_fee_objects_say_by_creator_app_and_currency(house: House, shop: Shop) -> None:
    this = month_of(int(time.time()))  # the books are kept by our clock
    answer = house.stack.get("/fee-income", user_id=shop.user_id, **{"from": MONTHS[0]}, to=this, stripe=True)
    rows = {row["currency"]: row for row in answer["data"]}
    assert set(rows) == set(DECIMALS)
    for currency, row in rows.items():
        came, back = stripe_fees(shop, currency)
        assert (row["income_micro"], row["returned_micro"], row["net_micro"]) == (came, back, came - back)
        assert (row["enterprise_id"], row["user_id"], row["month"]) == (shop.app, shop.user_id, this)
    assert {(tie["user_id"], tie["currency"], tie["difference_micro"]) for tie in answer["ties"]} == {
        (shop.user_id, currency, 0) for currency in DECIMALS
    }
    whole = house.stack.get("/fee-income", **{"from": MONTHS[0]}, stripe=True)
    assert {tie["difference_micro"] for tie in whole["ties"]} == {0}
    assert house.stack.get("/fee-income", to=MONTHS[1])["data"] == []
    one = house.stack.get("/fee-income", enterprise_id=shop.app)
    assert (one["ties"], len(one["data"])) == (None, 3)


def test_answers_fit_the_schemas_that_describe_them(house: House, shop: Shop) -> None:
    described = house.stack.get("/../openapi.json")
    for path, asked in (
        ("/statements/{user_id}", {"month": MONTHS[0], "lines": True}),
        ("/fee-income", {"stripe": True, "from": MONTHS[0]}),
        ("/payouts", {"user_id": shop.user_id}),
        ("/receipts", {"enterprise_id": shop.app}),
        ("/invoices", {"enterprise_id": shop.app}),
    ):
        value = house.stack.get(path.format(user_id=shop.user_id), **asked)
        responses = described["paths"][f"/api/v1{path}"]["get"]["responses"]
        schema = responses["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(value, {**schema, "components": described["components"]})
    assert set(described["paths"]["/api/v1/statements/{user_id}/csv"]["get"]["responses"]["200"]["content"]) == {"text/csv"}


def test_payouts_are_listed_as_stripe_reports_them(house: House, shop: Shop) -> None:
    page = house.stack.get("/payouts", user_id=shop.user_id, limit=1)
    assert page["has_more"]
    rest = house.stack.get("/payouts", user_id=shop.user_id, cursor=page["next_cursor"])
    assert not rest["has_more"]
    rows = [*page["data"], *rest["data"]]
    assert [(row["status"], row["amount_micro"], row["currency"], row["failure"]) for row in rows] == [
        ("failed", 1_000_000, "USD", "account_closed"),
        ("paid", 12_000_000, "USD", ""),
    ]
    assert rows[1]["arrival_at"] > rows[1]["created_at"]
    assert [row["status"] for row in house.stack.get("/payouts", user_id=shop.user_id, status="paid")["data"]] == ["paid"]
    assert house.stack.get("/payouts")["data"] == []  # the platform's own


def test_invoices_and_receipts_are_of_the_app_and_of_the_buyer(house: House, shop: Shop) -> None:
    asked = {"enterprise_id": shop.app}
    receipts = house.stack.get("/receipts", **asked)["data"]
    buyers = sorted(row["wallet"]["platform_user_id"] for row in receipts)
    assert buyers == ["ann", "ann", "bob", "bob", "cy", "dee", "eve", "eve"]  # and none of what the creator took by itself
    assert all(row["url"].startswith("https://pay.stripe.invalid/receipts/") for row in receipts)
    assert {(row["currency"], row["amount_micro"]) for row in receipts} == {
        ("USD", 10_000_000), ("USD", 20_000_000), ("JPY", 1_250_000_000), ("KWD", 12_340_000),
    }  # fmt: skip
    mine = house.stack.get("/receipts", **asked, platform_user_id="bob")["data"]
    assert [(row["amount_micro"], row["refunded_micro"]) for row in mine] == [(12_340_000, 12_340_000), (10_000_000, 5_000_000)]
    walked: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = house.stack.get("/receipts", **asked, limit=3, **cursor)
        walked += page["data"]
        assert len(page["data"]) <= 3
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert walked == receipts
    invoices = house.stack.get("/invoices", **asked)["data"]
    assert [(row["status"], row["amount_paid_micro"], row["wallet"]["platform_user_id"]) for row in invoices] == [
        ("paid", 20_000_000, "eve")
    ] * 2
    assert all(row["url"].startswith("https://invoice.stripe.invalid/") and row["pdf_url"] and row["number"] for row in invoices)
    assert house.stack.get("/invoices", **asked, platform_user_id="ann")["data"] == []
    assert house.stack.get("/receipts", **asked, platform_user_id="nobody") == {
        "data": [],
        "has_more": False,
        "next_cursor": None,
    }

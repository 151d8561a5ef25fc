"""Selling through REST on a fake of Stripe: who may sell and buy what, what Stripe is asked for, what is kept of it here."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Router

from gateway.api.routes import routes
from gateway.api.table import TABLE
from gateway.billing.connect import state_after
from gateway.billing.fees import fee_minor
from gateway.billing.model import AccountState
from gateway.billing.ports import AccountFacts
from gateway.core.limits import OPEN_PURCHASES_MAX
from gateway.db.tables import APP_SALES, PLATFORM_SALES
from gateway.identity.model import NewApp, Role
from gateway.trail.service import Trail
from tests.api.conftest import OPERATOR, Api
from tests.fake_stripe.control import Control

KEYS = itertools.count(1)
URLS = {"success_url": "https://app.invalid/ok", "cancel_url": "https://app.invalid/no"}
PACKAGE = {
    "enterprise_id": "shop",
    "kind": "package",
    "name": "Ten",
    "currency": "USD",
    "price_micro": 9_990_000,
    "grant_micro": 10_000_000,
}
MONTHLY = {**PACKAGE, "kind": "subscription", "name": "Monthly", "interval": "month", "price_micro": 30_000_000}


class Market:
    """The API with an account of alice's that takes charges."""

    def __init__(self, api: Api, control: Control) -> None:
        self.api, self.control = api, control
        self.account = ""

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        return await self.api.call(method, path, body, headers={"idempotency-key": more.pop("key", f"k{next(KEYS)}")}, **more)

    async def ok(self, method: str, path: str, body: Any = None, status: int = 200, **more: Any) -> Any:
        answer = await self.call(method, path, body, **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def refused(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str, str | None]:
        answer = await self.call(method, path, body, **more)
        assert answer.status_code >= 400, answer.text
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["param"]

    async def connect(self) -> None:
        wish = {"email": f"alice+{next(KEYS)}@example.com"}  # another account for each test
        self.account = (await self.ok("POST", "/billing-accounts", wish, 201, role=Role.CREATOR))["account_id"]
        self.control.onboard(self.account)

    async def plan(self, body: dict[str, Any], **more: Any) -> str:
        return str((await self.ok("POST", "/plans", {**body, **more}, 201))["id"])

    async def checkout(self, plan_id: str, *, role: str = Role.END_USER, **more: Any) -> Any:
        key = more.pop("key", f"k{next(KEYS)}")
        return await self.ok("POST", "/checkout-sessions", {"plan_id": plan_id, **URLS, **more}, 201, role=role, key=key)

    def at_stripe(self, kind: str, name: str, account: str | None = None) -> Any:
        api: Any = self.control.client().v1
        for part in kind.split("."):
            api = getattr(api, part)
        return api.retrieve(name, None, {"stripe_account": self.account if account is None else account} if account != "" else {})

    async def write(self, statement: sa.Executable, enterprise_id: str | None = "shop") -> None:
        """What the inbox would have written."""
        databases = self.api.databases
        engine = databases.platform if enterprise_id is None else await databases.app(enterprise_id)
        async with engine.begin() as connection:
            await connection.execute(statement)

    async def subscribed(self, plan_id: str, owner: str, enterprise_id: str | None = "shop", account: str | None = None) -> str:
        """A subscription as the inbox keeps it, of a checkout that was paid."""
        account = self.account if account is None else account
        who: Any = {"role": Role.OPERATOR, "platform_user_id" if enterprise_id else "user_id": owner}
        session = (await self.checkout(plan_id, **who))["id"]
        done = self.control.pay(account, session)["session"]
        table = (APP_SALES if enterprise_id else PLATFORM_SALES)["subscriptions"]
        row: dict[str, Any] = {"id": f"sub_{next(KEYS):03}", "owner": owner, "plan_id": plan_id, "account_id": account}
        row |= {"subscription_id": done["subscription"], "state": "active", "period_start": 1, "period_end": 2, "as_of": 1}
        await self.write(sa.insert(table).values(**row, cancel_at_period_end=0, created_at=1), enterprise_id)
        return str(row["id"])

    async def acts(self, enterprise_id: str | None = "shop") -> list[str]:
        rows, _ = await Trail(self.api.databases).page(enterprise_id, 50, None)
        return [row.line.act for row in rows]


@pytest.fixture
async def market(api: Api, control: Control) -> AsyncIterator[Market]:
    market = Market(api, control)
    await market.connect()
    yield market
    for enterprise_id in ("shop", "second", None):
        assert (await Trail(api.databases).verify(enterprise_id)).broken is None


# ---- accounts ----------------------------------------------------------------------------------


async def test_nothing_is_sold_until_the_creators_account_takes_charges(api: Api, control: Control) -> None:
    market = Market(api, control)
    plan_id = await market.plan(PACKAGE)
    wish = {"plan_id": plan_id, **URLS}
    assert await market.refused("GET", "/billing-accounts/alice") == (404, "not_found", "user_id")
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER))[:2] == (409, "selling_blocked")
    wish_account = {"email": "alice@example.com", "country": "DE"}
    for fields, param in (({"email": " "}, "email"), ({"country": "de"}, "country")):
        found = await market.refused("POST", "/billing-accounts", {**wish_account, **fields}, role=Role.CREATOR)
        assert found == (400, "invalid_request", param)
    made = await market.ok("POST", "/billing-accounts", wish_account, 201, role=Role.CREATOR)
    assert made["status"] == "onboarding"
    assert await market.ok("POST", "/billing-accounts", wish_account, 201, role=Role.CREATOR) == made
    links = "/billing-accounts/alice/onboarding-links"
    assert (await market.ok("POST", links, {"return_url": URLS["success_url"]}, 201))["url"].startswith("https://")
    assert (await market.refused("POST", links, {"return_url": "javascript:alert(1)"}))[2] == "return_url"
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER))[:2] == (409, "selling_blocked")
    assert (await market.ok("GET", "/purchases", enterprise_id="shop"))["data"] == []
    control.onboard(made["account_id"])
    assert (await market.checkout(plan_id))["status"] == "open"
    control.onboard(made["account_id"], "restricted")
    assert (await market.ok("GET", "/billing-accounts/alice"))["status"] == "restricted"
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER))[:2] == (409, "selling_blocked")
    control.deauthorize(made["account_id"])
    assert (await market.ok("GET", "/billing-accounts/alice"))["status"] == "deauthorized"
    assert (await market.refused("POST", links, {"return_url": URLS["success_url"]}))[:2] == (409, "account_deauthorized")
    again = await market.ok("POST", "/billing-accounts", wish_account, 201, role=Role.CREATOR)
    assert (again["status"], again["account_id"] != made["account_id"]) == ("onboarding", True)
    for method, path in (("GET", "/billing-accounts/alice"), ("POST", links)):
        assert (
            await market.refused(method, path, {"return_url": URLS["success_url"]} if method == "POST" else None, role="bob")
        )[0] == 404
    assert (await market.refused("POST", "/billing-accounts", {**wish_account, "user_id": "alice"}, role="bob"))[0] == 404
    assert [act for act in await market.acts(None) if act.startswith("billing_account")] == [
        "billing_account.create", "billing_account.update", "billing_account.update", "billing_account.update",
        "billing_account.create",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "can_charge", "after"),
    [
        (AccountState.ONBOARDING, False, AccountState.ONBOARDING),
        (AccountState.ONBOARDING, True, AccountState.ACTIVE),
        (AccountState.ACTIVE, False, AccountState.RESTRICTED),
        (AccountState.RESTRICTED, False, AccountState.RESTRICTED),
        (AccountState.RESTRICTED, True, AccountState.ACTIVE),
        (AccountState.DEAUTHORIZED, True, AccountState.ACTIVE),
        (AccountState.ACTIVE, None, AccountState.DEAUTHORIZED),
    ],
)
def test_an_accounts_state_follows_what_stripe_says(before: str, can_charge: bool | None, after: str) -> None:
    assert state_after(before, None if can_charge is None else AccountFacts("acct_1", can_charge, ())) == after


# ---- plans -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"price_micro": 0}, "price_micro"),
        ({"price_micro": -5}, "price_micro"),
        ({"price_micro": 1_005_000}, "price_micro"),
        ({"price_micro": 10**18}, "price_micro"),
        ({"grant_micro": 0}, "grant_micro"),
        ({"grant_micro": 2**53}, "grant_micro"),
        ({"currency": "EUR"}, "currency"),
        ({"currency": "usd"}, "currency"),
        ({"currency": "TOK"}, "currency"),
        ({"trial_days": 7}, "trial_days"),
        ({"interval": "month"}, "interval"),
        ({"interval_count": 2}, "interval_count"),
        ({"rollover_max_micro": 5}, "rollover_max_micro"),
        ({"lot_days": 0}, "lot_days"),
        ({"kind": "subscription"}, "interval"),
        ({"kind": "subscription", "interval": "year", "interval_count": 4}, "interval_count"),
        ({"kind": "subscription", "interval": "month", "trial_days": 731}, "trial_days"),
        ({"kind": "subscription", "interval": "month", "rollover_max_micro": -1}, "rollover_max_micro"),
        ({"kind": "gift"}, "kind"),
        ({"name": " "}, "name"),
    ],
)
async def test_a_plan_that_cannot_be_meant_is_refused_and_named(api: Api, fields: dict[str, Any], param: str) -> None:
    answer = await api.call("POST", "/plans", {**PACKAGE, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert (await api.ok("GET", "/plans", enterprise_id="shop"))["data"] == []


async def test_an_app_of_tokens_sells_for_any_currency_at_its_own_scale(api: Api, control: Control) -> None:
    await api.registry.create_app(OPERATOR, NewApp("tok", "alice", "Tok", asset="TOK"))
    market = Market(api, control)
    await market.connect()
    for currency, micro, minor in (("JPY", 500_000_000, 500), ("KWD", 1_500_000, 1500), ("EUR", 990_000, 99)):
        plan_id = await market.plan(PACKAGE, enterprise_id="tok", currency=currency, price_micro=micro)
        made = await market.checkout(plan_id, role=Role.CREATOR, platform_user_id="u1")
        session = market.at_stripe("checkout.sessions", made["id"])
        assert (session.amount_total, session.currency) == (minor, currency.lower())
        [row] = (await market.ok("GET", "/purchases", enterprise_id="tok", limit=1))["data"]
        assert (row["amount_micro"], row["currency"], row["grant_micro"]) == (micro, currency, 10_000_000)
    euros, yen = [
        await market.plan(MONTHLY, enterprise_id="tok", currency=currency, price_micro=990_000_000) for currency in ("EUR", "JPY")
    ]
    ours = await market.subscribed(euros, "u1", "tok")
    found = await market.refused("PATCH", f"/subscriptions/{ours}", {"plan_id": yen}, enterprise_id="tok")
    assert found == (400, "invalid_request", "plan_id")


async def test_plans_are_listed_for_those_who_may_buy_and_archived_ones_are_not_sold(market: Market) -> None:
    first, second = await market.plan(PACKAGE), await market.plan(MONTHLY)
    own = await market.plan({**PACKAGE, "enterprise_id": None})
    for role in (Role.OPERATOR, Role.CREATOR, Role.APP_SERVER, Role.END_USER):
        listed = await market.ok("GET", "/plans", enterprise_id="shop", role=role)
        assert [plan["id"] for plan in listed["data"]] == [second, first]
    assert [plan["id"] for plan in (await market.ok("GET", "/plans", role=Role.END_USER))["data"]] == [second, first]
    assert [plan["id"] for plan in (await market.ok("GET", "/plans", role=Role.CREATOR))["data"]] == [own]
    page = await market.ok("GET", "/plans", enterprise_id="shop", limit=1)
    assert [
        plan["id"] for plan in (await market.ok("GET", "/plans", enterprise_id="shop", cursor=page["next_cursor"]))["data"]
    ] == [first]
    assert await market.refused("GET", "/plans", enterprise_id="shop", role="bob") == (404, "not_found", "enterprise_id")
    assert (await market.refused("DELETE", f"/plans/{first}", role="bob")) == (404, "not_found", "plan_id")
    assert (await market.refused("DELETE", f"/plans/{own}", role=Role.CREATOR))[0] == 403
    assert (await market.refused("POST", "/plans", {**PACKAGE, "enterprise_id": None}, role=Role.CREATOR))[0] == 403
    assert (await market.refused("POST", "/plans", PACKAGE, role="bob"))[0] == 404
    for _ in range(2):
        assert (await market.ok("DELETE", f"/plans/{first}", role=Role.CREATOR))["archived_at"] is not None
    assert [plan["id"] for plan in (await market.ok("GET", "/plans", enterprise_id="shop"))["data"]] == [second]
    assert len((await market.ok("GET", "/plans", enterprise_id="shop", archived="true"))["data"]) == 2
    wish = {"plan_id": first, **URLS}
    assert await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER) == (409, "conflict", "plan_id")
    assert (await market.acts()).count("plan.archive") == 1


# ---- shares ------------------------------------------------------------------------------------


@given(st.integers(0, 99_999_999), st.integers(0, 10_000))
def test_a_share_is_rounded_half_up_and_never_above_the_amount(amount_minor: int, fee_bp: int) -> None:
    fee = fee_minor(amount_minor, fee_bp)
    assert 0 <= fee <= amount_minor
    assert -5000 < fee * 10_000 - amount_minor * fee_bp <= 5000


def test_half_a_minor_unit_of_a_share_is_a_whole_one() -> None:
    assert [fee_minor(amount, 1250) for amount in (4, 3, 11, 12)] == [1, 0, 1, 2]


async def test_the_share_in_force_is_the_apps_own_then_the_creators_then_none(market: Market) -> None:
    fees = market.api.billing.fees
    assert await fees.in_force("alice", "shop") == 0
    await market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "10"}, 201)
    assert (await fees.in_force("alice", "shop"), await fees.in_force("bob", "bobs")) == (1000, 0)
    later = {"user_id": "alice", "fee_percent": 50, "enterprise_id": "shop", "effective_at": "2027-12-31T00:00:00Z"}
    await market.ok("POST", "/fee-terms", later, 201)
    assert await market.refused("POST", "/fee-terms", later) == (409, "conflict", "effective_at")
    assert await fees.in_force("alice", "shop") == 1000
    await market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "2.55", "enterprise_id": "shop"}, 201)
    assert (await fees.in_force("alice", "shop"), await fees.in_force("alice", "second")) == (255, 1000)
    rows = (await market.ok("GET", "/fee-terms", user_id="alice"))["data"]
    assert [(row["enterprise_id"], row["fee_percent"]) for row in rows] == [("shop", "50"), ("shop", "2.55"), (None, "10")]
    for fields, param in (
        ({"fee_percent": "100.01"}, "fee_percent"), ({"fee_percent": -1}, "fee_percent"),
        ({"fee_percent": "1.234"}, "fee_percent"),
        ({"fee_percent": "NaN"}, "fee_percent"), ({"enterprise_id": "bobs"}, "enterprise_id"),
        ({"effective_at": "2020-01-01T00:00:00Z"}, "effective_at"), ({"effective_at": "2999-01-01T00:00:00Z"}, "effective_at"),
    ):  # fmt: skip
        assert await market.refused("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "5", **fields}) == (
            400,
            "invalid_request",
            param,
        )
    assert (await market.refused("POST", "/fee-terms", {"user_id": "alice", "fee_percent": 0}, role=Role.CREATOR))[0] == 403


# ---- buying ------------------------------------------------------------------------------------


async def test_an_end_user_pays_for_a_package_with_the_platforms_share_of_that_moment(market: Market) -> None:
    await market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "12.5"}, 201)
    plan_id = await market.plan(PACKAGE)
    made = await market.checkout(plan_id, email="zoe@example.com")
    assert made["wallet"] == {"enterprise_id": "shop", "platform_user_id": "u1", "user_id": None}
    assert made["url"].startswith("https://")
    [row] = (await market.ok("GET", "/purchases", role=Role.END_USER))["data"]
    assert (row["id"], row["status"], row["amount_micro"], row["grant_micro"]) == (
        made["purchase_id"],
        "open",
        9_990_000,
        10_000_000,
    )
    assert "fee_micro" not in row
    [whole] = (await market.ok("GET", "/purchases", enterprise_id="shop", role=Role.CREATOR))["data"]
    assert whole["fee_micro"] == 1_250_000  # 124.875 cents, rounded half up
    done = market.control.pay(market.account, made["id"])["session"]
    intent = market.at_stripe("payment_intents", done["payment_intent"])
    assert (intent.amount, intent.application_fee_amount) == (999, 125)
    assert dict(intent.metadata.to_dict()) == {
        "mozaiks_app": "shop", "mozaiks_owner": "u1", "mozaiks_plan": plan_id, "mozaiks_purchase": made["purchase_id"],
    }  # fmt: skip
    assert market.at_stripe("customers", done["customer"]).email == "zoe@example.com"
    again = await market.checkout(plan_id, role=Role.APP_SERVER, platform_user_id="u1")
    sessions = [market.at_stripe("checkout.sessions", each["id"]) for each in (made, again)]
    assert sessions[0].customer == sessions[1].customer
    prices = market.control.client().v1.prices.list(None, {"stripe_account": market.account}).data
    assert [price.lookup_key for price in prices] == [plan_id]
    portal = await market.ok("POST", "/portal-sessions", {"return_url": URLS["success_url"]}, 201, role=Role.END_USER)
    assert portal["url"].startswith("https://")
    wish = {"return_url": URLS["success_url"], "platform_user_id": "nobody-yet"}
    assert (await market.refused("POST", "/portal-sessions", wish, role=Role.APP_SERVER))[0] == 404


async def test_the_same_key_gives_the_same_page_and_another_body_is_a_conflict(market: Market) -> None:
    package, monthly = await market.plan(PACKAGE), await market.plan(MONTHLY)
    for plan_id, other in ((package, monthly), (monthly, package)):
        key = f"once-{plan_id}"
        first, *others = await asyncio.gather(*[market.checkout(plan_id, key=key) for _ in range(3)])
        assert others == [first, first]
        for fields in ({"success_url": "https://elsewhere.invalid"}, {"email": "zoe@example.com"}):
            wish = {"plan_id": plan_id, **URLS, **fields}
            if plan_id == package or "email" not in fields:
                assert await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER, key=key) == (
                    409, "conflict", "Idempotency-Key",
                )  # fmt: skip
        assert (await market.checkout(plan_id, key=key, role=Role.APP_SERVER, platform_user_id="u1"))["id"] != first["id"]
        assert other
    acts = await market.acts()
    assert (acts.count("purchase.create"), acts.count("checkout.create")) == (2, 2)
    assert len((await market.ok("GET", "/purchases", enterprise_id="shop"))["data"]) == 2


async def test_a_purchase_is_there_before_stripe_is_asked_and_is_the_same_after_trouble(market: Market) -> None:
    plan_id = await market.plan(PACKAGE)
    market.control.fault("drop_after", path="/v1/checkout/sessions")
    answer = await market.call("POST", "/checkout-sessions", {"plan_id": plan_id, **URLS}, role=Role.END_USER, key="k")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "payments_unavailable")
    [row] = (await market.ok("GET", "/purchases", enterprise_id="shop"))["data"]
    assert row["status"] == "open"
    made = await market.checkout(plan_id, key="k")
    assert made["purchase_id"] == row["id"]
    sessions = market.control.client().v1.checkout.sessions.list(None, {"stripe_account": market.account}).data
    assert [session.id for session in sessions] == [made["id"]]


async def test_a_purchase_that_stripe_refuses_has_failed(market: Market) -> None:
    plan_id = await market.plan(PACKAGE)
    await market.checkout(plan_id)
    market.control.onboard(market.account, "restricted")  # and nobody told us yet
    wish = {"plan_id": plan_id, **URLS}
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER, key="k"))[:2] == (400, "payment_refused")
    assert (await market.ok("GET", "/purchases", enterprise_id="shop"))["data"][0]["status"] == "failed"
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER, key="k"))[:2] == (409, "conflict")


async def test_everybody_buys_only_for_those_whom_they_act_for(market: Market) -> None:
    plan_id = await market.plan(PACKAGE)
    own = await market.plan({**PACKAGE, "enterprise_id": None})
    market.control.onboard("")
    cases: list[tuple[str, dict[str, Any], tuple[int, str | None]]] = [
        (Role.END_USER, {"plan_id": plan_id, "platform_user_id": "u2"}, (403, "platform_user_id")),
        (Role.END_USER, {"plan_id": plan_id, "user_id": "alice"}, (400, "user_id")),
        (Role.END_USER, {"plan_id": own}, (404, "plan_id")),
        (Role.APP_SERVER, {"plan_id": plan_id}, (400, "platform_user_id")),
        (Role.APP_SERVER, {"plan_id": plan_id, "platform_user_id": "a b"}, (400, "platform_user_id")),
        (Role.APP_SERVER, {"plan_id": own, "user_id": "alice"}, (404, "plan_id")),
        ("bob", {"plan_id": plan_id, "platform_user_id": "u1"}, (404, "plan_id")),
        ("bob", {"plan_id": own, "user_id": "alice"}, (404, "user_id")),
        (Role.CREATOR, {"plan_id": own, "platform_user_id": "u1"}, (400, "platform_user_id")),
        (Role.OPERATOR, {"plan_id": own}, (400, "user_id")),
        (Role.OPERATOR, {"plan_id": "plan_none", "user_id": "alice"}, (404, "plan_id")),
        (Role.END_USER, {"plan_id": plan_id, "success_url": "ftp://x"}, (400, "success_url")),
        (Role.END_USER, {"plan_id": plan_id, "cancel_url": "/here"}, (400, "cancel_url")),
        (Role.END_USER, {"plan_id": plan_id, "email": "nobody"}, (400, "email")),
    ]
    for role, fields, (status, param) in cases:
        found = await market.refused("POST", "/checkout-sessions", {**URLS, **fields}, role=role)
        assert (found[0], found[2]) == (status, param), (role, fields)
    assert (await market.ok("GET", "/purchases", enterprise_id="shop"))["data"] == []
    assert (await market.checkout(plan_id, role=Role.APP_SERVER, platform_user_id="u2"))["purchase_id"]
    bought = await market.checkout(own, role=Role.CREATOR)
    assert bought["wallet"]["user_id"] == "alice"
    assert market.at_stripe("checkout.sessions", bought["id"], "").amount_total == 999
    for role, query, rows in (
        (Role.END_USER, {}, 0), (Role.APP_SERVER, {}, 1), (Role.CREATOR, {"enterprise_id": "shop"}, 1), (Role.CREATOR, {}, 1),
        ("bob", {}, 0), (Role.OPERATOR, {}, 1), (Role.OPERATOR, {"user_id": "bob"}, 0),
        (Role.APP_SERVER, {"platform_user_id": "u1"}, 0),
    ):  # fmt: skip
        assert len((await market.ok("GET", "/purchases", query=query, role=role))["data"]) == rows, (role, query)
    assert (await market.refused("GET", "/purchases", enterprise_id="shop", role="bob"))[0] == 404
    assert (await market.refused("GET", "/purchases", platform_user_id="u2", role=Role.END_USER))[0] == 403


async def test_a_buyer_who_opens_pages_and_never_pays_is_slowed_down(market: Market) -> None:
    plan_id = await market.plan(PACKAGE)
    now_ms = time.time_ns() // 1_000_000
    row = {"plan_id": plan_id, "account_id": "acct_1", "state": "open", "amount_minor": 1, "currency": "USD", "fee_minor": 0}
    rows = [
        {**row, "id": f"pur_{number}", "owner": "u1", "grant_micro": 1, "automatic": 0, "created_at": now_ms - number * 1_740_000}
        for number in range(OPEN_PURCHASES_MAX)
    ]  # the last of them a day ago, all but a few minutes
    await market.write(sa.insert(APP_SALES["purchases"]).values(rows))
    wish = {"plan_id": plan_id, **URLS}
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER))[:2] == (429, "rate_limit_exceeded")
    assert (await market.checkout(plan_id, role=Role.APP_SERVER, platform_user_id="u2"))["status"] == "open"
    last = APP_SALES["purchases"].c.id == f"pur_{OPEN_PURCHASES_MAX - 1}"
    await market.write(sa.update(APP_SALES["purchases"]).where(last).values(created_at=now_ms - 86_400_001))
    assert (await market.checkout(plan_id))["status"] == "open"


async def test_a_page_of_the_apps_own_may_ask_with_a_key(api: Api) -> None:
    asked = await api.http.options("/api/v1/checkout-sessions", headers={"origin": "https://shop.example"})
    assert "idempotency-key" in asked.headers["access-control-allow-headers"]
    assert asked.headers["access-control-allow-methods"] == "POST"


# ---- subscriptions -----------------------------------------------------------------------------


async def test_a_subscription_is_sold_with_its_share_changed_and_ended(market: Market) -> None:
    await market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "12.55"}, 201)
    plan_id = await market.plan(MONTHLY, trial_days=0)
    made = await market.checkout(plan_id)
    assert made["purchase_id"] is None
    done = market.control.pay(market.account, made["id"])["session"]
    sub = market.at_stripe("subscriptions", done["subscription"])
    assert (sub.application_fee_percent, sub.metadata["mozaiks_owner"]) == (12.55, "u1")
    ours = await market.subscribed(plan_id, "u2")
    wish = {"plan_id": plan_id, **URLS, "platform_user_id": "u2"}
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.APP_SERVER))[:2] == (409, "subscription_exists")
    [row] = (await market.ok("GET", "/subscriptions", role=Role.APP_SERVER))["data"]
    assert (row["id"], row["status"], row["wallet"]["platform_user_id"]) == (ours, "active", "u2")
    dearer = await market.plan(MONTHLY, price_micro=60_000_000, name="Dearer")
    await market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "20", "enterprise_id": "shop"}, 201)
    changed = await market.ok("PATCH", f"/subscriptions/{ours}", {"plan_id": dearer}, role=Role.APP_SERVER, key="up")
    assert (changed["plan_id"], changed["status"]) == (dearer, "active")
    table = APP_SALES["subscriptions"]
    async with (await market.api.databases.app("shop")).connect() as connection:
        stripes = await connection.scalar(sa.select(table.c.subscription_id).where(table.c.id == ours))
    sub = market.at_stripe("subscriptions", str(stripes))
    assert (sub["items"].data[0].price.unit_amount, sub.application_fee_percent, sub.metadata["mozaiks_plan"]) == (
        6000,
        20.0,
        dearer,
    )
    ended = await market.ok("PATCH", f"/subscriptions/{ours}", {"cancel_at_period_end": True}, enterprise_id="shop")
    assert ended["cancel_at_period_end"]
    assert not (await market.ok("PATCH", f"/subscriptions/{ours}", {"cancel_at_period_end": False}, enterprise_id="shop"))[
        "cancel_at_period_end"
    ]
    package, own = await market.plan(PACKAGE), await market.plan({**MONTHLY, "enterprise_id": None})
    for body, role, status, param in (
        ({"plan_id": plan_id}, Role.END_USER, 404, "subscription_id"), ({"plan_id": plan_id}, "bob", 404, "enterprise_id"),
        ({"plan_id": package}, Role.CREATOR, 400, "plan_id"), ({"plan_id": own}, Role.CREATOR, 400, "plan_id"),
        ({"plan_id": plan_id}, Role.CREATOR, 409, "plan_id"), ({}, Role.CREATOR, 400, "plan_id"),
        ({"plan_id": dearer, "cancel_at_period_end": True}, Role.CREATOR, 400, "plan_id"),
    ):  # fmt: skip
        found = await market.refused("PATCH", f"/subscriptions/{ours}", body, enterprise_id="shop", role=role)
        assert (found[0], found[2]) == (status, param), (body, role)
    await market.write(sa.update(table).values(state="canceled"))
    assert (await market.refused("PATCH", f"/subscriptions/{ours}", {"plan_id": dearer}, enterprise_id="shop"))[0] == 409
    assert (await market.checkout(plan_id, role=Role.APP_SERVER, platform_user_id="u2"))["status"] == "open"
    assert (await market.acts()).count("subscription.change") == 3


async def test_a_trial_is_given_once(market: Market) -> None:
    plan_id = await market.plan(MONTHLY, trial_days=7)
    await market.subscribed(plan_id, "u2")
    await market.write(sa.update(APP_SALES["subscriptions"]).values(state="canceled"))
    for owner, status in (("u2", "active"), ("u3", "trialing")):
        made = await market.checkout(plan_id, role=Role.APP_SERVER, platform_user_id=owner)
        done = market.control.pay(market.account, made["id"])["session"]
        assert market.at_stripe("subscriptions", done["subscription"]).status == status


async def test_a_creator_subscribes_at_the_platform_without_any_share(market: Market) -> None:
    market.control.onboard("")
    plan_id = await market.plan({**MONTHLY, "enterprise_id": None}, trial_days=7)
    ours = await market.subscribed(plan_id, "alice", None, "")
    assert [row["id"] for row in (await market.ok("GET", "/subscriptions", role=Role.CREATOR))["data"]] == [ours]
    assert (await market.refused("PATCH", f"/subscriptions/{ours}", {"cancel_at_period_end": True}, role="bob"))[0] == 404
    changed = await market.ok("PATCH", f"/subscriptions/{ours}", {"cancel_at_period_end": True}, role=Role.CREATOR)
    assert (changed["status"], changed["cancel_at_period_end"]) == ("trialing", True)
    assert (await market.refused("POST", "/plans", {**MONTHLY, "enterprise_id": None, "currency": "EUR"}))[2] == "currency"


# ---- refunds -----------------------------------------------------------------------------------


async def test_a_refund_gives_back_the_share_with_it_once_for_each_key(market: Market) -> None:
    await market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "10"}, 201)
    made = await market.checkout(await market.plan(PACKAGE, price_micro=10_000_000))
    wish = {"purchase_id": made["purchase_id"], "enterprise_id": "shop"}
    assert (await market.refused("POST", "/refunds", wish))[:2] == (409, "conflict")
    payment = market.control.pay(market.account, made["id"])["session"]["payment_intent"]
    table = APP_SALES["purchases"]
    await market.write(sa.update(table).where(table.c.id == made["purchase_id"]).values(payment_id=payment))
    assert (await market.refused("POST", "/refunds", wish))[:2] == (409, "conflict")
    await market.write(sa.update(table).where(table.c.id == made["purchase_id"]).values(state="paid"))
    part = {**wish, "amount_micro": 4_000_000, "reason": "half was not needed"}
    first = await market.ok("POST", "/refunds", part, 201, role=Role.CREATOR, key="one")
    assert (first["amount_micro"], first["fee_returned_micro"], first["status"]) == (4_000_000, 400_000, "succeeded")
    assert await market.ok("POST", "/refunds", part, 201, role=Role.CREATOR, key="one") == first
    assert market.at_stripe("charges", str(market.at_stripe("payment_intents", payment).latest_charge)).amount_refunded == 400
    for fields, role, found in (
        ({"amount_micro": 0}, Role.CREATOR, (400, "invalid_request")),
        ({"amount_micro": 10_010_000}, Role.CREATOR, (400, "invalid_request")),
        ({"amount_micro": 5}, Role.CREATOR, (400, "invalid_request")),
        ({"amount_micro": 6_010_000}, Role.CREATOR, (400, "payment_refused")),
        ({}, "bob", (404, "not_found")), ({}, Role.APP_SERVER, (403, "forbidden")), ({}, Role.END_USER, (403, "forbidden")),
        ({"purchase_id": "pur_none"}, Role.CREATOR, (404, "not_found")),
        ({"enterprise_id": None}, Role.CREATOR, (403, "forbidden")),
    ):  # fmt: skip
        assert (await market.refused("POST", "/refunds", {**wish, **fields}, role=role))[:2] == found, fields
    assert (await market.acts()).count("refund.ask") == 1


# ---- the switch, and the whole table -----------------------------------------------------------


async def test_without_billing_its_routes_are_not_there(api: Api) -> None:
    off = msgspec.structs.replace(api.context, billing=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Router(routes=routes(off))), base_url="http://gateway") as http:
        headers = {"authorization": f"Bearer {api.credentials[Role.OPERATOR]}"}
        for endpoint in TABLE:
            if endpoint.sells:
                path = endpoint.path.format(plan_id="plan_1", subscription_id="sub_1", user_id="alice")
                assert (await http.request(endpoint.method, path, headers=headers)).status_code == 404
        described = (await http.get("/api/openapi.json")).json()["paths"]
        assert set(described) == {endpoint.path for endpoint in TABLE if not endpoint.sells}


async def test_no_end_user_is_named_in_the_platforms_database(market: Market, tmp_path: Any) -> None:
    package, monthly = await market.plan(PACKAGE), await market.plan(MONTHLY)
    for plan_id in (package, monthly):
        await market.checkout(plan_id, role=Role.APP_SERVER, platform_user_id="zoe-the-end-user", email="zoe@example.com")
    assert b"zoe" in (tmp_path / "app-shop.db").read_bytes() + (tmp_path / "app-shop.db-wal").read_bytes()
    for file in tmp_path.glob("platform.db*"):
        assert b"zoe" not in file.read_bytes(), file

"""What is offered, through REST on a fake of Stripe: creators' accounts, plans, and the platform's share of what they sell."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.billing.connect import state_after
from gateway.billing.fees import fee_minor
from gateway.billing.model import AccountState, Overage
from gateway.billing.ports import AccountFacts
from gateway.identity.model import NewApp, Role
from tests.api.conftest import OPERATOR, Api
from tests.billing.market import MONTHLY, PACKAGE, URLS, Market
from tests.fake_stripe.control import Control

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
    for fields, param in (({"email": "other@example.com"}, "email"), ({"country": "FR"}, "country")):
        found = await market.call("POST", "/billing-accounts", {**wish_account, **fields}, role=Role.CREATOR)
        error = found.json()["error"]
        assert (found.status_code, error["code"], error["param"]) == (409, "conflict", param)
        assert error["message"] == (
            f"This creator has an account already, {made['account_id']}, and its {param} is {wish_account[param]}: nothing was "
            "changed. Its owner changes it at Stripe."
        )
    assert await market.ok("POST", "/billing-accounts", {"email": "Alice@example.com"}, 201, role=Role.CREATOR) == made
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


OWN_KEYS = {"cost_policy": "own_keys"}
PERIODS = {"kind": "subscription", "interval": "month"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"price_micro": 0}, "price_micro"),
        ({"price_micro": -5}, "price_micro"),
        ({"price_micro": 1_005_000}, "price_micro"),
        ({"price_micro": 10**18}, "price_micro"),
        ({"price_micro": 490_000}, "price_micro"),  # less than Stripe charges
        ({"kind": "subscription", "interval": "month", "trial_days": 7, "price_micro": 490_000}, "price_micro"),
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
        ({**PERIODS, "lot_days": 5}, "lot_days"),  # its allowance ends with its period
        ({"kind": "subscription"}, "interval"),
        ({"kind": "subscription", "interval": "year", "interval_count": 4}, "interval_count"),
        ({"kind": "subscription", "interval": "month", "trial_days": 731}, "trial_days"),
        ({"kind": "subscription", "interval": "month", "rollover_max_micro": -1}, "rollover_max_micro"),
        ({"overage": {"max_micro": 5_000_000}}, "overage"),
        ({**PERIODS, "overage": {"max_micro": 0}}, "overage.max_micro"),
        ({**PERIODS, "overage": {"max_micro": 2**53}}, "overage.max_micro"),
        ({**PERIODS, "overage": {"max_micro": 5_000_000, "price_micro": 0, "per_micro": 1}}, "overage.price_micro"),
        ({**PERIODS, "overage": {"max_micro": 5_000_000, "price_micro": 2**53, "per_micro": 2**53 - 1}}, "overage.price_micro"),
        ({**PERIODS, "overage": {"max_micro": 5_000_000, "price_micro": 1, "per_micro": -1}}, "overage.per_micro"),
        ({**PERIODS, "overage": {"max_micro": 5_000_000, "price_micro": 1}}, "overage.per_micro"),
        ({**PERIODS, "overage": {"max_micro": 5_000_000, "per_micro": 1}}, "overage.price_micro"),
        ({**PERIODS, "overage": {"max_micro": 499_999}}, "overage.max_micro"),  # less than Stripe charges
        ({**PERIODS, "overage": {"max_micro": 999_999_990_001}}, "overage.max_micro"),
        ({**PERIODS, "overage": {"max_micro": 249_999, "price_micro": 2, "per_micro": 1}}, "overage.max_micro"),
        ({"kind": "gift"}, "kind"),
        ({"name": " "}, "name"),
    ],
)
async def test_a_plan_that_cannot_be_meant_is_refused_and_named(api: Api, fields: dict[str, Any], param: str) -> None:
    answer = await api.call("POST", "/plans", {**PACKAGE, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert (await api.ok("GET", "/plans", enterprise_id="shop"))["data"] == []


@given(st.integers(0, 2**53 - 1), st.integers(1, 2**53 - 1), st.integers(1, 2**53 - 1))
def test_overage_costs_its_ratio_rounded_up_once(used_micro: int, price_micro: int, per_micro: int) -> None:
    cost = Overage(2**53 - 1, price_micro, per_micro).cost_micro(used_micro)
    assert (cost - 1) * per_micro < used_micro * price_micro <= cost * per_micro
    assert [Overage(9, 2, 3).cost_micro(used) for used in (0, 1, 3, 4)] == [0, 1, 2, 3]


async def test_a_plan_says_what_may_be_used_beyond_its_allowance_and_what_that_costs(market: Market) -> None:
    await market.ok("POST", "/apps", {"enterprise_id": "tok", "user_id": "alice", "name": "Tok", "asset": "TOK", **OWN_KEYS}, 201)
    same = {"max_micro": 500_000, "price_micro": 1_000_000, "per_micro": 1_000_000}  # as much as Stripe charges at least
    dearer = {"max_micro": 333_333_330_000, "price_micro": 3_000_000, "per_micro": 1_000_000}
    for given_, shown in (({"max_micro": 500_000}, same), (dearer, dearer)):
        made = await market.ok("POST", "/plans", {**MONTHLY, "overage": given_}, 201, role=Role.CREATOR)
        assert made["overage"] == shown
        assert (await market.ok("GET", "/plans", enterprise_id="shop"))["data"][0] == made
        assert (await market.ok("DELETE", f"/plans/{made['id']}"))["overage"] == shown
    assert (await market.ok("POST", "/plans", MONTHLY, 201))["overage"] is None
    tokens = {**MONTHLY, "enterprise_id": "tok", "currency": "KWD", "overage": {"max_micro": 10**15}}
    assert await market.refused("POST", "/plans", tokens) == (400, "invalid_request", "overage.price_micro")
    for per_micro, status in ((2 * 10**13 + 10**9, 400), (2 * 10**13, 201)):  # 40 fils, as others are no step of Stripe's; 50
        tokens["overage"] = {"max_micro": 10**15, "price_micro": 1_000, "per_micro": per_micro}
        made = await market.call("POST", "/plans", tokens)
        assert made.status_code == status, made.text
    own = await market.ok("POST", "/plans", {**MONTHLY, "enterprise_id": None, "overage": {"max_micro": 5_000_000}}, 201)
    assert own["overage"]["max_micro"] == 5_000_000


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


async def test_what_stripe_does_not_charge_is_refused_when_it_is_offered_and_with_its_words_when_only_it_can_know(
    api: Api, control: Control
) -> None:
    await api.registry.create_app(OPERATOR, NewApp("tok", "alice", "Tok", asset="TOK"))
    market = Market(api, control)
    await market.connect()
    wish = {**PACKAGE, "enterprise_id": "tok"}
    for fields, param, says in (
        ({"currency": "ZZZ"}, "currency", "'ZZZ' is none: https://docs.stripe.com/currencies#presentment-currencies"),
        ({"currency": "dollars and cents"}, "currency", "'dollars and ' is none"),
        ({"price_micro": 0}, "price_micro", "what is free is granted, not sold"),
        ({"price_micro": 490_000}, "price_micro", "is not a price in USD: Stripe charges 0.50 USD at least"),
        ({"price_micro": 49_000_000, "currency": "JPY"}, "price_micro", "Stripe charges 50 JPY at least"),
    ):
        refused = await market.call("POST", "/plans", {**wish, **fields})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
        assert says in refused.json()["error"]["message"]
    code = {"code": "zzz", "enterprise_id": "tok", "amount_off_micro": 1_000_000, "currency": "ZZZ"}
    assert await market.refused("POST", "/promo-codes", code) == (400, "invalid_request", "currency")
    await market.plan(wish, currency="GBP", price_micro=300_000)
    # For hryvnias Stripe names no least: what they are worth where the account is paid out, only Stripe knows.
    plan_id = await market.plan(wish, currency="UAH", price_micro=19_990_000)
    buy = {"plan_id": plan_id, "platform_user_id": "u1", **URLS}
    refused = (await market.call("POST", "/checkout-sessions", buy, role=Role.CREATOR)).json()["error"]
    assert (refused["code"], refused["stripe_code"]) == ("payment_refused", "amount_too_small")
    assert refused["message"] == "Stripe refuses this: Amount must convert to at least 50 cents. 19.99 UAH does not."
    assert [row["status"] for row in (await market.ok("GET", "/purchases", enterprise_id="tok"))["data"]] == ["failed"]


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


async def test_a_creator_makes_plans_only_where_it_pays_for_what_they_sell(market: Market) -> None:
    for policy, status in (("platform_pays", 403), ("creator_pays", 201), ("own_keys", 201)):
        name = f"of-{policy}"
        await market.ok(
            "POST", "/apps", {"enterprise_id": name, "user_id": "alice", "name": "A", "asset": "USD", "cost_policy": policy}, 201
        )
        for body in ({**PACKAGE, "price_micro": 500_000, "grant_micro": 10**12}, {**MONTHLY, "trial_days": 730}):
            made = await market.call("POST", "/plans", {**body, "enterprise_id": name}, role=Role.CREATOR)
            assert made.status_code == status, made.text
            theirs = await market.call("POST", "/plans", {**body, "enterprise_id": name})  # the operator's
            is_free = policy == "platform_pays" and "trial_days" in body
            assert theirs.status_code == (400 if is_free else 201), theirs.text
        # The policy stays as it is, so what was made under one is not sold under another.
        changed = await market.call("PATCH", f"/apps/{name}", {"cost_policy": "platform_pays"})
        assert (changed.status_code, changed.json()["error"]["param"]) == (400, "cost_policy")

"""Buying through REST on a fake of Stripe: who may buy what for whom, what Stripe is asked for, what is kept of it here."""

import asyncio
import time
from typing import Any

import httpx
import msgspec
import sqlalchemy as sa
from starlette.routing import Router

from gateway.api import billing
from gateway.api.routes import routes
from gateway.api.table import TABLE
from gateway.core.limits import APP_SALES_RPM, CREATOR_SALES_RPM, END_USER_RPM, END_USER_SALES_RPM, OPEN_PURCHASES_MAX
from gateway.db.tables import APP_SALES
from gateway.identity.model import Role
from gateway.trail.service import Trail
from tests.api.conftest import Api
from tests.billing.market import KEYS, MONTHLY, PACKAGE, URLS, Counted, Market

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
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER))[:2] == (409, "selling_blocked")
    market.control.onboard(market.account)
    assert (await market.checkout(plan_id))["status"] == "open"
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER, key="k"))[:2] == (409, "conflict")
    market.control.deauthorize(market.account)
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER))[:2] == (409, "account_deauthorized")
    assert (await market.refused("POST", "/checkout-sessions", wish, role=Role.END_USER))[:2] == (409, "selling_blocked")


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
    at_once = [market.call("POST", "/checkout-sessions", wish, role=Role.END_USER) for _ in range(5)]
    assert sorted(answer.status_code for answer in await asyncio.gather(*at_once)) == [201, 429, 429, 429, 429]


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
        ({"amount_micro": 6_010_000}, Role.CREATOR, (400, "invalid_request")),
        ({}, "bob", (404, "not_found")), ({}, Role.APP_SERVER, (403, "forbidden")), ({}, Role.END_USER, (403, "forbidden")),
        ({"purchase_id": "pur_none"}, Role.CREATOR, (404, "not_found")),
        ({"enterprise_id": None}, Role.CREATOR, (403, "forbidden")),
    ):  # fmt: skip
        assert (await market.refused("POST", "/refunds", {**wish, **fields}, role=role))[:2] == found, fields
    assert (await market.acts()).count("refund.ask") == 1


async def test_a_subscriptions_payment_is_given_back_by_the_seller_it_was_made_to(market: Market) -> None:
    await market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "10"}, 201)
    made = await market.checkout(await market.plan(MONTHLY))
    market.control.pay(market.account, made["id"])
    api: Any = market.control.client().v1
    at = {"stripe_account": market.account}
    payment = api.payment_intents.list(None, at).data[0].id
    wish = {"enterprise_id": "shop", "payment_id": payment, "amount_micro": 15_000_000}
    # An account of a creator's takes the payments of all its apps, and others that are none of ours.
    assert (await market.refused("POST", "/refunds", {**wish, "enterprise_id": "second"}))[0] == 404
    card = {"amount": 500, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}
    alien = api.payment_intents.create(card, at).id
    for payment_id in (alien, "pi_none"):
        found = await market.refused("POST", "/refunds", {**wish, "payment_id": payment_id})
        assert found == (404, "not_found", "payment_id")
    for fields in ({"purchase_id": "pur_1"}, {"payment_id": None}):
        assert (await market.refused("POST", "/refunds", {**wish, **fields}))[:2] == (400, "invalid_request")
    # Nothing was told of it here, so it is not in the books, and what is written on it is believed for an operator alone.
    assert await market.refused("POST", "/refunds", wish, role=Role.CREATOR) == (409, "conflict", "payment_id")
    back = await market.ok("POST", "/refunds", wish, 201)
    assert (back["amount_micro"], back["fee_returned_micro"], back["purchase_id"]) == (15_000_000, 1_500_000, None)
    assert api.payment_intents.retrieve(payment, {"expand": ["latest_charge"]}, at).latest_charge.amount_refunded == 1500


# ---- the switch, and the whole table -----------------------------------------------------------


async def test_without_billing_its_routes_are_not_there(api: Api) -> None:
    off = msgspec.structs.replace(api.context, billing=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Router(routes=routes(off))), base_url="http://gateway") as http:
        headers = {"authorization": f"Bearer {api.credentials[Role.OPERATOR]}"}
        for endpoint in TABLE:
            if endpoint.sells:
                path = endpoint.path.format(
                    plan_id="plan_1", subscription_id="sub_1", user_id="alice", webhook_id="whk_1", enterprise_id="shop",
                    promo_code_id="promo_1",
                )
                assert (await http.request(endpoint.method, path, headers=headers)).status_code == 404
        described = (await http.get("/api/openapi.json")).json()["paths"]
        assert set(described) == {endpoint.path for endpoint in TABLE if not endpoint.sells}


async def test_every_route_that_changes_something_leaves_one_line(market: Market) -> None:
    market.control.onboard("")
    plan_id, other = await market.plan(MONTHLY), await market.plan(MONTHLY)
    ours = await market.subscribed(plan_id, "u2")
    bought = await market.checkout(await market.plan(PACKAGE))
    payment = market.control.pay(market.account, bought["id"])["session"]["payment_intent"]
    await market.write(sa.update(APP_SALES["purchases"]).values(state="paid", payment_id=payment))
    seller, back = {"enterprise_id": "shop"}, {"return_url": URLS["success_url"]}
    bob = {"user_id": "bob", "email": f"bob+{next(KEYS)}@example.com"}
    made: list[tuple[str, str, Any, str, str]] = [
        ("POST", "/plans", PACKAGE, "plan.create", "platform"),
        ("DELETE", f"/plans/{other}", None, "plan.archive", "platform"),
        ("POST", "/checkout-sessions", {"plan_id": plan_id, **URLS, "platform_user_id": "u3"}, "checkout.create", "app"),
        ("POST", "/portal-sessions", {**seller, "platform_user_id": "u2", **back}, "", "app"),
        ("PATCH", f"/subscriptions/{ours}", {"cancel_at_period_end": True}, "subscription.change", "app"),
        ("POST", "/refunds", {**seller, "purchase_id": bought["purchase_id"]}, "refund.ask", "app"),
        ("POST", "/billing-accounts", bob, "billing_account.create", "platform"),
        ("POST", "/billing-accounts/bob/onboarding-links", back, "", "platform"),
        ("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "5"}, "fee_term.create", "platform"),
    ]
    selling = [e for e in TABLE if e.handler.__module__ == billing.__name__ and e.method != "GET"]
    patterns = {(e.method, e.path.removeprefix("/api/v1").partition("{")[0]) for e in selling}
    assert {
        next(p for p in sorted(patterns, reverse=True) if p[0] == m and path.startswith(p[1])) for m, path, *_ in made
    } == patterns
    trail = Trail(market.api.databases)
    for method, path, body, act, chain in made:
        at = {"platform": (await trail.head(None)).seq, "app": (await trail.head("shop")).seq}
        answer = await market.call(method, path, body, query=seller if method == "PATCH" else None)
        assert answer.status_code < 300, (path, answer.text)
        now = {"platform": (await trail.head(None)).seq, "app": (await trail.head("shop")).seq}
        assert now == {**at, chain: at[chain] + (1 if act else 0)}, path
        assert not act or (await market.acts(None if chain == "platform" else "shop"))[0] == act


async def test_no_end_user_is_named_in_the_platforms_database(market: Market, tmp_path: Any) -> None:
    package, monthly = await market.plan(PACKAGE), await market.plan(MONTHLY)
    for plan_id in (package, monthly):
        await market.checkout(plan_id, role=Role.APP_SERVER, platform_user_id="zoe-the-end-user", email="zoe@example.com")
    assert b"zoe" in (tmp_path / "app-shop.db").read_bytes() + (tmp_path / "app-shop.db-wal").read_bytes()
    for file in tmp_path.glob("platform.db*"):
        assert b"zoe" not in file.read_bytes(), file


async def test_what_asks_stripe_counts_for_servers_and_creators_too(market: Market) -> None:
    plan_id, api = await market.plan(PACKAGE), market.api
    of_app, of_creator = ("sales-of-app:shop", APP_SALES_RPM), ("sales-of-creator:alice", CREATOR_SALES_RPM)
    page = {"plan_id": plan_id, "platform_user_id": "u1", **URLS}
    account = "/billing-accounts/alice"
    for role, method, path, body, counted in (
        (Role.APP_SERVER, "POST", "/checkout-sessions", page, [of_app]),
        (Role.APP_SERVER, "GET", "/receipts", None, [of_app]),
        (Role.APP_SERVER, "GET", "/purchases", None, []),
        (Role.CREATOR, "GET", account, None, [of_creator]),
        (Role.CREATOR, "GET", "/plans?enterprise_id=shop", None, []),
        (Role.OPERATOR, "GET", account, None, []),
        (Role.END_USER, "GET", "/receipts", None, [("api:shop/u1", END_USER_RPM), ("sales:shop/u1", END_USER_SALES_RPM)]),
    ):
        for full in (False, True):
            places = Counted(*[name for name, _ in counted[-1:] if full])
            context = msgspec.structs.replace(api.context, places=places)
            transport = httpx.ASGITransport(Router(routes=routes(context)))
            headers = {"authorization": f"Bearer {api.credentials[role]}", "idempotency-key": "counted"}
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway/api/v1") as client:
                answer = await client.request(method, path, json=body, headers=headers)
            assert places.asked == counted, (role, path)
            limited = full and bool(counted)
            assert (answer.status_code == 429) is limited, (role, path, answer.text)
            assert limited or answer.status_code in (200, 201), answer.text

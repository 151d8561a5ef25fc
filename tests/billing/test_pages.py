"""Signed links and the pages that buyers see: what a link binds and leads to, and that nothing on a page is more than text."""

import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from starlette.routing import Router

from gateway.api.pages import page_routes
from gateway.billing.links import Links
from gateway.billing.pages import Places
from gateway.core.limits import END_USER_SALES_RPM
from gateway.db.tables import APP_SALES
from gateway.identity.model import Role
from tests.billing.market import MONTHLY, PACKAGE, URLS, Counted, Market

WISH = {"platform_user_id": "u1"}


@pytest.fixture
async def browser(market: Market) -> AsyncIterator[httpx.AsyncClient]:
    pages = httpx.ASGITransport(Router(routes=page_routes(market.api.context)))
    async with httpx.AsyncClient(transport=pages, base_url="http://127.0.0.1:8080") as browser:
        yield browser


async def link(market: Market, plan_id: str, role: str = Role.APP_SERVER, **more: object) -> str:
    made = await market.ok("POST", "/apps/shop/payment-links", {**WISH, "plan_id": plan_id, **more}, 201, role=role)
    assert (made["platform_user_id"], made["plan_id"]) == ("u1", plan_id)
    return str(made["url"])


def pages_open(market: Market) -> list[str]:
    return [row["id"] for row in market.control.state()[market.account].get("checkout.session", []) if row["status"] == "open"]


# ---- links -------------------------------------------------------------------------------------


async def test_a_link_leads_its_end_user_to_the_page_and_a_used_page_to_a_fresh_one(
    market: Market, browser: httpx.AsyncClient
) -> None:
    url = await link(market, await market.plan(PACKAGE))
    # As mail filters and messengers do, before the buyer has seen it.
    looks = [await browser.head(url), await browser.get(url)]
    assert [each.status_code for each in looks] == [200, 200]
    assert pages_open(market) == []
    offered = "<h1>Ten</h1><p>9.99 USD</p><ul><li>Adds 10 USD to your balance.</li><li>It does not expire.</li></ul>"
    assert offered in looks[1].text
    (form,) = re.findall(r"<form .*?</form>", looks[1].text)
    assert form == '<form method="post"><button>Continue to payment</button></form>'
    assert "form-action 'self' https:;" in looks[1].headers["content-security-policy"]
    first, again = await browser.post(url), await browser.post(url)
    assert (first.status_code, first.headers["location"]) == (303, again.headers["location"])
    assert urlsplit(first.headers["location"]).hostname == "checkout.stripe.invalid"
    (session,) = pages_open(market)
    page = market.at_stripe("checkout.sessions", session)
    assert page.metadata["mozaiks_owner"] == "u1"
    assert page.success_url == "http://127.0.0.1:8080/returned/paid/shop"
    assert page.cancel_url == "http://127.0.0.1:8080/returned/cancelled/shop"
    market.control.pay(market.account, session)
    other = await browser.post(url)
    assert other.status_code == 303
    assert other.headers["location"] != first.headers["location"]
    assert "purchase.create" in await market.acts()


async def test_who_looks_at_a_link_uses_nothing_up(market: Market) -> None:
    url, places = await link(market, await market.plan(PACKAGE)), Counted("sales:shop/u1")
    context = msgspec.structs.replace(market.api.context, places=places)
    pages = httpx.ASGITransport(Router(routes=page_routes(context)))
    async with httpx.AsyncClient(transport=pages, base_url="http://127.0.0.1:8080") as browser:
        assert (await browser.head(url)).status_code == 200
        assert (await browser.get(url)).status_code == 200
        assert places.asked == []
        assert (await browser.post(url)).status_code == 429
    assert places.asked == [("sales:shop/u1", END_USER_SALES_RPM)]


async def test_a_link_goes_where_its_maker_says_and_a_second_subscription_is_told_on_a_page(
    market: Market, browser: httpx.AsyncClient
) -> None:
    plan_id = await market.plan(MONTHLY)
    url = await link(market, plan_id, Role.CREATOR, **URLS)
    assert "30.00 USD every month" in (await browser.get(url)).text
    assert (await browser.post(url)).status_code == 303
    (session,) = pages_open(market)
    page = market.at_stripe("checkout.sessions", session)
    assert (page.success_url, page.cancel_url) == (URLS["success_url"], URLS["cancel_url"])
    await market.subscribed(plan_id, "u1")
    refused = await browser.post(url)
    assert (refused.status_code, "You have it already" in refused.text) == (409, True)


async def test_a_link_that_was_changed_has_expired_or_was_signed_elsewhere_leads_nowhere(
    market: Market, browser: httpx.AsyncClient
) -> None:
    plan_id = await market.plan(PACKAGE)
    url = await link(market, plan_id)
    base, token = url.rsplit("/", 1)
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    forged = [raw.replace(b"u1", b"u2"), raw.replace(b"shop", b"bobs"), b"\0" * 24 + raw[24:], raw[:10], raw[:24], b""]
    forged.append(raw[:-3] + b"9" + raw[-2:])
    assert raw.count(b"u1") == 1
    for broken in (*[base64.urlsafe_b64encode(each).rstrip(b"=").decode() or "-" for each in forged], "x" * 9000, "%00", "é"):
        for answer in (await browser.get(f"{base}/{broken}"), await browser.post(f"{base}/{broken}")):
            assert (answer.status_code, "Link not valid" in answer.text) == (404, True), broken
    billing = market.api.billing
    ahead = [0]
    elsewhere = Links(
        b"another", Places("http://127.0.0.1:8080"), market.api.registry, billing.catalogue, billing.buying, lambda: ahead[0]
    )
    assert (await browser.get(f"{base}/{'A' * 60}")).status_code == 404
    own, billing.links = billing.links, elsewhere
    assert (await browser.get(url)).status_code == 404
    billing.links = own
    own._clock = lambda: time.time_ns() + 86_400_000_000_000
    late = await browser.get(url)
    assert (late.status_code, "Link expired" in late.text) == (404, True)
    assert pages_open(market) == []


async def test_who_may_sign_links_and_for_what(market: Market, browser: httpx.AsyncClient) -> None:
    plan_id = await market.plan(PACKAGE)
    other = await market.plan(PACKAGE, enterprise_id="second")
    for role, fields, found in (
        (Role.END_USER, {}, (403, None)),
        ("bob", {}, (404, "enterprise_id")),
        (Role.CREATOR, {"plan_id": other}, (400, "plan_id")),
        (Role.APP_SERVER, {"plan_id": other}, (404, "plan_id")),
        (Role.APP_SERVER, {"platform_user_id": "a/b"}, (400, "platform_user_id")),
        (Role.APP_SERVER, {"expires_in_seconds": 0}, (400, "expires_in_seconds")),
        (Role.APP_SERVER, {"expires_in_seconds": 2_592_001}, (400, "expires_in_seconds")),
        (Role.APP_SERVER, {"success_url": "javascript:alert(1)"}, (400, "success_url")),
    ):
        got = await market.refused("POST", "/apps/shop/payment-links", {**WISH, "plan_id": plan_id, **fields}, role=role)
        assert (got[0], got[2]) == found, (role, fields)
    url = await link(market, plan_id)
    await market.ok("DELETE", f"/plans/{plan_id}")
    assert [(await browser.get(url)).status_code, (await browser.post(url)).status_code] == [409, 409]
    assert (await market.refused("POST", "/apps/shop/payment-links", {**WISH, "plan_id": plan_id}, role=Role.APP_SERVER))[
        0
    ] == 409


async def included(market: Market, browser: httpx.AsyncClient, body: dict[str, object], **more: object) -> list[str]:
    """What the page of a link says besides the name: the price, and what is included."""
    plan_id = await market.plan({**body, **more})
    made = await market.ok("POST", f"/apps/{body['enterprise_id']}/payment-links", {**WISH, "plan_id": plan_id}, 201)
    return re.findall("<(?:p|li)>(.*?)</(?:p|li)>", (await browser.get(made["url"])).text)[1:]


async def test_a_link_tells_what_is_included_in_the_apps_own_unit(market: Market, browser: httpx.AsyncClient) -> None:
    shop, monthly = dict(PACKAGE), dict(MONTHLY)
    assert await included(market, browser, shop, lot_days=30) == [
        "9.99 USD", "Adds 10 USD to your balance.", "It can be used for 30 days.",
    ]  # fmt: skip
    assert await included(market, browser, monthly, grant_micro=12_500_000) == [
        "30.00 USD every month", "Includes 12.5 USD every month.", "What is left is not carried over into the next month.",
    ]  # fmt: skip
    assert await included(market, browser, monthly, rollover_max_micro=4_000_000, interval_count=3) == [
        "30.00 USD every 3 months", "Includes 10 USD every 3 months.",
        "What is left goes on into the next 3 months, up to 4 USD.",
    ]  # fmt: skip
    new = {"enterprise_id": "tok", "user_id": "alice", "name": "Tok", "asset": "TOK", "cost_policy": "own_keys"}
    await market.ok("POST", "/apps", new, 201)
    tokens = {"enterprise_id": "tok", "grant_micro": 2_000_000_000_000, "rollover_max_micro": 500_000_000_000}
    assert await included(market, browser, {**monthly, **tokens}, interval="week", trial_days=1) == [
        "30.00 USD every week, the first day free", "Includes 2,000,000 tokens every week.",
        "What is left goes on into the next week, up to 500,000 tokens.",
    ]  # fmt: skip


async def code(market: Market, said: str, app: str = "shop", **terms: object) -> str:
    wish = {"code": said, "enterprise_id": app, **({} if "amount_off_micro" in terms else {"percent_off": "50"}), **terms}
    return str((await market.ok("POST", "/promo-codes", wish, 201))["id"])


async def told(browser: httpx.AsyncClient, url: str) -> str:
    """What a page says of the price."""
    return str(re.findall("<p>(.*?)</p>", (await browser.get(url)).text)[1])


async def test_a_link_shows_what_its_code_takes_off_and_for_how_long(market: Market, browser: httpx.AsyncClient) -> None:
    await code(market, "FIVE", amount_off_micro=5_000_000, currency="USD")
    await code(market, "EVER", duration="forever")
    await code(market, "QUARTER", duration="repeating", duration_months=3)
    await code(market, "WHOLE", percent_off="100", first_purchase_only=True)
    package, monthly = await market.plan(PACKAGE), await market.plan(MONTHLY)
    trial = await market.plan(MONTHLY, trial_days=7)
    half = "<s>30.00 USD</s> 15.00 USD every month"
    for plan_id, said, price in (
        (package, "five", "<s>9.99 USD</s> 4.99 USD with FIVE"),
        (package, "WHOLE", "<s>9.99 USD</s> 0.00 USD with WHOLE"),
        (monthly, "FIVE", "<s>30.00 USD</s> 25.00 USD with FIVE for the first month, then 30.00 USD every month"),
        (monthly, "EVER", f"{half} with EVER"),
        (monthly, "QUARTER", f"{half} with QUARTER in the first 3 months, then 30.00 USD every month"),
        (trial, "EVER", f"{half} with EVER, the first 7 days free"),
        (trial, "FIVE", "30.00 USD every month, the first 7 days free"),
    ):
        url = await link(market, plan_id, promo_code=said)
        assert await told(browser, url) == price
        page = await browser.get(url)
        assert "<button>" in page.text
        assert ("<li>FIVE takes 5.00 USD off the first invoice.</li>" in page.text) == (plan_id == trial and said == "FIVE")
    assert "Adds 10 USD to your balance." in (await browser.get(await link(market, package, promo_code="FIVE"))).text
    assert pages_open(market) == []
    assert not market.control.state()[market.account].get("promotion_code")  # to look makes none
    assert (await browser.post(await link(market, package, promo_code="FIVE"))).status_code == 303
    (session,) = pages_open(market)
    assert market.at_stripe("checkout.sessions", session).amount_total == 499


async def test_a_link_shows_what_a_code_leaves_of_the_grant_where_only_money_buys(
    market: Market, browser: httpx.AsyncClient
) -> None:
    new = {"enterprise_id": "paid", "user_id": "alice", "name": "Paid", "asset": "USD", "cost_policy": "platform_pays"}
    await market.ok("POST", "/apps", new, 201)
    await code(market, "HALF", "paid")
    while_it_does = "While HALF takes something off, 5 USD are included."
    for body, says in ((PACKAGE, "Adds 4.994994 USD to your balance."), (MONTHLY, while_it_does)):
        plan_id = await market.plan(body, enterprise_id="paid")
        made = await market.ok("POST", "/apps/paid/payment-links", {**WISH, "plan_id": plan_id, "promo_code": "HALF"}, 201)
        assert f"<li>{says}</li>" in (await browser.get(made["url"])).text


async def test_what_a_link_would_be_refused_is_told_before_its_button_is_there(
    market: Market, browser: httpx.AsyncClient
) -> None:
    package, monthly = await market.plan(PACKAGE), await market.plan(MONTHLY)
    ended, used = await code(market, "ENDED"), await code(market, "USED", max_redemptions=1)
    await code(market, "FIRST", first_purchase_only=True)
    links = [await link(market, package, promo_code=said) for said in ("ENDED", "USED", "FIRST")]
    subscribes = await link(market, monthly)
    for url in (*links, subscribes):
        assert "<button>" in (await browser.get(url)).text
    await market.ok("DELETE", f"/promo-codes/{ended}")
    row: dict[str, Any] = {"id": "red_1", "promo_code_id": used, "subject": "pur_1", "ref": "pur_1", "owner": "u2"}
    row |= {"plan_id": package}
    row |= {"currency": "USD", "discount_minor": 1, "paid_minor": 1, "given_micro": 1, "created_at": 1, "number": 1}
    await market.write(sa.insert(APP_SALES["promo_redemptions"]).values(**row))
    first: dict[str, Any] = {"owner": "u1", "promo_code_id": used, "ref": "sub_0", "account_id": market.account, "claimed_at": 1}
    await market.write(sa.insert(APP_SALES["first_purchases"]).values(**first, redeemed_at=1))
    assert "Code not valid" in (await browser.get(links[2])).text
    await market.subscribed(monthly, "u1")
    before = pages_open(market)
    for url in links:
        for answer in (await browser.get(url), await browser.post(url)):
            assert (answer.status_code, "Code not valid" in answer.text, "<button>" in answer.text) == (400, True, False)
            assert "9.99" not in answer.text
    for answer in (await browser.get(subscribes), await browser.post(subscribes)):
        assert (answer.status_code, "You have it already" in answer.text, "<button>" in answer.text) == (409, True, False)
    assert pages_open(market) == before


async def test_a_link_of_who_cannot_take_charges_yet_says_so_before_its_button_is_there(
    market: Market, browser: httpx.AsyncClient
) -> None:
    await market.ok("POST", "/billing-accounts", {"user_id": "bob", "email": "bob@example.com"}, 201)
    plan_id = await market.plan(PACKAGE, enterprise_id="bobs")
    made = await market.ok("POST", "/apps/bobs/payment-links", {**WISH, "plan_id": plan_id}, 201)
    for answer in (await browser.get(made["url"]), await browser.post(made["url"])):
        assert (answer.status_code, "Not just now" in answer.text, "<button>" in answer.text) == (409, True, False)


async def test_no_link_is_signed_with_a_code_that_takes_nothing_off(market: Market) -> None:
    package, monthly = await market.plan(PACKAGE), await market.plan(MONTHLY)
    await code(market, "MONTHLY", plan_ids=[monthly])
    await code(market, "NEARLY", amount_off_micro=9_900_000, currency="USD")
    await code(market, "OTHERS", "second")
    ended = await code(market, "ENDED")
    await market.ok("DELETE", f"/promo-codes/{ended}")
    refused = dict.fromkeys(("NOPE", "MONTHLY", "NEARLY", "OTHERS", "ENDED"), "promo_code_refused")
    for said, why in {**refused, "no such": "invalid_request"}.items():
        wish = {**WISH, "plan_id": package, "promo_code": said}
        got = await market.refused("POST", "/apps/shop/payment-links", wish, role=Role.APP_SERVER)
        assert got == (400, why, "promo_code"), said


async def test_a_link_offers_no_trial_to_who_had_one(market: Market, browser: httpx.AsyncClient) -> None:
    plan_id = await market.plan(MONTHLY, trial_days=7)
    url = await link(market, plan_id)
    assert "the first 7 days free" in (await browser.get(url)).text
    await market.subscribed(plan_id, "somebody-else")
    assert "the first 7 days free" in (await browser.get(url)).text
    await market.subscribed(plan_id, "u1")
    await market.write(sa.update(APP_SALES["subscriptions"]).values(state="canceled"))
    assert await told(browser, url) == "30.00 USD every month"


async def test_a_link_tells_what_use_beyond_the_allowance_costs_who_agrees_to_it(
    market: Market, browser: httpx.AsyncClient
) -> None:
    beyond = {"max_micro": 20_000_000, "price_micro": 1_100_000, "per_micro": 1_000_000}
    offered = (await browser.get(await link(market, await market.plan(MONTHLY, overage=beyond, trial_days=7)))).text
    assert "<p>30.00 USD every month, the first 7 days free</p>" in offered
    assert "<li>Beyond what is included: 1.1 USD for each 1 USD, at most 20 USD unpaid, if you agree to it.</li></ul>" in offered
    assert "Beyond" not in (await browser.get(await link(market, await market.plan(MONTHLY)))).text
    new = {"enterprise_id": "tok", "user_id": "alice", "name": "Tok", "asset": "TOK", "cost_policy": "own_keys"}
    await market.ok("POST", "/apps", new, 201)
    tokens = {"max_micro": 20_000_000_000_000, "price_micro": 500_000, "per_micro": 1_000_000_000_000}
    plan_id = await market.plan(MONTHLY, enterprise_id="tok", overage=tokens)
    made = await market.ok("POST", "/apps/tok/payment-links", {**WISH, "plan_id": plan_id}, 201, role=Role.CREATOR)
    says = "Beyond what is included: 0.5 USD for each 1,000,000 tokens, at most 20,000,000 tokens unpaid, if you agree to it."
    assert says in (await browser.get(made["url"])).text


# ---- pages -------------------------------------------------------------------------------------


async def test_a_buyer_comes_back_to_a_page_in_the_apps_name_and_colours(market: Market, browser: httpx.AsyncClient) -> None:
    plain = await browser.get("/returned/paid/shop")
    assert (plain.status_code, "<p>shop</p>" in plain.text, "Thank you" in plain.text) == (200, True, True)
    looks = {"name": "Ann & <b>Co</b>", "logo_url": "https://cdn.example.com:8443/l.png?a=1&b='2'", "accent_color": "#AA00ff"}
    looks["background_color"] = "#102030"
    made = await market.ok("PUT", "/apps/shop/branding", looks, role=Role.CREATOR)
    assert made["accent_color"] == "#aa00ff"
    assert await market.ok("GET", "/apps/shop/branding", role=Role.CREATOR) == made
    assert "branding.set" in await market.acts(None)
    for path, says in (("paid", "Thank you"), ("cancelled", "Nothing was paid"), ("saved", "Card saved")):
        page = await browser.get(f"/returned/{path}/shop")
        assert (page.status_code, says in page.text) == (200, True)
        assert "<p>Ann" not in page.text
        assert 'alt="Ann &amp; &lt;b&gt;Co&lt;/b&gt;"' in page.text
        assert 'src="https://cdn.example.com:8443/l.png?a=1&amp;b=&#x27;2&#x27;"' in page.text
        (style,) = re.findall(r"<style>(.*?)</style>", page.text)
        assert all(colour in style for colour in ("#aa00ff", "background:#102030", "color:#ffffff"))
        hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert page.headers["content-security-policy"].split("; ") == [
            "default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
            f"style-src 'sha256-{hashed}'", "img-src https://cdn.example.com:8443",
        ]  # fmt: skip
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "<script" not in page.text
    assert "Ann" not in (await browser.get("/returned/paid/second")).text
    assert (await browser.get("/returned/paid")).status_code == 200
    for path in ("/returned/else", "/returned/paid/nobody", "/returned/paid/<b>"):
        assert (await browser.get(path)).status_code == 404
    first = await market.ok("PUT", "/apps/shop/branding", {}, role=Role.OPERATOR)
    assert (first["name"], first["logo_url"], first["accent_color"]) == ("shop", None, None)


async def test_looks_that_could_be_more_than_looks_are_refused(market: Market) -> None:
    logos = ["http://a.example/l.png", "https://", "https://u:p@a.example/l", "https://a.example;x/l", "https://a b.example/l"]
    logos += ["https://a.example/l\n", "javascript:alert(1)", "data:image/png,x", "https://a.example:99999/l", "https://[::1]/l"]
    logos += ["https://a.example:/l", "https://a.example/" + "l" * 2048, "//a.example/l", "https://é.example/l", "https://a'b/l"]
    for logo in logos:
        found = await market.refused("PUT", "/apps/shop/branding", {"logo_url": logo}, role=Role.CREATOR)
        assert (found[0], found[2]) == (400, "logo_url"), logo
    for colour in ("red", "#fff", "#12345g", "#123456;", "url(x)", "#1234567", "", "#123456\n"):
        for name in ("accent_color", "background_color"):
            found = await market.refused("PUT", "/apps/shop/branding", {name: colour}, role=Role.CREATOR)
            assert (found[0], found[2]) == (400, name), colour
    assert (await market.refused("PUT", "/apps/shop/branding", {}, role="bob"))[0] == 404
    assert (await market.refused("PUT", "/apps/shop/branding", {"name": "\0"}, role=Role.CREATOR))[0] == 400

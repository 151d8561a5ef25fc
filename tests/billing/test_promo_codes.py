"""Promo codes: what they take off, what is granted and booked of it, and who is refused. On the fake of Stripe."""

import asyncio
import json
import time
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.billing.promo_codes import PromoCodeRefused, PromoCodes
from gateway.db.tables import APP_SALES, promo_codes, promo_coupons
from gateway.identity.model import Actor, Role
from gateway.ledger.audit import audit
from gateway.ledger.model import WalletKey
from tests.billing.house import DAY
from tests.billing.inside import HOURS, SECRET, House
from tests.billing.inside import house as house
from tests.billing.market import KEYS, MONTHLY, PACKAGE, URLS
from tests.billing.test_believed import Own
from tests.billing.test_believed import own as own
from tests.fake_stripe.delivery import signature

PLATFORM = "acct_1FakePlatform00"
CREATORS = {"kind": "package", "name": "Credit", "currency": "USD", "price_micro": 10_000_000, "grant_micro": 10_000_000}


async def code(house: House, **terms: Any) -> dict[str, Any]:
    wish = {"code": f"spring-{next(KEYS)}", "enterprise_id": "shop", **terms}
    if "amount_off_micro" not in terms:
        wish.setdefault("percent_off", "25")
    return dict(await house.market.ok("POST", "/promo-codes", wish, 201))


async def opened(house: House, plan: str, owner: str, said: dict[str, Any], **more: Any) -> Any:
    wish = {"platform_user_id": owner, "promo_code": said["code"].lower(), **more}
    return await house.market.checkout(plan, role=Role.OPERATOR, **wish)


async def refused(house: House, plan: str, said: str, owner: str = "") -> tuple[int, str, str | None]:
    wish = {"plan_id": plan, "platform_user_id": owner or f"u{next(KEYS)}", "promo_code": said, **URLS}
    return await house.market.refused("POST", "/checkout-sessions", wish)


async def redeemed(house: House, said: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(taken off, paid, given) of each payment with a code, the latest first, in micro-units."""
    rows = (await house.market.ok("GET", f"/promo-codes/{said['id']}/redemptions"))["data"]
    return [(row["discount_micro"], row["paid_micro"], row["given_micro"]) for row in rows]


async def books(house: House) -> dict[str, int]:
    """Balances of the app's own accounts that are not zero."""
    rows = (await house.market.ok("GET", "/ledger/accounts", enterprise_id="shop", limit=200))["data"]
    found = {f"{row['account']}/{row['asset']}": row["balance_micro"] for row in rows if not row["account"].startswith("user.")}
    return {name: balance for name, balance in found.items() if balance}


def fees(house: House) -> int:
    """Minor units that the platform has of the account's sales, by Stripe's fee objects."""
    rows = house.control.state()[PLATFORM].get("application_fee", {})
    return sum(row["amount"] - row["amount_refunded"] for row in rows if row["account"] == house.market.account)


async def test_a_package_is_paid_in_part_and_the_rest_is_given(house: House, own: Own) -> None:
    plan, said, owner = await house.market.plan(PACKAGE), await code(house, max_redemptions=1), f"u{next(KEYS)}"
    page = await opened(house, plan, owner, said, key="k")
    intent = house.control.pay(own.account, page["id"])["session"]["payment_intent"]
    assert await own.reasons() == set()
    paid = own.api.payment_intents.retrieve(intent, None, own.at)
    assert (paid.amount, paid.application_fee_amount, fees(house)) == (749, 75, 75)  # 249.75 off, and a tenth of the rest
    assert await house.available(owner) == 10_000_000
    given = 10_000_000 - 10_000_000 * 749 // 999
    assert await redeemed(house, said) == [(2_500_000, 7_490_000, given)]
    held = await books(house)
    assert (abs(held["expense.promo/USD"]), abs(held["due_to_platform/USD"])) == (given, 750_000)
    (row,) = (await house.market.ok("GET", "/purchases", enterprise_id="shop"))["data"]
    names = ("amount_micro", "discount_micro", "fee_micro", "grant_micro", "promo_code_id")
    assert [row[name] for name in names] == [7_490_000, 2_500_000, 750_000, 10_000_000, said["id"]]
    assert (await opened(house, plan, owner, said, key="k"))["status"] == "complete"
    for amount in (2_500_000, 4_990_000):  # a part, and then what is left
        asked = {"enterprise_id": "shop", "payment_id": intent, "amount_micro": amount}
        await house.market.ok("POST", "/refunds", asked, 201)
        assert await own.reasons() == set()
    held = await books(house)
    assert await house.available(owner) == 0
    assert (held.get("expense.promo/USD", 0), held.get("exchange/USD", 0), fees(house)) == (0, 0, 0)
    assert held.get("due_to_platform/USD", 0) == 0


@pytest.mark.parametrize(("duration", "paid"), [("once", [1500, 3000, 3000]), ("forever", [1500, 1500, 1500])])
async def test_a_subscription_costs_less_once_or_for_ever(house: House, own: Own, duration: str, paid: list[int]) -> None:
    plan, said = await house.market.plan(MONTHLY), await code(house, percent_off=50, duration=duration)
    owner = f"u{next(KEYS)}"
    page = await opened(house, plan, owner, said)
    subscription = house.control.pay(own.account, page["id"])["session"]["subscription"]
    assert await own.reasons() == set()
    for _ in range(2):
        house.control.advance(31 * DAY)
        house.control.advance(2 * 3600)
        assert await own.reasons() == set()
    invoices = own.api.invoices.list({"subscription": subscription}, own.at).data[::-1]
    assert [each.amount_paid for each in invoices] == paid
    assert fees(house) == sum(paid) // 10
    rows = await redeemed(house, said)
    assert rows == [(15_000_000, 15_000_000, 5_000_000)] * paid.count(1500)
    held = await books(house)
    assert abs(held["expense.promo/USD"]) == 5_000_000 * len(rows)
    assert abs(held["due_to_platform/USD"]) == fees(house) * 10_000
    (shown,) = (await house.market.ok("GET", "/promo-codes", enterprise_id="shop"))["data"]
    assert shown["redemptions"] == 1
    assert await house.available(owner) == 30_000_000  # each period's in full; by our clock none has run out
    own.api.subscriptions.cancel(subscription, None, own.at)


async def test_who_does_not_fit_a_codes_terms_is_refused(house: House, own: Own) -> None:
    plan, other = await house.market.plan(PACKAGE), await house.market.plan(PACKAGE)
    monthly = await house.market.plan(MONTHLY)
    no = (400, "promo_code_refused", "promo_code")
    assert await refused(house, plan, "NO-SUCH") == no
    assert await refused(house, plan, "§") == no
    narrow = await code(house, plan_ids=[other])
    assert await refused(house, plan, narrow["code"]) == no
    assert (await opened(house, other, f"u{next(KEYS)}", narrow))["status"] == "open"
    seconds = await code(house, enterprise_id="second")
    assert await refused(house, plan, seconds["code"]) == no
    late = await code(house, expires_at="2030-01-01T00:00:00Z")
    assert (await opened(house, plan, f"u{next(KEYS)}", late))["status"] == "open"
    await house.market.write(sa.update(promo_codes).where(promo_codes.c.id == late["id"]).values(expires_at=1), None)
    assert await refused(house, plan, late["code"]) == no
    first, owner = await code(house, first_purchase_only=True), f"u{next(KEYS)}"
    page = await opened(house, plan, owner, first)
    house.control.pay(own.account, page["id"])
    assert await own.reasons() == set()
    assert await refused(house, plan, first["code"], owner) == no
    assert await refused(house, monthly, first["code"], owner) == no
    assert (await opened(house, plan, f"u{next(KEYS)}", first))["status"] == "open"
    ended = await code(house)
    await house.market.ok("DELETE", f"/promo-codes/{ended['id']}")
    assert await refused(house, plan, ended["code"]) == no


@pytest.mark.parametrize(
    ("terms", "param"),
    [
        ({"percent_off": "0"}, "percent_off"),
        ({"percent_off": "100.01"}, "percent_off"),
        ({"percent_off": "1.234"}, "percent_off"),
        ({}, "percent_off"),
        ({"percent_off": "10", "amount_off_micro": 1_000_000, "currency": "USD"}, "percent_off"),
        ({"amount_off_micro": 1_000_000}, "currency"),
        ({"amount_off_micro": 1_000_000, "currency": "EUR"}, "currency"),
        ({"percent_off": "10", "duration": "repeating"}, "duration_months"),
        ({"percent_off": "10", "duration_months": 3}, "duration_months"),
        ({"percent_off": "10", "max_redemptions": 0}, "max_redemptions"),
        ({"percent_off": "10", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"percent_off": "10", "plan_ids": ["plan_none"]}, "plan_ids"),
        ({"percent_off": "10", "code": "a b"}, "code"),
    ],
)
async def test_terms_that_cannot_be_are_refused(house: House, terms: dict[str, Any], param: str) -> None:
    wish = {"code": f"bad-{next(KEYS)}", "enterprise_id": "shop", **terms}
    status, _, found = await house.market.refused("POST", "/promo-codes", wish)
    assert (status in (400, 404), found) == (True, param)


async def test_of_purchases_at_once_as_many_redeem_as_may(house: House, own: Own) -> None:
    plan, said = await house.market.plan(PACKAGE), await code(house, max_redemptions=1)
    owners = [f"u{next(KEYS)}" for _ in range(3)]
    pages = await asyncio.gather(*[opened(house, plan, owner, said) for owner in owners])
    paying = [asyncio.to_thread(house.control.pay, own.account, page["id"]) for page in pages]
    done = await asyncio.gather(*paying)
    assert sorted(each["refused"] is None for each in done) == [False, False, True]
    assert await own.reasons() == set()
    assert sorted([await house.available(owner) for owner in owners]) == [0, 0, 10_000_000]
    assert len(await redeemed(house, said)) == 1
    assert await refused(house, plan, said["code"]) == (400, "promo_code_refused", "promo_code")
    coupons = own.api.coupons.list(None, own.at).data
    assert len(coupons) == 1


async def test_what_costs_nothing_is_given_once_and_only_on_its_own_page(house: House, own: Own) -> None:
    plan, said, owner = await house.market.plan(PACKAGE), await code(house, percent_off="100"), f"u{next(KEYS)}"
    page = await opened(house, plan, owner, said)
    done = house.control.pay(own.account, page["id"])["session"]
    assert (done["payment_intent"], done["payment_status"]) == (None, "no_payment_required")
    for _ in range(2):
        assert await own.reasons() == set()
        await house.effects().checkout(own.account, page["id"])
    assert (await house.available(owner), fees(house)) == (10_000_000, 0)
    assert await redeemed(house, said) == [(9_990_000, 0, 10_000_000)]
    assert await books(house) == {"expense.promo/USD": -10_000_000}
    rows = (await house.market.ok("GET", "/purchases", enterprise_id="shop"))["data"]
    assert [row["status"] for row in rows] == ["paid"]
    # A page of her own, on which nothing is to be paid, for a purchase that costs something, and for one that costs nothing.
    price = own.api.checkout.sessions.retrieve(page["id"], {"expand": ["line_items"]}, own.at).line_items.data[0].price.id
    coupon = own.api.coupons.create({"percent_off": 100, "duration": "once"}, own.at).id
    for wish in ({}, {"promo_code": said["code"]}):
        other = f"crony{next(KEYS)}"
        honest = await house.market.checkout(plan, role=Role.OPERATOR, platform_user_id=other, **wish)
        metadata = dict(own.api.checkout.sessions.retrieve(honest["id"], None, own.at).metadata.to_dict())
        forged: Any = {"mode": "payment", "line_items": [{"price": price, "quantity": 1}], "success_url": URLS["success_url"]}
        made = own.api.checkout.sessions.create({**forged, "metadata": metadata, "discounts": [{"coupon": coupon}]}, own.at)
        if not wish:  # were it even the page that the purchase has
            its = APP_SALES["purchases"].c.id == honest["purchase_id"]
            await house.market.write(sa.update(APP_SALES["purchases"]).where(its).values(session_id=made.id))
        house.control.pay(own.account, made.id)
        (why,) = await own.reasons()
        assert "is not given away on that page" in why
        assert await house.available(other) == 0


async def test_the_operator_gives_creators_a_code_and_a_link_carries_one(house: House, own: Own) -> None:
    plan = await house.market.plan(CREATORS)
    said = await code(house, enterprise_id=None, amount_off_micro=4_000_000, currency="USD")
    before = (await house.api.wallets.view(WalletKey("alice"))).available_micro
    page = await house.market.checkout(plan, role=Role.CREATOR, promo_code=said["code"])
    assert house.control.pay(PLATFORM, page["id"])["session"]["amount_total"] == 600
    await house.effects().checkout("", page["id"])
    assert (await house.api.wallets.view(WalletKey("alice"))).available_micro - before == 10_000_000
    assert await redeemed(house, said) == [(4_000_000, 6_000_000, 4_000_000)]
    wish = {"code": "mine-100", "percent_off": "100"}
    assert (await house.market.refused("POST", "/promo-codes", wish, role=Role.CREATOR))[0] == 403
    assert (await house.market.refused("GET", f"/promo-codes/{said['id']}/redemptions", role=Role.CREATOR))[0] in (403, 404)
    # An app's link.
    shops, theirs = await house.market.plan(PACKAGE), await code(house, amount_off_micro=990_000, currency="USD")
    links = house.api.billing.links
    body = {"plan_id": shops, "platform_user_id": "zoe", "promo_code": theirs["code"].lower()}
    made = await house.market.ok("POST", "/apps/shop/payment-links", body, 201)
    link, app = await links.opened(made["url"].rpartition("/")[2])
    await links.followed(link, app)
    (session,) = own.api.checkout.sessions.list(None, own.at).data
    assert session.amount_total == 900


async def test_an_ended_code_makes_room_and_is_over_at_stripe(house: House, own: Own) -> None:
    plan = await house.market.plan(PACKAGE)
    said = await code(house, duration="repeating", duration_months=3, max_redemptions=5, plan_ids=[plan])
    same = {"code": said["code"], "enterprise_id": "shop", "percent_off": "10"}
    assert await house.market.refused("POST", "/promo-codes", same) == (409, "conflict", "code")
    page = await opened(house, plan, f"u{next(KEYS)}", said)
    (at_stripe,) = own.api.promotion_codes.list(None, own.at).data
    (coupon,) = own.api.coupons.list(None, own.at).data
    assert (coupon.percent_off, coupon.duration, coupon.duration_in_months) == (25, "repeating", 3)
    assert (at_stripe.code, at_stripe.active, at_stripe.max_redemptions) == (said["code"], True, 5)
    await house.market.ok("DELETE", f"/promo-codes/{said['id']}")
    assert not own.api.promotion_codes.retrieve(at_stripe.id, None, own.at).active
    assert house.control.pay(own.account, page["id"])["refused"] is not None
    again = await code(house, code=said["code"], percent_off="10")
    assert (await opened(house, plan, f"u{next(KEYS)}", again))["status"] == "open"
    shown = (await house.market.ok("GET", "/promo-codes", enterprise_id="shop"))["data"]
    assert [each["id"] for each in shown] == [again["id"]]
    assert len((await house.market.ok("GET", "/promo-codes", enterprise_id="shop", ended="true"))["data"]) == 2
    acts = await house.market.acts(None)
    assert (acts.count("promo_code.create"), acts.count("promo_code.end")) == (2, 1)


async def test_what_stripe_asks_counts_where_it_rounds_otherwise_and_not_on_other_terms(house: House, own: Own) -> None:
    plan, said, owner = await house.market.plan(PACKAGE), await code(house), f"u{next(KEYS)}"
    house.control.abandon(own.account, (await opened(house, plan, f"u{next(KEYS)}", said))["id"])  # Stripe has the code by now
    rule = promo_codes.c.id == said["id"]
    await house.market.write(sa.update(promo_codes).where(rule).values(percent_bp=2510), None)  # 748 here, 749 there
    page = await opened(house, plan, owner, said)
    house.control.pay(own.account, page["id"])
    assert await own.reasons() == set()
    assert await redeemed(house, said) == [(2_500_000, 7_490_000, 10_000_000 - 10_000_000 * 749 // 999)]
    await house.market.write(sa.update(promo_codes).where(rule).values(percent_bp=3000), None)
    assert (await refused(house, plan, said["code"]))[:2] == (400, "payment_refused")


class Between:
    """Stripe, which does something else once it has made a code."""

    def __init__(self, payments: Any, then: Any) -> None:
        self._payments, self._then = payments, then

    @property
    def promotions(self) -> Any:
        return self

    async def create(self, *what: Any) -> Any:
        made = await self._payments.promotions.create(*what)
        await self._then()
        return made

    async def end(self, *what: Any) -> None:
        await self._payments.promotions.end(*what)


async def test_a_code_that_is_ended_while_it_is_made_at_stripe_is_over_there_too(house: House, own: Own) -> None:
    said, billing = await code(house), house.api.billing
    found = await billing.store.plan(await house.market.plan(PACKAGE))
    seller = (await house.api.registry.app(Actor(Role.OPERATOR, "operator"), "shop")), WalletKey(f"u{next(KEYS)}", "shop")

    async def end() -> None:
        await house.market.ok("DELETE", f"/promo-codes/{said['id']}")

    stripe: Any = Between(house.payments, end)
    codes = PromoCodes(billing.store.promos, house.api.registry, stripe, billing.catalogue, house.clock)
    assert found is not None
    with pytest.raises(PromoCodeRefused):
        await codes.discount(said["code"], found, *seller, own.account)
    assert [row.active for row in own.api.promotion_codes.list(None, own.at).data] == [False]
    again = await code(house, code=said["code"])  # its letters are free
    assert (await opened(house, found.id, f"u{next(KEYS)}", again))["status"] == "open"


async def test_what_a_process_that_died_left_at_stripe_of_an_ended_code_does_not_keep_its_letters(house: House, own: Own) -> None:
    plan, said = await house.market.plan(PACKAGE), await code(house)
    await opened(house, plan, f"u{next(KEYS)}", said)
    rule = promo_coupons.c.promo_code_id == said["id"]
    await house.market.write(sa.delete(promo_coupons).where(rule), None)  # it died before it could keep what Stripe had made
    await house.market.ok("DELETE", f"/promo-codes/{said['id']}")
    (left,) = own.api.promotion_codes.list(None, own.at).data
    again = await code(house, code=said["code"], percent_off="10")
    live, over = await code(house), await code(house)
    await house.market.ok("DELETE", f"/promo-codes/{over['id']}")
    for name in ("promo_none", live["id"], over["id"], again["id"], ""):  # nobody's, another's, or by the owner's own hand
        own.api.promotion_codes.update(left.id, {"metadata": {"mozaiks_promo_code": name}}, own.at)
        assert (await refused(house, plan, said["code"]))[:2] == (409, "conflict")
    own.api.promotion_codes.update(left.id, {"metadata": {"mozaiks_promo_code": said["id"]}}, own.at)
    assert (await opened(house, plan, f"u{next(KEYS)}", again))["status"] == "open"
    assert sorted(row.active for row in own.api.promotion_codes.list(None, own.at).data) == [False, True]


async def test_a_code_of_other_terms_that_bears_our_codes_name_is_not_taken_for_it(house: House, own: Own) -> None:
    plan, other = await house.market.plan(PACKAGE), await house.market.plan(PACKAGE)
    assert (await house.market.checkout(other, role=Role.OPERATOR, platform_user_id="x"))["status"] == "open"
    at_first = {"percent_off": "25", "plan_ids": [plan], "first_purchase_only": True, "max_redemptions": 9}
    said = await code(house, **at_first, duration="repeating", duration_months=3)
    await opened(house, plan, f"u{next(KEYS)}", said)
    (ours,) = own.api.promotion_codes.list(None, own.at).data
    coupon = own.api.coupons.retrieve(ours.promotion.coupon, None, own.at)
    (bad,) = [row.product for row in own.api.prices.list({"lookup_keys": [other]}, own.at).data]
    as_ours: Any = {"percent_off": "25", "duration": "repeating", "duration_in_months": 3, "metadata": {}}
    as_ours["applies_to"] = {"products": list(coupon.applies_to.products)}
    limits: Any = {"code": said["code"], "metadata": ours.metadata.to_dict(), "max_redemptions": 9}
    limits["restrictions"] = {"first_time_transaction": True}
    changed: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"percent_off": "100"}, {}),
        ({"duration_in_months": 4}, {}),
        ({"applies_to": {"products": [bad]}}, {}),
        ({"redeem_by": 4_000_000_000}, {}),
        ({}, {"max_redemptions": 10}),
        ({}, {"restrictions": {"first_time_transaction": False}}),
        ({}, {"expires_at": 4_000_000_000}),
        ({}, {}),
    ]
    for coupons, codes in changed:
        # As after a death in between: it was made, and is not known here.
        await house.market.write(sa.delete(promo_coupons).where(promo_coupons.c.promo_code_id == said["id"]), None)
        for row in own.api.promotion_codes.list({"active": True}, own.at).data:
            own.api.promotion_codes.update(row.id, {"active": False}, own.at)
        forged = own.api.coupons.create({**as_ours, **coupons}, own.at).id
        by_hand = {**limits, **codes, "promotion": {"type": "coupon", "coupon": forged}}
        own.api.promotion_codes.create(by_hand, own.at)
        if coupons or codes:
            assert (await refused(house, plan, said["code"]))[:2] == (409, "conflict"), (coupons, codes)
    assert (await opened(house, plan, f"u{next(KEYS)}", said))["status"] == "open"


async def test_the_end_of_a_page_that_was_made_anew_does_not_end_its_purchase(house: House, own: Own) -> None:
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "enterprise_id": "shop", "fee_percent": "90"}, 201)
    house.control.catch_up()
    plan, said, owner = await house.market.plan(PACKAGE), await code(house), f"u{next(KEYS)}"
    house.control.abandon(own.account, (await opened(house, plan, f"u{next(KEYS)}", said))["id"])  # Stripe has the code by now
    rule = promo_codes.c.id == said["id"]
    await house.market.write(sa.update(promo_codes).where(rule).values(percent_bp=2510), None)  # 748 and 673 here, 749 there
    page = await opened(house, plan, owner, said)
    assert await house.told("checkout.session.expired") == 2
    await house.inbox.work()
    rows = (await house.market.ok("GET", "/purchases", enterprise_id="shop"))["data"]
    assert [row["status"] for row in rows] == ["open", "expired"]  # hers, and the one that was left
    house.control.pay(own.account, page["id"])
    assert await own.reasons() == set()
    assert (await house.available(owner), fees(house)) == (10_000_000, 674)


async def test_where_the_platform_pays_a_code_grants_what_was_paid(house: House, own: Own) -> None:
    made = {"enterprise_id": "theirs", "user_id": "alice", "name": "Theirs", "asset": "USD", "cost_policy": "platform_pays"}
    await house.market.ok("POST", "/apps", made, 201)
    package, monthly = [await house.market.plan({**each, "enterprise_id": "theirs"}) for each in (PACKAGE, MONTHLY)]
    said = await code(house, enterprise_id="theirs", percent_off="20")
    for plan, granted in ((package, 10_000_000 * 799 // 999), (monthly, 8_000_000)):
        owner = f"u{next(KEYS)}"
        page = await opened(house, plan, owner, said)
        done = house.control.pay(own.account, page["id"])["session"]
        assert await own.reasons() == set()
        assert (await house.api.wallets.view(WalletKey(owner, "theirs"))).available_micro == granted
        if done["subscription"]:
            own.api.subscriptions.cancel(done["subscription"], None, own.at)
    assert [given for _, _, given in await redeemed(house, said)] == [0, 0]
    whole = await code(house, enterprise_id="theirs", amount_off_micro=30_000_000, currency="USD")
    for plan in (package, monthly):
        assert await refused(house, plan, whole["code"]) == (400, "promo_code_refused", "promo_code")
    report = await audit(house.api.databases, ["shop", "second", "bobs", "theirs"], None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]


@pytest.mark.parametrize(
    ("terms", "param", "says"),
    [
        ({"percent_off": "100"}, "percent_off", "must be less than 100: in an app with cost_policy platform_pays nothing"),
        ({"percent_off": "100", "duration": "once"}, "percent_off", "nothing is granted unpaid"),
        ({"amount_off_micro": 9_990_000, "currency": "USD"}, "plan_ids", "nothing is granted unpaid"),
        ({"percent_off": "99.99"}, "plan_ids", "nothing is granted unpaid"),  # rounded, it is all of the price
        ({"percent_off": "96"}, "plan_ids", "it leaves 0.40 USD to pay, and Stripe charges 0.50 USD at least."),
    ],
)
async def test_a_code_that_could_never_be_used_is_refused_when_it_is_made(
    house: House, terms: dict[str, Any], param: str, says: str
) -> None:
    made = {"enterprise_id": "theirs", "user_id": "alice", "name": "Theirs", "asset": "USD", "cost_policy": "platform_pays"}
    await house.market.ok("POST", "/apps", made, 201)
    plan = await house.market.plan({**PACKAGE, "enterprise_id": "theirs"})
    wish = {"code": "never", "enterprise_id": "theirs", **terms, **({"plan_ids": [plan]} if param == "plan_ids" else {})}
    refused = await house.market.call("POST", "/promo-codes", wish)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert says in refused.json()["error"]["message"]
    assert (plan in refused.json()["error"]["message"]) is (param == "plan_ids")
    # Of all plans there may be dearer ones; and who pays for its own usage may give it.
    if param == "plan_ids":
        assert (await house.market.call("POST", "/promo-codes", {**wish, "plan_ids": []})).status_code == 201
    shops = await house.market.plan(PACKAGE)
    own = await house.market.call("POST", "/promo-codes", {**wish, "code": "ever", "enterprise_id": "shop", "plan_ids": [shops]})
    assert own.status_code == (400 if "0.40" in says else 201)


async def test_a_code_that_leaves_less_than_stripe_charges_is_refused_with_what_it_leaves(house: House, own: Own) -> None:
    for body in (PACKAGE, MONTHLY):
        plan, left = await house.market.plan(body, price_micro=9_990_000), 490_000
        said = await code(house, amount_off_micro=9_990_000 - left, currency="USD")
        wish = {"plan_id": plan, "platform_user_id": f"u{next(KEYS)}", "promo_code": said["code"], **URLS}
        error = (await house.market.call("POST", "/checkout-sessions", wish)).json()["error"]
        assert (error["code"], error["param"]) == ("promo_code_refused", "promo_code")
        assert error["message"] == (
            "This code cannot be used here: it leaves 0.49 USD to pay, and Stripe charges 0.50 USD at least."
        )
    assert own.api.coupons.list(None, own.at).data == []


async def test_a_code_is_found_by_its_letters_and_where_several_have_them_by_its_id(house: House) -> None:
    letters = f"AUTUMN-{next(KEYS)}"
    ours = await code(house, code=letters)
    taken = {"code": letters, "enterprise_id": "second", "percent_off": "10"}
    refused = await house.market.call("POST", "/promo-codes", taken)  # another app of the same creator, on one account
    assert (refused.status_code, refused.json()["error"]["param"]) == (409, "code")
    assert f"{ours['id']} (shop)" in refused.json()["error"]["message"]
    path = f"/promo-codes/{letters.lower()}"
    assert (await house.market.ok("GET", f"{path}/redemptions"))["data"] == []
    platforms = await code(house, code=letters, enterprise_id=None)
    bobs = await code(house, code=letters, enterprise_id="bobs")
    for method, asked in (("DELETE", path), ("GET", f"{path}/redemptions")):
        refused = await house.market.call(method, asked)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "promo_code_id")
        named = (f"{ours['id']} (shop)", f"{platforms['id']} (the platform)", f"{bobs['id']} (bobs)")
        assert all(name in refused.json()["error"]["message"] for name in named)
    # Creators see their own alone, and what has ended stands back behind what has not.
    assert (await house.market.ok("DELETE", path, role="bob"))["id"] == bobs["id"]
    assert (await house.market.ok("DELETE", path, role=Role.CREATOR))["id"] == ours["id"]
    assert (await house.market.ok("DELETE", path))["id"] == platforms["id"]
    assert (await house.market.ok("DELETE", path, role="bob"))["ended_at"] is not None
    again = await code(house, code=letters, enterprise_id="bobs")
    assert (await house.market.ok("GET", f"{path}/redemptions", role="bob"))["data"] == []
    assert (await house.market.ok("DELETE", path, role="bob"))["id"] == again["id"]
    assert await house.market.refused("DELETE", path, role="bob") == (400, "invalid_request", "promo_code_id")
    for none in ("NO-SUCH", "promo_none", "%C2%A7"):
        assert await house.market.refused("DELETE", f"/promo-codes/{none}") == (404, "not_found", "promo_code_id")


async def test_a_trial_redeems_nothing_and_what_is_paid_after_it_costs_less(house: House, own: Own) -> None:
    plan = await house.market.plan(MONTHLY, trial_days=7)
    said, owner = await code(house, percent_off=50, duration="forever", first_purchase_only=True), f"u{next(KEYS)}"
    page = await opened(house, plan, owner, said)
    subscription = house.control.pay(own.account, page["id"])["session"]["subscription"]
    package = await house.market.plan(PACKAGE)
    assert await refused(house, package, said["code"], owner) == (400, "promo_code_refused", "promo_code")
    assert await own.reasons() == set()
    assert (await house.available(owner), await redeemed(house, said)) == (10_000_000, [])
    assert await refused(house, package, said["code"], owner) == (400, "promo_code_refused", "promo_code")
    house.control.advance(8 * DAY)
    assert await own.reasons() == set()
    assert await redeemed(house, said) == [(15_000_000, 15_000_000, 5_000_000)]
    assert await house.available(owner) == 20_000_000  # the trial's too: it ends a day after its last one, by our clock
    assert abs((await books(house))["due_to_platform/USD"]) == 1_500_000
    own.api.subscriptions.cancel(subscription, None, own.at)


async def test_more_of_a_thing_than_was_offered_is_not_sold_with_a_code(house: House, own: Own) -> None:
    package, monthly, said = await house.market.plan(PACKAGE), await house.market.plan(MONTHLY), await code(house)
    for plan in (package, monthly):
        owner = f"crony{next(KEYS)}"
        page = await opened(house, plan, owner, said)
        session = own.api.checkout.sessions.retrieve(page["id"], {"expand": ["line_items"]}, own.at)
        metadata, price = dict(session.metadata.to_dict()), session.line_items.data[0].price.id
        (promotion,) = own.api.promotion_codes.list(None, own.at).data
        of: Any = {"payment_intent_data" if plan == package else "subscription_data": {"metadata": metadata}}
        wish: Any = {"mode": session.mode, "line_items": [{"price": price, "quantity": 3}], "metadata": metadata}
        wish |= {"success_url": URLS["success_url"], "discounts": [{"promotion_code": promotion.id}], **of}
        done = house.control.pay(own.account, own.api.checkout.sessions.create(wish, own.at).id)["session"]
        (why,) = await own.reasons()
        assert ("it paid 2248 USD" if plan == package else "a line of it is 9000 USD") in why
        assert (await house.available(owner), await redeemed(house, said)) == (0, [])
        if done["subscription"]:
            own.api.subscriptions.cancel(done["subscription"], None, own.at)


SOLD = ("checkout.session.completed", "payment_intent.succeeded", "invoice.paid", "customer.subscription.created")
TOLD = (*SOLD, "customer.subscription.deleted", "refund.created", "charge.dispute.created", "charge.dispute.closed")


async def sold_with_codes(house: House, own: Own) -> list[dict[str, Any]]:
    """A bit of everything at Stripe that was bought with a code, without a word from there. The codes."""
    package, monthly = await house.market.plan(PACKAGE), await house.market.plan(MONTHLY)
    part = await code(house)
    whole = await code(house, percent_off="100", first_purchase_only=True)
    half = await code(house, percent_off="50")
    bought = {}
    firsts = [("ann", package, part), ("bob", package, part), ("cy", package, whole), ("dee", monthly, half)]
    for name, plan, said in (*firsts, ("eve", monthly, whole), ("fay", package, part)):
        page = await opened(house, plan, f"{name}-{half['code']}", said)
        bought[name] = house.control.pay(own.account, page["id"])["session"]
    house.control.refund_in_dashboard(own.account, bought["ann"]["payment_intent"], 250)
    for name, won in (("bob", True), ("fay", False)):
        charge = own.api.payment_intents.retrieve(bought[name]["payment_intent"], None, own.at).latest_charge
        dispute = house.control.dispute(own.account, str(charge))["id"]
        house.control.close_dispute(own.account, dispute, won=won)
    for name in ("dee", "eve"):
        own.api.subscriptions.cancel(bought[name]["subscription"], None, own.at)
    return [part, whole, half]


@pytest.mark.parametrize("how", ["told", "doubled", "lost"])
async def test_whatever_becomes_of_the_webhooks_the_books_say_the_same_of_codes(house: House, own: Own, how: str) -> None:
    house.seen = len(house.control.events())
    codes = await sold_with_codes(house, own)
    if how == "lost":
        events = house.control.events()
        house.seen = len(events)
        # By Stripe's clock here; what was given away is found by its page, once nobody can be on it any more.
        house.clock.ahead_ms = (events[-1]["created"] - int(time.time())) * 1000 + 49 * HOURS
        for made_up in (5, 0):
            looked = await house.reconciler().run()
            assert looked.ok, looked
            assert looked.made_up == made_up, looked
    elif how == "doubled":
        events = [each for each in house.control.events()[house.seen :] if each["type"] in TOLD]
        for number, event in enumerate([*events[::-1], *events]):
            body = json.dumps({**event, "id": f"{event['id']}-{number}"})
            assert await house.inbox.receive("connect", body.encode(), signature(body, [SECRET], int(time.time())))
            if number % 5 == 4:
                await house.inbox.work()
        await house.inbox.work()
    else:
        await house.told(*TOLD)
        await house.inbox.work()
    assert await house.rows.events("failed", None, 10) == []
    names = [f"{name}-{codes[2]['code']}" for name in ("ann", "bob", "cy", "dee", "eve", "fay")]
    left = 10_000_000 - 10_000_000 * 250 // 749
    assert [await house.available(name) for name in names] == [left, 10_000_000, 10_000_000, 10_000_000, 10_000_000, 0]
    off, given = (2_500_000, 7_490_000), 10_000_000 - 10_000_000 * 749 // 999
    assert await redeemed(house, codes[0]) == [(*off, given)] * 3
    assert sorted(await redeemed(house, codes[1])) == [(9_990_000, 0, 10_000_000), (30_000_000, 0, 10_000_000)]
    assert await redeemed(house, codes[2]) == [(15_000_000, 15_000_000, 5_000_000)]
    held = await books(house)
    promo = 2 * given - given * (10_000_000 - left) // 10_000_000 + 20_000_000 + 5_000_000
    assert (abs(held["expense.promo/USD"]), held["disputes/USD"]) == (promo, 7_490_000)
    assert abs(held["due_to_platform/USD"]) == fees(house) * 10_000
    rows = (await house.market.ok("GET", "/purchases", enterprise_id="shop"))["data"]
    assert [row["status"] for row in rows] == ["paid"] * 4

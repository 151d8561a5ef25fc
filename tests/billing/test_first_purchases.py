"""Codes for a first purchase are redeemed by one purchase of a buyer, any code as often as it can be. On the fake of Stripe."""

import asyncio
import itertools
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.billing.effects import Effects
from gateway.billing.first_purchases import FirstPurchases
from gateway.billing.model import PurchaseState
from gateway.billing.promo_codes import Discount, PromoCodeRefused
from gateway.core.errors import Conflict
from gateway.db.tables import APP_SALES, PLATFORM_SALES, promo_codes
from gateway.identity.model import Role
from gateway.ledger.model import WalletKey
from tests.billing.inside import Died, House, Mortal
from tests.billing.inside import house as house
from tests.billing.market import KEYS, MONTHLY, PACKAGE, URLS
from tests.billing.test_believed import Own
from tests.billing.test_believed import own as own
from tests.billing.test_promo_codes import CREATORS, PLATFORM, code, opened, redeemed
from tests.fake_stripe.control import Refused

NO = (400, "promo_code_refused", "promo_code")
WHOLE = {"percent_off": "100", "first_purchase_only": True}
LATE = ("promo code", "is for a first purchase, and this buyer's was another one")


class Level:
    """Who sells, on which account, and who buys: an end user of alice's app, or alice."""

    def __init__(self, house: House, is_app: bool) -> None:
        self.house = house
        self.seller = "shop" if is_app else None
        self.account = house.market.account if is_app else PLATFORM
        self.wallet = WalletKey(f"u{next(KEYS)}", "shop") if is_app else WalletKey("alice")
        self.who = {"platform_user_id": self.wallet.owner} if is_app else {}
        self.role = Role.OPERATOR if is_app else Role.CREATOR

    async def code(self, **terms: Any) -> dict[str, Any]:
        return await code(self.house, enterprise_id=self.seller, **terms)

    async def plan(self, body: dict[str, Any], **more: Any) -> str:
        return await self.house.market.plan({**body, "enterprise_id": self.seller}, **more)

    async def open(self, plan: str, said: dict[str, Any], **more: Any) -> Any:
        return await self.house.market.checkout(plan, role=self.role, promo_code=said["code"], **self.who, **more)

    async def asked(self, plan: str, said: dict[str, Any]) -> Any:
        wish = {"plan_id": plan, "promo_code": said["code"], **URLS, **self.who}
        return await self.house.market.call("POST", "/checkout-sessions", wish, role=self.role)

    async def pay(self, page: dict[str, Any]) -> dict[str, Any]:
        """The session, once it was paid on."""
        done: dict[str, Any] = await asyncio.to_thread(self.house.control.pay, self.account, page["id"])
        assert done["refused"] is None, done
        return dict(done["session"])

    def status(self, page: dict[str, Any]) -> str:
        account = "" if self.seller is None else self.account
        return str(self.house.market.at_stripe("checkout.sessions", page["id"], account).status)

    async def available(self) -> int:
        return (await self.house.api.wallets.view(self.wallet)).available_micro

    async def as_before(self) -> None:
        """The next page is opened as by a version that kept no first purchases."""
        table = (APP_SALES if self.seller else PLATFORM_SALES)["first_purchases"]
        await self.house.market.write(sa.delete(table), self.seller)


@pytest.fixture(params=["app_usage", "platform"])
def level(request: pytest.FixtureRequest, house: House, own: Own) -> Level:
    return Level(house, request.param == "app_usage")


async def test_of_the_pages_for_a_first_purchase_only_the_last_can_be_paid_on(house: House, level: Level) -> None:
    package, monthly = await level.plan(CREATORS), await level.plan(MONTHLY)
    whole, most = await level.code(**WHOLE), await level.code(percent_off="90", first_purchase_only=True)
    before, pages = await level.available(), []
    for plan, said in ((package, whole), (package, whole), (monthly, whole), (package, most), (monthly, most), (package, whole)):
        pages.append(await level.open(plan, said))
        assert [level.status(page) for page in pages] == ["expired"] * (len(pages) - 1) + ["open"]
    for page in pages[:-1]:
        with pytest.raises(Refused):
            house.control.pay(level.account, page["id"])
    await level.pay(pages[-1])
    for plan in (package, monthly):  # it was used, and nobody has told yet
        assert (await level.asked(plan, most)).json()["error"]["code"] == "promo_code_refused"
    for _ in range(2):
        await house.effects().checkout("" if level.seller is None else level.account, pages[-1]["id"])
    assert await level.available() - before == 10_000_000
    assert (await level.asked(package, whole)).status_code == 400
    assert await redeemed(house, whole) == [(10_000_000, 0, 10_000_000)]
    assert await redeemed(house, most) == []


async def test_of_pages_that_are_asked_for_at_once_one_is_left(house: House, level: Level) -> None:
    plan, said = await level.plan(CREATORS), await level.code(**WHOLE)
    before = await level.available()
    answers = await asyncio.gather(*[level.asked(plan, said) for _ in range(5)])
    assert {answer.status_code for answer in answers} <= {201, 409}
    pages = [answer.json() for answer in answers if answer.status_code == 201]
    left = [page for page in pages if level.status(page) == "open"]
    rows: Any = house.control.client().v1.checkout.sessions.list
    at = {"stripe_account": level.account} if level.seller else {}
    at_stripe = [row.id for row in rows({"limit": 100}, at).data if row.status == "open"]
    assert len(left) == 1
    if level.seller is not None:  # an account of this test's own
        assert at_stripe == [left[0]["id"]]
    await level.pay(left[0])
    await house.effects().checkout("" if level.seller is None else level.account, left[0]["id"])
    assert await level.available() - before == 10_000_000


async def test_a_page_that_is_made_while_another_is_asked_for_is_shown_to_nobody(house: House, own: Own) -> None:
    store, wallet = house.api.billing.store, WalletKey(f"u{next(KEYS)}", "shop")
    plan, discount = await house.market.plan(PACKAGE), Discount("promo_x", "promo_1", 0, first_purchase_only=True)
    firsts = FirstPurchases(store, house.payments, house.clock)
    is_making, go_on = asyncio.Event(), asyncio.Event()

    async def make() -> Any:
        page = await house.market.checkout(plan, role=Role.OPERATOR, platform_user_id=wallet.owner)
        return await house.payments.checkout_session(own.account, page["id"])

    async def slow() -> Any:
        is_making.set()
        await go_on.wait()
        return await make()

    first = asyncio.ensure_future(firsts.page(wallet, own.account, discount, "a", slow))
    await is_making.wait()
    second = await firsts.page(wallet, own.account, discount, "b", make)
    go_on.set()
    with pytest.raises(Conflict):
        await first
    states = {row.id: row.status for row in own.api.checkout.sessions.list(None, own.at).data}
    assert states.pop(second.session_id) == "open"
    assert list(states.values()) == ["expired"]
    # The same request again finds its page, and after another one's finds it closed.
    assert (await firsts.page(wallet, own.account, discount, "b", lambda: _known(second))).status == "open"
    third = await firsts.page(wallet, own.account, discount, "c", make)
    again = await firsts.page(wallet, own.account, discount, "b", lambda: _known(second))
    assert (again.session_id, again.status, third.status) == (second.session_id, "expired", "open")
    third = await firsts.page(wallet, own.account, discount, "d", make)
    await asyncio.to_thread(house.control.pay, own.account, third.session_id)
    with pytest.raises(PromoCodeRefused):
        await firsts.page(wallet, own.account, discount, "e", make)


async def _known(page: Any) -> Any:
    """Stripe's answer to what it was asked before."""
    return page


async def test_what_was_opened_before_is_given_away_once_and_what_money_paid_is_granted(house: House, level: Level) -> None:
    plan, before = await level.plan(CREATORS), await level.available()
    account = "" if level.seller is None else level.account
    whole, most = await level.code(**WHOLE), await level.code(percent_off="90", first_purchase_only=True)
    pages = []
    for said in (whole, whole, whole, most, most):
        pages.append(await level.open(plan, said))
        await level.as_before()
    for page in pages[:3]:
        await level.pay(page)
    acting = [house.effects().checkout(account, page["id"]) for page in pages[:3]]
    refused = [str(each) for each in await asyncio.gather(*acting, return_exceptions=True) if each is not None]
    assert len(refused) == 2
    assert all(part in why for part in LATE for why in refused)
    assert await level.available() - before == 10_000_000
    for page in pages[:3]:  # told again, in whatever order: the same one
        await asyncio.gather(house.effects().checkout(account, page["id"]), return_exceptions=True)
    assert await level.available() - before == 10_000_000
    bought = house.api.billing.store
    states = [(await bought.purchase(level.seller, page["purchase_id"])).state for page in pages[:3]]  # type: ignore[union-attr]
    assert sorted(states) == [PurchaseState.FAILED, PurchaseState.FAILED, PurchaseState.PAID]
    assert len(await redeemed(house, whole)) == 1
    if level.seller is not None:  # Stripe itself knows first transactions, of a customer, by their charges
        await level.pay(pages[3])
        await house.effects().checkout(account, pages[3]["id"])
        assert await level.available() - before == 20_000_000
        assert await redeemed(house, most) == [(9_000_000, 1_000_000, 9_000_000)]


async def test_a_subscription_that_is_not_the_first_purchase_is_not_given_away(house: House, own: Own) -> None:
    level = Level(house, is_app=True)
    package, monthly, said = await level.plan(PACKAGE), await level.plan(MONTHLY), await level.code(**WHOLE, duration="forever")
    first = await level.open(monthly, said)
    await level.as_before()
    page = await level.open(package, said)
    for each in (page, first):
        await level.pay(each)
    await house.effects().checkout(own.account, page["id"])
    (why,) = await own.reasons()
    assert all(part in why for part in LATE)
    assert await level.available() == 10_000_000
    assert len(await redeemed(house, said)) == 1
    subscription = house.market.at_stripe("checkout.sessions", first["id"]).subscription
    own.api.subscriptions.cancel(subscription, None, own.at)
    # The other way round it goes on, period by period.
    level = Level(house, is_app=True)
    first = await level.open(monthly, said)
    subscription = (await level.pay(first))["subscription"]
    assert (await level.asked(package, said)).status_code == 400
    assert await own.reasons() == set()
    table = APP_SALES["first_purchases"]  # as the upgrade finds it where two had redeemed a code, and this was the later
    await house.market.write(sa.update(table).where(table.c.owner == level.wallet.owner).values(ref="pur_another"))
    house.control.advance(31 * 86_400)
    house.control.advance(2 * 3600)
    assert await own.reasons() == set()
    assert len(await redeemed(house, said)) == 3
    assert await level.available() == 20_000_000
    assert (await level.asked(package, said)).status_code == 400
    own.api.subscriptions.cancel(subscription, None, own.at)


async def test_a_process_that_dies_once_the_code_is_redeemed_grants_when_it_is_told_again(house: House, own: Own) -> None:
    level = Level(house, is_app=True)
    page = await level.open(await level.plan(PACKAGE), await level.code(**WHOLE, max_redemptions=1))
    await level.pay(page)
    wallets: Any = Mortal(house.api.wallets, itertools.count(1), 1)
    dying = Effects(house.payments, house.api.billing.store, house.rows, wallets, house.api.ledger, house.clock)
    with pytest.raises(Died):
        await dying.checkout(own.account, page["id"])
    assert await level.available() == 0
    assert await own.reasons() == set()
    assert await level.available() == 10_000_000


async def test_a_bank_that_refuses_days_later_leaves_the_first_purchase_to_be_made(house: House, own: Own) -> None:
    level = Level(house, is_app=True)
    plan, said = await level.plan(PACKAGE), await level.code(percent_off="50", first_purchase_only=True)
    page = await level.open(plan, said)
    done = house.control.pay(own.account, page["id"], "pm_usBankAccount_success")["session"]
    assert (await level.asked(plan, said)).status_code == 400
    house.control.settle(own.account, done["payment_intent"], False)
    other = await level.open(plan, said)
    await level.pay(other)
    assert await own.reasons() == set()
    assert await level.available() == 10_000_000


async def test_what_is_given_away_redeems_a_code_as_often_as_it_can_be(house: House, own: Own) -> None:
    plan, said = await house.market.plan(PACKAGE), await code(house, percent_off="100")
    owners = [f"u{next(KEYS)}" for _ in range(4)]
    pages = [await opened(house, plan, owner, said) for owner in owners]
    rule = promo_codes.c.id == said["id"]
    await house.market.write(sa.update(promo_codes).where(rule).values(redemptions_max=2), None)  # and at Stripe it is not
    for page in pages:
        house.control.pay(own.account, page["id"])
    paths = [house.effects().checkout(own.account, page["id"]) for page in pages]
    outcomes = await asyncio.gather(*paths, return_exceptions=True)
    refused = [str(each) for each in outcomes if each is not None]
    assert len(refused) == 2
    assert all("was redeemed as often as it can be" in why for why in refused)
    assert sorted([await house.available(owner) for owner in owners]) == [0, 0, 10_000_000, 10_000_000]
    assert len(await redeemed(house, said)) == 2

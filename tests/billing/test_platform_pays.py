"""Apps whose usage the platform pays for: their creators hold the account at Stripe, and give nothing away of that."""

from typing import Any

import pytest

from gateway.ledger.audit import audit
from gateway.ledger.model import WalletKey
from tests.billing.inside import House
from tests.billing.inside import house as house
from tests.billing.market import KEYS, MONTHLY, PACKAGE
from tests.billing.test_believed import Own

PRICE_MINOR = 3000


@pytest.fixture
async def own(house: House) -> Own:
    """Alice with such an app, `theirs`, of whose sales the platform has a tenth."""
    made = {"enterprise_id": "theirs", "user_id": "alice", "name": "Theirs", "asset": "USD", "cost_policy": "platform_pays"}
    await house.market.ok("POST", "/apps", made, 201)
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "10"}, 201)
    house.control.catch_up()
    return Own(house)


async def left(house: House, owner: str) -> int:
    return (await house.api.wallets.view(WalletKey(owner, "theirs"))).available_micro


async def clean(house: House) -> None:
    report = await audit(house.api.databases, ["shop", "second", "bobs", "theirs"], None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]


@pytest.mark.parametrize(("credit_minor", "granted"), [(0, 10_000_000), (PRICE_MINOR // 2, 5_000_000), (PRICE_MINOR, 0)])
async def test_a_subscription_grants_what_money_paid_and_not_what_its_creator_gave(
    house: House, own: Own, credit_minor: int, granted: int
) -> None:
    plan = await house.market.plan({**MONTHLY, "enterprise_id": "theirs"})
    owner = f"crony{next(KEYS)}"
    page = await house.market.checkout(plan, role="operator", platform_user_id=f"honest{next(KEYS)}")
    price = own.api.checkout.sessions.retrieve(page["id"], {"expand": ["line_items"]}, own.at).line_items.data[0].price.id
    customer = own.api.customers.create({"balance": -credit_minor, "payment_method": "pm_card_visa"}, own.at)
    method = own.api.payment_methods.attach("pm_card_visa", {"customer": customer.id}, own.at).id
    wish: dict[str, Any] = {
        "customer": customer.id,
        "items": [{"price": price}],
        "metadata": {"mozaiks_app": "theirs", "mozaiks_owner": owner, "mozaiks_plan": plan},
        "default_payment_method": method,
        "application_fee_percent": 10,
    }
    own.api.subscriptions.create(wish, own.at)
    assert await own.reasons() == set()
    assert await left(house, owner) == granted
    await clean(house)


async def test_nothing_is_granted_for_trying(house: House, own: Own) -> None:
    wish = {**MONTHLY, "enterprise_id": "theirs", "trial_days": 7}
    assert await house.market.refused("POST", "/plans", wish) == (400, "invalid_request", "trial_days")
    wish = {**MONTHLY, "enterprise_id": "theirs", "overage": {"max_micro": 5_000_000}}
    assert await house.market.refused("POST", "/plans", wish) == (400, "invalid_request", "overage")


async def test_its_operator_refunds_and_a_refund_of_its_creators_keeps_the_platforms_share(house: House, own: Own) -> None:
    plan = await house.market.plan({**PACKAGE, "enterprise_id": "theirs"})
    kept = []
    for who in ("operator", "dashboard"):
        owner = f"{who}{next(KEYS)}"
        intent = await house.buy(plan, owner)
        assert await own.reasons() == set()
        asked = {"enterprise_id": "theirs", "payment_id": intent, "reason": "as asked"}
        assert (await house.market.refused("POST", "/refunds", asked, role="creator"))[:2] == (403, "forbidden")
        if who == "operator":
            await house.market.ok("POST", "/refunds", asked, 201)
        else:
            house.control.refund_in_dashboard(own.account, intent, 999)
        assert await own.reasons() == set()
        assert await left(house, owner) == 0
        fees = house.control.state()["acct_1FakePlatform00"]["application_fee"]
        kept.append([fee["amount"] - fee["amount_refunded"] for fee in fees if fee["account"] == own.account][-1])
    assert kept == [0, 100]
    await clean(house)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_payment_that_its_creator_names_as_another_apps_is_not_refunded_as_that(
    house: House, own: Own, is_known: bool
) -> None:
    """With the platform's share. Before the books have it, what is written on it is believed for an operator alone."""
    intent = await house.buy(await house.market.plan({**PACKAGE, "enterprise_id": "theirs"}), f"crony{next(KEYS)}")
    if is_known:
        assert await own.reasons() == set()
    own.api.payment_intents.update(intent, {"metadata": {"mozaiks_app": "shop"}}, own.at)
    asked = {"enterprise_id": "shop", "payment_id": intent}
    refused = await house.market.refused("POST", "/refunds", asked, role="creator")
    assert refused[:2] == ((404, "not_found") if is_known else (409, "conflict"))
    assert own.api.refunds.list({"payment_intent": intent}, own.at).data == []
    await house.buy(await house.market.plan(MONTHLY), f"ann{next(KEYS)}")
    assert (await own.reasons() == set()) == is_known
    paid = own.api.payment_intents.list({"limit": 1}, own.at).data[0]
    asked = {"enterprise_id": "shop", "payment_id": paid.id}
    back = await house.market.ok("POST", "/refunds", asked, 201, role="creator")
    assert (back["amount_micro"], back["applied"]) == (paid.amount * 10_000, False)
    assert await own.reasons() == set()
    await clean(house)

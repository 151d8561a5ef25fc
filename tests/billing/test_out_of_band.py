"""Invoices that their seller calls paid elsewhere, as by bank transfer, and those that several payments paid.

Stripe believes whoever owns the account. Where the platform pays for the usage that is worth nothing; elsewhere it is a gift.
"""

from typing import Any

import pytest

from gateway.core.words import LotSource
from gateway.ledger.model import WalletKey
from tests.billing.inside import House
from tests.billing.inside import house as house
from tests.billing.market import KEYS, MONTHLY, PACKAGE
from tests.billing.test_believed import Own
from tests.billing.test_platform_pays import clean
from tests.billing.test_platform_pays import own as own

WITHHELD = "it was paid out of band, and the platform, who pays for this app's usage, has seen nothing of it"
GRANT = 10_000_000  # of MONTHLY, for 30 dollars
APPS = {"theirs": "the platform's cost", "shop": "the creator's"}


class Desk:
    """Alice at her dashboard, with a subscription whose invoice is not paid yet: it is sent, as transfers want it."""

    def __init__(self, own: Own, at: Any, plan: str, owner: str, app: str | None, fee: float | None = 10) -> None:
        self.own, self.api, self.at = own, own.api, at
        self.owner, self.app = owner, app
        (price,) = [row.id for row in self.api.prices.list({"lookup_keys": [plan]}, at).data]
        self.customer = self.api.customers.create({}, at).id
        metadata = {"mozaiks_owner": owner, "mozaiks_plan": plan} | ({"mozaiks_app": app} if app else {})
        wish: dict[str, Any] = {"customer": self.customer, "items": [{"price": price}], "metadata": metadata}
        wish |= {"collection_method": "send_invoice", "days_until_due": 30} | ({"application_fee_percent": fee} if fee else {})
        self.invoice = str(self.api.subscriptions.create(wish, at).latest_invoice)

    def calls_it_paid(self) -> None:
        self.api.invoices.pay(self.invoice, {"paid_out_of_band": True}, self.at)

    def reports(self, amount: int) -> None:
        """A part of it, paid elsewhere."""
        asked = {"value": amount, "currency": "usd"}
        made = {"initiated_at": 1, "outcome": "guaranteed", "payment_method_details": {"type": "custom"}}
        record = self.api.payment_records.report_payment({"amount_requested": asked, **made}, self.at).id
        self.api.invoices.attach_payment(self.invoice, {"payment_record": record}, self.at)

    def attaches(self, intent: str) -> None:
        self.api.invoices.attach_payment(self.invoice, {"payment_intent": intent}, self.at)

    def is_paid_by_card(self) -> str:
        """What is left of it, by the buyer."""
        self.api.payment_methods.attach("pm_card_visa", {"customer": self.customer}, self.at)
        wish = {"payment_method": "pm_card_visa", "expand": ["payments"]}
        paid = self.api.invoices.pay(self.invoice, wish, self.at)
        return next(str(row.payment.payment_intent) for row in paid.payments.data if row.is_default)


async def desk(house: House, own: Own, app: str, fee: float | None = 10) -> Desk:
    plan = await house.market.plan({**MONTHLY, "enterprise_id": app})
    await house.market.checkout(plan, role="operator", platform_user_id=f"page{next(KEYS)}")  # which makes the price
    return Desk(own, own.at, plan, f"crony{next(KEYS)}", app, fee)


async def balance(house: House, desk: Desk) -> int:
    return (await house.api.wallets.view(WalletKey(desk.owner, desk.app))).available_micro


async def lots(house: House, desk: Desk) -> list[tuple[str, int]]:
    found = (await house.api.wallets.view(WalletKey(desk.owner, desk.app))).lots
    return sorted((lot.source, lot.granted_micro) for lot in found)


async def reasons_in_books(house: House, desk: Desk) -> list[str]:
    wanted: dict[str, Any] = {"enterprise_id": desk.app} if desk.app else {}
    rows = (await house.market.ok("GET", "/ledger/transactions", limit=100, **wanted))["data"]
    return [row["reason"] for row in rows if desk.invoice in (row["reason"] or "")]


async def given(house: House, app: str) -> int:
    """What the app's book has as given, in all."""
    rows = (await house.market.ok("GET", "/ledger/accounts", enterprise_id=app, limit=200))["data"]
    return -sum(int(row["balance_micro"]) for row in rows if row["account"] == "expense.promo")


async def learnt(house: House, own: Own, told: bool) -> tuple[set[str], set[str]]:
    """(why webhooks failed, why they were passed over), or the same of what a look at Stripe finds."""
    if told:
        failed = await own.reasons()
        ignored = {row.reason for row in await house.rows.events("ignored", None, 100)}
        return failed, ignored
    looked = await house.reconciler().run()
    return set(looked.reasons), {note.rpartition(": ")[2] for note in looked.notes}


@pytest.mark.parametrize("told", [True, False], ids=["webhook", "reconciler"])
@pytest.mark.parametrize("app", APPS, ids=APPS.get)
async def test_an_invoice_that_is_called_paid_is_nothing_of_the_platforms_and_a_gift_of_its_sellers(
    house: House, own: Own, app: str, told: bool
) -> None:
    at = await desk(house, own, app)
    at.calls_it_paid()
    failed, passed_over = await learnt(house, own, told)
    assert failed == set()
    if app == "theirs":
        assert (await balance(house, at), await lots(house, at)) == (0, [])
        assert WITHHELD in passed_over
    else:
        assert (await balance(house, at), await lots(house, at)) == (GRANT, [(LotSource.PROMO, GRANT)])
        (reason,) = await reasons_in_books(house, at)
        assert reason.endswith(f"invoice {at.invoice}, 30.00 USD of it paid out of band")
    assert (await house.reconciler().run()).ok
    await clean(house)


@pytest.mark.parametrize("told", [True, False], ids=["webhook", "reconciler"])
@pytest.mark.parametrize("app", APPS, ids=APPS.get)
async def test_of_one_that_was_paid_in_part_the_card_buys_its_part_and_a_refund_takes_it_back(
    house: House, own: Own, app: str, told: bool
) -> None:
    at, before = await desk(house, own, app), await given(house, app)
    at.reports(1500)
    assert (await learnt(house, own, told))[0] == set()
    assert await balance(house, at) == 0, "half of it is not paid yet"
    intent = at.is_paid_by_card()
    assert (await learnt(house, own, told))[0] == set()
    granted = GRANT // 2 if app == "theirs" else GRANT
    assert await lots(house, at) == [(LotSource.PAID, granted)]
    assert await given(house, app) - before == granted - GRANT // 2
    standing = await house.api.ledger.payments.standing(WalletKey(at.owner, at.app), intent)
    assert standing is not None
    assert (standing.asset, standing.paid_micro, standing.fee_micro) == ("USD", 15_000_000, 1_500_000)
    house.control.refund_in_dashboard(own.account, intent, 500)
    assert (await learnt(house, own, told))[0] == set()
    assert await balance(house, at) == granted - granted * 500 // 1500
    house.control.refund_in_dashboard(own.account, intent, 1000)
    assert (await learnt(house, own, told))[0] == set()
    assert await balance(house, at) == 0
    assert await given(house, app) == before
    await clean(house)


async def no_share(house: House) -> None:
    """From here on the platform takes nothing, of which alone payments can be that she makes by herself."""
    for app in APPS:
        await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "enterprise_id": app, "fee_percent": "0"}, 201)
    house.control.catch_up()


@pytest.mark.parametrize("app", APPS, ids=APPS.get)
async def test_each_of_several_payments_has_what_it_bought_and_loses_that_when_it_goes_back(
    house: House, own: Own, app: str
) -> None:
    await no_share(house)
    at = await desk(house, own, app, fee=None)
    first, second = own.pays(1000, "usd", {}), own.pays(500, "usd", {})
    at.attaches(first)
    at.attaches(second)
    at.reports(600)
    rest = at.is_paid_by_card()
    assert await own.reasons() == set()
    # Of 30 dollars 24 came, and the gift of the others goes with them, where it is one.
    whole = GRANT * 24 // 30 if app == "theirs" else GRANT
    assert len(await lots(house, at)) == 3
    assert await balance(house, at) == whole
    gone = 0
    for intent, minor in ((first, 1000), (rest, 900), (second, 500)):
        before = await balance(house, at)
        house.control.refund_in_dashboard(own.account, intent)
        assert await own.reasons() == set()
        taken = before - await balance(house, at)
        assert abs(taken - whole * minor // 2400) <= 1
        gone += taken
    assert gone == whole
    looked = await house.reconciler().run()
    assert (looked.ok, looked.made_up) == (True, 0), looked
    await clean(house)


async def test_a_payment_buys_once_and_one_that_had_gone_back_buys_nothing(house: House, own: Own) -> None:
    await no_share(house)
    package = await house.market.plan({**PACKAGE, "enterprise_id": "theirs", "price_micro": 30_000_000})
    used = await house.buy(package, f"buyer{next(KEYS)}")
    assert await own.reasons() == set()
    back = own.pays(3000, "usd", {})
    house.control.refund_in_dashboard(own.account, back, 2999)
    lost = own.pays(3000, "usd", {})
    charge = house.control.client().v1.payment_intents.retrieve(lost, None, {"stripe_account": own.account}).latest_charge
    dispute = house.control.dispute(own.account, str(charge))["id"]
    house.control.close_dispute(own.account, dispute, False)
    await own.reasons()
    for intent, why in (
        (lost, f"its payment {lost} had been disputed"),
        (used, f"its payment {used} has bought something else"),
        (back, f"of its payment {back} 2999 USD had been given back"),
    ):
        at = await desk(house, own, "theirs", fee=None)
        at.attaches(intent)
        assert await own.reasons() == {why}
        assert await lots(house, at) == []
    await clean(house)


async def test_what_goes_back_of_an_invoice_that_is_not_paid_yet_counts_once_it_is(house: House, own: Own) -> None:
    await no_share(house)
    at = await desk(house, own, "shop", fee=None)
    part = own.pays(1000, "usd", {})
    at.attaches(part)
    house.control.refund_in_dashboard(own.account, part, 400)
    assert await own.reasons() == set()
    looked = await house.reconciler().run()
    assert (looked.ok, await lots(house, at)) == (True, []), looked
    at.is_paid_by_card()
    for _ in range(2):
        looked = await house.reconciler().run()
        assert looked.ok, looked
        assert await balance(house, at) == GRANT - GRANT * 400 // 3000
    await clean(house)


async def test_payments_without_the_platforms_share_are_not_taken_for_some_with_it(house: House, own: Own) -> None:
    at = await desk(house, own, "shop")
    at.attaches(own.pays(1000, "usd", {}))
    at.is_paid_by_card()
    assert await own.reasons() == {"the platform's share of it is 200 USD of 3000, and the terms say 10 %"}
    assert await lots(house, at) == []


async def test_at_the_platform_itself_a_transfer_is_granted_and_the_books_have_no_money_of_it(house: House, own: Own) -> None:
    plan = await house.market.plan({name: value for name, value in MONTHLY.items() if name != "enterprise_id"})
    await house.market.checkout(plan, role="operator", user_id="bob")
    at = Desk(own, {}, plan, "alice", None, fee=None)
    before = await balance(house, at)
    at.calls_it_paid()
    looked = await house.reconciler().run()
    assert (looked.ok, looked.made_up) == (True, 1), looked
    assert await balance(house, at) - before == GRANT
    (reason,) = await reasons_in_books(house, at)
    assert reason.endswith("30.00 USD of it paid out of band")
    found = (await house.api.wallets.view(WalletKey("alice", None))).lots
    assert [lot.source for lot in found if lot.external_ref == at.invoice] == [LotSource.PROMO]
    await clean(house)

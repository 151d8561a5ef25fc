"""What a creator does in its own dashboard at Stripe grants nothing that was not sold here, and hides nothing that went back."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.billing.model import Account
from gateway.billing.ports import DisputeFacts
from gateway.billing.sellers import Rejected
from gateway.db.tables import APP_SALES, billing_accounts
from gateway.trail.model import Act
from tests.billing.inside import House
from tests.billing.inside import house as house
from tests.billing.market import KEYS, MONTHLY, PACKAGE

DAY_MS = 86_400_000


class Own:
    """Alice, with the key of her own account."""

    def __init__(self, house: House) -> None:
        self.house, self.account = house, house.market.account
        self.api: Any = house.control.client().v1
        self.at: Any = {"stripe_account": self.account}

    def pays(self, amount: int, currency: str, metadata: dict[str, str]) -> str:
        """A payment that she makes by herself."""
        wish = {"amount": amount, "currency": currency, "payment_method": "pm_card_visa", "confirm": True, "metadata": metadata}
        return str(self.api.payment_intents.create({**wish, "payment_method_types": ["card"]}, self.at).id)

    def subscribes(self, price: str, metadata: dict[str, str], **more: Any) -> str:
        customer = self.api.customers.create({"payment_method": "pm_card_visa"}, self.at)
        self.api.payment_methods.attach("pm_card_visa", {"customer": customer.id}, self.at)
        method = self.api.payment_methods.list({"customer": customer.id}, self.at).data[0].id
        items = [{"price": price, "quantity": more.pop("quantity", 1)}]
        wish = {"customer": customer.id, "items": items, "metadata": metadata, "default_payment_method": method, **more}
        return str(self.api.subscriptions.create(wish, self.at).id)

    async def reasons(self, state: str = "failed") -> set[str]:
        """Why webhooks failed that were acted upon now."""
        before = {row.id for row in await self.house.rows.events(state, None, 100)}
        await self.house.told("payment_intent.succeeded", "invoice.paid", "refund.created", "checkout.session.completed")
        await self.house.inbox.work()
        return {row.reason for row in await self.house.rows.events(state, None, 100) if row.id not in before}


@pytest.fixture
async def own(house: House) -> Own:
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": "10"}, 201)
    house.control.catch_up()  # the terms are in force there too
    return Own(house)


async def test_payments_of_her_own_with_the_metadata_of_a_page_grant_nothing(house: House, own: Own) -> None:
    owner = f"crony{next(KEYS)}"
    page = await house.market.checkout(await house.market.plan(PACKAGE), role="operator", platform_user_id=owner)
    metadata = dict(own.api.checkout.sessions.retrieve(page["id"], None, own.at).metadata.to_dict())
    purchase = metadata["mozaiks_purchase"]
    for amount, currency, why in (
        (1, "usd", f"it paid 1 USD, and purchase {purchase} is of 999 USD"),
        (999, "jpy", f"it paid 999 JPY, and purchase {purchase} is of 999 USD"),
        (999, "usd", f"the platform's share of it is no USD, and purchase {purchase} has 100"),
    ):
        own.pays(amount, currency, metadata)
        assert await own.reasons() == {why}
    assert await house.available(owner) == 0
    house.control.pay(own.account, page["id"])  # as it was offered
    assert await own.reasons() == set()
    assert await house.available(owner) == 10_000_000
    rows = (await house.market.ok("GET", "/purchases", enterprise_id="shop"))["data"]
    assert [row["status"] for row in rows] == ["paid"]


async def test_a_purchase_has_one_payment_and_a_payment_one_purchase(house: House, own: Own) -> None:
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "enterprise_id": "shop", "fee_percent": "0"}, 201)
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "enterprise_id": "second", "fee_percent": "0"}, 201)
    owner, plan = f"crony{next(KEYS)}", await house.market.plan(PACKAGE)
    intent = await house.buy(plan, owner)
    assert await own.reasons() == set()
    metadata = dict(own.api.payment_intents.retrieve(intent, None, own.at).metadata.to_dict())
    own.pays(999, "usd", metadata)
    (why,) = await own.reasons()
    assert "are not of each other" in why
    # The payment that was granted gets the metadata of another page, in this app and in another of hers.
    for app in ("shop", "second"):
        other = await house.market.plan({**PACKAGE, "enterprise_id": app})
        page = await house.market.checkout(other, role="operator", platform_user_id=owner)
        said = dict(own.api.checkout.sessions.retrieve(page["id"], None, own.at).metadata.to_dict())
        own.api.payment_intents.update(intent, {"metadata": said}, own.at)
        looked = await house.reconciler().run()
        assert looked.ok, looked
        assert looked.noted == 2, looked  # and the payment of before
    assert await house.available(owner) == 10_000_000
    assert any("it was granted in app shop already" in note for note in looked.notes)


async def test_what_she_makes_by_herself_is_noted_and_what_touches_the_share_or_a_wallet_is_wrong(house: House, own: Own) -> None:
    plan, monthly = await house.market.plan(PACKAGE), await house.market.plan(MONTHLY)
    await house.market.checkout(monthly, role="operator", platform_user_id=f"page{next(KEYS)}")
    (price,) = [row.id for row in own.api.prices.list({"lookup_keys": [monthly]}, own.at).data]
    ours = {"mozaiks_app": "shop", "mozaiks_owner": f"crony{next(KEYS)}", "mozaiks_plan": plan}
    page = await house.market.checkout(plan, role="operator", platform_user_id=ours["mozaiks_owner"])
    said = dict(own.api.checkout.sessions.retrieve(page["id"], None, own.at).metadata.to_dict())
    for metadata in (ours, {**ours, "mozaiks_app": "bobs"}, {**ours, "mozaiks_app": "gone"}, {"mozaiks_owner": "alice"}, said):
        intent = own.pays(1, "usd", metadata)
    house.control.refund_in_dashboard(own.account, intent)
    own.subscribes(price, {**ours, "mozaiks_plan": monthly}, quantity=3)
    for _ in range(2):
        looked = await house.reconciler().run()
        assert looked.ok, looked
        # Of the subscription also its payment and, as nobody could be granted it, not itself.
        assert looked.noted >= 7, looked
        assert len(looked.notes) == 5, "so many of one account are shown"
        assert all(own.account in note for note in looked.notes)
    # A payment with our share on it, which she gives another name before anybody has heard of it.
    shared = await house.buy(plan, f"shared{next(KEYS)}")
    own.api.payment_intents.update(shared, {"metadata": {"mozaiks_app": "bobs"}}, own.at)
    (why,) = await wrong(house)
    assert shared in why
    own.api.payment_intents.update(shared, {"metadata": {"mozaiks_app": "shop"}}, own.at)
    assert await wrong(house) == ()
    # A page of ours without a share, on which another amount was paid than was asked for.
    await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "enterprise_id": "shop", "fee_percent": "0"}, 201)
    other = await house.buy(plan, f"other{next(KEYS)}")
    bought = APP_SALES["purchases"]
    for amount in (998, 999):
        session = bought.c.id == own.api.payment_intents.retrieve(other, None, own.at).metadata["mozaiks_purchase"]
        await house.market.write(sa.update(bought).where(session).values(amount_minor=amount))
        assert [other in why for why in await wrong(house)] == ([True] if amount == 998 else [])


async def wrong(house: House) -> tuple[str, ...]:
    """What a look at Stripe finds wrong."""
    return (await house.reconciler().run()).reasons


async def test_a_price_of_hers_with_the_name_of_a_plan_is_not_taken_for_it(house: House, own: Own) -> None:
    for body in (MONTHLY, PACKAGE):
        plan = await house.market.plan(body)
        product = own.api.products.create({"name": "x", "metadata": {"mozaiks_plan": plan}}, own.at)
        recurring: Any = {"recurring": {"interval": "month"}} if body is MONTHLY else {}
        wish = {"product": product.id, "currency": "usd", "unit_amount": 1, "lookup_key": plan, **recurring}
        own.api.prices.create(wish, own.at)
        page = await house.market.checkout(plan, role="operator", platform_user_id=f"crony{next(KEYS)}")
        session = own.api.checkout.sessions.retrieve(page["id"], {"expand": ["line_items"]}, own.at)
        assert session.amount_total * 10_000 == body["price_micro"]


ODD: tuple[dict[str, Any], ...] = (
    {},
    {"unit_amount": 2999},
    {"currency": "eur"},
    {"recurring": {"interval": "month", "interval_count": 2}},
    {"recurring": {"interval": "week"}},
    {"recurring": None},
    {"product": None},
)


async def test_a_price_is_taken_for_a_plans_where_all_of_it_is(house: House, own: Own) -> None:
    other = own.api.products.create({"name": "x"}, own.at)
    for changed in ODD:
        plan = await house.market.plan(MONTHLY)
        product = own.api.products.create({"name": "x", "metadata": {"mozaiks_plan": plan}}, own.at)
        wish = {
            "product": product.id,
            "currency": "usd",
            "unit_amount": 3000,
            "lookup_key": plan,
            "recurring": {"interval": "month"},
        }
        wish |= {**changed, "product": other.id} if "product" in changed else changed
        made = own.api.prices.create({name: value for name, value in wish.items() if value is not None}, own.at)
        found = await house.api.billing.store.plan(plan)
        assert found is not None
        taken = (await house.payments.create_price(f"op{plan}", own.account, found))[1] == made.id
        assert taken == (not changed), changed


async def test_subscriptions_of_her_own_on_a_plans_price_grant_only_what_the_plan_sells(house: House, own: Own) -> None:
    plan = await house.market.plan(MONTHLY)
    await house.market.checkout(plan, role="operator", platform_user_id=f"page{next(KEYS)}")
    (price,) = [row.id for row in own.api.prices.list({"lookup_keys": [plan]}, own.at).data]
    for more, why in (
        ({"trial_period_days": 700}, f"it is a trial of 700 days, and plan {plan} has one of 0"),
        ({"quantity": 3}, f"a line of it is 9000 USD, and plan {plan} costs 3000 USD"),
        ({}, "the platform's share of it is no USD of 3000, and the terms say 10 %"),
    ):
        owner = f"crony{next(KEYS)}"
        own.subscribes(price, {"mozaiks_app": "shop", "mozaiks_owner": owner, "mozaiks_plan": plan}, **more)
        assert await own.reasons() == {why}
        assert await house.available(owner) == 0
    owner = f"honest{next(KEYS)}"
    await house.buy(plan, owner)
    assert await own.reasons() == set()
    assert await house.available(owner) == 10_000_000
    trial = await house.market.plan(MONTHLY, trial_days=7)
    await house.buy(trial, f"{owner}t")
    assert await own.reasons() == set()
    assert await house.available(f"{owner}t") == 10_000_000


async def test_a_refund_finds_its_payer_in_the_books_whatever_is_written_on_the_payment(house: House, own: Own) -> None:
    owner = f"crony{next(KEYS)}"
    intent = await house.buy(await house.market.plan(PACKAGE), owner)
    assert await own.reasons() == set()
    names = ("owner", "app", "plan", "purchase")
    own.api.payment_intents.update(intent, {"metadata": {f"mozaiks_{name}": "" for name in names}}, own.at)
    house.control.refund_in_dashboard(own.account, intent)
    assert await own.reasons() == set()
    assert await house.available(owner) == 0
    assert await own.reasons("ignored") == set()


# ---- what is given back, once ------------------------------------------------------------------


class Forgetful:
    """Stripe, a day later: it does not know any more what was asked under a name. Its answers about refunds take a while."""

    def __init__(self, payments: Any, pause_s: float = 0) -> None:
        self._payments, self._pause_s = payments, pause_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._payments, name)

    async def return_fee(self, op_id: str, *about: Any) -> None:
        await self._payments.return_fee(f"{op_id}-{next(KEYS)}", *about)

    async def fee_returned(self, fee_id: str, refund_id: str) -> Any:
        await asyncio.sleep(self._pause_s)
        return await self._payments.fee_returned(fee_id, refund_id)


def fee(house: House) -> tuple[int, int]:
    fees = house.control.state()["acct_1FakePlatform00"]["application_fee"]
    (row,) = [row for row in fees if row["account"] == house.market.account]
    return row["amount"], row["amount_refunded"]


async def test_a_share_is_returned_once_though_the_process_died_and_stripe_forgot(house: House, own: Own) -> None:
    owner = f"ann{next(KEYS)}"
    intent = await house.buy(await house.market.plan(PACKAGE), owner)
    assert await own.reasons() == set()
    refund = house.control.refund_in_dashboard(own.account, intent, 333)
    payment = await house.payments.payment(own.account, intent)
    assert payment.fee_id is not None
    await house.payments.return_fee(f"fee of {refund['id']}", payment.fee_id, 33, refund["id"])  # and then it died
    effects = house.effects(Forgetful(house.payments))
    await effects.refund(own.account, await house.payments.refund_of(own.account, refund["id"]))
    assert fee(house) == (100, 33)
    assert await house.available(owner) == 10_000_000 - 10_000_000 * 333 // 999


async def test_two_processes_that_post_refunds_of_one_payment_return_all_of_its_share(house: House, own: Own) -> None:
    intent = await house.buy(await house.market.plan(PACKAGE), f"ann{next(KEYS)}")
    assert await own.reasons() == set()
    refunds = [house.control.refund_in_dashboard(own.account, intent, amount)["id"] for amount in (334, 334, 331)]
    facts = [await house.payments.refund_of(own.account, refund) for refund in refunds]
    processes = [house.effects(Forgetful(house.payments, 0.1)) for _ in facts]
    await asyncio.gather(*[effects.refund(own.account, each) for effects, each in zip(processes, facts, strict=True)])
    assert fee(house) == (100, 100)
    rows = (await house.market.ok("GET", "/ledger/accounts", enterprise_id="shop", limit=200))["data"]
    assert [row["balance_micro"] for row in rows if row["account"] == "due_to_platform"] == [0]


@pytest.mark.parametrize("fee_back", [False, True])
async def test_stripes_fee_for_a_dispute_is_booked_as_it_was_taken_and_given_back(house: House, own: Own, fee_back: bool) -> None:
    plan = await house.market.plan(PACKAGE)
    intents = [await house.buy(plan, f"ann{next(KEYS)}") for _ in range(2)]
    assert await own.reasons() == set()
    charges = [str(own.api.payment_intents.retrieve(intent, None, own.at).latest_charge) for intent in intents]

    async def kept() -> int:
        await house.told("charge.dispute.created", "charge.dispute.closed")
        await house.inbox.work()
        rows = (await house.market.ok("GET", "/ledger/accounts", enterprise_id="shop", limit=200))["data"]
        return sum(row["balance_micro"] for row in rows if row["account"] == "expense.processing")

    before = await kept()
    left = 0 if fee_back else -15_000_000
    dispute = house.control.dispute(own.account, charges[0])["id"]
    assert await kept() == before - 15_000_000
    house.control.close_dispute(own.account, dispute, won=True, fee_back=fee_back)
    assert await kept() == before + left
    # Heard of at its end alone, the books say the same of it: what was taken, and what came back.
    dispute = house.control.dispute(own.account, charges[1])["id"]
    house.control.close_dispute(own.account, dispute, won=True, fee_back=fee_back)
    for _ in range(2):
        assert await kept() == before + 2 * left


async def test_what_was_paid_on_an_account_that_its_owner_replaced_is_refunded_there(house: House, own: Own) -> None:
    owner, store = f"ann{next(KEYS)}", house.api.billing.store
    intent = await house.buy(await house.market.plan(PACKAGE), owner)
    assert await own.reasons() == set()
    new = Account("alice", f"acct_new{next(KEYS)}", "active", (), 1, 1)
    await store.put_account(new, Act("billing_account.create", "operator", "operator", new.account_id, user_id="alice"))
    assert (await store.account("alice")) == new
    old = await store.account_by_id(own.account)
    assert old is not None
    assert old.user_id == "alice"
    assert sorted(await house.rows.accounts()) == sorted([own.account, new.account_id])
    house.control.refund_in_dashboard(own.account, intent)
    assert await own.reasons() == set()
    assert await house.available(owner) == 0
    await house.market.write(sa.delete(billing_accounts).where(billing_accounts.c.account_id == new.account_id), None)


async def test_a_dispute_that_was_lost_and_won_and_is_lost_again_takes_a_person(house: House, own: Own) -> None:
    owner = f"ann{next(KEYS)}"
    intent = await house.buy(await house.market.plan(PACKAGE), owner)
    assert await own.reasons() == set()
    effects = house.effects()
    for status, minor, left in (("needs_response", 999, 0), ("lost", 999, 0), ("won", 0, 10_000_000)):
        await effects.dispute(own.account, DisputeFacts("du_again", intent, 999, "USD", status, minor, ()))
        assert await house.available(owner) == left
    with pytest.raises(Rejected, match="takes a person"):
        await effects.dispute(own.account, DisputeFacts("du_again", intent, 999, "USD", "lost", 999, ()))
    assert await house.available(owner) == 10_000_000

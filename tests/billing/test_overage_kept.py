"""Overage where more than that happens: several payments, credit, a refund of the allowance, a store that is lost or down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest
import sqlalchemy as sa

from gateway.core.ids import shard_of
from gateway.db.engines import Databases
from gateway.ledger.lending import Lent
from gateway.trail.model import Act
from tests.api.conftest import Api
from tests.billing.inside import House
from tests.billing.inside import house as house
from tests.billing.market import Market
from tests.billing.test_believed import Own
from tests.billing.test_out_of_band import given
from tests.billing.test_overage import ALLOWANCE, BROKE, MONTH, MOST, PLAN, VISA, Subscriber, ann, clean
from tests.db.conftest import postgres_urls
from tests.fake_stripe.control import Control

__all__ = ("ann", "house")


async def test_a_bill_that_several_payments_paid_is_each_of_theirs(house: House) -> None:
    ann, own = Subscriber(house, await house.market.plan(PLAN)), Own(house)
    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 5_000_000)
    house.control.advance(MONTH)
    await ann.told()
    ann.card(BROKE)
    await ann.work()
    (invoice,) = ann.invoices()
    asked = {"value": 200, "currency": "usd"}
    made = {"initiated_at": 1, "outcome": "guaranteed", "payment_method_details": {"type": "custom"}}
    record = own.api.payment_records.report_payment({"amount_requested": asked, **made}, own.at).id
    own.api.invoices.attach_payment(invoice["id"], {"payment_record": record}, own.at)
    attached = own.pays(300, "usd", {})
    own.api.invoices.attach_payment(invoice["id"], {"payment_intent": attached}, own.at)
    await ann.told()
    assert await ann.bills() == [("open", 1000, 5_000_000)]
    ann.card(VISA)
    method = own.api.subscriptions.retrieve(ann.subscription, None, own.at).default_payment_method
    before = await given(house, "shop")
    own.api.invoices.pay(invoice["id"], {"payment_method": method}, own.at)
    await ann.told()
    assert await ann.bills() == [("paid", 1000, 5_000_000)]
    assert await ann.lent() == Lent(0, MOST)
    assert await given(house, "shop") - before == 1_000_000  # a fifth was paid out of band
    (bill,) = await house.rows.overages.bills("shop", ann.owner, None, 10)
    assert bill.payment_id not in (None, attached)
    for name, paid in ((attached, 3_000_000), (bill.payment_id, 5_000_000)):
        standing = await house.api.ledger.payments.standing(ann.wallet, str(name))
        assert standing is not None
        assert (standing.asset, standing.paid_micro) == ("USD", paid)
    await clean(house)

    house.control.refund_in_dashboard(own.account, attached)
    await ann.told()
    stands = await ann.stands()
    assert (stands["status"], stands["reason"], await ann.lent()) == ("paused", "payment_refunded", Lent(0, 0))
    assert await ann.available() == ALLOWANCE - 1_500_000
    await clean(house)
    charge = own.api.payment_intents.retrieve(bill.payment_id, None, own.at).latest_charge
    house.control.dispute(own.account, str(charge))
    await ann.told()
    assert (await ann.stands())["reason"] == "payment_disputed"
    await clean(house)


async def test_what_credit_pays_of_a_bill_is_given_and_what_it_leaves_too_little_of_too(house: House, ann: Subscriber) -> None:
    api: Any = house.control.client().v1
    await ann.subscribe()
    await ann.agree()
    bills, total = [], 0
    for credit, state, gift in ((1000, "given", 5_000_000), (400, "paid", 2_000_000), (970, "given", 5_000_000)):
        await ann.use(ALLOWANCE + 5_000_000)
        house.control.advance(MONTH)
        await ann.told()
        api.customers.update(ann.customer(), {"balance": -credit}, ann.at)
        before = await given(house, "shop")
        await ann.work()
        await ann.told()
        bills.append((state, 1000, 5_000_000))
        assert await ann.bills() == bills
        assert await given(house, "shop") - before == gift
        assert await ann.lent() == Lent(0, MOST)
        total += 1000 - credit if state == "paid" else 0
        await house.api.wallets.expire_lots()
        assert await ann.available() == ALLOWANCE + MOST
        await clean(house)
    assert sum(row["amount_paid"] for row in ann.invoices()) == total
    assert api.customers.retrieve(ann.customer(), None, ann.at).balance == 30  # what was too little, its next invoice asks for
    await ann.next_period()
    assert await ann.bills() == bills
    assert await ann.available() == ALLOWANCE + MOST
    await clean(house)


async def test_what_is_lent_goes_with_the_allowance_and_comes_with_it(house: House, ann: Subscriber) -> None:
    api: Any = house.control.client().v1
    await ann.subscribe()
    await ann.agree()
    (intent,) = [row.id for row in api.payment_intents.list({"customer": ann.customer()}, ann.at).data]
    refund = house.control.refund_in_dashboard(ann.account, intent)["id"]
    await ann.told()
    stands = await ann.stands()
    assert (stands["status"], stands["reason"]) == ("idle", "not_paid_for")
    assert (await ann.lent(), await ann.available()) == (Lent(0, 0), 0)
    await clean(house)
    house.control.finish_refund(ann.account, refund, "failed")
    await ann.told()
    assert (await ann.stands())["status"] == "on"
    assert (await ann.lent(), await ann.available()) == (Lent(0, MOST), ALLOWANCE + MOST)
    await clean(house)


async def test_several_lines_that_are_more_than_a_lowered_limit_are_found(house: House, ann: Subscriber) -> None:
    await ann.subscribe()
    for limit in (6_000_000, 12_000_000):
        await ann.agree(limit)
    await ann.use(ALLOWANCE + 1_000_000)
    rows, now = house.rows.overages, house.clock() // 1_000_000
    held = await rows.agreement(ann.wallet)
    assert held is not None
    assert ann.owner not in await rows.restless("shop", now, "", 500)
    less = msgspec.structs.replace(held, limit_micro=7_000_000)  # and the process ends before anything follows
    assert await rows.agree(less, Act("overage.agree", "end_user", ann.owner, ann.owner, "alice", "shop"), lifts=False)
    assert ann.owner in await rows.restless("shop", now, "", 500)
    for _ in range(2):  # what has ended by the first is put off by the next
        await ann.work()
    assert await ann.lent() == Lent(1_000_000, 6_000_000)
    assert ann.owner not in await rows.restless("shop", now, "", 500)
    await clean(house)


async def test_a_hot_store_that_was_lost_is_lent_nothing_twice_and_nothing_less(house: House, ann: Subscriber) -> None:
    api = house.api

    async def lose() -> None:
        await api.balance.link.call("FLUSHALL")

    async def rebuild(left: int) -> None:
        assert await api.wallets.rebuild_lost(shard_of("alice"), [ann.wallet.name])
        for _ in range(2):
            await api.wallets.apply_waiting_credits()
            await ann.work()
            assert (await ann.lent(), await ann.available()) == (Lent(5_000_000, left), left)
        await clean(house)

    await ann.subscribe()
    await ann.agree()
    await ann.use(ALLOWANCE + 5_000_000)
    await lose()
    await rebuild(MOST - 5_000_000)
    await lose()
    await ann.agree(9_000_000)  # what is lent ends, and the wallet that it is taken out of is not there
    await rebuild(4_000_000)
    await lose()
    await ann.agree()  # more is lent into it
    await rebuild(MOST - 5_000_000)
    await lose()
    await ann.next_period()
    assert await api.wallets.rebuild_lost(shard_of("alice"), [ann.wallet.name])
    await api.wallets.apply_waiting_credits()
    await ann.work()
    await ann.told()
    await api.wallets.expire_lots()
    assert await ann.bills() == [("paid", 1000, 5_000_000)]
    assert (await ann.lent(), await ann.available()) == (Lent(0, MOST), ALLOWANCE + MOST)
    await clean(house)


async def test_a_creator_uses_more_than_it_paid_the_platform_for_and_pays_its_bill(house: House) -> None:
    await house.api.balance.link.call("FLUSHALL")  # another test's alice
    plan = await house.market.plan({name: value for name, value in PLAN.items() if name != "enterprise_id"})
    alice = Subscriber(house, plan, None)
    assert (await alice.agree())["reason"] == "no_subscription"
    await alice.subscribe()
    assert await alice.available() == ALLOWANCE + MOST
    await alice.use(ALLOWANCE + 5_000_000, left=MOST - 5_000_000)
    await alice.next_period()
    assert await alice.bills() == [("paid", 1000, 5_000_000)]
    assert (await alice.lent(), await alice.available()) == (Lent(0, MOST), ALLOWANCE + MOST)
    (invoice,) = alice.invoices()
    assert (invoice["status"], invoice["amount_paid"]) == ("paid", 1000)
    (bill,) = (await house.market.ok("GET", "/overage-bills", role="creator"))["data"]
    assert (bill["wallet"]["user_id"], bill["state"], bill["fee_micro"]) == ("alice", "paid", 0)
    await clean(house)
    house.control.refund_in_dashboard("", bill["payment_id"], 400)
    await alice.told()
    stands = await alice.stands()
    assert (stands["status"], stands["reason"]) == ("paused", "payment_refunded")
    assert (await alice.lent(), await alice.available()) == (Lent(0, 0), ALLOWANCE - 2_000_000)
    await clean(house)


# ---- on Postgres -------------------------------------------------------------------------------


@pytest.fixture
async def on_postgres(postgres_place: str, redis_server: str, control: Control) -> AsyncIterator[House]:
    databases = Databases(*postgres_urls(postgres_place))
    await databases.migrate()
    api = Api(databases, redis_server, control.base)
    api.credentials, api.key_id = await api.populate()
    market = Market(api, control)
    await market.connect()
    house = House(api, control, market)
    await house.told()
    yield house
    await house.payments.close()
    await api.close()


@asynccontextmanager
async def down(place: str, app: str) -> AsyncIterator[None]:
    """An app's database takes no connection, and has lost those that it had."""
    url = sa.make_url(place)
    name = f"{url.database}_{app}"
    admin = await asyncpg.connect(user="postgres", database="postgres", host=url.query["host"])
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    finally:
        await admin.close()


async def test_one_sellers_database_that_is_down_keeps_no_other_sellers_bills_waiting(
    on_postgres: House, postgres_place: str
) -> None:
    house, buyers = on_postgres, []
    for app in ("shop", "second"):
        buyer = Subscriber(house, await house.market.plan({**PLAN, "enterprise_id": app}), app)
        assert (await buyer.agree())["reason"] == "no_subscription"
        await buyer.subscribe()
        await buyer.use(ALLOWANCE + 5_000_000, left=MOST - 5_000_000)
        buyers.append(buyer)
    house.control.advance(MONTH)
    await buyers[0].told()
    for waiting, served in (buyers, buyers[::-1]):  # whichever of them the walk comes to first
        async with down(postgres_place, str(waiting.app)):
            stop = asyncio.Event()
            running = asyncio.ensure_future(house.effects().overages.run(stop))
            async with asyncio.timeout(60):
                while await served.bills() != [("paid", 1000, 5_000_000)]:
                    assert not running.done(), running.exception()
                    await asyncio.sleep(0.05)
            stop.set()
            await running
    for buyer in buyers:
        await buyer.told()
        assert await buyer.bills() == [("paid", 1000, 5_000_000)]
        assert await buyer.lent() == Lent(0, MOST)
        assert (await buyer.stands())["status"] == "on"
    await clean(house)

"""Rows of sales on both kinds of database."""

import asyncio

import msgspec

from gateway.billing.model import (
    Account,
    AccountState,
    FeeTerm,
    FirstPurchase,
    Overage,
    Plan,
    Purchase,
    PurchaseState,
    Redemption,
)
from gateway.billing.store import Store, Taken
from gateway.db.engines import Databases
from gateway.ledger.model import WalletKey
from gateway.trail.model import Act
from tests.db.conftest import databases as databases
from tests.db.conftest import urls as urls
from tests.ledger.conftest import add_owners

ACT = Act("test", "operator", "operator", "x")
APP_ACT = msgspec.structs.replace(ACT, enterprise_id="shop")
PLAN = Plan("plan_1", None, "subscription", "P", "USD", 100, 5, 10, interval="month", rollover_max_micro=3, lot_days=9)


async def test_rows_come_back_as_they_were_and_what_is_once_is_once(databases: Databases) -> None:
    await add_owners(databases)
    store = Store(databases)
    await store.add_plan(PLAN, ACT)
    assert await store.plan("plan_1") == PLAN
    beyond = msgspec.structs.replace(PLAN, id="plan_0", overage=Overage(2**53 - 1, 7, 3))
    await store.add_plan(beyond, ACT)
    assert await store.plan("plan_0") == beyond
    assert await store.plans(None, None, 5, archived=False) == [PLAN, beyond]
    await store.archive_plan("plan_0", 20, ACT)
    for price_id in ("price_1", "price_2"):
        await store.add_price("plan_1", "acct_1", "prod_1", price_id)
    assert await store.price("plan_1", "acct_1") == "price_1"
    assert await store.price("plan_1", "") is None
    await store.archive_plan("plan_1", 20, ACT)
    await store.archive_plan("plan_1", 30, ACT)
    assert await store.plans(None, None, 5, archived=False) == []
    assert (await store.plans(None, None, 5, archived=True))[0].archived_at_ms == 20
    account = Account("carol", "acct_1", AccountState.ONBOARDING, ("a", "b"), 1, 1)
    await store.put_account(account, ACT)
    await store.set_account("acct_1", AccountState.ACTIVE, (), 7, ACT)
    assert await store.account("carol") == Account("carol", "acct_1", "active", (), 1, 7)
    await store.put_account(msgspec.structs.replace(account, account_id="acct_2"), ACT)
    assert (await store.account("carol") or account).account_id == "acct_2"


async def test_the_share_of_a_moment_is_the_latest_that_has_begun(databases: Databases) -> None:
    await add_owners(databases)
    store = Store(databases)
    for enterprise_id, at_ms, fee_bp in ((None, 10, 1000), (None, 20, 2000), ("shop", 30, 300), ("shop", 40, 0)):
        await store.add_fee_term(FeeTerm("carol", enterprise_id, at_ms, fee_bp, 1, "operator"), ACT)
    try:
        await store.add_fee_term(FeeTerm("carol", None, 20, 5, 1, "operator"), ACT)
    except Taken:
        pass
    else:
        raise AssertionError("two terms from one moment")
    found = {at_ms: await store.fee_bp("carol", "shop", at_ms) for at_ms in (9, 10, 20, 29, 30, 40)}
    assert found == {9: 0, 10: 1000, 20: 2000, 29: 2000, 30: 300, 40: 0}
    assert await store.fee_bp("carol", "chat", 50) == 2000
    assert [term.effective_at_ms for term in await store.fee_terms("carol", 3)] == [40, 30, 20]
    assert await store.fee_terms("dave", 3) == []


async def test_one_request_is_one_purchase_and_one_buyer_one_customer(databases: Databases) -> None:
    await add_owners(databases)
    store = Store(databases)
    wallet = WalletKey("u1", "shop")
    made = Purchase("pur_1", wallet, "plan_1", "acct_1", PurchaseState.OPEN, 100, "USD", 10, 5, 3)
    others = [msgspec.structs.replace(made, id=f"pur_{number}") for number in range(2, 5)]
    first = await store.add_purchase(made, "op", "same", APP_ACT)
    assert {
        asked.purchase for asked in await asyncio.gather(*[store.add_purchase(each, "op", "other", APP_ACT) for each in others])
    } == {made}
    assert (first.purchase, first.fingerprint) == (made, "same")
    await store.set_session("shop", "pur_1", "cs_1")
    await store.set_session("shop", "pur_1", "cs_2")
    await store.fail_purchase("shop", "pur_1", 9)
    kept = msgspec.structs.replace(made, session_id="cs_1")
    assert await store.purchase("shop", "pur_1") == kept
    await store.add_purchase(others[0], "op 2", "", APP_ACT)
    await store.fail_purchase("shop", "pur_2", 9)
    failed = msgspec.structs.replace(others[0], state="failed", ended_at_ms=9)
    assert await store.purchases("shop", "u1", None, 5) == [failed, kept]
    assert await store.purchases("shop", "u1", "pur_2", 5) == [kept]
    assert await store.purchases("shop", "u2", None, 5) == await store.purchases("chat", None, None, 5) == []
    await asyncio.gather(*[store.add_customer(wallet, "acct_1", f"cus_{number}", 1) for number in range(3)])
    customer = await store.customer(wallet, "acct_1")
    await store.add_customer(wallet, "acct_1", "cus_9", 1)
    assert await store.customer(wallet, "acct_1") == customer is not None


async def test_of_redemptions_at_once_as_many_are_kept_as_may_be_and_one_is_a_buyers_first(databases: Databases) -> None:
    await add_owners(databases)
    promos, wallet = Store(databases).promos, WalletKey("u1", "shop")

    def of(subject: str, ref: str = "") -> Redemption:
        return Redemption(f"red_{subject}{ref}", "promo_1", subject, ref or subject, "u1", "plan_1", "USD", 1, 0, 1, 5)

    done = await asyncio.gather(*[promos.redeem("shop", of(f"pur_{number}"), 2) for number in range(5)])
    assert sorted(done) == [False, False, False, True, True]
    assert await promos.redeemed("shop", "promo_1") == 2
    (kept, *_) = [f"pur_{number}" for number in range(5) if done[number]]
    assert await asyncio.gather(*[promos.redeem("shop", of(kept, ref), 2) for ref in ("", "in_2", "in_2", "in_3")]) == [True] * 4
    assert await promos.redeem("shop", of("pur_9"))  # what was paid for is kept whatever there is
    assert await promos.redeemed("shop", "promo_1") == 3
    assert len(await promos.redemptions("shop", "promo_1", None, 9)) == 5

    wanted = FirstPurchase("u1", "promo_1", "a", "acct_1", 1)
    others = [msgspec.structs.replace(wanted, ref=ref) for ref in ("b", "c", "d")]
    assert sum(await asyncio.gather(*[promos.claim_first(wallet, None, each) for each in (wanted, *others)])) == 1
    held = await promos.first_purchase(wallet)
    assert held is not None
    assert sum(await asyncio.gather(*[promos.claim_first(wallet, held, each) for each in others if each.ref != held.ref])) == 1
    taken = await promos.first_purchase(wallet)
    assert taken is not None
    assert not await promos.keep_first(wallet, held.ref, "cs_1")
    assert await promos.keep_first(wallet, taken.ref, "cs_2")
    assert not await promos.claim_first(wallet, taken, wanted)  # it has a page by now
    done = await asyncio.gather(*[promos.redeem_first(wallet, of(f"pur_{number}"), "acct_1") for number in range(4)])
    assert sum(done) == 1
    made = await promos.first_purchase(wallet)
    assert made is not None
    assert made.ref == f"pur_{done.index(True)}"
    assert await promos.redeem_first(wallet, of(made.ref), "acct_1")  # the same, told again
    assert not await promos.keep_first(wallet, made.ref, "cs_3")
    assert not await promos.claim_first(wallet, made, wanted)
    other = WalletKey("u2", "shop")
    subjects = [msgspec.structs.replace(of(f"pur_{number}"), owner="u2") for number in range(4)]
    assert sum(await asyncio.gather(*[promos.redeem_first(other, each, "acct_1") for each in subjects])) == 1

"""The look at Stripe goes on, whatever is wrong with one object, one page or one account; and so do the worker's loops."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.background import lasting
from gateway.billing.model import PLATFORM_ACCOUNT
from gateway.billing.ports import PaymentsDown, PaymentsRefused
from gateway.db.faults import SqlDown
from gateway.db.tables import fee_terms
from gateway.identity.model import Role
from tests.billing.inside import HOURS, House
from tests.billing.inside import house as house
from tests.billing.market import KEYS, MONTHLY, PACKAGE

BOBS = {**PACKAGE, "enterprise_id": "bobs"}


async def bobs_account(house: House) -> str:
    """Another creator's account, which sells in the app `bobs`."""
    wish = {"user_id": "bob", "email": f"bob+{next(KEYS)}@example.com"}
    account = str((await house.market.ok("POST", "/billing-accounts", wish, 201))["account_id"])
    house.control.onboard(account)
    return account


async def statuses(house: House, enterprise_id: str) -> list[str]:
    rows = (await house.market.ok("GET", "/purchases", enterprise_id=enterprise_id))["data"]
    return [row["status"] for row in rows]


async def test_a_page_on_an_account_that_shut_us_out_ends_and_keeps_no_other_waiting(house: House) -> None:
    theirs = await bobs_account(house)
    await house.market.checkout(await house.market.plan(BOBS), role=Role.OPERATOR, platform_user_id="crony")
    ours = await house.market.checkout(await house.market.plan(PACKAGE))
    house.control.abandon(house.market.account, ours["id"])
    house.control.deauthorize(theirs)
    # The webhook that tells of it never came: the look finds out by itself.
    house.clock.ahead_ms += 49 * HOURS
    looked = await house.reconciler().run()
    assert not looked.wrong, looked
    assert looked.unseen == 1
    assert any(theirs in reason for reason in looked.reasons)
    assert (await statuses(house, "shop"), await statuses(house, "bobs")) == (["expired"], ["expired"])
    state = await house.market.ok("GET", "/billing-accounts/bob")
    assert state["status"] == "deauthorized"
    again = await house.reconciler().run()
    assert again.ok, again


class Odd:
    """Stripe, where something goes wrong with some of what is asked."""

    def __init__(self, payments: Any, faults: dict[str, Exception]) -> None:
        self._payments, self._faults = payments, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._payments, name)

    async def payment(self, account_id: str, payment_id: str) -> Any:
        self._check(payment_id)
        return await self._payments.payment(account_id, payment_id)

    async def checkout_session(self, account_id: str, session_id: str) -> Any:
        self._check(session_id)
        return await self._payments.checkout_session(account_id, session_id)

    async def disputes_between(self, *about: Any) -> Any:
        self._check("disputes")
        async for each in self._payments.disputes_between(*about):
            yield each

    def _check(self, name: str) -> None:
        if name in self._faults:
            raise self._faults[name]


@pytest.mark.parametrize(
    ("fault", "unseen", "wrong"),
    [
        (PaymentsDown("no answer"), 1, 0),
        (PaymentsRefused("cannot be", "odd"), 0, 1),
        (SqlDown("away"), 1, 0),
        (AssertionError("a defect"), 0, 1),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else str(each),
)
async def test_what_goes_wrong_with_one_object_is_told_and_the_rest_is_done(
    house: House, fault: Exception, unseen: int, wrong: int
) -> None:
    plan = await house.market.plan(PACKAGE)
    owners = [f"{word}{next(KEYS)}" for word in ("first", "second")]  # wallets outlive a test
    first, second = [await house.buy(plan, owner) for owner in owners]
    for intent in (first, second):
        house.control.refund_in_dashboard(house.market.account, intent, 333)
    looked = await house.reconciler(Odd(house.payments, {first: fault})).run()
    assert (looked.unseen, looked.wrong) == (unseen, wrong), looked
    assert any(str(fault) in reason for reason in looked.reasons)
    assert await house.available(owners[1]) == 10_000_000 - 10_000_000 * 333 // 999
    # What could not be looked at is looked at again from where it was; what was refused would be refused again.
    assert (await house.rows.mark(house.market.account) is None) == bool(unseen)
    assert (await house.reconciler().run()).ok
    assert await house.available(owners[0]) == await house.available(owners[1])


async def test_an_account_or_a_page_that_stripe_does_not_answer_for_keeps_no_other_waiting(house: House) -> None:
    await bobs_account(house)
    theirs = await house.market.checkout(await house.market.plan(BOBS), role=Role.OPERATOR, platform_user_id="crony")
    ours = await house.market.checkout(await house.market.plan(PACKAGE))
    await house.buy(await house.market.plan(PACKAGE), "paying")
    house.control.abandon(house.market.account, ours["id"])
    house.clock.ahead_ms += 49 * HOURS
    faults: dict[str, Exception] = {"disputes": PaymentsDown("no disputes"), theirs["id"]: PaymentsDown("no page")}
    looked = await house.reconciler(Odd(house.payments, faults)).run()
    assert any("no disputes" in reason for reason in looked.reasons)
    assert any("no page" in reason for reason in looked.reasons)
    assert await house.available("paying") == 10_000_000
    assert sorted(await statuses(house, "shop")) == ["expired", "paid"]
    assert await statuses(house, "bobs") == ["open"]
    assert await house.rows.mark(PLATFORM_ACCOUNT) is None
    assert (await house.reconciler().run()).ok


async def test_a_page_that_was_never_made_ends_without_asking_stripe(house: House) -> None:
    house.control.fault("drop_before", times=3, method="POST", path="/v1/checkout/sessions")
    plan = await house.market.plan(PACKAGE)
    assert (await house.market.refused("POST", "/checkout-sessions", _wish(plan)))[0] == 503
    house.control.clear_faults()
    assert await statuses(house, "shop") == ["open"]
    house.clock.ahead_ms += 49 * HOURS
    assert (await house.reconciler().run()).ok
    assert await statuses(house, "shop") == ["expired"]


def _wish(plan: str) -> dict[str, str]:
    return {"plan_id": plan, "platform_user_id": "ann", "success_url": "https://app.invalid/"}


async def test_a_change_of_the_share_reaches_the_subscriptions_that_go_on(house: House) -> None:
    subscription = await house.buy(await house.market.plan(MONTHLY), "shared")
    ended = await house.buy(await house.market.plan(MONTHLY), "ended")
    api: Any = house.control.client().v1
    at: Any = {"stripe_account": house.market.account}
    api.subscriptions.cancel(ended, None, at)

    def shares() -> list[float | None]:
        return [api.subscriptions.retrieve(name, None, at).application_fee_percent for name in (subscription, ended)]

    for percent, share in (("12.34", 12.34), ("0", None), ("12.34", 12.34)):
        await house.market.write(sa.delete(fee_terms), None)
        await house.market.ok("POST", "/fee-terms", {"user_id": "alice", "fee_percent": percent}, 201)
        house.clock.ahead_ms += HOURS
        looked = await house.reconciler().run()
        assert looked.ok, looked
        assert shares() == [share, None]


async def test_a_loop_that_fails_goes_on_and_ends_when_it_is_told_to() -> None:
    stop, begun = asyncio.Event(), 0

    async def loop() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise PaymentsRefused("gone", is_revoked=True)
        stop.set()
        raise AssertionError("a defect")

    await asyncio.wait_for(lasting("tried", loop, stop), 10)
    assert begun == 2

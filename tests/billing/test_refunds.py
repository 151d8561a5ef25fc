"""Refunds that a seller asks for: how much can still go back, what the wallet loses by it, and what is shown of it later."""

from typing import Any

import msgspec

from gateway.billing.acts import op_of
from gateway.core.ids import shard_of
from gateway.identity.model import Role
from gateway.ledger.model import WalletKey
from tests.api.test_money import posting
from tests.billing.inside import House
from tests.billing.inside import house as house
from tests.billing.market import KEYS, PACKAGE


async def acted(house: House) -> None:
    """Stripe tells of all that happened."""
    await house.told("payment_intent.succeeded", "invoice.paid", "refund.created", "refund.updated", "refund.failed")
    await house.inbox.work()


async def bought(house: House, body: dict[str, Any]) -> tuple[str, str]:
    """(an end user who has bought a plan, the payment or subscription)."""
    owner = f"buyer{next(KEYS)}"
    intent = await house.buy(await house.market.plan(body), owner)
    await acted(house)
    return owner, intent


async def use(house: House, owner: str, amount: int) -> None:
    """A request that was served: it is in the hot wallet and in the books."""
    row = posting(next(KEYS), house.clock() // 1_000_000, end_user=owner)
    row = msgspec.structs.replace(row, row=msgspec.structs.replace(row.row, amount_micro=amount, creator_micro=0))
    await house.api.balance.credit(f"used {next(KEYS)}", shard_of("alice"), WalletKey(owner, "shop").name, -amount)
    await house.api.ledger.post_app_usage("shop", [row])
    await house.api.ledger.post_platform_usage([row])


async def stands(house: House, owner: str) -> tuple[int, int]:
    """(available, debt) as the books have it."""
    shown = await house.market.ok("GET", f"/apps/shop/wallets/{owner}")
    return shown["available_micro"], shown["debt_micro"]


async def refund(house: House, status: int = 201, key: str = "", **wish: Any) -> Any:
    answer = await house.market.call("POST", "/refunds", {"enterprise_id": "shop", **wish}, key=key or f"k{next(KEYS)}")
    assert answer.status_code == status, answer.text
    return answer.json() if status == 201 else answer.json()["error"]


async def listed(house: House, owner: str) -> Any:
    [row] = (await house.market.ok("GET", "/purchases", enterprise_id="shop", platform_user_id=owner))["data"]
    return row


async def test_what_is_left_of_a_payment_goes_back_and_no_more_is_asked_of_stripe(house: House) -> None:
    owner, _ = await bought(house, PACKAGE)
    row = await listed(house, owner)
    assert (row["refunded_micro"], row["refund"]) == (0, None)
    what = {"purchase_id": row["id"]}
    part = await refund(house, key=f"part-{owner}", amount_micro=5_000_000, **what)
    asked = len(house.control.requests())
    error = await refund(house, 400, amount_micro=5_000_000, **what)
    assert (error["message"], error["param"]) == ("4.99 USD are left to refund.", "amount_micro")
    # A key says what it said, though less is left by now: the same is the same, another wish is refused by us.
    assert (await refund(house, key=f"part-{owner}", amount_micro=5_000_000, **what))["id"] == part["id"]
    for other in ({}, {"amount_micro": 4_000_000}):
        error = await refund(house, 409, key=f"part-{owner}", **what, **other)
        assert (error["code"], error["param"]) == ("conflict", "Idempotency-Key")
    assert [line for line in house.control.requests()[asked:] if line["method"] == "POST"] == []
    rest = await refund(house, key=f"rest-{owner}", **what)
    assert rest["amount_micro"] == 4_990_000
    assert (await refund(house, key=f"rest-{owner}", **what))["id"] == rest["id"]
    asked = len(house.control.requests())
    error = await refund(house, 409, **what)
    assert error["code"] == "conflict"
    assert error["message"] == "All of this payment went back already: nothing is left to refund."
    assert [line for line in house.control.requests()[asked:] if line["method"] == "POST"] == []
    await acted(house)
    assert await stands(house, owner) == (0, 0)


async def test_a_key_that_stripe_knows_for_another_refund_is_a_conflict_of_ours(house: House) -> None:
    """As of two at once, of which neither finds the other."""
    owner, intent = await bought(house, PACKAGE)
    named: Any = {"stripe_account": house.market.account, "idempotency_key": op_of("refund", Role.OPERATOR, intent, owner)}
    house.control.client().v1.refunds.create({"payment_intent": intent, "amount": 100}, named)
    error = await refund(house, 409, key=owner, payment_id=intent, amount_micro=2_000_000)
    assert (error["code"], error["param"]) == ("conflict", "Idempotency-Key")
    assert error["message"] == "This Idempotency-Key was used for another request."
    await acted(house)


async def test_a_refund_that_failed_can_be_asked_for_again(house: House) -> None:
    owner, intent = await bought(house, PACKAGE)
    what = {"purchase_id": (await listed(house, owner))["id"]}
    failed = await refund(house, **what)
    await acted(house)
    assert (await listed(house, owner))["refund"] == "full"
    house.control.finish_refund(house.market.account, failed["id"], "failed")
    await acted(house)
    row = await listed(house, owner)
    assert (row["refunded_micro"], row["refund"]) == (0, None)
    assert await stands(house, owner) == (10_000_000, 0)
    assert (await refund(house, payment_id=intent))["amount_micro"] == 9_990_000
    await acted(house)


async def test_a_refund_tells_what_it_takes_and_what_becomes_a_debt_before_and_after_it_did(house: House) -> None:
    owner, _ = await bought(house, {**PACKAGE, "price_micro": 10_000_000})
    await use(house, owner, 7_000_000)
    row = await listed(house, owner)
    wish = {"purchase_id": row["id"], "amount_micro": 5_000_000, "key": f"k-{owner}"}
    before = await refund(house, **wish)
    assert [before[name] for name in ("asset", "taken_micro", "debt_micro", "applied")] == ["USD", 3_000_000, 2_000_000, False]
    assert await stands(house, owner) == (3_000_000, 0)
    await acted(house)
    assert await stands(house, owner) == (0, 2_000_000)
    assert await refund(house, **wish) == {**before, "applied": True}
    row = await listed(house, owner)
    assert (row["refunded_micro"], row["refund"]) == (5_000_000, "partial")
    rest = await refund(house, purchase_id=row["id"])
    assert (rest["taken_micro"], rest["debt_micro"]) == (0, 5_000_000)
    await acted(house)
    assert (await listed(house, owner))["refund"] == "full"
    assert await stands(house, owner) == (0, 7_000_000)

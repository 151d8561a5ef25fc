"""Rows of the inbox and of what became of sales, on both kinds of database."""

import asyncio

import msgspec

from gateway.billing.model import Claim, InboxEvent, InboxState, Purchase, PurchaseState, Subscription
from gateway.billing.store import Store
from gateway.billing.webhooks.store import InboxStore
from gateway.db.engines import Databases
from gateway.ledger.model import WalletKey
from gateway.trail.model import Act
from gateway.trail.service import Trail
from tests.db.conftest import databases as databases
from tests.db.conftest import urls as urls
from tests.ledger.conftest import add_owners

ACT = Act("webhook.replay", "operator", "operator", "whk_00")
ANN = WalletKey("ann", "shop")


def webhook(number: int, **changed: object) -> InboxEvent:
    name = f"re_{number}"
    row = InboxEvent(f"whk_{number:02}", "connect", f"evt_{number}", "refund.created", "acct_1", name, 1, 2, "waiting")
    return msgspec.structs.replace(row, **changed)


async def claim_all(rows: InboxStore, at_ms: int, lease_ms: int) -> list[Claim]:
    """What one worker gets that takes all that is due."""
    claims = []
    while found := await rows.waiting(at_ms, (), 64):
        claims += [claim for event in found if (claim := await rows.claim(event, at_ms, lease_ms))]
    return claims


async def test_a_webhook_is_there_once_and_claimed_by_one_until_its_lease_ends(databases: Databases) -> None:
    rows = InboxStore(databases)
    added = await asyncio.gather(*[rows.add(webhook(0, id=f"whk_copy{copy}")) for copy in range(5)])
    assert sorted(added) == [False] * 4 + [True]
    assert await rows.add(webhook(0, id="whk_other", endpoint="platform"))
    for number in range(1, 4):
        await rows.add(webhook(number, due_at_ms=number))
    claims = [claim for each in await asyncio.gather(*[claim_all(rows, 2, 100) for _ in range(4)]) for claim in each]
    assert sorted((claim.event.object_id, len(claim.ids)) for claim in claims) == [("re_0", 2), ("re_1", 1), ("re_2", 1)]
    assert {(claim.event.attempts, claim.event.due_at_ms) for claim in claims} == {(1, 102)}
    (late,) = [claim for claim in claims if claim.event.event_id == "evt_1"]
    (again,) = [claim.event for claim in await claim_all(rows, 102, 100) if claim.event.event_id == "evt_1"]
    assert again.attempts == 2
    await rows.put_off(late, 5, "too late")
    await rows.finish(late, InboxState.FAILED, "too late", 9)
    held = {event.event_id: event for event in await rows.events(None, None, 9)}["evt_1"]
    assert (held.state, held.due_at_ms, held.reason) == ("waiting", 202, "")
    await rows.finish(late, InboxState.DONE, "", 9)  # what is done is done, whoever did it
    held = {event.event_id: event for event in await rows.events("done", None, 9)}["evt_1"]
    assert held.handled_at_ms == 9
    replayed = await rows.replay(held.id, 300, msgspec.structs.replace(ACT, subject=held.id))
    assert replayed is not None
    assert (replayed.state, replayed.attempts, replayed.due_at_ms, replayed.handled_at_ms) == ("waiting", 0, 300, None)
    assert await rows.replay("whk_none", 1, ACT) is None
    both = await rows.replay("evt_0", 300, ACT)  # Stripe's name of it, at both endpoints
    assert both is not None
    told = [event.endpoint for event in await rows.events("waiting", None, 9) if event.event_id == "evt_0" and not event.attempts]
    assert sorted(told) == ["connect", "platform"]
    assert (await Trail(databases).verify(None)).broken is None


async def test_one_that_failed_is_counted_until_somebody_says_that_it_needs_nobody(databases: Databases) -> None:
    rows = InboxStore(databases)
    assert await rows.counts() == {"failed": 0, "waiting": 0}
    for number, state in enumerate(("failed", "failed", "done", "ignored", "waiting")):
        await rows.add(webhook(number, state=state, reason="why"))
    assert await rows.counts() == {"failed": 2, "waiting": 1}
    act = Act("webhook.ignore", "operator", "operator", "")
    for name, state in (("whk_00", "failed"), ("evt_1", "failed"), ("whk_02", "done"), ("whk_04", "waiting")):
        (before,) = await rows.ignore(name, 300, act)
        assert before.state == state
    assert await rows.ignore("whk_none", 1, act) == []
    assert await rows.counts() == {"failed": 0, "waiting": 1}
    held = {event.id: event for event in await rows.events("ignored", None, 9)}
    assert sorted(held) == ["whk_00", "whk_01", "whk_03"]
    assert (held["whk_00"].reason, held["whk_00"].handled_at_ms) == ("why", 300)
    told, _ = await Trail(databases).page(None, 50, None)
    assert [row.line.act for row in told] == ["webhook.ignore"] * 2
    assert (await Trail(databases).verify(None)).broken is None


async def test_all_that_waits_about_one_object_is_one_claim_and_ends_together(databases: Databases) -> None:
    rows = InboxStore(databases)
    for number in range(6):
        await rows.add(webhook(number, object_id="re_x", created_at_ms=10 + number))
    await rows.add(webhook(6, object_id="re_x", attempts=3, due_at_ms=90))  # it failed before, and waits
    await rows.add(webhook(7, object_id="re_x", account_id="acct_2"))
    one, other = sorted(await claim_all(rows, 50, 100), key=lambda claim: -len(claim.ids))
    assert (len(one.ids), one.event.created_at_ms, other.ids) == (6, 15, ("whk_07",))
    await rows.add(webhook(8, object_id="re_x"))  # after the look has begun: another look
    await rows.put_off(other, 400, "down")
    await rows.finish(one, InboxState.FAILED, "no", 60)
    ends = {event.id: (event.state, event.due_at_ms, event.reason) for event in await rows.events(None, None, 20)}
    assert ends.pop("whk_00") == ("failed", 150, "no")
    assert {ends[f"whk_{number:02}"] for number in range(1, 6)} == {("ignored", 150, "it says no more than whk_00, which failed")}
    assert {ends["whk_06"], ends["whk_07"], ends["whk_08"]} == {("waiting", 90, ""), ("waiting", 400, "down"), ("waiting", 0, "")}
    assert [claim.ids for claim in await claim_all(rows, 100, 100)] == [("whk_08",), ("whk_06",)]


async def test_each_account_has_its_turn_whatever_waits_before_and_money_comes_before_the_rest(databases: Databases) -> None:
    rows = InboxStore(databases)
    for number in range(10, 40):
        await rows.add(webhook(number, rank=2, due_at_ms=1))
    await rows.add(webhook(40, rank=0, due_at_ms=9))
    await rows.add(webhook(41, account_id="acct_2", rank=2, due_at_ms=8))
    await rows.add(webhook(42, account_id="", rank=1, due_at_ms=8))
    await rows.add(webhook(43, account_id="acct_3", due_at_ms=11))
    assert [event.id for event in await rows.waiting(10, (), 9)] == ["whk_40", "whk_42", "whk_41"]
    assert [event.id for event in await rows.waiting(10, ("acct_1", ""), 9)] == ["whk_41"]


async def test_what_was_handled_long_ago_is_forgotten_and_what_failed_is_not(databases: Databases) -> None:
    rows = InboxStore(databases)
    for number, state in enumerate(InboxState):
        await rows.add(webhook(number, state=state.value, due_at_ms=10, handled_at_ms=10))
    await rows.add(webhook(9, state="done", due_at_ms=20))
    assert await rows.forget(20) == 2
    assert sorted((row.event_id, row.state) for row in await rows.events(None, None, 9)) == [
        ("evt_0", "waiting"),
        ("evt_3", "failed"),
        ("evt_9", "done"),
    ]


async def test_a_purchase_goes_forward_only(databases: Databases) -> None:
    await add_owners(databases)
    rows, store = InboxStore(databases), Store(databases)
    act = msgspec.structs.replace(ACT, enterprise_id="shop")
    for number in range(3):
        sold = Purchase(f"pur_{number}", ANN, "plan_1", "acct_1", PurchaseState.OPEN, 100, "USD", 1, 5, 1)
        await store.add_purchase(sold, f"op_{number}", "print", act)
        await store.set_session("shop", sold.id, f"cs_{number}")
    assert [each.session_id for each in await rows.open_purchases("shop", 2, "pur_0", 9)] == ["cs_1", "cs_2"]
    assert [each.id for each in await rows.open_purchases("shop", 2, "", 1)] == ["pur_0"]
    end = rows.end_purchase
    assert await end("shop", "pur_0", PurchaseState.PAID, 5, "pi_0")
    assert not await end("shop", "pur_0", PurchaseState.EXPIRED, 6)
    assert not await end("shop", "pur_0", PurchaseState.PAID, 7, "pi_other")
    assert await end("shop", "pur_1", PurchaseState.FAILED, 5)
    assert not await end("shop", "pur_1", PurchaseState.EXPIRED, 6)
    assert await end("shop", "pur_1", PurchaseState.PAID, 7, "pi_1")  # money is a fact
    found = [await store.purchase("shop", f"pur_{number}") for number in range(3)]
    assert [(row.state, row.payment_id, row.ended_at_ms) for row in found if row] == [
        ("paid", "pi_0", 5),
        ("paid", "pi_1", 7),
        ("open", None, None),
    ]


async def test_a_subscription_is_written_over_what_it_was_seen_to_be(databases: Databases) -> None:
    await add_owners(databases)
    rows = InboxStore(databases)
    first = Subscription("sub_1", ANN, "plan_1", "acct_1", "sub_x", "active", 1, 9, False, 1, 5)
    assert await rows.put_subscription(None, first)
    assert not await rows.put_subscription(None, msgspec.structs.replace(first, id="sub_2"))
    ends = msgspec.structs.replace(first, cancel_at_period_end=True, as_of_ms=6)
    assert await rows.put_subscription(first, ends)
    assert not await rows.put_subscription(first, msgspec.structs.replace(first, state="past_due"))
    assert await rows.subscription("shop", "sub_x") == ends
    assert await rows.subscription("shop", "sub_none") is None


async def test_a_mark_only_goes_on(databases: Databases) -> None:
    rows = InboxStore(databases)
    assert await rows.mark("") is None
    for until in (7, 9, 8):
        await rows.set_mark("", until)
    assert await rows.mark("") == 9

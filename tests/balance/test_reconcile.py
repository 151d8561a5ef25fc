"""Hot balances that are not those of the books are found, and repaired once; what is on its way is no difference."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.balance.model import WalletState
from gateway.balance.reconcile import Outcome, Reconciler
from gateway.db.tables import APP_TRAIL
from gateway.ledger.audit import audit
from gateway.metering.drain import posting_of
from gateway.metering.event import decode_event
from gateway.metering.waiting import Waiting
from tests.balance.test_keeping import CREATOR, END_USER, FUNDS, SHARD, House


@pytest.fixture
async def house(server_url: str, tmp_path: Path) -> AsyncIterator[House]:
    house = House(server_url, tmp_path)
    await house.open()
    assert await house.wallets[0].open_missing(SHARD, (END_USER.name, CREATOR.name))
    yield house
    await house.close()


def reconciler(house: House) -> Reconciler:
    ids = house.identity.registry.enterprise_ids
    return Reconciler(house.balance, house.ledger, ids, house.wallets[0].rebuild_lost, 0.02)


async def run(house: House, *, fix: bool) -> list[Outcome]:
    return await reconciler(house).run(rebuild=fix, repair=fix, actor="test")


async def test_nothing_is_found_where_nothing_differs(house: House) -> None:
    hold = await house.reserve()
    assert hold is not None, "what is held is still the owner's"
    assert await run(house, fix=True) == []


async def test_a_lost_credit_is_found_told_and_repaired_with_a_line_in_the_trail(house: House) -> None:
    await house.balance.link.call("HINCRBY", f"mzk:{{s{SHARD:03d}}}:w:{END_USER.name}", "a", -70)
    [told] = await run(house, fix=False)
    assert (told.difference.wallet, told.difference.drift_micro, told.repaired_micro) == (END_USER.name, -70, None)
    assert (await house.hot())[0] == WalletState(FUNDS - 70, 0), "without being told to, nothing is repaired"
    [repaired] = await run(house, fix=True)
    assert repaired.repaired_micro == 70
    assert (await house.hot())[0] == WalletState(FUNDS, 0)
    assert await run(house, fix=True) == []
    async with (await house.databases.app("shop")).connect() as conn:
        trail = APP_TRAIL["trail"]
        query = sa.select(trail.c.subject, trail.c.actor, trail.c.before_json).where(trail.c.act == "wallet.reconcile")
        assert (await conn.execute(query)).all() == [
            (END_USER.name, "test", f'{{"available_micro":{FUNDS - 70},"held_micro":0}}')
        ]
    assert (await audit(house.databases, ["shop"], house.balance)).ok


async def test_two_who_repair_at_once_repair_once(house: House) -> None:
    await house.balance.link.call("HINCRBY", f"mzk:{{s{SHARD:03d}}}:w:{CREATOR.name}", "a", 30)
    await asyncio.gather(run(house, fix=True), run(house, fix=True))
    assert (await house.hot())[1] == WalletState(FUNDS, 0)


async def test_lost_wallets_are_rebuilt(house: House) -> None:
    hold = await house.reserve()
    assert hold is not None
    await house.settle(hold, 100)
    await house.drain.step()
    await house.wipe()
    outcomes = await run(house, fix=True)
    assert {each.difference.wallet for each in outcomes} == {END_USER.name, CREATOR.name}
    assert await house.hot() == [WalletState(FUNDS - 100, 0), WalletState(FUNDS - 50, 0)]
    assert await run(house, fix=True) == []


async def test_a_difference_that_waits_for_the_drain_is_never_repaired(house: House) -> None:
    hold = await house.reserve()
    assert hold is not None
    await house.settle(hold, 100)
    outcomes = await run(house, fix=True)  # the same difference at every look: the worker is down
    assert [each.repaired_micro for each in outcomes] == [None, None]
    await house.drain.step()
    assert await run(house, fix=True) == []
    assert await house.hot() == [WalletState(FUNDS - 100, 0), WalletState(FUNDS - 50, 0)]


async def audited(house: House) -> list[str]:
    report = await audit(house.databases, ["shop"], house.balance, Waiting(house.events))
    return [violation for check in report.checks for violation in check.violations]


async def test_the_audit_takes_what_waits_for_a_worker_for_no_violation_and_finds_what_is_lost_beside_it(house: House) -> None:
    for micro in (100, 40, 0):
        hold = await house.reserve()
        assert hold is not None
        await house.settle(hold, micro)
    assert not (await audit(house.databases, ["shop"], house.balance)).ok, "who knows of no events sees a difference"
    assert await audited(house) == []
    await house.balance.link.call("HINCRBY", f"mzk:{{s{SHARD:03d}}}:w:{CREATOR.name}", "a", -7)
    [told] = await audited(house)
    assert f"{CREATOR.name} has {FUNDS - 77} in the hot store, {FUNDS - 70} in the books" in told
    await house.balance.link.call("HINCRBY", f"mzk:{{s{SHARD:03d}}}:w:{CREATOR.name}", "a", 7)
    await house.drain.step()
    assert await audited(house) == []


async def test_the_audit_knows_an_event_that_one_book_has_and_the_other_not_and_one_that_both_have(house: House) -> None:
    """A worker that died after its first commit, and one that died after its second."""
    hold = await house.reserve()
    assert hold is not None
    await house.settle(hold, 100)
    [event] = await house.events.claim("w", 10, 0)
    facts = await house.ledger.apps(["shop"])
    posting = posting_of(decode_event(event.data), facts)
    await house.ledger.post_app_usage("shop", [posting])
    assert await audited(house) == []
    await house.ledger.post_platform_usage([posting])
    assert await audited(house) == []
    await house.balance.link.call("HINCRBY", f"mzk:{{s{SHARD:03d}}}:w:{END_USER.name}", "a", -100)
    assert len(await audited(house)) == 1, "what is in the books explains nothing more"


async def test_a_difference_that_goes_away_between_two_looks_is_not_told(house: House) -> None:
    hold = await house.reserve()
    assert hold is not None
    await house.settle(hold, 100)
    looks = 0

    async def ids() -> list[str]:
        nonlocal looks
        looks += 1
        if looks == 2:
            await house.drain.step()
        return ["shop"]

    asked = Reconciler(house.balance, house.ledger, ids, house.wallets[0].rebuild_lost, 0.01)
    assert await asked.run(rebuild=True, repair=True, actor="test") == []
    assert looks == 2


async def test_a_difference_that_is_another_at_each_look_is_not_told(house: House) -> None:
    """Requests go on, and the drain is behind by one of them at each look."""
    looks = 0

    async def ids() -> list[str]:
        nonlocal looks
        looks += 1
        hold = await house.reserve()
        assert hold is not None
        await house.settle(hold, 100 + looks)
        return ["shop"]

    asked = Reconciler(house.balance, house.ledger, ids, house.wallets[0].rebuild_lost, 0.01)
    assert await asked.run(rebuild=True, repair=True, actor="test") == []
    assert looks == 2


async def test_a_wallet_that_is_back_at_the_second_look_is_not_rebuilt(house: House) -> None:
    """Whoever settles again what it kept has rebuilt it meanwhile."""
    await house.wipe()
    asked: list[str] = []

    async def ids() -> list[str]:
        if asked:
            for owner in (END_USER, CREATOR):
                assert await house.balance.open(SHARD, owner.name, FUNDS)
            asked.append("back")
        asked.append("look")
        return ["shop"]

    async def rebuild(shard: int, wallets: object) -> bool:
        raise AssertionError("it was there")

    told = await Reconciler(house.balance, house.ledger, ids, rebuild, 0.01).run(rebuild=True, repair=True, actor="test")
    assert told == []
    assert asked == ["look", "back", "look"]


async def test_a_wallet_in_use_is_repaired_by_exactly_what_is_wrong(house: House) -> None:
    """Requests and the drain go on all the time; the difference is repaired to the unit, or not at all."""
    chance = random.Random(7)
    stop = asyncio.Event()

    async def traffic(gateway: int) -> None:
        while not stop.is_set():
            hold = await house.reserve(gateway)
            assert hold is not None
            await house.settle(hold, chance.randrange(1, 1000), gateway)
            await asyncio.sleep(chance.choice((0, 0.01, 0.2)))

    async def drain() -> None:
        while not stop.is_set():
            await house.drain.step()
            await asyncio.sleep(0.005)

    await house.balance.link.call("HINCRBY", f"mzk:{{s{SHARD:03d}}}:w:{END_USER.name}", "a", 12_345_678)
    tasks = [asyncio.create_task(work) for work in (traffic(0), traffic(1), drain())]
    for _ in range(6):
        await run(house, fix=True)
    stop.set()
    await asyncio.gather(*tasks)
    while await house.drain.step():
        pass
    found = await run(house, fix=False)
    assert [each.difference.drift_micro for each in found] in ([], [12_345_678])
    await run(house, fix=True)
    await house.check()

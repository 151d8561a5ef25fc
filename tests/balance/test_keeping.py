"""What Redis answered and lost is settled again, once: emptied, and put back to an earlier state, between any two steps.

KEEPING_SEED=n      other histories; each run of the suite has the same
KEEPING_LOSSES=n    at least so many losses in all; 30 unless told
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path

import pytest

from gateway.balance.keeping import Keeper
from gateway.balance.model import Admitted, BalanceUnavailable, Charge, Hold, HoldLost, HoldRequest, WalletMissing, WalletState
from gateway.balance.redis_balance import RedisBalance
from gateway.balance.redis_events import Claimed, RedisEvents
from gateway.balance.wallets import Wallets
from gateway.core.ids import shard_of
from gateway.core.limits import KEPT_LEAST_S, KEPT_S, REBUILD_AFTER_S, REDIS_ATTEMPTS
from gateway.core.words import LotSource
from gateway.db.engines import Databases
from gateway.identity.model import Actor, NewApp, Role
from gateway.identity.service import Identity
from gateway.identity.store import Store
from gateway.ledger.audit import audit
from gateway.ledger.model import GrantRequest, Opening, WalletKey
from gateway.ledger.queries import usage_by_id
from gateway.ledger.service import Ledger
from gateway.metering.drain import Drain
from gateway.metering.event import ABANDONED, EventFront, EventPayer, EventRest, encode_event
from tests.balance.conftest import Proxy
from tests.balance.server import handle

OPERATOR = Actor(Role.OPERATOR, "operator")
SHARD = shard_of("alice")
EVENTS, DEADLINES = f"mzk:{{s{SHARD:03d}}}:events", f"mzk:{{s{SHARD:03d}}}:deadlines"
CREATOR, END_USER = WalletKey("alice"), WalletKey("u1", "shop")
FUNDS = 10**9
LOSSES = int(os.environ.get("KEEPING_LOSSES", 30))
SEED = int(os.environ.get("KEEPING_SEED", 20_261_122))


class Events(RedisEvents):
    """Something happens while the drain has events in hand."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def claim(self, consumer: str, count: int, block_ms: int) -> list[Claimed]:
        claimed = await super().claim(consumer, count, block_ms)
        if self.meanwhile is not None:
            await self.meanwhile()
        return claimed


class Books(Ledger):
    """Something happens after a lost wallet was read from the books."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def rebuilding(self, wallet: WalletKey, posted_since_ms: int) -> Opening:
        found = await super().rebuilding(wallet, posted_since_ms)
        if self.meanwhile is not None:
            then, self.meanwhile = self.meanwhile, None
            await then()
        return found


class House:
    """Two gateways and a worker on one Redis and its books; time goes on as the test says."""

    def __init__(self, url: str, folder: Path) -> None:
        self.now_s = 1_000.0
        self._began_ns = time.time_ns() - int((self.now_s - 60) * 1e9)  # no credit is of the future
        self.databases = Databases(f"sqlite:///{folder}/platform.db", f"sqlite:///{folder}/{{enterprise_id}}.db")
        self.identity = Identity(Store(self.databases.platform, self.databases.app), b"a pepper of the tests")
        self.ledger = Books(self.databases)
        self.gateways = [RedisBalance(url, abandoned=ABANDONED, monotonic=self.time) for _ in range(2)]
        self.keepers = [Keeper(balance, self.time) for balance in self.gateways]
        ids = self.identity.registry.enterprise_ids
        self.wallets = [Wallets(balance, self.ledger, ids, self.clock) for balance in self.gateways]
        for balance, wallets in zip(self.gateways, self.wallets, strict=True):
            balance.rebuild_lost = wallets.rebuild_lost
        self.balance = RedisBalance(url, abandoned=ABANDONED)  # the worker's, and the test's own
        self.events = Events(url, min_idle_ms=0)
        self.drain = Drain(self.events, self.ledger, "w", batch=10_000)
        self._requests = count(1)
        self.settled: dict[str, int] = {}  # what each request was charged, as its client was told
        self._image: list[tuple[bytes, bytes, int]] = []

    def time(self) -> float:
        return self.now_s

    def clock(self) -> int:
        return self._began_ns + int(self.now_s * 1e9)

    async def open(self) -> None:
        await self.balance.link.call("FLUSHALL")
        await self.databases.migrate()
        await self.identity.registry.create_creator(OPERATOR, "alice", "Alice")
        await self.identity.registry.create_app(OPERATOR, NewApp("shop", "alice", "Shop"))
        for key in (CREATOR, END_USER):
            request = GrantRequest(key, FUNDS, "USD", LotSource.PROMO, f"g{key.owner}", "operator", reason="test")
            await self.wallets[0].grant(request)

    async def close(self) -> None:
        for balance in (*self.gateways, self.balance):
            await balance.close()
        await self.events.close()
        await self.databases.close()

    # ---- what gateways do ------------------------------------------------------------------------

    def request(self) -> HoldRequest:
        request_id = f"req_{next(self._requests)}"
        payers = (EventPayer(END_USER.name, "end_user", "USD"), EventPayer(CREATOR.name, "creator", "USD"))
        front = EventFront(
            request_id=request_id, level="app_usage", user_id="alice", enterprise_id="shop", key_id="key_1", endpoint="chat",
            model="m", platform_user_id="u1", payers=payers, cost_policy="creator_pays",
        )  # fmt: skip
        charges = (Charge(END_USER.name, 1000, 1000), Charge(CREATOR.name, 500, 500))
        return HoldRequest(request_id, SHARD, charges, (), 60_000, encode_event(front))

    async def reserve(self, gateway: int = 0) -> Hold | None:
        """As the exchange does: once more after wallets were opened; None is a 503."""
        request = self.request()
        outcome = await self.gateways[gateway].reserve(request)
        if isinstance(outcome, WalletMissing):
            if not await self.wallets[gateway].open_missing(SHARD, outcome.wallets):
                return None
            outcome = await self.gateways[gateway].reserve(request)
        return handle(request) if isinstance(outcome, Admitted) else None

    async def settle(self, hold: Hold, micro: int, gateway: int = 0) -> None:
        amounts = (micro, micro // 2)
        rest = EventRest(at_ms=1, status="served", usage_source="upstream", amounts_micro=amounts, held_micro=(1000, 500))
        self.settled[hold.request_id] = micro
        await self.gateways[gateway].settle(hold, amounts, 1, encode_event(rest))

    async def look(self) -> None:
        for keeper in self.keepers:
            await keeper.look()

    # ---- what happens to Redis -------------------------------------------------------------------

    async def wipe(self) -> None:
        await self.balance.link.call("FLUSHALL")

    async def snapshot(self) -> None:
        call = self.balance.link.call
        keys = await call("KEYS", "*")
        self._image = [(key, await call("DUMP", key), max(0, await call("PTTL", key))) for key in keys]

    async def roll_back(self) -> None:
        """As a server that starts again on an older file: every connection is cut."""
        call = self.balance.link.call
        await call("FLUSHALL")
        for key, value, ttl_ms in self._image:
            await call("RESTORE", key, ttl_ms, value)
        await call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    # ---- what is true in the end -----------------------------------------------------------------

    async def hot(self) -> list[WalletState | None]:
        return await self.balance.read(SHARD, [END_USER.name, CREATOR.name])

    async def recovered(self) -> None:
        """Everything has come to rest: kept settlements are made, holds of nobody swept, events drained."""
        self.now_s += REBUILD_AFTER_S
        for _ in range(3):
            await self.look()
        for wallets in self.wallets:
            await wallets.open_missing(SHARD, (END_USER.name, CREATOR.name))
            self.now_s += REBUILD_AFTER_S
            assert await wallets.open_missing(SHARD, (END_USER.name, CREATOR.name))
        for hold in await self.balance.link.call("ZRANGE", DEADLINES, 0, -1):
            await self.balance.link.call("ZADD", DEADLINES, 1, hold)
        await self.balance.sweep(SHARD)
        for _ in range(50):
            await self.drain.step()
            if not await self.balance.link.call("XLEN", EVENTS):
                break
            self.events._reclaim_at = 0.0  # what was claimed before the store was put back is idle at once
        assert not await self.balance.link.call("XLEN", EVENTS)

    async def check(self) -> None:
        """Each request that was settled is in the books once, at its amount, and the hot wallets say the same."""
        await self.recovered()
        spent = 0
        for request_id, micro in self.settled.items():
            row = await usage_by_id(self.databases, "shop", request_id)
            assert row is not None, f"{request_id} was lost"
            assert (row.amount_micro, row.creator_micro) == (micro, micro // 2), request_id
            spent += micro
        creator = sum(micro // 2 for micro in self.settled.values())
        assert await self.hot() == [WalletState(FUNDS - spent, 0), WalletState(FUNDS - creator, 0)]
        report = await audit(self.databases, ["shop"], self.balance)
        assert report.ok, [check for check in report.checks if not check.ok]
        self.now_s += KEPT_LEAST_S + 1
        await self.look()
        await self.look()
        assert not [kept for balance in self.gateways for kept in balance.kept if kept], "what the books have is dropped"


@pytest.fixture
async def house(server_url: str, tmp_path: Path) -> AsyncIterator[House]:
    house = House(server_url, tmp_path)
    await house.open()
    yield house
    await house.close()


async def held(house: House, gateway: int = 0) -> Hold:
    hold = await house.reserve(gateway)
    assert hold is not None
    return hold


async def test_a_request_in_flight_when_everything_is_lost_is_charged_once(house: House) -> None:
    hold = await held(house)
    await house.wipe()
    await house.settle(hold, 300)
    assert await house.hot() == [WalletState(FUNDS - 300, 0), WalletState(FUNDS - 150, 0)]
    await house.check()


async def test_what_was_settled_and_not_drained_is_settled_again_after_a_wipe(house: House) -> None:
    await house.look()
    for number in range(5):
        await house.settle(await held(house, number % 2), 100 + number, number % 2)
    await house.look()
    await house.wipe()
    await house.check()


async def test_an_emptied_stream_after_a_wipe_acknowledges_nothing(house: House) -> None:
    """Another gateway has rebuilt everything before this one looks: no wallet is missing, and no event waits."""
    first, second = await held(house), await held(house, 1)
    await house.settle(first, 100)
    await house.look()
    house.now_s += KEPT_LEAST_S + 1
    await house.wipe()
    await house.settle(second, 200, 1)
    await house.drain.step()
    await house.check()


async def test_what_the_books_have_is_dropped_and_what_waits_is_not(house: House) -> None:
    await house.settle(await held(house), 100)
    await house.drain.step()
    await house.settle(await held(house), 200)
    house.now_s += KEPT_LEAST_S + 1
    await house.look()  # the first look at a shard settles everything again, as its epoch was not known
    assert house.keepers[0].replayed == 2
    await house.look()
    assert list(house.gateways[0].kept[SHARD]) == ["req_2"]
    await house.check()


async def test_a_wallet_rebuilt_from_books_that_have_a_request_is_not_debited_for_it_again(house: House) -> None:
    """The drain had the event in hand when everything was lost, and posts it before, or after, the rebuild."""
    for before in (True, False):
        await house.settle(await held(house), 100)

        async def lose(before: bool = before) -> None:
            await house.wipe()
            if before:
                await house.look()

        house.events.meanwhile = lose
        await house.drain.step()
        house.events.meanwhile = None
        await house.look()
        await house.check()


async def test_a_store_that_comes_back_older_is_told_again(house: House) -> None:
    standing = await held(house)
    await house.settle(await held(house), 50)
    await house.look()  # the epoch is known, and it is the same afterwards
    await house.snapshot()
    gone = await held(house)
    await house.settle(standing, 100)  # its hold stands again afterwards
    await house.settle(gone, 200)  # its hold was never made
    await house.drain.step()  # and the books have both
    await house.look()
    await house.roll_back()
    await house.look()
    await house.check()


async def test_a_hold_that_was_swept_and_forgotten_is_not_charged(house: House) -> None:
    hold = await held(house)
    await house.balance.link.call("ZADD", DEADLINES, 1, f"mzk:{{s{SHARD:03d}}}:r:{hold.request_id}")
    await house.balance.sweep(SHARD)
    await house.balance.link.call("DEL", f"mzk:{{s{SHARD:03d}}}:r:{hold.request_id}")
    house.now_s += 60 + KEPT_S + 1
    settled = await house.gateways[0].settle(hold, [100, 50], 1, b"{}")
    assert not settled.first
    assert await house.hot() == [WalletState(FUNDS, 0), WalletState(FUNDS, 0)]
    assert not house.gateways[0].kept[SHARD]


async def test_a_hold_known_to_be_lost_is_charged_however_late(house: House) -> None:
    hold = await held(house)
    await house.wipe()
    for _ in range(2):
        with pytest.raises(HoldLost):
            await house.gateways[0].extend(hold, [0, 0], 60_000)
    house.now_s += 3600
    await house.settle(hold, 100)
    await house.check()


async def test_while_the_books_are_away_a_lost_settlement_is_kept_and_made_later(house: House) -> None:
    hold = await held(house)
    await house.wipe()

    async def cannot(shard: int, wallets: Sequence[str]) -> bool:
        return False

    house.gateways[0].rebuild_lost = cannot
    with pytest.raises(BalanceUnavailable):
        await house.settle(hold, 100)
    house.gateways[0].rebuild_lost = house.wallets[0].rebuild_lost
    await house.check()


async def test_a_settlement_without_an_answer_is_kept_from_before_it_was_sent(proxy: Proxy, tmp_path: Path) -> None:
    house = House(proxy.url, tmp_path)
    try:
        await house.open()
        await house.look()
        hold = await held(house)
        proxy.drop_replies = REDIS_ATTEMPTS
        with pytest.raises(BalanceUnavailable):
            await house.settle(hold, 100)
        await house.wipe()  # and the exchange dies before it can repeat it
        await house.check()
    finally:
        await house.close()


async def test_a_process_that_ends_settles_what_has_no_answer_and_waits_no_longer_than_it_is_told(
    proxy: Proxy, tmp_path: Path
) -> None:
    house = House(proxy.url, tmp_path)
    try:
        await house.open()
        await house.settle(await held(house), 50)
        hold = await held(house)
        proxy.drop_replies = 2 * REDIS_ATTEMPTS
        with pytest.raises(BalanceUnavailable):
            await house.settle(hold, 100)
        keeper = house.keepers[0]
        assert await keeper.finish(0.0) == 1  # still away
        assert await keeper.finish(10.0) == 0
        await house.drain.step()
        assert await house.hot() == [WalletState(FUNDS - 150, 0), WalletState(FUNDS - 75, 0)]
        replayed = keeper.replayed
        assert await keeper.finish(10.0) == 0
        assert keeper.replayed == replayed, "what has its answer needs nobody any more"
        await house.check()
    finally:
        await house.close()


async def test_a_wallet_is_never_made_of_what_the_books_said_before_the_last_loss(house: House) -> None:
    """Meanwhile another gateway rebuilt it, and a credit was applied and marked: then everything was lost again."""

    async def credited_and_lost() -> None:
        assert await house.wallets[1].rebuild_lost(SHARD, [END_USER.name])
        await house.wallets[1].grant(GrantRequest(END_USER, 7, "USD", LotSource.PROMO, "g7", "operator", reason="test"))
        await house.wipe()

    await house.wipe()
    house.ledger.meanwhile = credited_and_lost
    assert await house.wallets[0].rebuild_lost(SHARD, [END_USER.name])
    assert (await house.hot())[0] == WalletState(FUNDS + 7, 0)


async def test_two_who_settle_the_same_lost_request_again_at_once_charge_it_once(house: House) -> None:
    """The exchange repeats a settlement that was not taken, while what is kept is looked at."""
    await house.settle(await held(house), 100)
    other = await held(house, 1)
    await house.wipe()
    await house.settle(other, 200, 1)  # the wallets are there again
    [kept] = house.gateways[0].kept[SHARD].values()
    answers = await asyncio.gather(*[house.gateways[0].settle_again(kept) for _ in range(3)])
    assert sorted(answer.first for answer in answers) == [False, False, True]
    await house.check()


async def test_a_new_request_rebuilds_lost_wallets_only_after_live_gateways_had_time(house: House) -> None:
    for _ in range(2):  # and each loss has its own time
        await house.wipe()
        assert await house.reserve() is None
        house.now_s += REBUILD_AFTER_S - 1
        assert await house.reserve() is None
        assert await house.hot() == [None, None]
        house.now_s += 1
        hold = await held(house)
        await house.settle(hold, 7)
        await house.drain.step()
    await house.check()


async def test_a_loss_while_a_lost_wallet_is_rebuilt_has_the_books_read_again(house: House) -> None:
    """Between the reading of the books and the making of the wallet, another gateway rebuilds, and all is lost again."""
    for number in range(2):
        await house.settle(await held(house), 100)
        await house.drain.step()
        house.ledger.meanwhile = house.wipe
        await house.wipe()
        await house.look()
        assert vars(house.ledger)["meanwhile"] is None, f"nothing was lost in time {number}"
        await house.look()
        await house.check()


async def history(house: House, chance: random.Random, losses: int) -> tuple[int, int]:
    """Random requests, drains and looks, and so many losses among them; how many were wipes and roll-backs."""
    holds: list[tuple[Hold, int]] = []
    wipes = rolls = 0
    image_at = -1.0

    async def lose() -> None:
        nonlocal wipes, rolls, image_at
        if image_at >= house.now_s - KEPT_LEAST_S and chance.random() < 0.8:
            rolls += 1
            await house.roll_back()
        else:
            wipes += 1
            await house.wipe()
        image_at = -1.0

    async def in_hand() -> None:
        if chance.random() < 0.1:
            house.ledger.meanwhile = lose
        if chance.random() < 0.1:
            await lose()
        if chance.random() < 0.5:
            await house.look()

    while wipes + rolls < losses:
        gateway, roll = chance.randrange(2), chance.random()
        house.now_s += chance.choice((0.05, 0.2, 0.5, 2.0))
        if roll < 0.4:
            hold = await house.reserve(gateway)
            if hold is not None:
                holds.append((hold, gateway))
        elif roll < 0.7 and holds:
            hold, gateway = holds.pop(chance.randrange(len(holds)))
            await house.settle(hold, chance.randrange(1, 1200), gateway)
        elif roll < 0.73 and holds:
            hold, gateway = holds.pop(chance.randrange(len(holds)))
            await house.gateways[gateway].release(hold)
        elif roll < 0.8:
            house.events.meanwhile = in_hand
            await house.drain.step()
            house.events.meanwhile = None
        elif roll < 0.88:
            await house.keepers[gateway].look()
        elif roll < 0.97:
            await house.snapshot()
            image_at = house.now_s
        else:
            await lose()
    house.ledger.meanwhile = None
    for hold, gateway in holds:
        await house.settle(hold, 5, gateway)
    return wipes, rolls


@pytest.mark.timeout(300 + LOSSES)
async def test_random_histories_with_losses_end_in_the_same_books(server_url: str, tmp_path: Path) -> None:
    print(f"KEEPING_SEED={SEED} KEEPING_LOSSES={LOSSES} pytest -s tests/balance/test_keeping.py")
    wipes = rolls = number = requests = replayed = 0
    while wipes + rolls < LOSSES:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        house = House(server_url, folder)
        try:
            await house.open()
            some = await history(house, random.Random(f"{SEED}/{number}"), 10)
            await house.check()
        except (AssertionError, BalanceUnavailable):
            print(f"history {number} of this seed")
            raise
        finally:
            await house.close()
        wipes, rolls = wipes + some[0], rolls + some[1]
        requests += len(house.settled)
        replayed += sum(keeper.replayed for keeper in house.keepers)
    print(
        f"{wipes} wipes and {rolls} roll-backs in {number} histories; {requests} requests settled, none lost; {replayed} replays"
    )

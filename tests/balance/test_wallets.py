"""Wallets over the books and the hot store: whatever dies in between, both say the same in the end."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import pytest

from gateway.balance.model import BalanceUnavailable, Unfunded, WalletState
from gateway.balance.redis_balance import RedisBalance
from gateway.balance.wallets import Wallets
from gateway.core.errors import Conflict, NotFound
from gateway.core.ids import shard_of
from gateway.db.engines import Databases
from gateway.identity.model import Actor, NewApp, Role
from gateway.identity.service import Identity
from gateway.identity.store import Store
from gateway.ledger.model import GrantRequest, WalletKey
from gateway.ledger.service import Ledger

OPERATOR = Actor(Role.OPERATOR, "operator")
SHARD = shard_of("alice")
CREATOR, END_USER = WalletKey("alice"), WalletKey("u1", "shop")


class House:
    """Books, hot store, and the wallets over both."""

    def __init__(self, databases: Databases, balance: RedisBalance) -> None:
        self.databases = databases
        self.balance = balance
        self.identity = Identity(Store(databases.platform, databases.app), b"a pepper of the tests")
        self.ledger = Ledger(databases)
        self.wallets = Wallets(balance, self.ledger, self.identity.registry.enterprise_ids)

    async def hot(self, key: WalletKey = END_USER) -> WalletState | None:
        return (await self.balance.read(SHARD, [key.name]))[0]

    async def available(self, key: WalletKey = END_USER) -> int | None:
        state = await self.hot(key)
        return None if state is None else state.available_micro


@pytest.fixture
async def house(tmp_path: Path, balance: RedisBalance) -> AsyncIterator[House]:
    databases = Databases(f"sqlite:///{tmp_path}/platform.db", f"sqlite:///{tmp_path}/{{enterprise_id}}.db")
    await databases.migrate()
    house = House(databases, balance)
    await house.identity.registry.create_creator(OPERATOR, "alice", "Alice")
    await house.identity.registry.create_app(OPERATOR, NewApp("shop", "alice", "Shop"))
    yield house
    await databases.close()


class DeadBalance(RedisBalance):
    """A hot store that is down for credits."""

    async def credit(self, op_id: str, shard: int, wallet: str, delta_micro: int) -> WalletState | None:
        raise BalanceUnavailable


class ForgetfulLedger(Ledger):
    """A process that dies after the hot store was credited, before the books heard of it."""

    async def mark_applied(self, enterprise_id: str | None, txn_ids: Sequence[str]) -> None:
        return


def grant(key: WalletKey, amount_micro: int, op_id: str, effective_at_ms: int | None = None) -> GrantRequest:
    return GrantRequest(key, amount_micro, "USD", "promo", op_id, "test", effective_at_ms=effective_at_ms)


@pytest.mark.parametrize("key", [CREATOR, END_USER])
async def test_a_first_grant_opens_the_wallet_and_a_repeat_changes_nothing(house: House, key: WalletKey) -> None:
    first = await house.wallets.grant(grant(key, 5, "g1"))
    again = await house.wallets.grant(grant(key, 5, "g1"))
    assert (first.txn_id, first.first, again.first) == (again.txn_id, True, False)
    assert await house.available(key) == 5
    assert await house.ledger.waiting_credits(key.enterprise_id) == []
    with pytest.raises(Conflict):
        await house.wallets.grant(grant(key, 6, "g1"))


async def test_a_grant_stands_though_the_hot_store_is_down_and_arrives_later(house: House, server_url: str) -> None:
    dead = DeadBalance(server_url)
    down = Wallets(dead, house.ledger, house.identity.registry.enterprise_ids)
    for key in (CREATOR, END_USER):
        await down.grant(grant(key, 5, "g1"))
        assert await house.hot(key) is None
        shown = await house.wallets.view(key)
        assert (shown.available_micro, shown.pending_micro) == (0, 5)
    assert await house.wallets.apply_waiting_credits() == 2
    assert (await house.available(CREATOR), await house.available(END_USER)) == (5, 5)
    assert await house.wallets.apply_waiting_credits() == 0
    await dead.close()


async def test_a_repeat_of_a_grant_that_waits_applies_it(house: House, server_url: str) -> None:
    dead = DeadBalance(server_url)
    await Wallets(dead, house.ledger, house.identity.registry.enterprise_ids).grant(grant(END_USER, 5, "g1"))
    await house.wallets.grant(grant(END_USER, 5, "g1"))
    assert await house.available() == 5
    await dead.close()


async def test_a_credit_that_was_applied_but_not_marked_is_not_applied_twice(house: House) -> None:
    dying = Wallets(house.balance, ForgetfulLedger(house.databases), house.identity.registry.enterprise_ids)
    await dying.grant(grant(END_USER, 5, "g1"))
    assert await house.available() == 5
    assert await house.wallets.apply_waiting_credits() == 1
    assert await house.available() == 5
    assert await house.ledger.waiting_credits("shop") == []


async def test_a_wallet_that_the_hot_store_lost_is_never_opened_again_by_a_request(house: House) -> None:
    await house.wallets.grant(grant(END_USER, 5, "g1"))
    await house.balance.link.call("FLUSHALL")
    assert not await house.wallets.open_missing(SHARD, (END_USER.name,))
    await house.wallets.grant(grant(END_USER, 3, "g2"))
    assert await house.hot() is None
    assert [credit.delta_micro for credit in await house.ledger.waiting_credits("shop")] == [3]


async def test_missing_wallets_are_opened_empty_and_those_of_nobody_are_not(house: House) -> None:
    assert await house.wallets.open_missing(SHARD, (CREATOR.name, END_USER.name))
    assert (await house.available(CREATOR), await house.available(END_USER)) == (0, 0)
    assert await house.wallets.open_missing(SHARD, (CREATOR.name,)), "that another was faster is no failure"
    for name in ("p/nobody", "a/nowhere/u1", "nonsense", "a/shop/a b"):
        assert not await house.wallets.open_missing(SHARD, (name,))


async def test_a_wallet_that_must_hold_something_is_not_made_for_somebody_unheard_of(house: House) -> None:
    name = "a/shop/stranger"
    for _ in range(2):
        with pytest.raises(Unfunded):
            await house.wallets.open_missing(SHARD, (name,), (name,))
    assert await house.balance.read(SHARD, [name]) == [None]
    stranger = WalletKey("stranger", "shop")
    assert not (await house.ledger.opening(stranger)).is_known
    await house.wallets.grant(grant(stranger, 50, "op_stranger"))
    assert (await house.balance.read(SHARD, [name]))[0] == WalletState(50, 0)


async def test_a_grant_for_later_does_not_reach_the_hot_store_before(house: House) -> None:
    await house.wallets.grant(grant(END_USER, 5, "g1", effective_at_ms=4_000_000_000_000))
    assert await house.hot() is None
    assert await house.wallets.apply_waiting_credits() == 0
    assert (await house.wallets.view(END_USER)).pending_micro == 5


async def test_a_debt_is_shown_as_such_and_no_wallet_is_invented(house: House) -> None:
    await house.wallets.grant(grant(END_USER, 5, "g1"))
    await house.balance.credit("overrun", SHARD, END_USER.name, -8)
    shown = await house.wallets.view(END_USER)
    assert (shown.available_micro, shown.debt_micro) == (0, 3)
    with pytest.raises(NotFound):
        await house.wallets.view(WalletKey("nobody"))


async def test_grants_openings_and_the_worker_at_once_never_lose_or_double_money(house: House) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    grants = [grant(END_USER, chance.randint(1, 1000), f"g{number}") for number in range(25)]
    work: list[Awaitable[object]] = [house.wallets.grant(request) for request in grants for _ in range(chance.randint(1, 2))]
    work += [house.wallets.open_missing(SHARD, (END_USER.name,)) for _ in range(5)]
    work += [house.wallets.apply_waiting_credits() for _ in range(5)]
    chance.shuffle(work)
    await asyncio.gather(*work)
    await house.wallets.apply_waiting_credits()
    total = sum(request.amount_micro for request in grants)
    assert await house.available() == total
    assert (await house.ledger.wallet(END_USER)).available_micro == total
    assert await house.ledger.waiting_credits("shop") == []

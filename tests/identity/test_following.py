"""What is cached is confirmed by the trail, and dropped by it, without a bus."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text

from gateway.core.limits import KEY_CACHE_TTL_MAX_S, KEY_CACHE_TTL_S
from gateway.core.money import USD
from gateway.db.faults import SqlDown
from gateway.identity import following as module
from gateway.identity.following import Following
from gateway.identity.model import AppChanges, CreatorChanges, KeyChanges, LimitChanges, Limits
from gateway.identity.service import Identity
from gateway.pricing.catalog import Catalog

from .conftest import OPERATOR, MovableClock, World
from .test_service import Queries, refusal

Change = Callable[[World, str], Awaitable[object]]


@pytest.fixture
def other(world: World) -> Identity:
    """Another process."""
    return world.another()


@pytest.fixture
async def following(world: World, other: Identity) -> Following:
    following = Following(world.databases.platform, (other,), world.clock)
    await following.look()
    return following


async def test_a_key_that_the_trail_does_not_name_is_looked_up_once_in_ten_minutes(
    world: World, clock: MovableClock, other: Identity, following: Following
) -> None:
    _, secret = await world.key()
    await following.look()
    await other.authenticate(secret)
    passed_s = 0.0
    while passed_s + KEY_CACHE_TTL_S - 1 < KEY_CACHE_TTL_MAX_S:
        clock.advance(KEY_CACHE_TTL_S - 1)
        passed_s += KEY_CACHE_TTL_S - 1
        await following.look()
        assert other.cached(secret) is not None
    clock.advance(KEY_CACHE_TTL_S)
    await following.look()
    assert other.cached(secret) is None, "what was changed by hand is found at last"


async def test_without_a_look_the_time_to_live_ends(
    world: World, clock: MovableClock, other: Identity, following: Following
) -> None:
    _, secret = await world.key()
    await other.authenticate(secret)
    await following.look()
    clock.advance(KEY_CACHE_TTL_S + 1)
    assert other.cached(secret) is None


CHANGES: dict[str, tuple[Change, str]] = {
    "the key": (lambda world, key: world.registry.revoke_key(OPERATOR, "shop", key), "revoked_api_key"),
    "its app": (lambda world, _: world.registry.update_app(OPERATOR, "shop", AppChanges(status="suspended")), "app_suspended"),
    "its creator": (
        lambda world, _: world.registry.update_creator(OPERATOR, "alice", CreatorChanges(status="suspended")), "app_suspended",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_that_no_message_told_of_is_found_at_the_next_look(
    world: World, other: Identity, following: Following, name: str
) -> None:
    change, code = CHANGES[name]
    key, secret = await world.key()
    _, untouched = await world.key(app="bobs")
    await following.look()
    await other.authenticate(secret)
    await other.authenticate(untouched)
    await change(world, key.id)
    assert other.cached(secret) is not None, "nobody told"
    await following.look()
    assert await refusal(other, secret) == code
    queries = Queries(world)
    await other.authenticate(untouched)
    assert queries.count == 0, "what the change does not concern stays"


async def test_a_changed_limit_is_found(world: World, other: Identity, following: Following) -> None:
    key, secret = await world.key(limits=Limits(rpm=5))
    await other.authenticate(secret)
    await world.registry.update_key(OPERATOR, "shop", key.id, KeyChanges(limits=LimitChanges(rpm=7)))
    await following.look()
    assert (await other.authenticate(secret)).limits == Limits(rpm=7)


async def test_more_changes_than_are_read_doubt_everything(
    world: World, other: Identity, following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINES_MAX", 2)
    key, secret = await world.key()
    await following.look()
    await other.authenticate(secret)
    await world.registry.revoke_key(OPERATOR, "shop", key.id)
    for _ in range(2):
        await world.key(app="bobs")
    await following.look()
    assert other.cached(secret) is None
    assert await refusal(other, secret) == "revoked_api_key"


async def test_what_was_cached_before_the_first_look_is_doubted(world: World, other: Identity) -> None:
    key, secret = await world.key()
    await other.authenticate(secret)
    await world.registry.revoke_key(OPERATOR, "shop", key.id)
    await Following(world.databases.platform, (other,), world.clock).look()
    assert await refusal(other, secret) == "revoked_api_key"


async def test_an_older_database_in_the_place_of_this_one_is_noticed(world: World, other: Identity, following: Following) -> None:
    _, secret = await world.key()
    await following.look()
    await other.authenticate(secret)
    async with world.databases.platform.begin() as connection:
        for [name] in (await connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))).all():
            await connection.execute(text(f'DROP TRIGGER "{name}"'))
        await connection.execute(text("UPDATE trail_head SET seq = seq - 1"))
    await following.look()
    assert other.cached(secret) is None


async def test_a_look_that_fails_confirms_nothing(
    world: World, clock: MovableClock, other: Identity, following: Following
) -> None:
    _, secret = await world.key()
    await following.look()
    await other.authenticate(secret)
    async with world.databases.platform.begin() as connection:
        await connection.execute(text("ALTER TABLE trail_head RENAME TO gone"))
    clock.advance(KEY_CACHE_TTL_S - 1)
    with pytest.raises(SqlDown):
        await following.look()
    clock.advance(2)
    assert other.cached(secret) is None


async def test_books_of_prices_are_confirmed_and_dropped_likewise(world: World, clock: MovableClock) -> None:
    catalog, elsewhere = (Catalog(world.databases.platform, [], clock=clock) for _ in range(2))
    following = Following(world.databases.platform, (catalog,), clock)
    await following.look()
    await catalog.load_app("shop")
    await catalog.load_app("bobs")

    def known(app: str) -> bool:
        return catalog.app_cached(app, USD, "m", "m/openai/0", clock() // 1_000_000) is not False

    for _ in range(3):
        clock.advance(29)
        await following.look()
        assert known("shop")
    await world.key()  # an app's key is none of its prices
    await following.look()
    assert known("shop")
    prices = {"input": 1, "output": 1}
    await elsewhere.add_app_price("shop", "m", clock() // 1_000_000, rates=prices, actor="op")
    await following.look()
    assert (known("shop"), known("bobs")) == (False, True)




async def test_price_lists_are_read_again_when_the_trail_tells_of_one(
    world: World, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3600)
    catalog, elsewhere = (Catalog(world.databases.platform, [], clock=clock) for _ in range(2))
    following = Following(world.databases.platform, (catalog,), clock)
    running = asyncio.create_task(following.run())
    await following.look()
    entry = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    row = await elsewhere.lists.add(json.dumps({"gpt-new": entry}).encode(), clock() // 1_000_000, "op", "operator")
    async with world.databases.platform.begin() as connection:
        await connection.execute(text("ALTER TABLE price_lists RENAME TO gone"))
    with pytest.raises(SqlDown):
        await following.look()
    assert catalog.lists.in_force() == ""
    async with world.databases.platform.begin() as connection:
        await connection.execute(text("ALTER TABLE gone RENAME TO price_lists"))
    following.look_soon()  # and not only with the next look of its own
    async with asyncio.timeout(20):
        while catalog.lists.in_force() != row.id:
            await asyncio.sleep(0.01)
    running.cancel()

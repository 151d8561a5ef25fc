"""Invalidations between two processes over a real server, also after the connection was lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from gateway.core.errors import Unauthenticated
from gateway.core.limits import KEY_CACHE_TTL_S
from gateway.core.words import Level
from gateway.identity.cache import InvalidationBus
from gateway.identity.model import AppChanges, NewKey
from gateway.identity.service import Identity
from gateway.identity.store import Store
from gateway.trail.model import Act

from .conftest import OPERATOR, PEPPER, World


async def until(true: Callable[[], bool], within_s: float = 2.0) -> float:
    """Waits until it is true; the seconds that it took."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < within_s, "did not become true in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - started


@asynccontextmanager
async def listening(identity: Identity, url: str) -> AsyncIterator[None]:
    """Runs the subscription of an identity, from the moment that it stands."""
    before = identity._generation
    task = asyncio.get_running_loop().create_task(bus_of(identity).run(identity.forget, identity.forget_all))
    try:
        await until(lambda: identity._generation > before)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus_of(identity).close()


def bus_of(identity: Identity) -> InvalidationBus:
    assert identity._bus is not None
    return identity._bus


def process(world: World, url: str) -> Identity:
    return Identity(Store(world.databases.platform), PEPPER, InvalidationBus(url), world.clock)


async def test_a_key_revoked_in_one_process_is_refused_in_another_within_a_second(world: World, own_redis_url: str) -> None:
    here, there = process(world, own_redis_url), process(world, own_redis_url)
    key, secret = await here.registry.create_key(OPERATOR, "shop", _key())
    async with listening(here, own_redis_url), listening(there, own_redis_url):
        await there.authenticate(secret)
        assert there.cached(secret) is not None
        await here.registry.revoke_key(OPERATOR, "shop", key.id)
        await until(lambda: there.cached(secret) is None, within_s=1.0)
        with pytest.raises(Unauthenticated) as refused:
            await there.authenticate(secret)
        assert refused.value.code == "revoked_api_key"


async def test_a_changed_app_reaches_every_key_and_token_of_it_elsewhere(world: World, own_redis_url: str) -> None:
    here, there = process(world, own_redis_url), process(world, own_redis_url)
    _, secret = await here.registry.create_key(OPERATOR, "shop", _key())
    async with listening(here, own_redis_url), listening(there, own_redis_url):
        await there.authenticate(secret)
        await here.registry.update_app(OPERATOR, "shop", AppChanges(status="suspended"))
        await until(lambda: there.cached(secret) is None, within_s=1.0)


async def test_a_message_missed_while_cut_off_is_made_up_for_on_reconnecting(world: World, own_redis_url: str) -> None:
    here, there = process(world, own_redis_url), process(world, own_redis_url)
    key, secret = await here.registry.create_key(OPERATOR, "shop", _key())
    async with listening(there, own_redis_url), Redis.from_url(own_redis_url) as admin:
        await there.authenticate(secret)
        # Revoked behind the bus's back: as if the message had been published while `there` was away.
        await Store(world.databases.platform).revoke_key(key.id, 1, Act("key.revoke", "operator", "test", key.id))
        assert there.cached(secret) is not None
        assert await admin.client_kill_filter(_type="pubsub") == 1
        took_s = await until(lambda: there.cached(secret) is None)
        assert took_s < KEY_CACHE_TTL_S
        with pytest.raises(Unauthenticated):
            await there.authenticate(secret)
        # And the new subscription works.
        second, second_secret = await here.registry.create_key(OPERATOR, "shop", _key())
        await there.authenticate(second_secret)
        await here.registry.revoke_key(OPERATOR, "shop", second.id)
        await until(lambda: there.cached(second_secret) is None, within_s=1.0)
    await bus_of(here).close()


async def test_a_dead_server_stops_neither_changes_nor_the_loop(world: World, tmp_path: object) -> None:
    alone = process(world, f"unix://{tmp_path}/nobody.sock")
    key, secret = await alone.registry.create_key(OPERATOR, "shop", _key())
    task = asyncio.get_running_loop().create_task(bus_of(alone).run(alone.forget, alone.forget_all))
    await alone.authenticate(secret)
    await alone.registry.revoke_key(OPERATOR, "shop", key.id)
    assert alone.cached(secret) is None
    await asyncio.sleep(0.2)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _key() -> NewKey:
    return NewKey(name="k", level=Level.APP_USAGE)

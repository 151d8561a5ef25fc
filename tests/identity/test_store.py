"""The same journey on both engines."""

from pathlib import Path

import pytest

from gateway.core.errors import Conflict, NotFound, Unauthenticated
from gateway.core.words import Level
from gateway.db.engines import Databases
from gateway.identity.model import AppChanges, KeyChanges, LimitChanges, Limits, NewApp, NewKey, NewToken

from .conftest import OPERATOR, MovableClock, World


async def test_a_keys_life_on_sqlite(tmp_path: Path) -> None:
    await live(f"sqlite:///{tmp_path}/platform.db", f"sqlite:///{tmp_path}/{{enterprise_id}}.db")


async def test_a_keys_life_on_postgres(postgres_url: str) -> None:
    await live(postgres_url, postgres_url.replace("?", "_{enterprise_id}?"))


async def live(platform_url: str, app_url: str) -> None:
    databases = Databases(platform_url, app_url)
    await databases.migrate()
    try:
        await journey(World(databases, MovableClock()))
    finally:
        await databases.close()


async def journey(world: World) -> None:
    registry, identity = world.registry, world.identity
    await registry.create_creator(OPERATOR, "alice", "Alice \u00c5")
    with pytest.raises(Conflict):
        await registry.create_creator(OPERATOR, "alice", "Again")
    app = await registry.create_app(OPERATOR, NewApp("shop", "alice", "Shop", end_user_limits=Limits(rpm=3)))
    assert app == await registry.app(OPERATOR, "shop")
    with pytest.raises(Conflict):
        await registry.create_app(OPERATOR, NewApp("shop", "alice", "Shop"))
    new_key = NewKey("k", Level.APP_USAGE, ("gpt-*",), Limits(spend_micro_total=2**40))
    key, secret = await registry.create_key(OPERATOR, "shop", new_key)
    assert key == await registry.key(OPERATOR, "shop", key.id)
    assert (await identity.authenticate(secret)).app == app
    token = await registry.mint_end_user_token(OPERATOR, "shop", NewToken("u1"))
    assert (await identity.authenticate(token.token)).platform_user_id == "u1"
    await registry.update_app(OPERATOR, "shop", AppChanges(default_end_user="shared"))
    assert (await identity.authenticate(secret)).app.default_end_user == "shared"
    await registry.update_key(OPERATOR, "shop", key.id, KeyChanges(limits=LimitChanges(rpm=1, spend_micro_total=None)))
    new, new_secret = await registry.rotate_key(OPERATOR, "shop", key.id, 60)
    assert (await identity.authenticate(new_secret)).limits == Limits(rpm=1)
    with pytest.raises(Conflict):
        await registry.rotate_key(OPERATOR, "shop", key.id)
    assert [row.id for row in (await registry.keys(OPERATOR, "shop")).rows] == [new.id, key.id]
    await registry.revoke_key(OPERATOR, "shop", key.id)
    with pytest.raises(Unauthenticated) as revoked:
        await identity.authenticate(secret)
    assert revoked.value.code == "revoked_api_key"
    _, management = await registry.create_management_key(OPERATOR, "alice", "ci")
    actor = await identity.authenticate_management(management)
    assert [row.enterprise_id for row in (await registry.apps(actor)).rows] == ["shop"]
    for name in ("a\0b", "nowhere"):
        with pytest.raises(NotFound):
            await registry.app(actor, name)
    assert await registry.enterprise_ids() == ["shop"]

"""Authentication: what opens, what does not, and what it costs."""

from typing import Any

import jwt
import pytest
from sqlalchemy import event, text

from gateway.core.errors import Forbidden, GatewayError, Unauthenticated, Unavailable
from gateway.core.ids import new_id, shard_of
from gateway.core.limits import KEY_CACHE_TTL_S, KEY_STALE_MAX_S, UNKNOWN_KEY_TTL_S
from gateway.core.words import Level
from gateway.identity import keys, tokens
from gateway.identity import service as service_module
from gateway.identity.model import AppChanges, CreatorChanges, KeyChanges, Limits, NewToken
from gateway.identity.service import Identity
from gateway.identity.store import KeyRecord, Store

from .conftest import OPERATOR, PEPPER, MovableClock, World


class Queries:
    """Counts the statements of an engine."""

    def __init__(self, world: World) -> None:
        self.count = 0
        event.listen(world.databases.platform.sync_engine, "before_cursor_execute", self._seen)

    def _seen(self, *_: Any) -> None:
        self.count += 1


async def refusal(identity: Identity, credential: str) -> str:
    with pytest.raises(GatewayError) as refused:
        await identity.authenticate(credential)
    return refused.value.code


async def test_a_key_opens_with_all_that_the_path_needs(world: World) -> None:
    key, secret = await world.key(models=("gpt-*",), limits=Limits(rpm=5))
    principal = await world.identity.authenticate(secret)
    assert principal.key_id == key.id
    assert principal.level is Level.APP_USAGE
    assert (principal.app.enterprise_id, principal.app.user_id) == ("shop", "alice")
    assert principal.shard == shard_of("alice")
    assert (principal.models, principal.limits) == (("gpt-*",), Limits(rpm=5))
    assert world.identity.cached(secret) is principal


async def test_a_cached_key_costs_no_sql_until_its_time_to_live_ends(world: World, clock: MovableClock) -> None:
    _, secret = await world.key()
    await world.identity.authenticate(secret)
    queries = Queries(world)
    for _ in range(10):
        await world.identity.authenticate(secret)
    assert queries.count == 0
    clock.advance(KEY_CACHE_TTL_S + 1)
    assert world.identity.cached(secret) is None
    await world.identity.authenticate(secret)
    assert queries.count >= 1


async def test_a_key_with_a_wrong_secret_never_opens_cached_or_not(world: World) -> None:
    _, secret = await world.key()
    wrong = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    assert await refusal(world.identity, wrong) == "invalid_api_key"
    await world.identity.authenticate(secret)
    assert world.identity.cached(wrong) is None
    queries = Queries(world)
    assert await refusal(world.identity, wrong) == "invalid_api_key"
    assert queries.count == 0, "a wrong secret for a known id needs no second look"
    assert await refusal(world.identity, secret.replace("live", "test")) == "invalid_api_key"


NO_CREDENTIALS = [
    "",
    "x",
    "sk-abc",
    "mzk_live_x",
    "mzu_x",
    "mzu_\u00e9",
    "\ud800" * 40,
    "mzk_" + "a" * 10_000,
    "mzu_" + "a" * 10_000,
]


@pytest.mark.parametrize("credential", NO_CREDENTIALS, ids=range(len(NO_CREDENTIALS)))
async def test_text_that_is_no_credential_is_refused_without_sql(world: World, credential: str) -> None:
    queries = Queries(world)
    assert world.identity.cached(credential) is None
    assert await refusal(world.identity, credential) == "invalid_api_key"
    assert queries.count == 0


async def test_an_unknown_key_is_looked_up_once_within_its_time(world: World, clock: MovableClock) -> None:
    unknown = keys.mint_api_key(PEPPER).secret
    queries = Queries(world)
    for _ in range(5):
        assert await refusal(world.identity, unknown) == "invalid_api_key"
    first = queries.count
    assert first > 0
    clock.advance(UNKNOWN_KEY_TTL_S + 1)
    await refusal(world.identity, unknown)
    assert queries.count == 2 * first


async def test_expiry_is_checked_at_every_use_of_a_cached_key(world: World, clock: MovableClock) -> None:
    _, secret = await world.key(expires_at_ms=clock() // 1_000_000 + 5000)
    await world.identity.authenticate(secret)
    clock.advance(4)
    assert world.identity.cached(secret) is not None
    clock.advance(1.1)
    assert world.identity.cached(secret) is None
    assert await refusal(world.identity, secret) == "expired_api_key"


async def test_a_revoked_key_is_refused_at_once_and_a_changed_one_is_seen_at_once(world: World) -> None:
    key, secret = await world.key()
    await world.identity.authenticate(secret)
    await world.registry.update_key(OPERATOR, "shop", key.id, KeyChanges(models=("only",)))
    assert (await world.identity.authenticate(secret)).models == ("only",)
    await world.registry.revoke_key(OPERATOR, "shop", key.id)
    assert world.identity.cached(secret) is None
    assert await refusal(world.identity, secret) == "revoked_api_key"


async def test_a_process_without_a_bus_sees_a_revocation_after_the_time_to_live(world: World, clock: MovableClock) -> None:
    key, secret = await world.key()
    other = world.another()
    await other.authenticate(secret)
    await world.registry.revoke_key(OPERATOR, "shop", key.id)
    clock.advance(KEY_CACHE_TTL_S + 1)
    assert await refusal(other, secret) == "revoked_api_key"


async def test_a_suspended_app_or_creator_stops_its_keys_until_it_is_active_again(world: World) -> None:
    _, secret = await world.key()
    await world.identity.authenticate(secret)
    await world.registry.update_app(OPERATOR, "shop", AppChanges(status="suspended"))
    assert await refusal(world.identity, secret) == "app_suspended"
    await world.registry.update_app(OPERATOR, "shop", AppChanges(status="active"))
    await world.identity.authenticate(secret)
    await world.registry.update_creator(OPERATOR, "alice", CreatorChanges(status="suspended"))
    assert await refusal(world.identity, secret) == "app_suspended"


async def test_a_rotated_key_goes_on_for_the_overlap_and_no_longer(world: World, clock: MovableClock) -> None:
    old, old_secret = await world.key(limits=Limits(tpm=9))
    await world.identity.authenticate(old_secret)
    new, new_secret = await world.registry.rotate_key(OPERATOR, "shop", old.id, 60)
    assert new.id != old.id
    assert (await world.identity.authenticate(new_secret)).limits == Limits(tpm=9)
    assert (await world.identity.authenticate(old_secret)).key_id == old.id
    clock.advance(61)
    assert await refusal(world.identity, old_secret) == "expired_api_key"
    await world.identity.authenticate(new_secret)


async def test_what_was_read_before_an_invalidation_is_not_kept(world: World) -> None:
    """A revocation that lands while the row is being read must not be undone by caching that row."""
    key, secret = await world.key()

    class SlowStore(Store):
        """Between the reading of a row and its arrival, the key is revoked."""

        async def key_record(self, key_id: str) -> KeyRecord | None:
            record = await super().key_record(key_id)
            await identity.registry.revoke_key(OPERATOR, "shop", key.id)
            return record

    identity = Identity(SlowStore(world.databases.platform), PEPPER, None, world.clock)
    await identity.authenticate(secret)
    assert identity.cached(secret) is None
    assert await refusal(identity, secret) == "revoked_api_key"


async def test_a_known_key_outlives_a_broken_database_for_a_while(world: World, clock: MovableClock) -> None:
    _, secret = await world.key()
    _, unknown_here = await world.key()
    await world.identity.authenticate(secret)
    async with world.databases.platform.begin() as connection:
        await connection.execute(text("ALTER TABLE api_keys RENAME TO gone"))
    clock.advance(KEY_CACHE_TTL_S + 1)
    assert (await world.identity.authenticate(secret)).app.enterprise_id == "shop"
    with pytest.raises(Unavailable):
        await world.identity.authenticate(unknown_here)
    clock.advance(KEY_STALE_MAX_S)
    with pytest.raises(Unavailable):
        await world.identity.authenticate(secret)


async def test_the_cache_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "KEY_CACHE_MAX", 3)
    secrets = [(await world.key())[1] for _ in range(5)]
    for secret in secrets:
        await world.identity.authenticate(secret)
    assert [world.identity.cached(secret) is not None for secret in secrets] == [False, False, True, True, True]


async def test_may_use_follows_the_names_and_patterns_of_the_key(world: World) -> None:
    _, secret = await world.key(models=("gpt-4o", "claude-*"))
    principal = await world.identity.authenticate(secret)
    allowed = [
        world.identity.may_use(principal, model) for model in ("gpt-4o", "gpt-4o-mini", "claude-3", "xclaude-3", "claude-")
    ]
    assert allowed == [True, False, True, False, True]
    _, free = await world.key()
    assert world.identity.may_use(await world.identity.authenticate(free), "anything")


# ---- end-user tokens ---------------------------------------------------------------------------


async def minted(world: World, **fields: Any) -> str:
    new = NewToken(platform_user_id="u1", **fields)
    return (await world.registry.mint_end_user_token(OPERATOR, "shop", new)).token


async def test_a_token_opens_with_its_own_limits_and_is_cached(world: World) -> None:
    key, _ = await world.key(models=("gpt-*",), limits=Limits(rpm=50))
    token = await minted(world, models=("gpt-4o",), spend_micro_max=9, rpm=3)
    principal = await world.identity.authenticate(token)
    assert (principal.key_id, principal.platform_user_id, principal.models) == (key.id, "u1", ("gpt-4o",))
    assert (principal.limits, principal.token_limits) == (Limits(rpm=50), Limits(rpm=3, spend_micro_total=9))
    assert principal.token_id is not None
    assert principal.token_id.startswith("tok_")
    assert world.identity.cached(token) is principal


async def test_a_token_ends_at_its_own_time_though_cached(world: World, clock: MovableClock) -> None:
    await world.key()
    token = await minted(world, expires_in_seconds=10)
    await world.identity.authenticate(token)
    clock.advance(11)
    assert world.identity.cached(token) is None
    assert await refusal(world.identity, token) == "expired_api_key"


async def test_revoking_the_key_ends_its_tokens(world: World) -> None:
    key, _ = await world.key()
    token = await minted(world)
    await world.identity.authenticate(token)
    await world.registry.revoke_key(OPERATOR, "shop", key.id)
    assert world.identity.cached(token) is None
    assert await refusal(world.identity, token) == "revoked_api_key"


async def test_a_token_never_outgrows_a_key_that_was_narrowed(world: World) -> None:
    key, _ = await world.key()
    token = await minted(world, models=("gpt-4o", "o3"))
    await world.identity.authenticate(token)
    await world.registry.update_key(OPERATOR, "shop", key.id, KeyChanges(models=("gpt-*",)))
    assert (await world.identity.authenticate(token)).models == ("gpt-4o",)
    await world.registry.update_key(OPERATOR, "shop", key.id, KeyChanges(models=("claude-*",)))
    assert await refusal(world.identity, token) == "model_not_allowed"


async def test_an_app_that_stops_accepting_tokens_refuses_them(world: World) -> None:
    await world.key()
    token = await minted(world)
    await world.registry.update_app(OPERATOR, "shop", AppChanges(end_user_sources=("user",)))
    with pytest.raises(Forbidden):
        await world.identity.authenticate(token)


async def test_a_token_signed_for_one_app_does_not_open_another(world: World) -> None:
    await world.key()
    bobs_key, _ = await world.key(app="bobs")
    now = world.clock() // 10**9
    claims = tokens.Claims(aud="bobs", sub="u1", jti="tok_x", iat=now, exp=now + 100)
    stolen = "mzu_" + jwt.encode({**_builtins(claims)}, tokens.signing_key(PEPPER, "shop"), "HS256", {"kid": bobs_key.id})
    assert await refusal(world.identity, stolen) == "invalid_api_key"
    assert (await world.identity.authenticate(tokens.sign(PEPPER, claims, bobs_key.id))).app.enterprise_id == "bobs"


async def test_a_token_on_a_platform_key_or_no_key_is_refused(world: World) -> None:
    platform, _ = await world.key(Level.PLATFORM)
    now = world.clock() // 10**9
    claims = tokens.Claims(aud="shop", sub="u1", jti="tok_x", iat=now, exp=now + 100)
    for key_id in (platform.id, new_id("key"), "key_\0", "nonsense"):
        assert await refusal(world.identity, tokens.sign(PEPPER, claims, key_id)) == "invalid_api_key"


# ---- management keys ---------------------------------------------------------------------------


async def test_a_management_key_makes_its_creator_the_actor_until_it_is_revoked(world: World, clock: MovableClock) -> None:
    key, secret = await world.registry.create_management_key(OPERATOR, "alice", "ci", clock() // 1_000_000 + 60_000)
    actor = await world.identity.authenticate_management(secret)
    assert (actor.role, actor.user_id, actor.name) == ("creator", "alice", key.id)
    with pytest.raises(Unauthenticated):
        await world.identity.authenticate_management(secret[:-1] + ("a" if secret[-1] != "a" else "b"))
    clock.advance(61)
    with pytest.raises(Unauthenticated) as expired:
        await world.identity.authenticate_management(secret)
    assert expired.value.code == "expired_api_key"
    await world.registry.revoke_management_key(OPERATOR, key.id)
    with pytest.raises(Unauthenticated) as revoked:
        await world.identity.authenticate_management(secret)
    assert revoked.value.code == "revoked_api_key"


async def test_a_management_key_opens_no_data_plane_and_an_api_key_no_management(world: World) -> None:
    _, management = await world.registry.create_management_key(OPERATOR, "alice", "ci")
    _, api = await world.key()
    assert await refusal(world.identity, management) == "invalid_api_key"
    with pytest.raises(Unauthenticated):
        await world.identity.authenticate_management(api)


async def test_a_suspended_creator_does_not_manage(world: World) -> None:
    _, secret = await world.registry.create_management_key(OPERATOR, "alice", "ci")
    await world.registry.update_creator(OPERATOR, "alice", CreatorChanges(status="suspended"))
    with pytest.raises(Forbidden):
        await world.identity.authenticate_management(secret)


def _builtins(claims: tokens.Claims) -> dict[str, Any]:
    return {name: getattr(claims, name) for name in ("aud", "sub", "jti", "iat", "exp")}

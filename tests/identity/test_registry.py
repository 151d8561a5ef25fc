"""Creators, apps and keys: input checks, confinement, and what is kept of a secret."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text

from gateway.core.errors import Conflict, Forbidden, GatewayError, InvalidRequest, NotFound
from gateway.core.limits import END_USER_TOKEN_SECONDS_MAX, KEY_OVERLAP_SECONDS_MAX, MODELS_PER_KEY_MAX, RATE_LIMIT_MAX
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.core.words import Level
from gateway.identity.model import (
    END_USER_SOURCES,
    Actor,
    AppChanges,
    Creator,
    CreatorChanges,
    KeyChanges,
    LimitChanges,
    Limits,
    NewApp,
    NewKey,
    NewToken,
    Role,
)
from gateway.identity.registry import Registry
from gateway.identity.store import Store
from gateway.trail.model import Act

from .conftest import OPERATOR, MovableClock, World

ALICE = Actor(Role.CREATOR, "mgk_a", "alice")
BOB = Actor(Role.CREATOR, "mgk_b", "bob")
SERVER = Actor(Role.APP_SERVER, "key_s", "alice", "shop", "key_s")
END_USER = Actor(Role.END_USER, "tok_1", "alice", "shop", "key_s", "u1")


def key_with(**fields: Any) -> Callable[[Registry], Awaitable[object]]:
    return lambda registry: registry.create_key(OPERATOR, "shop", NewKey(**{"name": "k", "level": Level.APP_USAGE} | fields))


def app_with(**fields: Any) -> Callable[[Registry], Awaitable[object]]:
    given = {"enterprise_id": "new", "user_id": "alice", "name": "New"} | fields
    return lambda registry: registry.create_app(OPERATOR, NewApp(**given))


def app_changed(**fields: Any) -> Callable[[Registry], Awaitable[object]]:
    return lambda registry: registry.update_app(OPERATOR, "shop", AppChanges(**fields))


def token_with(**fields: Any) -> Callable[[Registry], Awaitable[object]]:
    return lambda registry: registry.mint_end_user_token(OPERATOR, "shop", NewToken(**{"platform_user_id": "u1"} | fields))


BAD_INPUT: list[tuple[Callable[[Registry], Awaitable[object]], str]] = [
    (lambda r: r.create_creator(OPERATOR, "", "A"), "user_id"),
    (lambda r: r.create_creator(OPERATOR, "a b", "A"), "user_id"),
    (lambda r: r.create_creator(OPERATOR, "a/b", "A"), "user_id"),
    (lambda r: r.create_creator(OPERATOR, "x" * 129, "A"), "user_id"),
    (lambda r: r.create_creator(OPERATOR, ".", "A"), "user_id"),
    (lambda r: r.create_creator(OPERATOR, "..", "A"), "user_id"),
    (app_with(enterprise_id=".."), "enterprise_id"),
    (app_with(default_end_user="."), "default_end_user"),
    (app_changed(default_end_user=".."), "default_end_user"),
    (token_with(platform_user_id=".."), "platform_user_id"),
    (lambda r: r.create_creator(OPERATOR, "carol", " "), "name"),
    (lambda r: r.create_creator(OPERATOR, "carol", "x" * 201), "name"),
    (lambda r: r.create_creator(OPERATOR, "carol", "a\0b"), "name"),
    (lambda r: r.creators(OPERATOR, count=0), "limit"),
    (lambda r: r.creators(OPERATOR, count=201), "limit"),
    (lambda r: r.creators(OPERATOR, "a\0"), "cursor"),
    (lambda r: r.update_creator(OPERATOR, "alice", CreatorChanges(status="gone")), "status"),
    (lambda r: r.update_creator(OPERATOR, "alice", CreatorChanges(name="")), "name"),
    (app_with(enterprise_id="a/b"), "enterprise_id"),
    (app_with(name=""), "name"),
    (app_with(asset="usd"), "asset"),
    (app_with(asset="DOLLAR"), "asset"),
    (app_with(end_user_sources=("user", "x-other")), "end_user_sources[1]"),
    (app_with(default_end_user="a b"), "default_end_user"),
    (app_with(end_user_limits=Limits(rpm=-1)), "end_user_limits.rpm"),
    (app_with(cors_origins=("https://ok.example", "ftp://no.example")), "cors_origins[1]"),
    (app_with(cors_origins=("https://ok.example/path",)), "cors_origins[0]"),
    (app_with(cors_origins=("https://a.example\r\nx: y",)), "cors_origins[0]"),
    (app_with(cors_origins=tuple(f"https://a{n}.example" for n in range(51))), "cors_origins"),
    (app_changed(name="x" * 201), "name"),
    (app_changed(status="deleted"), "status"),
    (app_changed(end_user_sources=("nobody",)), "end_user_sources[0]"),
    (app_changed(default_end_user=""), "default_end_user"),
    (app_changed(end_user_limits=LimitChanges(spend_micro_per_day=AMOUNT_MICRO_MAX + 1)), "end_user_limits.spend_micro_per_day"),
    (key_with(name=""), "name"),
    (key_with(models=("a b",)), "models[0]"),
    (key_with(models=("",)), "models[0]"),
    (key_with(models=("ok", "x" * 201)), "models[1]"),
    (key_with(models=("m",) * (MODELS_PER_KEY_MAX + 1)), "models"),
    (key_with(expires_at_ms=1), "expires_at"),
    (key_with(expires_at_ms=10**18), "expires_at"),
    (key_with(limits=Limits(tpm=RATE_LIMIT_MAX + 1)), "limits.tpm"),
    (key_with(limits=Limits(concurrency=-5)), "limits.concurrency"),
    (key_with(limits=Limits(spend_micro_per_month=-1)), "limits.spend_micro_per_month"),
    (key_with(limits=Limits(spend_micro_total=AMOUNT_MICRO_MAX + 1)), "limits.spend_micro_total"),
    (token_with(platform_user_id="a b"), "platform_user_id"),
    (token_with(expires_in_seconds=0), "expires_in_seconds"),
    (token_with(expires_in_seconds=END_USER_TOKEN_SECONDS_MAX + 1), "expires_in_seconds"),
    (token_with(spend_micro_max=-1), "spend_micro_max"),
    (token_with(rpm=RATE_LIMIT_MAX + 1), "rpm"),
    (token_with(models=("claude",)), "models[0]"),
    (token_with(models=("gpt-*", "*")), "models[1]"),
    (lambda r: r.rotate_key(OPERATOR, "shop", "key_x", -1), "overlap_seconds"),
    (lambda r: r.rotate_key(OPERATOR, "shop", "key_x", KEY_OVERLAP_SECONDS_MAX + 1), "overlap_seconds"),
    (lambda r: r.create_management_key(OPERATOR, "alice", ""), "name"),
    (lambda r: r.create_management_key(OPERATOR, "alice", "k", 1), "expires_at"),
]


@pytest.mark.parametrize(("call", "param"), BAD_INPUT)
async def test_bad_input_is_refused_with_its_parameter(
    world: World, call: Callable[[Registry], Awaitable[object]], param: str
) -> None:
    await world.key(models=("gpt-*",))
    with pytest.raises(InvalidRequest) as refused:
        await call(world.registry)
    assert refused.value.param == param


async def test_of_a_secret_only_a_digest_and_a_hint_are_kept(world: World) -> None:
    key, secret = await world.key()
    _, management = await world.registry.create_management_key(ALICE, "alice", "ci")
    rotated = (await world.registry.rotate_key(ALICE, "shop", key.id))[1]
    async with world.databases.platform.connect() as connection:
        rows = [
            tuple(row)
            for table in ("api_keys", "management_keys")
            for row in await connection.execute(text(f"SELECT * FROM {table}"))
        ]
    assert len(rows) == 3
    for shown in (secret, management, rotated):
        assert shown.rsplit("_", 1)[1] not in repr(rows)


async def test_a_taken_id_is_a_conflict_and_an_unknown_parent_is_not_found(world: World) -> None:
    with pytest.raises(Conflict):
        await world.registry.create_creator(OPERATOR, "alice", "Again")
    with pytest.raises(Conflict):
        await app_with(enterprise_id="shop")(world.registry)
    with pytest.raises(Conflict):
        await world.registry.create_app(BOB, NewApp("shop", "bob", "Mine now"))
    with pytest.raises(NotFound):
        await app_with(user_id="nobody")(world.registry)
    with pytest.raises(NotFound):
        await world.registry.create_key(OPERATOR, "nowhere", NewKey("k", Level.PLATFORM))
    with pytest.raises(NotFound):
        await world.registry.create_management_key(OPERATOR, "nobody", "k")
    for name in ("a\0b", "../etc", ""):
        with pytest.raises(NotFound):
            await world.registry.app(OPERATOR, name)
        with pytest.raises(NotFound):
            await world.registry.key(OPERATOR, "shop", name)


ON_SHOP: list[Callable[[Registry, Actor, str], Awaitable[object]]] = [
    lambda r, a, k: r.app(a, "shop"),
    lambda r, a, k: r.update_app(a, "shop", AppChanges(name="x")),
    lambda r, a, k: r.create_key(a, "shop", NewKey("k", Level.APP_USAGE)),
    lambda r, a, k: r.key(a, "shop", k),
    lambda r, a, k: r.keys(a, "shop"),
    lambda r, a, k: r.update_key(a, "shop", k, KeyChanges(name="x")),
    lambda r, a, k: r.rotate_key(a, "shop", k),
    lambda r, a, k: r.revoke_key(a, "shop", k),
    lambda r, a, k: r.mint_end_user_token(a, "shop", NewToken("u1")),
    lambda r, a, k: r.creator(a, "alice"),
    lambda r, a, k: r.create_app(a, NewApp("more", "alice", "More")),
    lambda r, a, k: r.create_management_key(a, "alice", "k"),
]


@pytest.mark.parametrize("number", range(len(ON_SHOP)))
async def test_what_is_another_creators_does_not_exist(world: World, number: int) -> None:
    key, _ = await world.key()
    with pytest.raises(NotFound):
        await ON_SHOP[number](world.registry, BOB, key.id)
    await ON_SHOP[number](world.registry, ALICE, key.id)


async def test_a_key_of_another_app_of_the_same_creator_is_not_found(world: World) -> None:
    await world.app("second")
    key, _ = await world.key(app="second")
    for call in ON_SHOP[3], ON_SHOP[5], ON_SHOP[6], ON_SHOP[7]:
        with pytest.raises(NotFound):
            await call(world.registry, ALICE, key.id)


@pytest.mark.parametrize("actor", [SERVER, END_USER], ids=["server", "end user"])
async def test_an_app_server_and_an_end_user_manage_nothing(world: World, actor: Actor) -> None:
    key, _ = await world.key()
    for call in (*ON_SHOP[1:8], *ON_SHOP[10:]):
        with pytest.raises((NotFound, Forbidden)):
            await call(world.registry, actor, key.id)
    with pytest.raises(Forbidden):
        await world.registry.apps(actor)
    with pytest.raises(Forbidden):
        await world.registry.management_keys(actor)
    with pytest.raises(NotFound):
        await world.registry.app(actor, "bobs")


async def test_the_operators_own_acts_are_closed_to_creators(world: World) -> None:
    refused: list[Awaitable[object]] = [
        world.registry.create_creator(ALICE, "carol", "Carol"),
        world.registry.creators(ALICE),
        world.registry.update_creator(ALICE, "alice", CreatorChanges(status="active")),
        world.registry.update_app(ALICE, "shop", AppChanges(status="active")),
    ]
    for call in refused:
        with pytest.raises(Forbidden):
            await call
    key, _ = await world.registry.create_management_key(BOB, "bob", "k")
    with pytest.raises(NotFound):
        await world.registry.revoke_management_key(ALICE, key.id)


async def test_lists_are_confined_and_paged(world: World) -> None:
    for number in range(5):
        await world.app(f"app{number}")
    first = await world.registry.apps(ALICE, None, 4)
    rest = await world.registry.apps(ALICE, first.next_cursor, 4)
    assert [app.enterprise_id for app in (*first.rows, *rest.rows)] == [*(f"app{number}" for number in range(5)), "shop"]
    assert rest.next_cursor is None
    assert [app.enterprise_id for app in (await world.registry.apps(BOB)).rows] == ["bobs"]
    assert len((await world.registry.apps(OPERATOR)).rows) == 7
    made = [(await world.key())[0].id for _ in range(5)]
    page = await world.registry.keys(ALICE, "shop", None, 3)
    later = await world.registry.keys(ALICE, "shop", page.next_cursor, 3)
    assert [key.id for key in (*page.rows, *later.rows)] == sorted(made, reverse=True)
    await world.registry.create_management_key(BOB, "bob", "k")
    assert (await world.registry.management_keys(ALICE)).rows == ()
    assert len((await world.registry.management_keys(OPERATOR)).rows) == 1
    assert [creator.user_id for creator in (await world.registry.creators(OPERATOR)).rows] == ["alice", "bob"]


async def test_a_change_touches_what_it_names_and_nothing_else(world: World) -> None:
    key, _ = await world.key(models=("a",), limits=Limits(rpm=1))
    changed = await world.registry.update_key(ALICE, "shop", key.id, KeyChanges(limits=LimitChanges(tpm=2)))
    assert changed == await world.registry.key(ALICE, "shop", key.id)
    assert (changed.models, changed.limits, changed.name) == (("a",), Limits(rpm=1, tpm=2), "k")
    before = await world.registry.app(ALICE, "shop")
    after = await world.registry.update_app(
        ALICE, "shop", AppChanges(default_end_user="shared", end_user_sources=("user", "token"))
    )
    assert after == await world.registry.app(ALICE, "shop")
    assert (after.default_end_user, after.end_user_sources) == ("shared", ("token", "user"))
    assert (after.name, after.asset, before.end_user_sources) == (before.name, "USD", END_USER_SOURCES)
    assert (await world.registry.update_app(ALICE, "shop", AppChanges(default_end_user=None))).default_end_user is None


async def test_a_revoked_key_stays_revoked(world: World) -> None:
    key, _ = await world.key()
    first = await world.registry.revoke_key(ALICE, "shop", key.id)
    assert first.revoked_at_ms is not None
    assert await world.registry.revoke_key(ALICE, "shop", key.id) == first
    for call in (ON_SHOP[5], ON_SHOP[6]):
        with pytest.raises(Conflict):
            await call(world.registry, ALICE, key.id)


async def test_a_key_has_one_successor_and_an_overlap_never_prolongs_it(world: World, clock: MovableClock) -> None:
    ends_ms = clock() // 1_000_000 + 60_000
    key, _ = await world.key(expires_at_ms=ends_ms)
    await world.registry.rotate_key(ALICE, "shop", key.id, 3600)
    assert (await world.registry.key(ALICE, "shop", key.id)).expires_at_ms == ends_ms
    with pytest.raises(Conflict):
        await world.registry.rotate_key(ALICE, "shop", key.id)
    assert len((await world.registry.keys(ALICE, "shop")).rows) == 2
    gone, _ = await world.key(expires_at_ms=ends_ms)
    clock.advance(61)
    with pytest.raises(Conflict):
        await world.registry.rotate_key(ALICE, "shop", gone.id)


async def test_a_token_hangs_on_the_callers_key_or_the_newest_in_force(world: World) -> None:
    old, _ = await world.key()
    newer, _ = await world.key()
    await world.key(Level.PLATFORM)
    ended, _ = await world.key()
    await world.registry.revoke_key(OPERATOR, "shop", ended.id)
    assert (await world.registry.mint_end_user_token(ALICE, "shop", NewToken("u1"))).key_id == newer.id
    assert (await world.registry.mint_end_user_token(ALICE, "shop", NewToken("u1", key_id=old.id))).key_id == old.id
    server = Actor(Role.APP_SERVER, old.id, "alice", "shop", old.id)
    assert (await world.registry.mint_end_user_token(server, "shop", NewToken("u1"))).key_id == old.id
    with pytest.raises(NotFound):
        await world.registry.mint_end_user_token(server, "shop", NewToken("u1", key_id=newer.id))
    with pytest.raises(InvalidRequest):
        await world.registry.mint_end_user_token(ALICE, "shop", NewToken("u1", key_id=ended.id))


async def test_a_token_needs_a_key_an_active_app_and_a_caller_who_may(world: World) -> None:
    with pytest.raises(Conflict):
        await world.registry.mint_end_user_token(ALICE, "shop", NewToken("u1"))
    await world.key()
    with pytest.raises(GatewayError):
        await world.registry.mint_end_user_token(END_USER, "shop", NewToken("u1"))
    await world.registry.update_app(OPERATOR, "shop", AppChanges(status="suspended"))
    with pytest.raises(Forbidden) as suspended:
        await world.registry.mint_end_user_token(ALICE, "shop", NewToken("u1"))
    assert suspended.value.code == "app_suspended"


async def test_a_token_never_outlives_its_key(world: World, clock: MovableClock) -> None:
    ends_ms = clock() // 1_000_000 + 30_000
    await world.key(expires_at_ms=ends_ms)
    token = await world.registry.mint_end_user_token(ALICE, "shop", NewToken("u1", expires_in_seconds=3600))
    assert ends_ms - 1000 < token.expires_at_ms <= ends_ms


async def test_a_token_hangs_on_the_newest_key_that_is_in_force_and_fits(world: World, clock: MovableClock) -> None:
    def soon_ms(seconds: int) -> int:
        return clock() // 1_000_000 + seconds * 1000

    async def hangs_on(**fields: Any) -> str:
        return (await world.registry.mint_end_user_token(OPERATOR, "shop", NewToken("u1", **fields))).key_id

    with pytest.raises(Conflict) as none:
        await hangs_on()
    assert "make one of level app_usage." in none.value.message
    lasting = (await world.key())[0].id
    narrow = (await world.key(models=("gpt-*",)))[0].id
    brief = (await world.key(expires_at_ms=soon_ms(600)))[0].id
    revoked = (await world.key())[0].id
    await world.registry.revoke_key(OPERATOR, "shop", revoked)
    await world.key(Level.PLATFORM)
    assert await hangs_on(expires_in_seconds=60) == brief
    assert await hangs_on(expires_in_seconds=3600) == narrow, "the newest that lasts as long"
    assert await hangs_on(expires_in_seconds=3600, models=("claude",)) == lasting
    assert await hangs_on(key_id=brief) == brief
    for wrong in (revoked, "key_none"):
        with pytest.raises(GatewayError):
            await hangs_on(key_id=wrong)
    await world.registry.revoke_key(OPERATOR, "shop", lasting)
    assert await hangs_on(expires_in_seconds=3600, models=("claude",)) == brief, "better a shorter token than none"
    clock.advance(601)
    assert await hangs_on() == narrow
    with pytest.raises(InvalidRequest) as refused:
        await hangs_on(models=("claude",))
    assert refused.value.param == "models[0]"


async def test_an_id_from_before_that_is_a_step_in_a_path_is_still_read_and_managed(world: World) -> None:
    store = Store(world.databases.platform)
    await store.add_creator(Creator(".", "Dot", "active", 1), Act("creator.create", "operator", "operator", "."))
    assert (await world.registry.creator(OPERATOR, ".")).name == "Dot"
    assert (await world.registry.update_creator(OPERATOR, ".", CreatorChanges(name="Dots"))).name == "Dots"
    assert "." in [creator.user_id for creator in (await world.registry.creators(OPERATOR)).rows]
    assert (await world.registry.create_creator(OPERATOR, "...", "Three")).user_id == "..."

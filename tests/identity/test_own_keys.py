"""Apps' own provider keys: sealed at rest, readable by requests of their app alone."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.core.errors import GatewayError, NotFound
from gateway.db.engines import Databases
from gateway.identity.model import Actor, NewApp, Role
from gateway.identity.own_keys import WITHOUT_KEYS
from gateway.identity.sealing import Seal
from gateway.identity.service import Identity
from gateway.identity.store import Store

PEPPER = b"a pepper made up for these tests"
OPERATOR = Actor(Role.OPERATOR, "operator")
KEY = "sk-made-up-1234567890-abcd"


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncIterator[Databases]:
    made = Databases(f"sqlite+aiosqlite:///{tmp_path}/platform.db", f"sqlite+aiosqlite:///{tmp_path}/{{enterprise_id}}.db")
    await made.migrate()
    identity = Identity(Store(made.platform), PEPPER)
    for user_id, app in (("alice", "shop"), ("bob", "bobs")):
        await identity.registry.create_creator(OPERATOR, user_id, user_id)
        await identity.registry.create_app(OPERATOR, NewApp(app, user_id, app))
    yield made
    await made.close()


def opened(databases: Databases, pepper: bytes = PEPPER) -> Identity:
    return Identity(Store(databases.platform), pepper)


async def test_a_key_goes_in_is_used_and_is_shown_by_its_end_alone(databases: Databases) -> None:
    keys = opened(databases).own_keys
    made = await keys.put(OPERATOR, "shop", "openai", KEY)
    assert (made.hint, made.readable) == ("abcd", True)
    assert await keys.of("shop") == {"openai": KEY}
    assert await keys.of("bobs") == {}
    assert [each.hint for each in await keys.listed(OPERATOR, "shop")] == ["abcd"]
    assert await opened(databases).own_keys.of("shop") == {"openai": KEY}  # another process
    await keys.put(OPERATOR, "shop", "openai", "sk-another-one-wxyz")
    await keys.put(OPERATOR, "shop", "groq", "gsk-made-up-key")
    assert await keys.of("shop") == {"openai": "sk-another-one-wxyz", "groq": "gsk-made-up-key"}
    await keys.delete(OPERATOR, "shop", "openai")
    assert await keys.of("shop") == {"groq": "gsk-made-up-key"}
    with pytest.raises(NotFound):
        await keys.delete(OPERATOR, "shop", "openai")


async def test_neither_the_database_nor_the_trail_nor_the_log_has_the_key(
    databases: Databases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = opened(databases).own_keys
    await keys.put(OPERATOR, "shop", "openai", KEY)
    await keys.delete(OPERATOR, "shop", "openai")
    await keys.put(OPERATOR, "shop", "openai", KEY)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"provider_key.set" in stored
    assert KEY.encode() not in stored
    assert KEY[:-4] not in caplog.text
    assert b"abcd" in stored  # the hint
    async with databases.platform.connect() as connection:
        lines = (await connection.execute(text("SELECT * FROM trail"))).all()
    assert "provider_key.delete" in str(lines)
    assert "abcd" not in str(lines)


async def test_what_was_moved_changed_or_sealed_under_another_pepper_does_not_open(
    databases: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    await opened(databases).own_keys.put(OPERATOR, "shop", "openai", KEY)
    other = opened(databases, b"another pepper made up for these").own_keys
    assert await other.of("shop") == {}
    assert "under another key pepper" in caplog.text
    assert [each.readable for each in await other.listed(OPERATOR, "shop")] == [False]
    async with databases.platform.begin() as connection:  # who writes to the database cannot give one app another's key
        await connection.execute(text("UPDATE provider_keys SET enterprise_id = 'bobs'"))
    assert await opened(databases).own_keys.of("bobs") == {}
    assert "changed in the database" in caplog.text


async def test_only_its_creator_and_an_operator_have_to_do_with_an_apps_keys(databases: Databases) -> None:
    keys = opened(databases).own_keys
    alice = Actor(Role.CREATOR, "mgk_1", user_id="alice")
    await keys.put(alice, "shop", "openai", KEY)
    for actor in (Actor(Role.CREATOR, "mgk_2", user_id="bob"), Actor(Role.APP_SERVER, "key_1", "alice", "shop", "key_1")):
        with pytest.raises(NotFound):
            await keys.put(actor, "shop", "openai", KEY)
        with pytest.raises(NotFound):
            await keys.listed(actor, "shop")
        with pytest.raises(NotFound):
            await keys.delete(actor, "shop", "openai")
    assert await keys.of("shop") == {"openai": KEY}


@pytest.mark.parametrize(
    ("provider", "key", "param"),
    [("Open AI", KEY, "provider"), ("", KEY, "provider"), ("openai", "short", "key"), ("openai", "two words here", "key"),
     ("openai", "a\r\nX-Evil: 1", "key"), *[(name, KEY, "provider") for name in sorted(WITHOUT_KEYS)]],
)  # fmt: skip
async def test_what_can_be_no_key_is_refused_and_named(databases: Databases, provider: str, key: str, param: str) -> None:
    with pytest.raises(GatewayError) as refused:
        await opened(databases).own_keys.put(OPERATOR, "shop", provider, key)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert key not in refused.value.message


def test_the_same_text_is_sealed_differently_each_time() -> None:
    seal = Seal(PEPPER)
    assert seal.seal("x", "about") != seal.seal("x", "about")
    assert seal.open(seal.seal("x", "about"), "about") == "x"
    assert seal.open(seal.seal("x", "about"), "another") is None
    assert seal.open("no base64!", "about") is None
    assert seal.key_id == Seal(PEPPER).key_id != Seal(b"another pepper made up for these").key_id

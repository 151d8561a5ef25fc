"""Credentials as text."""

import hashlib
import re

import pytest

from gateway.identity import keys

PEPPER = b"pepper" * 4


@pytest.mark.parametrize(("test", "prefix"), [(False, "mzk_live_"), (True, "mzk_test_")])
def test_an_api_key_carries_its_records_id_and_a_long_secret(test: bool, prefix: str) -> None:
    minted = keys.mint_api_key(PEPPER, test=test)
    assert minted.secret.startswith(prefix)
    assert keys.api_key_id(minted.secret) == minted.id
    _, _, part, secret = minted.secret.split("_")
    assert minted.id == f"key_{part}"
    assert re.fullmatch("[0-9A-Za-z]{43}", secret)
    assert minted.hint == minted.secret[-4:]


def test_a_digest_is_keyed_by_the_pepper_and_covers_the_whole_key() -> None:
    minted = keys.mint_api_key(PEPPER)
    key = hashlib.blake2b(PEPPER).digest()
    keyed = hashlib.blake2b(minted.secret.encode(), key=key, digest_size=32, person=b"mozaiks-key")
    assert minted.digest == keyed.hexdigest()
    assert keys.digest_of(b"another pepper", minted.secret) != minted.digest
    assert keys.digest_of(PEPPER, minted.secret.replace("live", "test")) != minted.digest
    long = b"a pepper longer than a key of BLAKE2b may be" * 3
    assert keys.digest_of(long, minted.secret) != keys.digest_of(long[:-1], minted.secret)


def test_a_management_key_is_told_from_an_api_key() -> None:
    minted = keys.mint_management_key(PEPPER)
    assert minted.secret.startswith("mzm_live_")
    assert keys.management_key_id(minted.secret) == minted.id
    assert keys.api_key_id(minted.secret) is None
    assert keys.management_key_id(keys.mint_api_key(PEPPER).secret) is None


def test_secrets_do_not_repeat_and_use_the_whole_alphabet() -> None:
    secrets = [keys.mint_api_key(PEPPER).secret.rsplit("_", 1)[1] for _ in range(500)]
    assert len(set(secrets)) == 500
    assert len(set("".join(secrets))) == 62


@pytest.mark.parametrize(
    "text",
    ["", "mzk_", "sk-123", "mzk_live__", "mzk_live_" + "0" * 26 + "_short", "mzk_prod_" + "0" * 26 + "_" + "a" * 43, "\ud800"],
)
def test_other_text_is_no_key(text: str) -> None:
    assert keys.api_key_id(text) is None
    assert keys.management_key_id(text) is None


def test_a_key_with_anything_around_it_is_no_key() -> None:
    secret = keys.mint_api_key(PEPPER).secret
    for spoiled in (secret + "\n", " " + secret, secret + "a", secret[:-1]):
        assert keys.api_key_id(spoiled) is None

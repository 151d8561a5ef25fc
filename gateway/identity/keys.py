"""Credentials as text: mint, take apart, digest. Pure but for the randomness.

    mzk_live_<26>_<43>    API key        record `key_<26>`    (`mzk_test_...` likewise)
    mzm_live_<26>_<43>    management key record `mgk_<26>`
    mzu_<jwt>             end-user token (`tokens.py`)

<26> is the part of the record's id after its prefix, <43> is 256 random bits in base62. What is
stored is keyed BLAKE2b-256 of the whole credential under the pepper: a stolen table opens nothing. (BLAKE2 is
a MAC when it has a key, RFC 7693; HMAC-SHA-256 takes four times as long, on every request.)
"""

import re
import string
from hashlib import blake2b
from secrets import randbits
from typing import Final

import msgspec

from gateway.core.ids import new_id

API_KEY_PREFIX: Final = "mzk_"
MANAGEMENT_KEY_PREFIX: Final = "mzm_"

_SECRET_BITS: Final = 256
_SECRET_CHARS: Final = 43  # 62**43 > 2**256
_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_API_KEY_ID = re.compile(r"key_[0-9a-hjkmnp-tv-z]{26}")
_API_KEY = re.compile(r"mzk_(?:live|test)_([0-9a-hjkmnp-tv-z]{26})_[0-9A-Za-z]{43}")
_MANAGEMENT_KEY = re.compile(r"mzm_live_([0-9a-hjkmnp-tv-z]{26})_[0-9A-Za-z]{43}")


class Minted(msgspec.Struct, frozen=True):
    """A fresh credential: `secret` is the whole text, shown once; the rest is what a record keeps."""

    id: str
    secret: str
    digest: str
    hint: str


def mint_api_key(pepper: bytes, *, test: bool = False) -> Minted:
    """A fresh API key."""
    return _minted(pepper, "mzk_test" if test else "mzk_live", new_id("key"))


def mint_management_key(pepper: bytes) -> Minted:
    """A fresh management key."""
    return _minted(pepper, "mzm_live", new_id("mgk"))


def api_key_id(credential: str) -> str | None:
    """The record's id inside an API key, or None when the text cannot be one."""
    match = _API_KEY.fullmatch(credential)
    return f"key_{match[1]}" if match else None


def is_api_key_id(text: str) -> bool:
    """True for the id of an API key's record."""
    return _API_KEY_ID.fullmatch(text) is not None


def management_key_id(credential: str) -> str | None:
    """The record's id inside a management key, or None when the text cannot be one."""
    match = _MANAGEMENT_KEY.fullmatch(credential)
    return f"mgk_{match[1]}" if match else None


def hasher(pepper: bytes) -> blake2b:
    """The start of every digest under a pepper: update a copy with the whole credential in UTF-8."""
    # A key of BLAKE2b has at most 64 bytes, a pepper may have more.
    return blake2b(key=blake2b(pepper).digest(), digest_size=32, person=b"mozaiks-key")


def digest_of(pepper: bytes, credential: str) -> str:
    """What a record keeps of a credential, in hex."""
    digest = hasher(pepper)
    digest.update(credential.encode())
    return digest.hexdigest()


def _minted(pepper: bytes, kind: str, record_id: str) -> Minted:
    secret = f"{kind}_{record_id[4:]}_{_random_base62()}"
    return Minted(id=record_id, secret=secret, digest=digest_of(pepper, secret), hint=secret[-4:])


def _random_base62() -> str:
    number = randbits(_SECRET_BITS)
    digits = []
    for _ in range(_SECRET_CHARS):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    assert number == 0
    # The first digits drawn are the evenly spread ones, so the hint (the end) is taken from them.
    return "".join(reversed(digits))

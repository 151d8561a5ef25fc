"""Names of app databases: safe as a file or database name, and injective, so no two apps can share one.

A name keeps `a-z 0-9 _ -` and escapes everything else byte by byte; capitals and dots are escaped too,
because file systems fold case and a dot could end a name. A name that would grow too long keeps its
beginning and ends in a digest behind a mark that no escaped name contains.
"""

import hashlib
from typing import Final

_KEPT: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
SQLITE_NAME_CHARS_MAX: Final = 160  # file systems allow 255 bytes; the template and "-journal" need some
POSTGRES_NAME_BYTES_MAX: Final = 63  # NAMEDATALEN - 1: Postgres cuts longer names without an error
_DIGEST_CHARS: Final = 32  # 128 bits


def sqlite_name(enterprise_id: str) -> str:
    """File name (without suffix) of an app: `%` escapes, so "My.shop" becomes "%4dy%2eshop"."""
    return _name(enterprise_id, "%", "~", SQLITE_NAME_CHARS_MAX)


def postgres_name(enterprise_id: str, bytes_max: int = POSTGRES_NAME_BYTES_MAX) -> str:
    """Database name part of an app, at most `bytes_max` long (what the template leaves of 63): `$` escapes.

    Raises ValueError when the template leaves too little room for the digest.
    """
    if bytes_max < _DIGEST_CHARS + 2:
        raise ValueError("the database name around {enterprise_id} is too long: at most 29 bytes")
    return _name(enterprise_id, "$", "$$", bytes_max)


def _name(enterprise_id: str, escape: str, mark: str, chars_max: int) -> str:
    raw = enterprise_id.encode()
    name = "".join([chr(byte) if byte in _KEPT else f"{escape}{byte:02x}" for byte in raw])
    if len(name) <= chars_max:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:_DIGEST_CHARS]
    # An escape cut in two may end the beginning, but the mark never follows from an escape: behind the
    # escape character stand two hex digits, so a doubled one (or `~`) occurs only here.
    return name[: chars_max - len(mark) - _DIGEST_CHARS].rstrip(escape) + mark + digest

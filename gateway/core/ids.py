"""Ids: the caller's own strings are checked here, ours are made here.

An id of ours is a prefix and 26 hexadecimal digits: eleven for the Unix milliseconds (enough until the year
2527), so that ids of one kind sort by the time they were made, and 60 random bits.
"""

import re
import time
import zlib
from os import register_at_fork
from random import Random
from typing import Final

SHARDS: Final = 256

# Ids must differ, not be secret (secrets come from the `secrets` module), so a generator seeded by the
# operating system will do: it costs a tenth of asking the operating system each time.
_random: Final = Random()  # noqa: S311
register_at_fork(after_in_child=_random.seed)
_bits: Final = _random.getrandbits

_OUTSIDE_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_CHOSEN_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._:@-]{1,128}")


def new_id(prefix: str) -> str:
    """A fresh time-ordered id such as `req_19a...`.

    Prefixes: key req hold txn lot evt plan pur sub whk mgk tok promo red page ovr bill.
    """
    return f"{prefix}_{time.time_ns() // 1_000_000:011x}{_bits(60):015x}"


def is_outside_id(text: str) -> bool:
    """True for an id that callers chose: 1 to 128 of `A-Z a-z 0-9 . _ : @ -`."""
    return _OUTSIDE_ID.fullmatch(text) is not None


def may_be_chosen(text: str) -> bool:
    """True for an id that callers may choose from now on.

    `.` and `..` are steps in a path, which clients and proxies take out of it: nobody could ask for what has such an id.
    One that is in the books from before is still read (`is_outside_id`).
    """
    return _CHOSEN_ID.fullmatch(text) is not None


def shard_of(user_id: str) -> int:
    """The creator's shard, 0 to 255: stable over versions and machines (CRC-32 modulo 256).

    Every Redis key of a creator carries the hash tag of this shard, so that the wallets, holds,
    limits and events of one request share a slot of a Redis Cluster.
    """
    return zlib.crc32(user_id.encode()) % SHARDS


def platform_wallet(user_id: str) -> str:
    """Wallet of a creator towards the platform. `/` cannot occur in an outside id."""
    return f"p/{user_id}"


def app_wallet(enterprise_id: str, platform_user_id: str) -> str:
    """Wallet of an end user towards one app."""
    return f"a/{enterprise_id}/{platform_user_id}"


def expanded_id(deployment_id: str, model: str) -> str:
    """Id of a `*` deployment once it serves a model: "gpt-*/openai/0=gpt-4o". Its prices are that model's."""
    return f"{deployment_id}={model}"

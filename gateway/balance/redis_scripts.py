"""The versioned Lua scripts of this room, read from `lua/` once and named by their SHA-1 as Redis does.

A script never changes under its name: another behaviour is another version, so that old and new
gateways can share one Redis while they are replaced.

Settle, extend, release and abandon share a front part (`hold_v1.lua`); all but extend carry `allow-oom`: what ends a hold
must run even when Redis has reached its memory limit, or money would stay held. Needs Redis 7 or Valkey.
"""

import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Final

import msgspec

_ENDS_A_HOLD: Final = "#!lua flags=allow-oom\n"


class Script(msgspec.Struct, frozen=True):
    """One script: its text and the name EVALSHA knows it by."""

    text: str
    sha: str


class Scripts(msgspec.Struct, frozen=True):
    """Every script, by what it does."""

    reserve: Script
    settle: Script
    extend: Script
    release: Script
    abandon: Script
    sweep: Script
    credit: Script
    take: Script
    open: Script
    ask: Script
    resubmit: Script
    rebuild: Script
    used: Script
    take_place: Script
    leave_place: Script
    keep_places: Script

    @property
    def all(self) -> tuple[Script, ...]:
        """For loading them on a new connection."""
        places = (self.take_place, self.leave_place, self.keep_places)  # see redis_places, which has a connection of its own
        return tuple([script for script in msgspec.structs.astuple(self) if script not in places])


def _unchanged(text: str) -> str:
    return text


def load_scripts(edit: Callable[[str], str] = _unchanged) -> Scripts:
    """The scripts as shipped. `edit` lets a test exchange the clock inside them."""
    folder = files("gateway.balance") / "lua"

    def script(*names: str, head: str = "") -> Script:
        text = edit(head + "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names))
        return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    return Scripts(
        reserve=script("reserve_v1"),
        settle=script("hold_v1", "settle_v1", head=_ENDS_A_HOLD),
        extend=script("hold_v1", "extend_v1"),
        release=script("hold_v1", "release_v1", head=_ENDS_A_HOLD),
        abandon=script("hold_v1", "abandon_v1", head=_ENDS_A_HOLD),
        sweep=script("sweep_v1"),
        credit=script("credit_v1"),
        take=script("take_v1"),
        open=script("open_v1"),
        ask=script("ask_v1", head=_ENDS_A_HOLD),
        resubmit=script("resubmit_v1", head=_ENDS_A_HOLD),
        rebuild=script("rebuild_v1"),
        used=script("used_v1"),
        take_place=script("take_place_v1"),
        leave_place=script("leave_place_v1"),
        keep_places=script("keep_places_v1"),
    )

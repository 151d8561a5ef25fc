"""Lines of the trail and their hashes. Pure. Times are Unix milliseconds, hashes SHA-256 in hex."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

GENESIS: Final = "0" * 64  # what the first line follows
_KIND: Final = b"mozaiks trail 1"
_encode = msgspec.json.Encoder(order="sorted").encode


class Act(msgspec.Struct, frozen=True):
    """What somebody did. `before` and `after` are the fields concerned, JSON values with text keys; None is nothing.

    `user_id` and `enterprise_id` are the creator and app concerned, `subject` the id of what was changed,
    `txn_id` the transaction that moved the money. Texts that do not apply are empty.
    """

    name: str  # `key.create`, `grant.create`, ...
    role: str
    actor: str
    subject: str
    user_id: str = ""
    enterprise_id: str = ""
    reason: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    txn_id: str = ""


class Head(msgspec.Struct, frozen=True):
    """The last line of a chain: its number (0: none yet) and hash."""

    seq: int = 0
    hash: str = GENESIS


class Line(msgspec.Struct, frozen=True):
    """One line: the columns of `trail`, in their order."""

    seq: int
    at: int
    role: str
    actor: str
    act: str
    user_id: str
    enterprise_id: str
    subject: str
    reason: str
    before_json: str
    after_json: str
    txn_id: str
    prev_hash: str
    hash: str


def line_after(head: Head, act: Act, at_ms: int) -> Line:
    """The line of an act as the next of a chain."""
    line = Line(
        seq=head.seq + 1,
        at=at_ms,
        role=act.role,
        actor=act.actor,
        act=act.name,
        user_id=act.user_id,
        enterprise_id=act.enterprise_id,
        subject=act.subject,
        reason=act.reason,
        before_json=_text(act.before),
        after_json=_text(act.after),
        txn_id=act.txn_id,
        prev_hash=head.hash,
        hash="",
    )
    return msgspec.structs.replace(line, hash=digest(line))


def digest(line: Line) -> str:
    """What the hash of a line must be: SHA-256 over a fixed beginning and every field but the hash itself.

    Each field, in the order of `Line`, is its text in UTF-8 (numbers in decimal) as a netstring: its length in
    bytes, a colon, the bytes, a comma. So no two lines have the same encoding, and any language can repeat it.
    """
    coded = bytearray(_KIND)
    for value in msgspec.structs.astuple(line)[:-1]:
        field = str(value).encode()
        coded += b"%d:%b," % (len(field), field)
    return hashlib.sha256(coded).hexdigest()


def broken_link(head: Head, line: Line) -> str | None:
    """None when `line` is an honest next line after `head`, else what is wrong, in plain words."""
    expected = head.seq + 1
    if line.seq != expected:
        return f"line {expected} is missing: line {line.seq} follows line {head.seq}"
    if line.prev_hash != head.hash:
        return f"line {line.seq} does not follow line {head.seq}: one of them was changed, moved or put in"
    if digest(line) != line.hash:
        return f"line {line.seq} was changed: its hash is not that of its fields"
    return None


def end_is_head(last: Head, head: Head | None) -> str | None:
    """None when a chain's last line is what its head row says, else what is wrong."""
    if head is None:
        return f"the head is missing; the last line is {last.seq}"
    if head.seq > last.seq:
        return f"line {last.seq + 1} is missing: the chain ends at line {last.seq}, its head at line {head.seq}"
    if head != last:
        return f"the head is line {head.seq} with hash {head.hash}, the last line {last.seq} with hash {last.hash}"
    return None


def named(value: str | None, within: str) -> str | None:
    """A digest for an end user's id where the id itself may not stand: equal ids of one app look alike, no more."""
    return None if value is None else "sha256:" + hashlib.sha256(f"{within}/{value}".encode()).hexdigest()[:32]


def _text(fields: Mapping[str, Any] | None) -> str:
    return "" if fields is None else _encode(fields).decode()

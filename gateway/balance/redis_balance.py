"""Hot balances on Redis: each operation is one script call on the keys of one shard.

Owns the key layout of wallets, holds, limits and credit markers. Every key carries the hash tag of its
shard, so that the keys of one call share a slot:

    mzk:{s007}:w:<wallet>      hash  a = available, h = held
    mzk:{s007}:r:<request id>  the hold, then for RESULT_TTL_S its result (msgpack; see lua/hold_v1.lua)
    mzk:{s007}:l:<subject>     hash  one field per kind of limit
    mzk:{s007}:deadlines       sorted set of holds by deadline
    mzk:{s007}:events          stream of usage events, field e
    mzk:{s007}:c:<operation>   marker of a credit that was applied

This is the hot path: commands are built from prefixes made once, and replies are flat arrays of integers.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from gateway.balance.model import (
    Admitted,
    BalanceUnavailable,
    Extended,
    Hold,
    HoldRequest,
    Limit,
    RefusedByLimit,
    RefusedByWallet,
    Settled,
    WalletMissing,
    WalletState,
)
from gateway.balance.redis_link import Part, RedisLink, RedisLinkLost, RedisReplyError, pack
from gateway.balance.redis_scripts import Script, Scripts, load_scripts
from gateway.balance.rules import check_amounts, check_credit, check_extension, check_limits, check_request
from gateway.core.ids import SHARDS
from gateway.core.limits import CREDIT_MARKER_TTL_S, EVENT_BACKLOG_MAX, IN_FLIGHT_MAX, REDIS_ATTEMPTS, RESULT_TTL_S, SWEEP_BATCH

_PREFIX: Final = tuple(f"mzk:{{s{shard:03d}}}:" for shard in range(SHARDS))
_DEADLINES: Final = tuple(prefix + "deadlines" for prefix in _PREFIX)
EVENT_STREAMS: Final = tuple(prefix + "events" for prefix in _PREFIX)

_ADMITTED, _REFUSED_BY_WALLET, _REFUSED_BY_LIMIT, _MISSING, _BACKLOG = 1, 2, 3, 4, 5
_PACKED_MAX: Final = 2 * IN_FLIGHT_MAX
_RESULT_TTL_MS: Final = RESULT_TTL_S * 1000
_MARKER_TTL_MS: Final = CREDIT_MARKER_TTL_S * 1000

_Keys = tuple[int, bytes]  # of a hold, packed: in how many parts (the first has three keys), the bytes
_encode = msgspec.msgpack.Encoder().encode  # not of bytes: Lua's cmsgpack knows no binary type
# The front of a hold as hold_v1.lua stores it; the context behind it is left undecoded.
_decode_hold = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_word = msgspec.msgpack.Decoder(str).decode
_decode_keys = msgspec.msgpack.Decoder(list[str]).decode


class RedisBalance:
    """`Balance` on one Redis or Valkey server, version 7 or later."""

    def __init__(
        self, url: str, *, scripts: Scripts | None = None, event_backlog_max: int = EVENT_BACKLOG_MAX, abandoned: bytes = b"{}"
    ) -> None:
        """Connects on first use. `event_backlog_max` is per shard; `abandoned` the rest of the event of a hold nobody ended."""
        used = scripts or load_scripts()
        self.link = RedisLink(url, [script.text for script in used.all])
        self._event_backlog_max = event_backlog_max
        self._abandoned = abandoned
        self._packed: dict[tuple[int, str], _Keys] = {}  # of the holds that stand, by shard and request id
        self._reserve = _head(used.reserve)
        self._settle = _head(used.settle)
        self._release = _head(used.release)
        self._extend = _head(used.extend)
        self._abandon = used.abandon.sha
        self._sweep = used.sweep.sha
        self._credit = used.credit.sha
        self._take = used.take.sha
        self._open = used.open.sha

    async def close(self) -> None:
        """Close the connection; calls in flight fail."""
        await self.link.close()

    async def reserve(self, request: HoldRequest) -> Admitted | RefusedByWallet | RefusedByLimit | WalletMissing:
        """One call of reserve_v1."""
        check_request(request)
        request_id, charges, shard = request.request_id, request.charges, request.shard
        hashes, counted, numbers = _counting(shard, request.limits)
        names = _hold_keys(shard, request_id)
        bounds: list[int] = []
        for charge in charges:
            names += _key(shard, "w:", charge.wallet)
            bounds += (charge.ceiling_micro, charge.floor_micro)
        keys = (1 + len(charges) + hashes, (names + counted).encode("ascii"))
        asked = _encode((request.ttl_ms, self._event_backlog_max, bounds, request.tokens, numbers))
        reply = await self._run(_evalsha(self._reserve, keys, asked, request.context))
        word = reply[0]
        if word == _ADMITTED:
            if len(self._packed) >= _PACKED_MAX:
                del self._packed[next(iter(self._packed))]  # its request died, and the sweeper has ended its hold
            self._packed[shard, request_id] = keys
            n = 1 + len(charges)
            return Admitted(tuple(reply[1:n]), tuple(reply[n : 2 * n - 1]), tuple(reply[2 * n - 1 :]))
        if word == _REFUSED_BY_WALLET:
            return RefusedByWallet(reply[1], reply[2], reply[3])
        if word == _REFUSED_BY_LIMIT:
            return RefusedByLimit(reply[1], reply[2], reply[3])
        if word == _MISSING:
            return WalletMissing(tuple([charges[i].wallet for i in reply[1:]]))
        assert word == _BACKLOG
        raise BalanceUnavailable(f"{self._event_backlog_max} usage events of shard {request.shard} wait to be drained")

    async def settle(self, hold: Hold, amounts_micro: Sequence[int], tokens: int, event: bytes) -> Settled:
        """One call of settle_v1."""
        check_amounts(hold.wallets, amounts_micro, tokens)
        asked = _encode((_RESULT_TTL_MS, tokens, amounts_micro))
        reply = await self._run(_evalsha(self._settle, self._keys(hold), asked, event))
        return Settled(tuple(reply[1:]), reply[0] == 1)

    async def extend(
        self, hold: Hold, ceilings_micro: Sequence[int], ttl_ms: int, owed_micro: Sequence[int] = (), event: bytes = b""
    ) -> Extended | None:
        """One call of extend_v1."""
        check_extension(hold.wallets, ceilings_micro, owed_micro, ttl_ms)
        numbers = _counting(hold.shard, hold.limits)[2]
        asked = _encode((ttl_ms, ceilings_micro, owed_micro, numbers))
        keys = self._packed.get((hold.shard, hold.request_id)) or _keys(hold)
        reply = await self._run(_evalsha(self._extend, keys, asked, event))
        n = 1 + len(hold.wallets)
        return Extended(tuple(reply[1:n]), tuple(reply[n:])) if reply[0] else None

    async def release(self, hold: Hold) -> bool:
        """One call of release_v1."""
        return bool(await self._run(_evalsha(self._release, self._keys(hold), _encode((_RESULT_TTL_MS,)), b"")))

    async def credit(self, op_id: str, shard: int, wallet: str, delta_micro: int) -> WalletState | None:
        """One call of credit_v1; a repeat answers with the wallet as it is now."""
        check_credit(delta_micro)
        prefix = _PREFIX[shard]
        keys = (prefix + "w:" + wallet, prefix + "c:" + op_id)
        reply = await self._run(pack(("EVALSHA", self._credit, 2, *keys, delta_micro, _MARKER_TTL_MS)))
        return None if reply is None else WalletState(reply[0], reply[1])

    async def take(self, op_id: str, shard: int, wallet: str, most_micro: int) -> int | None:
        """One call of take_v1."""
        check_credit(most_micro)
        assert most_micro >= 0
        prefix = _PREFIX[shard]
        keys = (prefix + "w:" + wallet, prefix + "c:" + op_id)
        reply = await self._run(pack(("EVALSHA", self._take, 2, *keys, most_micro, _MARKER_TTL_MS)))
        return None if reply is None else int(reply)

    async def open(self, shard: int, wallet: str, available_micro: int) -> bool:
        """One call of open_v1."""
        check_credit(available_micro)
        return bool(await self._run(pack(("EVALSHA", self._open, 1, _PREFIX[shard] + "w:" + wallet, available_micro))))

    async def read(self, shard: int, wallets: Sequence[str]) -> list[WalletState | None]:
        """One HMGET a wallet, in one write."""
        prefix = _PREFIX[shard] + "w:"
        rows = await asyncio.gather(*[self._run(pack(("HMGET", prefix + wallet, "a", "h"))) for wallet in wallets])
        return [None if a is None else WalletState(int(a), int(h)) for a, h in rows]

    async def names(self) -> AsyncIterator[str]:
        """Every wallet's name, by SCAN: each at least once while it exists throughout."""
        cursor = 0
        while True:
            cursor_text, keys = await self._run(pack(("SCAN", cursor, "MATCH", "mzk:{s*}:w:*", "COUNT", 1000)))
            for key in keys:
                yield key.decode().partition(":w:")[2]
            cursor = int(cursor_text)
            if cursor == 0:
                return

    async def sweep(self, shard: int) -> int:
        """List expired holds, read which keys each touched, end each: three round trips a batch."""
        ended = 0
        while True:
            expired: list[bytes] = await self._run(pack(("EVALSHA", self._sweep, 1, _DEADLINES[shard], SWEEP_BATCH)))
            values = await asyncio.gather(*[self._run(pack(("GET", key))) for key in expired])
            commands = []
            for key, value in zip(expired, values, strict=True):
                # Without a live hold there is nothing but the deadline to remove.
                touched = _keys_of_hold(value) if value is not None else []
                keys: tuple[Part, ...] = (key, _DEADLINES[shard], EVENT_STREAMS[shard], *touched)
                commands.append(pack(("EVALSHA", self._abandon, len(keys), *keys, _RESULT_TTL_MS, self._abandoned)))
            replies: list[int] = await asyncio.gather(*[self._run(command) for command in commands])
            ended += sum(replies)
            if len(expired) < SWEEP_BATCH:
                return ended

    async def ping(self) -> None:
        """One PING."""
        await self._run(pack(("PING",)))

    def _keys(self, hold: Hold) -> _Keys:
        """The keys of a hold, as reserve packed them; packed again after a repeat, or in another process."""
        return self._packed.pop((hold.shard, hold.request_id), None) or _keys(hold)

    async def _run(self, command: bytes) -> Any:
        """Send a command; repeat it, which its idempotency allows, when its reply was lost."""
        if not self.link.is_up:
            return await self._repeat(command, REDIS_ATTEMPTS, None)
        try:
            return await self.link.send(command)
        except (RedisLinkLost, RedisReplyError) as failed:
            return await self._repeat(command, REDIS_ATTEMPTS - 1, failed)

    async def _repeat(self, command: bytes, attempts: int, failed: RedisLinkLost | RedisReplyError | None) -> Any:
        for _ in range(attempts):
            try:
                await self.link.connect()
                if isinstance(failed, RedisReplyError):
                    if not failed.args[0].startswith("NOSCRIPT"):
                        break
                    await self.link.load_scripts()
            except (RedisLinkLost, RedisReplyError) as down:
                raise BalanceUnavailable(str(down)) from down
            try:
                return await self.link.send(command)
            except (RedisLinkLost, RedisReplyError) as again:
                failed = again
        raise BalanceUnavailable(str(failed)) from failed


# A hold's calls are packed by hand, each key (ASCII, as every id is) with its length: hiredis takes four times as
# long for each part of a command, and these have the most parts.


def _head(script: Script) -> bytes:
    return b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % script.sha.encode()


def _key(shard: int, kind: str, name: str) -> str:
    return f"${_PREFIX_CHARS + len(name)}\r\n{_PREFIX[shard]}{kind}{name}\r\n"


def _hold_keys(shard: int, request_id: str) -> str:
    """The three keys that each hold begins with."""
    return f"${_PREFIX_CHARS + len(request_id)}\r\n{_PREFIX[shard]}r:{request_id}\r\n{_OF_SHARD[shard]}"


@lru_cache(maxsize=8192)
def _counting(shard: int, limits: tuple[Limit, ...]) -> tuple[int, str, msgspec.Raw]:
    """How many hashes these limits count in, the hashes' keys, and the limits as reserve_v1 takes them."""
    check_limits(limits)
    subjects = list(dict.fromkeys([limit.subject for limit in limits]))
    numbers = [
        (subjects.index(limit.subject) + 1, limit.kind._value_, limit.maximum, limit.amount, limit.charge + 1) for limit in limits
    ]
    names = "".join([_key(shard, "l:", subject) for subject in subjects])
    return len(subjects), names, msgspec.Raw(_encode([number for limit in numbers for number in limit]))


def _keys(hold: Hold) -> _Keys:
    hashes, counted, _ = _counting(hold.shard, hold.limits)
    names = "".join([_hold_keys(hold.shard, hold.request_id), *[_key(hold.shard, "w:", wallet) for wallet in hold.wallets]])
    return 1 + len(hold.wallets) + hashes, (names + counted).encode("ascii")


def _evalsha(head: bytes, keys: _Keys, asked: bytes, more: bytes) -> bytes:
    """EVALSHA of a script that takes a hold's keys and two arguments; the first of the key parts has three of them."""
    parts, names = keys
    return b"%b%b%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (_COUNTS[parts], head, _KEYS[parts], names, len(asked), asked, len(more), more)


_PREFIX_CHARS: Final = len(_PREFIX[0]) + 2
_OF_SHARD: Final = tuple(
    "".join([f"${len(key)}\r\n{key}\r\n" for key in pair]) for pair in zip(_DEADLINES, EVENT_STREAMS, strict=True)
)
_COUNTS: Final = tuple(b"*%d\r\n" % (parts + 7) for parts in range(100))
_KEYS: Final = tuple(b"$%d\r\n%d\r\n" % (len(str(parts + 2)), parts + 2) for parts in range(100))


def _keys_of_hold(value: bytes) -> list[str]:
    """The wallet and limit keys that a live hold names; none of a hold that ended."""
    fields = _decode_hold(value)
    return _decode_keys(fields[3]) if _decode_word(fields[0]) == "held" else []

"""Hot balances on Redis: each operation is one script call on the keys of one shard.

Owns the key layout of wallets, holds, limits and credit markers. Every key carries the hash tag of its
shard, so that the keys of one call share a slot:

    mzk:{s007}:w:<wallet>      hash  a = available, h = held
    mzk:{s007}:r:<request id>  the hold, then for RESULT_TTL_S its result (a record; see lua/hold_v1.lua)
    mzk:{s007}:l:<subject>     hash  one field per kind of limit
    mzk:{s007}:deadlines       sorted set of holds by deadline
    mzk:{s007}:events          stream of usage events, field e
    mzk:{s007}:c:<operation>   marker of a credit that was applied
    mzk:{s007}:p:<wallet>      set of requests that a rebuilt wallet's amount counts (see lua/resubmit_v1.lua)
    mzk:{s007}:epoch           a random word, gone when everything is (see lua/ask_v1.lua)

This is the hot path: commands are built from prefixes made once; arguments and replies are records of whole numbers,
which both sides read in one step.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache
from math import inf
from struct import Struct
from time import monotonic
from typing import Any, Final

from gateway.balance.counters import used_of
from gateway.balance.keeping import Asked, Kept
from gateway.balance.model import (
    Admitted,
    BalanceUnavailable,
    Extended,
    Hold,
    HoldLost,
    HoldRequest,
    Limit,
    RefusedByLimit,
    RefusedByWallet,
    Settled,
    WalletMissing,
    WalletState,
)
from gateway.balance.redis_link import Part, RedisLink, RedisLinkDown, RedisLinkLost, RedisReplyError, pack
from gateway.balance.redis_scripts import Script, Scripts, load_scripts
from gateway.balance.rules import check_credit, check_extension, check_limits
from gateway.core.ids import SHARDS
from gateway.core.limits import (
    CREDIT_MARKER_TTL_S,
    EVENT_BACKLOG_MAX,
    IN_FLIGHT_MAX,
    KEPT_S,
    POSTED_S,
    REDIS_ATTEMPTS,
    RESULT_TTL_S,
    SWEEP_BATCH,
)
from gateway.core.money import AMOUNT_MICRO_MAX

_log = logging.getLogger(__name__)

_PREFIX: Final = tuple(f"mzk:{{s{shard:03d}}}:" for shard in range(SHARDS))
_DEADLINES: Final = tuple(prefix + "deadlines" for prefix in _PREFIX)
_EPOCHS: Final = tuple(prefix + "epoch" for prefix in _PREFIX)
EVENT_STREAMS: Final = tuple(prefix + "events" for prefix in _PREFIX)

_ADMITTED, _REFUSED_BY_WALLET, _REFUSED_BY_LIMIT, _MISSING, _BACKLOG = 1, 2, 3, 4, 5
_SETTLED, _ENDED, _UNKNOWN, _STANDS = 1, 0, 2, 3  # how settle_v1 and resubmit_v1 answer; _MISSING too
_PACKED_MAX: Final = 2 * IN_FLIGHT_MAX
_RESULT_TTL_MS: Final = RESULT_TTL_S * 1000
_MARKER_TTL_MS: Final = CREDIT_MARKER_TTL_S * 1000

_LOST_AGAIN: Final = 2  # how rebuild_v1 answers
_IDS_AT_ONCE: Final = 1000
_LOOKED_THROUGH: Final = 2000  # events of a shard
_POSTED_MS: Final = POSTED_S * 1000

Rebuild = Callable[[int, tuple[str, ...]], Awaitable[bool]]
_NUMBERS: Final = tuple(Struct(f"<{count}q") for count in range(300))  # as many as all wallets and limits of a request
_HOLD_ASKED: Final = Struct("<qqqBB")
_SETTLE_ASKED: Final = Struct("<qq")
_EXTEND_ASKED: Final = Struct("<qqB")
_LIMIT_TAIL: Final = Struct("<qqB")
_HOLD_HEAD: Final = Struct("<BBB")
_HOLD_SIZES: Final = Struct("<IHI")
_HELD: Final = 1  # the first byte of a hold that stands

_Keys = tuple[int, bytes]  # of a hold, packed: in how many parts (the first has three keys), the bytes
# Of a hold that stands: its keys, its context, and until when (monotonic) its end cannot have been forgotten.
_Standing = tuple[_Keys, bytes, float]


async def _no_rebuild(shard: int, wallets: tuple[str, ...]) -> bool:
    return False



class RedisBalance:
    """`Balance` on one Redis or Valkey server, version 7 or later."""

    def __init__(
        self,
        url: str,
        *,
        scripts: Scripts | None = None,
        event_backlog_max: int = EVENT_BACKLOG_MAX,
        abandoned: bytes = b"{}",
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        """Connects on first use. `event_backlog_max` is per shard; `abandoned` the rest of the event of a hold nobody ended.

        `monotonic` (seconds) tells a hold that was lost from one whose result is forgotten by now.
        """
        used = scripts or load_scripts()
        self.link = RedisLink(url, [script.text for script in used.all])
        self._event_backlog_max = event_backlog_max
        self._abandoned = abandoned
        self._monotonic = monotonic
        self._packed: dict[tuple[int, str], _Standing] = {}  # of the holds that stand, by shard and request id
        self.kept: tuple[dict[str, Kept], ...] = tuple({} for _ in range(SHARDS))  # see `keeping`
        self.loss = asyncio.Event()
        self._seen_life = 0
        self.rebuild_lost: Rebuild = _no_rebuild  # makes wallets that were lost, from the books
        self._reserve = _head(used.reserve)
        self._settle = _head(used.settle)
        self._release = _head(used.release)
        self._extend = _head(used.extend)
        self._abandon = used.abandon.sha
        self._sweep = used.sweep.sha
        self._credit = used.credit.sha
        self._take = used.take.sha
        self._open = used.open.sha
        self._ask = used.ask.sha
        self._resubmit = used.resubmit.sha
        self._rebuild = used.rebuild.sha
        self._used = used.used.sha

    async def close(self) -> None:
        """Close the connection; calls in flight fail."""
        await self.link.close()

    async def reserve(self, request: HoldRequest) -> Admitted | RefusedByWallet | RefusedByLimit | WalletMissing:
        """One call of reserve_v1."""
        request_id, charges, shard = request.request_id, request.charges, request.shard
        # What `rules.check_request` asserts, where each of its numbers is at hand: this is every request's path.
        assert 0 <= shard < SHARDS
        assert request.ttl_ms > 0
        assert 0 <= request.tokens <= AMOUNT_MICRO_MAX
        hashes, counted, limits = _counting(shard, request.limits)
        names = _hold_keys(shard, request_id)
        bounds: list[int] = []
        for charge in charges:
            names += _key(shard, "w:", charge.wallet)
            ceiling, floor = charge.ceiling_micro, charge.floor_micro
            assert 0 <= floor <= ceiling <= AMOUNT_MICRO_MAX
            bounds += (ceiling, floor)
        n = len(charges)
        assert n < 2 or len({charge.wallet for charge in charges}) == n
        keys = (1 + n + hashes, (names + counted).encode("ascii"))
        asked = _HOLD_ASKED.pack(request.ttl_ms, self._event_backlog_max, request.tokens, n, len(request.limits))
        asked += _NUMBERS[2 * n].pack(*bounds) + limits
        command = _evalsha(self._reserve, keys, asked, request.context)
        try:  # as `_run` does, a coroutine less
            reply: bytes = await self.link.send(command)
        except (RedisLinkLost, RedisReplyError) as failed:
            reply = await self._repeat(command, failed)
        word = reply[0]
        if word == _ADMITTED:
            if len(self._packed) >= _PACKED_MAX:
                del self._packed[next(iter(self._packed))]  # its request died, and the sweeper has ended its hold
            self._packed[shard, request_id] = keys, request.context, self._monotonic() + request.ttl_ms / 1000 + KEPT_S
            numbers = _numbers(reply)
            return Admitted(numbers[:n], numbers[n : 2 * n], numbers[2 * n :])
        if word == _REFUSED_BY_WALLET:
            return RefusedByWallet(*_numbers(reply))
        if word == _REFUSED_BY_LIMIT:
            return RefusedByLimit(*_numbers(reply))
        if word == _MISSING:
            return WalletMissing(tuple([charges[i].wallet for i in reply[1:]]))
        assert word == _BACKLOG
        raise BalanceUnavailable(f"{self._event_backlog_max} usage events of shard {request.shard} wait to be drained")

    async def settle(self, hold: Hold, amounts_micro: Sequence[int], tokens: int, event: bytes) -> Settled:
        """One call of settle_v1; what this process reserved is kept from before it is sent (see `keeping`)."""
        shard, request_id = hold.shard, hold.request_id
        n = len(amounts_micro)
        # What `rules.check_amounts` asserts.
        assert n == len(hold.wallets)
        assert 0 <= tokens <= AMOUNT_MICRO_MAX
        assert not n or (min(amounts_micro) >= 0 and max(amounts_micro) <= AMOUNT_MICRO_MAX)
        asked = _SETTLE_ASKED.pack(_RESULT_TTL_MS, tokens) + _NUMBERS[n].pack(*amounts_micro)
        standing = self._packed.pop((shard, request_id), None)
        if standing is None:
            known = self.kept[shard].get(request_id)
            if known is not None:
                known.asked, known.rest = asked, event
                return await self.settle_again(known)
            reply: bytes = await self._run(_settling_by_rest(self._settle, _keys(hold), asked, event))
            return Settled(_NUMBERS[n].unpack_from(reply, 1), reply[0] == _SETTLED, len(reply) > 1 + 8 * n)
        keys, context, until = standing
        now = self._monotonic()
        kept = Kept(shard, request_id, hold.wallets, keys, context, asked, event, now, now + KEPT_S if now < until else 0.0)
        self.kept[shard][request_id] = kept
        command = _evalsha(self._settle, keys, asked, b"%b,%b" % (context[:-1], event[1:]))  # `kept.event`, written out
        try:
            reply = await self.link.send(command)
        except (RedisLinkLost, RedisReplyError) as failed:
            reply = await self._repeat(command, failed)
        if reply[0] != _SETTLED:
            return await self._ended(kept, reply)
        kept.entry, kept.life = reply[1 + 8 * n :], self.link.life
        return Settled(_NUMBERS[n].unpack_from(reply, 1), True)

    async def settle_again(self, kept: Kept) -> Settled:
        """Settle what this process settled before, or may have; BalanceUnavailable while that cannot be."""
        return await self._ended(kept, await self._run(_evalsha(self._settle, kept.keys, kept.asked, kept.event)))

    async def _ended(self, kept: Kept, reply: bytes) -> Settled:
        """Note what became of a settlement; made without a hold when that was lost."""
        if reply[0] == _UNKNOWN and self._monotonic() < kept.until:
            self.loss.set()
            reply = await self._resubmitted(kept)
        n = len(kept.wallets)
        kept.entry, kept.life = reply[1 + 8 * n :], self.link.life
        if not kept.entry:  # it was swept or released, or that was so long ago that nobody knows
            self.kept[kept.shard].pop(kept.request_id, None)
            _log.warning("settle of %s came after its hold had ended: nothing is charged", kept.request_id)
        return Settled(_NUMBERS[n].unpack_from(reply, 1), reply[0] == _SETTLED, bool(kept.entry))

    async def _resubmitted(self, kept: Kept) -> bytes:
        """Calls of resubmit_v1, with lost wallets rebuilt in between."""
        prefix, wallets = _PREFIX[kept.shard], kept.wallets
        keys: list[Part] = [prefix + "r:" + kept.request_id, EVENT_STREAMS[kept.shard]]
        keys += [prefix + "w:" + wallet for wallet in wallets]
        keys += [prefix + "p:" + wallet for wallet in wallets]
        command = pack(("EVALSHA", self._resubmit, len(keys), *keys, kept.asked, kept.event, kept.request_id))
        for _ in range(REDIS_ATTEMPTS):
            reply: bytes = await self._run(command)
            if reply[0] == _STANDS:
                reply = await self._run(_evalsha(self._settle, kept.keys, kept.asked, kept.event))
                if reply[0] != _UNKNOWN:
                    return reply
            elif reply[0] != _MISSING:
                _log.info("the hold of %s was lost: settled without it", kept.request_id)
                return reply
            elif not await self.rebuild_lost(kept.shard, tuple([wallets[i] for i in reply[1:]])):
                break
        raise BalanceUnavailable(f"wallets of {kept.request_id} are lost and not rebuilt yet")

    async def extend(
        self,
        hold: Hold,
        ceilings_micro: Sequence[int],
        ttl_ms: int,
        owed_micro: Sequence[int] = (),
        event: bytes = b"",
        tokens: int = 0,
    ) -> Extended | None:
        """One call of extend_v1."""
        check_extension(hold.wallets, ceilings_micro, owed_micro, ttl_ms, tokens)
        n = len(hold.wallets)
        per_wallet = [micro for pair in zip(ceilings_micro, owed_micro or (0,) * n, strict=True) for micro in pair]
        asked = _EXTEND_ASKED.pack(ttl_ms, tokens, len(owed_micro) > 0) + _NUMBERS[2 * n].pack(*per_wallet)
        asked += _counting(hold.shard, hold.limits)[2]
        name = hold.shard, hold.request_id
        standing = self._packed.get(name)
        keys = _keys(hold) if standing is None else standing[0]
        reply: bytes = await self._run(_evalsha(self._extend, keys, asked, event))
        if standing is not None and name in self._packed:
            if reply[0] == 1:
                self._packed[name] = keys, standing[1], self._monotonic() + ttl_ms / 1000 + KEPT_S
            elif reply[0] == _UNKNOWN and self._monotonic() < standing[2]:
                self._packed[name] = keys, standing[1], inf  # lost, and known to be: its settlement is made without it
                self.loss.set()
                raise HoldLost(hold.request_id)
        if reply[0] != 1:
            return None
        numbers = _numbers(reply)
        return Extended(numbers[:n], numbers[n:])

    async def release(self, hold: Hold, *, asked: bool = False) -> bool:
        """One call of release_v1."""
        return bool(await self._run(_evalsha(self._release, self._keys(hold), b"%d" % _RESULT_TTL_MS, b"%d" % asked)))

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

    async def rebuild(self, shard: int, wallet: str, available_micro: int, counted: Sequence[str], epoch: str) -> bool | None:
        """One call of rebuild_v1, behind those that fill the set of requests."""
        check_credit(available_micro)
        prefix = _PREFIX[shard]
        filled = f"{prefix}p-{secrets.token_hex(8)}:{wallet}"
        for start in range(0, len(counted), _IDS_AT_ONCE):
            await self._run(pack(("SADD", filled, *counted[start : start + _IDS_AT_ONCE])))
            await self._run(pack(("PEXPIRE", filled, _POSTED_MS)))
        keys = (prefix + "w:" + wallet, prefix + "p:" + wallet, filled, _EPOCHS[shard])
        made = await self._run(pack(("EVALSHA", self._rebuild, len(keys), *keys, available_micro, _POSTED_MS, epoch)))
        return None if made == _LOST_AGAIN else bool(made)

    async def epoch(self, shard: int) -> str:
        """One call of ask_v1. Who wants to know has met a loss, so what is kept is looked at, too."""
        self.loss.set()
        return (await self.ask(shard)).epoch

    async def ask(self, shard: int) -> Asked:
        """One call of ask_v1."""
        keys = (_EPOCHS[shard], EVENT_STREAMS[shard])
        reply = await self._run(pack(("EVALSHA", self._ask, 2, *keys, secrets.token_hex(8))))
        return Asked(reply[0].decode(), reply[1], reply[2])

    async def waits_for(self, shard: int, wallet: str) -> bool:
        """Whether one of the events that wait names the wallet; taken for so when there are too many to look at."""
        waiting = await self._run(pack(("XRANGE", EVENT_STREAMS[shard], "-", "+", "COUNT", _LOOKED_THROUGH)))
        name = f'"{wallet}"'.encode()
        return len(waiting) == _LOOKED_THROUGH or any(name in entry[1][1] for entry in waiting)

    @property
    def life(self) -> int:
        """Which connection stands, counted."""
        return self.link.life

    async def read(self, shard: int, wallets: Sequence[str]) -> list[WalletState | None]:
        """One HMGET a wallet, in one write."""
        prefix = _PREFIX[shard] + "w:"
        rows = await asyncio.gather(*[self._run(pack(("HMGET", prefix + wallet, "a", "h"))) for wallet in wallets])
        return [None if a is None else WalletState(int(a), int(h)) for a, h in rows]

    async def used(self, shard: int, limits: Sequence[Limit]) -> list[int]:
        """One call of used_v1."""
        keys = [f"{_PREFIX[shard]}l:{limit.subject}" for limit in limits]
        kinds = [limit.kind._value_ for limit in limits]
        now_ms, *fields = await self._run(pack(("EVALSHA", self._used, len(keys), *keys, *kinds)))
        return [used_of(limit.kind, field, now_ms) for limit, field in zip(limits, fields, strict=True)]

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
        standing = self._packed.pop((hold.shard, hold.request_id), None)
        return _keys(hold) if standing is None else standing[0]

    async def _run(self, command: bytes) -> Any:
        """Send a command; repeat it, which its idempotency allows, when its reply was lost."""
        try:
            return await self.link.send(command)
        except (RedisLinkLost, RedisReplyError) as failed:
            return await self._repeat(command, failed)

    async def _repeat(self, command: bytes, failed: RedisLinkLost | RedisReplyError) -> Any:
        for _ in range(REDIS_ATTEMPTS - (not isinstance(failed, RedisLinkDown))):
            try:
                await self.link.connect()
                if self.link.life != self._seen_life:
                    self._seen_life = self.link.life
                    self.loss.set()  # it may be another server, or an older one
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
def _counting(shard: int, limits: tuple[Limit, ...]) -> tuple[int, str, bytes]:
    """How many hashes these limits count in, the hashes' keys, and the limits as reserve_v1 takes them."""
    check_limits(limits)
    subjects = list(dict.fromkeys([limit.subject for limit in limits]))
    packed = [
        b"%c%b\0%b" % (
            subjects.index(limit.subject) + 1,
            limit.kind._value_.encode(),
            _LIMIT_TAIL.pack(limit.maximum, limit.amount, limit.charge + 1),
        )
        for limit in limits
    ]
    return len(subjects), "".join([_key(shard, "l:", subject) for subject in subjects]), b"".join(packed)


def _numbers(reply: bytes) -> tuple[int, ...]:
    """What stands behind the first byte."""
    return _NUMBERS[len(reply) >> 3].unpack_from(reply, 1)


def _keys(hold: Hold) -> _Keys:
    hashes, counted, _ = _counting(hold.shard, hold.limits)
    names = "".join([_hold_keys(hold.shard, hold.request_id), *[_key(hold.shard, "w:", wallet) for wallet in hold.wallets]])
    return 1 + len(hold.wallets) + hashes, (names + counted).encode("ascii")


def _evalsha(head: bytes, keys: _Keys, asked: bytes, more: bytes) -> bytes:
    """EVALSHA of a script that takes a hold's keys and two arguments; the first of the key parts has three of them."""
    parts, names = keys
    return b"%b%b%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (_COUNTS[parts], head, _KEYS[parts], names, len(asked), asked, len(more), more)


def _settling_by_rest(head: bytes, keys: _Keys, asked: bytes, rest: bytes) -> bytes:
    """EVALSHA of settle_v1 by who does not know the front of the event."""
    parts, command = keys[0], _evalsha(head, keys, asked, rest)
    return _COUNTS[parts + 1] + command.removeprefix(_COUNTS[parts]) + b"$1\r\n1\r\n"


_PREFIX_CHARS: Final = len(_PREFIX[0]) + 2
_OF_SHARD: Final = tuple(
    "".join([f"${len(key)}\r\n{key}\r\n" for key in pair]) for pair in zip(_DEADLINES, EVENT_STREAMS, strict=True)
)
_COUNTS: Final = tuple(b"*%d\r\n" % (parts + 7) for parts in range(100))
_KEYS: Final = tuple(b"$%d\r\n%d\r\n" % (len(str(parts + 2)), parts + 2) for parts in range(100))


def _keys_of_hold(value: bytes) -> list[bytes]:
    """The wallet and limit keys that a live hold names; none of a hold that ended."""
    state, wallets, limits = _HOLD_HEAD.unpack_from(value)
    if state != _HELD:
        return []
    sizes_at = _HOLD_HEAD.size + 8 * (2 * wallets + limits)
    at = sizes_at + _HOLD_SIZES.size + 16 * wallets
    names = value[at : at + _HOLD_SIZES.unpack_from(value, sizes_at)[0]]
    return names.split(b"\0") if names else []

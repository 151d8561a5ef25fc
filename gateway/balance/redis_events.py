"""Reading the usage events that `settle` appends: one consumer group over the streams of all shards.

Owns delivery: at least once, to one consumer of the group at a time, again when that consumer died.
Does not own what an event means or that handling it twice is harmless; the reader of this port does.

A blocking read has a connection of its own, so that it never stands in front of anything else. It names
all 256 streams, which one server can answer; on a cluster the streams would be shared out by node.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from gateway.balance.model import BalanceUnavailable
from gateway.balance.redis_balance import EVENT_STREAMS
from gateway.balance.redis_link import Part, RedisLink, RedisLinkLost, RedisReplyError, pack
from gateway.core.limits import EVENT_BLOCK_S_MAX, REDIS_TIMEOUT_S

_GROUP: Final = "ledger"
# The workers that live, each with when it last said so, by the server's clock. (The server knows of a consumer only when it
# last gave it something.)
WORKERS: Final = "mzk:workers"
WORKER_SEEN_FOR_S: Final = 60
_SAYS_SO_EVERY_S: Final = 10.0
_SHARD_OF: Final = {stream.encode(): shard for shard, stream in enumerate(EVENT_STREAMS)}
_GATHER_S: Final = 0.02  # after a quiet time, how long a first event waits for company: bounds reads to 50 a second
_RECLAIM_EVERY_S: Final = 30.0
_LOOKED_AT_ONCE: Final = 1000
_RECLAIM_STREAMS: Final = 16  # streams asked at once when looking for what dead consumers left


class Claimed(msgspec.Struct, frozen=True):
    """One event in hand: where it lies, and its bytes."""

    shard: int
    entry_id: bytes
    data: bytes


class RedisEvents:
    """The events of every shard. All methods raise `BalanceUnavailable` when Redis does not serve."""

    def __init__(self, url: str, *, min_idle_ms: int = 60_000) -> None:
        """An event that was claimed and not acknowledged for `min_idle_ms` is taken from its consumer."""
        self._blocking = RedisLink(url, timeout_s=EVENT_BLOCK_S_MAX + REDIS_TIMEOUT_S)
        self._link = RedisLink(url)
        self._min_idle_ms = min_idle_ms
        self._has_groups = False
        self._was_busy = False
        self._reclaim_from = 0
        self._reclaim_at = 0.0
        self._seen_at = 0.0

    async def close(self) -> None:
        """Close both connections."""
        await self._blocking.close()
        await self._link.close()

    async def claim(self, consumer: str, count: int, block_ms: int) -> list[Claimed]:
        """About `count` events (at most 512 more, two of each shard), oldest first per shard.

        Waits up to `block_ms` (at most EVENT_BLOCK_S_MAX) for a first one; empty when none came. Events left
        behind by dead consumers come first: looked for at the start, after a lost connection, and every half minute.
        """
        assert count > 0
        try:
            return await self._claim(consumer, count, min(block_ms, int(EVENT_BLOCK_S_MAX * 1000)))
        except RedisReplyError as refused:
            if not refused.args[0].startswith("NOGROUP"):
                raise BalanceUnavailable(str(refused)) from refused
            self._has_groups = False  # the server was emptied; the next call makes the groups again
            return []
        except RedisLinkLost as lost:
            self._reclaim_from, self._reclaim_at = 0, 0.0  # what was claimed may have been on its way here
            raise BalanceUnavailable(str(lost)) from lost

    async def ack(self, claimed: Sequence[Claimed]) -> None:
        """The events are in the books: delete them.

        Deleted before acknowledged: a connection lost in between leaves an entry without data, which
        reclaiming drops by itself, and never an acknowledged event that nobody deletes.
        """
        by_shard: dict[int, list[bytes]] = {}
        for event in claimed:
            by_shard.setdefault(event.shard, []).append(event.entry_id)
        calls: list[tuple[Part, ...]] = []
        for shard, ids in by_shard.items():
            calls.append(("XDEL", EVENT_STREAMS[shard], *ids))
            calls.append(("XACK", EVENT_STREAMS[shard], _GROUP, *ids))
        await self._ask(calls)

    async def leave(self, consumer: str) -> None:
        """It claims no more: nobody needs to wait until it has not been seen for a while."""
        await self._ask([("ZREM", WORKERS, consumer)])

    async def _say_so(self, consumer: str) -> None:
        [(seconds, micro)] = await self._send([("TIME",)])
        at_ms, for_ms = int(seconds) * 1000 + int(micro) // 1000, 1000 * WORKER_SEEN_FOR_S
        gone = ("ZREMRANGEBYSCORE", WORKERS, "-inf", at_ms - for_ms)
        await self._send([("ZADD", WORKERS, at_ms, consumer), gone, ("PEXPIRE", WORKERS, for_ms)])

    async def depth(self) -> int:
        """How many events are not in the books yet, claimed ones included."""
        return sum(await self._ask([("XLEN", stream) for stream in EVENT_STREAMS]))

    async def oldest_ms(self) -> int | None:
        """When the event that waits the longest was appended, by the server's clock; None when none waits."""
        heads = await self._ask([("XRANGE", stream, "-", "+", "COUNT", 1) for stream in EVENT_STREAMS])
        return min((int(entries[0][0].partition(b"-")[0]) for entries in heads if entries), default=None)

    async def waiting(self, shard: int) -> AsyncIterator[bytes]:
        """Every event of a shard that is not in the books yet, claimed ones included, oldest first; nothing is claimed."""
        after: Part = "-"
        while True:
            [entries] = await self._ask([("XRANGE", EVENT_STREAMS[shard], after, "+", "COUNT", _LOOKED_AT_ONCE)])
            for _, fields in entries:
                yield fields[1]
            if len(entries) < _LOOKED_AT_ONCE:
                return
            after = b"(" + entries[-1][0]

    async def _ask(self, calls: Sequence[tuple[Part, ...]]) -> list[Any]:
        try:
            return await self._send(calls)
        except (RedisLinkLost, RedisReplyError) as failed:
            raise BalanceUnavailable(str(failed)) from failed

    async def _send(self, calls: Sequence[tuple[Part, ...]]) -> list[Any]:
        await self._link.connect()
        return await asyncio.gather(*[self._link.send(pack(call)) for call in calls])

    async def _claim(self, consumer: str, count: int, block_ms: int) -> list[Claimed]:
        if not self._has_groups:
            await self._make_groups()
        if asyncio.get_running_loop().time() >= self._seen_at:
            await self._say_so(consumer)
            self._seen_at = asyncio.get_running_loop().time() + _SAYS_SO_EVERY_S
        if asyncio.get_running_loop().time() >= self._reclaim_at:
            left_behind = await self._reclaim(consumer, count)
            if left_behind:
                return left_behind
        # First a little of every stream, so that a busy shard cannot starve the others; then the rest of
        # the batch from the streams that had more.
        little = max(1, count // len(EVENT_STREAMS))
        got, busy = await self._read(consumer, little, block_ms, EVENT_STREAMS)
        if got and not self._was_busy:
            await asyncio.sleep(_GATHER_S)
            more, busy = await self._read(consumer, little, None, EVENT_STREAMS)
            got += more
        while busy and (share := (count - len(got)) // len(busy)) > 0:
            more, busy = await self._read(consumer, share, None, busy)
            got += more
        self._was_busy = bool(busy)
        return got

    async def _read(
        self, consumer: str, each: int, block_ms: int | None, streams: Sequence[str]
    ) -> tuple[list[Claimed], list[str]]:
        """New events, at most `each` a stream, and the streams that may have more. `block_ms` None does not wait."""
        block = () if block_ms is None else ("BLOCK", max(1, block_ms))
        reply = await self._blocking.call(
            "XREADGROUP", "GROUP", _GROUP, consumer, "COUNT", each, *block, "STREAMS", *streams, *[">"] * len(streams)
        )
        got: list[Claimed] = []
        busy: list[str] = []
        for stream, entries in reply or ():
            shard = _SHARD_OF[stream]
            got += _events(shard, entries)
            if len(entries) >= each:
                busy.append(EVENT_STREAMS[shard])
        return got, busy

    async def _reclaim(self, consumer: str, count: int) -> list[Claimed]:
        """Take over what was claimed too long ago, a few streams at a time; empty when a whole round found nothing more."""
        each = max(1, count // _RECLAIM_STREAMS)
        while self._reclaim_from < len(EVENT_STREAMS):
            first = self._reclaim_from
            streams = EVENT_STREAMS[first : first + _RECLAIM_STREAMS]
            replies = await self._send(
                [("XAUTOCLAIM", stream, _GROUP, consumer, self._min_idle_ms, "0-0", "COUNT", each) for stream in streams]
            )
            got: list[Claimed] = []
            for number, reply in enumerate(replies):
                got += _events(first + number, reply[1])
            if all(len(reply[1]) < each for reply in replies):
                self._reclaim_from += _RECLAIM_STREAMS
            if got:
                return got
        self._reclaim_from = 0
        self._reclaim_at = asyncio.get_running_loop().time() + _RECLAIM_EVERY_S
        return []

    async def _make_groups(self) -> None:
        """Create the group on every stream, from the stream's beginning; that it exists already is fine."""
        await self._link.connect()
        calls = [pack(("XGROUP", "CREATE", stream, _GROUP, "0", "MKSTREAM")) for stream in EVENT_STREAMS]
        for reply in await asyncio.gather(*[self._link.send(call) for call in calls], return_exceptions=True):
            if isinstance(reply, RedisReplyError) and reply.args[0].startswith("BUSYGROUP"):
                continue
            if isinstance(reply, BaseException):
                raise reply
        self._has_groups = True


def _events(shard: int, entries: Any) -> list[Claimed]:
    """Entries are [id, [field, value, ...]]; an entry deleted meanwhile has no fields."""
    return [Claimed(shard, entry[0], entry[1][1]) for entry in entries if entry and entry[1]]

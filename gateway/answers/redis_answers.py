"""Kept answers in the Redis-protocol server, beside the balances or in one of their own.

That server must never fill up: balances live there, and it refuses writes before it forgets. So all kept answers together
have a bound in bytes, which each write enforces in the same step by dropping those that were used longest ago; and nothing
here is worth a failure: a server that does not answer is as one that knows nothing. Answers are one hash slot, so that one
script can see them all; a large installation gives them a server of their own.

An entry is a string with a time to live. Beside it stand its last use in a sorted set and its size in a hash; those of
entries that expired by themselves are dropped when their turn comes, as the least used ones.
"""

import logging
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

_log = logging.getLogger(__name__)
_PREFIX: Final = b"mzk:{answers}:"
_USES: Final = _PREFIX + b"uses"  # sorted set: key -> when it was used last, by the server's clock in milliseconds
_SIZES: Final = _PREFIX + b"sizes"  # hash: key -> bytes; "" -> the sum of all
_TIMEOUT_S: Final = 0.25  # a slower server costs more than it saves
_AN_ENTRY_BYTES: Final = 256  # what the server needs beside the value, about
_FORGET_AT_ONCE: Final = 500

# KEYS: uses, sizes, entry. ARGV: value, milliseconds to live, bytes that all may take, bytes of an entry beside its value.
_KEEP: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local size = #ARGV[1] + #KEYS[3] + tonumber(ARGV[4])
local most = tonumber(ARGV[3])
if size > most then return 0 end
local before = tonumber(redis.call('HGET', KEYS[2], KEYS[3]) or 0)
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[1], now, KEYS[3])
redis.call('HSET', KEYS[2], KEYS[3], size)
local sum = redis.call('HINCRBY', KEYS[2], '', size - before)
local dropped = 0
while sum > most do
  local oldest = redis.call('ZPOPMIN', KEYS[1])
  if #oldest == 0 then break end
  redis.call('UNLINK', oldest[1])
  local gone = tonumber(redis.call('HGET', KEYS[2], oldest[1]) or 0)
  redis.call('HDEL', KEYS[2], oldest[1])
  sum = redis.call('HINCRBY', KEYS[2], '', -gone)
  dropped = dropped + 1
end
return dropped + 1
"""

# KEYS: uses, entry. The value, and that it was used now.
_FIND: Final = """
local value = redis.call('GET', KEYS[2])
if value then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[1], 'XX', time[1] * 1000 + math.floor(time[2] / 1000), KEYS[2])
end
return value
"""

# KEYS: uses, sizes. ARGV: keys to forget.
_FORGET: Final = """
local freed = 0
for _, key in ipairs(ARGV) do
  redis.call('UNLINK', key)
  redis.call('ZREM', KEYS[1], key)
  freed = freed + tonumber(redis.call('HGET', KEYS[2], key) or 0)
  redis.call('HDEL', KEYS[2], key)
end
redis.call('HINCRBY', KEYS[2], '', -freed)
return #ARGV
"""


class NotForgotten(Exception):
    """The server did not answer, so answers may still be there."""


class KeptAnswers:
    """The kept answers of every app. Make it inside the event loop that uses it."""

    def __init__(self, url: str, bytes_max: int) -> None:
        """`url` as redis-py takes it; `bytes_max` bounds all answers together, of every app."""
        self._bytes_max = bytes_max
        self._redis = Redis.from_url(
            url, retry=Retry(NoBackoff(), 0), socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        )
        self._keep = self._redis.register_script(_KEEP)
        self._find = self._redis.register_script(_FIND)
        self._forget = self._redis.register_script(_FORGET)

    async def find(self, enterprise_id: str, digest: bytes) -> bytes | None:
        """What was kept for this app under this digest, None when nothing is, or nobody answers."""
        try:
            found: bytes | None = await self._find(keys=[_USES, _key(enterprise_id, digest)])
        except (RedisError, OSError) as down:
            _log.warning("kept answers cannot be read: %s", down)
            return None
        return found

    async def keep(self, enterprise_id: str, digest: bytes, value: bytes, ttl_s: int) -> None:
        """Keep a value, and drop what was used longest ago where that takes too much room."""
        keys = [_USES, _SIZES, _key(enterprise_id, digest)]
        try:
            await self._keep(keys=keys, args=[value, 1000 * ttl_s, self._bytes_max, _AN_ENTRY_BYTES])
        except (RedisError, OSError) as down:
            _log.warning("an answer cannot be kept: %s", down)

    async def forget(self, enterprise_id: str) -> int:
        """Forget every answer of an app; how many. NotForgotten."""
        try:
            return await self._forgotten(enterprise_id)
        except (RedisError, OSError) as down:
            raise NotForgotten from down

    async def _forgotten(self, enterprise_id: str) -> int:
        stem = _PREFIX + enterprise_id.encode() + b"/"  # an id holds no sign that MATCH would read as a pattern
        forgotten, cursor = 0, 0
        while True:
            cursor, found = await self._redis.zscan(_USES, cursor, match=stem + b"*", count=_FORGET_AT_ONCE)
            keys = [key for key, _ in found]
            if keys:
                forgotten += int(await self._forget(keys=[_USES, _SIZES], args=keys))
            if not cursor:
                return forgotten

    async def bytes_used(self) -> int:
        """What all kept answers take, as this counts it."""
        return int(await self._redis.hget(_SIZES, "") or 0)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _key(enterprise_id: str, digest: bytes) -> bytes:
    return b"%b%b/%b" % (_PREFIX, enterprise_id.encode(), digest)

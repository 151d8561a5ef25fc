"""Invalidations between processes: the one file of this room that speaks to the Redis-protocol server.

A process that changes a key, an app, a creator or an app's prices publishes its id on one channel;
every process forgets what it cached of it. News of billing goes the same way, to whoever acts on it. Messages can be lost while
a subscriber is away, so each time that the subscription stands again everything cached is to be looked up afresh
(`on_connected`).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.core.limits import REDIS_TIMEOUT_S

CHANNEL: Final = "mzk:identity"
KEY: Final = "key"  # kinds of message: whose id it carries
APP: Final = "app"
CREATOR: Final = "creator"
PRICES: Final = "prices"  # an app's; nothing of identity
WEBHOOK: Final = "webhook"  # one is in the inbox; nothing of identity, nor are the next two
TOP_UP: Final = "top_up"  # a wallet's rule was set
SUBSCRIPTION: Final = "subscription"  # of a wallet, has changed
PRICE_LISTS: Final = "*"  # in the place of an app: the price lists

_SILENCE_S: Final = 5.0  # after this much silence the server is pinged; after twice as much it is gone
_BACKOFF_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
_log = logging.getLogger(__name__)


class InvalidationBus:
    """Publishes and receives (kind, id): kind is KEY, APP, CREATOR, PRICES, WEBHOOK, TOP_UP or SUBSCRIPTION."""

    def __init__(self, url: str) -> None:
        """`url` as redis-py takes it: redis://host:port/0 or unix:///path."""
        # No silent reconnects: one that the bus does not see is one after which nothing is forgotten.
        self._redis = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
        )

    async def publish(self, kind: str, subject: str) -> None:
        """Tell every process. A server that does not answer is logged, not raised: caches expire by themselves."""
        try:
            await self._redis.publish(CHANNEL, f"{kind} {subject}")
        except (RedisError, OSError) as down:
            _log.warning("identity: invalidation of %s %s was not published: %s", kind, subject, down)

    async def run(self, on_message: Callable[[str, str], None], on_connected: Callable[[], None]) -> None:
        """Receive until cancelled; reconnects with back-off."""
        failures = 0

        def connected() -> None:
            nonlocal failures
            failures = 0
            on_connected()

        while True:
            try:
                await self._receive(on_message, connected)
            except (RedisError, OSError) as down:
                pause_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
                failures += 1
                _log.warning("identity: invalidations are cut off (%s); next try in %.2f s", down, pause_s)
                await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _receive(self, on_message: Callable[[str, str], None], on_connected: Callable[[], None]) -> None:
        """One subscription's life; ends by raising RedisError or OSError."""
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(CHANNEL)
            pinged = False
            while True:
                message = await subscription.get_message(timeout=_SILENCE_S)
                if message is None:
                    if pinged:
                        raise ConnectionResetError("the server went silent")
                    await subscription.ping()
                    pinged = True
                    continue
                pinged = False
                if message["type"] == "subscribe":
                    on_connected()
                elif message["type"] == "message":
                    kind, _, subject = message["data"].decode(errors="replace").partition(" ")
                    on_message(kind, subject)

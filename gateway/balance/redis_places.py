"""`Places` on Redis: the minute windows of the keys' limits, and who is asking a deployment right now.

    mzk:{d/<name>}:used     hash    rpm and tpm, as in a limit's hash (see redis_balance)
    mzk:{d/<name>}:places   sorted set  request ids by the time at which their places are free again

Capacities are of deployments and wallets are of creators, so their keys do not share a slot, and this is a call of its
own: only requests to deployments with a capacity make it. A process that dies leaves its places behind; they are free when
nobody has renewed them for the life of a hold.
"""

import asyncio
import logging
from typing import Any, Final

from gateway.balance.places import Full, Place
from gateway.balance.redis_link import Part, RedisLink, RedisLinkLost, RedisReplyError
from gateway.balance.redis_scripts import Script, Scripts, load_scripts
from gateway.core.tasks import Tasks
from gateway.providers.model import Capacity

_log = logging.getLogger(__name__)
_SIGNS: Final = 4  # in the life of a place: three may be lost


class RedisPlaces:
    """The places of one process's requests, on a connection of their own that is made when the first one is taken."""

    def __init__(self, url: str, tasks: Tasks, ttl_s: int, *, scripts: Scripts | None = None) -> None:
        """A place lives for `ttl_s` from its taking and from each renewal."""
        used = scripts or load_scripts()
        self._take, self._leave, self._keep = used.take_place, used.leave_place, used.keep_places
        self._link = RedisLink(url, [self._take.text, self._leave.text, self._keep.text])
        self._tasks = tasks
        self._ttl_ms = 1000 * ttl_s
        self._taken: dict[tuple[str, str], Place] = {}

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def take(self, capacity: Capacity, request_id: str, tokens: int) -> Place | Full | None:
        """One call of take_place_v1; None when Redis does not answer, which is said in the log."""
        most = [-1 if each is None else each for each in (capacity.rpm, capacity.tpm, capacity.concurrency)]
        try:
            reply = await self._run(self._take, _keys(capacity.name), request_id, self._ttl_ms, *most, tokens)
        except (RedisLinkLost, RedisReplyError) as failed:
            _log.warning("%s is asked without regard to its limits: %s", capacity.name, failed)
            return None
        if not reply[0]:
            return Full(reply[1] / 1000)
        place = self._taken[capacity.name, request_id] = Place(capacity.name, request_id, reply[1], reply[2])
        return place

    def leave(self, place: Place, tokens: int, *, asked: bool = True) -> None:
        """One call of leave_place_v1, beside the caller; what it cannot tell Redis ends with the place's time."""
        if self._taken.pop((place.name, place.request_id), None) is not None:
            self._tasks.spawn(self._left(place, tokens, asked), "leave a place")

    async def renew(self) -> int:
        """A sign for every place; how many there are."""
        by_name: dict[str, list[str]] = {}
        for name, request_id in self._taken:
            by_name.setdefault(name, []).append(request_id)
        for name, ids in by_name.items():
            try:
                await self._run(self._keep, _keys(name)[1:], self._ttl_ms, *[each for each in ids if (name, each) in self._taken])
            except (RedisLinkLost, RedisReplyError) as failed:
                _log.warning("places at %s were not renewed: %s", name, failed)
        return len(self._taken)

    async def run(self) -> None:
        """Renew, until cancelled."""
        while True:
            await asyncio.sleep(self._ttl_ms / 1000 / _SIGNS)
            await self.renew()

    async def _left(self, place: Place, tokens: int, asked: bool) -> None:
        try:
            await self._run(
                self._leave, _keys(place.name), place.request_id, place.minute, 0 if asked else -1, tokens - place.tokens
            )
        except (RedisLinkLost, RedisReplyError) as failed:
            _log.warning("a place at %s is free only when its time has passed: %s", place.name, failed)

    async def _run(self, script: Script, keys: tuple[str, ...], *arguments: Part) -> Any:
        call = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        try:
            return await self._link.call(*call)
        except RedisReplyError as failed:
            if not failed.args[0].startswith("NOSCRIPT"):
                raise
            await self._link.load_scripts()
            return await self._link.call(*call)


def _keys(name: str) -> tuple[str, ...]:
    return f"mzk:{{d/{name}}}:used", f"mzk:{{d/{name}}}:places"

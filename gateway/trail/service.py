"""Reading the chains and proving them whole, over the databases that they lie in."""

from collections.abc import Iterable, Sequence

import msgspec

from gateway.core.errors import InvalidRequest
from gateway.db.engines import Databases
from gateway.trail import store
from gateway.trail.model import GENESIS, Head, Line, broken_link, end_is_head


class Verdict(msgspec.Struct, frozen=True):
    """One chain, looked at from its first line to its last. `broken` names the first link that does not hold."""

    enterprise_id: str | None  # None: the platform's
    lines: int
    head: Head
    broken: str | None
    seen: frozenset[str]  # those of the pinned hashes that are in this chain


class Shown(msgspec.Struct, frozen=True):
    """A line, and whether it is of the platform's chain or of its app's own."""

    chain: str  # `platform` or `app`
    line: Line


class Trail:
    """The chains. Stateless: any number of processes may have one. Raises SqlDown while a database cannot serve."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    async def verify(self, enterprise_id: str | None, pins: Iterable[str] = ()) -> Verdict:
        """Walk one chain; every line up to the first broken link is honest. In one snapshot, so writers may go on."""
        async with store.reading(await self._engine(enterprise_id)) as conn:
            return await verify(conn, enterprise_id, pins)

    async def head(self, enterprise_id: str | None) -> Head:
        """Where a chain stands: write it down elsewhere, and ask `verify` for it later. InvalidRequest when it has none."""
        async with store.reading(await self._engine(enterprise_id)) as conn:
            head = await store.head_of(conn, store.trail_of(enterprise_id))
        if head is None:
            raise InvalidRequest("the chain has lost its head; verify it", param="enterprise_id")
        return head

    async def page(self, enterprise_id: str | None, limit: int, cursor: str | None) -> tuple[list[Shown], str | None]:
        """Newest first: every line of the platform's chain, or one app's lines of both chains merged by their times.

        The cursor is the pair of line numbers down to which both chains were shown. InvalidRequest for another one.
        """
        platform_below, app_below = _places(cursor)
        async with store.reading(self._databases.platform) as conn:
            tables = store.trail_of(None)
            waiting = await store.newest(conn, tables, limit + 1, below=platform_below, enterprise_id=enterprise_id)
        own: list[Line] = []
        if enterprise_id is not None:
            async with store.reading(await self._databases.app(enterprise_id)) as conn:
                own = await store.newest(conn, store.trail_of(enterprise_id), limit + 1, below=app_below)
        shown: list[Shown] = []
        waiting.reverse()
        own.reverse()
        while (waiting or own) and len(shown) < limit:
            is_app = not waiting or (bool(own) and own[-1].at > waiting[-1].at)
            line = (own if is_app else waiting).pop()
            shown.append(Shown("app" if is_app else "platform", line))
            if is_app:
                app_below = line.seq
            else:
                platform_below = line.seq
        more = bool(waiting or own)
        return shown, f"{_place(platform_below)}.{_place(app_below)}" if more else None

    async def _engine(self, enterprise_id: str | None) -> store.Engine:
        return self._databases.platform if enterprise_id is None else await self._databases.app(enterprise_id)


async def verify(conn: store.Connection, enterprise_id: str | None, pins: Iterable[str] = ()) -> Verdict:
    """As `Trail.verify`, on the caller's snapshot."""
    tables = store.trail_of(enterprise_id)
    wanted = set(pins)
    seen = wanted & {GENESIS}  # the head of an empty chain, from which every chain began
    last, count = Head(), 0
    broken: str | None = None
    async for line in store.lines(conn, tables):
        broken = broken_link(last, line)
        if broken is None and enterprise_id is not None and line.enterprise_id != enterprise_id:
            broken = f"line {line.seq} is about the app {line.enterprise_id!r}: it is not of this chain"
        if broken is not None:
            break
        last, count = Head(line.seq, line.hash), count + 1
        if line.hash in wanted:
            seen.add(line.hash)
    if broken is None:
        broken = end_is_head(last, await store.head_of(conn, tables))
    return Verdict(enterprise_id, count, last, broken, frozenset(seen))


def not_found(pins: Sequence[str], verdicts: Iterable[Verdict]) -> list[str]:
    """Those of the pinned hashes that no chain has any more: what they stood for was cut off or written anew."""
    seen = frozenset().union(*[verdict.seen for verdict in verdicts])
    return [pin for pin in pins if pin not in seen]


def _place(below: int | None) -> str:
    return "" if below is None else str(below)


def _places(cursor: str | None) -> tuple[int | None, int | None]:
    if cursor is None:
        return None, None
    platform, dot, app = cursor.partition(".")
    if dot and all(part == "" or (part.isascii() and part.isdigit() and len(part) < 19) for part in (platform, app)):
        return int(platform) if platform else None, int(app) if app else None
    raise InvalidRequest("unknown cursor", param="cursor")

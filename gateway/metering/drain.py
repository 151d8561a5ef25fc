"""The drain: usage events out of the hot store's streams, exactly once into the books, then acknowledged.

    claim -> decode -> each app's book (usage rows, end users' charges)
                    -> the platform's book (creators' charges, provider cost, roll-up) -> acknowledge

Delivery is at least once and the two commits are apart, so each book knows by request id what it has:
after a crash anywhere the event comes again and what is there already is skipped. An event that cannot
be posted is set aside (`Ledger.set_aside`) and acknowledged, so that it stops nobody. While a database
does not answer, its events are neither posted nor acknowledged: a batch of them is kept at hand for the
next try, the rest come again from the source. One app's database being down does not hold up the others.

While one batch goes into the platform's book the next one is on its way into the apps': they are different databases,
and most of either's time is waiting for a disk. Each book sees its batches one after the other all the same.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from gateway.core.ids import app_wallet, is_outside_id, platform_wallet
from gateway.core.limits import DRAIN_BATCH
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.core.words import CostPolicy, Level
from gateway.db.faults import SqlDown, SqlRefused
from gateway.ledger.model import PLATFORM_ASSET, AppFacts, DeadEvent, UsagePosting, UsageRow, WalletKey
from gateway.ledger.service import Ledger
from gateway.metering.event import EventFront, EventPayer, UsageEvent, decode_event

_log = logging.getLogger(__name__)

_BLOCK_MS: Final = 1000
_APPS_AT_ONCE: Final = 4  # app databases written side by side: their waits for the disk overlap
_RETRY_S: Final = 2.0  # how long an app's database that did not answer is left alone
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0


class Claimed(Protocol):
    """One event in hand."""

    @property
    def shard(self) -> int:
        """Which stream."""
        ...

    @property
    def entry_id(self) -> bytes:
        """Its place in the stream."""
        ...

    @property
    def data(self) -> bytes:
        """A UsageEvent in JSON."""
        ...


C = TypeVar("C", bound=Claimed)


class EventSource(Protocol[C]):
    """Where usage events wait. Delivery is at least once: what is not acknowledged comes again after a while."""

    async def claim(self, consumer: str, count: int, block_ms: int) -> list[C]:
        """About `count` events for `consumer`; waits up to `block_ms` for a first one, else empty."""
        ...

    async def ack(self, claimed: Sequence[C]) -> None:
        """These events are in the books."""
        ...


class DrainCounts(msgspec.Struct, frozen=True):
    """Since the start. `repeated` were in the books already; `put_off` met a database that was down."""

    claimed: int = 0
    posted: int = 0
    repeated: int = 0
    dead: int = 0
    put_off: int = 0


class Poison(Exception):
    """An event that cannot be posted: `reason` is one word for operators and names nobody, `detail` may."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


_Post = Callable[[Sequence[UsagePosting]], Awaitable[int]]


class _Item(Generic[C]):
    """An event on its way."""

    __slots__ = ("claimed", "posting")

    def __init__(self, claimed: C, posting: UsagePosting) -> None:
        self.claimed = claimed
        self.posting = posting


class _InApps(Generic[C]):
    """A batch half way: in its apps' books, not in the platform's yet; `dead` are those that never can be."""

    __slots__ = ("dead", "posted")

    def __init__(self, posted: list[_Item[C]], dead: list[tuple[C, DeadEvent]]) -> None:
        self.posted = posted
        self.dead = dead

    def __len__(self) -> int:
        return len(self.posted) + len(self.dead)


class Drain(Generic[C]):
    """Moves events from the source into the books. Any number of processes may run one, each with its own `consumer`."""

    def __init__(
        self,
        source: EventSource[C],
        ledger: Ledger,
        consumer: str,
        *,
        batch: int = DRAIN_BATCH,
        monotonic: Callable[[], float] = time.monotonic,
        spent: Callable[[Collection[WalletKey]], None] | None = None,
    ) -> None:
        """`spent` is told the wallets of which something was posted; it must not wait for anything."""
        self._source = source
        self._ledger = ledger
        self._consumer = consumer
        self._batch = batch
        self._monotonic = monotonic
        self._spent = spent
        self._kept: list[C] = []
        self._down_until: dict[str, float] = {}
        self._counts = dict.fromkeys(DrainCounts.__struct_fields__, 0)

    @property
    def counts(self) -> DrainCounts:
        """For metrics."""
        return DrainCounts(**self._counts)

    async def run(self, stop: asyncio.Event) -> None:
        """Drain until `stop` is set; whatever fails is waited out, since nothing is acknowledged before it is in the books."""
        wait_s = _BACKOFF_FIRST_S
        half_way: _InApps[C] | None = None
        while half_way or not stop.is_set():
            ahead, behind = await asyncio.gather(
                self._into_apps_next(stop), self._into_platform(half_way or _InApps([], [])), return_exceptions=True
            )
            half_way = None if isinstance(ahead, BaseException) else ahead
            failed = behind if isinstance(behind, BaseException) else ahead
            if not isinstance(failed, BaseException):
                wait_s = _BACKOFF_FIRST_S
            elif not isinstance(failed, Exception):
                raise failed
            else:  # edge of the worker: the drain outlives any failure of a store
                _log.warning("drain waits %.1f s: %s: %s", wait_s, type(failed).__name__, failed)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait_s)
                wait_s = min(wait_s * 2, _BACKOFF_MAX_S)

    async def step(self, block_ms: int = 0) -> int:
        """What was kept and one batch more: claim, post, acknowledge. Returns how many events were acknowledged.

        SqlDown when the platform's database does not answer, and whatever the source raises; nothing is lost then.
        """
        done = await self._into_platform(await self._into_apps(self._take_kept()))
        return done + await self._into_platform(await self._into_apps(await self._claim(0 if done else block_ms)))

    async def _into_apps_next(self, stop: asyncio.Event) -> _InApps[C]:
        """What was kept, or a batch that is claimed now; nothing once `stop` is set."""
        half_way = await self._into_apps(self._take_kept())
        if half_way or stop.is_set():
            return half_way
        return await self._into_apps(await self._claim(_BLOCK_MS))

    def _take_kept(self) -> list[C]:
        kept, self._kept = self._kept, []
        return kept

    async def _claim(self, block_ms: int) -> list[C]:
        claimed = await self._source.claim(self._consumer, self._batch, block_ms)
        self._counts["claimed"] += len(claimed)
        return claimed

    async def _into_apps(self, claimed: list[C]) -> _InApps[C]:
        """Events into their apps' books; those whose database is down are put off."""
        if not claimed:
            return _InApps([], [])
        try:
            by_app, dead = await self._sorted(claimed)
        except SqlDown:
            self._put_off(claimed)
            raise
        free = asyncio.Semaphore(_APPS_AT_ONCE)
        outcomes = await asyncio.gather(*[self._post_app(name, items, free) for name, items in by_app.items()])
        posted: list[_Item[C]] = []
        down: list[C] = []
        for items, killed, waits in outcomes:
            posted += items
            dead += killed
            down += waits
        self._put_off(down)
        return _InApps(posted, dead)

    async def _into_platform(self, half_way: _InApps[C]) -> int:
        """Those events into the platform's book, then acknowledge them; returns how many. SqlDown: they are put off."""
        try:
            return await self._finished(half_way.posted, half_way.dead)
        except SqlDown:
            self._put_off([item.claimed for item in half_way.posted] + [event for event, _ in half_way.dead])
            raise

    async def _finished(self, posted: list[_Item[C]], dead: list[tuple[C, DeadEvent]]) -> int:
        in_books, killed = await self._bisected(posted, self._ledger.post_platform_usage)
        self._counts["posted"] += in_books
        dead = dead + killed
        self._counts["repeated"] += len(posted) - len(killed) - in_books
        for event, letter in dead:
            await self._ledger.set_aside(letter)
            self._counts["dead"] += 1
            _log.error("usage event %s of shard %d was set aside: %s", letter.entry_id, event.shard, letter.reason)
        killed_ids = {id(event) for event, _ in killed}
        finished = [item.claimed for item in posted if id(item.claimed) not in killed_ids] + [event for event, _ in dead]
        if finished:
            await self._source.ack(finished)
        if self._spent is not None:
            self._spent(_payers(posted))
        return len(finished)

    def _put_off(self, claimed: Sequence[C]) -> None:
        """Keep a batch at hand; what is beyond comes again from the source."""
        self._counts["put_off"] += len(claimed)
        self._kept += claimed[: max(0, self._batch - len(self._kept))]

    async def _sorted(self, claimed: Sequence[C]) -> tuple[dict[str, list[_Item[C]]], list[tuple[C, DeadEvent]]]:
        """The events by app, and those that cannot be posted."""
        read = [(event, *_read(event.data)) for event in claimed]
        names = sorted({name for _, _, name in read if name is not None})
        facts = await self._ledger.apps(names)
        by_app: dict[str, list[_Item[C]]] = {}
        dead: list[tuple[C, DeadEvent]] = []
        for event, decoded, name in read:
            try:
                if isinstance(decoded, Poison):
                    raise decoded
                posting = posting_of(decoded, facts)
            except Poison as poison:
                dead.append((event, _dead(event, poison, name if name in facts else None)))
            else:
                by_app.setdefault(posting.enterprise_id, []).append(_Item(event, posting))
        return by_app, dead

    async def _post_app(
        self, enterprise_id: str, items: list[_Item[C]], free: asyncio.Semaphore
    ) -> tuple[list[_Item[C]], list[tuple[C, DeadEvent]], list[C]]:
        """One app's events into its book: (those that are in it, those that never can be, those to try again)."""
        if self._monotonic() < self._down_until.get(enterprise_id, 0.0):
            return [], [], [item.claimed for item in items]

        async def post(postings: Sequence[UsagePosting]) -> int:
            return await self._ledger.post_app_usage(enterprise_id, postings)

        try:
            async with free:
                _, dead = await self._bisected(items, post)
        except SqlDown as down:
            _log.warning("the database of app %s is down: %s", enterprise_id, down)
            self._down_until[enterprise_id] = self._monotonic() + _RETRY_S
            return [], [], [item.claimed for item in items]
        self._down_until.pop(enterprise_id, None)
        killed = {id(event) for event, _ in dead}
        return [item for item in items if id(item.claimed) not in killed], dead, []

    async def _bisected(self, items: Sequence[_Item[C]], post: _Post) -> tuple[int, list[tuple[C, DeadEvent]]]:
        """Post all at once; when the database refuses, halve until the refused ones stand alone. (new ones, refused ones)."""
        if not items:
            return 0, []
        try:
            return await post([item.posting for item in items]), []
        except SqlRefused as refused:
            if len(items) == 1:
                poison = Poison("refused_by_database", str(refused))
                return 0, [(items[0].claimed, _dead(items[0].claimed, poison, items[0].posting.enterprise_id))]
        half = len(items) // 2
        first, dead = await self._bisected(items[:half], post)
        second, more = await self._bisected(items[half:], post)
        return first + second, dead + more


def _payers(posted: Sequence[_Item[C]]) -> set[WalletKey]:
    payers = set()
    for item in posted:
        posting, row = item.posting, item.posting.row
        if posting.end_user_micro:
            payers.add(WalletKey(row.platform_user_id, posting.enterprise_id))
        if row.creator_micro:
            payers.add(WalletKey(row.user_id))
    return payers


def _read(data: bytes) -> tuple[UsageEvent | Poison, str | None]:
    """An event and the app it names."""
    # Postgres has no NUL in text, and a stray one in a tag is no reason to lose a request's books.
    data = data.replace(b"\\u0000", b"\\ufffd")
    try:
        event = decode_event(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as broken:
        return Poison("undecodable", str(broken)), _app_in(data)
    name = event.front.enterprise_id
    return event, name if is_outside_id(name) else None


class _Label(msgspec.Struct):
    """All that is needed to know whose a broken event is."""

    enterprise_id: str


def _app_in(data: bytes) -> str | None:
    try:
        name = msgspec.json.decode(data, type=_Label).enterprise_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return name if is_outside_id(name) else None


def _dead(event: Claimed, poison: Poison, enterprise_id: str | None) -> DeadEvent:
    entry_id = event.entry_id.decode("ascii", "replace")
    return DeadEvent(event.shard, entry_id, event.data, poison.reason, poison.detail, enterprise_id)


def posting_of(event: UsageEvent, facts: Mapping[str, AppFacts]) -> UsagePosting:
    """What an event means for the books; Poison when it contradicts itself or the app.

    A charge must be on the wallet that the event's own ids name, in that wallet's asset: whatever it says else, no
    event moves money of another creator or app.
    """
    front, rest = event.front, event.rest
    app = facts.get(front.enterprise_id)
    if app is None:
        raise Poison("unknown_app", front.enterprise_id)
    if front.level not in (Level.PLATFORM, Level.APP_USAGE):
        raise Poison("unknown_level", front.level)
    if not is_outside_id(front.user_id) or not is_outside_id(front.request_id):
        raise Poison("malformed_id", f"{front.user_id} {front.request_id}")
    if not len(rest.amounts_micro) == len(rest.held_micro) == len(front.payers):
        found = f"{len(rest.amounts_micro)} amounts, {len(rest.held_micro)} held, {len(front.payers)} payers"
        raise Poison("amounts_do_not_fit", found)
    creator = end_user = creator_held = end_user_held = 0
    for payer, amount, held in zip(front.payers, rest.amounts_micro, rest.held_micro, strict=True):
        _check_payer(payer, front, app)
        if amount < 0:
            raise Poison("amount_out_of_range", str(amount))
        if payer.role == "creator":
            creator += amount
            creator_held += held
        else:
            end_user += amount
            end_user_held += held
    for amount in (rest.provider_cost_micro, creator, end_user, creator_held, end_user_held):
        if not 0 <= amount <= AMOUNT_MICRO_MAX:
            raise Poison("amount_out_of_range", str(amount))
    by_platform = front.level == Level.PLATFORM
    if by_platform and end_user:
        raise Poison("wrong_wallet", "an end user pays nothing at level platform")
    usage = rest.usage
    model, provider, deployment = rest.served_by or (front.model, front.provider, front.deployment)
    row = UsageRow(
        request_id=front.request_id,
        at=rest.at_ms,
        level=front.level,
        user_id=front.user_id,
        platform_user_id=front.platform_user_id,
        key_id=front.key_id,
        workflow_type=front.workflow_type,
        session_id=front.session_id,
        agent_name=front.agent_name,
        tags=front.tags,
        endpoint=front.endpoint,
        model=model,
        provider=provider,
        deployment=deployment,
        status=rest.status,
        usage_source=rest.usage_source,
        units=usage,
        input_tokens=usage.input_total,
        output_tokens=usage.output_total,
        asset=PLATFORM_ASSET if by_platform else app.asset,
        amount_micro=creator if by_platform else end_user,
        creator_micro=creator,
        provider_cost_micro=rest.provider_cost_micro,
        streamed=front.streamed,
        latency_ms=rest.latency_ms,
        ttft_ms=rest.ttft_ms,
        attempts=rest.attempts,
        http_status=rest.http_status,
        flags=rest.flags,
        held_micro=creator_held if by_platform else end_user_held,
        creator_held_micro=creator_held,
    )
    return UsagePosting(front.enterprise_id, app.asset, front.cost_policy != CostPolicy.OWN_KEYS, row)


def _check_payer(payer: EventPayer, front: EventFront, app: AppFacts) -> None:
    if payer.role == "creator":
        wallet, asset = platform_wallet(front.user_id), PLATFORM_ASSET
    elif payer.role == "end_user":
        wallet, asset = app_wallet(front.enterprise_id, front.platform_user_id), app.asset
    else:
        raise Poison("unknown_role", payer.role)
    if payer.wallet != wallet:
        raise Poison("wrong_wallet", f"{payer.role} charge on {payer.wallet}, not {wallet}")
    if payer.asset != asset:
        raise Poison("wrong_asset", f"{payer.role} charge in {payer.asset}, the wallet holds {asset}")

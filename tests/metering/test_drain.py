import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.core.ids import app_wallet, platform_wallet
from gateway.core.units import Usage
from gateway.db.engines import Databases
from gateway.db.faults import SqlDown
from gateway.db.tables import dead_event_bytes, dead_events
from gateway.ledger import queries
from gateway.ledger.audit import audit
from gateway.ledger.model import UsagePosting, WalletKey
from gateway.ledger.service import Ledger
from gateway.metering.drain import Drain, DrainCounts
from gateway.metering.event import EventFront, EventPayer, EventRest, UsageEvent
from gateway.metering.event import encode_event as encode_part
from tests.ledger.conftest import APPS, START_MS, add_owners
from tests.ledger.conftest import clock as clock
from tests.ledger.conftest import databases as databases
from tests.ledger.conftest import ledger as ledger
from tests.ledger.conftest import prepared as prepared
from tests.ledger.conftest import urls as urls
from tests.ledger.values import grant_request


@dataclass(frozen=True)
class Entry:
    shard: int
    entry_id: bytes
    data: bytes


class Source:
    """A stream as the hot store has it: what was claimed and not acknowledged comes again when `redeliver` is called."""

    def __init__(self, *events: UsageEvent | bytes) -> None:
        self.waiting: list[Entry] = []
        self.claimed: list[Entry] = []
        self.acked: list[Entry] = []
        self.number = 0
        self.add(*events)

    def add(self, *events: UsageEvent | bytes) -> None:
        for event in events:
            self.number += 1
            data = event if isinstance(event, bytes) else encode_event(event)
            self.waiting.append(Entry(7, f"{self.number}-0".encode(), data))

    async def claim(self, consumer: str, count: int, block_ms: int) -> list[Entry]:
        got, self.waiting = self.waiting[:count], self.waiting[count:]
        self.claimed += got
        await asyncio.sleep(0)
        return got

    async def ack(self, claimed: Sequence[Entry]) -> None:
        for entry in claimed:
            if entry in self.claimed:
                self.claimed.remove(entry)
            self.acked.append(entry)

    def redeliver(self) -> None:
        self.waiting, self.claimed = self.claimed + self.waiting, []


def encode_event(event: UsageEvent) -> bytes:
    return encode_part(event.front)[:-1] + b"," + encode_part(event.rest)[1:]


def event(
    request_id: str, app: str = "shop", user: str = "ann", amount: int = 10, creator: int = 0, **changed: Any
) -> UsageEvent:
    user_id, asset = APPS[app]
    payers, amounts = [EventPayer(app_wallet(app, user), "end_user", asset)], [amount]
    if creator:
        payers.append(EventPayer(platform_wallet(user_id), "creator", "USD"))
        amounts.append(creator)
    given: dict[str, Any] = {
        "request_id": request_id,
        "at_ms": START_MS,
        "level": "app_usage",
        "user_id": user_id,
        "enterprise_id": app,
        "key_id": "key_1",
        "endpoint": "chat",
        "model": "small",
        "status": "served",
        "usage_source": "upstream",
        "platform_user_id": user,
        "usage": Usage(input=5, cached_input=1, output=2),
        "payers": tuple(payers),
        "amounts_micro": tuple(amounts),
        "provider_cost_micro": 3,
        "cost_policy": "platform_pays",
    }
    given |= changed
    given.setdefault("held_micro", given["amounts_micro"])
    front = {name: value for name, value in given.items() if name in EventFront.__struct_fields__}
    return UsageEvent(EventFront(**front), EventRest(**{name: value for name, value in given.items() if name not in front}))


def by_creator(request_id: str, amount: int, app: str = "shop") -> UsageEvent:
    payer = EventPayer(platform_wallet(APPS[app][0]), "creator", "USD")
    return event(request_id, app, amount=amount, level="platform", payers=(payer,), platform_user_id="")


async def balances(databases: Databases, app: str | None) -> dict[str, int]:
    page = await queries.accounts(databases, app)
    return {f"{account.owner}/{account.kind}": account.balance_micro for account in page.rows}


async def assert_in_order(databases: Databases) -> None:
    report = await audit(databases, list(APPS), None)
    assert report.ok, [check.violations for check in report.checks]


class Dies(Exception):
    """The process is killed here."""


async def test_each_level_and_policy_lands_on_its_own_books(ledger: Ledger, databases: Databases) -> None:
    await ledger.grant(grant_request("g1", 100))
    await ledger.grant(grant_request("g2", 100, WalletKey("carol")))
    events = [
        event("req_1", amount=10),
        event("req_2", amount=20, creator=7),
        by_creator("req_3", 5),
        event("req_4", amount=1, cost_policy="own_keys"),
        event("req_5", "chat", amount=4, tags=("a",), workflow_type="w"),
        event("req_6", payers=(), amounts_micro=()),  # measured only
    ]
    drain = Drain(Source(*events), ledger, "one")
    assert await drain.step() == 6
    assert await balances(databases, "shop") == {"/expense.promo": -100, "/revenue.usage": 31, "ann/user.available": 69}
    assert await balances(databases, "chat") == {"/revenue.usage": 4, "ann/receivable.clawback": -4}
    assert await balances(databases, None) == {
        "/expense.promo": -100,
        "/expense.llm_cost": -15,
        "/provider_payable": 15,
        "/revenue.usage": 12,
        "carol/user.available": 88,
    }
    rows = {row.request_id: row for row in (await queries.usage_rows(databases, "shop")).rows}
    assert [(rows[f"req_{n}"].amount_micro, rows[f"req_{n}"].creator_micro) for n in (1, 2, 3, 4, 6)] == [
        (10, 0),
        (20, 7),
        (5, 5),
        (1, 0),
        (0, 0),
    ]
    assert (rows["req_1"].input_tokens, rows["req_1"].output_tokens, rows["req_1"].units) == (
        6,
        2,
        Usage(input=5, cached_input=1, output=2),
    )
    chat = await queries.usage_by_id(databases, "chat", "req_5")
    assert chat is not None
    assert (chat.asset, chat.tags, chat.workflow_type) == ("TOK", ("a",), "w")
    assert drain.counts == DrainCounts(claimed=6, posted=6)
    await assert_in_order(databases)


async def test_an_event_delivered_again_changes_nothing_and_is_acknowledged(ledger: Ledger, databases: Databases) -> None:
    one = event("req_1", creator=4)
    source = Source(one, one)
    drain = Drain(source, ledger, "one")
    assert await drain.step() == 2
    before = (await balances(databases, "shop"), await balances(databases, None))
    source.add(one, event("req_2", amount=0))
    assert await drain.step() == 2
    assert await balances(databases, "shop") == before[0]
    assert (drain.counts.posted, drain.counts.repeated) == (2, 2)
    await assert_in_order(databases)


@pytest.mark.parametrize("where", ["before the app", "between app and platform", "between platform and ack"])
async def test_a_process_that_dies_anywhere_leaves_nothing_lost_and_nothing_doubled(
    ledger: Ledger, databases: Databases, where: str
) -> None:
    """The second drain is another process: it knows only what is in the books and in the stream."""
    await ledger.grant(grant_request("g1", 25))
    source = Source(*[event(f"req_{n}", app, creator=3) for n, app in enumerate(["shop", "chat", "shop", "Chat"])])

    class DyingLedger(Ledger):
        async def post_app_usage(self, enterprise_id: str, postings: Sequence[UsagePosting]) -> int:
            if where == "before the app" and enterprise_id == "chat":
                raise Dies
            return await super().post_app_usage(enterprise_id, postings)

        async def post_platform_usage(self, postings: Sequence[UsagePosting]) -> int:
            if where == "between app and platform":
                raise Dies
            await super().post_platform_usage(postings)
            raise Dies

    with pytest.raises(Dies):
        await Drain(source, DyingLedger(databases), "one").step()
    assert source.acked == []
    source.redeliver()
    second = Drain(source, ledger, "two")
    assert await second.step() == 4
    assert len(source.acked) == 4
    assert await balances(databases, "shop") == {"/expense.promo": -25, "/revenue.usage": 20, "ann/user.available": 5}
    platform = await balances(databases, None)
    assert platform["/revenue.usage"] == 12
    assert platform["/provider_payable"] == 12
    await assert_in_order(databases)


async def test_two_drains_with_the_same_events_at_once_post_them_once(ledger: Ledger, databases: Databases) -> None:
    events = [event(f"req_{n}", user=f"u{n % 3}", creator=1) for n in range(60)]
    drains = [Drain(Source(*events), Ledger(databases), name, batch=7) for name in "abc"]

    async def empty(drain: Drain[Entry]) -> None:
        while await drain.step():
            pass

    await asyncio.gather(*[empty(drain) for drain in drains])
    assert sum(drain.counts.posted for drain in drains) == 60
    assert sum(drain.counts.repeated for drain in drains) == 120
    assert (await balances(databases, "shop"))["/revenue.usage"] == 600
    await assert_in_order(databases)


_POISON: list[tuple[UsageEvent | bytes, str, str | None]] = [
    (b"not json", "undecodable", None),
    (b'{"enterprise_id": "shop", "request_id": 5}', "undecodable", "shop"),
    (b'{"enterprise_id": "nowhere"}', "undecodable", None),
    (event("req_p", enterprise_id="nowhere"), "unknown_app", None),
    (event("req_p", level="gold"), "unknown_level", "shop"),
    (event("req p"), "malformed_id", "shop"),
    (event("req_p", amount=-1), "amount_out_of_range", "shop"),
    (event("req_p", amount=2**53), "amount_out_of_range", "shop"),
    (event("req_p", provider_cost_micro=-1), "amount_out_of_range", "shop"),
    (event("req_p", platform_user_id="bob"), "wrong_wallet", "shop"),
    (event("req_p", user_id="dave", creator=5), "wrong_wallet", "shop"),
    (event("req_p", level="platform"), "wrong_wallet", "shop"),
    (event("req_p", payers=(EventPayer("a/shop/ann", "end_user", "TOK"),)), "wrong_asset", "shop"),
    (event("req_p", payers=(EventPayer("a/shop/ann", "friend", "USD"),)), "unknown_role", "shop"),
    (event("req_p", payers=()), "amounts_do_not_fit", "shop"),
    (event("req_p", amounts_micro=(1, 2)), "amounts_do_not_fit", "shop"),
    (event("req_p", latency_ms=2**63), "refused_by_database", "shop"),
]


async def test_what_cannot_be_posted_is_set_aside_where_an_operator_finds_it_and_stops_nobody(
    ledger: Ledger, databases: Databases
) -> None:
    good = [event(f"req_{n}") for n in range(4)]
    source = Source(*good[:2], *[poison for poison, _, _ in _POISON], *good[2:])
    drain = Drain(source, ledger, "one")
    assert await drain.step() == len(_POISON) + 4
    assert drain.counts == DrainCounts(claimed=len(_POISON) + 4, posted=4, dead=len(_POISON))
    assert source.claimed == []
    assert (await balances(databases, "shop"))["/revenue.usage"] == 40
    async with databases.platform.connect() as conn:
        found = (await conn.execute(sa.select(dead_events))).mappings().all()
    by_place = {row["entry_id"]: row for row in found}
    kept = {}
    for name in ("shop", None):
        engine = await databases.unattributed() if name is None else await databases.app(name)
        async with engine.connect() as conn:
            kept.update({row.entry_id: (name, row.data, row.reason) for row in await conn.execute(sa.select(dead_event_bytes))})
    for number, (poison, reason, app) in enumerate(_POISON, 3):
        row = by_place[f"{number}-0"]
        assert (row["reason"], row["enterprise_id"], row["shard"]) == (reason, app or "", 7)
        assert kept[f"{number}-0"][:2] == (app, poison if isinstance(poison, bytes) else encode_event(poison))
        assert kept[f"{number}-0"][2].startswith(reason)
        assert not {"ann", "bob"} & {str(value) for value in row.values()}
    source.add(b"not json")  # set aside before the acknowledgement was lost
    source.waiting = [source.acked[2], *source.waiting[1:]]
    await drain.step()
    async with databases.platform.connect() as conn:
        assert len((await conn.execute(sa.select(dead_events))).all()) == len(_POISON)
    await assert_in_order(databases)


async def test_a_nul_in_a_tag_costs_the_tag_a_character_and_not_the_event(ledger: Ledger, databases: Databases) -> None:
    assert await Drain(Source(event("req_1", workflow_type="a\0b", tags=("\0",))), ledger, "one").step() == 1
    row = await queries.usage_by_id(databases, "shop", "req_1")
    assert row is not None
    assert (row.workflow_type, row.tags, row.amount_micro) == ("a\ufffdb", ("\ufffd",), 10)


class Switch(Ledger):
    """A ledger whose databases can be switched off: by app, or the platform's (None)."""

    def __init__(self, databases: Databases) -> None:
        super().__init__(databases)
        self.off: set[str | None] = set()

    async def post_app_usage(self, enterprise_id: str, postings: Sequence[UsagePosting]) -> int:
        if enterprise_id in self.off:
            raise SqlDown("off")
        return await super().post_app_usage(enterprise_id, postings)

    async def post_platform_usage(self, postings: Sequence[UsagePosting]) -> int:
        if None in self.off:
            raise SqlDown("off")
        return await super().post_platform_usage(postings)


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_while_sql_is_down_nothing_is_acknowledged_and_then_nothing_is_lost(ledger: Ledger, databases: Databases) -> None:
    switch = Switch(databases)
    source = Source(*[event(f"req_{n}") for n in range(10)])
    drain = Drain(source, switch, "one", batch=4)
    switch.off = {None}
    for _ in range(3):
        with pytest.raises(SqlDown):
            await drain.step()
    assert source.acked == []
    assert len(source.claimed) == 4  # it does not go on taking what it cannot post
    switch.off = set()
    done = 0
    while more := await drain.step():
        done += more
    assert done == 10
    assert source.claimed == []
    await assert_in_order(databases)


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_one_app_whose_database_is_down_does_not_hold_up_the_others(ledger: Ledger, databases: Databases) -> None:
    now = 0.0
    switch = Switch(databases)
    source = Source(*[event(f"req_{n}", ("shop", "chat")[n % 2]) for n in range(20)])
    drain = Drain(source, switch, "one", batch=4, monotonic=lambda: now)
    switch.off = {"shop"}
    for _ in range(6):
        await drain.step()
    assert len(source.acked) == 10
    assert (await balances(databases, "chat"))["/revenue.usage"] == 100
    assert await balances(databases, "shop") == {}
    switch.off = set()
    now = 60.0
    assert await drain.step() == 4  # what it kept at hand
    source.redeliver()  # the rest comes from the stream again
    while await drain.step():
        pass
    assert (await balances(databases, "shop"))["/revenue.usage"] == 100
    assert source.claimed == []
    await assert_in_order(databases)


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_it_runs_until_stopped_and_waits_out_any_failure_of_its_stores(
    ledger: Ledger, databases: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    class Flaky(Source):
        failures = 2

        async def claim(self, consumer: str, count: int, block_ms: int) -> list[Entry]:
            if self.failures:
                self.failures -= 1
                raise ConnectionError("gone")
            await asyncio.sleep(0.005)
            return await super().claim(consumer, count, block_ms)

    source = Flaky(*[event(f"req_{n}") for n in range(5)])
    drain, stop = Drain(source, ledger, "one", batch=2), asyncio.Event()

    async def watch() -> None:
        while len(source.acked) < 5:
            await asyncio.sleep(0.005)
        stop.set()

    await asyncio.wait_for(asyncio.gather(drain.run(stop), watch()), 60)
    assert drain.counts.posted == 5
    assert sum("gone" in record.message for record in caplog.records) == 2


class Busy(Ledger):
    """Notes who is at which book at once, and is as slow as a disk."""

    def __init__(self, databases: Databases) -> None:
        super().__init__(databases)
        self.inside: list[str] = []
        self.together: set[tuple[str, ...]] = set()
        self.platform_is_down = False

    async def post_app_usage(self, enterprise_id: str, postings: Sequence[UsagePosting]) -> int:
        async with self._at(enterprise_id):
            return await super().post_app_usage(enterprise_id, postings)

    async def post_platform_usage(self, postings: Sequence[UsagePosting]) -> int:
        if not postings:
            return 0
        async with self._at("platform"):
            if self.platform_is_down:
                raise SqlDown("off")
            return await super().post_platform_usage(postings)

    @contextlib.asynccontextmanager
    async def _at(self, book: str) -> AsyncIterator[None]:
        self.inside.append(book)
        self.together.add(tuple(sorted(self.inside)))
        await asyncio.sleep(0.02)
        try:
            yield
        finally:
            self.inside.remove(book)


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_one_batch_goes_into_the_platforms_book_while_the_next_goes_into_its_apps(
    ledger: Ledger, databases: Databases
) -> None:
    busy, stop = Busy(databases), asyncio.Event()
    source = Source(*[event(f"req_{n}") for n in range(40)])
    drain = Drain(source, busy, "one", batch=4)

    async def watch() -> None:
        while len(source.acked) < 40:
            await asyncio.sleep(0.002)
        stop.set()

    await asyncio.wait_for(asyncio.gather(drain.run(stop), watch()), 60)
    assert busy.together == {("shop",), ("platform",), ("platform", "shop")}  # no book has two at once
    assert drain.counts == DrainCounts(claimed=40, posted=40)
    await assert_in_order(databases)


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_a_running_drain_waits_for_the_platforms_book_with_two_batches_in_hand(
    ledger: Ledger, databases: Databases
) -> None:
    busy, stop = Busy(databases), asyncio.Event()
    busy.platform_is_down = True
    source = Source(*[event(f"req_{n}") for n in range(40)])
    drain = Drain(source, busy, "one", batch=4)

    async def watch() -> None:
        while drain.counts.put_off < 12:
            await asyncio.sleep(0.002)
        assert source.acked == []
        assert len(source.claimed) <= 8
        busy.platform_is_down = False
        while len(source.acked) < 40:
            await asyncio.sleep(0.002)
        stop.set()

    await asyncio.wait_for(asyncio.gather(drain.run(stop), watch()), 60)
    assert drain.counts.posted == 40
    await assert_in_order(databases)


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_a_drain_that_is_stopped_finishes_what_is_half_way(ledger: Ledger, databases: Databases) -> None:
    busy, stop = Busy(databases), asyncio.Event()
    source = Source(*[event(f"req_{n}") for n in range(40)])
    drain = Drain(source, busy, "one", batch=4)

    async def watch() -> None:
        while "shop" not in busy.inside:
            await asyncio.sleep(0.002)
        stop.set()

    await asyncio.wait_for(asyncio.gather(drain.run(stop), watch()), 60)
    assert source.claimed == []
    assert 0 < drain.counts.posted == len(source.acked) < 40


async def test_an_app_that_cannot_have_a_database_of_its_own_stops_nobody(tmp_path: Path) -> None:
    # With this template the app called "shop" would be given the platform's own file.
    databases = Databases(f"sqlite:///{tmp_path}/shop.db", f"sqlite:///{tmp_path}/{{enterprise_id}}.db")
    await databases.migrate()
    await add_owners(databases)
    drain = Drain(Source(event("req_1"), event("req_2", "chat")), Ledger(databases), "one")
    assert await drain.step() == 2
    assert (drain.counts.posted, drain.counts.dead) == (1, 1)
    async with (await databases.unattributed()).connect() as conn:
        assert (await conn.execute(sa.select(dead_event_bytes.c.data))).scalars().all() == [encode_event(event("req_1"))]
    await databases.close()

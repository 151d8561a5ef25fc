"""The audit of a large book takes the memory of a small one. Ratios of bytes, no clock."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.db import bulk
from gateway.db.engines import Databases
from gateway.ledger.audit import AuditReport, audit, persisting
from gateway.ledger.model import UsagePosting, WalletKey
from gateway.ledger.service import Ledger
from gateway.trail import store
from gateway.trail.model import Head, Line, line_after
from tests.db.conftest import postgres_urls, sqlite_urls
from tests.ledger.conftest import APPS, Clock, add_owners
from tests.ledger.test_audit import State
from tests.ledger.values import grant_request, posting
from tests.trail.chains import act, disarm

REQUESTS = {"sqlite": 16_000, "postgres": 6_000}  # four entries each: 64,000 and 24,000
GRANTED = 100_000
BATCH = 5_000
WALLETS = 50


class Hot:
    """As many wallets as asked for, made as they are read: the hot store's memory is not the audit's."""

    def __init__(self, count: int, each_micro: int) -> None:
        self._count, self._each = count, each_micro

    async def read(self, shard: int, wallets: Sequence[str]) -> list[State | None]:
        return [State(self._each, 0) for _ in wallets]

    async def names(self) -> AsyncIterator[str]:
        for number in range(self._count):
            yield WalletKey(f"user{number % WALLETS}", "shop").name


def batch(first: int, count: int) -> list[UsagePosting]:
    numbers = range(first, first + count)
    return [
        posting(f"req_{n}", end_user=f"user{n % WALLETS}", amount_micro=1, provider_cost_micro=1, tags=("tag",)) for n in numbers
    ]


async def fill(databases: Databases, requests: int) -> None:
    """An honest book, posted as the drain posts, and a long chain."""
    await databases.migrate()
    await add_owners(databases)
    await audit(databases, list(APPS), Hot(0, 0))  # statements are compiled and connections opened
    ledger = Ledger(databases, Clock())
    for number in range(WALLETS):
        wallet = WalletKey(f"user{number}", "shop")
        done = await ledger.grant(grant_request(f"g{number}", GRANTED, wallet))
        await ledger.mark_opened(wallet)
        await ledger.mark_applied("shop", [done.txn_id])
    for first in range(0, requests, BATCH):
        some = batch(first, min(BATCH, requests - first))
        await ledger.post_app_usage("shop", some)
        await ledger.post_platform_usage(some)
    tables = store.trail_of("shop")
    async with (await databases.app("shop")).begin() as conn:
        head = await store.head_of(conn, tables)
        assert head is not None
        lines = []
        for number in range(requests // 4):
            lines.append(line_after(head, act(number), 1_000))
            head = Head(lines[-1].seq, lines[-1].hash)
        await disarm(conn)
        columns = Line.__struct_fields__
        await bulk.insert(conn, tables["trail"], columns, [tuple(getattr(line, name) for name in columns) for line in lines])
        await conn.execute(tables["trail_head"].update().values(seq=head.seq, hash=head.hash))


async def peak_bytes(databases: Databases, requests: int) -> int:
    """The most that one audit allocates at once."""
    hot = Hot(requests, GRANTED - requests // WALLETS)
    tracemalloc.start()
    try:
        report = await audit(databases, list(APPS), hot)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.ok, report
    counted = {check.name.split()[0]: check.counted for check in report.checks}
    assert counted["1"] > requests
    return peak


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_book_ten_times_as_large_takes_no_more_memory(
    kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    peaks = []
    for requests in (REQUESTS[kind] // 10, REQUESTS[kind]):
        if kind == "sqlite":
            urls = sqlite_urls(tmp_path_factory.mktemp("book"))
        else:
            server = request.getfixturevalue("postgres_server")
            urls = postgres_urls(f"postgresql+asyncpg://postgres@/memory_{requests}?host={server}")
        databases = Databases(*urls)
        try:
            await fill(databases, requests)
            peaks.append(await peak_bytes(databases, requests))
        finally:
            await databases.close()
    print("peak bytes", peaks)
    # What is read ahead, and what the collector leaves for later, differ; reading everything takes five times as much.
    assert peaks[1] < 3 * peaks[0]


async def test_the_audit_of_live_books_finds_nothing_while_the_drain_posts_and_what_is_wrong_all_the_same(
    ledger: Ledger, databases: Databases
) -> None:
    stop = asyncio.Event()

    async def drain() -> None:
        first = 0
        while not stop.is_set():
            some = batch(first, 20)
            await ledger.post_app_usage("shop", some)
            await asyncio.sleep(0)
            await ledger.post_platform_usage(some)
            first += 20

    async def audited() -> AuditReport:
        """As `gateway audit` does: what two looks found alike."""
        return persisting(await audit(databases, list(APPS), None), await audit(databases, list(APPS), None))

    posting_on = asyncio.ensure_future(drain())
    try:
        for _ in range(5):
            report = await audited()
            assert report.ok, report
        ghost = posting("req_ghost", provider_cost_micro=1)  # in the platform's book alone
        await ledger.post_platform_usage([ghost])
        lost = posting("req_lost")  # in the app's book alone
        await ledger.post_app_usage("shop", [lost])
        (posted,) = [check for check in (await audited()).checks if "posted" in check.name]
        assert {violation.split(" of ")[0] for violation in posted.violations} == {"request req_ghost", "request req_lost"}
    finally:
        stop.set()
        await posting_on

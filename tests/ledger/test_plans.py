"""What moves money reads the books by their indexes: an app that had millions of requests is not read through for a refund.

The statements of a whole life of subscriptions are taken as they are sent, and each is explained by the database.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from gateway.db.engines import Databases
from gateway.ledger.service import Ledger
from tests.ledger.conftest import Clock
from tests.ledger.test_recovery import APP, GRANT, Subscriber

LARGE = ("entries", "txns")  # rows for each request


@contextmanager
def sent(engine: sa.Engine) -> Iterator[dict[str, Any]]:
    """Each statement that reads a large table, with the parameters that it was sent with last."""
    found: dict[str, Any] = {}

    def heard(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith("SELECT") and not many and any(name in statement for name in LARGE):
            found[statement] = parameters

    event.listen(engine, "before_cursor_execute", heard)
    yield found
    event.remove(engine, "before_cursor_execute", heard)


async def scanned(databases: Databases, statement: str, parameters: Any) -> list[str]:
    """The large tables that a statement reads through. Postgres is told to do so only where no index serves."""
    async with (await databases.app(APP)).connect() as conn:
        if conn.dialect.name == "sqlite":
            rows = (await conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).mappings()
            steps = [str(row["detail"]).split() for row in rows]
            return [" ".join(step) for step in steps if step[0] == "SCAN" and step[1] in names_of(statement)]
        await conn.exec_driver_sql("SET enable_seqscan = off")
        plan = (await conn.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)).scalar_one()
        return list(read_through(json.loads(plan) if isinstance(plan, str) else plan))


def names_of(statement: str) -> set[str]:
    """What a statement calls the large tables."""
    words = statement.replace(",", " ").split()
    called = {words[at + 2] for at, word in enumerate(words[:-2]) if word in LARGE and words[at + 1] == "AS"}
    return called | set(LARGE)


def read_through(plan: Any) -> Iterator[str]:
    """Nodes of a plan that read all of a large table, also by an index with no condition."""
    for node in plan if isinstance(plan, list) else [plan]:
        inner = node.get("Plan", node)
        whole = inner.get("Node Type") == "Seq Scan" or ("Index" in inner.get("Node Type", "") and "Index Cond" not in inner)
        of = inner.get("Relation Name") or inner.get("Index Name", "")
        if whole and any(name in of for name in LARGE):
            yield f"{inner['Node Type']} of {of}"
        yield from read_through(inner.get("Plans", []))


async def test_renewals_refunds_and_disputes_read_no_book_through(databases: Databases, ledger: Ledger, clock: Clock) -> None:
    engine = (await databases.app(APP)).sync_engine
    ann, bob = Subscriber(ledger, clock, "ann", 1), Subscriber(ledger, clock, "bob", 7)  # bob pays in another money
    with sent(engine) as statements:
        for number in range(3):
            for one in (ann, bob):
                await one.period(number)
                await one.spend(f"req-{one.name}-{number}", 100)
            await ann.expire()
        for one in (ann, bob):
            await one.failed(await one.refund(0, GRANT))
            await one.dispute(1, GRANT)
            await one.dispute(1, GRANT, lost=True)
            await one.reinstate(1)
            await one.dispute(2, 100)
            await one.dispute(2, 100, lost=False)
            await ledger.payments.standing(one.wallet, one.payment(0))
            await ledger.payments.granted_as(APP, one.payment(0))
            await ledger.payments.granted_until(one.wallet, one.series, clock.ms)
            await ledger.payments.series(APP, one.series)
        await ledger.payments.paid_allowances(APP, ["ann", "bob"])
        await ledger.refunds.refunded(APP, [ann.payment(0), bob.payment(0)])
    assert len(statements) > 10, list(statements)
    for statement, given in statements.items():
        assert not await scanned(databases, statement, given), statement


@pytest.mark.parametrize("statement", ["SELECT count(*) FROM entries", "SELECT id FROM txns AS one WHERE one.actor = 'x'"])
async def test_what_reads_a_book_through_is_found(databases: Databases, statement: str) -> None:
    assert await scanned(databases, statement, ())

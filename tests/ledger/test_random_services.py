"""The random histories once more, on the services over SQL: every operation now and then sent again, or with another body.

The same steps and the same reference as `test_random_histories.py`; after each step the rows of the wallet are those of
the reference, a repeat gives the first result, another request under the same name is a Conflict that changes no row
(13), and every 40 steps, and at the end, `gateway audit` finds nothing.

    RANDOM_SEED=n           other histories
    SERVICE_STEPS=n         how many steps on each kind of database; 300 and 200 unless told
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gateway.core.errors import Conflict
from gateway.db.engines import Databases
from gateway.db.tables import APP_BOOKS, PLATFORM_BOOKS
from gateway.ledger import invariants
from gateway.ledger.audit import audit
from gateway.ledger.model import (
    CorrectionRequest,
    DisputeRequest,
    Fees,
    Lot,
    Posted,
    RefundRequest,
    RolloverRequest,
    SettlementRequest,
    WalletKey,
)
from gateway.ledger.service import Ledger
from gateway.ledger.store import LOT_COLUMNS
from tests.db.conftest import postgres_urls, sqlite_urls
from tests.ledger.conftest import APPS, START_MS, Clock, add_owners
from tests.ledger.test_random_histories import SEED, History
from tests.ledger.values import HotPurse, grant_request, posting

APP = "shop"


class Services:
    """The methods of `engines.Rules`, on the ledger's services over SQL."""

    starts_at_ms = START_MS

    def __init__(self, databases: Databases, runner: asyncio.Runner) -> None:
        self.databases, self._runner, self._clock = databases, runner, Clock()
        self._pick = random.Random(SEED)
        self.run(databases.migrate())
        self.run(add_owners(databases))
        self.ledger = Ledger(databases, self._clock)
        self.newest_lot, self._names = "", 0
        self.repeats = self.conflicts = 0
        self._of: dict[str, tuple[str, DisputeRequest]] = {}
        self.refresh()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    @property
    def now(self) -> int:
        return self._clock.ms - START_MS

    @now.setter
    def now(self, value: int) -> None:
        self._clock.ms = START_MS + value

    def name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}_{self._names}"

    def refresh(self) -> None:
        """All rows of the app's book, and the platform's income from it."""
        known = set(getattr(self, "lots", {}))
        self.rows: dict[str, list[Any]] = self.run(self._rows())
        accounts = {row.id: row for row in self.rows["accounts"]}
        everywhere = [*accounts.values(), *self.rows["platform"]]
        self.balances = {(row.owner, row.kind): row.balance_micro for row in everywhere if row.asset == "USD"}
        self.lots = {
            row.id: (accounts[row.account_id].owner, Lot(*[getattr(row, name) for name in LOT_COLUMNS]))
            for row in self.rows["lots"]
        }
        self.txns = self.rows["txns"]
        born = self.lots.keys() - known
        self.newest_lot = max(born, default=self.newest_lot)

    async def _rows(self) -> dict[str, list[Any]]:
        fees = PLATFORM_BOOKS["accounts"]
        async with self.databases.platform.connect() as conn:
            platform = list((await conn.execute(sa.select(fees).where(fees.c.kind == "revenue.platform_fee"))).all())
        async with (await self.databases.app(APP)).connect() as conn:
            rows = {name: list((await conn.execute(sa.select(table))).all()) for name, table in APP_BOOKS.items()}
        return {**rows, "platform": platform}

    def balance(self, owner: str, kind: str) -> int:
        return int(self.balances.get((owner, kind), 0))

    def debt(self, owner: str) -> int:
        return -self.balance(owner, "receivable.clawback")

    def lots_of(self, owner: str) -> dict[str, Lot]:
        return {name: lot for name, (who, lot) in self.lots.items() if who == owner}

    def send(self, method: Callable[..., Awaitable[Any]], request: msgspec.Struct, changed: dict[str, Any], **more: Any) -> str:
        """Send a request; now and then again, and with another body."""

        async def sent(one: msgspec.Struct) -> Any:
            return await method(one, **more)

        try:
            done = self.run(sent(request))
        finally:
            self.refresh()
        assert done.first
        dice = self._pick.random()
        if dice < 0.2:
            again = self.run(sent(request))
            assert (again.txn_id, again.first) == (done.txn_id, False)
            self.repeats += 1
        if dice < 0.1:
            with pytest.raises(Conflict):
                self.run(sent(msgspec.structs.replace(request, **changed)))
            self.conflicts += 1
        if dice < 0.2:
            before = self.rows
            self.refresh()
            assert not invariants.nothing_changed("a repeat or a conflict", before, self.rows)
        self.apply()
        return str(done.txn_id)

    def apply(self) -> None:
        """The hot store hears of it."""
        waiting = self.run(self.ledger.waiting_credits(APP))
        self.run(self.ledger.mark_applied(APP, [credit.txn_id for credit in waiting]))
        self.refresh()

    # ---- what histories do ---------------------------------------------------------------------

    def grant(self, owner: str, amount: int, source: str, priority: int, ends: int | None, ref: str | None, fee: int) -> str:
        request = grant_request(
            self.name("grant"),
            amount,
            WalletKey(owner, APP),
            source=source,
            priority=priority,
            expires_at_ms=None if ends is None else START_MS + ends,
            external_ref=ref,
            fees=Fees(fee, 1) if fee else None,
        )
        return self.send(self.ledger.grant, request, {"amount_micro": amount + 1})

    def spend(self, owner: str, amount: int) -> str:
        used = [posting(self.name("req"), end_user=owner, amount_micro=amount, held_micro=amount, creator_held_micro=0)]
        for _ in range(self._pick.choice([1, 1, 2])):
            self.run(self.ledger.post_app_usage(APP, used))
            self.run(self.ledger.post_platform_usage(used))
        self.refresh()
        (txn,) = [row for row in self.txns if row.op_id == f"usage:{used[0].row.request_id}"]
        return str(txn.id)

    def expire(self, owner: str, lot_id: str, available: int) -> tuple[str | None, int, int]:
        hot, debt, wallet = HotPurse(available), self.debt(owner), WalletKey(owner, APP)
        if self._pick.random() < 0.3:  # a process said that it would, and died
            self.run(self.ledger.expiries.begin(self.lots[lot_id][1], wallet))
            self.refresh()
        posted: Posted | None = self.run(self.ledger.expiries.expire(self.lots[lot_id][1], wallet, hot))
        self.refresh()
        again = self.lots[lot_id][1]
        if posted is not None and again.expires_at_ms is not None and again.left_micro == 0:
            assert self.run(self.ledger.expiries.expire(again, wallet, hot)) is None
        self.apply()
        return None if posted is None else posted.txn_id, sum(hot.taken.values()), debt - self.debt(owner)

    def _ref(self, lot_id: str) -> str:
        return str(self.lots[lot_id][1].external_ref)

    def refund(self, owner: str, lot_id: str, amount: int, fee: int) -> str:
        wallet = WalletKey(owner, APP)
        request = RefundRequest(wallet, self._ref(lot_id), self.name("re"), amount, "t", fee_returned_micro=fee)
        return self.send(self.ledger.payments.refund, request, {"amount_micro": amount + 1})

    def dispute(self, owner: str, lot_id: str, amount: int) -> str:
        request = DisputeRequest(WalletKey(owner, APP), self._ref(lot_id), self.name("dp"), amount, "t")
        txn_id = self.send(self.ledger.payments.dispute_opened, request, {"amount_micro": amount + 1})
        self._of[txn_id] = (lot_id, request)
        return txn_id

    def close(self, owner: str, lot_id: str, opened: str, amount: int, won: bool) -> str:
        request = msgspec.structs.replace(self._of[opened][1], amount_micro=amount)
        txn_id = self.send(self.ledger.payments.dispute_closed, request, {"reason": "other"}, won=won)
        self._of[txn_id] = (lot_id, request)
        with pytest.raises(Conflict):  # closed is closed
            self.run(self.ledger.payments.dispute_closed(request, won=not won))
        return txn_id

    def close_unopened(self, owner: str, lot_id: str, amount: int, won: bool) -> str:
        """The opening arrives afterwards, with another amount, or never."""
        request = DisputeRequest(WalletKey(owner, APP), self._ref(lot_id), self.name("dp"), amount, "t")
        txn_id = self.send(self.ledger.payments.dispute_closed, request, {"reason": "other"}, won=won)
        self._of[txn_id] = (lot_id, request)
        if self._pick.random() < 0.7:
            late = self.run(self.ledger.payments.dispute_opened(msgspec.structs.replace(request, amount_micro=amount + 1)))
            assert (late.first, late.credit) == (False, None)
        self.refresh()
        return txn_id

    def reinstate(self, owner: str, lot_id: str, lost: str) -> str:
        return self.send(self.ledger.payments.reinstate, self._of[lost][1], {"reason": "other"})

    def correct(self, owner: str, txn_id: str) -> str:
        request = CorrectionRequest(APP, txn_id, self.name("correct"), "t")
        return self.send(self.ledger.payments.correct, request, {"reason": "other"})

    def rollover(self, owner: str, lot_id: str, amount: int, ends: int | None) -> str:
        ends_ms = None if ends is None else START_MS + ends
        request = RolloverRequest(
            WalletKey(owner, APP), lot_id, self.name("roll"), "t", amount_max_micro=amount, expires_at_ms=ends_ms, priority=1
        )
        return self.send(self.ledger.payments.rollover, request, {"reason": "other"})

    def settle(self, amount: int) -> str:
        return self.send(self.ledger.payments.settle_due, SettlementRequest(APP, amount, self.name("paid"), "t"), {"reason": "x"})

    def check_books(self) -> None:
        """The audit looks at both books."""

    def check_all(self) -> None:
        report = self.run(audit(self.databases, list(APPS), None))
        assert report.ok, [check.violations for check in report.checks]


@pytest.fixture(params=["sqlite", "postgres"])
def services(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Services]:
    if request.param == "sqlite":
        urls = sqlite_urls(tmp_path)
    else:
        urls = postgres_urls(f"postgresql+asyncpg://postgres@/services?host={request.getfixturevalue('postgres_server')}")
    with asyncio.Runner() as runner:
        databases = Databases(*urls)
        try:
            yield Services(databases, runner)
        finally:
            runner.run(databases.close())


def test_the_services_keep_the_books_as_the_reference_has_them_whatever_is_sent_twice(
    services: Services, request: pytest.FixtureRequest
) -> None:
    sqlite = request.node.callspec.params["services"] == "sqlite"
    steps = int(os.environ.get("SERVICE_STEPS", 300 if sqlite else 200))
    print(f"replay: RANDOM_SEED={SEED} SERVICE_STEPS={steps}")
    history = History(1_000_000 + sqlite, services)
    for step in range(steps):
        history.step()
        if step % 40 == 39:
            services.check_all()
    services.check_all()
    print(dict(history.done), services.repeats, services.conflicts)
    assert services.repeats
    assert services.conflicts

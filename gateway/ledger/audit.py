"""The audit of live books: every invariant that can be checked from outside, over streamed rows.

Takes the same memory for books of any size: rows are read as they come, and only the first violations
of each check are kept. Each book is read in one snapshot. Checks that compare two stores (app and
platform, SQL and hot) take what waits for a worker for what it is (see `audit_waiting`). While requests run they may be
ahead of each other by more; what they name is then gone at the next look, and `persisting` drops it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial
from itertools import groupby
from typing import Final, Protocol

import msgspec

from gateway.core.ids import shard_of
from gateway.core.limits import DRAIN_BATCH
from gateway.core.words import Level
from gateway.db.engines import Databases
from gateway.ledger import audit_queries as queries
from gateway.ledger import audit_waiting, invariants, journal, store
from gateway.ledger.audit_waiting import WaitingUsage
from gateway.ledger.model import (
    DISPUTE_LOST,
    DISPUTE_WON,
    DUE_TO_PLATFORM,
    FEE_EXPENSE,
    PLATFORM_ASSET,
    REVENUE,
    USAGE,
    AppFacts,
    WalletKey,
    wallet_from_name,
)
from gateway.trail import service as chains
from gateway.trail import store as trail

VIOLATIONS_SHOWN: Final = 20
_Waits = Callable[[Collection[str]], Awaitable[set[str]]]  # those of some requests whose event waits


class HotWallet(Protocol):
    """One wallet of the hot store."""

    @property
    def available_micro(self) -> int:
        """Spendable now."""
        ...

    @property
    def held_micro(self) -> int:
        """Set aside for requests in flight."""
        ...


class HotBalances(Protocol):
    """What the audit reads of the hot store."""

    async def read(self, shard: int, wallets: Sequence[str]) -> Sequence[HotWallet | None]:
        """The wallets, in the order asked; None where there is none."""
        ...

    def names(self) -> AsyncIterator[str]:
        """The name of every wallet there is."""
        ...


class Check(msgspec.Struct, frozen=True):
    """One invariant. `counted` is how many things were looked at; `violations` are the first of `violated`."""

    name: str
    ok: bool
    counted: int
    violated: int
    violations: tuple[str, ...]


class AuditReport(msgspec.Struct, frozen=True):
    """Every check that was made."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True when nothing is violated."""
        return all(check.ok for check in self.checks)


def persisting(before: AuditReport, after: AuditReport) -> AuditReport:
    """What both of two audits found, with the later one's counts.

    A wallet in use moves between the looks at two stores, and moves on until the next audit; a real
    difference says the same both times.
    """
    checks = []
    for first, second in zip(before.checks, after.checks, strict=True):
        stayed = tuple(violation for violation in second.violations if violation in first.violations)
        more = min(first.violated, second.violated) if len(stayed) == VIOLATIONS_SHOWN else len(stayed)
        checks.append(msgspec.structs.replace(second, ok=not stayed, violated=more, violations=stayed))
    return AuditReport(tuple(checks))


class _Tally:
    """A check being made."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._counted = 0
        self._violated = 0
        self._shown: list[str] = []

    def see(self, violation: str | None, where: str = "") -> None:
        """Count one thing that was looked at."""
        self._counted += 1
        if violation is not None:
            self._violated += 1
            if len(self._shown) < VIOLATIONS_SHOWN:
                self._shown.append(f"{where}: {violation}" if where else violation)

    def passed(self, count: int) -> None:
        """Count things that were looked at and found in order."""
        self._counted += count

    def done(self) -> Check:
        return Check(self._name, not self._violated, self._counted, self._violated, tuple(self._shown))


class _Tallies:
    def __init__(self) -> None:
        self.balanced = _Tally("1 every transaction sums to zero per asset")
        self.sums = _Tally("2 every balance is the sum of its entries")
        self.lots = _Tally("3 every lot adds up and no part is negative")
        self.lots_left = _Tally("3 what the lots have left is what is available")
        self.frozen = _Tally("3 what is frozen of the lots is what is frozen")
        self.signs = _Tally("4 nothing available is below zero, no debt above it")
        self.captures = _Tally("5 every request is captured once")
        self.overruns = _Tally("6 a charge beyond its hold is a recorded over-run")
        self.payments = _Tally("7 every payment is granted once")
        self.gone = _Tally("7 what went back of a payment took its part of the lot")
        self.reversals = _Tally("7 every reversal is of one transaction, once")
        self.clawback = _Tally("8 no more of a lot is clawed back than was spent or expired")
        self.thawed = _Tally("8 the end of a dispute frees what its opening froze")
        self.fees = _Tally("9 the fees that apps bear are the platform's income")
        self.dues = _Tally("10 what apps owe is what the platform is owed")
        self.revenue = _Tally("11 revenue is what the usage rows charged")
        self.posted = _Tally("11 every usage row is posted in the platform's book, and nothing else is")
        self.hot = _Tally("12 the hot balances are those of the books")
        self.owners = _Tally("14 no end user is in the platform's database")
        self.places = _Tally("14 every app's database is its own")
        self.chains = _Tally("15 every line of the trail follows the one before it")
        self.acts = _Tally("15 every grant has its line in the trail, and every line its transaction")

    def report(self, with_hot: bool) -> AuditReport:
        tallies = [tally for tally in vars(self).values() if with_hot or tally is not self.hot]
        return AuditReport(tuple(tally.done() for tally in tallies))


async def audit(
    databases: Databases, enterprise_ids: Sequence[str], hot: HotBalances | None, waiting: WaitingUsage | None = None
) -> AuditReport:
    """Check the platform's book and those of the apps; with `hot`, the hot balances too; `waiting` is what they are ahead by.

    SqlDown when a database does not answer. `enterprise_ids` has to be all apps for check 11 of the platform's book
    and for wallets that only the hot store has.
    """
    tallies = _Tallies()
    _places(databases, enterprise_ids, tallies)
    async with store.reading(databases.platform) as conn:
        facts = await store.app_facts(conn, enterprise_ids)
    creator_micro = 0
    for enterprise_id in enterprise_ids:
        async with store.snapshot(await databases.app(enterprise_id)) as conn:
            await _book(conn, enterprise_id, tallies)
            await _trail(conn, enterprise_id, tallies)
            await _captures(conn, enterprise_id, tallies)
            await _fees(conn, databases, enterprise_id, tallies)
            waits = partial(audit_waiting.that_wait, waiting, shard_of(facts[enterprise_id].user_id)) if waiting else None
            creator_micro += await _app_usage(conn, databases, enterprise_id, tallies, waits)
    async with store.snapshot(databases.platform) as conn:
        await _book(conn, None, tallies)
        await _trail(conn, None, tallies)
        stands = (await queries.standing(conn, store.books_of(None), REVENUE)).get(PLATFORM_ASSET, 0)
        tallies.revenue.see(invariants.revenue_is_usage("platform", PLATFORM_ASSET, stands, creator_micro))
        await _has_rows(conn, databases, set(enterprise_ids), tallies.posted)
        async for account, owner, is_creator in queries.platform_owners(conn):
            tallies.owners.see(invariants.owner_is_creator(str(account), owner, bool(is_creator)))
    if hot is not None:
        for book in (None, *enterprise_ids):
            await _hot_of_sql(databases, book, facts, hot, waiting, tallies.hot)
        await _sql_of_hot(databases, set(enterprise_ids), hot, tallies.hot)
    return tallies.report(with_hot=hot is not None)


def _places(databases: Databases, enterprise_ids: Sequence[str], tallies: _Tallies) -> None:
    taken = {databases.place(None): "the platform"}
    for enterprise_id in enterprise_ids:
        place = databases.place(enterprise_id)
        tallies.places.see(invariants.database_is_own(enterprise_id, place, taken.get(place)))
        taken[place] = f"app {enterprise_id}"


async def _book(conn: store.Connection, enterprise_id: str | None, tallies: _Tallies) -> None:
    books = store.books_of(enterprise_id)
    where = "platform" if enterprise_id is None else f"app {enterprise_id}"
    async for txn_id, asset, total in queries.txn_sums(conn, books):
        tallies.balanced.see(invariants.txn_sums_to_zero(txn_id, asset, int(total)), where)
    async for _, owner, kind, asset, balance, total in queries.account_sums(conn, books):
        name = f"{owner}/{kind}/{asset}"
        tallies.sums.see(invariants.balance_is_sum(name, balance, int(total)), where)
        tallies.signs.see(invariants.right_side_of_zero(name, kind, balance), where)
    async for lot_id, clawback, *parts in queries.lot_parts(conn, books):
        tallies.lots.see(invariants.lot_adds_up(lot_id, *parts), where)
        tallies.clawback.see(invariants.clawback_within_lot(lot_id, parts[1], parts[2], clawback), where)
    async for owner, asset, available, left in queries.lot_sums(conn, books):
        tallies.lots_left.see(invariants.lots_make_available(f"{owner}/{asset}", available, int(left)), where)
    async for owner, asset, balance, lots in queries.frozen_sums(conn, books):
        tallies.frozen.see(invariants.lots_make_frozen(f"{owner}/{asset}", int(balance), int(lots)), where)
    async for owner, asset, balance, left in queries.lent_sums(conn, books):
        tallies.signs.see(invariants.no_more_repaid_than_used(f"{owner}/{asset}", int(balance), int(left)), where)
    async for external_ref, lots in queries.payments(conn, books):
        tallies.payments.see(invariants.one_grant_a_payment(external_ref, lots), where)
    async for external_ref, *sums in queries.payments_gone(conn, books):
        tallies.gone.see(invariants.went_back_in_step(external_ref, *map(int, sums)), where)
    async for txn_id, times in queries.times_reversed(conn, books):
        tallies.reversals.see(invariants.reversed_once(txn_id, times), where)
    async for txn_id, kind, reversed_kind, frozen, thawed in queries.reversals(conn, books):
        tallies.reversals.see(invariants.reverses_what_it_may(txn_id, kind, reversed_kind), where)
        if kind in (DISPUTE_WON, DISPUTE_LOST):
            tallies.thawed.see(invariants.thawed_what_was_frozen(txn_id, int(frozen), -int(thawed)), where)


async def _captures(conn: store.Connection, enterprise_id: str, tallies: _Tallies) -> None:
    """Checks 5 and 6: every request of an app with its hold and its transaction."""
    books, charged = store.books_of(enterprise_id), 0
    where = f"app {enterprise_id}"
    async for request_id, level, amount, held, creator, creator_held, captured, *over in queries.captures(conn, books):
        is_theirs = level == Level.APP_USAGE
        charged += is_theirs and amount != 0
        tallies.captures.see(invariants.captured_once(request_id, level, amount, captured), where)
        due = amount if is_theirs else 0
        tallies.overruns.see(invariants.overrun_is_recorded(request_id, "end_user", due, held, bool(over[0])), where)
        found = invariants.overrun_is_recorded(request_id, "creator", creator, creator_held, bool(over[1]))
        tallies.overruns.see(found, where)
    count = await queries.count_of_kind(conn, books, USAGE)
    tallies.captures.see(invariants.every_capture_has_its_request(enterprise_id, count, charged))


async def _fees(conn: store.Connection, databases: Databases, enterprise_id: str, tallies: _Tallies) -> None:
    """Checks 9 and 10: an app's fees and dues against the platform's."""
    books = store.books_of(enterprise_id)
    borne = await queries.standing(conn, books, FEE_EXPENSE)
    due = await queries.standing(conn, books, DUE_TO_PLATFORM)
    async with store.reading(databases.platform) as platform:
        income, owed = await queries.platform_fees(platform)
    theirs = {asset for app, asset in income.keys() | owed.keys() if app == enterprise_id}
    for asset in borne.keys() | due.keys() | theirs:
        key = (enterprise_id, asset)
        tallies.fees.see(invariants.fee_is_income(*key, -borne.get(asset, 0), income.get(key, 0)))
        tallies.dues.see(invariants.dues_agree(*key, due.get(asset, 0), owed.get(key, 0)))


async def _trail(conn: store.Connection, enterprise_id: str | None, tallies: _Tallies) -> None:
    where = "platform" if enterprise_id is None else f"app {enterprise_id}"
    verdict = await chains.verify(conn, enterprise_id)
    tallies.chains.passed(verdict.lines)
    tallies.chains.see(verdict.broken, where)
    tables, books = trail.trail_of(enterprise_id), store.books_of(enterprise_id)
    tallies.acts.passed(await trail.lines_of_money(conn, tables))
    async for txn_id, line in trail.unlike_the_books(conn, tables, books):
        wrong = f"line {line} names transaction {txn_id}, which is not there" if line else f"grant {txn_id} has no line"
        tallies.acts.see(wrong, where)


async def _app_usage(
    conn: store.Connection, databases: Databases, enterprise_id: str, tallies: _Tallies, waits: _Waits | None
) -> int:
    """Check 11 of one app; returns what its usage rows charged the creator, less those whose event waits to be posted there."""
    charged, creator_micro = await queries.usage_sums(conn)
    stands = await queries.standing(conn, store.books_of(enterprise_id), REVENUE)
    for asset in charged.keys() | stands.keys():
        violation = invariants.revenue_is_usage(f"app {enterprise_id}", asset, stands.get(asset, 0), charged.get(asset, 0))
        tallies.revenue.see(violation)
    batch: list[str] = []
    async for (request_id,) in queries.request_ids(conn):
        batch.append(request_id)
        if len(batch) == DRAIN_BATCH:
            creator_micro -= await _posted(conn, databases, enterprise_id, batch, tallies.posted, waits)
            batch = []
    return creator_micro - await _posted(conn, databases, enterprise_id, batch, tallies.posted, waits)


async def _posted(
    app: store.Connection, databases: Databases, enterprise_id: str, request_ids: list[str], tally: _Tally, waits: _Waits | None
) -> int:
    """Each of an app's requests is in the platform's book, or `waits`; returns what those charged the creator."""
    async with store.reading(databases.platform) as conn:
        known = await store.known_ops(conn, store.books_of(None), [journal.usage_op(request) for request in request_ids])
    missing = {request for request in request_ids if journal.usage_op(request) not in known}
    on_the_way = await waits(missing) if missing and waits else set()
    for request_id in request_ids:
        lost = request_id in missing - on_the_way
        tally.see(f"request {request_id} of app {enterprise_id} is not in the platform's book" if lost else None)
    return await queries.creator_charged(app, list(on_the_way)) if on_the_way else 0


async def _has_rows(conn: store.Connection, databases: Databases, enterprise_ids: set[str], tally: _Tally) -> None:
    """Every request of the platform's book, against its app: posted there first, so exact while the drain runs.

    The platform's snapshot (`conn`) is older than every look into an app. Requests come app by app, so that each
    app's database is opened once. An app made since the audit began is not looked at.
    """
    batch: list[str] = []
    of_app = ""
    async for enterprise_id, op_id in queries.posted_requests(conn):
        if enterprise_id not in enterprise_ids:
            continue
        if batch and (enterprise_id != of_app or len(batch) == DRAIN_BATCH):
            await _rows_of(databases, of_app, batch, tally)
            batch = []
        of_app = enterprise_id
        batch.append(op_id.removeprefix(journal.usage_op("")))
    if batch:
        await _rows_of(databases, of_app, batch, tally)


async def _rows_of(databases: Databases, enterprise_id: str, request_ids: list[str], tally: _Tally) -> None:
    async with store.reading(await databases.app(enterprise_id)) as conn:
        known = await store.known_requests(conn, request_ids)
    for request_id in request_ids:
        tally.see(invariants.posted_request_has_row(enterprise_id, request_id, request_id in known))


async def _hot_of_sql(
    databases: Databases,
    enterprise_id: str | None,
    facts: dict[str, AppFacts],
    hot: HotBalances,
    waiting: WaitingUsage | None,
    tally: _Tally,
) -> None:
    """Every wallet that the books opened, against the hot store, which may be ahead by what is `waiting`."""

    async def compare(batch: list[tuple[int, str, int]]) -> None:
        for shard, group in groupby(sorted(batch), key=lambda wallet: wallet[0]):
            different = await _compare(shard, [wallet[1:] for wallet in group], hot, tally)
            taken: dict[str, int] = {}
            if different and waiting:
                taken = await audit_waiting.not_in_the_book(databases, waiting, shard, enterprise_id, different.keys())
            for name, (has, owed_micro) in different.items():
                tally.see(invariants.hot_is_sql(name, has, owed_micro - taken.get(name, 0)))

    batch: list[tuple[int, str, int]] = []
    engine = databases.platform if enterprise_id is None else await databases.app(enterprise_id)
    async with store.snapshot(engine) as conn:
        async for owner, owed_micro in queries.wallets_owed(conn, store.books_of(enterprise_id)):
            creator = owner if enterprise_id is None else facts[enterprise_id].user_id
            batch.append((shard_of(creator), WalletKey(owner, enterprise_id).name, int(owed_micro)))
            if len(batch) == DRAIN_BATCH:
                await compare(batch)
                batch = []
    await compare(batch)


async def _compare(
    shard: int, wallets: list[tuple[str, int]], hot: HotBalances, tally: _Tally
) -> dict[str, tuple[int | None, int]]:
    """(what the hot store has, what the books say) of those that differ; the others are counted."""
    states = await hot.read(shard, [name for name, _ in wallets])
    found = {}
    for (name, owed_micro), state in zip(wallets, states, strict=True):
        has = None if state is None else state.available_micro + state.held_micro
        if has == owed_micro:
            tally.see(None)
        else:
            found[name] = (has, owed_micro)
    return found


async def _sql_of_hot(databases: Databases, enterprise_ids: set[str], hot: HotBalances, tally: _Tally) -> None:
    """Every wallet of the hot store, against the books: each must have been opened from them."""
    batch: dict[str | None, list[WalletKey]] = {}
    async for name in hot.names():
        wallet = wallet_from_name(name)
        if wallet is None or (wallet.enterprise_id is not None and wallet.enterprise_id not in enterprise_ids):
            tally.see(f"wallet {name} is in the hot store, but there is no such app or creator")
            continue
        waiting = batch.setdefault(wallet.enterprise_id, [])
        waiting.append(wallet)
        if sum(map(len, batch.values())) >= DRAIN_BATCH:
            await _opened(databases, batch, tally)
            batch = {}
    await _opened(databases, batch, tally)


async def _opened(databases: Databases, batch: dict[str | None, list[WalletKey]], tally: _Tally) -> None:
    for enterprise_id, wallets in batch.items():
        engine = databases.platform if enterprise_id is None else await databases.app(enterprise_id)
        async with store.reading(engine) as conn:
            books = store.books_of(enterprise_id)
            opened = await queries.opened_owners(conn, books, [wallet.owner for wallet in wallets])
        for wallet in wallets:
            there = wallet.owner in opened
            tally.see(None if there else f"wallet {wallet.name} is in the hot store, but the books never opened it")

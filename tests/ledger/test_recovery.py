"""What is taken back of a period that was renewed since: in whatever order renewals, expiries and refunds come, the books end
alike, and what is a debt at last is what was spent and is covered by nothing else.

Random histories of a subscription, each in several orders of what is taken back of it, against a model in which it never was
there; each order has an end user of its own. Half of them buy with another money.

    RANDOM_SEED=n           other histories; each run of the suite has the same
    RECOVERY_THINNED=1      all 24 orders of one history, and as many times the histories; one in 9 unless told
    RECOVERY_HISTORY=name   that history alone
"""

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from typing import Any, Final

import pytest
import sqlalchemy as sa

from gateway.core.errors import InvalidRequest
from gateway.core.words import LotSource
from gateway.db.engines import Databases
from gateway.db.tables import APP_BOOKS
from gateway.ledger.audit import audit
from gateway.ledger.model import (
    CorrectionRequest,
    DisputeRequest,
    Paid,
    RefundRequest,
    RenewalRequest,
    WalletKey,
)
from gateway.ledger.payments import allowance_op
from gateway.ledger.refunds import RefundEffect
from gateway.ledger.service import Ledger
from tests.ledger.conftest import APPS, START_MS, Clock
from tests.ledger.values import expire_all, grant_request, posting

APP: Final = "shop"
PERIOD_MS: Final = 1_000_000
PERIODS: Final = 3
GRANT: Final = 1000
GOES_ON: Final = 300
SPENT: Final = 200
SEED: Final = int(os.environ.get("RANDOM_SEED", 20_261_122))
THINNED: Final = int(os.environ.get("RECOVERY_THINNED", 9))
ALONE: Final = os.environ.get("RECOVERY_HISTORY")
ORDERS: Final = 4  # of each history
CHUNK: Final = 20  # histories in one set of books
UNDONE: Final = int(os.environ.get("RECOVERY_UNDONE", 3))  # histories with what is undone
HISTORIES: Final = 1 if ALONE else int(os.environ.get("RECOVERY_HISTORIES", 36 // THINNED))
Step = tuple[Any, ...]


class Subscriber:
    """A subscription; unless told, with periods of 1000, of which 300 go on."""

    def __init__(self, ledger: Ledger, clock: Clock, name: str, unit: int) -> None:
        self.ledger, self.clock, self.name, self.unit = ledger, clock, name, unit
        self.wallet, self.series, self.payments = WalletKey(name, APP), f"sub-{name}", 0

    async def period(self, number: int, granted: int = GRANT, goes_on: int = GOES_ON) -> None:
        """What came before goes on, and a period is granted."""
        starts = START_MS + number * PERIOD_MS
        self.clock.ms = max(self.clock.ms, starts)
        until = max(starts + PERIOD_MS, self.clock.ms) + PERIOD_MS // 2
        await self.ledger.payments.renew(RenewalRequest(self.wallet, self.series, starts, goes_on, until, "tester"))
        await self._grant(number, starts, self.payments, granted)

    async def more(self, number: int, granted: int) -> None:
        """A dearer plan in the middle of a period."""
        await self._grant(number, START_MS + number * PERIOD_MS + 500, self.payments, granted)

    async def _grant(self, number: int, starts: int, payment: int, granted: int) -> None:
        ends = START_MS + (number + 1) * PERIOD_MS
        await self.ledger.grant(
            grant_request(
                allowance_op(self.series, starts, ends, f"in{payment}"),
                granted,
                self.wallet,
                source=LotSource.PAID,
                external_ref=self.payment(payment),
                expires_at_ms=max(ends, self.clock.ms) + PERIOD_MS // 2,
                paid=Paid("EUR", granted * self.unit) if self.unit > 1 else None,
            )
        )
        self.payments += 1

    def payment(self, number: int) -> str:
        return f"pi-{self.name}-{number}"

    async def spend(self, request_id: str, amount: int) -> None:
        row = posting(request_id, end_user=self.name, amount_micro=amount, held_micro=amount, creator_held_micro=0)
        await self.ledger.post_app_usage(APP, [row])
        await self.ledger.post_platform_usage([row])

    async def refund(self, number: int, amount: int, name: str = "") -> str:
        ref = f"re-{self.name}-{number}{name}"
        request = RefundRequest(self.wallet, self.payment(number), ref, amount * self.unit, "tester")
        posted = await self.ledger.payments.refund(request)
        return posted.txn_id

    async def dispute(self, number: int, amount: int, which: int = 0, *, lost: bool | None = None) -> None:
        """Opened; or the end of it, lost or won."""
        ref = f"dp-{self.name}-{number}-{which}"
        request = DisputeRequest(self.wallet, self.payment(number), ref, amount * self.unit, "tester")
        if lost is None:
            await self.ledger.payments.dispute_opened(request)
        else:
            await self.ledger.payments.dispute_closed(request, won=not lost)

    async def reinstate(self, number: int, which: int = 0) -> None:
        ref = f"dp-{self.name}-{number}-{which}"
        await self.ledger.payments.reinstate(DisputeRequest(self.wallet, self.payment(number), ref, 1, "tester"))

    async def failed(self, refund: str) -> None:
        await self.ledger.payments.correct(CorrectionRequest(APP, refund, f"failed:{refund}", "tester"))

    async def expire(self) -> None:
        self.clock.ms += 1
        await expire_all(self.ledger, APP)


async def stands(databases: Databases, subscriber: Subscriber) -> tuple[dict[str, int], list[Any]]:
    """(what the wallet's transactions moved by account, the lots with something left)."""
    txns, entries, accounts, lots = (APP_BOOKS[name] for name in ("txns", "entries", "accounts", "lots"))
    theirs = sa.select(entries.c.txn_id).join(accounts, accounts.c.id == entries.c.account_id)
    theirs = theirs.where(accounts.c.owner == subscriber.name)
    sums = (
        sa.select(accounts.c.kind, accounts.c.asset, sa.func.sum(entries.c.amount_micro))
        .join(entries, entries.c.account_id == accounts.c.id)
        .join(txns, txns.c.id == entries.c.txn_id)
        .where(txns.c.id.in_(theirs))
        .group_by(accounts.c.kind, accounts.c.asset)
    )
    left = (
        sa.select(lots.c.source, lots.c.left_micro)
        .join(accounts, accounts.c.id == lots.c.account_id)
        .where(accounts.c.owner == subscriber.name, lots.c.left_micro > 0)
    )
    async with (await databases.app(APP)).connect() as conn:
        moved = {f"{kind}/{asset}": int(amount) for kind, asset, amount in await conn.execute(sums) if amount}
        return moved, sorted(map(tuple, await conn.execute(left)))


class History:
    """What happens to a subscription in one order: periods, spending and sweeps; and what is taken back, at whatever time.

    Steps: ("period", grant, cap), ("more", grant), ("spend", amount), ("expire",), and of what is taken back ("refund", payment,
    amount), ("open", payment, amount, its number), ("lost", payment, amount, its number).
    """

    def __init__(self, name: str) -> None:
        self.name, self.pick = name, random.Random(f"{SEED}:{name}")
        self.unit = self.pick.choice([1, 7])
        self.steps: list[Step] = []
        payments: list[tuple[int, int]] = []  # what each granted, the step it is
        for _ in range(self.pick.randrange(2, 6)):
            payments.append((self.pick.randrange(100, 1500), len(self.steps)))
            self.steps.append(("period", payments[-1][0], self.pick.choice([0, 300, 300, 5000])))
            for _ in range(self.pick.randrange(3)):
                what = self.pick.choice(["spend", "spend", "expire", "expire", "more"])
                if what == "more":
                    payments.append((self.pick.randrange(1, 900), len(self.steps)))
                size = payments[-1][0] if what == "more" else self.pick.choice([34, 200, 900, 2000])
                self.steps.append((what, size) if what != "expire" else (what,))
        self.back: list[tuple[int, list[Step]]] = []  # (the step that it is after, what happens in this order)
        for number, (left, at) in enumerate(payments):
            for _ in range(self.pick.randrange(3)):
                amount = self.pick.choice([left, self.pick.randrange(left + 1)])
                left -= amount
                if amount and self.pick.random() < 0.3:
                    self.back.append((at, [(part, number, amount, len(self.back)) for part in ("open", "lost")]))
                elif amount:
                    self.back.append((at, [("refund", number, amount)]))

    def orders(self) -> Iterator[list[Step]]:
        """As early as may be, in the order of the payments; all at the end; and at any time."""
        yield self._placed([(at, at) for at, _ in self.back])
        last = len(self.steps) - 1
        yield self._placed([(last, last) for _ in self.back])
        for _ in range(ORDERS - 2):
            yield self._placed([sorted(self.pick.choices(range(at, last + 1), k=2)) for at, _ in self.back])

    def _placed(self, places: Sequence[Sequence[int]]) -> list[Step]:
        """`places`: after which step each first and second part comes; in any order at one step."""
        after: dict[int, list[tuple[float, Step]]] = {}
        for (_, parts), where in zip(self.back, places, strict=True):
            at = sorted((where[place], self.pick.random()) for place in range(len(parts)))
            for (step, turn), part in zip(at, parts, strict=True):
                after.setdefault(step, []).append((turn, part))
        return [one for at, step in enumerate(self.steps) for one in (step, *[part for _, part in sorted(after.get(at, []))])]

    def undone(self, steps: Sequence[Step]) -> list[Step]:
        """The same with refunds that fail and disputes that are won or reinstated, of what nothing else takes back."""
        found, free = list[Step](), list[int]()
        for place, step in enumerate(steps):
            found.append(step)
            if step[0] in ("period", "more"):
                free.append(int(step[1]) - self.taken().get(len(free), 0))
            number = self.pick.randrange(len(free))
            if free[number] and self.pick.random() < 0.5:
                amount = self.pick.choice([free[number], self.pick.randrange(1, free[number] + 1)])
                ways = [["refund", "failed"], ["open", "won"], ["open", "lost", "reinstated"], ["open", "less", "reinstated"]]
                found += [(what, number, amount, 1000 + place) for what in self.pick.choice(ways)]
        return found

    def taken(self) -> dict[int, int]:
        """What is taken back, by payment."""
        found: dict[int, int] = {}
        for _, parts in self.back:
            found[int(parts[0][1])] = found.get(int(parts[0][1]), 0) + int(parts[0][2])
        return found

    def expected(self) -> tuple[int, int, int]:
        """(what the wallet has less its debt at the end, the debt once all expired, what expired): all taken back from the start.

        `stands` is what the period has, below zero a debt; `ended` what the one before it left, until it is swept.
        """
        taken = self.taken()
        stands = ended = lost = number = 0
        for what, *sizes in [*self.steps, ("expire",)]:
            if what in ("period", "more"):
                if what == "period":
                    goes_on = min(stands, sizes[1])
                    stands, ended = goes_on, ended + stands - goes_on
                stands += sizes[0] - taken.get(number, 0)
                number += 1
            elif what == "spend":
                part = min(sizes[0], ended)
                stands, ended = stands - sizes[0] + part, ended - part
            else:
                lost, ended = lost + ended, 0
        return stands, max(-stands, 0), lost + max(stands, 0)


async def play(subscriber: Subscriber, steps: Iterable[Step]) -> None:
    number, refunds = 0, dict[tuple[Any, ...], str]()
    for place, (what, *sizes) in enumerate(steps):
        if what == "period":
            await subscriber.period(number, *sizes)
            number += 1
        elif what == "more":
            await subscriber.more(number - 1, sizes[0])
        elif what == "spend":
            await subscriber.spend(f"req-{subscriber.name}-{place}", sizes[0])
        elif what == "expire":
            await subscriber.expire()
        elif what == "refund":
            refunds[*sizes] = await subscriber.refund(sizes[0], sizes[1], f"-{place}")
        elif what == "failed":
            await subscriber.failed(refunds[*sizes])
        elif what == "reinstated":
            await subscriber.reinstate(sizes[0], sizes[2])
        elif what == "less":  # the bank takes less than was frozen
            await subscriber.dispute(sizes[0], -(-sizes[1] // 2), sizes[2], lost=True)
        else:
            await subscriber.dispute(*sizes, lost={"open": None, "lost": True, "won": False}[what])


async def play_orders(databases: Databases, ledger: Ledger, clock: Clock, history: History, orders: Iterable[list[Step]]) -> int:
    """Each order as an end user of its own; how many there were."""
    count, (net, owed, lost) = 0, history.expected()
    for count, steps in enumerate(orders, 1):
        try:
            clock.ms, subscriber = START_MS, Subscriber(ledger, clock, f"{history.name}-{count}", history.unit)
            await play(subscriber, steps)
            await subscriber.expire()
            view = await ledger.wallet(subscriber.wallet)
            assert view.available_micro - view.debt_micro == net
            clock.ms += 10 * PERIOD_MS
            await subscriber.expire()
            books, left = await stands(databases, subscriber)
            assert (-books.get("receivable.clawback/USD", 0), left) == (owed, [])
            assert books.get("revenue.breakage/USD", 0) + books.get("expense.promo/USD", 0) == lost
        except BaseException:
            print(f"replay: RANDOM_SEED={SEED} RECOVERY_HISTORY={history.name} pytest -n 0 tests/ledger/test_recovery.py", steps)
            raise
    report = await audit(databases, list(APPS), None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]
    return count


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)  # the rules are the same, and the orders many
@pytest.mark.parametrize("chunk", range(-(-HISTORIES // CHUNK)))
async def test_in_every_order_of_what_is_taken_back_and_of_what_ends_the_books_end_alike(
    databases: Databases, ledger: Ledger, clock: Clock, chunk: int
) -> None:
    names = [ALONE] if ALONE else [f"h{number}" for number in range(chunk * CHUNK, min((chunk + 1) * CHUNK, HISTORIES))]
    count = 0
    for name in names:
        history = History(name)
        count += await play_orders(databases, ledger, clock, history, history.orders())
    assert count == len(names) * ORDERS


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_what_is_undone_leaves_the_books_of_a_history_without_it(
    databases: Databases, ledger: Ledger, clock: Clock
) -> None:
    """A refund that failed, a dispute that was won, and one that was reinstated, beside others that stay."""
    names = [ALONE] if ALONE else [f"u{number}" for number in range(UNDONE)]
    for name in names:
        history = History(name)
        assert await play_orders(databases, ledger, clock, history, map(history.undone, history.orders())) == ORDERS


async def test_what_a_refund_will_take_and_leave_as_a_debt_is_told_as_it_comes(ledger: Ledger, clock: Clock) -> None:
    """Of a period that is over: what of it expired was nobody's to spend, what went on is, and the rest was spent."""
    ann = Subscriber(ledger, clock, "ann", 1)
    await ann.period(0)
    await ann.spend("req-0", SPENT)
    await ann.period(1)
    await ann.expire()
    paid, refs = [ann.payment(0), ann.payment(1)], ["re-ann-0-a", "re-ann-0-b"]
    for ref, amount, taken, debt in zip(refs, (600, 400), (100, 200), (0, 200), strict=True):
        request = RefundRequest(ann.wallet, paid[0], ref, amount, "tester")
        for is_posted in (False, True):
            assert await ledger.refunds.effect(request) == RefundEffect(taken, debt, is_posted)
            assert is_posted or await ann.refund(0, amount, ref[-2:])
    assert await ledger.refunds.refunded(APP, paid) == {paid[0]: 1000}
    for request in (RefundRequest(ann.wallet, paid[0], "re-more", 1, "t"), RefundRequest(ann.wallet, "pi_none", "re-no", 1, "t")):
        assert await ledger.refunds.effect(request) is None
    half = await ann.refund(1, 500)
    assert await ledger.refunds.refunded(APP, paid) == {paid[0]: 1000, paid[1]: 500}
    await ann.failed(half)
    assert await ledger.refunds.refunded(APP, paid) == {paid[0]: 1000}


@pytest.mark.parametrize("how", ["won", "lost for less", "failed", "reinstated"])
async def test_what_had_expired_pays_no_debt_once_its_refund_or_dispute_is_undone(
    databases: Databases, ledger: Ledger, clock: Clock, how: str
) -> None:
    ann = Subscriber(ledger, clock, "ann", 1)
    await ann.period(0, GRANT, 0)
    await ann.spend("req-0", SPENT)
    await ann.period(1, GRANT, 0)
    await ann.expire()
    await ann.spend("req-1", GRANT + 500)
    before = await stands(databases, ann)
    assert (before[0]["revenue.breakage/USD"], before[0]["receivable.clawback/USD"]) == (800, -500)
    if how == "failed":
        await ann.failed(await ann.refund(0, GRANT))
    else:
        await ann.dispute(0, GRANT)
        assert "revenue.breakage/USD" not in (await stands(databases, ann))[0]
        await ann.dispute(0, 300 if how == "lost for less" else GRANT, lost=how != "won")
        if how == "lost for less":
            assert (await stands(databases, ann))[0]["revenue.breakage/USD"] == 500
        if how != "won":
            await ann.reinstate(0)
    assert await stands(databases, ann) == before
    lines = await ledger.waiting_credits(APP)
    assert sum(line.delta_micro for line in lines[-3 if how in ("lost for less", "reinstated") else -2 :]) in (0, 800)
    await ann.expire()
    assert await stands(databases, ann) == before
    assert (await audit(databases, list(APPS), None)).ok


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "failed too"])
async def test_what_had_expired_pays_the_debt_of_a_refund_that_came_in_between(
    databases: Databases, ledger: Ledger, clock: Clock, stays: bool
) -> None:
    """It would have found that; a debt by use would not, nor one of a refund that failed as well."""
    ann = Subscriber(ledger, clock, "ann", 1)
    await ann.period(0, GRANT, 0)
    await ann.spend("req-0", SPENT)
    await ann.period(1, GRANT, 0)
    await ann.expire()
    await ann.spend("req-1", GRANT + 500)
    before = await stands(databases, ann)
    failing = await ann.refund(0, GRANT - SPENT, "-a")
    between = await ann.refund(0, SPENT, "-b")
    assert (await ledger.wallet(ann.wallet)).debt_micro == 500 + SPENT
    if not stays:
        await ann.failed(between)
    await ann.failed(failing)
    await ann.expire()
    books = (await stands(databases, ann))[0]
    if stays:
        assert (books["receivable.clawback/USD"], books["revenue.breakage/USD"]) == (-500, GRANT - SPENT - SPENT)
    else:
        assert books == before[0]
    assert (await audit(databases, list(APPS), None)).ok


@pytest.mark.parametrize("how", ["won", "reinstated", "failed"])
@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_what_is_undone_beside_the_refund_of_the_next_period_is_given_back(
    databases: Databases, ledger: Ledger, clock: Clock, how: str
) -> None:
    """That took the roll-over in place of what had expired, so nothing of it is there to go back to its lot."""
    ann = Subscriber(ledger, clock, "ann", 1)
    for number in range(PERIODS):
        await ann.period(number)
        await ann.expire()
    if how == "failed":
        failing = await ann.refund(0, GRANT)
    else:
        await ann.dispute(0, GRANT)
        if how == "reinstated":
            await ann.dispute(0, GRANT, lost=True)
    await ann.refund(1, GRANT)
    if how == "failed":
        await ann.failed(failing)
    elif how == "won":
        await ann.dispute(0, GRANT, lost=False)
    else:
        await ann.reinstate(0)
    await ann.expire()
    books, left = await stands(databases, ann)
    assert (books["stripe_clearing/USD"], "user.frozen/USD" in books, "disputes/USD" in books) == (-2 * GRANT, False, False)
    assert ("paid", GRANT) in left
    assert (await audit(databases, list(APPS), None)).ok


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_a_refund_that_fails_leaves_what_another_made_a_debt_of_a_lot_that_ended(
    databases: Databases, ledger: Ledger, clock: Clock
) -> None:
    ann = Subscriber(ledger, clock, "ann", 1)
    await ann.period(0, GRANT, 0)
    await ann.spend("req-0", GRANT)
    await ann.period(1, GRANT, 0)
    await ann.period(2, GRANT, 0)  # the one before has ended, and is not swept
    failing = await ann.refund(0, GRANT)
    await ann.refund(1, GRANT)
    await ann.failed(failing)
    assert (await audit(databases, list(APPS), None)).ok
    await ann.expire()
    view = await ledger.wallet(ann.wallet)
    assert (view.available_micro, view.debt_micro) == (GRANT, 0)
    assert (await audit(databases, list(APPS), None)).ok


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_what_had_expired_pays_no_debt_of_a_refund_that_came_before(
    databases: Databases, ledger: Ledger, clock: Clock
) -> None:
    ann = Subscriber(ledger, clock, "ann", 1)
    await ann.period(0, GRANT, 0)
    await ann.spend("req-0", GRANT)
    await ann.refund(0, SPENT)
    await ann.period(1, GRANT, 0)  # pays the debt
    await ann.period(2, GRANT, 0)
    await ann.expire()
    await ann.spend("req-2", GRANT + 500)
    before = await stands(databases, ann)
    assert (before[0]["receivable.clawback/USD"], before[0]["revenue.breakage/USD"]) == (-500, GRANT - SPENT)
    await ann.failed(await ann.refund(1, GRANT - SPENT, "-a"))
    await ann.expire()
    assert await stands(databases, ann) == before
    assert (await audit(databases, list(APPS), None)).ok


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_four_periods_refunded_in_full_in_whatever_order_owe_what_was_spent(
    databases: Databases, ledger: Ledger, clock: Clock
) -> None:
    history = History("four")
    history.unit, every = 1, [("refund", number, GRANT) for number in range(4)]
    history.back = [(0, [refund]) for refund in every]
    history.steps = []
    for number in range(4):
        history.steps += [("period", GRANT, GOES_ON), *([("spend", 34)] if number == 1 else []), ("expire",)]
    assert history.expected()[1] == 34
    orders = [[*history.steps, *order] for order in permutations(every)][SEED % THINNED :: THINNED]
    assert await play_orders(databases, ledger, clock, history, orders) == len(orders)


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_a_renewal_pays_a_debt_with_what_it_lets_expire_and_lets_nothing_go_on_that_had_ended(
    databases: Databases, ledger: Ledger, clock: Clock
) -> None:
    history = History("debt")
    period = ("period", GRANT, GOES_ON)
    history.unit, history.steps = 1, [period, ("spend", GRANT), period, period, ("expire",)]
    history.back = [(2, [("refund", 0, GRANT)])]
    orders = [[*history.steps[:at], ("refund", 0, GRANT), *history.steps[at:]] for at in (1, 2, 3, 4, 5)]
    assert history.expected() == (GRANT, 0, GRANT)
    assert await play_orders(databases, ledger, clock, history, orders) == len(orders)
    late = History("late")
    late.unit, late.back, late.steps = 1, [], [("period", GRANT, 0), ("period", GRANT, 0), ("period", GRANT, 5000)]
    assert late.expected()[0] == 2 * GRANT
    assert await play_orders(databases, ledger, clock, late, [late.steps]) == 1


@pytest.fixture
async def subscriber(ledger: Ledger, clock: Clock) -> Subscriber:
    """Three periods, the first two of which ended: 300 went on into each next, and the rest expired but for 200."""
    made = Subscriber(ledger, clock, "ann", 1)
    for number in range(PERIODS):
        await made.period(number)
        if not number:
            await made.spend("req-ann", SPENT)
        await made.expire()
    return made


async def test_only_what_was_spent_and_nothing_else_covers_is_a_debt(databases: Databases, subscriber: Subscriber) -> None:
    ledger = subscriber.ledger
    before, _ = await stands(databases, subscriber)
    assert (before["revenue.breakage/USD"], before["user.available/USD"]) == (500 + 1000, 300 + 1000)
    await subscriber.refund(0, GRANT)
    view = await ledger.wallet(subscriber.wallet)
    assert (view.debt_micro, view.available_micro) == (0, 300 + 1000)  # the next period's grant would have paid what was spent
    assert (await stands(databases, subscriber))[0]["revenue.breakage/USD"] == 500 + 1000 - GRANT
    posted = await subscriber.refund(1, GRANT)
    view = await ledger.wallet(subscriber.wallet)
    assert (view.debt_micro, view.available_micro) == (SPENT, 1000)
    (told,) = [credit for credit in await ledger.waiting_credits(APP) if credit.txn_id == posted]
    assert told.delta_micro == 500 - GRANT  # what expired had left the hot wallet before
    after, left = await stands(databases, subscriber)
    assert ("revenue.breakage/USD" not in after, left) == (True, [("paid", 1000)])
    assert (await audit(databases, list(APPS), None)).ok


@pytest.mark.parametrize("won", [True, False], ids=["won", "lost"])
async def test_an_opened_dispute_freezes_what_went_on_and_its_end_gives_that_back(
    databases: Databases, subscriber: Subscriber, won: bool
) -> None:
    """Of both periods that ended, before their disputes nothing is left; what is reinstated after a loss is as if won."""
    payments, before = subscriber.ledger.payments, await stands(databases, subscriber)
    for number in (0, 1):
        await subscriber.dispute(number, GRANT)
    books, left = await stands(databases, subscriber)
    assert (books["user.frozen/USD"], left) == (2 * GRANT - SPENT, [("paid", 1000)])
    for number in (1, 0):
        await subscriber.dispute(number, GRANT, lost=not won)
    view = await subscriber.ledger.wallet(subscriber.wallet)
    if not won:
        assert (view.debt_micro, view.available_micro) == (SPENT, 1000)
        for number in (1, 0):
            ref = f"dp-ann-{number}-0"
            await payments.reinstate(DisputeRequest(subscriber.wallet, subscriber.payment(number), ref, GRANT, "tester"))
    assert "user.frozen/USD" not in (await stands(databases, subscriber))[0]
    await subscriber.expire()
    assert await stands(databases, subscriber) == before
    assert (await audit(databases, list(APPS), None)).ok


async def test_what_was_frozen_over_a_renewal_can_be_spent_as_long_as_before_and_the_next_renewal_ends_it(
    databases: Databases, subscriber: Subscriber
) -> None:
    await subscriber.refund(0, 800)
    await subscriber.dispute(1, GRANT)
    has_ms = START_MS + PERIODS * PERIOD_MS + PERIOD_MS // 2 - subscriber.clock.ms
    await subscriber.period(PERIODS)
    subscriber.clock.ms += PERIOD_MS - 10
    await subscriber.expire()
    await subscriber.dispute(1, GRANT, lost=False)
    won_ms = subscriber.clock.ms
    await subscriber.expire()
    assert (await stands(databases, subscriber))[1] == [("paid", 1000), ("rollover", 300), ("rollover", 300)]
    lots = (await subscriber.ledger.wallet(subscriber.wallet)).lots
    assert won_ms + has_ms in [lot.expires_at_ms for lot in lots]
    await subscriber.period(PERIODS + 1)
    await subscriber.expire()
    assert (await stands(databases, subscriber))[1] == [("paid", 1000), ("rollover", 300)]
    assert (await audit(databases, list(APPS), None)).ok


async def test_a_dispute_that_is_won_leaves_what_had_expired_expired(ledger: Ledger, clock: Clock, databases: Databases) -> None:
    """It pays no debt, and cannot be spent; a refund finds it as before."""
    ann = Subscriber(ledger, clock, "ann", 1)
    await ann.period(0, GRANT, 0)
    await ann.spend("r0", SPENT)
    await ann.period(1, GRANT, 0)
    await ann.expire()
    await ann.spend("r1", GRANT + 500)
    before = await stands(databases, ann)
    await ann.dispute(0, GRANT)
    await ann.dispute(0, GRANT, lost=False)
    assert await stands(databases, ann) == before
    await ann.expire()
    view = await ledger.wallet(ann.wallet)
    assert (view.available_micro, view.debt_micro) == (0, 500)
    await ann.refund(0, GRANT - SPENT)
    assert (await ledger.wallet(ann.wallet)).debt_micro == 500
    assert (await audit(databases, list(APPS), None)).ok


async def test_a_bank_that_takes_less_than_was_frozen_leaves_what_a_refund_would_leave(
    databases: Databases, subscriber: Subscriber
) -> None:
    await subscriber.refund(0, 800)
    await subscriber.dispute(1, GRANT)
    assert (await stands(databases, subscriber))[1] == [("paid", 1000)]
    ref = DisputeRequest(subscriber.wallet, subscriber.payment(1), "dp-ann-1-0", 900, "tester")
    await subscriber.ledger.payments.dispute_closed(ref, won=False)
    await subscriber.expire()
    assert (await stands(databases, subscriber))[1] == [("paid", 1000), ("rollover", 100)]
    await subscriber.ledger.payments.reinstate(ref)
    await subscriber.expire()
    assert (await stands(databases, subscriber))[1] == [("paid", 1000), ("rollover", 100), ("rollover", 200)]
    assert (await audit(databases, list(APPS), None)).ok


async def test_periods_that_were_all_told_in_one_moment_are_refunded(databases: Databases, ledger: Ledger, clock: Clock) -> None:
    """So the first roll-over was made and ended in the same millisecond."""
    late = Subscriber(ledger, clock, "late", 1)
    clock.ms = START_MS + 5 * PERIOD_MS
    for number in range(PERIODS):
        await late.period(number)
    await late.expire()
    assert (await stands(databases, late))[1] == [("paid", 1000), ("rollover", 300)]
    for number in (1, 0):
        await late.refund(number, GRANT)
    assert (await ledger.wallet(late.wallet)).debt_micro == 0
    assert (await stands(databases, late))[1] == [("paid", 1000)]
    assert (await audit(databases, list(APPS), None)).ok


async def test_a_refund_that_failed_gives_back_what_had_gone_on_and_the_next_renewal_ends_it(
    databases: Databases, subscriber: Subscriber
) -> None:
    """All that the first two periods had unspent is refunded; then both refunds fail, the later one first."""
    payments = subscriber.ledger.payments
    before = await stands(databases, subscriber)
    first, second = await subscriber.refund(0, 800), await subscriber.refund(1, GRANT)
    assert (await stands(databases, subscriber))[1] == [("paid", 1000)]
    await payments.correct(CorrectionRequest(APP, second, "second failed", "tester"))
    await subscriber.expire()
    assert (await stands(databases, subscriber))[1] == [("paid", 1000), ("rollover", 300)]
    await payments.correct(CorrectionRequest(APP, first, "first failed", "tester"))
    await subscriber.expire()
    assert await stands(databases, subscriber) == before
    await subscriber.period(PERIODS)
    await subscriber.expire()
    assert (await stands(databases, subscriber))[1] == [("paid", 1000), ("rollover", 300)]
    assert (await audit(databases, list(APPS), None)).ok


async def test_what_expired_is_given_back_once(databases: Databases, subscriber: Subscriber) -> None:
    lots, entries, txns = (APP_BOOKS[name] for name in ("lots", "entries", "txns"))
    query = sa.select(txns.c.id).join(entries, entries.c.txn_id == txns.c.id).join(lots, lots.c.id == entries.c.lot_id)
    async with (await databases.app(APP)).connect() as conn:
        of_first = query.where(txns.c.kind == "expiry", lots.c.external_ref == subscriber.payment(0))
        (expiry,) = (await conn.execute(of_first)).scalars()
    await subscriber.refund(0, 400)
    with pytest.raises(InvalidRequest, match="gone back"):
        await subscriber.ledger.payments.correct(CorrectionRequest(APP, expiry, "again", "tester"))
    assert (await audit(databases, list(APPS), None)).ok

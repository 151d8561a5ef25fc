"""A refund of a period that was renewed since: in whatever order renewals, expiries and refunds come, the books end alike.

Each order has an end user of its own. Half of the orders buy with another money. RECOVERY_THINNED=1 plays all of them.
"""

import os
from collections.abc import Iterator
from itertools import combinations
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
from gateway.ledger.service import Ledger
from tests.ledger.conftest import APPS, START_MS, Clock
from tests.ledger.values import expire_all, grant_request, posting

APP: Final = "shop"
PERIOD_MS: Final = 1_000_000
PERIODS: Final = 3
GRANT: Final = 1000
GOES_ON: Final = 300
SPENT: Final = 200
THINNED: Final = int(os.environ.get("RECOVERY_THINNED", 9))


class Subscriber:
    """A subscription's periods of 1000, of which 300 go on; 200 are spent in the first."""

    def __init__(self, ledger: Ledger, clock: Clock, name: str, unit: int) -> None:
        self.ledger, self.clock, self.name, self.unit = ledger, clock, name, unit
        self.wallet = WalletKey(name, APP)

    async def period(self, number: int) -> None:
        """What came before goes on, and a period is granted."""
        starts, ends = START_MS + number * PERIOD_MS, START_MS + (number + 1) * PERIOD_MS
        self.clock.ms = starts + 10
        until, series = ends + PERIOD_MS // 2, f"sub-{self.name}"
        await self.ledger.payments.renew(RenewalRequest(self.wallet, series, starts, GOES_ON, until, "tester"))
        await self.ledger.grant(
            grant_request(
                allowance_op(series, starts, ends, f"in{number}"),
                GRANT,
                self.wallet,
                source=LotSource.PAID,
                external_ref=self.payment(number),
                expires_at_ms=until,
                paid=Paid("EUR", GRANT * self.unit) if self.unit > 1 else None,
            )
        )
        if number == 0:
            await self.spend(f"req-{self.name}", SPENT)

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


def orders() -> Iterator[list[tuple[str, int]]]:
    """The periods, one or two refunds of the first or second after what they are of, expiries after each period or none."""
    periods = [("period", number) for number in range(PERIODS)]
    for of in ((0,), (1,), (0, 1)):
        for at in _places(of):
            for expiries in ((), (1,), (2,), (1, 2)):
                steps: list[tuple[str, int]] = []
                for number, period in enumerate(periods):
                    steps.append(period)
                    steps += [("refund", which) for which, place in at if place == 2 * number]
                    steps += [("expire", 0)] if number in expiries else []
                    steps += [("refund", which) for which, place in at if place == 2 * number + 1]
                yield steps


def _said(steps: list[tuple[str, int]]) -> list[str]:
    return [f"{what} {which}" for what, which in steps]


def _places(of: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Where each refund comes: right after a period, or after the expiry that follows it; and at one place in either order."""
    places = range(2 * PERIODS)
    if len(of) == 1:
        yield from (((of[0], place),) for place in places if place >= 2 * of[0])
        return
    for one, other in combinations(places, 2):
        yield ((0, one), (1, other))
        yield ((1, other), (0, one))
        yield ((0, other), (1, one))
    for place in places:
        yield ((0, place), (1, place))
        yield ((1, place), (0, place))


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)  # the rules are the same, and the orders many
@pytest.mark.parametrize("amount", [100, 400, 800])
async def test_in_every_order_of_renewal_expiry_and_refund_the_books_end_alike(
    databases: Databases, ledger: Ledger, clock: Clock, amount: int
) -> None:
    ends: dict[tuple[Any, ...], tuple[Any, list[tuple[str, int]]]] = {}
    every = [steps for steps in orders() if "refund 1" not in _said(steps[: steps.index(("period", 1))])]
    every = every[{100: 0, 400: 1, 800: 2}[amount] :: THINNED]
    assert len(every) >= 30 // THINNED, len(every)
    for number, steps in enumerate(every):
        subscriber = Subscriber(ledger, clock, f"u{number}", 1 + 6 * (number % 2))
        for what, which in steps:
            if what == "period":
                await subscriber.period(which)
            elif what == "expire":
                await subscriber.expire()
            else:
                await subscriber.refund(which, amount)
        await subscriber.expire()
        found = await stands(databases, subscriber)
        key = (subscriber.unit, tuple(sorted(which for what, which in steps if what == "refund")))
        expected, first = ends.setdefault(key, (found, steps))
        assert found == expected, (first, steps)
        assert "receivable.clawback/USD" not in found[0], steps
    report = await audit(databases, list(APPS), None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]


@pytest.fixture
async def subscriber(ledger: Ledger, clock: Clock) -> Subscriber:
    """Three periods, the first two of which ended: 300 went on into each next, and the rest expired."""
    made = Subscriber(ledger, clock, "ann", 1)
    for number in range(PERIODS):
        await made.period(number)
        await made.expire()
    return made


async def test_only_what_was_spent_of_an_ended_period_is_a_debt(databases: Databases, subscriber: Subscriber) -> None:
    ledger = subscriber.ledger
    before, _ = await stands(databases, subscriber)
    assert (before["revenue.breakage/USD"], before["user.available/USD"]) == (500 + 1000, 300 + 1000)
    posted = await subscriber.refund(0, GRANT)
    view = await ledger.wallet(subscriber.wallet)
    assert (view.debt_micro, view.available_micro) == (SPENT, 300 + 1000)
    (told,) = [credit for credit in await ledger.waiting_credits(APP) if credit.txn_id == posted]
    assert told.delta_micro == -SPENT  # what expired had left the hot wallet before
    after, _ = await stands(databases, subscriber)
    assert after["revenue.breakage/USD"] == 500 + 1000 - 800
    assert (await audit(databases, list(APPS), None)).ok


async def test_a_lost_dispute_of_an_ended_period_takes_what_expired_and_reinstated_it_expires_again(
    databases: Databases, subscriber: Subscriber
) -> None:
    before = await stands(databases, subscriber)
    request = DisputeRequest(subscriber.wallet, subscriber.payment(0), "dp", GRANT, "tester")
    await subscriber.ledger.payments.dispute_opened(request)
    await subscriber.ledger.payments.dispute_closed(request, won=False)
    assert (await subscriber.ledger.wallet(subscriber.wallet)).debt_micro == SPENT
    await subscriber.ledger.payments.reinstate(request)
    await subscriber.expire()
    assert await stands(databases, subscriber) == before
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

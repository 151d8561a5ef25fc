"""Overage in the books: lent, used, paid and given up. SEED repeats the random histories, LENT_HISTORIES is their number."""

import os
import random
from collections.abc import Mapping
from typing import Final

import msgspec
import pytest
import sqlalchemy as sa

from gateway.core.errors import Conflict, InvalidRequest, NotFound
from gateway.core.words import LotSource
from gateway.db.engines import Databases
from gateway.db.tables import APP_BOOKS
from gateway.ledger.audit import audit
from gateway.ledger.lending import PRIORITY, Lent, WriteOffRequest
from gateway.ledger.model import (
    OVERAGE,
    CorrectionRequest,
    DisputeRequest,
    Fees,
    Lot,
    Paid,
    RefundRequest,
    RolloverRequest,
    WalletKey,
)
from gateway.ledger.service import Ledger
from tests.ledger.conftest import APPS, START_MS, Clock
from tests.ledger.test_service import balances
from tests.ledger.values import SHOPPER, expire_all, grant_request, hot_of, posting

SEED: Final = int(os.environ.get("SEED", "20261123"))
HISTORIES: Final = int(os.environ.get("LENT_HISTORIES", "40"))
END_MS: Final = START_MS + 1_000_000


async def lend(ledger: Ledger, amount: int, op: str = "line", wallet: WalletKey = SHOPPER, ends_ms: int = END_MS) -> Lot:
    request = grant_request(op, amount, wallet, source=LotSource.OVERAGE, priority=PRIORITY, expires_at_ms=ends_ms)
    return (await ledger.grant(request)).lot


async def spend(ledger: Ledger, amount: int, name: str = "r", wallet: WalletKey = SHOPPER) -> None:
    row = posting(name, end_user=wallet.owner, amount_micro=amount)
    await ledger.post_app_usage("shop", [row])
    await ledger.post_platform_usage([row])


async def pay(
    ledger: Ledger, amount: int, ref: str = "pi", fee: int = 0, paid: Paid | None = None, given_up: tuple[str, ...] = ()
) -> Lot:
    fees = Fees(platform_micro=fee)
    request = grant_request(f"bill {ref}", amount, source="paid", external_ref=ref, fees=fees, paid=paid)
    request = msgspec.structs.replace(request, repays=OVERAGE, unless_given_up=given_up)
    return (await ledger.grant(request)).lot


async def clean(databases: Databases) -> None:
    report = await audit(databases, list(APPS), None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]


async def standing(databases: Databases, *kinds: str) -> Mapping[str, int]:
    found = await balances(databases, "shop")
    return {name: amount for name, amount in found.items() if any(kind in name for kind in kinds) and amount}


async def test_what_is_lent_burns_last_and_what_is_not_used_goes_back(
    ledger: Ledger, clock: Clock, databases: Databases
) -> None:
    lot = await lend(ledger, 500)
    await ledger.grant(grant_request("allowance", 1000))
    await spend(ledger, 1100)
    assert await ledger.lending.standing(SHOPPER) == Lent(100, 400)
    stands = {"ann/receivable.overage/USD": -500, "ann/user.available/USD": 400}
    assert await standing(databases, "overage", "available") == stands
    await ledger.lending.end(SHOPPER, lot.id)
    clock.ms += 1
    assert await expire_all(ledger, "shop") == 1
    assert await ledger.lending.standing(SHOPPER) == Lent(100, 0)
    ended = await ledger.lending.lot(SHOPPER, lot.id)
    assert (ended.spent_micro, ended.left_micro, ended.expired_micro) == (100, 0, 400)
    assert await standing(databases, "overage", "breakage") == {"ann/receivable.overage/USD": -100}
    await clean(databases)


async def test_a_bill_pays_for_what_was_used_and_adds_nothing_to_spend(ledger: Ledger, databases: Databases) -> None:
    await lend(ledger, 500)
    await spend(ledger, 120)
    before = (await ledger.opening(SHOPPER)).amount_micro
    granted = await ledger.grant(
        grant_request(
            "bill", 120, source="paid", external_ref="pi", repays=OVERAGE, paid=Paid("EUR", 90), fees=Fees(platform_micro=9)
        )
    )
    assert granted.credit is None
    assert (granted.lot.spent_micro, granted.lot.left_micro) == (120, 0)
    assert (await ledger.opening(SHOPPER)).amount_micro == before
    assert await ledger.lending.standing(SHOPPER) == Lent(0, 380)
    assert (await balances(databases, "shop"))["/exchange/USD"] == -120
    assert await ledger.waiting_credits("shop") != []  # of the line alone
    assert {credit.delta_micro for credit in await ledger.waiting_credits("shop")} == {500}
    await clean(databases)
    with pytest.raises(InvalidRequest, match="0 is unpaid"):
        await pay(ledger, 1, "pi_2")
    await clean(databases)


async def test_what_is_lent_pays_no_debt_and_goes_back_from_under_one(
    ledger: Ledger, clock: Clock, databases: Databases
) -> None:
    await spend(ledger, 70)  # beyond its hold: a debt
    lot = await lend(ledger, 100)
    assert (await ledger.opening(SHOPPER)).amount_micro + 100 == 30  # its credit waits
    await ledger.lending.end(SHOPPER, lot.id)
    clock.ms += 1
    assert await expire_all(ledger, "shop") == 1
    assert await ledger.lending.standing(SHOPPER) == Lent(0, 0)
    assert (await ledger.wallet(SHOPPER)).debt_micro == 70
    assert sum(credit.delta_micro for credit in await ledger.waiting_credits("shop")) == -70  # 30 were taken there
    await clean(databases)


async def test_a_lot_of_which_nothing_was_taken_once_ends_all_the_same(
    ledger: Ledger, clock: Clock, databases: Databases
) -> None:
    """The hot store was asked for nothing, as all was in flight, and remembers that for good; then the process ended."""
    lot = await lend(ledger, 500)
    await expire_all(ledger, "shop")  # its credit is applied
    await ledger.lending.end(SHOPPER, lot.id)
    clock.ms += 1
    await ledger.expiries.begin(lot, SHOPPER)
    ((due, _),) = await ledger.expiries.due("shop")
    hot = await hot_of(ledger, SHOPPER)
    hot.taken[f"expiry:{due.expiring}"] = 0
    assert await ledger.expiries.expire(due, SHOPPER, hot) is None
    ((again, _),) = await ledger.expiries.due("shop")
    assert await ledger.expiries.expire(again, SHOPPER, hot) is not None
    assert await ledger.lending.standing(SHOPPER) == Lent(0, 0)
    await clean(databases)


async def test_what_is_given_up_may_be_paid_after_all(ledger: Ledger, databases: Databases) -> None:
    await lend(ledger, 500)
    await spend(ledger, 200)
    loss = WriteOffRequest(SHOPPER, 150, "give-up", "tester")
    first = await ledger.lending.write_off(loss)
    assert (await ledger.lending.write_off(loss)).txn_id == first.txn_id
    with pytest.raises(Conflict):
        await ledger.lending.write_off(WriteOffRequest(SHOPPER, 10, "give-up", "tester"))
    with pytest.raises(InvalidRequest, match="50 is unpaid"):
        await ledger.lending.write_off(WriteOffRequest(SHOPPER, 51, "more", "tester"))
    await ledger.lending.write_off(WriteOffRequest(SHOPPER, 50, "gift", "tester", is_gift=True))
    assert await standing(databases, "bad_debt", "promo", "overage") == {
        "/expense.bad_debt/USD": -150,
        "/expense.promo/USD": -50,
        "ann/receivable.overage/USD": -300,
    }
    await pay(ledger, 150, given_up=("nothing", "give-up"))
    assert await standing(databases, "bad_debt") == {}
    assert await ledger.lending.standing(SHOPPER) == Lent(0, 300)
    await clean(databases)


async def test_what_was_paid_is_not_given_up_and_what_was_given_up_is_paid_for_as_that(
    ledger: Ledger, databases: Databases
) -> None:
    """Of two processes that see one bill differently the book lets one be first."""
    await lend(ledger, 500)
    await spend(ledger, 200)
    await pay(ledger, 100)
    with pytest.raises(Conflict, match="was paid"):
        await ledger.lending.write_off(WriteOffRequest(SHOPPER, 100, "late", "tester", unless_op="bill pi"))
    assert await ledger.lending.standing(SHOPPER) == Lent(100, 300)
    await ledger.lending.write_off(WriteOffRequest(SHOPPER, 60, "gift", "tester", is_gift=True, unless_op="bill pi_2"))
    await pay(ledger, 60, "pi_2", given_up=("lost", "gift"))
    assert await standing(databases, "promo") == {}
    assert await ledger.lending.standing(SHOPPER) == Lent(40, 300)
    await clean(databases)


async def test_a_paid_bill_is_refunded_and_disputed_as_any_payment(ledger: Ledger, databases: Databases) -> None:
    await lend(ledger, 500)
    await spend(ledger, 200)
    await pay(ledger, 200, fee=20)
    await ledger.payments.refund(RefundRequest(SHOPPER, "pi", "re", 50, "tester", fee_returned_micro=5))
    await ledger.payments.dispute_opened(DisputeRequest(SHOPPER, "pi", "dp", 150, "tester"))
    await ledger.payments.dispute_closed(DisputeRequest(SHOPPER, "pi", "dp", 150, "tester"), won=False)
    assert (await ledger.wallet(SHOPPER)).debt_micro == 200
    assert await ledger.lending.standing(SHOPPER) == Lent(0, 300)
    await clean(databases)


async def test_what_is_lent_is_not_corrected_nor_rolled_over_and_of_nobody_else(ledger: Ledger, clock: Clock) -> None:
    lot = await lend(ledger, 500)
    txn = (await ledger.payments.posted_as("shop", "line"))
    assert txn is not None
    for refused in (
        ledger.payments.correct(CorrectionRequest("shop", txn.id, "undo", "tester")),
        ledger.payments.rollover(RolloverRequest(SHOPPER, lot.id, "on", "tester")),
        ledger.grant(grant_request("endless", 5, source="overage")),
        ledger.grant(grant_request("paid", 5, source="promo", repays=OVERAGE)),
        ledger.grant(grant_request("what", 5, source="paid", external_ref="x", repays="user.available")),
    ):
        with pytest.raises(InvalidRequest):
            await refused
    with pytest.raises(NotFound):
        await ledger.lending.end(WalletKey("bob", "shop"), lot.id)
    other = (await ledger.grant(grant_request("promo", 5))).lot
    with pytest.raises(NotFound):
        await ledger.lending.end(SHOPPER, other.id)
    await ledger.lending.end(SHOPPER, lot.id)
    clock.ms += 1
    await expire_all(ledger, "shop")
    (expiry,) = [await ledger.payments.posted_as("shop", f"expiry:{name}") for name in await _expiries(ledger)]
    assert expiry is not None
    with pytest.raises(InvalidRequest, match="lend it again"):
        await ledger.payments.correct(CorrectionRequest("shop", expiry.id, "undo 2", "tester"))


async def _expiries(ledger: Ledger) -> list[str]:
    txns = APP_BOOKS["txns"]
    async with (await ledger.databases.app("shop")).connect() as conn:
        return list((await conn.execute(sa.select(txns.c.id).where(txns.c.kind == "expiry"))).scalars())


async def test_usage_of_a_line_that_is_given_back_is_a_gift(ledger: Ledger, databases: Databases) -> None:
    await lend(ledger, 500)
    await spend(ledger, 200)
    used = await ledger.payments.posted_as("shop", "usage:r")
    assert used is not None
    await ledger.payments.correct(CorrectionRequest("shop", used.id, "sorry", "tester"))
    assert await ledger.lending.standing(SHOPPER) == Lent(200, 300)  # billed all the same
    sources = sorted((lot.source, lot.left_micro) for lot in (await ledger.wallet(SHOPPER)).lots)
    assert sources == [("overage", 300), ("promo", 200)]
    await clean(databases)


class _Model:
    """A wallet with a credit line in plain integers; shares no code with the books."""

    def __init__(self) -> None:
        self.own = self.line = self.used = self.debt = self.lost = 0

    def grant(self, amount: int) -> None:
        paid = min(self.debt, amount)
        self.debt -= paid
        self.own += amount - paid

    def spend(self, amount: int) -> None:
        for name in ("own", "line"):
            part = min(amount, getattr(self, name))
            setattr(self, name, getattr(self, name) - part)
            amount -= part
            self.used += part if name == "line" else 0
        self.debt += amount


@pytest.mark.parametrize("number", range(HISTORIES))
async def test_random_histories(ledger: Ledger, clock: Clock, databases: Databases, number: int) -> None:
    seed = SEED + number
    dice, model, lines = random.Random(seed), _Model(), 0
    said: list[str] = []
    payments: dict[str, int] = {}
    losses: list[str] = []
    for step in range(14):
        what = dice.choice(("grant", "lend", "spend", "spend", "end", "pay", "give up", "pay loss", "refund"))
        amount = dice.randint(1, 400)
        said.append(f"{what} {amount}")
        if what == "grant":
            await ledger.grant(grant_request(f"g{step}", amount))
            model.grant(amount)
        elif what == "lend":
            await lend(ledger, amount, f"l{step}")
            lines, model.line = lines + 1, model.line + amount
        elif what == "spend":
            await spend(ledger, amount, f"r{step}")
            model.spend(amount)
        elif what == "end":
            for lot in (await ledger.wallet(SHOPPER)).lots:
                if lot.source == LotSource.OVERAGE:
                    await ledger.lending.end(SHOPPER, lot.id)
            clock.ms += 1
            await expire_all(ledger, "shop")
            model.line = 0
        elif what == "pay" and model.used:
            part = min(amount, model.used)
            await pay(ledger, part, f"pi{step}", paid=dice.choice((None, Paid("EUR", part * 3))))
            payments[f"pi{step}"] = part
            model.used -= part
        elif what == "give up" and model.used:
            part = min(amount, model.used)
            await ledger.lending.write_off(WriteOffRequest(SHOPPER, part, f"w{step}", "tester"))
            losses.append(f"w{step}")
            model.used, model.lost = model.used - part, model.lost + part
        elif what == "pay loss" and model.lost:
            part = min(amount, model.lost)
            await pay(ledger, part, f"pl{step}", given_up=tuple(name for name in losses))
            model.lost -= part
        elif what == "refund" and payments:
            ref, part = payments.popitem()
            stands = await ledger.payments.standing(SHOPPER, ref)
            assert stands is not None
            await ledger.payments.refund(RefundRequest(SHOPPER, ref, f"re{step}", stands.paid_micro, "tester"))
            model.debt += part
        told = f"SEED={seed} LENT_HISTORIES=1: {said}"
        assert await ledger.lending.standing(SHOPPER) == Lent(model.used, model.line), told
        view = await ledger.wallet(SHOPPER)
        assert (view.available_micro, view.debt_micro) == (model.own + model.line, model.debt), told
    await clean(databases)

"""All orders of spending, refunds, their failing, and a dispute's states, on one payment of other money: the rules alone."""

from collections.abc import Iterator
from typing import Final

import msgspec
import pytest

from gateway.core.errors import InvalidRequest
from gateway.ledger import endings, invariants
from gateway.ledger.model import DEBT, EXCHANGE, FROZEN, Exchanged, Lot, Txn
from gateway.ledger.payment_queries import MONEY

DEPTH: Final = 8
PAID: Final = 1003


class Standing(msgspec.Struct, frozen=True):
    """A payment's lot, what its owner owes, what of the money went back, and what was posted."""

    lot: Lot
    debt: int = 0
    gone: int = 0
    moves: int = 1
    exchange: tuple[int, int] = (PAID, 0)  # of the money, of the tokens (less what was granted)
    opened: Txn | None = None
    closed: Txn | None = None
    reinstated: bool = False
    refunds: tuple[Txn, ...] = ()


def head(number: int) -> endings.Head:
    return endings.Head(f"txn_{number}", f"op_{number}", "ann", "TOK", "test", "", 0)


def after(was: Standing, posting: endings.Posting, money: int, **changed: object) -> Standing:
    entries = posting.txn.entries
    (lot,) = posting.lots
    debt = was.debt - sum(one.amount_micro for one in entries if one.account.kind == DEBT)
    moved = {
        asset: sum(one.amount_micro for one in entries if (one.account.kind, one.account.asset) == (EXCHANGE, asset))
        for asset in ("USD", "TOK")
    }
    exchange = (was.exchange[0] + moved["USD"], was.exchange[1] + moved["TOK"])
    now = {"lot": lot, "debt": debt, "gone": was.gone + money, "moves": was.moves + 1, "exchange": exchange, **changed}
    return msgspec.structs.replace(was, **now)


def steps(was: Standing) -> Iterator[tuple[str, Standing]]:
    """Every step that can be made, and what stands after it."""
    lot, how, number = was.lot, Exchanged("USD", PAID, was.gone), was.moves
    if lot.left_micro:
        part = min(lot.left_micro, 7)
        spent = msgspec.structs.replace(lot, spent_micro=lot.spent_micro + part, left_micro=lot.left_micro - part)
        yield "spend", msgspec.structs.replace(was, lot=spent)
    for amount in {401, PAID - was.gone} - {0}:
        try:
            posting = endings.refund(head(number), lot, amount, 0, how)
        except InvalidRequest:
            continue
        yield f"refund {amount}", after(was, posting, amount, refunds=(*was.refunds, posting.txn))
    if was.refunds:
        wrong = was.refunds[0]
        posting = endings.correction(head(number), wrong, {lot.id: lot}, "made", was.debt)
        yield "refund failed", after(was, posting, -_money(wrong), refunds=was.refunds[1:])
    if was.opened is None:
        try:
            posting = endings.dispute_opened(head(number), lot, 500, how)
        except InvalidRequest:
            return
        yield "opened", after(was, posting, 0, opened=posting.txn)
    elif was.closed is None:
        won = endings.dispute_won(head(number), lot, was.opened)
        frozen = sum(one.amount_micro for one in was.opened.entries if one.account.kind == FROZEN)
        assert won.lots[0].left_micro - lot.left_micro == frozen
        yield "won", after(was, won, 0, closed=won.txn, reinstated=True)
        try:
            lost = endings.dispute_lost(head(number), lot, was.opened, 500, how)
        except InvalidRequest:
            return
        yield "lost", after(was, lost, _money(lost.txn), closed=lost.txn)
    elif not was.reinstated:
        posting = endings.reinstated(head(number), lot, was.closed, "made", was.debt)
        yield "reinstated", after(was, posting, _money(posting.txn), reinstated=True)


def _money(txn: Txn) -> int:
    return sum(one.amount_micro for one in txn.entries if one.account.kind in MONEY)


def violations(now: Standing) -> list[str]:
    lot = now.lot
    taken = lot.refunded_micro + lot.clawback_micro
    parts = (lot.granted_micro, lot.spent_micro, lot.expired_micro, lot.refunded_micro, lot.frozen_micro, lot.left_micro)
    said = [
        invariants.lot_adds_up(lot.id, *parts),
        invariants.clawback_within_lot(lot.id, lot.spent_micro, lot.expired_micro, lot.clawback_micro),
        invariants.went_back_in_step("pi", PAID, now.gone, lot.granted_micro, taken, now.moves),
        None if now.debt >= 0 else "the debt is below zero",
        None if now.exchange == (PAID - now.gone, taken) else f"exchange stands at {now.exchange}, {now.gone} and {taken} went",
    ]
    return [each for each in said if each]


@pytest.mark.parametrize("granted", [1003, 20, 5_000_001], ids=["one for one", "fewer", "more"])
def test_in_every_order_the_lot_and_the_money_go_together(granted: int) -> None:
    lot = Lot("lot", "paid", 0, 0, None, 0, granted, 0, granted, external_ref="pi")
    seen = 0

    def walk(was: Standing, path: tuple[str, ...]) -> None:
        nonlocal seen
        for name, now in steps(was):
            seen += 1
            wrong = violations(now)
            assert not wrong, (*path, name, wrong)
            if len(path) + 1 < DEPTH:
                walk(now, (*path, name))

    walk(Standing(lot), ())
    assert seen > 2000

"""A processor's word on a dispute in any order: closed before it was opened ends in the same books as opened and closed."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.core.errors import Conflict, InvalidRequest
from gateway.core.words import LotSource
from gateway.db.engines import Databases
from gateway.db.tables import APP_BOOKS, PLATFORM_BOOKS
from gateway.ledger.audit import audit
from gateway.ledger.model import DISPUTE_EXCESS, DISPUTES, DisputeRequest, Paid, RefundRequest, WalletKey
from gateway.ledger.service import Ledger
from gateway.ledger.store import LOT_COLUMNS
from tests.ledger.conftest import APPS
from tests.ledger.values import grant_request, posting

SPENT = 700


def disputed(wallet: WalletKey, amount_micro: int = 1000, ref: str = "dp", **changed: str) -> DisputeRequest:
    told = {"payment_ref": f"pi_{wallet.owner}", "dispute_ref": f"{ref}_{wallet.owner}", "actor": "stripe", **changed}
    return DisputeRequest(wallet=wallet, amount_micro=amount_micro, **told)


async def paid_and_spent(ledger: Ledger, wallet: WalletKey) -> None:
    request = grant_request(f"g_{wallet.owner}", wallet=wallet, source=LotSource.PAID, external_ref=f"pi_{wallet.owner}")
    await ledger.grant(request)
    used = [posting(f"req_{wallet.owner}", end_user=wallet.owner, amount_micro=SPENT, held_micro=SPENT, creator_held_micro=0)]
    await ledger.post_app_usage("shop", used)
    await ledger.post_platform_usage(used)


async def left(databases: Databases, ledger: Ledger, wallet: WalletKey) -> tuple[dict[str, int], list[Any], list[str], int]:
    """All that the books say of an owner, but for the names of its rows; and what the hot store has to hear."""
    books = PLATFORM_BOOKS if wallet.enterprise_id is None else APP_BOOKS
    engine = databases.platform if wallet.enterprise_id is None else await databases.app(wallet.enterprise_id)
    accounts, lots, txns = books["accounts"], books["lots"], books["txns"]
    async with engine.connect() as conn:
        rows = (await conn.execute(sa.select(accounts).where(accounts.c.owner == wallet.owner))).all()
        parts = [lots.c[name] for name in LOT_COLUMNS if name.endswith("_micro")]
        mine = (await conn.execute(sa.select(*parts).where(lots.c.account_id.in_([row.id for row in rows])))).all()
        kinds = (await conn.execute(sa.select(txns.c.kind).where(txns.c.op_id.like(f"dispute:dp_{wallet.owner}:%")))).scalars()
        told = sorted(kinds)
    balances = {row.kind: row.balance_micro for row in rows if row.balance_micro}
    hears = sum(
        credit.delta_micro for credit in await ledger.waiting_credits(wallet.enterprise_id) if credit.wallet == wallet.name
    )
    return balances, [tuple(row) for row in mine], told, hears


@pytest.mark.parametrize("won", [True, False], ids=["won", "lost"])
async def test_closed_and_then_opened_leaves_what_opened_and_then_closed_leaves(
    databases: Databases, ledger: Ledger, won: bool
) -> None:
    in_order, reversed_ = WalletKey("ann", "shop"), WalletKey("bob", "shop")
    for wallet in (in_order, reversed_):
        await paid_and_spent(ledger, wallet)
    payments = ledger.payments
    await payments.dispute_opened(disputed(in_order))
    await payments.dispute_closed(disputed(in_order), won=won)
    closed = await payments.dispute_closed(disputed(reversed_), won=won)
    assert closed.first
    before = await left(databases, ledger, reversed_)
    late = await payments.dispute_opened(disputed(reversed_, 999, reason="needs_response", actor="webhook"))
    assert not late.first, "it was opened with its closing"
    assert late.credit is None
    assert (await payments.dispute_closed(disputed(reversed_), won=won)).txn_id == closed.txn_id
    assert before == await left(databases, ledger, reversed_) == await left(databases, ledger, in_order)
    with pytest.raises(Conflict):
        await payments.dispute_closed(disputed(reversed_), won=not won)
    assert (await audit(databases, list(APPS), None)).ok


async def test_a_loss_that_was_told_first_can_be_reinstated(databases: Databases, ledger: Ledger) -> None:
    wallet = WalletKey("ann", "shop")
    await paid_and_spent(ledger, wallet)
    before = await left(databases, ledger, wallet)
    await ledger.payments.dispute_closed(disputed(wallet), won=False)
    await ledger.payments.reinstate(disputed(wallet))
    await ledger.payments.dispute_opened(disputed(wallet))
    after = await left(databases, ledger, wallet)
    assert before[:2] == after[:2]
    assert (await audit(databases, list(APPS), None)).ok


async def test_a_late_opening_of_another_payment_is_a_conflict(ledger: Ledger) -> None:
    ann, bob = WalletKey("ann", "shop"), WalletKey("bob", "shop")
    for wallet in (ann, bob):
        await paid_and_spent(ledger, wallet)
    await ledger.payments.dispute_closed(disputed(ann), won=True)
    with pytest.raises(Conflict):
        await ledger.payments.dispute_opened(disputed(bob, dispute_ref="dp_ann"))


async def test_a_refused_closing_opens_nothing(databases: Databases, ledger: Ledger) -> None:
    wallet = WalletKey("carol")
    await ledger.grant(grant_request("g", wallet=wallet, source=LotSource.PAID, external_ref="pi_carol"))
    before = await left(databases, ledger, wallet)
    with pytest.raises(InvalidRequest):
        await ledger.payments.dispute_closed(disputed(wallet, 0), won=False)
    assert before == await left(databases, ledger, wallet)


@pytest.mark.parametrize("is_opened", [True, False])
@pytest.mark.parametrize("exchanged", [True, False])
async def test_of_a_dispute_above_what_is_left_the_wallet_bears_what_is_left(
    databases: Databases, ledger: Ledger, is_opened: bool, exchanged: bool
) -> None:
    paid, unit = (Paid("EUR", 10_000), 10) if exchanged else (None, 1)
    for name in ("ann", "bob"):
        wallet = WalletKey(name, "shop")
        await ledger.grant(
            grant_request(
                f"g_{name}", wallet=wallet, source=LotSource.PAID, external_ref=f"pi_{name}", amount_micro=1000, paid=paid
            )
        )
        await ledger.payments.refund(RefundRequest(wallet, f"pi_{name}", f"re_{name}", 100 * unit, "tester"))
        request = disputed(wallet, 1000 * unit)
        if is_opened:
            await ledger.payments.dispute_opened(request)
            assert (await ledger.wallet(wallet)).available_micro == 0
        await ledger.payments.dispute_closed(request, won=name == "bob")
    assert (await ledger.wallet(WalletKey("bob", "shop"))).available_micro == 900
    assert (await ledger.wallet(WalletKey("ann", "shop"))).available_micro == 0
    lost = await ledger.payments.posted_as("shop", "dispute:dp_ann:closed")
    assert lost is not None
    moved = {
        kind: sum(each.amount_micro for each in lost.entries if each.account.kind == kind) for kind in (DISPUTES, DISPUTE_EXCESS)
    }
    assert (moved[DISPUTES], moved[DISPUTE_EXCESS]) == (1000 * unit, -100 * unit)
    await ledger.payments.reinstate(disputed(WalletKey("ann", "shop"), 1000 * unit))
    assert (await ledger.wallet(WalletKey("ann", "shop"))).available_micro == 900
    report = await audit(databases, list(APPS), None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]


async def test_opening_and_closing_at_once_end_alike(databases: Databases, ledger: Ledger) -> None:
    wallet = WalletKey("ann", "shop")
    await paid_and_spent(ledger, wallet)
    for number in range(6):
        request = disputed(wallet, 50, ref=f"d{number}")
        told = await asyncio.gather(
            ledger.payments.dispute_closed(request, won=number % 2 == 0), ledger.payments.dispute_opened(request)
        )
        assert told[0].first
    balances, lots, _, _ = await left(databases, ledger, wallet)
    assert len(lots) == 1
    assert balances == {"user.available": 1000 - SPENT - 3 * 50}
    assert (await audit(databases, list(APPS), None)).ok

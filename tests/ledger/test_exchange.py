"""Payments in other money than what they grant, allowances that are renewed. SEED repeats the random ones."""

import os
import random
from typing import Final

import pytest

from gateway.core.errors import Conflict, InvalidRequest
from gateway.db.engines import Databases
from gateway.ledger.audit import audit
from gateway.ledger.model import (
    CorrectionRequest,
    DisputeRequest,
    Fees,
    Lot,
    Paid,
    Posted,
    RefundRequest,
    RenewalRequest,
    WalletKey,
)
from gateway.ledger.payments import allowance_op
from gateway.ledger.service import Ledger
from tests.ledger.conftest import APPS, START_MS, Clock
from tests.ledger.test_service import balances
from tests.ledger.values import expire_all, grant_request, posting

ANN: Final = WalletKey("ann", "chat")  # whose wallet holds TOK
SEED: Final = int(os.environ.get("SEED", "20261123"))


async def bought(ledger: Ledger, granted: int, paid: int, ref: str = "pi_1", fee: int = 0, wallet: WalletKey = ANN) -> Lot:
    request = grant_request(
        f"op {ref}", granted, wallet, source="paid", external_ref=ref, paid=Paid("USD", paid), fees=Fees(platform_micro=fee)
    )
    return (await ledger.grant(request)).lot


async def refund(ledger: Ledger, ref: str, amount: int, fee: int = 0, wallet: WalletKey = ANN) -> Posted:
    return await ledger.payments.refund(RefundRequest(wallet, "pi_1", ref, amount, "tester", fee_returned_micro=fee))


async def spend(ledger: Ledger, amount: int) -> None:
    used = [posting("r", "chat", amount_micro=amount)]
    await ledger.post_app_usage("chat", used)
    await ledger.post_platform_usage(used)


async def clean(databases: Databases) -> None:
    report = await audit(databases, list(APPS), None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]


async def test_money_for_tokens_moves_two_assets_each_through_an_exchange_account(ledger: Ledger, databases: Databases) -> None:
    await bought(ledger, 700, 5000, fee=500)
    await ledger.payments.processing_fee(ANN, "pi_1", 175, "tester")
    again = await ledger.payments.processing_fee(ANN, "pi_1", 175, "tester")
    assert not again.first
    assert await balances(databases, "chat") == {
        "/stripe_clearing/USD": -4825,
        "/expense.processing/USD": -175,
        "/expense.platform_fee/USD": -500,
        "/due_to_platform/USD": 500,
        "/exchange/USD": 5000,
        "/exchange/TOK": -700,
        "ann/user.available/TOK": 700,
    }
    assert (await balances(databases, None))["/revenue.platform_fee/USD"] == 500
    await clean(databases)


async def test_a_grant_of_other_money_is_checked(ledger: Ledger) -> None:
    for paid, ref, source in ((Paid("USD", 0), "pi", "paid"), (Paid("usd", 1), "pi", "paid"), (Paid("USD", 1), None, "paid")):
        with pytest.raises(InvalidRequest) as refused:
            await ledger.grant(grant_request("op", 5, ANN, source=source, external_ref=ref, paid=paid))
        assert refused.value.param == "paid"
    dear = grant_request("op", 5, ANN, source="paid", external_ref="pi", paid=Paid("USD", 10), fees=Fees(platform_micro=11))
    with pytest.raises(InvalidRequest):
        await ledger.grant(dear)
    cheap = grant_request("op", 50, ANN, source="paid", external_ref="pi", paid=Paid("USD", 10), fees=Fees(platform_micro=11))
    with pytest.raises(InvalidRequest):  # what was granted has no say in it
        await ledger.grant(cheap)


async def test_a_refund_takes_its_part_of_the_lot_and_the_last_one_the_rest(ledger: Ledger, databases: Databases) -> None:
    await bought(ledger, 100, 999, fee=99)
    await spend(ledger, 60)
    await refund(ledger, "re_1", 333, fee=33)
    view = await ledger.wallet(ANN)
    assert (view.available_micro, view.debt_micro) == (7, 0)  # 100 * 333 / 999, rounded down
    await refund(ledger, "re_2", 333)
    await refund(ledger, "re_3", 333, fee=66)
    view = await ledger.wallet(ANN)
    assert (view.available_micro, view.debt_micro) == (0, 60)
    with pytest.raises(InvalidRequest, match="of this payment 0 can be refunded"):
        await refund(ledger, "re_4", 1)
    assert (await balances(databases, "chat"))["/exchange/USD"] == 0
    assert (await balances(databases, None))["/revenue.platform_fee/USD"] == 0
    await clean(databases)


async def test_a_refund_of_a_bonus_goes_by_what_was_paid(ledger: Ledger, databases: Databases) -> None:
    """10 paid, 12 granted, of one asset."""
    wallet = WalletKey("ann", "shop")
    await bought(ledger, 12, 10, wallet=wallet)
    await refund(ledger, "re_1", 5, wallet=wallet)
    assert (await ledger.wallet(wallet)).available_micro == 6
    with pytest.raises(InvalidRequest):
        await refund(ledger, "re_2", 6, wallet=wallet)
    await refund(ledger, "re_2", 5, wallet=wallet)
    assert (await ledger.wallet(wallet)).available_micro == 0
    await clean(databases)


async def test_a_refund_that_failed_gives_the_part_and_the_fee_back(ledger: Ledger, databases: Databases) -> None:
    await bought(ledger, 100, 999, fee=99)
    failed = await refund(ledger, "re_1", 500, fee=50)
    await ledger.payments.correct(CorrectionRequest("chat", failed.txn_id, "re_1 failed", "tester"))
    assert (await ledger.wallet(ANN)).available_micro == 100
    found = await balances(databases, "chat")
    assert (found["/exchange/USD"], found["/stripe_clearing/USD"], found["/due_to_platform/USD"]) == (999, -999, 99)
    assert (await balances(databases, None))["/revenue.platform_fee/USD"] == 99
    await clean(databases)


async def test_a_fee_that_was_returned_stays_so_where_the_refund_failed_and_stripe_says_so(
    ledger: Ledger, databases: Databases
) -> None:
    await bought(ledger, 100, 999, fee=99)
    failed = await refund(ledger, "re_1", 500, fee=50)
    await ledger.payments.correct(CorrectionRequest("chat", failed.txn_id, "re_1 failed", "tester", fee_stays=True))
    assert (await ledger.wallet(ANN)).available_micro == 100
    assert (await balances(databases, "chat"))["/due_to_platform/USD"] == 49
    assert (await balances(databases, None))["/revenue.platform_fee/USD"] == 49
    with pytest.raises(InvalidRequest, match="of this payment's fee 49 can be returned"):
        await refund(ledger, "re_2", 999, fee=50)
    await clean(databases)


async def test_a_dispute_of_other_money_freezes_loses_and_gives_back_its_part(ledger: Ledger, databases: Databases) -> None:
    await bought(ledger, 100, 1000)
    dispute = DisputeRequest(ANN, "pi_1", "dp_1", 500, "tester")
    await ledger.payments.dispute_opened(dispute)
    assert (await ledger.wallet(ANN)).available_micro == 50
    await ledger.payments.dispute_closed(dispute, won=False)
    with pytest.raises(Conflict):
        await ledger.payments.dispute_closed(dispute, won=True)
    assert (await balances(databases, "chat"))["/disputes/USD"] == 500
    await refund(ledger, "re_1", 500)
    assert (await ledger.wallet(ANN)).available_micro == 0
    await ledger.payments.reinstate(dispute)
    assert (await ledger.wallet(ANN)).available_micro == 50
    assert (await balances(databases, "chat"))["/disputes/USD"] == 0
    await bought(ledger, 100, 1000, "pi_2")
    whole = DisputeRequest(ANN, "pi_2", "dp_2", 1000, "tester")
    await ledger.payments.dispute_opened(whole)
    await ledger.payments.dispute_closed(whole, won=False)
    assert (await ledger.wallet(ANN)).available_micro == 50
    await clean(databases)


async def test_whatever_goes_back_and_forth_no_more_than_all_goes_and_all_is_everything(
    ledger: Ledger, databases: Databases
) -> None:
    print("replay with SEED =", SEED)
    pick = random.Random(SEED)
    for number in range(6):
        ref, wallet = f"pi_r{number}", WalletKey(f"u{number}", "chat")
        paid, granted = pick.randrange(2, 10_000), pick.randrange(1, 10_000)
        standing: dict[str, tuple[str, int]] = {}
        await bought(ledger, granted, paid, ref, wallet=wallet)
        for step in range(8):
            left = paid - sum(amount for _, amount in standing.values())
            amount = pick.randrange(1, paid + 1)
            request = RefundRequest(wallet, ref, f"{ref}.{step}", amount, "tester")
            if amount > left:
                with pytest.raises(InvalidRequest):
                    await ledger.payments.refund(request)
                if standing and pick.random() < 0.7:
                    name = pick.choice(sorted(standing))
                    txn_id, _ = standing.pop(name)
                    await ledger.payments.correct(CorrectionRequest("chat", txn_id, f"{name} failed", "tester"))
            else:
                posted = await ledger.payments.refund(request)
                taken = posted.credit is not None
                if taken:
                    standing[f"{ref}.{step}"] = (posted.txn_id, amount)
                else:
                    paid -= amount  # it rounded to nothing of the lot, and stays
        left = paid - sum(amount for _, amount in standing.values())
        if left:
            await ledger.payments.refund(RefundRequest(wallet, ref, f"{ref}.last", left, "tester"))
        assert (await ledger.wallet(wallet)).available_micro == 0
    await clean(databases)


async def allowance(ledger: Ledger, starts_at_ms: int, amount: int, cap: int) -> None:
    """What an invoice of a period does: the renewal first, then the grant."""
    ends = starts_at_ms + 100
    await ledger.payments.renew(RenewalRequest(ANN, "sub_1", starts_at_ms, cap, ends, "tester"))
    op_id = allowance_op("sub_1", starts_at_ms, ends, f"in_{starts_at_ms}")
    await ledger.grant(grant_request(op_id, amount, ANN, source="paid", external_ref=op_id, expires_at_ms=ends))


async def test_of_an_allowance_the_rest_goes_on_up_to_the_cap_and_what_is_over_expires(
    ledger: Ledger, databases: Databases, clock: Clock
) -> None:
    other = await ledger.grant(grant_request("other", 7, ANN, source="paid"))
    await allowance(ledger, START_MS, 1000, 300)
    await spend(ledger, 600)
    clock.ms += 90
    await allowance(ledger, START_MS + 100, 1000, 300)
    again = await ledger.payments.renew(RenewalRequest(ANN, "sub_1", START_MS + 100, 300, START_MS + 200, "tester"))
    assert not again.first
    assert await expire_all(ledger, "chat") == 1
    view = await ledger.wallet(ANN)
    assert [(lot.source, lot.left_micro, lot.expires_at_ms) for lot in view.lots] == [
        ("rollover", 300, START_MS + 200),
        ("paid", 1000, START_MS + 200),
        ("paid", 7, None),
    ]
    assert view.lots[2].id == other.lot.id
    clock.ms += 100
    await allowance(ledger, START_MS + 200, 1000, 300)  # the cap is of both together
    await expire_all(ledger, "chat")
    assert (await ledger.wallet(ANN)).available_micro == 1307
    await clean(databases)


async def test_a_period_that_is_heard_of_late_takes_nothing_from_a_later_one(ledger: Ledger, databases: Databases) -> None:
    await allowance(ledger, START_MS + 100, 1000, 300)
    await allowance(ledger, START_MS, 500, 300)
    assert [lot.left_micro for lot in (await ledger.wallet(ANN)).lots] == [500, 1000]
    await clean(databases)

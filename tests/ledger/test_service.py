import asyncio
from typing import Any

import msgspec
import pytest

from gateway.core.errors import Conflict, InvalidRequest, NotFound
from gateway.core.ids import shard_of
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.db.engines import Databases
from gateway.db.faults import SqlRefused
from gateway.ledger import queries
from gateway.ledger.audit import audit
from gateway.ledger.model import Credit, WalletKey
from gateway.ledger.service import Ledger
from tests.ledger.conftest import APPS, START_MS, Clock
from tests.ledger.values import SHOPPER, grant_request, posting

CAROL = WalletKey("carol")


async def balances(databases: Databases, app: str | None) -> dict[str, int]:
    page = await queries.accounts(databases, app)
    return {f"{account.owner}/{account.kind}/{account.asset}": account.balance_micro for account in page.rows}


async def in_order(databases: Databases) -> bool:
    report = await audit(databases, list(APPS), None)
    print([check.violations for check in report.checks if not check.ok])
    return report.ok


@pytest.mark.parametrize(("wallet", "asset"), [(CAROL, "USD"), (SHOPPER, "USD"), (WalletKey("ann", "chat"), "TOK")])
async def test_a_grant_is_in_the_books_and_in_the_outbox_in_one_commit(
    ledger: Ledger, databases: Databases, wallet: WalletKey, asset: str
) -> None:
    done = await ledger.grant(grant_request("op-1", 700, wallet, source="paid", reason="manual", external_ref="pi_1"))
    assert done.first
    assert (done.wallet.asset, done.wallet.available_micro, done.wallet.pending_micro) == (asset, 700, 700)
    assert [lot.id for lot in done.wallet.lots] == [done.lot.id]
    credit = Credit(done.txn_id, wallet.enterprise_id, shard_of("carol"), wallet.name, 700, START_MS)
    assert done.credit == credit
    assert await ledger.waiting_credits(wallet.enterprise_id) == [credit]
    assert await balances(databases, wallet.enterprise_id) == {
        f"/stripe_clearing/{asset}": -700,
        f"{wallet.owner}/user.available/{asset}": 700,
    }
    await ledger.mark_applied(wallet.enterprise_id, [done.txn_id])
    assert await ledger.waiting_credits(wallet.enterprise_id) == []
    assert (await ledger.wallet(wallet)).pending_micro == 0
    assert await in_order(databases)


async def test_repeating_a_grant_gives_the_first_result_even_when_it_has_expired_since(ledger: Ledger, clock: Clock) -> None:
    request = grant_request("op-1", expires_at_ms=START_MS + 10)
    first = await ledger.grant(request)
    clock.ms += 1000
    again = await ledger.grant(request)
    assert not again.first
    assert (again.txn_id, again.lot, again.credit) == (first.txn_id, first.lot, first.credit)
    assert (await ledger.wallet(SHOPPER)).available_micro == 1000


async def test_an_idempotency_key_with_another_request_is_a_conflict(ledger: Ledger) -> None:
    first = grant_request("op-1")
    await ledger.grant(first)
    other: list[dict[str, Any]] = [{"amount_micro": 1001}, {"reason": "other"}, {"priority": 1}]
    for changed in (*other, {"wallet": WalletKey("bob", "shop")}):
        with pytest.raises(Conflict):
            await ledger.grant(msgspec.structs.replace(first, **changed))
    assert (await ledger.wallet(SHOPPER)).available_micro == 1000


async def test_the_same_grant_from_many_at_once_happens_once(ledger: Ledger, databases: Databases) -> None:
    done = await asyncio.gather(*[ledger.grant(grant_request("op-1")) for _ in range(8)])
    assert sorted(one.first for one in done) == [False] * 7 + [True]
    assert len({one.txn_id for one in done}) == 1
    assert await in_order(databases)


async def test_a_payment_has_one_grant(ledger: Ledger) -> None:
    await ledger.grant(grant_request("op-1", external_ref="pi_1"))
    with pytest.raises(Conflict):
        await ledger.grant(grant_request("op-2", external_ref="pi_1"))


_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"amount_micro": 0}, "amount_micro"),
    ({"amount_micro": AMOUNT_MICRO_MAX + 1}, "amount_micro"),
    ({"asset": "TOK"}, "asset"),
    ({"source": "gift"}, "source"),
    ({"expires_at_ms": START_MS}, "expires_at"),
    ({"expires_at_ms": START_MS + 5, "effective_at_ms": START_MS + 5}, "expires_at"),
    ({"effective_at_ms": 10**18}, "effective_at"),
    ({"op_id": ""}, "op_id"),
    ({"reason": "x" * 501}, "reason"),
    ({"reason": "a\0b"}, "reason"),
    ({"priority": 10**7}, "priority"),
    ({"wallet": WalletKey("a/b", "shop")}, "wallet"),
]


async def test_a_grant_that_is_wrong_is_refused_and_changes_nothing(ledger: Ledger, databases: Databases) -> None:
    right = grant_request("op-1", 5)
    for given, param in _WRONG:
        with pytest.raises(InvalidRequest) as refused:
            await ledger.grant(msgspec.structs.replace(right, **given))
        assert refused.value.param == param
    assert await balances(databases, "shop") == {}
    await ledger.grant(right)


async def test_a_wallet_cannot_grow_past_what_lua_counts_exactly(ledger: Ledger) -> None:
    await ledger.grant(grant_request("op-1", AMOUNT_MICRO_MAX - 5))
    with pytest.raises(InvalidRequest):
        await ledger.grant(grant_request("op-2", 6))
    await ledger.grant(grant_request("op-3", 5))


async def test_nobodys_wallet_is_not_found(ledger: Ledger) -> None:
    for wallet in (WalletKey("nobody"), WalletKey("ann", "nowhere")):
        request = msgspec.structs.replace(grant_request("op-1", 5), wallet=wallet)
        for call in (ledger.grant(request), ledger.wallet(wallet), ledger.opening(wallet), ledger.mark_opened(wallet)):
            with pytest.raises(NotFound):
                await call


async def test_a_never_opened_wallet_opens_with_what_was_applied_and_credits_follow_on_their_own(ledger: Ledger) -> None:
    nothing = await ledger.opening(SHOPPER)
    assert (nothing.wallet, nothing.shard, nothing.amount_micro, nothing.may_open) == ("a/shop/ann", shard_of("carol"), 0, True)
    first = await ledger.grant(grant_request("op-1", 100))
    await ledger.grant(grant_request("op-2", 30))
    assert (await ledger.opening(SHOPPER)).amount_micro == 0  # both wait: opened at 0, each is then applied once
    await ledger.mark_applied("shop", [first.txn_id])
    assert (await ledger.opening(SHOPPER)).amount_micro == 100


async def test_a_wallet_that_was_open_and_is_missing_is_not_for_opening_again(ledger: Ledger, clock: Clock) -> None:
    await ledger.mark_opened(SHOPPER)
    clock.ms += 5
    await ledger.mark_opened(SHOPPER)
    lost = await ledger.opening(SHOPPER)
    assert not lost.may_open
    assert lost.opened_at_ms == START_MS
    assert (await ledger.opening(WalletKey("bob", "shop"))).may_open


async def test_usage_burns_lots_and_the_rest_is_a_debt_that_the_next_grant_pays(ledger: Ledger, databases: Databases) -> None:
    promo = await ledger.grant(grant_request("op-1", 100))
    assert await ledger.post_app_usage("shop", [posting("req_1", amount_micro=130)]) == 1
    view = await ledger.wallet(SHOPPER)
    assert (view.available_micro, view.debt_micro, view.lots) == (0, 30, ())
    await ledger.mark_applied("shop", [promo.txn_id])
    assert (await ledger.opening(SHOPPER)).amount_micro == -30  # what the hot wallet has after the over-run
    paid = await ledger.grant(grant_request("op-2", 50))
    assert (paid.wallet.available_micro, paid.wallet.debt_micro) == (20, 0)
    assert paid.credit is not None
    assert paid.credit.delta_micro == 50  # -30 + 50 is 20 in the hot store too
    await ledger.post_platform_usage([posting("req_1", amount_micro=130)])
    assert await in_order(databases)


async def test_a_grant_for_later_is_not_spent_and_not_applied_before_its_time(ledger: Ledger, clock: Clock) -> None:
    later = await ledger.grant(grant_request("op-1", 100, effective_at_ms=START_MS + 1000))
    assert await ledger.waiting_credits("shop") == []
    await ledger.post_app_usage("shop", [posting("req_1", amount_micro=10)])
    view = await ledger.wallet(SHOPPER)
    assert (view.available_micro, view.debt_micro, view.pending_micro) == (100, 10, 100)
    assert (await ledger.opening(SHOPPER)).amount_micro == -10
    clock.ms += 1000
    assert [credit.txn_id for credit in await ledger.waiting_credits("shop")] == [later.txn_id]
    await ledger.post_app_usage("shop", [posting("req_2", amount_micro=10)])
    assert (await ledger.wallet(SHOPPER)).available_micro == 90


async def test_each_request_is_posted_once_in_each_book_however_it_is_repeated(ledger: Ledger, databases: Databases) -> None:
    await ledger.grant(grant_request("op-1", 1000))
    await ledger.grant(grant_request("op-2", 1000, CAROL))
    one, two = (posting(f"req_{n}", amount_micro=10, creator_micro=7, provider_cost_micro=5) for n in (1, 2))
    assert await ledger.post_app_usage("shop", [one, one]) == 1
    assert await ledger.post_app_usage("shop", [one, two]) == 1
    assert await ledger.post_platform_usage([one, two, one]) == 2
    assert await ledger.post_platform_usage([two]) == 0
    assert await balances(databases, "shop") == {
        "/expense.promo/USD": -1000,
        "/revenue.usage/USD": 20,
        "ann/user.available/USD": 980,
    }
    assert await balances(databases, None) == {
        "/expense.promo/USD": -1000,
        "/expense.llm_cost/USD": -10,
        "/provider_payable/USD": 10,
        "/revenue.usage/USD": 14,
        "carol/user.available/USD": 986,
    }
    async with databases.platform.connect() as conn:
        hours = (
            await conn.exec_driver_sql(
                "SELECT hour, requests, end_user_micro, creator_micro, provider_cost_micro FROM usage_hours"
            )
        ).all()
    assert [tuple(row) for row in hours] == [(START_MS - START_MS % 3_600_000, 2, 20, 14, 10)]
    assert await in_order(databases)


async def test_own_keys_leave_the_cost_in_the_row_and_out_of_the_platforms_debts(ledger: Ledger, databases: Databases) -> None:
    one = posting("req_1", provider_cost_micro=5, bears_cost=False)
    await ledger.post_app_usage("shop", [one])
    assert await ledger.post_platform_usage([one]) == 1
    assert await ledger.post_platform_usage([one]) == 0  # no money moved, and still once
    assert await balances(databases, None) == {}
    row = await queries.usage_by_id(databases, "shop", "req_1")
    assert row == one.row


async def test_values_that_the_database_refuses_leave_nothing_behind(ledger: Ledger, databases: Databases) -> None:
    bad = posting("req_2", amount_micro=5, latency_ms=2**70)
    with pytest.raises(SqlRefused):
        await ledger.post_app_usage("shop", [posting("req_1", amount_micro=5), bad])
    assert await balances(databases, "shop") == {}
    assert await queries.usage_by_id(databases, "shop", "req_1") is None


async def test_writers_of_one_wallet_lose_nothing(ledger: Ledger, databases: Databases) -> None:
    async def grant(n: int) -> None:
        await ledger.grant(grant_request(f"op-{n}", 100))

    async def use(n: int) -> None:
        await ledger.post_app_usage("shop", [posting(f"req_{n}", amount_micro=30)])
        await ledger.post_platform_usage([posting(f"req_{n}", amount_micro=30)])

    await asyncio.gather(*[work(n) for n in range(8) for work in (grant, use)])
    view = await ledger.wallet(SHOPPER)
    assert view.available_micro - view.debt_micro == 8 * 70
    assert await in_order(databases)

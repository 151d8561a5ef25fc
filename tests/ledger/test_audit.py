from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy.exc import IntegrityError

from gateway.core.ids import shard_of
from gateway.db.engines import Databases
from gateway.ledger.audit import VIOLATIONS_SHOWN, AuditReport, audit
from gateway.ledger.model import DisputeRequest, Fees, RefundRequest, SettlementRequest, WalletKey, wallet_from_name
from gateway.ledger.service import Ledger
from tests.ledger.conftest import APPS
from tests.ledger.values import SHOPPER, grant_request, posting
from tests.trail.chains import disarm

CAROL = WalletKey("carol")


class State:
    def __init__(self, available_micro: int, held_micro: int) -> None:
        self._available, self._held = available_micro, held_micro

    @property
    def available_micro(self) -> int:
        return self._available

    @property
    def held_micro(self) -> int:
        return self._held


class Hot:
    """Hot balances in a dict; a wallet asked for on another shard than its own is not found, as in the real store."""

    def __init__(self, **states: State) -> None:
        self.states: dict[str, State] = dict(states)

    async def read(self, shard: int, wallets: Sequence[str]) -> list[State | None]:
        found: list[State | None] = []
        for name in wallets:
            wallet = wallet_from_name(name)
            assert wallet is not None
            creator = wallet.owner if wallet.enterprise_id is None else APPS[wallet.enterprise_id][0]
            found.append(self.states.get(name) if shard == shard_of(creator) else None)
        return found

    async def names(self) -> AsyncIterator[str]:
        for name in list(self.states):
            yield name


async def busy(ledger: Ledger) -> Hot:
    """Books with something for every check, and the hot store that belongs to them."""
    hot = Hot()
    for wallet, amount in ((SHOPPER, 100), (WalletKey("ann", "chat"), 40), (CAROL, 500)):
        done = await ledger.grant(grant_request("op-" + wallet.name, amount, wallet))
        await ledger.mark_opened(wallet)
        await ledger.mark_applied(wallet.enterprise_id, [done.txn_id])
        hot.states[wallet.name] = State(amount, 0)
    batch = [posting("req_1", amount_micro=130, creator_micro=20, provider_cost_micro=9)]
    batch += [posting("req_2", amount_micro=0), posting("req_3", level="platform", amount_micro=7, creator_micro=7)]
    await ledger.post_app_usage("shop", batch)
    await ledger.post_platform_usage(batch)
    hot.states[SHOPPER.name] = State(-35, 5)  # 100 - 130, five of it held by a request in flight
    hot.states[CAROL.name] = State(473, 0)
    await disputed(ledger, hot)
    await ledger.grant(grant_request("waits", 11))  # in the books, not in the hot store yet
    return hot


async def disputed(ledger: Ledger, hot: Hot) -> None:
    """Payments of another end user: one refunded after it was spent, one disputed and won, one in dispute, with fees."""
    paula = WalletKey("paula", "shop")
    for number in range(3):
        paid = grant_request(f"paid {number}", 100, paula, source="paid", external_ref=f"pi_{number}", fees=Fees(10, 3))
        await ledger.grant(paid)
    over = posting("req_over", end_user="paula", amount_micro=60, held_micro=59, creator_held_micro=0)
    await ledger.post_app_usage("shop", [over])
    await ledger.post_platform_usage([over])
    await ledger.payments.refund(RefundRequest(paula, "pi_0", "re_0", 70, "tester", fee_returned_micro=4))
    for number in (1, 2):
        await ledger.payments.dispute_opened(DisputeRequest(paula, f"pi_{number}", f"dp_{number}", 80, "tester"))
    await ledger.payments.dispute_closed(DisputeRequest(paula, "pi_1", "dp_1", 80, "tester"), won=True)
    await ledger.payments.settle_due(SettlementRequest("shop", 20, "settled", "tester"))
    await ledger.mark_opened(paula)
    for credit in await ledger.waiting_credits("shop"):
        await ledger.mark_applied("shop", [credit.txn_id])
    hot.states[paula.name] = State(300 - 60 - 70 - 80, 0)


def failing(report: AuditReport) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for check in report.checks:
        if not check.ok:
            number = check.name.split()[0]
            found[number] = found.get(number, ()) + check.violations
    return found


async def run(databases: Databases, hot: Hot | None = None) -> dict[str, tuple[str, ...]]:
    return failing(await audit(databases, list(APPS), hot))


async def test_books_in_order_pass_and_every_check_has_looked_at_something(ledger: Ledger, databases: Databases) -> None:
    hot = await busy(ledger)
    report = await audit(databases, list(APPS), hot)
    assert failing(report) == {}
    assert report.ok
    assert all(check.counted for check in report.checks)
    assert not any(check.name.startswith("12") for check in (await audit(databases, list(APPS), None)).checks)


_TAMPERINGS = [
    (
        "shop",
        "UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = (SELECT min(id) FROM entries)",
        "1",
        "does not balance",
    ),
    (None, "UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = (SELECT min(id) FROM entries)", "1", "platform"),
    ("shop", "UPDATE accounts SET balance_micro = balance_micro - 1 WHERE kind = 'expense.promo'", "2", "expense.promo"),
    ("chat", "DELETE FROM entries", "2", "its entries sum to 0"),
    ("shop", "UPDATE lots SET spent_micro = spent_micro - 1, left_micro = left_micro + 1 WHERE left_micro = 0", "3", "left"),
    ("shop", "UPDATE accounts SET balance_micro = 3 WHERE kind = 'receivable.clawback'", "4", "above zero"),
    ("shop", "UPDATE usage SET amount_micro = amount_micro + 1 WHERE request_id = 'req_1'", "11", "usage rows sum to 191"),
    (
        "shop",
        "UPDATE usage SET creator_micro = creator_micro + 1 WHERE request_id = 'req_3'",
        "11",
        "platform: revenue.usage is 27",
    ),
    ("shop", "DELETE FROM usage WHERE request_id = 'req_2'", "11", "request req_2 of app shop is in the platform's book, but"),
    (None, "UPDATE txns SET op_id = 'usage:other' WHERE op_id = 'usage:req_2'", "11", "request req_2 of app shop is not"),
    ("shop", "UPDATE accounts SET balance_micro = 79 WHERE kind = 'user.frozen'", "3", "has 79 frozen, of its lots 80 is"),
    ("shop", "UPDATE accounts SET balance_micro = -1 WHERE kind = 'user.frozen'", "4", "is below zero: -1"),
    ("shop", "UPDATE txns SET kind = 'gift' WHERE op_id = 'usage:req_1'", "5", "request req_1 was charged 130"),
    ("shop", "UPDATE usage SET amount_micro = 0 WHERE request_id = 'req_1'", "5", "is captured 1 times"),
    ("shop", "UPDATE txns SET op_id = 'usage:req_9' WHERE op_id = 'usage:req_1'", "5", "is captured 0 times"),
    ("shop", "INSERT INTO txns VALUES ('t9', 'usage:req_9', 'usage', 'x', '', NULL, NULL, 1)", "5", "3 captures, 2 charged"),
    ("shop", "DELETE FROM overruns", "6", "request req_over was charged 60 (end_user), 59 was held, no over-run"),
    ("shop", "UPDATE usage SET held_micro = 60 WHERE held_micro = 59", "6", "an over-run is recorded"),
    ("shop", "UPDATE usage SET creator_held_micro = 6 WHERE request_id = 'req_3'", "6", "was charged 7 (creator), 6 was held"),
    ("shop", "UPDATE txns SET reverses = NULL WHERE op_id = 'dispute:dp_1:closed'", "7", "reverses nothing"),
    ("shop", "UPDATE txns SET kind = 'correction' WHERE op_id = 'dispute:dp_1:closed'", "7", "reverses dispute_opened"),
    (
        "shop",
        "UPDATE lots SET clawback_micro = spent_micro + 1 WHERE external_ref = 'pi_0'",
        "8",
        "61 was clawed back, 60 was spent or expired",
    ),
    (
        "shop",
        "UPDATE entries SET amount_micro = 79 WHERE amount_micro = 80 AND txn_id ="
        " (SELECT id FROM txns WHERE op_id = 'dispute:dp_1:opened')",
        "8",
        "ends a dispute that froze 79 and frees 80",
    ),
    ("shop", "UPDATE accounts SET balance_micro = -25 WHERE kind = 'expense.platform_fee'", "9", "bore fees of 25 USD"),
    (None, "DELETE FROM entries WHERE amount_micro = 10", "9", "the platform earned -4"),
    ("shop", "UPDATE accounts SET balance_micro = 5 WHERE kind = 'due_to_platform'", "10", "owes the platform 5 USD"),
    (None, "UPDATE accounts SET owner = 'chat' WHERE kind = 'due_from_app'", "10", "app chat owes the platform 0 USD"),
    (None, "UPDATE accounts SET owner = 'eve' WHERE kind = 'due_from_app'", "14", "'eve', who is no creator"),
    (None, "INSERT INTO accounts (owner, kind, asset, balance_micro) VALUES ('ann', 'user.available', 'USD', 0)", "14", "'ann'"),
    (None, "UPDATE credits SET wallet = 'a/shop/ann'", "14", "'a/shop/ann'"),
    ("shop", "UPDATE trail SET actor = 'nobody' WHERE seq = 1", "15", "app shop: line 1 was changed"),
    (None, "DELETE FROM trail", "15", "platform: line 1 is missing: the chain ends at line 0"),
    ("shop", "UPDATE trail SET txn_id = '' WHERE seq = 2", "15", "has no line"),
    ("chat", "UPDATE trail SET txn_id = 'txn_gone' WHERE seq = 1", "15", "line 1 names transaction txn_gone"),
]


@pytest.mark.parametrize(("app", "statement", "number", "words"), _TAMPERINGS)
@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
async def test_tampering_is_found_and_named(
    ledger: Ledger, databases: Databases, app: str | None, statement: str, number: str, words: str
) -> None:
    await busy(ledger)
    engine = databases.platform if app is None else await databases.app(app)
    async with engine.begin() as conn:
        await disarm(conn)
        assert (await conn.exec_driver_sql(statement)).rowcount > 0
    found = await run(databases)
    assert any(words in violation for violation in found[number]), found


async def test_a_lot_that_does_not_add_up_is_refused_by_the_database_itself(ledger: Ledger, databases: Databases) -> None:
    await busy(ledger)
    for statement in (
        "UPDATE lots SET left_micro = left_micro + 1",
        "UPDATE lots SET left_micro = -1, spent_micro = granted_micro + 1",
    ):
        with pytest.raises(IntegrityError):
            async with (await databases.app("shop")).begin() as conn:
                await conn.exec_driver_sql(statement)


async def test_hot_wallets_are_compared_both_ways(ledger: Ledger, databases: Databases) -> None:
    hot = await busy(ledger)
    for name, state, words in [
        (SHOPPER.name, State(-34, 5), "has -29 in the hot store, -30 in the books"),
        (CAROL.name, None, "missing in the hot store; the books say 473"),
        ("a/shop/eve", State(5, 0), "never opened it"),
        ("a/nowhere/eve", State(0, 0), "no such app"),
        ("p/dave", State(0, 0), "never opened it"),
        ("nonsense", State(0, 0), "no such app"),
    ]:
        was = hot.states.get(name)
        hot.states = {**hot.states, name: state} if state else {key: one for key, one in hot.states.items() if key != name}
        found = await run(databases, hot)
        assert list(found) == ["12"]
        assert len(found["12"]) == 1
        assert words in found["12"][0]
        hot.states = {**hot.states, name: was} if was else {key: one for key, one in hot.states.items() if key != name}
    assert await run(databases, hot) == {}


async def test_only_the_first_violations_are_kept_and_all_are_counted(ledger: Ledger, databases: Databases) -> None:
    batch = [posting(f"req_{n}", end_user=f"user{n}", amount_micro=1) for n in range(60)]
    await ledger.post_app_usage("shop", batch)
    report = await audit(databases, ["shop"], None)
    (posted,) = [check for check in report.checks if "posted" in check.name]
    assert (posted.violated, len(posted.violations)) == (60, VIOLATIONS_SHOWN)

from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy.exc import IntegrityError

from gateway.core.ids import shard_of
from gateway.db.engines import Databases
from gateway.ledger.audit import VIOLATIONS_SHOWN, AuditReport, audit
from gateway.ledger.model import WalletKey, wallet_from_name
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
    await ledger.grant(grant_request("waits", 11))  # in the books, not in the hot store yet
    return hot


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
    ("shop", "UPDATE usage SET amount_micro = amount_micro + 1 WHERE request_id = 'req_1'", "11", "usage rows sum to 131"),
    (
        "shop",
        "UPDATE usage SET creator_micro = creator_micro + 1 WHERE request_id = 'req_3'",
        "11",
        "platform: revenue.usage is 27",
    ),
    ("shop", "DELETE FROM usage WHERE request_id = 'req_2'", "11", "request req_2 of app shop is in the platform's book, but"),
    (None, "UPDATE txns SET op_id = 'usage:other' WHERE op_id = 'usage:req_2'", "11", "request req_2 of app shop is not"),
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

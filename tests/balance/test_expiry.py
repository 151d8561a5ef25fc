"""Lots that expire, over both stores: no debt, nothing out of order, nothing lost when a process dies in between."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.balance.model import Admitted, BalanceUnavailable, Charge, Hold, HoldRequest, WalletState
from gateway.balance.redis_balance import RedisBalance
from gateway.balance.wallets import Wallets
from gateway.core.ids import shard_of
from gateway.core.words import CostPolicy
from gateway.db.engines import Databases
from gateway.identity.model import Actor, NewApp, Role, Trial
from gateway.identity.service import Identity
from gateway.identity.store import Store
from gateway.ledger import queries
from gateway.ledger.audit import audit
from gateway.ledger.model import DisputeRequest, GrantRequest, Opening, Posted, RefundRequest, WalletKey
from gateway.ledger.service import Ledger
from gateway.trail import store as trail
from gateway.trail.model import Line
from tests.ledger.conftest import START_MS, Clock
from tests.ledger.values import posting

OPERATOR = Actor(Role.OPERATOR, "operator")
SHARD = shard_of("carol")
ANN = WalletKey("ann", "shop")


class House:
    """Books, hot store and the wallets over both, on a clock that tests move."""

    def __init__(self, databases: Databases, balance: RedisBalance) -> None:
        self.databases, self.balance, self.clock = databases, balance, Clock()
        self.identity = Identity(Store(databases.platform), b"a pepper of the tests", clock=self.clock)
        self.ledger = Ledger(databases, self.clock)
        registry = self.identity.registry
        self.wallets = Wallets(balance, self.ledger, registry.enterprise_ids, self.clock, registry.trial_of)
        self.requests = 0

    async def grant(
        self, name: str, amount_micro: int, ends_in_ms: int | None = 1000, source: str = "promo", **more: object
    ) -> str:
        ends = None if ends_in_ms is None else self.clock.ms + ends_in_ms
        request = GrantRequest(ANN, amount_micro, "USD", source, name, "test", expires_at_ms=ends, **more)  # type: ignore[arg-type]
        return (await self.wallets.grant(request)).lot.id

    async def hold(self, amount_micro: int) -> Hold:
        self.requests += 1
        request_id = f"req_{self.requests}"
        answer = await self.balance.reserve(
            HoldRequest(request_id, SHARD, (Charge(ANN.name, amount_micro, amount_micro),), (), 60_000, b"")
        )
        assert isinstance(answer, Admitted), answer
        return Hold(request_id, SHARD, (ANN.name,), ())

    async def settle(self, hold: Hold, amount_micro: int) -> None:
        """Charged in the hot store; in the books after `drain`."""
        await self.balance.settle(hold, [amount_micro], 0, b"")

    async def drain(self, hold: Hold, amount_micro: int) -> None:
        batch = [posting(hold.request_id, amount_micro=amount_micro)]
        await self.ledger.post_app_usage("shop", batch)
        await self.ledger.post_platform_usage(batch)

    async def hot(self) -> WalletState | None:
        return (await self.balance.read(SHARD, [ANN.name]))[0]

    async def lots(self) -> dict[str, int]:
        return {lot.id: lot.left_micro for lot in (await self.ledger.wallet(ANN)).lots}

    async def expired(self, after_ms: int = 2000) -> int:
        self.clock.ms += after_ms
        return await self.wallets.expire_lots()

    async def book(self) -> dict[str, int]:
        page = await queries.accounts(self.databases, "shop")
        return {account.kind: account.balance_micro for account in page.rows if account.balance_micro}

    async def acts(self) -> list[Line]:
        """What the app's trail says of lots that ended."""
        async with trail.reading(await self.databases.app("shop")) as conn:
            return [line async for line in trail.lines(conn, trail.trail_of("shop")) if line.act.startswith("lot.")]

    async def shown(self) -> list[tuple[str, int, int]]:
        """(lot, left, expired) of what people see."""
        lots = await queries.lots_shown(self.databases, ANN, "USD", self.clock.ms)
        return [(lot.id, lot.left_micro, lot.expired_micro) for lot in lots]

    async def in_order(self) -> bool:
        """Every invariant, the hot balances among them."""
        report = await audit(self.databases, ["shop"], self.balance)
        print([check for check in report.checks if not check.ok])
        return report.ok


@pytest.fixture
async def house(tmp_path: Path, balance: RedisBalance) -> AsyncIterator[House]:
    databases = Databases(f"sqlite:///{tmp_path}/platform.db", f"sqlite:///{tmp_path}/{{enterprise_id}}.db")
    await databases.migrate()
    house = House(databases, balance)
    await house.identity.registry.create_creator(OPERATOR, "carol", "Carol")
    await house.identity.registry.create_app(OPERATOR, NewApp("shop", "carol", "Shop", cost_policy=CostPolicy.CREATOR_PAYS))
    yield house
    await databases.close()


async def test_a_lot_that_was_spent_is_shown_no_more_unless_its_time_passes(house: House) -> None:
    """As the README says of `gateway wallets show`."""
    lasting, ending = await house.grant("g", 30, None), await house.grant("h", 30)
    hold = await house.hold(60)
    await house.settle(hold, 60)
    await house.drain(hold, 60)
    assert await house.shown() == []
    assert await house.expired() == 0
    assert [lot for lot, *_ in await house.shown()] == [ending]
    assert lasting != ending


@pytest.mark.parametrize(
    ("source", "account"), [("paid", "revenue.breakage"), ("promo", None), ("trial", None), ("rollover", None)]
)
async def test_what_is_left_of_a_lot_expires_in_both_stores(house: House, source: str, account: str | None) -> None:
    await house.grant("g", 100, source=source)
    assert await house.expired(500) == 0
    hold = await house.hold(30)
    await house.settle(hold, 30)
    await house.drain(hold, 30)
    assert await house.expired() == 1
    assert await house.hot() == WalletState(0, 0)
    book = await house.book()
    assert book.get("user.available", 0) == 0
    if account is None:
        assert book == {"expense.promo": -30, "revenue.usage": 30}
    else:
        assert book[account] == 70
    assert await house.expired() == 0
    assert await house.in_order()


async def test_the_end_of_a_lot_has_its_line_in_the_trail(house: House) -> None:
    lot = await house.grant("g", 100)
    await house.grant("g2", 7, None)
    hold = await house.hold(30)
    await house.settle(hold, 30)
    await house.drain(hold, 30)
    assert await house.expired() == 1
    (line,) = await house.acts()
    assert (line.act, line.role, line.actor, line.subject) == ("lot.expire", "system", "expiry", "a/shop/ann")
    assert (line.user_id, line.enterprise_id, line.at, line.reason) == (
        "carol",
        "shop",
        house.clock.ms,
        "the lot's time has passed",
    )
    assert msgspec.json.decode(line.before_json) == {"available_micro": 77, "debt_micro": 0, "left_micro": 70}
    after = msgspec.json.decode(line.after_json)
    assert (after["available_micro"], after["left_micro"], after["amount_micro"], after["lot_id"]) == (7, 0, 70, lot)
    (txn,) = (await queries.transactions(house.databases, "shop", kind="expiry")).rows
    assert line.txn_id == txn.id
    assert await house.expired() == 0
    assert await house.acts() == [line]
    assert await house.in_order()


async def test_a_wallet_shows_what_became_of_its_lots_for_thirty_days(house: House) -> None:
    day_ms = 86_400_000
    first, second = await house.grant("g1", 100, 1000), await house.grant("g2", 50, 2 * day_ms)
    last = await house.grant("g3", 10, None, source="paid", external_ref="pi_1")
    hold = await house.hold(20)
    await house.settle(hold, 20)
    await house.drain(hold, 20)
    assert await house.shown() == [(first, 80, 0), (second, 50, 0), (last, 10, 0)]
    await house.expired()
    assert await house.shown() == [(second, 50, 0), (last, 10, 0), (first, 0, 80)]
    await house.ledger.payments.dispute_opened(DisputeRequest(ANN, "pi_1", "dp_1", 10, "test"))
    await house.expired(3 * day_ms)
    assert await house.shown() == [(last, 0, 0), (second, 0, 50), (first, 0, 80)], "what is frozen is still theirs"
    house.clock.ms = START_MS + 1000 + 30 * day_ms
    assert await house.shown() == [(last, 0, 0), (second, 0, 50)]
    house.clock.ms += 2 * day_ms
    assert await house.shown() == [(last, 0, 0)]


async def test_the_moment_in_which_the_next_lot_ends_is_known(house: House) -> None:
    assert await house.wallets.next_expiry_ms() is None
    began = house.clock.ms
    for name, ends in (("late", 5000), ("soon", 1000), ("never", None)):
        await house.grant(name, 100, ends)
    assert await house.wallets.next_expiry_ms() == began + 1000
    assert await house.expired() == 1
    assert await house.wallets.next_expiry_ms() == began + 5000
    assert await house.expired(4000) == 1
    assert await house.wallets.next_expiry_ms() is None


async def test_what_is_held_or_not_drained_yet_still_burns_the_lot_that_expired(house: House) -> None:
    first = await house.grant("g1", 100)
    other = await house.grant("g2", 100, None)
    held, settled = await house.hold(40), await house.hold(25)
    await house.settle(settled, 25)
    await house.expired()
    assert await house.lots() == {first: 65, other: 100}  # 40 held and 25 on their way are still to come
    assert await house.hot() == WalletState(100, 40)
    await house.drain(settled, 25)
    await house.settle(held, 10)
    await house.drain(held, 10)
    assert await house.expired() == 1
    assert await house.lots() == {other: 100}
    assert await house.hot() == WalletState(100, 0)
    assert await house.in_order()


async def test_requests_in_flight_burn_the_lots_before_it_first(house: House) -> None:
    before = await house.grant("g1", 50, 3000, priority=-1)
    await house.grant("g2", 100)
    hold = await house.hold(70)
    assert await house.expired() == 1
    assert sorted((await house.lots()).values()) == [20, 50]  # 50 of the 70 will come from the lot of lower priority
    await house.settle(hold, 70)
    await house.drain(hold, 70)
    assert before not in await house.lots()
    assert await house.hot() == WalletState(0, 0)
    assert await house.in_order()


async def test_an_expiry_never_makes_a_debt_however_many_requests_run_beside_it(house: House) -> None:
    for number in range(8):
        await house.grant(f"g{number}", 50, 100 * number + 100)

    async def request() -> None:
        hold = await house.hold(13)
        await asyncio.sleep(0)
        await house.settle(hold, 9)
        await house.drain(hold, 9)

    await asyncio.gather(*[request() for _ in range(12)], *[house.expired(75) for _ in range(12)])
    await house.expired()
    assert await house.hot() == WalletState(0, 0)
    view = await house.ledger.wallet(ANN)
    assert (view.available_micro, view.debt_micro) == (0, 0)
    assert (await house.book())["revenue.usage"] == 12 * 9
    assert await house.in_order()


class Dies(Exception):
    """The process ends."""


class DyingBalance(RedisBalance):
    """A process that ends right after the hot wallet gave the money."""

    async def take(self, op_id: str, shard: int, wallet: str, most_micro: int) -> int | None:
        await super().take(op_id, shard, wallet, most_micro)
        raise Dies


async def died(house: House, server_url: str) -> None:
    dying = DyingBalance(server_url)
    house.clock.ms += 2000
    with pytest.raises(Dies):
        await Wallets(dying, house.ledger, house.identity.registry.enterprise_ids, house.clock).expire_lots()
    await dying.close()


async def test_who_dies_between_taking_and_posting_is_finished_by_the_next_with_the_same_amount(
    house: House, server_url: str
) -> None:
    lot = await house.grant("g1", 100)
    await died(house, server_url)
    assert (await house.hot(), await house.lots()) == (WalletState(0, 0), {lot: 100})
    await house.grant("g2", 40, None)  # must not be taken for the expiry
    assert await house.acts() == [], "what is not committed has no line"
    assert sorted(await asyncio.gather(*[house.wallets.expire_lots() for _ in range(3)])) == [0, 0, 1]
    assert [line.act for line in await house.acts()] == ["lot.expire"]
    assert await house.hot() == WalletState(40, 0)
    assert await house.in_order()


@pytest.mark.parametrize("used", [70, 100, 130])
async def test_a_lot_used_up_between_such_a_death_and_the_repeat_gives_the_rest_back(
    house: House, server_url: str, used: int
) -> None:
    await house.grant("g1", 100)
    await house.grant("g2", 200, None)
    await died(house, server_url)
    assert await house.hot() == WalletState(200, 0)
    hold = await house.hold(used)
    await house.settle(hold, used)
    await house.drain(hold, used)
    assert await house.wallets.expire_lots() == 1
    assert sum((await house.lots()).values()) == (200 if used < 100 else 300 - used)
    assert await house.in_order()
    assert await house.expired() == 0


async def test_a_request_that_comes_between_the_look_and_the_taking_keeps_its_money(house: House, server_url: str) -> None:
    class Overtaken(RedisBalance):
        async def take(self, op_id: str, shard: int, wallet: str, most_micro: int) -> int | None:
            holds.append(await house.hold(60))
            return await super().take(op_id, shard, wallet, most_micro)

    await house.grant("g1", 100)
    house.clock.ms += 2000
    holds: list[Hold] = []
    overtaken = Overtaken(server_url)
    registry = house.identity.registry
    assert await Wallets(overtaken, house.ledger, registry.enterprise_ids, house.clock).expire_lots() == 1
    await overtaken.close()
    assert await house.hot() == WalletState(0, 60)
    await house.settle(holds[0], 60)
    await house.drain(holds[0], 60)
    assert (await house.ledger.wallet(ANN)).debt_micro == 0
    assert await house.in_order()


async def test_what_an_expiry_gives_back_waits_for_a_hot_store_that_is_down(house: House, server_url: str) -> None:
    class Down(RedisBalance):
        async def credit(self, op_id: str, shard: int, wallet: str, delta_micro: int) -> WalletState | None:
            raise BalanceUnavailable

    await house.grant("g1", 100)
    await house.grant("g2", 200, None)
    await died(house, server_url)
    hold = await house.hold(70)
    await house.settle(hold, 70)
    await house.drain(hold, 70)
    down = Down(server_url)
    assert await Wallets(down, house.ledger, house.identity.registry.enterprise_ids, house.clock).expire_lots() == 1
    await down.close()
    assert await house.hot() == WalletState(130, 0)
    assert (await house.ledger.opening(ANN)).amount_micro == 130  # 70 are to be given back
    assert await house.in_order()
    assert [credit.delta_micro for credit in await house.ledger.waiting_credits("shop")] == [70]
    await house.wallets.apply_waiting_credits()
    assert await house.hot() == WalletState(200, 0)
    assert await house.in_order()


async def test_a_hot_store_that_is_down_or_lost_the_wallet_changes_nothing(house: House, server_url: str) -> None:
    class Down(RedisBalance):
        async def take(self, op_id: str, shard: int, wallet: str, most_micro: int) -> int | None:
            raise BalanceUnavailable

    lot = await house.grant("g1", 100)
    house.clock.ms += 2000
    down = Down(server_url)
    with pytest.raises(BalanceUnavailable):
        await Wallets(down, house.ledger, house.identity.registry.enterprise_ids, house.clock).expire_lots()
    await down.close()
    assert await house.lots() == {lot: 100}
    await house.balance.link.call("FLUSHALL")
    assert await house.wallets.expire_lots() == 0
    assert await house.lots() == {lot: 100}


async def test_a_lot_whose_money_never_reached_the_hot_wallet_waits_for_it(house: House) -> None:
    request = GrantRequest(ANN, 100, "USD", "promo", "g1", "test", expires_at_ms=START_MS + 1000)
    await house.ledger.grant(request)
    assert await house.expired() == 0
    await house.wallets.apply_waiting_credits()
    assert await house.expired() == 1
    assert await house.hot() == WalletState(0, 0)
    assert await house.in_order()


@pytest.mark.parametrize(("left", "debt"), [(60, 40), (40, 60), (40, 40)])
async def test_a_lot_that_would_be_lost_pays_its_owners_debt_first(house: House, left: int, debt: int) -> None:
    await house.grant("g1", debt, None, source="paid", external_ref="pi_1")
    hold = await house.hold(debt)
    await house.settle(hold, debt)
    await house.drain(hold, debt)
    await house.grant("g2", left)
    refund = RefundRequest(ANN, "pi_1", "re_1", debt, "test")
    await house.wallets.deliver(await house.ledger.payments.refund(refund))
    assert await house.hot() == WalletState(left - debt, 0)
    await house.expired()
    view = await house.ledger.wallet(ANN)
    assert (view.available_micro, view.debt_micro) == (0, max(debt - left, 0))
    assert await house.hot() == WalletState(min(left - debt, 0), 0)
    acts = await house.acts()
    assert [line.act for line in acts] == ["lot.repay", *(["lot.expire"] if left > debt else [])]
    told = [(msgspec.json.decode(line.before_json), msgspec.json.decode(line.after_json)) for line in acts]
    assert (told[0][0]["available_micro"], told[0][0]["debt_micro"]) == (left, debt)
    assert (told[-1][1]["available_micro"], told[-1][1]["debt_micro"]) == (0, view.debt_micro)
    assert await house.in_order()


async def test_a_refund_that_the_hot_store_missed_reaches_it_later_once(house: House) -> None:
    await house.grant("g1", 100, None, source="paid", external_ref="pi_1")
    posted: Posted = await house.ledger.payments.refund(RefundRequest(ANN, "pi_1", "re_1", 30, "test"))
    assert await house.hot() == WalletState(100, 0)
    assert await house.wallets.apply_waiting_credits() == 1
    for _ in range(2):
        await house.wallets.deliver(posted)
        again = await house.ledger.payments.refund(RefundRequest(ANN, "pi_1", "re_1", 30, "test"))
        assert not (await house.wallets.deliver(again)).first
    assert await house.hot() == WalletState(70, 0)
    assert await house.in_order()


async def with_trial(house: House, trial: Trial | None) -> None:
    new = NewApp("shop2", "carol", "Shop", cost_policy=CostPolicy.CREATOR_PAYS, trial=trial)
    await house.identity.registry.create_app(OPERATOR, new)


async def test_first_sight_grants_the_trial_of_the_app_once_however_many_see_it_at_once(house: House) -> None:
    await with_trial(house, Trial(500, 7))
    new = WalletKey("newcomer", "shop2")
    assert all(await asyncio.gather(*[house.wallets.open_missing(SHARD, (new.name,)) for _ in range(6)]))
    view = await house.ledger.wallet(new)
    assert [(lot.source, lot.granted_micro) for lot in view.lots] == [("trial", 500)]
    assert view.lots[0].expires_at_ms == START_MS + 7 * 86_400_000
    assert (await house.balance.read(SHARD, [new.name]))[0] == WalletState(500, 0)
    house.clock.ms += 8 * 86_400_000
    assert await house.wallets.expire_lots() == 1
    await house.balance.link.call("DEL", f"mzk:{{s{SHARD:03d}}}:w:{new.name}")
    assert not await house.wallets.open_missing(SHARD, (new.name,))  # lost, and no second trial
    assert (await house.ledger.wallet(new)).lots == ()


async def test_who_is_known_to_the_books_has_no_first_sight_and_creators_have_no_trial(house: House) -> None:
    await with_trial(house, Trial(500, 7))
    known = WalletKey("known", "shop2")
    await house.ledger.grant(GrantRequest(known, 5, "USD", "promo", "g1", "test"))
    assert await house.wallets.open_missing(SHARD, (known.name, "p/carol"))
    assert [lot.source for lot in (await house.ledger.wallet(known)).lots] == ["promo"]
    assert (await house.ledger.wallet(WalletKey("carol"))).lots == ()
    assert await house.wallets.open_missing(SHARD, (ANN.name,))  # an app without a trial
    assert (await house.ledger.wallet(ANN)).lots == ()


class LateLedger(Ledger):
    """A look at the books that is overtaken by everything else."""

    async def opening(self, wallet: WalletKey) -> Opening:
        seen = await super().opening(wallet)
        await asyncio.sleep(0.05)
        return seen


async def test_processes_that_all_saw_the_newcomer_first_grant_one_trial(house: House) -> None:
    await with_trial(house, Trial(500, 7))
    registry = house.identity.registry
    slow = []
    for ahead_ms in range(4):  # no two machines have the same time
        clock = Clock()
        clock.ms += ahead_ms
        ledger = LateLedger(house.databases, clock)
        slow.append(Wallets(house.balance, ledger, registry.enterprise_ids, clock, registry.trial_of))
    assert all(await asyncio.gather(*[wallets.open_missing(SHARD, ("a/shop2/newcomer",)) for wallets in slow]))
    await house.wallets.apply_waiting_credits()
    assert (await house.balance.read(SHARD, ["a/shop2/newcomer"]))[0] == WalletState(500, 0)
    assert (await house.ledger.wallet(WalletKey("newcomer", "shop2"))).available_micro == 500

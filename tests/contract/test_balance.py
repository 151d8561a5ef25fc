"""One contract for every adapter of `Balance`: real scripts, scripts with a moved clock, and memory."""

import asyncio
import itertools
import random
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import cast
from unittest.mock import ANY

import pytest
from msgspec import structs

from gateway.balance.memory_balance import MemoryBalance
from gateway.balance.model import (
    BY_TOKENS,
    Admitted,
    Balance,
    BalanceUnavailable,
    Charge,
    Extended,
    HoldRequest,
    Limit,
    LimitKind,
    RefusedByLimit,
    RefusedByWallet,
    Settled,
    WalletMissing,
    WalletState,
)
from gateway.balance.redis_balance import RedisBalance
from gateway.core.money import AMOUNT_MICRO_MAX
from tests.balance.server import handle, running_server, scripts_with_moved_clock, stored_events

RPM, TPM, CONCURRENCY = LimitKind.REQUESTS_PER_MINUTE, LimitKind.TOKENS_PER_MINUTE, LimitKind.CONCURRENCY
DAY, MONTH, TOTAL = LimitKind.SPEND_PER_DAY, LimitKind.SPEND_PER_MONTH, LimitKind.SPEND_TOTAL
SHARD, WALLET, SECOND = 7, "p/creator", "a/app/user"
# Half an hour before a month ends (February of a leap year comes next), at the start of a minute.
BASE_MS = int(datetime(2040, 1, 31, 23, 30, tzinfo=UTC).timestamp() * 1000)
BACKLOG_MAX = 40
ABANDONED = b'{"status":"lost"}'


class Place:
    """An adapter, its clock and its events."""

    def __init__(self, balance: Balance) -> None:
        self.balance = balance
        self.now_ms = BASE_MS
        self._ids = itertools.count()

    async def advance(self, ms: int) -> None:
        self.now_ms += ms
        if isinstance(self.balance, RedisBalance):
            await self.balance.link.call("SET", "clock", self.now_ms * 1000)

    async def events(self) -> list[bytes]:
        if isinstance(self.balance, RedisBalance):
            return await stored_events(self.balance, SHARD)
        return [data for shard, data in cast(MemoryBalance, self.balance).events if shard == SHARD]

    async def state(self, *wallets: str) -> list[WalletState | None]:
        return await self.balance.read(SHARD, wallets or (WALLET,))

    def request(
        self, *charges: Charge, limits: tuple[Limit, ...] = (), request_id: str = "", ttl_ms: int = 60_000
    ) -> HoldRequest:
        request_id = request_id or f"req_{next(self._ids)}"
        return HoldRequest(request_id, SHARD, charges, limits, ttl_ms, b'{"of":"%b"}' % request_id.encode())

    async def hold(self, *charges: Charge, limits: tuple[Limit, ...] = ()) -> tuple[HoldRequest, Admitted]:
        request = self.request(*charges, limits=limits)
        answer = await self.balance.reserve(request)
        assert isinstance(answer, Admitted)
        return request, answer


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with running_server() as url:
        yield url


@pytest.fixture(params=["memory", "redis", "redis with a moved clock"])
async def place(request: pytest.FixtureRequest, server_url: str) -> AsyncIterator[Place]:
    if request.param == "memory":
        memory = Place(MemoryBalance(lambda: there.now_ms * 1_000_000, event_backlog_max=BACKLOG_MAX, abandoned=ABANDONED))
        there = memory
        yield memory
        return
    left_s = 60 - time.time() % 60
    if left_s < 0.5:
        await asyncio.sleep(left_s)  # no test on the real clock straddles a minute
    scripts = scripts_with_moved_clock() if "moved" in request.param else None
    balance = RedisBalance(server_url, scripts=scripts, event_backlog_max=BACKLOG_MAX, abandoned=ABANDONED)
    await balance.link.call("FLUSHALL")
    place = Place(balance)
    if scripts is not None:
        await place.advance(0)
    yield place
    await balance.close()


@pytest.fixture
def moving(place: Place, request: pytest.FixtureRequest) -> Place:
    if request.node.callspec.params["place"] == "redis":
        pytest.skip("the real clock does not wait for tests")
    return place


def all_of(wallet: str, micro: int) -> Charge:
    return Charge(wallet, micro, micro)


async def test_a_hold_moves_money_from_available_to_held(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    _, answer = await place.hold(all_of(WALLET, 300))
    assert answer == Admitted((300,), (700,), ())
    assert await place.state() == [WalletState(700, 300)]


async def test_what_limits_count_can_be_asked_at_any_time(moving: Place) -> None:
    await moving.balance.open(SHARD, WALLET, 10**9)
    kinds = (RPM, TPM, CONCURRENCY, DAY, MONTH, TOTAL)
    limits = tuple(Limit("k/1", kind, 10**6, 300 if kind is TPM else 1) for kind in kinds)
    other = Limit("u/1", RPM, 7)
    assert await moving.balance.used(SHARD, [*limits, other]) == [0] * 7
    request, admitted = await moving.hold(all_of(WALLET, 5000), limits=(*limits, other))
    counted = [1, 300, 1, 5000, 5000, 5000, 1]
    assert await moving.balance.used(SHARD, [*limits, other]) == counted
    assert [limit.maximum - left for limit, left in zip((*limits, other), admitted.remaining, strict=True)] == counted
    await moving.balance.settle(handle(request), [4000], 200, b"{}")
    assert await moving.balance.used(SHARD, limits) == [1, 200, 0, 4000, 4000, 4000]
    await moving.advance(80_000)  # the minute before counts by what of it is inside the last sixty seconds
    assert await moving.balance.used(SHARD, limits) == [1, 134, 0, 4000, 4000, 4000]
    await moving.hold(all_of(WALLET, 10), limits=limits)
    assert await moving.balance.used(SHARD, limits) == [2, 434, 1, 4010, 4010, 4010]
    await moving.advance(60_000)
    assert await moving.balance.used(SHARD, limits) == [1, 200, 1, 4010, 4010, 4010]
    await moving.advance(60_000)
    assert await moving.balance.used(SHARD, limits) == [0, 0, 1, 4010, 4010, 4010]
    await moving.advance(30 * 60_000)  # another day, of another month
    assert await moving.balance.used(SHARD, limits) == [0, 0, 1, 0, 0, 4010]
    await moving.hold(all_of(WALLET, 7), limits=limits)
    assert await moving.balance.used(SHARD, limits) == [1, 300, 2, 7, 7, 4017]


async def test_reserving_again_by_the_same_id_returns_the_first_answer_and_holds_once(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    limits = (Limit("k/1", RPM, 5), Limit("k/1", CONCURRENCY, 5))
    request, first = await place.hold(all_of(WALLET, 900), limits=limits)
    assert first.remaining == (4, 4)
    assert await place.balance.reserve(request) == first  # 900 more would not be there
    assert await place.state() == [WalletState(100, 900)]
    assert (await place.balance.settle(handle(request), [100], 0, b"e")).first
    assert await place.balance.reserve(request) == first
    assert await place.state() == [WalletState(900, 0)]
    _, other = await place.hold(limits=limits)
    assert other.remaining == (3, 4)


async def test_a_repeat_that_would_be_admitted_afresh_still_holds_once(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    limits = (Limit("k/1", RPM, 5),)
    request, first = await place.hold(all_of(WALLET, 10), limits=limits)
    assert await place.balance.reserve(request) == first
    assert await place.state() == [WalletState(990, 10)]
    assert (await place.hold(limits=limits))[1].remaining == (3,)


async def test_settling_debits_the_amount_frees_the_rest_and_appends_the_event(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    request, _ = await place.hold(all_of(WALLET, 300))
    event = b"{\x00\xffbinary\r\n}"
    assert await place.balance.settle(handle(request), [120], 0, event) == Settled((880,), True)
    assert await place.state() == [WalletState(880, 0)]
    assert await place.events() == [request.context[:-1] + b"," + event[1:]]


async def test_settling_again_returns_the_first_result_and_charges_once(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    request, _ = await place.hold(all_of(WALLET, 300))
    await place.balance.settle(handle(request), [120], 0, b"one")
    await place.balance.credit("other", SHARD, WALLET, 5)
    assert await place.balance.settle(handle(request), [120], 0, b"two") == Settled((880,), False)
    assert await place.state() == [WalletState(885, 0)]
    assert await place.events() == [request.context[:-1] + b",ne"]
    assert await place.balance.release(handle(request)) is False
    assert await place.state() == [WalletState(885, 0)]


async def test_releasing_gives_everything_back_once(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    limits = (Limit("k/1", RPM, 9), Limit("k/1", TPM, 900, 100), Limit("k/1", CONCURRENCY, 9), Limit("k/1", DAY, 900))
    request, answer = await place.hold(all_of(WALLET, 300), limits=limits)
    assert answer.remaining == (8, 800, 8, 600)
    assert await place.balance.release(handle(request)) is True
    assert await place.balance.release(handle(request)) is False
    assert await place.state() == [WalletState(1000, 0)]
    assert await place.balance.settle(handle(request), [120], 0, b"late") == Settled((1000,), False, stands=False)
    assert await place.events() == []
    _, answer = await place.hold(all_of(WALLET, 300), limits=limits)
    assert answer.remaining == (8, 800, 8, 600)


async def test_a_wallet_that_does_not_cover_the_floor_refuses_and_changes_nothing(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    await place.hold(all_of(WALLET, 400))
    refused = await place.balance.reserve(place.request(Charge(WALLET, 900, 601), limits=(Limit("k/1", RPM, 5),)))
    assert refused == RefusedByWallet(0, 600, 400)
    assert await place.state() == [WalletState(600, 400)]
    assert (await place.hold(limits=(Limit("k/1", RPM, 5),)))[1].remaining == (4,)


async def test_a_grant_is_the_ceiling_or_what_is_there_down_to_the_floor(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    assert (await place.hold(Charge(WALLET, 700, 100)))[1].granted == (700,)
    assert (await place.hold(Charge(WALLET, 700, 100)))[1].granted == (300,)
    assert await place.state() == [WalletState(0, 1000)]
    assert await place.balance.reserve(place.request(Charge(WALLET, 700, 1))) == RefusedByWallet(0, 0, 1000)
    assert (await place.hold(Charge(WALLET, 700, 0)))[1].granted == (0,)


async def test_a_free_request_is_refused_only_in_debt(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 0)
    free = Charge(WALLET, 0, 0)
    await place.hold(free)
    await place.balance.credit("clawback", SHARD, WALLET, -1)
    assert await place.balance.reserve(place.request(free)) == RefusedByWallet(0, -1, 0)


async def test_two_wallets_move_together_or_not_at_all(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    await place.balance.open(SHARD, SECOND, 50)
    refused = await place.balance.reserve(place.request(all_of(WALLET, 100), all_of(SECOND, 51)))
    assert refused == RefusedByWallet(1, 50, 0)
    assert await place.state(WALLET, SECOND) == [WalletState(1000, 0), WalletState(50, 0)]
    request, answer = await place.hold(all_of(WALLET, 100), Charge(SECOND, 80, 10))
    assert answer == Admitted((100, 50), (900, 0), ())
    settled = await place.balance.settle(handle(request), [60, 20], 0, b"e")
    assert settled == Settled((940, 30), True)
    assert await place.state(WALLET, SECOND) == [WalletState(940, 0), WalletState(30, 0)]


async def test_missing_wallets_are_named_and_nothing_changes(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    request = place.request(all_of("p/new", 1), all_of(WALLET, 1), all_of("p/other", 1), limits=(Limit("k/1", RPM, 1),))
    assert await place.balance.reserve(request) == WalletMissing(("p/new", "p/other"))
    assert await place.state(WALLET, "p/new") == [WalletState(1000, 0), None]
    assert await place.balance.credit("op", SHARD, "p/new", 5) is None
    await place.balance.open(SHARD, "p/new", 10)
    await place.balance.open(SHARD, "p/other", 10)
    assert isinstance(await place.balance.reserve(request), Admitted)
    assert await place.balance.credit("op", SHARD, "p/new", 5) == WalletState(14, 1)


async def test_a_wallet_opens_once_and_only_in_its_shard(place: Place) -> None:
    assert await place.balance.open(SHARD, WALLET, 1000) is True
    assert await place.balance.open(SHARD, WALLET, 5) is False
    assert await place.state() == [WalletState(1000, 0)]
    assert await place.balance.read(SHARD + 1, [WALLET]) == [None]


async def test_a_credit_counts_once_per_operation(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, -30)
    assert await place.balance.credit("txn_1", SHARD, WALLET, 100) == WalletState(70, 0)
    assert await place.balance.credit("txn_1", SHARD, WALLET, 100) == WalletState(70, 0)
    assert await place.balance.credit("txn_2", SHARD, WALLET, -100) == WalletState(-30, 0)


async def test_settling_above_the_hold_may_leave_a_debt(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 100)
    request, _ = await place.hold(all_of(WALLET, 100), limits=(Limit("k/1", TOTAL, 1000),))
    assert await place.balance.settle(handle(request), [150], 0, b"e") == Settled((-50,), True)
    assert await place.state() == [WalletState(-50, 0)]
    await place.balance.credit("op", SHARD, WALLET, 100)
    assert (await place.hold(all_of(WALLET, 10), limits=(Limit("k/1", TOTAL, 1000),)))[1].remaining == (840,)


async def test_a_request_without_charges_is_still_held_settled_and_recorded(place: Place) -> None:
    limits = (Limit("k/1", CONCURRENCY, 1), Limit("k/1", DAY, 10))
    request, answer = await place.hold(limits=limits)
    assert answer == Admitted((), (), (0, 10))
    assert isinstance(await place.balance.reserve(place.request(limits=limits)), RefusedByLimit)
    assert await place.balance.settle(handle(request), [], 9, b"e") == Settled((), True)
    assert await place.balance.settle(handle(request), [], 9, b"e") == Settled((), False)
    assert await place.events() == [request.context[:-1] + b","]
    await place.hold(limits=limits)


async def test_an_expired_hold_is_released_and_its_context_becomes_the_event(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    limits = (Limit("k/1", CONCURRENCY, 2), Limit("k/1", MONTH, 1000))
    short = place.request(all_of(WALLET, 300), limits=limits, ttl_ms=5)
    await place.balance.reserve(short)
    await place.hold(all_of(WALLET, 100), limits=limits)
    await asyncio.sleep(0.01)
    await place.advance(6)
    assert await place.balance.sweep(SHARD + 1) == 0
    assert await place.balance.sweep(SHARD) == 1
    assert await place.balance.sweep(SHARD) == 0
    assert await place.state() == [WalletState(900, 100)]
    [event] = await place.events()
    front, at_ms, rest = re.fullmatch(rb'(.*),"at_ms":(\d+)(,.*)', event).groups()  # type: ignore[union-attr]
    assert (front, rest) == (short.context[:-1], b',"amounts_micro":[0],"held_micro":[300],"status":"lost"}')
    # By the store's own clock, which only stands still where a test moves it.
    assert int(at_ms) == place.now_ms or abs(int(at_ms) - time.time() * 1000) < 60_000
    assert await place.balance.settle(handle(short), [250], 0, b"late") == Settled((900,), False, stands=False)
    assert await place.balance.release(handle(short)) is False
    assert await place.state() == [WalletState(900, 100)]
    assert await place.events() == [event]
    assert (await place.hold(all_of(WALLET, 1), limits=limits))[1].remaining == (0, 899)


async def test_a_limit_by_tokens_counts_what_the_request_says_of_itself_at_most_the_whole_limit(place: Place) -> None:
    limits = (Limit("k/1", TPM, 1000, BY_TOKENS), Limit("u/a/1", TPM, 600, BY_TOKENS))
    request = structs.replace(place.request(limits=limits), tokens=350)
    assert await place.balance.reserve(request) == Admitted((), (), (650, 250))
    assert await place.balance.reserve(structs.replace(request, request_id="other")) == RefusedByLimit(1, 350, ANY)
    await place.balance.settle(handle(request), [], 40, b"e")
    assert (await place.hold(limits=(Limit("k/1", TPM, 1000, 0), Limit("u/a/1", TPM, 600, 0))))[1].remaining == (960, 560)
    await place.balance.open(SHARD, WALLET, 1)
    large = structs.replace(place.request(limits=(Limit("k/2", TPM, 600, BY_TOKENS),)), tokens=10**9)
    assert await place.balance.reserve(large) == Admitted((), (), (0,))


async def test_a_limit_by_tokens_counts_what_a_stream_used_by_now_and_corrects_it_in_the_end(place: Place) -> None:
    limits = (Limit("k/1", RPM, 9), Limit("k/1", TPM, 1000, BY_TOKENS), Limit("u/a/1", TPM, 600, 30))
    still = (Limit("k/1", TPM, 1000, 0), Limit("u/a/1", TPM, 600, 0))

    async def left() -> tuple[int, ...]:
        return (await place.hold(limits=still))[1].remaining

    request = structs.replace(place.request(limits=limits), tokens=100)
    assert isinstance(await place.balance.reserve(request), Admitted)
    # Less than was counted before takes nothing back.
    for tokens, there in ((0, (900, 570)), (40, (900, 560)), (250, (750, 350)), (250, (750, 350)), (90, (750, 350))):
        assert await place.balance.extend(handle(request), [], 60_000, tokens=tokens) == Extended((), ())
        assert await left() == there
    # What is beyond a limit is counted, and refuses nobody but others.
    assert await place.balance.extend(handle(request), [], 60_000, tokens=640) == Extended((), ())
    assert await place.balance.reserve(place.request(limits=still)) == RefusedByLimit(1, 640, ANY)
    await place.balance.settle(handle(request), [], 210, b"{e}")
    assert await left() == (790, 390)
    assert await place.balance.extend(handle(request), [], 60_000, tokens=999) is None
    assert await left() == (790, 390)


async def test_a_request_that_a_provider_refused_counts_as_one_and_has_used_nothing(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    limits = (Limit("k/1", RPM, 9), Limit("k/1", TPM, 1000, 100), Limit("k/1", CONCURRENCY, 9), Limit("k/1", DAY, 900))
    still = (Limit("k/1", RPM, 9, 0), Limit("k/1", TPM, 1000, 0), Limit("k/1", CONCURRENCY, 9, 0), Limit("k/1", DAY, 900, 0))
    request, _ = await place.hold(all_of(WALLET, 100), limits=limits)
    assert await place.balance.release(handle(request), asked=True) is True
    assert await place.balance.release(handle(request), asked=False) is False
    assert await place.state() == [WalletState(1000, 0)]
    assert (await place.hold(limits=still[:3]))[1].remaining == (8, 1000, 9)
    request, _ = await place.hold(all_of(WALLET, 100), limits=limits)
    assert await place.balance.release(handle(request)) is True
    assert (await place.hold(all_of(WALLET, 1), limits=still))[1].remaining[:3] == (8, 1000, 9)


async def test_a_stream_that_is_given_back_or_left_to_the_sweeper_counts_what_it_is_known_to_have_used(place: Place) -> None:
    limits, still = (Limit("k/1", TPM, 1000, 100),), (Limit("k/1", TPM, 1000, 0),)
    request, _ = await place.hold(limits=limits)
    await place.balance.extend(handle(request), [], 60_000, tokens=300)
    await place.balance.release(handle(request))
    assert (await place.hold(limits=still))[1].remaining == (1000,)
    request = place.request(limits=limits, ttl_ms=5)
    await place.balance.reserve(request)
    await place.balance.extend(handle(request), [], 5, (), b'{"status":"abandoned"}', tokens=300)
    await asyncio.sleep(0.01)
    await place.advance(6)
    assert await place.balance.sweep(SHARD) == 1
    assert (await place.hold(limits=still))[1].remaining == (700,)


async def test_tokens_of_a_stream_count_in_the_minute_that_it_began_in(moving: Place) -> None:
    place = moving
    limits, still = (Limit("k/1", TPM, 1000, 100),), (Limit("k/1", TPM, 1000, 0),)
    request, _ = await place.hold(limits=limits)
    await place.advance(60_000 - place.now_ms % 60_000)
    await place.balance.extend(handle(request), [], 600_000, tokens=400)
    assert (await place.hold(limits=still))[1].remaining == (600,), "the minute before is still inside the last 60 s"
    await place.advance(60_000)
    await place.balance.extend(handle(request), [], 600_000, tokens=900)
    assert (await place.hold(limits=still))[1].remaining == (1000,)
    await place.balance.settle(handle(request), [], 950, b"{e}")
    assert (await place.hold(limits=still))[1].remaining == (1000,)


async def test_a_hold_grows_as_far_as_the_wallet_goes_and_is_settled_whole(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    request, first = await place.hold(all_of(WALLET, 100))
    assert await place.balance.extend(handle(request), [400], 60_000) == Extended((400,), (600,))
    assert await place.balance.extend(handle(request), [400], 60_000) == Extended((400,), (600,))
    assert await place.balance.extend(handle(request), [50], 60_000) == Extended((400,), (600,))  # nothing is taken back
    assert await place.balance.extend(handle(request), [5000], 60_000) == Extended((1000,), (0,))
    assert await place.state() == [WalletState(0, 1000)]
    assert await place.balance.reserve(request) == first
    assert await place.balance.settle(handle(request), [730], 0, b"{e}") == Settled((270,), True)
    assert await place.state() == [WalletState(270, 0)]
    assert await place.balance.extend(handle(request), [5000], 60_000) is None
    assert await place.state() == [WalletState(270, 0)]


async def test_a_hold_that_grew_is_given_back_whole(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    request, _ = await place.hold(all_of(WALLET, 100), limits=(Limit("k/1", DAY, 900),))
    await place.balance.extend(handle(request), [500], 60_000)
    assert await place.balance.release(handle(request))
    assert await place.state() == [WalletState(1000, 0)]
    assert (await place.hold(all_of(WALLET, 1), limits=(Limit("k/1", DAY, 900),)))[1].remaining == (899,)


async def test_a_spend_limit_bounds_what_a_hold_grows_by_and_counts_it(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    await place.balance.open(SHARD, SECOND, 1000)
    limits = (Limit("k/1", RPM, 9), Limit("k/1", TOTAL, 300), Limit("k/1", MONTH, 350), Limit("u/a/1", DAY, 90, charge=1))
    request, _ = await place.hold(all_of(WALLET, 100), all_of(SECOND, 10), limits=limits)
    assert await place.balance.extend(handle(request), [200, 10], 60_000) == Extended((200, 10), (800, 990))
    assert await place.balance.extend(handle(request), [800, 800], 60_000) == Extended((300, 90), (700, 910))
    assert isinstance(await place.balance.reserve(place.request(all_of(WALLET, 1), limits=(limits[1],))), RefusedByLimit)
    await place.balance.settle(handle(request), [250, 20], 0, b"{e}")
    _, answer = await place.hold(all_of(WALLET, 10), all_of(SECOND, 10), limits=limits)
    assert answer.remaining == (7, 40, 90, 60)


async def test_an_abandoned_hold_is_settled_at_its_checkpoint(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    limits = (Limit("k/1", RPM, 9), Limit("k/1", TPM, 900, 100), Limit("k/1", CONCURRENCY, 9), Limit("k/1", DAY, 900))
    request = place.request(all_of(WALLET, 100), limits=limits, ttl_ms=5)
    await place.balance.reserve(request)
    await place.balance.extend(handle(request), [200], 5, (30,), b'{"status":"early"}')
    await place.balance.extend(handle(request), [300], 5, (70,), b'{"status":"later"}')
    await place.balance.extend(handle(request), [0], 5)  # a sign of life alone leaves the checkpoint as it is
    await asyncio.sleep(0.01)
    await place.advance(6)
    assert await place.balance.sweep(SHARD) == 1
    assert await place.state() == [WalletState(930, 0)]
    [event] = await place.events()
    assert event.startswith(request.context[:-1] + b',"at_ms":')
    assert event.endswith(b',"amounts_micro":[70],"held_micro":[300],"status":"later"}')
    assert (await place.balance.settle(handle(request), [250], 0, b"{late}")).first is False
    assert await place.state() == [WalletState(930, 0)]
    _, answer = await place.hold(all_of(WALLET, 1), limits=limits)
    assert answer.remaining == (7, 700, 8, 829)  # it ran: its place in the minute is not given back


async def test_a_sign_of_life_puts_the_deadline_off_and_never_nearer(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    short, long = (place.request(all_of(WALLET, 10), ttl_ms=ttl_ms) for ttl_ms in (5, 60_000))
    for request, ttl_ms in ((short, 60_000), (long, 5)):
        await place.balance.reserve(request)
        assert await place.balance.extend(handle(request), [0], ttl_ms) == Extended((10,), ANY)
    await asyncio.sleep(0.01)
    await place.advance(6)
    assert await place.balance.sweep(SHARD) == 0


async def test_a_sweep_ends_any_number_of_holds(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    requests = [place.request(all_of(WALLET, 1), ttl_ms=1) for _ in range(237)]
    for request in requests:
        await place.balance.reserve(request)
    await asyncio.sleep(0.005)
    await place.advance(2)
    assert await place.balance.sweep(SHARD) == 237
    assert await place.state() == [WalletState(1000, 0)]
    fronts = [event.partition(b",")[0] for event in await place.events()]
    assert sorted(fronts) == sorted(request.context[:-1] for request in requests)


async def test_a_backlog_of_events_fails_closed_but_still_settles(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    held = [(await place.hold(all_of(WALLET, 1)))[0] for _ in range(BACKLOG_MAX + 1)]
    for request in held[:-1]:
        await place.balance.settle(handle(request), [1], 0, b"e")
    with pytest.raises(BalanceUnavailable):
        await place.balance.reserve(place.request(all_of(WALLET, 1)))
    assert isinstance(await place.balance.reserve(held[-1]), Admitted)
    assert (await place.balance.settle(handle(held[-1]), [1], 0, b"e")).first
    assert len(await place.events()) == BACKLOG_MAX + 1


@pytest.mark.parametrize("kind", [RPM, TPM, CONCURRENCY])
async def test_a_count_is_refused_above_its_maximum_and_changes_nothing(place: Place, kind: LimitKind) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    limits = (Limit("u/app/1", kind, 10, 4),)
    assert [(await place.hold(limits=limits))[1].remaining for _ in range(2)] == [(6,), (2,)]
    refused = await place.balance.reserve(place.request(all_of(WALLET, 1), limits=limits))
    assert isinstance(refused, RefusedByLimit)
    assert (refused.limit, refused.used) == (0, 8)
    assert (refused.retry_after_ms > 0) is (kind is not CONCURRENCY)
    assert await place.state() == [WalletState(1000, 0)]
    assert (await place.hold(limits=(Limit("u/app/1", kind, 10, 2),)))[1].remaining == (0,)
    assert isinstance(await place.balance.reserve(place.request(limits=(Limit("u/app/2", kind, 10, 10),))), Admitted)


@pytest.mark.parametrize("kind", [DAY, MONTH, TOTAL])
async def test_spend_counts_the_grant_and_then_the_amount(place: Place, kind: LimitKind) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    await place.balance.open(SHARD, SECOND, 1000)
    limits = (Limit("k/1", kind, 500, charge=1),)
    request, answer = await place.hold(all_of(WALLET, 7), all_of(SECOND, 400), limits=limits)
    assert answer.remaining == (100,)
    refused = await place.balance.reserve(place.request(all_of(WALLET, 7), all_of(SECOND, 101), limits=limits))
    assert isinstance(refused, RefusedByLimit)
    assert (refused.limit, refused.used, refused.retry_after_ms > 0) == (0, 400, kind is not TOTAL)
    await place.balance.settle(handle(request), [7, 150], 0, b"e")
    _, answer = await place.hold(all_of(WALLET, 7), all_of(SECOND, 350), limits=limits)
    assert answer.remaining == (0,)


async def test_a_spend_limit_lowers_a_grant_down_to_the_floor(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    limits = (Limit("k/1", DAY, 500), Limit("k/1", TOTAL, 450), Limit("u/a/1", MONTH, 900))
    _, answer = await place.hold(Charge(WALLET, 800, 100), limits=limits)
    assert answer == Admitted((450,), (550,), (50, 0, 450))
    refused = await place.balance.reserve(place.request(Charge(WALLET, 800, 100), limits=limits))
    assert isinstance(refused, RefusedByLimit)
    assert (refused.limit, refused.used) == (0, 450)


async def test_settling_corrects_the_tokens_and_frees_the_slot(place: Place) -> None:
    limits = (Limit("k/1", TPM, 1000, 800), Limit("k/1", CONCURRENCY, 1), Limit("k/1", RPM, 9))
    request, _ = await place.hold(limits=limits)
    await place.balance.settle(handle(request), [], 300, b"e")
    _, answer = await place.hold(limits=(Limit("k/1", TPM, 1000, 700), *limits[1:]))
    assert answer.remaining == (0, 0, 7)


async def test_the_last_limit_refuses_for_all(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, 1000)
    limits = (Limit("k/1", RPM, 9), Limit("k/1", TPM, 900, 100), Limit("u/a/1", CONCURRENCY, 0))
    refused = await place.balance.reserve(place.request(all_of(WALLET, 1), limits=limits))
    assert refused == RefusedByLimit(2, 0, 0)
    assert (await place.hold(all_of(WALLET, 1), limits=limits[:2]))[1].remaining == (8, 800)


async def test_amounts_are_exact_up_to_the_largest_integer_of_a_double(place: Place) -> None:
    largest = AMOUNT_MICRO_MAX
    await place.balance.open(SHARD, WALLET, largest)
    request, answer = await place.hold(all_of(WALLET, largest - 1), limits=(Limit("k/1", TOTAL, largest),))
    assert answer == Admitted((largest - 1,), (1,), (1,))
    assert await place.state() == [WalletState(1, largest - 1)]
    assert await place.balance.settle(handle(request), [largest - 2], 0, b"e") == Settled((2,), True)
    assert (await place.hold(all_of(WALLET, 1), limits=(Limit("k/1", TOTAL, largest),)))[1].remaining == (1,)
    with pytest.raises(BalanceUnavailable):
        await place.balance.credit("op", SHARD, WALLET, largest)
    assert await place.state() == [WalletState(1, 1)]


async def test_no_amount_is_ever_written_as_a_rounded_power_of_ten(place: Place) -> None:
    odd = 4 * 10**15 + 1
    limits = (Limit("k/1", DAY, AMOUNT_MICRO_MAX), Limit("k/1", TPM, AMOUNT_MICRO_MAX, odd))
    await place.balance.open(SHARD, WALLET, 2 * odd + 2)
    request, answer = await place.hold(all_of(WALLET, odd), limits=limits)
    assert answer == Admitted((odd,), (odd + 2,), (AMOUNT_MICRO_MAX - odd, AMOUNT_MICRO_MAX - odd))
    assert await place.state() == [WalletState(odd + 2, odd)]
    assert await place.balance.settle(handle(request), [1], odd + 2, b"e") == Settled((2 * odd + 1,), True)
    assert await place.state() == [WalletState(2 * odd + 1, 0)]
    assert await place.balance.credit("op", SHARD, WALLET, -odd) == WalletState(odd + 1, 0)
    _, answer = await place.hold(all_of(WALLET, 10**15 - 1), limits=(limits[0], Limit("k/1", TPM, AMOUNT_MICRO_MAX, 0)))
    assert answer.remaining == (AMOUNT_MICRO_MAX - 10**15, AMOUNT_MICRO_MAX - odd - 2)


@pytest.mark.parametrize(
    "broken",
    [
        {"charges": (Charge(WALLET, 1, 2),)},
        {"charges": (Charge(WALLET, 2**53, 0),)},
        {"charges": (Charge(WALLET, 1, 1), Charge(WALLET, 1, 1))},
        {"limits": (Limit("k/1", RPM, 1), Limit("k/1", RPM, 2))},
        {"ttl_ms": 0},
    ],
)
async def test_a_request_that_breaks_the_model_is_a_programming_error(place: Place, broken: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "request_id": "r", "shard": SHARD, "charges": (), "limits": (), "ttl_ms": 9, "context": b"",
    } | broken  # fmt: skip
    with pytest.raises(AssertionError):
        await place.balance.reserve(HoldRequest(**fields))  # type: ignore[arg-type]


# Time


@pytest.mark.parametrize("kind", [RPM, TPM])
async def test_the_minute_before_counts_by_the_share_still_inside_the_window(moving: Place, kind: LimitKind) -> None:
    limits = (Limit("k/1", kind, 60, 10),)
    for _ in range(6):
        await moving.hold(limits=limits)
    assert await moving.balance.reserve(moving.request(limits=limits)) == RefusedByLimit(0, 60, 60_000 + 10_000)
    await moving.advance(60_000)  # the whole minute before is still inside
    assert await moving.balance.reserve(moving.request(limits=limits)) == RefusedByLimit(0, 60, 10_000)
    await moving.advance(9_999)
    assert await moving.balance.reserve(moving.request(limits=limits)) == RefusedByLimit(0, 51, 1)
    await moving.advance(1)
    assert (await moving.hold(limits=limits))[1].remaining == (0,)
    await moving.advance(30_000)  # 20 s of the minute before are left: 20 of its 60, and 10 of this one
    assert (await moving.hold(limits=limits))[1].remaining == (20,)
    await moving.advance(20_000 + 60_000)
    assert (await moving.hold(limits=limits))[1].remaining == (50,)


async def test_retry_after_is_the_first_moment_that_fits(moving: Place) -> None:
    seed = 20400131
    print("seed", seed)
    chance = random.Random(seed)
    for round_ in range(60):
        limit = Limit(f"k/{round_}", TPM, chance.randint(1, 5000), 1)
        await moving.advance(chance.randint(0, 90_000))
        for _ in range(chance.randint(1, 4)):
            amount = chance.randint(1, limit.maximum)
            await moving.balance.reserve(moving.request(limits=(Limit(limit.subject, TPM, limit.maximum, amount),)))
            await moving.advance(chance.randint(0, 40_000))
        ask = (Limit(limit.subject, TPM, limit.maximum, chance.randint(1, limit.maximum)),)
        refused = await moving.balance.reserve(moving.request(limits=ask))
        if isinstance(refused, RefusedByLimit):
            await moving.advance(refused.retry_after_ms - 1)
            early = await moving.balance.reserve(moving.request(limits=ask))
            assert isinstance(early, RefusedByLimit)
            assert early.retry_after_ms == 1
            await moving.advance(1)
            assert isinstance(await moving.balance.reserve(moving.request(limits=ask)), Admitted)


async def test_what_never_fits_has_no_time_to_wait_for(moving: Place) -> None:
    assert await moving.balance.reserve(moving.request(limits=(Limit("k/1", TPM, 9, 10),))) == RefusedByLimit(0, 0, 0)


async def test_a_settlement_corrects_the_minute_it_was_counted_in(moving: Place) -> None:
    limits = (Limit("k/1", TPM, 1000, 600),)
    first, _ = await moving.hold(limits=limits)
    second, _ = await moving.hold(limits=(Limit("k/1", TPM, 1000, 400),))
    await moving.advance(60_000)
    third, _ = await moving.hold(limits=(Limit("k/1", TPM, 10_000, 1),))
    await moving.balance.settle(handle(first), [], 0, b"e")  # the minute before
    assert (await moving.hold(limits=(Limit("k/1", TPM, 1000, 0),)))[1].remaining == (1000 - 1 - 400,)
    await moving.advance(60_000)
    await moving.hold(limits=(Limit("k/1", TPM, 1000, 5),))
    await moving.balance.settle(handle(second), [], 9, b"e")  # long past: counts nowhere
    await moving.balance.settle(handle(third), [], 21, b"e")
    assert (await moving.hold(limits=(Limit("k/1", TPM, 1000, 0),)))[1].remaining == (1000 - 5 - 21,)


async def test_spend_of_a_day_ends_with_the_day_and_of_a_month_with_the_month(moving: Place) -> None:
    await moving.balance.open(SHARD, WALLET, 10_000)
    limits = (Limit("k/1", DAY, 100), Limit("k/1", MONTH, 150), Limit("k/1", TOTAL, 500))
    request, _ = await moving.hold(all_of(WALLET, 100), limits=limits)
    half_an_hour = 30 * 60_000
    over = moving.request(all_of(WALLET, 100), limits=limits)
    assert await moving.balance.reserve(over) == RefusedByLimit(0, 100, half_an_hour)
    await moving.advance(half_an_hour)
    _, answer = await moving.hold(all_of(WALLET, 100), limits=limits)
    assert answer.remaining == (0, 50, 300)
    await moving.balance.settle(handle(request), [40], 0, b"e")  # of January: only the total still counts it
    await moving.advance(24 * 3_600_000)
    february = 29 * 24 * 3_600_000
    refused = await moving.balance.reserve(moving.request(all_of(WALLET, 60), limits=limits))
    assert refused == RefusedByLimit(1, 100, february - 24 * 3_600_000)
    _, answer = await moving.hold(all_of(WALLET, 50), limits=limits)
    assert answer.remaining == (50, 0, 310)
    await moving.advance(february - 24 * 3_600_000)
    assert (await moving.hold(all_of(WALLET, 50), limits=limits))[1].remaining == (50, 100, 260)


async def test_every_month_ends_when_the_calendar_says(moving: Place) -> None:
    await moving.balance.open(SHARD, WALLET, 10_000)
    limits = (Limit("k/1", MONTH, 0),)
    for month in range(13 * 12):
        year, number = 2040 + (month + 1) // 12, (month + 1) % 12 + 1
        ends_ms = int(datetime(year, number, 1, tzinfo=UTC).timestamp() * 1000)
        refused = await moving.balance.reserve(moving.request(all_of(WALLET, 1), limits=limits))
        assert refused == RefusedByLimit(0, 0, ends_ms - moving.now_ms)
        await moving.advance(ends_ms - moving.now_ms + month * 3_600_000 % (27 * 24 * 3_600_000))


# Both at once


def random_request(chance: random.Random, request_id: str) -> HoldRequest:
    known = ["p/0", "p/1", "p/2"] if chance.random() < 0.9 else ["p/0", "p/missing"]
    wallets = chance.sample(known, k=chance.choice((0, 1, 1, 1, 2)))
    charges = []
    for wallet in wallets:
        ceiling = chance.choice((0, 1, chance.randint(1, 500), chance.randint(1, 3000)))
        charges.append(Charge(wallet, ceiling, chance.choice((0, ceiling, chance.randint(0, ceiling)))))
    limits = []
    for subject in chance.sample(["k/0", "u/0", "t/0"], k=chance.choice((0, 1, 1, 2))):
        for kind in chance.sample(list(LimitKind), k=chance.randint(1, 4)):
            is_spend = kind.startswith("spend")
            maximum = chance.randint(0, 9000 if is_spend else 1200 if kind is TPM else 12)
            amount = chance.choice((chance.randint(0, 300), BY_TOKENS)) if kind is TPM else 1
            limits.append(Limit(subject, kind, maximum, amount, charge=chance.randint(0, 1)))
    context, tokens = f"context {request_id}".encode(), chance.randint(0, 300)
    return HoldRequest(request_id, SHARD, tuple(charges), tuple(limits), chance.choice((1000, 100_000)), context, tokens)


async def test_memory_and_redis_agree_on_any_sequence_of_operations(server_url: str) -> None:
    seed = random.SystemRandom().randint(0, 2**32)
    print("seed", seed)
    chance = random.Random(seed)
    redis = Place(RedisBalance(server_url, scripts=scripts_with_moved_clock(), abandoned=ABANDONED))
    await cast(RedisBalance, redis.balance).link.call("FLUSHALL")
    memory = Place(MemoryBalance(lambda: memory.now_ms * 1_000_000, abandoned=ABANDONED))
    both = (redis, memory)
    for there in both:
        await there.advance(0)
        for number in range(3):
            await there.balance.open(SHARD, f"p/{number}", 1000 * 10**number)
    requests: dict[str, tuple[HoldRequest, int]] = {}
    seen: dict[str, int] = {}
    answers: Sequence[object]
    for step in range(4000):
        recent = [request for request, at_ms in requests.values() if redis.now_ms - at_ms < 250_000]
        kinds = ("reserve", "repeat", "settle", "release", "credit", "sweep", "wait", "extend")
        choice = chance.choices(kinds, (9, 2, 8, 2, 1, 1, 3, 4))[0]
        if choice in ("repeat", "settle", "release", "extend") and not recent:
            choice = "reserve"
        if choice in ("reserve", "repeat"):
            request = random_request(chance, f"req_{step}") if choice == "reserve" else chance.choice(recent)
            requests[request.request_id] = (request, requests.get(request.request_id, (request, redis.now_ms))[1])
            answers = [await there.balance.reserve(request) for there in both]
        elif choice == "settle":
            hold = handle(chance.choice(recent))
            amounts = [chance.randint(0, 800) for _ in hold.wallets]
            tokens = chance.randint(0, 400)
            answers = [await there.balance.settle(hold, amounts, tokens, f"event {step}".encode()) for there in both]
        elif choice == "extend":
            hold = handle(chance.choice(recent))
            ceilings, owed = [chance.randint(0, 2000) for _ in hold.wallets], [chance.randint(0, 300) for _ in hold.wallets]
            event = chance.choice((b"", f'{{"step":{step}}}'.encode()))
            used = chance.choice((0, chance.randint(0, 600)))
            answers = [
                await there.balance.extend(hold, ceilings, 100_000, owed if event else (), event, used) for there in both
            ]
        elif choice == "release":
            hold = handle(chance.choice(recent))
            answers = [await there.balance.release(hold) for there in both]
        elif choice == "credit":
            operation, delta = f"op_{chance.randint(0, 200)}", chance.randint(-200, 900)
            answers = [await there.balance.credit(operation, SHARD, "p/0", delta) for there in both]
        elif choice == "sweep":
            answers = [await there.balance.sweep(SHARD) for there in both]
        else:
            ms = chance.choice((1, 100, 5000, 5000, chance.randint(0, 90_000)))
            if chance.random() < 0.05:
                ms = chance.randint(0, 20 * 3_600_000)
            answers = (None, None)
            for there in both:
                await there.advance(ms)
        assert answers[0] == answers[1], (seed, step, choice)
        word = f"{choice} {type(answers[0]).__name__}"
        seen[word] = seen.get(word, 0) + 1
    print(seen)
    assert {"reserve Admitted", "reserve RefusedByWallet", "reserve RefusedByLimit", "reserve WalletMissing"} <= set(seen)
    wallets = ["p/0", "p/1", "p/2"]
    assert await redis.state(*wallets) == await memory.state(*wallets)
    assert sorted(await redis.events()) == sorted(await memory.events())
    for there in both:
        await there.advance(400 * 24 * 3_600_000)
        await there.balance.sweep(SHARD)
    ended = await redis.state(*wallets)
    assert ended == await memory.state(*wallets)
    assert all(state is not None and state.held_micro == 0 for state in ended)
    await cast(RedisBalance, redis.balance).close()


async def test_concurrent_requests_never_hold_more_than_there_is(server_url: str) -> None:
    seed = random.SystemRandom().randint(0, 2**32)
    print("seed", seed)
    chance = random.Random(seed)
    balances = [RedisBalance(server_url) for _ in range(3)]
    await balances[0].link.call("FLUSHALL")
    for round_ in range(50):
        covered, each = chance.randint(0, 300), chance.randint(1, 10**9)
        wallet = f"p/{round_}"
        await balances[0].open(SHARD, wallet, covered * each + chance.randint(0, each - 1))
        requests = [HoldRequest(f"r{round_}.{n}", SHARD, (all_of(wallet, each),), (), 60_000, b"") for n in range(300)]
        answers = await asyncio.gather(*[balances[n % 3].reserve(request) for n, request in enumerate(requests)])
        assert sum(isinstance(answer, Admitted) for answer in answers) == covered
        assert [state.held_micro for state in await balances[0].read(SHARD, [wallet]) if state] == [covered * each]
    for balance in balances:
        await balance.close()


async def test_taking_never_goes_below_zero_and_answers_repeats_alike(place: Place) -> None:
    assert await place.balance.take("t0", SHARD, WALLET, 5) is None
    await place.balance.open(SHARD, WALLET, 100)
    await place.hold(all_of(WALLET, 40))
    assert await place.balance.take("t1", SHARD, WALLET, 25) == 25
    for most in (0, 25, 1000):
        assert await place.balance.take("t1", SHARD, WALLET, most) == 25
    assert await place.balance.take("t2", SHARD, WALLET, AMOUNT_MICRO_MAX) == 35
    assert await place.state() == [WalletState(0, 40)]


async def test_that_there_was_nothing_to_take_can_be_tried_again_unless_nothing_was_asked_for(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, -10)
    assert await place.balance.take("t1", SHARD, WALLET, 5) == 0
    assert await place.balance.take("t2", SHARD, WALLET, 0) == 0
    await place.balance.credit("c1", SHARD, WALLET, 30)
    assert await place.balance.take("t1", SHARD, WALLET, 5) == 5
    assert await place.balance.take("t2", SHARD, WALLET, 5) == 0
    assert await place.state() == [WalletState(15, 0)]


async def test_large_amounts_are_taken_exactly(place: Place) -> None:
    await place.balance.open(SHARD, WALLET, AMOUNT_MICRO_MAX)
    assert await place.balance.take("t1", SHARD, WALLET, AMOUNT_MICRO_MAX - 2) == AMOUNT_MICRO_MAX - 2
    assert await place.balance.take("t1", SHARD, WALLET, 1) == AMOUNT_MICRO_MAX - 2
    assert await place.state() == [WalletState(2, 0)]


async def test_a_lost_wallet_is_rebuilt_once_and_only_in_the_epoch_it_was_read_in(place: Place) -> None:
    epoch = await place.balance.epoch(SHARD)
    assert await place.balance.epoch(SHARD) == epoch, "nothing was lost in between"
    assert await place.balance.rebuild(SHARD, "a/app/lost", 70, ["req_a", "req_b"], epoch)
    assert await place.state("a/app/lost") == [WalletState(70, 0)]
    assert await place.balance.rebuild(SHARD, "a/app/lost", 90, [], epoch) is False
    if isinstance(place.balance, RedisBalance):
        assert await place.balance.rebuild(SHARD, "a/app/other", 90, ["req_a"], "another") is None
        assert await place.state("a/app/other") == [None]
    assert await place.state("a/app/lost") == [WalletState(70, 0)]

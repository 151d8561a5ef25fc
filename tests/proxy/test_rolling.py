"""Holds that grow with a stream, and the signs of life of holds in flight."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.balance.memory_balance import MemoryBalance
from gateway.balance.model import BalanceUnavailable, Extended, Hold, HoldLost
from gateway.core.errors import GatewayError
from gateway.core.words import DisconnectPolicy
from gateway.metering.counting import Counter
from gateway.metering.event import ABANDONED, EventFront, decode_event
from gateway.proxy.renewal import Renewal
from gateway.proxy.rolling import SLICE_TOKENS
from gateway.proxy.routes import AsgiAnswer
from tests.proxy.test_exchange import PRINCIPAL, WALLET, House, Reply, delta

WORD = "hello "  # one token, six bytes
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":%d,"total_tokens":%d}}\n\n'
OUTPUT_MICRO = 10  # a token of output; one of input costs 1


def words(count: int) -> list[bytes | Exception]:
    return [delta(WORD) for _ in range(count)]


def ended(tokens: int) -> list[bytes | Exception]:
    return [USAGE % (tokens, 8 + tokens), b"data: [DONE]\n\n"]


class Watched(MemoryBalance):
    """Notes each extension, and how much was held at most."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.extended: list[tuple[int, ...]] = []
        self.tokens_told = 0  # tokens, as the last extension told them
        self.broken = False

    def clock_moves_to(self, now_ns: int) -> None:
        self._clock = lambda: now_ns

    async def extend(self, hold: Hold, *given: Any) -> Extended | None:
        if self.broken:
            raise BalanceUnavailable("down")
        self.extended.append(tuple(given[0]))
        self.tokens_told = given[4] if len(given) > 4 else 0
        return await super().extend(hold, *given)


async def test_a_stream_without_a_cap_holds_a_slice_and_more_as_it_grows() -> None:
    balance = Watched()
    first_held: list[int] = []

    class Looks(Reply):
        async def relay(self, take: Callable[[bytes], bool]) -> bool:
            [state] = await balance.read(PRINCIPAL.shard, [WALLET])
            assert state is not None
            first_held.append(state.held_micro)
            return await super().relay(take)

    house = House(Looks([*words(800), *ended(800)]), balance, opening=10**9, output_max=100_000)
    await house.run(stream=True)
    assert SLICE_TOKENS * OUTPUT_MICRO <= first_held[0] < (SLICE_TOKENS + 200) * OUTPUT_MICRO  # not what the model could make
    assert first_held == sorted(first_held)
    assert len(balance.extended) == len(set(first_held)) - 1 > 2
    assert house.asked["max_tokens"] == 100_000
    assert await house.wallet() == (10**9 - 8 - 800 * OUTPUT_MICRO, 0)
    assert house.body().count(b"hello") == 800
    [event] = house.events()
    assert (event.rest.status, event.rest.usage_source, event.rest.flags) == ("served", "upstream", ())
    assert event.rest.held_micro == (first_held[-1],)


class Quick(AsgiAnswer):
    """A client that takes all at once: nothing but the hold ever stops the stream."""

    def write(self, part: bytes) -> bool:
        super().write(part)
        return True


@pytest.mark.parametrize("answer", [AsgiAnswer, Quick])
async def test_a_stream_whose_wallet_runs_dry_is_cut_cleanly_and_billed_for_what_was_made(answer: type[AsgiAnswer]) -> None:
    opening = 10_000  # about a thousand tokens
    reply = Reply([*words(5000), *ended(5000)])
    house = House(reply, Watched(), opening=opening, output_max=100_000)
    house.answer = answer
    await house.run(stream=True, stream_options={"include_usage": True})
    body = house.body()
    delivered = body.count(b"hello")
    available, held = await house.wallet()
    assert held == 0
    # This upstream breaks its word: it was told to stop where the wallet ends, and is cut a little behind.
    assert -40 * OUTPUT_MICRO < available < 40 * OUTPUT_MICRO
    [event] = house.events()
    assert event.rest.flags == ("wallet_exhausted",)
    assert (event.rest.status, event.rest.usage_source) == ("served", "counted")
    assert opening - available == event.rest.amounts_micro[0]
    assert delivered <= event.rest.usage.output
    frames = body.split(b"\n\n")
    last_text = next(i for i in reversed(range(len(frames))) if b"hello" in frames[i])
    finish, usage, error, done = frames[last_text + 1 : last_text + 5]
    assert msgspec.json.decode(finish[6:])["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    told = msgspec.json.decode(usage[6:])["usage"]  # what the upstream could not say any more is our own count
    counted = event.rest.usage
    assert (told["prompt_tokens"], told["completion_tokens"]) == (counted.input, counted.output)
    assert told["total_tokens"] == counted.input + counted.output
    said = msgspec.json.decode(error.partition(b"data: ")[2])["error"]
    assert (said["code"], said["limit_source"]) == ("insufficient_balance", "end_user")
    assert done == b"data: [DONE]"
    assert reply.closed


async def test_the_upstream_is_told_no_more_than_all_of_the_wallet_covers() -> None:
    house = House(Reply([*words(3), *ended(3)]), Watched(), opening=20_000, output_max=100_000)
    await house.run(stream=True)
    assert 1900 < house.asked["max_tokens"] < 2000


async def test_two_streams_share_a_wallet_to_its_last_token() -> None:
    balance = Watched()
    await balance.open(PRINCIPAL.shard, WALLET, 40_000)
    houses = [House(Reply([*words(2500), *ended(2500)]), balance, output_max=100_000) for _ in range(2)]
    for number, house in enumerate(houses):
        house.name = f"req_{number}"
    await asyncio.gather(*[house.run(stream=True) for house in houses])
    available, held = await houses[0].wallet()
    assert held == 0
    assert 0 <= available < 2000  # tokens that two counted pieces share count twice
    assert {event.rest.flags for event in houses[0].events()} == {("wallet_exhausted",)}


@pytest.mark.parametrize("field", ["modalities", "prediction", "reasoning_effort"])
async def test_output_that_no_event_shows_is_held_whole(field: str) -> None:
    balance = Watched()
    house = House(Reply([*words(800), *ended(800)]), balance, opening=10**9, output_max=100_000)
    await house.run(stream=True, **{field: "x"})
    assert balance.extended == []
    [event] = house.events()
    assert event.rest.held_micro[0] > 100_000 * OUTPUT_MICRO


async def test_a_model_that_reasons_unseen_is_held_whole() -> None:
    house = House(Reply([*words(800), *ended(800)]), Watched(), opening=10**9, output_max=100_000)
    house.deployment = msgspec.structs.replace(house.deployment, hidden_reasoning=True)
    await house.run(stream=True)
    assert house.events()[0].rest.held_micro[0] > 100_000 * OUTPUT_MICRO


async def test_a_cap_of_the_client_is_held_whole() -> None:
    balance = Watched()
    house = House(Reply([*words(800), *ended(800)]), balance, opening=10**9, output_max=100_000)
    await house.run(stream=True, max_tokens=5000)
    assert balance.extended == []
    assert house.asked["max_tokens"] == 5000


async def test_a_stream_ends_when_balances_cannot_be_read_and_is_settled() -> None:
    balance = Watched()
    house = House(Reply([*words(3000), *ended(3000)]), balance, opening=10**9, output_max=100_000)

    class Breaks(Reply):
        async def relay(self, take: Callable[[bytes], bool]) -> bool:
            balance.broken = len(balance.extended) >= 1
            return await super().relay(take)

    house.reply = Breaks([*words(3000), *ended(3000)])
    await house.run(stream=True)
    [event] = house.events()
    assert event.rest.flags == ("balance_unavailable",)
    assert event.rest.amounts_micro[0] >= house.body().count(b"hello") * OUTPUT_MICRO
    assert b'"balance_unavailable"' in house.body()
    assert b'"finish_reason":"length"' in house.body()
    assert (await house.wallet())[1] == 0


async def test_texts_of_any_size_never_cost_more_than_the_wallet_had_but_for_one_event() -> None:
    seed = 20261122
    print("seed", seed)
    chance = random.Random(seed)
    for number in range(60):
        sizes = [chance.choice((1, 1, 5, 40)) for _ in range(chance.randint(1, 900))]
        chunks: list[bytes | Exception] = [delta(chance.choice(("a ", "hello ", "é", "\n", "漢字")) * size) for size in sizes]
        opening = chance.choice((300, 3000, 30_000, 300_000))
        house = House(Reply(chunks), Watched(), opening=opening, output_max=chance.choice((2000, 100_000)))
        house.reply = Reply([*chunks, b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'])
        await house.run(stream=True)
        available, held = await house.wallet()
        assert held == 0, (seed, number)
        assert available > -(40 * 4 + 32) * OUTPUT_MICRO, (seed, number, opening)
        [event] = house.events()
        assert opening - available == event.rest.amounts_micro[0]


# Signs of life


class Paused(Reply):
    """Waits behind its chunks until it is told to go on."""

    def __init__(self, chunks: list[bytes | Exception], rest: list[bytes | Exception]) -> None:
        super().__init__(chunks)
        self.go = asyncio.Event()
        self.waits = asyncio.Event()
        self._rest = rest

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        if self._rest and not await super().relay(take):
            return False
        if self._rest:
            self.waits.set()
            await self.go.wait()
            self._chunks, self._rest = self._rest, []
        return await super().relay(take)


async def test_a_sign_of_life_carries_what_the_stream_has_made_at_its_price() -> None:
    now = [time.time_ns()]
    balance = Watched(clock=lambda: now[0], abandoned=ABANDONED)
    reply = Paused(words(50), [*words(50), *ended(100)])
    house = House(reply, balance, opening=10**6, output_max=100_000)
    house.clock = lambda: now[0]
    renewal = Renewal(house.exchange.in_flight, balance, Counter(), house, 60, house.clock)
    running = asyncio.ensure_future(house.run(stream=True))
    await reply.waits.wait()
    assert await renewal.renew() == 0  # too young
    now[0] += 20 * 10**9
    assert await renewal.renew() == 1
    assert await renewal.note() == 1
    now[0] += 50 * 10**9
    assert await balance.sweep(PRINCIPAL.shard) == 0  # the first deadline has passed, the sign counts
    now[0] += 11 * 10**9
    assert await balance.sweep(PRINCIPAL.shard) == 1
    [event] = [decode_event(data) for _, data in balance.events]
    assert (event.rest.status, event.rest.usage_source) == ("abandoned", "counted")
    assert 50 <= event.rest.usage.output <= 51
    assert balance.tokens_told == event.rest.usage.input + event.rest.usage.output, "for limits of tokens"
    [amount] = event.rest.amounts_micro
    assert amount == event.rest.usage.input + event.rest.usage.output * OUTPUT_MICRO == event.rest.provider_cost_micro
    assert await house.wallet() == (10**6 - amount, 0)
    reply.go.set()
    await running
    assert await house.wallet() == (10**6 - amount, 0)  # what was swept is not charged again


async def test_a_request_that_waits_for_its_first_byte_is_kept_alive_and_owes_nothing() -> None:
    now = [time.time_ns()]
    balance = Watched(clock=lambda: now[0], abandoned=ABANDONED)
    house = House(Reply([]), balance)
    house.clock = lambda: now[0]
    waiting = asyncio.Event()

    async def send(*_: Any) -> Any:
        waiting.set()
        await asyncio.Event().wait()

    house.send = send  # type: ignore[assignment, method-assign]
    renewal = Renewal(house.exchange.in_flight, balance, Counter(), house, 60, house.clock)
    running = asyncio.ensure_future(house.run(stream=True))
    await waiting.wait()
    for _ in range(10):
        now[0] += 50 * 10**9
        assert await renewal.renew() == 1
        assert await balance.sweep(PRINCIPAL.shard) == 0
    now[0] += 61 * 10**9
    assert await balance.sweep(PRINCIPAL.shard) == 1
    [event] = [decode_event(data) for _, data in balance.events]
    assert (event.rest.status, event.rest.amounts_micro) == ("abandoned", (0,))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert house.exchange.in_flight == {}


async def test_a_checkpoint_owes_no_more_than_is_held() -> None:
    balance = Watched(abandoned=ABANDONED)
    reply = Paused(words(50), ended(50))
    house = House(reply, balance)
    later = time.time_ns() + 60 * 10**9
    running = asyncio.ensure_future(house.run(stream=True, max_tokens=5))
    await reply.waits.wait()
    [ticket] = house.exchange.in_flight.values()
    balance.clock_moves_to(later)
    assert await Renewal(house.exchange.in_flight, balance, Counter(), house, 60, lambda: later).note() == 1
    balance.clock_moves_to(later + 61 * 10**9)
    assert await balance.sweep(PRINCIPAL.shard) == 1
    [event] = [decode_event(data) for _, data in balance.events]
    assert event.rest.amounts_micro == ticket.granted
    reply.go.set()
    await running


async def test_a_count_that_fails_keeps_back_no_sign(caplog: pytest.LogCaptureFixture) -> None:
    balance = Watched()
    await balance.open(PRINCIPAL.shard, WALLET, 1000)

    class Fails(Counter):
        async def count_text(self, model: str, text: str, of: EventFront | None = None) -> int:
            raise RuntimeError("no tokenizer")

    replies = [Paused(words(1), ended(2)), Paused([], ended(2))]
    houses = [House(reply, balance, output_max=100_000) for reply in replies]
    running = []
    for number, each in enumerate(houses):
        each.name = f"req_{number}"
        running.append(asyncio.ensure_future(each.run(stream=True, max_tokens=5)))
        await replies[number].waits.wait()
    both = {name: ticket for each in houses for name, ticket in each.exchange.in_flight.items()}
    later = time.time_ns() + 60 * 10**9
    renewal = Renewal(both, balance, Fails(), houses[0], 60, lambda: later)
    assert await renewal.renew() == 2  # no sign waits for a count
    assert len(balance.extended) == 2
    assert await renewal.note() == 0
    assert "no tokenizer" in caplog.text
    for reply in replies:
        reply.go.set()
    await asyncio.gather(*running)


# Clients that leave


class Leaves(AsgiAnswer):
    """A client that is gone once it has read so much."""

    after = 10

    def write(self, part: bytes) -> bool:
        self.left = self.left or len(self._events) + self.sent >= self.after
        return super().write(part)

    sent = 0

    async def drained(self) -> None:
        self.sent += len(self._events)
        await super().drained()


@pytest.mark.parametrize("output_max", [100, 100_000])  # a whole hold, and one that rolls
async def test_a_stream_whose_client_left_is_read_on_and_billed_whole(output_max: int) -> None:
    house = House(Reply([*words(60), *ended(60)]), Watched(), opening=10**9, output_max=output_max)
    house.answer = Leaves
    await house.run(stream=True)
    assert house.body().count(b"hello") < 12
    [event] = house.events()
    assert (event.rest.status, event.rest.usage_source, event.rest.flags) == ("client_left", "upstream", ())
    assert event.rest.usage.output == 60


async def test_a_stream_whose_client_left_is_cancelled_where_the_app_says_so_and_billed_so_far() -> None:
    reply = Reply([*words(60), *ended(60)])
    house = House(reply, Watched(), opening=10**9)
    house.answer = Leaves
    house.principal = msgspec.structs.replace(
        PRINCIPAL, app=msgspec.structs.replace(PRINCIPAL.app, disconnect_policy=DisconnectPolicy.CANCEL)
    )
    await house.run(stream=True)
    assert reply.closed
    [event] = house.events()
    assert (event.rest.status, event.rest.usage_source, event.rest.flags) == ("client_left", "counted", ("cut_unread",))
    assert 9 <= event.rest.usage.output <= 12
    assert (await house.wallet())[1] == 0


async def test_a_stream_that_nobody_reads_is_not_read_for_ever() -> None:
    class Endless(Reply):
        async def relay(self, take: Callable[[bytes], bool]) -> bool:
            while take(delta(WORD)):
                await asyncio.sleep(0.001)
            return False

    house = House(Endless([]), Watched(), opening=10**9, read_on_s=0.05)
    house.answer = Leaves
    await house.run(stream=True)
    [event] = house.events()
    assert (event.rest.status, event.rest.flags) == ("client_left", ("cut_unread",))
    assert event.rest.usage.output > 10


# What an upstream shows, and what it says


def strange(**delta: Any) -> bytes:
    return b"data: " + msgspec.json.encode({"choices": [{"index": 0, "delta": delta}]}) + b"\n\n"


@pytest.mark.parametrize(
    "event",
    [
        strange(tool_calls=[{"index": 0, "type": "custom", "custom": {"input": "hello "}}]),
        strange(tool_calls=[{"index": 0, "function": {"name": "hello "}}]),
        strange(thinking_blocks=[{"type": "thinking", "thinking": "hello "}]),
        strange(reasoning_text="hello "),
        strange(audio={"transcript": "hello "}),
        strange(role="assistant", content=None),
        strange(),
    ],
)
async def test_output_in_any_field_or_in_none_uses_up_the_hold(event: bytes) -> None:
    house = House(Reply([*[event] * 5000, *ended(5000)]), Watched(), opening=10_000, output_max=100_000)
    await house.run(stream=True)
    [told] = house.events()
    assert told.rest.flags == ("wallet_exhausted",)
    assert house.body().count(b'"delta"') < 1100
    assert -40 * OUTPUT_MICRO < (await house.wallet())[0] < 10_000


async def test_a_text_under_two_names_is_one_text() -> None:
    event = strange(reasoning=WORD, reasoning_details=[{"type": "reasoning.text", "text": WORD}])
    house = House(Reply([*[event] * 50, strange(content="x").replace(b"}}]", b'},"finish_reason":"stop"}]')]), opening=10**6)
    await house.run(stream=True)
    assert house.events()[0].rest.usage.output <= 60


@pytest.mark.parametrize("many", [1, 400])
async def test_a_piece_of_many_events_is_cut_where_the_wallet_ends(many: int) -> None:
    events = [delta(WORD)] * 4000
    pieces: list[bytes | Exception] = [b"".join(events[at : at + many]) for at in range(0, 4000, many)]
    balance = Watched()
    await balance.open(PRINCIPAL.shard, WALLET, 40_000)
    house = House(Reply([*pieces, *ended(4000)]), balance, output_max=100_000)
    house.answer = Quick
    running = asyncio.ensure_future(house.run(stream=True))
    while not house.exchange.in_flight:
        await asyncio.sleep(0)
    await balance.credit("taken", PRINCIPAL.shard, WALLET, -20_000)  # another request's: the cap that was told is too much now
    await running
    available, held = await house.wallet()
    assert held == 0
    assert 0 <= available < 1500
    assert house.events()[0].rest.flags == ("wallet_exhausted",)


async def test_a_stream_of_many_events_in_one_piece_arrives_whole() -> None:
    piece = b"".join([delta(f"{number} ") for number in range(3000)])
    house = House(Reply([piece, *ended(6000)]), Watched(), opening=10**9, output_max=100_000)
    await house.run(stream=True)
    assert house.body().startswith(piece)
    assert house.events()[0].rest.flags == ()


async def test_a_whole_answer_to_a_stream_is_covered_or_not_given() -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 1900, "total_tokens": 1908}
    answer = msgspec.json.encode({"choices": [{"message": {"content": WORD * 900}}], "usage": usage})
    balance = Watched()
    house = House(Reply([answer], kind="application/json"), balance, opening=20_000, output_max=100_000)
    await house.run(stream=True)
    assert house.events()[0].rest.held_micro[0] > 19_000
    assert (await house.wallet())[0] >= 0

    class Sold(Watched):
        async def extend(self, hold: Hold, *given: Any) -> Extended | None:
            await self.credit("gone", PRINCIPAL.shard, WALLET, -5000)
            return await super().extend(hold, *given)

    house = House(Reply([answer], kind="application/json"), Sold(), opening=20_000, output_max=100_000)
    with pytest.raises(GatewayError, match="used up"):
        await house.run(stream=True)
    assert house.events() == []
    assert await house.wallet() == (15_000, 0)


async def test_an_early_count_of_a_stream_that_was_cut_is_not_believed() -> None:
    early = delta("a")[:-3] + b',"usage":{"prompt_tokens":8,"completion_tokens":1,"total_tokens":9}}\n\n'
    house = House(Reply([early, *words(300)]), opening=10**6)
    await house.run(stream=True)
    [event] = house.events()
    assert (event.rest.status, event.rest.usage_source) == ("upstream_broke", "counted")
    assert event.rest.usage.output >= 300


LONG_AGO_S = 1000.0  # a request that came so long before its first event has a lease that is over


@pytest.mark.parametrize("output_max", [1000, 100_000])
async def test_a_stream_past_its_lease_goes_on_where_its_hold_still_stands(output_max: int) -> None:
    balance = Watched()
    house = House(Reply([*words(50), *ended(50)]), balance, output_max=output_max)
    house.waited_s = LONG_AGO_S
    await house.run(stream=True)
    assert balance.extended == [(0,)]  # it asked once
    assert house.body() == b"".join(
        bytes(chunk) for chunk in [*words(50), b"data: [DONE]\n\n"] if not isinstance(chunk, Exception)
    )
    assert await house.wallet() == (1_000_000 - 8 - 50 * OUTPUT_MICRO, 0)
    assert house.events()[0].rest.flags == ()


class Swept(Reply):
    """An upstream that answers when the gateway's hold is gone: the gateway stood still."""

    def __init__(self, balance: Watched, chunks: list[bytes | Exception], kind: str = "text/event-stream") -> None:
        super().__init__(chunks, kind=kind)
        self._balance = balance

    async def _sweep(self) -> None:
        self._balance.clock_moves_to(time.time_ns() + 3600 * 10**9)
        await self._balance.sweep(PRINCIPAL.shard)

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        await self._sweep()
        return await super().relay(take)

    async def read(self, limit_s: float) -> bytes:
        await self._sweep()
        return await super().read(limit_s)


@pytest.mark.parametrize("output_max", [1000, 100_000])
async def test_a_stream_whose_hold_was_swept_is_not_delivered(output_max: int) -> None:
    balance = Watched()
    house = House(Swept(balance, [*words(50), *ended(50)]), balance, output_max=output_max)
    house.waited_s = LONG_AGO_S
    await house.run(stream=True)
    assert b"hello" not in house.body()
    assert b'"code":"balance_unavailable"' in house.body()
    assert house.body().endswith(b"data: [DONE]\n\n")
    assert await house.wallet() == (1_000_000, 0)


async def test_a_sign_of_life_that_finds_its_hold_swept_ends_the_stream() -> None:
    balance = Watched()
    renewals: list[Renewal] = []

    class Pauses(Reply):
        async def relay(self, take: Callable[[bytes], bool]) -> bool:
            while len(self._chunks) > 30:
                take(self._chunks.pop(0))  # type: ignore[arg-type]
            balance.clock_moves_to(time.time_ns() + 3600 * 10**9)
            await balance.sweep(PRINCIPAL.shard)
            house.clock = lambda: time.time_ns() + 3600 * 10**9
            assert await renewals[0].renew() == 1
            return await super().relay(take)

    house = House(Pauses([*words(50), *ended(50)]), balance, output_max=1000)
    renewals.append(Renewal(house.exchange.in_flight, balance, Counter(), house, 60, lambda: house.clock()))
    await house.run(stream=True)
    assert house.body().count(b"hello") == 52 - 30
    assert b'"code":"balance_unavailable"' in house.body()


async def test_an_answer_whose_hold_was_swept_is_not_given() -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 17}
    answer = msgspec.json.encode({"choices": [{"message": {"content": WORD * 9}}], "usage": usage})
    balance = Watched()
    house = House(Swept(balance, [answer], "application/json"), balance)
    with pytest.raises(GatewayError) as refused:
        await house.run()
    assert refused.value.code == "balance_unavailable"
    assert house.sent == []
    assert await house.wallet() == (1_000_000, 0)


async def test_a_stream_whose_hold_the_store_has_lost_goes_on_and_is_paid() -> None:
    class Loses(Watched):
        async def extend(self, hold: Hold, *given: Any) -> Extended | None:
            await super().extend(hold, *given)
            raise HoldLost(hold.request_id)

    balance = Loses()
    house = House(Reply([*words(50), *ended(50)]), balance, output_max=1000)
    house.waited_s = LONG_AGO_S
    await house.run(stream=True)
    assert len(balance.extended) == 1
    assert house.body().count(b"hello") == 50
    assert await house.wallet() == (1_000_000 - 8 - 50 * OUTPUT_MICRO, 0)

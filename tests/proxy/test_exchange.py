"""The exchange against an upstream and rooms in memory: whatever fails in between, the hold ends once."""

import asyncio
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Literal

import msgspec
import pytest

from gateway.balance.memory_balance import MemoryBalance
from gateway.balance.model import BalanceUnavailable, Hold, Settled
from gateway.core.errors import GatewayError, RateLimited
from gateway.core.ids import shard_of
from gateway.core.tasks import Tasks
from gateway.core.words import CostPolicy, DisconnectPolicy, Enforcement, HoldPolicy, Level
from gateway.identity.model import App, Limits, Principal
from gateway.metering.counting import Counter
from gateway.metering.event import EventFront, UsageEvent, decode_event
from gateway.pricing.rates import Rates, rates_from
from gateway.providers.health import Health
from gateway.providers.model import Deployment, Headers, Route
from gateway.proxy.again import Answers
from gateway.proxy.chat import Chat
from gateway.proxy.exchange import Exchange
from gateway.proxy.routes import AsgiAnswer
from gateway.proxy.ticket import Call
from tests.replies import chunks

WALLET = "a/app/ann"
KEY = "sk-made-up-upstream-key"
RATES = rates_from("USD", {"input": 1_000_000, "output": 10_000_000})
APP = App(
    enterprise_id="app",
    user_id="creator",
    name="app",
    asset="USD",
    enforcement=Enforcement.PREPAID,
    cost_policy=CostPolicy.PLATFORM_PAYS,
    hold_policy=HoldPolicy.STRICT,
    disconnect_policy=DisconnectPolicy.DRAIN,
    end_user_sources=(),
    default_end_user=None,
    end_user_limits=Limits(),
    cors_origins=(),
    status="active",
    created_at_ms=0,
)
PRINCIPAL = Principal("key_1", Level.APP_USAGE, APP, shard_of("creator"), (), Limits())


class Bug(Exception):
    """Something nobody thought of."""


class Reply:
    status = 200

    def __init__(self, chunks: list[bytes | Exception], status: int = 200, kind: str = "text/event-stream") -> None:
        self.status = status
        self._chunks = chunks
        self._kind = kind
        self.closed = False

    @property
    def headers(self) -> Mapping[str, str]:
        return {"content-type": self._kind}

    @property
    def content_type(self) -> bytes:
        return self._kind.encode()

    async def read(self, limit_s: float) -> bytes:
        return b"".join([chunk async for chunk in chunks(self)])

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        while self._chunks:
            await asyncio.sleep(0)
            chunk = self._chunks.pop(0)
            if isinstance(chunk, Exception):
                raise chunk
            if not take(chunk):
                return False
        return True

    async def close(self) -> None:
        self.closed = True


class House:
    """Every port of the exchange, in memory."""

    def __init__(
        self,
        reply: Reply | Exception,
        balance: MemoryBalance | None = None,
        *,
        opening: int = 1_000_000,
        output_max: int = 100,
        read_on_s: float = 120.0,
    ) -> None:
        self.reply = reply
        self.opening = opening
        self.balance = balance or MemoryBalance()
        self.tasks = Tasks()
        self.sent: list[MutableMapping[str, Any]] = []
        self.asked: dict[str, Any] = {}
        self.name = "req_1"
        self.answer: type[AsgiAnswer] = AsgiAnswer
        self.principal = PRINCIPAL
        self.clock: Callable[[], int] = time.time_ns
        self.waited_s = 0.0  # since the request came, before it runs
        self.health = Health()
        self.deployment = Deployment("m/openai/0", "openai", "m", "http://10.1.2.3:8000/v1", KEY, output_tokens_max=output_max)
        self.kept: dict[tuple[str, bytes], bytes] = {}
        answers = Answers(self, self.tasks, lambda: self.clock())
        self.exchange = Exchange(
            self, self, self, self.balance, self, self, Counter(), self.tasks, lambda: self.clock(), read_on_s=read_on_s,
            answers=answers,
        )  # fmt: skip

    async def find(self, enterprise_id: str, digest: bytes) -> bytes | None:
        return self.kept.get((enterprise_id, digest))

    async def keep(self, enterprise_id: str, digest: bytes, value: bytes, ttl_s: int) -> None:
        self.kept[enterprise_id, digest] = value

    def cached(self, credential: str) -> Principal | None:
        return PRINCIPAL

    async def provider_keys(self, principal: Principal) -> Mapping[str, str]:
        return {"openai": "sk-own-made-up-key"}

    async def authenticate(self, credential: str) -> Principal:
        return PRINCIPAL

    def resolve_end_user(self, principal: Principal, headers: Mapping[bytes, bytes], body: Mapping[str, Any]) -> str | None:
        return "ann"

    def may_use(self, principal: Principal, model: str) -> bool:
        return True

    def route(self, model: str, by: str = "") -> Route:
        return Route(model, (self.deployment,))

    def took(self, deployment_id: str, took_s: float, output_tokens: int = 0) -> None:
        raise AssertionError("there is no choice")

    def cost(self, deployment_id: str, at_ms: int) -> Rates | None:
        return RATES

    def platform(self, model: str, deployment_id: str, at_ms: int) -> Rates | None:
        return RATES

    def app_cached(
        self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int
    ) -> Rates | Literal[False] | None:
        return RATES

    async def load_app(self, enterprise_id: str) -> None:
        raise AssertionError("the book is in memory")

    async def is_lapsed(self, wallet: str) -> bool:
        return False

    async def open_missing(self, shard: int, wallets: tuple[str, ...], needed: tuple[str, ...] = ()) -> bool:
        return all([await self.balance.open(shard, wallet, self.opening) for wallet in wallets])

    async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
        self.asked = msgspec.json.decode(body)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    async def close(self) -> None:
        return

    async def run(self, **fields: Any) -> None:
        raw = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})

        async def receive() -> MutableMapping[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: MutableMapping[str, Any]) -> None:
            self.sent.append(message)

        call = Call(self.name, Chat(), {}, raw, self.answer(receive, send), time.perf_counter() - self.waited_s, [])
        try:
            await self.exchange.run(call, Chat(), self.principal)
        finally:
            await self.tasks.finish(5)

    async def wallet(self) -> tuple[int, int]:
        [state] = await self.balance.read(PRINCIPAL.shard, [WALLET])
        assert state is not None
        return state.available_micro, state.held_micro

    def events(self) -> list[UsageEvent]:
        return [decode_event(data) for _, data in self.balance.events]

    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def delta(text: str) -> bytes:
    return b"data: " + msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": text}}]}) + b"\n\n"


@pytest.mark.parametrize(
    "reply",
    [
        Bug("in send"),
        Reply([Bug("in read")], kind="application/json"),
        Reply([delta("a"), Bug("in the stream")]),
        Reply([Bug("in the error")], status=500),
    ],
    ids=["send", "whole", "stream", "refusal"],
)
async def test_a_bug_after_the_hold_never_keeps_it(reply: Any) -> None:
    house = House(reply)
    with pytest.raises(Bug):
        await house.run(stream=True)
    assert await house.wallet() == (1_000_000, 0)
    assert isinstance(reply, Bug) or reply.closed


async def test_a_task_that_is_cancelled_in_mid_stream_bills_what_was_delivered() -> None:
    class Endless(Reply):
        async def relay(self, take: Callable[[bytes], bool]) -> bool:
            if not self._chunks:
                await asyncio.Event().wait()
            return await super().relay(take)

    house = House(Endless([delta("hello")]))
    running = asyncio.ensure_future(house.run(stream=True))
    while not house.sent:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    [event] = house.events()
    assert (event.rest.status, event.rest.usage_source) == ("abandoned", "counted")
    available, held = await house.wallet()
    assert (available + event.rest.amounts_micro[0], held) == (1_000_000, 0)


async def test_a_task_that_is_cancelled_while_its_stream_is_counted_is_billed_for_it() -> None:
    class Slow(Counter):
        waits = 1

        async def count_text(self, model: str, text: str, of: EventFront | None = None) -> int:
            if self.waits:
                self.waits -= 1
                await asyncio.Event().wait()
            return await super().count_text(model, text, of)

    counter = Slow()
    house = House(Reply([delta("hello"), b"data: [DONE]\n\n"]))
    house.exchange._counter = counter
    running = asyncio.ensure_future(house.run(stream=True))
    while counter.waits:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    [event] = house.events()
    assert (event.rest.status, event.rest.usage_source) == ("served", "counted")
    available, held = await house.wallet()
    assert (available + event.rest.amounts_micro[0], held) == (1_000_000, 0)


async def test_a_task_that_is_cancelled_while_it_settles_gives_nothing_back() -> None:
    """Its settlement may not have arrived: the store makes it again (see `Balance.settle`), and needs the hold."""

    class Slow(MemoryBalance):
        asked = False

        async def settle(self, hold: Hold, amounts_micro: Any, tokens: int, event: bytes) -> Settled:
            self.asked = True
            await asyncio.Event().wait()
            raise AssertionError

    balance = Slow()
    house = House(Reply([b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'], kind="application/json"), balance)
    running = asyncio.ensure_future(house.run())
    while not balance.asked:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    available, held = await house.wallet()
    assert (available + held, held > 0) == (1_000_000, True)


async def test_the_client_gets_its_answer_though_the_store_cannot_settle_yet_and_the_hold_stands() -> None:
    class Deaf(MemoryBalance):
        async def settle(self, hold: Hold, amounts_micro: Any, tokens: int, event: bytes) -> Settled:
            raise BalanceUnavailable("down")

    answer = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
    house = House(Reply([answer], kind="application/json"), Deaf())
    await house.run()
    assert house.body() == answer
    available, held = await house.wallet()
    assert (available + held, held > 0) == (1_000_000, True)  # not released: it is settled by the store (see `Balance.settle`)


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_the_providers_words_carry_no_key_and_no_address(status: int) -> None:
    said = f"bad key {KEY} at http://10.1.2.3:8000/v1 (localhost:9, sk-proj-abcdefgh12)"
    reply = Reply([msgspec.json.encode({"error": {"message": said, "code": f"x {KEY}"}})], status=status)
    house = House(reply)
    with pytest.raises(GatewayError) as failed:
        await house.run()
    told = str(failed.value.message) + str(failed.value.details) + str(failed.value.code)
    assert not [secret for secret in (KEY, "10.1.2.3", "localhost", "sk-proj") if secret in told]
    assert await house.wallet() == (1_000_000, 0)


async def test_a_providers_refusal_that_is_no_text_is_a_refusal_all_the_same() -> None:
    house = House(Reply([b'{"error": {"message": "\xff\xfe"}}'], status=400))
    with pytest.raises(GatewayError, match="status 400") as failed:
        await house.run()
    assert failed.value.status == 400
    assert await house.wallet() == (1_000_000, 0)


async def test_a_limit_of_no_tokens_refuses_every_request() -> None:
    house = House(Reply([]))
    house.principal = msgspec.structs.replace(PRINCIPAL, limits=Limits(tpm=0))
    with pytest.raises(RateLimited, match="0 tokens a minute"):
        await house.run()
    assert await house.wallet() == (1_000_000, 0)


async def test_an_error_event_in_mid_stream_carries_no_key_and_no_address() -> None:
    error = b'data: {"error": {"message": "no access with ' + KEY.encode() + b' to http://10.1.2.3:8000/v1"}}\n\n'
    house = House(Reply([delta("hello"), error]))
    await house.run(stream=True)
    body = house.body()
    assert b"no access with [removed]" in body
    assert KEY.encode() not in body
    assert b"10.1.2.3" not in body
    assert [event.rest.status for event in house.events()] == ["upstream_broke"]


async def test_usage_that_no_model_could_have_made_is_counted_instead() -> None:
    usage = {"prompt_tokens": 10**9, "completion_tokens": 10**9, "total_tokens": 2 * 10**9}
    choices = [{"index": 0, "message": {"role": "assistant", "content": "hello"}}]
    house = House(Reply([msgspec.json.encode({"choices": choices, "usage": usage})], kind="application/json"))
    await house.run()
    [event] = house.events()
    assert (event.rest.usage_source, event.rest.flags, event.rest.usage.output) == ("counted", ("usage_absurd",), 1)
    assert event.rest.amounts_micro[0] < 100
    assert (await house.wallet())[1] == 0


USED = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
NO_UTF8 = b'data: {"choices":[{"index":0,"delta":{"content":"hello \xff there"}}]}\n\n'
USAGE_NO_UTF8 = b'data: {"model":"\xff","choices":[],"usage":' + msgspec.json.encode(USED) + b"}\n\n"


@pytest.mark.parametrize(
    ("chunks", "source"),
    [
        ([NO_UTF8, b"data: [DONE]\n\n"], "counted"),
        ([delta("hello"), USAGE_NO_UTF8, b"data: [DONE]\n\n"], "upstream"),
        ([NO_UTF8, USAGE_NO_UTF8, b"data: [DONE]\n\n"], "upstream"),
    ],
)
async def test_bytes_that_are_no_text_are_billed_as_what_was_delivered(chunks: list[bytes | Exception], source: str) -> None:
    house = House(Reply(list(chunks)))
    await house.run(stream=True)
    [event] = house.events()
    assert (event.rest.status, event.rest.usage_source) == ("served", source)
    assert event.rest.amounts_micro[0] > 0
    assert (await house.wallet())[1] == 0


async def test_a_whole_answer_with_bytes_that_are_no_text_is_billed_as_it_was_delivered() -> None:
    answer = b'{"choices":[{"message":{"content":"hello \xff there"}}]}'
    house = House(Reply([answer], kind="application/json"))
    await house.run()
    assert house.body() == answer
    [event] = house.events()
    assert (event.rest.status, event.rest.usage_source) == ("served", "counted")
    assert event.rest.amounts_micro[0] > 0


@pytest.mark.parametrize("usage", [[], "none", 7, {"prompt_tokens": "x"}])
async def test_usage_that_is_none_is_counted_and_the_answer_kept(usage: Any) -> None:
    answer = msgspec.json.encode({"choices": [{"message": {"content": "hello there"}}], "usage": usage})
    house = House(Reply([answer], kind="application/json"))
    await house.run()
    assert house.body() == answer
    [event] = house.events()
    assert (event.rest.usage_source, event.rest.flags) == ("counted", ("usage_unusable",))
    assert event.rest.usage.output == 2


HUGE = 10**9
LIES: list[dict[str, Any]] = [
    {"prompt_tokens": 5, "completion_tokens": HUGE, "completion_tokens_details": {"reasoning_tokens": HUGE}},
    {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": HUGE + 8, "output_tokens_details": {"reasoning_tokens": HUGE}},
    {"prompt_tokens": 5, "completion_tokens": HUGE, "completion_tokens_details": {"audio_tokens": HUGE}},
    {"prompt_tokens": HUGE, "completion_tokens": 3, "total_tokens": HUGE + 3},
    {"prompt_tokens": HUGE, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": HUGE}},
]


@pytest.mark.parametrize("usage", LIES)
async def test_usage_beyond_any_model_is_counted_in_whatever_part_it_stands(usage: dict[str, Any]) -> None:
    choices = [{"index": 0, "message": {"role": "assistant", "content": "hello"}}]
    house = House(Reply([msgspec.json.encode({"choices": choices, "usage": usage})], kind="application/json"))
    await house.run()
    [event] = house.events()
    assert (event.rest.usage_source, event.rest.flags[-1], event.rest.usage.output_total) == ("counted", "usage_absurd", 1)
    assert event.rest.amounts_micro[0] < 100


@pytest.mark.parametrize("bare", [True, False])
async def test_what_a_stream_says_after_its_usage_is_billed_too(bare: bool) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    choices = [] if bare else [{"index": 0, "delta": {"content": "hi"}}]
    early = b"data: " + msgspec.json.encode({"choices": choices, "usage": usage}) + b"\n\n"
    house = House(Reply([early, delta("hello"), delta(" there"), delta(" again"), b"data: [DONE]\n\n"]))
    await house.run(stream=True)
    [event] = house.events()
    assert (event.rest.status, event.rest.usage_source) == ("served", "counted")
    assert event.rest.usage.output == (3 if bare else 4)


async def test_usage_with_the_last_words_and_an_empty_end_behind_it_is_believed() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    last = b"data: " + msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": "hi"}}], "usage": usage}) + b"\n\n"
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    house = House(Reply([delta("oh"), last, end, b"data: [DONE]\n\n"]))
    await house.run(stream=True)
    [event] = house.events()
    assert (event.rest.usage_source, event.rest.usage.output) == ("upstream", 7)

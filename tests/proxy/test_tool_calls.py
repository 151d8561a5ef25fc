"""Calls of the provider's own tools in the straight line of an exchange: held, cut, believed, noted."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from gateway.core.errors import InvalidRequest, PaymentRequired
from gateway.core.words import CostPolicy, Enforcement, Level
from gateway.metering.counting import Counter
from gateway.metering.event import ABANDONED, decode_event
from gateway.pricing.rates import Rates, rates_from, short_of
from gateway.providers.model import Deployment
from gateway.proxy.messages import Messages
from gateway.proxy.messages_stream import event
from gateway.proxy.renewal import Renewal
from gateway.proxy.response_ids import ResponseIds
from gateway.proxy.responses import Responses
from gateway.proxy.responses_tools import calls_in, check_choice, check_served, tool_calls
from gateway.proxy.surface import Request, Surface
from gateway.proxy.ticket import Call
from gateway.proxy.tool_calls import placed
from tests.proxy.test_exchange import PRINCIPAL, House, Reply
from tests.proxy.test_rolling import Paused, Watched

FEE_MICRO = 10_000
LONG = {"above": 2_000, "long": {"input": 2_000_000, "output": 20_000_000}}
PRICED = rates_from("USD", {"input": 1_000_000, "output": 10_000_000, "web_searches": FEE_MICRO * 10**6, **LONG})
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
WINDOW = 2_000  # tokens that the model reads


class Searching(House):
    """A house whose deployment speaks Anthropic's dialect, and whose searches have a fee."""

    rates: Rates | None = PRICED
    costs: Rates = PRICED

    def __init__(self, reply: Reply, *given: Any, **options: Any) -> None:
        super().__init__(reply, *given, **{"opening": 100_000, **options})
        speaks = frozenset(("/messages", "/responses"))
        self.deployment = msgspec.structs.replace(self.deployment, speaks=speaks, input_tokens_max=WINDOW, tool_calls=4)

    def cost(self, deployment_id: str, at_ms: int) -> Rates | None:
        return self.costs

    def app_cached(self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int) -> Rates | None:
        return self.rates

    async def search(self, **fields: Any) -> None:
        body = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], "tools": [SEARCH], **fields}
        await self.ask(Messages(), body)

    async def respond(self, **fields: Any) -> None:
        body = {"model": "m", "max_output_tokens": 50, "input": "hi", "tools": [{"type": "web_search"}], **fields}
        await self.ask(Responses(ResponseIds(b"pepper"), self, lambda _: None, self.principal, {}), body)

    async def ask(self, surface: Surface, body: dict[str, Any]) -> None:

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            self.sent.append(message)

        call = Call("req_1", surface, {}, msgspec.json.encode(body), self.answer(receive, send), time.perf_counter(), [])
        try:
            await self.exchange.run(call, surface, self.principal)
        finally:
            await self.tasks.finish(5)


def answered(searches: object, tokens: int = 100, output: int = 20) -> Reply:
    usage = {"input_tokens": tokens, "output_tokens": output, "server_tool_use": {"web_search_requests": searches}}
    return Reply([msgspec.json.encode({"content": [], "usage": usage})], kind="application/json")


async def test_what_is_held_covers_every_call_with_all_that_it_can_read() -> None:
    house = Searching(answered(4, 5 * WINDOW, 50))
    await house.search()
    [done] = house.events()
    [held], [paid] = done.rest.held_micro, done.rest.amounts_micro
    assert paid == 5 * WINDOW + 50 * 10 + 4 * FEE_MICRO  # none of its prompts is a long one, though they add up to one
    assert paid == done.rest.provider_cost_micro
    assert held == paid  # to the micro-unit: nothing more can be used


async def test_prompts_of_which_one_may_be_long_cost_what_long_ones_do() -> None:
    house = Searching(answered(0, WINDOW + 1, 50))
    house.deployment = msgspec.structs.replace(house.deployment, input_tokens_max=WINDOW + 1)
    await house.search()
    [done] = house.events()
    assert done.rest.amounts_micro == (2 * (WINDOW + 1) + 50 * 20,)
    assert PRICED.variant(short_of(WINDOW)).long is None
    assert PRICED.variant(short_of(WINDOW + 1)) == PRICED


@pytest.mark.parametrize(
    ("told", "charged", "flags"),
    [(0, 0, ()), (4, 4, ()), (16, 16, ()), (17, 4, ("usage_absurd",)), (-1, 0, ()), ("many", 0, ()), (None, 0, ())],
)
async def test_more_searches_than_were_told_are_paid_for_within_belief(
    told: object, charged: int, flags: tuple[str, ...]
) -> None:
    house = Searching(answered(told), opening=1_000_000)
    await house.search()
    [done] = house.events()
    assert (done.rest.usage.web_searches, done.rest.flags) == (charged, flags)
    assert done.rest.amounts_micro == (100 + 20 * 10 + charged * FEE_MICRO,)


CALL = {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}
RESULTS: dict[str, Any] = {"type": "web_search_tool_result", "tool_use_id": "x", "content": []}
FAILED = {**RESULTS, "content": {"type": "web_search_tool_result_error"}}


TOLD = {"input_tokens": 100, "output_tokens": 20}
ODD = [{**TOLD, "server_tool_use": {"web_search_requests": count}} for count in (-5, 10**12, 1.5, "3", True)]


@pytest.mark.parametrize("usage", [TOLD, {}, None, *ODD])
async def test_searches_that_no_usage_counts_are_counted_in_the_answer(usage: Any) -> None:
    content = [CALL, RESULTS, CALL, RESULTS, CALL, FAILED, {"type": "text", "text": "hi"}]
    reply = Reply([msgspec.json.encode({"content": content, "usage": usage})], kind="application/json")
    house = Searching(reply, opening=1_000_000)
    await house.search()
    [done] = house.events()
    assert done.rest.usage.web_searches == 2
    assert done.rest.usage_source == ("upstream" if usage else "counted")


@pytest.mark.parametrize(("told", "charged"), [(None, 2), ({"web_search_requests": 1}, 1)])
async def test_searches_of_a_stream_that_its_end_does_not_count_are_those_that_were_begun(told: Any, charged: int) -> None:
    begun, _ = begun_messages()
    usage = {"output_tokens": 9, "server_tool_use": told}
    ended = event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    house = Searching(Reply([*begun, ended, event({"type": "message_stop"})]), opening=1_000_000)
    await house.search(stream=True)
    [done] = house.events()
    assert (done.rest.usage.web_searches, done.rest.status) == (charged, "served")


def test_a_choice_of_a_tool_that_is_there_is_taken() -> None:
    calls = tool_calls({}, [(0, {"type": "web_search"})])
    searches = [{"type": "web_search"}, {"type": "web_search_2025_08_26"}]
    for choice in ("auto", *searches, {"type": "function", "name": "f"}, {"type": 1}):
        check_choice(choice, calls)
        check_choice({"type": "allowed_tools", "mode": "auto", "tools": [choice]}, calls)
    with pytest.raises(InvalidRequest):
        check_choice({"type": "web_search"}, None)


async def test_absurd_tokens_take_no_fee_away() -> None:
    house = Searching(answered(2, 100, 10**9), opening=1_000_000)
    await house.search()
    [done] = house.events()
    assert (done.rest.usage.web_searches, done.rest.flags, done.rest.usage_source) == (2, ("usage_absurd",), "counted")


async def test_an_app_that_nobody_is_charged_for_is_measured_all_the_same() -> None:
    house = Searching(answered(3))
    house.rates = None
    app = msgspec.structs.replace(PRINCIPAL.app, enforcement=Enforcement.ANALYTICS_ONLY)
    house.principal = msgspec.structs.replace(PRINCIPAL, app=app)
    await house.search()
    [done] = house.events()
    assert (done.rest.usage.web_searches, done.rest.amounts_micro) == (3, ())
    assert done.rest.provider_cost_micro == 100 + 20 * 10 + 3 * FEE_MICRO
    assert house.asked["tools"][0]["max_uses"] == 4


async def test_every_wallet_that_pays_must_have_a_price_for_the_tool() -> None:
    house = Searching(answered(1))
    house.rates = rates_from("USD", {"input": 1_000_000, "output": 10_000_000})
    app = msgspec.structs.replace(PRINCIPAL.app, cost_policy=CostPolicy.CREATOR_PAYS)
    house.principal = msgspec.structs.replace(PRINCIPAL, app=app)
    with pytest.raises(InvalidRequest, match="web_searches") as refused:
        await house.search()
    assert refused.value.param == "tools[0].type"
    assert house.asked == {}


async def test_a_wallet_for_less_gets_fewer_calls_down_to_none() -> None:
    sent = []
    for opening in range(0, 120_000, 3_000):
        house = Searching(answered(1), opening=opening)
        try:
            await house.search()
        except PaymentRequired:
            sent.append(0)
            continue
        sent.append(house.asked["tools"][0]["max_uses"])
        [done] = house.events()
        assert done.rest.held_micro[0] <= opening
        available, held = await house.wallet()
        assert (available, held) == (opening - done.rest.amounts_micro[0], 0)
        headers = dict(house.sent[0]["headers"])
        assert headers.get(b"x-mozaiks-tool-calls") == (b"%d" % sent[-1] if sent[-1] < 4 else None)
    assert sent == sorted(sent)
    assert set(sent) == {0, 1, 2, 3, 4}


def begun_messages() -> tuple[list[bytes | Exception], list[bytes | Exception]]:
    begun: list[bytes | Exception] = [event({"type": "message_start", "message": {"usage": {"input_tokens": 8}}})]
    for number in range(2):
        block = {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}
        begun.append(event({"type": "content_block_start", "index": number, "content_block": block}))
    return begun, [event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}})]


def begun_response() -> tuple[list[bytes | Exception], list[bytes | Exception]]:
    items = [{"type": "web_search_call", "id": f"ws_{number}", "status": "in_progress"} for number in range(2)]
    begun: list[bytes | Exception] = [
        event({"type": "response.output_item.added", "output_index": number, "item": item}) for number, item in enumerate(items)
    ]
    return begun, [event({"type": "response.completed", "response": {"id": "resp_1", "output": items}})]


@pytest.mark.parametrize("dialect", ["messages", "responses"])
async def test_a_checkpoint_of_a_stream_has_the_searches_that_were_begun(dialect: str) -> None:
    balance = Watched(abandoned=ABANDONED)
    reply = Paused(*(begun_messages() if dialect == "messages" else begun_response()))
    house = Searching(reply, balance)
    later = time.time_ns() + 60 * 10**9
    asked = house.search(stream=True) if dialect == "messages" else house.respond(stream=True)
    running = asyncio.ensure_future(asked)
    await reply.waits.wait()
    balance.clock_moves_to(later)
    assert await Renewal(house.exchange.in_flight, balance, Counter(), house, 60, lambda: later).note() == 1
    balance.clock_moves_to(later + 61 * 10**9)
    assert await balance.sweep(PRINCIPAL.shard) == 1
    [swept] = [decode_event(data) for _, data in balance.events]
    assert (swept.rest.status, swept.rest.usage.web_searches) == ("abandoned", 2)
    usage = swept.rest.usage
    assert swept.rest.amounts_micro == (usage.input + 10 * usage.output + 2 * FEE_MICRO,)
    assert balance.tokens_told == usage.total
    reply.go.set()
    await running


def test_calls_are_counted_by_what_has_a_fee() -> None:
    search = {"type": "web_search_call", "status": "completed", "action": {"type": "search"}}
    code = {"type": "code_interpreter_call", "container_id": "a"}
    output = [
        search, {**search, "action": {"type": "open_page"}}, {**search, "action": {"type": "find_in_page"}},
        {**search, "action": {"type": "a_new_kind"}}, {**search, "action": {"type": ["search"]}},
        {**search, "status": "failed"}, {"type": "web_search_call", "status": "in_progress"}, {"type": "message"},
        code, code, {**code, "container_id": "b"}, {"type": "file_search_call"}, {"type": ["web_search_call"]}, "web_search_call",
    ]  # fmt: skip
    assert calls_in(output) == {"web_search_call": 4, "code_interpreter_call": 2, "file_search_call": 1}
    assert calls_in(None) == {}


def test_who_has_the_tools_is_who_keeps_their_bound_and_stores_are_the_operators_or_ones_own() -> None:
    files = {"type": "file_search", "vector_store_ids": ["vs_1"]}
    calls = tool_calls({}, [(3, files)])
    assert calls is not None
    own = Deployment("m", "openai", "m", "", "", speaks=frozenset(("/responses",)), vector_stores=frozenset(("vs_1",)))
    check_served(calls, own, own_account=False)
    check_served(calls, msgspec.structs.replace(own, vector_stores=frozenset()), own_account=True)
    for other, param in (
        (msgspec.structs.replace(own, vector_stores=frozenset(("vs_2",))), "tools[3].vector_store_ids"),
        (msgspec.structs.replace(own, provider="xai"), "tools[3]"),  # it is not known to take max_tool_calls
        (msgspec.structs.replace(own, speaks=frozenset()), "tools[3]"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            check_served(calls, other, own_account=False)
        assert refused.value.param == param


@pytest.mark.parametrize(
    ("prompt", "calls", "told", "times"),
    [
        (300_000, 0, 250_000, 2),  # one prompt, a long one, with a tool that was not called
        (300_000, 0, 150_000, 1),
        (300_000, 1, 250_000, 1),  # two prompts, none above the window
        (300_000, 1, 500_000, 2),
        (100, 3, 500_000, 1),
    ],
)
async def test_a_long_prompt_costs_what_it_does_without_the_tool(prompt: int, calls: int, told: int, times: int) -> None:
    output = [{"type": "web_search_call", "status": "completed", "action": {"type": "search"}}] * calls
    usage = {"input_tokens": told, "output_tokens": 10}
    reply = Reply([msgspec.json.encode({"id": "resp_1", "output": output, "usage": usage})], kind="application/json")
    house = Searching(reply, opening=10_000_000)
    house.rates = house.costs = msgspec.structs.replace(PRICED, long_above=200_000)
    house.deployment = msgspec.structs.replace(house.deployment, input_tokens_max=900_000)
    await house.respond(input="x" * prompt)
    [done] = house.events()
    assert done.rest.amounts_micro == (times * (told + 10 * 10) + calls * FEE_MICRO,)
    assert done.rest.provider_cost_micro == done.rest.amounts_micro[0] <= done.rest.held_micro[0]


async def test_what_builds_an_app_on_its_own_keys_runs_on_the_operators_account_and_searches_the_operators_stores() -> None:
    house = Searching(answered(0))
    app = msgspec.structs.replace(PRINCIPAL.app, cost_policy=CostPolicy.OWN_KEYS)
    house.principal = msgspec.structs.replace(PRINCIPAL, app=app, level=Level.PLATFORM)
    with pytest.raises(InvalidRequest, match="vs_of_another_app"):
        await house.respond(tools=[{"type": "file_search", "vector_store_ids": ["vs_of_another_app"]}])
    assert house.asked == {}


def test_only_a_window_that_is_known_is_smaller_than_the_models() -> None:
    for tools, window in (
        ([{"type": "web_search"}], 128_000),
        ([{"type": "web_search", "return_token_budget": "unlimited"}], 400_000),
        ([{"type": "web_search"}, {"type": "file_search", "vector_store_ids": ["vs_1"]}], 400_000),
    ):
        calls = tool_calls({"max_tool_calls": 3}, list(enumerate(tools)))
        request = Request(Messages(), {}, 1, "m", False, False, None, 1, False, calls=calls)
        placed(request, Deployment("m", "openai", "m", "", "", input_tokens_max=400_000))
        assert calls is not None
        assert (calls.window, calls.number, calls.tokens) == (window, 3, 3 * window + len(tools) * 16_384)


async def test_an_operator_may_have_calls_held_as_less_and_bears_what_is_read_beyond_that() -> None:
    house = Searching(answered(3, 3 * WINDOW, 20), opening=3 * FEE_MICRO + 40_000)
    house.deployment = msgspec.structs.replace(house.deployment, tool_call_tokens=10)
    await house.search(tools=[{**SEARCH, "max_uses": 3}])
    [done] = house.events()
    [held], [paid] = done.rest.held_micro, done.rest.amounts_micro
    assert paid == 3 * WINDOW + 20 * 10 + 3 * FEE_MICRO
    assert held == WINDOW + 3 * (10 + FEE_MICRO) + 50 * 10  # the request itself, the calls, the output
    longer = Searching(answered(0, WINDOW + 1, 50))  # each of its prompts may be a long one all the same
    longer.deployment = msgspec.structs.replace(longer.deployment, tool_call_tokens=10, input_tokens_max=WINDOW + 1)
    await longer.search()
    assert longer.events()[0].rest.amounts_micro == (2 * (WINDOW + 1) + 50 * 20,)

"""Service tiers: held at the dearest that a request may be served at, charged at the one that its answer names."""

from typing import Any

import msgspec
import pytest

from gateway.core.errors import InvalidRequest, PaymentRequired
from gateway.pricing.rates import Rates, rates_from
from gateway.providers.messages_requests import chat_of
from gateway.providers.model import Deployment
from gateway.proxy import chat
from gateway.proxy.responses import Responses
from gateway.proxy.surface import Request
from tests.proxy.test_exchange import House, Reply, delta

DEPLOYMENT = Deployment("m/openai/0", "openai", "m", "http://127.0.0.1:9/v1", "sk-made-up")

GIVEN = {"input": 1_000_000, "output": 10_000_000, "cached_input": 100_000}
TIERS = {"priority": {"input": 2_000_000, "output": 20_000_000}, "flex": {"input": 500_000, "output": 5_000_000}}
PRICED = rates_from("USD", {**GIVEN, "variants": TIERS})
COST = {"default": 4_000 + 20_000, "priority": 8_000 + 40_000, "flex": 2_000 + 10_000}  # of the usage below
USAGE = {"prompt_tokens": 4_000, "completion_tokens": 2_000, "total_tokens": 6_000}


class TierHouse(House):
    """A house in which tiers have prices."""

    rates = PRICED
    cap = 2_500

    def cost(self, deployment_id: str, at_ms: int) -> Rates | None:
        return PRICED

    def app_cached(self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int) -> Rates | None:
        return self.rates

    async def settled(self, **fields: Any) -> tuple[int, int, int, tuple[str, ...]]:
        """What it cost, what was held, what it cost us, flags."""
        await self.run(**{"max_tokens": self.cap, **fields})
        [event] = self.events()
        available, held = await self.wallet()
        assert (available, held) == (1_000_000 - event.rest.amounts_micro[0], 0)
        return event.rest.amounts_micro[0], event.rest.held_micro[0], event.rest.provider_cost_micro, event.rest.flags


def whole(tier: object = None) -> Reply:
    answer = {"choices": [], "usage": USAGE} | ({} if tier is None else {"service_tier": tier})
    return Reply([msgspec.json.encode(answer)], kind="application/json")


def streamed(tier: object = None) -> Reply:
    last = {"choices": [], "usage": USAGE} | ({} if tier is None else {"service_tier": tier})
    return Reply([delta("hi"), b"data: " + msgspec.json.encode(last) + b"\n\ndata: [DONE]\n\n"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("asked", "answered", "charged"),
    [
        ("priority", "priority", "priority"),
        ("priority", "default", "default"),  # there was no room in the tier
        ("priority", None, "priority"),  # it does not say: the dearest
        ("flex", "flex", "flex"),
        ("flex", None, "default"),
        ("flex", "default", "default"),
        ("auto", "priority", "priority"),
        ("auto", "flex", "flex"),
        ("auto", "default", "default"),
        ("auto", None, "priority"),
        ("auto", "auto", "priority"),
        ("default", "default", "default"),
        ("default", "scale", "default"),  # a tier that has no price of its own
        (None, "default", "default"),
        (None, "priority", "default"),  # the provider's own setting made it so: nobody asked for it, or held it
        (None, "flex", "flex"),
        ("flex", "priority", "default"),
        ("priority", 7, "priority"),
        ("priority", "x" * 65, "priority"),
    ],
)
async def test_a_request_is_charged_at_the_tier_that_its_answer_names(
    asked: str | None, answered: object, charged: str, stream: bool
) -> None:
    house = TierHouse(streamed(answered) if stream else whole(answered))
    fields: dict[str, Any] = {"stream": True} if stream else {}
    if asked is not None:
        fields["service_tier"] = asked
    cost, held, provider_cost, flags = await house.settled(**fields)
    took = answered if isinstance(answered, str) and answered in COST else charged
    assert (cost, provider_cost) == (COST[charged], COST[took])
    assert cost <= held
    dearest = 20 if asked in ("priority", "auto") else 10
    assert held >= house.cap * dearest
    named = answered if isinstance(answered, str) and answered in ("priority", "flex", "scale") else None
    assert flags == (() if named is None else (f"service_tier_{named}",))
    assert house.asked.get("service_tier") == asked


@pytest.mark.parametrize("rates", [rates_from("USD", GIVEN), rates_from("USD", {**GIVEN, "variants": {"flex": {}}})])
async def test_a_tier_without_a_price_is_refused_before_anything_is_sent(rates: Rates) -> None:
    house = TierHouse(whole())
    house.rates = rates
    with pytest.raises(PaymentRequired, match="no price here at the service tier priority") as refused:
        await house.run(service_tier="priority")
    assert (refused.value.code, refused.value.param) == ("unpriced_model", "service_tier")
    assert house.asked == {}
    assert await house.balance.read(house.principal.shard, ["a/app/ann"]) == [None]


async def test_what_the_provider_chooses_is_served_where_no_tier_has_a_price() -> None:
    house = TierHouse(whole("priority"))
    house.rates = rates_from("USD", GIVEN)
    cost, _, provider_cost, _ = await house.settled(service_tier="auto")
    assert (cost, provider_cost) == (COST["default"], COST["priority"])


async def test_a_clients_usage_chunk_names_the_tier_where_it_always_does() -> None:
    house = TierHouse(streamed("flex"))
    await house.settled(stream=True, stream_options={"include_usage": True}, service_tier="flex")
    [chunk] = [msgspec.json.decode(line[6:]) for line in house.body().splitlines() if b'"usage"' in line]
    assert chunk["service_tier"] == "flex"
    assert "service_tier" not in chunk["usage"]
    assert chunk["usage"]["cost"] == COST["flex"] / 1_000_000


async def test_a_wallet_that_covers_only_the_cheaper_tier_is_refused() -> None:
    house = TierHouse(whole("default"), opening=40_000)
    with pytest.raises(PaymentRequired):
        await house.run(service_tier="priority", max_tokens=2_500)
    assert house.asked == {}
    again = TierHouse(whole("default"), opening=40_000)
    await again.run(max_tokens=2_500)
    assert again.asked


async def test_a_tier_is_refused_where_its_surface_knows_no_prices_of_tiers() -> None:
    with pytest.raises(InvalidRequest, match="other tiers have no price"):
        chat.Completions().parse(b'{"model": "m", "prompt": "x", "service_tier": "flex"}', b"")


async def test_a_wallet_that_covers_the_plain_price_owes_nothing_for_a_tier_that_nobody_asked_for() -> None:
    house = TierHouse(whole("priority"), opening=4_000 + 25_000)
    await house.run(max_tokens=2_500)
    [event] = house.events()
    assert event.rest.amounts_micro == (COST["default"],)
    assert event.rest.provider_cost_micro == COST["priority"]


@pytest.mark.parametrize(
    ("given", "sent"), [({}, "default"), ({"service_tier": None}, "default"), ({"service_tier": "auto"}, "auto")]
)
def test_where_a_missing_tier_is_a_projects_setting_the_standard_one_is_asked_for(given: Any, sent: str) -> None:
    own = msgspec.structs.replace(DEPLOYMENT, names_tier=True)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **given}
    surface = chat.Chat()

    def asked(deployment: Deployment) -> Any:
        request = surface.parse(msgspec.json.encode(body), b"application/json")
        return msgspec.json.decode(surface.outgoing(request, deployment, None)).get("service_tier")

    assert asked(own) == sent
    assert asked(DEPLOYMENT) == given.get("service_tier")
    embeddings = chat.Embeddings()
    request = embeddings.parse(b'{"model": "m", "input": "x"}', b"application/json")
    assert b"service_tier" not in embeddings.outgoing(request, own, None)


def test_responses_and_messages_ask_for_it_too() -> None:
    own = msgspec.structs.replace(DEPLOYMENT, names_tier=True)
    unused: Any = None
    surface = Responses(unused, unused, unused)
    request = Request(surface, {"model": "m", "input": "x", "service_tier": "auto"}, 1, "m", False, False, None, 1, False)
    assert msgspec.json.decode(surface.outgoing(request, own, None))["service_tier"] == "default"
    given = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    assert chat_of(given, own)["service_tier"] == "default"
    assert "service_tier" not in chat_of(given, DEPLOYMENT)

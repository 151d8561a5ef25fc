"""Deployments that are passed over: those that are full, and those that cannot read so long a prompt; and what failures cost."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from gateway.balance.places import Full, Place
from gateway.core.errors import GatewayError
from gateway.core.ids import platform_wallet
from gateway.core.words import CostPolicy, Level
from gateway.identity.model import Principal
from gateway.providers.model import Capacity, Deployment, Headers, UpstreamFault
from gateway.proxy.attempts import Attempts
from tests.proxy.test_attempts import SILENT, Failing, Many, good, rates
from tests.proxy.test_exchange import PRINCIPAL, delta
from tests.proxy.test_exchange import Reply as Scripted

TOO_LONG = b'{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}'


class Desk:
    """`Places` in memory: those named in `full` have none."""

    def __init__(self, **full_s: float) -> None:
        self.full_s = full_s
        self.asked: list[tuple[str, int]] = []
        self.left: list[tuple[str, int, bool]] = []

    async def take(self, capacity: Capacity, request_id: str, tokens: int) -> Place | Full | None:
        self.asked.append((capacity.name, tokens))
        if capacity.name in self.full_s:
            return Full(self.full_s[capacity.name])
        return Place(capacity.name, request_id, 1, tokens)

    def leave(self, place: Place, tokens: int, *, asked: bool = True) -> None:
        self.left.append((place.name, tokens, asked))


class Limited(Many):
    """Every deployment has a capacity, and `desk` gives the places; `sizes` are tokens of input by deployment."""

    def __init__(self, steps: dict[str, list[Any]], desk: Desk | None = None, **given: Any) -> None:
        sizes = given.pop("sizes", {})
        super().__init__(steps, **given)
        self.desk = desk or Desk()
        self.deployments = {
            name: msgspec.structs.replace(each, capacity=Capacity(name, rpm=10), input_tokens_max=sizes.get(name))
            for name, each in self.deployments.items()
        }
        self.own = tuple(self.deployments[each.id] for each in self.own)
        exchange = self.exchange
        exchange._attempts = Attempts(
            self, self, self, self.balance, self, exchange._counter, exchange._release, 60_000, places=self.desk
        )


async def test_a_deployment_that_is_full_is_passed_over_and_is_no_attempt() -> None:
    house = Limited({"a": [], "b": [good()]}, Desk(a=3.0))
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["b"]
    assert (house.header(b"x-mozaiks-model"), house.header(b"x-mozaiks-attempts")) == (b"b", b"1")
    [event] = house.events()
    assert (event.rest.attempts, event.rest.flags, event.rest.provider_cost_micro) == (1, ("full:a",), 108)
    assert house.health.troubled == {}
    assert house.desk.left == [("b", 18, True)]
    assert house.desk.asked[0][1] >= 50 + 8  # the prompt and the most output
    assert await house.wallet() == (1_000_000 - 108, 0)


async def test_full_deployments_lead_to_the_fallback_models() -> None:
    house = Limited({"a": [], "b": [], "x": [good()]}, Desk(a=3.0, b=2.0), models={"other": ["x"]})
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["x"]
    assert house.events()[0].rest.flags == ("full:a", "full:b")


async def test_when_all_are_full_it_is_a_429_until_the_first_of_them_has_room() -> None:
    house = Limited({"a": [], "b": [], "c": []}, Desk(a=9.0, b=4.0, c=30.0))
    with pytest.raises(GatewayError) as full:
        await house.run(max_tokens=50)
    assert (full.value.status, full.value.code, full.value.retry_after_s) == (429, "rate_limit_exceeded", 4.0)
    assert full.value.details["limit_source"] == "provider"
    assert house.bodies == []
    assert house.events() == []
    assert await house.wallet() == (1_000_000, 0)


async def test_a_single_deployment_that_is_full_is_a_429() -> None:
    house = Limited({"a": []}, Desk(a=0.0))
    with pytest.raises(GatewayError) as full:
        await house.run(max_tokens=50)
    assert (full.value.status, full.value.retry_after_s) == (429, 1.0)
    assert await house.wallet() == (1_000_000, 0)


async def test_a_failure_that_was_met_is_told_rather_than_that_others_were_full() -> None:
    house = Limited({"a": [Failing(503)], "b": []}, Desk(b=4.0))
    with pytest.raises(GatewayError) as failed:
        await house.run(max_tokens=50)
    assert failed.value.code == "upstream_error"
    assert house.desk.left == [("a", 0, True)]


async def test_each_attempt_gives_its_place_back_whatever_becomes_of_it() -> None:
    refused = UpstreamFault("the upstream refused the connection", sent=False)
    house = Limited({"a": [refused], "b": [Failing(500)], "c": [good()]})
    await house.run(max_tokens=50)
    assert house.desk.left == [("a", 0, False), ("b", 0, True), ("c", 18, True)]
    house = Limited({"a": [Failing(400)]})
    with pytest.raises(GatewayError):
        await house.run(max_tokens=50)
    assert house.desk.left == [("a", 0, True)]
    house = Limited({"a": [Scripted([delta("hello"), SILENT])]})
    await house.run(stream=True)
    assert [name for name, _, _ in house.desk.left] == ["a"]


async def test_where_places_cannot_be_counted_requests_pass() -> None:
    class Broken(Desk):
        async def take(self, capacity: Capacity, request_id: str, tokens: int) -> Place | Full | None:
            return None

    house = Limited({"a": [good()]}, Broken())
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["a"]
    assert house.desk.left == []


async def test_a_prompt_that_is_too_long_goes_on_to_a_deployment_that_reads_more() -> None:
    sizes = {"a": 100, "same": 100, "more": 1000}
    house = Limited({"a": [Failing(400, TOO_LONG)], "same": [good()], "more": [good()]}, sizes=sizes)
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["a", "more"]
    [event] = house.events()
    assert (event.rest.flags, event.rest.attempts) == (("too_long:a",), 2)
    assert house.health.troubled == {}  # it does what it should


async def test_a_prompt_that_is_too_long_goes_on_to_a_fallback_model_that_reads_more() -> None:
    said = b'{"error":{"message":"This model\'s maximum context length is 4096 tokens. However, ...","code":400}}'
    models, sizes = {"small": ["x"], "large": ["y"]}, {"a": 100, "y": 900}
    house = Limited({"a": [Failing(400, said)], "x": [good()], "y": [good()]}, models=models, sizes=sizes)
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["a", "y"]
    assert house.events()[0].rest.served_by == ("large", "openai", "y")


async def test_where_nobody_reads_more_the_error_is_told_as_it_is() -> None:
    house = Limited({"a": [Failing(400, TOO_LONG)], "b": [good()]}, sizes={"a": 100, "b": 100}, retries=2)
    with pytest.raises(GatewayError) as refused:
        await house.run(max_tokens=50)
    assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")
    assert refused.value.message == "too long"
    assert house.asked_in_turn() == ["a"]
    assert await house.wallet() == (1_000_000, 0)


@pytest.mark.parametrize("code", ["content_policy_violation", "content_filter", "invalid_value"])
async def test_what_a_provider_will_not_answer_no_other_one_is_asked(code: str) -> None:
    said = msgspec.json.encode({"error": {"message": "rejected by our safety system", "code": code}})
    house = Limited({"a": [Failing(400, said)], "b": [good()]}, sizes={"a": 100, "b": 1000}, models={})
    with pytest.raises(GatewayError) as refused:
        await house.run(max_tokens=50)
    assert (refused.value.status, refused.value.code) == (400, code)
    assert house.asked_in_turn() == ["a"]


async def test_a_prompt_that_shows_to_be_too_long_is_not_sent_to_who_cannot_read_it() -> None:
    words = "one two three four five six seven eight nine ten " * 20
    house = Limited({"a": [], "more": [good()]}, sizes={"a": 100, "more": 10_000})
    await house.run(max_tokens=50, messages=[{"role": "user", "content": words}])
    assert house.asked_in_turn() == ["more"]
    assert house.events()[0].rest.flags == ("too_long:a",)
    # Where the one that reads more is full, the first one says what it thinks.
    house = Limited({"a": [Failing(400, TOO_LONG)], "more": []}, Desk(more=5.0), sizes={"a": 100, "more": 10_000})
    with pytest.raises(GatewayError) as full:
        await house.run(max_tokens=50, messages=[{"role": "user", "content": words}])
    assert full.value.status == 429
    # Without anybody who reads more it is sent.
    house = Limited({"a": [Failing(400, TOO_LONG)], "same": []}, sizes={"a": 100, "same": 100})
    with pytest.raises(GatewayError) as refused:
        await house.run(max_tokens=50, messages=[{"role": "user", "content": words}])
    assert refused.value.message == "too long"
    assert house.asked_in_turn() == ["a"]


async def test_what_a_broken_answer_cost_is_the_platforms_loss_and_not_the_payers() -> None:
    whole = Many({"a": [Scripted([b'{"choices": [{"message": {"content": "one two th'], kind="application/json")], "b": [good()]})
    whole.prices = {"a": rates(3)}
    await whole.run(max_tokens=50)
    [event] = whole.events()
    own = 8 + 10 * 10
    assert event.rest.provider_cost_micro > own + 3 * (8 + 10 * 5)  # the prompt and what had arrived, at that provider's price
    assert event.rest.provider_cost_micro < own + 3 * (50 + 10 * 50)
    assert "cost_estimated" in event.rest.flags
    assert event.rest.amounts_micro == (own,)
    assert await whole.wallet() == (1_000_000 - own, 0)


async def test_a_request_that_nobody_serves_is_recorded_where_it_has_cost_something() -> None:
    house = Many({"a": [SILENT]})
    with pytest.raises(GatewayError) as failed:
        await house.run(max_tokens=50)
    assert failed.value.code == "upstream_timeout"
    [event] = house.events()
    assert (event.rest.status, event.rest.http_status, event.rest.amounts_micro) == ("upstream_broke", 504, (0,))
    assert 0 < event.rest.provider_cost_micro < 50
    assert event.rest.usage.output == 0
    assert await house.wallet() == (1_000_000, 0)
    assert house.exchange.in_flight == {}


async def test_with_its_own_keys_a_creator_bears_what_failures_cost() -> None:
    house = Many({"a": [SILENT], "b": [good()]})
    app = msgspec.structs.replace(PRINCIPAL.app, cost_policy=CostPolicy.OWN_KEYS)
    house.principal = msgspec.structs.replace(PRINCIPAL, app=app)
    await house.run(max_tokens=50)
    assert house.events()[0].rest.provider_cost_micro == 0


async def test_a_probe_counts_when_it_is_sent_and_not_when_the_wallet_refuses_it() -> None:
    house = Many({"a": [good()], "b": [good()]}, opening=0)
    house.health.failed("a", 30.0)
    trouble = house.health.troubled["a"]
    trouble.until = 0.001  # long over
    with pytest.raises(GatewayError):
        await house.run(max_tokens=50)
    assert trouble.probing_until == 0.0
    asked: list[float] = []

    class Sends(Many):
        async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Scripted:
            asked.append(trouble.probing_until)
            return await super().send(deployment, path, body)

    house = Sends({"a": [good()], "b": [good()]})
    house.health.troubled["a"] = trouble
    await house.run(max_tokens=50)
    assert asked[0] > 0.0


# ---- keys that the app brought ---------------------------------------------------------------


class Brought(Many):
    """An app that runs on its own keys: `brought` by provider; `sent` are the deployments as they were asked."""

    def __init__(self, steps: dict[str, list[Any]], **given: Any) -> None:
        self.brought: dict[str, str] = given.pop("brought")
        providers: dict[str, str] = given.pop("providers", {})
        super().__init__(steps, **given)
        account = (("OpenAI-Organization", "org-operators"), ("OpenAI-Project", "proj"), ("x-goog-user-project", "theirs"))
        headers = (("X-Api-Key", "sk-operator"), *account, ("X-Region", "eu"))
        for name, each in self.deployments.items():
            provider, capacity = providers.get(name, "openai"), Capacity(name, rpm=1)
            self.deployments[name] = msgspec.structs.replace(each, provider=provider, headers=headers, capacity=capacity)
        self.own = tuple(self.deployments[each.id] for each in self.own)
        app = msgspec.structs.replace(PRINCIPAL.app, cost_policy=CostPolicy.OWN_KEYS)
        self.principal = msgspec.structs.replace(PRINCIPAL, app=app)
        self.asked_as: list[Deployment] = []

    async def provider_keys(self, principal: Principal) -> Mapping[str, str]:
        return self.brought

    async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Scripted:
        self.asked_as.append(deployment)
        return await super().send(deployment, path, body)


async def test_an_apps_own_key_is_used_and_no_secret_of_the_operators_goes_with_it() -> None:
    house = Brought({"a": [Failing(500)], "b": [good()]}, brought={"openai": "sk-brought-by-the-app"})
    await house.run(max_tokens=50)
    assert [each.api_key for each in house.asked_as] == ["sk-brought-by-the-app"] * 2
    assert {each.headers for each in house.asked_as} == {(("X-Region", "eu"),)}
    [event] = house.events()
    assert (event.rest.provider_cost_micro, event.rest.attempts) == (0, 2)
    assert house.asked_in_turn() == ["a", "b"]


async def test_a_deployment_whose_provider_the_app_has_no_key_for_is_passed_over() -> None:
    house = Brought({"a": [], "b": [good()]}, brought={"groq": "gsk-brought"}, providers={"b": "groq"})
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["b"]
    assert house.events()[0].rest.flags == ("no_key:a",)
    house = Brought({"a": []}, brought={})
    with pytest.raises(GatewayError) as refused:
        await house.run(max_tokens=50)
    assert (refused.value.status, refused.value.code) == (400, "missing_provider_key")
    assert "none for openai" in refused.value.message
    assert house.bodies == []
    assert await house.wallet() == (1_000_000, 0)


async def test_a_key_that_an_app_brings_runs_on_no_server_that_would_take_any() -> None:
    house = Brought({"keyless": [], "b": [good()]}, brought={"openai": "sk-made-up-by-the-creator"})
    keyless = msgspec.structs.replace(house.deployments["keyless"], api_key="")
    house.own = (keyless, house.own[1])
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["b"]
    assert house.events()[0].rest.flags == ("no_key:keyless",)
    for deployment, asked in (
        (keyless, 0),
        (msgspec.structs.replace(keyless, own_keys=True), 1),  # it checks keys, and the operator has none
        (msgspec.structs.replace(keyless, api_key="EMPTY", own_keys=False), 0),
    ):
        house = Brought({"keyless": [good()]}, brought={"openai": "sk-made-up-by-the-creator"})
        house.own = (deployment,)
        if asked:
            await house.run(max_tokens=50)
        else:
            with pytest.raises(GatewayError) as refused:
                await house.run(max_tokens=50)
            assert (refused.value.status, refused.value.code) == (400, "missing_provider_key")
            assert await house.wallet() == (1_000_000, 0)
        assert len(house.bodies) == asked


@pytest.mark.parametrize("status", [401, 402, 403, 404, 429])
async def test_what_becomes_of_one_apps_key_is_no_other_ones_trouble(status: int) -> None:
    said = msgspec.json.encode({"error": {"message": "Incorrect API key provided: sk-brought-by-the-app"}})
    house = Brought({"a": [Failing(status, said, retry_after="30")]}, brought={"openai": "sk-brought-by-the-app"})
    with pytest.raises(GatewayError) as refused:
        await house.run(max_tokens=50)
    assert house.health.troubled == {}
    assert "sk-brought" not in refused.value.message + str(refused.value.details)
    if status in (401, 402, 403):
        assert (refused.value.status, refused.value.code) == (400, "provider_key_refused")


async def test_a_providers_words_never_carry_the_apps_key() -> None:
    said = msgspec.json.encode({"error": {"message": "the account of my-odd-secret-0815 is too small", "code": "x"}})
    house = Brought({"a": [Failing(400, said)]}, brought={"openai": "my-odd-secret-0815"})
    with pytest.raises(GatewayError) as refused:
        await house.run(max_tokens=50)
    assert refused.value.message == "the [removed]ccount of [removed] is too sm[removed]ll"  # its host is called "a"


async def test_level_platform_of_such_an_app_runs_on_the_platforms_key() -> None:
    house = Brought({"a": [good()]}, brought={"openai": "sk-brought-by-the-app"})
    house.principal = msgspec.structs.replace(house.principal, level=Level.PLATFORM)
    await house.balance.open(PRINCIPAL.shard, platform_wallet("creator"), 1_000_000)
    await house.run(max_tokens=50)
    assert [each.api_key for each in house.asked_as] == ["sk-made-up"]

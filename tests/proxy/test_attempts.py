"""What follows when a deployment fails before it answers: who is asked next, on whose money, and when it ends."""

import random
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from gateway.balance.memory_balance import MemoryBalance
from gateway.core.errors import GatewayError, NotFound
from gateway.core.words import HoldPolicy
from gateway.identity.model import Principal
from gateway.pricing.rates import Rates, rates_from
from gateway.providers.health import FAILURES, REST_S, REST_S_MAX, TROUBLED_MAX, Health
from gateway.providers.model import Deployment, Headers, ModelEntry, Route, UpstreamFault, UpstreamSilent
from gateway.providers.routing import Routing
from gateway.proxy import refusals
from gateway.proxy.attempts import Attempts
from tests.proxy.test_exchange import PRINCIPAL, House, Reply, delta

USAGE = {"prompt_tokens": 8, "completion_tokens": 10, "total_tokens": 18}
ANSWER = msgspec.json.encode({"choices": [{"message": {"content": "hello"}}], "usage": USAGE})
REFUSED = UpstreamFault("the upstream refused the connection", sent=False)
UNREACHABLE = UpstreamSilent("connecting to the upstream timed out", sent=False)
SILENT = UpstreamSilent("the upstream did not answer in time", sent=True)
Step = Reply | UpstreamFault


def rates(dearer: int = 1) -> Rates:
    return rates_from("USD", {"input": 1_000_000 * dearer, "output": 10_000_000 * dearer})


def good() -> Reply:
    return Reply([ANSWER], kind="application/json")


class Failing(Reply):
    """An error answer with headers of its own."""

    def __init__(self, status: int, body: bytes = b'{"error":{"message":"no"}}', **headers: str) -> None:
        super().__init__([body], status, "application/json")
        self._more = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def headers(self) -> Mapping[str, str]:
        return {**super().headers, **self._more}


class Many(House):
    """A house with several deployments: `steps` are what each one answers, in turn; `models` are the fallbacks' deployments."""

    def __init__(
        self, steps: dict[str, list[Step]], *, retries: int = 0, models: dict[str, list[str]] | None = None, **given: Any
    ) -> None:
        super().__init__(good(), **given)
        self.steps = steps
        self.retries = retries
        self.models = models or {}
        self.prices: dict[str, Rates] = {}
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        own = [name for name in steps if not any(name in names for names in self.models.values())]
        self.deployments = {
            name: Deployment(name, "openai", f"up-{name}", f"http://{name}/v1", "sk-made-up", output_tokens_max=100)
            for name in steps
        }
        self.own = tuple(self.deployments[name] for name in own)
        self.times: list[tuple[str, int]] = []

    def route(self, model: str, by: str = "") -> Route:
        if model in self.models:
            return Route(model, tuple(self.deployments[name] for name in self.models[model]))
        if model != "m":
            raise NotFound("no")
        return Route(model, self.own, tuple(self.models), self.retries, several=True)

    def took(self, deployment_id: str, took_s: float, output_tokens: int = 0) -> None:
        self.times.append((deployment_id, output_tokens))

    def _rates(self, deployment_id: str) -> Rates:
        return self.prices.get(deployment_id, rates())

    def cost(self, deployment_id: str, at_ms: int) -> Rates | None:
        return self._rates(deployment_id)

    def app_cached(self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int) -> Rates | None:
        return self._rates(deployment_id)

    async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
        self.bodies.append((deployment.id, msgspec.json.decode(body)))
        step = self.steps[deployment.id].pop(0)
        if isinstance(step, UpstreamFault):
            raise step
        return step

    def asked_in_turn(self) -> list[str]:
        return [name for name, _ in self.bodies]

    def header(self, name: bytes) -> bytes:
        value: bytes = dict(self.sent[0]["headers"])[name]
        return value


@pytest.mark.parametrize(
    "failure",
    [REFUSED, SILENT, *[Failing(status) for status in (401, 403, 404, 408, 429, 500, 502, 503, 529)]],
    ids=["refused", "silent", "401", "403", "404", "408", "429", "500", "502", "503", "529"],
)
async def test_another_deployment_answers_when_the_first_one_fails(failure: Step) -> None:
    house = Many({"a": [failure], "b": [good()]})
    await house.run(metadata={"workflow_type": "w", "kept": "k"}, max_tokens=20)
    assert house.asked_in_turn() == ["a", "b"]
    # The second one is asked for the same, by its own name.
    first, second = house.bodies[0][1], house.bodies[1][1]
    assert second == {**first, "model": "up-b"}
    assert second["metadata"] == {"kept": "k"}
    assert (house.header(b"x-mozaiks-model"), house.header(b"x-mozaiks-attempts")) == (b"b", b"2")
    [event] = house.events()
    is_silence = failure is SILENT  # it may have been read, and billed
    assert (event.rest.attempts, event.rest.flags) == (2, ("cost_estimated", "failed:a") if is_silence else ("failed:a",))
    assert event.rest.served_by == ("m", "openai", "b")
    assert await house.wallet() == (1_000_000 - 8 - 100, 0)
    assert "a" in house.health.troubled
    assert house.times == [("b", 10)]
    assert not isinstance(failure, Reply) or failure.closed


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
async def test_what_the_caller_must_mend_is_told_at_once(status: int) -> None:
    house = Many({"a": [Failing(status)], "b": [good()]}, retries=3)
    with pytest.raises(GatewayError) as refused:
        await house.run()
    assert refused.value.status == status
    assert house.asked_in_turn() == ["a"]
    assert house.health.troubled == {}
    assert await house.wallet() == (1_000_000, 0)


async def test_when_all_fail_the_last_ones_error_is_told_and_nothing_is_held() -> None:
    house = Many({"a": [REFUSED], "b": [Failing(500)], "c": [UNREACHABLE]})
    with pytest.raises(GatewayError) as failed:
        await house.run()
    assert failed.value.code == "upstream_timeout"
    assert failed.value.details == {"deployment": "c", "attempts": 3}
    assert sorted(house.asked_in_turn()) == ["a", "b", "c"]
    assert await house.wallet() == (1_000_000, 0)
    assert house.events() == []


async def test_a_dearer_deployment_is_paid_for_before_it_is_asked() -> None:
    held: list[int] = []

    class Looks(Many):
        async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
            [state] = await self.balance.read(PRINCIPAL.shard, ["a/app/ann"])
            assert state is not None
            held.append(state.held_micro)
            return await super().send(deployment, path, body)

    house = Looks({"a": [REFUSED], "b": [good()]})
    house.prices = {"b": rates(7)}
    await house.run(max_tokens=50)
    assert held[1] == 7 * held[0]
    [event] = house.events()
    assert event.rest.held_micro == (held[1],)
    assert event.rest.provider_cost_micro == 7 * (8 + 100)
    assert await house.wallet() == (1_000_000 - 7 * (8 + 100), 0)


async def test_a_deployment_that_the_wallet_does_not_cover_is_passed_over() -> None:
    house = Many({"a": [REFUSED], "dear": [good()], "b": [good()]}, opening=2000)
    house.prices = {"dear": rates(50)}
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["a", "b"]
    assert await house.wallet() == (2000 - 108, 0)
    house = Many({"a": [REFUSED], "dear": [good()]}, opening=2000)
    house.prices = {"dear": rates(50)}
    with pytest.raises(GatewayError) as failed:
        await house.run(max_tokens=50)
    assert failed.value.code == "upstream_error"
    assert await house.wallet() == (2000, 0)


@pytest.mark.parametrize(("fields", "policy"), [({}, HoldPolicy.STRICT), ({"max_tokens": 80}, HoldPolicy.CLAMP)])
async def test_where_the_output_may_be_lowered_a_dearer_one_is_asked_for_less(fields: dict[str, Any], policy: HoldPolicy) -> None:
    house = Many({"a": [REFUSED], "dear": [good()]}, opening=2000)
    house.prices = {"dear": rates(5)}
    app = msgspec.structs.replace(PRINCIPAL.app, hold_policy=policy)
    house.principal = msgspec.structs.replace(PRINCIPAL, app=app)
    await house.run(**fields)
    cap = house.bodies[1][1]["max_tokens"]
    assert 10 < cap < 40
    assert house.header(b"x-mozaiks-output-cap") == b"%d" % cap
    assert await house.wallet() == (2000 - 5 * 108, 0)


async def test_fallback_models_come_when_every_deployment_has_failed_at_their_own_price() -> None:
    house = Many({"a": [REFUSED], "b": [Failing(503)], "x": [Failing(500)], "y": [good()]}, models={"other": ["x", "y"]})
    house.prices = {"x": rates(2), "y": rates(3)}
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["a", "b", "x", "y"]
    [event] = house.events()
    assert event.rest.served_by == ("other", "openai", "y")
    assert event.rest.flags == ("failed:a", "failed:b", "failed:x")
    assert await house.wallet() == (1_000_000 - 3 * 108, 0)


async def test_a_fallback_model_that_the_key_may_not_use_is_not_asked() -> None:
    class Strict(Many):
        def may_use(self, principal: Principal, model: str) -> bool:
            return model in principal.models

    house = Strict({"a": [REFUSED], "x": [good()], "y": [good()]}, models={"other": ["x"], "third": ["y"]})
    house.principal = msgspec.structs.replace(PRINCIPAL, models=("m", "third"))
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["a", "y"]


async def test_a_stream_comes_from_another_deployment_as_well() -> None:
    stream = Reply([delta("hello"), b"data: " + msgspec.json.encode({"choices": [], "usage": USAGE}) + b"\n\ndata: [DONE]\n\n"])
    house = Many({"a": [Failing(500)], "b": [stream]})
    await house.run(stream=True)
    assert b"hello" in house.body()
    assert house.events()[0].rest.served_by == ("m", "openai", "b")
    assert await house.wallet() == (1_000_000 - 108, 0)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("broken", [[SILENT], [b"{"], [b"no answer at all"]])
async def test_an_answer_that_breaks_off_unseen_comes_from_another_deployment(streamed: bool, broken: list[Any]) -> None:
    kind = "text/event-stream" if streamed else "application/json"
    stream = Reply([delta("hello"), b"data: " + msgspec.json.encode({"choices": [], "usage": USAGE}) + b"\n\ndata: [DONE]\n\n"])
    house = Many({"a": [Reply(broken, kind=kind)], "b": [stream if streamed else good()]})
    await house.run(stream=streamed)
    assert b"hello" in house.body()
    [event] = house.events()
    assert (event.rest.attempts, event.rest.status) == (2, "served")
    assert event.rest.flags == ("cost_estimated", "failed:a")
    assert await house.wallet() == (1_000_000 - 108, 0)


async def test_a_stream_that_breaks_off_seen_is_told_as_it_is() -> None:
    house = Many({"a": [Reply([delta("hello"), SILENT])], "b": [good()]})
    await house.run(stream=True)
    assert house.asked_in_turn() == ["a"]
    assert b'"code":"upstream_timeout"' in house.body()
    assert house.events()[0].rest.status == "upstream_broke"


def whole_stream() -> Reply:
    return Reply([delta("hello"), b"data: " + msgspec.json.encode({"choices": [], "usage": USAGE}) + b"\n\ndata: [DONE]\n\n"])


async def test_a_deployment_that_begins_answers_and_breaks_them_off_rests_until_it_has_given_a_whole_one() -> None:
    house = Many({"a": [Reply([delta("hello"), SILENT]) for _ in range(FAILURES)], "b": []})
    for number in range(FAILURES):
        assert house.health.may_try("a", "creator"), number
        house.name = f"req_{number}"
        await house.run(stream=True)
    assert not house.health.may_try("a", "creator")
    house.health.served("a")  # it begins one more
    assert not house.health.may_try("a", "creator")
    house.steps["a"] = [whole_stream()]
    house.name = "req_whole"
    await house.run(stream=True)
    assert house.health.troubled == {}
    assert house.health.counts == {("a", "failed"): FAILURES, ("a", "rests"): 1, ("a", "recoveries"): 1}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}),
        (400, {"message": "Billing hard limit has been reached", "code": "billing_hard_limit_reached"}),
        (400, {"type": "invalid_request_error", "message": "Your credit balance is too low to access the Anthropic API."}),
        (402, {"message": "Insufficient Balance"}),
    ],
)
async def test_where_the_gateways_own_account_is_empty_another_deployment_is_asked(status: int, error: dict[str, Any]) -> None:
    said = msgspec.json.encode({"error": error})
    house = Many({"a": [Failing(status, said)], "b": [good()]})
    await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["a", "b"]
    assert not house.health.may_try("a")
    house = Many({"a": [Failing(status, said)]})
    with pytest.raises(GatewayError) as empty:
        await house.run(max_tokens=50)
    assert (empty.value.status, empty.value.code) == (502, "upstream_error")  # neither waiting nor paying helps
    assert str(error["message"]) not in empty.value.message


def test_a_path_that_is_not_there_says_nothing_about_a_model() -> None:
    for body in (b"", b'{"detail":"Not Found"}', b"<html>404</html>"):
        assert refusals.status_meant(404, body, is_chat=False) == 405
        assert refusals.status_meant(404, body, is_chat=True) == 404  # what does not chat at all is of no use
    for body in (b'{"error":{"message":"The model `x` does not exist"}}', b'{"error":{"code":"DeploymentNotFound"}}'):
        assert refusals.status_meant(404, body, is_chat=False) == 404


async def test_who_is_the_only_one_to_ask_is_never_left_alone() -> None:
    house = House(REFUSED)
    for number in range(FAILURES + 1):
        house.name = f"req_{number}"
        with pytest.raises(GatewayError):
            await house.run(max_tokens=50)
    assert house.health.troubled == {}
    assert house.health.counts == {(house.deployment.id, "failed"): FAILURES + 1}


async def pauses_of(house: Many, pauses: list[float] | None = None, **fields: Any) -> list[float]:
    pauses = [] if pauses is None else pauses

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    exchange = house.exchange
    exchange._attempts = Attempts(
        house, house, house, house.balance, house, exchange._counter, exchange._release, 60_000, pause, lambda: 1.0
    )
    await house.run(**fields)
    return pauses


async def test_the_last_one_is_asked_again_after_pauses_that_grow() -> None:
    house = Many({"a": [Failing(500), Failing(500), Failing(500), good()]}, retries=3)
    assert await pauses_of(house) == [0.5, 1.0, 2.0]
    assert house.events()[0].rest.attempts == 4
    assert await house.wallet() == (1_000_000 - 108, 0)


async def test_a_pause_is_as_long_as_the_provider_asks_and_not_for_ever() -> None:
    house = Many({"a": [Failing(429, retry_after="3"), good()]}, retries=3)
    assert await pauses_of(house) == [3.0]
    house = Many({"a": [Failing(429, retry_after="3000"), good()]}, retries=3)
    with pytest.raises(GatewayError) as limited:
        await pauses_of(house)
    assert (limited.value.status, limited.value.retry_after_s) == (429, 3000)
    assert house.asked_in_turn() == ["a"]
    assert await house.wallet() == (1_000_000, 0)


async def test_a_hold_that_was_swept_meanwhile_pays_for_no_dearer_one() -> None:
    balance = MemoryBalance()

    class Swept(Many):
        async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
            [ticket] = self.exchange.in_flight.values()
            await balance.release(ticket.hold)
            return await super().send(deployment, path, body)

    house = Swept({"a": [REFUSED], "b": [good()]}, balance=balance)
    house.prices = {"b": rates(2)}
    with pytest.raises(GatewayError):
        await house.run(max_tokens=50)
    assert house.asked_in_turn() == ["a"]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_deployment_rests_after_failures_in_a_row_and_is_then_tried_by_one() -> None:
    clock = Clock()
    health = Health(clock)
    for _ in range(FAILURES - 1):
        health.failed("a")
        assert health.may_try("a")
    health.served("a")  # the count begins anew
    for _ in range(FAILURES):
        assert health.may_try("a")
        health.failed("a")
    assert not health.may_try("a")
    assert health.resting() == {"a": REST_S}
    clock.now += REST_S + 0.1
    assert health.may_try("a")
    assert health.may_try("a")  # to ask is not to try
    health.asked("a")
    assert not health.may_try("a")  # one probe at a time
    health.failed("a")
    clock.now += REST_S + 0.1
    assert not health.may_try("a")  # twice as long now
    clock.now += REST_S
    assert health.may_try("a")
    health.served("a")
    assert health.troubled == {}
    assert health.resting() == {}
    assert health.may_try("a")


def test_a_request_that_was_refused_before_it_was_sent_is_no_probe() -> None:
    clock = Clock()
    health = Health(clock)
    health.failed("a", 30.0)
    clock.now += 31
    health.chosen("a")
    assert not health.may_try("a")  # somebody is about to see
    clock.now += 1  # and was refused
    assert health.may_try("a")
    health.asked("a")
    health.said_nothing("a")  # its request was malformed, say: that tells nothing
    assert health.may_try("a")


def two_deployments(count: int) -> Routing:
    places = [Deployment(name, "openai", "m", "http://x/v1", "", weight=1) for name in ("a", "b")]
    return Routing([ModelEntry("m", tuple(places))], random.Random(count))


def test_a_deployment_whose_rest_is_over_is_no_longer_left_alone_by_those_that_drew_another() -> None:
    seed = 5
    routing = two_deployments(seed)
    clock = Clock()
    routing.health = Health(clock)
    for _ in range(FAILURES):
        routing.health.failed("a")
    clock.now += REST_S + 1
    firsts = []
    for _ in range(40):  # both are drawn, and nobody is refused or sent: as soon as "a" is, it is asked
        clock.now += 0.001
        firsts.append(routing.route("m").deployments[0].id)
        if firsts[-1] == "a":
            break
    assert "b" in firsts, f"seed {seed} draws another one first"
    assert firsts[-1] == "a", f"seed {seed}: {firsts}"


def test_names_that_clients_make_up_fill_no_memory() -> None:
    health = Health(Clock())
    for number in range(TROUBLED_MAX + 50):
        health.failed(f"pattern/openai/0/{number}", 60.0)
    assert len(health.troubled) == TROUBLED_MAX
    assert not health.may_try(f"pattern/openai/0/{TROUBLED_MAX + 49}")


def test_a_rest_that_a_provider_asks_for_begins_at_once_and_has_an_end() -> None:
    clock = Clock()
    health = Health(clock)
    health.failed("a", 30.0)
    clock.now += 29
    assert not health.may_try("a")
    clock.now += 2
    assert health.may_try("a")
    for _ in range(20):
        health.failed("a", 30.0)
    clock.now += REST_S_MAX + 1
    assert health.may_try("a")
    health.asked("a")
    assert not health.may_try("a")
    clock.now += 61  # a probe that never came back is not waited for
    assert health.may_try("a")

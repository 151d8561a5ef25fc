"""What one caller's requests provoke rests a shared deployment for nobody else; an account's trouble rests it for all."""

from typing import Any

import msgspec
import pytest

from gateway.core.errors import GatewayError
from gateway.core.words import CostPolicy
from gateway.providers.health import FAILURES, REST_S, TOLD_S_MAX
from gateway.providers.model import Deployment, ModelEntry, Strategy
from gateway.providers.routing import Routing
from gateway.proxy.blame import Blame, blame
from tests.proxy.test_attempts import REFUSED, SILENT, Failing, Many, Step, good, whole_stream
from tests.proxy.test_exchange import PRINCIPAL, Reply, delta


def said(message: str, code: Any = None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "code": code}})


FLAGGED = said("Your chosen model requires moderation and your input was flagged", 403)
NO_TOOLS = said("No endpoints found that support tool use", 404)
FEWER = said("This request requires more credits, or fewer max_tokens. You requested up to 900 tokens", 402)
TOO_LARGE = said("Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 50000.", "rate_limit_exceeded")
LONG_CONTEXT = said("This request would exceed your long context rate limit")
FILTERED = b'data: {"error": {"message": "content filter", "code": 403}}\n\n'


def creator(name: str, policy: CostPolicy = CostPolicy.PLATFORM_PAYS) -> Any:
    app = msgspec.structs.replace(PRINCIPAL.app, user_id=name, cost_policy=policy)
    return msgspec.structs.replace(PRINCIPAL, app=app)


async def ask(house: Many, who: str, *, streamed: bool = False, policy: CostPolicy = CostPolicy.PLATFORM_PAYS) -> None:
    house.principal = creator(who, policy)
    house.name = f"req_{len(house.bodies)}"
    house.steps["b"] = [whole_stream() if streamed else good()]
    await house.run(max_tokens=50, stream=streamed)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((400, said("no such field")), Blame.CALLER),
        ((422, said("no such field")), Blame.CALLER),
        ((403, FLAGGED), Blame.REFUSAL),
        ((404, NO_TOOLS), Blame.REFUSAL),
        ((402, FEWER), Blame.REFUSAL),
        ((402, said("Insufficient Balance")), Blame.ACCOUNT),
        ((401, said("Incorrect API key provided")), Blame.ACCOUNT),
        ((429, said("You exceeded your current quota", "insufficient_quota")), Blame.ACCOUNT),
        ((404, said("The model `x` does not exist or you do not have access to it.", "model_not_found")), Blame.ACCOUNT),
        ((404, said("The model `x` does not exist.", 404)), Blame.ACCOUNT),
        ((429, TOO_LARGE), Blame.REQUEST),
        ((429, LONG_CONTEXT), Blame.REQUEST),
        ((429, said("This request would exceed your organization's rate limit of 30,000 input tokens per minute")), Blame.RATE),
        ((405, b""), Blame.REQUEST),
        ((503, b""), Blame.FAILURE),
        ((408, b""), Blame.FAILURE),
    ],
)
def test_whose_trouble_an_error_answer_is(answer: tuple[int, bytes], expected: Blame) -> None:
    assert blame(*answer, is_chat=True) is expected


@pytest.mark.parametrize(
    ("status", "body", "retry_after"),
    [(403, FLAGGED, ""), (404, NO_TOOLS, ""), (402, FEWER, ""), (429, TOO_LARGE, ""), (429, LONG_CONTEXT, "3600")],
    ids=["403", "404", "402", "429-large", "429-long"],
)
async def test_a_refused_request_moves_on_alone_however_often_one_creator_sends_it(
    status: int, body: bytes, retry_after: str
) -> None:
    house = Many({"a": [Failing(status, body, retry_after=retry_after) for _ in range(FAILURES + 2)], "b": []})
    for _ in range(FAILURES + 2):
        await ask(house, "eve")
    assert house.asked_in_turn() == ["a", "b"] * (FAILURES + 2)
    assert house.health.may_try("a", "ann")
    assert house.health.may_try("a", "eve")


@pytest.mark.parametrize(("status", "body"), [(403, FLAGGED), (404, NO_TOOLS), (402, FEWER)], ids=["403", "404", "402"])
async def test_what_requests_of_several_creators_meet_with_no_answer_in_between_rests_the_deployment(
    status: int, body: bytes
) -> None:
    house = Many({"a": [Failing(status, body) for _ in range(FAILURES)], "b": []})
    for who in ("eve", "eve", "ann"):
        assert house.health.may_try("a", "bob")
        await ask(house, who)
    assert not house.health.may_try("a", "bob")
    house = Many({"a": [Failing(status, body), Failing(status, body), good(), Failing(status, body)], "b": []})
    for who in ("eve", "ann", "ann", "ann"):
        await ask(house, who)
    assert house.health.may_try("a", "bob")


def slow() -> Step:
    return SILENT


def filtered() -> Step:
    return Reply([FILTERED])


def broken() -> Step:
    return Reply([delta("hello"), SILENT])


@pytest.mark.parametrize(
    ("streamed", "fails"),
    [(False, slow), (False, lambda: Failing(503)), (False, lambda: Reply([b"{"])), (True, filtered), (True, broken)],
    ids=["slow", "503", "no-JSON", "content-filter", "breaks-off"],
)
async def test_what_fails_for_one_creator_rests_for_that_one_until_another_has_seen_it(streamed: bool, fails: Any) -> None:
    house = Many({"a": [fails() for _ in range(FAILURES + 1)], "b": []})
    for _ in range(FAILURES):
        assert house.health.may_try("a", "eve")
        await ask(house, "eve", streamed=streamed)
    assert not house.health.may_try("a", "eve")
    assert house.health.may_try("a", "ann")
    assert 0 < house.health.resting()["a"] <= REST_S
    await ask(house, "ann", streamed=streamed)
    assert not house.health.may_try("a", "bob")


async def test_one_that_cannot_be_reached_rests_for_all() -> None:
    house = Many({"a": [REFUSED] * FAILURES, "b": []})
    for _ in range(FAILURES):
        await ask(house, "eve")
    assert not house.health.may_try("a", "ann")


async def test_an_account_over_its_rate_rests_as_long_as_it_says_and_no_longer() -> None:
    house = Many({"a": [Failing(429, said("Rate limit reached"), retry_after="7")], "b": []})
    await ask(house, "eve")
    assert 6 < house.health.resting()["a"] <= 7
    house = Many({"a": [Failing(429, said("Rate limit reached"), retry_after="3600")] * 2, "b": []})
    await ask(house, "eve")
    assert TOLD_S_MAX - 1 < house.health.resting()["a"] <= TOLD_S_MAX


@pytest.mark.parametrize("failing", [REFUSED, SILENT, *[Failing(status) for status in (401, 402, 403, 429, 500, 503)]])
async def test_what_becomes_of_a_creators_own_key_is_nobody_elses_trouble(failing: Step) -> None:
    house = Many({"a": [failing] * FAILURES, "b": []})
    for _ in range(FAILURES):
        await ask(house, "eve", policy=CostPolicy.OWN_KEYS)
    assert house.asked_in_turn() == ["a", "b"] * FAILURES
    house.steps["a"] = [SILENT]
    await ask(house, "ann")  # is the first to see anything of it
    assert house.health.may_try("a", "bob")


async def test_a_creators_own_key_that_works_says_nothing_about_the_operators() -> None:
    house = Many({"a": [Failing(401), good()], "b": []})
    await ask(house, "ann")
    assert not house.health.may_try("a", "bob")
    await ask(house, "eve", policy=CostPolicy.OWN_KEYS)
    assert house.asked_in_turn() == ["a", "b", "a"]
    assert not house.health.may_try("a", "bob")


def quickest(*times: tuple[str, float, int]) -> str:
    places = [Deployment(name, "openai", "m", "http://x/v1", "") for name in ("cheap", "dear")]
    routing = Routing([ModelEntry("m", tuple(places), strategy=Strategy.LATENCY)])
    for time in times:
        routing.took(*time)
    routing._random = lambda: 1.0  # no look around
    return routing.route("m").deployments[0].id


async def test_long_answers_of_one_user_do_not_make_a_deployment_slow() -> None:
    usual = [("cheap", 0.2, 10), ("dear", 1.0, 10)] * 3
    assert quickest(*usual) == "cheap"
    assert quickest(*usual, ("cheap", 40.0, 4000), ("cheap", 40.0, 4000)) == "cheap"
    assert quickest(*usual, ("cheap", 60.0, 10), ("cheap", 60.0, 10)) == "cheap"  # two that hung do not, either
    assert quickest(*usual, *[("cheap", 4.0, 10)] * 20) == "dear"


async def test_a_whole_answer_is_compared_by_what_was_made_and_a_stream_by_its_beginning() -> None:
    house = Many({"a": [good(), whole_stream()], "b": []})
    await ask(house, "ann")
    await ask(house, "ann", streamed=True)
    await ask_own(house)
    assert house.times == [("a", 10), ("a", 0)]


async def ask_own(house: Many) -> None:
    house.steps["a"] = [good()]
    await ask(house, "eve", policy=CostPolicy.OWN_KEYS)


async def test_a_refusal_that_nobody_else_stands_in_for_is_told() -> None:
    house = Many({"a": [Failing(429, TOO_LARGE)]})
    with pytest.raises(GatewayError) as refused:
        await house.run(max_tokens=50)
    assert refused.value.status == 429

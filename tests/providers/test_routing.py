"""Routing by exact names, patterns and weights; adapters by provider; moving on only when nothing was sent."""

import collections
import random
import time
from typing import Any

import msgspec
import pytest

from gateway.core.errors import NotFound
from gateway.providers.model import Deployment, Headers, ModelEntry, Reply, UpstreamFault
from gateway.providers.routing import Routing, Upstreams


def deployment(number: int, model: str = "m", weight: int = 1, provider: str = "openai") -> Deployment:
    return Deployment(id=f"d/{number}", provider=provider, model=model, api_base="http://x/v1", api_key="", weight=weight)


def entry(name: str, *deployments: Deployment) -> ModelEntry:
    return ModelEntry(name=name, deployments=deployments)


def test_an_exact_name_wins_over_patterns_and_longer_patterns_over_shorter() -> None:
    routing = Routing(
        [
            entry("*", deployment(0, "*")),
            entry("gpt-*", deployment(1, "*")),
            entry("gpt-4*-mini", deployment(2, "fixed")),
            entry("gpt-4o", deployment(3)),
        ]
    )
    assert routing.route("gpt-4o").deployments[0].id == "d/3"
    assert routing.route("gpt-4o-mini").deployments[0].id == "d/2"
    assert routing.route("gpt-5").deployments[0].id == "d/1=gpt-5"
    assert routing.route("claude").deployments[0].id == "d/0=claude"


def test_a_star_deployment_is_asked_for_the_name_that_the_client_gave() -> None:
    routing = Routing([entry("gpt-*", deployment(1, "*"), deployment(2, "other"))])
    assert {each.model for each in routing.route("gpt-5").deployments} == {"gpt-5", "other"}
    assert routing.route("gpt-5").model == "gpt-5"


def test_sizes_fill_in_only_what_the_configuration_leaves_open() -> None:
    known = msgspec.structs.replace(deployment(1), output_tokens_max=7)
    entries = [entry("m", known), entry("gpt-*", deployment(2, "*"))]
    routing = Routing(entries, sizes=lambda provider, model: (len(model), 9, True))
    first, second = routing.route("m").deployments[0], routing.route("gpt-5").deployments[0]
    assert (first.input_tokens_max, first.output_tokens_max) == (1, 7)
    assert (second.input_tokens_max, second.output_tokens_max) == (5, 9)


def test_other_characters_of_a_pattern_mean_themselves() -> None:
    routing = Routing([entry("a.b*", deployment(1, "*"))])
    routing.route("a.bc")
    with pytest.raises(NotFound):
        routing.route("axbc")


def test_an_unknown_model_is_model_not_found_on_param_model() -> None:
    with pytest.raises(NotFound) as missing:
        Routing([entry("gpt-*", deployment(1, "*"))]).route("xgpt-4")
    assert (missing.value.code, missing.value.param, missing.value.status) == ("model_not_found", "model", 404)


def test_a_very_long_name_is_refused_and_not_echoed_whole() -> None:
    with pytest.raises(NotFound) as missing:
        Routing([entry("*", deployment(1, "*"))]).route("x" * 1_000_000)
    assert len(missing.value.message) < 400


def test_a_pattern_with_many_stars_stays_fast() -> None:
    routing = Routing([entry("a" + "*" * 60 + "b", deployment(1, "*"))])
    started = time.perf_counter()
    with pytest.raises(NotFound):
        routing.route("a" * 200)
    assert time.perf_counter() - started < 0.1


def test_the_first_choice_follows_the_weights_and_every_deployment_stays_in_the_order() -> None:
    seed = 7
    routing = Routing([entry("m", deployment(1, weight=1), deployment(2, weight=3))], random.Random(seed))
    firsts: collections.Counter[str] = collections.Counter()
    for _ in range(20_000):
        order = routing.route("m").deployments
        assert {each.id for each in order} == {"d/1", "d/2"}
        firsts[order[0].id] += 1
    assert 0.74 < firsts["d/2"] / 20_000 < 0.76, f"seed {seed}: {firsts}"


def test_models_lists_names_without_patterns_in_order() -> None:
    routing = Routing([entry("z", deployment(1)), entry("a-*", deployment(2, "*")), entry("b", deployment(3))])
    assert routing.models() == ["z", "b"]
    assert [each.id for each in routing.deployments()] == ["d/1", "d/2", "d/3"]


def test_names_that_clients_make_up_do_not_grow_memory_without_bound() -> None:
    routing = Routing([entry("*", deployment(1, "*"))])
    for number in range(25_000):
        routing.route(f"m{number}")
    assert len(routing._found) <= 10_000


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a", deployment(1)), entry("a", deployment(2))],
        [entry("a")],
        [entry("", deployment(1))],
        [entry("a", deployment(1)), entry("b", deployment(1))],
        [entry("a", deployment(1, weight=0))],
        [entry("a", deployment(1, "*"))],
    ],
)
def test_a_configuration_that_cannot_work_is_refused(entries: list[ModelEntry]) -> None:
    with pytest.raises(ValueError):
        Routing(entries)


class Recorder:
    """An upstream that fails as told and remembers what it was sent."""

    def __init__(self, *faults: UpstreamFault | None) -> None:
        self.faults = list(faults)
        self.sent: list[str] = []
        self.closed = 0

    async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
        self.sent.append(deployment.id)
        fault = self.faults.pop(0)
        if fault is not None:
            raise fault
        reply: Any = object()
        return reply  # type: ignore[no-any-return]

    async def close(self) -> None:
        self.closed += 1


async def test_upstreams_sends_to_the_adapter_of_the_provider_and_closes_each_once() -> None:
    default, demo = Recorder(None, None), Recorder(None)
    upstreams = Upstreams(default, {"demo": demo, "other": default})
    await upstreams.send(deployment(1), "/x", b"")
    await upstreams.send(deployment(2, provider="demo"), "/x", b"")
    await upstreams.send(deployment(3, provider="other"), "/x", b"")
    await upstreams.close()
    assert (default.sent, demo.sent) == (["d/1", "d/3"], ["d/2"])
    assert (default.closed, demo.closed) == (1, 1)
    assert upstreams.of(deployment(2, provider="demo")) is demo

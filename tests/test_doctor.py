"""What `gateway doctor` says of a store in this or that condition."""

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.balance.condition import Condition
from gateway.doctor import Verdict, _provider, _server, _worker
from gateway.providers.model import Deployment

WELL = Condition("7.0.15", "noeviction", True, "everysec", "master", 10, 0, 3, 500)


@pytest.mark.parametrize(
    ("changed", "verdict", "says"),
    [
        ({}, Verdict.OK, "Version 7.0.15 serves (append-only file, fsync everysec)."),
        ({"role": "slave"}, Verdict.PROBLEM, "It is a slave"),
        ({"eviction": "allkeys-lru", "limit_bytes": 1000}, Verdict.PROBLEM, "It evicts keys (allkeys-lru)"),
        ({"eviction": "allkeys-lru"}, Verdict.OK, "serves"),  # without a limit nothing is evicted
        ({"used_bytes": 900, "limit_bytes": 1000}, Verdict.WARNING, "90 % of its memory limit"),
        ({"is_append_only": False, "fsync": ""}, Verdict.WARNING, "no append-only file"),
        ({"clock_ahead_ms": 4200}, Verdict.WARNING, "+4.2 s"),
        ({"clock_ahead_ms": -2500}, Verdict.WARNING, "-2.5 s"),
    ],
)
def test_a_server_that_is_set_up_otherwise_is_told_in_a_sentence(changed: dict[str, Any], verdict: Verdict, says: str) -> None:
    [found] = _server(replace(WELL, **changed))
    assert found.verdict == verdict
    assert says in found.says


@pytest.mark.parametrize(
    ("seen_ms", "waiting", "verdict"),
    [(500, 0, Verdict.OK), (500, 200_000, Verdict.WARNING), (None, 0, Verdict.WARNING), (None, 1, Verdict.PROBLEM)],
)
def test_a_worker_that_is_missing_is_a_problem_once_something_waits(seen_ms: int | None, waiting: int, verdict: Verdict) -> None:
    [found] = _worker(replace(WELL, worker_seen_ms=seen_ms), waiting)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (200, Verdict.OK), (404, Verdict.OK), (401, Verdict.PROBLEM), (403, Verdict.PROBLEM), (500, Verdict.WARNING),
        (302, Verdict.WARNING), ("Connection refused", Verdict.PROBLEM),
    ],
)  # fmt: skip
def test_a_providers_answer_is_judged_by_what_it_means_for_requests(answer: int | str, verdict: Verdict) -> None:
    deployment = Deployment("m/openai/0", "openai", "m", "http://10.1.2.3/v1", "sk-made-up")
    found = _provider(deployment, answer)
    assert found.verdict == verdict
    assert "10.1.2.3" not in found.says

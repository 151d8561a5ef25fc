"""What `gateway doctor` says of a store in this or that condition."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec.structs import replace

from gateway.balance.condition import Condition
from gateway.compose import Services, setting_names
from gateway.core.clock import now_ms
from gateway.doctor import Verdict, _clock, _configuration, _prices, _provider, _server, _web, _worker
from gateway.metrics import Snapshot, folder_of
from gateway.providers.model import Deployment
from gateway.settings import load

WELL = Condition("7.0.15", "noeviction", True, "everysec", "master", 10, 0, 3, 1)


@pytest.mark.parametrize(
    ("changed", "verdict", "says"),
    [
        ({}, Verdict.OK, "Version 7.0.15 serves (append-only file, fsync everysec)."),
        ({"role": "slave"}, Verdict.PROBLEM, "It is a slave"),
        ({"eviction": "allkeys-lru", "limit_bytes": 1000}, Verdict.PROBLEM, "It evicts keys (allkeys-lru)"),
        ({"eviction": "allkeys-lru"}, Verdict.OK, "serves"),  # without a limit nothing is evicted
        ({"used_bytes": 900, "limit_bytes": 1000}, Verdict.WARNING, "90 % of its memory limit"),
        ({"is_append_only": False, "fsync": ""}, Verdict.WARNING, "no append-only file"),
    ],
)
def test_a_server_that_is_set_up_otherwise_is_told_in_a_sentence(changed: dict[str, Any], verdict: Verdict, says: str) -> None:
    [found] = _server(replace(WELL, **changed))
    assert found.verdict == verdict
    assert says in found.says


@pytest.mark.parametrize(
    ("workers", "waiting", "verdict", "says"),
    [
        (1, 0, Verdict.OK, "One lives; 0"), (3, 7, Verdict.OK, "3 live; 7"), (1, 200_000, Verdict.WARNING, "200000"),
        (0, 0, Verdict.WARNING, "None"), (0, 1, Verdict.PROBLEM, "1 usage events wait"),
    ],
)  # fmt: skip
def test_a_missing_worker_is_a_problem_once_something_waits(workers: int, waiting: int, verdict: Verdict, says: str) -> None:
    [found] = _worker(replace(WELL, workers=workers), waiting)
    assert found.verdict == verdict
    assert says in found.says


@pytest.mark.parametrize(
    ("ahead_ms", "verdict", "says"),
    [
        (4200, Verdict.WARNING, "+4.2 s"), (-2500, Verdict.WARNING, "-2.5 s"), (-1400, Verdict.OK, "-1.4 s"),
        (None, Verdict.OK, "It is this machine's."),
    ],
)  # fmt: skip
def test_clocks_that_are_apart_are_told(ahead_ms: int | None, verdict: Verdict, says: str) -> None:
    found = _clock("clock of the database", ahead_ms)
    assert found.verdict == verdict
    assert says in found.says


async def test_processes_that_run_with_another_configuration_are_told_while_they_live(tmp_path: Path) -> None:
    settings = load({"MOZAIKS_DATA_DIR": str(tmp_path), "MOZAIKS_PORT": "4711"})
    services = Services(settings, "redis://127.0.0.1:1")
    assert _configuration(services) == []
    assert _web(services)[1].says == "None on port 4711 of this machine gives a sign of life: `gateway serve` does not run."
    folder_of(settings).mkdir(parents=True)

    def writes(pid: int, models: str, age_ms: int = 0, **changed: str) -> None:
        snapshot = Snapshot(now_ms(services.clock) - age_ms, {}, {}, models, {**setting_names(settings), **changed})
        (folder_of(settings) / f"{pid}.json").write_bytes(msgspec.json.encode(snapshot))

    writes(1, services.models_name)
    writes(2, "another", age_ms=60_000)  # it is gone
    assert [finding.verdict for finding in _configuration(services)] == [Verdict.OK]
    writes(3, "another")
    [finding] = _configuration(services)
    assert finding.verdict == Verdict.WARNING
    assert "1 of 2 web processes" in finding.says
    services.reconfigure(load({"MOZAIKS_DATA_DIR": str(tmp_path), "OPENAI_API_KEY": "sk-made-up"}))
    assert "2 of 2 web processes" in _configuration(services)[0].says
    assert _web(services)[1].says == "2 gave a sign of life."
    writes(3, services.models_name, workers="another")
    writes(1, services.models_name)
    [finding] = _configuration(services)
    assert finding.verdict == Verdict.WARNING
    assert finding.says.startswith("MOZAIKS_WORKERS is another than what runs")
    elsewhere = Services(load({"MOZAIKS_DATA_DIR": str(tmp_path), "MOZAIKS_PORT": "4712"}), "redis://127.0.0.1:1")
    assert _web(elsewhere)[1].verdict == Verdict.WARNING
    assert "but on 4711" in _web(elsewhere)[1].says


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


@pytest.mark.parametrize(("answer", "verdict"), [(200, Verdict.OK), (404, Verdict.OK), (401, Verdict.PROBLEM)])
def test_of_a_key_that_is_not_there_nothing_is_said_but_that_it_is_wanted(answer: int, verdict: Verdict) -> None:
    found = _provider(Deployment("m/openai/0", "openai", "m", "http://10.1.2.3/v1", ""), answer)
    assert (found.verdict, "key" in found.says) == (verdict, answer == 401)


def test_what_only_reads_needs_an_input_price_and_what_has_none_is_told_as_it_is(tmp_path: Path) -> None:
    deployment = {"model": "m", "api_base": "http://127.0.0.1:1/v1"}
    models: list[dict[str, Any]] = [
        {"name": "omni-moderation-latest", "deployments": [{**deployment, "model": "omni-moderation-latest"}]},
        {"name": "own-moderation", "deployments": [{**deployment, "speaks": ["moderations"]}]},
    ]
    unpriced = {"name": "no-price", "deployments": [deployment]}
    path = tmp_path / "gateway.yaml"
    env = {"MOZAIKS_DATA_DIR": str(tmp_path), "MOZAIKS_CONFIG": str(path)}
    path.write_text(yaml.safe_dump({"models": [*[{**model, "prices": {"input": "0"}} for model in models], unpriced]}))
    [finding] = _prices(Services(load(env), "redis://127.0.0.1:1"))
    assert finding.verdict == Verdict.PROBLEM
    assert finding.says.startswith("no-price/openai/0 has no price: requests for no-price are refused, but of apps")
    assert "analytics_only, which measure them" in finding.says
    path.write_text(yaml.safe_dump({"models": [{**unpriced, "prices": {"input": "0"}}]}))
    with pytest.raises(ValueError, match="both be named"):  # it may chat
        Services(load(env), "redis://127.0.0.1:1")

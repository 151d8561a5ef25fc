"""A gateway of two web processes as its operator sees it: one scrape for both, and a configuration that changes under it."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.path.conftest import OPERATOR, PROGRAM, Stack, start_gateway

SCRAPER = "scrape-token-made-up-for-tests"
BODY = {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 20}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, upstream_url: str) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("two")
    stack = start_gateway(folder, upstream_url, program=PROGRAM, MOZAIKS_WORKERS="2", MOZAIKS_METRICS_TOKEN=SCRAPER)
    try:
        yield stack
    finally:
        stack.admin.close()
        stack.process.stop()


@pytest.fixture(scope="module")
def key(two: Stack) -> str:
    app = two.app(enforcement="analytics_only")
    return two.key(app)


# Each request has a connection of its own, so either process may get it.
HTTP = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=60)


def chat(stack: Stack, key: str, model: str, end_user: str = "ann", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": end_user}
    return HTTP.post(stack.url + "/v1/chat/completions", json={"model": model, **BODY, **fields}, headers=headers)


def scraped(stack: Stack) -> dict[str, float]:
    answer = HTTP.get(stack.url + "/metrics", headers={"authorization": f"Bearer {SCRAPER}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    rows = [line for line in answer.text.splitlines() if not line.startswith("#")]
    for row in rows:
        assert re.fullmatch(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? \d+(\.\d+)?', row), row
    return {sample: float(value) for sample, value in (row.rsplit(" ", 1) for row in rows)}


def eventually(holds: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
    return found


def requests_of(model: str, status: int = 200) -> str:
    return f'mozaiks_requests_total{{surface="chat/completions",model="{model}",status="{status}"}}'


def test_only_who_has_a_token_reads_metrics(two: Stack) -> None:
    assert HTTP.get(two.url + "/metrics").status_code == 401
    assert HTTP.get(two.url + "/metrics", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert HTTP.get(two.url + "/metrics", headers={"authorization": f"Bearer {OPERATOR}"}).status_code == 200


def test_one_scrape_has_the_numbers_of_all_processes_and_of_one_that_died(two: Stack, key: str) -> None:
    for _ in range(20):
        assert chat(two, key, "ok:tokens=3").status_code == 200
    assert chat(two, key, "status:400").status_code == 400
    assert chat(two, key, "unreachable-model").status_code == 502
    name = requests_of("ok:tokens=3")
    # Each tells of itself once a second, also who was asked for nothing.
    found = eventually(lambda: (now := scraped(two)).get(name) == 20 and now["mozaiks_web_processes"] == 2 and now)
    assert found[requests_of("status:400", 400)] == found[requests_of("unreachable-model", 502)] == 1
    labels = '{surface="chat/completions",model="ok:tokens=3"'
    assert found[f'mozaiks_request_seconds_bucket{labels},le="+Inf"}}'] == 20
    assert found[f"mozaiks_first_byte_seconds_count{labels}}}"] == 20
    assert found['mozaiks_attempts_total{deployment="*/openai/0=ok:tokens=3",outcome="served"}'] == 20
    assert found['mozaiks_attempts_total{deployment="unreachable-model/openai/0",outcome="failed"}'] == 1
    assert (found["mozaiks_web_processes"], found["mozaiks_balance_store_up"], found["mozaiks_database_up"]) == (2, 1, 1)
    assert found["mozaiks_holds_in_flight"] == found["mozaiks_requests_in_flight"] == 0
    assert {"mozaiks_events_waiting", "mozaiks_drain_lag_seconds"} < found.keys()
    written = list((two.data_dir / "metrics").glob("*/*.json"))
    assert len(written) == 2
    assert {path.stat().st_mode & 0o077 for path in written} == {0}
    time.sleep(1.1)  # both have written since the last request
    os.kill(int(written[0].stem), signal.SIGKILL)
    eventually(lambda: len(list((two.data_dir / "metrics").glob("*/*.json"))) == 3)  # the one that took its place
    assert scraped(two)[name] == 20


def test_a_deployment_that_rests_shows_and_so_does_its_recovery(two: Stack, key: str) -> None:
    for _ in range(8):  # either process makes up its own mind
        assert chat(two, key, "backed-model").status_code == 200
    resting = 'mozaiks_deployment_resting{deployment="backed-model/openai/0"}'
    found = eventually(lambda: (now := scraped(two)).get(resting) and now)
    assert found['mozaiks_deployment_rests_total{deployment="backed-model/openai/0"}'] >= 1


# ---- the configuration -----------------------------------------------------------------------


def config_of(stack: Stack) -> Path:
    return Path(stack.env["MOZAIKS_CONFIG"])


def edit(stack: Stack, change: Callable[[dict[str, Any]], None]) -> None:
    path = config_of(stack)
    config = yaml.safe_load(path.read_text())
    change(config)
    path.with_suffix(".new").write_text(yaml.safe_dump(config))
    path.with_suffix(".new").replace(path)


def add_model(name: str, answers: str = "ok:tokens=5") -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        [like] = [model for model in config["models"] if model["name"] == "flat-model"]
        deployment = {**like["deployments"][0], "model": answers}
        config["models"] = [model for model in config["models"] if model["name"] not in ("*", name)]
        config["models"].append({"name": name, "deployments": [deployment], "prices": like["prices"]})

    return change


def everywhere(stack: Stack, key: str, model: str, status: int) -> bool:
    """Whether twelve connections in a row, which both processes share, get this status."""
    return all(chat(stack, key, model).status_code == status for _ in range(12))


def test_sighup_takes_a_new_configuration_in_every_process_and_requests_in_flight_end_on_the_old(two: Stack, key: str) -> None:
    with HTTP.stream(
        "POST", two.url + "/v1/chat/completions", json={"model": "patient-stream", **BODY, "max_tokens": 60, "stream": True},
        headers={"authorization": f"Bearer {key}", "x-platform-user-id": "ann"},
    ) as stream:  # fmt: skip
        assert stream.status_code == 200
        lines = stream.iter_lines()
        next(lines)

        def change(config: dict[str, Any]) -> None:
            add_model("added-model")(config)
            config["models"] = [model for model in config["models"] if model["name"] != "patient-stream"]

        edit(two, change)
        two.process.child.send_signal(signal.SIGHUP)
        eventually(lambda: everywhere(two, key, "ok", 404))  # the pattern is gone
        assert everywhere(two, key, "added-model", 200)
        assert chat(two, key, "patient-stream").status_code == 404  # nothing is called so any more
        assert "[DONE]" in "".join(lines)
    assert two.process.child.poll() is None
    assert "the configuration was read again" in two.process.log.read_text()


def test_a_bad_file_is_never_taken_and_one_that_is_written_is_taken_without_a_signal(two: Stack, key: str) -> None:
    def spoil(config: dict[str, Any]) -> None:
        add_model("third-model")(config)
        config["models"][-1]["deployments"][0]["weight"] = 0

    edit(two, spoil)
    two.process.child.send_signal(signal.SIGHUP)
    sentence = "models: 'third-model': weight must be at least 1."
    eventually(lambda: two.process.log.read_text().count(sentence) >= 2)  # what a start would say, in each process
    assert chat(two, key, "third-model").status_code == 404
    assert chat(two, key, "added-model").status_code == 200

    def change(config: dict[str, Any]) -> None:
        add_model("third-model")(config)
        config["hold_ttl_s"] = 90

    edit(two, change)
    eventually(lambda: everywhere(two, key, "third-model", 200))
    told = two.process.log.read_text()
    assert "MOZAIKS_HOLD_TTL_S has changed, and takes force with the next start" in told
    assert "sk-made-up-upstream-key" not in told


def test_a_price_of_the_configuration_that_changes_counts_from_then_on_and_stands_in_the_trail(two: Stack) -> None:
    app = two.app()
    two.fund(app, "bob", 1_000_000)
    key = two.key(app)

    def cost() -> str:
        answer = chat(two, key, "flat-model", "bob")
        assert answer.status_code == 200, answer.text
        return answer.headers["x-mozaiks-cost"]

    assert cost() == "0.00025"

    def change(config: dict[str, Any]) -> None:
        [like] = [model for model in config["models"] if model["name"] == "flat-model"]
        like["prices"] = {"input": "0", "output": "0", "request": "0.0007"}

    edit(two, change)
    two.process.child.send_signal(signal.SIGHUP)
    eventually(lambda: {cost() for _ in range(8)} == {"0.0007"})

    def told() -> list[int]:
        lines = two.get("/audit-log", limit=50)["data"]
        after = [line["after"]["flat-model/openai/0"] for line in lines if line["act"] == "prices.configure"]
        return [prices["cost"]["request"] for prices in after]

    eventually(lambda: told()[0] == 700_000_000)  # it is written when it is in force

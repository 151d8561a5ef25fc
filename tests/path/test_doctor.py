"""`gateway doctor` on installations that are well, and that are not."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import run_command
from tests.path.conftest import OPERATOR, PEPPER, Stack, free_port, plain_env

KEY = "sk-made-up-good-key"


def doctor(env: dict[str, str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit status, and (verdict, sentence) by what it is about."""
    status, rows = looked(env)
    return status, {about: (verdict, says) for about, verdict, says in rows}


def looked(env: dict[str, str]) -> tuple[int, list[tuple[str, str, str]]]:
    """The exit status, and (about, verdict, sentence) of each row."""
    ended = run_command(["doctor", "--json"], env)
    assert ended.stdout, ended.stderr
    return ended.returncode, [(each["about"], each["verdict"], each["says"]) for each in json.loads(ended.stdout)]


class Lists(BaseHTTPRequestHandler):
    """A provider that lists its models to who has the key; `/odd` has no list, `/moved` sends elsewhere."""

    asked: list[str] = []  # noqa: RUF012 - of this test's one server

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        status = 200 if self.headers["authorization"] == f"Bearer {KEY}" else 401
        if self.path.startswith("/odd"):
            status = 404
        if self.path.startswith("/moved"):
            status = 302
        self.send_response(status)
        self.send_header("location", "/v1/models")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def provider() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Lists)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_gateway_that_runs_is_well_but_for_what_its_providers_are(stack: Stack) -> None:
    stack.app()
    status, found = doctor(stack.env)
    assert found["balance store"][0] == "ok"
    assert "append-only file" in found["balance store"][1]
    assert found["worker"][0] == "ok", found["worker"]
    assert found["configuration"] == ("ok", "It is what runs.")
    assert found["web processes"] == ("ok", "One gave a sign of life.")
    assert [found[f"clock of {whose}"][0] for whose in ("this machine", "the balance store", "the database")] == ["ok"] * 3
    more = doctor({**stack.env, "MOZAIKS_WORKERS": "2"})[1]["configuration"]
    assert more == ("warning", "MOZAIKS_WORKERS is another than what runs was started with, and takes force with the next start.")
    assert found["platform database"][0] == "ok"
    assert found["app databases"][0] == "ok"
    assert "unpriced-model" in found["prices"][1]
    assert found["prices"][0] == "problem"
    assert found["provider of unreachable-model/openai/0"] == ("problem", "It cannot be asked: Connection refused.")
    assert status == 1


def test_each_provider_is_asked_for_its_models_with_its_key_and_no_other_address_gets_it(tmp_path: Path, provider: str) -> None:
    priced = {"input": "1", "output": "1"}
    places = {
        "good": ("/v1", KEY), "same": ("/v1", KEY), "wrong": ("/v1", "sk-made-up-old-key"), "odd": ("/odd", KEY),
        "moved": ("/moved", KEY),
    }  # fmt: skip
    models = [
        {"name": name, "deployments": [{"model": "m", "api_base": provider + path, "api_key": key}], "prices": priced}
        for name, (path, key) in places.items()
    ]
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump({"models": models}))
    env = plain_env(
        MOZAIKS_CONFIG=str(config),
        MOZAIKS_DATA_DIR=str(tmp_path / "data"),
        MOZAIKS_PORT=str(free_port()),
        MOZAIKS_OPERATOR_TOKEN=OPERATOR,
        MOZAIKS_KEY_PEPPER=PEPPER,
    )
    Lists.asked.clear()
    status, found = doctor(env)
    assert status == 1
    told = {name: found[f"provider of {name}/openai/0"][0] for name in places if name != "same"}
    assert told == {"good": "ok", "wrong": "problem", "odd": "ok", "moved": "warning"}
    assert "same" not in "".join(found)  # one address and key is asked once
    assert sorted(Lists.asked) == ["/moved/models", "/odd/models", "/v1/models", "/v1/models"]
    assert KEY not in str(found)
    assert provider not in str(found)
    # Nobody runs this gateway, and nothing waits.
    assert found["worker"][0] == "warning"
    assert "Does `gateway serve` or `gateway worker` run?" in found["worker"][1]


def test_without_any_model_there_is_nothing_to_serve(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("models: []\n")
    env = plain_env(MOZAIKS_CONFIG=str(config), MOZAIKS_DATA_DIR=str(tmp_path / "data"), MOZAIKS_PORT=str(free_port()))
    status, found = doctor({**env, "MOZAIKS_STRIPE_SECRET_KEY": "pk_test_made_up"})
    assert (status, found["models"][0]) == (1, "problem")
    assert found["payments"][0] == "problem"
    assert found["payments"][1].startswith("MOZAIKS_STRIPE_SECRET_KEY is a publishable key, with which nothing can be sold")


def test_a_broken_file_is_a_problem_and_stops_no_command_that_needs_no_models(tmp_path: Path, provider: str) -> None:
    good = {"model": "m", "api_base": provider + "/v1", "api_key": KEY}
    models: list[dict[str, Any]] = [
        {"name": "good", "deployments": [good], "prices": {"input": "1", "output": "1"}},
        {"name": "bad", "deployments": [good], "prices": {"output": "1"}},
        {"name": "worse", "deployments": [{**good, "weight": 0}]},
    ]
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump({"models": models, "data_dir": str(tmp_path / "data"), "port": free_port()}))
    env = plain_env(MOZAIKS_CONFIG=str(config))
    ended = run_command(["creators", "create", "acme"], env)
    assert (ended.returncode, "acme" in ended.stdout) == (0, True)
    assert f"Warning: {config}: models: 'worse': weight" in ended.stderr
    status, rows = looked(env)
    assert status == 1
    faults = [row for row in rows if row[0] == "configuration"]
    assert [verdict for _, verdict, _ in faults] == ["problem", "problem"]
    assert f"{config}: models: 'worse': weight must be at least 1." in faults[0][2]
    assert f"{config}: models: prices of bad/openai/0: input" in faults[1][2]
    well = {about for about, verdict, _ in rows if verdict == "ok"}
    assert well >= {"provider of good/openai/0", "balance store", "platform database"}
    ended = run_command(["prices", "list"], env)
    assert (ended.returncode, ended.stderr.startswith(f"Error: {config}: models: 'worse'")) == (2, True), ended.stderr

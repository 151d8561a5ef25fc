"""Starting, stopping and dying: what survives, and what is refused meanwhile."""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.commands import run_command
from tests.path.conftest import PROGRAM, ROOT, Process, Stack, free_port, plain_env, start_gateway

BODY = {"model": "slow:800", "messages": [{"role": "user", "content": "one"}], "max_tokens": 50}


def ask(stack: Stack, key: str, model: str = "ok") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": "ann"}
    return httpx.post(stack.url + "/v1/chat/completions", json={**BODY, "model": model}, headers=headers, timeout=60)


def test_sigterm_lets_the_requests_in_flight_finish_and_be_settled(tmp_path: Path, upstream_url: str) -> None:
    stack = start_gateway(tmp_path, upstream_url, program=PROGRAM)
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    key = stack.key(app)
    answers: list[httpx.Response] = []
    running = threading.Thread(target=lambda: answers.append(ask(stack, key, "slow:800")))
    running.start()
    while stack.wallet(app, "ann")["held_micro"] == 0:
        time.sleep(0.01)
    assert stack.process.stop() == 0
    running.join()
    assert answers[0].status_code == 200
    assert "VIOLATED" not in stack.cli("audit")
    assert '"requests": 1' in stack.cli("usage", "--app", app, "--json")


def test_two_web_processes_and_a_worker_of_its_own_serve_one_set_of_wallets(tmp_path: Path, upstream_url: str) -> None:
    stack = start_gateway(tmp_path, upstream_url, program=PROGRAM, MOZAIKS_WORKERS="2", MOZAIKS_INLINE_WORKER="false")
    worker = Process([*PROGRAM, "worker"], stack.env, tmp_path / "worker.log")
    try:
        app = stack.app()
        stack.fund(app, "ann", 1_000_000)
        made = stack.post(f"/apps/{app}/keys", {"name": "k", "level": "app_usage"})
        for _ in range(12):  # a connection each, so that both processes have the key in their caches
            assert ask(stack, made["secret"], "ok:tokens=3").status_code == 200
        assert len(stack.events(app, 12)) == 12
        stack.admin.delete(f"/apps/{app}/keys/{made['id']}")
        deadline = time.monotonic() + 60
        while any(ask(stack, made["secret"], "ok:tokens=3").status_code == 200 for _ in range(6)):
            assert time.monotonic() < deadline, "a revoked key is still good in one of the processes"
        assert "VIOLATED" not in stack.cli("audit")
    finally:
        assert worker.stop() == 0
        assert stack.process.stop() == 0


def test_a_gateway_killed_in_mid_request_gives_the_hold_back_and_its_books_stay_clean(tmp_path: Path, upstream_url: str) -> None:
    stack = start_gateway(tmp_path, upstream_url, program=PROGRAM)
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    key = stack.key(app)
    assert ask(stack, key).status_code == 200
    stack.events(app, 1)

    def cut_off() -> None:
        with pytest.raises(httpx.HTTPError):
            ask(stack, key, "slow:5000")

    running = threading.Thread(target=cut_off)
    running.start()
    while stack.wallet(app, "ann")["held_micro"] == 0:
        time.sleep(0.01)
    stack.process.child.kill()
    stack.process.child.wait(60)
    running.join()
    again = start_gateway(tmp_path, upstream_url, program=PROGRAM, log="again.log")
    try:
        wallet = again.wallet(app, "ann")
        assert wallet["held_micro"] > 0  # until its deadline: the sweeper gives it back, never silently
        assert wallet["available_micro"] + wallet["held_micro"] < 1_000_000
        assert "VIOLATED" not in again.cli("audit")
    finally:
        again.process.stop()


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"MOZAIKS_PORT": "http"}, "MOZAIKS_PORT"),
        ({"MOZAIKS_PROT": "1"}, "MOZAIKS_PROT"),
        ({"MOZAIKS_DATABASE_URL": "sqlite+aiosqlite:///x"}, "MOZAIKS_APP_DATABASE_URL"),
        ({"MOZAIKS_CONFIG": "nowhere.yaml"}, "MOZAIKS_CONFIG"),
        ({"MOZAIKS_KEY_PEPPER": "short"}, "MOZAIKS_KEY_PEPPER"),
        ({"MOZAIKS_MODE": "other"}, "MOZAIKS_MODE"),
        ({"MOZAIKS_EVENT_BACKLOG_MAX": "0"}, "MOZAIKS_EVENT_BACKLOG_MAX"),
        ({"MOZAIKS_PORT": "TAKEN"}, "MOZAIKS_PORT"),
        ({"MOZAIKS_DATA_DIR": "/dev/null/x"}, "/dev/null"),
        ({"MOZAIKS_REDIS_URL": "redis://127.0.0.1:TAKEN"}, "balance store"),
        ({"MOZAIKS_REDIS_URL": "http://127.0.0.1"}, "MOZAIKS_REDIS_URL"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_sentence_that_names_it(tmp_path: Path, env: dict[str, str], named: str) -> None:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    env = {name: value.replace("TAKEN", str(taken.getsockname()[1])) for name, value in env.items()}
    full = plain_env(**{"MOZAIKS_DATA_DIR": str(tmp_path), "MOZAIKS_PORT": str(free_port()), **env})
    done = run_command(["serve"], full)
    assert done.returncode == 1
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_management_command_in_another_directory_makes_no_installation(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", "usage"],
        env=plain_env(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_reads_makes_no_installation_where_a_setting_says_and_one_that_writes_does(tmp_path: Path) -> None:
    data = tmp_path / "meant"
    env = plain_env(MOZAIKS_DATA_DIR=str(data), MOZAIKS_DEMO="false")
    for command in (["usage"], ["apps", "list"], ["audit"], ["trail", "head"], ["reconcile"]):
        done = run_command(command, env)
        assert (done.returncode, done.stdout) == (2, ""), (command, done)
        assert done.stderr == (
            f"Error: MOZAIKS_DATA_DIR is {data}, where no gateway's data is: set another, or run `gateway serve` with it first.\n"
        )
    assert list(tmp_path.iterdir()) == []
    made = run_command(["creators", "create", "acme"], env)
    assert made.returncode == 0, made.stderr
    assert "acme" in run_command(["creators", "list"], env).stdout


def test_a_trial_and_a_grant_that_expires_are_made_by_commands(stack: Stack) -> None:
    app = stack.app()
    user_id = stack.get(f"/apps/{app}")["user_id"]
    made = stack.cli(*("apps", "create", f"{app}-trial", "--user-id", user_id, "--trial", "0.5", "--trial-days", "14", "--json"))
    assert json.loads(made)["trial"] == {"amount_micro": 500_000, "days": 14}
    changed = stack.cli("apps", "update", f"{app}-trial", "--trial", "2", "--json")
    assert json.loads(changed)["trial"] == {"amount_micro": 2_000_000, "days": 14}
    kept = json.loads(stack.cli("apps", "update", f"{app}-trial", "--name", "renamed", "--json"))
    assert kept["trial"] == {"amount_micro": 2_000_000, "days": 14}
    assert json.loads(stack.cli("apps", "update", f"{app}-trial", "--trial", "none", "--json"))["trial"] is None
    assert json.loads(stack.cli("apps", "show", f"{app}-trial", "--json"))["trial"] is None
    stack.cli("apps", "update", f"{app}-trial", "--trial", "nothing", status=2)
    grant = ("grants", "create", "--app", app, "--end-user", "u1", "--amount", "1", "--reason", "r", "--json", "--expires-at")
    assert json.loads(stack.cli(*grant, "2099-01-01T00:00:00Z"))["lot"]["expires_at"] == "2099-01-01T00:00:00.000Z"
    stack.cli(*grant, "2020-01-01T00:00:00Z", status=1)
    assert stack.wallet(app, "u1")["available_micro"] == 1_000_000

"""A whole gateway as its users meet it: `gateway serve` in a process of its own, a scripted provider behind it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.commands import Started, run_command, start_command

ROOT = Path(__file__).parent.parent.parent
OPERATOR = "operator-token-made-up-for-tests"
PEPPER = "pepper-made-up-for-tests-only"
PROGRAM = (sys.executable, "-m", "gateway.cli.main")  # instead of "gateway", which is forked: see tests/commands.py
# What clients ask for, the prices (USD per million) and the sizes of each scripted model.
FLAT = {"input": "0", "output": "0", "request": "0.00025"}  # USD a request: 250 micro-units
PRICED = {"input": "1", "cached_input": "0.5", "output": "10"}
DEARER = {"input": "2", "output": "20"}
# Models of three deployments: how the first one is, says the test (`mood` of the scripted provider).
THREE = [f"{set_of}-{fault}" for set_of in ("three", "other") for fault in ("dies", "throttles", "hangs", "breaks")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A child with its output in a file; ended by its own id."""

    def __init__(self, args: list[str], env: dict[str, str], log: Path) -> None:
        self.log = log
        self.child: subprocess.Popen[bytes] | Started
        if args[0] == "gateway":
            self.child = start_command(args[1:], env, log)
            return
        with log.open("ab") as out:
            self.child = subprocess.Popen(args, env=env, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)

    def wait_for(self, pattern: str, timeout_s: float = 60.0) -> re.Match[str]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = re.search(pattern, self.log.read_text("utf-8", "replace"))
            if found:
                return found
            if self.child.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} did not appear:\n{self.log.read_text('utf-8', 'replace')}")

    def stop(self, sign: signal.Signals = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        if self.child.poll() is None:
            self.child.send_signal(sign)
        try:
            return self.child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait(60)
            raise


def plain_env(**extra: str) -> dict[str, str]:
    """This environment less anything that would configure the gateway."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MOZAIKS_", "OPENAI_", "SSL_CERT_"))}
    return {**env, **extra}


@dataclass
class Stack:
    """A running gateway and what a test needs to use it."""

    url: str
    data_dir: Path
    upstream_url: str
    env: dict[str, str]
    process: Process
    admin: httpx.Client = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.admin = httpx.Client(base_url=self.url + "/api/v1", headers={"authorization": f"Bearer {OPERATOR}"}, timeout=60)

    def post(self, path: str, body: dict[str, Any], status: int = 201, idempotency_key: str = "") -> dict[str, Any]:
        answer = self.admin.post(path, json=body, headers={"idempotency-key": idempotency_key} if idempotency_key else {})
        assert answer.status_code == status, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def get(self, path: str, **params: Any) -> Any:
        answer = self.admin.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def app(self, **fields: Any) -> str:
        """A fresh app of a fresh creator."""
        self.count += 1
        enterprise_id = f"app-{self.count}"
        user_id = f"creator-{self.count}"
        self.post("/creators", {"user_id": user_id, "name": user_id})
        body = {"enterprise_id": enterprise_id, "user_id": user_id, "name": enterprise_id, "asset": "USD", **fields}
        self.post("/apps", body)
        return enterprise_id

    def key(self, enterprise_id: str, level: str = "app_usage", **fields: Any) -> str:
        made = self.post(f"/apps/{enterprise_id}/keys", {"name": "k", "level": level, **fields})
        secret: str = made["secret"]
        return secret

    def grant(self, wallet: dict[str, str], amount_micro: int, key: str | None = None) -> dict[str, Any]:
        self.count += 1
        body = {"wallet": wallet, "amount_micro": amount_micro, "source": "promo", "reason": "test"}
        return self.post("/grants", body, idempotency_key=key or f"grant-{self.count}")

    def fund(self, enterprise_id: str, end_user: str, amount_micro: int) -> None:
        self.grant({"enterprise_id": enterprise_id, "platform_user_id": end_user}, amount_micro)

    def wallet(self, enterprise_id: str, end_user: str) -> dict[str, Any]:
        result: dict[str, Any] = self.get(f"/apps/{enterprise_id}/wallets/{end_user}")
        return result

    def events(self, enterprise_id: str, count: int, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        """The app's usage rows once there are `count` of them."""
        deadline = time.monotonic() + timeout_s
        while True:
            rows: list[dict[str, Any]] = self.get(f"/apps/{enterprise_id}/usage-events", limit=200)["data"]
            if len(rows) >= count or time.monotonic() > deadline:
                assert len(rows) == count, rows
                return rows
            time.sleep(0.05)

    def cli(self, *args: str, status: int = 0) -> str:
        done = run_command(args, self.env)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


def write_config(folder: Path, upstream_url: str, more_models: Sequence[dict[str, Any]] = (), **settings: Any) -> Path:
    deployment = {"provider": "openai", "model": "*", "api_base": upstream_url, "api_key": "sk-made-up-upstream-key"}
    sized = {**deployment, "output_tokens_max": 1000, "first_byte_timeout_s": 10.0, "chunk_timeout_s": 10.0}
    nine = {**sized, "model": "ok:tokens=9"}
    few = {**nine, "limits": {"rpm": 2}}
    down = {**sized, "model": "ok", "api_base": f"http://127.0.0.1:{free_port()}/v1"}
    hasty = {**sized, "first_byte_timeout_s": 1.0, "chunk_timeout_s": 1.0}
    stand_ins = [{**nine, "prices": DEARER}, {**nine, "model": "ok:tokens=7"}]
    azure = {**nine, "provider": "azure", "api_base": upstream_url.removesuffix("/v1") + "/openai/deployments/prod"}
    azure |= {"api_version": "2024-10-21"}
    del azure["output_tokens_max"]  # both are in the price list
    newest = {**azure, "api_base": upstream_url.removesuffix("/v1") + "/openai/v1", "api_version": ""}
    three = [
        {"name": name, "strategy": "order", "deployments": [{**hasty, "model": f"mood:{name}"}, *stand_ins], "prices": PRICED}
        for name in THREE
    ]
    config = {
        **settings,
        "models": [
            *more_models,
            *three,
            {"name": "azure-chat", "deployments": [{**azure, "model": "gpt-4o-mini"}]},
            {"name": "azure-newest", "deployments": [{**newest, "model": "gpt-4o"}]},
            {"name": "azure-vectors", "deployments": [{**newest, "model": "text-embedding-3-small"}]},
            {"name": "*", "deployments": [sized], "prices": PRICED},
            *({"name": name, "deployments": [{**hasty, "model": name}], "prices": PRICED} for name in ("hang", "hang-midstream")),
            {"name": "unpriced-model", "deployments": [{**sized, "model": "ok"}]},
            {"name": "unreachable-model", "deployments": [down], "prices": PRICED},
            # A request costs its hold to the micro-unit, so how many run at once does not matter to how many are paid for.
            {"name": "flat-model", "deployments": [{**deployment, "model": "ok:tokens=3"}], "prices": FLAT},
            {"name": "unsized-model", "deployments": [{**deployment, "model": "echo"}], "prices": PRICED},
            {"name": "backed-model", "strategy": "order", "deployments": [down, nine], "prices": PRICED},
            {"name": "shared-model", "strategy": "order", "deployments": [few, nine], "prices": PRICED},
            {"name": "narrow-model", "deployments": [{**nine, "limits": {"concurrency": 5, "tpm": 1500}}], "prices": PRICED},
            {"name": "fallen-model", "deployments": [down], "prices": PRICED, "fallbacks": ["flat-model"]},
            {"name": "patient-stream", "deployments": [{**deployment, "model": "ok:tokens=250,ms=40"}], "prices": PRICED},
            {"name": "patient-model", "deployments": [{**deployment, "model": "slow:3000"}], "prices": PRICED},
        ],
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start_gateway(
    folder: Path,
    upstream_url: str,
    *,
    log: str = "gateway.log",
    more_models: Sequence[dict[str, Any]] = (),
    program: Sequence[str] = ("gateway",),
    **env: str,
) -> Stack:
    """`gateway serve` in a process of its own, ready; `program` may be PROGRAM."""
    port = free_port()
    config = write_config(folder, upstream_url, more_models)
    full = plain_env(
        MOZAIKS_CONFIG=str(config),
        MOZAIKS_PORT=str(port),
        MOZAIKS_DATA_DIR=str(folder / "data"),
        MOZAIKS_OPERATOR_TOKEN=OPERATOR,
        MOZAIKS_KEY_PEPPER=PEPPER,
        **env,
    )
    process = Process([*program, "serve"], full, folder / log)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(url + "/readyz", timeout=1).status_code == 200:
                break
        except httpx.TransportError:
            pass
        if process.child.poll() is not None or time.monotonic() > deadline:
            process.stop()
            raise AssertionError(process.log.read_text())
        time.sleep(0.05)
    return Stack(url, folder / "data", upstream_url, full, process)


@pytest.fixture(scope="session")
def upstream_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The scripted provider, in a process of its own; its base URL."""
    log = tmp_path_factory.mktemp("upstream") / "log"
    process = Process([sys.executable, "-m", "tests.scripted_upstream", "--port", "0"], plain_env(), log)
    try:
        port = process.wait_for(r"port (\d+)").group(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.stop()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, upstream_url: str) -> Iterator[Stack]:
    """One gateway for the whole session; audited clean when everything has run."""
    stack = start_gateway(tmp_path_factory.mktemp("stack"), upstream_url, program=PROGRAM)
    try:
        yield stack
        print(stack.cli("audit"))
    finally:
        stack.admin.close()
        stack.process.stop()

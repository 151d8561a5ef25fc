"""The gateway under measurement: its web process on the measured core, its worker beside it, and its books.

It is driven from outside only, as any client and operator would: the `gateway` command, HTTP, and the
length of the event streams in Redis.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Final

import msgspec
from redis import Redis

from bench.cases import CHAT_MODEL, EMBEDDING_MODEL, TLS_MODEL
from bench.contestants import Door
from bench.processes import BenchError, Ground, Process, child_environment, free_port, wait_for_200
from bench.upstreams import Upstreams

END_USERS: Final = 50
PAID: Final = "bench-paid"
MEASURED: Final = "bench-measured"
_OPERATOR_TOKEN: Final = "mzo_bench_only_operator_token_0123456789"
_CREATOR: Final = "bench-creator"
_RICH_MICRO: Final = 1_000_000_000_000
_LIMITS: Final = {"rpm": 1_000_000_000, "tpm": 1_000_000_000, "concurrency": 1_000_000}


class App(msgspec.Struct, frozen=True):
    """One app and the key that the load uses."""

    enterprise_id: str
    key: str


class Books(msgspec.Struct, frozen=True):
    """What the gateway's own books say after a scenario, beside what the load counted."""

    scenario: str
    enterprise_id: str
    served: int
    in_books: int
    audit_exit: int
    audit_says: str

    @property
    def good(self) -> bool:
        """Every served request is there once, and the audit found nothing."""
        return self.served == self.in_books and self.audit_exit == 0


class Subject:
    """One gateway on stores of its own. `database` names the Postgres settings, or is empty for SQLite."""

    def __init__(
        self, ground: Ground, upstreams: Upstreams, redis_url: str, name: str = "gateway", database: dict[str, str] | None = None
    ) -> None:
        self._ground = ground
        self._name = name
        self._redis = Redis.from_url(redis_url)
        self._served: dict[str, int] = {}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.program = [sys.executable, "-m", "gateway.cli.main"]
        self.apps: dict[str, App] = {}
        config = ground.directory / f"{name}.yaml"
        config.write_text(_config(upstreams))
        self.env = {
            **child_environment(),
            "HOME": str(ground.directory),
            "MOZAIKS_CONFIG": str(config),
            "MOZAIKS_PORT": str(self.port),
            "MOZAIKS_DATA_DIR": str(ground.directory / f"{name}-data"),
            "MOZAIKS_REDIS_URL": redis_url,
            "MOZAIKS_OPERATOR_TOKEN": _OPERATOR_TOKEN,
            "MOZAIKS_KEY_PEPPER": "bench-only-pepper-of-enough-characters",
            "MOZAIKS_INLINE_WORKER": "false",
            "MOZAIKS_LOG_LEVEL": "warning",
            **(database or {}),
            # What the TLS library trusts besides the system's authorities: the gateway has no setting of its own for it.
            **({"SSL_CERT_FILE": str(upstreams.authority)} if upstreams.tls_port else {}),
        }

    # ---- processes -----------------------------------------------------------------------------

    def start_web(self, command: list[str] | None = None, timeout_s: float = 60.0, workers: int = 1) -> float:
        """Start the web process, or so many on two cores; returns the seconds until /healthz first answered 200."""
        began = time.monotonic()
        env = {**self.env, "MOZAIKS_WORKERS": str(workers)}
        serve = command or [*self.program, "serve"]
        self.web = self._ground.start(f"{self._name}-web", serve, subject=True, wide=workers > 1, env=env)
        wait_for_200(self.web, f"{self.url}/healthz", timeout_s)
        return time.monotonic() - began

    def start_worker(self, *, subject: bool = False) -> Process:
        """Start a worker: beside the load it yields to load, upstreams and Redis; as the subject it has the measured core."""
        nice = 0 if subject else 10
        command = [*self.program, "worker"]
        self.worker = self._ground.start(f"{self._name}-worker", command, subject=subject, env=self.env, nice=nice)
        return self.worker

    def door(self, enterprise_id: str) -> Door:
        """How the load asks with this app's key; every upstream is behind the one port."""
        return Door(self.web, self.port, (f"Authorization: Bearer {self.apps[enterprise_id].key}",))

    def backlog(self) -> int:
        """Events that are not in the books yet."""
        streams = self._redis.scan_iter(count=10_000, _type="stream")
        pipe = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipe.xlen(stream)
        lengths: list[int] = pipe.execute()
        return sum(lengths)

    def wait_until_drained(self, timeout_s: float = 180.0) -> None:
        """Until every event is in the books; BenchError when that takes too long."""
        deadline = time.monotonic() + timeout_s
        while self.backlog():
            if not self.worker.running or time.monotonic() > deadline:
                raise BenchError(f"{self.backlog()} events are still waiting:\n{self.worker.tail()}")
            time.sleep(0.05)

    # ---- through its API -----------------------------------------------------------------------

    def set_up(self) -> None:
        """A creator, a prepaid app whose creator bears the cost, an app that only measures, keys and rich wallets."""
        self._call("POST", "/api/v1/creators", {"user_id": _CREATOR, "name": "Bench"})
        self._grant("creator", {"user_id": _CREATOR})
        for enterprise_id, kind in (
            (PAID, {"enforcement": "prepaid", "cost_policy": "creator_pays"}),
            (MEASURED, {"enforcement": "analytics_only"}),
        ):
            app = {"enterprise_id": enterprise_id, "user_id": _CREATOR, "name": enterprise_id, "asset": "USD", **kind}
            self._call("POST", "/api/v1/apps", app)
            key = {"name": "bench", "level": "app_usage", "limits": _LIMITS}
            made = self._call("POST", f"/api/v1/apps/{enterprise_id}/keys", key)
            self.apps[enterprise_id] = App(enterprise_id, made["secret"])
        for number in range(1, END_USERS + 1):
            self._grant(str(number), {"enterprise_id": PAID, "platform_user_id": f"user-{number}"})

    def more_apps(self, apps: int, keys_each: int) -> list[str]:
        """So many further apps of a few creators, with keys for building them; the keys' secrets."""
        secrets = []
        for number in range(apps):
            user_id = f"bench-creator-{number % 50}"
            if number < 50:
                self._call("POST", "/api/v1/creators", {"user_id": user_id, "name": user_id})
                self._grant(user_id, {"user_id": user_id})
            enterprise_id = f"bench-{number}"
            app = {"enterprise_id": enterprise_id, "user_id": user_id, "name": enterprise_id}
            self._call("POST", "/api/v1/apps", app)
            for _ in range(keys_each):
                made = self._call("POST", f"/api/v1/apps/{enterprise_id}/keys", {"level": "platform", "limits": _LIMITS})
                secrets.append(made["secret"])
        return secrets

    def _grant(self, key: str, wallet: dict[str, str]) -> None:
        grant = {"wallet": wallet, "amount_micro": _RICH_MICRO, "source": "promo", "reason": "bench"}
        self._call("POST", "/api/v1/grants", grant, {"Idempotency-Key": f"bench-{key}"})

    def count(self, enterprise_id: str, served: int) -> None:
        """Remember how many more requests of this app the load saw answered."""
        self._served[enterprise_id] = self._served.get(enterprise_id, 0) + served

    def check_books(self, scenario: str) -> list[Books]:
        """Wait for the drain, then compare and audit."""
        self.wait_until_drained()
        audited = self._ground.run([*self.program, "audit", "--json"], timeout_s=1800, env=self.env)  # of millions of rows
        says = " ".join((audited.stdout or audited.stderr).split())[-400:]
        return [
            Books(scenario, app, served, self._in_books(app), audited.returncode, says) for app, served in self._served.items()
        ]

    def _in_books(self, enterprise_id: str) -> int:
        answer = self._call("GET", f"/api/v1/usage?enterprise_id={enterprise_id}")
        return sum(int(row["requests"]) for row in answer["data"])

    def _call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        asked = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode() if body is not None else None,
            method=method,
            headers={"Authorization": f"Bearer {_OPERATOR_TOKEN}", "Content-Type": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            raise BenchError(f"{method} {path}: {refused.code} {refused.read().decode()}\n{self.web.tail()}") from refused


def _config(upstreams: Upstreams) -> str:
    prices: dict[str, str] = {"input": "0.15", "cached_input": "0.075", "output": "0.60"}
    models: list[dict[str, Any]] = [
        {
            "name": name,
            "deployments": [{"provider": "openai", "model": model, "api_base": upstreams.urls[door]}],
            "prices": {**prices, "output": "0"} if name == EMBEDDING_MODEL else prices,
        }
        for name, model, door in (
            (CHAT_MODEL, CHAT_MODEL, "plain"),
            (EMBEDDING_MODEL, EMBEDDING_MODEL, "plain"),
            (TLS_MODEL, TLS_MODEL, "tls"),
            ("stream-*", "*", "streams"),
            ("large-*", "*", "large"),
        )
        if door in upstreams.urls
    ]
    return json.dumps({"models": models, "platform_markup_percent": "10"})  # JSON is YAML

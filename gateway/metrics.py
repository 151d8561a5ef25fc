"""`/metrics`: what every web process of this machine has counted, as one Prometheus text.

Each web process writes what it has counted into a file of its own every second; the one that is asked puts its own
numbers and the others' files together. So one scrape of any process shows all, whichever the system hands it to. Counts of
a process that died stay in its file, so that sums never fall; its gauges go with it. `gateway serve` starts with no files.

Why not prometheus_client: its two counters and two histograms of a request, in its mode for several processes, took 15 us of
CPU, and what is here 2.4 us (100,000 times in a loop, side by side); a request's whole budget is 200 us.

Gauges of deployments are in processes: `mozaiks_deployment_resting` is how many of them leave it alone now.
"""

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from gateway.balance.model import BalanceUnavailable
from gateway.compose import Services, setting_names
from gateway.core.clock import now_ms
from gateway.proxy.meter import BOUNDS_S, Histogram, Meter
from gateway.settings import Settings

_log = logging.getLogger(__name__)
_WRITE_EVERY_S: Final = 1.0
_FRESH_MS: Final = 10_000  # a file that is older is of a process that is gone
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_FAMILIES: Final = {
    "mozaiks_requests_total": ("counter", "Requests by surface, model and HTTP status; a stream that began is a 200."),
    "mozaiks_request_seconds": ("histogram", "Seconds from the request to the end of its answer, of those that were answered."),
    "mozaiks_first_byte_seconds": ("histogram", "Seconds from the request to the provider's first byte."),
    "mozaiks_attempts_total": (
        "counter",
        "Requests sent to a deployment: served, failed, or refused for what the caller must mend.",
    ),
    "mozaiks_passed_over_total": ("counter", "Requests that a deployment was not asked for: it was full, or reads too little."),
    "mozaiks_deployment_rests_total": ("counter", "How often a deployment was left alone for a while, because it failed."),
    "mozaiks_deployment_recoveries_total": ("counter", "How often a deployment that had been left alone served again."),
    "mozaiks_deployment_resting": ("gauge", "Web processes that leave a deployment alone, or wait for its first answer after."),
    "mozaiks_requests_in_flight": ("gauge", "Requests that are being worked on."),
    "mozaiks_holds_in_flight": ("gauge", "Requests that hold money and have not ended."),
    "mozaiks_settlements_kept": ("gauge", "Settled requests that the books do not have yet, kept by web processes."),
    "mozaiks_web_processes": ("gauge", "Web processes that gave a sign of life."),
    "mozaiks_balance_store_up": ("gauge", "1 when the balance store answers."),
    "mozaiks_database_up": ("gauge", "1 when the platform's database answers."),
    "mozaiks_events_waiting": ("gauge", "Usage events that are not in the books yet."),
    "mozaiks_drain_lag_seconds": ("gauge", "Age of the oldest usage event that is not in the books yet."),
    "mozaiks_webhook_events": ("gauge", "Webhook events of Stripe that failed, or wait; counted every few seconds."),
}


class Snapshot(msgspec.Struct, frozen=True):
    """One process's numbers, by sample as Prometheus writes them. `models` names the configuration of models it runs with,
    `started_with` each setting that it keeps until it ends.
    """

    at_ms: int
    counters: dict[str, float]
    gauges: dict[str, float]
    models: str = ""
    started_with: dict[str, str] = {}


_decode: Final = msgspec.json.Decoder(Snapshot).decode


def folder_of(settings: Settings) -> Path:
    """Where the web processes of one `gateway serve` write."""
    return settings.data_dir / "metrics" / str(settings.port)


def cleared(settings: Settings) -> None:
    """Begin without files: the counts of an earlier start are over."""
    shutil.rmtree(folder_of(settings), ignore_errors=True)


def snapshots(settings: Settings, but: str = "") -> list[Snapshot]:
    """What the processes wrote last, less the file named `but`."""
    return _in(folder_of(settings), but)


def _in(folder: Path, but: str = "") -> list[Snapshot]:
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name == but:
            continue
        with contextlib.suppress(OSError, msgspec.DecodeError):  # it is being written for the first time, or is no file of ours
            found.append(_decode(path.read_bytes()))
    return found


def other_ports(settings: Settings) -> list[str]:
    """Where other gateways on the same data have web processes that live."""
    at_ms = now_ms()
    folders = [folder for folder in folder_of(settings).parent.glob("*") if folder != folder_of(settings)]
    return sorted(folder.name for folder in folders if any(is_fresh(each, at_ms) for each in _in(folder)))


def is_fresh(snapshot: Snapshot, at_ms: int) -> bool:
    """Whether its process lives."""
    return at_ms - snapshot.at_ms < _FRESH_MS


class Metrics:
    """The numbers of one web process, and of all of them for who asks."""

    def __init__(self, services: Services, meter: Meter, in_flight: Callable[[], int], holds: Callable[[], int]) -> None:
        self._services = services
        self._meter = meter
        self._in_flight = in_flight
        self._holds = holds
        self._path = folder_of(services.settings) / f"{os.getpid()}.json"
        self._started_with = setting_names(services.settings)

    async def run(self) -> None:
        """Write the file every second, until cancelled; then once more, as one that is gone."""
        failed = False
        try:
            while True:
                try:
                    self.write()
                    failed = False
                except OSError as wrong:
                    if not failed:
                        _log.warning("metrics of this process cannot be written for the others: %s", wrong)
                    failed = True
                await asyncio.sleep(_WRITE_EVERY_S)
        finally:
            with contextlib.suppress(OSError):
                self.write(ended=True)

    def write(self, *, ended: bool = False) -> None:
        """The file as a whole or not at all. OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = self._path.with_suffix(".tmp")
        own = self.own()
        scratch.write_bytes(msgspec.json.encode(msgspec.structs.replace(own, at_ms=0) if ended else own))
        scratch.replace(self._path)

    def own(self) -> Snapshot:
        """This process's numbers now."""
        meter, health = self._meter, self._services.routing.health
        meter.count()
        counters: dict[str, float] = {}
        for (surface, model, status), count in meter.requests.items():
            counters[_sample("mozaiks_requests_total", surface=surface, model=model, status=str(status))] = count
        for family, by_name in (("mozaiks_request_seconds", meter.latency), ("mozaiks_first_byte_seconds", meter.first_byte)):
            for (surface, model), histogram in by_name.items():
                counters.update(_buckets(family, histogram, surface=surface, model=model))
        for deployment, count in meter.served.items():
            counters[_sample("mozaiks_attempts_total", deployment=deployment, outcome="served")] = count
        for (deployment, what), count in health.counts.items():
            if what in ("failed", "refused"):
                sample = _sample("mozaiks_attempts_total", deployment=deployment, outcome=what)
            elif what in ("full", "too_long"):
                sample = _sample("mozaiks_passed_over_total", deployment=deployment, reason=what)
            else:
                sample = _sample(f"mozaiks_deployment_{what}_total", deployment=deployment)
            counters[sample] = count
        resting = dict.fromkeys([deployment.id for deployment in self._services.routing.deployments()], 0)
        resting |= dict.fromkeys(health.resting(), 1)
        gauges: dict[str, float] = {_sample("mozaiks_deployment_resting", deployment=name): on for name, on in resting.items()}
        gauges["mozaiks_requests_in_flight"] = self._in_flight()
        gauges["mozaiks_holds_in_flight"] = self._holds()
        gauges["mozaiks_settlements_kept"] = sum(map(len, self._services.balance.kept))
        gauges["mozaiks_web_processes"] = 1
        return Snapshot(now_ms(self._services.clock), counters, gauges, self._services.models_name, self._started_with)

    async def text(self) -> str:
        """All processes' numbers, and what the stores say, as Prometheus reads it."""
        own = self.own()
        all_of_them = [own, *snapshots(self._services.settings, but=self._path.name)]
        samples: dict[str, float] = {}
        for snapshot in all_of_them:
            _add(samples, snapshot.counters)
            if is_fresh(snapshot, own.at_ms):
                _add(samples, snapshot.gauges)
        samples |= await self._stores()
        return _written(samples)

    async def _stores(self) -> dict[str, float]:
        events, found = self._services.events, {"mozaiks_balance_store_up": 0.0}
        with contextlib.suppress(BalanceUnavailable):
            await self._services.balance.ping()
            found["mozaiks_events_waiting"] = await events.depth()
            oldest_ms = await events.oldest_ms()
            age_ms = 0 if oldest_ms is None else max(0, now_ms(self._services.clock) - oldest_ms)
            found["mozaiks_drain_lag_seconds"] = age_ms / 1000
            found["mozaiks_balance_store_up"] = 1.0
        found["mozaiks_database_up"] = float(await self._services.databases.answers())
        receiving = self._services.receiving
        for state, count in ((receiving.inbox.counted if receiving else None) or {}).items():
            found[_sample("mozaiks_webhook_events", state=state.value)] = count
        return found


def _add(samples: dict[str, float], more: Mapping[str, float]) -> None:
    for sample, value in more.items():
        samples[sample] = samples.get(sample, 0) + value


def _sample(family: str, **labels: str) -> str:
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{family}{{{told}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _buckets(family: str, histogram: Histogram, **labels: str) -> Iterable[tuple[str, float]]:
    total = 0
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), histogram.counts, strict=True):
        total += count
        yield _sample(f"{family}_bucket", **labels, le=bound), total
    yield _sample(f"{family}_sum", **labels), histogram.sum_s
    yield _sample(f"{family}_count", **labels), total


def _written(samples: Mapping[str, float]) -> str:
    """Samples by family, each with what it means."""
    lines: dict[str, list[str]] = {family: [] for family in _FAMILIES}
    for sample, value in samples.items():
        family = sample.partition("{")[0]
        if family not in lines:
            family = family.rpartition("_")[0]  # of a histogram
        number = f"{value:.6f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"
        lines[family].append(f"{sample} {number}")
    written = []
    for family, its in lines.items():
        if its:
            kind, means = _FAMILIES[family]
            written += [f"# HELP {family} {means}", f"# TYPE {family} {kind}", *its]
    return "\n".join([*written, ""])

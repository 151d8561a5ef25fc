"""`python -m bench.scale`: what stays the same when there is more of everything.

    keys      CPU of a request with one key, and with 10,000 keys of 1,000 apps, in turns
    streams   3,000 streams at once beside clients that read nothing: delays, and memory
    memory    resident memory over many requests
    backlog   how fast what waited an hour goes into the books, at its beginning and at its end

Each part prints what it found and writes it into `bench/results/scale.json`. The figures are ratios and shapes within
one run; how fast one request is, `make bench` says.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import plain_load, rivals
from bench.cases import CHAT
from bench.contestants import Door
from bench.machine import describe
from bench.plain_load import Manner
from bench.processes import BenchError, Ground, Process, child_environment
from bench.stalled_readers import StalledLoad
from bench.stream_load import StreamLoad
from bench.subject import END_USERS, PAID, Subject
from bench.upstreams import start_large, start_upstreams

_RESULTS: Final = Path(__file__).parent / "results" / "scale.json"
_CONNECTIONS: Final = 64


class Scale:
    """One gateway on one ground, and what is done to it."""

    def __init__(self, ground: Ground, given: argparse.Namespace) -> None:
        self._ground = ground
        self._given = given
        upstreams = start_large(ground, start_upstreams(ground))
        self._redis, redis_url = rivals.start_redis(ground)
        self.subject = Subject(ground, upstreams, redis_url)
        self.subject.start_web()
        self.subject.start_worker()
        self.subject.set_up()
        self._key = self.subject.apps[PAID].key

    def keys(self) -> dict[str, Any]:
        """One key beside many."""
        secrets = self.subject.more_apps(self._given.apps, self._given.keys // self._given.apps)
        one, many = self._ground.directory / "one-key", self._ground.directory / "many-keys"
        one.write_text(f"Bearer {secrets[0]}\n")
        many.write_text("".join(f"Bearer {secret}\n" for secret in secrets))
        web = self.subject.web
        found: dict[str, list[float]] = {}
        first = self._cpu_us(web, many, max(4.0, len(secrets) / 400))  # each key is looked up in the books once
        for name, path in (("one", one), ("many", many)) * self._given.rounds:
            found.setdefault(name, []).append(self._cpu_us(web, path, 2.0))
        ratio = statistics.median(found["many"]) / statistics.median(found["one"])
        return {"keys": len(secrets), "apps": self._given.apps, "first_us": first, **found, "ratio": round(ratio, 3)}

    def streams(self) -> dict[str, Any]:
        """Many streams alone, then beside clients that stall."""
        alone = self._many_streams()
        rss_before = self.subject.web.rss_mb()
        command = [sys.executable, "-m", "bench.stalled_readers", "--port", str(self.subject.port), "--key", self._key]
        for name, value in (("clients", self._given.stalled), ("chunks", 3000), ("stall", 45.0)):
            command += [f"--{name}", str(value)]
        with subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, cwd=self._ground.directory) as stalled:
            time.sleep(12.0)  # by now their buffers and the kernel's are full
            beside = self._many_streams()
            rss_stalled = self.subject.web.rss_mb()
            out, _ = stalled.communicate(timeout=240)
        load = msgspec.json.decode(out, type=StalledLoad)
        self.subject.count(PAID, load.whole)
        return {
            "alone": msgspec.to_builtins(alone),
            "beside_stalled": msgspec.to_builtins(beside),
            "stalled": msgspec.to_builtins(load),
            "rss_mb": [round(rss_before, 1), round(rss_stalled, 1)],
        }

    def memory(self) -> dict[str, Any]:
        """Resident memory of the web process and of the worker after each portion of requests."""
        rows: list[dict[str, float]] = []
        served = 0
        while served < self._given.requests:
            portion = 0
            while portion < self._given.requests // 20:
                portion += self._serve(4.0)
            self.subject.wait_until_drained(600)
            served += portion
            web, worker = self.subject.web.rss_mb(), self.subject.worker.rss_mb()
            rows.append({"requests": served, "web_mb": round(web, 1), "worker_mb": round(worker, 1)})
            print(rows[-1], flush=True)
        return {"rows": rows}

    def backlog(self) -> dict[str, Any]:
        """Serve without a worker until so many events wait, then let one catch up; its rate by tenths of the backlog."""
        self.subject.worker.stop()
        while (waiting := self.subject.backlog()) < self._given.backlog:
            self._serve(4.0)
        redis_mb = self._redis.rss_mb()
        self.subject.start_worker(subject=True)
        marks: list[tuple[float, int]] = []
        while left := self.subject.backlog():
            if not self.subject.worker.running:
                raise BenchError(f"the worker ended:\n{self.subject.worker.tail()}")
            if left < waiting:
                marks.append((time.monotonic(), left))
            time.sleep(0.1)
        marks.append((time.monotonic(), 0))
        began, first = marks[0]
        tenths, at = [], 0
        for tenth in range(1, 11):
            until = next(place for place, (_, left) in enumerate(marks) if left <= first * (10 - tenth) / 10)
            (t0, l0), (t1, l1) = marks[at], marks[until]
            tenths.append(round((l0 - l1) / max(t1 - t0, 0.001)))
            at = until
        took = marks[-1][0] - began
        return {"events": waiting, "seconds": round(took, 1), "per_s": round(first / took), "by_tenths": tenths,
                "redis_mb": round(redis_mb, 1)}  # fmt: skip

    def books(self) -> list[dict[str, Any]]:
        """After everything: one entry a served request, audit clean; and how much memory the audit took."""
        self.subject.wait_until_drained(900)
        found = self.subject.check_books("scale")
        most_mb = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3, 1)  # of what ended: the loads, the audit
        return [{**msgspec.to_builtins(books), "good": books.good, "audit_mb_at_most": most_mb} for books in found]

    def _serve(self, seconds: float) -> int:
        door = self.subject.door(PAID)
        load = plain_load.run(self._ground, door, CHAT, Manner(_CONNECTIONS, seconds, end_users=END_USERS))
        if not load.served or load.refused or load.broken:
            raise BenchError(f"not every request was served: {load}\n{self.subject.web.tail()}")
        self.subject.count(PAID, load.served)
        return load.served

    def _cpu_us(self, web: Process, keys: Path, seconds: float) -> float:
        before = web.cpu_s()
        door = Door(web, self.subject.port, (f"Authorization: @{keys}",))
        load = plain_load.run(self._ground, door, CHAT, Manner(_CONNECTIONS, seconds))
        if not load.served or load.refused or load.broken:
            raise BenchError(f"not every request was served: {load}\n{web.tail()}")
        return round((web.cpu_s() - before) * 1e6 / load.served, 1)

    def _many_streams(self) -> StreamLoad:
        command = [sys.executable, "-m", "bench.stream_load", "--port", str(self.subject.port), "--key", self._key, "--ramp", "6"]
        for name, value in (("streams", self._given.streams), ("rate", 5), ("chunks", 50), ("end-users", END_USERS)):
            command += [f"--{name}", str(value)]
        finished = self._ground.run(command, timeout_s=180, env=child_environment())
        if finished.returncode or not finished.stdout:
            raise BenchError(f"the stream load failed: {finished.stderr[-2000:]}")
        load = msgspec.json.decode(finished.stdout, type=StreamLoad)
        self.subject.count(PAID, load.served)
        return load


def main() -> int:
    """Exit status 0 when every part ran and the books are in order."""
    arguments = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    arguments.add_argument("parts", nargs="*", default=["keys", "streams", "memory", "backlog"])
    for name, default in (
        ("apps", 1000), ("keys", 10_000), ("rounds", 5), ("streams", 3000), ("stalled", 100), ("requests", 2_000_000),
        ("backlog", 360_000),
    ):  # fmt: skip
        arguments.add_argument(f"--{name}", type=int, default=default)
    given = arguments.parse_args()
    found: dict[str, Any] = msgspec.json.decode(_RESULTS.read_bytes()) if _RESULTS.exists() else {}
    found["machine"] = msgspec.to_builtins(describe())
    good = True
    for part in given.parts:
        with Ground() as ground:
            scale = Scale(ground, given)
            run: Callable[[], dict[str, Any]] = getattr(scale, part)
            found[part] = {**run(), "books": scale.books() if part != "keys" else []}
            good = good and all(books["good"] for books in found[part]["books"])
        print(part, msgspec.json.encode(found[part]).decode(), flush=True)
    _RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

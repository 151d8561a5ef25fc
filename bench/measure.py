"""The scenarios of one run. Contestants take turns within every round, so that what drifts hits all alike."""

import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from bench import plain_load, rivals
from bench.machine import describe
from bench.postgres import start_postgres
from bench.processes import BenchError, Ground, Process, Strangers, child_environment
from bench.results import Drain, Memory, PlainRound, Results, StreamRound, added_ms, contestants, of
from bench.stream_load import FRAMES_AROUND, StreamLoad
from bench.subject import END_USERS, MEASURED, PAID, Subject

GATEWAY: Final = "gateway"
GATEWAY_MEASURED: Final = "gateway, analytics only"
_CONNECTIONS: Final = 64
_DRAIN_WAIT_S: Final = 120.0
_QUIET: Final = 0.05  # share of the machine that others may use; in a turn twice that, as the kernel works for us too
_QUIET_LOOK_S: Final = 0.5
_FULL_SPEED: Final = 1.2  # times the shortest time of a fixed piece of work

Round = TypeVar("Round", PlainRound, StreamRound)


class Plan(msgspec.Struct, frozen=True):
    """How long and how often."""

    seconds: float = 2.0  # many short turns: what other guests do to a machine changes within seconds
    rounds: int = 7
    streams: int = 200
    stream_rate: int = 50
    stream_seconds: float = 3.0
    many_streams: int = 1000
    many_rate: int = 20
    drain_events: int = 20_000
    postgres: bool = True
    patience_s: float = 300.0  # how long, in all, turns may wait for a machine at rest and be repeated when it was not


class Contestant(msgspec.Struct, frozen=True):
    """Who is driven in a turn. For `direct` the process is the upstream itself."""

    name: str
    plain: Process
    port: int
    streaming: Process
    streaming_port: int
    key: str = ""
    enterprise_id: str = ""


class Run:
    """One run on one ground."""

    def __init__(self, ground: Ground, plan: Plan, say: Callable[[str], None]) -> None:
        self._ground = ground
        self._plan = plan
        self._say = say
        self._patience_s = plan.patience_s
        self._best_pace_ms = min(ground.pace_ms() for _ in range(20))
        self.results = Results(machine=describe(), settings=_settings(ground, plan))

    def everything(self) -> Results:
        """All scenarios, in order; what cannot be measured here is named in `skipped`."""
        absent = rivals.missing()
        self.results.skipped += [f"{name} is not installed" for name in absent]
        if set(absent) & {"nginx", "wrk", "redis-server"}:
            raise BenchError("nginx, wrk and redis-server (or valkey-server) are needed: apt-get install nginx wrk redis-server")
        self._upstreams = rivals.start_upstreams(self._ground)
        nginx = rivals.start_nginx(self._ground, self._upstreams)
        haproxy = rivals.start_haproxy(self._ground, self._upstreams)
        self._redis, redis_url = rivals.start_redis(self._ground)
        self._subject = Subject(self._ground, self._upstreams, redis_url)
        self._start_up()
        self._subject.start_worker()
        self._subject.set_up()
        self._contestants = self._line_up(nginx, haproxy)
        worker_before = self._subject.worker.cpu_s()
        self._plain()
        self._books("plain requests")
        events = sum(books.in_books for books in self.results.books)
        self.results.worker_cpu_us = (self._subject.worker.cpu_s() - worker_before) * 1e6 / events
        after_load_mb = self._subject.web.rss_mb()
        self._streams()
        self._books("streams")
        self._many_streams(after_load_mb)
        self._books("many streams")
        self.results.drains.append(self._drain(self._subject, "SQLite"))
        self._books("drain")
        if self._plan.postgres:
            self._postgres()
        return self.results

    # ---- preparing -----------------------------------------------------------------------------

    def _start_up(self) -> None:
        self._say("start-up")
        fresh = self._subject.start_web()
        again = []
        for _ in range(self._plan.rounds):
            self._subject.web.stop()
            again.append(round(self._subject.start_web(), 3))
        self.results.start_up_s = {"empty data directory": [round(fresh, 3)], "existing data directory": again}
        time.sleep(1.0)
        self._idle_mb = self._subject.web.rss_mb()

    def _line_up(self, nginx: rivals.Rival, haproxy: rivals.Rival | None) -> list[Contestant]:
        up, web, port = self._upstreams, self._subject.web, self._subject.port
        line = [Contestant("direct", up.plain, up.plain_port, up.streaming, up.streaming_port)]
        line += [
            Contestant(rival.name, rival.process, rival.port, rival.process, rival.streaming_port)
            for rival in (nginx, haproxy)
            if rival is not None
        ]
        for name, enterprise_id in ((GATEWAY, PAID), (GATEWAY_MEASURED, MEASURED)):
            line.append(Contestant(name, web, port, web, port, self._subject.apps[enterprise_id].key, enterprise_id))
        return line

    # ---- scenarios -----------------------------------------------------------------------------

    def _plain(self) -> None:
        for contestant in self._contestants:
            self._turn(contestant, "warm-up", connections=_CONNECTIONS, seconds=1.0)
        for number in range(self._plan.rounds):
            for contestant in self._contestants:
                where = f"round {number + 1}, {_CONNECTIONS} connections"
                made = self._quietly(self._turn, contestant, where, connections=_CONNECTIONS, seconds=self._plan.seconds)
                self.results.full_load.append(made)
            for contestant in self._contestants:
                where = f"round {number + 1}, 1 connection"
                made = self._quietly(self._turn, contestant, where, connections=1, seconds=self._plan.seconds / 2)
                self.results.one_connection.append(made)
        rate = statistics.median(each.load.requests_per_s for each in of(self.results.full_load, GATEWAY)) / 2
        for number in range(self._plan.rounds):
            for contestant in self._contestants:
                # Everybody at half of what the gateway carries: the added time is compared at one and the same rate.
                own_ms = max(0.0, added_ms(self.results.one_connection, contestant.name, "p50_us") or 0.0)
                pause_ms = max(1.0, _CONNECTIONS / rate * 1000 - own_ms)
                where = f"round {number + 1}, {_CONNECTIONS} connections, half load"
                made = self._quietly(
                    self._turn, contestant, where, connections=_CONNECTIONS, seconds=self._plan.seconds, pause_ms=pause_ms
                )
                self.results.half_load.append(made)

    def _quietly(self, turn: Callable[..., Round], contestant: Contestant, *given: Any, **named: Any) -> Round:
        """One turn while the machine is quiet and at its full speed, as far as patience goes; a disturbed turn is repeated."""
        while True:
            began = time.monotonic()
            while self._patience_s > 0 and not self._is_calm():
                self._patience_s -= time.monotonic() - began
                began = time.monotonic()
            made = turn(contestant, *given, **named)
            if self._patience_s <= 0 or (made.strangers < 2 * _QUIET and self._is_fast()):
                return made
            self._patience_s -= time.monotonic() - began

    def _is_calm(self) -> bool:
        strangers = Strangers()
        time.sleep(_QUIET_LOOK_S)
        return strangers.share() < _QUIET and self._is_fast()

    def _is_fast(self) -> bool:
        """Whether a core does about as much as it did at its best: what other guests do to it shows in nothing else."""
        pace_ms = self._ground.pace_ms()
        self._best_pace_ms = min(self._best_pace_ms, pace_ms)
        return pace_ms < _FULL_SPEED * self._best_pace_ms

    def _turn(
        self, contestant: Contestant, where: str, *, connections: int, seconds: float, pause_ms: float = 0.0
    ) -> PlainRound:
        ours = bool(contestant.enterprise_id)
        if ours:
            self._subject.wait_until_drained()
        pace_ms, strangers = self._ground.pace_ms(), Strangers()
        cpu, redis = contestant.plain.cpu_s(), self._redis.cpu_s()
        load = plain_load.run(
            self._ground,
            contestant.port,
            connections=connections,
            seconds=seconds,
            key=contestant.key,
            end_users=END_USERS if ours else 0,
            pause_ms=pause_ms,
        )
        cpu, redis, share = contestant.plain.cpu_s() - cpu, self._redis.cpu_s() - redis, strangers.share()
        if not load.served:
            raise BenchError(f"{contestant.name} answered nothing: {load}\n{contestant.plain.tail()}")
        if ours:
            self._subject.count(contestant.enterprise_id, load.served)
        redis_us = _each(redis, load.served) if ours else 0.0
        made = PlainRound(contestant.name, _each(cpu, load.served), redis_us, load, share, pace_ms)
        self._say(
            f"{where}: {contestant.name}: {made.cpu_us:.1f} us CPU, {load.requests_per_s:.0f}/s, "
            f"p50 {load.p50_us} us, p99 {load.p99_us} us, others {share:.0%}, pace {pace_ms}"
            + (f", REFUSED {load.refused}, BROKEN {load.broken}" if load.refused or load.broken else "")
        )
        return made

    def _streams(self) -> None:
        plan = self._plan
        for number in range(plan.rounds):
            for contestant in self._contestants:
                made = self._quietly(self._stream_turn, contestant, plan.streams, plan.stream_rate)
                self.results.streams.append(made)
                self._say(f"round {number + 1}, {_stream_line(made)}")

    def _many_streams(self, after_load_mb: float) -> None:
        line = [contestant for contestant in self._contestants if contestant.name in ("direct", GATEWAY)]
        for contestant in line:
            made = self._quietly(self._stream_turn, contestant, self._plan.many_streams, self._plan.many_rate)
            self.results.many_streams.append(made)
            self._say(_stream_line(made))
        self.results.memory = Memory(
            round(self._idle_mb, 1), round(after_load_mb, 1), self._plan.many_streams, self.results.many_streams[-1].rss_mb
        )

    def _stream_turn(self, contestant: Contestant, streams: int, rate: int) -> StreamRound:
        chunks = round(rate * self._plan.stream_seconds)
        ramp_s = max(1.0, streams / 500)
        if contestant.enterprise_id:
            self._subject.wait_until_drained()
        command = [sys.executable, "-m", "bench.stream_load", "--port", str(contestant.streaming_port), "--ramp", str(ramp_s)]
        for name, value in (("streams", streams), ("rate", rate), ("chunks", chunks), ("end-users", END_USERS)):
            command += [f"--{name}", str(value)]
        if contestant.key:
            command += ["--key", contestant.key]
        pace_ms, strangers = self._ground.pace_ms(), Strangers()
        cpu = contestant.streaming.cpu_s()
        with _Watermark(contestant.streaming) as highest:
            finished = self._ground.run(command, timeout_s=120, env=child_environment())
        cpu, share = contestant.streaming.cpu_s() - cpu, strangers.share()
        if finished.returncode or not finished.stdout:
            raise BenchError(f"the stream load failed: {finished.stderr[-2000:]}")
        load = msgspec.json.decode(finished.stdout, type=StreamLoad)
        if not load.frames:
            raise BenchError(f"{contestant.name} streamed nothing: {load}\n{contestant.streaming.tail()}")
        if contestant.enterprise_id:
            self._subject.count(contestant.enterprise_id, load.served)
        late_s = round(load.seconds - ramp_s - self._plan.stream_seconds, 2)
        chunks_seen = load.frames - FRAMES_AROUND * load.streams
        cpu_us = _each(cpu, max(chunks_seen, 1))
        return StreamRound(contestant.name, rate, cpu_us, round(highest.mb, 1), late_s, load, share, pace_ms)

    def _drain(self, subject: Subject, store: str) -> Drain:
        """Stop the worker, serve until so many events wait, start one on the measured core, and time it once it is at work."""
        subject.worker.stop()
        while (waiting := subject.backlog()) < self._plan.drain_events:
            key = subject.apps[PAID].key
            load = plain_load.run(
                self._ground, subject.port, connections=_CONNECTIONS, seconds=self._plan.seconds, key=key, end_users=END_USERS
            )
            if not load.served:
                raise BenchError(f"the gateway answered nothing: {load}\n{subject.web.tail()}")
            subject.count(PAID, load.served)
        worker = subject.start_worker(subject=True)
        began = cpu_before = 0.0
        first = left = waiting
        deadline = time.monotonic() + _DRAIN_WAIT_S
        while left:
            time.sleep(0.01)
            left = subject.backlog()
            if not began and left < waiting:
                began, first, cpu_before = time.monotonic(), left, worker.cpu_s()
            if time.monotonic() > deadline or not worker.running:
                raise BenchError(f"{left} events are still waiting:\n{worker.tail()}")
        took_s = time.monotonic() - began
        made = Drain(store, waiting, round(first / took_s, 1), _each(worker.cpu_s() - cpu_before, max(first, 1)))
        self._say(f"drain into {store}: {made.per_s:.0f} events/s, worker {made.cpu_us:.0f} us CPU an event")
        return made

    def _postgres(self) -> None:
        """The drain once more, into Postgres."""
        found = start_postgres(self._ground)
        if found is None:
            self.results.skipped.append("no Postgres was found: its drain rate was not measured")
            return
        self._subject.web.stop()
        self._subject.worker.stop()
        _, redis_url = rivals.start_redis(self._ground, "redis-2")
        subject = Subject(self._ground, self._upstreams, redis_url, "gateway-2", found)
        subject.start_web()
        subject.start_worker()
        subject.set_up()
        self.results.drains.append(self._drain(subject, "Postgres"))
        self.results.books += subject.check_books("drain, Postgres")

    def _books(self, scenario: str) -> None:
        found = self._subject.check_books(scenario)
        self.results.books += found
        for books in found:
            self._say(
                f"books after {scenario}: {books.enterprise_id}: load served {books.served}, books hold {books.in_books}, "
                f"audit exit {books.audit_exit}" + ("" if books.good else f"  <-- WRONG {books.audit_says}")
            )


class _Watermark:
    """The most resident memory that a process had while the block ran, looked at four times a second."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.mb = 0.0

    def __enter__(self) -> "_Watermark":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self.mb = max(self.mb, self._process.rss_mb())


def _each(seconds: float, count: int) -> float:
    return round(seconds * 1e6 / count, 2)


def _stream_line(made: StreamRound) -> str:
    load = made.load
    return (
        f"{load.streams} streams at {made.rate}/s: {made.contestant}: {made.cpu_us:.1f} us CPU a chunk, "
        f"dropped {load.dropped}, served {load.served}, late {made.late_s} s, "
        f"delay p50 {load.delay_p50_us} us p99 {load.delay_p99_us} us, "
        f"{made.rss_mb} MB, others {made.strangers:.0%}, pace {made.pace_ms}"
    )


def _settings(ground: Ground, plan: Plan) -> dict[str, float]:
    return {
        **{name: float(value) for name, value in msgspec.structs.asdict(plan).items()},
        "connections": _CONNECTIONS,
        "end_users": END_USERS,
        "answer_bytes": rivals.ANSWER_BYTES,
        "measured_core_alone": float(ground.pinned),
    }


__all__ = ["GATEWAY", "GATEWAY_MEASURED", "Plan", "Run", "contestants"]

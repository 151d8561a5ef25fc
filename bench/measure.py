"""The scenarios of one run. Contestants take turns within every round, so that what drifts hits all alike."""

import statistics
import time
from collections.abc import Callable
from typing import Final

import msgspec

from bench import plain_load, rivals
from bench.cases import ANSWER_BYTES, CHAT, FURTHER, Case
from bench.contestants import DIRECT, GATEWAY, GATEWAY_MEASURED, NOTES, Contestant
from bench.machine import describe
from bench.peers.install import LITELLM, PORTKEY, why_missing
from bench.plain_load import Manner
from bench.postgres import start_postgres
from bench.processes import BenchError, Ground
from bench.programs import missing
from bench.results import Drain, Memory, PlainRound, Results, Stand, of
from bench.stream_load import stream_model
from bench.subject import END_USERS, MEASURED, PAID, Subject
from bench.turns import Turns, each_us
from bench.upstreams import start_upstreams

_CONNECTIONS: Final = 64
_DRAIN_WAIT_S: Final = 120.0


class Plan(msgspec.Struct, frozen=True):
    """How long and how often."""

    seconds: float = 2.0  # many short turns: what other guests do to a machine changes within seconds
    rounds: int = 7
    peer_rounds: int = 3  # of the peers, in the first of the rounds
    further_rounds: int = 2  # of everybody, in the further cases and with two workers
    streams: int = 200
    stream_rate: int = 50
    stream_seconds: float = 3.0
    many_streams: int = 1000
    many_rate: int = 20
    drain_events: int = 20_000
    postgres: bool = True
    peers: bool = True
    two_workers: bool = True
    patience_s: float = 300.0  # how long, in all, turns may wait for a machine at rest and be repeated when it was not


class Run:
    """One run on one ground."""

    def __init__(self, ground: Ground, plan: Plan, say: Callable[[str], None]) -> None:
        self._ground = ground
        self._plan = plan
        self._say = say
        self.results = Results(machine=describe(), settings=_settings(ground, plan), notes=NOTES)

    def everything(self) -> Results:
        """All scenarios, in order; what cannot be measured here is named in `skipped`."""
        absent = missing()
        self.results.skipped += [f"{name} is not installed" for name in absent]
        if set(absent) & {"nginx", "wrk", "redis-server"}:
            raise BenchError("nginx, wrk and redis-server (or valkey-server) are needed: apt-get install nginx wrk redis-server")
        self._upstreams = start_upstreams(self._ground)
        self._redis, redis_url = rivals.start_redis(self._ground)
        self._subject = Subject(self._ground, self._upstreams, redis_url)
        self._start_up()
        self._subject.start_worker()
        self._subject.set_up()
        self._turns = Turns(self._ground, self._subject, self._redis, self._plan.patience_s, self._say)
        self._contestants = self._line_up()
        worker_before = self._subject.worker.cpu_s()
        self._plain()
        self._books("plain requests")
        events = sum(books.in_books for books in self.results.books)
        self.results.worker_cpu_us = (self._subject.worker.cpu_s() - worker_before) * 1e6 / events
        self._after_load()
        after_load_mb = self._subject.web.rss_mb()
        self._streams()
        self._books("streams")
        self._many_streams(after_load_mb)
        self._books("many streams")
        self._further()
        self._books("further cases")
        if self._plan.two_workers:
            self._two_workers()
            self._books("two workers")
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
        self.results.stands[GATEWAY] = Stand(statistics.median(again), round(self._idle_mb, 1), 0.0)

    def _line_up(self) -> list[Contestant]:
        """Everybody who can take part, each warm and seen to give the right answer."""
        up = self._upstreams
        rival = [rivals.start_nginx(self._ground, up), rivals.start_haproxy(self._ground, up), *self._start_peers()]
        line = [up.direct(), *[one for one in rival if one is not None and not one.peer], *self._ours()]
        line += [one for one in rival if one is not None and one.peer]
        time.sleep(1.0)
        for one in line:
            if one.start_s:
                self.results.stands[one.name] = Stand(round(one.start_s, 3), round(_rss_mb(one), 1), 0.0)
        return self._warm(line, CHAT)

    def _start_peers(self) -> list[Contestant]:
        if not self._plan.peers:
            return []
        stream = stream_model(self._plan.stream_rate, round(self._plan.stream_rate * self._plan.stream_seconds))
        starts: dict[str, Callable[[], Contestant]] = {
            LITELLM: lambda: rivals.start_litellm(self._ground, self._upstreams, stream),
            PORTKEY: lambda: rivals.start_portkey(self._ground, self._upstreams),
        }
        started = []
        for name, start in starts.items():
            reason = why_missing(name)
            if not reason:
                self._say(f"starting {name}")
                try:
                    started.append(start())
                except BenchError as failed:
                    reason = f"did not start: {str(failed)[-500:]}"
            if reason:
                self._skip(f"{name} {reason}")
        return started

    def _ours(self) -> list[Contestant]:
        return [
            Contestant(name, dict.fromkeys(self._upstreams.ports, self._subject.door(app)), enterprise_id=app)
            for name, app in ((GATEWAY, PAID), (GATEWAY_MEASURED, MEASURED))
        ]

    def _warm(self, line: list[Contestant], case: Case) -> list[Contestant]:
        """Those of them that give the right answers. Where the upstream or the gateway does not, the run is spoilt."""
        right = []
        for one in line:
            try:
                made = self._turns.warm_up(one, case, _CONNECTIONS)
            except BenchError as wrong:
                if one.name == DIRECT or one.enterprise_id:
                    raise
                self._skip(f"{one.name}, {case.title}: {str(wrong)[:300]}")
                continue
            right.append(one)
            if one.peer and made.load.body_bytes != case.answer_bytes:
                self._say(f"{one.name} writes {made.load.body_bytes} bytes for the upstream's {case.answer_bytes}")
        return right

    def _skip(self, reason: str) -> None:
        self._say(f"left out: {reason}")
        self.results.skipped.append(" ".join(reason.split()))

    def _after_load(self) -> None:
        stands = self.results.stands
        for one in self._contestants:
            if one.name in stands:
                stands[one.name] = msgspec.structs.replace(stands[one.name], after_load_mb=round(_rss_mb(one), 1))

    # ---- scenarios -----------------------------------------------------------------------------

    def _takes_turn(self, one: Contestant, number: int) -> bool:
        return not one.peer or number < self._plan.peer_rounds

    def _full_load(self, line: list[Contestant], case: Case, number: int) -> list[PlainRound]:
        manner, where = Manner(_CONNECTIONS, self._plan.seconds), f"{case.name}, round {number + 1}, {_CONNECTIONS} connections"
        return [
            self._turns.quietly(self._turns.plain, one, case, where, manner) for one in line if self._takes_turn(one, number)
        ]

    def _plain(self) -> None:
        for number in range(self._plan.rounds):
            self.results.full_load += self._full_load(self._contestants, CHAT, number)
            for one in self._contestants:
                if self._takes_turn(one, number):
                    where = f"round {number + 1}, 1 connection"
                    made = self._turns.quietly(self._turns.plain, one, CHAT, where, Manner(1, self._plan.seconds / 2))
                    self.results.one_connection.append(made)
        for number in range(self._plan.rounds):
            for one in self._contestants:
                if self._takes_turn(one, number):
                    # Everybody at half of what the gateway carries: the added time is compared at one and the same rate.
                    # A peer that does not carry that: at half of what it carries itself.
                    rate = self._full_rate(one.name if one.peer else GATEWAY) / 2
                    where = f"round {number + 1}, half load"
                    manner = Manner(_CONNECTIONS, self._plan.seconds, pause_ms=_CONNECTIONS / rate * 1000)
                    self.results.half_load.append(self._turns.quietly(self._turns.plain, one, CHAT, where, manner))

    def _full_rate(self, name: str) -> float:
        return statistics.median(each.load.requests_per_s for each in of(self.results.full_load, name))

    def _streams(self) -> None:
        plan = self._plan
        for number in range(plan.rounds):
            for one in self._contestants:
                if self._takes_turn(one, number):
                    streams = min(plan.streams, one.streams or plan.streams)
                    made = self._turns.quietly(self._turns.streams, one, streams, plan.stream_rate, plan.stream_seconds)
                    self.results.streams.append(made)

    def _many_streams(self, after_load_mb: float) -> None:
        plan = self._plan
        for one in self._contestants:
            if one.name in (DIRECT, GATEWAY):
                made = self._turns.quietly(self._turns.streams, one, plan.many_streams, plan.many_rate, plan.stream_seconds)
                self.results.many_streams.append(made)
        self.results.memory = Memory(
            round(self._idle_mb, 1), round(after_load_mb, 1), plan.many_streams, self.results.many_streams[-1].rss_mb
        )

    def _further(self) -> None:
        """Other kinds of requests, at full load."""
        for case in FURTHER:
            line = [one for one in self._contestants if case.door in one.doors]
            if not line:
                self._skip(f"{case.title}: openssl is needed")
                continue
            line = self._warm(line, case)
            rounds = self.results.further.setdefault(case.title, [])
            for number in range(self._plan.further_rounds):
                rounds += self._full_load(line, case, number)

    def _two_workers(self) -> None:
        """Two workers on two cores, of those that have such a setting."""
        if not self._ground.pinned:
            self._skip("two workers: the machine has one core")
            return
        self._subject.web.stop()
        self._subject.start_web(workers=2)
        line = [rivals.start_nginx(self._ground, self._upstreams, workers=2), *self._ours()]
        if any(one.name == LITELLM for one in self._contestants):
            try:
                line.append(rivals.start_litellm(self._ground, self._upstreams, stream_model(1, 1), workers=2))
            except BenchError as failed:
                self._skip(f"{LITELLM} with two workers did not start: {str(failed)[-500:]}")
        line = self._warm(line, CHAT)
        for number in range(self._plan.further_rounds):
            self.results.two_workers += self._full_load(line, CHAT, number)
        for one in line:
            if not one.enterprise_id:
                one.doors["plain"].process.stop()
        self._subject.wait_until_drained()
        self._subject.web.stop()
        self._subject.start_web()

    def _drain(self, subject: Subject, store: str) -> Drain:
        """Stop the worker, serve until so many events wait, start one on the measured core, and time it once it is at work."""
        subject.worker.stop()
        while (waiting := subject.backlog()) < self._plan.drain_events:
            manner = Manner(_CONNECTIONS, self._plan.seconds, end_users=END_USERS)
            load = plain_load.run(self._ground, subject.door(PAID), CHAT, manner)
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
        made = Drain(store, waiting, round(first / took_s, 1), each_us(worker.cpu_s() - cpu_before, max(first, 1)))
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


def _rss_mb(one: Contestant) -> float:
    return one.doors["plain"].process.rss_mb()


def _settings(ground: Ground, plan: Plan) -> dict[str, float]:
    return {
        **{name: float(value) for name, value in msgspec.structs.asdict(plan).items()},
        "connections": _CONNECTIONS,
        "end_users": END_USERS,
        "answer_bytes": ANSWER_BYTES,
        "measured_core_alone": float(ground.pinned),
        "second_measured_core_alone": float(ground.second_core_alone),
    }

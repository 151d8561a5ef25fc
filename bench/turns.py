"""One turn of one contestant: the load, the CPU it took, and whether the machine was at rest meanwhile."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from bench import plain_load
from bench.cases import Case
from bench.contestants import Contestant
from bench.plain_load import Manner
from bench.processes import BenchError, Ground, Process, Strangers, child_environment
from bench.results import PlainRound, StreamRound
from bench.stream_load import FRAMES_AROUND, StreamLoad, stream_headers
from bench.subject import END_USERS, Subject

_QUIET: Final = 0.05  # share of the machine that others may use; in a turn twice that, as the kernel works for us too
_QUIET_LOOK_S: Final = 0.5
_FULL_SPEED: Final = 1.2  # times the shortest time of a fixed piece of work
_SAME_ANSWER: Final = 0.03  # by how much an answer's size on the wire may differ from that of the checked ones
_WARM_UPS: Final = 4  # at most
_SLOW_TIMES: Final = 2  # as long as others' is a slow one's turn

Round = TypeVar("Round", PlainRound, StreamRound)


class Turns:
    """Drives contestants on one ground. `patience_s`: how long, in all, turns may wait for a machine at rest and be repeated."""

    def __init__(self, ground: Ground, subject: Subject, redis: Process, patience_s: float, say: Callable[[str], None]) -> None:
        self._ground = ground
        self._subject = subject
        self._redis = redis
        self._patience_s = patience_s
        self._say = say
        self._best_pace_ms = min(ground.pace_ms() for _ in range(20))
        self._wire_bytes: dict[tuple[str, str], float] = {}

    def warm_up(self, contestant: Contestant, case: Case, connections: int) -> PlainRound:
        """A turn that is no figure, or a few, in which every answer is looked at; BenchError when one of them is not right."""
        manner = Manner(connections, contestant.warm_up_s, checked=True)
        served = 0
        for _ in range(_WARM_UPS):
            made = self.plain(contestant, case, f"{case.name}, warm-up", manner)
            if made.load.failed:
                tail = contestant.doors[case.door].process.tail()
                raise BenchError(f"{contestant.name} gives wrong answers: {made.load}\n{tail}")
            served += made.load.served
            if served >= contestant.warm_up_requests:
                break
        self._wire_bytes[contestant.name, case.name] = made.load.wire_bytes
        return made

    def quietly(self, turn: Callable[..., Round], *given: Any) -> Round:
        """One turn while the machine is quiet and at its full speed, as far as patience goes; a disturbed turn is repeated."""
        while True:
            began = time.monotonic()
            while self._patience_s > 0 and not self._is_calm():
                self._patience_s -= time.monotonic() - began
                began = time.monotonic()
            made = turn(*given)
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

    def plain(self, contestant: Contestant, case: Case, where: str, manner: Manner) -> PlainRound:
        """One load of plain requests; of our own, they are counted for the books."""
        ours, door = bool(contestant.enterprise_id), contestant.doors[case.door]
        if ours:
            self._subject.wait_until_drained()
        manner = msgspec.structs.replace(
            manner,
            seconds=manner.seconds * (_SLOW_TIMES if contestant.slow else 1),
            end_users=END_USERS if ours else 0,
            exact=contestant.exact,
            slow=contestant.slow,
        )
        pace_ms, strangers = self._ground.pace_ms(), Strangers()
        cpu, redis = door.process.cpu_s(), self._redis.cpu_s()
        load = plain_load.run(self._ground, door, case, manner)
        cpu, redis, share = door.process.cpu_s() - cpu, self._redis.cpu_s() - redis, strangers.share()
        if not load.served:
            raise BenchError(f"{contestant.name} answered nothing: {load}\n{door.process.tail()}")
        if ours:
            self._subject.count(contestant.enterprise_id, load.served)
        self._check_size(contestant, case, load)
        redis_us = each_us(redis, load.served) if ours else 0.0
        made = PlainRound(contestant.name, each_us(cpu, load.served), redis_us, load, share, pace_ms)
        self._say(
            f"{where}: {contestant.name}: {made.cpu_us:.1f} us CPU, {load.requests_per_s:.0f}/s, "
            f"p50 {load.p50_us} us, p99 {load.p99_us} us, others {share:.0%}, pace {pace_ms}"
            + (f", REFUSED {load.refused}, BROKEN {load.broken}, WRONG {load.wrong}" if load.failed else "")
        )
        return made

    def _check_size(self, contestant: Contestant, case: Case, load: plain_load.PlainLoad) -> None:
        """Where not every answer is looked at, their size on the wire must be that of those which were."""
        checked = self._wire_bytes.get((contestant.name, case.name))
        if checked and not load.refused and abs(load.wire_bytes - checked) > _SAME_ANSWER * checked:
            raise BenchError(f"{contestant.name}: answers of {load.wire_bytes} bytes, and {checked} when they were looked at")

    def streams(self, contestant: Contestant, streams: int, rate: int, seconds: float) -> StreamRound:
        """One load of streams."""
        door = contestant.doors["streams"]
        chunks = round(rate * seconds)
        ramp_s = max(1.0, streams / 500)
        if contestant.enterprise_id:
            self._subject.wait_until_drained()
        command = [sys.executable, "-m", "bench.stream_load", "--port", str(door.port), "--ramp", str(ramp_s)]
        for name, value in (("streams", streams), ("rate", rate), ("chunks", chunks), ("end-users", END_USERS)):
            command += [f"--{name}", str(value)]
        command += stream_headers(door)
        pace_ms, strangers = self._ground.pace_ms(), Strangers()
        cpu = door.process.cpu_s()
        with _Watermark(door.process) as highest:
            finished = self._ground.run(command, timeout_s=120, env=child_environment())
        cpu, share = door.process.cpu_s() - cpu, strangers.share()
        if finished.returncode or not finished.stdout:
            raise BenchError(f"the stream load failed: {finished.stderr[-2000:]}")
        load = msgspec.json.decode(finished.stdout, type=StreamLoad)
        if not load.frames:
            raise BenchError(f"{contestant.name} streamed nothing: {load}\n{door.process.tail()}")
        if contestant.enterprise_id:
            self._subject.count(contestant.enterprise_id, load.served)
        late_s = round(load.seconds - ramp_s - seconds, 2)
        cpu_us = each_us(cpu, max(load.frames - FRAMES_AROUND * load.streams, 1))
        made = StreamRound(contestant.name, rate, cpu_us, round(highest.mb, 1), late_s, load, share, pace_ms)
        self._say(
            f"{load.streams} streams at {made.rate}/s: {made.contestant}: {made.cpu_us:.1f} us CPU a chunk, "
            f"dropped {load.dropped}, served {load.served}, late {made.late_s} s, "
            f"delay p50 {load.delay_p50_us} us p99 {load.delay_p99_us} us, {made.rss_mb} MB, others {share:.0%}, pace {pace_ms}"
        )
        return made


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


def each_us(seconds: float, count: int) -> float:
    """Microseconds each."""
    return round(seconds * 1e6 / count, 2)

"""Where the gateway's CPU time goes, by step of the exchange and by function.

By py-spy where it is installed (`pip install py-spy`), else by cProfile.
py-spy looks from outside, 200 times a second, without stopping the process, so its shares are true;
cProfile counts every call from inside, so its shares favour small functions and its microseconds are
inflated, and it cannot tell steps. The summary is a text file in `bench/results/`, and what is printed.
Time varies with the machine; what does not is counted by `bench.counts`, by the same steps.
"""

import pstats
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import plain_load, rivals
from bench.cases import CHAT
from bench.counts import steps
from bench.plain_load import Manner
from bench.processes import BenchError, Ground, Process, child_environment, descendants
from bench.programs import missing
from bench.stream_load import StreamLoad, stream_headers
from bench.subject import END_USERS, MEASURED, PAID, Subject
from bench.upstreams import start_upstreams

CASES: Final = ("plain", "measured", "stream")
_ROOT: Final = Path(__file__).parent.parent
_HZ: Final = 200
_ROWS: Final = 45
_STREAMS: Final = 200
_STREAM_RATE: Final = 50


class Work(msgspec.Struct, frozen=True):
    """What was done while the profiler looked: `count` of `unit`, and the CPU that each took."""

    unit: str
    count: int
    cpu_us: float


def run(ground: Ground, seconds: float, case: str, folder: Path) -> str:
    """Drive one case and return the summary; it is also written to `profile-<case>.txt`."""
    if set(missing()) & {"nginx", "wrk", "redis-server"}:
        raise BenchError("nginx, wrk and redis-server (or valkey-server) are needed: apt-get install nginx wrk redis-server")
    upstreams = start_upstreams(ground)
    _, redis_url = rivals.start_redis(ground)
    subject = Subject(ground, upstreams, redis_url)
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    counted = ground.directory / "cprofile.out"
    subject.start_web(None if spy else [sys.executable, "-m", "cProfile", "-o", str(counted), "-m", "gateway.cli.main", "serve"])
    subject.start_worker()
    subject.set_up()
    _drive(ground, subject, case, 1.0)
    if spy:
        stacks = ground.directory / "stacks.txt"
        pid = _busiest(subject.web)
        command = [spy, "record", "--nonblocking", "--threads", "--function", "--pid", str(pid), "--rate", str(_HZ)]
        command += ["--duration", str(round(seconds)), "--format", "raw", "--output", str(stacks)]
        watcher = ground.start("py-spy", command)
        work = _drive(ground, subject, case, seconds)
        watcher.wait(30)
        if not stacks.exists():
            raise BenchError(f"py-spy wrote nothing:\n{watcher.tail()}")
        said = _from_stacks(stacks.read_text(), work)
    else:
        work = _drive(ground, subject, case, seconds)
        subject.web.stop()
        said = _from_counts(counted, work)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"profile-{case}.txt").write_text(said + "\n")
    return said


def _busiest(web: Process) -> int:
    """The process that serves: the one of the tree that has used the most CPU."""
    own: Callable[[int], int] = lambda pid: sum(  # noqa: E731
        int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    )
    return max(descendants(web.pid), key=own)


def _drive(ground: Ground, subject: Subject, case: str, seconds: float) -> Work:
    before = subject.web.cpu_s()
    if case == "stream":
        chunks = round(seconds * _STREAM_RATE)
        command = [
            sys.executable, "-m", "bench.stream_load", "--port", str(subject.port), "--streams", str(_STREAMS), "--ramp", "0.5",
            "--rate", str(_STREAM_RATE), "--chunks", str(chunks), "--end-users", str(END_USERS),
            *stream_headers(subject.door(PAID)),
        ]  # fmt: skip
        finished = ground.run(command, 120, env=child_environment())
        if finished.returncode:
            raise BenchError(f"the stream load failed: {finished.stderr[-2000:]}")
        unit, count = "chunk", msgspec.json.decode(finished.stdout, type=StreamLoad).frames
    else:
        app = subject.apps[MEASURED if case == "measured" else PAID]
        door = subject.door(app.enterprise_id)
        load = plain_load.run(ground, door, CHAT, Manner(64, seconds, end_users=END_USERS))
        unit, count = "request", load.served
    if not count:
        raise BenchError(f"the gateway answered nothing:\n{subject.web.tail()}")
    return Work(unit, count, (subject.web.cpu_s() - before) * 1e6 / count)


def _from_stacks(raw: str, work: Work) -> str:
    """Lines are `outer (file:line);inner (file:line) samples`."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    by_step: Counter[str] = Counter()
    samples = 0
    for line in raw.splitlines():
        stack, _, seen = line.rpartition(" ")
        thread, *frames = [_short(frame) for frame in stack.split(";")]
        if "MainThread" not in thread or not frames:  # SQLite's threads wait for work, which py-spy takes for work
            continue
        samples += int(seen)
        own[frames[-1]] += int(seen)
        by_step[_step(frames)] += int(seen)
        for frame in set(frames):
            within[frame] += int(seen)
    return "\n\n".join(
        [
            f"{work.count} {work.unit}s, {work.cpu_us:.1f} us of CPU each; {samples} samples of the main thread by py-spy",
            _ranked("By step of the exchange", by_step, samples, work),
            _ranked("In the function itself", own, samples, work),
            _ranked("In the function and what it calls", within, samples, work),
        ]
    )


def _step(frames: Sequence[str]) -> str:
    """The step of the innermost function that has one; what it calls counts for it."""
    found = _LOOP
    for frame in frames:
        function, _, place = frame.rstrip(")").partition(" (")
        path = place.partition(":")[0].rpartition("gateway/")[2]
        if place.startswith("gateway/"):
            known = _STEPS.get((path, function.rpartition(".")[2])) or steps.OF_FILE.get(path)
            found = known or (_LINK if found == _LOOP and path == "balance/redis_link.py" else found)
    return found


_LOOP: Final = "the event loop and the kernel's network"
_LINK: Final = "reserve or settle: writing to Redis, reading replies"
_STEPS: Final = {(path, function.rpartition(".")[2]): step for (path, function), step in steps.OF_FUNCTION.items()}


def _ranked(title: str, counted: Counter[str], samples: int, work: Work) -> str:
    lines = [f"{title}: us a {work.unit}, share"]
    for frame, seen in counted.most_common(_ROWS):
        lines.append(f"  {seen / samples * work.cpu_us:7.1f}  {seen / samples:6.1%}  {frame}")
    return "\n".join(lines)


def _from_counts(counted: Path, work: Work) -> str:
    stats = pstats.Stats(str(counted)).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in stats.values())
    parts = [f"{work.count} {work.unit}s, {work.cpu_us:.1f} us of CPU each, inflated: every call was counted by cProfile"]
    for title, column in (("In the function itself", 2), ("In the function and what it calls", 3)):
        ranked = sorted(stats.items(), key=lambda item: float(item[1][column]), reverse=True)[:_ROWS]
        lines = [
            f"  {entry[column] / total:6.1%}  {entry[1] / work.count:7.2f}  {name} ({_path(file)}:{line})"
            for (file, line, name), entry in ranked
        ]
        parts.append("\n".join([f"{title}: share of all CPU time, calls a {work.unit}", *lines]))
    return "\n\n".join(parts)


def _short(frame: str) -> str:
    name, _, place = frame.partition(" (")
    return f"{name} ({_path(place.rstrip(')'))})"


def _path(path: str) -> str:
    """A path as it is imported, without where it is installed."""
    for mark in ("site-packages/", f"{_ROOT}/"):
        path = path.rpartition(mark)[2]
    return path

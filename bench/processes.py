"""Child processes: pinned to cores, measured through /proc, and stopped by pid whatever happens.

Linux only. CPU times are seconds of user and system time, of the whole process tree.
"""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG: Final = 1
_STOP_S: Final = 15.0
_LIBC: Final = ctypes.CDLL(None)


class BenchError(Exception):
    """The benchmark cannot go on; one sentence says why."""


def descendants(pid: int) -> list[int]:
    """`pid` and every process under it that is alive."""
    found, at = [pid], 0
    while at < len(found):
        for task in Path(f"/proc/{found[at]}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
        at += 1
    return found


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the name may hold spaces; field 3 is the first of these


def cpu_s(pid: int) -> float:
    """User and system time of the tree: of what lives, and of the children that it has reaped."""
    total = 0
    for one in descendants(pid):
        fields = _stat(one)
        total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree; pages that two processes share count twice."""
    return sum(int(fields[21]) * _PAGE_BYTES for one in descendants(pid) if (fields := _stat(one)))


class Strangers:
    """How much of the machine others use while we measure: made at the beginning, read at the end."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._before = _busy_s() - cpu_s(os.getpid())

    def share(self) -> float:
        """0 to 1 of all cores; a few hundredths are the kernel's own work for us."""
        used = _busy_s() - cpu_s(os.getpid()) - self._before
        return round(max(0.0, used / ((time.monotonic() - self._at) * (os.cpu_count() or 1))), 3)


def _busy_s() -> float:
    user, nice, system, _, _, *others = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    return sum(int(field) for field in (user, nice, system, *others)) / _TICKS


class Process:
    """One child and its log."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        """The pid of the tree's root."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def cpu_s(self) -> float:
        """See `cpu_s`."""
        return cpu_s(self.pid)

    def rss_mb(self) -> float:
        """Resident memory in MB (10^6 bytes)."""
        return rss_bytes(self.pid) / 1e6

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def wait(self, timeout_s: float) -> None:
        """Until it ends by itself; BenchError when it does not."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired as late:
            raise BenchError(f"{self.name} did not end:\n{self.tail()}") from late

    def stop(self) -> None:
        """Ask it to end; after a while, end it and what it left behind."""
        tree = descendants(self.pid)
        if self.running:
            self._popen.terminate()
            try:
                self._popen.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        deadline = time.monotonic() + _STOP_S
        for pid in tree[1:]:
            if _started_by(pid, self.pid):
                os.kill(pid, signal.SIGKILL)
            while _started_by(pid, self.pid) and time.monotonic() < deadline:
                time.sleep(0.001)


def _started_by(pid: int, session: int) -> bool:
    """Whether that pid is still the process we knew: each child of ours leads a session of its own."""
    fields = _stat(pid)
    return bool(fields) and int(fields[3]) == session and fields[0] != "Z"


class Ground:
    """Where a run takes place: a scratch directory, two sets of cores, and every process that was started."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        cores = sorted(os.sched_getaffinity(0))
        self.subject_cores = {cores[0]}
        self.pinned = len(cores) > 1
        self.second_core_alone = len(cores) > 3  # then it stays empty but for what is measured on two
        self.wide_cores = set(cores[:2])
        self.other_cores = set(cores[2 if self.second_core_alone else 1 :]) or {cores[0]}
        self._all_cores = set(cores)

    def __enter__(self) -> Self:
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self._before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
        os.sched_setaffinity(0, self.other_cores)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a second Ctrl-C must not leave processes behind
            signal.signal(number, signal.SIG_IGN)
        self._stack.close()
        os.sched_setaffinity(0, self._all_cores)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def scratch(self, name: str) -> Path:
        """A further scratch directory with a short path, removed at the end."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True)))

    def at_end(self, stop: Callable[[], object]) -> None:
        """Call this when the ground is left, before what stood already is stopped."""
        self._stack.callback(stop)

    def pace_ms(self) -> float:
        """CPU milliseconds of one fixed piece of Python on the measured core: the speed of a rented machine varies."""
        os.sched_setaffinity(0, self.subject_cores)
        try:
            return round(min(_fixed_work_s() for _ in range(3)) * 1000, 2)
        finally:
            os.sched_setaffinity(0, self.other_cores)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        subject: bool = False,
        wide: bool = False,
        env: Mapping[str, str] | None = None,
        nice: int = 0,
    ) -> Process:
        """Start a child; `subject` puts it on the measured core, `wide` on that and a second. It dies with this process."""
        cores = self.wide_cores if wide else self.subject_cores if subject else self.other_cores
        log = self.directory / f"{name}.log"
        with log.open("ab") as out:
            popen = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                cwd=self.directory,
                start_new_session=True,
                preexec_fn=_before_exec(cores, nice),
            )
        process = Process(name, popen, log)
        self._stack.callback(process.stop)
        return process

    def run(
        self, command: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a short-lived child on the other cores and return what it printed."""
        return subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=dict(env) if env is not None else None,
            cwd=self.directory,
            preexec_fn=_before_exec(self.other_cores, 0),
        )


def _fixed_work_s() -> float:
    began = time.thread_time()
    seen: dict[str, int] = {}
    for number in range(20_000):
        seen[f"{number % 4096:x}"] = number * number
    return time.thread_time() - began


def _interrupt(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _before_exec(cores: set[int], nice: int) -> Callable[[], None]:
    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, cores)
        os.nice(nice)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    return prepare


def child_environment() -> dict[str, str]:
    """What a child needs to run Python modules of ours, and nothing that could configure it: the very modules of this process."""
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, sys.path)])
    return {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "PYTHONPATH": path}


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(process: Process, port: int, timeout_s: float = 10.0) -> None:
    """Until somebody listens there; BenchError when the process ends or the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            _give_up(process, deadline)
            time.sleep(0.01)
        else:
            return


def wait_for_200(process: Process, url: str, timeout_s: float) -> None:
    """Until a GET answers 200; BenchError as above."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2.0) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        _give_up(process, deadline)
        time.sleep(0.005)


def _give_up(process: Process, deadline: float) -> None:
    if not process.running or time.monotonic() > deadline:
        raise BenchError(f"{process.name} did not start:\n{process.tail()}")

"""Commands in processes of their own, each forked from one that has imported the gateway and done nothing else.

What a command does is the same as in a process that was started for it, less the second of CPU that importing takes. So are
`gateway serve` and `gateway worker` (`start_command`), but for where they are started as the program that they are: the
session's gateway, the demo's, and those of tests/path/test_processes.py and test_embedded_store.py.
"""

import atexit
import functools
import gc
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import NoReturn

import msgspec

ROOT = Path(__file__).parent.parent


class _Wish(msgspec.Struct):
    """A command to run: its words and environment, and the files that take what it writes.

    `told`: a pipe that takes its id and then the status of its end, while others are run; "" for one that is waited for.
    """

    args: Sequence[str]
    env: dict[str, str]
    out: str
    err: str
    told: str = ""


class _Forks:
    """The process that forks: a wish a line, the status of its end a line."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.commands"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        self._one_at_a_time = threading.Lock()
        atexit.register(self._end)

    def run(self, wish: _Wish) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._one_at_a_time:
            self._process.stdin.write(msgspec.json.encode(wish) + b"\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


_forks = functools.cache(_Forks)


def run_command(args: Sequence[str], env: dict[str, str]) -> CompletedProcess[str]:
    """`gateway ARGS` with this environment and nothing of ours; its status and what it wrote."""
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        status = _forks().run(_Wish(args, env, out.name, err.name))
        return CompletedProcess(["gateway", *args], status, out.read().decode(), err.read().decode())


class Started:
    """A command that goes on: what the tests use of `subprocess.Popen`, which only a process's own parent can be."""

    def __init__(self, args: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.args = ["gateway", *args]
        self.returncode: int | None = None
        self._one_at_a_time = threading.Lock()
        self._line = b""
        with tempfile.TemporaryDirectory(prefix="mzk-fork-") as folder:
            told = f"{folder}/told"
            os.mkfifo(told, 0o600)
            self._told = os.open(told, os.O_RDONLY | os.O_NONBLOCK)
            assert _forks().run(_Wish(args, env, str(log), str(log), told)) == 0
            found = self._next_line(time.monotonic() + 60)
        assert found is not None, "it was not forked"
        self.pid = found

    def poll(self) -> int | None:
        """The status of its end, negative for a signal's number; None while it runs."""
        return self._ended(time.monotonic())

    def wait(self, timeout: float | None = None) -> int:
        """The status of its end. TimeoutExpired."""
        status = self._ended(time.monotonic() + (86_400 if timeout is None else timeout))
        if status is None:
            raise TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, sign: int) -> None:
        """Nothing happens when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sign)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, until: float) -> int | None:
        with self._one_at_a_time:
            if self.returncode is None:
                self.returncode = self._next_line(until)
                if self.returncode is not None:
                    os.close(self._told)
            return self.returncode

    def _next_line(self, until: float) -> int | None:
        while not self._line.endswith(b"\n"):
            if not select.select([self._told], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            read = os.read(self._told, 1)  # no more: what follows is another line
            assert read, "who waits for it was killed"
            self._line += read
        number, self._line = int(self._line), b""
        return number


def start_command(args: Sequence[str], env: dict[str, str], log: Path) -> Started:
    """`gateway ARGS` with this environment and nothing of ours, writing to the end of `log`, until it ends."""
    return Started(args, env, log)


def _become(wish: _Wish) -> NoReturn:
    from gateway.cli.main import main

    os.environ.clear()
    os.environ.update(wish.env)
    for name, number in ((os.devnull, 0), (wish.out, 1), (wish.err, 2)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["gateway", *wish.args]
    if wish.told:
        main()
        sys.exit(0)  # in good order, as the program would: what keeps it from ending shows
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking what was imported down in good order takes longer than most commands


def _wait_for(wish: _Wish) -> None:
    """In a process beside it, which is its parent: start a command that goes on, and tell of its end."""
    child = os.fork()
    if not child:
        _become(wish)
    with open(wish.told, "wb", buffering=0) as told:
        told.write(b"%d\n" % child)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told.write(b"%d\n" % status)
    os._exit(0)


def _still(waiting: set[int]) -> set[int]:
    """Those of them that wait; the others are done."""
    return {each for each in waiting if not os.waitpid(each, os.WNOHANG)[0]}


def _serve() -> None:
    import gateway.cli.main  # noqa: F401  (what every fork has already)

    gc.freeze()  # a collection in a fork would copy the pages of all of it
    waiting: set[int] = set()
    for line in sys.stdin.buffer:
        wish = msgspec.json.decode(line, type=_Wish)
        child = os.fork()
        if not child:
            if wish.told:
                _wait_for(wish)
            _become(wish)
        if wish.told:
            waiting = _still({*waiting, child})
            print(0, flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    _still(waiting)  # so that what they took counts as these tests'


if __name__ == "__main__":
    _serve()

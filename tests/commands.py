"""Commands in processes of their own, each forked from one that has imported the gateway and done nothing else.

What a command does is the same as in a process that was started for it, less the second of CPU that importing takes; that
the program itself starts is seen wherever `gateway serve` is, and in tests/path/test_processes.py.
"""

import atexit
import functools
import gc
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import msgspec

ROOT = Path(__file__).parent.parent


class _Wish(msgspec.Struct):
    """A command to run: its words and environment, and the files that take what it writes."""

    args: Sequence[str]
    env: dict[str, str]
    out: str
    err: str


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


def _become(wish: _Wish) -> None:
    from gateway.cli.main import main

    os.environ.clear()
    os.environ.update(wish.env)
    for name, number in ((os.devnull, 0), (wish.out, 1), (wish.err, 2)):
        opened = os.open(name, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["gateway", *wish.args]
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking what was imported down in good order takes longer than most commands


def _serve() -> None:
    import gateway.cli.main  # noqa: F401  (what every fork has already)

    gc.freeze()  # a collection in a fork would copy the pages of all of it
    for line in sys.stdin.buffer:
        child = os.fork()
        if not child:
            _become(msgspec.json.decode(line, type=_Wish))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()

"""What a newcomer does: start it with nothing set, paste what it prints, look at the books."""

import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run_command
from tests.path.conftest import Process, free_port, plain_env


class Demo:
    def __init__(self, folder: Path, *extra: str) -> None:
        self.env = plain_env(MOZAIKS_DATA_DIR=str(folder / "data"), MOZAIKS_PORT=str(free_port()))
        self.folder = folder
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        log = self.folder / f"serve-{self.starts}.log"
        self.process = Process([sys.executable, "-m", "gateway.cli.main", "serve"], self.env, log)
        self.process.wait_for(r"--app demo-app --events")
        # What is printed can be tried at once: nothing here waits for the port.
        socket.create_connection(("127.0.0.1", int(self.env["MOZAIKS_PORT"])), timeout=60).close()
        self.banner = log.read_text()

    def curl(self) -> str:
        line = re.search(r"curl -N .*?-d '.*?'\n", self.banner, re.DOTALL)
        assert line is not None
        words = shlex.split(line.group().replace("\\\n", " "))
        return subprocess.run([*words, "-s"], capture_output=True, text=True, timeout=60, check=True).stdout

    def cli(self, *args: str, status: int = 0) -> str:
        done = run_command(args, self.env)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path)
    try:
        running.start()
        yield running
    finally:
        running.process.stop()


def test_the_printed_lines_work_as_printed_and_the_books_show_it(demo: Demo) -> None:
    streamed = demo.curl()
    assert streamed.count("data: {") > 5
    assert streamed.endswith("data: [DONE]\n\n")
    snippet = re.search(r"    from openai import OpenAI\n.*?print\([^\n]*\)\n", demo.banner, re.DOTALL)
    assert snippet is not None
    code = "\n".join(line.removeprefix("    ") for line in snippet.group().splitlines())
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert len(said.split()) > 5
    listed = demo.cli("usage", "--app", "demo-app", "--events")
    assert listed.count("demo-user") == 2
    assert "demo-app" in demo.cli("usage")
    assert "VIOLATED" not in demo.cli("audit")


def test_what_nobody_configured_is_not_in_memory(demo: Demo) -> None:
    """Translation is loaded where a deployment needs it: with it the process would have more than the budget allows."""
    pid = demo.process.child.pid
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "msgspec" in mapped
    assert "pydantic_core" not in mapped, "litellm is loaded, which brings it along"
    resident = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert resident is not None
    assert int(resident.group(1)) < 120_000


def test_it_stops_cleanly_and_a_second_start_finds_everything(demo: Demo) -> None:
    demo.curl()
    key = re.search(r"mzk_live_\w+", demo.banner)
    assert key is not None
    assert demo.process.stop() == 0
    assert "Traceback" not in demo.process.log.read_text()
    said = demo.cli("doctor", status=1)  # at once, not when their signs of life are old
    assert re.search(r"WARNING +worker +None has shown itself", said)
    assert re.search(r"PROBLEM +web processes +None on port", said)
    assert "demo-user" in demo.cli("usage", "--app", "demo-app", "--events")  # starts the store for itself, and stops it
    demo.start()
    assert key.group() in demo.banner
    demo.curl()
    assert demo.process.stop() == 0
    assert demo.cli("usage", "--app", "demo-app", "--events").count("demo-user") == 2
    assert "VIOLATED" not in demo.cli("audit")


def test_after_a_crash_the_store_is_reused_and_nothing_is_lost(demo: Demo) -> None:
    demo.curl()
    assert demo.process.stop(signal.SIGKILL) == -9
    demo.start()
    demo.curl()
    deadline = time.monotonic() + 60
    while demo.cli("usage", "--app", "demo-app", "--events").count("demo-user") < 2:
        assert time.monotonic() < deadline
    assert "VIOLATED" not in demo.cli("audit")
    assert demo.process.stop() == 0

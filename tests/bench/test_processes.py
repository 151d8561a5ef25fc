"""What the benchmark starts it stops, and it counts the CPU of what it measures."""

import os
import sys
import time
from pathlib import Path

import pytest

from bench.processes import BenchError, Ground, descendants, free_port, wait_for_port

BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ntime.sleep(60)"
WITH_CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])"


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_process_and_its_children_are_gone_after_the_ground_even_when_the_run_fails() -> None:
    pids: list[int] = []
    ground = Ground()

    def fail_once_it_runs() -> None:
        with ground:
            process = ground.start("parent", [sys.executable, "-c", WITH_CHILD])
            deadline = time.monotonic() + 60
            while len(pids) < 2 and time.monotonic() < deadline:
                pids[:] = descendants(process.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_once_it_runs()
    assert len(pids) == 2
    assert not [pid for pid in pids if alive(pid)]
    assert not ground.directory.exists()


def test_cpu_of_a_tree_includes_the_child_that_did_the_work() -> None:
    with Ground() as ground:
        process = ground.start("parent", [sys.executable, "-c", WITH_CHILD])
        deadline = time.monotonic() + 60
        while process.cpu_s() < 0.3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.cpu_s() >= 0.3
        assert process.rss_mb() > 5


def test_the_subject_and_everything_else_are_on_different_cores_where_there_are_two() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only")
    before = os.sched_getaffinity(0)
    with Ground() as ground:
        subject = ground.start("subject", ["sleep", "60"], subject=True)
        other = ground.start("other", ["sleep", "60"])
        assert len(os.sched_getaffinity(subject.pid)) == 1
        assert not os.sched_getaffinity(subject.pid) & os.sched_getaffinity(other.pid)
    assert os.sched_getaffinity(0) == before


def test_a_process_that_ends_instead_of_listening_is_named_with_its_last_words() -> None:
    with Ground() as ground:
        process = ground.start("mute", [sys.executable, "-c", "raise SystemExit('no such thing')"])
        with pytest.raises(BenchError, match="mute did not start:\nno such thing"):
            wait_for_port(process, free_port())

"""The store that `gateway serve` starts for itself dies: it is started again on its files, and nothing is lost or doubled."""

import fcntl
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gateway.balance.embedded_redis import _socket_path
from tests.path.conftest import PROGRAM, Process, Stack, free_port, plain_env, start_gateway

FUNDS = 1_000_000_000


class Asking:
    """A few clients that ask one request after the other and note what they are told."""

    def __init__(self, stack: Stack, key: str, count: int = 3) -> None:
        self._stack, self._key = stack, key
        self._over = threading.Event()
        self.told: list[tuple[int, str, str]] = []  # status, request id, error code
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        headers = {"authorization": f"Bearer {self._key}", "x-platform-user-id": "ann"}
        body = {"model": "ok:tokens=3", "messages": [{"role": "user", "content": "one"}], "max_tokens": 20}
        with httpx.Client(base_url=self._stack.url, headers=headers, timeout=60) as http:
            while not self._over.is_set():
                answer = http.post("/v1/chat/completions", json=body)
                code = "" if answer.status_code == 200 else answer.json()["error"]["code"]
                self.told.append((answer.status_code, answer.headers["x-request-id"], code))

    def wait_for(self, status: int, more: int = 5) -> None:
        """Until so many more requests were told this."""
        before = self.count(status)
        give_up = time.monotonic() + 60
        while self.count(status) < before + more:
            assert time.monotonic() < give_up, f"no {status}: {self.told[-10:]}"
            time.sleep(0.01)

    def count(self, status: int) -> int:
        return sum(told[0] == status for told in self.told)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def store_pid(stack: Stack) -> int:
    """Of the server that listens, once one does."""
    path = _socket_path((stack.data_dir / "redis").resolve())
    give_up = time.monotonic() + 60
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(str(path))
                link.sendall(b"INFO server\r\n")
                found = re.search(rb"process_id:(\d+)", link.recv(65536))
            if found:
                return int(found[1])
        except OSError:
            assert time.monotonic() < give_up, "no store"
        time.sleep(0.02)


@contextmanager
def nobody_may_start(stack: Stack) -> Iterator[None]:
    """Whoever starts or stops the store takes turns: this is a long one."""
    lock = os.open(stack.data_dir / "redis" / "start.lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_store_that_is_killed_is_started_again_and_nothing_is_lost(tmp_path: Path, upstream_url: str, workers: str) -> None:
    stack = start_gateway(tmp_path, upstream_url, program=PROGRAM, MOZAIKS_WORKERS=workers)
    try:
        app = stack.app()
        stack.fund(app, "ann", FUNDS)
        asking = Asking(stack, stack.key(app))
        try:
            asking.wait_for(200)
            first = store_pid(stack)
            os.kill(first, signal.SIGKILL)
            asking.wait_for(200)
            second = store_pid(stack)
            assert second != first
            with nobody_may_start(stack):
                os.kill(second, signal.SIGKILL)
                asking.wait_for(503)
            asking.wait_for(200)
        finally:
            asking.stop()
        assert {told[2] for told in asking.told} == {"", "balance_unavailable"}
        assert {told[0] for told in asking.told} == {200, 503}
        answered = {told[1] for told in asking.told if told[0] == 200}
        give_up = time.monotonic() + 60
        while not answered <= (rows := _rows(stack, app)).keys():
            assert time.monotonic() < give_up, answered - rows.keys()
            time.sleep(0.1)
        assert not any(rows[name] for name in rows.keys() - answered), "charged without an answer"
        wallet = stack.wallet(app, "ann")  # a refused request may hold money: nobody knows that it was not refused in time
        assert wallet["available_micro"] + wallet["held_micro"] == FUNDS - sum(rows.values())
        assert "VIOLATED" not in stack.cli("audit")
        last = store_pid(stack)
    finally:
        assert stack.process.stop() == 0
    assert not Path(f"/proc/{last}").exists(), "what was started again is stopped with the gateway"
    log = stack.process.log.read_text()
    assert "serves again" in log
    # What every web process says when the store is gone; of several, each is a child of the one that was configured.
    said = [line for line in log.splitlines() if "invalidations are cut off" in line]
    assert said
    form = re.compile(r"[0-9]{4}-[0-9-]{5} [0-9:,]{12} WARNING gateway\.identity\.cache: ")
    assert [line for line in said if not form.match(line)] == []


def _rows(stack: Stack, app: str) -> dict[str, int]:
    """What each request of the books cost."""
    rows: dict[str, int] = {}
    cursor: dict[str, str] = {}
    while True:
        page = stack.get(f"/apps/{app}/usage-events", limit=200, **cursor)
        for row in page["data"]:
            assert row["request_id"] not in rows
            rows[row["request_id"]] = row["amount_micro"]
        if not page["has_more"]:
            return rows
        cursor = {"cursor": page["next_cursor"]}


def test_a_store_that_will_not_start_ends_the_gateway_with_a_sentence_and_a_status(tmp_path: Path, upstream_url: str) -> None:
    stack = start_gateway(tmp_path, upstream_url)
    try:
        pid = store_pid(stack)
        manifest = next((stack.data_dir / "redis" / "appendonlydir").glob("*.manifest"))
        manifest.write_text("nonsense\n")
        os.kill(pid, signal.SIGKILL)
        assert stack.process.child.wait(40) == 1
    finally:
        stack.process.stop()
    told = stack.process.log.read_text()
    assert "is not started any more; its log ends with" in told
    assert json.dumps("manifest")[1:-1] in told.rpartition("is not started any more")[2]


@pytest.mark.parametrize("moment", ["redis/users.lock", "redis/appendonlydir", "platform.sqlite", "apps"])
def test_a_gateway_that_is_told_to_stop_while_it_starts_leaves_no_store_behind(tmp_path: Path, moment: str) -> None:
    data = tmp_path / "data"
    port = free_port()
    env = plain_env(MOZAIKS_DATA_DIR=str(data), MOZAIKS_PORT=str(port))
    process = Process([sys.executable, "-m", "gateway.cli.main", "serve"], env, tmp_path / "gateway.log")
    give_up = time.monotonic() + 60
    while not (data / moment).exists():
        assert process.child.poll() is None, process.log.read_text()
        assert time.monotonic() < give_up, f"no {moment}"
        time.sleep(0.001)
    assert process.stop() == 0
    assert "Traceback" not in process.log.read_text()
    with socket.socket(socket.AF_UNIX) as link, pytest.raises(OSError, match=r"refused|No such file"):
        link.connect(str(_socket_path((data / "redis").resolve())))

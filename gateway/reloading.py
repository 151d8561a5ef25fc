"""A changed configuration file taken by a process that serves, without a restart.

On SIGHUP, and a second or two after the file was last written, each web process reads its settings anew. They are taken as a
whole or not at all: a file that would stop a start is logged with the very sentence, and what was in force stays. Models,
deployments, their keys, limits, fallbacks and prices change; ports, stores, secrets and processes are named in the log and
change with the next start. Requests in flight end at the prices and deployments that they began with.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.compose import Services
from gateway.db.faults import SqlDown
from gateway.settings import PREFIX, TAKEN_WHILE_IT_RUNS, Settings, SettingsError, load

_log = logging.getLogger(__name__)
LOOK_EVERY_S: Final = 1.0
_Stamp = tuple[int, int, int] | None


class Reloading:
    """Keeps one process's configuration that of its file. `changed` is called behind every new one."""

    def __init__(self, services: Services, changed: Callable[[], None], read: Callable[[], Settings] = load) -> None:
        self._services = services
        self._changed = changed
        self._read = read
        self._path = services.settings.config
        self._told = asyncio.Event()
        self._in_force = self._seen = _stamp(self._path)

    def on_signal(self) -> None:
        """Read it on SIGHUP. In a thread there are no signals, and only the file is looked at."""
        if threading.current_thread() is threading.main_thread():
            had_terminal = has_terminal()
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._signalled, had_terminal)

    def _signalled(self, had_terminal: bool) -> None:
        if had_terminal and not has_terminal():  # it closed, and this process was started in it: as without a handler
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._told.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._told.wait(), LOOK_EVERY_S)
            except TimeoutError:
                if not self._is_written():
                    continue
            self._told.clear()
            await self.take()

    def _is_written(self) -> bool:
        """Whether the file is another one than was read, and has stayed the same since the last look: its writer is done."""
        now = _stamp(self._path)
        if now != self._seen:
            self._seen = now
            return False
        return now is not None and now != self._in_force

    async def take(self) -> bool:
        """Read the settings and take them; False, and why in the log, where they cannot be taken."""
        self._in_force = self._seen = _stamp(self._path)
        try:
            new = await asyncio.to_thread(self._read)
            self._services.reconfigure(new)
        except (SettingsError, OSError) as wrong:
            _log.error("the configuration is not taken, and what was in force stays: %s", wrong)
            return False
        for name in wait_for_a_restart(self._services.settings, new):
            _log.warning("%s%s has changed, and takes force with the next start", PREFIX, name.upper())
        self._changed()
        _log.info("the configuration was read again: %d models", len(new.models))
        try:
            await self._services.catalog.record_configured()
        except SqlDown as down:
            _log.warning("changed prices stand in the trail with the next start: %s", down)
        return True


def wait_for_a_restart(old: Settings, new: Settings) -> list[str]:
    """The settings that differ and are not taken by a process that runs."""
    names = [name for name in old.__struct_fields__ if name not in TAKEN_WHILE_IT_RUNS]
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def has_terminal() -> bool:
    """Whether this process has a terminal that is open."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


def _stamp(path: Path | None) -> _Stamp:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)

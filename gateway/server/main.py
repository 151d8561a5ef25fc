"""Starting the server and its worker processes."""

import contextlib
import os
import resource
import signal
import socket
import sys
from typing import Final

import uvicorn
from uvicorn.supervisors.multiprocess import Multiprocess

from gateway.core import limits
from gateway.metrics import cleared
from gateway.reloading import has_terminal
from gateway.server.connection import EdgeProtocol
from gateway.settings import Settings

_NOT_STARTED: Final = 3  # uvicorn's own status


def run(config: Settings) -> None:
    """Serve the application until a signal ends it; with several workers, in as many processes."""
    # Each stream takes two descriptors; what the system lets a process have is often far above its first limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    cleared(config)
    asked = uvicorn.Config(
        "gateway.app:create",
        factory=True,
        host=config.host,
        port=config.port,
        workers=config.workers,
        interface="asgi3",
        loop="uvloop",
        http=EdgeProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,
        backlog=2048,
        timeout_keep_alive=limits.KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,  # the application has drained before: see gateway/stopping.py
    )
    if config.workers > 1:
        _Workers(asked, sockets=[asked.bind_socket()]).run()
        return
    asked.load_app()
    server = uvicorn.Server(asked)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(_NOT_STARTED)


class _Workers(Multiprocess):
    """The parent of the web processes. Each of them reads a changed configuration by itself; uvicorn would start them anew."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._had_terminal = has_terminal()

    def handle_hup(self) -> None:
        """Pass it on."""
        if self._had_terminal and not has_terminal():  # it closed
            self.should_exit.set()
            return
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)

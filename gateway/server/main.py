"""Starting the server and its worker processes."""

import resource

import uvicorn

from gateway.core import limits
from gateway.server.connection import EdgeProtocol
from gateway.settings import Settings


def run(config: Settings) -> None:
    """Serve the application until a signal ends it; with several workers, in as many processes."""
    # Each stream takes two descriptors; what the system lets a process have is often far above its first limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvicorn.run(
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

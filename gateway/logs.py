"""The log of a process: one form for every process of the gateway, on stderr."""

import logging
import sys


def configure(level: str) -> None:
    """Log from `level` (as in the settings) on. A second time changes the level only.

    A web process that the server starts beside others begins without what its parent was told: it calls this for itself.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    root = logging.getLogger()
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("stripe", "httpx", "httpcore"):  # a line for each request; what is worth telling, `billing` tells
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))

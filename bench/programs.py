"""The server programs that a run uses, where the distribution put them."""

import shutil
from pathlib import Path


def program(name: str) -> str | None:
    """Where a server program lies: some distributions keep them off the path."""
    found = shutil.which(name)
    return found or (f"/usr/sbin/{name}" if Path("/usr/sbin", name).exists() else None)


def missing() -> list[str]:
    """Programs that this benchmark would use and that are not installed."""
    wanted = ("nginx", "wrk", "redis-server", "haproxy", "openssl")
    return [name for name in wanted if program(name) is None and not (name == "redis-server" and program("valkey-server"))]

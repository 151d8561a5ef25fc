"""What the run ran on: the machine and the versions of what took part."""

import os
import platform
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from bench.peers import install
from bench.programs import program

_ROOT: Final = Path(__file__).parent.parent
_PACKAGES: Final = ("aiohttp", "uvicorn", "uvloop", "msgspec", "hiredis", "SQLAlchemy", "starlette")


def describe() -> dict[str, str]:
    """Names and values, in the order to print them; what is not there is left out."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    found = {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GB",
        "kernel": platform.release(),
        "python": _python(),
        "nginx": _first_line("nginx", "-v"),
        "haproxy": _first_line("haproxy", "-v"),
        "wrk": _first_line("wrk", "-v"),
        "redis": _first_line("redis-server", "--version") or _first_line("valkey-server", "--version"),
        "gateway": _gateway(),
        **install.versions(),
        "node": _first_line("node", "--version"),
        **{name: _package(name) for name in _PACKAGES},
    }
    return {name: value for name, value in found.items() if value}


def _python() -> str:
    # Distributions build theirs with profile-guided optimisation, and nothing inside an interpreter tells.
    build = "the distribution's build" if sys.base_prefix == "/usr" else f"built with {sysconfig.get_config_var('OPT')}"
    return f"{platform.python_implementation()} {platform.python_version()}, {build}"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _first_line(name: str, flag: str) -> str:
    path = program(name)
    if path is None:
        return ""
    said = subprocess.run([path, flag], capture_output=True, text=True, timeout=10)
    lines = (said.stdout or said.stderr).splitlines()
    return lines[0].removesuffix(" Copyright (C) 2012 Will Glozer") if lines else ""


def _gateway() -> str:
    said = subprocess.run(
        ["git", "-C", str(_ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
    )
    commit = said.stdout.strip() if said.returncode == 0 else "no commit"
    return f"{_package('mozaiks-gateway') or 'not installed'}, {commit}"


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

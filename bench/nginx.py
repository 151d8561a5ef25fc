"""nginx: as an upstream, and as a rival."""

import os
from pathlib import Path

from bench.processes import Ground, Process
from bench.programs import program


def start(ground: Ground, name: str, http: str, *, subject: bool, workers: int = 1) -> Process:
    """Start one with these `server` and `upstream` blocks; not yet ready."""
    nginx = program("nginx")
    assert nginx is not None
    folder = ground.directory / name
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(_config(folder, http, workers))
    command = [nginx, "-p", str(folder), "-e", "stderr", "-c", str(config)]
    return ground.start(name, command, subject=subject, wide=workers > 1)


def _config(folder: Path, http: str, workers: int) -> str:
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
{temporary}
{http}
}}
"""

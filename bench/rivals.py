"""Everything around the gateway: the upstreams behind it, the proxies it is compared with, and Redis."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Final

import msgspec

from bench.processes import Ground, Process, child_environment, free_port, wait_for_port

ANSWER_BYTES: Final = 600


class Upstreams(msgspec.Struct, frozen=True):
    """The two upstreams: nginx with a fixed answer, and one that streams."""

    plain: Process
    plain_port: int
    streaming: Process
    streaming_port: int


class Rival(msgspec.Struct, frozen=True):
    """A proxy on the measured core; it may have a second port in front of the streaming upstream."""

    name: str
    process: Process
    port: int
    streaming_port: int


def fixed_answer() -> str:
    """A chat completion of exactly `ANSWER_BYTES` bytes, with usage."""
    answer = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": "bench-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 57,
            "completion_tokens": 29,
            "total_tokens": 86,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "service_tier": "default",
    }
    text = json.dumps(answer, separators=(",", ":"))
    filler = ("Take the one with the steeper walls and the fully sealed floor: it sheds rain. " * 8)[: ANSWER_BYTES - len(text)]
    return text.replace('"content":""', f'"content":"{filler}"')


def missing() -> list[str]:
    """Programs that this benchmark would use and that are not installed."""
    return [name for name in ("nginx", "wrk", "redis-server", "haproxy") if shutil.which(name) is None and not _elsewhere(name)]


def _elsewhere(name: str) -> bool:
    return (name == "redis-server" and shutil.which("valkey-server") is not None) or Path("/usr/sbin", name).exists()


def program(name: str) -> str | None:
    """Where a server program lies: some distributions keep them off the path."""
    found = shutil.which(name)
    return found or (f"/usr/sbin/{name}" if Path("/usr/sbin", name).exists() else None)


def _nginx_config(folder: Path, http: str) -> str:
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}
daemon off;
worker_processes 1;
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


def _start_nginx(ground: Ground, name: str, http: str, *, subject: bool) -> Process:
    nginx = program("nginx")
    assert nginx is not None
    folder = ground.directory / name
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(_nginx_config(folder, http))
    return ground.start(name, [nginx, "-p", str(folder), "-e", "stderr", "-c", str(config)], subject=subject)


def start_upstreams(ground: Ground) -> Upstreams:
    """Both upstreams, ready."""
    plain_port, streaming_port = free_port(), free_port()
    http = f"""
  server {{
    listen 127.0.0.1:{plain_port} backlog=4096;
    default_type application/json;
    location / {{ return 200 '{fixed_answer()}'; }}
  }}"""
    plain = _start_nginx(ground, "upstream", http, subject=False)
    command = [sys.executable, "-m", "bench.stream_upstream", "--port", str(streaming_port)]
    streaming = ground.start("stream-upstream", command, env=child_environment())
    wait_for_port(plain, plain_port)
    wait_for_port(streaming, streaming_port)
    return Upstreams(plain, plain_port, streaming, streaming_port)


def start_nginx(ground: Ground, upstreams: Upstreams) -> Rival:
    """nginx as the plainest reverse proxy with kept connections: the limit of what a proxy can do."""
    port, streaming_port = free_port(), free_port()
    http = "".join(
        f"""
  upstream to{target} {{ server 127.0.0.1:{target}; keepalive 2048; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{listen} backlog=4096;
    location / {{
      proxy_pass http://to{target};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering {buffering};
    }}
  }}"""
        for listen, target, buffering in (
            (port, upstreams.plain_port, "on"),
            (streaming_port, upstreams.streaming_port, "off"),
        )
    )
    process = _start_nginx(ground, "nginx", http, subject=True)
    wait_for_port(process, port)
    return Rival("nginx", process, port, streaming_port)


def start_haproxy(ground: Ground, upstreams: Upstreams) -> Rival | None:
    """haproxy, likewise; None where it is not installed."""
    haproxy = program("haproxy")
    if haproxy is None:
        return None
    port, streaming_port = free_port(), free_port()
    config = ground.directory / "haproxy.cfg"
    sections = "".join(
        f"listen on{listen}\n  bind 127.0.0.1:{listen}\n  server up 127.0.0.1:{target}\n"
        for listen, target in ((port, upstreams.plain_port), (streaming_port, upstreams.streaming_port))
    )
    config.write_text(
        "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode http\n  option http-no-delay\n  http-reuse always\n"
        f"  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n{sections}"
    )
    process = ground.start("haproxy", [haproxy, "-db", "-f", str(config)], subject=True)
    wait_for_port(process, port)
    return Rival("haproxy", process, port, streaming_port)


def start_redis(ground: Ground, name: str = "redis") -> tuple[Process, str]:
    """A Redis or Valkey of its own, as durable as in production; returns it and its URL: a socket file, as the embedded has."""
    server = program("redis-server") or program("valkey-server")
    assert server is not None
    folder = ground.directory / name
    folder.mkdir()
    port, socket_file = free_port(), folder / "redis.sock"
    command = [
        server, "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(socket_file), "--dir", str(folder),
        "--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction",
    ]  # fmt: skip
    process = ground.start(name, command)
    wait_for_port(process, port)
    return process, f"unix://{socket_file}"

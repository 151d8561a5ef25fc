"""Everything around the gateway that is not an upstream: the proxies it is compared with, and Redis."""

import json
import shutil
import time
from pathlib import Path
from typing import Final

from bench import nginx
from bench.cases import CHAT_MODEL, EMBEDDING_MODEL, TLS_MODEL
from bench.contestants import HAPROXY, NGINX, Contestant, Door
from bench.peers.install import LITELLM, PORTKEY, litellm_program, portkey_script
from bench.processes import BenchError, Ground, Process, free_port, wait_for_200, wait_for_port
from bench.programs import program
from bench.upstreams import Upstreams

_MASTER_KEY: Final = "sk-bench-only-master-key"
_LITELLM_STREAMS: Final = 10  # 500 chunks a second: more than about 700 are too many for it
_PORTKEY_STREAMS: Final = 50  # 2,500 chunks a second: 10,000 are too many for it
_PORTKEY_WARM_UP: Final = 5000  # until then a request takes some times the CPU: node compiles what it sees called often
_PEER_START_S: Final = 120.0


def start_nginx(ground: Ground, upstreams: Upstreams, workers: int = 1) -> Contestant:
    """nginx as the plainest reverse proxy with kept connections: the limit of what a proxy can do."""
    began = time.monotonic()
    ports = {door: free_port() for door in upstreams.ports}
    http = "".join(
        f"""
  upstream to{target} {{ server 127.0.0.1:{target}; keepalive 2048; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{ports[door]} backlog=4096;
    client_body_buffer_size 256k;
    proxy_buffers 16 8k;
    location / {{
      proxy_pass {"https" if door == "tls" else "http"}://to{target};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering {"off" if door == "streams" else "on"};
      {_nginx_trust(upstreams) if door == "tls" else ""}
    }}
  }}"""
        for door, target in upstreams.ports.items()
    )
    process = nginx.start(ground, "nginx" if workers == 1 else f"nginx-{workers}", http, subject=True, workers=workers)
    wait_for_port(process, ports["plain"])
    return Contestant(NGINX, {door: Door(process, port) for door, port in ports.items()}, time.monotonic() - began)


def _nginx_trust(upstreams: Upstreams) -> str:
    return f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {upstreams.authority}; proxy_ssl_name localhost;"


def start_haproxy(ground: Ground, upstreams: Upstreams) -> Contestant | None:
    """haproxy, likewise; None where it is not installed."""
    haproxy = program("haproxy")
    if haproxy is None:
        return None
    began = time.monotonic()
    ports = {door: free_port() for door in upstreams.ports}
    config = ground.directory / "haproxy.cfg"
    trust = f" ssl verify required ca-file {upstreams.authority}"
    sections = "".join(
        f"listen on{port}\n  bind 127.0.0.1:{port}\n"
        f"  server up 127.0.0.1:{upstreams.ports[door]}{trust if door == 'tls' else ''}\n"
        for door, port in ports.items()
    )
    config.write_text(
        "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode http\n  option http-no-delay\n  http-reuse always\n"
        f"  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n{sections}"
    )
    process = ground.start("haproxy", [haproxy, "-db", "-f", str(config)], subject=True)
    wait_for_port(process, ports["plain"])
    return Contestant(HAPROXY, {door: Door(process, port) for door, port in ports.items()}, time.monotonic() - began)


def start_litellm(ground: Ground, upstreams: Upstreams, stream_model: str, workers: int = 1) -> Contestant:
    """LiteLLM's proxy as its page on production advises: a worker a core, quiet, errors only; its price list is the shipped one.

    Without a database, as its Postgres client is fetched from elsewhere at its first start.
    """
    began = time.monotonic()
    name = "litellm" if workers == 1 else f"litellm-{workers}"
    models = {CHAT_MODEL: "plain", EMBEDDING_MODEL: "plain", stream_model: "streams", TLS_MODEL: "tls"}
    config = ground.directory / f"{name}.yaml"
    listed = [
        {"model_name": model, "litellm_params": {"model": f"openai/{model}", "api_base": upstreams.urls[door], "api_key": "none"}}
        for model, door in models.items()
        if door in upstreams.urls
    ]
    general = {"master_key": _MASTER_KEY}
    quiet = {"set_verbose": False, "json_logs": True, "request_timeout": 600}
    config.write_text(json.dumps({"model_list": listed, "general_settings": general, "litellm_settings": quiet}))
    port = free_port()
    environment = {
        **_plain_environment(ground, Path(litellm_program()).parent),
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        **({"SSL_CERT_FILE": str(upstreams.authority)} if upstreams.tls_port else {}),
    }
    command = [str(litellm_program()), "--host", "127.0.0.1", "--port", str(port), "--config", str(config)]
    command += ["--keepalive_timeout", "75"]  # its 5 s would end connections that rest at half load
    if workers > 1:
        # A worker takes longer to import than its parent waits by default before it starts another in its place.
        command += ["--num_workers", str(workers), "--timeout_worker_healthcheck", str(round(_PEER_START_S))]
    process = ground.start(name, command, subject=True, wide=workers > 1, env=environment)
    _wait(process, f"http://127.0.0.1:{port}/health/liveliness")
    door = Door(process, port, (f"Authorization: Bearer {_MASTER_KEY}",))
    doors = dict.fromkeys(upstreams.ports, door)
    start_s = time.monotonic() - began
    return Contestant(LITELLM, doors, start_s, exact=False, peer=True, slow=True, warm_up_s=2.0, streams=_LITELLM_STREAMS)


def start_portkey(ground: Ground, upstreams: Upstreams) -> Contestant:
    """Portkey's gateway as its own page on hosting it starts it; which upstream it asks is said by each request."""
    began = time.monotonic()
    node = shutil.which("node")
    assert node is not None
    port = free_port()
    environment = {
        **_plain_environment(ground, Path(node).parent),
        "NODE_ENV": "production",
        "TRUSTED_CUSTOM_HOSTS": "127.0.0.1",
        **({"NODE_EXTRA_CA_CERTS": str(upstreams.authority)} if upstreams.tls_port else {}),
    }
    command = [node, str(portkey_script()), f"--port={port}", "--headless"]
    process = ground.start("portkey", command, subject=True, env=environment)
    _wait(process, f"http://127.0.0.1:{port}/")
    doors = {
        door: Door(
            process, port, ("Authorization: Bearer none", "x-portkey-provider: openai", f"x-portkey-custom-host: {url}")
        )
        for door, url in upstreams.urls.items()
    }
    start_s = time.monotonic() - began
    return Contestant(
        PORTKEY, doors, start_s, peer=True, streams=_PORTKEY_STREAMS, warm_up_s=8.0, warm_up_requests=_PORTKEY_WARM_UP
    )


def _wait(process: Process, url: str) -> None:
    try:
        wait_for_200(process, url, _PEER_START_S)
    except BenchError:
        process.stop()  # the run goes on without it, and must not share the core with it
        raise


def _plain_environment(ground: Ground, programs: Path) -> dict[str, str]:
    """Nothing of ours: a peer runs on its own modules, with a home of its own."""
    return {"PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(ground.directory)}


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

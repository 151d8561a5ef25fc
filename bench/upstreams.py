"""The upstreams behind everybody: nginx with fixed answers, in the clear and over TLS, and one that streams."""

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from bench.cases import chat_answer, embedding_answer
from bench.contestants import DIRECT, Contestant, Door
from bench.nginx import start
from bench.processes import Ground, Process, child_environment, free_port, wait_for_port


class Upstreams(msgspec.Struct, frozen=True):
    """Their processes and ports. `tls_port` None: openssl is not there to make a certificate; `authority` is its certificate.

    `large_port`: where `start_large` started another one that streams, so that what it sends costs the others' nothing.
    """

    plain: Process
    plain_port: int
    streaming: Process
    streaming_port: int
    tls_port: int | None
    authority: Path
    large_port: int | None = None

    @property
    def ports(self) -> dict[str, int]:
        """By door."""
        ports = {"plain": self.plain_port, "streams": self.streaming_port, "tls": self.tls_port, "large": self.large_port}
        return {door: port for door, port in ports.items() if port is not None}

    @property
    def urls(self) -> dict[str, str]:
        """Base URLs by door, with `/v1`."""
        return {door: f"{'https' if door == 'tls' else 'http'}://127.0.0.1:{port}/v1" for door, port in self.ports.items()}

    def direct(self) -> Contestant:
        """The upstreams themselves as a contestant: what everybody else is measured against."""
        doors = {"plain": Door(self.plain, self.plain_port), "streams": Door(self.streaming, self.streaming_port)}
        if self.tls_port is not None:
            doors["tls"] = Door(self.plain, self.tls_port, scheme="https")
        return Contestant(DIRECT, doors)


def start_upstreams(ground: Ground) -> Upstreams:
    """All of them, ready."""
    plain_port, streaming_port = free_port(), free_port()
    authority, key = ground.directory / "upstream.pem", ground.directory / "upstream-key.pem"
    tls_port = free_port() if _certified(authority, key) else None
    answers = ground.directory / "answers"
    answers.mkdir()
    (answers / "embeddings.json").write_text(embedding_answer())  # too long for a `return`
    # A file answers GET only; the error page is fetched as one, and sent with 200.
    http = f"""
  server {{
    listen 127.0.0.1:{plain_port} backlog=4096;
    {f"listen 127.0.0.1:{tls_port} ssl backlog=4096;" if tls_port else ""}
    {f"ssl_certificate {authority}; ssl_certificate_key {key};" if tls_port else ""}
    default_type application/json;
    client_body_buffer_size 256k;
    location / {{ return 200 '{chat_answer()}'; }}
    location = /v1/embeddings {{ error_page 405 =200 /embeddings.json; return 405; }}
    location = /embeddings.json {{ internal; root {answers}; open_file_cache max=4; sendfile on; }}
  }}"""
    plain = start(ground, "upstream", http, subject=False)
    command = [sys.executable, "-m", "bench.stream_upstream", "--port", str(streaming_port)]
    streaming = ground.start("stream-upstream", command, env=child_environment())
    wait_for_port(plain, plain_port)
    wait_for_port(streaming, streaming_port)
    return Upstreams(plain, plain_port, streaming, streaming_port, tls_port, authority)


def start_large(ground: Ground, upstreams: Upstreams) -> Upstreams:
    """With one more that streams, whose chunks have some 4 KB each."""
    port = free_port()
    command = [sys.executable, "-m", "bench.stream_upstream", "--port", str(port), "--padding", "3840"]
    wait_for_port(ground.start("large-upstream", command, env=child_environment()), port)
    return msgspec.structs.replace(upstreams, large_port=port)


def _certified(certificate: Path, key: Path) -> bool:
    """Make a certificate for this machine that is its own authority; False without openssl. nginx looks for a name in it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return False
    command = [
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=bench upstream", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=30).returncode == 0

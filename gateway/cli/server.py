"""Commands that run the gateway: serve, worker, migrate."""

import os
import signal
import socket
import sys
import threading
import time
from typing import Final

import click

from gateway import demo, logs
from gateway import worker as worker_process
from gateway.balance import embedded_redis
from gateway.balance.embedded_watch import EmbeddedWatch
from gateway.cli.local import run, settings
from gateway.compose import opened
from gateway.server import main as server
from gateway.settings import Settings


@click.command()
def serve() -> None:
    """Run the web process (and, on one machine, the worker inside it)."""
    config = settings()
    logs.configure(config.log_level)

    _check_free(config)
    told = _ToldToStop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, told)
    # Started here, so that the store outlives every web process and is stopped after the last of them.
    kept = None if config.redis_url else run(embedded_redis.start(config.data_dir))
    watch = None if kept is None else EmbeddedWatch(kept, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        account = run(_prepared(config)) if not told.already else None
        if watch is not None:
            watch.start()
        told.breaks_off = True
        if not told.already:
            _say_when_listening(config, banner(config, account))
            server.run(config)
    except _Stopped:
        pass
    finally:
        told.breaks_off = False
        if kept is not None and watch is not None:
            watch.stop()
            run(kept.stop())
    if watch is not None and watch.failed is not None:
        raise watch.failed


class _Stopped(BaseException):
    """A signal came."""


class _ToldToStop:
    """What a signal does while no server handles it: before there is one, and after it (uvicorn raises it once more then).

    The default handler would end this process and leave the store behind. While the stores are prepared a signal is only
    noted: they are begun or not, nothing in between.
    """

    def __init__(self) -> None:
        self.already = False
        self.breaks_off = False

    def __call__(self, *_: object) -> None:
        self.already = True
        if self.breaks_off:
            raise _Stopped


async def _prepared(config: Settings) -> demo.Account | None:
    """Stores that answer and are migrated, and the demo account, before anything is promised."""
    async with opened(config) as services:
        await services.balance.ping()
        await services.catalog.record_configured()
        return await demo.prepare(services) if config.demo else None


def _check_free(config: Settings) -> None:
    """The address can be bound: said before the banner, not half a minute after it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as taken:
        raise click.ClickException(
            f"{config.host}:{config.port} cannot be used ({taken.strerror}): set MOZAIKS_PORT or MOZAIKS_HOST."
        ) from taken


def _say_when_listening(config: Settings, text: str) -> None:
    """Print what to try when it can be tried: whoever reads it may be a program, and quick."""
    host = config.host if config.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104 - compared, not bound

    def wait() -> None:
        while True:
            try:
                socket.create_connection((host, config.port), timeout=1).close()
            except OSError:
                time.sleep(_LOOK_AGAIN_S)
            else:
                break
        click.echo(text)

    threading.Thread(target=wait, name="banner", daemon=True).start()


_LOOK_AGAIN_S: Final = 0.02


def banner(config: Settings, account: demo.Account | None) -> str:
    """What a person needs to know at start: the addresses, and with the demo a line to try."""
    lines = [
        "",
        f"  Gateway       {config.public_url}/v1",
        f"  Management    {config.public_url}/api/v1   (OpenAPI: {config.public_url}/api/openapi.json)",
        f"  Data          {config.data_dir}",
    ]
    if account is not None:
        lines += ["", *demo.lines(config, account, sys.argv[0])]
    else:
        lines += ["  Next          gateway creators create, gateway apps create, gateway keys create (each with --help)"]
    return "\n".join([*lines, ""])


@click.command()
def worker() -> None:
    """Run the worker alone: usage into the books, abandoned holds, waiting credits."""
    config = settings()
    logs.configure(config.log_level)

    run(worker_process.main(config))


@click.command()
def migrate() -> None:
    """Bring the platform's database and every app's to the newest schema."""
    config = settings()

    async def work() -> int:
        async with opened(config) as services:
            enterprise_ids = await services.enterprise_ids()
            for enterprise_id in enterprise_ids:
                await services.databases.migrate_app(enterprise_id)
            return len(enterprise_ids)

    click.echo(f"The platform's database and {run(work())} app databases are at the newest schema.")

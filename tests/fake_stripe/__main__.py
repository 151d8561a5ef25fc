"""`python -m tests.fake_stripe --port 0 [--now UNIX_SECONDS] [--seed N]`: prints "port N" and serves until it is stopped."""

import argparse
import asyncio
import signal

from aiohttp import web

from .control_routes import handler_of
from .server import Fake
from .spec import operation_of
from .world import World


async def serve(port: int, seed: int, now: int | None) -> None:
    fake = Fake(World(seed, now))
    assert operation_of("POST", "/v1/customers") is not None
    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/_control/{name}", handler_of(fake))
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    sender = asyncio.get_running_loop().create_task(fake.delivery.run())
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    print(f"port {runner.addresses[0][1]}", flush=True)
    waiting = asyncio.get_running_loop().create_task(stop.wait())
    # A sender that ends is a defect of the fake: it must not go on as if webhooks were being sent.
    await asyncio.wait({sender, waiting}, return_when=asyncio.FIRST_COMPLETED)
    await runner.cleanup()
    if sender.done():
        sender.result()
    sender.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fake_stripe")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--now", type=int, default=None)
    given = parser.parse_args()
    asyncio.run(serve(given.port, given.seed, given.now))


if __name__ == "__main__":
    main()

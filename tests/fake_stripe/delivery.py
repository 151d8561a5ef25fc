"""Webhooks: which endpoints want an event, how it is signed, and every way in which Stripe may deliver it.

A connected account's events go to the endpoints made with `connect=true`, the platform's to the others. A sender signs as Stripe
does (t=, v1=HMAC-SHA256 of "t.body" by each secret that is valid; several while a secret is being rolled); `t` is the real time,
because receivers hold it against their own clock. Redirects are not followed; anything but a 2xx stays undelivered.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
import time
from typing import Any

import aiohttp

from .spec import Obj
from .world import Account, World

TIMEOUT_S = 20.0


def signature(body: str, secrets: list[str], at: int) -> str:
    signed = [hmac.new(s.encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest() for s in secrets]
    return ",".join([f"t={at}", *(f"v1={item}" for item in signed)])


class Delivery:
    """The queue of (event, endpoint) pairs that were not delivered yet, and the tries so far."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.waiting: list[tuple[Obj, Obj]] = []
        self.tries: list[Obj] = []
        # Off: events wait for a control call. On: they are sent right after the request that made them, in order.
        self.at_once = False
        self.delay_s = 0.0
        self.woken = asyncio.Event()
        self.busy = 0

    def queue(self, account: Account, event: Obj) -> None:
        for endpoint in self.world.platform.of("webhook_endpoint").values():
            hidden = self.world.platform.hidden[endpoint["id"]]
            wants = endpoint["status"] == "enabled" and hidden["connect"] != account.is_platform
            if wants and ("*" in endpoint["enabled_events"] or event["type"] in endpoint["enabled_events"]):
                event["pending_webhooks"] += 1
                self.waiting.append((event, endpoint))
        self.woken.set()

    async def run(self) -> None:
        """The sender of the mode `at once`: in order, each until it is answered, once."""
        while True:
            await self.woken.wait()
            self.woken.clear()
            while self.at_once and self.waiting:
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                pairs, self.waiting = self.waiting, []
                failed = [pair for pair in pairs if not await self.send(*pair)]
                if failed:
                    self.waiting[:0] = failed
                    break

    async def deliver(self, wish: Obj) -> list[Obj]:
        """Sends what waits, as the wish says: order fifo|reverse|shuffle (seed), copies, senders, drop (share), types, keep."""
        types = wish.get("types")
        pairs = [pair for pair in self.waiting if not types or pair[0]["type"] in types]
        chance = random.Random(wish.get("seed", 1))
        dropped = [pair for pair in pairs if chance.random() < wish.get("drop", 0.0)]
        self.waiting = [pair for pair in self.waiting if pair not in pairs]
        todo = [pair for pair in pairs if pair not in dropped] * wish.get("copies", 1)
        if wish.get("order") == "reverse":
            todo.reverse()
        if wish.get("order") == "shuffle":
            chance.shuffle(todo)
        before = len(self.tries)
        failed: list[tuple[Obj, Obj]] = []

        async def sender() -> None:
            while todo:
                pair = todo.pop(0)
                if not await self.send(*pair) and pair not in failed:
                    failed.append(pair)

        await asyncio.gather(*(sender() for _ in range(wish.get("senders", 1))))
        self.waiting = failed + self.waiting
        return self.tries[before:]

    async def send(self, event: Obj, endpoint: Obj) -> bool:
        body = json.dumps(event)
        hidden = self.world.platform.hidden[endpoint["id"]]
        headers = {"Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)"}
        headers["Stripe-Signature"] = signature(body, hidden["secrets"], int(time.time()) - hidden.get("age_s", 0))
        status, error = 0, ""
        self.busy += 1
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
                session.post(endpoint["url"], data=body, headers=headers, allow_redirects=False) as response,
            ):
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        finally:
            self.busy -= 1
        fine = 200 <= status < 300
        if fine:
            event["pending_webhooks"] = max(0, event["pending_webhooks"] - 1)
        row = {"event": event["id"], "type": event["type"], "endpoint": endpoint["id"], "account": event.get("account")}
        self.tries.append({**row, "status": status, "error": error})
        return fine

    async def settled(self, timeout_s: float) -> bool:
        """Waits until nothing waits or is on its way (mode `at once`)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.waiting or self.busy:
                    await asyncio.sleep(0.005)
        return not self.waiting and not self.busy


def endpoint_of(world: World, params: Obj) -> Obj:
    """A webhook endpoint; its secret is in the answer of the creation only."""
    secret: Any = params.get("secret") or world.id("whsec_", 32)
    endpoint = world.new(
        "webhook_endpoint", "we_1", url=params["url"], enabled_events=params.get("enabled_events") or ["*"],
        status="enabled", api_version=params.get("api_version"), description=params.get("description"),
        metadata=params.get("metadata"),
    )  # fmt: skip
    world.platform.add(endpoint, connect=bool(params.get("connect")), secrets=[secret])
    return {**endpoint, "secret": secret}

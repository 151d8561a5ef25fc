"""What tests ask of the fake itself, under /_control/NAME (POST, JSON in and out); `control.Control` is its typed client."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from . import accounts, billing_clock, charges, checkout, disputes, payouts, refunds
from .audit import audit, state
from .delivery import endpoint_of
from .errors import StripeFault
from .server import Fake
from .spec import Obj
from .world import PLATFORM, Account


class Controls:
    """Each method is a control call of its name: its arguments are the JSON body's."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.world = fake.world

    def _of(self, account: str) -> Account:
        return self.world.accounts[account or PLATFORM]

    def clock(self, to: int = 0, seconds: int = 0) -> Obj:
        done = billing_clock.advance(self.world, to or self.world.now + seconds)
        return {"now": self.world.now, "done": done}

    def onboard(self, account: str, status: str) -> Obj:
        accounts.set_capability(self.world, self._of(account), status)
        return accounts.v1_view(self._of(account))

    def deauthorize(self, account: str) -> Obj:
        accounts.deauthorize(self.world, self._of(account))
        return {}

    def pay(self, account: str, session: str, **wish: Any) -> Obj:
        owner = self._of(account)
        return checkout.pay(self.world, owner, owner.get("checkout.session", session), **wish)

    def abandon(self, account: str, session: str) -> Obj:
        owner = self._of(account)
        return checkout.expire(self.world, owner, owner.get("checkout.session", session))

    def settle(self, account: str, intent: str, ok: bool) -> Obj:
        owner = self._of(account)
        return charges.settle(self.world, owner, owner.get("payment_intent", intent), ok)

    def dispute(self, account: str, charge: str, **wish: Any) -> Obj:
        owner = self._of(account)
        return disputes.open_dispute(self.world, owner, owner.get("charge", charge), **wish)

    def close_dispute(self, account: str, dispute: str, won: bool, fee_back: bool) -> Obj:
        owner = self._of(account)
        return disputes.close(self.world, owner, owner.get("dispute", dispute), won, fee_back)

    def finish_refund(self, account: str, refund: str, status: str) -> Obj:
        owner = self._of(account)
        return refunds.finish(self.world, owner, owner.get("refund", refund), status)

    def finish_payout(self, account: str, payout: str, paid: bool) -> Obj:
        owner = self._of(account)
        return payouts.finish(self.world, owner, owner.get("payout", payout), paid)

    def dashboard(self, account: str, method: str, path: str, params: Obj) -> Obj:
        return self.fake.act(self._of(account), method, path, params, {"id": None, "idempotency_key": None})

    def billing_settings(self, account: str, retry_days: list[int], after_retries: str) -> Obj:
        owner = self._of(account)
        owner.retry_days, owner.after_retries = retry_days, after_retries
        return {}

    def strict_balance(self, on: bool) -> Obj:
        self.world.strict_balance = on
        return {}

    def endpoint(self, **params: Any) -> Obj:
        return endpoint_of(self.world, params)

    def endpoint_secrets(self, endpoint: str, secrets: list[str], age_s: int = 0) -> Obj:
        self.world.platform.hidden[endpoint] |= {"secrets": secrets, "age_s": age_s}
        return {}

    def delivery(self, at_once: bool, delay_s: float = 0.0) -> Obj:
        self.fake.delivery.at_once, self.fake.delivery.delay_s = at_once, delay_s
        self.fake.delivery.woken.set()
        return {}

    async def deliver(self, **wish: Any) -> Obj:
        return {"tries": await self.fake.delivery.deliver(wish), "waiting": len(self.fake.delivery.waiting)}

    async def settled(self, timeout_s: float = 60.0) -> Obj:
        return {"settled": await self.fake.delivery.settled(timeout_s)}

    def resend(self, event: str) -> Obj:
        for account, known in self.world.events:
            if known["id"] == event:
                self.fake.delivery.queue(account, known)
        return {"waiting": len(self.fake.delivery.waiting)}

    def drop_waiting(self) -> Obj:
        dropped = len(self.fake.delivery.waiting)
        self.fake.delivery.waiting.clear()
        return {"dropped": dropped}

    def tries(self) -> Obj:
        return {"tries": self.fake.delivery.tries}

    def events(self) -> Obj:
        return {"events": [event for _, event in self.world.events]}

    def fault(self, **wish: Any) -> Obj:
        self.fake.faults.append({"times": 1, **wish})
        return {}

    def clear_faults(self) -> Obj:
        self.fake.faults.clear()
        return {}

    def requests(self) -> Obj:
        return {"requests": self.fake.log}

    def violations(self) -> Obj:
        return {"violations": self.fake.violations}

    def shape_faults(self) -> Obj:
        return {"shape_faults": self.fake.shape_faults}

    def audit(self) -> Obj:
        return {"wrong": audit(self.world)}

    def state(self) -> Obj:
        return state(self.world)


def handler_of(fake: Fake) -> Callable[[web.Request], Awaitable[web.Response]]:
    controls = Controls(fake)

    async def handle(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        call = None if name.startswith("_") else getattr(controls, name, None)
        if not callable(call):
            return web.json_response({"error": {"message": f"no control {name}"}}, status=404)
        text = await request.text()
        try:
            answer = call(**json.loads(text or "{}"))
            return web.json_response(await answer if isinstance(answer, Awaitable) else answer)
        except StripeFault as fault:
            return web.json_response({"error": fault.error}, status=fault.status)

    return handle

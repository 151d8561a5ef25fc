"""The tests' hand on the fake: starts it as a process of its own, moves its clock, acts for buyers, issuers and account owners.

    with running() as control:
        client = control.client()                     # a StripeClient of the real SDK that talks to the fake
        control.pay(account, session.id)              # the buyer pays with a card that works
        control.deliver(order="shuffle", seed=7, copies=2, senders=4)
        assert control.audit() == [] and control.violations() == []
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import stripe

from .spec import Obj

KEY = "sk_test_fake"


class Refused(Exception):
    """A control call that the fake's state does not allow."""


class Control:
    """A typed client of /_control; an empty account is the platform's. Moments are Unix seconds, amounts minor units."""

    def __init__(self, base: str) -> None:
        self.base = base

    def client(self, key: str = KEY, retries: int = 0) -> stripe.StripeClient:
        at: Any = {"api": self.base, "connect": self.base}
        return stripe.StripeClient(key, base_addresses=at, max_network_retries=retries,
            http_client=stripe.RequestsClient(timeout=60))

    def call(self, name: str, **body: Any) -> Any:
        request = urllib.request.Request(f"{self.base}/_control/{name}", json.dumps(body).encode(),
            {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode()) from error

    def now(self) -> int:
        return self.advance(0)

    def advance(self, seconds: int) -> int:
        """Moves the clock on; everything that falls due happens, in order. The new moment."""
        return int(self.call("clock", seconds=seconds)["now"])

    def advance_to(self, to: int) -> int:
        return int(self.call("clock", to=to)["now"])

    def catch_up(self) -> int:
        """Moves the clock, which stands by itself, beyond this machine's: what was said here until now counts there too."""
        return self.advance_to(max(self.now(), int(time.time())) + 2)

    def onboard(self, account: str, status: str = "active") -> None:
        """The capability `card_payments`: active, pending, restricted, unsupported; told as account.updated."""
        self.call("onboard", account=account, status=status)

    def deauthorize(self, account: str) -> None:
        self.call("deauthorize", account=account)

    def pay(self, account: str, session: str, card: str = "pm_card_visa", *, code: str = "", authenticates: bool = True,
        email: str = "") -> Obj:
        """The buyer submits the checkout page: {"session": ..., "refused": the error of a refused payment, or None}."""
        out: Obj = self.call("pay", account=account, session=session, card=card, code=code, authenticates=authenticates,
            email=email)
        return out

    def abandon(self, account: str, session: str) -> None:
        """The session expires now."""
        self.call("abandon", account=account, session=session)

    def settle(self, account: str, intent: str, ok: bool = True) -> Obj:
        """The end of a payment that is processing (the bank) or requires_action (the buyer authenticates, or does not)."""
        out: Obj = self.call("settle", account=account, intent=intent, ok=ok)
        return out

    def dispute(self, account: str, charge: str, reason: str = "fraudulent", *, amount: int | None = None,
        inquiry: bool = False) -> Obj:
        out: Obj = self.call("dispute", account=account, charge=charge, reason=reason, amount=amount, inquiry=inquiry)
        return out

    def close_dispute(self, account: str, dispute: str, won: bool, *, fee_back: bool = False) -> Obj:
        out: Obj = self.call("close_dispute", account=account, dispute=dispute, won=won, fee_back=fee_back)
        return out

    def finish_refund(self, account: str, refund: str, status: str = "succeeded") -> Obj:
        """The end of a pending refund; `failed` also after it had succeeded."""
        out: Obj = self.call("finish_refund", account=account, refund=refund, status=status)
        return out

    def finish_payout(self, account: str, payout: str, paid: bool = True) -> Obj:
        out: Obj = self.call("finish_payout", account=account, payout=payout, paid=paid)
        return out

    def dashboard(self, account: str, method: str, path: str, **params: Any) -> Obj:
        """The account's owner (or a customer in the portal) does what this API operation does; events name no request."""
        out: Obj = self.call("dashboard", account=account, method=method, path=path, params=params)
        return out

    def refund_in_dashboard(self, account: str, intent: str, amount: int | None = None) -> Obj:
        wish: Obj = {"payment_intent": intent} | ({} if amount is None else {"amount": str(amount)})
        return self.dashboard(account, "POST", "/v1/refunds", **wish)

    def billing_settings(self, account: str, retry_days: tuple[int, ...] = (3, 5, 7), after_retries: str = "cancel") -> None:
        """Days between attempts to collect a renewal, and what follows the last: cancel, unpaid, past_due."""
        self.call("billing_settings", account=account, retry_days=list(retry_days), after_retries=after_retries)

    def strict_balance(self, on: bool = True) -> None:
        """Refunds over the balance stay pending (insufficient_funds) instead of making it negative."""
        self.call("strict_balance", on=on)

    def endpoint(self, url: str, *, connect: bool, secret: str, enabled_events: tuple[str, ...] = ("*",)) -> str:
        """Registers a webhook endpoint; its id."""
        body = {"url": url, "connect": connect, "secret": secret, "enabled_events": list(enabled_events)}
        return str(self.call("endpoint", **body)["id"])

    def endpoint_secrets(self, endpoint: str, *secrets: str, age_s: int = 0) -> None:
        """Signs with these from now on (one v1= each), as if `age_s` seconds ago."""
        self.call("endpoint_secrets", endpoint=endpoint, secrets=list(secrets), age_s=age_s)

    def deliver_at_once(self, on: bool = True, delay_s: float = 0.0) -> None:
        self.call("delivery", at_once=on, delay_s=delay_s)

    def deliver(
        self, *, order: str = "fifo", seed: int = 1, copies: int = 1, senders: int = 1, drop: float = 0.0,
        types: tuple[str, ...] = ()
    ) -> list[Obj]:
        """Sends what waits (of these types): the tries. What was not answered with 2xx waits on; what was dropped is gone."""
        wish = {"order": order, "seed": seed, "copies": copies, "senders": senders, "drop": drop, "types": list(types)}
        return list(self.call("deliver", **wish)["tries"])

    def settled(self, timeout_s: float = 60.0) -> bool:
        """Waits until all was sent (mode `deliver_at_once`)."""
        return bool(self.call("settled", timeout_s=timeout_s)["settled"])

    def resend(self, event: str) -> None:
        """Queues an event again for all its endpoints."""
        self.call("resend", event=event)

    def drop_waiting(self) -> int:
        return int(self.call("drop_waiting")["dropped"])

    def tries(self) -> list[Obj]:
        return list(self.call("tries")["tries"])

    def events(self) -> list[Obj]:
        return list(self.call("events")["events"])

    def fault(self, kind: str, *, times: int = 1, skip: int = 0, method: str = "", path: str = "", account: str = "",
        seconds: float = 0) -> None:
        """The next matching requests go wrong: rate_limit, error_500, timeout_before|after, drop_before|after (the effect)."""
        self.call("fault", kind=kind, times=times, skip=skip, method=method, path=path, account=account, seconds=seconds)

    def clear_faults(self) -> None:
        self.call("clear_faults")

    def requests(self) -> list[Obj]:
        return list(self.call("requests")["requests"])

    def violations(self) -> list[Obj]:
        """What requests had that Stripe's description does not allow."""
        return list(self.call("violations")["violations"])

    def shape_faults(self) -> list[Obj]:
        """What the fake's own answers and events had that Stripe's description does not allow: a defect of the fake."""
        return list(self.call("shape_faults")["shape_faults"])

    def audit(self) -> list[str]:
        return list(self.call("audit")["wrong"])

    def state(self) -> Obj:
        out: Obj = self.call("state")
        return out

    def connected(self, *, currency: str = "usd", active: bool = True) -> str:
        """A connected account that can take cards (unless not `active`): its id."""
        made = self.client().v2.core.accounts.create(
            {"configuration": {"merchant": {"capabilities": {"card_payments": {"requested": True}}}},
                "defaults": {"currency": currency}}
        )
        if active:
            self.onboard(made.id)
        return made.id


@contextmanager
def running(now: int | None = None, seed: int = 1) -> Iterator[Control]:
    """A fake of its own, as a process, until the block ends."""
    command = [sys.executable, "-m", "tests.fake_stripe", "--port", "0", "--seed", str(seed),
        *(["--now", str(now)] if now else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout is not None
        word, _, port = process.stdout.readline().partition(" ")
        assert word == "port", "the fake did not start"
        yield Control(f"http://127.0.0.1:{int(port)}")
    finally:
        process.terminate()
        process.wait(60)

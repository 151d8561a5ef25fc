"""Journeys in a sandbox of Stripe, with Stripe's own calls alone: a test key, test cards, test clocks, events that are listed.

Hosted pages are paid as Stripe's command line tool pays them where it triggers a checkout (`/v1/payment_pages`): no browser
is driven. Webhooks cannot reach this machine: what `GET /v1/events` lists is signed with the gateway's own secrets and sent
to it, as that tool's `listen` does. A key of live mode is refused before anything is asked.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import stripe

from tests.billing.at_stripe import PATHS, SECRETS
from tests.billing.relay import Relay
from tests.fake_stripe.delivery import signature
from tests.fake_stripe.spec import Obj

API = "https://api.stripe.com"
KEY_NAME = "STRIPE_TEST_KEY"
BEGUN_AGO_S = 500 * 86_400  # test clocks begin then, so that months can pass before the gateway's own time
_TRIES_S = 180.0
_BUYER = {"name": "Jenny Rosen", "email": "buyer@example.com"}
_ADDRESS = {"line1": "1 Main St", "city": "South San Francisco", "state": "CA", "postal_code": "94080", "country": "US"}


class LiveKey(Exception):
    """Tests are given a key with which money moves."""


def given_key() -> str:
    """The sandbox's key, or "" where there is none. LiveKey for any that is not of test mode."""
    key = os.environ.get(KEY_NAME, "")
    if key and not key.startswith(("sk_test_", "rk_test_")):
        raise LiveKey(f"{KEY_NAME} must be a key of a sandbox, sk_test_...: tests take no other.")
    return key


class Sandbox:
    """`AtStripe` at `base`. Where nothing new was listed for `quiet_s`, everything has been told."""

    def __init__(self, key: str, base: str = API, *, quiet_s: float = 8.0, pause_s: float = 1.0) -> None:
        if not key.startswith(("sk_test_", "rk_test_")):
            raise LiveKey("a key of a sandbox begins with sk_test_")
        self.key, self.patience_s = key, 60.0
        self._base, self._quiet_s, self._pause_s = base, quiet_s, pause_s
        self._http = httpx.Client(base_url=base, timeout=80, headers={"authorization": f"Bearer {key}"})
        self._hooks = httpx.Client(timeout=20)
        self._relay = Relay(base, self._made)
        self.api_base = self._relay.url
        self._gateway = ""
        self._one = threading.Lock()
        self._cursors: dict[str, str] = {"": next((str(row["id"]) for row in self._get("/v1/events", "", limit=1)["data"]), "")}

    def close(self) -> None:
        self._relay.close()
        self._http.close()
        self._hooks.close()

    # ---- Stripe's API --------------------------------------------------------------------------

    def client(self) -> stripe.StripeClient:
        at: Any = {"api": self._base}
        return stripe.StripeClient(self.key, base_addresses=at, max_network_retries=2)

    def _get(self, path: str, account: str, **params: Any) -> Obj:
        return self._read(self._http.get(path, params=params, headers=_at(account)))

    def _post(self, path: str, account: str, **form: Any) -> Obj:
        return self._read(self._http.post(path, data=form, headers=_at(account)))

    def _read(self, answer: httpx.Response) -> Obj:
        found: Obj = answer.json()
        if answer.status_code != 200:
            raise Refused(answer.status_code, found["error"])
        return found

    def _until(self, ask: Callable[[], Any]) -> Any:
        """What `ask` says, once it says anything."""
        deadline = time.monotonic() + _TRIES_S
        while not (found := ask()):
            assert time.monotonic() < deadline, "Stripe took too long"
            time.sleep(self._pause_s)
        return found

    # ---- accounts and time ---------------------------------------------------------------------

    def _made(self, account: str) -> None:
        self._cursors[account] = ""

    def onboard(self, account: str) -> None:
        """It was made with all that Stripe asks for; its verification takes a moment."""
        self._until(lambda: self._get(f"/v1/accounts/{account}", "")["charges_enabled"])

    def clock(self, account: str) -> None:
        made = self._post("/v1/test_helpers/test_clocks", account, frozen_time=int(time.time()) - BEGUN_AGO_S)
        self._relay.clocks[account] = made["id"]

    def advance(self, account: str, seconds: int) -> None:
        path = f"/v1/test_helpers/test_clocks/{self._relay.clocks[account]}"
        self._post(f"{path}/advance", account, frozen_time=self._get(path, account)["frozen_time"] + seconds)

        def ready() -> bool:
            status = self._get(path, account)["status"]
            assert status != "internal_failure"
            return bool(status == "ready")

        self._until(ready)

    # ---- buyers, owners, issuers ---------------------------------------------------------------

    def pay(self, account: str, session: str, card: str = "pm_card_visa") -> Obj:
        page = self._get(f"/v1/payment_pages/{session}", account)
        billing = {f"billing_details[{name}]": value for name, value in _BUYER.items()}
        billing |= {f"billing_details[address][{name}]": value for name, value in _ADDRESS.items()}
        token = f"tok_{card.removeprefix('pm_card_')}"
        method = self._post("/v1/payment_methods", account, **{"type": "card", "card[token]": token, **billing})
        try:
            wish = {"payment_method": method["id"], "expected_amount": page["total_summary"]["due"]}
            self._post(f"/v1/payment_pages/{session}/confirm", account, **wish)
        except Refused as refused:
            if refused.status != 402:
                raise
            return {"session": self._get(f"/v1/checkout/sessions/{session}", account), "refused": refused.error}

        def complete() -> Obj | None:
            found = self._get(f"/v1/checkout/sessions/{session}", account)
            return found if found["status"] == "complete" else None

        return {"session": self._until(complete), "refused": None}

    def abandon(self, account: str, session: str) -> None:
        self._post(f"/v1/checkout/sessions/{session}/expire", account)

    def refund(self, account: str, intent: str, amount: int | None = None) -> Obj:
        return self._post("/v1/refunds", account, payment_intent=intent, **({} if amount is None else {"amount": amount}))

    def dispute_of(self, account: str, intent: str) -> str:
        rows = self._until(lambda: self._get("/v1/disputes", account, payment_intent=intent)["data"])
        return str(rows[0]["id"])

    def close_dispute(self, account: str, dispute: str, won: bool) -> None:
        word = "winning_evidence" if won else "losing_evidence"
        self._post(f"/v1/disputes/{dispute}", account, **{"evidence[uncategorized_text]": word, "submit": "true"})
        self._until(lambda: self._get(f"/v1/disputes/{dispute}", account)["status"] in ("won", "lost"))

    # ---- webhooks ------------------------------------------------------------------------------

    def listen(self, gateway: str) -> None:
        self._gateway = gateway

    def deliver(self, senders: int = 6, **how: Any) -> None:
        del senders
        assert not how, "how Stripe delivers is the fake's alone to say"
        quiet_since = time.monotonic()
        while True:
            if self._tell_new():
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= self._quiet_s:
                return
            time.sleep(min(self._pause_s, self._quiet_s))

    @contextmanager
    def listening(self) -> Iterator[None]:
        done, failed = threading.Event(), list[Exception]()

        def tell() -> None:
            while not done.is_set():
                try:
                    self._tell_new()
                except Exception as wrong:  # it fails the test that listens, below
                    failed.append(wrong)
                    return
                done.wait(self._pause_s)

        thread = threading.Thread(target=tell)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            assert not failed, failed

    def _tell_new(self) -> int:
        """Everything listed since the last time, oldest first, a connected account's to both endpoints."""
        told = 0
        with self._one:
            for account in list(self._cursors):
                for event in self._new_of(account):
                    for endpoint in ("connect", "platform") if account else ("platform",):
                        self._send(endpoint, event)
                    told += 1
        return told

    def _new_of(self, account: str) -> list[Obj]:
        rows: list[Obj] = []
        if not self._cursors[account]:  # all that there is, from the newest back
            more = True
            while more:
                page = self._get("/v1/events", account, limit=100, **({"starting_after": rows[-1]["id"]} if rows else {}))
                rows, more = rows + page["data"], page["has_more"]
            rows.reverse()
        else:
            while page := self._get("/v1/events", account, limit=100, ending_before=_last(rows, self._cursors[account]))["data"]:
                rows += reversed(page)
        self._cursors[account] = _last(rows, self._cursors[account])
        return [{**event, "account": account} if account else event for event in rows]

    def _send(self, endpoint: str, event: Obj) -> None:
        body = json.dumps(event)
        signed = signature(body, [SECRETS[endpoint]], int(time.time()))
        answer = self._hooks.post(self._gateway + PATHS[endpoint], content=body, headers={"stripe-signature": signed})
        assert answer.status_code == 200, (event["type"], answer.text)

    def checked(self) -> None:
        """What Stripe does not take, it has refused when it was asked."""


class Refused(Exception):
    """Stripe's no."""

    def __init__(self, status: int, error: Obj) -> None:
        super().__init__(f"{status} {error.get('code')}: {error.get('message')}")
        self.status, self.error = status, error


def _last(events: list[Obj], otherwise: str) -> str:
    return str(events[-1]["id"]) if events else otherwise


def _at(account: str) -> dict[str, str]:
    return {"stripe-account": account} if account else {}

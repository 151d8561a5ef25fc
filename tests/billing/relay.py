"""A relay between a gateway and Stripe's API, for what tests need of a sandbox and no gateway asks for.

It passes everything on as it is, but for three things. A creator's account is made as a custom one with the test data that
Stripe verifies at once, since nobody is there to answer the questions that a gateway's accounts are onboarded with. A customer
is made on its account's test clock, where it has one. And an Idempotency-Key gets the run's own end: a gateway that is made
anew for each run names its first creator as the run before did.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlencode

import httpx

_PASSED = ("authorization", "content-type", "stripe-version", "stripe-account", "stripe-context", "idempotency-key")
_TIMEOUT_S = 80.0  # what Stripe's SDK gives it
# docs.stripe.com/connect/testing
_VERIFIED: dict[str, Any] = {
    "type": "custom",
    "country": "US",
    "business_type": "individual",
    "capabilities[card_payments][requested]": "true",
    "capabilities[transfers][requested]": "true",
    "business_profile[mcc]": "5734",
    "business_profile[url]": "https://accessible.stripe.com",
    "external_account": "btok_us_verified",
    "tos_acceptance[ip]": "127.0.0.1",
    "individual[first_name]": "Jenny",
    "individual[last_name]": "Rosen",
    "individual[phone]": "0000000000",
    "individual[id_number]": "000000000",
    "individual[ssn_last_4]": "0000",
    "individual[dob][day]": "1",
    "individual[dob][month]": "1",
    "individual[dob][year]": "1901",
    "individual[address][line1]": "address_full_match",
    "individual[address][city]": "South San Francisco",
    "individual[address][state]": "CA",
    "individual[address][postal_code]": "94080",
    "individual[address][country]": "US",
}


class Relay:
    """Listens on a free port of this machine until it is closed. `made` is told each account."""

    def __init__(self, upstream: str, made: Callable[[str], None]) -> None:
        self.clocks: dict[str, str] = {}  # test clocks by account
        self._made = made
        self._run = secrets.token_hex(4)
        self._http = httpx.Client(base_url=upstream, timeout=_TIMEOUT_S)
        self._accounts: dict[str, str] = {}
        self._one = threading.Lock()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                answer = relay.answer(self.command, self.path, dict(self.headers.items()), body)
                self.send_response(answer.status_code)
                for name in ("content-type", "request-id", "stripe-should-retry", "idempotent-replayed"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._http.close()

    def answer(self, method: str, path: str, given: dict[str, str], body: bytes) -> httpx.Response:
        """Stripe's, to this request or to what stands for it."""
        headers = {name.lower(): value for name, value in given.items() if name.lower() in _PASSED}
        if "idempotency-key" in headers:
            headers["idempotency-key"] += f"-{self._run}"
        try:
            if (method, path) == ("POST", "/v2/core/accounts"):
                return self._account(headers, json.loads(body))
            clock = self.clocks.get(headers.get("stripe-account", ""))
            if (method, path) == ("POST", "/v1/customers") and clock is not None:
                body += (b"&" if body else b"") + urlencode({"test_clock": clock}).encode()
            return self._http.request(method, path, headers=headers, content=body)
        except httpx.TransportError as failed:
            return httpx.Response(502, json={"error": {"type": "api_error", "message": f"the relay: {type(failed).__name__}"}})

    def _account(self, headers: dict[str, str], wish: dict[str, Any]) -> httpx.Response:
        """The account that a gateway's wish made, as v2 has it; the same for the same Idempotency-Key."""
        key = headers.pop("idempotency-key", secrets.token_hex(8))
        with self._one:
            if key not in self._accounts:
                named = {f"metadata[{name}]": value for name, value in (wish.get("metadata") or {}).items()}
                form = {**_VERIFIED, **named, "tos_acceptance[date]": str(int(time.time())), "email": wish["contact_email"]}
                form["individual[email]"] = wish["contact_email"]
                form["business_profile[name]"] = wish["display_name"]
                v1 = {"authorization": headers["authorization"], "content-type": "application/x-www-form-urlencoded"}
                made = self._http.post("/v1/accounts", headers=v1, content=urlencode(form))
                if made.status_code != 200:
                    return made
                self._accounts[key] = made.json()["id"]
                self._made(self._accounts[key])
        include = {f"include[{place}]": str(name) for place, name in enumerate(wish.get("include") or ())}  # as the SDK writes it
        path = f"/v2/core/accounts/{self._accounts[key]}"
        headers.pop("content-type", None)
        return self._http.get(path, params=include, headers=headers)


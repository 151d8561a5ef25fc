"""The HTTP surface: reads a request, checks it, keeps idempotency, plays faults, answers, tells events."""

import asyncio
import copy
import json
import re
from typing import Any

from aiohttp import web

from . import (
    accounts,
    catalog,
    changes,
    charges,
    checkout,
    clocks,
    customers,
    disputes,
    invoice_items,
    invoice_payments,
    invoices,
    payment_pages,
    payouts,
    portal,
    refunds,
    subscriptions,
)
from .checker import decoded, reply_faults, typed
from .delivery import Delivery
from .errors import StripeFault, bad
from .routes import HANDLERS, Call, expanded
from .spec import Obj, operation_of, schemas
from .world import PLATFORM, Account, World

OBJECT_FILES = (
    accounts, catalog, changes, charges, checkout, clocks, customers, disputes, invoice_items,
    invoice_payments, invoices, payouts, portal, refunds, subscriptions,
)  # fmt: skip
LOG_MAX = 100_000
IDEMPOTENCY_S = 86_400
HANG_S = 120.0
EMBEDDED_LINES = 10


def _cut(answer: Any) -> None:
    """Of an invoice's lines the first ten come with it."""
    lines = answer.get("lines") if isinstance(answer, dict) and answer.get("object") == "invoice" else None
    if lines and len(lines["data"]) > EMBEDDED_LINES:
        answer["lines"] |= {"data": lines["data"][:EMBEDDED_LINES], "has_more": True}


class Fake:
    """The world with what stands around it: the log, violations, faults, kept answers, webhooks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.delivery = Delivery(world)
        self.log: list[Obj] = []
        self.violations: list[Obj] = []
        self.shape_faults: list[Obj] = []
        self.faults: list[Obj] = []
        self.kept: dict[tuple[str, str], tuple[int, str, int, Obj]] = {}
        world.on_event = self.told

    def told(self, account: Account, event: Obj) -> None:
        kind = event["data"]["object"]["object"]
        if kind in schemas():
            self.note_shape(f"event {event['type']}",
                reply_faults({"$ref": f"#/components/schemas/{kind}"}, event["data"]["object"]))
        self.delivery.queue(account, event)

    def note_shape(self, where: str, faults: list[str]) -> None:
        self.shape_faults += [{"where": where, "fault": fault} for fault in faults]

    def fault_for(self, method: str, path: str, account: str) -> Obj | None:
        for fault in self.faults:
            wanted = (fault.get("method") or method, fault.get("account") or account)
            if wanted == (method, account) and path.startswith(fault.get("path") or "") and fault["times"] > 0:
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    return None
                fault["times"] -= 1
                return fault
        return None

    def account_of(self, headers: Any) -> Account:
        """The account that a request acts on; the platform's key opens connected accounts until they revoke it."""
        key = headers.get("Authorization", "").removeprefix("Bearer ")
        if not re.match(r"(sk|rk)_test_\w+$", key) or "invalid" in key:
            raise StripeFault(401, f"Invalid API Key provided: {key[:8]}****", kept=False)
        named = headers.get("Stripe-Account") or headers.get("Stripe-Context") or PLATFORM
        account = self.world.accounts.get(named)
        if account is None or account.deauthorized:
            raise StripeFault(
                403,
                f"The provided key '{key[:8]}****' does not have access to account '{named}' (or that account does not exist). "
                "Application access may have been revoked.",
                "account_invalid",
                kept=False,
            )
        return account

    def act(self, account: Account, method: str, path: str, params: Obj, request: Obj) -> Obj:
        """One operation, checked against the description first; what the description does not allow is kept as a violation."""
        operation = operation_of(method, path)
        if operation is None:
            self.violations.append({"method": method, "path": path, "param": "", "text": "no such operation"})
            raise StripeFault(404, f"Unrecognized request URL ({method}: {path}).", kept=False)
        values, wrong = typed(operation, params)
        for item in wrong:
            self.violations.append({"method": method, "path": path, **item._asdict()})
        if wrong:
            raise StripeFault(400, wrong[0].text, wrong[0].code, wrong[0].param, kept=False)
        handler = HANDLERS.get((method, operation.template))
        if handler is None:
            raise StripeFault(501, f"The fake does not play {method} {operation.template}", kept=False)
        self.world.request = request
        expand = values.pop("expand", [])
        try:
            answer = handler(Call(self.world, account, operation.arguments, values, path))
        finally:
            self.world.request = {"id": None, "idempotency_key": None}
        out = expanded(self.world, account, answer, expand) if not operation.json else copy.deepcopy(answer)
        for each in [out, *(out["data"] if out.get("object") == "list" else [])]:
            _cut(each)
        self.note_shape(f"{method} {operation.template}", reply_faults(operation.reply, out))
        return out

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The process edge for API requests."""
        text = (await request.read()).decode()
        request_id = self.world.id("req_", 14)
        key = request.headers.get("Idempotency-Key", "")
        entry: Obj = {"id": request_id, "method": request.method, "path": request.path, "query": request.query_string}
        entry |= {"account": request.headers.get("Stripe-Account"), "idempotency_key": key, "body": text, "status": 0}
        entry |= {"version": request.headers.get("Stripe-Version"), "replayed": False, "fault": None}
        del self.log[LOG_MAX:]
        self.log.append(entry)
        fault = self.fault_for(request.method, request.path, entry["account"] or PLATFORM)
        if fault is not None:
            entry["fault"] = fault["kind"]
        if fault is not None and not fault["kind"].endswith("_after"):
            return await self.play(fault, request)
        status, answer = self.answer(request, text, key, request_id, entry)
        entry["status"] = status
        if fault is not None:
            return await self.play(fault, request)
        headers = {"Request-Id": request_id, "Stripe-Version": entry["version"] or ""}
        if entry["replayed"]:
            headers["Idempotent-Replayed"] = "true"
        return web.json_response(answer, status=status, headers=headers)

    def answer(self, request: web.Request, text: str, key: str, request_id: str, entry: Obj) -> tuple[int, Obj]:
        method, path = request.method, request.path
        try:
            account = self.account_of(request.headers)
            params = self.read(request, text)
            held = self.kept.get((account.id, key)) if key and method != "GET" else None
            what = f"{method} {path} {json.dumps(params, sort_keys=True)}"
            if held is not None and held[0] > self.world.now - IDEMPOTENCY_S:
                if held[1] != what:
                    raise StripeFault(
                        400,
                        "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                        f"Try a key other than '{key}' if you meant to execute a different request.",
                        kept=False,
                        type="idempotency_error",
                    )
                entry["replayed"] = True
                return held[2], held[3]
            key_type = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if key_type.startswith("rk_test_read") and method != "GET":
                raise StripeFault(403, "The provided key does not have the required permissions for this endpoint.", kept=False)
        except StripeFault as fault:
            return fault.status, {"error": {**fault.error, "request_log_url": request_id}}
        kept = True
        try:
            acting = {"id": request_id, "idempotency_key": key or None}
            if path.startswith(payment_pages.PREFIX):
                status, answer = 200, payment_pages.act(self.world, account, method, path, params)
            elif path == "/oauth/deauthorize":
                status, answer = 200, accounts.deauthorize_by_platform(self.world, params)
            else:
                status, answer = 200, self.act(account, method, path, params, acting)
        except StripeFault as fault:
            status, answer, kept = fault.status, {"error": {**fault.error, "request_log_url": request_id}}, fault.kept
        except Exception as broken:
            # A defect of the fake must fail the test that met it, not look like Stripe's own trouble.
            self.note_shape(f"{method} {path}", [f"the fake broke: {type(broken).__name__}: {broken}"])
            raise
        if key and kept and method != "GET":
            self.kept[account.id, key] = (self.world.now, what, status, answer)
        return status, answer

    def read(self, request: web.Request, text: str) -> Obj:
        query = decoded(request.query_string)
        kind = request.content_type
        if not text:
            return query
        if request.path.startswith("/v2/"):
            if kind != "application/json":
                raise bad("v2 takes application/json")
            body: Obj = json.loads(text)
            return {**query, **body}
        if kind != "application/x-www-form-urlencoded":
            self.violations.append({"method": request.method, "path": request.path, "param": "", "text": f"content type {kind}"})
            raise bad(f"Invalid content type {kind}: v1 takes application/x-www-form-urlencoded")
        return {**query, **decoded(text)}

    async def play(self, fault: Obj, request: web.Request) -> web.StreamResponse:
        """What a test asked to go wrong: rate_limit, error_500, timeout_before|after, drop_before|after."""
        kind = fault["kind"]
        if kind == "rate_limit":
            error = {"type": "invalid_request_error", "code": "rate_limit", "message": "Request rate limit exceeded."}
            return web.json_response({"error": error}, status=429, headers={"Stripe-Rate-Limited-Reason": "global-rate"})
        if kind == "error_500":
            return web.json_response({"error": {"type": "api_error", "message": "An unknown error occurred"}}, status=500)
        if kind.startswith("timeout"):
            await asyncio.sleep(min(float(fault.get("seconds") or HANG_S), HANG_S))
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

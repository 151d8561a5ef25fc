"""Everything that the fake knows: the platform's account, connected accounts, their objects, the clock, ids and events.

An object is the dict that Stripe would send. What Stripe knows and does not send (how a card behaves, which settings a checkout
session will use) is in `Account.hidden`, by object id. The clock stands still until a test moves it; work that falls due at a
moment (renewals, retries, payouts, expiries) is done by `billing_clock.advance`, in the order of the moments.
"""

import copy
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from .errors import bad, missing
from .spec import Obj, complete

API_VERSION = "2026-10-28.endive"
APPLICATION = "ca_FakePlatform"
PLATFORM = "acct_1FakePlatform00"
DAY = 86_400
DECIMALS = {"jpy": 0, "krw": 0, "vnd": 0, "kwd": 3, "bhd": 3, "tnd": 3}
# Stripe's price for a card: a share in hundredths of a percent, and a fixed part in minor units of the currency.
FEE_BASIS_POINTS = 290
FEE_FIXED = {"usd": 30, "eur": 25, "gbp": 20, "jpy": 30, "kwd": 90}
DISPUTE_FEE = {"usd": 1500, "eur": 2000, "gbp": 2000, "jpy": 1300, "kwd": 5000}
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def rounded(numerator: int, denominator: int) -> int:
    """A quotient to the nearest integer, halves away from zero; exact for integers of any size."""
    sign = -1 if (numerator < 0) != (denominator < 0) else 1
    return sign * ((2 * abs(numerator) + abs(denominator)) // (2 * abs(denominator)))


class Account:
    """One Stripe account: its objects by kind and id, in the order they were made."""

    def __init__(self, account_id: str, country: str = "US", currency: str = "usd", created: int = 0) -> None:
        self.id = account_id
        self.country, self.currency, self.created = country, currency, created
        self.kinds: dict[str, dict[str, Obj]] = {}
        self.hidden: dict[str, Obj] = {}
        self.v2: Obj = {}
        self.closed = False
        self.deauthorized = False
        self.capability = "active"
        # Days between attempts to collect an invoice, and what a subscription becomes after the last: cancel, unpaid, past_due.
        self.retry_days: list[int] = [3, 5, 7]
        self.after_retries = "cancel"

    @property
    def is_platform(self) -> bool:
        return self.id == PLATFORM

    def of(self, kind: str) -> dict[str, Obj]:
        return self.kinds.setdefault(kind, {})

    def add(self, obj: Obj, schema: str = "", **hidden: Any) -> Obj:
        complete(schema or obj["object"], obj)
        assert obj["id"] not in self.of(obj["object"]), obj["id"]
        self.of(obj["object"])[obj["id"]] = obj
        if hidden:
            self.hidden[obj["id"]] = hidden
        return obj

    def get(self, kind: str, object_id: str, param: str = "", status: int = 0) -> Obj:
        """The object, or Stripe's 404 (400 when it was named by a parameter, as Stripe does)."""
        found = self.of(kind).get(object_id)
        if found is None:
            raise missing(kind.rpartition(".")[2], object_id, param or "id", status or (400 if param else 404))
        return found

    def find(self, object_id: str) -> Obj | None:
        return next((table[object_id] for table in self.kinds.values() if object_id in table), None)


class World:
    """All accounts under one clock."""

    def __init__(self, seed: int = 1, now: int | None = None) -> None:
        self.random = random.Random(seed)
        self.now = int(time.time()) if now is None else now
        self.accounts: dict[str, Account] = {}
        self.events: list[tuple[Account, Obj]] = []
        self.on_event: Callable[[Account, Obj], None] = lambda account, event: None
        # The request that acts now, told in the events that it makes: both None for what Stripe or the dashboard does.
        self.request: Obj = {"id": None, "idempotency_key": None}
        self.strict_balance = False
        self.platform = self.account(PLATFORM)

    def account(self, account_id: str, country: str = "US", currency: str = "usd") -> Account:
        assert account_id not in self.accounts
        self.accounts[account_id] = account = Account(account_id, country, currency, self.now)
        return account

    def id(self, prefix: str, length: int = 24) -> str:
        return prefix + "".join(self.random.choices(_LETTERS, k=length))

    def new(self, kind: str, prefix: str, **fields: Any) -> Obj:
        """An object with what nearly all have: id, object, created, livemode, metadata."""
        obj: Obj = {"id": fields.pop("id", None) or self.id(prefix), "object": kind, "created": self.now, "livemode": False}
        obj["metadata"] = dict(fields.pop("metadata", None) or {})
        return {**obj, **fields}

    def emit(self, account: Account, kind: str, obj: Obj, previous: Obj | None = None) -> Obj:
        """An event with the object as it is now; the server sends it to the endpoints that want it."""
        data: Obj = {"object": copy.deepcopy(obj)}
        if previous:
            data["previous_attributes"] = copy.deepcopy(previous)
        event: Obj = {
            "id": self.id("evt_1"), "object": "event", "api_version": API_VERSION, "created": self.now, "data": data,
            "livemode": False, "pending_webhooks": 0, "request": dict(self.request), "type": kind,
        }  # fmt: skip
        if not account.is_platform:
            event["account"] = account.id
        account.of("event")[event["id"]] = event
        self.events.append((account, event))
        self.on_event(account, event)
        return event

    def move(self, account: Account, kind: str, amount: int, currency: str, source: str | None, **more: Any) -> Obj:
        """A balance transaction: the only way that money comes to or leaves an account."""
        fees: list[Obj] = more.pop("fees", [])
        fee = sum(item["amount"] for item in fees)
        wait = more.pop("wait", 2 * DAY)
        return account.add(
            {
                "id": self.id("txn_1"), "object": "balance_transaction", "amount": amount, "available_on": self.now + wait,
                "balance_type": "payments", "created": self.now, "currency": currency, "fee": fee, "fee_details": fees,
                "net": amount - fee, "reporting_category": more.pop("category", kind), "source": source,
                "status": "available" if not wait else "pending", "type": kind, **more,
            }
        )  # fmt: skip

    def fee_of(self, amount: int, currency: str) -> int:
        """Stripe's own fee for a charge."""
        return rounded(amount * FEE_BASIS_POINTS, 10_000) + FEE_FIXED.get(currency, 30)

    def fee_line(self, kind: str, amount: int, currency: str, application: str | None = None) -> Obj:
        words = {"stripe_fee": "Stripe processing fees", "application_fee": "application fee"}
        return {"amount": amount, "application": application, "currency": currency, "description": words[kind], "type": kind}

    def connected(self) -> Iterator[Account]:
        yield from (account for account in self.accounts.values() if not account.is_platform)

    def balance_of(self, account: Account, currency: str, available: bool = False) -> int:
        rows = account.of("balance_transaction").values()
        return sum(t["net"] for t in rows if t["currency"] == currency and (not available or t["available_on"] <= self.now))


def minor(amount: int, currency: str) -> str:
    """An amount of minor units in words: 1050 usd is "10.50 USD"."""
    digits = DECIMALS.get(currency, 2)
    sign, text = ("-" if amount < 0 else ""), str(abs(amount)).rjust(digits + 1, "0")
    return f"{sign}{text[:-digits]}.{text[-digits:]} {currency.upper()}" if digits else f"{sign}{text} {currency.upper()}"


def merge_metadata(obj: Obj, given: Any) -> None:
    """Stripe's rule: keys are merged, an empty value removes its key, an empty string removes all."""
    if given == "":
        obj["metadata"] = {}
    for key, value in (given or {}).items():
        if len(key) > 40 or len(str(value)) > 500:
            raise bad(f"Metadata keys have at most 40 characters, values 500: {key}", "metadata")
        if value == "":
            obj["metadata"].pop(key, None)
        else:
            obj["metadata"][key] = value

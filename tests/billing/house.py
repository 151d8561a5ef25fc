"""A whole gateway that sells, and the Stripe that it sells through, the fake or a sandbox: what a journey needs of both."""

import itertools
import json
import time
from datetime import datetime
from typing import Any

import httpx

from gateway.core.clock import now_ms
from tests.billing import at_stripe
from tests.billing.at_stripe import PATHS as PATHS
from tests.billing.at_stripe import SECRETS as SECRETS
from tests.billing.at_stripe import AtStripe, OnFake
from tests.fake_stripe.control import Control
from tests.fake_stripe.delivery import signature
from tests.path.conftest import Stack

KEYS = itertools.count(1)
URLS = {"success_url": "https://app.invalid/ok", "cancel_url": "https://app.invalid/no"}
DAY = 86_400


class House:
    """A gateway and Stripe, whose connected accounts' events go to both endpoints: each is told twice."""

    def __init__(self, stack: Stack, stripe: Control | AtStripe) -> None:
        self.stack = stack
        self.stripe: AtStripe = OnFake(stripe) if isinstance(stripe, Control) else stripe
        self.control: Any = self.stripe.control if isinstance(self.stripe, OnFake) else _NoFake()
        self.stripe.listen(stack.url)

    # ---- selling -------------------------------------------------------------------------------

    def post(self, path: str, body: dict[str, Any], status: int = 201) -> Any:
        return self.stack.post(path, body, status, idempotency_key=f"k{next(KEYS)}")

    def shop(self, asset: str = "TOK", fee_percent: str = "12.5", *, clock: bool = False) -> "Shop":
        """An app whose creator sells, and pays for its usage: it has enough for that. `clock`: its buyers' time is the test's."""
        app = self.stack.app(asset=asset, cost_policy="creator_pays")
        user_id = str(self.stack.get(f"/apps/{app}")["user_id"])
        self.stack.grant({"user_id": user_id}, 1_000_000_000)
        made = self.post("/billing-accounts", {"user_id": user_id, "email": f"{user_id}@example.com"})
        self.stripe.onboard(made["account_id"])
        if clock:
            self.stripe.clock(made["account_id"])
        self.post("/fee-terms", {"user_id": user_id, "fee_percent": fee_percent})
        return Shop(self, app, user_id, made["account_id"])

    # ---- webhooks ------------------------------------------------------------------------------

    def deliver(self, senders: int = 6, **how: Any) -> None:
        """Send what waits, and wait until it has been acted upon."""
        self.stripe.deliver(senders, **how)
        self.handled()

    def handled(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while self.webhooks("waiting"):
            assert time.monotonic() < deadline, self.webhooks("waiting")
            time.sleep(0.05)

    def webhooks(self, state: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.stack.get("/webhooks", state=state, limit=100)["data"]
        return rows

    def send(self, endpoint: str, event: dict[str, Any], *, secret: str = "", age_s: int = 0) -> httpx.Response:
        """A webhook that Stripe did not send."""
        body = json.dumps(event)
        signed = signature(body, [secret or SECRETS[endpoint]], int(time.time()) - age_s)
        return httpx.post(self.stack.url + PATHS[endpoint], content=body, headers={"stripe-signature": signed})

    def event(self, kind: str, about: dict[str, Any], account: str = "", **more: Any) -> dict[str, Any]:
        event = {"id": f"evt_made_{next(KEYS)}", "object": "event", "type": kind, "created": int(time.time()), "livemode": False}
        return {**event, "data": {"object": about}, **({"account": account} if account else {}), **more}

    # ---- the books -----------------------------------------------------------------------------

    def fees(self, account: str) -> int:
        """Minor units that the platform has of an account's sales, by Stripe's fee objects."""
        return at_stripe.fees(self.stripe, account)


class _NoFake:
    """In the place of the fake's controls, where there is no fake."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a sandbox has no {name}: mark the test with fake_alone")


class Shop:
    """One app of one creator, and its account."""

    def __init__(self, house: House, app: str, user_id: str, account: str) -> None:
        self.house, self.app, self.user_id, self.account = house, app, user_id, account
        self.control = house.control
        self.at: Any = {"stripe_account": account}
        self.api: Any = house.stripe.client().v1

    def plan(self, price_micro: int = 10_000_000, grant_micro: int = 1_000_000, **more: Any) -> str:
        body = {"enterprise_id": self.app, "kind": "package", "name": "P", "currency": "USD", "price_micro": price_micro}
        return str(self.house.post("/plans", {**body, "grant_micro": grant_micro, **more})["id"])

    def monthly(self, price_micro: int, grant_micro: int, **more: Any) -> str:
        return self.plan(price_micro, grant_micro, kind="subscription", interval="month", **more)

    def open(self, plan_id: str, end_user: str, **more: Any) -> Any:
        return self.house.post("/checkout-sessions", {"plan_id": plan_id, "platform_user_id": end_user, **URLS, **more})

    def buy(self, plan_id: str, end_user: str, card: str = "pm_card_visa") -> str:
        """The payment intent, or the subscription."""
        session = self.house.stripe.pay(self.account, self.open(plan_id, end_user)["id"], card)["session"]
        return str(session["payment_intent"] or session["subscription"])

    def price(self, plan_id: str) -> str:
        """The price of a plan at Stripe, which its first use made; the page that made it runs out."""
        amount = next(p for p in self.house.stack.get("/plans", enterprise_id=self.app)["data"] if p["id"] == plan_id)[
            "price_micro"
        ]
        self.house.stripe.abandon(self.account, self.open(plan_id, "nobody")["id"])
        rows = self.api.prices.list({"limit": 100}, self.at).data
        return next(str(row.id) for row in rows if row.unit_amount * 10_000 == amount)

    def charge(self, intent: str) -> str:
        return str(self.api.payment_intents.retrieve(intent, None, self.at).latest_charge)

    def refund_by_us(self, intent: str, amount_micro: int | None = None) -> str:
        rows = self.house.stack.get("/purchases", enterprise_id=self.app)["data"]
        (purchase,) = [row["id"] for row in rows if row["payment_id"] == intent]
        wish = {"purchase_id": purchase, "enterprise_id": self.app, "reason": "asked for"}
        return str(self.house.post("/refunds", wish | ({"amount_micro": amount_micro} if amount_micro else {}))["id"])

    def change(self, end_user: str, **wish: Any) -> None:
        """The end user's subscription, by our API."""
        (held,) = self.subscriptions(end_user)
        answer = self.house.stack.admin.patch(
            f"/subscriptions/{held['id']}",
            json=wish,
            params={"enterprise_id": self.app},
            headers={"idempotency-key": f"k{next(KEYS)}"},
        )
        assert answer.status_code == 200, answer.text

    def subscriptions(self, end_user: str) -> list[dict[str, Any]]:
        rows = self.house.stack.get("/subscriptions", enterprise_id=self.app, platform_user_id=end_user)["data"]
        return list(rows)

    def card(self, subscription: str, card: str) -> None:
        """What its next invoices are paid with."""
        customer = self.api.subscriptions.retrieve(subscription, None, self.at).customer
        method = self.api.payment_methods.attach(card, {"customer": customer}, self.at)
        self.api.subscriptions.update(subscription, {"default_payment_method": method.id}, self.at)

    def wallet(self, end_user: str) -> dict[str, Any]:
        return self.house.stack.wallet(self.app, end_user)

    def available(self, end_user: str) -> int:
        return int(self.wallet(end_user)["available_micro"])

    def lots(self, end_user: str) -> list[tuple[str, int]]:
        """(source, left) of the lots that have not expired, in the order in which they burn."""
        live = [lot for lot in self.wallet(end_user)["lots"] if lot["expires_at"] is None or _ms(lot["expires_at"]) > now_ms()]
        return [(lot["source"], lot["left_micro"]) for lot in live]

    def accounts(self) -> dict[str, int]:
        """Balances of the app's own accounts and its end users', less those that expiry moves when it comes round."""
        rows = self.house.stack.get("/ledger/accounts", enterprise_id=self.app, limit=200)["data"]
        moved = ("user.available", "revenue.breakage", "expense.promo")
        found = {
            f"{row['owner']}/{row['account']}/{row['asset']}": row["balance_micro"] for row in rows if row["account"] not in moved
        }
        return {name: balance for name, balance in found.items() if balance}

    def fee_income(self) -> int:
        """Micro-units of the platform's fee income from this app: what its book says is due."""
        return self.accounts().get("/due_to_platform/USD", 0)

    def check(self) -> None:
        """The platform's share is what Stripe's fee objects say, to the cent."""
        assert self.fee_income() == self.house.fees(self.account) * 10_000, (self.app, self.accounts())


def _ms(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp() * 1000)

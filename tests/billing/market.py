"""A market for the tests: the management API on a fake of Stripe, with an account that takes charges."""

import itertools
from typing import Any

import sqlalchemy as sa

from gateway.balance.places import Full, Place
from gateway.db.tables import APP_SALES, PLATFORM_SALES
from gateway.identity.model import Role
from gateway.providers.model import Capacity
from gateway.trail.service import Trail
from tests.api.conftest import Api
from tests.fake_stripe.control import Control

KEYS = itertools.count(1)
URLS = {"success_url": "https://app.invalid/ok", "cancel_url": "https://app.invalid/no"}
PACKAGE = {
    "enterprise_id": "shop",
    "kind": "package",
    "name": "Ten",
    "currency": "USD",
    "price_micro": 9_990_000,
    "grant_micro": 10_000_000,
}
MONTHLY = {**PACKAGE, "kind": "subscription", "name": "Monthly", "interval": "month", "price_micro": 30_000_000}


class Counted:
    """Places that notes what is counted, and has no room for what is named `full`."""

    def __init__(self, *full: str) -> None:
        self.full = full
        self.asked: list[tuple[str, int | None]] = []

    async def take(self, capacity: Capacity, request_id: str, tokens: int) -> Place | Full:
        self.asked.append((capacity.name, capacity.rpm))
        return Full(1.5) if capacity.name in self.full else Place(capacity.name, request_id, 0, 0)

    def leave(self, place: Place, tokens: int, *, asked: bool = True) -> None:
        """Nothing is kept."""


class Market:
    """The API with an account of alice's that takes charges."""

    def __init__(self, api: Api, control: Control) -> None:
        self.api, self.control = api, control
        self.account = ""

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        return await self.api.call(method, path, body, headers={"idempotency-key": more.pop("key", f"k{next(KEYS)}")}, **more)

    async def ok(self, method: str, path: str, body: Any = None, status: int = 200, **more: Any) -> Any:
        answer = await self.call(method, path, body, **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def refused(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str, str | None]:
        answer = await self.call(method, path, body, **more)
        assert answer.status_code >= 400, answer.text
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["param"]

    async def connect(self) -> None:
        wish = {"email": f"alice+{next(KEYS)}@example.com"}  # another account for each test
        self.account = (await self.ok("POST", "/billing-accounts", wish, 201, role=Role.CREATOR))["account_id"]
        self.control.onboard(self.account)

    async def plan(self, body: dict[str, Any], **more: Any) -> str:
        return str((await self.ok("POST", "/plans", {**body, **more}, 201))["id"])

    async def checkout(self, plan_id: str, *, role: str = Role.END_USER, **more: Any) -> Any:
        key = more.pop("key", f"k{next(KEYS)}")
        return await self.ok("POST", "/checkout-sessions", {"plan_id": plan_id, **URLS, **more}, 201, role=role, key=key)

    def at_stripe(self, kind: str, name: str, account: str | None = None) -> Any:
        api: Any = self.control.client().v1
        for part in kind.split("."):
            api = getattr(api, part)
        return api.retrieve(name, None, {"stripe_account": self.account if account is None else account} if account != "" else {})

    async def write(self, statement: sa.Executable, enterprise_id: str | None = "shop") -> None:
        """What the inbox would have written."""
        databases = self.api.databases
        engine = databases.platform if enterprise_id is None else await databases.app(enterprise_id)
        async with engine.begin() as connection:
            await connection.execute(statement)

    async def subscribed(self, plan_id: str, owner: str, enterprise_id: str | None = "shop", account: str | None = None) -> str:
        """A subscription as the inbox keeps it, of a checkout that was paid."""
        account = self.account if account is None else account
        who: Any = {"role": Role.OPERATOR, "platform_user_id" if enterprise_id else "user_id": owner}
        session = (await self.checkout(plan_id, **who))["id"]
        done = self.control.pay(account, session)["session"]
        table = (APP_SALES if enterprise_id else PLATFORM_SALES)["subscriptions"]
        row: dict[str, Any] = {"id": f"sub_{next(KEYS):03}", "owner": owner, "plan_id": plan_id, "account_id": account}
        row |= {"subscription_id": done["subscription"], "state": "active", "period_start": 1, "period_end": 2, "as_of": 1}
        await self.write(sa.insert(table).values(**row, cancel_at_period_end=0, created_at=1), enterprise_id)
        return str(row["id"])

    async def acts(self, enterprise_id: str | None = "shop") -> list[str]:
        rows, _ = await Trail(self.api.databases).page(enterprise_id, 50, None)
        return [row.line.act for row in rows]

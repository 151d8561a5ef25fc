"""The management API on real stores: SQLite, a Redis-protocol server, and credentials of every role."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Router

from gateway.answers.redis_answers import KeptAnswers
from gateway.api.endpoint import ApiContext
from gateway.api.routes import routes
from gateway.balance.redis_balance import RedisBalance
from gateway.balance.wallets import Wallets
from gateway.billing.service import Billing
from gateway.billing.stripe.reports import StripeReports
from gateway.billing.webhooks.receiving import Receiving
from gateway.core.clock import SYSTEM_CLOCK
from gateway.core.words import CostPolicy, Level
from gateway.db.engines import Databases
from gateway.identity.model import Actor, NewApp, NewKey, NewToken, Role
from gateway.identity.service import Identity
from gateway.identity.store import Store
from gateway.ledger.service import Ledger
from gateway.pricing.catalog import Catalog
from gateway.pricing.configured import PriceOverride
from gateway.providers.model import Deployment, ModelEntry
from gateway.providers.routing import Routing
from tests.balance.server import running_server

OPERATOR_TOKEN = "operator-token-made-up-for-tests"
OPERATOR = Actor(role=Role.OPERATOR, name="operator")
# Served: `own` at a configured price, what begins with gpt- at the list's, `nobody-knows` at none.
OVERRIDES = [
    PriceOverride("own/vllm/0", "vllm", "own", prices={"input": "1", "output": "4"}),
    PriceOverride("gpt-*/openai/0", "openai", "*"),
    PriceOverride("nobody-knows/vllm/0", "vllm", "nobody-knows"),
]
ENTRIES = [
    ModelEntry(
        given.deployment_id.partition("/")[0], (Deployment(given.deployment_id, given.provider, given.model, "http://x", ""),)
    )
    for given in OVERRIDES
]


class Api:
    """The API, and a credential of each role: `alice` has the apps `shop` and `second`, `bob` has `bobs`."""

    def __init__(self, databases: Databases, redis_url: str, stripe_base: str = "http://127.0.0.1:9") -> None:
        """By default Stripe does not answer: these tests buy nothing."""
        self.databases = databases
        self.balance = RedisBalance(redis_url)
        self.answers = KeptAnswers(redis_url, 1_000_000)
        self.identity = Identity(Store(databases.platform, databases.app), b"a pepper of the tests")
        self.registry = self.identity.registry
        self.ledger = Ledger(databases)
        self.wallets = Wallets(self.balance, self.ledger, self.registry.enterprise_ids)
        catalog = Catalog(databases.platform, OVERRIDES, 1000)
        self.billing = Billing(StripeReports("sk_test_made_up", {}, stripe_base, retries=0), databases, self.registry)
        of_apps, told = self.registry.enterprise_ids, frozenset[str]()
        receiving = Receiving(
            self.billing.payments, self.billing.store, databases, self.wallets, self.ledger, of_apps, told, SYSTEM_CLOCK
        )
        self.billing.overage.changed = receiving.effects.overages.follow
        self.billing.overage.why_idle = receiving.effects.overages.idle
        self.context = ApiContext(
            *(self.identity, self.wallets, databases, catalog, Routing(ENTRIES), self.answers, OPERATOR_TOKEN),
            billing=self.billing,
            receiving=receiving,
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(Router(routes=routes(self.context))), base_url="http://gateway"
        )
        self.credentials: dict[str, str] = {Role.OPERATOR: OPERATOR_TOKEN}
        self.key_id = ""

    async def close(self) -> None:
        await self.http.aclose()
        await self.balance.close()
        await self.answers.close()
        await self.billing.close()
        await self.databases.close()

    async def populate(self) -> tuple[dict[str, str], str]:
        """Credentials by role, and the id of the app server's key."""
        made = self.credentials
        for user_id in ("alice", "bob"):
            await self.registry.create_creator(OPERATOR, user_id, user_id.title())
        for enterprise_id, user_id in (("shop", "alice"), ("second", "alice"), ("bobs", "bob")):
            await self.registry.create_app(
                OPERATOR, NewApp(enterprise_id, user_id, enterprise_id, cost_policy=CostPolicy.CREATOR_PAYS)
            )
        _, made[Role.CREATOR] = await self.registry.create_management_key(OPERATOR, "alice", "ci")
        _, made["bob"] = await self.registry.create_management_key(OPERATOR, "bob", "ci")
        key, made[Role.APP_SERVER] = await self.registry.create_key(OPERATOR, "shop", NewKey("server", Level.APP_USAGE))
        _, made["platform key"] = await self.registry.create_key(OPERATOR, "shop", NewKey("build", Level.PLATFORM))
        made[Role.END_USER] = (await self.registry.mint_end_user_token(OPERATOR, "shop", NewToken("u1"))).token
        return made, key.id

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: str = Role.OPERATOR,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        **more: str | int,
    ) -> httpx.Response:
        """`query` is for names that Python does not take for arguments, such as `from`."""
        sent = {"authorization": f"Bearer {self.credentials[role]}", **(headers or {})}
        url = path if path.startswith("/api") else f"/api/v1{path}"
        return await self.http.request(method, url, json=body, headers=sent, params={**(query or {}), **more} or None)

    async def ok(self, method: str, path: str, body: Any = None, status: int = 200, **more: Any) -> Any:
        answer = await self.call(method, path, body, **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def grant(
        self, wallet: dict[str, str], amount_micro: int, key: str, role: str = Role.OPERATOR, **fields: Any
    ) -> httpx.Response:
        body = {"wallet": wallet, "amount_micro": amount_micro, **fields}
        return await self.call("POST", "/grants", body, role=role, headers={"idempotency-key": key})


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    with running_server() as url:
        yield url


Populated = tuple[Path, dict[str, str], str]


@pytest.fixture(scope="session")
def populated(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Populated:
    """Databases with everybody in them, made once and copied for each test; and what `populate` returned."""
    folder = tmp_path_factory.mktemp("populated")

    async def populate() -> tuple[dict[str, str], str]:
        databases = _databases(folder)
        await databases.migrate()
        for enterprise_id in ("shop", "second"):
            await databases.migrate_app(enterprise_id)
        api = Api(databases, redis_server)
        made = await api.populate()
        await api.close()
        return made

    return folder, *asyncio.run(populate())


@pytest.fixture
async def api(tmp_path: Path, populated: Populated, redis_server: str) -> AsyncIterator[Api]:
    folder, credentials, key_id = populated
    for file in folder.iterdir():
        shutil.copy(file, tmp_path)
    api = Api(_databases(tmp_path), redis_server)
    api.credentials, api.key_id = dict(credentials), key_id
    await api.balance.link.call("FLUSHALL")
    yield api
    await api.close()


def _databases(folder: Path) -> Databases:
    return Databases(f"sqlite:///{folder}/platform.db", f"sqlite:///{folder}/app-{{enterprise_id}}.db")

"""What a route of the management API is made of: its table row, the call it gets, and what handlers may use."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from gateway.answers.redis_answers import KeptAnswers
from gateway.api.shapes import NoQuery
from gateway.balance.places import Places
from gateway.balance.wallets import Wallets
from gateway.billing.service import Billing
from gateway.billing.webhooks.receiving import Receiving
from gateway.core.clock import SYSTEM_CLOCK, Clock
from gateway.core.limits import MANAGEMENT_BODY_BYTES_MAX
from gateway.db.engines import Databases
from gateway.identity.model import Actor, Role
from gateway.identity.registry import Registry
from gateway.identity.service import Identity
from gateway.pricing.catalog import Catalog
from gateway.providers.routing import Routing

OPERATOR: Final = frozenset({Role.OPERATOR})
MANAGERS: Final = frozenset({Role.OPERATOR, Role.CREATOR})
SERVERS: Final = MANAGERS | {Role.APP_SERVER}
ANYONE_KNOWN: Final = SERVERS | {Role.END_USER}
PUBLIC: Final = frozenset({Role.PUBLIC})


class ApiContext(msgspec.Struct, frozen=True):
    """The services behind the handlers. An empty `operator_token` lets no operator in; without `billing` nothing is sold."""

    identity: Identity
    wallets: Wallets
    databases: Databases
    catalog: Catalog
    routing: Routing
    answers: KeptAnswers
    operator_token: str
    clock: Clock = SYSTEM_CLOCK
    billing: Billing | None = None
    receiving: Receiving | None = None  # there where billing is
    places: Places | None = None  # counts end users' requests; without it nobody does
    stripe_fault: str = ""  # why nothing is sold, where a setting of Stripe's is wrong

    @property
    def registry(self) -> Registry:
        """Creators, apps and keys."""
        return self.identity.registry

    @property
    def sales(self) -> Billing:
        """Billing, for endpoints that are not there without it."""
        assert self.billing is not None
        return self.billing


class Call(msgspec.Struct, frozen=True):
    """One authenticated request: `query` and `body` are of the types that the endpoint declares."""

    actor: Actor
    path: Mapping[str, str]
    query: Any
    body: Any
    idempotency_key: str | None


Handler = Callable[[ApiContext, Call], Awaitable[Any]]


class Endpoint(msgspec.Struct, frozen=True):
    """One row of the table, from which the routes and the OpenAPI description are made.

    `query` and `body` are structs (None: no body), `answer` is the type of what `handler` returns.
    """

    method: str
    path: str
    roles: frozenset[str]
    handler: Handler
    answer: Any
    summary: str
    body: Any = None
    query: Any = NoQuery
    status: int = 200
    idempotent: bool = False  # an Idempotency-Key is required
    sells: bool = False  # it is not there without billing
    asks_stripe: bool = False  # also though it only reads
    body_bytes_max: int = MANAGEMENT_BODY_BYTES_MAX

"""The room's services, as the API finds them."""

from secrets import token_bytes

from gateway.billing.buying import Buying
from gateway.billing.catalogue import Catalogue
from gateway.billing.connect import Connect
from gateway.billing.fees import Fees
from gateway.billing.links import Links
from gateway.billing.overage.agreeing import Agreeing
from gateway.billing.overage.store import OverageStore
from gateway.billing.pages import Pages, Places
from gateway.billing.papers import Papers
from gateway.billing.promo_codes import PromoCodes
from gateway.billing.refunding import Refunding
from gateway.billing.revenue.book import Revenue
from gateway.billing.revenue.reports import Reports
from gateway.billing.revenue.store import RevenueStore
from gateway.billing.store import Store
from gateway.billing.top_ups.rules import TopUps
from gateway.billing.top_ups.store import TopUpStore
from gateway.core.clock import SYSTEM_CLOCK, Clock
from gateway.db.engines import Databases
from gateway.identity.registry import Registry
from gateway.ledger.service import Ledger


class Billing:
    """What there is where Stripe's key was given."""

    def __init__(
        self,
        payments: Reports,
        databases: Databases,
        registry: Registry,
        clock: Clock = SYSTEM_CLOCK,
        *,
        public_url: str = "http://127.0.0.1:8080",
        link_secret: bytes | None = None,
    ) -> None:
        """`public_url` is where buyers' browsers reach our pages. Without a `link_secret` links end with this process."""
        places = Places(public_url)
        self.payments = payments
        self.store = Store(databases)
        self.catalogue = Catalogue(self.store, registry, payments, clock)
        self.connect = Connect(self.store, registry, payments, clock)
        self.fees = Fees(self.store, registry, clock)
        self.promo_codes = PromoCodes(self.store.promos, registry, payments, self.catalogue, clock)
        self.buying = Buying(
            self.store, registry, payments, self.catalogue, self.connect, self.fees, clock, places, self.promo_codes
        )
        self.pages = Pages(self.store, registry, clock)
        secret = token_bytes(32) if link_secret is None else link_secret
        self.links = Links(secret, places, registry, self.catalogue, self.buying, clock)
        top_ups = TopUpStore(databases)
        self.top_ups = TopUps(self.store, top_ups, registry, payments, self.catalogue, self.connect, self.buying, clock)
        self.overage = Agreeing(self.store, OverageStore(databases), registry, clock)
        self.refunding = Refunding(self.store, registry, payments, self.connect, Ledger(databases, clock), clock)
        rows = RevenueStore(databases)
        self.revenue = Revenue(self.store, rows, registry, payments, clock)
        self.papers = Papers(self.store, rows, registry, payments, self.connect)

    async def close(self) -> None:
        """Let go of Stripe's connections."""
        await self.payments.close()

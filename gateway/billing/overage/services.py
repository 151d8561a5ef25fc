"""What overage works with."""

import msgspec

from gateway.balance.wallets import Wallets
from gateway.billing.overage.store import OverageStore
from gateway.billing.ports import Payments
from gateway.billing.sellers import Sellers
from gateway.billing.store import Store
from gateway.billing.webhooks.store import InboxStore
from gateway.core.clock import Clock
from gateway.ledger.service import Ledger


class Services(msgspec.Struct, frozen=True):
    """`store` has plans and accounts, `sold` what was sold, `rows` what is overage's own."""

    payments: Payments
    store: Store
    sold: InboxStore
    rows: OverageStore
    wallets: Wallets
    ledger: Ledger
    sellers: Sellers
    clock: Clock

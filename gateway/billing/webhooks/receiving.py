"""What Stripe tells, as the worker, the API and the commands find it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.balance.wallets import Wallets
from gateway.billing.effects import Effects
from gateway.billing.ports import Payments
from gateway.billing.reconciler import BillingReconciler
from gateway.billing.store import Store
from gateway.billing.webhooks.inbox import Inbox
from gateway.billing.webhooks.store import InboxStore
from gateway.core.clock import Clock
from gateway.db.engines import Databases
from gateway.ledger.service import Ledger

_DAY_MS: Final = 86_400_000


class Receiving:
    """The inbox, the effects and the reconciler."""

    def __init__(
        self,
        payments: Payments,
        store: Store,
        databases: Databases,
        wallets: Wallets,
        ledger: Ledger,
        enterprise_ids: Callable[[], Awaitable[Sequence[str]]],
        endpoints: frozenset[str],
        clock: Clock,
        *,
        grace_days: int = 3,
        kept_days: int = 90,
    ) -> None:
        """`endpoints` are those of `inbox.ENDPOINTS` that have a secret; `grace_days` see `allowances`; `kept_days`: how long
        handled webhooks are kept.
        """
        rows = InboxStore(databases)
        self.effects = Effects(payments, store, rows, wallets, ledger, clock, grace_days)
        self.inbox = Inbox(rows, payments, self.effects, endpoints, clock)
        self.reconciler = BillingReconciler(payments, rows, self.effects, enterprise_ids, clock, kept_days * _DAY_MS)

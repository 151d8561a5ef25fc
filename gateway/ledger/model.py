"""Values of the books. Amounts are integer micro-units of their asset, times Unix milliseconds."""

from typing import Final, Generic, TypeVar

import msgspec

from gateway.core.ids import app_wallet, is_outside_id, platform_wallet
from gateway.core.money import USD
from gateway.core.units import Usage

AVAILABLE: Final = "user.available"
DEBT: Final = "receivable.clawback"
REVENUE: Final = "revenue.usage"
PROMO: Final = "expense.promo"
COST: Final = "expense.llm_cost"
PAYABLE: Final = "provider_payable"
STRIPE: Final = "stripe_clearing"
BOOK: Final = ""  # owner of the book's own accounts

GRANT: Final = "grant"  # kinds of transaction
USAGE: Final = "usage"

PLATFORM_ASSET: Final = USD  # creators' wallets and provider cost

T = TypeVar("T")


class WalletKey(msgspec.Struct, frozen=True):
    """A creator's wallet (`enterprise_id` None: platform book) or an end user's (that app's book)."""

    owner: str
    enterprise_id: str | None = None

    @property
    def name(self) -> str:
        """The name that the hot store and charges use."""
        if self.enterprise_id is None:
            return platform_wallet(self.owner)
        return app_wallet(self.enterprise_id, self.owner)

    @property
    def is_valid(self) -> bool:
        """True when both parts are ids that callers may choose."""
        return is_outside_id(self.owner) and (self.enterprise_id is None or is_outside_id(self.enterprise_id))


def wallet_from_name(name: str) -> WalletKey | None:
    """The reverse of `WalletKey.name`; None for anything else."""
    match name.split("/"):
        case ["p", owner]:
            key = WalletKey(owner)
        case ["a", enterprise_id, owner]:
            key = WalletKey(owner, enterprise_id)
        case _:
            return None
    return key if key.is_valid else None


class AccountKey(msgspec.Struct, frozen=True):
    """One account of a book. `owner` is a user_id, a platform_user_id, or "" for the book's own."""

    owner: str
    kind: str
    asset: str


class Account(msgspec.Struct, frozen=True):
    """An account as it stands. `opened_at_ms`: when its hot wallet was first opened."""

    id: int
    owner: str
    kind: str
    asset: str
    balance_micro: int
    opened_at_ms: int | None = None


class Entry(msgspec.Struct, frozen=True):
    """One line of a transaction; `lot_id` where a lot's money moves."""

    account: AccountKey
    amount_micro: int
    lot_id: str | None = None


class Txn(msgspec.Struct, frozen=True):
    """One transaction with its entries. `op_id` is unique in its book."""

    id: str
    op_id: str
    kind: str
    actor: str
    reason: str
    at_ms: int
    entries: tuple[Entry, ...]
    fingerprint: str | None = None
    reverses: str | None = None


class Lot(msgspec.Struct, frozen=True):
    """One grant into a wallet; granted = spent + expired + refunded + frozen + left."""

    id: str
    source: str
    priority: int
    effective_at_ms: int
    expires_at_ms: int | None
    created_at_ms: int
    granted_micro: int
    spent_micro: int
    left_micro: int
    expired_micro: int = 0
    refunded_micro: int = 0
    frozen_micro: int = 0
    external_ref: str | None = None


class GrantRequest(msgspec.Struct, frozen=True):
    """Money into a wallet. The wallet's asset must be `asset`. Lots of the lowest `priority` burn first.

    A grant that takes effect later is in the books at once and reaches the hot wallet at its time.
    """

    wallet: WalletKey
    amount_micro: int
    asset: str
    source: str
    op_id: str
    actor: str
    reason: str = ""
    priority: int = 0
    effective_at_ms: int | None = None  # None: now
    expires_at_ms: int | None = None
    external_ref: str | None = None  # the payment behind it; one grant each
    role: str = "operator"  # of the actor, for the trail


class WalletView(msgspec.Struct, frozen=True):
    """A wallet in the books. Spendable = available - debt - pending (credits not in the hot store yet)."""

    asset: str
    available_micro: int
    debt_micro: int
    pending_micro: int
    lots: tuple[Lot, ...]  # those with something left, in the order in which they burn


class Credit(msgspec.Struct, frozen=True):
    """Money that the books have and the hot store may not have: apply it under `txn_id`, then mark it applied."""

    txn_id: str
    enterprise_id: str | None
    shard: int
    wallet: str
    delta_micro: int
    due_at_ms: int


class Granted(msgspec.Struct, frozen=True):
    """A grant's result. `first` is False for a repeat, whose `lot` and `wallet` are as they stand now."""

    txn_id: str
    lot: Lot
    credit: Credit
    wallet: WalletView
    first: bool


class Opening(msgspec.Struct, frozen=True):
    """What the books say about a wallet that the hot store does not have.

    Never opened (`opened_at_ms` None): open it with `amount_micro`, then `mark_opened`. Opened before:
    the hot store lost it, and usage that is not drained yet may be missing from the amount. Fail closed.
    """

    wallet: str
    shard: int
    amount_micro: int
    opened_at_ms: int | None

    @property
    def may_open(self) -> bool:
        """True for a wallet that was never open."""
        return self.opened_at_ms is None


class UsageRow(msgspec.Struct, frozen=True):
    """One finished request: the columns of `db.tables.usage`, in their order.

    `amount_micro` (in `asset`) is what the paying wallet of the level was charged: the creator's for
    `platform`, the end user's for `app_usage`. `creator_micro` is what the creator's wallet was charged, in USD.
    """

    request_id: str
    at: int
    level: str
    user_id: str
    platform_user_id: str
    key_id: str
    workflow_type: str
    session_id: str
    agent_name: str
    tags: tuple[str, ...]
    endpoint: str
    model: str
    provider: str
    deployment: str
    status: str
    usage_source: str
    units: Usage
    input_tokens: int
    output_tokens: int
    asset: str
    amount_micro: int
    creator_micro: int
    provider_cost_micro: int
    streamed: bool
    latency_ms: int
    ttft_ms: int
    attempts: int
    http_status: int
    flags: tuple[str, ...]


class UsagePosting(msgspec.Struct, frozen=True):
    """A usage row on its way into the books of `enterprise_id` and of the platform.

    `bears_cost`: the platform owes the provider for it (False where the creator's own keys were used).
    """

    enterprise_id: str
    app_asset: str
    bears_cost: bool
    row: UsageRow

    @property
    def end_user_micro(self) -> int:
        """What the end user's wallet was charged."""
        return self.row.amount_micro if self.row.level == "app_usage" else 0


class AppFacts(msgspec.Struct, frozen=True):
    """What posting needs to know of an app."""

    enterprise_id: str
    user_id: str
    asset: str


class DeadEvent(msgspec.Struct, frozen=True):
    """A usage event that cannot be posted. `enterprise_id` is None when no app can be told from it.

    `reason` is one of the drain's words and names nobody; `detail` may quote the event.
    """

    shard: int
    entry_id: str
    data: bytes
    reason: str
    detail: str
    enterprise_id: str | None


class UsageFilter(msgspec.Struct, frozen=True):
    """Which usage rows: equal to every field that is set, from <= at < to."""

    platform_user_id: str | None = None
    level: str | None = None
    key_id: str | None = None
    model: str | None = None
    workflow_type: str | None = None
    session_id: str | None = None
    agent_name: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


class UsageTotal(msgspec.Struct, frozen=True):
    """Sums of one group. `group` pairs each name asked for with its value; assets are never mixed.

    `day` and `hour` are Unix milliseconds of their start, in UTC.
    """

    group: tuple[tuple[str, str | int], ...]
    asset: str
    requests: int
    input_tokens: int
    output_tokens: int
    amount_micro: int
    creator_micro: int
    provider_cost_micro: int


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Rows and the cursor of the next page; None at the end."""

    rows: tuple[T, ...]
    next_cursor: str | None

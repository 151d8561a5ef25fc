"""Values of the books. Amounts are integer micro-units of their asset, times Unix milliseconds."""

from typing import Final, Generic, TypeVar

import msgspec

from gateway.core.ids import app_wallet, is_outside_id, platform_wallet
from gateway.core.money import USD
from gateway.core.units import Usage

AVAILABLE: Final = "user.available"
FROZEN: Final = "user.frozen"
DEBT: Final = "receivable.clawback"
OVERAGE: Final = "receivable.overage"  # of an owner: what was lent beyond an allowance, used or not
REVENUE: Final = "revenue.usage"
CORRECTIONS: Final = "revenue.corrections"  # usage given back: apart, so that revenue.usage stays the sum of the usage rows
BREAKAGE: Final = "revenue.breakage"
FEE_INCOME: Final = "revenue.platform_fee"
FEE_EXPENSE: Final = "expense.platform_fee"
PROCESSING: Final = "expense.processing"
PROMO: Final = "expense.promo"
BAD_DEBT: Final = "expense.bad_debt"  # overage that nobody pays
COST: Final = "expense.llm_cost"
PAYABLE: Final = "provider_payable"
STRIPE: Final = "stripe_clearing"
DISPUTES: Final = "disputes"
DISPUTE_EXCESS: Final = "expense.disputes"  # what a dispute took beyond what its payment had left
EXCHANGE: Final = "exchange"  # between what was paid and what was granted for it, where the two differ
DUE_TO_PLATFORM: Final = "due_to_platform"  # in an app's book: what the app owes the platform
DUE_FROM_APP: Final = "due_from_app"  # in the platform's book, by app: the same, seen from the other side
BOOK: Final = ""  # owner of the book's own accounts

GRANT: Final = "grant"  # kinds of transaction
USAGE: Final = "usage"
EXPIRY: Final = "expiry"
NETTING: Final = "netting"
ROLLOVER: Final = "rollover"
RECOVERY: Final = "recovery"
REFUND: Final = "refund"
DISPUTE_OPENED: Final = "dispute_opened"
DISPUTE_WON: Final = "dispute_won"
DISPUTE_LOST: Final = "dispute_lost"
REINSTATE: Final = "reinstate"
CORRECTION: Final = "correction"
FEE: Final = "fee"
SETTLEMENT: Final = "settlement"
WRITE_OFF: Final = "write_off"

REVERSING: Final = (DISPUTE_WON, DISPUTE_LOST, REINSTATE, CORRECTION)  # kinds that name what they reverse

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
    """One grant into a wallet; granted = spent + expired + refunded + frozen + left.

    What went on in another lot counts as expired, and what of that one came back for a refund as refunded. `clawback_micro`
    of what was spent or expired was taken back all the same, as a debt. `expiring` is the transaction that an expiry on its way
    will be.
    """

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
    clawback_micro: int = 0
    expiring: str | None = None

    @property
    def refundable_micro(self) -> int:
        """What was granted and neither went back to the payer nor is disputed."""
        return self.granted_micro - self.refunded_micro - self.clawback_micro - self.frozen_micro


class Fees(msgspec.Struct, frozen=True):
    """What a payment cost the app whose end user paid: the platform's fee, and the payment processor's."""

    platform_micro: int = 0
    processing_micro: int = 0


class Paid(msgspec.Struct, frozen=True):
    """What was paid for a grant, where that is another amount or another asset than what was granted."""

    asset: str
    amount_micro: int


class Exchanged(msgspec.Struct, frozen=True):
    """A payment of such a grant as it stands: `gone_micro` of what was paid went back, by refunds and lost disputes.

    `given_micro` of what was granted was given on top, in the wallet's asset.
    """

    asset: str
    paid_micro: int
    gone_micro: int
    given_micro: int = 0


class PaymentStanding(msgspec.Struct, frozen=True):
    """A payment that was granted, as it stands: amounts of what was paid. `fee_micro`: what of the platform's fee is borne."""

    asset: str
    paid_micro: int
    gone_micro: int
    fee_micro: int


class GrantRequest(msgspec.Struct, frozen=True):
    """Money into a wallet. The wallet's asset must be `asset`. Lots of the lowest `priority` burn first.

    A grant that takes effect later is in the books at once and reaches the hot wallet at its time. `paid` says what the
    payment behind it was, where that is not what is granted; fees are in what was paid. `repays` is `receivable.overage` where
    it pays for what was used already: then it adds nothing to spend.
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
    fees: Fees | None = None  # of that payment
    paid: Paid | None = None  # None: what is granted
    given_micro: int = 0  # of `amount_micro`, what was not sold and comes on top, as by a discount; only where `paid` is there
    repays: str = ""
    unless_given_up: tuple[str, ...] = ()  # with `repays`: operations that may have written it off; then it pays for that


class RefundRequest(msgspec.Struct, frozen=True):
    """Money of a payment that went back to its payer; once per `refund_ref` (the processor's id of the refund).

    `payment_ref` is the `external_ref` of the payment's grant. `fee_returned_micro`: of the platform's fee. Both amounts are
    of what was paid: where that was exchanged, the lot loses its share.
    """

    wallet: WalletKey
    payment_ref: str
    refund_ref: str
    amount_micro: int
    actor: str
    reason: str = ""
    fee_returned_micro: int = 0


class DisputeRequest(msgspec.Struct, frozen=True):
    """A payer's dispute of a payment, in one of its states; once per `dispute_ref` and state.

    `amount_micro` is what is disputed (opened), or what the processor took for it (closed, lost), of what was paid.
    """

    wallet: WalletKey
    payment_ref: str
    dispute_ref: str
    amount_micro: int
    actor: str
    reason: str = ""


class CorrectionRequest(msgspec.Struct, frozen=True):
    """A transaction of one book that was wrong, to be reversed by another one.

    `fee_stays`: a refund's fee was returned, and stays so though the refund failed.
    """

    enterprise_id: str | None
    txn_id: str
    op_id: str
    actor: str
    reason: str = ""
    fee_stays: bool = False


class RolloverRequest(msgspec.Struct, frozen=True):
    """What is left of a lot, or `amount_max_micro` of it, goes on in a new lot with an expiry of its own."""

    wallet: WalletKey
    lot_id: str
    op_id: str
    actor: str
    reason: str = ""
    amount_max_micro: int | None = None
    expires_at_ms: int | None = None
    priority: int = 0


class RenewalRequest(msgspec.Struct, frozen=True):
    """The end of what a series of allowances granted before `starts_at_ms`: of what is left, `amount_max_micro` goes on.

    It is one series of grants whose operations are `allowance_op` of the same `series`; once per series and start.
    """

    wallet: WalletKey
    series: str
    starts_at_ms: int
    amount_max_micro: int
    expires_at_ms: int | None
    actor: str
    reason: str = ""


class SettlementRequest(msgspec.Struct, frozen=True):
    """Money that passed from an app to the platform for what was due; below zero, the other way."""

    enterprise_id: str
    amount_micro: int
    op_id: str
    actor: str
    reason: str = ""


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


class Posted(msgspec.Struct, frozen=True):
    """One operation's result. `credit` is what the hot store still has to hear of; `first` is False for a repeat."""

    txn_id: str
    enterprise_id: str | None
    credit: Credit | None
    first: bool


class Granted(msgspec.Struct, frozen=True):
    """A grant's result. `first` is False for a repeat, whose `lot` and `wallet` are as they stand now.

    `credit` is None where the grant repays what was lent: the hot wallet has had it.
    """

    txn_id: str
    lot: Lot
    credit: Credit | None
    wallet: WalletView
    first: bool


class Reconciled(msgspec.Struct, frozen=True):
    """What a repair of a hot wallet did: its operation there, what was available before and after, what was held, and
    what the books say of both together. Micro-units."""

    op_id: str
    before_micro: int
    after_micro: int
    held_micro: int
    books_micro: int


class Opening(msgspec.Struct, frozen=True):
    """What the books say about a wallet that the hot store does not have.

    Never opened (`opened_at_ms` None): open it with `amount_micro`, then `mark_opened`. Opened before:
    the hot store lost it, and usage that is not drained yet may be missing from the amount. Fail closed.
    """

    wallet: str
    shard: int
    amount_micro: int
    opened_at_ms: int | None
    is_known: bool = True  # False: the books never heard of its owner
    counted: tuple[str, ...] = ()  # requests whose charges are in the amount, the latest; only where it is asked for

    @property
    def may_open(self) -> bool:
        """True for a wallet that was never open."""
        return self.opened_at_ms is None


class UsageRow(msgspec.Struct, frozen=True):
    """One finished request: the columns of `db.tables.usage`, in their order.

    `amount_micro` (in `asset`) is what the paying wallet of the level was charged: the creator's for
    `platform`, the end user's for `app_usage`. `creator_micro` is what the creator's wallet was charged, in USD.
    `held_micro` and `creator_held_micro` are what was held for the two; None where that was not recorded.
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
    held_micro: int | None = None
    creator_held_micro: int | None = None


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
    """What posting needs to know of an app. `is_platforms_cost`: the platform pays the providers for its usage."""

    enterprise_id: str
    user_id: str
    asset: str
    is_platforms_cost: bool = False


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

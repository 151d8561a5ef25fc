"""JSON of the management API: bodies, queries and answers. Times are RFC 3339, amounts micro-units with their asset.

What a body may hold is closed: an unknown field is an error that names it. Field names are part of the
contract with outside programs: they are added to, never renamed.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.core.limits import PAGE_ROWS_MAX
from gateway.core.words import CostPolicy, DisconnectPolicy, Enforcement, HoldPolicy, Level
from gateway.identity.model import END_USER_SOURCES, AnswerCache, AppChanges, LimitChanges, Limits, Trial

T = TypeVar("T")

Time = Annotated[datetime, Meta(tz=True)]  # what comes in
Stamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]  # what goes out
Micro = Annotated[int, Meta(description="Micro-units of the asset: 1 USD = 1,000,000.")]
Percent = Annotated[str | int | float, Meta(description="Percentage with at most two decimals, as a string or a number.")]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ms_of(moment: datetime) -> int:
    """Unix milliseconds, exactly."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything that comes in."""


class Answer(msgspec.Struct, frozen=True):
    """Base of everything that goes out."""


class CsvAnswer(Answer, frozen=True):
    """A table that goes out as text/csv instead of JSON, piece by piece as it is made."""

    filename: str
    text: AsyncIterator[str]


# ---- queries -----------------------------------------------------------------------------------


class NoQuery(Body, frozen=True):
    """No query parameters."""


class PageQuery(Body, frozen=True):
    """Which part of a list."""

    limit: int = PAGE_ROWS_MAX
    cursor: str | None = None


class BookQuery(PageQuery, frozen=True):
    """Which book, and which lines of it: without `enterprise_id` the platform's."""

    enterprise_id: str | None = None
    owner: str | None = None
    kind: str | None = None


class EventsQuery(PageQuery, frozen=True, rename={"from_": "from"}):
    """Which usage events; from <= time < to."""

    platform_user_id: str | None = None
    level: Level | None = None
    key_id: str | None = None
    model: str | None = None
    workflow_type: str | None = None
    session_id: str | None = None
    agent_name: str | None = None
    from_: Time | None = None
    to: Time | None = None


class UsageQuery(Body, frozen=True, rename={"from_": "from"}):
    """Which usage to add up, and by what: `group_by` is a comma list, by default `model`.

    An operator may leave `enterprise_id` out: then the roll-up by hour of all apps is added up, by
    default by `enterprise_id`.
    """

    enterprise_id: str | None = None
    platform_user_id: str | None = None
    level: Level | None = None
    key_id: str | None = None
    model: str | None = None
    workflow_type: str | None = None
    session_id: str | None = None
    agent_name: str | None = None
    from_: Time | None = None
    to: Time | None = None
    group_by: str | None = None


# ---- bodies ------------------------------------------------------------------------------------


class CreatorBody(Body, frozen=True):
    """A new creator."""

    user_id: str
    name: str


class CreatorPatch(Body, frozen=True, omit_defaults=True):
    """A change of a creator."""

    name: str | UnsetType = UNSET
    status: str | UnsetType = UNSET


class AppBody(Body, frozen=True):
    """A new app. `markup_percent` sets the app's prices to the provider's plus that much."""

    enterprise_id: str
    user_id: str
    name: str
    asset: str = "USD"
    enforcement: Enforcement = Enforcement.PREPAID
    cost_policy: CostPolicy = CostPolicy.PLATFORM_PAYS
    hold_policy: HoldPolicy = HoldPolicy.STRICT
    disconnect_policy: DisconnectPolicy = DisconnectPolicy.DRAIN
    end_user_sources: tuple[str, ...] = END_USER_SOURCES
    default_end_user: str | None = None
    end_user_limits: Limits = Limits()
    cors_origins: tuple[str, ...] = ()
    trial: Trial | None = None
    answer_cache: AnswerCache | None = None
    markup_percent: Percent | None = None


class AppPatch(AppChanges, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A change of an app; what is not named stays. `markup_percent` holds from now on, as a line of the app's price book.

    Of `end_user_limits`, those that are named are set, `null` takes one away; `null` for all of it, all of them.

    `cost_policy` cannot be changed, by an operator neither: in an app whose usage it pays for, a creator grants balances and
    trials, prices below cost and cancels streams, and all of that would go on at the cost of whoever pays next; the other way
    round, a creator would pay for balances that it never gave. A new app is the way to another policy.
    """

    markup_percent: Percent | UnsetType = UNSET


class KeyBody(Body, frozen=True):
    """A new API key."""

    level: Level
    name: str = "key"
    models: tuple[str, ...] | None = None
    limits: Limits | None = None
    expires_at: Time | None = None
    test: bool = False


class KeyPatch(Body, frozen=True, omit_defaults=True):
    """A change of an API key. Of `limits`, those that are named are set, `null` takes one away, the others stay.

    `null` for `limits`, `models` or `expires_at` takes all of it away: no limits, every model, no end.
    """

    name: str | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    limits: LimitChanges | UnsetType | None = UNSET
    expires_at: Time | UnsetType | None = UNSET


class RotateBody(Body, frozen=True):
    """How long the old key goes on."""

    overlap_seconds: int = 0


class TokenBody(Body, frozen=True):
    """A new end-user token. It hangs on `key_id`, by default a key server's own, else the newest in force that fits."""

    platform_user_id: str
    expires_in_seconds: int = 3600
    models: tuple[str, ...] = ()
    spend_micro_max: Micro | None = None
    rpm: int | None = None
    key_id: str | None = None


class ManagementKeyBody(Body, frozen=True):
    """A new management key; `user_id` may be left out by a creator."""

    user_id: str | None = None
    name: str = "management key"
    expires_at: Time | None = None


class WalletName(Body, frozen=True):
    """A creator's wallet (`user_id`), or an end user's (`enterprise_id` and `platform_user_id`)."""

    user_id: str | None = None
    enterprise_id: str | None = None
    platform_user_id: str | None = None


class GrantBody(Body, frozen=True):
    """Money into a wallet, in the wallet's asset. Lots of the lowest `priority` burn first."""

    wallet: WalletName
    amount_micro: Micro
    source: Literal["paid", "promo", "trial", "rollover"] = "promo"  # a plan lends, nobody else
    priority: int = 0
    effective_at: Time | None = None
    expires_at: Time | None = None
    reason: str = ""


# ---- answers -----------------------------------------------------------------------------------


class Listing(Answer, Generic[T], frozen=True):
    """One page of a list; `next_cursor` goes into `cursor` of the next request."""

    data: tuple[T, ...]
    has_more: bool
    next_cursor: str | None


class ErrorDetail(Answer, frozen=True):
    """What is wrong. Some codes add fields of their own."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Answer, frozen=True):
    """Every failure."""

    error: ErrorDetail


class CreatorAnswer(Answer, frozen=True):
    """A creator."""

    user_id: str
    name: str
    status: str
    created_at: Stamp


class AppAnswer(Answer, frozen=True):
    """An app. `markup_percent` is in force now on every model without prices of its own; null where there is none."""

    enterprise_id: str
    user_id: str
    name: str
    asset: str
    enforcement: Enforcement
    cost_policy: CostPolicy
    hold_policy: HoldPolicy
    disconnect_policy: DisconnectPolicy
    end_user_sources: tuple[str, ...]
    default_end_user: str | None
    end_user_limits: Limits
    cors_origins: tuple[str, ...]
    status: str
    created_at: Stamp
    trial: Trial | None
    answer_cache: AnswerCache | None
    markup_percent: str | None


class ForgottenAnswer(Answer, frozen=True):
    """How many kept answers an app has forgotten."""

    enterprise_id: str
    forgotten: int


class KeyAnswer(Answer, frozen=True, omit_defaults=True):
    """An API key. `secret` is there once, in the answer that made the key; `warnings` where a model is not served here."""

    id: str
    enterprise_id: str
    name: str
    level: Level
    hint: str
    models: tuple[str, ...]
    limits: Limits
    created_at: Stamp
    expires_at: Stamp | None
    revoked_at: Stamp | None
    secret: str | UnsetType = UNSET
    warnings: tuple[str, ...] = ()


class ManagementKeyAnswer(Answer, frozen=True, omit_defaults=True):
    """A management key. `secret` is there once, in the answer that made the key."""

    id: str
    user_id: str
    name: str
    hint: str
    created_at: Stamp
    expires_at: Stamp | None
    revoked_at: Stamp | None
    secret: str | UnsetType = UNSET


class TokenAnswer(Answer, frozen=True, omit_defaults=True):
    """An end-user token, shown once; `key_id` is the key that it hangs on. `warnings` where a model is not served here."""

    id: str
    token: str
    enterprise_id: str
    platform_user_id: str
    key_id: str
    expires_at: Stamp
    warnings: tuple[str, ...] = ()


class LotAnswer(Answer, frozen=True):
    """One grant; granted = spent + expired + refunded + frozen + left."""

    id: str
    source: str
    priority: int
    granted_micro: Micro
    spent_micro: Micro
    expired_micro: Micro
    refunded_micro: Micro
    frozen_micro: Micro
    left_micro: Micro
    effective_at: Stamp
    expires_at: Stamp | None
    created_at: Stamp


class WalletAnswer(Answer, frozen=True):
    """A wallet: left - owed - held - pending - undrained = available - debt.

    `available_micro` can be spent now; `debt_micro` is what is missing where a debt is more than all that is left.
    `left_micro` is the sum of what is left in `lots`, `owed_micro` all of the debt (`receivable.clawback`), both by the books;
    `held_micro` is set aside for requests in flight, `pending_micro` was granted but cannot be spent yet, and `undrained_micro`
    was used or taken and is not in the books yet: 0 in a moment.
    `lots` are those with something left or frozen, in the order in which they burn, and after them what became of those
    whose time ended within 30 days. One that was spent before is in the ledger's transactions alone.
    """

    asset: str
    available_micro: Micro
    held_micro: Micro
    debt_micro: Micro
    pending_micro: Micro
    left_micro: Micro
    owed_micro: Micro
    undrained_micro: Micro
    lots: tuple[LotAnswer, ...]


class GrantAnswer(Answer, frozen=True):
    """A grant: `id` is the ledger's transaction. A repeat of the same Idempotency-Key gives the same one."""

    id: str
    wallet: WalletName
    asset: str
    amount_micro: Micro
    source: str
    lot: LotAnswer


class EntryAnswer(Answer, frozen=True):
    """One line of a transaction: credits are positive, debits negative."""

    owner: str
    account: str
    asset: str
    amount_micro: Micro
    lot_id: str | None


class TransactionAnswer(Answer, frozen=True):
    """A transaction of a book; its entries sum to zero per asset."""

    id: str
    op_id: str
    kind: str
    actor: str
    reason: str
    at: Stamp
    reverses: str | None
    entries: tuple[EntryAnswer, ...]


class AccountAnswer(Answer, frozen=True):
    """An account of a book; `owner` is empty for the book's own."""

    owner: str
    account: str
    asset: str
    balance_micro: Micro


class UsageEventAnswer(Answer, frozen=True, omit_defaults=True):
    """One finished request. The first eight names are those of the platform's usage protocol.

    What an end user is shown leaves out what the request cost the app and the platform, and with whom.
    """

    level: str
    user_id: str
    enterprise_id: str
    platform_user_id: str | None
    workflow_type: str
    tokens_used: int
    cost: str  # decimal, in `asset`
    billing_target: str
    request_id: str
    at: Stamp
    asset: str
    amount_micro: Micro
    model: str
    endpoint: str
    session_id: str
    agent_name: str
    tags: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    units: dict[str, int]
    usage_source: str
    status: str
    streamed: bool
    latency_ms: int
    ttft_ms: int
    http_status: int
    flags: tuple[str, ...]
    key_id: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    deployment: str | UnsetType = UNSET
    attempts: int | UnsetType = UNSET
    creator_amount_micro: Micro | UnsetType = UNSET
    provider_cost_micro: Micro | UnsetType = UNSET


class UsageTotalAnswer(Answer, frozen=True):
    """Sums of one group; assets are never mixed."""

    group: dict[str, str]
    asset: str
    requests: int
    input_tokens: int
    output_tokens: int
    tokens_used: int
    amount_micro: Micro
    creator_amount_micro: Micro
    provider_cost_micro: Micro


class OpenApi(Answer, frozen=True):
    """An OpenAPI 3.1 description."""

    openapi: str
    info: dict[str, str]
    paths: dict[str, dict[str, Any]]
    components: dict[str, dict[str, Any]]


class AuditLogQuery(PageQuery, frozen=True):
    """Whose trail: an app's, or without `enterprise_id` the platform's."""

    enterprise_id: str | None = None


class ActAnswer(Answer, frozen=True):
    """One line of the trail. `chain` says in which database's chain it is: the `platform`'s, or the `app`'s own.

    `hash` covers every field and `prev_hash`, the hash of line `seq` - 1 of the same chain.
    """

    chain: str
    seq: int
    at: Stamp
    role: str
    actor: str
    act: str
    user_id: str | None
    enterprise_id: str | None
    subject: str
    reason: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    transaction_id: str | None
    prev_hash: str
    hash: str

"""Both schemas. Times are Unix milliseconds, amounts integer micro-units (64 bit), ids text.

`PLATFORM` is the platform's database; `APP` is the database that each app has for itself. The books
(accounts, txns, entries, lots, credits) stand in both, made by one function, and balance on their own.
"""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

# The tables of sales stand in a file of their own, and are found here like the others.
from gateway.db.billing_tables import APP_SALES as APP_SALES
from gateway.db.billing_tables import PLATFORM_SALES as PLATFORM_SALES
from gateway.db.billing_tables import app_pages as app_pages
from gateway.db.billing_tables import billing_accounts as billing_accounts
from gateway.db.billing_tables import billing_leases as billing_leases
from gateway.db.billing_tables import billing_marks as billing_marks
from gateway.db.billing_tables import fee_terms as fee_terms
from gateway.db.billing_tables import paid_payments as paid_payments
from gateway.db.billing_tables import past_accounts as past_accounts
from gateway.db.billing_tables import plan_prices as plan_prices
from gateway.db.billing_tables import plans as plans
from gateway.db.billing_tables import promo_codes as promo_codes
from gateway.db.billing_tables import promo_coupons as promo_coupons
from gateway.db.billing_tables import webhooks as webhooks
from gateway.db.schema import APP as APP
from gateway.db.schema import PLATFORM as PLATFORM
from gateway.db.schema import SERIAL

creators: Final = Table(
    "creators",
    PLATFORM,
    Column("user_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

apps: Final = Table(
    "apps",
    PLATFORM,
    Column("enterprise_id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("creators.user_id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("asset", Text, nullable=False),
    Column("enforcement", Text, nullable=False),
    Column("cost_policy", Text, nullable=False),
    Column("hold_policy", Text, nullable=False),
    Column("disconnect_policy", Text, nullable=False, server_default="drain"),
    Column("end_user_sources", JSON, nullable=False),
    Column("default_end_user", Text),
    Column("end_user_limits", JSON, nullable=False),
    Column("cors_origins", JSON, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("trial", JSON(none_as_null=True)),  # {amount_micro, days}: what an end user is granted on first sight
    Column("answer_cache", JSON(none_as_null=True)),  # {ttl_s, price_percent, per_end_user}: how answers are kept and given again
)

api_keys: Final = Table(
    "api_keys",
    PLATFORM,
    Column("id", Text, primary_key=True),
    Column("enterprise_id", Text, ForeignKey("apps.enterprise_id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("level", Text, nullable=False),
    Column("digest", Text, nullable=False),  # keyed BLAKE2b-256 of the whole key under the pepper, hex
    Column("hint", Text, nullable=False),
    Column("models", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("rotated_to", Text),
)

management_keys: Final = Table(
    "management_keys",
    PLATFORM,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("creators.user_id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)

# Keys of an app's creator at providers, sealed: see identity/sealing.py.
provider_keys: Final = Table(
    "provider_keys",
    PLATFORM,
    Column("enterprise_id", Text, ForeignKey("apps.enterprise_id"), primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("sealed", Text, nullable=False),
    Column("sealed_by", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

# An app's own prices: rows are only added, so the past keeps its price. `rates` (kind -> micro-units
# per million, in the app's asset) or `markup_bp` (basis points on the provider's price), not both.
# model "*" is the app's default.
app_prices: Final = Table(
    "app_prices",
    PLATFORM,
    Column("id", Text, primary_key=True),
    Column("enterprise_id", Text, ForeignKey("apps.enterprise_id"), nullable=False),
    Column("model", Text, nullable=False),
    Column("effective_at", BigInteger, nullable=False),
    Column("rates", JSON(none_as_null=True)),
    Column("markup_bp", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    CheckConstraint("(rates IS NULL) <> (markup_bp IS NULL)", name="rates_or_markup"),
    CheckConstraint("markup_bp >= 0", name="markup_not_negative"),
    UniqueConstraint("enterprise_id", "model", "effective_at"),
)

# Price lists in litellm's format that took the place of the shipped one; rows are only added. `content` is the list, deflated.
price_lists: Final = Table(
    "price_lists",
    PLATFORM,
    Column("id", Text, primary_key=True),
    Column("effective_at", BigInteger, nullable=False, unique=True),
    Column("models", BigInteger, nullable=False),  # how many of its entries have prices
    Column("digest", Text, nullable=False),  # SHA-256 of the list, hex
    Column("created_at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

# Roll-up of usage by hour, without end users. One row a combination; sums only grow.
usage_hours: Final = Table(
    "usage_hours",
    PLATFORM,
    Column("hour", BigInteger, primary_key=True),  # Unix milliseconds of the hour's start
    Column("enterprise_id", Text, primary_key=True),
    Column("level", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("workflow_type", Text, primary_key=True),
    Column("asset", Text, primary_key=True),  # of end_user_micro: the app's asset
    Column("user_id", Text, nullable=False, index=True),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("end_user_micro", BigInteger, nullable=False),
    Column("creator_micro", BigInteger, nullable=False),
    Column("provider_cost_micro", BigInteger, nullable=False),
)


def _indexed(txns: Table, lots: Table) -> None:
    """Indexes that leave out most of a table."""
    Index("ix_lots_open", lots.c.account_id, lots.c.left_micro)
    unfinished = text("left_micro > 0 OR expiring IS NOT NULL")
    Index("ix_lots_to_expire", lots.c.expires_at, sqlite_where=unfinished, postgresql_where=unfinished)
    Index("ix_txns_reverses", txns.c.reverses, unique=True)  # what was reversed is not reversed again
    # By what a name begins with, as `allowance:<series>:`; usage, of which there is a thousand times as much, costs nothing.
    money, by_letter = text("kind <> 'usage'"), {"op_id": "text_pattern_ops"}
    Index("ix_txns_named", txns.c.op_id, sqlite_where=money, postgresql_where=money, postgresql_ops=by_letter)


def _books(metadata: MetaData) -> dict[str, Table]:
    """The double-entry tables. Entries are signed: a liability (what we owe a wallet's owner) is positive."""
    accounts = Table(
        "accounts",
        metadata,
        Column("id", SERIAL, primary_key=True),
        Column("owner", Text, nullable=False),  # user_id, platform_user_id, or "" for the book's own
        Column("kind", Text, nullable=False),  # user.available, revenue.usage, expense.promo, ...
        Column("asset", Text, nullable=False),
        Column("balance_micro", BigInteger, nullable=False),
        Column("opened_at", BigInteger),  # first opening of the hot wallet; NULL = never
        UniqueConstraint("owner", "kind", "asset"),
    )
    txns = Table(
        "txns",
        metadata,
        Column("id", Text, primary_key=True),
        Column("op_id", Text, nullable=False, unique=True),
        Column("kind", Text, nullable=False),
        Column("actor", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("reverses", Text),
        Column("fingerprint", Text),  # of the request behind op_id: the same op_id with another body is a conflict
        Column("at", BigInteger, nullable=False, index=True),
    )
    lots = Table(
        "lots",
        metadata,
        Column("id", Text, primary_key=True),
        Column("account_id", SERIAL, ForeignKey("accounts.id"), nullable=False),
        Column("source", Text, nullable=False),
        Column("priority", BigInteger, nullable=False),
        Column("effective_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger),
        Column("external_ref", Text, unique=True),
        Column("granted_micro", BigInteger, nullable=False),
        Column("spent_micro", BigInteger, nullable=False),
        Column("expired_micro", BigInteger, nullable=False),
        Column("refunded_micro", BigInteger, nullable=False),
        Column("frozen_micro", BigInteger, nullable=False),
        Column("left_micro", BigInteger, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        # Of what was spent or expired: taken back as a debt, by refunds and lost disputes.
        Column("clawback_micro", BigInteger, nullable=False, server_default=text("0")),
        Column("expiring", Text),  # the transaction that its expiry will be, from before the hot wallet is asked for the money
        CheckConstraint(
            "granted_micro >= 0 AND spent_micro >= 0 AND expired_micro >= 0"
            " AND refunded_micro >= 0 AND frozen_micro >= 0 AND left_micro >= 0",
            name="not_negative",
        ),
        CheckConstraint(
            "granted_micro = spent_micro + expired_micro + refunded_micro + frozen_micro + left_micro",
            name="adds_up",
        ),
    )
    _indexed(txns, lots)
    entries = Table(
        "entries",
        metadata,
        Column("id", SERIAL, primary_key=True),
        Column("txn_id", Text, ForeignKey("txns.id"), nullable=False, index=True),
        Column("account_id", SERIAL, ForeignKey("accounts.id"), nullable=False, index=True),
        Column("lot_id", Text, ForeignKey("lots.id")),
        Column("asset", Text, nullable=False),
        Column("amount_micro", BigInteger, nullable=False),
    )
    return {"accounts": accounts, "txns": txns, "lots": lots, "entries": entries, "credits": _outbox(metadata)}


def _outbox(metadata: MetaData) -> Table:
    """Money that the books have and the hot store may not have yet: written in the posting's own commit."""
    waiting = Table(
        "credits",
        metadata,
        Column("txn_id", Text, ForeignKey("txns.id"), primary_key=True),
        Column("account_id", SERIAL, ForeignKey("accounts.id"), nullable=False, index=True),
        Column("shard", Integer, nullable=False),
        Column("wallet", Text, nullable=False),
        Column("delta_micro", BigInteger, nullable=False),  # what the transaction moved
        # What the hot wallet gave before the transaction (an expiry): it hears of delta + taken.
        Column("taken_micro", BigInteger, nullable=False, server_default=text("0")),
        Column("due_at", BigInteger, nullable=False),  # not to be applied sooner: the lot's effective_at
        Column("applied_at", BigInteger),
    )
    Index("ix_credits_waiting", waiting.c.applied_at, waiting.c.due_at)
    return waiting


PLATFORM_BOOKS: Final = _books(PLATFORM)
APP_BOOKS: Final = _books(APP)


def _trail(metadata: MetaData) -> dict[str, Table]:
    """Who did what, one hash chain a database. Triggers (revision 0003) refuse every change but the next line."""
    lines = Table(
        "trail",
        metadata,
        Column("seq", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3, ... without a gap
        Column("at", BigInteger, nullable=False),
        Column("role", Text, nullable=False),
        Column("actor", Text, nullable=False),
        Column("act", Text, nullable=False),
        Column("user_id", Text, nullable=False),  # the creator concerned; "" for none, as in all texts here
        Column("enterprise_id", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("before_json", Text, nullable=False),  # text, not JSON: the hash is of these very characters
        Column("after_json", Text, nullable=False),
        Column("txn_id", Text, nullable=False, index=True),  # the transaction in this database's books, or ""
        Column("prev_hash", Text, nullable=False),
        Column("hash", Text, nullable=False, unique=True),
    )
    Index("ix_trail_enterprise_id", lines.c.enterprise_id, lines.c.seq)
    head = Table(
        "trail_head",
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("seq", BigInteger, nullable=False),
        Column("hash", Text, nullable=False),
        Column("after_txn", Text, nullable=False),  # the newest transaction when the trail began; those since have lines
        CheckConstraint("id = 1", name="one_row"),
    )
    return {"trail": lines, "trail_head": head}


PLATFORM_TRAIL: Final = _trail(PLATFORM)
APP_TRAIL: Final = _trail(APP)

# Usage events that cannot be posted. The platform's row says where and why; it has no end user in it.
# The event's bytes, which may name one, lie in the app's database, or, when no app can be told from
# them, in a database of their own (`Databases.unattributed`) with the schema of an app's.
dead_events: Final = Table(
    "dead_events",
    PLATFORM,
    Column("shard", Integer, primary_key=True),
    Column("entry_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),  # SHA-256 of the bytes, hex
    Column("at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("enterprise_id", Text, nullable=False),  # "" when it cannot be told: the bytes lie in the unattributed database
    Column("size_bytes", BigInteger, nullable=False),
)
dead_event_bytes: Final = Table(
    "dead_event_bytes",
    APP,
    Column("shard", Integer, primary_key=True),
    Column("entry_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# One row a request that was served, in the database of its app.
usage: Final = Table(
    "usage",
    APP,
    Column("request_id", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("level", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("platform_user_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("workflow_type", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("agent_name", Text, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("usage_source", Text, nullable=False),
    Column("units", JSON, nullable=False),  # the buckets of core.units.Usage that are not zero
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("asset", Text, nullable=False),  # of amount_micro
    Column("amount_micro", BigInteger, nullable=False),  # what the paying wallet of the level was charged
    Column("creator_micro", BigInteger, nullable=False),  # what the creator's wallet was charged, in USD
    Column("provider_cost_micro", BigInteger, nullable=False),
    Column("streamed", Integer, nullable=False),
    Column("latency_ms", BigInteger, nullable=False),
    Column("ttft_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("http_status", Integer, nullable=False),
    Column("flags", JSON, nullable=False),
    # What was held for the request; NULL in rows written before it was kept.
    Column("held_micro", BigInteger),
    Column("creator_held_micro", BigInteger),
)
Index("ix_usage_at", usage.c.at)
Index("ix_usage_end_user", usage.c.platform_user_id, usage.c.at)

# A request that was charged more than was held for it: its provider gave more than it was allowed to.
overruns: Final = Table(
    "overruns",
    APP,
    Column("request_id", Text, ForeignKey("usage.request_id"), primary_key=True),
    Column("role", Text, primary_key=True),  # whose charge: end_user or creator
    Column("held_micro", BigInteger, nullable=False),
    Column("amount_micro", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
)


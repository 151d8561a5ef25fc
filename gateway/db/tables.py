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

_NAMES: Final = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
PLATFORM: Final = MetaData(naming_convention=_NAMES)
APP: Final = MetaData(naming_convention=_NAMES)

# SQLite counts up by itself only in a column of type INTEGER.
_SERIAL: Final = BigInteger().with_variant(Integer, "sqlite")

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


def _books(metadata: MetaData) -> dict[str, Table]:
    """The double-entry tables. Entries are signed: a liability (what we owe a wallet's owner) is positive."""
    accounts = Table(
        "accounts",
        metadata,
        Column("id", _SERIAL, primary_key=True),
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
        Column("account_id", _SERIAL, ForeignKey("accounts.id"), nullable=False),
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
    Index("ix_lots_open", lots.c.account_id, lots.c.left_micro)
    unfinished = text("left_micro > 0 OR expiring IS NOT NULL")
    Index("ix_lots_to_expire", lots.c.expires_at, sqlite_where=unfinished, postgresql_where=unfinished)
    Index("ix_txns_reverses", txns.c.reverses, unique=True)  # what was reversed is not reversed again
    entries = Table(
        "entries",
        metadata,
        Column("id", _SERIAL, primary_key=True),
        Column("txn_id", Text, ForeignKey("txns.id"), nullable=False, index=True),
        Column("account_id", _SERIAL, ForeignKey("accounts.id"), nullable=False, index=True),
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
        Column("account_id", _SERIAL, ForeignKey("accounts.id"), nullable=False, index=True),
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


# ---- what is sold, and who bought it ------------------------------------------------------------

# Creators' accounts at Stripe.
billing_accounts: Final = Table(
    "billing_accounts",
    PLATFORM,
    Column("user_id", Text, ForeignKey("creators.user_id"), primary_key=True),
    Column("account_id", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    Column("wanted", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

# The platform's share of payments; rows are only added. enterprise_id "" is all of the creator's apps.
fee_terms: Final = Table(
    "fee_terms",
    PLATFORM,
    Column("user_id", Text, ForeignKey("creators.user_id"), primary_key=True),
    Column("enterprise_id", Text, primary_key=True),
    Column("effective_at", BigInteger, primary_key=True),
    Column("fee_bp", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    CheckConstraint("fee_bp BETWEEN 0 AND 10000", name="a_share"),
)

# What sellers offer; enterprise_id "" is the platform.
plans: Final = Table(
    "plans",
    PLATFORM,
    Column("id", Text, primary_key=True),
    Column("enterprise_id", Text, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("price_minor", BigInteger, nullable=False),
    Column("grant_micro", BigInteger, nullable=False),
    Column("interval", Text),
    Column("interval_count", BigInteger, nullable=False),
    Column("trial_days", BigInteger, nullable=False),
    Column("rollover_max_micro", BigInteger, nullable=False),
    Column("lot_days", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("archived_at", BigInteger),
    CheckConstraint("price_minor > 0 AND grant_micro > 0", name="not_free"),
)

# A plan's Product and Price on the account that sells it ("": the platform's own), made at its first use.
plan_prices: Final = Table(
    "plan_prices",
    PLATFORM,
    Column("plan_id", Text, ForeignKey("plans.id"), primary_key=True),
    Column("account_id", Text, primary_key=True),
    Column("product_id", Text, nullable=False),
    Column("price_id", Text, nullable=False),
)
Index("ix_plan_prices_price", plan_prices.c.account_id, plan_prices.c.price_id, unique=True)

# Webhooks: what each is about, and what became of it. Nothing of what they say, which names end users.
webhooks: Final = Table(
    "webhooks",
    PLATFORM,
    Column("id", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),  # Stripe's clock
    Column("received_at", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("handled_at", BigInteger),
    UniqueConstraint("endpoint", "event_id"),
)
Index("ix_webhooks_due", webhooks.c.state, webhooks.c.due_at)

# How far the reconciler has looked, by account.
billing_marks: Final = Table(
    "billing_marks",
    PLATFORM,
    Column("account_id", Text, primary_key=True),
    Column("looked_until", BigInteger, nullable=False),
)


def _sales(metadata: MetaData) -> dict[str, Table]:
    """Who bought what. `owner` is a platform_user_id in an app's database, a user_id in the platform's."""
    customers = Table(
        "customers",
        metadata,
        Column("owner", Text, primary_key=True),
        Column("account_id", Text, primary_key=True),
        Column("customer_id", Text, nullable=False),
        Column("method_id", Text),  # the payment method that may be charged without its owner being there
        Column("created_at", BigInteger, nullable=False),
    )
    Index("ix_customers_customer", customers.c.account_id, customers.c.customer_id, unique=True)
    purchases = Table(
        "purchases",
        metadata,
        Column("id", Text, primary_key=True),
        Column("owner", Text, nullable=False, index=True),
        Column("plan_id", Text, nullable=False),
        Column("account_id", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("amount_minor", BigInteger, nullable=False),
        Column("currency", Text, nullable=False),
        Column("fee_minor", BigInteger, nullable=False),
        Column("grant_micro", BigInteger, nullable=False),
        Column("session_id", Text, unique=True),
        Column("payment_id", Text, unique=True),
        Column("automatic", Integer, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("ended_at", BigInteger),
    )
    Index("ix_purchases_open", purchases.c.state, purchases.c.created_at)
    subscriptions = Table(
        "subscriptions",
        metadata,
        Column("id", Text, primary_key=True),
        Column("owner", Text, nullable=False, index=True),
        Column("plan_id", Text, nullable=False),
        Column("account_id", Text, nullable=False),
        Column("subscription_id", Text, nullable=False, unique=True),
        Column("state", Text, nullable=False),
        Column("period_start", BigInteger, nullable=False),
        Column("period_end", BigInteger, nullable=False),
        Column("cancel_at_period_end", Integer, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("as_of", BigInteger, nullable=False),
        Column("grace_until", BigInteger),
    )
    top_ups = Table(
        "top_ups",
        metadata,
        Column("owner", Text, primary_key=True),
        Column("plan_id", Text, nullable=False),
        Column("below_micro", BigInteger, nullable=False),
        Column("monthly_max_minor", BigInteger, nullable=False),
        Column("enabled", Integer, nullable=False),
        Column("reason", Text, nullable=False),  # why it is not, where nobody turned it off
        Column("updated_at", BigInteger, nullable=False),
    )
    return {"customers": customers, "purchases": purchases, "subscriptions": subscriptions, "top_ups": top_ups}


PLATFORM_SALES: Final = _sales(PLATFORM)
APP_SALES: Final = _sales(APP)

"""What is sold, who bought it and what Stripe told: tables of both databases. Conventions as in `tables`."""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from gateway.db.schema import APP, PLATFORM

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
    Column("overage_max_micro", BigInteger),  # of the overage all three or none
    Column("overage_price_micro", BigInteger),
    Column("overage_per_micro", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("archived_at", BigInteger),
    CheckConstraint("price_minor > 0 AND grant_micro > 0", name="not_free"),
)

# How an app's own pages look.
app_pages: Final = Table(
    "app_pages",
    PLATFORM,
    Column("enterprise_id", Text, ForeignKey("apps.enterprise_id"), primary_key=True),
    Column("name", Text, nullable=False),
    Column("logo_url", Text),
    Column("accent", Text),
    Column("background", Text),
    Column("updated_at", BigInteger, nullable=False),
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

# Promo codes: what sellers take off their prices; rows are never changed but for their end. enterprise_id "" is the platform,
# and user_id "" too: codes are told apart on the account that sells, which a creator's apps share.
promo_codes: Final = Table(
    "promo_codes",
    PLATFORM,
    Column("id", Text, primary_key=True),
    Column("enterprise_id", Text, nullable=False, index=True),
    Column("user_id", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("percent_bp", BigInteger),
    Column("amount_off_minor", BigInteger),
    Column("currency", Text),
    Column("duration", Text, nullable=False),
    Column("duration_months", BigInteger),
    Column("redemptions_max", BigInteger),
    Column("first_purchase_only", Integer, nullable=False),
    Column("plan_ids", JSON, nullable=False),
    Column("expires_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    CheckConstraint("(percent_bp IS NULL) <> (amount_off_minor IS NULL)", name="percent_or_amount"),
    CheckConstraint("percent_bp BETWEEN 1 AND 10000 AND amount_off_minor > 0", name="takes_something_off"),
)
_NOT_ENDED: Final = promo_codes.c.ended_at.is_(None)
Index(
    "ix_promo_codes_live",
    promo_codes.c.user_id,
    promo_codes.c.code,
    unique=True,
    sqlite_where=_NOT_ENDED,
    postgresql_where=_NOT_ENDED,
)

# A promo code's Coupon and PromotionCode on the account that sells, made at its first use.
promo_coupons: Final = Table(
    "promo_coupons",
    PLATFORM,
    Column("promo_code_id", Text, ForeignKey("promo_codes.id"), primary_key=True),
    Column("account_id", Text, primary_key=True),
    Column("coupon_id", Text, nullable=False),
    Column("promotion_id", Text, nullable=False),
)
Index("ix_promo_coupons_promotion", promo_coupons.c.account_id, promo_coupons.c.promotion_id, unique=True)

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
    Column("rank", BigInteger, nullable=False),  # of what waits on one account, the lowest is acted upon first
    Column("attempts", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("handled_at", BigInteger),
    UniqueConstraint("endpoint", "event_id"),
)
Index("ix_webhooks_due", webhooks.c.state, webhooks.c.account_id, webhooks.c.rank, webhooks.c.due_at)
Index("ix_webhooks_object", webhooks.c.account_id, webhooks.c.object_id)
Index("ix_webhooks_event", webhooks.c.event_id)

# Who may act upon something for which there must be one at a time, until when.
billing_leases: Final = Table(
    "billing_leases",
    PLATFORM,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
)

# Accounts that creators had before, and disconnected: what was paid there is refunded and disputed there.
past_accounts: Final = Table(
    "past_accounts",
    PLATFORM,
    Column("account_id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("creators.user_id"), nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("wanted", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

# Payments that were granted, and whose sale each is ("": the platform's): of one seller, whatever is written on it later.
paid_payments: Final = Table(
    "paid_payments",
    PLATFORM,
    Column("account_id", Text, primary_key=True),
    Column("payment_id", Text, primary_key=True),
    Column("enterprise_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

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
        # Of the request behind it, where there was one: the same op_id with another body is a conflict.
        Column("op_id", Text, unique=True),
        Column("fingerprint", Text),
        Column("method_id", Text),  # of an automatic one: what it is taken from, whatever is saved by now
        Column("promo_code_id", Text),
        Column("discount_minor", BigInteger, nullable=False, server_default="0"),  # what it took off: amount_minor is without
    )
    Index("ix_purchases_open", purchases.c.state, purchases.c.created_at)
    top_ups = Table(
        "top_ups",
        metadata,
        Column("owner", Text, primary_key=True),
        Column("plan_id", Text, nullable=False),
        Column("below_micro", BigInteger, nullable=False),
        Column("monthly_max_minor", BigInteger, nullable=False),
        Column("daily_max", BigInteger, nullable=False),
        Column("enabled", Integer, nullable=False),
        Column("reason", Text, nullable=False),  # why it is not, where nobody turned it off
        Column("updated_at", BigInteger, nullable=False),
        Column("last_purchase_id", Text),  # the next one begins where this one has ended
    )
    return {
        "customers": customers,
        "purchases": purchases,
        "top_ups": top_ups,
        **_subscribers(metadata),
        "promo_redemptions": _redemptions(metadata),
        **_overage(metadata),
        "first_purchases": _first_purchases(metadata),
    }


def _subscribers(metadata: MetaData) -> dict[str, Table]:
    """Who subscribes, likewise."""
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
    # Pages on which a subscription may still be paid for, until they are closed.
    pages = Table(
        "subscription_pages",
        metadata,
        Column("id", Text, primary_key=True),
        Column("owner", Text, nullable=False, index=True),
        Column("account_id", Text, nullable=False),
        Column("session_id", Text, nullable=False, unique=True),
        Column("opened_at", BigInteger, nullable=False),
        Column("closed_at", BigInteger),
    )
    # The one subscription of each buyer, by Stripe's id.
    subscribers = Table(
        "subscribers",
        metadata,
        Column("owner", Text, primary_key=True),
        Column("subscription_id", Text, nullable=False),
    )
    return {"subscriptions": subscriptions, "subscription_pages": pages, "subscribers": subscribers}


def _redemptions(metadata: MetaData) -> Table:
    """What promo codes took off, by purchase (`subject` and `ref` its id), or by subscription and invoice (Stripe's ids)."""
    redemptions = Table(
        "promo_redemptions",
        metadata,
        Column("id", Text, nullable=False, unique=True),
        Column("promo_code_id", Text, primary_key=True),
        Column("subject", Text, primary_key=True),
        Column("ref", Text, primary_key=True),
        Column("owner", Text, nullable=False),
        Column("plan_id", Text, nullable=False),
        Column("currency", Text, nullable=False),
        Column("discount_minor", BigInteger, nullable=False),
        Column("paid_minor", BigInteger, nullable=False),
        Column("given_micro", BigInteger, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("number", BigInteger),  # the how-manieth subject of its code it is, where it is its subject's first
    )
    Index("ix_promo_redemptions_number", redemptions.c.promo_code_id, redemptions.c.number, unique=True)
    return redemptions


def _first_purchases(metadata: MetaData) -> Table:
    """The first purchase of each buyer that a promo code for first purchases is for: the page that it is to be made on, then
    (`redeemed_at`) what was bought. `ref`: the purchase; of a subscription the request for its page, then itself, by Stripe's id.
    """
    return Table(
        "first_purchases",
        metadata,
        Column("owner", Text, primary_key=True),
        Column("promo_code_id", Text, nullable=False),
        Column("ref", Text, nullable=False),
        Column("account_id", Text, nullable=False),
        Column("session_id", Text),
        Column("claimed_at", BigInteger, nullable=False),
        Column("redeemed_at", BigInteger),
    )


def _overage(metadata: MetaData) -> dict[str, Table]:
    """What was used beyond allowances: who agreed to it, what was lent (each a lot of the books), and its bills."""
    agreements = Table(
        "overage_agreements",
        metadata,
        Column("owner", Text, primary_key=True),
        Column("limit_micro", BigInteger, nullable=False),
        Column("enabled", Integer, nullable=False),
        Column("reason", Text, nullable=False),  # why it is not, where nobody turned it off
        Column("updated_at", BigInteger, nullable=False),
    )
    lines = Table(
        "overage_lines",
        metadata,
        Column("id", Text, primary_key=True),
        Column("owner", Text, nullable=False),
        Column("number", BigInteger, nullable=False),  # of its owner's: two that are made at once are told from each other
        Column("subscription_id", Text, nullable=False),
        Column("account_id", Text, nullable=False),
        Column("plan_id", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("lent_micro", BigInteger, nullable=False),
        Column("period_end", BigInteger, nullable=False),
        Column("ends_at", BigInteger, nullable=False),
        Column("due_at", BigInteger, nullable=False),  # when one that has ended is looked at next
        Column("created_at", BigInteger, nullable=False),
        Column("lot_id", Text),
        Column("used_micro", BigInteger),
        Column("bill_id", Text),
        UniqueConstraint("owner", "number"),
    )
    Index("ix_overage_lines_state", lines.c.state, lines.c.ends_at)
    bills = Table(
        "overage_bills",
        metadata,
        Column("id", Text, primary_key=True),
        Column("owner", Text, nullable=False, index=True),
        Column("subscription_id", Text, nullable=False),
        Column("account_id", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("currency", Text, nullable=False),
        Column("used_micro", BigInteger, nullable=False),
        Column("amount_minor", BigInteger, nullable=False),
        Column("fee_minor", BigInteger, nullable=False),
        Column("due_at", BigInteger, nullable=False),
        Column("attempts", BigInteger, nullable=False),
        Column("reason", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("invoice_id", Text, unique=True),
        Column("payment_id", Text, unique=True),
        Column("ended_at", BigInteger),
    )
    Index("ix_overage_bills_state", bills.c.state, bills.c.due_at)
    return {"overage_agreements": agreements, "overage_lines": lines, "overage_bills": bills}


PLATFORM_SALES: Final = _sales(PLATFORM)
APP_SALES: Final = _sales(APP)

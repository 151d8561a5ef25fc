"""What is sold, the shares of it, and what Stripe told."""

import sqlalchemy as sa
from alembic import op

from gateway.db.migrations import sales

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Tables, empty."""
    sales.upgrade()
    op.create_table(
        "billing_marks",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("looked_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_billing_marks")),
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("price_minor", sa.BigInteger(), nullable=False),
        sa.Column("grant_micro", sa.BigInteger(), nullable=False),
        sa.Column("interval", sa.Text()),
        sa.Column("interval_count", sa.BigInteger(), nullable=False),
        sa.Column("trial_days", sa.BigInteger(), nullable=False),
        sa.Column("rollover_max_micro", sa.BigInteger(), nullable=False),
        sa.Column("lot_days", sa.BigInteger()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.BigInteger()),
        sa.CheckConstraint("price_minor > 0 AND grant_micro > 0", name=op.f("ck_plans_not_free")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
    )
    op.create_index(op.f("ix_plans_enterprise_id"), "plans", ["enterprise_id"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("handled_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
        sa.UniqueConstraint("endpoint", "event_id", name=op.f("uq_webhooks_endpoint")),
    )
    op.create_index("ix_webhooks_due", "webhooks", ["state", "account_id", "rank", "due_at"])
    op.create_index("ix_webhooks_object", "webhooks", ["account_id", "object_id"])
    op.create_index("ix_webhooks_event", "webhooks", ["event_id"])
    op.create_table(
        "billing_leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_billing_leases")),
    )
    op.create_table(
        "past_accounts",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["creators.user_id"], name=op.f("fk_past_accounts_user_id")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_past_accounts")),
    )
    op.create_index(op.f("ix_past_accounts_user_id"), "past_accounts", ["user_id"])
    op.create_table(
        "paid_payments",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "payment_id", name=op.f("pk_paid_payments")),
    )
    op.create_table(
        "billing_accounts",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["creators.user_id"], name=op.f("fk_billing_accounts_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_billing_accounts")),
        sa.UniqueConstraint("account_id", name=op.f("uq_billing_accounts_account_id")),
    )
    op.create_table(
        "fee_terms",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("fee_bp", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.CheckConstraint("fee_bp BETWEEN 0 AND 10000", name=op.f("ck_fee_terms_a_share")),
        sa.ForeignKeyConstraint(["user_id"], ["creators.user_id"], name=op.f("fk_fee_terms_user_id")),
        sa.PrimaryKeyConstraint("user_id", "enterprise_id", "effective_at", name=op.f("pk_fee_terms")),
    )
    op.create_table(
        "plan_prices",
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("product_id", sa.Text(), nullable=False),
        sa.Column("price_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_plan_prices_plan_id")),
        sa.PrimaryKeyConstraint("plan_id", "account_id", name=op.f("pk_plan_prices")),
    )
    op.create_index("ix_plan_prices_price", "plan_prices", ["account_id", "price_id"], unique=True)


def downgrade() -> None:
    """They go, and what they hold."""
    op.drop_index("ix_plan_prices_price", table_name="plan_prices")
    op.drop_table("plan_prices")
    op.drop_table("fee_terms")
    op.drop_table("billing_accounts")
    op.drop_table("paid_payments")
    op.drop_index(op.f("ix_past_accounts_user_id"), table_name="past_accounts")
    op.drop_table("past_accounts")
    op.drop_table("billing_leases")
    op.drop_index("ix_webhooks_event", table_name="webhooks")
    op.drop_index("ix_webhooks_object", table_name="webhooks")
    op.drop_index("ix_webhooks_due", table_name="webhooks")
    op.drop_table("webhooks")
    op.drop_index(op.f("ix_plans_enterprise_id"), table_name="plans")
    op.drop_table("plans")
    op.drop_table("billing_marks")
    sales.downgrade()

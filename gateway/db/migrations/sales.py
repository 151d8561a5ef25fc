"""What buyers have: the same tables in an app's database and in the platform's."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Tables, empty."""
    op.create_table(
        "customers",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("method_id", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "account_id", name=op.f("pk_customers")),
    )
    op.create_index("ix_customers_customer", "customers", ["account_id", "customer_id"], unique=True)
    op.create_table(
        "purchases",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("fee_minor", sa.BigInteger(), nullable=False),
        sa.Column("grant_micro", sa.BigInteger(), nullable=False),
        sa.Column("session_id", sa.Text()),
        sa.Column("payment_id", sa.Text()),
        sa.Column("automatic", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("op_id", sa.Text()),
        sa.Column("fingerprint", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_purchases")),
        sa.UniqueConstraint("op_id", name=op.f("uq_purchases_op_id")),
        sa.UniqueConstraint("payment_id", name=op.f("uq_purchases_payment_id")),
        sa.UniqueConstraint("session_id", name=op.f("uq_purchases_session_id")),
    )
    op.create_index("ix_purchases_open", "purchases", ["state", "created_at"])
    op.create_index(op.f("ix_purchases_owner"), "purchases", ["owner"])
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("period_end", sa.BigInteger(), nullable=False),
        sa.Column("cancel_at_period_end", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=False),
        sa.Column("grace_until", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
        sa.UniqueConstraint("subscription_id", name=op.f("uq_subscriptions_subscription_id")),
    )
    op.create_index(op.f("ix_subscriptions_owner"), "subscriptions", ["owner"])
    op.create_table(
        "top_ups",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("below_micro", sa.BigInteger(), nullable=False),
        sa.Column("monthly_max_minor", sa.BigInteger(), nullable=False),
        sa.Column("enabled", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_top_ups")),
    )
    op.create_table(
        "subscription_pages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription_pages")),
        sa.UniqueConstraint("session_id", name=op.f("uq_subscription_pages_session_id")),
    )
    op.create_index(op.f("ix_subscription_pages_owner"), "subscription_pages", ["owner"])
    op.create_table(
        "subscribers",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_subscribers")),
    )


def downgrade() -> None:
    """They go, and what they hold."""
    op.drop_table("subscribers")
    op.drop_index(op.f("ix_subscription_pages_owner"), table_name="subscription_pages")
    op.drop_table("subscription_pages")
    op.drop_table("top_ups")
    op.drop_index(op.f("ix_subscriptions_owner"), table_name="subscriptions")
    op.drop_table("subscriptions")
    op.drop_index(op.f("ix_purchases_owner"), table_name="purchases")
    op.drop_index("ix_purchases_open", table_name="purchases")
    op.drop_table("purchases")
    op.drop_index("ix_customers_customer", table_name="customers")
    op.drop_table("customers")

"""What was lent beyond allowances and its bills: the same in an app's database and in the platform's."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Tables, empty."""
    op.create_table(
        "overage_agreements",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("limit_micro", sa.BigInteger(), nullable=False),
        sa.Column("enabled", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_overage_agreements")),
    )
    op.create_table(
        "overage_lines",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lent_micro", sa.BigInteger(), nullable=False),
        sa.Column("period_end", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("lot_id", sa.Text()),
        sa.Column("used_micro", sa.BigInteger()),
        sa.Column("bill_id", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_overage_lines")),
        sa.UniqueConstraint("owner", "number", name=op.f("uq_overage_lines_owner")),
    )
    op.create_index("ix_overage_lines_state", "overage_lines", ["state", "ends_at"])
    op.create_table(
        "overage_bills",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("used_micro", sa.BigInteger(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("fee_minor", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("invoice_id", sa.Text()),
        sa.Column("payment_id", sa.Text()),
        sa.Column("ended_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_overage_bills")),
        sa.UniqueConstraint("invoice_id", name=op.f("uq_overage_bills_invoice_id")),
        sa.UniqueConstraint("payment_id", name=op.f("uq_overage_bills_payment_id")),
    )
    op.create_index(op.f("ix_overage_bills_owner"), "overage_bills", ["owner"])
    op.create_index("ix_overage_bills_state", "overage_bills", ["state", "due_at"])


def downgrade() -> None:
    """They go; the books keep what was lent and paid."""
    for name in ("overage_bills", "overage_lines", "overage_agreements"):
        op.drop_table(name)

"""Automatic top-up: the same tables in an app's database and in the platform's. Before it, nobody had a rule."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Rules know their last purchase, purchases what they were taken from."""
    op.drop_table("top_ups")
    op.create_table(
        "top_ups",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("below_micro", sa.BigInteger(), nullable=False),
        sa.Column("monthly_max_minor", sa.BigInteger(), nullable=False),
        sa.Column("daily_max", sa.BigInteger(), nullable=False),
        sa.Column("enabled", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("last_purchase_id", sa.Text()),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_top_ups")),
    )
    op.add_column("purchases", sa.Column("method_id", sa.Text()))


def downgrade() -> None:
    """Rules go: the older version has nothing that acts on them."""
    op.drop_column("purchases", "method_id")
    op.drop_table("top_ups")
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

"""Lots expire and are clawed back; usage rows know their hold."""

import sqlalchemy as sa
from alembic import op

from gateway.db.migrations import lots

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is new."""
    lots.upgrade()
    op.add_column("usage", sa.Column("held_micro", sa.BigInteger(), nullable=True))
    op.add_column("usage", sa.Column("creator_held_micro", sa.BigInteger(), nullable=True))
    op.create_table(
        "overruns",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("held_micro", sa.BigInteger(), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["usage.request_id"], name=op.f("fk_overruns_request_id")),
        sa.PrimaryKeyConstraint("request_id", "role", name=op.f("pk_overruns")),
    )


def downgrade() -> None:
    """Take it away again; what it held is lost."""
    op.drop_table("overruns")
    op.drop_column("usage", "creator_held_micro")
    op.drop_column("usage", "held_micro")
    lots.downgrade()

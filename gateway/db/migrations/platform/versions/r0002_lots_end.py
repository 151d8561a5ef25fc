"""Lots expire and are clawed back; apps have a trial policy."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is new."""
    _books_up()
    op.add_column("apps", sa.Column("disconnect_policy", sa.Text(), server_default="drain", nullable=False))
    op.add_column("apps", sa.Column("trial", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    """Take it away again; what it held is lost."""
    op.drop_column("apps", "trial")
    op.drop_column("apps", "disconnect_policy")
    _books_down()


def _books_up() -> None:
    op.add_column("lots", sa.Column("clawback_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("lots", sa.Column("expiring", sa.Text(), nullable=True))
    op.add_column("credits", sa.Column("taken_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    unfinished = sa.text("left_micro > 0 OR expiring IS NOT NULL")
    op.create_index("ix_lots_to_expire", "lots", ["expires_at"], sqlite_where=unfinished, postgresql_where=unfinished)
    op.create_index("ix_txns_reverses", "txns", ["reverses"], unique=True)


def _books_down() -> None:
    op.drop_index("ix_txns_reverses", "txns")
    op.drop_index("ix_lots_to_expire", "lots")
    op.drop_column("credits", "taken_micro")
    op.drop_column("lots", "expiring")
    op.drop_column("lots", "clawback_micro")

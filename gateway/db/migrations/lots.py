"""What revision 0002 of both trees has in common."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Lots end and are taken back; a transaction is reversed once."""
    op.add_column("lots", sa.Column("clawback_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("lots", sa.Column("expiring", sa.Text(), nullable=True))
    op.add_column("credits", sa.Column("taken_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    unfinished = sa.text("left_micro > 0 OR expiring IS NOT NULL")
    op.create_index("ix_lots_to_expire", "lots", ["expires_at"], sqlite_where=unfinished, postgresql_where=unfinished)
    op.create_index("ix_txns_reverses", "txns", ["reverses"], unique=True)


def downgrade() -> None:
    """Take it away again."""
    op.drop_index("ix_txns_reverses", "txns")
    op.drop_index("ix_lots_to_expire", "lots")
    op.drop_column("credits", "taken_micro")
    op.drop_column("lots", "expiring")
    op.drop_column("lots", "clawback_micro")

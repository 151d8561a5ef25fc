"""Transactions of money by what their names begin with: the same in an app's database and in the platform's."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """The index; where there is much usage it is read once."""
    money = sa.text("kind <> 'usage'")
    op.create_index(
        "ix_txns_named",
        "txns",
        ["op_id"],
        sqlite_where=money,
        postgresql_where=money,
        postgresql_ops={"op_id": "text_pattern_ops"},
    )


def downgrade() -> None:
    """Without it."""
    op.drop_index("ix_txns_named", "txns")

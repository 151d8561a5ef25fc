"""Lots expire and are clawed back; apps have a trial policy."""

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
    op.add_column("apps", sa.Column("disconnect_policy", sa.Text(), server_default="drain", nullable=False))
    op.add_column("apps", sa.Column("trial", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    """Take it away again; what it held is lost."""
    op.drop_column("apps", "trial")
    op.drop_column("apps", "disconnect_policy")
    lots.downgrade()

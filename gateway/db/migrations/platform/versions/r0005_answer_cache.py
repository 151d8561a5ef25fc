"""Apps say how answers are kept to be given again."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One more column of apps."""
    op.add_column("apps", sa.Column("answer_cache", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Without it."""
    op.drop_column("apps", "answer_cache")

"""Plans say what may be used beyond the allowance, and what it costs."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_COLUMNS = ("overage_max_micro", "overage_price_micro", "overage_per_micro")


def upgrade() -> None:
    """What was offered so far is without."""
    for name in _COLUMNS:
        op.add_column("plans", sa.Column(name, sa.BigInteger()))


def downgrade() -> None:
    """They go."""
    for name in reversed(_COLUMNS):
        op.drop_column("plans", name)

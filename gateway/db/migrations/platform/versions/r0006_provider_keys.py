"""Apps have provider keys of their own, sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "provider_keys",
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("sealed_by", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["enterprise_id"], ["apps.enterprise_id"], name=op.f("fk_provider_keys_enterprise_id_apps")),
        sa.PrimaryKeyConstraint("enterprise_id", "provider", name=op.f("pk_provider_keys")),
    )


def downgrade() -> None:
    """Take it away again; the keys are lost."""
    op.drop_table("provider_keys")

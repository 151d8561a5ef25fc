"""Automatic top-up of creators' wallets, and how apps' own pages look."""

import sqlalchemy as sa
from alembic import op

from gateway.db.migrations import top_ups

revision = "0010"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rules know their last purchase; apps have looks."""
    top_ups.upgrade()
    op.create_table(
        "app_pages",
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("logo_url", sa.Text()),
        sa.Column("accent", sa.Text()),
        sa.Column("background", sa.Text()),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["enterprise_id"], ["apps.enterprise_id"], name=op.f("fk_app_pages_enterprise_id_apps")),
        sa.PrimaryKeyConstraint("enterprise_id", name=op.f("pk_app_pages")),
    )


def downgrade() -> None:
    """Both go."""
    op.drop_table("app_pages")
    top_ups.downgrade()

"""What promo codes took off: the same in an app's database and in the platform's."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Purchases know their code; redemptions, none yet."""
    op.add_column("purchases", sa.Column("promo_code_id", sa.Text()))
    op.add_column("purchases", sa.Column("discount_minor", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "promo_redemptions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("promo_code_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("discount_minor", sa.BigInteger(), nullable=False),
        sa.Column("paid_minor", sa.BigInteger(), nullable=False),
        sa.Column("given_micro", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("promo_code_id", "subject", "ref", name=op.f("pk_promo_redemptions")),
        sa.UniqueConstraint("id", name=op.f("uq_promo_redemptions_id")),
    )


def downgrade() -> None:
    """They go; what was sold at a discount stays sold."""
    op.drop_table("promo_redemptions")
    op.drop_column("purchases", "discount_minor")
    op.drop_column("purchases", "promo_code_id")

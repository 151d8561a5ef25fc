"""Promo codes, their coupons at Stripe, and those of creators' purchases."""

import sqlalchemy as sa
from alembic import op

from gateway.db.migrations import promo_codes

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """None yet."""
    promo_codes.upgrade()
    op.create_table(
        "promo_codes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("percent_bp", sa.BigInteger()),
        sa.Column("amount_off_minor", sa.BigInteger()),
        sa.Column("currency", sa.Text()),
        sa.Column("duration", sa.Text(), nullable=False),
        sa.Column("duration_months", sa.BigInteger()),
        sa.Column("redemptions_max", sa.BigInteger()),
        sa.Column("first_purchase_only", sa.Integer(), nullable=False),
        sa.Column("plan_ids", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.CheckConstraint("(percent_bp IS NULL) <> (amount_off_minor IS NULL)", name=op.f("ck_promo_codes_percent_or_amount")),
        sa.CheckConstraint(
            "percent_bp BETWEEN 1 AND 10000 AND amount_off_minor > 0", name=op.f("ck_promo_codes_takes_something_off")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promo_codes")),
    )
    op.create_index(op.f("ix_promo_codes_enterprise_id"), "promo_codes", ["enterprise_id"])
    live = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_promo_codes_live", "promo_codes", ["user_id", "code"], unique=True, sqlite_where=live, postgresql_where=live
    )
    op.create_table(
        "promo_coupons",
        sa.Column("promo_code_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("coupon_id", sa.Text(), nullable=False),
        sa.Column("promotion_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["promo_code_id"], ["promo_codes.id"], name=op.f("fk_promo_coupons_promo_code_id_promo_codes")),
        sa.PrimaryKeyConstraint("promo_code_id", "account_id", name=op.f("pk_promo_coupons")),
    )
    op.create_index("ix_promo_coupons_promotion", "promo_coupons", ["account_id", "promotion_id"], unique=True)


def downgrade() -> None:
    """They go."""
    op.drop_index("ix_promo_coupons_promotion", table_name="promo_coupons")
    op.drop_table("promo_coupons")
    op.drop_index("ix_promo_codes_live", table_name="promo_codes")
    op.drop_index(op.f("ix_promo_codes_enterprise_id"), table_name="promo_codes")
    op.drop_table("promo_codes")
    promo_codes.downgrade()

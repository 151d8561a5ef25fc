"""Who makes a first purchase with a promo code, and the how-manieth each redemption is: the same in an app's database and in
the platform's.
"""

import sqlalchemy as sa
from alembic import op

# Who has redeemed a code has made a first purchase: the earliest of them.
_MADE = """
INSERT INTO first_purchases (owner, promo_code_id, ref, account_id, session_id, claimed_at, redeemed_at)
SELECT owner, promo_code_id, subject, '', NULL, created_at, created_at FROM promo_redemptions
WHERE id IN (SELECT min(id) FROM promo_redemptions GROUP BY owner)
"""


def upgrade() -> None:
    """Those that were made; redemptions of before have no number, and count."""
    op.create_table(
        "first_purchases",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("promo_code_id", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text()),
        sa.Column("claimed_at", sa.BigInteger(), nullable=False),
        sa.Column("redeemed_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_first_purchases")),
    )
    op.execute(_MADE)
    op.add_column("promo_redemptions", sa.Column("number", sa.BigInteger()))
    op.create_index("ix_promo_redemptions_number", "promo_redemptions", ["promo_code_id", "number"], unique=True)


def downgrade() -> None:
    """They go."""
    op.drop_index("ix_promo_redemptions_number", table_name="promo_redemptions")
    op.drop_column("promo_redemptions", "number")
    op.drop_table("first_purchases")

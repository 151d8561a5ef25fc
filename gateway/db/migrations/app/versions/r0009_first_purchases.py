"""End users' first purchases with a promo code."""

from gateway.db.migrations import first_purchases

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

upgrade = first_purchases.upgrade
downgrade = first_purchases.downgrade

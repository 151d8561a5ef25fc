"""Promo codes of end users' purchases."""

from gateway.db.migrations import promo_codes

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None

upgrade = promo_codes.upgrade
downgrade = promo_codes.downgrade

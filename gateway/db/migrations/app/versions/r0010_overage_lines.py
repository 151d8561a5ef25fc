"""What end users used beyond their allowances."""

from gateway.db.migrations import overage

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

upgrade = overage.upgrade
downgrade = overage.downgrade

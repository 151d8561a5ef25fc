"""What creators used beyond their allowances."""

from gateway.db.migrations import overage

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

upgrade = overage.upgrade
downgrade = overage.downgrade

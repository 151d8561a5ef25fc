"""What end users bought."""

from gateway.db.migrations import sales

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

upgrade = sales.upgrade
downgrade = sales.downgrade

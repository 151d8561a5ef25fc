"""What entries name is looked up once a statement."""

from gateway.db.migrations import entries

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

upgrade = entries.upgrade
downgrade = entries.downgrade

"""The trail of the app database, and append-only books."""

from gateway.db.migrations import trail

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

upgrade = trail.upgrade
downgrade = trail.downgrade

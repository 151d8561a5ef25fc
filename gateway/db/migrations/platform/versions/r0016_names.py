"""Transactions of money are found by what their names begin with."""

from gateway.db.migrations import named

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

upgrade = named.upgrade
downgrade = named.downgrade

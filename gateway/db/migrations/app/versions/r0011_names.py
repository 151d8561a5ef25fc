"""Transactions of money are found by what their names begin with."""

from gateway.db.migrations import named

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

upgrade = named.upgrade
downgrade = named.downgrade

"""Automatic top-up of end users' wallets."""

from gateway.db.migrations import top_ups

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

upgrade = top_ups.upgrade
downgrade = top_ups.downgrade

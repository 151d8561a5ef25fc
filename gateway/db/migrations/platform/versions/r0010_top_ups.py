"""Automatic top-up of creators' wallets."""

from gateway.db.migrations import top_ups

revision = "0010"
down_revision = "0008"
branch_labels = None
depends_on = None

upgrade = top_ups.upgrade
downgrade = top_ups.downgrade

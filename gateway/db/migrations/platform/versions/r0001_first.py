"""First schema of the platform database."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    _accounts()
    _creators()
    _dead_events()
    _txns()
    _usage_hours()
    _apps()
    _credits()
    _lots()
    _management_keys()
    _api_keys()
    _app_prices()
    _entries()


def downgrade() -> None:
    """Drop every table, with its indexes."""
    op.drop_table("entries")
    op.drop_table("app_prices")
    op.drop_table("api_keys")
    op.drop_table("management_keys")
    op.drop_table("lots")
    op.drop_table("credits")
    op.drop_table("apps")
    op.drop_table("usage_hours")
    op.drop_table("txns")
    op.drop_table("dead_events")
    op.drop_table("creators")
    op.drop_table("accounts")


def _accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("balance_micro", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("owner", "kind", "asset", name=op.f("uq_accounts_owner")),
    )


def _creators() -> None:
    op.create_table(
        "creators",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_creators")),
    )


def _dead_events() -> None:
    op.create_table(
        "dead_events",
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "entry_id", "digest", name=op.f("pk_dead_events")),
    )


def _txns() -> None:
    op.create_table(
        "txns",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("op_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("reverses", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_txns")),
        sa.UniqueConstraint("op_id", name=op.f("uq_txns_op_id")),
    )
    op.create_index(op.f("ix_txns_at"), "txns", ["at"], unique=False)


def _usage_hours() -> None:
    op.create_table(
        "usage_hours",
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("workflow_type", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("end_user_micro", sa.BigInteger(), nullable=False),
        sa.Column("creator_micro", sa.BigInteger(), nullable=False),
        sa.Column("provider_cost_micro", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "hour", "enterprise_id", "level", "model", "provider", "workflow_type", "asset", name=op.f("pk_usage_hours")
        ),
    )
    op.create_index(op.f("ix_usage_hours_user_id"), "usage_hours", ["user_id"], unique=False)


def _apps() -> None:
    op.create_table(
        "apps",
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("enforcement", sa.Text(), nullable=False),
        sa.Column("cost_policy", sa.Text(), nullable=False),
        sa.Column("hold_policy", sa.Text(), nullable=False),
        sa.Column("end_user_sources", sa.JSON(), nullable=False),
        sa.Column("default_end_user", sa.Text(), nullable=True),
        sa.Column("end_user_limits", sa.JSON(), nullable=False),
        sa.Column("cors_origins", sa.JSON(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["creators.user_id"], name=op.f("fk_apps_user_id")),
        sa.PrimaryKeyConstraint("enterprise_id", name=op.f("pk_apps")),
    )
    op.create_index(op.f("ix_apps_user_id"), "apps", ["user_id"], unique=False)


def _credits() -> None:
    op.create_table(
        "credits",
        sa.Column("txn_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("wallet", sa.Text(), nullable=False),
        sa.Column("delta_micro", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("applied_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_credits_account_id")),
        sa.ForeignKeyConstraint(["txn_id"], ["txns.id"], name=op.f("fk_credits_txn_id")),
        sa.PrimaryKeyConstraint("txn_id", name=op.f("pk_credits")),
    )
    op.create_index(op.f("ix_credits_account_id"), "credits", ["account_id"], unique=False)
    op.create_index("ix_credits_waiting", "credits", ["applied_at", "due_at"], unique=False)


def _lots() -> None:
    op.create_table(
        "lots",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.Column("granted_micro", sa.BigInteger(), nullable=False),
        sa.Column("spent_micro", sa.BigInteger(), nullable=False),
        sa.Column("expired_micro", sa.BigInteger(), nullable=False),
        sa.Column("refunded_micro", sa.BigInteger(), nullable=False),
        sa.Column("frozen_micro", sa.BigInteger(), nullable=False),
        sa.Column("left_micro", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "granted_micro = spent_micro + expired_micro + refunded_micro + frozen_micro + left_micro",
            name=op.f("ck_lots_adds_up"),
        ),
        sa.CheckConstraint(
            "granted_micro >= 0 AND spent_micro >= 0 AND expired_micro >= 0"
            " AND refunded_micro >= 0 AND frozen_micro >= 0 AND left_micro >= 0",
            name=op.f("ck_lots_not_negative"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_lots_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lots")),
        sa.UniqueConstraint("external_ref", name=op.f("uq_lots_external_ref")),
    )
    op.create_index("ix_lots_open", "lots", ["account_id", "left_micro"], unique=False)


def _management_keys() -> None:
    op.create_table(
        "management_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["creators.user_id"], name=op.f("fk_management_keys_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_management_keys")),
    )
    op.create_index(op.f("ix_management_keys_user_id"), "management_keys", ["user_id"], unique=False)


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("rotated_to", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["enterprise_id"], ["apps.enterprise_id"], name=op.f("fk_api_keys_enterprise_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index(op.f("ix_api_keys_enterprise_id"), "api_keys", ["enterprise_id"], unique=False)


def _app_prices() -> None:
    op.create_table(
        "app_prices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("enterprise_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("rates", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("markup_bp", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.CheckConstraint("(rates IS NULL) <> (markup_bp IS NULL)", name=op.f("ck_app_prices_rates_or_markup")),
        sa.CheckConstraint("markup_bp >= 0", name=op.f("ck_app_prices_markup_not_negative")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["apps.enterprise_id"], name=op.f("fk_app_prices_enterprise_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_app_prices")),
        sa.UniqueConstraint("enterprise_id", "model", "effective_at", name=op.f("uq_app_prices_enterprise_id")),
    )


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("txn_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("lot_id", sa.Text(), nullable=True),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_entries_account_id")),
        sa.ForeignKeyConstraint(["lot_id"], ["lots.id"], name=op.f("fk_entries_lot_id")),
        sa.ForeignKeyConstraint(["txn_id"], ["txns.id"], name=op.f("fk_entries_txn_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entries")),
    )
    op.create_index(op.f("ix_entries_account_id"), "entries", ["account_id"], unique=False)
    op.create_index(op.f("ix_entries_txn_id"), "entries", ["txn_id"], unique=False)

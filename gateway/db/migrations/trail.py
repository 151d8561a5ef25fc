"""Revision 0003 of both trees: the trail's tables, and triggers that keep what is appended only as it was written.

The trail's triggers take a line only as the next of the chain, and move the head only to that line. The
same triggers refuse changes of `txns` and `entries`. They cost an INSERT there nothing, and on the trail
two look-ups by primary key. Whoever owns a table can drop its triggers, so they stop accidents and
careless hands; what shows a deliberate hand is the chain and a head that was pinned elsewhere.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

_KEPT: Final = ("trail", "txns", "entries")
_GENESIS: Final = "0" * 64

_NOT_NEXT: Final = "NOT EXISTS (SELECT 1 FROM trail_head h WHERE h.seq = NEW.seq - 1 AND h.hash = NEW.prev_hash)"
_NOT_FORWARD: Final = (
    "NEW.id <> OLD.id OR NEW.after_txn <> OLD.after_txn OR NEW.seq <> OLD.seq + 1 OR NOT EXISTS"
    " (SELECT 1 FROM trail t WHERE t.seq = NEW.seq AND t.hash = NEW.hash AND t.prev_hash = OLD.hash)"
)
_SQLITE_RULES: Final = (
    *[(f"{table}_no_{verb.lower()}", verb, table, "") for table in _KEPT for verb in ("UPDATE", "DELETE")],
    ("trail_in_order", "INSERT", "trail", f"WHEN {_NOT_NEXT}"),
    ("trail_head_forward", "UPDATE", "trail_head", f"WHEN {_NOT_FORWARD}"),
    ("trail_head_no_delete", "DELETE", "trail_head", ""),
    ("trail_head_no_insert", "INSERT", "trail_head", ""),
)
_POSTGRES_CHECKS: Final = {
    "append_only_refuse": "",
    "trail_check_line": f"IF NOT ({_NOT_NEXT}) THEN RETURN NEW; END IF;",
    "trail_check_head": f"IF NOT ({_NOT_FORWARD}) THEN RETURN NEW; END IF;",
}


def upgrade() -> None:
    """Make the tables, the head of an empty chain, and the triggers."""
    _tables()
    newest = op.get_bind().execute(sa.text("SELECT COALESCE(MAX(id), '') FROM txns")).scalar_one()
    insert = sa.text("INSERT INTO trail_head (id, seq, hash, after_txn) VALUES (1, 0, :hash, :newest)")
    op.get_bind().execute(insert, {"hash": _GENESIS, "newest": newest})
    if op.get_bind().dialect.name == "postgresql":
        _postgres_triggers()
        return
    for name, verb, table, when in _SQLITE_RULES:
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        op.execute(f"CREATE TRIGGER {name} BEFORE {verb} ON {table} {when} {refuse}")


def downgrade() -> None:
    """Drop the trail, and let the books be changed again."""
    if op.get_bind().dialect.name == "postgresql":
        for name in _POSTGRES_CHECKS:
            op.execute(f"DROP FUNCTION {name} CASCADE")  # with the triggers on it
    else:
        for name, *_ in _SQLITE_RULES:
            op.execute(f"DROP TRIGGER {name}")
    op.drop_table("trail")
    op.drop_table("trail_head")


def _tables() -> None:
    text = {name: sa.Column(name, sa.Text(), nullable=False) for name in _TEXTS}
    op.create_table(
        "trail",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        *text.values(),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_trail")),
        sa.UniqueConstraint("hash", name=op.f("uq_trail_hash")),
    )
    op.create_index("ix_trail_enterprise_id", "trail", ["enterprise_id", "seq"], unique=False)
    op.create_index(op.f("ix_trail_txn_id"), "trail", ["txn_id"], unique=False)
    op.create_table(
        "trail_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("after_txn", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_trail_head_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trail_head")),
    )


_TEXTS: Final = (
    *("role", "actor", "act", "user_id", "enterprise_id", "subject", "reason"),
    *("before_json", "after_json", "txn_id", "prev_hash", "hash"),
)


def _postgres_triggers() -> None:
    for name, check in _POSTGRES_CHECKS.items():
        refuse = "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';"
        op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {check} {refuse} END $$")
    for table in _KEPT:
        _trigger(f"{table}_no_change", "UPDATE OR DELETE", table, "ROW", "append_only_refuse")
        _trigger(f"{table}_no_truncate", "TRUNCATE", table, "STATEMENT", "append_only_refuse")
    _trigger("trail_in_order", "INSERT", "trail", "ROW", "trail_check_line")
    _trigger("trail_head_forward", "UPDATE", "trail_head", "ROW", "trail_check_head")
    _trigger("trail_head_no_other", "INSERT OR DELETE", "trail_head", "ROW", "append_only_refuse")
    _trigger("trail_head_no_truncate", "TRUNCATE", "trail_head", "STATEMENT", "append_only_refuse")


def _trigger(name: str, verbs: str, table: str, each: str, function: str) -> None:
    op.execute(f"CREATE TRIGGER {name} BEFORE {verbs} ON {table} FOR EACH {each} EXECUTE FUNCTION {function}()")

"""Revision 0004 of both trees: on Postgres, what an entry names is looked up once a statement, not once a row.

Each foreign key of `entries` cost a query and a row lock per row, together as much as all the rest of the drain. One trigger
on the rows of a whole statement, by index, says the same for a tenth of it; and what an entry names can be neither deleted nor
given another id. SQLite keeps its foreign keys, which it checks cheaply.
"""

from typing import Final

from alembic import op

_NAMED: Final = (("txn_id", "txns"), ("account_id", "accounts"), ("lot_id", "lots"))

_KEPT: Final = frozenset(("txns",))  # append-only as it is
_MISSING: Final = (
    "EXISTS (SELECT 1 FROM added e LEFT JOIN {table} p ON p.id = e.{column} WHERE p.id IS NULL AND e.{column} IS NOT NULL)"
)
_STAYS: Final = (
    "CREATE FUNCTION {table}_named() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF EXISTS (SELECT 1 FROM entries e WHERE e.{column} = OLD.id) THEN"
    " RAISE EXCEPTION 'an entry names it' USING ERRCODE = 'foreign_key_violation';"
    " END IF; IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$"
)
# By index whatever the tables' sizes were when the plan was made.
_BY_INDEX: Final = "SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off"


def upgrade() -> None:
    """Triggers for the foreign keys."""
    if op.get_bind().dialect.name != "postgresql":
        return
    missing = " OR ".join(_MISSING.format(column=column, table=table) for column, table in _NAMED)
    op.execute(
        f"CREATE FUNCTION entries_check() RETURNS trigger LANGUAGE plpgsql {_BY_INDEX} AS $$ BEGIN IF {missing} THEN"
        " RAISE EXCEPTION 'an entry names what does not exist' USING ERRCODE = 'foreign_key_violation';"
        " END IF; RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER entries_named AFTER INSERT ON entries REFERENCING NEW TABLE AS added"
        " FOR EACH STATEMENT EXECUTE FUNCTION entries_check()"
    )
    for column, table in _NAMED:
        if table not in _KEPT:
            op.execute(_STAYS.format(column=column, table=table))
            op.execute(
                f"CREATE TRIGGER {table}_named BEFORE DELETE OR UPDATE OF id ON {table}"
                f" FOR EACH ROW EXECUTE FUNCTION {table}_named()"
            )
        op.drop_constraint(f"fk_entries_{column}", "entries", type_="foreignkey")


def downgrade() -> None:
    """Foreign keys again."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("DROP FUNCTION entries_check() CASCADE")  # with its trigger
    for column, table in _NAMED:
        if table not in _KEPT:
            op.execute(f"DROP FUNCTION {table}_named() CASCADE")
        op.create_foreign_key(f"fk_entries_{column}", "entries", table, [column], ["id"])

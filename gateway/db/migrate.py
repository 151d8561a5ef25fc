"""Runs alembic on a connection, for one of the two trees: `platform` or `app`.

Imported only when a database is not at the newest revision, because alembic is slow to import. The
whole upgrade is one transaction on both kinds of database, under a lock, so processes that start
together wait for the first and then find nothing to do.
"""

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command, context
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from gateway.db.faults import SqlDown
from gateway.db.tables import APP, PLATFORM

_TREES: Final = Path(__file__).parent / "migrations"
_METADATA: Final = {"platform": PLATFORM, "app": APP}
_MIGRATE_LOCK: Final = 0x6D7A6B_02


def _config(tree: str, conn: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_TREES / tree).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = conn
    config.attributes["metadata"] = _METADATA[tree]
    return config


def upgrade(conn: sa.Connection, tree: str, revision: str = "head") -> None:
    """To `revision`. On SQLite the caller's BEGIN IMMEDIATE is the lock; on Postgres it is taken here.

    SqlDown when the database has a revision that this version does not know, as after going back a version.
    """
    _lock(conn)
    try:
        command.upgrade(_config(tree, conn), revision)
    except CommandError as unknown:
        raise SqlDown(f"the {tree} database cannot be migrated: {unknown}") from unknown


def downgrade(conn: sa.Connection, tree: str, revision: str) -> None:
    """Back to `revision`; "base" is an empty database."""
    _lock(conn)
    command.downgrade(_config(tree, conn), revision)


def head(tree: str) -> str | None:
    """The newest revision among a tree's files."""
    return ScriptDirectory.from_config(_config(tree)).get_current_head()


def differences(conn: sa.Connection, tree: str) -> list[object]:
    """What alembic would change to make the database equal to `tables.py`; empty when they agree."""

    def is_compared(thing: sa.schema.SchemaItem, name: str | None, kind: str, reflected: bool, other: object) -> bool:
        # On Postgres triggers stand for these foreign keys (revision 0004).
        is_named = isinstance(thing, sa.ForeignKeyConstraint) and thing.table is not None and thing.table.name == "entries"
        return not (is_named and conn.dialect.name == "postgresql")

    options = {"compare_type": True, "compare_server_default": True, "include_object": is_compared}
    return list(compare_metadata(MigrationContext.configure(conn, opts=options), _METADATA[tree]))


def run_environment() -> None:
    """What each tree's `env.py` does: migrate on the connection that was handed in."""
    attributes = context.config.attributes
    context.configure(connection=attributes["connection"], target_metadata=attributes["metadata"])
    with context.begin_transaction():
        context.run_migrations()


def _lock(conn: sa.Connection) -> None:
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATE_LOCK})")

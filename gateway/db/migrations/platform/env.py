"""Alembic's entry into the platform tree."""

from gateway.db.migrate import run_environment

run_environment()

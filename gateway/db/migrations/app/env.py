"""Alembic's entry into the app tree."""

from gateway.db.migrate import run_environment

run_environment()

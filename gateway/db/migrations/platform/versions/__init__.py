"""Revisions of the platform database."""

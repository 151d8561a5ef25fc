"""Revisions of an app database."""

"""Alembic revisions, named by date and sentence."""

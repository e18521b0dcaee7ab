"""Alembic's entry point: one connection, one transaction, an advisory lock so that two starts take turns."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

from service.config import Settings
from service.db.tables import Base

LOCK = 0x67726170  # "grap"
LOCK_TIMEOUT = "2s"
"""Everybody who comes after a migration that waits for a table waits behind it: it gives up soon, and is tried again."""


def run() -> None:
    """Run the migrations as the owner of the tables."""
    url = context.config.get_main_option("sqlalchemy.url") or Settings().database.owner_url
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=False)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            context.run_migrations()
    engine.dispose()


run()

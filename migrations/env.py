"""Alembic's entry point: one connection, one transaction, an advisory lock so that two starts take turns."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

from service.config import Settings
from service.db.tables import Base

LOCK = 0x67726170  # "grap"


def run() -> None:
    """Run the migrations as the owner of the tables."""
    url = context.config.get_main_option("sqlalchemy.url") or Settings().database.owner_url
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=False)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            context.run_migrations()
    engine.dispose()


run()

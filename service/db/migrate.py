"""Running Alembic from code: `python -m service.db.migrate` brings the database to head."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

from service.config import Settings

TRIES = 60
"""How often a migration asks for its tables (two seconds each time, then one of rest) before it gives up."""


def _config(url: str | None) -> Config:
    spec = importlib.util.find_spec("migrations")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package 'migrations' is not installed beside 'service'")
    config = Config()
    config.set_main_option("script_location", str(Path(next(iter(spec.submodule_search_locations)))))
    if url:
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def upgrade(url: str | None = None, revision: str = "head") -> None:
    """Bring the database behind `url` (default: the settings') to `revision`; others may work on it meanwhile."""
    _patiently(lambda: command.upgrade(_config(url), revision))


def downgrade(url: str | None = None, revision: str = "base") -> None:
    """Take the database back."""
    _patiently(lambda: command.downgrade(_config(url), revision))


def _patiently(run: Callable[[], None]) -> None:
    """Again while somebody else uses a table; a migration is one transaction, so nothing is half done."""
    for tries_left in reversed(range(TRIES)):
        try:
            return run()
        except (LockNotAvailable, OperationalError) as error:
            if not isinstance(getattr(error, "orig", error), LockNotAvailable) or not tries_left:
                raise
        time.sleep(1.0)


def head() -> str:
    """The revision that this code expects."""
    return ScriptDirectory.from_config(_config(None)).get_current_head() or ""


if __name__ == "__main__":
    upgrade(Settings().database.owner_url)
    sys.stdout.write(f"the database is at {head()}\n")

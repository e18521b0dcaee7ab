"""Running Alembic from code: `python -m service.db.migrate` brings the database to head."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from service.config import Settings


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
    """Bring the database behind `url` (default: the settings') to `revision`."""
    command.upgrade(_config(url), revision)


def downgrade(url: str | None = None, revision: str = "base") -> None:
    """Take the database back."""
    command.downgrade(_config(url), revision)


def head() -> str:
    """The revision that this code expects."""
    return ScriptDirectory.from_config(_config(None)).get_current_head() or ""


if __name__ == "__main__":
    upgrade(Settings().database.owner_url)
    sys.stdout.write(f"the database is at {head()}\n")

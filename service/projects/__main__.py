"""`python -m service.projects`: print a new admin key, for a deployment that has none yet (`grape up` makes its own).

It needs the database and the deployment's secret, so whoever can run it could do everything anyway.
"""

from __future__ import annotations

import sys

from sqlalchemy.exc import OperationalError, ProgrammingError

from service.config import Settings
from service.db.engine import Database
from service.projects.commands import admin_key
from service.security import Vault


def main() -> int:
    """Make the key; 1 with one sentence if the database cannot give it."""
    settings = Settings()
    database = Database(settings.database, "grape-first-key")
    try:
        vault = Vault(settings.require_secret_key())
        with database.transaction() as session:
            key = admin_key(session, vault, "first key")
    except (OperationalError, ProgrammingError, RuntimeError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        sys.stderr.write(f"no key was made: {reason}; has `python -m service.db.migrate` run?\n")
        return 1
    finally:
        database.dispose()
    sys.stdout.write(f"{key}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A Postgres that a test stops, starts, copies and puts back."""

from __future__ import annotations

import shutil
from pathlib import Path

from service.db.migrate import upgrade
from service.local.account import server_account
from service.local.binaries import postgres_folder, reachable
from service.local.postgres import SUPERUSER, Postgres
from service.local.processes import Supervisor
from service.local.stack import free_port


class OwnPostgres:
    """One cluster on one port; it dies with the test process."""

    def __init__(self, folder: Path):
        account = server_account()
        install = reachable(postgres_folder(), account, folder / "bin")
        passwords = dict.fromkeys((SUPERUSER, "grape_owner", "grape_app"), "secret")
        self.folder = folder
        self.server = Postgres(install, folder / "postgres", free_port(), account, passwords)
        self._supervisor = None

    def start(self):
        """Start it, with the database at the head of the migrations."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        (self.folder / "children").mkdir(exist_ok=True)
        self.server.ensure_cluster()
        self._supervisor = Supervisor(
            self.folder / "processes.json", self.folder / "children", self.folder / "logs", lambda line: None
        )
        self._supervisor.start(self.server.program())
        self.server.wait_ready()
        self.server.ensure_database()
        upgrade(self.server.url("grape_owner"))
        return self

    def stop(self):
        """Stop it in order."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None

    def copy(self, place: Path):
        """A cold copy of the data folder; the server is stopped for it."""
        self.stop()
        shutil.rmtree(place, ignore_errors=True)
        self._copy(self.server.folder, place)
        self.start()

    def put_back(self, place: Path):
        """The older copy in place of what is there: every commit since is lost."""
        self.stop()
        shutil.rmtree(self.server.folder)
        self._copy(place, self.server.folder)
        self.start()

    def _copy(self, source: Path, target: Path):
        shutil.copytree(source, target)
        account = self.server.account
        for path in (target, *target.rglob("*")):
            shutil.chown(path, account.uid, account.gid)
        target.chmod(0o700)

    @property
    def settings(self):
        """What points a stack at it."""
        return {
            "GRAPE_DATABASE__URL": self.server.url("grape_app"),
            "GRAPE_DATABASE__MIGRATION_URL": self.server.url("grape_owner"),
        }

"""The data folder: its lock, its secrets, and what clients read from it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from service.local.errors import StackError
from service.local.processes import write_atomically


def default_folder() -> Path:
    """`/var/lib/grape` for root, `~/.grape` for everybody else."""
    return Path("/var/lib/grape") if os.geteuid() == 0 else Path.home() / ".grape"


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where everything of one stack lies."""

    path: Path

    @property
    def credentials(self) -> Path:
        """What the command line and the client pick up."""
        return self.path / "credentials.json"

    @property
    def processes(self) -> Path:
        """Who runs."""
        return self.path / "processes.json"

    @property
    def children(self) -> Path:
        """Where workers name their training children."""
        return self.path / "run" / "children"

    def make(self) -> None:
        """Create the folders; others may pass through the top, for the servers' user, and read nothing."""
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True)
                os.chmod(self.path, 0o711)  # noqa: S103 (passed through, not read)
            for name in ("logs", "artifacts", "run"):
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
            self.children.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StackError(
                f"the data folder {self.path} cannot be made or written: {error.strerror}; choose another with --data-dir"
            ) from None

    def lock(self) -> IO[str]:
        """Hold the folder while the file stays open; the kernel lets go when this process ends, however it ends."""
        stream = (self.path / "grape.lock").open("a+")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise StackError(
                f"grape is already running on {self.path} ({holder}); use that one, stop it, or choose another --data-dir"
            ) from None
        self.children_gone()
        return stream

    def sign(self, lock: IO[str], text: str) -> None:
        """Say in the lock file who holds it."""
        lock.truncate(0)
        lock.write(text)
        lock.flush()

    def children_gone(self) -> None:
        """Forget children of a stack that was killed: they died with it."""
        for path in (*self.children.glob("*.json"), *self.children.glob("*.wanted")):
            path.unlink(missing_ok=True)

    def secrets(self) -> dict[str, str]:
        """Random passwords and the deployment's secret, made once."""
        path = self.path / "secrets.json"
        wanted = ("postgres", "grape_owner", "grape_app", "valkey", "secret_key")
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        missing = [name for name in wanted if name not in known]
        if missing:
            known.update({name: secrets.token_hex(32) for name in missing})
            write_atomically(path, json.dumps(known, indent=1))
        return known

    def read_credentials(self) -> dict[str, str]:
        """`{"base_url", "api_key"}`, or nothing yet."""
        try:
            found: dict[str, str] = json.loads(self.credentials.read_text())
        except (OSError, ValueError):
            return {}
        return found

    def write_credentials(self, base_url: str, api_key: str) -> None:
        """Atomically, readable by us alone."""
        write_atomically(self.credentials, json.dumps({"base_url": base_url, "api_key": api_key}, indent=1) + "\n")

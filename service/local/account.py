"""The user that the embedded servers run as: ourselves, or an unprivileged one when we are root."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from service.local.errors import StackError


@dataclass(frozen=True, slots=True)
class Account:
    """A user; `switch` says whether it is another one than ours."""

    uid: int
    gid: int
    name: str
    switch: bool

    def can_execute(self, path: Path) -> bool:
        """Whether this user reaches `path` and may execute it (enter it, if it is a folder)."""
        if not self.switch:
            return os.access(path, os.X_OK)
        return self._test("-x", path)

    def _test(self, flag: str, path: Path) -> bool:
        done = subprocess.run(
            ["test", flag, str(path)], user=self.uid, group=self.gid, extra_groups=[], cwd="/", check=False
        )
        return done.returncode == 0

    def own_folder(self, path: Path) -> Path:
        """Make `path` a private folder of this user."""
        path.mkdir(parents=True, exist_ok=True)
        if self.switch:
            os.chown(path, self.uid, self.gid)
        os.chmod(path, 0o700)
        return path

    def own_file(self, path: Path, text: str) -> Path:
        """Write a private file of this user."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        if self.switch:
            os.chown(path, self.uid, self.gid)
        return path


def server_account() -> Account:
    """`postgres` or `nobody` when we are root (PostgreSQL refuses to run as root), else ourselves."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), pwd.getpwuid(os.geteuid()).pw_name, switch=False)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, name, switch=True)
    raise StackError("PostgreSQL does not run as root and there is no user 'postgres' or 'nobody'; run as another user")


def require_reachable(folder: Path, account: Account) -> None:
    """One clear error for a data folder that the servers' user cannot enter."""
    if account.can_execute(folder):
        return
    closed = next((p for p in [*reversed(folder.parents), folder] if not account.can_execute(p)), folder)
    raise StackError(
        f"the data folder {folder} cannot be reached by the user '{account.name}', which PostgreSQL runs as: "
        f"{closed} is closed to it. Choose another folder with --data-dir, or run `chmod o+x {closed}`"
    )

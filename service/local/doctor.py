"""`grape doctor`: is everything there that this deployment needs? Looks, changes nothing, and says what to do.

With settings in the environment (a container of the compose file) it asks database, broker and store itself; beside a data folder
of `grape up` it asks the processes and the API of that folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import httpx
from rich.console import Console
from sqlalchemy import create_engine, text

from service.config import Settings, psycopg_url
from service.db.migrate import head
from service.local.folder import DataFolder, default_folder
from service.queue import Bell
from service.storage import open_store

LITTLE_DISK_GIB = 5.0
CLOCK_S = 5.0
"""Leases compare the database's clock with itself; a worker's own clock only dates its logs, so a shift is a warning."""

SERVER = ("fastapi", "SQLAlchemy", "psycopg", "alembic", "celery", "redis")
TRAIN = ("torch", "transformers", "peft", "safetensors")

GPU = """
import json, torch
found = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
print(json.dumps([[p.name, p.total_memory / 2**30] for p in found]))
"""

State = Literal["ok", "warning", "failed"]
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do where something is not ok."""

    check: str
    state: State
    found: str
    advice: str = ""


def examine(folder: DataFolder) -> Iterator[Finding]:
    """Every check, in the order in which one would look."""
    yield Finding("python", "ok", f"{sys.version.split()[0]}, {os.cpu_count()} cores")
    yield _packages("server packages", SERVER, "server")
    yield _packages("training packages", TRAIN, "train")
    yield _gpu()
    yield _sandbox()
    settings = Settings()
    if "database" in settings.model_fields_set:
        yield from _deployment(settings)
    else:
        yield from _beside(folder)


def _packages(name: str, wanted: tuple[str, ...], extra: str) -> Finding:
    have, missing = [], []
    for package in wanted:
        try:
            have.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if not missing:
        return Finding(name, "ok", ", ".join(have))
    advice = f"install them: pip install 'grape-align[{extra}]'"
    state: State = "failed" if extra == "server" else "warning"
    return Finding(name, state, f"not installed: {', '.join(missing)}", advice)


def _gpu() -> Finding:
    """Asked in a process of its own: torch is large, and a broken driver may take the process with it."""
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", "warning", "torch is not installed, so this machine trains nothing")
    try:
        said = subprocess.run([sys.executable, "-c", GPU], check=False, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return Finding("gpu", "failed", "torch did not answer within 120 s", "look at `nvidia-smi`")
    if said.returncode != 0:
        last = (said.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("gpu", "failed", f"torch cannot be used: {last}", "reinstall torch for this machine's driver")
    cards = json.loads(said.stdout)
    if cards:
        return Finding("gpu", "ok", ", ".join(f"{name}, {memory:.0f} GiB" for name, memory in cards))
    if shutil.which("nvidia-smi"):
        return Finding("gpu", "warning", "there is a driver, but torch sees no card", "install a CUDA build of torch")
    return Finding("gpu", "ok", "none: jobs train on the CPU")


def _sandbox() -> Finding:
    """Whether code of completions can be run safely; its own self-check says so."""
    said = subprocess.run(
        [sys.executable, "-m", "workers.sandbox.check"], check=False, capture_output=True, text=True, timeout=60
    )
    line = (said.stdout.strip() or said.stderr.strip() or "no answer").splitlines()[-1]
    if said.returncode == 0:
        return Finding("sandbox", "ok", line)
    if "No module named" in line:
        return Finding("sandbox", "warning", "this version runs no code of completions")
    advice = "criteria of the types unit_tests and python give sandbox_unavailable until this is mended"
    return Finding("sandbox", "warning", line, advice)


def _deployment(settings: Settings) -> Iterator[Finding]:
    """Database, broker and store of the environment's settings."""
    yield _try("database", lambda: _database(settings), "start Postgres, and look at GRAPE_DATABASE__URL")
    reachable = Bell(settings.broker).reachable()
    yield Finding(
        "broker", "ok" if reachable else "warning", "answers" if reachable else "does not answer",
        "" if reachable else "start it, and look at GRAPE_BROKER__URL; until then work starts by polling",
    )  # fmt: skip
    yield _try("storage", lambda: _store(settings), "look at GRAPE_STORAGE__URL")
    short = len(settings.secret_key.get_secret_value()) < 32
    yield Finding(
        "secret key", "failed" if short else "ok", "missing or short" if short else "set",
        "set GRAPE_SECRET_KEY to the output of python -c 'import secrets; print(secrets.token_hex(32))'" if short else "",
    )  # fmt: skip


def _try(check: str, look: Callable[[], Finding], advice: str) -> Finding:
    try:
        return look()
    except Exception as error:
        reason = (str(getattr(error, "orig", error)).strip() or type(error).__name__).splitlines()[0]
        return Finding(check, "failed", reason, advice)


def _database(settings: Settings) -> Finding:
    engine = create_engine(psycopg_url(settings.database.url))
    try:
        with engine.connect() as connection:
            server = connection.scalar(text("SHOW server_version"))
            revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
            ahead = time.time() - float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0)
    finally:
        engine.dispose()
    if revision != head():
        advice = "run the migrations: alembic upgrade head (compose: the service `migrate`)"
        return Finding("database", "failed", f"is at revision {revision}, this code needs {head()}", advice)
    if abs(ahead) > CLOCK_S:
        advice = "set the clocks by NTP"
        return Finding("database", "warning", f"its clock and this machine's differ by {ahead:.0f} s", advice)
    return Finding("database", "ok", f"PostgreSQL {server}, revision {revision}")


def _store(settings: Settings) -> Finding:
    store = open_store(settings.storage)
    if (problem := store.problem()) is not None:
        advice = (
            "look at GRAPE_STORAGE__URL, __OPTIONS and __CACHE_DIR" if store.remote else "give its folder to this user"
        )
        return Finding("storage", "failed", problem, advice)
    return _disk("storage", store.root)


def _disk(check: str, path: Path) -> Finding:
    free = shutil.disk_usage(path).free / 2**30
    if free < LITTLE_DISK_GIB:
        advice = "a checkpoint needs a model's size and twice that for the optimizer: make room"
        return Finding(check, "warning", f"{path}: only {free:.1f} GiB are free", advice)
    return Finding(check, "ok", f"{path}: writable, {free:.0f} GiB free")


def _beside(folder: DataFolder) -> Iterator[Finding]:
    """The data folder of a `grape up`, its processes and its API."""
    path = folder.path
    if not path.exists():
        advice = "start it: grape up (or name its folder with --data-dir)"
        yield Finding("data folder", "failed", f"there is no {path}", advice)
        return
    if not os.access(path, os.W_OK):
        yield Finding("data folder", "failed", f"{path} cannot be written", "run as the user that owns it")
        return
    yield _disk("data folder", path)
    yield _processes(folder)
    yield from _api(folder)


def _processes(folder: DataFolder) -> Finding:
    try:
        listed = json.loads(folder.processes.read_text())
    except (OSError, ValueError):
        return Finding(
            "processes", "failed", "nothing runs on this folder", f"start it: grape up --data-dir {folder.path}"
        )
    dead = [entry["role"] for entry in listed if not _alive(int(entry["pid"]))]
    if dead:
        logs = folder.path / "logs"
        return Finding(
            "processes", "failed", f"not alive: {', '.join(dead)}", f"look into {logs}, start grape up again"
        )
    return Finding("processes", "ok", ", ".join(f"{entry['role']} {entry['pid']}" for entry in listed))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # somebody else's, so it lives
        return True
    except ProcessLookupError:
        return False
    return True


def _api(folder: DataFolder) -> Iterator[Finding]:
    known = folder.read_credentials()
    if not known:
        yield Finding("api", "failed", "there are no credentials yet", "wait until grape up says that it is ready")
        return
    try:
        answer = httpx.get(f"{known['base_url']}/readyz", timeout=10, trust_env=False)
        checks = answer.json()["checks"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        reason = str(error) or type(error).__name__
        yield Finding("api", "failed", f"{known['base_url']}: {reason}", "is grape up running? look into logs/api.log")
        return
    shift = time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp()
    if abs(shift) > CLOCK_S:
        yield Finding("api", "warning", f"its clock and this one differ by {shift:.0f} s", "set the clocks by NTP")
    else:
        yield Finding(
            "api", "ok" if answer.status_code == 200 else "failed", f"{known['base_url']} {answer.json()['status']}"
        )
    for name, said in checks.items():
        state: State = "ok" if said == "ok" else "warning" if name == "broker" else "failed"
        yield Finding(name, state, said, "" if said == "ok" else "look into the logs of the data folder")


def main() -> int:
    """Print the report; 0 if nothing has failed, else 1."""
    parser = argparse.ArgumentParser(prog="grape doctor", description="Check this machine and its deployment.")
    parser.add_argument("--data-dir", type=Path, default=default_folder(), help="the data folder of `grape up`")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args()
    findings = []
    console = Console()
    for finding in examine(DataFolder(options.data_dir.expanduser().absolute())):
        findings.append(finding)
        if not options.json:
            console.print(finding.state.ljust(9), style=_STYLES[finding.state], end="")
            console.print(f"{finding.check:<18} {finding.found}", highlight=False, markup=False, soft_wrap=True)
            if finding.advice:
                console.print(f"{'':<27} → {finding.advice}", highlight=False, markup=False, soft_wrap=True)
    if options.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    return int(any(finding.state == "failed" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())

"""The embedded PostgreSQL: one cluster in the data folder, made whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from service.local.account import Account
from service.local.errors import StackError
from service.local.processes import Program

SUPERUSER = "postgres"
ROLES = ("grape_owner", "grape_app")


@dataclass(frozen=True, slots=True)
class Postgres:
    """A cluster at `folder`, served on loopback at `port`; `passwords` by role."""

    install: Path
    folder: Path
    port: int
    account: Account
    passwords: dict[str, str]

    def ensure_cluster(self) -> None:
        """Make the cluster if there is none. It is made beside its place and renamed, so a half-made one never counts."""
        if (self.folder / "PG_VERSION").exists():
            self._check_version()
            self._clear_stale_pid()
            return
        draft = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.account.own_folder(draft)
        password_file = self.account.own_file(draft / "password", self.passwords[SUPERUSER])
        command = [
            str(self.install / "bin" / "initdb"), "--pgdata", str(draft / "data"), "--username", SUPERUSER,
            "--pwfile", str(password_file), "--auth", "scram-sha-256", "--encoding", "UTF8",
            "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **self._as_account())
        if done.returncode != 0:
            raise StackError(f"initdb failed: {(done.stderr or done.stdout).strip()}")
        password_file.unlink()
        os.rename(draft / "data", self.folder)
        shutil.rmtree(draft, ignore_errors=True)

    def _as_account(self) -> dict[str, Any]:
        if not self.account.switch:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}

    def _check_version(self) -> None:
        mine = subprocess.run(
            [str(self.install / "bin" / "postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout
        major = mine.split()[2].split(".")[0]
        theirs = (self.folder / "PG_VERSION").read_text().strip()
        if theirs != major:
            raise StackError(
                f"the data folder holds a PostgreSQL {theirs} cluster and this program is PostgreSQL {major}; "
                "dump it with the old version (pg_dump), or start with another --data-dir"
            )

    def _clear_stale_pid(self) -> None:
        """Take away a pid file that a killed server left: we hold the folder's lock, so its owner is dead or an orphan."""
        pid_file = self.folder / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        for sig in (signal.SIGQUIT, signal.SIGKILL):
            deadline = time.monotonic() + 5
            while _serves(pid, self.folder) and time.monotonic() < deadline:
                os.kill(pid, sig)
                time.sleep(0.1)
        pid_file.unlink(missing_ok=True)

    def program(self) -> Program:
        """How the supervisor runs it. SIGQUIT (immediate shutdown) if the supervisor dies, SIGINT (fast) in order."""
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": str(self.port),
            "max_connections": "200",
            "shared_buffers": "128MB",
            "log_min_messages": "warning",
            "timezone": "UTC",
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return Program(
            role="postgres",
            argv=[str(self.install / "bin" / "postgres"), "-D", str(self.folder), *flags],
            account=self.account,
            death_signal=signal.SIGQUIT,
            stop_signal=signal.SIGINT,
            echo=False,
        )

    def url(self, role: str, database: str = "grape") -> str:
        """The address for a role, password included."""
        return f"postgresql://{role}:{quote(self.passwords[role])}@127.0.0.1:{self.port}/{database}"

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Until it answers queries; recovery after a crash is part of that."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                psycopg.connect(self.url(SUPERUSER, "postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise StackError(f"PostgreSQL did not answer within {timeout_s:.0f} s: {error}") from None
                time.sleep(0.05)

    def ensure_database(self) -> None:
        """The two roles with today's passwords, and the database that the owner owns."""
        with psycopg.connect(self.url(SUPERUSER, "postgres"), autocommit=True) as connection:
            for role in ROLES:
                known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
                connection.execute(
                    sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD {}").format(
                        sql.SQL("ALTER" if known else "CREATE"), sql.Identifier(role), sql.Literal(self.passwords[role])
                    )
                )
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'grape'").fetchone():
                connection.execute("CREATE DATABASE grape OWNER grape_owner")
        with psycopg.connect(self.url(SUPERUSER), autocommit=True) as connection:
            connection.execute("ALTER SCHEMA public OWNER TO grape_owner")


def _serves(pid: int, folder: Path) -> bool:
    """Whether process `pid` is a PostgreSQL server of `folder` (a pid may have been given to somebody else)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"postgres" in command[0] and str(folder).encode() in command

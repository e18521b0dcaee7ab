"""The whole stack on one machine, from an empty folder to a ready API, and back in order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
from sqlalchemy.exc import OperationalError

from service.config import LOCAL_WANTED, DatabaseSettings
from service.db import migrate
from service.db.engine import Database
from service.db.queries import projects as queries
from service.local.account import require_reachable, server_account
from service.local.binaries import postgres_folder, reachable, valkey_server
from service.local.errors import StackError
from service.local.folder import DataFolder
from service.local.postgres import Postgres
from service.local.processes import Program, Supervisor
from service.local.valkey import Valkey
from service.projects.commands import admin_key
from service.security import Vault

WORKERS = ("training", "grading", "beat")
ON_DEMAND = "grading_local"
"""A worker that starts when the first cells wait for a model of this machine: most rubrics have none."""


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """A port that can be bound now: `port` itself, or any for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"port {port} on {host} is taken or not allowed ({error.strerror}); choose another with --port, 0 for any"
            ) from None
        bound: int = probe.getsockname()[1]
        return bound


@dataclass(slots=True)
class Stack:
    """What `grape up` runs. `start`, then `wait` until a signal, then `stop`."""

    folder: DataFolder
    host: str = "127.0.0.1"
    port: int = 8000
    quiet: bool = False
    base_url: str = ""
    _supervisor: Supervisor | None = None
    _env: dict[str, str] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def say(self, line: str) -> None:
        """One line for the person who watches. If nobody does any more (`| head`, a closed terminal), the stack goes on."""
        if self.quiet:
            return
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError:
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has to go somewhere

    def start(self) -> None:
        """Everything, in order; returns when `/readyz` has answered and the credentials are written."""
        self.folder.make()
        lock = self._held.enter_context(self.folder.lock())
        self.port = free_port(self.host, self.port)
        self.base_url = f"http://{self.host}:{self.port}"
        self.folder.sign(lock, f"process {os.getpid()} at {self.base_url}")
        path = self.folder.path
        self._supervisor = Supervisor(self.folder.processes, self.folder.children, path / "logs", self.say)
        secrets = self.folder.secrets()
        self._env = self._settings(secrets)
        database_url = self._start_postgres(secrets)
        self._start_valkey(secrets)
        try:
            migrate.upgrade(self._env.get("GRAPE_DATABASE__MIGRATION_URL", database_url))
        except OperationalError as error:
            raise StackError(f"the database does not answer: {error.orig}") from None
        api_key = self._first_key(database_url, secrets)
        self._supervisor.start(self._api())
        for role in WORKERS:
            self._supervisor.start(self._worker(role))
        if self._wait_ready():
            self.folder.write_credentials(self.base_url, api_key)
            self._announce()

    def _settings(self, secrets: dict[str, str]) -> dict[str, str]:
        """The children's environment: ours, and the settings that it leaves open."""
        path = self.folder.path
        defaults = {
            "GRAPE_STORAGE__URL": (path / "artifacts").as_uri(),
            "GRAPE_STORAGE__CACHE_DIR": str(path / "cache"),
            "GRAPE_MODELS__ROOTS": f"{path},{Path.cwd()}",
            "GRAPE_EGRESS__ALLOW": "loopback",
            "GRAPE_SECRET_KEY": secrets["secret_key"],
            "GRAPE_JOBS__RUN_DIR": str(self.folder.children),
            "PYTHONUNBUFFERED": "1",
        }
        return {**defaults, **os.environ}

    def _start_postgres(self, secrets: dict[str, str]) -> str:
        own = self._env.get("GRAPE_DATABASE__URL")
        if own:
            self.say("    stack | using the database of GRAPE_DATABASE__URL")
            return own
        account = server_account()
        require_reachable(self.folder.path, account)
        install = reachable(postgres_folder(), account, self.folder.path / "bin")
        server = Postgres(install, self.folder.path / "postgres", free_port(), account, secrets)
        server.ensure_cluster()
        self._start_program(server.program())
        server.wait_ready()
        server.ensure_database()
        self._env["GRAPE_DATABASE__URL"] = server.url("grape_app")
        self._env["GRAPE_DATABASE__MIGRATION_URL"] = server.url("grape_owner")
        return server.url("grape_app")

    def _start_valkey(self, secrets: dict[str, str]) -> None:
        if self._env.get("GRAPE_BROKER__URL"):
            self.say("    stack | using the broker of GRAPE_BROKER__URL")
            return
        account = server_account()
        require_reachable(self.folder.path, account)
        program = reachable(valkey_server(), account, self.folder.path / "bin")
        server = Valkey(program, self.folder.path / "valkey", free_port(), account, secrets["valkey"])
        self._start_program(server.program())
        server.wait_ready()
        self._env["GRAPE_BROKER__URL"] = server.url

    def _start_program(self, program: Program) -> None:
        assert self._supervisor is not None
        self._supervisor.start(program)

    def _first_key(self, database_url: str, secrets: dict[str, str]) -> str:
        """The key in credentials.json if the database knows it, else a new one; the first start makes the project too."""
        vault = Vault(self._env.get("GRAPE_SECRET_KEY", secrets["secret_key"]))
        known = self.folder.read_credentials().get("api_key")
        database = Database(DatabaseSettings(url=database_url), "grape-up")
        try:
            with database.transaction() as session:
                if known and session.scalar(queries.key_by_hash(vault.hash_key(known))) is not None:
                    return known
                return admin_key(session, vault, "grape up")
        finally:
            database.dispose()

    def _api(self) -> Program:
        argv = [
            sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app", "--host", self.host,
            "--port", str(self.port), "--log-level", "warning", "--timeout-graceful-shutdown", "5",
        ]  # fmt: skip
        return Program("api", argv, self._env, stop_timeout_s=15)

    def _worker(self, role: str) -> Program:
        celery = [sys.executable, "-m", "celery", "--quiet", "--app", "workers.app"]
        if role == "beat":
            schedule = str(self.folder.path / "run" / "beat")
            argv = [*celery, "beat", "--schedule", schedule, "--pidfile", "", "--loglevel", "WARNING"]
            return Program(role, argv, self._env, stop_timeout_s=10)
        queues = "grading,transfer,maintenance" if role == "grading" else role
        argv = [
            *celery, "worker", "--queues", queues, "--pool", "threads", "--concurrency", "1", "--hostname", f"{role}@%h",
            "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO",
        ]  # fmt: skip
        return Program(role, argv, self._env, stop_timeout_s=60)

    def _wait_ready(self, timeout_s: float = 90) -> bool:
        """Until `/readyz` answers; false if somebody has asked to stop before that."""
        assert self._supervisor is not None
        deadline = time.monotonic() + timeout_s
        last = "no answer yet"
        while not self._stop.is_set():
            self._supervisor.tick()
            try:
                answer = httpx.get(f"{self.base_url}/readyz", timeout=5, trust_env=False)
                if answer.status_code == 200:
                    return True
                last = answer.text
            except httpx.HTTPError as error:
                last = str(error) or type(error).__name__
            if time.monotonic() > deadline:
                raise StackError(f"the API did not become ready within {timeout_s:.0f} s: {last}")
            time.sleep(0.1)
        return False

    def _announce(self) -> None:
        self.say("")
        self.say(f"GRAPE is ready at {self.base_url}  (API: {self.base_url}/docs)")
        self.say(f"  data folder   {self.folder.path}")
        self.say(f"  credentials   {self.folder.credentials}")
        self.say(f"  processes     {', '.join(self._roles())}")
        self.say("  stop it with Ctrl-C")
        self.say("")

    def _roles(self) -> list[str]:
        assert self._supervisor is not None
        roles = ("postgres", "valkey", "api", *WORKERS)
        return [
            f"{role} {'runs' if self._supervisor.alive(role) else 'starts'}"
            for role in roles
            if self._supervisor.known(role)
        ]

    def on_signal(self, signum: int, _frame: FrameType | None = None) -> None:
        """Ask `wait` to return."""
        self.say(f"    stack | {signal.Signals(signum).name}: stopping everything in order")
        self._stop.set()

    def wait(self) -> None:
        """Keep everything running until a signal."""
        assert self._supervisor is not None
        while not self._stop.wait(0.1):
            if (self.folder.children / LOCAL_WANTED).exists() and not self._supervisor.known(ON_DEMAND):
                self._supervisor.start(self._worker(ON_DEMAND))
            self._supervisor.tick()

    def stop(self) -> None:
        """Stop the programs and let the folder go."""
        if self._supervisor is not None:
            self._supervisor.stop()
        self._held.close()

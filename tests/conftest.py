"""Servers that the tests start themselves: a Postgres cluster for the database tests, and the whole stack as `grape up` runs it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from pathlib import Path

import psycopg
import pytest

from service.config import DatabaseSettings
from service.db.engine import Database
from service.db.migrate import upgrade
from service.local.account import server_account
from service.local.binaries import postgres_folder, reachable
from service.local.postgres import SUPERUSER, Postgres
from service.local.processes import Supervisor
from service.local.stack import free_port
from tests.support.judge import FakeJudge
from tests.support.stack import RunningStack

os.environ.setdefault("HF_HUB_OFFLINE", "1")

_numbers = itertools.count()


@pytest.fixture(scope="session")
def open_folder():
    """A folder that the servers' unprivileged user can enter (pytest's own are closed to it)."""
    path = Path(tempfile.mkdtemp(prefix="grape-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(open_folder):
    """A real Postgres with a migrated database `grape`, which others are copied from."""
    account = server_account()
    install = reachable(postgres_folder(), account, open_folder / "bin")
    passwords = dict.fromkeys((SUPERUSER, "grape_owner", "grape_app"), "secret")
    server = Postgres(install, open_folder / "postgres", free_port(), account, passwords)
    server.ensure_cluster()
    (open_folder / "children").mkdir()
    supervisor = Supervisor(
        open_folder / "processes.json", open_folder / "children", open_folder / "logs", lambda line: None
    )
    supervisor.start(server.program())
    try:
        server.wait_ready()
        server.ensure_database()
        upgrade(server.url("grape_owner"))
        yield server
    finally:
        supervisor.stop()


@pytest.fixture
def database_name(cluster):
    """A fresh copy of the migrated database."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(cluster.url(SUPERUSER, "postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE grape OWNER grape_owner")
    yield name
    with psycopg.connect(cluster.url(SUPERUSER, "postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(cluster, database_name):
    """A worker's view of that database, as the application's role."""
    found = Database(DatabaseSettings(url=cluster.url("grape_app", database_name)))
    yield found
    found.dispose()


@pytest.fixture(scope="session")
def stack(open_folder):
    """The whole stack, as processes; leases are short so that deaths are noticed soon."""
    # Most jobs of the tests are shorter than the imports of the child that runs the next one.
    running = RunningStack(open_folder / "stack", {"GRAPE_JOBS__WAITING_CHILDREN": "2"})
    running.start()
    yield running
    running.stop(signal.SIGTERM)


@pytest.fixture
def api(stack):
    """A client of the stack with an admin key."""
    with stack.client() as client:
        yield client


@pytest.fixture
def judge():
    """A judge's endpoint on loopback whose behaviour a test decides."""
    with FakeJudge() as fake:
        yield fake

"""Row 28: the schema moves on while an older worker works, over a million rows, and nobody waits long for it."""

import threading
import time

import psycopg
import pytest

from service.db.migrate import downgrade, upgrade
from tests.db.test_transitions import events, project, put, submit
from workers.runs.held import HeldJob

__all__ = ["project"]
pytestmark = [pytest.mark.crash, pytest.mark.heavy]

BEFORE = "0003"
ROWS = 1_000_000
LOCK_S = 2.0
"""How long a migration may make others wait behind it while it waits itself (reference/service.md §3.4)."""

CELLS = """
INSERT INTO cells (completion_id, criterion, project_id, job_id, status, score, votes, grader, attempts, latency_ms, tokens_in,
                   tokens_out, audit)
SELECT 'cmp_' || k, 'has', %s, %s, 'ok', 0.5, 1, 'contains', 1, 0, 0, 0, false FROM generate_series(1, %s) k
"""


def revision_of(url):
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def test_row_28_an_old_worker_works_on_while_the_schema_moves(cluster, database, database_name, project):
    """The old worker is a stand-in: today's statements on its job, on the older schema, under a fence that was only counted."""
    owner, app = cluster.url("grape_owner", database_name), cluster.url("grape_app", database_name)
    job_id = submit(database, project)
    put(database, job_id, "running", fence=1)
    newest = revision_of(owner)
    downgrade(owner, BEFORE)
    with psycopg.connect(owner) as connection:
        connection.execute(CELLS, [project, job_id, ROWS])
    worker = HeldJob(database, job_id, 1)
    waits, told = [], 0
    migration = threading.Thread(target=upgrade, args=(owner,))
    with psycopg.connect(app) as reader:
        reader.execute(
            "SELECT FROM cells LIMIT 1"
        )  # in a transaction that stays open: the migration cannot have the table
        migration.start()
        until = time.monotonic() + 6
        while migration.is_alive():
            if time.monotonic() > until:
                reader.rollback()
            asked = time.monotonic()
            with psycopg.connect(app) as other:
                other.execute("SELECT FROM cells LIMIT 1")
            worker.event("note", {"k": told})
            told += 1
            waits.append(time.monotonic() - asked)
            time.sleep(0.02)
    migration.join()
    assert revision_of(owner) == newest
    assert max(waits) > LOCK_S / 2  # it did wait for the reader, with the others behind it
    assert max(waits) < 3 * LOCK_S
    worker.event("note", {"k": told})
    downgrade(owner, BEFORE)
    upgrade(owner)
    rows = [e for e in events(database, job_id) if e.type == "note"]
    assert [e.data["k"] for e in rows] == list(range(told + 1))
    with psycopg.connect(app) as connection:
        assert connection.execute("SELECT count(*) FROM cells").fetchone() == (ROWS,)

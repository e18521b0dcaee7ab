"""Row 30: what comes faster than it can be stored is bounded in memory, and state events are kept."""

import resource

import pytest
from sqlalchemy import select

from service.db.tables import Job, JobEvent, JobLog
from tests.support.stack import wait_for
from tests.workers.test_supervise import away, claim
from tests.workers.test_watchdog import watched
from workers.runs.held import HeldJob
from workers.runs.writer import LIMIT, RecordWriter

__all__ = ["claim"]
pytestmark = [pytest.mark.crash, pytest.mark.heavy]

LINES = 800_000
FLOODS = f"""
import json, os, sys, time
said = os.fdopen(int(sys.argv[2]), "wb", buffering=0)
said.write(b'{{"type": "ready"}}\\n')
sys.stdin.readline()
for k in range({LINES}): print("x" * 100)
sys.stdout.flush()
os.replace(sys.argv[1] + ".draft", sys.argv[1])
while not os.path.exists(sys.argv[1] + ".go"): time.sleep(0.05)
said.write(b'{{"type": "ended", "outcome": "failed", "code": "data_invalid", "message": "m"}}\\n')
sys.stdin.readline()
"""


def grown_mb(before):
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_row_30_a_log_flood_while_the_database_is_away_fills_no_memory(
    cluster, database, database_name, claim, tmp_path
):
    """80 MB of lines, and nobody can take them: the supervisor keeps 4 MB, says what it dropped, and the state event comes."""
    script, done = tmp_path / "child.py", tmp_path / "done"
    script.write_text(FLOODS)
    (tmp_path / "done.draft").touch()
    child, thread = watched(database, claim, script, arguments=[str(done)])
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with away(cluster, database_name):
            wait_for(done.exists, 60, "everything is printed")
        assert grown_mb(before) < 40
        (tmp_path / "done.go").touch()
        thread.join(20)
        assert not thread.is_alive()
    finally:
        child.kill()
    with database.transaction() as session:
        assert session.get_one(Job, claim.job_id).error["code"] == "data_invalid"
        kinds = list(
            session.scalars(select(JobEvent.type).where(JobEvent.job_id == claim.job_id).order_by(JobEvent.seq))
        )
        log = "".join(session.scalars(select(JobLog.text).where(JobLog.job_id == claim.job_id).order_by(JobLog.seq)))
    assert kinds == ["job.queued", "job.starting", "job.failed"]
    assert "lines were printed faster than they could be kept" in log


def test_row_30_ten_thousand_events_wait_in_a_bounded_queue_and_all_arrive(database, claim):
    """Metrics are not thinned out: who trains waits for the database, at most so many records ahead of it."""
    writer = RecordWriter(HeldJob(database, claim.job_id, claim.fence), {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most = 0
    for k in range(10_000):
        writer.metrics(k + 1, {"loss": float(k)})
        if k % 50 == 0:
            writer.event("note", {"k": k})
        most = max(most, writer._queue.qsize())
    writer.flush()
    writer.close()
    assert most <= LIMIT
    assert grown_mb(before) < 60
    with database.transaction() as session:
        rows = session.execute(select(JobEvent.seq, JobEvent.data).where(JobEvent.job_id == claim.job_id)).all()
    told = [row.data["k"] for row in sorted(rows, key=lambda row: row.seq) if "k" in row.data]
    assert told == list(range(0, 10_000, 50))
    assert sorted(row.seq for row in rows) == list(range(1, len(rows) + 1))

"""The SQL of the state machine against the pure table, and under concurrency, on a real Postgres."""

import random
import threading
from collections import Counter
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError

from service.config import JobsSettings, LimitsSettings
from service.db.queries import jobs as queries
from service.db.tables import Attempt, Job, JobEvent, Outbox, Project
from service.domain.ids import new_id
from service.domain.job_state import HELD, STATES, TERMINAL, TRANSITIONS
from workers.runs.claims import Claims
from workers.runs.held import HeldJob, StaleFence


@pytest.fixture
def project(database):
    with database.transaction() as session:
        session.add(Project(id="prj_1", name="p"))
    return "prj_1"


def submit(database, project, **values):
    row = {
        "id": new_id("job"), "project_id": project, "name": "j", "algorithm": "sft", "spec": {"policy": {"model": "mdl_1"}},
        "resolved": {}, "metadata": {}, "priority": 0, "processes": 1, "progress_steps": 3, **values,
    }  # fmt: skip
    with database.transaction() as session:
        return session.execute(queries.submit(row)).one().id


def put(database, job_id, state, fence=1):
    """Bring a job into a state by hand, with an attempt if the state has one."""
    with database.transaction() as session:
        values = {"status": state, "fence": fence}
        if state in TERMINAL:
            values["finished_at"] = datetime.now(UTC)
        if state == "failed":
            values["error"] = {"code": "internal", "message": "m"}
        session.execute(update(Job).where(Job.id == job_id).values(**values))
        if state in HELD:
            session.add(
                Attempt(
                    job_id=job_id, fence=fence, project_id="prj_1", attempt=1, worker_id="w", host="h",
                    lease_expires_at=datetime.now(UTC),
                )
            )  # fmt: skip


def row(database, job_id):
    with database.transaction() as session:
        return session.get_one(Job, job_id)


def events(database, job_id):
    with database.transaction() as session:
        return session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)).all()


@pytest.mark.parametrize("event", list(TRANSITIONS))
def test_every_move_is_the_tables_move(database, project, event):
    for state in STATES:
        job_id = submit(database, project)
        put(database, job_id, state)
        values = {"error": {"code": "internal", "message": "m"}} if event == "fail" else {}
        with database.transaction() as session:
            moved = session.execute(queries.transition(event, job_id, values=values)).first()
        expected = TRANSITIONS[event].get(state)
        after = row(database, job_id)
        assert (moved is not None) == (expected is not None), (event, state)
        assert after.status == (expected or state)
        log = events(database, job_id)
        assert [e.seq for e in log] == list(range(1, after.event_seq + 1))
        if expected:
            assert (log[-1].type, log[-1].data["from"]) == (f"job.{expected}", state)
            assert (after.finished_at is not None) == (expected in TERMINAL)
        with database.transaction() as session:
            attempt = session.get(Attempt, (job_id, 1))
            waiting = session.scalars(select(Outbox).where(Outbox.subject_id == job_id)).all()
        if attempt is not None:
            assert (attempt.ended_at is not None) == (expected is not None and expected not in HELD)
        if expected == "queued":
            assert waiting
        if state == "queued" and expected:
            assert not waiting


def test_terminal_states_are_write_once_in_the_database_itself(database, project):
    job_id = submit(database, project)
    put(database, job_id, "succeeded")
    for values in ({"status": "queued", "finished_at": None}, {"result": {"model": "x"}}, {"fence": 9}):
        with pytest.raises(IntegrityError, match="terminal state never changes"), database.transaction() as session:
            session.execute(update(Job).where(Job.id == job_id).values(**values))


def test_fences_never_go_back(database, project):
    job_id = submit(database, project)
    put(database, job_id, "running", fence=5)
    with pytest.raises(IntegrityError, match="never go back"), database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(fence=4))


def test_claim_takes_the_best_fitting_job_once(database, project):
    low = submit(database, project)
    big = submit(database, project, priority=9, processes=4)
    high = submit(database, project, priority=5)
    claims = Claims(database, JobsSettings(processes=3), LimitsSettings())
    first, second = claims.claim(), claims.claim()
    assert [first.job_id, second.job_id] == [high, low]
    assert claims.claim() is None  # the big one does not fit
    assert first.attempt == 1
    with database.transaction() as session:
        told = "waits for a training worker that gives a job 4 processes; one that gives 3 has passed it over"
        assert session.get_one(Job, big).status_reason.startswith(told)
    with database.transaction() as session:
        attempt = session.get_one(Attempt, (high, first.fence))
        left = (attempt.lease_expires_at - attempt.started_at).total_seconds()
        assert left == pytest.approx(60, abs=0.5)
        assert session.scalars(select(Outbox.subject_id)).all() == [big]
    large = Claims(database, JobsSettings(processes=4), LimitsSettings()).claim()
    assert (large.job_id, large.processes) == (big, 4)
    with database.transaction() as session:
        assert session.get_one(Job, big).status_reason is None


def test_many_workers_claim_each_job_once(database, project):
    jobs = [submit(database, project) for _ in range(40)]
    taken, lock = [], threading.Lock()

    def worker():
        claims = Claims(database, JobsSettings(), LimitsSettings())
        while claim := claims.claim():
            with lock:
                taken.append(claim.job_id)

    threads = [threading.Thread(target=worker) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == Counter(jobs)


def test_concurrent_jobs_of_a_project_are_limited(database, project):
    for _ in range(3):
        submit(database, project)
    claims = Claims(database, JobsSettings(), LimitsSettings(concurrent_jobs=2))
    assert claims.claim()
    assert claims.claim()
    assert claims.claim() is None


def test_cancel_and_success_race_to_exactly_one_terminal_state(database, project):
    rng = random.Random(0)
    outcomes = Counter()
    for _ in range(60):
        job_id = submit(database, project)
        put(database, job_id, "finalizing")
        won = []

        def move(event, fence, job_id=job_id, won=won):
            with database.transaction() as session:
                session.execute(text("SELECT pg_sleep(:s)"), {"s": rng.random() * 0.004})
                if session.execute(queries.transition(event, job_id, fence=fence)).first():
                    won.append(event)

        threads = [threading.Thread(target=move, args=args) for args in (("cancel", None), ("succeed", 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        after = row(database, job_id)
        assert after.status == {"cancel": "cancelled", "succeed": "succeeded"}[won[0]]
        assert [e.seq for e in events(database, job_id)] == list(range(1, after.event_seq + 1))
        outcomes[won[0]] += 1
    assert len(outcomes) == 2, "the race went one way only; it proves nothing"


def test_events_of_many_writers_are_gapless(database, project):
    job_id = submit(database, project)
    put(database, job_id, "running")

    def write(n):
        held = HeldJob(database, job_id, 1)
        for k in range(20):
            held.event("note", {"writer": n, "k": k})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = events(database, job_id)
    assert [e.seq for e in log] == list(range(1, 102))
    for n in range(5):
        assert [e.data["k"] for e in log if e.data.get("writer") == n] == list(range(20))


def test_a_stale_fence_writes_nothing(database, project):
    job_id = submit(database, project)
    put(database, job_id, "running", fence=2)
    zombie = HeldJob(database, job_id, 1)
    metric = {"name": "loss", "step": 1, "value": 1.0}
    for write in (
        lambda: zombie.event("note", {}),
        lambda: zombie.records(step=3, metrics=[metric], completions=[], cells=[]),
        lambda: zombie.register_checkpoint({"step": 1, "kind": "full", "location": "x", "files": [], "metrics": {}}),
        lambda: zombie.begin(0, {}),
        lambda: zombie.reason("x"),
    ):
        with pytest.raises(StaleFence):
            write()
    with database.transaction() as session:
        for table in ("job_metrics", "checkpoints"):
            assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0
    assert row(database, job_id).progress_step == 0


def test_a_cancelled_job_writes_nothing_afterwards(database, project):
    job_id = submit(database, project)
    put(database, job_id, "running")
    with database.transaction() as session:
        session.execute(queries.transition("cancel", job_id))
    with pytest.raises(StaleFence):
        HeldJob(database, job_id, 1).event("note", {})
    assert row(database, job_id).fence > 1


def test_a_lapsed_lease_is_retried_with_backoff_and_ends_after_the_last_attempt(database, project):
    job_id = submit(database, project)
    claims = Claims(database, JobsSettings(lease_s=0.05, retry_backoff_s=0, max_attempts=3), LimitsSettings())
    for attempt in (1, 2, 3):
        claim = claims.claim()
        assert claim.attempt == attempt
        threading.Event().wait(0.1)
        claims.look_after()  # connected for longer than a lease by the second look
        threading.Event().wait(0.06)
        claims.look_after()
        after = row(database, job_id)
        if attempt < 3:
            assert after.status in ("retry_wait", "queued")
            claims.look_after()
        else:
            assert after.status == "failed"
            assert after.error["code"] == "max_attempts"
            assert "3 attempts" in after.error["message"]
    retries = [e for e in events(database, job_id) if e.type == "job.retry_wait"]
    assert [e.data["error"]["code"] for e in retries] == ["internal", "internal"]


def test_nothing_is_reaped_before_the_database_was_reachable_for_a_lease(database, project):
    job_id = submit(database, project)
    claims = Claims(database, JobsSettings(lease_s=30), LimitsSettings())
    claims.claim()
    with database.transaction() as session:
        session.execute(text("UPDATE attempts SET lease_expires_at = now() - interval '1 hour'"))
    claims.look_after()
    assert row(database, job_id).status == "starting"


def test_a_lost_lease_is_told_to_its_holder(database, project):
    submit(database, project)
    claims = Claims(database, JobsSettings(), LimitsSettings())
    claim = claims.claim()
    assert claims.renew(claim)
    assert claims.status(claim) == "starting"
    with database.transaction() as session:
        session.execute(queries.transition("cancel", claim.job_id))
    assert not claims.renew(claim)
    assert claims.status(claim) is None
    assert not claims.move("run", claim)


def test_messages_are_sent_once_and_again_only_after_a_minute(database, project):
    submit(database, project)
    with database.transaction() as session:
        due = session.scalars(queries.due_messages()).all()
        assert len(due) == 1
        session.execute(queries.sent([m.id for m in due]))
    with database.transaction() as session:
        assert session.scalars(queries.due_messages()).all() == []
        session.execute(text("UPDATE outbox SET send_at = send_at - interval '61 s'"))
        assert len(session.scalars(queries.due_messages()).all()) == 1

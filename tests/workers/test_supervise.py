"""A supervisor and a child that are real processes, on a real Postgres that goes away at the worst moments."""

import logging
import threading
import time
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import select

from service.config import JobsSettings, LimitsSettings
from service.db.queries import jobs as queries
from service.db.tables import Checkpoint, Job, JobEvent, Model, Project
from service.domain.ids import new_id
from service.local.postgres import SUPERUSER
from tests.support.stack import wait_for
from workers.nursery import Child, Nursery
from workers.poll import PollThread
from workers.runs.claims import Claims
from workers.runs.held import HeldJob
from workers.supervise import Watch

CHILD = """
import json, os, sys, time
said = os.fdopen(int(sys.argv[2]), "wb", buffering=0)
def say(**message): said.write(json.dumps(message).encode() + b"\\n")
sys.stdin.readline()
say(type="ready")
while not os.path.exists(sys.argv[1]): time.sleep(0.02)
say(type="running")
say(type="finalizing")
while json.loads(sys.stdin.readline())["wish"] != "finalize": pass
say(type="ended", outcome="succeeded", best=None, last=None)
"""


@pytest.fixture
def claim(database):
    """A job that this process holds."""
    with database.transaction() as session:
        session.add(Project(id="prj_1", name="p"))
    row = {
        "id": new_id("job"), "project_id": "prj_1", "name": "j", "algorithm": "sft", "spec": {}, "resolved": {}, "metadata": {},
        "priority": 0, "processes": 1, "progress_steps": 3,
    }  # fmt: skip
    with database.transaction() as session:
        session.execute(queries.submit(row))
    return Claims(database, JobsSettings(), LimitsSettings()).claim()


@contextmanager
def away(cluster, name):
    """Nobody reaches the database."""
    with psycopg.connect(cluster.url(SUPERUSER, "postgres"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        yield
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_a_child_that_starts_to_run_while_the_database_is_away_is_not_lost(
    cluster, database, database_name, claim, tmp_path
):
    claims = Claims(database, JobsSettings(), LimitsSettings())
    script, go = tmp_path / "child.py", tmp_path / "go"
    script.write_text(CHILD)
    child = Child.spawn([str(script), str(go)])
    watch = threading.Thread(target=Watch(claims, threading.Event(), claim, child).until_it_ends, args=(Nursery(None),))
    watch.start()
    try:
        wait_for(child.ready.is_set, 10, "the child is ready")
        with away(cluster, database_name):
            go.touch()
            time.sleep(1.5)
            assert child.alive()
        watch.join(20)
        assert not watch.is_alive()
    finally:
        child.kill()
    with database.transaction() as session:
        assert session.get_one(Job, claim.job_id).status == "succeeded"
        kinds = session.scalars(select(JobEvent.type).where(JobEvent.job_id == claim.job_id).order_by(JobEvent.seq))
        assert list(kinds) == [f"job.{s}" for s in ("queued", "starting", "running", "finalizing", "succeeded")]


def test_what_keeps_failing_is_said_once_although_the_rest_works(caplog):
    poll = PollThread(context=None, queues=frozenset())

    def broken():
        raise RuntimeError("the disk is full")

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            poll._attempt(broken)
            poll._attempt(lambda: None)
            poll._attempt(poll.wake)
    assert [r.getMessage() for r in caplog.records] == ["poll: RuntimeError: the disk is full"]


# --- pruning ---


@pytest.fixture
def checkpoint(database, claim):
    """A listed checkpoint: its id and its place."""
    held = HeldJob(database, claim.job_id, claim.fence)
    values = {"step": 1, "kind": "full", "location": "projects/p/step-1", "files": [], "metrics": {}}
    return held, held.register_checkpoint(values), values["location"]


def register(session, location):
    session.add(
        Model(
            id=new_id("model"), project_id="prj_1", name="m", kind="policy", source={"checkpoint": "c"}, status="ready", location=location
        )
    )  # fmt: skip


def test_a_checkpoint_that_became_a_model_is_not_pruned(database, checkpoint):
    held, checkpoint_id, location = checkpoint
    with database.transaction() as session:
        register(session, location)
    assert held.unlist_checkpoint(checkpoint_id) is False
    assert [c.id for c in held.checkpoints()] == [checkpoint_id]


def test_a_checkpoint_that_is_becoming_a_model_is_waited_for(database, checkpoint):
    held, checkpoint_id, location = checkpoint
    done = []
    pruning = threading.Thread(target=lambda: done.append(held.unlist_checkpoint(checkpoint_id)))
    with database.transaction() as session:  # what POST /v1/checkpoints/{id}/promote does
        session.scalars(select(Checkpoint).where(Checkpoint.id == checkpoint_id).with_for_update(read=True)).one()
        pruning.start()
        pruning.join(0.5)
        assert pruning.is_alive()
        register(session, location)
    pruning.join(10)
    assert done == [False]


def test_other_checkpoints_are_pruned(database, checkpoint):
    held, checkpoint_id, _ = checkpoint
    assert held.unlist_checkpoint(checkpoint_id) is True
    assert held.checkpoints() == []

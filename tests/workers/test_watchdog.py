"""A child that hangs is noticed, tells where it stood, and is tried again."""

import threading
import time

from sqlalchemy import select

from service.config import JobsSettings, LimitsSettings
from service.db.tables import Job, JobEvent, JobLog
from tests.support.stack import wait_for
from tests.workers.test_supervise import claim
from workers.nursery import Child, Nursery, Output
from workers.runs.claims import Claims
from workers.supervise import Watch
from workers.watchdog import Watchdog

__all__ = ["claim"]

HANGS = """
import faulthandler, json, os, signal, sys, threading
faulthandler.register(signal.SIGUSR1, sys.stderr)
said = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
def say(**message): said.write(json.dumps(message).encode() + b"\\n")
def waits_for_a_collective_that_never_comes(): threading.Event().wait()
say(type="ready")
sys.stdin.readline()
say(type="running")
say(type="alive", step=1)
waits_for_a_collective_that_never_comes()
"""


def watched(database, claim, script, arguments=(), **settings):
    claims = Claims(database, JobsSettings(**settings), LimitsSettings())
    child = Child.spawn([str(script), *arguments])
    wait_for(child.ready.is_set, 10, "the child is ready")
    thread = threading.Thread(
        target=Watch(claims, threading.Event(), claim, child).until_it_ends, args=(Nursery(None),)
    )
    thread.start()
    return child, thread


def test_a_child_that_hangs_tells_where_and_the_job_is_tried_again(database, claim, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(HANGS)
    child, thread = watched(database, claim, script, no_progress_s=1.0)
    thread.join(15)
    assert not thread.is_alive()
    assert not child.alive()
    with database.transaction() as session:
        job = session.get_one(Job, claim.job_id)
        assert (job.status, job.failures) == ("retry_wait", 1)
        last = session.scalars(
            select(JobEvent).where(JobEvent.job_id == claim.job_id).order_by(JobEvent.seq.desc())
        ).first()
        assert last.data["error"]["code"] == "no_progress"
        log = "".join(session.scalars(select(JobLog.text).where(JobLog.job_id == claim.job_id).order_by(JobLog.seq)))
    assert "waits_for_a_collective_that_never_comes" in log


def test_output_says_what_it_dropped():
    output = Output(limit=10)
    for line in ("1234\n", "5678\n", "9\n"):
        output.put(line)
    assert output.take() == "1234\n5678\n\n(1 lines were printed faster than they could be kept)\n"
    assert output.take() == ""


def test_patience_grows_with_steps_and_counts_no_time_in_which_nobody_listened(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    dog = Watchdog(10.0, _looked_at=0.0)
    assert dog.patience_s == 30.0  # three times as long while nothing has been heard
    for step in (1, 2, 3):
        dog.hear({"type": "alive", "step": step})
        now[0] += 2.0
    assert dog.patience_s == 40.0  # twenty steps of two seconds
    dog.hear({"type": "alive", "step": 3})
    dog.look()
    now[0] += 3600.0  # the supervisor stood still itself
    assert not dog.look()
    looks = []
    for _ in range(39):
        now[0] += 1.0
        looks.append(dog.look())
    assert looks.index(True) == 36  # the first look and the one after the hour counted two seconds each; 4 + 37 > 40

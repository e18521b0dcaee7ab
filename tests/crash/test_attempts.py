"""Whoever holds a job stands still, is cut off, has a wrong clock or no disk: one attempt writes, and the end is the same to the byte."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.crash.conftest import Bench, check_history, material
from tests.support.faults import Line, another_worker, wrong_clock
from tests.support.stack import RunningStack, alive, wait_for

pytestmark = [pytest.mark.crash, pytest.mark.heavy]

LEASE_S = 3


@pytest.fixture
def owner(stack):
    """The owner's connection to the stack's database."""
    url = stack.environment("api")["GRAPE_DATABASE__MIGRATION_URL"].replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@contextlib.contextmanager
def stopped(*pids):
    """These processes stand still meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def attempts(owner, job_id):
    """(fence, end_reason) of a job's attempts, oldest first."""
    return owner.execute("SELECT fence, end_reason FROM attempts WHERE job_id = %s ORDER BY fence", [job_id]).fetchall()


def check_fences(owner, job_id):
    """Fences rise, and nothing that counts was written under one after the next had begun."""
    fences = [fence for fence, _ in attempts(owner, job_id)]
    assert fences == sorted(set(fences))
    steps = owner.execute("SELECT step FROM checkpoints WHERE job_id = %s", [job_id]).fetchall()
    assert len(steps) == len(set(steps))
    for before, after in itertools.pairwise(fences):
        (begun,) = owner.execute(
            "SELECT started_at FROM attempts WHERE job_id = %s AND fence = %s", [job_id, after]
        ).fetchone()
        for table in ("completions", "checkpoints"):
            (late,) = owner.execute(
                f"SELECT count(*) FROM {table} WHERE job_id = %s AND fence = %s AND created_at > %s",
                [job_id, before, begun],
            ).fetchone()
            assert late == 0, (table, before, after)
    return fences


def test_rows_10_and_14_a_supervisor_that_stands_still_is_replaced_once(bench, stack, owner, running, undisturbed):
    """Its child works on until it is told that the fence is gone. Two other workers reap at the same time: one retry."""
    (worker,), (child,) = stack.pids("training"), stack.pids("child")
    with another_worker(stack), another_worker(stack), stopped(worker):
        wait_for(lambda: len(attempts(owner, running)) == 2, 5 * LEASE_S, "another worker has taken the job")
        wait_for(lambda: not alive(child), 10, "the zombie's child has noticed")
        job = bench.finish(running)
    assert bench.weights(job) == undisturbed
    types = check_history(bench, running)
    assert types.count("job.retry_wait") == 1
    assert len(check_fences(owner, running)) == 2
    time.sleep(1)  # the zombie wakes
    assert bench.api.get(f"/v1/jobs/{running}")["status"] == "succeeded"
    assert bench.events(running)[-1]["type"] == "job.succeeded"


def test_row_11_a_worker_is_cut_off_from_the_database(bench, stack, owner, judge, undisturbed):
    """For less than the lease nothing happens; for longer somebody else takes over, and the first finds out when it is back."""
    from tests.crash.conftest import answer

    judge.answer = answer
    url = stack.environment("training")["GRAPE_DATABASE__URL"]
    line = Line(urlsplit(url).port)
    cut_off = {
        "GRAPE_DATABASE__URL": url.replace(f":{urlsplit(url).port}/", f":{line.port}/"),
        # Cut off in the middle of a transaction, its locks go with it; as with leases, the default is a minute.
        "GRAPE_DATABASE__IDLE_TRANSACTION_S": str(LEASE_S),
    }
    (worker,) = stack.pids("training")
    with another_worker(stack, **cut_off):
        with stopped(worker):
            job_id = bench.submit(**material(bench, judge))
            bench.until_step(job_id, 5)
            line.cut()
            time.sleep(LEASE_S / 3)
            line.mend()
            bench.until_step(job_id, 10)
            assert len(attempts(owner, job_id)) == 1
            line.cut()
        wait_for(lambda: len(attempts(owner, job_id)) == 2, 5 * LEASE_S, "the other worker has taken the job")
        line.mend()
        job = bench.finish(job_id)
    line.close()
    assert bench.weights(job) == undisturbed
    check_history(bench, job_id)
    check_fences(owner, job_id)


def test_row_15_killed_between_a_checkpoints_files_and_its_row(bench, stack, owner, running, undisturbed):
    with owner.transaction():
        owner.execute("LOCK TABLE checkpoints IN SHARE MODE")
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'checkpoints'::regclass"
        wait_for(lambda: owner.execute(waiting).fetchone()[0], 30, "a checkpoint is written and about to be listed")
        (child,) = stack.pids("child")
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: not alive(child), 5, "the child is gone")
    job = bench.finish(running)
    assert job["attempt"] == 2
    assert bench.weights(job) == undisturbed
    check_history(bench, running)
    check_fences(owner, running)


def test_row_16_killed_while_finalizing(bench, stack, owner, running, undisturbed):
    bench.until_step(running, 36)
    with owner.transaction():
        owner.execute("LOCK TABLE checkpoints IN SHARE MODE")
        bench.until(running, "finalizing")
        (child,) = stack.pids("child")
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: not alive(child), 5, "the child is gone")
    job = bench.finish(running)
    assert bench.weights(job) == undisturbed
    types = check_history(bench, running)
    assert types.count("job.succeeded") == 1
    fences = check_fences(owner, running)
    last = owner.execute(
        "SELECT fence FROM checkpoints WHERE job_id = %s ORDER BY step DESC LIMIT 1", [running]
    ).fetchone()
    assert last == (fences[-1],)


def test_row_08_a_child_that_always_dies_ends_the_job(bench, stack, judge):
    job_id = bench.submit(training={"steps": 400})
    killed = set()

    def over():
        for pid in stack.pids("child"):
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        return bench.api.get(f"/v1/jobs/{job_id}")["status"] == "failed"

    wait_for(over, 90, "the job has used up its attempts")
    job = bench.api.get(f"/v1/jobs/{job_id}")
    assert job["error"]["code"] == "max_attempts"
    assert "5 attempts failed" in job["error"]["message"]
    assert [e["type"] for e in bench.events(job_id)].count("job.retry_wait") == 4


def test_row_19_a_child_that_hangs_is_stopped_and_the_job_goes_on(bench, stack, owner, judge, undisturbed):
    from tests.crash.conftest import answer

    judge.answer = answer
    (worker,) = stack.pids("training")
    with another_worker(stack, GRAPE_JOBS__NO_PROGRESS_S="4", GRAPE_JOBS__WAITING_CHILDREN="2"), stopped(worker):
        job_id = bench.submit(**material(bench, judge))
        bench.until_step(job_id, 5)
        (child,) = [p for p in stack.pids("child") if alive(p)]
        os.kill(child, signal.SIGSTOP)
        hung = time.monotonic()
        wait_for(lambda: not alive(child), 10, "the child that hangs is gone")
        assert time.monotonic() - hung < 9
        job = bench.finish(job_id)
    (retry,) = [e for e in bench.events(job_id) if e["type"] == "job.retry_wait"]
    assert retry["data"]["error"]["code"] == "no_progress"
    assert bench.weights(job) == undisturbed
    check_history(bench, job_id)


@pytest.mark.parametrize("hours", [1, -1])
def test_row_24_a_workers_clock_is_wrong(bench, stack, owner, judge, undisturbed, open_folder, hours):
    from tests.crash.conftest import answer

    judge.answer = answer
    (worker,) = stack.pids("training")
    with another_worker(stack, **wrong_clock(open_folder / "clock", 3600 * hours)):
        with stopped(worker):
            job_id = bench.submit(**material(bench, judge))
            bench.until_step(job_id, 3)
        job = bench.finish(job_id)  # beside a worker whose clock is right
    assert job["attempt"] == 1
    assert bench.weights(job) == undisturbed
    check_history(bench, job_id)
    assert len(attempts(owner, job_id)) == 1


def test_row_17_the_disk_is_full(open_folder, judge):
    """A disk of its own, too small for a second checkpoint."""
    small = open_folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", str(small)], check=True)
    stack = RunningStack(open_folder / "full", {"GRAPE_STORAGE__URL": (small / "artifacts").as_uri()}).start()
    try:
        with stack.client() as api:
            bench = Bench(api, stack)
            job_id = bench.submit(training={"steps": 12}, checkpoints={"every_steps": 1, "keep": 50})
            job = bench.finish(job_id, expected="failed")
            assert job["error"]["code"] == "storage_full"
            assert "step" in job["error"]["message"]
            listed = list(api.pages(f"/v1/jobs/{job_id}/checkpoints"))
            assert listed
            for checkpoint in listed:
                api.download_checkpoint(checkpoint["id"], open_folder / "got" / checkpoint["id"])  # checks every sha256
            folders = {path.name for path in (small / "artifacts").rglob("step-*")}
            assert folders == {f"step-{c['step']:08d}" for c in listed}  # no half of one
    finally:
        stack.stop(signal.SIGTERM)
        subprocess.run(["umount", "-l", str(small)], check=True)

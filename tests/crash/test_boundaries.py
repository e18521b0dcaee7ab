"""Numbers that are not finite, an accelerator that fails, a database that is away for longer than a lease, a disk that fills up."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time

import httpx
import pytest

from service.client_base import ApiError
from tests.crash.conftest import STEPS, Bench, answer, check_history, material
from tests.crash.test_attempts import LEASE_S, stopped
from tests.support.faults import another_worker, failing_backward
from tests.support.servers import OwnPostgres
from tests.support.stack import RunningStack, wait_for

pytestmark = [pytest.mark.crash, pytest.mark.heavy]


@contextlib.contextmanager
def only_worker(stack, **settings):
    """A worker with these settings, the stack's own standing still meanwhile."""
    (worker,) = stack.pids("training")
    with another_worker(stack, **settings), stopped(worker):
        yield


def test_row_18_a_loss_that_is_not_finite_ends_the_job(bench, stack, judge, open_folder):
    judge.answer = answer
    with only_worker(stack, **failing_backward(open_folder / "nan", "nan", after=5)):
        job_id = bench.submit(**material(bench, judge))
        job = bench.finish(job_id, expected="failed")
    assert job["error"]["code"] == "nonfinite_loss"
    assert job["attempt"] == 1  # the data would be the same again
    assert job["progress"]["step"] < 6
    assert bench.events(job_id)[-1]["data"]["error"]["code"] == "nonfinite_loss"


def test_row_18_an_accelerator_that_fails_costs_an_attempt(bench, stack, judge, open_folder, undisturbed):
    """A stand-in for CUDA's Xid on a machine without one: what torch raises at that boundary is raised there, once.

    Quarantine of the device needs a second one, and is not shown here.
    """
    judge.answer = answer
    with only_worker(stack, **failing_backward(open_folder / "cuda", "cuda", after=9)):
        job_id = bench.submit(**material(bench, judge))
        job = bench.finish(job_id)
    assert job["attempt"] == 2
    (retry,) = [e for e in bench.events(job_id) if e["type"] == "job.retry_wait"]
    assert retry["data"]["error"]["code"] == "cuda_error"
    assert "illegal memory access" in retry["data"]["error"]["message"]
    assert bench.weights(job) == undisturbed
    check_history(bench, job_id)


def answers(bench):
    """Whether the API answers from its database."""
    with contextlib.suppress(ApiError, httpx.HTTPError):
        return bench.api.get("/v1/jobs", limit=1)


def test_row_12_postgres_is_away_for_longer_than_a_lease(open_folder, judge):
    """No job is reaped for it, no attempt is lost, and the API says when to ask again."""
    judge.answer = answer
    postgres = OwnPostgres(open_folder / "server").start()
    stack = RunningStack(open_folder / "away", postgres.settings).start()
    try:
        with stack.client() as api:
            bench = Bench(api, stack)
            job_id = bench.submit(**material(bench, judge))
            bench.until_step(job_id, 10)
            told = json.loads((stack.folder / "credentials.json").read_text())
            postgres.stop()
            asked = httpx.get(
                f"{told['base_url']}/v1/jobs", headers={"Authorization": f"Bearer {told['api_key']}"}, timeout=30
            )
            assert asked.status_code == 503
            assert int(asked.headers["retry-after"]) >= 1
            time.sleep(3 * LEASE_S)
            postgres.start()
            wait_for(lambda: answers(bench), 30, "the API is back")
            job = bench.finish(job_id)
            assert job["attempt"] == 1
            assert "job.retry_wait" not in check_history(bench, job_id)
    finally:
        stack.stop(signal.SIGTERM)
        postgres.stop()


def test_row_17_a_full_disk_is_sat_out_where_the_job_wants_it(open_folder, judge):
    """`on_checkpoint_error: continue`: what could not be written is told in events, nothing half is listed, the end is written."""
    small = open_folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=777", "tmpfs", str(small)], check=True)
    stack = RunningStack(open_folder / "full", {"GRAPE_STORAGE__URL": (small / "artifacts").as_uri()}).start()
    ballast = small / "ballast"
    judge.answer = answer
    try:
        with stack.client() as api:
            bench = Bench(api, stack)
            checkpoints = {"every_steps": 2, "keep": 50, "on_checkpoint_error": "continue"}
            job_id = bench.submit(**material(bench, judge, checkpoints=checkpoints))
            bench.until_step(job_id, 5)
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"\0" * 4096)

            def failed():
                return [e for e in bench.events(job_id) if e["type"] == "checkpoint.failed"]

            (first, *_) = wait_for(failed, 30, "a checkpoint could not be written")
            assert "No space left" in first["data"]["reason"]
            ballast.unlink()
            job = bench.finish(job_id)
            check_history(bench, job_id)
            listed = list(api.pages(f"/v1/jobs/{job_id}/checkpoints"))
            assert max(c["step"] for c in listed) == STEPS
            assert not {c["step"] for c in listed} & {e["data"]["step"] for e in failed()}
            assert job["attempt"] == 1
            for checkpoint in listed:
                api.download_checkpoint(checkpoint["id"], open_folder / "got" / checkpoint["id"])  # checks every sha256
    finally:
        stack.stop(signal.SIGTERM)
        subprocess.run(["umount", "-l", str(small)], check=True)

"""Processes of a stack die in the middle of a job, people pause it, judges go away: it ends as it should, to the byte."""

import os
import signal
import time

import pytest

from tests.crash.conftest import answer, check_history, material
from tests.support.stack import alive, wait_for

pytestmark = [pytest.mark.crash, pytest.mark.heavy]


def test_row_08_the_training_child_is_killed(bench, stack, running, undisturbed):
    (child,) = stack.pids("child")
    os.kill(child, signal.SIGKILL)
    job = bench.finish(running)
    assert job["attempt"] == 2
    assert bench.weights(job) == undisturbed
    types = check_history(bench, running)
    assert types.count("job.starting") == 2
    (retry,) = [e for e in bench.events(running) if e["type"] == "job.retry_wait"]
    assert retry["data"]["error"]["code"] == "oom_host"
    points = [p for s in bench.api.get(f"/v1/jobs/{running}/metrics", names="loss")["data"] for p in s["points"]]
    undone = [p for p in points if p["superseded"]]
    assert all(p["attempt"] == 1 for p in undone)
    again = {p["step"]: p["value"] for p in points if not p["superseded"]}
    assert all(p["value"] == again[p["step"]] for p in undone)  # the same numbers, done again


def test_row_09_the_training_worker_is_killed(bench, stack, running, undisturbed):
    (child,) = stack.pids("child")
    stack.kill("training")
    wait_for(lambda: not alive(child), 5, "the child died with its supervisor")
    job = bench.finish(running)
    assert job["attempt"] == 2
    assert bench.weights(job) == undisturbed
    check_history(bench, running)


def test_row_07_the_grading_worker_is_killed_in_mid_step(bench, stack, judge, undisturbed):
    """The job waits, says so, and goes on when the worker is back; what was graded is not asked again."""
    judge.answer = answer
    job_id = bench.submit(**material(bench, judge))
    bench.until_step(job_id, 5)
    worker = stack.kill("grading", signal.SIGSTOP)  # stopped, so that nobody starts another at once
    wait_for(lambda: bench.api.get(f"/v1/jobs/{job_id}")["status_reason"], 40, "the job says that it waits")
    waiting = bench.api.get(f"/v1/jobs/{job_id}")
    assert waiting["status"] == "running"
    assert "grading worker" in waiting["status_reason"]
    step = waiting["progress"]["step"]
    time.sleep(1.5)
    assert bench.api.get(f"/v1/jobs/{job_id}")["progress"]["step"] == step
    os.kill(worker, signal.SIGKILL)
    job = bench.finish(job_id)
    assert job["attempt"] == 1
    assert bench.weights(job) == undisturbed
    types = check_history(bench, job_id)
    assert types.index("grading.waiting") < types.index("grading.resumed")


def api_answers(bench):
    try:
        return bench.api.get("/v1/jobs", limit=1)
    except Exception:
        return False


def test_row_29_everything_is_killed_one_after_another(bench, stack, running, undisturbed):
    for role in ("grading", "valkey", "api", "child"):
        stack.kill(role)
        time.sleep(0.7)
    wait_for(lambda: api_answers(bench), 30, "the API is back")
    assert bench.weights(bench.finish(running)) == undisturbed
    check_history(bench, running)


def test_row_12_postgres_is_killed_and_no_attempt_is_lost(bench, stack, running, undisturbed):
    stack.kill("postgres")
    wait_for(lambda: api_answers(bench), 30, "the database is back")
    job = bench.finish(running)
    assert job["attempt"] == 1
    assert bench.weights(job) == undisturbed
    check_history(bench, running)


def test_row_22_pause_and_resume_twice(bench, stack, running, undisturbed):
    answered = bench.api.post(f"/v1/jobs/{running}/pause")
    assert answered["status"] in ("pausing", "paused")
    paused = bench.until(running, "paused")
    wait_for(lambda: not stack.pids("child"), 2, "the worker is free")
    assert bench.api.post(f"/v1/jobs/{running}/pause")["status"] == "paused"  # the wish already holds
    step = paused["progress"]["step"]
    assert [c["step"] for c in bench.api.pages(f"/v1/jobs/{running}/checkpoints")][-1] == step
    assert bench.api.post(f"/v1/jobs/{running}/resume")["status"] == "queued"
    assert bench.api.post(f"/v1/jobs/{running}/resume")["status"] in ("queued", "starting", "running")
    job = bench.finish(running)
    assert job["attempt"] == 1  # a pause is no failed attempt
    assert bench.weights(job) == undisturbed
    check_history(bench, running)


def test_row_22_resume_while_pausing_withdraws_the_pause(bench, running, undisturbed):
    bench.api.post(f"/v1/jobs/{running}/pause")
    assert bench.api.post(f"/v1/jobs/{running}/resume")["status"] in ("running", "queued")
    assert bench.weights(bench.finish(running)) == undisturbed


def test_row_23_a_worker_is_asked_to_stop(bench, stack, running, undisturbed):
    """SIGTERM is a deploy: checkpoint, give the job back, count no attempt."""
    pid = stack.kill("training", signal.SIGTERM)
    wait_for(lambda: not alive(pid), 30, "the worker ended")
    job = bench.finish(running)
    assert job["attempt"] == 1
    assert bench.weights(job) == undisturbed
    drained = [e for e in bench.events(running) if e["type"] == "job.queued" and e["data"].get("drained")]
    assert len(drained) == 1
    check_history(bench, running)


def test_row_25_judges_that_fail_pause_the_job_and_are_asked_again(bench, judge):
    judge.answer = answer
    job_id = bench.submit(**material(bench, judge))
    bench.until_step(job_id, 6)
    judge.answer = lambda q: (401, {}, {"error": "key expired"})
    paused = bench.until(job_id, "paused")
    assert "judge_error_rate" in paused["status_reason"]
    assert "401" in paused["status_reason"]
    judge.answer = answer
    bench.api.post(f"/v1/jobs/{job_id}/resume")
    bench.finish(job_id)
    check_history(bench, job_id)
    nulls = bench.series(job_id, "null_cells")  # at most the step in which the key expired was graded in part
    assert sum(value > 0 for value in nulls.values()) <= 1


def test_row_08_graded_cells_are_never_paid_twice(bench, stack, judge):
    """Killed in the middle of a rollout: the next attempt samples the same texts and finds their cells."""
    judge.answer = answer
    job_id = bench.submit(**material(bench, judge))
    bench.until_step(job_id, 3)
    os.kill(stack.pids("child")[0], signal.SIGKILL)
    bench.finish(job_id)
    asked = [(q.text.split("The nonce:")[0]) for q in judge.questions]
    completions = list(bench.api.pages(f"/v1/jobs/{job_id}/completions", limit=500))
    # As many questions as cells, save those that were in flight when the child died before its batch was answered.
    assert len(asked) <= len(completions) + 12

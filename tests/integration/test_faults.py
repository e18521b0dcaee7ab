"""Processes die in the middle of a job, people pause and cancel, judges go away: the job ends as it should, to the byte."""

import asyncio
import os
import signal
import time

import pytest

from service.client import ApiError
from tests.support.judge import verdict
from tests.support.stack import alive, wait_for

STEPS = 40


@pytest.fixture(scope="module")
def undisturbed(stack):
    """The weights of the job below when nothing happens to it, by a judge that always says the same of the same text."""
    from tests.integration.conftest import Bench
    from tests.support.judge import FakeJudge

    with FakeJudge(answer) as fake, stack.client() as api:
        bench = Bench(api, stack)
        job = bench.finish(bench.submit(**material(bench, fake)))
        yield bench.weights(job)


async def answer(question):
    """A verdict that depends on the text alone, after a moment."""
    await asyncio.sleep(0.02)
    return verdict(question, len(question.answer) % 3 != 0, 0.3 + 0.1 * (len(question.answer) % 5))


def material(bench, fake, **changes):
    judge = bench.judge(fake, concurrency=16)
    rubric = bench.rubric(
        {"key": "has", "weight": 2, "grader": {"type": "contains", "values": ["{{ prompt.reference }}"]}},
        bench.judged(judge),
    )
    return {
        "rubric": rubric, "training": {"steps": STEPS, "learning_rate": 0.003}, "checkpoints": {"every_steps": 7, "keep": 2}, **changes,
    }  # fmt: skip


@pytest.fixture
def running(bench, judge):
    """A job that has done a few steps."""
    judge.answer = answer
    job_id = bench.submit(**material(bench, judge))
    bench.until_step(job_id, 10)
    return job_id


def check_history(bench, job_id):
    """Events without gaps, metrics of every step once, undone ones marked."""
    events = bench.events(job_id)
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert list(bench.series(job_id, "loss")) == list(range(1, STEPS + 1))
    rows = list(bench.api.pages(f"/v1/jobs/{job_id}/completions", limit=500))
    assert len(rows) == STEPS * 3 * 4
    assert len({(r["step"], r["group"], r["index"]) for r in rows}) == len(rows)
    return [e["type"] for e in events]


def test_the_training_child_is_killed(bench, stack, running, undisturbed):
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


def test_the_training_worker_is_killed(bench, stack, running, undisturbed):
    (child,) = stack.pids("child")
    stack.kill("training")
    wait_for(lambda: not alive(child), 5, "the child died with its supervisor")
    job = bench.finish(running)
    assert job["attempt"] == 2
    assert bench.weights(job) == undisturbed
    check_history(bench, running)


def test_the_grading_worker_is_killed_in_mid_step(bench, stack, judge, undisturbed):
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


def test_everything_is_killed_one_after_another(bench, stack, running, undisturbed):
    for role in ("grading", "valkey", "api", "child"):
        stack.kill(role)
        time.sleep(0.7)
    wait_for(lambda: api_answers(bench), 30, "the API is back")
    assert bench.weights(bench.finish(running)) == undisturbed
    check_history(bench, running)


def api_answers(bench):
    try:
        return bench.api.get("/v1/jobs", limit=1)
    except Exception:
        return False


def test_postgres_is_killed_and_no_attempt_is_lost(bench, stack, running, undisturbed):
    stack.kill("postgres")
    wait_for(lambda: api_answers(bench), 30, "the database is back")
    job = bench.finish(running)
    assert job["attempt"] == 1
    assert bench.weights(job) == undisturbed
    check_history(bench, running)


def test_pause_and_resume(bench, stack, running, undisturbed):
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


def test_resume_while_pausing_withdraws_the_pause(bench, running, undisturbed):
    bench.api.post(f"/v1/jobs/{running}/pause")
    assert bench.api.post(f"/v1/jobs/{running}/resume")["status"] in ("running", "queued")
    assert bench.weights(bench.finish(running)) == undisturbed


def test_a_worker_is_asked_to_stop(bench, stack, running, undisturbed):
    """SIGTERM is a deploy: checkpoint, give the job back, count no attempt."""
    pid = stack.kill("training", signal.SIGTERM)
    wait_for(lambda: not alive(pid), 30, "the worker ended")
    job = bench.finish(running)
    assert job["attempt"] == 1
    assert bench.weights(job) == undisturbed
    drained = [e for e in bench.events(running) if e["type"] == "job.queued" and e["data"].get("drained")]
    assert len(drained) == 1
    check_history(bench, running)


def test_cancel_is_final_and_the_child_is_gone(bench, stack, running):
    (child,) = stack.pids("child")
    started = time.monotonic()
    assert bench.api.post(f"/v1/jobs/{running}/cancel")["status"] == "cancelled"
    wait_for(lambda: not alive(child), 5, "the child is gone")
    assert time.monotonic() - started < 5
    events = bench.events(running)
    rows = bench.api.get(f"/v1/jobs/{running}/metrics")
    time.sleep(2)
    assert bench.events(running) == events
    assert bench.api.get(f"/v1/jobs/{running}/metrics") == rows
    assert bench.api.post(f"/v1/jobs/{running}/cancel")["status"] == "cancelled"
    for wish in ("pause", "resume"):
        with pytest.raises(ApiError) as caught:
            bench.api.post(f"/v1/jobs/{running}/{wish}")
        assert (caught.value.status, caught.value.code) == (409, "job_terminal")


@pytest.mark.parametrize("state", ["queued", "paused", "starting"])
def test_cancel_in_other_states(bench, stack, state):
    blocker = bench.submit(training={"steps": 400}) if state != "starting" else None
    if blocker:
        bench.until(blocker, "running")
    job_id = bench.submit(training={"steps": 400})
    if state == "paused":
        assert bench.api.post(f"/v1/jobs/{job_id}/pause")["status"] == "paused"
    if state == "starting":
        bench.until(job_id, "starting", "running")
    assert bench.api.post(f"/v1/jobs/{job_id}/cancel")["status"] == "cancelled"
    if blocker:
        bench.api.post(f"/v1/jobs/{blocker}/cancel")
    wait_for(lambda: not stack.pids("child"), 5, "no child is left")
    assert bench.events(job_id)[-1]["type"] == "job.cancelled"


def test_judges_that_fail_pause_the_job_and_are_asked_again(bench, judge):
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


def test_priorities_decide_who_is_next(bench):
    first = bench.submit(training={"steps": 60})
    bench.until(first, "running", "starting")
    low = bench.submit(training={"steps": 1}, priority=-1)
    high = bench.submit(training={"steps": 1}, priority=5)
    done = [bench.finish(job_id) for job_id in (low, high)]
    assert done[1]["started_at"] < done[0]["started_at"]


def test_graded_cells_are_never_paid_twice(bench, stack, judge):
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

"""People cancel jobs in every state, and decide by priorities who is next."""

import time

import pytest

from service.client import ApiError
from tests.support.stack import alive, wait_for


@pytest.mark.crash
def test_row_21_cancel_is_final_and_the_child_is_gone(bench, stack):
    running = bench.submit(training={"steps": 400})
    bench.until_step(running, 3)
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


@pytest.mark.crash
@pytest.mark.parametrize("state", ["queued", "paused", "starting"])
def test_row_21_cancel_in_other_states(bench, stack, state):
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


def test_priorities_decide_who_is_next(bench):
    first = bench.submit(training={"steps": 60})
    bench.until(first, "running", "starting")
    low = bench.submit(training={"steps": 1}, priority=-1)
    high = bench.submit(training={"steps": 1}, priority=5)
    done = [bench.finish(job_id) for job_id in (low, high)]
    assert done[1]["started_at"] < done[0]["started_at"]

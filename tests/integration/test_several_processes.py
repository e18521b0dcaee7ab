"""Jobs of several processes through the whole stack: the same losses as of one, and no rank outlives or outwaits what is wished."""

import os
import signal
from pathlib import Path

import pytest

from service.client import ApiError
from tests.support.stack import alive, wait_for

pytestmark = pytest.mark.stack


def ranks(job_id):
    """The processes of a job by their rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            if "workers.rank" in words and job_id in words:
                named = dict(
                    v.split("=", 1) for v in (folder / "environ").read_bytes().decode().split("\0") if "=" in v
                )
                found[int(named["RANK"])] = int(folder.name)
        except (OSError, KeyError):
            continue
    return found


def log(bench, job_id):
    return "".join(row["text"] for row in bench.api.pages(f"/v1/jobs/{job_id}/logs", limit=100))


def test_a_job_of_two_processes_loses_one_goes_on_pauses_and_ends_as_one_process_does(bench):
    same = {"prompts": bench.prompts(), "rubric": bench.rubric()}
    training = {"steps": 60, "learning_rate": 0.001}
    alone = bench.submit(training=training, **same)
    several = bench.submit(training=training, resources={"processes": 2}, checkpoints={"every_steps": 5}, **same)
    bench.finish(alone)
    bench.until_step(several, 8)
    found = ranks(several)
    assert set(found) == {0, 1}
    # What the supervisor does with a child that hangs: all ranks tell where they stand.
    (launcher,) = {int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[1]) for pid in found.values()}
    os.kill(launcher, signal.SIGUSR1)
    wait_for(lambda: log(bench, several).count("rank.py") >= 2, 10, "both stacks are in the log")
    os.kill(found[1], signal.SIGKILL)
    wait_for(lambda: not alive(found[0]), 10, "the other process ends too")
    bench.until(several, "starting", "running")
    step = bench.api.get(f"/v1/jobs/{several}")["progress"]["step"]
    bench.until_step(several, step + 3)
    found = ranks(several)
    bench.api.post(f"/v1/jobs/{several}/pause")
    bench.until(several, "paused", timeout_s=30)
    wait_for(lambda: not any(alive(pid) for pid in found.values()), 5, "paused processes are gone")
    bench.api.post(f"/v1/jobs/{several}/resume")
    job = bench.finish(several)
    (retry,) = [e for e in bench.events(several) if e["type"] == "job.retry_wait"]
    assert retry["data"]["error"]["code"] == "oom_host", retry["data"]
    assert "process 1" in retry["data"]["error"]["message"]
    assert job["attempt"] == 2
    expected, got = bench.series(alone, "loss"), bench.series(several, "loss")
    assert list(got) == list(range(1, 61))
    # Adam divides by the gradient's size: what differs in the last bit is a little larger after sixty steps.
    assert [got[step] for step in got] == pytest.approx([expected[step] for step in got], abs=1e-4)


def test_a_cancelled_job_takes_all_its_processes_with_it(bench):
    job_id = bench.submit(training={"steps": 5000}, resources={"processes": 2})
    bench.until_step(job_id, 2)
    found = ranks(job_id)
    bench.api.post(f"/v1/jobs/{job_id}/cancel")
    wait_for(lambda: not any(alive(pid) for pid in found.values()), 5, "all processes are gone")
    assert bench.api.get(f"/v1/jobs/{job_id}")["status"] == "cancelled"


def test_what_several_processes_cannot_do_is_refused_and_too_many_are_waited_for(bench):
    with pytest.raises(ApiError) as caught:
        bench.submit("trpo", training={"learning_rate": None}, resources={"processes": 2})
    assert [(e["pointer"], e["code"]) for e in caught.value.errors] == [("/resources/processes", "invalid_option")]
    waiting = bench.submit(resources={"processes": 12})
    wait_for(lambda: bench.api.get(f"/v1/jobs/{waiting}")["status_reason"], 20, "the job says what it waits for")
    job = bench.api.get(f"/v1/jobs/{waiting}")
    assert job["status"] == "queued"
    assert "a training worker that gives a job 12 processes" in job["status_reason"]
    bench.api.post(f"/v1/jobs/{waiting}/cancel")

"""Two hosts with data folders of their own: one database, one broker, artifacts in a store that speaks S3's protocol."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import httpx
import pytest

from tests.crash.conftest import Bench
from tests.support.judge import verdict
from tests.support.object_store import ObjectStore
from tests.support.stack import RunningStack, wait_for

pytestmark = [pytest.mark.crash, pytest.mark.heavy]

SHARED = ("GRAPE_DATABASE__URL", "GRAPE_DATABASE__MIGRATION_URL", "GRAPE_BROKER__URL", "GRAPE_SECRET_KEY")


async def slow(question):
    """Slow enough that the job can be watched."""
    await asyncio.sleep(0.3)
    return verdict(question)


@pytest.fixture(scope="module")
def objects():
    with ObjectStore() as running:
        yield running


@pytest.fixture
def first(open_folder, objects):
    stack = RunningStack(open_folder / "first", dict(objects.settings)).start()
    yield stack
    stack.stop(signal.SIGTERM)


@pytest.fixture
def start_second(first, open_folder, objects):
    """Starts a second `grape up` on the servers of the first."""
    started = []

    def start():
        shared = {name: value for name, value in first.environment("api").items() if name in SHARED}
        stack = RunningStack(open_folder / "second", {**objects.settings, **shared}).start()
        started.append(stack)
        return stack

    yield start
    for stack in started:
        stack.stop(signal.SIGTERM)


def test_a_job_goes_on_at_another_host_when_its_own_is_gone(first, start_second, judge):
    with first.client() as api:
        bench = Bench(api, first)
        rubric = bench.rubric(bench.judged(bench.judge(judge)))
        options = {"training": {"steps": 6}, "rubric": rubric, "checkpoints": {"every_steps": 1, "keep": 10}}
        model = bench.model()
        wait_for(lambda: api.get(f"/v1/models/{model}")["status"] == "ready", 30, "the model is in the store")
        undisturbed = bench.weights(bench.run(model=model, **options))
        judge.answer = slow
        job_id = bench.submit(model=model, **options)
        bench.until_step(job_id, 2)
    # The first host stands still: worker, child and grading alike; only its servers answer.
    gone = [pid for role in ("training", "child", "grading") for pid in first.pids(role)]
    for pid in gone:
        os.kill(pid, signal.SIGSTOP)
    second = start_second()
    try:
        with second.client() as api:
            bench = Bench(api, second)
            job = bench.finish(job_id)
            assert bench.weights(job) == undisturbed
            kinds = [event["type"] for event in bench.events(job_id)]
            assert "job.retry_wait" in kinds
            asked = job["result"]["last_checkpoint"]
        cached = {path.name for path in (second.folder / "cache").rglob("step-*")}
        assert "step-00000006" in cached
        # The first host's API reads from afar what only the second has, in ranges too.
        with first.client() as api:
            whole = api.get(f"/v1/checkpoints/{asked}")
            weights = next(f for f in whole["files"] if f["path"].endswith(".safetensors") and "/" not in f["path"])
            told = json.loads((first.folder / "credentials.json").read_text())
            key = {"Authorization": f"Bearer {told['api_key']}"}
            url = f"{told['base_url']}/v1/checkpoints/{asked}/files/{weights['path']}"
            part = httpx.get(url, headers={**key, "Range": "bytes=8-107"})
            assert part.status_code == 206
            assert part.headers["content-range"] == f"bytes 8-107/{weights['bytes']}"
            full = httpx.get(url, headers=key)
            assert full.headers["content-length"] == str(weights["bytes"])
            assert part.content == full.content[8:108]
    finally:
        for pid in gone:
            os.kill(pid, signal.SIGCONT)

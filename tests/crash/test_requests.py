"""The API, the broker and their messages die around a request: what a 2xx has created is there once, and runs (rows 1 to 6, 23, 27)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from datetime import datetime

import httpx
import psycopg
import pytest

from service.config import BrokerSettings
from service.queue import celery_app
from tests.support.stack import alive, wait_for

pytestmark = [pytest.mark.crash, pytest.mark.heavy]

SHORT = {"training": {"steps": 3}}


@pytest.fixture
def owner(stack):
    """The owner's connection to the stack's database."""
    url = stack.environment("api")["GRAPE_DATABASE__MIGRATION_URL"].replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@contextlib.contextmanager
def locked(owner, table, mode="SHARE"):
    """Nobody writes to a table meanwhile."""
    with owner.transaction():
        owner.execute(f"LOCK TABLE {table} IN {mode} MODE")
        yield


def somebody_waits(owner):
    """Whether another connection waits for a lock."""
    return owner.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0]


def jobs_named(owner, name):
    return [row[0] for row in owner.execute("SELECT id FROM jobs WHERE name = %s", [name]).fetchall()]


class Asking(threading.Thread):
    """A client that asks once, and keeps what came back."""

    def __init__(self, stack, spec, key):
        super().__init__(daemon=True)
        told = json.loads((stack.folder / "credentials.json").read_text())
        self.url, self.spec, self.answer = told["base_url"], spec, None
        self.headers = {"Authorization": f"Bearer {told['api_key']}", "Idempotency-Key": key}
        self.start()

    def run(self):
        with contextlib.suppress(httpx.HTTPError):
            self.answer = httpx.post(f"{self.url}/v1/jobs", json=self.spec, headers=self.headers, timeout=60)


def again(stack, spec, key):
    """The client's next try, once the API is back."""

    def created():
        asked = Asking(stack, spec, key)
        asked.join()
        return asked.answer is not None and asked.answer.status_code == 201 and asked.answer.json()["id"]

    return wait_for(created, 30, "the API is back and creates the job")


def test_row_01_the_api_is_killed_before_the_commit(bench, stack, owner):
    spec = bench.spec(**SHORT) | {"name": "row-01"}
    with locked(owner, "jobs"):
        asked = Asking(stack, spec, "row-01")
        wait_for(lambda: somebody_waits(owner), 20, "the request is in the middle of its transaction")
        stack.kill("api")
        asked.join()
    assert asked.answer is None
    assert jobs_named(owner, "row-01") == []
    first = again(stack, spec, "row-01")
    assert again(stack, spec, "row-01") == first
    assert jobs_named(owner, "row-01") == [first]
    bench.finish(first)


def test_row_02_the_api_is_killed_before_it_wakes_a_worker(bench, stack):
    spec = bench.spec(**SHORT)
    valkey = stack.kill("valkey", signal.SIGSTOP)  # so that no message gets out
    try:
        job_id = bench.api.post("/v1/jobs", spec)["id"]
        stack.kill("api")
    finally:
        os.kill(valkey, signal.SIGCONT)
    wait_for(lambda: answered(lambda: bench.api.get("/v1/jobs", limit=1)), 30, "the API is back")
    bench.finish(job_id)
    queued, starting = bench.events(job_id)[:2]
    assert starting["type"] == "job.starting"
    assert seconds_between(queued, starting) <= 5


def seconds_between(first, second):
    return (datetime.fromisoformat(second["created_at"]) - datetime.fromisoformat(first["created_at"])).total_seconds()


def test_row_03_the_api_is_killed_before_the_answer_and_the_client_asks_again(bench, stack, owner):
    spec = bench.spec(**SHORT) | {"name": "row-03"}
    Asking(stack, spec, "row-03")  # whose answer nobody reads
    wait_for(lambda: jobs_named(owner, "row-03"), 20, "the job is committed", every_s=0.001)
    stack.kill("api")
    job_id = again(stack, spec, "row-03")
    assert jobs_named(owner, "row-03") == [job_id]
    bench.finish(job_id)


def test_row_04_the_api_is_killed_in_the_middle_of_rows(bench, stack):
    """Rows are all there or not at all; the half with uploads comes with uploads."""
    dataset = bench.api.post("/v1/datasets", {"name": "row-04", "kind": "prompts"})["id"]
    told = json.loads((stack.folder / "credentials.json").read_text())
    killed = threading.Event()

    def lines():
        for k in range(2000):
            yield json.dumps({"prompt": f"{k}"}).encode() + b"\n"
        stack.kill("api")
        killed.set()
        time.sleep(0.5)
        yield b'{"prompt": "last"}\n'

    url, key = f"{told['base_url']}/v1/datasets/{dataset}/rows", {"Authorization": f"Bearer {told['api_key']}"}
    with pytest.raises(httpx.HTTPError):
        httpx.post(url, content=lines(), headers={**key, "Content-Type": "application/x-ndjson"}, timeout=30)
    assert killed.is_set()
    rows = wait_for(lambda: answered(lambda: bench.api.get(f"/v1/datasets/{dataset}/rows")), 30, "the API is back")
    assert rows["data"] == []
    bench.api.upload_rows(dataset, [{"prompt": str(k)} for k in range(2001)])
    assert len(list(bench.api.pages(f"/v1/datasets/{dataset}/rows", limit=500))) == 2001


def answered(ask):
    try:
        return ask()
    except Exception:
        return None


def test_row_05_the_broker_stands_still_forgets_and_dies(bench, stack):
    broker = stack.environment("training")["GRAPE_BROKER__URL"]
    valkey = stack.kill("valkey", signal.SIGSTOP)
    try:
        job_id = bench.api.post("/v1/jobs", bench.spec(**SHORT))["id"]
        seen = [event["type"] for event in bench.api.events(job_id)]  # streamed, without the broker
        assert seen[-1] == "job.succeeded"
    finally:
        os.kill(valkey, signal.SIGCONT)
    with celery_app(BrokerSettings(url=broker)).connection_for_write() as connection:
        connection.default_channel.client.flushall()
    forgotten = bench.api.post("/v1/jobs", bench.spec(**SHORT))["id"]
    stack.kill("valkey")
    killed = bench.api.post("/v1/jobs", bench.spec(**SHORT))["id"]
    for job_id in (forgotten, killed):
        bench.finish(job_id)
        _, starting = bench.events(job_id)[:2]
        assert starting["type"] == "job.starting"


def test_row_06_a_hundred_messages_are_one_attempt(bench, stack, owner):
    broker = celery_app(BrokerSettings(url=stack.environment("training")["GRAPE_BROKER__URL"]))
    job_id = bench.submit(**SHORT)
    (task, queue) = owner.execute("SELECT task, queue FROM outbox WHERE subject_id = %s", [job_id]).fetchone()
    for _ in range(100):
        broker.send_task(task, args=[job_id], queue=queue)
    bench.finish(job_id)
    for _ in range(100):
        broker.send_task(task, args=[job_id], queue=queue)  # late ones
    after = bench.submit(**SHORT)
    bench.finish(after)
    assert owner.execute("SELECT count(*) FROM attempts WHERE job_id = %s", [job_id]).fetchone() == (1,)
    assert [e["type"] for e in bench.events(job_id)].count("job.starting") == 1


# --- readers of events ---


class Reader(threading.Thread):
    """Reads a job's event stream until it ends: (event, id) pairs."""

    def __init__(self, stack, job_id, after=None, key=None):
        super().__init__(daemon=True)
        told = json.loads((stack.folder / "credentials.json").read_text())
        self.url = f"{told['base_url']}/v1/jobs/{job_id}/events"
        self.headers = {"Authorization": f"Bearer {key or told['api_key']}", "Accept": "text/event-stream"}
        if after is not None:
            self.headers["Last-Event-ID"] = str(after)
        self.seen, self.ended = [], None
        self.start()

    def run(self):
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("GET", self.url, headers=self.headers, timeout=60) as got,
        ):
            number = None
            for line in got.iter_lines():
                if line.startswith("id: "):
                    number = int(line.removeprefix("id: "))
                elif line.startswith("event: "):
                    self.seen.append((line.removeprefix("event: "), number))
        self.ended = time.monotonic()


def test_row_23_readers_are_told_to_connect_again_when_the_api_is_deployed(bench, stack):
    job_id = bench.submit(training={"steps": 400})
    bench.until_step(job_id, 2)
    reader = Reader(stack, job_id)
    wait_for(lambda: reader.seen, 20, "events come")
    pid = stack.kill("api", signal.SIGTERM)
    reader.join(10)
    assert reader.seen[-1][0] == "reconnect"
    wait_for(lambda: not alive(pid), 10, "the API ended in order")
    last = max(number for _, number in reader.seen if number is not None)
    wait_for(lambda: answered(lambda: bench.api.get("/v1/jobs", limit=1)), 30, "the API is back")
    bench.api.post(f"/v1/jobs/{job_id}/cancel")
    rest = Reader(stack, job_id, after=last)
    rest.join(30)
    assert rest.seen[-1][0] == "end"
    events = bench.events(job_id)
    numbers = [n for kind, n in reader.seen + rest.seen if kind not in ("reconnect", "end")]
    assert numbers == [e["seq"] for e in events]


def test_row_27_a_key_that_is_revoked_reads_no_more_events(bench, stack):
    key = bench.api.post("/v1/api-keys", {"name": "reader", "scopes": ["jobs:read"]})
    job_id = bench.submit(training={"steps": 400})
    reader = Reader(stack, job_id, key=key["key"])
    wait_for(lambda: reader.seen, 20, "events come")
    bench.api.request("DELETE", f"/v1/api-keys/{key['id']}")
    revoked = time.monotonic()
    reader.join(30)
    assert reader.seen[-1][0] == "closed"
    assert reader.ended - revoked < 30
    bench.api.post(f"/v1/jobs/{job_id}/cancel")

"""Clients that record: requests repeated with their key, readers of events that are cut off, and one who looks at jobs all the time."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from dataclasses import dataclass, field

import httpx

from service.domain.job_state import TERMINAL
from tests.nemesis.history import Call, History, Reader

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
FOR_GOOD = {"job_terminal", "job_finalizing", "idempotency_mismatch"}
"""Codes of a 409 that repeating does not change."""


@dataclass
class Recorder:
    """Makes requests and writes them down; safe for threads."""

    history: History
    base_url: str
    api_key: str
    started: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self):
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def connect(self, timeout_s=10.0):
        """A connection of one thread."""
        return httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {self.api_key}"},
            timeout=httpx.Timeout(timeout_s, connect=2.0),
            trust_env=False,
        )

    def send(self, http, what, method, path, *, job=None, key=None, body=None):
        """One request, recorded with its answer or with why there is none; the call."""
        began = self.now()
        call = Call(what, began, began, job, key)
        headers = {"Idempotency-Key": key} if key else {}
        try:
            response = http.request(method, path, json=body, headers=headers)
            call.status = response.status_code
            call.replayed = response.headers.get("Idempotent-Replayed") == "true"
            answer = response.json()
            if response.is_success:
                shown = ("id", "status", "status_reason", "error", "result", "finished_at", "attempt", "progress")
                call.answer = {name: answer.get(name) for name in shown}
                call.job = answer["id"]
            else:
                call.error = f"{answer.get('code')}: {answer.get('detail')}"
        except (httpx.HTTPError, ValueError) as error:
            call.error = f"{type(error).__name__}: {error}"
        call.ended = self.now()
        with self.lock:
            self.history.calls.append(call)
        return call

    def insist(self, http, what, path, *, key, job=None, body=None, for_s=60.0):
        """A POST with its key, repeated until it is answered for good; the last call."""
        deadline = self.now() + for_s
        while True:
            call = self.send(http, what, "POST", path, job=job, key=key, body=body)
            for_good = call.error is not None and call.error.split(":")[0] in FOR_GOOD
            answered = call.status is not None and (call.status not in AGAIN or for_good)
            if answered or self.now() > deadline:
                return call
            time.sleep(0.3)


@dataclass
class EventReader(threading.Thread):
    """Reads a job's events to their end, through disconnects: the seed's, and those of whom it talks to."""

    recorder: Recorder
    record: Reader
    seed: str
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        super().__init__(daemon=True)
        self.chance = random.Random(self.seed)

    __hash__ = threading.Thread.__hash__

    @property
    def seq(self):
        """The last event that was seen."""
        return self.record.seen[-1]["seq"] if self.record.seen else 0

    def run(self):
        """Connect, read for a while, break off, and resume after the last `id:` that came whole."""
        with self.recorder.connect() as http:
            while not self.stop.is_set() and not self.record.ended:
                with contextlib.suppress(httpx.HTTPError):
                    self._connect(http)
                self.stop.wait(self.chance.uniform(0, 0.5))

    def _connect(self, http):
        self.record.connections += 1
        headers = {"Accept": "text/event-stream"}
        if self.seq:
            headers["Last-Event-ID"] = str(self.seq)
        most, until = self.chance.randint(1, 6), time.monotonic() + self.chance.uniform(0.2, 8)
        path = f"/v1/jobs/{self.record.job}/events"
        timeout = httpx.Timeout(5, connect=2, read=6)  # it says something every 15 s, or is taken to be gone
        with http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                return
            told = {}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    told[name] = value
                    continue
                if told.get("event") == "end":
                    self.record.ended = True
                    return
                if "id" in told:
                    event = json.loads(told["data"])
                    assert (event["seq"], event["type"]) == (int(told["id"]), told["event"])
                    self.record.seen.append({"seq": event["seq"], "type": event["type"], "id": event["id"]})
                    most -= 1
                told = {}
                if self.stop.is_set() or not most or time.monotonic() > until:
                    return


@dataclass
class Onlooker(threading.Thread):
    """Asks for every job's state again and again, and now and then once more after its end."""

    recorder: Recorder
    jobs: list
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self):
        """Until it is stopped."""
        ended, chance = set(), random.Random(0)
        with self.recorder.connect(timeout_s=5) as http:
            while not self.stop.wait(0.25):
                for job in list(self.jobs):
                    if job in ended and chance.random() > 0.1:
                        continue
                    call = self.recorder.send(http, "get", "GET", f"/v1/jobs/{job}", job=job)
                    if call.answer and call.answer["status"] in TERMINAL:
                        ended.add(job)

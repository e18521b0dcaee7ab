"""One seed: jobs are made and wished things of while their stack is struck; then everything comes to rest and is looked at."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from service.domain.job_state import TERMINAL
from tests.integration.conftest import Bench
from tests.nemesis.blows import Nemesis, Watcher
from tests.nemesis.clients import AGAIN, EventReader, Onlooker, Recorder
from tests.nemesis.history import History, Reader
from tests.nemesis.plan import plan
from tests.nemesis.remains import collect, run_name
from tests.support.judge import verdict
from tests.support.stack import wait_for

REST_S = 150
"""How long the jobs may take to end once nobody strikes any more."""


class Scene:
    """A stack with what jobs are made of: a model, prompts, rows, a judge and its rubric."""

    def __init__(self, stack, judge):
        self.stack, self.judge = stack, judge
        self.errors, self.chance = 0.0, random.Random()
        judge.answer = self._answer
        with stack.client() as api:
            bench = Bench(api, stack)
            judged = bench.judged(bench.judge(judge, concurrency=16))
            short = {"key": "short", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,7}$"}}
            given = {"model": bench.model(), "rubric": bench.rubric(short, judged)}
            rows = {
                "prompts": bench.prompts(),
                "preferences": bench.preferences(),
                "demonstrations": bench.demonstrations(),
            }
            self._bench, self._given, self._rows = bench, given, rows
            (pid,) = stack.pids("api")
            words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            self.database_url = dict(word.split("=", 1) for word in words if "=" in word)["GRAPE_DATABASE__URL"]
            self.base_url = api.base_url
            self.api_key = api._http.headers["Authorization"].removeprefix("Bearer ")

    async def _answer(self, question):
        """By the text alone, after a moment; a share of the calls fails."""
        await asyncio.sleep(0.02)
        if self.chance.random() < self.errors:
            return (500, {}, {"error": "seeded"}) if self.chance.random() < 0.5 else (429, {"Retry-After": "1"}, {})
        return verdict(question, len(question.answer) % 3 != 0, 0.3 + 0.1 * (len(question.answer) % 5))

    def spec(self, act):
        """The job of an act."""
        kind = act.kind
        wanted = {"sft": "demonstrations", "dpo": "preferences"}.get(kind, "prompts")
        given = dict(self._given) if wanted == "prompts" else {"model": self._given["model"]}
        return self._bench.spec(kind, **given, **{wanted: self._rows[wanted]}, **act.options)


class Cast:
    """The clients of one seed."""

    def __init__(self, scene, seed, seconds):
        self.scene, self.plan = scene, plan(seed, seconds)
        self.history = History(seed)
        self.recorder = Recorder(self.history, scene.base_url, scene.api_key)
        self.jobs = {}
        """Job id by the number of its act."""
        self.known = []
        self.refused = []
        self.readers = []
        self.threads = []
        self.lock = threading.Lock()

    def play(self):
        """Every act at its time, each in a thread of its own, for one may wait for a server that is away."""
        for number, act in enumerate(self.plan.acts):
            time.sleep(max(0.0, act.at - self.recorder.now()))
            for _ in range(2 if act.twice else 1):
                thread = threading.Thread(target=self._act, args=(number, act), daemon=True)
                thread.start()
                self.threads.append(thread)
        for thread in self.threads:
            thread.join()

    def _act(self, number, act):
        key = f"{run_name(self.plan.seed)}-{number}-{act.what}"
        with self.recorder.connect() as http:
            if act.what == "create":
                spec = self.scene.spec(act) | {"metadata": {"key": key, "nemesis": run_name(self.plan.seed)}}
                call = self.recorder.insist(http, "create", "/v1/jobs", key=key, body=spec)
                if call.answer:
                    self._made(act.job, call.job)
                elif call.status not in (None, *AGAIN):
                    self.refused.append(f"the job {spec['name']} was refused: {call.status} {call.error}")
            elif act.job in self.jobs:
                job = self.jobs[act.job]
                self.recorder.insist(http, act.what, f"/v1/jobs/{job}/{act.what}", key=key, job=job)

    def _made(self, number, job):
        with self.lock:
            if number in self.jobs:
                return
            self.jobs[number] = job
            self.known.append(job)
        record = Reader(job)
        self.history.readers.append(record)
        reader = EventReader(self.recorder, record, f"{self.plan.seed} {number}")
        self.readers.append(reader)
        reader.start()


def run_seed(scene, seed, seconds):
    """The history of one seed."""
    cast = Cast(scene, seed, seconds)
    scene.errors, scene.chance = cast.plan.judge_errors, random.Random(f"judge {seed}")
    recorder, history = cast.recorder, cast.history
    watchers = [Watcher(scene.stack, recorder), Onlooker(recorder, cast.known)]
    nemesis = Nemesis(scene.stack, recorder, cast.plan.blows)
    for thread in (*watchers, nemesis):
        thread.start()
    cast.play()
    nemesis.join()
    assert not cast.refused, f"seed {seed}: {cast.refused}"
    scene.errors = 0.0
    _come_to_rest(scene, cast)
    for thread in (*cast.readers, *watchers):
        thread.stop.set()
    for thread in (*cast.readers, *watchers):
        thread.join(20)
    scene.stack.wait_ready()
    collect(history, scene.database_url, scene.stack.folder / "artifacts")
    return history


def _come_to_rest(scene, cast):
    """Until every job has ended or is paused, and its reader has seen what there is; or too much time has gone by, which the
    invariants then tell.
    """
    scene.stack.wait_ready()
    deadline = time.monotonic() + REST_S
    with cast.recorder.connect() as http:
        while time.monotonic() < deadline:
            try:
                jobs = [http.get(f"/v1/jobs/{job}").json() for job in cast.known]
                if all(job["status"] in (*TERMINAL, "paused") for job in jobs):
                    break
            except (httpx.HTTPError, KeyError):
                pass
            time.sleep(0.5)

        def read():
            for reader in cast.readers:
                if not reader.record.ended:
                    events = http.get(f"/v1/jobs/{reader.record.job}/events?after_seq={reader.seq}").json()["data"]
                    status = http.get(f"/v1/jobs/{reader.record.job}").json()["status"]
                    if events or status in TERMINAL:
                        return False
            return True

        try:
            wait_for(read, 30, "readers have read", every_s=0.3)
        except AssertionError:
            return  # I4 says what is missing


def told(history, seconds):
    """One line about a run."""
    states = Counter(row["status"] for row in history.jobs.values())
    faults = Counter(f"{f.role} {f.signal}" for f in history.faults if f.pid is not None)
    sent = [call for call in history.calls if call.what != "get"]
    seen = sum(len(reader.seen) for reader in history.readers)
    connections = sum(reader.connections for reader in history.readers)
    attempts = sum(len(found) for found in history.attempts.values())
    return (
        f"{len(history.jobs)} jobs ({_counted(states)}) in {attempts} attempts, {sum(faults.values())} faults"
        f" ({_counted(faults)}), {len(sent)} POSTs ({sum(call.error is not None for call in sent)} failed,"
        f" {sum(call.replayed for call in sent)} replayed) and {len(history.calls) - len(sent)} GETs, {seen} events in"
        f" {connections} connections, {len(history.checkpoints)} checkpoints, {seconds:.0f} s"
    )


def _counted(counts):
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))

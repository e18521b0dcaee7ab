"""The rows of the grading table, each a function that measures one thing and says what it has seen."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from service import lifeline
from service.client import GrapeClient

TEXTS = 256
CRITERIA = 10
CELLS = TEXTS * CRITERIA
IN_FLIGHT = 64


@dataclass
class Row:
    """One line of the table: what was measured, in which unit, against which target (`at_most` or `at_least`)."""

    name: str
    unit: str
    values: list[float]
    target: float | None = None
    at_least: bool = False
    ideal: float | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the target is met, and nothing else went wrong; null without a target."""
        if self.target is None:
            return None if not self.faults else False
        good = self.value >= self.target if self.at_least else self.value <= self.target
        return good and not self.faults


@dataclass
class Fake:
    """The fake judge, running."""

    port: int

    @property
    def base_url(self) -> str:
        """What a judge is created with."""
        return f"http://127.0.0.1:{self.port}/v1"

    def mode(self, **mode: float) -> None:
        """Behave like this, and count anew."""
        httpx.put(f"http://127.0.0.1:{self.port}/mode", json=mode, trust_env=False).raise_for_status()

    def stats(self) -> dict[str, Any]:
        """What came."""
        found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.port}/stats", trust_env=False).json()
        return found


@contextlib.contextmanager
def fake_judge() -> Iterator[Fake]:
    """The fake judge in a process of its own."""
    process = subprocess.Popen(
        [*lifeline.wrapper(signal.SIGKILL), sys.executable, "-m", "benchmarks.judging.fake"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Fake(json.loads(process.stdout.readline())["port"])
    finally:
        process.terminate()
        process.wait(10)


def text_of(number: int, run: str) -> str:
    """A text of about a hundred words that no other run has."""
    words = [f"word{(number * 31 + k * 7) % 997}" for k in range(100)]
    return f"Answer {number} of run {run}. " + " ".join(words)


@dataclass
class Bench:
    """A service, a fake judge, and a rubric that it judges by."""

    api: GrapeClient
    fake: Fake
    judge: str
    rubric: str

    @classmethod
    def make(cls, api: GrapeClient, fake: Fake) -> Bench:
        """A judge with the benchmark's concurrency, and ten criteria."""
        judge = api.post(
            "/v1/judges",
            {
                "name": "fake",
                "endpoint": {"base_url": fake.base_url, "model": "fake"},
                "concurrency": IN_FLIGHT,
                "timeout_s": 30,
            },
        )["id"]
        criteria = [
            {
                "key": f"c{k}",
                "weight": k + 1,
                "text": f"The answer is good in way number {k}: clear, correct and to the point.",
                "grader": {"type": "judge", "judge": judge},
            }
            for k in range(CRITERIA)
        ]
        body = {"name": "bench", "content": {"guidelines": "Good means good for the reader.", "criteria": criteria}}
        return cls(api, fake, judge, api.post("/v1/rubrics", body)["id"])

    def grade(self, run: str) -> tuple[float, list[dict[str, Any]]]:
        """Seconds from the POST of 256 texts to their last cell that can be read, and the completions."""
        texts = [{"prompt": f"Question {k} of 256?", "text": text_of(k, run)} for k in range(TEXTS)]
        body = {"rubric": {"id": self.rubric}, "texts": texts}
        started = time.monotonic()
        grading = self.api.post("/v1/gradings", body)["id"]
        while (now := self.api.get(f"/v1/gradings/{grading}"))["status"] not in ("succeeded", "failed", "cancelled"):
            time.sleep(0.05)
        if now["status"] != "succeeded":
            raise RuntimeError(f"the grading ended as {now['status']}: {now['error']}")
        self.api.get(f"/v1/gradings/{grading}/completions", limit=1)
        taken = time.monotonic() - started
        return taken, list(self.api.pages(f"/v1/gradings/{grading}/completions", limit=200))


def judged(bench: Bench, name: str, *, target: float, ideal: float, repeats: int, mode: dict[str, float]) -> Row:
    """2,560 judge calls under one behaviour of the judge."""
    row = Row(name, "s", [], target, ideal=ideal)
    for repeat in range(repeats):
        bench.fake.mode(**mode, seed=repeat)
        taken, completions = bench.grade(f"{name} {repeat} {time.time_ns()}")
        stats = bench.fake.stats()
        row.values.append(taken)
        cells = [cell for completion in completions for cell in completion["cells"]]
        scored = sum(cell["status"] == "ok" for cell in cells)
        row.seen = {**stats, "cells": len(cells), "scored": scored}
        if len(cells) != CELLS or scored != CELLS:
            row.faults.append(f"{scored} of {CELLS} cells are scored")
        if stats["early"]:
            row.faults.append(f"{stats['early']} calls came before their Retry-After")
        if stats["most_in_flight"] > IN_FLIGHT:
            row.faults.append(f"{stats['most_in_flight']} calls were in flight")
    return row


def cached(bench: Bench, repeats: int) -> Row:
    """The same again: no call."""
    run = f"cached {time.time_ns()}"
    bench.fake.mode(latency=0.0)
    bench.grade(run)
    row = Row("full cache hit", "s", [], 1.5)
    for _ in range(repeats):
        bench.fake.mode(latency=0.0)
        taken, completions = bench.grade(run)
        row.values.append(taken)
        calls = bench.fake.stats()["calls"]
        row.seen = {"calls": calls}
        cells = [cell for completion in completions for cell in completion["cells"]]
        if calls or not all(cell["cached"] for cell in cells):
            row.faults.append(f"{calls} calls")
    return row


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def sandboxed(repeats: int) -> Row:
    """Milliseconds of one unit test of trivial code, cold: a launcher and two processes behind walls for each run."""
    from workers.sandbox.check import check

    found = check()
    row = Row("sandboxed unit test", "ms", [], 150)
    if found.sandbox is None:
        raise RuntimeError(found.line)
    for _ in range(10 * repeats):
        begun = time.perf_counter()
        ran = found.sandbox.run_tests("def add(a, b):\n    return a + b\n", "assert add(1, 2) == 3\n")
        row.values.append((time.perf_counter() - begun) * 1000)
        if ran.share != 1:
            row.faults.append(str(ran.reason))
    row.seen["backend"] = found.line
    return row


def verifiable(repeats: int) -> Row:
    """Cells a second and core of exact, contains, regex, numeric and JSON schema criteria on texts of about 100 words."""
    from service.domain.rubric import Criterion
    from workers.graders.verifiers import verify

    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    graders: Sequence[dict[str, Any]] = [
        {"type": "exact", "reference": "{{ prompt.reference }}"},
        {"type": "contains", "values": ["word1", "{{ prompt.reference }}"], "mode": "any"},
        {"type": "regex", "pattern": r"\bword9\d\d\b"},
        {"type": "numeric", "reference": "{{ prompt.metadata.number }}", "rel_tol": 1e-6},
        {"type": "json_schema", "schema": schema, "extract": "first_object"},
    ]
    criteria = [
        Criterion.model_validate({"key": f"c{k}", "weight": 1, "grader": grader}) for k, grader in enumerate(graders)
    ]
    prompt = {
        "id": "p",
        "messages": [{"role": "user", "content": "q"}],
        "reference": "word5",
        "metadata": {"number": 7},
    }
    texts = [text_of(k, "verify") + f' {{"a": {k}}}' for k in range(1000)]
    row = Row("verifiable criteria", "cells/s per core", [], 5000, at_least=True)
    for _ in range(repeats):
        taken = cpu_seconds(lambda: [verify(c, prompt, text) for text in texts for c in criteria])
        row.values.append(len(texts) * len(criteria) / taken)
    return row

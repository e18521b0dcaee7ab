"""A job that others disturb, and what it has to be afterwards: the material of the integration tests, for stacks that a test breaks."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.conftest import Bench, bench
from tests.support.judge import FakeJudge, verdict

__all__ = ["Bench", "answer", "bench", "check_history", "material", "running", "undisturbed"]

STEPS = 40


@pytest.fixture(scope="module")
def undisturbed(stack):
    """The weights of the job below when nothing happens to it, by a judge that always says the same of the same text."""
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

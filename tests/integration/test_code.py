"""Code on the whole stack: `try`, a grading and a training job by a rubric whose criteria run in sandboxes."""

import pytest

from tests.support.gradings import cell, grade
from workers.sandbox.check import check

pytestmark = pytest.mark.skipif(check().sandbox is None, reason="tests/sandbox says whether that is a failure")

WORKS = {"key": "works", "weight": 1, "grader": {"type": "unit_tests", "tests": "{{ prompt.metadata.tests }}"}}
SHORT = {
    "key": "brief",
    "weight": 1,
    "grader": {
        "type": "python",
        "source": "def grade(sample, item):\n    return float(len(sample['output_text']) < 99)",
    },
}
GOOD, HALF, BAD = "def f(x):\n    return x + 1", "def f(x):\n    return 2", "import os\nos._exit(0)"
PROMPT = {"prompt": "Write f", "metadata": {"tests": "assert f(1) == 2\nassert f(2) == 3"}}


def test_try_and_gradings_run_code(bench, api):
    rubric = bench.rubric(WORKS, SHORT)
    rows = api.try_version(rubric, PROMPT, [GOOD, HALF, BAD])
    assert [cell(row, "works")["score"] for row in rows] == [1, 0.5, 0]
    assert {cell(row, "works")["status"] for row in rows} == {"ok"}
    assert "exit code 0" in cell(rows[2], "works")["reason"]
    texts = [{"prompt": PROMPT, "text": text} for text in (GOOD, HALF, BAD)]
    _, found = grade(api, {"rubric": {"id": rubric, "version": 1}, "texts": texts})
    assert [cell(row, "works")["score"] for row in found] == [1, 0.5, 0]
    assert [row["plain_reward"] for row in found] == [1, 0.75, 0.5]


def test_a_job_learns_from_cells_of_code(bench, api):
    source = "def grade(sample, item):\n    return min(1.0, sample['output_text'].count('a') / 3)"
    rubric = bench.rubric({"key": "a", "weight": 1, "grader": {"type": "python", "source": source}})
    job = bench.run("grape", rubric=rubric, training={"steps": 1})
    rows = list(api.pages(f"/v1/jobs/{job['id']}/completions"))
    assert rows
    for row in rows:
        assert cell(row, "a")["score"] == pytest.approx(min(1.0, row["text"].count("a") / 3))

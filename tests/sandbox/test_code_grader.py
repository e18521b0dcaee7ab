"""Cells of code: their statuses, the cache, and the grading worker's engine on a real database."""

import pytest
from sqlalchemy import func, select

from service.db.tables import CachedCell
from service.domain.rubric import Criterion
from tests.support.cells import ask, engine, finish, make_project
from workers.graders.code import code_key, grade_code
from workers.sandbox.check import Check

pytestmark = pytest.mark.sandbox

TESTS = {"type": "unit_tests", "tests": "assert f(1) == 2\nassert f(2) == 3", "memory_mb": 128}
GRADE = {
    "type": "python",
    "source": "def grade(sample, item):\n    return item['metadata']['x'] * len(sample['output_text'])",
}
PROMPT = {"id": "p", "messages": [{"role": "user", "content": "q"}], "category": None, "tags": [], "reference": None}
GOOD = "Here:\n```python\ndef f(x):\n    return x + 1\n```\n"


def criterion(grader=TESTS, **changes):
    return Criterion.model_validate({"key": "k", "weight": 1, "grader": grader, **changes})


def cell(sandbox, grader, text, prompt=None, **changes):
    return grade_code(criterion(grader, **changes), {**PROMPT, **(prompt or {})}, text, Check(sandbox, "here"))


def test_what_the_code_does_is_a_score(sandbox):
    found, lasting = cell(sandbox, TESTS, GOOD)
    assert (found.status, found.score, found.confidence, found.confidence_source) == ("ok", 1.0, 1.0, "verifier")
    assert (found.grader, found.reason, lasting) == ("unit_tests", None, True)
    found, _ = cell(sandbox, TESTS, "```python\ndef f(x): return 2\n```")
    assert (found.status, found.score) == ("ok", 0.5)
    found, _ = cell(sandbox, TESTS, "I would rather not.")
    assert (found.status, found.score) == ("ok", 0.0)
    found, lasting = cell(sandbox, {**TESTS, "timeout_s": 0.5}, "while True: pass")
    assert (found.status, found.score, lasting) == ("ok", 0.0, False)


def test_tests_come_from_the_row_too(sandbox):
    of_row = {**TESTS, "tests": "{{ prompt.metadata.tests }}"}
    for tests in ("assert f(1) == 2", ["assert f(1) == 2", "assert f(5) == 6"]):
        assert cell(sandbox, of_row, GOOD, {"metadata": {"tests": tests}})[0].score == 1
    found, _ = cell(sandbox, of_row, GOOD, {"metadata": {"tests": "assert f( == 2"}})
    assert (found.status, found.family) == ("sandbox_error", "infra")
    found, _ = cell(sandbox, of_row, GOOD, {"metadata": {}})
    assert found.status == "infra_error"


def test_what_the_author_does_is_a_null(sandbox):
    assert cell(sandbox, GRADE, "abcd", {"metadata": {"x": 0.25}})[0].score == 1.0
    for x in (2, -1, ""):
        found, lasting = cell(sandbox, GRADE, "abcd", {"metadata": {"x": x}})
        assert (found.status, found.score, found.family, lasting) == ("invalid_score", None, "infra", False)
    found, _ = cell(sandbox, {**GRADE, "source": "def grade(s, i): return float('nan')"}, "a")
    assert (found.status, found.score) == ("invalid_score", None)
    found, _ = cell(sandbox, GRADE, "abcd", {"metadata": {}})
    assert (found.status, found.score) == ("sandbox_error", None)
    assert "KeyError" in found.reason


def test_steps_are_graded_one_by_one(sandbox):
    source = "def grade(sample, item):\n    return float(len(sample['output_text']) > 1)"
    found, _ = cell(sandbox, {**GRADE, "source": source}, "aa\n\nb", scope="step")
    assert [step.score for step in found.steps] == [1, 0]
    assert found.score == 0.5


def test_without_walls_no_code_runs():
    for grader in (TESTS, GRADE):
        found, lasting = grade_code(
            criterion(grader), PROMPT, GOOD, Check(None, "sandbox: none; unshare: not permitted")
        )
        assert (found.status, found.score, found.family, lasting) == ("sandbox_unavailable", None, "infra", False)
        assert "not permitted" in found.reason


def test_the_key_has_all_that_a_cell_depends_on_and_nothing_else():
    base = code_key(criterion(), PROMPT, GOOD)
    assert code_key(criterion(weight=7, audit=True), {**PROMPT, "id": "other", "category": "c"}, GOOD) == base
    assert code_key(criterion(), PROMPT, "Other words\n" + GOOD) == base
    assert code_key(criterion(), PROMPT, GOOD.replace("+ 1", "+ 2")) != base
    assert code_key(criterion({**TESTS, "tests": "assert f(1) == 2"}), PROMPT, GOOD) != base
    assert code_key(criterion({**TESTS, "timeout_s": 1}), PROMPT, GOOD) != base
    graded = code_key(criterion(GRADE), PROMPT, "a")
    assert code_key(criterion(GRADE), {**PROMPT, "id": "other"}, "a") == graded
    assert code_key(criterion(GRADE), {**PROMPT, "reference": "r"}, "a") != graded
    assert code_key(criterion(GRADE), PROMPT, "b") != graded


def test_the_engine_runs_code_and_remembers_it(sandbox, cluster, database, database_name):
    del sandbox
    make_project(database)
    criteria = [
        {"key": "works", "weight": 1, "grader": TESTS},
        {"key": "own", "weight": 1, "grader": {**GRADE, "source": "def grade(s, i): return 0.25"}},
    ]
    for again in (False, True):
        grading = ask(database, criteria, [GOOD, "def f(x): return 2"], batch=2)
        with engine(cluster.url("grape_app", database_name)):
            cells = finish(database, grading)
        assert [(c["criterion"], c["score"], c["cached"]) for c in cells] == [
            ("own", 0.25, again), ("works", 1.0, again), ("own", 0.25, again), ("works", 0.5, again),
        ]  # fmt: skip
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(CachedCell)) == 4

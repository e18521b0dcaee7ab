"""Re-aggregation of stored cells on a real Postgres: other weights and versions without any call, the same bytes everywhere."""

import os
import subprocess
import sys
import time

import pytest
from sqlalchemy import text

from service.config import DatabaseSettings
from service.db.engine import Database
from service.domain.grade import Cell
from service.domain.scoring import CriterionWeight, GateRule, ScoredCell, ScoringOptions, score_group
from service.errors import Invalid
from tests.support.stored import (
    JUDGE,
    ask,
    claims_of,
    grading_of,
    judged,
    make_job,
    make_project,
    make_rubric,
    numbers,
    random_cells,
    regrade,
    shown,
)
from workers.gradings.reuse import Regrader
from workers.gradings.rubrics import Rubrics
from workers.runs.gradings import GradingFailure
from workers.runs.held import StaleFence

# The golden case of grape.md §5: three criteria, four completions.
SCORES = [[1, 0.5, 0.2], [0, 0.9, 0.4], [1, 0.7, 0.9], [0, 0.3, 0.5]]
CONFIDENCES = [[1, 0.9, 0.2], [1, 0.8, 0.4], [1, 0.7, 0.3], [1, 0.8, 0.3]]
KEYS = ["a", "b", "c"]


def golden(k):
    common = {"status": "ok", "grader": "judge", "judge": JUDGE, "revision": 1, "reasoning": "why"}
    return [
        Cell(criterion=key, score=SCORES[k % 4][j], confidence=CONFIDENCES[k % 4][j], **common)
        for j, key in enumerate(KEYS)
    ]


@pytest.fixture
def url(cluster, database_name, database):
    make_project(database)
    return cluster.url("grape_app", database_name)


def content(*criteria, **more):
    return {"criteria": list(criteria), **more}


def test_other_weights_give_the_golden_numbers_and_no_new_cells(database, url):
    rubric = make_rubric(
        database,
        content(*map(judged, KEYS)),
        content(judged("a", weight=2), judged("b", title="", tags=["t"]), judged("c", default_confidence=0.5)),
    )
    job, ids = make_job(database, rubric, 1, 4, golden)
    grading = ask(url, job=job, reuse_cells=True, rubric={"id": rubric, "version": 2})
    regrade(database)
    rows = shown(database, grading)
    assert [row["source"] for row in rows] == ids
    assert [round(row["reward"], 6) for row in rows] == [0.793548, 0.270968, 0.912903, 0.125806]
    assert [round(row["unscaled_advantage"], 6) for row in rows] == [0.267742, -0.254839, 0.387097, -0.4]
    assert [round(rows[0]["parts"][key], 6) for key in KEYS] == [0.322581, -0.025806, -0.029032]
    assert {row["rubric"]["version"] for row in rows} == {2}
    assert {row["text"] for row in rows} == {f"text {k}" for k in range(4)}
    assert [[c["criterion"] for c in row["cells"]] for row in rows] == [KEYS] * 4
    done = grading_of(database, grading)
    assert (done.status, done.cells, done.done, done.failed) == ("succeeded", 12, 12, 0)
    assert done.summary["criteria"]["c"]["score"] == pytest.approx(0.5, abs=1e-15)
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM cells")) == 12
        for table in ("grading_items", "grading_groups", "cell_batches"):
            assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0


def test_what_was_asked_decides_whether_a_cell_stays(database, url):
    verifier = {"key": "v", "weight": 1, "text": "for people", "grader": {"type": "regex", "pattern": "x"}}
    old = content(judged("a"), judged("b"), judged("c"), verifier, guidelines="g")
    new = content(
        judged("a", audit=True),  # set apart, not asked anew
        judged("b", text="is b, really"),
        {**judged("c"), "grader": {"type": "judge", "judge": JUDGE, "votes": 3}},
        {**verifier, "text": "for other people", "gate": {"mode": "cap", "threshold": 0.5, "cap": 0.5}},
        judged("d"),
        guidelines="g",
    )
    rubric = make_rubric(database, old, new, {**new, "guidelines": "g."})

    def cells(k):
        found = [c for c in golden(k) if c.criterion in KEYS]
        common = {"grader": "regex", "confidence": 1.0, "confidence_source": "verifier"}
        return [*found, Cell(criterion="v", status="ok", score=float(k % 2), **common)]

    job, _ = make_job(database, rubric, 1, 4, cells)
    grading = ask(
        url, job=job, reuse_cells=True, rubric={"id": rubric, "version": 2}, aggregation={"min_coverage": 0.1}
    )
    regrade(database)
    rows = shown(database, grading)
    assert [[(c["criterion"], c["audit"]) for c in row["cells"]] for row in rows] == [[("a", True), ("v", False)]] * 4
    assert [row["coverage"] for row in rows] == [0.25] * 4
    assert [row["plain_reward"] for row in rows] == [None] * 4
    gated = CriterionWeight("v", 1.0, judged=False, gate=GateRule(0.5, 0.5))
    weights = [gated, *(CriterionWeight(key, 1.0) for key in "bcd")]
    again = score_group(
        weights, [{"v": ScoredCell(float(k % 2), 1.0)} for k in range(4)], ScoringOptions(min_coverage=0.1)
    )
    assert [row["reward"] for row in rows] == [c.reward for c in again.completions] == [0.0, 1.0, 0.0, 1.0]
    done = grading_of(database, grading)
    assert (done.cells, done.done, done.failed) == (20, 20, 12)
    assert done.summary["nulls"] == {"missing": 12}
    assert done.summary["criteria"]["b"]["nulls"] == {"missing": 4}
    assert done.summary["criteria"]["a"]["ok"] == 4
    grading = ask(url, job=job, reuse_cells=True, rubric={"id": rubric, "version": 3})
    regrade(database)
    # other guidelines: every judge was asked something else, the verifier was not
    assert {c["criterion"] for row in shown(database, grading) for c in row["cells"]} == {"v"}


def test_without_a_rubric_each_keeps_its_version_under_another_weighting(database, url):
    first = make_rubric(database, content(*map(judged, KEYS)), content(*(judged(k, weight=3) for k in KEYS)))
    second = make_rubric(database, content(judged("a"), judged("b", weight=5)))
    _, ids = make_job(database, first, 2, 4, golden)
    _, more = make_job(database, second, 1, 2, lambda k: golden(k)[:2])
    grading = ask(url, completions=[*ids, *more], reuse_cells=True, aggregation={"weighting": "uniform"})
    regrade(database)
    rows = shown(database, grading)
    assert [row["source"] for row in rows] == [*ids, *more]
    assert [row["rubric"]["id"] for row in rows] == [first] * 8 + [second] * 2
    assert rows[0]["reward"] == pytest.approx((1 + 0.5 + 0.2) / 3, abs=1e-15)
    assert rows[8]["reward"] == pytest.approx((1 + 5 * 0.5) / 6, abs=1e-15)
    # its results can be aggregated anew too: by their own versions, or by another
    again = ask(url, grading=grading, reuse_cells=True, rubric={"id": first, "version": 2})
    regrade(database)
    twice = shown(database, again)
    assert [row["source"] for row in twice] == [row["id"] for row in rows]
    assert [c["critique"] for c in twice[0]["cells"]] == [c["critique"] for c in rows[0]["cells"]]
    assert [row["reward"] for row in twice[:4]] != [row["reward"] for row in rows[:4]]
    assert [c["criterion"] for c in twice[9]["cells"]] == ["a", "b"]
    kept = ask(url, grading=again, reuse_cells=True, aggregation={"weighting": "confidence"})
    regrade(database)
    assert {tuple(row["rubric"].items()) for row in shown(database, kept)} == {(("id", first), ("version", 2))}


def test_the_same_bytes_in_any_order_page_and_process(database, url):
    keys = [f"c{k}" for k in range(7)]
    old, new = content(*map(judged, keys)), content(*(judged(k, weight=0.1 * (i + 1)) for i, k in enumerate(keys)))
    rubric = make_rubric(database, old, new)
    cells = random_cells(keys)
    found = set()
    for backwards, options in ((False, {}), (True, {}), (False, {"take_cells": 1}), (True, {"take_cells": 100})):
        job, _ = make_job(database, rubric, 20, 6, cells, backwards=backwards)
        grading = ask(url, job=job, reuse_cells=True, rubric={"id": rubric, "version": 2})
        regrade(database, **options)
        found.add(numbers(database, grading))
    for seed in ("1", "2"):
        grading = ask(url, job=job, reuse_cells=True, rubric={"id": rubric, "version": 2})
        code = (
            "import sys; from service.config import DatabaseSettings; from service.db.engine import Database;"
            "from tests.support.stored import regrade; regrade(Database(DatabaseSettings(url=sys.argv[1])), take_cells=333)"
        )
        subprocess.run([sys.executable, "-c", code, url], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        found.add(numbers(database, grading))
    assert len(found) == 1


def test_a_lost_worker_is_followed_by_another_with_the_same_result(database, url):
    keys = ["a", "b"]
    rubric = make_rubric(
        database, content(*map(judged, keys)), content(judged("a", weight=4), judged("b"), judged("d"))
    )
    job, _ = make_job(database, rubric, 12, 3, random_cells(keys))
    quiet = ask(url, job=job, reuse_cells=True, rubric={"id": rubric, "version": 2})
    regrade(database)
    grading = ask(url, job=job, reuse_cells=True, rubric={"id": rubric, "version": 2})
    claims = claims_of(database)
    lost = claims.claim("reuse")
    checks = iter(range(3))

    def die():
        if next(checks, None) is None:
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        Regrader(lost, Rubrics(lost), die, take_cells=10).run()
    assert 0 < grading_of(database, grading).done < 108
    with database.transaction() as session:
        session.execute(
            text("UPDATE gradings SET lease_expires_at = now() - interval '1 s' WHERE id = :id"), {"id": grading}
        )
    successor = claims_of(database, lease_s=0.2)
    assert successor.claim("reuse") is None  # it has only just reached the database: this may have been an outage
    time.sleep(0.3)
    regrade(database, held=successor.claim("reuse"))
    assert numbers(database, grading) == numbers(database, quiet)
    assert grading_of(database, grading).failures == 1
    with pytest.raises(StaleFence):
        lost.succeed({})
    before = numbers(database, grading)
    Regrader(lost, Rubrics(lost), lambda: None).run()  # finds nothing to do
    assert numbers(database, grading) == before


def test_prompts_decide_what_applies_now(database, url):
    only_code = judged("b", applies_to={"categories": ["code"]})
    rubric = make_rubric(database, content(judged("a"), judged("b")), content(judged("a"), only_code))
    job, _ = make_job(database, rubric, 1, 2, lambda k: golden(k)[:2], prompt={"category": "maths", "tags": []})
    grading = ask(url, job=job, reuse_cells=True, rubric={"id": rubric, "version": 2})
    regrade(database)
    rows = shown(database, grading)
    assert [[c["criterion"] for c in row["cells"]] for row in rows] == [["a"], ["a"]]
    assert [row["plain_reward"] for row in rows] == [1.0, 0.0]
    assert grading_of(database, grading).cells == 2


def test_options_that_the_criteria_do_not_allow_are_refused_or_fail_with_a_sentence(database, url):
    gated = judged("a", gate={"mode": "required"})
    rubric = make_rubric(database, content(gated, judged("b")))
    job, _ = make_job(database, rubric, 1, 2, lambda k: golden(k)[:2])
    body = {"job": job, "reuse_cells": True, "aggregation": {"weighting": "healthbench"}}
    with pytest.raises(Invalid, match="gates") as caught:
        ask(url, **body, rubric={"id": rubric})
    assert caught.value.errors[0]["pointer"] == "/aggregation/weighting"
    ask(url, **body)
    with pytest.raises(GradingFailure, match="gates") as failed:
        regrade(database)
    assert failed.value.code == "rubric_invalid"


def test_healthbench_scores_stand_alone_and_may_be_negative(database, url):
    good, bad = judged("a", weight=5), judged("b", weight=8, polarity="met_is_bad")
    rubric = make_rubric(database, content(good, bad))

    def cells(k):
        common = {"status": "ok", "grader": "judge", "judge": JUDGE, "revision": 1}
        met = [(1, 0), (1, 1), (0, 1)][k]
        return [Cell(criterion="a", score=met[0], **common), Cell(criterion="b", score=1 - met[1], **common)]

    job, _ = make_job(database, rubric, 3, 1, cells)
    grading = ask(url, job=job, reuse_cells=True, aggregation={"weighting": "healthbench"})
    regrade(database)
    # points met / positive points: 5/5, (5−8)/5, −8/5; the benchmark clips only the mean
    assert [row["reward"] for row in shown(database, grading)] == pytest.approx([1.0, -0.6, -1.6])
    assert grading_of(database, grading).summary["reward"] == pytest.approx(-0.4)


def test_nothing_is_done_twice_by_two_workers(database, url):
    rubric = make_rubric(database, content(*map(judged, KEYS)))
    job, _ = make_job(database, rubric, 1, 4, golden)
    ask(url, job=job, reuse_cells=True)
    second = Database(DatabaseSettings(url=url))
    assert claims_of(database).claim("reuse") is not None
    assert claims_of(second).claim("reuse") is None
    assert claims_of(second).claim("grade") is None
    second.dispose()


def test_a_map_of_rubrics_splits_what_two_versions_score(database, url):
    """One stored group whose prompts have two categories (a person named it) is a group for each version."""
    heavy = make_rubric(database, content(judged("a", weight=3), judged("b")))
    plain = make_rubric(database, content(*map(judged, KEYS)))
    job, ids = make_job(database, plain, 1, 4, golden)
    with database.transaction() as session:
        for k, category in enumerate(["x", "x", "y", None]):
            statement = (
                "UPDATE completions SET prompt = jsonb_set(prompt, '{category}', CAST(:c AS jsonb)) WHERE id = :id"
            )
            session.execute(text(statement), {"c": "null" if category is None else f'"{category}"', "id": ids[k]})
    rubrics = {"x": {"id": heavy}, "*": {"id": plain}}
    grading = ask(url, completions=ids, reuse_cells=True, rubric=rubrics, aggregation={"weighting": "uniform"})
    regrade(database)
    rows = shown(database, grading)
    assert [row["rubric"]["id"] for row in rows] == [heavy, heavy, plain, plain]
    # by hand, weights (3, 1) over a and b, then (1, 1, 1) over all: R = Σ w·s/Σw
    expected = [3.5 / 4, 0.9 / 4, 2.6 / 3, 0.8 / 3]
    assert [row["reward"] for row in rows] == pytest.approx(expected, abs=1e-15)
    assert [row["index"] for row in rows] == [0, 1, 0, 1]
    assert grading_of(database, grading).summary["groups"] == 2
    # without a default the last completion has no rubric: refused, also where it comes after the check
    with pytest.raises(Invalid) as caught:
        ask(url, job=job, reuse_cells=True, rubric={"x": {"id": heavy}, "y": {"id": plain}})
    assert (caught.value.errors[0]["pointer"], caught.value.errors[0]["code"]) == ("/rubric", "no_rubric")
    late = ask(url, completions=ids[:2], reuse_cells=True, rubric={"x": {"id": heavy}})
    with database.transaction() as session:
        session.execute(text("UPDATE completions SET prompt = prompt - 'category' WHERE id = :id"), {"id": ids[0]})
    with pytest.raises(GradingFailure) as failure:
        regrade(database)
    assert failure.value.code == "no_rubric"
    assert grading_of(database, late).status == "running"

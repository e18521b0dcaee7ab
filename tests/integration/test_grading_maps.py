"""A rubric for each category in a grading, `*` for all others: as jobs have them, also for cells that are used again."""

import pytest

from service.client import ApiError
from service.domain.scoring import CriterionWeight, ScoringOptions
from tests.support.gradings import HAS, SHORT, cell, check_numbers, grade
from tests.support.judge import verdict


def refused(api, body):
    with pytest.raises(ApiError) as caught:
        api.post("/v1/gradings", body)
    assert caught.value.status == 422
    return [(error["pointer"], error["code"]) for error in caught.value.errors]


@pytest.fixture
def two(bench, judge):
    """`maths` asks a judge under guidelines of its own and weighs uniformly; everything else is to be short."""
    judge.answer = lambda q: verdict(q, "nice" in q.answer, 0.4)
    asked = bench.judged(bench.judge(judge))
    maths = bench.rubric(HAS, asked, guidelines="Maths only.", aggregation={"weighting": "uniform"})
    return maths, bench.rubric(SHORT, {**asked, "weight": 3})


def texts():
    maths = {"prompt": "p", "reference": "r", "category": "maths"}
    return [
        {"prompt": maths, "text": "r nice"},
        {"prompt": {"prompt": "p", "category": "code"}, "text": "nice"},
        {"prompt": maths, "text": "r"},
        {"prompt": "p", "text": "a long text"},
        {"prompt": {"prompt": "p", "category": "code"}, "text": "x"},
    ]


def test_every_text_is_graded_by_its_categorys_rubric_and_again_without_a_call(bench, judge, api, two):
    maths, rest = two
    body = {"rubric": {"maths": {"id": maths, "version": 1}, "*": {"id": rest}}, "aggregation": {"min_coverage": 0.75}}
    grading, rows = grade(api, {**body, "texts": texts()})
    shown = grading["rubric"]
    assert {k: (v["id"], v["aggregation"]["weighting"]) for k, v in shown.items()} == {
        "maths": (maths, "uniform"), "*": (rest, "confidence"),
    }  # fmt: skip
    assert (grading["aggregation"].get("weighting"), grading["aggregation"]["min_coverage"]) == (None, 0.75)
    assert [row["rubric"]["id"] for row in rows] == [maths, rest, maths, rest, rest]
    assert [[c["criterion"] for c in row["cells"]] for row in rows] == [
        ["has", "nice"], ["nice", "short"], ["has", "nice"], ["nice", "short"], ["nice", "short"],
    ]  # fmt: skip
    uniform = [CriterionWeight("has", 2.0, judged=False), CriterionWeight("nice", 1.0)]
    check_numbers([rows[0], rows[2]], uniform, ScoringOptions(weighting="uniform", min_coverage=0.75))
    weights = [CriterionWeight("nice", 3.0), CriterionWeight("short", 1.0, judged=False)]
    check_numbers([rows[1], rows[4]], weights, ScoringOptions(min_coverage=0.75))
    assert rows[3]["signal"] == "too_few_members"
    assert grading["progress"] == {"cells": 10, "done": 10, "failed": 0}
    for question in judge.questions:
        assert ("Maths only." in question.body["messages"][0]["content"]) == (question.answer in ("r nice", "r"))
    # the stored cells under a map again: the same numbers, and nobody is asked
    asked = len(judge.questions)
    again, same = grade(api, {**body, "grading": grading["id"], "reuse_cells": True})
    assert again["summary"] == grading["summary"]
    for name in ("reward", "plain_reward", "advantage", "parts", "weighting", "signal", "rubric", "coverage"):
        assert [row[name] for row in same] == [row[name] for row in rows], name
    # swapped: what the other rubric does not ask is missing, what it does ask in the same words stays
    swapped = {"code": {"id": maths}, "*": {"id": rest}}
    _, other = grade(api, {"rubric": swapped, "grading": grading["id"], "reuse_cells": True})
    assert [row["rubric"]["id"] for row in other] == [rest, maths, rest, rest, maths]
    assert [[c["criterion"] for c in row["cells"]] for row in other] == [[], [], [], ["nice", "short"], []]
    assert len(judge.questions) == asked
    assert cell(same[0], "nice")["score"] == 1.0


def test_a_prompt_without_a_rubric_is_an_error_at_submit(bench, api, two):
    maths, rest = two
    only = {"maths": {"id": maths}}
    assert refused(api, {"rubric": only, "texts": texts()}) == [("/texts/1/prompt/category", "no_rubric")]
    assert refused(api, {"rubric": only, "dataset": bench.demonstrations()}) == [("/rubric", "no_rubric")]
    both = {**only, "*": {"id": rest}}
    grading, rows = grade(api, {"rubric": both, "texts": texts()})
    for source in ({"grading": grading["id"]}, {"completions": [row["id"] for row in rows]}):
        found = refused(api, {"rubric": only, "reuse_cells": True, **source})
        assert found == [("/rubric", "no_rubric")] * 2  # code, and no category
    assert refused(api, {"rubric": {**only, "a/b": {"id": rest, "version": 9}}, "texts": texts()[:1]}) == [
        ("/rubric/a~1b/version", "not_found")
    ]
    named = [{**item, "group": "g"} for item in texts()[:2]]
    assert refused(api, {"rubric": both, "texts": named}) == [("/texts/1/prompt", "mixed_group")]

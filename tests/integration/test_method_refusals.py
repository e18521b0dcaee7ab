"""Options of the method that this rubric's criteria do not allow are refused at submit, at their place."""

import pytest

from service.client import ApiError

GATED = {"key": "g", "weight": 1, "grader": {"type": "regex", "pattern": "x"}, "gate": {"mode": "required"}}


def refusal(bench, algorithm, *criteria, **content):
    before = len(list(bench.api.pages("/v1/jobs", limit=1000)))
    with pytest.raises(ApiError) as caught:
        bench.api.post("/v1/jobs", bench.spec(rubric=bench.rubric(*criteria, **content), algorithm=algorithm))
    assert len(list(bench.api.pages("/v1/jobs", limit=1000))) == before
    assert caught.value.status == 422
    (error,) = caught.value.errors
    return error["pointer"], error["message"]


def test_what_needs_something_of_the_rubric(bench, judge, api):
    once, thrice = bench.judge(judge), bench.judge(judge, votes=3)
    noise = {"type": "grape", "advantage": {"noise_aware": True}}
    place, message = refusal(bench, noise, bench.judged(once))
    assert (place, "'nice' has a single vote" in message) == ("/algorithm/advantage/noise_aware", True)
    place, _ = refusal(bench, {"type": "grape", "aggregation": {"weighting": "inverse_variance"}}, bench.judged(once))
    assert place == "/algorithm/aggregation/weighting"
    place, message = refusal(bench, {"type": "grape", "advantage": {"level": "criterion"}}, GATED)
    assert (place, "'g'" in message) == ("/algorithm/advantage/level", True)
    job = api.post("/v1/jobs", bench.spec(rubric=bench.rubric(bench.judged(thrice)), algorithm=noise))
    assert job["algorithm"]["advantage"]["noise_aware"] is True  # the judge's own three votes are enough
    api.post(f"/v1/jobs/{job['id']}/cancel")


def test_what_an_author_says_is_inherited_field_by_field(bench, api):
    author = {"aggregation": {"min_coverage": 0.8, "max_null_share": 0.3, "weighting": "inverse_variance"}}
    for kind, algorithm, expected in (
        ("grape", {"aggregation": {"min_coverage": 0.4, "weighting": "uniform"}}, (0.4, 0.3, "uniform")),
        ("grpo", {}, (0.8, 0.3, "uniform")),
        ("reinforce", {"aggregation": {"max_null_share": 0.2}}, (0.8, 0.2, None)),
    ):
        job = api.post(
            "/v1/jobs", bench.spec(kind, rubric=bench.rubric(**author), algorithm={"type": kind, **algorithm})
        )
        own = job["algorithm"]["aggregation"]
        assert (own["min_coverage"], own["max_null_share"], own["weighting"]) == expected
        api.post(f"/v1/jobs/{job['id']}/cancel")


def test_the_benchmarks_score_is_not_trained_on(bench, api):
    """Not even where the author's default says so; `grpo` weighs uniformly whatever the author says, and `evaluate` may."""
    author = {"aggregation": {"weighting": "healthbench"}}
    place, message = refusal(bench, {"type": "grape"}, **author)
    assert (place, "evaluate" in message) == ("/algorithm/aggregation/weighting", True)
    for kind in ("grpo", "evaluate"):
        job = api.post("/v1/jobs", bench.spec(kind, rubric=bench.rubric(**author)))
        expected = "uniform" if kind == "grpo" else "healthbench"
        assert job["algorithm"]["aggregation"]["weighting"] == expected
        api.post(f"/v1/jobs/{job['id']}/cancel")


def test_a_judge_that_has_changed_since_the_rubric_was_published(bench, judge, api):
    judge_id = bench.judge(judge, votes=2)
    rubric = bench.rubric(bench.judged(judge_id, grader={"type": "judge", "judge": judge_id, "confidence": "votes"}))
    api.patch(f"/v1/judges/{judge_id}", {"votes": 1})
    with pytest.raises(ApiError) as caught:
        api.post("/v1/jobs", bench.spec(rubric=rubric))
    (error,) = caught.value.errors
    assert (error["pointer"], error["code"]) == ("/rubric", "contradiction")
    assert "criterion 'nice' as its judge is now" in error["message"]


def test_a_judge_that_has_changed_since_the_rows_came_in(bench, judge, api):
    """What a dataset's prompts bring along is looked at again at submit, as a rubric's criteria are."""
    own = bench.judge(judge, votes=2)
    criteria = [bench.judged(own, key="own", grader={"type": "judge", "judge": own, "confidence": "votes"})]
    rows = [{"prompt": f"a {k}", "reference": "a", **({"criteria": criteria} if k > 2 else {})} for k in range(5)]
    prompts = bench.prompts(rows)
    api.patch(f"/v1/judges/{own}", {"votes": 1})
    for spec in (
        bench.spec(prompts=prompts),
        bench.spec(evaluation={"prompts": prompts, "every_steps": 2}),
    ):
        with pytest.raises(ApiError) as caught:
            api.post("/v1/jobs", spec)
        (error,) = caught.value.errors
        place = "/evaluation/prompts" if "evaluation" in spec else "/data/prompts"
        assert (error["pointer"], error["code"]) == (place, "contradiction")
        assert error["message"].startswith(f"criterion 'own' of row {prompts}:4 as its judge is now")
    api.patch(f"/v1/judges/{own}", {"votes": 2})
    job = api.post("/v1/jobs", bench.spec(prompts=prompts))
    api.post(f"/v1/jobs/{job['id']}/cancel")


def test_what_only_training_steps_could_give_is_refused_of_evaluations(bench, api):
    """An author's own options of this kind are for training: an evaluation passes over them."""
    author = {"aggregation": {"pooling": "shrunk", "confidence_exponent_final": 0}}
    for name, value in author["aggregation"].items():
        with pytest.raises(ApiError) as caught:
            api.post("/v1/jobs", bench.spec("evaluate", algorithm={"type": "evaluate", "aggregation": {name: value}}))
        assert [e["pointer"] for e in caught.value.errors] == [f"/algorithm/aggregation/{name}"]
    bench.run("evaluate", rubric=bench.rubric(**author))

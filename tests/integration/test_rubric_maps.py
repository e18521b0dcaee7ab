"""A rubric for each category, with modules, system prompts, and options that differ: through the whole stack."""

import pytest

from service.client import ApiError

HAS = {"type": "contains", "values": ["{{ prompt.reference }}"]}
SHORT = {"type": "regex", "pattern": "^.{0,7}$"}


def rubric(bench, content, category=None):
    return bench.api.post("/v1/rubrics", {"name": "r", "category": category, "content": content})["id"]


def completions(bench, job, **filters):
    return list(bench.api.pages(f"/v1/jobs/{job['id']}/completions", limit=500, **filters))


@pytest.fixture
def map_of_rubrics(bench, judge):
    """`maths` by a module and an own criterion; everything else by another rubric, with other options."""
    judge_id = bench.judge(judge)
    module = rubric(bench, {"guidelines": "Module guidelines.", "criteria": [bench.judged(judge_id, weight=4)]})
    maths = rubric(
        bench,
        {
            "guidelines": "Maths guidelines.",
            "system_prompt": "a b c",
            "includes": [{"as": "tone", "rubric": module, "weight": 0.5}],
            "criteria": [{"key": "has", "weight": 2, "grader": HAS}],
            "aggregation": {"weighting": "uniform", "prompt_criteria_weight": 0.25},
        },
        "maths",
    )
    rest = rubric(
        bench,
        {"criteria": [{"key": "short", "weight": 1, "grader": SHORT}, bench.judged(judge_id, "other")],
         "aggregation": {"min_coverage": 0.9}},
    )  # fmt: skip
    # the module moves on after the rubric was published: what was pinned stays
    bench.api.publish_version(module, {"criteria": [bench.judged(judge_id, "changed", text="changed")]})
    return maths, rest


def rows():
    return [
        {"prompt": "a e", "reference": "a", "category": "maths", "criteria": [{"weight": 4, "grader": SHORT}]},
        {"prompt": "b e", "reference": "b", "category": "maths"},
        {"prompt": "c e", "category": "code"},
        {"prompt": "d e"},
    ]


def test_every_completion_stores_and_is_graded_by_its_categorys_rubric(bench, judge, map_of_rubrics):
    maths, rest = map_of_rubrics
    prompts = bench.prompts(rows())
    spec = bench.spec(prompts=prompts, training={"steps": 4}, evaluation={"prompts": prompts, "every_steps": 4})
    spec["rubric"] = {"maths": {"id": maths, "version": 1}, "*": {"id": rest}}
    spec["algorithm"]["aggregation"] = {"max_null_share": 0.2}
    job = bench.finish(bench.api.post("/v1/jobs", spec)["id"])
    shown = job["rubric"]
    assert {category: (ref["id"], ref["version"]) for category, ref in shown.items()} == {
        "maths": (maths, 1), "*": (rest, 1),
    }  # fmt: skip
    assert job["evaluation"]["rubric"] == shown
    # field by field: the job's, else each author's own; what authors differ on is null in the job's own block
    assert (shown["maths"]["aggregation"]["weighting"], shown["*"]["aggregation"]["weighting"]) == (
        "uniform",
        "confidence",
    )
    assert (shown["maths"]["aggregation"]["min_coverage"], shown["*"]["aggregation"]["min_coverage"]) == (0.5, 0.9)
    common = job["algorithm"]["aggregation"]
    assert (common["weighting"], common["min_coverage"], common["max_null_share"]) == (None, None, 0.2)
    for purpose in ("train", "evaluation"):
        found = completions(bench, job, purpose=purpose)
        assert {row["prompt"]["category"] for row in found} == {"maths", "code", None}
        for row in found:
            weights = {key: w["weight"] for key, w in row["weighting"].items()}
            if row["prompt"]["category"] == "maths":
                own = {"prompt.0": 1.0} if row["prompt"]["reference"] == "a" else {}
                assert row["rubric"] == {"id": maths, "version": 1}
                assert weights == {"has": 2, "tone.nice": 2.0, **own}
                # what the policy saw is what is stored, and what the judge saw
                assert row["prompt"]["messages"][0] == {"role": "system", "content": "a b c"}
                shares = {key: w["share"] for key, w in row["weighting"].items() if w["share"] is not None}
                assert (
                    shares == {key: pytest.approx(w / sum(weights.values())) for key, w in weights.items()}
                    or not shares
                )
            else:
                assert row["rubric"] == {"id": rest, "version": 1}
                assert weights == {"short": 1, "other": 1}
                assert [m["role"] for m in row["prompt"]["messages"]] == ["user"]
    # confidence weights where the author said so: the judge's 0.8 against the verifier's 1
    train = [r for r in completions(bench, job) if r["prompt"]["category"] != "maths" and r["reward"] is not None]
    assert {round(r["weighting"]["other"]["share"], 9) for r in train} == {round(0.8 / 1.8, 9)}
    for question in judge.questions:
        maths_asked = question.criteria == ["tone.nice"]
        assert question.criteria in (["tone.nice"], ["other"])
        system = question.body["messages"][0]["content"]
        assert ("Maths guidelines.\n\nModule guidelines." in system) == maths_asked
        assert ("a b c" in question.text) == maths_asked


def test_a_prompt_without_a_rubric_is_refused_at_submit_with_its_count(bench, map_of_rubrics):
    maths, rest = map_of_rubrics
    prompts = bench.prompts([*rows(), {"prompt": "f e", "category": "code"}])
    spec = bench.spec(prompts=prompts)
    spec["rubric"] = {"maths": {"id": maths}}
    with pytest.raises(ApiError) as caught:
        bench.api.post("/v1/jobs", spec)
    faults = [(e["pointer"], e["code"], e["message"]) for e in caught.value.errors]
    assert [fault[:2] for fault in faults] == [("/rubric", "no_rubric")] * 2
    assert "2 prompts" in faults[0][2]
    assert "'code'" in faults[0][2]
    assert "1 prompt of" in faults[1][2]
    assert "no category" in faults[1][2]
    spec["rubric"] = {"maths": {"id": maths}, "*": {"id": rest}}
    spec["evaluation"] = {"prompts": prompts, "rubric": {"maths": {"id": maths}}}
    with pytest.raises(ApiError) as caught:
        bench.api.post("/v1/jobs", spec)
    assert {e["pointer"] for e in caught.value.errors} == {"/evaluation/rubric"}
    spec["rubric"] = {"maths": {"id": maths}, "a/b": {"id": rest, "version": 7}}
    with pytest.raises(ApiError) as caught:
        bench.api.post("/v1/jobs", spec)
    assert caught.value.errors[0]["pointer"] == "/rubric/a~1b/version"


def test_a_single_reference_keeps_its_look_and_fills_the_jobs_options(bench, map_of_rubrics):
    maths, _ = map_of_rubrics
    job = bench.api.post("/v1/jobs", bench.spec(rubric=maths, prompts=bench.prompts(rows()[:2])))
    assert set(job["rubric"]) == {"id", "version", "hash"}
    assert (job["algorithm"]["aggregation"]["weighting"], job["algorithm"]["aggregation"]["min_coverage"]) == (
        "uniform",
        0.5,
    )
    bench.api.post(f"/v1/jobs/{job['id']}/cancel")


def test_evaluation_may_have_a_map_where_training_has_one_rubric(bench, map_of_rubrics):
    maths, rest = map_of_rubrics
    prompts = bench.prompts(rows())
    spec = bench.spec("sft", evaluation={"prompts": prompts, "rubric": {"maths": {"id": maths}, "*": {"id": rest}}})
    job = bench.finish(bench.api.post("/v1/jobs", spec)["id"])
    found = completions(bench, job, purpose="evaluation")
    assert {(row["prompt"]["category"], row["rubric"]["id"]) for row in found} == {
        ("maths", maths), ("code", rest), (None, rest),
    }  # fmt: skip
    (asked,) = [row for row in found if row["step"] == 0 and row["prompt"].get("criteria")]
    assert asked["weighting"]["prompt.0"]["weight"] == 1.0  # 4 · the author's prompt_criteria_weight of 0.25

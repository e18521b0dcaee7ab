"""Rubrics in jobs, through the whole stack: criteria that apply to some prompts only, and criteria that prompts bring along."""

import pytest

from service.client import ApiError

HAS = {"type": "contains", "values": ["{{ prompt.reference }}"]}
SHORT = {"type": "regex", "pattern": "^.{0,7}$"}


def completions(bench, job, **filters):
    return list(bench.api.pages(f"/v1/jobs/{job['id']}/completions", limit=500, **filters))


def own(judge_id, text="names the letter", **changes):
    return {"text": text, "points": 3, "grader": {"type": "judge", "judge": judge_id}, **changes}


def rows_with_criteria(judge_id):
    return [
        {"prompt": "a e", "reference": "a", "category": "one", "tags": ["t"], "criteria": [own(judge_id, tags=["axis"])]},
        {"prompt": "b e", "reference": "b", "category": "one",
         "criteria": [own(judge_id, "is rude", points=-5), {"key": "s", "weight": 2, "grader": SHORT}]},
        {"prompt": "c e", "reference": "c", "category": "two"},
    ]  # fmt: skip


@pytest.fixture
def material(bench, judge):
    """A rubric with applicability, prompts with criteria, and their judge."""
    judge_id = bench.judge(judge)
    rubric = bench.rubric(
        {"key": "has", "weight": 2, "grader": HAS, "applies_to": {"categories": ["one"]}},
        {"key": "tagged", "weight": 1, "grader": SHORT, "applies_to": {"tags": ["t"]}},
        {"key": "short", "weight": 1, "grader": SHORT},
    )
    return judge_id, rubric


def test_each_prompt_is_graded_on_its_own_criteria(bench, judge, material):
    judge_id, rubric = material
    prompts = bench.prompts(rows_with_criteria(judge_id))
    job = bench.run(
        rubric=rubric, prompts=prompts, training={"steps": 2},
        algorithm={"type": "grape", "aggregation": {"prompt_criteria_weight": 0.5}},
        evaluation={"prompts": prompts},
    )  # fmt: skip
    assert job["judges"] == {judge_id: 1}
    rows = completions(bench, job)
    weights = {
        "a e": {"has": 2, "tagged": 1, "short": 1, "prompt.0": 1.5},
        "b e": {"has": 2, "short": 1, "prompt.0": 2.5, "prompt.s": 1},
        "c e": {"short": 1},
    }
    for row in rows:
        expected = weights[row["prompt"]["messages"][0]["content"]]
        assert {cell["criterion"] for cell in row["cells"]} == set(expected)
        assert {key: w["weight"] for key, w in row["weighting"].items()} == expected
        scores = {cell["criterion"]: cell["score"] for cell in row["cells"]}
        plain = sum(expected[key] * scores[key] for key in expected) / sum(expected.values())
        assert row["plain_reward"] == pytest.approx(plain, abs=1e-12)
    # the judge says yes to everything: a good thing that is met scores 1, a bad one 0
    judged = {row["prompt"]["messages"][0]["content"]: c["score"] for row in rows for c in row["cells"]
              if c["criterion"] == "prompt.0"}  # fmt: skip
    assert judged == {"a e": 1.0, "b e": 0.0}
    names = {s["name"] for s in bench.api.get(f"/v1/jobs/{job['id']}/metrics")["data"]}
    assert {"score.has", "score.prompt", "score.prompt.axis", "evaluation.score.prompt.axis"} <= names
    assert not {"score.prompt.0", "score.prompt.s", "confidence.prompt.0"} & names
    assert {q.criteria[0] for q in judge.questions} == {"prompt.0"}
    assert {"names the letter" in q.text for q in judge.questions} == {True, False}


def test_a_prompt_to_which_nothing_applies_is_named_before_anything_is_sampled(bench):
    rubric = bench.rubric({"key": "has", "weight": 2, "grader": HAS, "applies_to": {"categories": ["one"]}})
    prompts = bench.prompts([{"prompt": "a", "reference": "a", "category": "one"}, {"prompt": "b", "category": "two"}])
    job = bench.finish(bench.submit(rubric=rubric, prompts=prompts), expected="failed")
    assert job["error"]["code"] == "data_invalid"
    assert f"{prompts}:2" in job["error"]["message"]
    assert "'two'" in job["error"]["message"]


def test_a_template_is_needed_only_where_its_criterion_applies(bench):
    has = {"key": "has", "weight": 2, "grader": HAS, "applies_to": {"categories": ["one"]}}
    rubric = bench.rubric(has, {"key": "short", "weight": 1, "grader": SHORT})
    rows = [{"prompt": "a", "reference": "a", "category": "one"}, {"prompt": "b"}]
    bench.run("evaluate", rubric=rubric, prompts=bench.prompts(rows))
    rows[1]["criteria"] = [{"weight": 1, "grader": HAS}]
    job = bench.finish(bench.submit("evaluate", rubric=rubric, prompts=bench.prompts(rows)), expected="failed")
    assert ":2 has no 'reference'" in job["error"]["message"]


def test_a_judge_that_a_row_names_must_exist(bench, judge):
    real = bench.judge(judge)
    prompts = bench.prompts([{"prompt": "a"}, {"prompt": "b", "criteria": [own(real), own("jdg_gone", "is kind")]}])
    rubric = bench.rubric({"key": "short", "weight": 1, "grader": SHORT})
    with pytest.raises(ApiError, match=f"row {prompts}:2 needs the judge 'jdg_gone'") as caught:
        bench.submit(rubric=rubric, prompts=prompts)
    assert (caught.value.errors[0]["pointer"], caught.value.code) == ("/data/prompts", "not_found")
    with pytest.raises(ApiError) as caught:
        bench.submit(rubric=rubric, evaluation={"prompts": prompts})
    assert caught.value.errors[0]["pointer"] == "/evaluation/prompts"


def test_graders_of_rows_are_checked_when_they_arrive(bench):
    dataset = bench.api.post("/v1/datasets", {"name": "p", "kind": "prompts"})["id"]
    rows = [
        {"prompt": "fine"},
        {"prompt": "a", "criteria": [{"weight": 1, "grader": SHORT}, {"weight": 1, "grader": {"type": "regex", "pattern": "("}}]},
        {"prompt": "b", "criteria": [{"weight": 1, "grader": {"type": "json_schema", "schema": {"type": "objekt"}}}]},
        {"prompt": "c", "criteria": [{"points": 0, "grader": SHORT}]},
    ]  # fmt: skip
    with pytest.raises(ApiError) as caught:
        bench.api.upload_rows(dataset, rows)
    assert [(e["line"], e["pointer"], e["code"]) for e in caught.value.errors] == [
        (2, "/criteria/1/grader/pattern", "invalid_regex"),
        (3, "/criteria/0/grader/schema", "invalid_schema"),
        (4, "/criteria/0/points", "invalid_points"),
    ]
    assert bench.api.upload_rows(dataset, rows, skip_faulty=True)["error_count"] == 3
    # a row is stored as it reads: points become a weight and a polarity
    bench.api.upload_rows(dataset, [{"prompt": "d", "criteria": [{"points": -2, "grader": SHORT}]}])
    stored = list(bench.api.pages(f"/v1/datasets/{dataset}/rows"))[-1]["content"]["criteria"]
    assert stored == [{"key": "0", "weight": 2.0, "polarity": "met_is_bad", "grader": SHORT}]

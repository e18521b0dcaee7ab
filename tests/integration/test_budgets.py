"""Budgets on the whole stack: a job that has used one up pauses and goes on where it was; totals in jobs, gradings and judges."""

import pytest

from service.client import ApiError
from tests.support.gradings import HAS, cell, grade
from tests.support.judge import verdict
from tests.support.judge_model import make_judge_model
from tests.support.spending import CALL_USD, PRICE


def fault(call):
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value.errors[0]["pointer"], caught.value.errors[0]["code"]


def test_a_job_pauses_when_its_budget_is_used_up_and_goes_on_with_a_higher_one(bench, api, judge):
    """Two steps of 12 judged cells, 18 calls. Nothing is paid for twice, although the judge has no cache; nothing trains on holes."""
    judge.answer = lambda q: verdict(q, len(q.answer) % 2 == 0, 0.5)
    judge_id = bench.judge(judge, cache=False, price=PRICE)
    spec = bench.spec(rubric=bench.rubric(HAS, bench.judged(judge_id)), training={"steps": 2})
    unpriced = bench.judge(judge)
    costly = {**spec, "rubric": {"id": bench.rubric(HAS, bench.judged(unpriced))}, "limits": {"judge_cost_usd": 1}}
    assert fault(lambda: api.post("/v1/jobs", costly)) == ("/limits/judge_cost_usd", "missing_price")
    job_id = api.post("/v1/jobs", {**spec, "limits": {"judge_calls": 18, "judge_cost_usd": 100}})["id"]
    paused = bench.until(job_id, "paused")
    assert paused["limits"] == {"judge_calls": 18, "judge_cost_usd": 100}
    assert paused["status_reason"].startswith("budget_exhausted: 6 cells of this step")
    assert f"POST /v1/jobs/{job_id}/resume" in paused["status_reason"]
    assert (paused["progress"]["step"], paused["spent"]["judge_calls"], len(judge.questions)) == (1, 18, 18)
    assert len(list(api.pages(f"/v1/jobs/{job_id}/completions", limit=100))) == 12  # of the step that is whole
    resume = f"/v1/jobs/{job_id}/resume"
    assert fault(lambda: api.post(resume, {"limits": {"judge_calls": 18}})) == ("/limits/judge_calls", "limit_reached")
    assert api.get(f"/v1/jobs/{job_id}")["status"] == "paused"
    going = api.post(resume, {"limits": {"judge_calls": 100}})
    assert going["limits"] == {"judge_calls": 100, "judge_cost_usd": 100}
    done = bench.finish(job_id)
    assert len(judge.questions) == 24
    assert done["spent"] == {
        "judge_calls": 24, "judge_tokens_in": 7 * 24, "judge_tokens_out": 3 * 24, "judge_cost_usd": pytest.approx(24 * CALL_USD),
        "estimated_calls": 0,
    }  # fmt: skip
    assert api.get(f"/v1/judges/{judge_id}")["spent"] == done["spent"]
    assert bench.series(job_id, "judge_calls") == {1: 12, 2: 12}
    assert bench.series(job_id, "judge_tokens_out") == {1: 36, 2: 36}
    assert bench.series(job_id, "judge_cost_usd") == pytest.approx({1: 12 * CALL_USD, 2: 12 * CALL_USD})
    assert set(bench.series(job_id, "null_cells").values()) == {0}
    with pytest.raises(ApiError) as caught:
        api.post(resume, {"limits": {"judge_calls": None}})
    assert caught.value.code == "job_terminal"


def test_an_evaluation_pauses_too_when_a_judge_may_cost_no_more(bench, api, judge):
    """The judge's own bound, over everything that asks it; the job goes on once it is raised."""
    judge_id = bench.judge(judge, price=PRICE, max_cost_usd=0.01, sampling={"max_tokens": 16})
    rubric = bench.rubric(HAS, bench.judged(judge_id))
    job_id = bench.submit("evaluate", rubric=rubric)
    paused = bench.until(job_id, "paused")
    assert "budget_exhausted" in paused["status_reason"]
    assert f"PATCH /v1/judges/{judge_id}" in paused["status_reason"]
    assert judge.questions == []
    body = {"rubric": {"id": rubric}, "texts": [{"prompt": {"prompt": "p", "reference": "r"}, "text": "r"}]}
    grading, rows = grade(api, {**body, "limits": {"judge_calls": 5}})
    assert (grading["status"], grading["progress"]["failed"]) == ("succeeded", 1)
    assert (grading["limits"]["judge_calls"], grading["spent"]["judge_calls"]) == (5, 0)
    said = cell(rows[0], "nice")
    assert (said["status"], said["family"], said["score"], said["calls"]) == ("budget", "infra", None, 0)
    (tried,) = api.try_version(rubric, {"prompt": "p", "reference": "r"}, ["r"])
    assert cell(tried, "nice")["status"] == "budget"
    raised = api.patch(f"/v1/judges/{judge_id}", {"max_cost_usd": 1000})
    assert (raised["revision"], raised["spent"]["judge_calls"]) == (1, 0)
    api.post(f"/v1/jobs/{job_id}/resume")
    bench.finish(job_id)
    grading, rows = grade(api, body)
    said = cell(rows[0], "nice")
    assert (said["status"], said["calls"], said["cost_usd"]) == ("ok", 1, pytest.approx(CALL_USD))
    assert grading["spent"]["judge_cost_usd"] == pytest.approx(CALL_USD)
    (tried,) = api.try_version(rubric, {"prompt": "p", "reference": "r"}, ["r"])
    said = cell(tried, "nice")
    assert (said["cached"], said["calls"], said["cost_usd"]) == (True, 0, 0.0)
    assert api.get(f"/v1/judges/{judge_id}")["spent"]["judge_calls"] == len(judge.questions)


def test_calls_of_local_judges_count_and_cost_nothing(bench, api, stack):
    folder = stack.folder / "budget-judge"
    make_judge_model(folder)
    model = api.register_model("judge", {"path": str(folder)})["id"]
    local = api.post("/v1/judges", {"name": "local", "model": model})["id"]
    rubric = bench.rubric(HAS, bench.judged(local))
    texts = [{"prompt": {"prompt": "p", "reference": "r"}, "text": "x " * k} for k in range(6)]
    limits = {"judge_calls": 4, "judge_cost_usd": 1}
    grading, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts, "limits": limits})
    found = [cell(row, "nice") for row in rows]
    assert sorted(c["status"] == "budget" for c in found) == [False] * 4 + [True] * 2
    spent = grading["spent"]
    assert (spent["judge_calls"], spent["judge_cost_usd"]) == (4, None)
    assert spent["judge_tokens_in"] == sum(c["tokens_in"] for c in found) > 0
    assert {c["cost_usd"] for c in found} == {None}
    assert api.get(f"/v1/judges/{local}")["spent"]["judge_calls"] == 4

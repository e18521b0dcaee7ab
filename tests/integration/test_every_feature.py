"""One job on rubrics that use every feature there is, through the stack as `grape up` runs it."""

import json
import math

import pytest

from tests.support.gradings import grade
from tests.support.judge import spoken
from tests.support.judge_model import make_judge_model
from tests.support.models import make_reward_model
from tests.support.spending import PRICE
from workers.sandbox.check import check

LEVELS = [{"label": "poor", "value": 0, "anchor": "nothing"}, {"label": "good", "value": 1, "anchor": "all of it"}]
CODE = "def grade(sample, item):\n    return min(1.0, sample['output_text'].count(item['reference']) / 3)"
KINDS = [{"label": "list", "value": 0.2}, {"label": "words", "value": 0.9}]


def answers(question):
    """What a judge says of each criterion, by its key; the odd one out of ten answers is cut in half."""
    length = len(question.answer)
    if question.body["model"] == "sure":
        yes = 0.9 if length % 2 else 0.3
        head = f'{{"nonce": "{question.nonce}", "verdicts": [{{"criterion": "{question.criteria[0]}", "reasoning": "r", "verdict":'
        token = " true" if yes > 0.5 else " false"
        return spoken(head, (token, {" true": yes, " false": 1 - yes}), ', "confidence": null}]}')
    known = {
        "level": "good" if length > 4 else "poor",
        "kind": "words" if length > 2 else "list",
        "amount": min(1.0, length / 15),
        "steps": length % 3 != 0,
        "agreed": (length + len(question.nonce.strip("0123456789"))) % 3 != 0,
        "safety.bad": length > 12,
    }
    verdicts = [
        {
            "criterion": key,
            "reasoning": f"{length} letters",
            "verdict": known.get(key, True),
            "confidence": 0.4 + 0.05 * (length % 9),
        }
        for key in question.criteria
    ]
    text = json.dumps({"nonce": question.nonce, "verdicts": verdicts})
    return text[: len(text) // 2] if length % 10 == 7 else text


@pytest.fixture
def rubrics(bench, judge, stack):
    """(the default rubric, the one for maths): module, gates, scales, steps, votes, confidences, models, formulas."""
    judge.answer = answers
    bench.model()
    reward_folder, judge_folder = stack.folder / "every-reward", stack.folder / "every-judge"
    make_reward_model(stack.folder / "bench-model-0", reward_folder)
    make_judge_model(judge_folder)
    reward = bench.api.register_model(
        "rm", {"path": str(reward_folder)}, kind="reward", normalisation={"mean": 0.0, "std": 1.0}
    )["id"]
    local = bench.api.register_model("local", {"path": str(judge_folder)})["id"]
    example = {"prompt": "q", "answer": "a", "criterion": "level", "verdict": "good", "reasoning": "as an example"}
    batched = bench.judge(
        judge, batch=3, examples=[example], prompt={"system": "You are strict."}, structured_output="auto", price=PRICE
    )
    endpoint = {"base_url": judge.base_url, "model": "sure"}
    sure = bench.api.post(
        "/v1/judges", {"name": "sure", "endpoint": endpoint, "confidence": "logprob", "price": PRICE}
    )["id"]
    limited = {"rate_limit": {"requests_per_minute": 60_000}, "price": PRICE, "max_cost_usd": 1000}
    agreed = bench.judge(judge, votes=3, confidence="votes", **limited)
    unable = {"json_schema": False, "logprobs": False}
    steps = bench.judge(judge, confidence="none", capabilities=unable, price=PRICE, prompt={"version": 1})
    own = bench.api.post("/v1/judges", {"name": "ours", "model": local})["id"]

    def judged(key, judge_id, **changes):
        grader = {"type": "judge", "judge": judge_id, **changes.pop("grader", {})}
        return {"key": key, "weight": 1, "text": f"the answer is {key}", "grader": grader, **changes}

    gate = {"mode": "cap", "threshold": 0.5, "cap": 0.25}
    module = bench.api.post("/v1/rubrics", {"name": "safety", "content": {
        "guidelines": "Nothing long.",
        "criteria": [judged("bad", batched, polarity="met_is_bad", gate=gate, weight=3)],
    }})["id"]  # fmt: skip
    composite = {"type": "composite", "formula": "min(1, 0.5 * like + 0.5 * short)", "graders": {
        "like": {"type": "similarity", "metric": "rouge_1", "reference": "{{ prompt.reference }}"},
        "short": {"type": "regex", "pattern": "^.{0,9}$"}}}  # fmt: skip
    content = {
        "guidelines": "Short answers that repeat the letter.",
        "system_prompt": "a b",
        "includes": [{"as": "safety", "rubric": module, "weight": 0.5}],
        "criteria": [
            {"key": "has", "weight": 2, "grader": {"type": "contains", "values": ["{{ prompt.reference }}"]}},
            {"key": "not_empty", "weight": 1, "grader": {"type": "regex", "pattern": "\\w"}, "gate": {"mode": "required"}},
            {"key": "like", "weight": 1, "grader": {"type": "similarity", "metric": "fuzzy_match", "reference": "{{ prompt.reference }}"}},
            {"key": "both", "weight": 1, "grader": composite},
            {"key": "json", "audit": True, "grader": {"type": "json_schema", "schema": {"type": "object"}}},
            {"key": "works", "audit": True, "grader": {"type": "unit_tests", "tests": "def test_it():\n    assert f() == 1"}},
            {"key": "code", "weight": 1, "grader": {"type": "python", "source": CODE}},
            {"key": "rm", "weight": 1, "grader": {"type": "reward_model", "model": reward}},
            judged("level", batched, scale={"type": "ordinal", "levels": LEVELS}),
            judged("kind", batched, scale={"type": "nominal", "levels": KINDS}),
            judged("amount", batched, scale={"type": "unit"}, default_confidence=0.5),
            judged("sure", sure),
            judged("agreed", agreed),
            judged("steps", steps, scope="step", step_separator=" ", step_pooling="mean"),
            judged("tagged", batched, tags=["x"], applies_to={"tags": ["letters"]}),
            judged("ours", own, audit=True),
            {"key": "exact", "audit": True, "grader": {"type": "exact", "reference": "{{ prompt.reference }}"}},
        ],
        "aggregation": {"pooling": "shrunk", "min_coverage": 0.4},
    }  # fmt: skip
    checked = bench.api.post("/v1/rubrics/validate", {"content": content})
    assert checked["valid"]
    (tried,) = bench.api.try_draft(content, {"prompt": "a e", "reference": "a", "tags": ["letters"]}, ["a bee"])
    assert len(tried["cells"]) == 18  # all of a draft that apply to the prompt, graded by everybody
    default = bench.api.post("/v1/rubrics", {"name": "letters", "content": content})["id"]
    head = bench.api.get(f"/v1/rubrics/{default}")
    bench.api.put(f"/v1/rubrics/{default}/aliases/production", {"version": 1}, if_match=head["etag"])
    maths = bench.rubric(
        {"key": "number", "weight": 1, "grader": {"type": "numeric", "reference": "{{ prompt.reference }}"}},
        {"key": "plain", "weight": 1, "grader": {"type": "regex", "pattern": "^[a-z ]*$"}},
    )
    return default, maths


def test_a_job_on_every_feature(bench, api, rubrics):
    default, maths = rubrics
    own = {"weight": 2, "text": "it is friendly", "grader": {"type": "regex", "pattern": "a"}}
    prompts = bench.prompts(
        [{"prompt": f"{a} {b}", "reference": a, "tags": ["letters"] if b == "e" else [], "criteria": [own] if b == "f" else []}
         for a in "abc" for b in "efg"]
        + [{"prompt": "d e", "reference": "4", "category": "maths"}, {"prompt": "d f", "reference": "5", "category": "maths"}]
    )  # fmt: skip
    spec = bench.spec(
        prompts=prompts, training={"steps": 4}, evaluation={"prompts": prompts, "every_steps": 2},
        rollout={"group_size": 4, "prompts_per_step": 4, "max_completion_tokens": 8},
    )  # fmt: skip
    spec["rubric"] = {"*": {"id": default, "version": "production"}, "maths": {"id": maths}}
    spec["limits"] = {"judge_calls": 100_000, "judge_cost_usd": 1000}
    spec["algorithm"] = {
        "type": "grape", "rounds": 2, "on_regression": "continue", "entropy_coef": 0.001, "kl": {"beta": 0.01},
        "aggregation": {"max_null_share": 1.0, "on_subject_null": "lowest_observed", "max_weight_share": 0.6},
        "advantage": {"baseline": "leave_one_out", "scale": "batch_std"}, "objective": {"step_credit": "to_go"},
    }  # fmt: skip
    job = bench.finish(api.post("/v1/jobs", spec)["id"], timeout_s=240)
    assert job["progress"] == {"step": 4, "steps": 4}
    rows = list(api.pages(f"/v1/jobs/{job['id']}/completions", limit=200))
    assert len(rows) == 4 * 4 * 4
    seen = {}
    for row in rows:
        cells = {cell["criterion"]: cell for cell in row["cells"]}
        seen.update({key: cell for key, cell in cells.items() if cell["status"] == "ok"})
        if row["prompt"]["category"] == "maths":
            assert set(cells) == {"number", "plain"}
            continue
        assert ("tagged" in cells) == ("letters" in row["prompt"]["tags"])
        assert row["prompt"]["messages"][0]["content"].startswith("a b")
        if row["member"] and row["unscaled_advantage"] is not None:
            assert math.fsum(row["parts"].values()) == pytest.approx(row["unscaled_advantage"], abs=1e-9)
            assert row["advantage"] == pytest.approx(row["scale_factor"] * row["unscaled_advantage"])
        if cells["not_empty"]["score"] == 0 and row["reward"] is not None:
            assert row["reward"] == 0.0
    runs_code = check().sandbox is not None  # tests/sandbox says whether it should
    wanted = {"has", "not_empty", "like", "both", "json", "rm", "level", "kind", "amount", "sure", "agreed", "steps", "tagged",
              "exact", "safety.bad", "prompt.0", "number", "plain", *(("code", "works") if runs_code else ())}  # fmt: skip
    assert wanted <= set(seen)
    assert (seen["sure"]["confidence_source"], seen["agreed"]["confidence_source"]) == ("logprob", "votes")
    assert (seen["agreed"]["votes"], seen["steps"]["confidence"]) == (3, None)
    assert seen["steps"]["steps"]
    assert seen["level"]["reply_format"] in ("json_schema", "text")
    assert seen["steps"]["reply_format"] == "text"  # its endpoint can do no other
    assert job["spent"]["judge_calls"] > 0
    assert job["spent"]["judge_cost_usd"] > 0
    nulls = [cell for row in rows for cell in row["cells"] if cell["score"] is None]
    assert nulls
    assert {cell["family"] for cell in nulls} <= {"subject", "infra"}
    assert all(cell["reason"] for cell in nulls)
    for name in ("reward", "plain_reward", "effective_criteria", "coverage", "null_cells", "entropy", "kl", "loss"):
        assert set(bench.series(job["id"], name)) == {1, 2, 3, 4}, name
    assert {"evaluation.plain_reward", "evaluation.audit"} <= {
        s["name"] for s in api.get(f"/v1/jobs/{job['id']}/metrics")["data"]
    }
    body = {"job": job["id"], "reuse_cells": True, "aggregation": {"weighting": "uniform"}}
    _, again = grade(api, body)
    assert len(again) == len(rows)
    row = next(row for row in rows if row["prompt"]["category"] is None)
    reused = next(found for found in again if found["source"] == row["id"])
    said = api.replies(row["id"], "agreed")
    assert sorted(vote["vote"] for vote in said["data"]) == [1, 2, 3]
    assert api.replies(reused["id"], "agreed") == {**said, "completion": reused["id"]}
    agreed = next(cell["judge"] for cell in row["cells"] if cell["criterion"] == "agreed")
    assert set(api.get(f"/v1/judges/{agreed}/self-agreement", job=job["id"])["criteria"]) == {"agreed"}
    compared = api.post("/v1/comparisons", {"left": job["id"], "right": job["id"]})  # its last held-out completions
    assert compared["plain_reward"]["difference"] == 0.0
    assert compared["criteria"]["exact"]["audit"]
    ours = api.replies(row["id"], "ours")  # a registered model is quoted too
    assert ours["data"][0]["attempts"][0]["text"] is not None

"""The method through the whole stack: gates, steps, criteria of prompts, imputed nulls, rounds; every number from its cells."""

import math

import pytest

from service.domain.scoring import CriterionWeight, GateRule, ScoredCell, ScoringOptions, mean, score_group
from tests.integration.conftest import CONTAINS
from tests.support.judge import verdict

STEPS = {
    "key": "early", "weight": 1, "scope": "step", "step_separator": " ", "grader": {"type": "regex", "pattern": "[a-m]"},
}  # fmt: skip
GATED = {
    "key": "short", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,9}$"},
    "gate": {"mode": "cap", "threshold": 0.5, "cap": 0.5},
}  # fmt: skip
OWN = {"points": -3, "tags": ["manners"], "grader": {"type": "contains", "values": ["z"]}}
CRITERIA = [
    CriterionWeight("has", 2.0, judged=False),
    CriterionWeight("short", 1.0, judged=False, gate=GateRule(0.5, 0.5)),
    CriterionWeight("early", 1.0, judged=False, step_pooling="mean"),
    CriterionWeight("nice", 1.0),
    CriterionWeight("prompt.0", 6.0, judged=False, per_prompt=True, tags=("manners",)),
]


def test_every_number_follows_from_the_cells(bench, judge):
    """One text in four is refused by the judge; prompts bring a criterion along; a gate caps what is long."""
    judge.answer = lambda q: "what?" if sum(map(ord, q.answer)) % 4 == 0 else verdict(q, len(q.answer) < 8, 0.7)
    prompts = bench.prompts([{"prompt": f"{a} {b}", "reference": a, "criteria": [OWN]} for a in "abcd" for b in "ef"])
    aggregation = {"on_subject_null": "lowest_observed", "prompt_criteria_weight": 2, "max_null_share": 1}
    job = bench.run(
        prompts=prompts, rubric=bench.rubric(CONTAINS, GATED, STEPS, bench.judged(bench.judge(judge))),
        algorithm={"type": "grape", "aggregation": aggregation},
    )  # fmt: skip
    rows = list(bench.api.pages(f"/v1/jobs/{job['id']}/completions", limit=100))
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    assert len(rows) == 4 * 3 * 4
    options = ScoringOptions(on_subject_null="lowest_observed")
    for members in groups.values():
        cells = [{c["criterion"]: scored(c) for c in r["cells"] if c["score"] is not None} for r in members]
        nulls = [{c["criterion"] for c in r["cells"] if c["family"] == "subject"} for r in members]
        again = score_group(CRITERIA, cells, options, subject_nulls=nulls)
        for row, numbers in zip(members, again.completions, strict=True):
            for name in ("reward", "plain_reward", "advantage", "unscaled_advantage", "scale_factor", "parts", "coverage",
                         "member", "imputed"):  # fmt: skip
                assert row[name] == getattr(numbers, name), name
            assert row["signal"] == again.signal
            assert math.fsum(row["parts"].values()) == pytest.approx(row["unscaled_advantage"], abs=1e-9)
            assert "gate" in row["parts"]
            assert row["weighting"]["nice"]["source"] == "group"
            assert row["weighting"]["prompt.0"]["weight"] == 6
            check_steps(row)
    assert any(row["imputed"] for row in rows)
    assert set(bench.series(job["id"], "score.prompt.manners")) == {1, 2, 3, 4}
    assert sum(bench.series(job["id"], "null_cells.parse_error").values()) == sum(bool(row["imputed"]) for row in rows)
    for name in (
        "step_count",
        "share_change",
        "groups_without_signal.no_spread",
        "no_spread.nice",
        "subject_null_share",
    ):
        assert set(bench.series(job["id"], name)) <= {1, 2, 3, 4}
        assert bench.series(job["id"], name), name


def scored(cell):
    steps = tuple(step["score"] for step in cell["steps"] or ())
    return ScoredCell(cell["score"], cell["confidence"], steps=steps)


def check_steps(row):
    """The steps tile the text, and the cell is their mean."""
    (cell,) = [c for c in row["cells"] if c["criterion"] == "early"]
    steps = cell["steps"]
    assert "".join(row["text"][s["start"] : s["end"]] for s in steps) == row["text"]
    assert cell["score"] == pytest.approx(mean(s["score"] for s in steps))
    assert len(steps) == max(1, len(row["text"].split()))


def test_rounds_end_with_a_verdict(bench):
    job = bench.run(
        algorithm={"type": "grape", "rounds": 3, "on_regression": "continue", "kl": {"beta": 0.01}},
        training={"steps": 7, "learning_rate": 0.01}, evaluation={"prompts": bench.prompts()},
    )  # fmt: skip
    found = [e["data"] for e in bench.events(job["id"]) if e["type"] == "round.finished"]
    assert [(data["round"], data["step"]) for data in found] == [(1, 3), (2, 5), (3, 7)]
    assert set(bench.series(job["id"], "evaluation.plain_reward")) == {0, 3, 5, 7}
    assert all(data["prompts"] == 12 for data in found)
    kl = bench.series(job["id"], "kl")
    assert [kl[1], kl[4], kl[6]] == pytest.approx(
        [0, 0, 0], abs=1e-9
    )  # the reference is the policy that began the round
    steps = [c["step"] for c in bench.api.pages(f"/v1/jobs/{job['id']}/checkpoints")]
    assert steps == [3, 5, 7]


def test_a_regression_fails_the_job_and_keeps_its_checkpoints(bench):
    """What is held out wants the opposite of what is trained."""
    towards = bench.rubric({"key": "low", "weight": 1, "grader": {"type": "regex", "pattern": "^[a-m]"}})
    opposite = bench.rubric({"key": "high", "weight": 1, "grader": {"type": "regex", "pattern": "^[n-z]"}})
    job_id = bench.submit(
        rubric=towards, algorithm={"type": "grape", "rounds": 2}, training={"steps": 40, "learning_rate": 0.01},
        evaluation={"prompts": bench.prompts(), "rubric": {"id": opposite}, "temperature": 1.0, "samples": 4},
    )  # fmt: skip
    job = bench.finish(job_id, expected="failed")
    assert job["error"]["code"] == "regression"
    assert "held-out plain reward worse" in job["error"]["message"]
    assert job["attempt"] == 1
    assert [c["step"] for c in bench.api.pages(f"/v1/jobs/{job_id}/checkpoints")] == [20]
    (data,) = [e["data"] for e in bench.events(job_id) if e["type"] == "round.finished"]
    assert data["plain_reward"]["high"] < 0


def test_unbounded_step_credit_is_warned_of(bench):
    algorithm = {"type": "grape", "objective": {"step_credit": "deepseek_sum"}}
    job = bench.run(rubric=bench.rubric(CONTAINS, STEPS), algorithm=algorithm, training={"steps": 1})
    (warning,) = [e["data"] for e in bench.events(job["id"]) if e["type"] == "job.warning"]
    assert warning["code"] == "unbounded_step_credit"


def test_the_benchmarks_own_score(bench, judge):
    """HealthBench: points met over positive points, negative for some, clipped only once the mean is taken."""
    judge.answer = lambda q: verdict(q, len(q.answer) % 2 == 0, 0.5)
    good = bench.judged(bench.judge(judge), "good", weight=1)
    bad = {**bench.judged(bench.judge(judge), "bad", weight=3), "polarity": "met_is_bad"}
    rubric = bench.rubric(good, bad, aggregation={"weighting": "healthbench"})
    job = bench.run("evaluate", rubric=rubric, rollout={"temperature": 1.0, "group_size": 2})
    rows = list(bench.api.pages(f"/v1/jobs/{job['id']}/completions", purpose="evaluation", limit=100))
    for row in rows:
        met = {c["criterion"]: c["score"] == (c["criterion"] == "good") for c in row["cells"]}
        assert row["reward"] == pytest.approx(met["good"] - 3 * met["bad"])
    expected = min(1.0, max(0.0, sum(row["reward"] for row in rows) / len(rows)))
    assert bench.series(job["id"], "evaluation.healthbench")[0] == pytest.approx(expected)

"""The options of the policy-gradient core through the whole stack: what is stored, told and refused."""

import math

import pytest

from service.client import ApiError
from service.domain.scoring import CriterionWeight, GroupCells, ScoredCell, score_groups

CRITERIA = [
    CriterionWeight("has", 2.0, judged=False),
    CriterionWeight("short", 1.0, judged=False),
    CriterionWeight("one", 1.0, judged=False, audit=True),
]


def test_dapo_with_minibatches_and_every_number_from_the_cells(bench, api):
    """Clip-higher, dynamic sampling, token mean, overlong penalty; two epochs of three minibatches; corrected for its sampler."""
    algorithm = {
        "type": "grape", "preset": "dapo", "inner_epochs": 2, "minibatches": 3, "importance": {"mode": "truncated"},
        "truncated": {"margin": 4}, "without_signal": {"max_resamples": 2},
    }  # fmt: skip
    job = bench.run(algorithm=algorithm, training={"steps": 6})
    assert job["progress"] == {"step": 6, "steps": 6}
    shown = job["algorithm"]
    assert (shown["truncated"]["mode"], shown["truncated"]["margin"], shown["objective"]["clip_high"]) == (
        "penalty",
        4,
        0.28,
    )
    assert (shown["without_signal"]["mode"], shown["minibatches"]) == ("resample", 3)
    groups = {}
    for row in api.pages(f"/v1/jobs/{job['id']}/completions", limit=100):
        assert row["step"] == 1  # one rollout for six optimizer steps
        groups.setdefault(row["group"], []).append(row)
    resampled = bench.series(job["id"], "resampled_groups")
    assert set(resampled) == {1, 2, 3, 4, 5, 6}
    assert len(groups) == 3 + resampled[1]
    penalised = 0
    for members in groups.values():
        cells = [{c["criterion"]: ScoredCell(c["score"], c["confidence"]) for c in r["cells"]} for r in members]
        penalties = [max(0, r["token_count"] - 4) / 4 for r in members]  # limit 8, margin 4, at most 1
        (again,) = score_groups([GroupCells(CRITERIA, cells, penalties=penalties)])
        for row, numbers in zip(members, again.completions, strict=True):
            for name in ("reward", "plain_reward", "unscaled_advantage", "scale_factor", "advantage", "parts"):
                assert row[name] == getattr(numbers, name), name
            assert math.fsum(row["parts"].values()) == pytest.approx(row["unscaled_advantage"], abs=1e-9)
            assert 0 <= row["plain_reward"] <= 1
        penalised += sum(penalties) > 0
    assert penalised
    assert set(bench.series(job["id"], "importance_weight")) <= {1, 2, 3, 4, 5, 6}


def test_a_job_that_goes_too_far_says_so_and_keeps_its_model(bench, api):
    spec = bench.spec("grpo", training={"steps": 30, "learning_rate": 0.05})
    spec["algorithm"]["kl"] = {"max": 1e-4}
    job = bench.finish(api.post("/v1/jobs", spec)["id"], expected="failed")
    assert job["error"]["code"] == "kl_limit"
    step = job["progress"]["step"] + 1
    assert job["error"]["message"].startswith(f"step {step}: the policy is ")
    (event,) = [e for e in bench.events(job["id"]) if e["type"] == "step.stopped"]
    assert (event["data"]["step"], event["data"]["code"]) == (step, "kl_limit")
    assert "nats per token" in event["data"]["reason"]
    (checkpoint,) = api.get(f"/v1/jobs/{job['id']}/checkpoints")["data"]
    assert checkpoint["step"] == step - 1
    assert max(bench.series(job["id"], "kl").values()) <= 1e-4


def test_what_does_not_go_together_is_refused_over_http(bench, api):
    for kind, change, pointer, word in (
        ("grape", {"algorithm": {"type": "grape", "minibatches": 4}}, "/algorithm/minibatches", "whole groups"),
        ("grape", {"algorithm": {"type": "grape", "kl": {"beta": 0.1, "placement": "reward"}}}, "/algorithm/kl/placement", "loss"),
        ("ppo", {"rollout": {"top_p": 0.9}}, "/rollout/top_p", "full softmax"),
        ("grpo", {"algorithm": {"type": "grpo", "truncated": {"mode": "penalty"}, "advantage": {"level": "criterion"}}},
         "/algorithm/advantage/level", "penalty"),
    ):  # fmt: skip
        with pytest.raises(ApiError) as caught:
            api.post("/v1/jobs", {**bench.spec(kind), **change})
        assert (caught.value.status, caught.value.errors[0]["pointer"]) == (422, pointer)
        assert word in caught.value.errors[0]["message"]


def test_an_evaluation_samples_from_the_cut(bench, api):
    job = bench.run("evaluate", rollout={"temperature": 1.0, "group_size": 4, "top_k": 1})
    groups = {}
    for row in api.pages(f"/v1/jobs/{job['id']}/completions", purpose="evaluation", limit=100):
        groups.setdefault(row["group"], set()).add(tuple(row["token_ids"]))
    assert len(groups) == 12
    assert all(len(found) == 1 for found in groups.values())  # only the likeliest token is left, at any temperature

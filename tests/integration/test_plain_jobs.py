"""REINFORCE, PPO and TRPO jobs over HTTP, with a judge: full models and adapters, checkpoints that load, options that are refused."""

import pytest

from service.client import ApiError
from tests.support.judge import verdict


@pytest.mark.parametrize(
    ("algorithm", "adapter"),
    [
        ({"type": "reinforce"}, None),
        ({"type": "reinforce", "baseline": "leave_one_out", "kl": {"beta": 0.05}}, {"type": "lora", "r": 4}),
        ({"type": "ppo", "inner_epochs": 2, "minibatches": 2}, None),
        ({"type": "ppo", "inner_epochs": 1, "value": {"model": "shared"}}, {"type": "lora", "r": 4}),
        ({"type": "trpo"}, None),
        ({"type": "trpo"}, {"type": "lora", "r": 4}),
    ],
    ids=["reinforce", "rloo-lora", "ppo", "ppo-shared-lora", "trpo", "trpo-lora"],
)
def test_a_job_ends_with_a_model(bench, judge, api, algorithm, adapter):
    judge.answer = lambda q: verdict(q, len(q.answer) < 6, 0.9, f"{len(q.answer)} letters")
    rubric = bench.rubric(
        {"key": "short", "weight": 2, "grader": {"type": "regex", "pattern": "^.{0,7}$"}},
        bench.judged(bench.judge(judge)),
    )
    training = {"steps": 4} if algorithm["type"] == "trpo" else {"steps": 4, "learning_rate": 0.003}
    spec = bench.spec(
        algorithm["type"], rubric=rubric, adapter=adapter, evaluation={"prompts": bench.prompts(), "every_steps": 2}
    )
    job = bench.finish(api.post("/v1/jobs", {**spec, "algorithm": algorithm, "training": training})["id"])
    assert job["progress"] == {"step": 4, "steps": 4}
    assert job["algorithm"]["type"] == algorithm["type"]
    assert set(bench.series(job["id"], "evaluation.plain_reward")) == {0, 2, 4}
    assert set(bench.series(job["id"], "plain_reward")) == {1, 2, 3, 4}
    assert max(bench.series(job["id"], "sampler_gap").values()) < (1e-5 if algorithm["type"] != "ppo" else 1.0)
    if algorithm["type"] == "trpo":
        assert max(bench.series(job["id"], "kl").values()) <= 0.01
    if algorithm["type"] == "ppo":
        assert set(bench.series(job["id"], "value_loss")) == {1, 2, 3, 4}
    rows = list(api.pages(f"/v1/jobs/{job['id']}/completions", limit=100))
    assert all(row["reward"] == row["plain_reward"] for row in rows if row["plain_reward"] is not None)
    assert bench.run("evaluate", model=job["result"]["model"])["status"] == "succeeded"


def test_what_they_refuse(bench, api):
    for kind, change, pointer, word in (
        ("trpo", {"training": {"steps": 2, "learning_rate": 0.1}}, "/training/learning_rate", "max_kl"),
        ("reinforce", {"algorithm": {"type": "reinforce", "aggregation": {"weighting": "confidence"}}},
         "/algorithm/aggregation/weighting", "use 'grape'"),
        ("reinforce", {"algorithm": {"type": "reinforce", "truncated": {"mode": "mask", "margin": 9}}},
         "/algorithm/truncated/margin", "margin"),
        ("reinforce", {"algorithm": {"type": "reinforce", "baseline": "leave_one_out"},
                       "rollout": {"group_size": 1}}, "/rollout/group_size", "at least 2"),
        ("ppo", {"algorithm": {"type": "ppo", "valeu": {}}}, "/algorithm/valeu", "did you mean 'value'"),
    ):  # fmt: skip
        spec = {**bench.spec(kind), **change}
        if kind == "trpo" and "training" not in change:
            spec["training"].pop("learning_rate")
        with pytest.raises(ApiError) as caught:
            api.post("/v1/jobs", spec)
        assert (caught.value.status, caught.value.errors[0]["pointer"]) == (422, pointer)
        assert word in caught.value.errors[0]["message"]

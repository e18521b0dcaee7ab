"""Jobs that learn from rows that are there already, over HTTP: preferences in, a model that prefers what was chosen out."""

import math

import pytest

from service.client import ApiError


@pytest.mark.parametrize(
    ("adapter", "rate", "reached"), [(None, 0.003, 0.6), ({"type": "lora", "r": 4}, 0.01, 0.66)], ids=["full", "lora"]
)
def test_dpo(bench, adapter, rate, reached):
    job = bench.run("dpo", adapter=adapter, training={"steps": 20, "learning_rate": rate})
    losses = bench.series(job["id"], "loss")
    assert losses[1] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[20] < reached
    assert set(bench.series(job["id"], "accuracy")) == set(range(1, 21))
    assert job["data"]["preferences"]["rows"] == 36
    assert bench.run("evaluate", model=job["result"]["model"])["status"] == "succeeded"


def test_reward_model(bench, api):
    job = bench.run(
        "reward_model",
        training={"steps": 20, "learning_rate": 0.003},
        algorithm={"type": "reward_model", "evaluate_every_steps": 10},
    )
    assert bench.series(job["id"], "loss")[20] < 0.5
    accuracy = bench.series(job["id"], "evaluation.accuracy")
    assert set(accuracy) == {0, 10, 20}
    assert accuracy[20] > 0.8  # pairs of prompts that were never trained on
    model = api.get(f"/v1/models/{job['result']['model']}")
    assert (model["kind"], model["status"]) == ("reward", "ready")
    best = api.get(f"/v1/checkpoints/{job['result']['best_checkpoint']}")
    assert best["metrics"]["evaluation.accuracy"] == max(accuracy.values())
    assert {"evaluation.reward_mean", "evaluation.reward_std"} <= best["metrics"].keys()
    with pytest.raises(ApiError, match="is a reward model") as caught:
        api.post("/v1/jobs", bench.spec("grape", model=model["id"]))
    assert caught.value.errors[0]["pointer"] == "/policy/model"
    with pytest.raises(ApiError) as caught:
        api.post("/v1/jobs", bench.spec("reward_model", evaluation={"prompts": bench.prompts()}))
    assert caught.value.errors[0]["pointer"] == "/evaluation/prompts"


def test_held_out_pairs_of_their_own(bench, api):
    held = api.post("/v1/datasets", {"name": "held", "kind": "preferences"})["id"]
    api.upload_rows(held, [{"prompt": p, "chosen": f"{p} {p}", "rejected": "c d"} for p in "abef"])
    evaluation = {"preferences": held, "every_steps": 4}
    job = bench.run("dpo", training={"steps": 8, "learning_rate": 0.003}, evaluation=evaluation,
                    checkpoints={"every_steps": 4, "keep": 3})  # fmt: skip
    losses = bench.series(job["id"], "evaluation.loss")
    assert set(losses) == {0, 4, 8}
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)  # the policy is its own reference
    assert job["evaluation"]["held_out"]["rows"] == 4
    assert set(job["data"]) == {"preferences"}
    best = api.get(f"/v1/checkpoints/{job['result']['best_checkpoint']}")
    assert best["metrics"]["evaluation.loss"] == min(losses[4], losses[8])
    for change, pointer, word in (
        ({"preferences": bench.prompts()}, "/evaluation/preferences", "holds prompts"),
        ({"demonstrations": held}, "/evaluation/demonstrations", "not on demonstrations"),
    ):
        with pytest.raises(ApiError) as caught:
            api.post("/v1/jobs", bench.spec("dpo", evaluation=change))
        assert caught.value.errors[0]["pointer"] == pointer
        assert word in caught.value.errors[0]["message"]


def test_rejection_sampling(bench, api):
    sft = bench.run("sft", training={"steps": 30, "learning_rate": 0.01})
    algorithm = {"type": "rejection_sampling", "rounds": 3, "floors": {"short": 1}}
    job = bench.run(
        "rejection_sampling", model=sft["result"]["model"], algorithm=algorithm, rollout={"group_size": 4},
        training={"steps": 9, "learning_rate": 0.003, "batch_size": 8},
        evaluation={"prompts": bench.prompts(), "every_steps": 3},
    )  # fmt: skip
    assert set(bench.series(job["id"], "kept")) == set(range(1, 10))
    shown = list(api.pages(f"/v1/jobs/{job['id']}/completions", limit=200))
    assert {row["step"] for row in shown} == {1, 4, 7}
    assert len(shown) == 3 * 12 * 4
    for step, kept in bench.series(job["id"], "kept").items():
        begun = max(first for first in (1, 4, 7) if first <= step)
        ended = [row for row in shown if row["step"] == begun and row["finish_reason"] == "stop"]
        assert 0 < kept <= len({row["group"] for row in ended})  # at most one of a group, and only what came to its end
    with pytest.raises(ApiError, match="did you mean 'short'") as caught:
        api.post("/v1/jobs", bench.spec("rejection_sampling", algorithm={**algorithm, "floors": {"shrot": 1}}))
    assert caught.value.errors[0]["pointer"] == "/algorithm/floors/shrot"


def test_epochs_and_what_dpo_refuses(bench, api):
    job = bench.run("dpo", training={"steps": None, "epochs": 0.5})
    assert job["progress"] == {"step": 3, "steps": 3}  # half of 36 pairs in batches of 8
    spec = bench.spec("dpo")
    for change, pointer, word in (
        ({"data": {"prompts": bench.prompts()}}, "/data/preferences", "preferences"),
        ({"data": {"preferences": bench.prompts()}}, "/data/preferences", "holds prompts"),
        (
            {"algorithm": {"type": "dpo", "loss": "hinge", "label_smoothing": 0.1}},
            "/algorithm/label_smoothing",
            "hinge",
        ),
        ({"algorithm": {"type": "dpo", "betta": 1}}, "/algorithm/betta", "did you mean 'beta'"),
    ):
        with pytest.raises(ApiError) as caught:
            api.post("/v1/jobs", {**spec, **change})
        assert (caught.value.status, caught.value.errors[0]["pointer"]) == (422, pointer)
        assert word in caught.value.errors[0]["message"]


def test_rows_that_are_no_preference_are_refused_by_line(api):
    dataset = api.post("/v1/datasets", {"name": "pairs", "kind": "preferences"})["id"]
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5},
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1},
    ]
    with pytest.raises(ApiError) as caught:
        api.upload_rows(dataset, rows)
    assert [error["line"] for error in caught.value.errors] == [2, 3, 4]
    assert api.get(f"/v1/datasets/{dataset}")["rows"] == 0
    assert api.upload_rows(dataset, rows[:1])["rows"] == 1

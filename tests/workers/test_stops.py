"""Steps that are not taken: nothing moves, and the events say which step and why; a limit on the divergence; the door."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from service.domain.job_state import JobFailure
from tests.support.training import Grader, run_of, spec_of, weights
from workers.training.state import TrainerState


def poisoned(run, steps):
    """A rollout whose advantages are not finite in these steps."""
    collect = run.algorithm.collect

    def spoilt(environment):
        found = collect(environment)
        bad = environment.step + 1 in steps
        rows = [[math.nan] * len(row) for row in found.batch.advantages_B_T] if bad else found.batch.advantages_B_T
        return replace(found, batch=replace(found.batch, advantages_B_T=rows))

    run.algorithm.collect = spoilt
    return run


def moments(run):
    return [state["exp_avg"].clone() for state in run.optimizer.state.values()]


@pytest.mark.parametrize("kind", ["grape", "reinforce", "trpo"])
def test_a_loss_that_is_not_finite_stops_the_job_with_step_and_reason(tiny_folder, load, kind):
    policy = load(tiny_folder)
    run = poisoned(run_of(policy, spec_of(kind, training={"steps": 3})), {2})
    with pytest.raises(JobFailure, match=r"^step 2: .*not finite") as caught:
        run.go()
    assert caught.value.code == "nonfinite_loss"
    (event,) = [data for kind_, data in run.recorder.events if kind_ == "step.stopped"]
    assert (event["step"], event["code"]) == (2, "nonfinite_loss")
    assert run.state.step == 1


@pytest.mark.parametrize("kind", ["grape", "reinforce"])
def test_a_skipped_step_moves_neither_weights_nor_moments(tiny_folder, load, kind):
    policy = load(tiny_folder)
    spec = spec_of(kind, training={"steps": 2, "on_nonfinite": "skip", "weight_decay": 0.5})
    run = poisoned(run_of(policy, spec), {2})
    run._step()
    before, old = weights(policy), moments(run)
    run._step()
    assert torch.equal(weights(policy), before)
    assert all(map(torch.equal, moments(run), old))
    assert run.state.step == 2
    assert run.recorder.metric["skipped"] == {2: 1.0}
    assert [(kind_, data["step"], data["code"]) for kind_, data in run.recorder.events] == [
        ("step.skipped", 2, "nonfinite_loss")
    ]
    assert "not finite" in run.recorder.events[0][1]["reason"]


def test_ten_in_a_row_stop_it_whatever_is_configured(tiny_folder, load):
    policy = load(tiny_folder)
    spec = spec_of(training={"steps": 20, "on_nonfinite": "skip"})
    run = poisoned(run_of(policy, spec), {2, *range(5, 21)})
    with pytest.raises(JobFailure, match=r"^step 14"):
        run.go()
    kinds = [kind for kind, data in run.recorder.events if kind.startswith("step.")]
    assert kinds == ["step.skipped"] * 10 + ["step.stopped"]  # step 2, steps 5 to 13, and 14 is the tenth in a row
    again = TrainerState.from_json(run.state.to_json())
    assert again.skipped_in_a_row == 10


MASKED = {"truncated": {"mode": "mask"}}


@pytest.mark.parametrize("kind", ["grape", "reinforce", "ppo", "trpo"])
def test_a_batch_in_which_everything_is_masked_is_skipped_or_stops(tiny_folder, load, kind):
    for how in ("skip", "stop"):
        policy = load(tiny_folder, value="separate" if kind == "ppo" else None, reference=kind == "ppo")
        policy.eos_ids = [10_000]  # nothing ends by itself
        spec = spec_of(kind, algorithm=MASKED, training={"steps": 2, "on_empty_batch": how})
        run = run_of(policy, spec)
        before = weights(policy)
        if how == "skip":
            run.go()
            assert [(e, d["step"], d["code"]) for e, d in run.recorder.events if e.startswith("step.")] == [
                ("step.skipped", 1, "data_invalid"),
                ("step.skipped", 2, "data_invalid"),
            ]
        else:
            with pytest.raises(JobFailure, match="step 1: no token of this step counts") as caught:
                run.go()
            assert caught.value.code == "data_invalid"
        assert torch.equal(weights(policy), before)


# --- the limit on the divergence ---


@pytest.mark.parametrize(
    ("kind", "kl"), [("grape", {"max": 0.01}), ("reinforce", {"max": 0.01}), ("ppo", {"max": 0.01, "beta": 0.0})]
)
def test_too_far_from_the_reference_the_job_stops_before_the_step_and_keeps_a_checkpoint(tiny_folder, load, kind, kl):
    policy = load(tiny_folder, value="separate" if kind == "ppo" else None, reference=True)
    saved = []
    spec = spec_of(kind, algorithm={"kl": kl}, training={"steps": 30, "learning_rate": 0.02})
    run = run_of(policy, spec, save=lambda state: saved.append((state.step, weights(policy))))
    assert run.algorithm.needs_reference
    with pytest.raises(JobFailure, match=r"step \d+: the policy is .* nats per token from the reference") as caught:
        run.go()
    assert caught.value.code == "kl_limit"
    step, at_stop = saved[-1]
    assert step == run.state.step > 0
    assert torch.equal(at_stop, weights(policy))
    series = run.recorder.metric["kl"]
    assert max(series.values()) <= 0.01
    (event,) = [data for kind_, data in run.recorder.events if kind_ == "step.stopped"]
    assert (event["step"], event["code"]) == (step + 1, "kl_limit")


def test_a_limit_alone_measures_and_changes_nothing(tiny_folder, load):
    """Adding a limit that is never reached does not change a weight beyond rounding: groups without signal are now run."""
    results = []
    for kl in ({}, {"max": 100.0}):
        policy = load(tiny_folder, reference=bool(kl))
        run = run_of(policy, spec_of(algorithm={"kl": kl}, training={"steps": 2}))
        run.go()
        results.append(weights(policy))
    assert torch.allclose(*results, atol=1e-5)
    assert set(run.recorder.metric["kl"]) == {1, 2}


# --- the door ---


@pytest.mark.parametrize(
    ("kind", "changes", "place", "sentence"),
    [
        ("grape", {"algorithm": {"kl": {"beta": 0.1, "placement": "reward"}}},
         ("algorithm", "grape", "kl", "placement"), "cells do not explain"),
        ("grpo", {"algorithm": {"kl": {"unbiased": False, "estimator": "k1"}}},
         ("algorithm", "grpo", "kl", "unbiased"), "zero in expectation"),
        ("ppo", {"algorithm": {"kl": {"unbiased": False}}}, ("algorithm", "ppo", "kl", "unbiased"), "in the reward"),
        ("grape", {"algorithm": {"objective": {"kind": "reinforce", "clip_low": 0.1}}},
         ("algorithm", "grape", "objective", "clip_low"), "does not clip"),
        ("ppo", {"algorithm": {"objective": {"kind": "reinforce"}}}, ("algorithm", "ppo", "objective", "kind"), "ppo clips"),
        ("grape", {"rollout": {"top_p": 0.9}}, ("rollout", "top_p"), "full softmax"),
        ("ppo", {"rollout": {"top_k": 5}}, ("rollout", "top_k"), "full softmax"),
        ("evaluate", {"rollout": {"top_p": 0.9}, "training": {"steps": None}}, ("rollout", "top_p"), "greedy"),
        ("grape", {"algorithm": {"kl": {"max": 0}}}, ("algorithm", "grape", "kl", "max"), "greater than 0"),
        ("trpo", {"algorithm": {"kl": {"beta": 0.1}}}, ("algorithm", "trpo", "kl"), "unknown field"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_by_the_name_of_the_field(kind, changes, place, sentence):
    with pytest.raises(ValidationError) as caught:
        spec_of(kind, **changes)
    (error,) = caught.value.errors()
    assert error["loc"] == place
    assert sentence in error["msg"]


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("sft", "training/learning_rate", 0), ("sft", "training/learning_rate", float("nan")),
        ("sft", "training/steps", 0), ("sft", "training/batch_size", 0), ("sft", "training/weight_decay", -0.1),
        ("sft", "training/max_grad_norm", 0), ("sft", "training/warmup_steps", -1), ("sft", "training/min_rate", 1),
        ("sft", "training/microbatch_tokens", 1), ("sft", "training/precision", "fp16"), ("sft", "training/seed", -1),
        ("grpo", "rollout/group_size", 0), ("grpo", "rollout/temperature", 11), ("grpo", "rollout/max_completion_tokens", 0),
        ("grpo", "algorithm/objective/clip_low", -0.1), ("grpo", "algorithm/objective/clip_high", -0.1),
        ("grpo", "algorithm/kl/beta", -1), ("grpo", "algorithm/kl/estimator", "k4"), ("grpo", "algorithm/inner_epochs", 0),
        ("grpo", "algorithm/entropy_coef", float("inf")), ("grpo", "algorithm/advantage/scale_eps", -1e-4),
        ("ppo", "algorithm/discount", 1.1), ("ppo", "algorithm/trace", -0.1), ("trpo", "algorithm/max_kl", 0),
        ("reinforce", "algorithm/baseline_decay", 1), ("dpo", "algorithm/beta", 0), ("dpo", "algorithm/label_smoothing", 0.5),
        ("reward_model", "algorithm/held_out", 0.6), ("rejection_sampling", "algorithm/rounds", 0),
        ("sft", "adapter/r", 0), ("sft", "adapter/dropout", 0.1),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused_by_the_name_of_its_field(kind, place, value):
    """Whatever is possible beside it: a job is refused before anything is loaded for it."""
    block, *inner = place.split("/")
    changes = value
    for name in reversed(inner):
        changes = {name: changes}
    if block == "adapter":
        changes = {"type": "lora", **changes}
    with pytest.raises(ValidationError) as caught:
        spec_of(kind, **{block: changes})
    found = [tuple(part for part in error["loc"] if part != kind) for error in caught.value.errors()]
    assert (block, *inner) in found
    assert not any("unknown field" in error["msg"] for error in caught.value.errors())


def test_what_goes_together_is_taken():
    for kind, changes in (
        ("grape", {"algorithm": {"objective": {"kind": "reinforce"}, "preset": "dr_grpo"}}),
        ("reinforce", {"algorithm": {"kl": {"beta": 0.1, "placement": "reward", "estimator": "k1"}}}),
        ("rejection_sampling", {"rollout": {"top_p": 0.9, "top_k": 5}}),
        (
            "evaluate",
            {"rollout": {"top_p": 0.9, "temperature": 1.0}, "training": {"steps": None, "learning_rate": None}},
        ),
    ):
        spec = spec_of(kind, **changes)
        assert type(spec).model_validate(spec.model_dump(mode="json")) == spec


def test_a_block_that_says_one_thing_keeps_the_algorithms_defaults():
    ppo = spec_of("ppo", algorithm={"kl": {"beta": 0.2}, "objective": {"ratio": "sequence"}}).algorithm
    assert (ppo.kl.beta, ppo.kl.placement, ppo.kl.estimator) == (0.2, "reward", "k1")
    assert (ppo.objective.clip_low, ppo.objective.clip_high) == (0.2, 0.2)


def test_training_without_a_clip_learns_too(tiny_folder, load):
    policy = load(tiny_folder)
    spec = spec_of(algorithm={"objective": {"kind": "reinforce"}}, training={"steps": 30, "learning_rate": 0.01})
    run = run_of(policy, spec, grader=Grader())
    run.go()
    values = list(run.recorder.metric["plain_reward"].values())
    assert sum(values[-5:]) - sum(values[:5]) > 0.5
    assert "clip_fraction" not in run.recorder.metric


# --- cut distributions ---


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (1.0, None, [0, 1, 2, 3]),
        (0.5, None, [0]),  # the first token alone holds .5
        (0.51, None, [0, 1]),  # the one that crosses the line stays
        (0.9, None, [0, 1, 2]),
        (1.0, 2, [0, 1]),
        (0.6, 3, [0, 1]),  # .5/.95 = .526 < .6: the nucleus is of what top_k has left
        (1e-9, None, [0]),
        (1.0, 9, [0, 1, 2, 3]),
    ],
)
def test_a_cut_distribution_is_renormalised_over_what_is_kept(top_p, top_k, kept):
    from workers.policy.generation.sampler import choose

    probabilities = torch.tensor([0.05, 0.15, 0.5, 0.3], dtype=torch.float64)
    place = {0: 2, 1: 3, 2: 1, 3: 0}  # the likeliest first
    allowed = {place[k] for k in kept}
    n = 2000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, logprobs = choose(probabilities.log().expand(n, -1), uniform, 1.0, top_p, top_k)
    assert set(tokens.tolist()) == allowed
    whole = sum(float(probabilities[k]) for k in allowed)
    for token in allowed:
        share = float((tokens == token).double().mean())
        assert share == pytest.approx(float(probabilities[token]) / whole, abs=2 / n)
        assert logprobs[tokens == token].exp().tolist() == pytest.approx(
            [float(probabilities[token]) / whole] * int(share * n + 0.5)
        )


def test_evaluations_and_rejection_sampling_are_sampled_from_the_cut(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of("rejection_sampling", training={"steps": 1}))
    run.environment.rollouts.top_k = 1
    with contextlib.suppress(JobFailure):  # greedy answers of a random model never end, so none is kept
        run.go()
    groups = run.recorder.groups[0][2]
    assert all(len({tuple(c.tokens) for c in g.completions}) == 1 for g in groups)  # only the likeliest token is left
    assert all(x == 0.0 for g in groups for c in g.completions for x in c.logprobs)


# --- the divergence in the reward of REINFORCE ---


@pytest.mark.parametrize("baseline", ["none", "leave_one_out", "moving_average"])
def test_a_completion_pays_for_its_whole_divergence(tiny_folder, load, baseline):
    policy = load(tiny_folder, reference=True)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    found = []
    for beta in (0.0, 0.5):
        kl = {"beta": beta, "placement": "reward", "estimator": "k1"}
        run = run_of(policy, spec_of("reinforce", algorithm={"baseline": baseline, "kl": kl}))
        found.append(run.algorithm.complete(policy, run.algorithm.collect(run.environment).batch))
    plain, paid = found
    reference = torch.split(policy.reference_logprobs(plain).double(), [len(t) for t in plain.tokens_B_T])
    costs = [0.5 * (math.fsum(row) - float(ref.sum())) for row, ref in zip(plain.logprobs_B_T, reference, strict=True)]
    assert max(map(abs, costs)) > 0.01
    for b, (before, after) in enumerate(zip(plain.advantages_B_T, paid.advantages_B_T, strict=True)):
        others = {
            "none": [], "moving_average": [c for k, c in enumerate(costs) if k != b],
            "leave_one_out": [c for k, c in enumerate(costs) if k != b and plain.prompt_of_B[k] == plain.prompt_of_B[b]],
        }[baseline]  # fmt: skip
        cost = costs[b] - (sum(others) / len(others) if others else 0.0)
        assert after == pytest.approx([a - cost for a in before], abs=1e-4)
    total, count = run.algorithm.loss(policy, paid).metrics["kl"]  # the series has its name wherever the penalty stands
    assert total / count == pytest.approx(2 * sum(costs) / paid.tokens_in_step, abs=1e-5)

"""grape.md §7, rounds: evaluate, judge, keep or undo, refresh the reference; and resume exactly."""

import contextlib
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from service.domain.job_state import FAILURES, JobFailure
from service.domain.scoring import CriterionWeight, paired_interval
from tests.support.training import Control, Grader, run_of, spec_of, weights
from tests.workers.test_resume import saver
from workers.training.checkpoint import read_trainer_state, restore
from workers.training.optim import build_optimizer, optimizer_tensors
from workers.training.ports import Interrupted
from workers.training.rounds import compare


class TwoFaced(Grader):
    """Trains towards even tokens; held out, it wants what `wants` says: `even`, `odd`, or nothing in particular."""

    def __init__(self, wants):
        super().__init__()
        self.wants = wants
        self.criteria = [CriterionWeight("even", 1.0, judged=False)]
        self.purpose = None

    def start(self, purpose, step):
        self.purpose = purpose
        return super().start(purpose, step)

    def cells(self, step, index, completion):
        even = super().cells(step, index, completion)["even"]
        if self.purpose == "evaluation":
            score = {"even": even.score, "odd": 1 - even.score, "nothing": 0.5}[self.wants]
            even = even.model_copy(update={"score": score})
        return {"even": even}


def rounds_of(number, steps=12, on_regression="stop", beta=0.0, **changes):
    return spec_of(
        algorithm={
            "rounds": number,
            "on_regression": on_regression,
            "kl": {"beta": beta},
            **changes.pop("algorithm", {}),
        },
        training={"steps": steps, "learning_rate": 0.02},
        evaluation={"prompts": "ds_1"},
        **changes,
    )


def start(policy, spec, wants, **extra):
    return run_of(policy, spec, grader=TwoFaced(wants), evaluate="all", **extra)


def finished(run):
    return [data for kind, data in run.recorder.events if kind == "round.finished"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"algorithm": {"rounds": 2}}, ("evaluation",)),
        ({"algorithm": {"rounds": 6}, "evaluation": {"prompts": "ds_1"}}, ("algorithm", "rounds")),
        ({"algorithm": {"rounds": 0}}, ("algorithm", "grape", "rounds")),
        ({"algorithm": {"on_regression": "retry"}}, ("algorithm", "grape", "on_regression")),
    ],
)
def test_rounds_need_an_evaluation_and_a_step_each(changes, place):
    with pytest.raises(ValidationError) as caught:
        spec_of(**changes)
    found = {tuple(e["ctx"]["loc"]) if "loc" in e.get("ctx", {}) else e["loc"] for e in caught.value.errors()}
    assert place in found


def test_regression_is_a_published_failure_of_the_users():
    assert (FAILURES["regression"].user_caused, FAILURES["regression"].retryable) == (True, False)


# --- when a round made it worse ---


def test_the_interval_is_that_of_the_mean():
    # 100 differences of mean −.05 and deviation .1: −.05 ± 1.96·.01, up to the bootstrap's own error
    values = [-0.05 + 0.1 * (1 if k % 2 else -1) for k in range(100)]
    low, high = paired_interval(values, 7)
    assert (low, high) == (pytest.approx(-0.0696, abs=0.003), pytest.approx(-0.0304, abs=0.003))
    assert paired_interval(values, 7) == (low, high)
    assert paired_interval(values, 8) != (low, high)
    with pytest.raises(ValueError, match="two pairs"):
        paired_interval([1.0], 0)


def test_it_holds_what_it_says():
    """In 95 % of samples the interval covers the true mean; a bootstrap of 30 covers a little less."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(300):
        sample = (0.2 + torch.randn(30, generator=generator)).tolist()
        low, high = paired_interval(sample, seed, resamples=400)
        covered += low <= 0.2 <= high
    assert 0.90 <= covered / 300 <= 0.97


def test_pairs_are_by_prompt_and_nulls_stand_aside():
    before = {"a": 0.9, "b": 0.8, "c": 0.7, "only before": 1.0}
    after = {"a": 0.6, "b": 0.4, "c": 0.5, "only after": 1.0}
    found = compare(before, after, 0)
    assert (found.prompts, found.left_out, found.regression) == (3, 2, True)
    assert (found.before, found.after) == (pytest.approx(0.8), pytest.approx(0.5))
    mixed = compare(before, {"a": 0.6, "b": 0.9, "c": 0.7}, 0)
    assert not mixed.regression
    assert not compare({"a": 1.0}, {"a": 0.0}, 0).regression  # one prompt decides nothing


# --- the loop ---


def test_the_steps_are_spread_and_every_round_ends_with_an_evaluation(tiny_folder, load):
    run = start(load(tiny_folder), rounds_of(4, steps=9), "even")
    saved = []
    run.save = lambda state: saved.append((state.step, state.round))
    run.go()
    assert [data["step"] for data in finished(run)] == [3, 5, 7, 9]  # 9 steps over 4 rounds: the first has one more
    assert set(run.recorder.metric["evaluation.plain_reward"]) == {0, 3, 5, 7, 9}
    assert saved == [(3, 1), (5, 2), (7, 3), (9, 4)]
    series = run.recorder.metric["evaluation.plain_reward"]
    for data, (before, after) in zip(finished(run), pairwise([0, 3, 5, 7, 9]), strict=True):
        assert data["plain_reward"]["before"] == pytest.approx(series[before])
        assert data["plain_reward"]["after"] == pytest.approx(series[after])
        assert (data["prompts"], data["left_out"], data["action"]) == (6, 0, "continue")


def test_stop_fails_the_job_and_keeps_what_there_is(tiny_folder, load):
    run = start(load(tiny_folder), rounds_of(3), "odd")
    saved = []
    run.save = lambda state: saved.append(state.step)
    with pytest.raises(JobFailure) as caught:
        run.go()
    assert caught.value.code == "regression"
    assert "round 1 of 3 made held-out plain reward worse" in caught.value.message
    (data,) = finished(run)
    assert (data["regression"], data["action"], data["plain_reward"]["high"] < 0) == (True, "stop", True)
    assert saved == [4]


def test_continue_only_tells(tiny_folder, load):
    policy, plain = load(tiny_folder), load(tiny_folder)
    run = start(policy, rounds_of(3, on_regression="continue"), "odd")
    run.go()
    assert next(data["regression"] for data in finished(run)) is True
    assert run.state.step == 12
    single = start(plain, spec_of(training={"steps": 12, "learning_rate": 0.02}), "odd")
    single.go()
    assert torch.equal(weights(policy), weights(plain))  # without a reference rounds change nothing else


def test_roll_back_undoes_the_round(tiny_folder, load):
    policy = load(tiny_folder)
    before = weights(policy)
    spec = rounds_of(3, on_regression="roll_back")
    optimizer = build_optimizer(policy, spec.training)
    run = start(policy, spec, "odd", optimizer=optimizer)
    run.go()
    assert [data["action"] for data in finished(run)] == ["roll_back"] * 3
    assert torch.equal(weights(policy), before)
    assert optimizer_tensors(optimizer, policy) == {}  # as before the first step
    assert (run.state.step, run.state.round) == (12, 3)
    # the last checkpoint holds the weights of the start, and what was measured of them
    assert run.state.evaluation["evaluation.plain_reward"] == run.recorder.metric["evaluation.plain_reward"][0]
    losses = run.recorder.metric["loss"]
    assert losses[1] != losses[5]  # other prompts, other samples: not the same round again


def test_roll_back_returns_to_the_last_good_round(tiny_folder, load):
    policy = load(tiny_folder)
    spec = rounds_of(2, steps=8, on_regression="roll_back")
    optimizer = build_optimizer(policy, spec.training)
    run = start(policy, spec, "even", optimizer=optimizer)
    kept = {}

    def save(state):
        if state.step == 4:
            run.environment.rollouts.grader.wants = run.evaluation.rollouts.grader.wants = "odd"
            state.held_out = dict.fromkeys(state.held_out, 1.0)  # nothing can keep up with that
            kept["weights"], kept["moments"] = weights(policy), optimizer_tensors(optimizer, policy)
            kept["moments"] = {name: tensor.clone() for name, tensor in kept["moments"].items()}

    run.save = save
    run.go()
    assert [data["action"] for data in finished(run)] == ["continue", "roll_back"]
    assert torch.equal(weights(policy), kept["weights"])
    now = optimizer_tensors(optimizer, policy)
    assert now.keys() == kept["moments"].keys()
    assert all(torch.equal(now[name], tensor) for name, tensor in kept["moments"].items())


# --- the reference ---


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}])
def test_the_reference_is_refreshed_at_the_end_of_a_round(tiny_folder, load, adapter):
    spec = rounds_of(3, beta=0.1, adapter=adapter)
    policy = load(tiny_folder, reference=True, adapter=spec.adapter)
    run = start(policy, spec, "even")
    run.go()
    kl = run.recorder.metric["kl"]
    assert [kl[step] for step in (1, 5, 9)] == pytest.approx([0, 0, 0], abs=1e-9)
    assert min(kl[step] for step in (4, 8, 12)) > 1e-6


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}])
def test_a_moved_reference_is_the_policy_of_then_and_disturbs_nothing(tiny_folder, load, adapter):
    spec = rounds_of(3, beta=0.1, adapter=adapter)
    policy = load(tiny_folder, reference=True, adapter=spec.adapter)
    run = start(policy, spec, "even")
    collected = run.algorithm.collect(run.environment)
    optimizer = build_optimizer(policy, spec.training)
    run.algorithm.update(policy, collected.batch, optimizer)
    policy.refresh_reference()
    then = policy.logprobs(collected.batch).logprobs.detach()
    for _ in range(3):
        run.algorithm.update(policy, collected.batch, optimizer)
    now = weights(policy)
    assert torch.allclose(policy.reference_logprobs(collected.batch), then, atol=1e-6)
    assert not torch.allclose(policy.logprobs(collected.batch).logprobs.detach(), then, atol=1e-4)
    assert torch.equal(weights(policy), now)
    # the gradient of a loss whose forward lent the parameters out is that of one that did not
    flat = policy.logprobs(collected.batch)
    policy.reference_logprobs(collected.batch)
    lent = torch.autograd.grad(flat.logprobs.sum(), list(policy.parameters()))
    plain = torch.autograd.grad(policy.logprobs(collected.batch).logprobs.sum(), list(policy.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(lent, plain, strict=True))


# --- stopping and going on ---


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}])
@pytest.mark.parametrize(("wants", "on_regression", "inner"), [("even", "stop", 1), ("odd", "roll_back", 2)])
@pytest.mark.parametrize("stop_at", [22, 40, 50, 58])
def test_a_stopped_run_ends_with_the_same_bits(
    tiny_folder, load, tmp_path, adapter, wants, on_regression, inner, stop_at
):
    """Interrupted in a rollout or in the evaluation that ends a round; the reference and the round's start come back."""
    spec = rounds_of(
        3, steps=7, on_regression=on_regression, beta=0.1, adapter=adapter, algorithm={"inner_epochs": inner}
    )
    straight = load(tiny_folder, reference=True, adapter=spec.adapter)
    whole = start(straight, spec, wants)
    whole.go()

    policy = load(tiny_folder, reference=True, adapter=spec.adapter)
    optimizer = build_optimizer(policy, spec.training)
    first = start(
        policy,
        spec,
        wants,
        control=Control(stop_at),
        optimizer=optimizer,
        save=saver(tmp_path, policy, optimizer, spec),
    )
    with contextlib.suppress(Interrupted):
        first.go()
    assert first.state.step < 7, "it was not stopped; the test proves nothing"
    folder = max(tmp_path.iterdir(), key=lambda path: int(path.name.split("-")[1]))
    again = load(tiny_folder, reference=True, adapter=spec.adapter, resume=folder)
    optimizer = build_optimizer(again, spec.training)
    restore(folder, again, optimizer)
    second = start(again, spec, wants, state=read_trainer_state(folder), optimizer=optimizer)
    second.go()
    assert torch.equal(weights(again), weights(straight))
    for name, values in second.recorder.metric.items():
        for step, value in values.items():
            if name not in ("seconds", "tokens_per_s", "sampling_s", "grading_wait_s"):
                assert whole.recorder.metric[name][step] == value, (name, step)
    events = {data["round"]: data for data in finished(first) + finished(second)}
    assert list(events.values()) == finished(whole)

"""Algorithms on a tiny model: what a step learns does not depend on how it is cut, and what is skipped changes nothing."""

import json

import pytest
import torch

from service.domain.job_state import JobFailure
from service.domain.scoring import CriterionWeight, ScoredCell
from tests.support.training import (
    Grader,
    algorithm_of,
    equal_scores,
    gradient,
    rollout,
    run_of,
    scored_again,
    spec_of,
    weights,
)
from workers.seeds import ShuffledCursor, derive_seed
from workers.training.optim import build_optimizer, learning_rate
from workers.training.ports import Suspended
from workers.training.state import NULL_WINDOW, TrainerState
from workers.types import SupervisedBatch

# --- what a step learns ---


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_gradient_does_not_depend_on_the_cut(tiny_folder, load, aggregation, ratio):
    spec = spec_of(algorithm={"objective": {"aggregation": aggregation, "ratio": ratio}, "kl": {"beta": 0.1}})
    policy = load(tiny_folder, reference=True)
    algorithm, groups = rollout(policy, spec)
    batch = algorithm.batch_of(groups)
    whole = gradient(policy, algorithm, batch)
    for budget in (12, 30, 60):
        policy.budget = budget
        assert len(policy.microbatches(batch)) > 1
        assert torch.allclose(gradient(policy, algorithm, batch), whole, atol=1e-6)


def test_the_gradient_of_sft_does_not_depend_on_the_cut(tiny_folder, load):
    policy, algorithm = load(tiny_folder), algorithm_of(spec_of("sft"))
    rows = [([3, 4], [5, 1]), ([6], [7, 8, 9, 10, 1]), ([3, 4, 5, 6], [1]), ([9], [9, 9, 1])]
    total = sum(w * len(t) for w, (_, t) in zip((1.0, 2.0, 0.5, 3.0), rows, strict=True))
    batch = SupervisedBatch([p for p, _ in rows], [t for _, t in rows], [1.0, 2.0, 0.5, 3.0], total)
    whole = gradient(policy, algorithm, batch)
    for budget in (3, 8, 12):
        policy.budget = budget
        assert torch.allclose(gradient(policy, algorithm, batch), whole, atol=1e-6)


def test_sft_is_the_weighted_token_mean_of_transformers_loss(tiny_folder, load):
    policy, algorithm = load(tiny_folder), algorithm_of(spec_of("sft"))
    batch = SupervisedBatch([[3, 4], [6]], [[5, 7, 1], [8, 1]], [1.0, 1.0], 5.0)
    ours = sum(float(algorithm.loss(policy, piece).loss.detach()) for piece in policy.microbatches(batch))
    losses = []
    for prompt, tokens in zip(batch.prompts_B_T, batch.tokens_B_T, strict=True):
        labels = torch.tensor([[-100] * len(prompt) + tokens])
        losses.append(policy.model(input_ids=torch.tensor([prompt + tokens]), labels=labels).loss.item() * len(tokens))
    assert ours == pytest.approx(sum(losses) / 5, abs=1e-6)


def test_the_end_token_is_trained(tiny_folder, load):
    policy, algorithm = load(tiny_folder), algorithm_of(spec_of("sft"))
    batch = SupervisedBatch([[3]], [[1]], [1.0], 1.0)
    before = float(policy.supervised_logprobs(batch).logprobs.detach())
    optimizer = build_optimizer(policy, spec_of("sft").training)
    algorithm.update(policy, batch, optimizer)
    assert float(policy.supervised_logprobs(batch).logprobs.detach()) > before


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_skipping_groups_without_signal_is_exact(tiny_folder, load, aggregation):
    spec = spec_of(algorithm={"objective": {"aggregation": aggregation}})
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec)
    equal_scores(groups[1])
    for group in groups:
        group.scored = scored_again(algorithm, group)
    assert groups[1].scored.signal == "no_spread"
    skipped, kept = algorithm.batch_of(groups), algorithm.batch_of(groups, skip=False)
    assert len(skipped.tokens_B_T) == 8 < len(kept.tokens_B_T) == 12
    assert torch.allclose(gradient(policy, algorithm, skipped), gradient(policy, algorithm, kept), atol=1e-7)


def test_with_a_kl_penalty_nothing_is_skipped(tiny_folder, load):
    spec = spec_of(algorithm={"kl": {"beta": 0.1}})
    policy = load(tiny_folder, reference=True)
    algorithm, groups = rollout(policy, spec)
    for group in groups:
        equal_scores(group)
        group.scored = scored_again(algorithm, group)
    batch = algorithm.batch_of(groups)
    assert len(batch.tokens_B_T) == 12
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert gradient(policy, algorithm, batch).abs().max() > 1e-6  # KL has a gradient though every advantage is 0


def test_who_left_the_group_is_in_no_denominator(tiny_folder, load):
    spec = spec_of(algorithm={"aggregation": {"min_coverage": 0.9}})
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec, grader=Grader(fails=lambda step, index: index == 2))
    batch = algorithm.batch_of(groups, skip=False)
    members = [c for g in groups for i, c in enumerate(g.completions) if i != 2]
    assert batch.tokens_in_step == sum(len(c.tokens) for c in members)
    assert batch.sequences_in_step == 9


def test_a_batch_without_anything_to_learn_moves_only_by_momentum(tiny_folder, load):
    spec = spec_of()
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec)
    for group in groups:
        equal_scores(group)
        group.scored = scored_again(algorithm, group)
    optimizer = build_optimizer(policy, spec.training)
    before = weights(policy)
    report = algorithm.update(policy, algorithm.batch_of(groups), optimizer)
    assert report.metrics["loss"] == 0.0
    assert torch.equal(weights(policy), before)


def test_one_criterion_makes_grape_grpo_to_the_bit(tiny_folder, load):
    results = []
    for kind in ("grape", "grpo"):
        policy, spec = load(tiny_folder), spec_of(kind)
        run = run_of(policy, spec, grader=Grader(criteria=[CriterionWeight("said", 3.0)]))
        run.go()
        results.append(weights(policy))
    assert torch.equal(*results)


def test_confidence_changes_what_is_learned(tiny_folder, load):
    results = []
    for kind in ("grape", "grpo"):
        policy = load(tiny_folder)
        run_of(policy, spec_of(kind)).go()
        results.append(weights(policy))
    assert not torch.equal(*results)


def test_a_loss_that_is_not_finite_stops_before_the_step(tiny_folder, load):
    policy, spec = load(tiny_folder), spec_of()
    algorithm, groups = rollout(policy, spec)
    batch = algorithm.batch_of(groups)
    batch.advantages_B_T[0][0] = float("nan")
    before = weights(policy)
    with pytest.raises(JobFailure) as caught:
        algorithm.update(policy, batch, build_optimizer(policy, spec.training))
    assert caught.value.code == "nonfinite_loss"
    assert torch.equal(weights(policy), before)


@pytest.mark.parametrize("kind", ["grape", "sft"])
def test_training_moves_its_own_objective(tiny_folder, load, kind):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of(kind, training={"steps": 30, "learning_rate": 0.01}))
    run.go()
    name, sign = ("plain_reward", 1) if kind == "grape" else ("loss", -1)
    values = list(run.recorder.metric[name].values())
    assert sign * (sum(values[-5:]) - sum(values[:5])) / 5 > 0.15


# --- judges that fail ---


def test_a_step_without_a_verdict_suspends_and_asks_again_later(tiny_folder, load):
    policy = load(tiny_folder)
    grader = Grader(fails=lambda step, index: step == 3)
    run = run_of(policy, spec_of(), grader=grader)
    with pytest.raises(Suspended, match=r"judge_error_rate.*too slow"):
        run.go()
    assert run.state.step == 2
    assert grader.forgotten == [3]
    assert run.state.cursors["prompts"] == 6  # the prompts of step 3 come again


def test_too_many_failures_over_the_window_suspend(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of(training={"steps": 40}), grader=Grader(fails=lambda step, index: index == 0))
    with pytest.raises(Suspended, match="25% of the judge cells of the last 20 steps"):
        run.go()
    assert run.state.step == NULL_WINDOW - 1


def test_few_failures_go_on(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(
        policy, spec_of(training={"steps": 25}), grader=Grader(fails=lambda step, index: step % 5 == 0 and index == 0)
    )
    run.go()
    assert sum(run.recorder.metric["null_cells"].values()) == 15


# --- small parts ---


def test_the_order_of_the_data_is_the_seeds_and_complete():
    cursor = ShuffledCursor(7, 0, "prompts")
    first = cursor.take(7)
    assert sorted(first) == list(range(7))
    second = cursor.take(7)
    assert sorted(second) == list(range(7))
    assert first != second
    assert ShuffledCursor(7, 0, "prompts", position=5).take(4) == [*first[5:], *second[:2]]
    assert ShuffledCursor(7, 1, "prompts").take(7) != first
    assert derive_seed(0, "a", 12) != derive_seed(0, "a1", 2)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.75, 0.5]), ("cosine", [0.5, 1, 1, 0.853553, 0.5])],
)
def test_learning_rates(schedule, expected):
    spec = spec_of(training={"learning_rate": 1.0, "schedule": schedule, "warmup_steps": 2, "steps": 6}).training
    assert [learning_rate(spec, step, 6) for step in range(5)] == pytest.approx(expected, abs=1e-6)


def test_state_survives_json():
    state = TrainerState(step=3, cursors={"prompts": 4}, uses_left=0)
    state.history.add(
        "h", [CriterionWeight("a", 1.0)], [{"a": ScoredCell(0.1, 0.2, 0.05)}, {"a": ScoredCell(0.7, None)}]
    )
    state.null_shares.append(0.1)
    again = TrainerState.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state

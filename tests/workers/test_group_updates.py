"""What `grape` and `grpo` share with the plain algorithms: minibatches of groups, truncated completions, samples seen otherwise."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from service.domain.algorithm import GrapeConfig, option_mismatches
from service.domain.scoring import (
    CriterionWeight,
    GateRule,
    GroupCells,
    ScoredCell,
    ScoringOptions,
    score_groups,
    token_advantages,
)
from tests.support.training import equal_scores, gradient, rollout, run_of, scored_again, spec_of, weights
from workers.algorithms.on_policy import correct_for_sampler
from workers.policy.forward import policy_pieces

AGGREGATIONS = ["token_mean", "sequence_mean", "constant"]


def stepped(policy, **algorithm):
    """A scored rollout of three groups, of which the second has no signal."""
    algorithm_, groups = rollout(policy, spec_of(algorithm=algorithm))
    equal_scores(groups[1])
    for group in groups:
        group.scored = scored_again(algorithm_, group)
    return algorithm_, groups


# --- minibatches ---


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("minibatches", [2, 3])
def test_skipping_is_exact_in_every_minibatch(tiny_folder, load, aggregation, minibatches):
    """A group without signal belongs to a minibatch like any other, and counts in its denominators though nothing is run for it."""
    policy = load(tiny_folder)
    algorithm, groups = stepped(policy, minibatches=minibatches, objective={"aggregation": aggregation})
    skipped, kept = algorithm.batch_of(groups), algorithm.batch_of(groups, skip=False)
    assert len(skipped.tokens_B_T) == 8 < len(kept.tokens_B_T) == 12
    for use in range(2 * minibatches):
        mine, full = algorithm.part(skipped, use, 7), algorithm.part(kept, use, 7)
        assert (mine.tokens_in_step, mine.sequences_in_step) == (full.tokens_in_step, full.sequences_in_step)
        assert full.tokens_in_step == sum(map(len, full.tokens_B_T))
        assert full.sequences_in_step == len(full.tokens_B_T)
        assert torch.allclose(gradient(policy, algorithm, mine), gradient(policy, algorithm, full), atol=1e-7)


def test_minibatches_are_whole_groups_and_cover_the_rollout_in_every_epoch(tiny_folder, load):
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec_of(algorithm={"minibatches": 3, "inner_epochs": 2}))
    batch = algorithm.batch_of(groups, skip=False)
    orders = []
    for epoch in range(2):
        parts = [algorithm.part(batch, 3 * epoch + k, 5) for k in range(3)]
        assert [len(part.prompts_P_T) for part in parts] == [1, 1, 1]
        assert [len(part.tokens_B_T) for part in parts] == [4, 4, 4]
        orders.append([part.prompts_P_T[0] for part in parts])
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(batch.prompts_P_T)
    assert orders[0] != orders[1]
    assert (
        algorithm.collect(run_of(policy, spec_of(algorithm={"minibatches": 3, "inner_epochs": 2})).environment).uses
        == 6
    )


@pytest.mark.parametrize("aggregation", ["sequence_mean", "constant"])
def test_at_the_sampling_policy_minibatches_of_equal_size_average_to_the_whole(tiny_folder, load, aggregation):
    """Both means divide by completions, so three thirds of a step, each a step of its own, have the whole one for their mean."""
    policy = load(tiny_folder)
    algorithm, groups = stepped(policy, minibatches=3, objective={"aggregation": aggregation})
    batch = algorithm.batch_of(groups)
    parts = [gradient(policy, algorithm, algorithm.part(batch, k, 0)) for k in range(3)]
    assert torch.allclose(sum(parts) / 3, gradient(policy, algorithm, batch), atol=1e-6)


def test_a_minibatch_does_not_depend_on_its_own_cut(tiny_folder, load):
    policy = load(tiny_folder, reference=True)
    algorithm, groups = rollout(policy, spec_of(algorithm={"minibatches": 2, "kl": {"beta": 0.1}}))
    batch = algorithm.part(algorithm.batch_of(groups), 1, 0)
    whole = gradient(policy, algorithm, batch)
    pieces = list(policy_pieces(batch, 12))
    assert len(pieces) > 1
    policy.budget = 12
    assert torch.allclose(gradient(policy, algorithm, batch), whole, atol=1e-6)


def test_more_minibatches_than_groups_are_refused():
    with pytest.raises(ValidationError, match="whole groups, and a step has 3"):
        spec_of(algorithm={"minibatches": 4})


# --- truncated completions ---


def test_masked_completions_are_compared_and_stand_in_no_sum_and_no_denominator(tiny_folder, load):
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec_of(algorithm={"truncated": {"mode": "mask"}}))
    keeping = rollout(policy, spec_of())[0]
    cut = [[c.finish_reason == "length" for c in g.completions] for g in groups]
    assert any(map(any, cut))
    assert not all(map(all, cut))
    masked, kept = algorithm.batch_of(groups, skip=False), keeping.batch_of(groups, skip=False)
    flat = [is_cut for row in cut for is_cut in row]
    finished = kept.select([b for b, is_cut in enumerate(flat) if not is_cut])
    finished = replace(finished, tokens_in_step=sum(map(len, finished.tokens_B_T)), sequences_in_step=flat.count(False))
    assert masked.tokens_B_T == finished.tokens_B_T
    assert masked.advantages_B_T == finished.advantages_B_T  # the truncated ones are in the group's mean and deviation
    assert (masked.tokens_in_step, masked.sequences_in_step) == (finished.tokens_in_step, finished.sequences_in_step)
    assert torch.allclose(gradient(policy, algorithm, masked), gradient(policy, keeping, finished), atol=1e-7)


ROWS = [{"a": ScoredCell(s)} for s in (1.0, 0.5, 0.0, 0.5)]
CRITERIA = [CriterionWeight("a", 2.0, judged=False)]


def penalised(penalties, criteria=CRITERIA, rows=ROWS, **options):
    (group,) = score_groups([GroupCells(criteria, rows, penalties=penalties)], ScoringOptions(**options))
    return group.completions


def test_the_penalty_is_taken_off_rewards_and_has_a_part_of_its_own():
    # R' = 1, .5, 0, .5 minus .5, 0, 0, .25: .5, .5, 0, .25, mean .3125; the penalty's mean is .1875
    found = penalised([0.5, 0.0, 0.0, 0.25], scale="none")
    assert [c.reward for c in found] == pytest.approx([0.5, 0.5, 0.0, 0.25])
    assert [c.plain_reward for c in found] == [1.0, 0.5, 0.0, 0.5]
    assert [c.advantage for c in found] == pytest.approx([0.1875, 0.1875, -0.3125, -0.0625])
    assert [c.parts["overlong"] for c in found] == pytest.approx([-0.3125, 0.1875, 0.1875, -0.0625])
    assert [c.parts["a"] for c in found] == pytest.approx([0.5, 0.0, -0.5, 0.0])
    for baseline in ("group_mean", "leave_one_out", "none"):
        for c in penalised([0.5, 0.0, 0.0, 0.25], baseline=baseline):
            assert math.fsum(c.parts.values()) == pytest.approx(c.unscaled_advantage, abs=1e-12)
            assert c.advantage == pytest.approx(c.scale_factor * c.unscaled_advantage)
    assert penalised([0.5, 0, 0, 0], baseline="none")[0].parts == {"a": 1.0, "overlong": -0.5}


def test_the_penalty_comes_after_the_gates():
    gated = [CriterionWeight("a", 2.0, judged=False, gate=GateRule(0.75, 0.5))]
    found = penalised([0.5, 0.0, 0.0, 0.25], criteria=gated, scale="none")
    # gates halve all but the first: 1, .25, 0, .25; then the penalties
    assert [c.reward for c in found] == pytest.approx([0.5, 0.25, 0.0, 0.0])
    for c in found:
        assert math.fsum(c.parts.values()) == pytest.approx(c.unscaled_advantage, abs=1e-12)
        assert set(c.parts) == {"a", "gate", "overlong"}


def test_equal_penalties_change_no_advantage():
    plain, shifted = penalised(()), penalised([0.25] * 4)
    assert [c.advantage for c in plain] == pytest.approx([c.advantage for c in shifted], abs=1e-12)
    assert [c.reward - 0.25 for c in plain] == [c.reward for c in shifted]
    assert "overlong" not in plain[0].parts


def test_the_penalty_is_computed_from_length_and_limit_alone(tiny_folder, load):
    """Who has the stored completions and the job's spec has the penalty: limit 8, margin 4, at most 2."""
    policy = load(tiny_folder)
    spec = spec_of(algorithm={"truncated": {"mode": "penalty", "margin": 4, "penalty": 2.0}})
    _, groups = rollout(policy, spec)
    lengths = [len(c.tokens) for g in groups for c in g.completions]
    assert len(set(lengths)) > 2
    for group in groups:
        taken = [2.0 * max(0, len(c.tokens) - 4) / 4 for c in group.completions]
        assert group.penalties == pytest.approx(taken)
        for i, c in enumerate(group.scored.completions):
            assert c.parts["overlong"] == pytest.approx(sum(taken) / 4 - taken[i])
    default = spec_of(algorithm={"truncated": {"mode": "penalty"}}).algorithm.truncated
    assert [default.margin_below(n) for n in (20_480, 8, 3)] == [4096, 1, 1]  # DAPO's own: 4,096 of 20,480


@pytest.mark.parametrize(
    ("changes", "criteria", "place"),
    [
        ({"advantage": {"level": "criterion"}}, (), ("advantage", "level")),
        ({}, [CriterionWeight("overlong", 1.0)], ("truncated", "mode")),
    ],
)
def test_where_a_penalty_cannot_stand_it_is_refused(changes, criteria, place):
    kept = GrapeConfig.model_validate({"type": "grape", **changes})
    config = GrapeConfig.model_construct(
        **{**dict(kept), "truncated": spec_of(algorithm={"truncated": {"mode": "penalty"}}).algorithm.truncated}
    )
    assert [m.place for m in option_mismatches(config, criteria)] == [place]
    assert not option_mismatches(kept, criteria)


@pytest.mark.parametrize(
    ("truncated", "sentence"),
    [
        ({"mode": "penalty", "margin": 9}, "more than rollout.max_completion_tokens 8"),
        ({"mode": "mask", "margin": 3}, "goes with mode 'penalty'"),
    ],
)
def test_margins_that_make_no_sense_are_refused(truncated, sentence):
    for kind in ("grape", "reinforce"):
        with pytest.raises(ValidationError, match=sentence):
            spec_of(kind, algorithm={"truncated": truncated})


# --- samples that the trainer sees with another probability ---


@pytest.mark.parametrize("kind", ["grape", "grpo"])
@pytest.mark.parametrize("mode", ["truncated", "masked"])
def test_a_correction_where_sampler_and_trainer_agree_changes_nothing(tiny_folder, load, kind, mode):
    gradients = []
    for importance in ({"mode": "off"}, {"mode": mode, "cap": 1.5}):
        policy = load(tiny_folder)
        run = run_of(policy, spec_of(kind, algorithm={"importance": importance}))
        batch = run.algorithm.complete(policy, run.algorithm.collect(run.environment).batch)
        assert bool(batch.weights_B_T) == (importance["mode"] != "off")
        gradients.append(gradient(policy, run.algorithm, batch))
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("mode", "expected"), [("truncated", [0.5, 1.25, 1.5]), ("masked", [0.0, 1.25, 0.0])])
@pytest.mark.parametrize("kind", ["grape", "reinforce"])
def test_weights_multiply_the_policys_term_and_change_no_denominator(tiny_folder, load, kind, mode, expected):
    """Samplers that said half, 1.25 and twice of what the trainer says, with a cap of 1.5: the gradient is the weighted sum of the
    tokens' own scores over all tokens, those of weight 0 included."""
    policy = load(tiny_folder)
    algorithm = {"grape": {"importance": {"mode": mode, "cap": 1.5}}, "reinforce": {"baseline": "none"}}[kind]
    run = run_of(policy, spec_of(kind, algorithm={**algorithm, "importance": {"mode": mode, "cap": 1.5}}))
    batch = run.algorithm.collect(run.environment).batch
    ratios = [[(0.5, 1.25, 2.0)[t % 3] for t in range(len(row))] for row in batch.tokens_B_T]
    trainer = correct_for_sampler(policy, batch, run.algorithm.importance).logprobs_B_T
    stated = [[x - math.log(r) for x, r in zip(*pair, strict=True)] for pair in zip(trainer, ratios, strict=True)]
    found = gradient(
        policy, run.algorithm, corrected := run.algorithm.complete(policy, replace(batch, logprobs_B_T=stated))
    )
    weighted = [[expected[t % 3] for t in range(len(row))] for row in batch.tokens_B_T]
    assert [w for row in corrected.weights_B_T for w in row] == pytest.approx(
        [w for row in weighted for w in row], abs=1e-5
    )
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    factors = [w * a for pair in zip(weighted, batch.advantages_B_T, strict=True) for w, a in zip(*pair, strict=True)]
    (-(torch.tensor(factors) * policy.logprobs(batch).logprobs).sum() / batch.tokens_in_step).backward()
    by_hand = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert by_hand.abs().max() > 1e-3
    assert torch.allclose(found, by_hand, rtol=1e-4, atol=1e-6)


def test_with_a_correction_the_gap_is_still_the_samplers(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of(algorithm={"importance": {"mode": "truncated"}}))
    batch = run.algorithm.collect(run.environment).batch
    batch = replace(batch, logprobs_B_T=[[x - 0.125 for x in row] for row in batch.logprobs_B_T])
    total, count = run.algorithm.loss(policy, run.algorithm.complete(policy, batch)).metrics["sampler_gap"]
    assert total / count == pytest.approx(0.125, abs=1e-5)


def test_with_all_of_it_one_criterion_still_makes_grape_grpo_to_the_bit(tiny_folder, load):
    from tests.support.training import Grader

    options = {
        "inner_epochs": 2, "minibatches": 2, "importance": {"mode": "truncated"}, "truncated": {"mode": "penalty", "margin": 3},
    }  # fmt: skip
    results = []
    for kind in ("grape", "grpo"):
        policy = load(tiny_folder)
        run_of(policy, spec_of(kind, algorithm=options), grader=Grader(criteria=[CriterionWeight("said", 3.0)])).go()
        results.append(weights(policy))
    assert torch.equal(*results)
    assert not torch.equal(results[0], weights(load(tiny_folder)))


# --- every advantage with every objective ---


@pytest.mark.parametrize("kind", ["clipped", "reinforce"])
@pytest.mark.parametrize("scale", ["group_std", "batch_std", "none"])
@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out", "none"])
def test_advantages_and_objectives_go_together(tiny_folder, load, baseline, scale, kind):
    """At the sampling policy both objectives have the gradient −Σ A·∇log π / tokens, with A by the formulas of grape.md §5."""
    policy = load(tiny_folder)
    spec = spec_of("grpo", algorithm={"advantage": {"baseline": baseline, "scale": scale}, "objective": {"kind": kind}})
    algorithm, groups = rollout(policy, spec)
    rewards = [torch.tensor([c.reward for c in g.scored.completions], dtype=torch.float64) for g in groups]
    centred = [r - r.mean() for r in rewards]
    whole = torch.cat(centred).std()  # unbiased, like the groups'
    expected = []
    for r, c in zip(rewards, centred, strict=True):
        a = r if baseline == "none" else c * (4 / 3 if baseline == "leave_one_out" else 1)
        a = a / {"group_std": r.std(), "batch_std": whole, "none": 1.0}[scale]
        expected.extend((a if r.max() - r.min() > 1e-6 else torch.zeros(4)).tolist())
    batch = algorithm.batch_of(groups, skip=False)
    assert [row[0] for row in batch.advantages_B_T] == pytest.approx(expected, abs=1e-9)
    found = gradient(policy, algorithm, batch)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    factors = torch.tensor([a for row in batch.advantages_B_T for a in row])
    (-(factors * policy.logprobs(batch).logprobs).sum() / batch.tokens_in_step).backward()
    assert torch.allclose(found, torch.cat([p.grad.flatten() for p in policy.parameters()]), atol=1e-5)


def test_a_penalty_stands_on_every_token_beside_the_credit_of_steps():
    """Two steps of scores 1 and 0 against a mean of .25: to go, the first step has the whole outcome, the second its own share."""
    criteria = [CriterionWeight("s", 1.0, judged=False, step_pooling="mean")]
    rows = [{"s": ScoredCell(0.5, steps=(1.0, 0.0))}, {"s": ScoredCell(0.0, steps=(0.0,))}]
    (group,) = score_groups([GroupCells(criteria, rows, penalties=[0.25, 0.0])], ScoringOptions(scale="none"))
    first = group.completions[0]
    assert first.reward == 0.25
    assert first.parts == pytest.approx({"s": 0.25, "overlong": -0.125})
    found = token_advantages(first, criteria, group.weighting, rows[0], {"s": [0, 0, 1]}, length=3, credit="to_go")
    # step 1: (1 − .25 + 0 − .25)/2 = .25, the part; step 2: (0 − .25)/2 = −.125; both minus the penalty's .125
    assert found == pytest.approx([0.125, 0.125, -0.25])
    assert found[0] == pytest.approx(first.advantage)

"""The policy-gradient core against expectations that are finite sums: a categorical policy of three tokens, every sequence of it.

Limits where two methods must agree, edges of the clip, and invariance to every way of writing the same step down.
"""

import itertools
import random
from dataclasses import replace

import pytest
import torch

from service.domain.objective import ImportanceConfig
from service.domain.scoring import CriterionWeight, GroupCells, ScoredCell, ScoringOptions, score_groups
from tests.support.tabular import (
    D,
    Tabular,
    batch_of,
    expected_gradient,
    gradient_of,
    true_divergence_gradient,
    true_reward_gradient,
)
from tests.support.training import gradient, rollout, spec_of
from workers.advantages.gae import gae
from workers.algorithms.on_policy import Surrogate, correct_for_sampler, policy_loss
from workers.losses.policy_gradient import clipped_surrogate

LOGITS, REFERENCE = [0.4, -0.3, 0.9], [-0.2, 0.5, 0.1]
OLD = torch.log_softmax(torch.tensor([0.1, 0.0, 0.5], dtype=D), -1)
REWARDS = [0.2, 1.0, 0.5]


def reward(row):
    """Of a sequence: not a sum over its tokens."""
    return REWARDS[row[0]] * (1.0 if row[0] != row[-1] else 0.3) + 0.1 * row[-1]


def loss_by(**options):
    return lambda policy, batch: policy_loss(policy, batch, Surrogate(**options))


# --- what the gradient is, on average ---


@pytest.mark.parametrize("kind", ["reinforce", "clipped"])
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_where_it_was_sampled_the_gradient_is_that_of_the_expected_reward(kind, length, temperature):
    """Σ_y π(y)·(−R(y)·∇log π(y))/|y|: the token mean of one sequence. Also at a temperature, whose policy is the one that sampled."""
    policy = Tabular([x / temperature for x in LOGITS])
    expected = -true_reward_gradient(policy, reward, length) / length
    scaled = Tabular(LOGITS)
    old = scaled.logp(temperature).detach()
    found = expected_gradient(
        scaled, loss_by(kind=kind), old, length=length, advantage=reward,
        change=lambda batch: replace(batch, temperature=temperature),
    )  # fmt: skip
    assert torch.allclose(found, expected / temperature, atol=1e-7)  # d(θ/T)/dθ


def test_off_policy_the_unclipped_ratio_of_single_tokens_is_unbiased():
    policy = Tabular(LOGITS)
    found = expected_gradient(policy, loss_by(kind="reinforce"), OLD, length=1, advantage=reward)
    assert torch.allclose(found, -true_reward_gradient(policy, reward, 1), atol=1e-7)


@pytest.mark.parametrize(("cap", "unbiased"), [(100.0, True), (1.05, False)])
def test_truncated_weights_are_unbiased_up_to_their_cap(cap, unbiased):
    """E_μ[min(π/μ, c)·A·∇log π]: the true gradient while no ratio reaches the cap, else exactly the truncated sum."""
    policy = Tabular(LOGITS)
    importance = ImportanceConfig(mode="truncated", cap=cap)
    found = expected_gradient(
        policy, loss_by(kind="reinforce"), OLD, length=1, advantage=reward,
        change=lambda batch: correct_for_sampler(policy, batch, importance),
    )  # fmt: skip
    assert torch.allclose(found, -true_reward_gradient(policy, reward, 1), atol=1e-6) == unbiased
    logp = policy.logp()
    weights = (logp - OLD).exp().detach().clamp(max=cap) * OLD.exp()
    by_hand = -(weights * torch.tensor([reward((a,)) for a in range(3)], dtype=D) * logp).sum()
    assert torch.allclose(found, torch.autograd.grad(by_hand, policy.logits)[0], atol=1e-6)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_divergence_in_the_loss_has_its_own_gradient_beside_every_ratio(ratio, estimator):
    policy = Tabular(LOGITS, REFERENCE)
    loss = loss_by(beta=0.7, estimator=estimator, ratio=ratio)
    found = expected_gradient(policy, loss, OLD, length=2, advantage=lambda row: 0.0)
    assert torch.allclose(found, 0.7 * true_divergence_gradient(policy), atol=1e-7)


def test_without_the_ratio_k3_is_the_gradient_of_the_reverse_divergence():
    """What GRPO published: E_π[(1 − e^d)∇log π] = −Σ ref·∇log π = ∇KL(ref ‖ π), another divergence."""
    policy = Tabular(LOGITS, REFERENCE)
    old = policy.logp().detach()
    found = expected_gradient(policy, loss_by(beta=1.0, unbiased=False), old, length=1, advantage=lambda row: 0.0)
    logp = policy.logp()
    (reverse,) = torch.autograd.grad((policy.reference.exp() * (policy.reference - logp)).sum(), policy.logits)
    assert torch.allclose(found, reverse, atol=1e-7)
    assert not torch.allclose(found, true_divergence_gradient(policy), atol=1e-3)


# --- groups: baselines ---


def group_gradient(size, **options):
    """The expected gradient of a step of one group of `size` single tokens, over all groups."""
    policy = Tabular(LOGITS)
    old = policy.logp().detach()
    total = torch.zeros(3, dtype=D)
    for actions in itertools.product(range(3), repeat=size):
        cells = [{"a": ScoredCell(REWARDS[a])} for a in actions]
        (group,) = score_groups([GroupCells([CriterionWeight("a", 1.0)], cells)], ScoringOptions(**options))
        batch = batch_of([(a,) for a in actions], [c.advantage for c in group.completions], old)
        total += float(old[list(actions)].sum().exp()) * gradient_of(policy, loss_by(), batch)
    return total, -true_reward_gradient(policy, lambda row: REWARDS[row[0]], 1)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_leave_one_out_is_unbiased_and_the_groups_mean_is_so_up_to_scale(size):
    """A − mean(all) = (n−1)/n·(A − mean(others)), so the group's mean shortens the gradient by (n−1)/n and turns it nowhere."""
    found, true = group_gradient(size, baseline="leave_one_out", scale="none")
    assert torch.allclose(found, true, atol=1e-7)
    found, _ = group_gradient(size, baseline="group_mean", scale="none")
    assert torch.allclose(found, true * (size - 1) / size, atol=1e-7)
    found, _ = group_gradient(size, baseline="none", scale="none")
    # Equal rewards teach nothing even without a baseline (no signal), so groups of one action are left out.
    old = Tabular(LOGITS).logp().detach()
    policy = Tabular(LOGITS)
    logp = policy.logp()
    alike = sum(((size * old[a]).exp() * REWARDS[a] * -logp[a]) for a in range(3))
    (left_out,) = torch.autograd.grad(alike, policy.logits)
    assert torch.allclose(found + left_out, true, atol=1e-7)


def test_the_groups_deviation_changes_lengths_and_no_direction_within_a_group():
    plain = score_groups([GroupCells([CriterionWeight("a", 1.0)], [{"a": ScoredCell(x)} for x in REWARDS])],
                         ScoringOptions(scale="none"))[0]  # fmt: skip
    scaled = score_groups([GroupCells([CriterionWeight("a", 1.0)], [{"a": ScoredCell(x)} for x in REWARDS])])[0]
    ratios = [s.advantage / p.advantage for s, p in zip(scaled.completions, plain.completions, strict=True)]
    assert max(ratios) - min(ratios) < 1e-12


# --- edges and limits ---


@pytest.mark.parametrize(
    ("ratio", "sign", "slope"),
    [(1.28 - 1e-9, 1, 1), (1.28 + 1e-9, 1, 0), (0.8 + 1e-9, -1, 1), (0.8 - 1e-9, -1, 0), (1.28 + 1e-9, -1, 1), (0.8 - 1e-9, 1, 1)],
)  # fmt: skip
def test_on_the_edges_of_the_clip_the_gradient_stops_on_the_outer_side_alone(ratio, sign, slope):
    """d/dlog ρ of −min(ρA, clip(ρ)A) is −ρA inside, and outside only where the step would go further out."""
    logs = torch.tensor([ratio], dtype=D).log().requires_grad_()
    clipped_surrogate(logs, torch.tensor([float(sign)], dtype=D), 0.2, 0.28).sum().backward()
    assert logs.grad.item() == pytest.approx(-slope * sign * ratio, abs=1e-7)


def test_a_sequence_ratio_of_single_tokens_is_the_token_ratio():
    policy = Tabular(LOGITS, REFERENCE)
    batch = batch_of([(0,), (1,), (2,)], [1.0, -1.0, 0.5], OLD)
    for kind in ("clipped", "reinforce"):
        token, sequence = (gradient_of(policy, loss_by(kind=kind, ratio=r), batch) for r in ("token", "sequence"))
        assert torch.equal(token, sequence)


def test_at_the_sampling_policy_clipping_and_both_ratios_change_nothing():
    policy = Tabular(LOGITS)
    batch = batch_of([(0, 1), (1, 1, 2), (2,)], [1.0, -1.0, 0.5], policy.logp().detach())
    found = [
        gradient_of(policy, loss_by(kind=k, ratio=r, mean_over="sequence_mean"), batch)
        for k in ("clipped", "reinforce")
        for r in ("token", "sequence")
    ]
    for other in found[1:]:
        assert torch.allclose(found[0], other, atol=1e-7)


def test_with_equal_lengths_all_three_means_differ_by_a_constant():
    policy = Tabular(LOGITS)
    batch = batch_of([(0, 1), (1, 1), (2, 0)], [1.0, -1.0, 0.5], OLD, limit=8)
    tokens, sequences, constant = (
        gradient_of(policy, loss_by(mean_over=m), batch) for m in ("token_mean", "sequence_mean", "constant")
    )
    assert torch.allclose(tokens, sequences, atol=1e-12)
    assert torch.allclose(constant, tokens * 2 / 8, atol=1e-12)


def test_with_lambda_1_the_advantage_is_the_return_without_the_value_and_with_0_one_step():
    rng = random.Random(1)
    for _ in range(20):
        n, discount = rng.randint(1, 7), rng.choice([1.0, 0.9])
        r, v = ([rng.uniform(-1, 1) for _ in range(n)] for _ in range(2))
        (whole,), (returned,) = gae([r], [v], discount=discount, trace=1.0)
        expected = [sum(discount ** (k - t) * r[k] for k in range(t, n)) for t in range(n)]
        assert returned == pytest.approx(expected)
        assert whole == pytest.approx([e - x for e, x in zip(expected, v, strict=True)])
        (one,), _ = gae([r], [v], discount=discount, trace=0.0)
        assert one == pytest.approx([r[t] + discount * (v[t + 1] if t + 1 < n else 0) - v[t] for t in range(n)])


# --- one step, written down otherwise ---


def shuffled(batch, seed):
    order = list(range(len(batch.tokens_B_T)))
    random.Random(seed).shuffle(order)
    return batch.select(order)


def unshared(batch):
    """Every completion with a copy of its prompt: nothing is shared."""
    return replace(
        batch,
        prompts_P_T=[batch.prompts_P_T[p] for p in batch.prompt_of_B],
        prompt_of_B=list(range(len(batch.tokens_B_T))),
    )


@pytest.mark.parametrize("kind", ["tiny_folder", "gpt2_folder"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": {"ratio": "sequence", "aggregation": "sequence_mean"}, "kl": {"beta": 0.1}, "entropy_coef": 0.01},
        {"importance": {"mode": "truncated"}, "objective": {"kind": "reinforce", "aggregation": "constant"}},
    ],
    ids=["clipped", "sequence+kl+entropy", "importance"],
)
def test_order_sharing_and_cut_do_not_change_the_gradient(request, load, kind, options):
    policy = load(request.getfixturevalue(kind), reference=True)
    algorithm, groups = rollout(policy, spec_of(algorithm=options))
    batch = algorithm.complete(policy, algorithm.batch_of(groups, skip=False))
    whole = gradient(policy, algorithm, batch)
    assert whole.abs().max() > 1e-4
    for other in (shuffled(batch, 1), shuffled(batch, 2), unshared(batch), shuffled(unshared(batch), 3)):
        for budget in (10_000, 30):
            policy.budget = budget
            assert torch.allclose(gradient(policy, algorithm, other), whole, atol=1e-6)

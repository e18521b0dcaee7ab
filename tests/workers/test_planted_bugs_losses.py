"""Bugs that other trainers really had (reference/training.md §2d), planted into the losses and advantages.

Each has a check with the maths behind it; the real code passes, and the planted wrong variant is rejected by the same check.

| bug | check | real code held to it elsewhere by |
|---|---|---|
| 1 normaliser of a window that is not the optimizer step | `any_cut` | `test_training::test_the_gradient_does_not_depend_on_the_cut` |
| 2 mean of means under accumulation (policy, value loss) | `any_cut`, `value_any_cut` | the same, `test_plain_algorithms` |
| 3 truncated rows masked, still counted | `deleted_rows` | `test_group_updates::test_masked_completions…` |
| 4 gradient of the divergence wrong | `divergence_gradient` | `test_losses::test_unbiased_kl…` |
| 5 sequence ratio on the per-token divergence | `divergence_beside_a_sequence_ratio` | `test_analytic` |
| 6 divergence computed without gradient | `divergence_moves` | `test_training::test_with_a_kl_penalty_nothing_is_skipped` |
| 7 a clamped divergence leaks | `nothing_leaks` | `test_losses::test_nothing_leaks_where_kl_is_clamped` |
| 21 scales of group and batch swapped | `scales` | `tests/domain/test_scoring_advantages` |
| 22 residue of constant groups, in float32 and one pass | `constant_groups` | `tests/domain/test_scoring_laws` |
| 23 inf·0 on masked positions | `ruled_out_tokens` | `test_objective::test_entropy_has_its_gradient…` |
| 24 every token masked | `nothing_to_learn` | `test_stops::test_a_batch_in_which_everything_is_masked…` |
| 28 a judge's failure scored 0 | `failed_judges` | `tests/integration/test_path::test_null_cells_are_null…` |
| 29 clip fraction over padding | `clip_fraction` | `test_analytic` |
| 32 reward on the padding after the end, pads in returns | `returns` | `test_preference_losses::test_gae_golden` |

Bugs of sampling, tokens and resumes: `test_planted_bugs_sampling.py`; of the forward: `test_planted_bugs_forward.py`; of data,
pairs and reward models (16, 17, 27): `test_planted_bugs_data.py`, `test_planted_bugs_pairs.py`.
"""

import math
from dataclasses import replace

import pytest
import torch

from service.domain.scoring import CriterionWeight, GroupCells, ScoredCell, ScoringOptions, score_group, score_groups
from tests.support.tabular import (
    D,
    Tabular,
    batch_of,
    expected_gradient,
    gradient_of,
    masked_by_the_trainer,
    true_divergence_gradient,
    without_row,
)
from workers.advantages.gae import gae, last_token_rewards
from workers.algorithms.on_policy import Surrogate, policy_loss, step_mean
from workers.losses.kl import kl_estimate, unbiased_kl
from workers.losses.logprobs import token_entropy
from workers.losses.policy_gradient import is_clipped, sequence_mean_of
from workers.losses.value import value_loss
from workers.types import LossOutput

LOGITS, REFERENCE = [0.4, -0.3, 0.9], [-0.2, 0.5, 0.1]
OLD = torch.log_softmax(torch.tensor([0.1, 0.0, 0.5], dtype=D), -1)
ROWS = [(0, 1, 2, 1), (2,), (1, 1), (0, 2, 2), (1,), (2, 0, 1, 1, 0)]
ADVANTAGES = [0.7, -1.1, 0.3, 0.4, -0.9, 1.3]
MEANS = ("token_mean", "sequence_mean", "constant")


def loss_by(**options):
    return lambda policy, batch: policy_loss(policy, batch, Surrogate(**options))


# --- 1 and 2: denominators are those of the optimizer step ---


def any_cut(loss):
    """One step's gradient, whatever the micro-batches: 1e-12 in float64."""
    policy, batch = Tabular(LOGITS), batch_of(ROWS, ADVANTAGES, OLD)
    for mean_over in MEANS:
        whole = gradient_of(policy, loss(mean_over), batch)
        assert whole.abs().max() > 1e-3
        for cut in (1, 2, 4):
            policy.cut = cut
            assert torch.allclose(gradient_of(policy, loss(mean_over), batch), whole, atol=1e-12)
        policy.cut = None


def real_means(mean_over):
    return loss_by(mean_over=mean_over)


def piecewise(scale):
    """Each piece divided by its own tokens or sequences, then by `scale` of it."""

    def of(mean_over):
        def loss(policy, batch):
            tokens = sum(map(len, batch.tokens_B_T))
            own = replace(batch, tokens_in_step=tokens, sequences_in_step=len(batch.tokens_B_T))
            return LossOutput(policy_loss(policy, own, Surrogate(mean_over=mean_over)).loss * scale(batch), {})

        return loss

    return of


def value_any_cut(reduce):
    """The same of PPO's value loss on ragged rows."""
    values = torch.tensor([0.3, 0.1, -0.4, 0.2, 0.9, -0.2, 0.5], dtype=D, requires_grad=True)
    old, returns = values.detach() - 0.1, torch.linspace(-1, 1, 7, dtype=D)
    rows = [(0, 0, 0, 0), (1,), (2, 2)]
    batch = batch_of(rows, [0.0] * 3, torch.zeros(3))

    def gradient(pieces):
        values.grad = None
        start = 0
        for chosen in pieces:
            piece = batch.select(chosen)
            lengths = [len(row) for row in piece.tokens_B_T]
            here = slice(start, start := start + sum(lengths))
            per_token = value_loss(values[here], old[here], returns[here], 0.05)
            owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
            reduce(per_token, owner, lengths, piece).backward()
        return values.grad

    whole = gradient([[0, 1, 2]]).clone()
    for pieces in ([[0], [1], [2]], [[0], [1, 2]], [[0, 1], [2]]):
        assert torch.allclose(gradient(pieces), whole, atol=1e-12)


# --- 3: what is masked is as if it had been deleted ---


def deleted_rows(mask):
    """Sequence 0 ran into the limit: loss and gradient are those of the batch without it."""
    policy, batch = Tabular(LOGITS), batch_of(ROWS, ADVANTAGES, OLD)
    for mean_over in MEANS:
        loss = loss_by(mean_over=mean_over)
        expected = gradient_of(policy, loss, without_row(batch, 0))
        assert torch.allclose(gradient_of(policy, loss, mask(batch)), expected, atol=1e-12)


def zeroed_but_counted(batch):
    return replace(batch, advantages_B_T=[[0.0] * len(batch.tokens_B_T[0]), *batch.advantages_B_T[1:]])


# --- 4 to 7: the divergence ---


def divergence_gradient(terms):
    """Averaged over the tokens of the sampling policy, the sample gradient is ∇KL, on policy and off it."""
    for behaviour in (None, OLD):
        for estimator in ("k1", "k2", "k3"):
            policy = Tabular(LOGITS, REFERENCE)
            logp = policy.logp()
            old = logp.detach() if behaviour is None else behaviour
            (found,) = torch.autograd.grad(
                (old.exp() * terms(logp, old, policy.reference, estimator)).sum(), policy.logits
            )
            assert torch.allclose(found, true_divergence_gradient(policy), atol=1e-12)


def estimate_alone(logp, old, reference, estimator):
    return kl_estimate(logp, reference, estimator)


def divergence_beside_a_sequence_ratio(loss):
    """With a sequence ratio and advantages of 0 the gradient is that of the divergence alone."""
    policy = Tabular(LOGITS, REFERENCE)
    found = expected_gradient(policy, loss, OLD, length=3, advantage=lambda row: 0.0)
    assert torch.allclose(found, 0.5 * true_divergence_gradient(policy), atol=1e-12)


def sequence_ratio_on_the_divergence(policy, batch):
    flat = policy.logprobs(batch)
    old = torch.tensor([x for row in batch.logprobs_B_T for x in row], dtype=D)
    ratio = sequence_mean_of(flat.logprobs - old, flat.sequence, len(flat.lengths)).exp()
    per_token = 0.5 * ratio * kl_estimate(flat.logprobs, policy.reference_logprobs(batch), "k3")
    return LossOutput(step_mean(per_token, flat.sequence, flat.lengths, batch, "token_mean"), {})


def divergence_moves(terms):
    """Advantages of 0 and a divergence that is not: the parameters have to feel it."""
    policy = Tabular(LOGITS, REFERENCE)
    value = terms(policy.logp(), OLD, policy.reference, "k3").sum()
    assert value.requires_grad
    (found,) = torch.autograd.grad(value, policy.logits)
    assert found.abs().max() > 1e-3


def without_gradient(*given):
    with torch.no_grad():
        return unbiased_kl(*given)


def nothing_leaks(terms):
    """Beyond ±20 nats neither the estimate nor the ratio may move anything."""
    for estimator in ("k1", "k2", "k3"):
        new = torch.tensor([-1.0, -60.0], dtype=D, requires_grad=True)
        terms(new, new.detach(), torch.tensor([-50.0, -1.0], dtype=D), estimator).sum().backward()
        assert new.grad.tolist() == [0.0, 0.0]


def clamped_with_a_free_ratio(logp, old, reference, estimator):
    return (logp - old).exp() * kl_estimate(logp, reference, estimator)


# --- 21, 22 and 28: advantages ---


def scales(score):
    """Golden: rewards (1,0,0,0) have deviation .5, and with a group of (.5,.5,.5,.9) the eight centred rewards .3741657."""
    groups = [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.9]]
    assert [c[0] for c in score(groups, "group_std")] == pytest.approx([1.5, -0.5])
    # Σ of squares .75 + .12 = .87 over 7: deviation .3525417
    assert [c[0] for c in score(groups, "batch_std")] == pytest.approx(
        [0.75 / math.sqrt(0.87 / 7), -0.1 / math.sqrt(0.87 / 7)]
    )


def real_scales(groups, scale):
    cells = [GroupCells([CriterionWeight("a", 1.0)], [{"a": ScoredCell(x)} for x in group]) for group in groups]
    return [[c.advantage for c in g.completions] for g in score_groups(cells, ScoringOptions(scale=scale))]


def swapped_scales(groups, scale):
    return real_scales(groups, {"group_std": "batch_std", "batch_std": "group_std"}[scale])


def constant_groups(advantages):
    """Equal rewards teach nothing, and nothing is ever larger than √n."""
    for value in (0.1, 0.35, 0.7):
        assert all(a == 0.0 for a in advantages([value] * 8))
        assert all(abs(a) <= math.sqrt(8) for a in advantages([value] * 7 + [1.0]))


def real_advantages(rewards):
    return [
        c.advantage
        for c in score_group([CriterionWeight("a", 1.0)], [{"a": ScoredCell(x)} for x in rewards]).completions
    ]


def one_pass_in_float32(rewards):
    x = torch.tensor(rewards, dtype=torch.float32)
    total = x.sum()
    others = (total - x) / (len(x) - 1)
    spread = ((x.square().sum() / len(x)) - (total / len(x)).square()).abs().sqrt()
    return ((x - others) / (spread + 1e-6)).tolist()


def failed_judges(score):
    """Three of eight judges time out: the other five have the advantages of a group of five."""
    good = [0.9, 0.2, 0.6, 0.5, 1.0]
    assert score([*good[:2], None, *good[2:4], None, None, good[4]]) == pytest.approx(real_advantages(good))


def nulls_leave(scores):
    rows = [{} if x is None else {"a": ScoredCell(x)} for x in scores]
    found = score_group([CriterionWeight("a", 1.0)], rows).completions
    return [c.advantage for c in found if c.advantage is not None]


def nulls_are_zeros(scores):
    found = real_advantages([x or 0.0 for x in scores])
    return [a for a, x in zip(found, scores, strict=True) if x is not None]


# --- 23, 24 and 29: masks, nothing, metrics ---


def ruled_out_tokens(entropy):
    """A token of probability 0 adds nothing to the entropy of the others, ln 2, nor to its gradient."""
    logits = torch.tensor([[0.3, 0.3, -math.inf]], requires_grad=True)
    value = entropy(logits)
    assert value.item() == pytest.approx(math.log(2))
    value.sum().backward()
    assert torch.isfinite(logits.grad).all()


def p_times_log_p(logits):
    logp = torch.log_softmax(logits, -1)
    return -(logp.exp() * logp).sum(-1)


def nothing_to_learn(reduce):
    """No token counts: the loss is 0, not 0/0."""
    empty = batch_of([], [], OLD)
    values = torch.zeros(0, dtype=D, requires_grad=True)
    for mean_over in MEANS:
        assert reduce(values * 2, torch.zeros(0, dtype=torch.long), [], empty, mean_over).item() == 0.0


def unguarded(per_token, sequence, lengths, batch, mean_over):
    whole = batch.sequences_in_step * (batch.max_completion_tokens if mean_over == "constant" else 1)
    return per_token.sum() / torch.tensor(float(batch.tokens_in_step if mean_over == "token_mean" else whole))


def clip_fraction(measure):
    """Two tokens of seven are clipped, on rows of 5 and 2."""
    ratios = torch.tensor([1.5, 1.0, 0.9, 1.1, 1.0, 0.5, 0.5], dtype=D)
    signs = torch.tensor([1.0] * 5 + [-1.0, 1.0], dtype=D)
    assert measure(ratios.log(), signs, [5, 2]) == pytest.approx(2 / 7)


def real_fraction(logs, signs, lengths):
    """As the loss reports it, with samples that the sampler said to be so much less likely."""
    policy = Tabular(LOGITS)
    batch = batch_of([[0] * n for n in lengths], [0.0] * len(lengths), OLD)
    here = float(policy.logp().detach()[0])
    old, signs = iter((here - logs).tolist()), iter(signs.tolist())
    batch = replace(
        batch,
        logprobs_B_T=[[next(old) for _ in range(n)] for n in lengths],
        advantages_B_T=[[next(signs) for _ in range(n)] for n in lengths],
    )
    total, count = policy_loss(policy, batch, Surrogate()).metrics["clip_fraction"]
    return total / count


def over_padding(logs, signs, lengths):
    clipped = is_clipped(logs, signs, 0.2, 0.2).double()
    return float(clipped.sum() / (len(lengths) * max(lengths)))


# --- 32: returns ---


def returns(advantages):
    """The golden row, beside a longer mate: γ = 1, λ = .95, values .1 .2 .3, a score of 1 for the last token."""
    found = advantages([1.0, 0.5], [[0.1, 0.2, 0.3], [0.0] * 5], [[0.0] * 3, [0.1] * 5])
    assert found[0] == pytest.approx([0.82675, 0.765, 0.7])


def real_returns(scores, values, penalties):
    rewards = last_token_rewards(scores, [len(row) for row in values], penalties)
    return gae(rewards, values, discount=1.0, trace=0.95)[0]


def on_the_padding(scores, values, penalties):
    """The score stands one place later, so the last token sees it through one more γλ."""
    longer = [[*row, 0.0] for row in values]
    rewards = last_token_rewards(scores, [len(row) for row in longer], [[*row, 0.0] for row in penalties])
    return [row[:-1] for row in gae(rewards, longer, discount=1.0, trace=0.95)[0]]


def pads_pay_too(scores, values, penalties):
    """The divergence of padding leaks into the returns of the shorter row."""
    width = max(map(len, values))
    padded = [[*row, *[0.0] * (width - len(row))] for row in values]
    rewards = [
        [*row, *[-0.1] * (width - len(row))] for row in last_token_rewards(scores, [len(v) for v in values], penalties)
    ]
    found = gae(rewards, padded, discount=1.0, trace=0.95)[0]
    return [row[: len(own)] for row, own in zip(found, values, strict=True)]


def mean_by(mean_over):
    return lambda *given: step_mean(*given, mean_over)


def own_mean(per_token, owner, lengths, batch):
    return per_token.mean() / 3


CASES = {
    "1 the window's tokens": (any_cut, real_means, piecewise(lambda batch: 1.0)),
    "2 mean of means": (any_cut, real_means, piecewise(lambda batch: len(batch.tokens_B_T) / len(ROWS))),
    "2 mean of means, values": (value_any_cut, mean_by("token_mean"), own_mean),
    "3 masked but counted": (deleted_rows, masked_by_the_trainer, zeroed_but_counted),
    "4 the estimate alone": (divergence_gradient, unbiased_kl, estimate_alone),
    "5 sequence ratio on the divergence": (
        divergence_beside_a_sequence_ratio,
        loss_by(ratio="sequence", beta=0.5),
        sequence_ratio_on_the_divergence,
    ),
    "6 without gradient": (divergence_moves, unbiased_kl, without_gradient),
    "7 a clamp that leaks": (nothing_leaks, unbiased_kl, clamped_with_a_free_ratio),
    "21 scales swapped": (scales, real_scales, swapped_scales),
    "22 float32, one pass": (constant_groups, real_advantages, one_pass_in_float32),
    "23 inf times 0": (ruled_out_tokens, token_entropy, p_times_log_p),
    "24 nothing to learn": (nothing_to_learn, step_mean, unguarded),
    "28 failures are zeros": (failed_judges, nulls_leave, nulls_are_zeros),
    "29 over padding": (clip_fraction, real_fraction, over_padding),
    "32 score on the padding": (returns, real_returns, on_the_padding),
    "32 pads in the returns": (returns, real_returns, pads_pay_too),
}


@pytest.mark.parametrize("name", CASES)
def test_the_real_code_passes(name):
    check, real, _ = CASES[name]
    check(real)


@pytest.mark.parametrize("name", CASES)
def test_the_planted_bug_is_caught(name):
    check, _, planted = CASES[name]
    with pytest.raises(AssertionError):
        check(planted)

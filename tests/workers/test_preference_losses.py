"""Preference, value and advantage formulas against golden numbers and limits where two formulas must agree."""

import math

import pytest
import torch

from workers.advantages.gae import gae, last_token_rewards, whiten
from workers.losses.preference import bradley_terry_loss, preference_logits, preference_loss
from workers.losses.value import value_loss

D = torch.float64
LN2 = math.log(2)


def t(*values):
    return torch.tensor(values, dtype=D)


@pytest.mark.parametrize(
    ("loss", "smoothing", "expected"),
    [
        ("sigmoid", 0.0, 0.5981389),  # −log σ(.1·2)
        ("sigmoid", 0.1, 0.6181389),
        ("robust", 0.1, 0.5731389),
        ("hinge", 0.0, 0.8),
        ("ipo", 0.0, 9.0),  # (2 − 1/(2·.1))²
    ],
)
def test_dpo_golden(loss, smoothing, expected):
    value = preference_loss(t(2.0), beta=0.1, loss=loss, label_smoothing=smoothing)
    assert value.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm", "robust"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_at_the_start_every_sigmoid_loss_is_ln_2(loss, smoothing):
    assert preference_loss(t(0.0), beta=0.3, loss=loss, label_smoothing=smoothing).item() == pytest.approx(LN2)


def test_ipo_per_token_golden():
    # Completions of 5 tokens whose summed log-ratios are 1 and −1: per token .2 and −.2, so Δ = .4 and (.4 − 5)² = 21.16.
    delta = preference_logits(t(1.0), t(-1.0), reference=(t(0.0), t(0.0)), lengths=(t(5.0), t(5.0)), normalised=True)
    assert preference_loss(delta, beta=0.1, loss="ipo").item() == pytest.approx(21.16)


def test_delta_is_a_difference_of_log_ratios_and_the_reference_has_no_gradient():
    values = [t(x).requires_grad_(True) for x in (-3.0, -4.0, -3.5, -3.0)]
    c, r, reference_c, reference_r = values
    options = {"reference": (reference_c, reference_r), "lengths": (t(2.0), t(4.0))}
    delta = preference_logits(c, r, **options, normalised=False)
    assert delta.item() == pytest.approx((-3.0 + 3.5) - (-4.0 + 3.0))
    delta.sum().backward()
    assert [None if v.grad is None else v.grad.item() for v in values] == [1.0, -1.0, None, None]
    normal = preference_logits(c.detach(), r.detach(), **options, normalised=True)
    assert normal.item() == pytest.approx(0.5 / 2 - (-1.0) / 4)


def test_conservative_loss_is_flat_where_the_labels_say():
    # d/dΔ of the smoothed loss is 0 where σ(βΔ) = 1 − s.
    beta, s = 0.5, 0.1
    delta = t(math.log((1 - s) / s) / beta).requires_grad_(True)
    preference_loss(delta, beta=beta, loss="sigmoid", label_smoothing=s).sum().backward()
    assert delta.grad.item() == pytest.approx(0, abs=1e-12)


def test_robust_loss_is_unbiased_under_flipped_labels():
    # E over a label that is flipped with probability s gives back the clean loss (arXiv 2403.00409, lemma 3.1).
    s, delta = 0.2, 1.7
    robust = [preference_loss(t(sign * delta), beta=1.0, loss="robust", label_smoothing=s).item() for sign in (1, -1)]
    clean = preference_loss(t(delta), beta=1.0, loss="sigmoid").item()
    assert (1 - s) * robust[0] + s * robust[1] == pytest.approx(clean)


def test_bradley_terry_golden():
    assert bradley_terry_loss(t(0.4), t(0.4), t(0.0)).item() == pytest.approx(LN2)
    assert bradley_terry_loss(t(1.5), t(0.5), t(0.0)).item() == pytest.approx(0.3132617, abs=1e-7)
    assert bradley_terry_loss(t(1.5), t(0.5), t(0.5)).item() == pytest.approx(0.4740770, abs=1e-7)
    centred = bradley_terry_loss(t(1.5), t(0.5), t(0.0), centring=0.01).item()
    assert centred == pytest.approx(0.3132617 + 0.01 * 4.0, abs=1e-7)


def test_bradley_terry_of_a_7_to_3_record():
    # The gap that minimises the summed loss of 7 wins and 3 losses is ln(7/3).
    gap = t(math.log(7 / 3)).requires_grad_(True)
    (7 * bradley_terry_loss(gap, t(0.0), t(0.0)) + 3 * bradley_terry_loss(t(0.0), gap, t(0.0))).sum().backward()
    assert gap.grad.item() == pytest.approx(0, abs=1e-12)


def test_value_loss():
    assert value_loss(t(1.0), t(0.0), t(3.0)).item() == pytest.approx(2.0)  # ½·(1−3)²
    # Clipped to V_old ± .2: (.2−3)² = 7.84 is the larger one.
    assert value_loss(t(1.0), t(0.0), t(3.0), 0.2).item() == pytest.approx(3.92)
    moved = t(1.0).requires_grad_(True)
    value_loss(moved, t(0.0), t(3.0), 0.2).sum().backward()
    assert moved.grad.item() == 0.0  # already further than the clip allows, towards the target
    away = t(-1.0).requires_grad_(True)
    value_loss(away, t(0.0), t(3.0), 0.2).sum().backward()
    assert away.grad.item() == pytest.approx(-4.0)  # moved away: the plain loss is larger and pulls it back


def test_gae_golden():
    advantages, returns = gae([[0, 0, 1]], [[0.1, 0.2, 0.3]], discount=1.0, trace=0.95)
    assert advantages[0] == pytest.approx([0.82675, 0.765, 0.7])
    assert returns[0] == pytest.approx([0.92675, 0.965, 1.0])


def test_gae_limits():
    rewards, values = [[0.5, -0.25, 1.0], [2.0]], [[0.3, -0.1, 0.7], [0.4]]
    whole, _ = gae(rewards, values, discount=0.9, trace=1.0)
    discounted = [0.5 + 0.9 * -0.25 + 0.81 * 1.0, -0.25 + 0.9, 1.0]
    assert whole[0] == pytest.approx([r - v for r, v in zip(discounted, values[0], strict=True)])
    one_step, _ = gae(rewards, values, discount=0.9, trace=0.0)
    assert one_step[0] == pytest.approx([0.5 + 0.9 * -0.1 - 0.3, -0.25 + 0.9 * 0.7 + 0.1, 0.3])
    assert one_step[1] == pytest.approx([1.6])  # a sequence of its own: nothing leaks from its neighbour


def test_scores_stand_on_the_last_token():
    assert last_token_rewards([1.0, 0.5], [3, 1]) == [[0.0, 0.0, 1.0], [0.5]]
    assert last_token_rewards([1.0], [2], [[0.1, 0.2]]) == [[-0.1, 0.8]]


def test_whitening():
    whitened = whiten([[1.0, 2.0], [6.0]])
    # mean 3, unbiased deviation √7
    assert [x for row in whitened for x in row] == pytest.approx([x / math.sqrt(7) for x in (-2, -1, 3)])
    assert whiten([[0.35, 0.35], [0.35]]) == [[0.0, 0.0], [0.0]]
    assert whiten([]) == []

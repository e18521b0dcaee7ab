"""Pure maths against golden numbers and analytic gradients on a categorical policy of five tokens."""

import math

import pytest
import torch

from workers.losses.kl import kl_estimate, unbiased_kl
from workers.losses.logprobs import token_logprobs
from workers.losses.policy_gradient import clipped_surrogate, is_clipped, log_ratio, sequence_mean_of

D = torch.float64


def test_token_logprobs_are_log_softmax_at_the_temperature():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    # log(e^2/(e^1+e^2+e^3)) = 2 − log(30.19287485) = −1.40760596; at T = 0.5: 4 − log(e^2+e^4+e^6) = −2.14293163
    assert token_logprobs(logits, torch.tensor([1])).item() == pytest.approx(-1.4076060, abs=1e-6)
    assert token_logprobs(logits, torch.tensor([1]), 0.5).item() == pytest.approx(-2.1429317, abs=1e-6)
    assert token_logprobs(logits.to(torch.bfloat16), torch.tensor([1])).dtype == torch.float32


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped"),
    [
        (1.5, 1.0, -1.2, True),  # clipped above
        (0.5, -1.0, 0.8, True),  # clipped below
        (0.5, 1.0, -0.5, False),  # the minimum keeps the worse one
        (1.5, -1.0, 1.5, False),
        (1.1, 1.0, -1.1, False),
    ],
)
def test_clipped_surrogate_golden(ratio, advantage, expected, clipped):
    logs, a = torch.tensor([math.log(ratio)], dtype=D), torch.tensor([advantage], dtype=D)
    assert clipped_surrogate(logs, a, 0.2, 0.2).item() == pytest.approx(expected)
    assert is_clipped(logs, a, 0.2, 0.2).item() == clipped
    logs.requires_grad_(True)
    clipped_surrogate(logs, a, 0.2, 0.2).sum().backward()
    assert (logs.grad.item() == 0) == clipped


def test_the_range_may_be_asymmetric():
    logs, a = torch.tensor([math.log(1.25)], dtype=D), torch.tensor([1.0], dtype=D)
    assert clipped_surrogate(logs, a, 0.2, 0.28).item() == pytest.approx(-1.25)
    assert clipped_surrogate(logs, a, 0.2, 0.2).item() == pytest.approx(-1.2)


def test_sequence_ratio_golden():
    logs = torch.tensor([0.1, 0.2, 0.3, 0.5], dtype=D)
    means = sequence_mean_of(logs, torch.tensor([0, 0, 0, 1]), 2)
    assert means.exp().tolist() == pytest.approx([1.2214028] * 3 + [math.exp(0.5)], abs=1e-7)
    assert sequence_mean_of(torch.zeros(0), torch.zeros(0, dtype=torch.long), 0).numel() == 0


def test_kl_golden():
    new, ref = torch.tensor([-1.0], dtype=D, requires_grad=True), torch.tensor([-1.5], dtype=D)
    values = {name: kl_estimate(new, ref, name).item() for name in ("k1", "k2", "k3")}
    assert values == pytest.approx({"k1": 0.5, "k2": 0.125, "k3": 0.1065307}, abs=1e-7)
    kl_estimate(new, ref, "k3").backward()
    assert new.grad.item() == pytest.approx(0.3934693, abs=1e-7)
    new.grad = None
    unbiased_kl(new, new.detach(), ref, "k3").backward()
    assert new.grad.item() == pytest.approx(0.5, abs=1e-12)  # −d: the identity with k2's gradient


def categorical():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, generator=generator, dtype=D, requires_grad=True)
    reference = torch.log_softmax(torch.randn(5, generator=generator, dtype=D), -1)
    behaviour = torch.log_softmax(torch.randn(5, generator=generator, dtype=D), -1)
    return logits, reference, behaviour


def true_gradient(logits, reference):
    logp = torch.log_softmax(logits, -1)
    (gradient,) = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits)
    return gradient


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_unbiased_kl_has_the_gradient_of_kl_on_policy(estimator):
    logits, reference, _ = categorical()
    logp = torch.log_softmax(logits, -1)
    terms = unbiased_kl(logp, logp.detach(), reference, estimator)
    (gradient,) = torch.autograd.grad((logp.detach().exp() * terms).sum(), logits)
    assert torch.allclose(gradient, true_gradient(logits, reference), atol=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_unbiased_kl_has_the_gradient_of_kl_off_policy(estimator):
    logits, reference, behaviour = categorical()
    logp = torch.log_softmax(logits, -1)
    terms = unbiased_kl(logp, behaviour, reference, estimator)
    (gradient,) = torch.autograd.grad((behaviour.exp() * terms).sum(), logits)
    assert torch.allclose(gradient, true_gradient(logits, reference), atol=1e-12)


def test_differentiating_the_value_alone_is_biased():
    """What the ratio is there for: k1's own gradient is zero in expectation."""
    logits, reference, _ = categorical()
    logp = torch.log_softmax(logits, -1)
    (gradient,) = torch.autograd.grad((logp.detach().exp() * kl_estimate(logp, reference, "k1")).sum(), logits)
    assert torch.allclose(gradient, torch.zeros(5, dtype=D), atol=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_nothing_leaks_where_kl_is_clamped(estimator):
    new = torch.tensor([-1.0, -60.0], dtype=D, requires_grad=True)
    terms = unbiased_kl(new, new.detach(), torch.tensor([-50.0, -1.0], dtype=D), estimator)
    terms.sum().backward()
    assert torch.isfinite(terms).all()
    assert new.grad.tolist() == [0.0, 0.0]


def test_the_ratio_at_the_sampling_policy_is_one_and_its_gradient_the_score():
    new = torch.tensor([-0.5, -2.0], dtype=D, requires_grad=True)
    ratio = log_ratio(new, new.detach()).exp()
    assert ratio.tolist() == [1.0, 1.0]
    ratio.sum().backward()
    assert new.grad.tolist() == [1.0, 1.0]

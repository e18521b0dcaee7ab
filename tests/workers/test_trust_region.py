"""The trust-region step where it can be worked out by hand: quadratics, and a categorical policy of five actions."""

import math

import pytest
import torch

from workers.losses.trust_region import (
    categorical_kl,
    conjugate_gradient,
    hessian_product,
    line_search,
    natural_step,
)

D = torch.float64


def spd(size, seed=0):
    a = torch.randn(size, size, dtype=D, generator=torch.Generator().manual_seed(seed))
    return a @ a.T + torch.eye(size, dtype=D)


def test_conjugate_gradient_solves_a_linear_system():
    a, b = spd(6), torch.arange(1.0, 7.0, dtype=D)
    x = conjugate_gradient(lambda v: a @ v, b, iterations=6)
    assert torch.allclose(x, torch.linalg.solve(a, b), atol=1e-6)
    assert torch.equal(
        conjugate_gradient(lambda v: a @ v, torch.zeros(6, dtype=D), iterations=6), torch.zeros(6, dtype=D)
    )


def test_a_step_on_a_quadratic_is_the_natural_gradient_on_the_edge():
    """For divergence ½xᵀHx the best linear gain gᵀx inside the radius δ is x = √(2δ/gᵀH⁻¹g)·H⁻¹g (Lagrange)."""
    h, g, radius = spd(5, seed=1), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], dtype=D), 0.01
    direction = conjugate_gradient(lambda v: h @ v, g, iterations=5)
    step, _ = natural_step(direction, h @ direction, radius)
    solved = torch.linalg.solve(h, g)
    assert torch.allclose(step, math.sqrt(2 * radius / (g @ solved)) * solved, atol=1e-7)
    assert float(0.5 * step @ h @ step) == pytest.approx(radius, abs=1e-9)


def test_divergence_of_two_categoricals():
    # KL([.5,.5] ‖ [.9,.1]) = .5·ln(.5/.9) + .5·ln(.5/.1) = .5108256
    old, new = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    assert categorical_kl(old, new).item() == pytest.approx(0.5108256, abs=1e-6)
    assert categorical_kl(old, old + 3.0).item() == pytest.approx(0, abs=1e-7)  # logits are known up to a constant


def test_the_hessian_of_the_divergence_is_the_fisher_matrix():
    """For a softmax over logits: F = diag(p) − ppᵀ."""
    logits = torch.tensor([[0.3, -1.0, 0.2, 0.9, -0.4]]).requires_grad_(True)
    p = torch.softmax(logits.detach()[0], -1)
    fisher = torch.diag(p) - torch.outer(p, p)
    for k in range(5):
        divergence = categorical_kl(logits, logits).sum()
        column = hessian_product(divergence, [logits], torch.eye(5)[k])
        assert torch.allclose(column, fisher[k], atol=1e-6)


def test_parameters_without_influence_do_not_move():
    used, unused = torch.zeros(1, 3, requires_grad=True), torch.ones(2, requires_grad=True)
    product = hessian_product(categorical_kl(used, used).sum(), [used, unused], torch.ones(5))
    assert product[3:].tolist() == [0, 0]


def test_the_line_search_takes_the_first_step_that_is_measured_good():
    seen = []

    def measure(scale):
        seen.append(scale)
        return scale * (1 - scale), scale**2  # the gain is promised as `scale`, the divergence grows faster

    found = line_search(measure, expected_gain=1.0, radius=0.1, shrink=0.5, tries=10)
    assert seen == [1.0, 0.5, 0.25]
    assert (found.scale, found.tries) == (0.25, 3)
    assert (found.gain, found.divergence) == (0.1875, 0.0625)


def test_the_line_search_goes_back_if_nothing_is_good():
    seen = []

    def measure(scale):
        seen.append(scale)
        return -scale, 0.0

    assert line_search(measure, expected_gain=1.0, radius=0.1, shrink=0.5, tries=3).scale == 0.0
    assert seen == [1.0, 0.5, 0.25, 0.0]


def test_a_gain_that_is_rounding_is_no_gain():
    assert line_search(lambda scale: (1e-9, 0.0), expected_gain=1.0, radius=0.1, shrink=0.5, tries=4).scale == 0.0

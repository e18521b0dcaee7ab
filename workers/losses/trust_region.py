"""The trust-region step (TRPO, arXiv 1502.05477): the exact divergence of two categorical policies, products with its Hessian,
conjugate gradients, and a line search on measured values.

Vectors are flat: one entry per trained parameter. Nothing here knows a model; products and measurements are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workers.losses.logprobs import wide

Vector = Float[Tensor, " parameters"]


def categorical_kl(
    old_logits: Float[Tensor, "time vocab"], logits: Float[Tensor, "time vocab"]
) -> Float[Tensor, " time"]:
    """KL(old ‖ new) at each position, over the whole vocabulary, in float32 or better; the old side carries no gradient.

    Its Hessian in the parameters, at equality, is the Fisher information that the natural gradient is measured in.
    """
    old = torch.log_softmax(wide(old_logits.detach()), dim=-1)
    new = torch.log_softmax(wide(logits), dim=-1)
    return (old.exp() * (old - new)).sum(-1)


def hessian_product(
    divergence: Float[Tensor, ""], parameters: Sequence[Tensor], vector: Vector, *, keep_graph: bool = False
) -> Vector:
    """H·v for the Hessian of a scalar, by differentiating (∇divergence)·v once more. Parameters without influence count 0."""
    first = torch.autograd.grad(divergence, parameters, create_graph=True, allow_unused=True)
    inner = flat_of(first, parameters) @ vector
    if not inner.requires_grad:
        return torch.zeros_like(vector)
    second = torch.autograd.grad(inner, parameters, retain_graph=keep_graph, allow_unused=True)
    return flat_of(second, parameters).detach()


def flat_of(values: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Vector:
    """One vector of all values, zeros where there is none."""
    parts = [torch.zeros_like(p) if v is None else v for v, p in zip(values, parameters, strict=True)]
    return torch.cat([part.reshape(-1) for part in parts])


def conjugate_gradient(
    product: Callable[[Vector], Vector], target: Vector, *, iterations: int, tolerance: float = 1e-10
) -> Vector:
    """x with A·x ≈ target for a positive definite A that is only known by its products (Hestenes and Stiefel 1952).

    Exact after as many iterations as there are parameters; stops once ‖A·x − target‖² ≤ tolerance·‖target‖², or where
    rounding has made A look indefinite.
    """
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    size = residual @ residual
    goal = tolerance * size
    for _ in range(iterations):
        if size <= goal:
            break
        image = product(direction)
        curvature = direction @ image
        if curvature <= 0:
            break
        length = size / curvature
        x = x + length * direction
        residual = residual - length * image
        fresh = residual @ residual
        direction = residual + (fresh / size) * direction
        size = fresh
    return x


def natural_step(direction: Vector, image: Vector, radius: float) -> tuple[Vector, float]:
    """The direction scaled to the edge of the region: s·√(2·radius / sᵀH·s), and that factor; nothing for no curvature.

    `image` is H·direction. To second order the divergence of the scaled step is the radius.
    """
    curvature = float(direction @ image)
    if curvature <= 0:
        return torch.zeros_like(direction), 0.0
    factor = (2 * radius / curvature) ** 0.5
    return factor * direction, factor


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a line search ended with. `scale` 0: no step was good enough, and the parameters are where they were."""

    scale: float
    tries: int
    gain: float
    divergence: float


def line_search(
    measure: Callable[[float], tuple[float, float]], *, expected_gain: float, radius: float, shrink: float, tries: int
) -> Accepted:
    """The largest of 1, shrink, shrink² … whose measured gain is positive and whose measured divergence is inside the radius.

    `measure(scale)` moves the parameters to start + scale·step and gives (gain, divergence) there; `measure(0)` moves them
    back. The gain must be at least a tenth of what the gradient promises for that scale (Armijo), so that no step is taken on
    rounding alone.
    """
    scale = 1.0
    for k in range(tries):
        gain, divergence = measure(scale)
        if divergence <= radius and gain > 0 and gain >= 0.1 * scale * expected_gain:
            return Accepted(scale, k + 1, gain, divergence)
        scale *= shrink
    measure(0.0)
    return Accepted(0.0, tries, 0.0, 0.0)

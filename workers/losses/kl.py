"""Estimators of KL(π ‖ ref) from tokens of π (Schulman, "Approximating KL divergence"), per token.

With d = log ref − log π: k1 = −d, k2 = d²/2, k3 = e^d − d − 1. As *values* k1 and k3 are unbiased; differentiating a value
alone gives a wrong gradient (k1's is zero in expectation). `unbiased_kl` multiplies by the ratio to the sampling policy, whose
derivative supplies the missing score-function term.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
LIMIT = 20.0


def kl_estimate(
    logprobs: Float[Tensor, " time"], reference_logprobs: Float[Tensor, " time"], estimator: Estimator
) -> Float[Tensor, " time"]:
    """k1, k2 or k3 of each token; d is clamped to ±20, beyond which its gradient is zero and e^d stays finite."""
    d = (reference_logprobs.detach() - logprobs).clamp(-LIMIT, LIMIT)
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d.square() / 2
    return d.exp() - d - 1


def unbiased_kl(
    logprobs: Float[Tensor, " time"],
    old_logprobs: Float[Tensor, " time"],
    reference_logprobs: Float[Tensor, " time"],
    estimator: Estimator,
) -> Float[Tensor, " time"]:
    """Per-token terms whose gradient, averaged over tokens of μ, is ∇KL(π ‖ ref).

    k1 and k3: ρ·k with ρ = π/μ differentiated too; at ρ = 1 the gradient of ρ·k3 is −d·∇log π, which is k2's own gradient.
    k2 needs no ratio at ρ = 1; away from it, it is weighted by the ratio without gradient. Where d is clamped nothing leaks:
    the ratio is held there as well.
    """
    d = reference_logprobs.detach() - logprobs
    inside = (d.detach().abs() < LIMIT).to(logprobs.dtype)
    log_ratios = logprobs - old_logprobs.detach()
    held = log_ratios * inside + log_ratios.detach() * (1 - inside)
    ratio = held.exp()
    estimate = kl_estimate(logprobs, reference_logprobs, estimator)
    if estimator == "k2":
        return ratio.detach() * estimate
    return ratio * estimate

"""The clipped surrogate of PPO (arXiv 1707.06347, equation 7), with an asymmetric range, per token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def log_ratio(logprobs: Float[Tensor, " time"], old_logprobs: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
    """log π(t) − log μ(t), for the sampling policy μ, which carries no gradient."""
    return logprobs - old_logprobs.detach()


def sequence_mean_of(
    values: Float[Tensor, " time"], sequence: Int[Tensor, " time"], sequences: int
) -> Float[Tensor, " time"]:
    """Each token gets the mean of its own sequence: the length-normalised sequence ratio of GSPO (arXiv 2507.18071), in logs.

    exp of it is (π(y)/μ(y))^(1/|y|). An empty batch gives an empty tensor.
    """
    sums = values.new_zeros(sequences).index_add(0, sequence, values)
    counts = values.new_zeros(sequences).index_add(0, sequence, torch.ones_like(values))
    return (sums / counts.clamp(min=1))[sequence]


def clipped_surrogate(
    log_ratios: Float[Tensor, " time"], advantages: Float[Tensor, " time"], clip_low: float, clip_high: float
) -> Float[Tensor, " time"]:
    """−min(ρA, clip(ρ, 1−clip_low, 1+clip_high)·A) with ρ = exp(log ratio); a loss, so lower is better."""
    ratio = log_ratios.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def is_clipped(
    log_ratios: Float[Tensor, " time"], advantages: Float[Tensor, " time"], clip_low: float, clip_high: float
) -> Bool[Tensor, " time"]:
    """Where the clip stops the gradient: ρ > 1+clip_high with A > 0, or ρ < 1−clip_low with A < 0."""
    ratio = log_ratios.detach().exp()
    return ((ratio > 1 + clip_high) & (advantages > 0)) | ((ratio < 1 - clip_low) & (advantages < 0))

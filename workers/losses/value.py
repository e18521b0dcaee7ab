"""The regression loss of a value model (PPO, arXiv 1707.06347), per token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def value_loss(
    values: Float[Tensor, " time"],
    old_values: Float[Tensor, " time"],
    returns: Float[Tensor, " time"],
    clip_range: float | None = None,
) -> Float[Tensor, " time"]:
    """½·(V − R)²; with a clip range c, ½·max((V − R)², (clip(V, V_old ± c) − R)²), which is pessimistic about large moves.

    Old values and returns carry no gradient.
    """
    target, old = returns.detach(), old_values.detach()
    plain = (values - target).square()
    if clip_range is None:
        return 0.5 * plain
    held = torch.clamp(values, old - clip_range, old + clip_range)
    return 0.5 * torch.maximum(plain, (held - target).square())

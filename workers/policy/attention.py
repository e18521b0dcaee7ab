"""Attention of one bucket of sequences: PyTorch's fused kernel, or two products and a softmax where those are faster.

On a CPU the fused kernel's backward takes four times as long in bf16 as the products that it is made of (the processor multiplies
bf16, the kernel converts it). While the scores are small it is quicker to keep them: bf16 products that are summed in float32, a
softmax that computes in float32, as transformers' own plain attention has them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

FEW_KEYS = 512
"""Up to so many keys the scores of a piece take less memory than the rest of a layer does."""


def attend(
    query: Float[Tensor, "sequences heads width size"],
    key: Float[Tensor, "sequences key_heads keys size"],
    value: Float[Tensor, "sequences key_heads keys size"],
    *,
    mask: Bool[Tensor, "sequences_or_one one width keys"] | None,
    scaling: float | None,
) -> Float[Tensor, "sequences heads width size"]:
    """softmax(scaling·QKᵀ)V where `mask` is true; without a mask, causal. Query heads share key heads in order."""
    if query.device.type == "cpu" and _multiplied_in(query) == torch.bfloat16 and key.shape[2] <= FEW_KEYS:
        with torch.autocast("cpu", enabled=False):
            return _products(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask, scaling)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling)


def _multiplied_in(states: Tensor) -> torch.dtype:
    """Rotated queries are float32 also under autocast, and are multiplied in its dtype."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def _products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    sequences, heads, width, size = query.shape
    shared, keys = key.shape[1], key.shape[2]
    if mask is None:
        mask = torch.ones((1, 1, width, keys), dtype=torch.bool, device=query.device).tril()
    hidden = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(~mask, -torch.inf)
    # The query heads of one key head stand where further positions would: one product for all of them.
    scaled = (query * (scaling if scaling is not None else size**-0.5)).reshape(sequences, shared, -1, size)
    scores = (scaled @ key.transpose(-1, -2)).view(sequences, heads, width, keys) + hidden
    shares = scores.softmax(-1).view(sequences, shared, -1, keys)
    return (shares @ value).view(sequences, heads, width, size)

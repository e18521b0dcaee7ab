"""Log-probabilities of chosen tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def token_logprobs(
    logits: Float[Tensor, "*batch vocab"], tokens: Int[Tensor, "*batch"], temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """log softmax(logits / T)[token], in float32 whatever the model's dtype.

    T is the temperature that the tokens were sampled at: a ratio of policies is 1 at step 0 only if both sides use it.
    """
    scaled = logits.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    chosen = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return chosen - torch.logsumexp(scaled, dim=-1)

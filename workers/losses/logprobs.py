"""Log-probabilities of chosen tokens, and the entropy of what they were chosen from."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def wide(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32 at least: what softmax sums over a vocabulary is lost in half precision."""
    return values if values.dtype == torch.float64 else values.float()


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


def token_entropy(logits: Float[Tensor, "*batch vocab"], temperature: float = 1.0) -> Float[Tensor, "*batch"]:
    """H = −Σ_x p(x)·log p(x) in nats of p = softmax(logits / T), exactly over the vocabulary and with its gradient.

    Between 0 and log V. A token that is ruled out (logit −∞) adds 0, and nothing to the gradient.
    """
    scaled = logits.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    logp = torch.log_softmax(scaled, dim=-1)
    return -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1)

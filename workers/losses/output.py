"""Log-probabilities of chosen tokens straight from the states that the output layer reads: the logits never exist all at once.

A vocabulary is wide: the logits of a step, in float32 and with their gradient, are most of what training a small model holds. Here a
few hundred rows at a time are multiplied out, reduced to one number each, and multiplied out again for the gradient. Kept for
it are the states and the logarithm of each row's normaliser. The extra product costs less than moving the logits through memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from workers.losses.logprobs import wide

NUMBERS = 2**22
"""So many logits exist at a time: 16 MB in float32, which allocators still take from memory that they hold already."""
FEWEST = 256
"""But never fewer rows than this: their product with the layer would be slow."""


def chosen_logprobs(
    states: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "vocab hidden"],
    tokens: Int[Tensor, " rows"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    cap: float | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"] | None]:
    """log softmax(l / T)[token] in nats and, if asked for, the entropy of softmax(l / T), with gradient.

    l = states·weightᵀ + bias, or cap·tanh(l / cap) with `cap`. Products are taken in autocast's dtype (else the states'), everything
    after them in float32 at least; the weight's gradient is summed over rows in the weight's own dtype.
    """
    logprobs, entropies = _Chosen.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, tokens, cap, temperature, entropy
    )
    return logprobs, entropies if entropy else None


class _Chosen(torch.autograd.Function):
    """Forward keeps a number per row; backward makes the logits again."""

    @staticmethod
    def forward(  # noqa: PLR0917 # autograd functions take what they take by position
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        cap: float | None,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        states = states.detach().to(dtype)
        ctx.dtype, ctx.cap, ctx.temperature, ctx.entropy = dtype, cap, temperature, entropy
        chosen, normalisers, entropies = [], [], []
        with torch.autocast(kind, enabled=False):
            layer = weight.detach().to(dtype)
            for rows in _chunks(len(states), len(weight)):
                logits = _logits(states[rows], layer, bias, cap).div_(temperature)
                normaliser = logits.logsumexp(-1)
                chosen.append(logits.gather(-1, tokens[rows].unsqueeze(-1)).squeeze(-1) - normaliser)
                normalisers.append(normaliser)
                if entropy:
                    logp = logits.sub_(normaliser.unsqueeze(-1))
                    entropies.append(-(logp.exp() * _finite(logp)).sum(-1))
        found = [torch.cat(parts) if parts else wide(states.new_zeros(0)) for parts in (chosen, normalisers, entropies)]
        ctx.save_for_backward(states, weight, bias, tokens, *found[1:])
        if not entropy:
            ctx.mark_non_differentiable(found[2])
        return found[0], found[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_chosen: Tensor, of_entropy: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, tokens, normalisers, entropies = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        into = torch.empty_like(states) if wanted[0] else None
        of_weight = torch.zeros_like(weight) if wanted[1] else None
        of_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        with torch.autocast(states.device.type, enabled=False):
            layer = weight.to(ctx.dtype)
            for rows in _chunks(len(states), len(weight)):
                logits = _logits(states[rows], layer, bias, ctx.cap)
                # dl/d(raw product) of the cap is 1 − (l/cap)², taken before the logits are overwritten.
                bend = 1 - (logits / ctx.cap).square() if ctx.cap is not None else None
                logp = logits.div_(ctx.temperature).sub_(normalisers[rows].unsqueeze(-1))
                if ctx.entropy:
                    # dH/dl_j = −p_j·(log p_j + H)
                    told = _finite(logp).add(entropies[rows].unsqueeze(-1)).mul_(of_entropy[rows].unsqueeze(-1))
                    told.add_(of_chosen[rows].unsqueeze(-1)).mul_(logp.exp_()).neg_()
                else:
                    told = logp.exp_().mul_(-of_chosen[rows].unsqueeze(-1))
                told.scatter_add_(-1, tokens[rows].unsqueeze(-1), of_chosen[rows].unsqueeze(-1))
                if bend is not None:
                    told.mul_(bend)
                told.div_(ctx.temperature)
                if of_bias is not None:
                    of_bias += told.sum(0)
                told = told.to(ctx.dtype)
                if into is not None:
                    torch.mm(told, layer, out=into[rows])
                if of_weight is not None:
                    of_weight += told.t() @ states[rows]
        return into, of_weight, of_bias, None, None, None, None


def _chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    size = max(NUMBERS // vocabulary, FEWEST)
    return (slice(start, start + size) for start in range(0, rows, size))


def _logits(states: Tensor, layer: Tensor, bias: Tensor | None, cap: float | None) -> Tensor:
    """In float32 at least, and free to be overwritten."""
    logits = wide(states @ layer.t())
    if bias is not None:
        logits = logits + bias
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _finite(logp: Tensor) -> Tensor:
    """A token that is ruled out has p = 0 and log p = −∞; their product is to be 0."""
    return logp.clamp(min=torch.finfo(logp.dtype).min)

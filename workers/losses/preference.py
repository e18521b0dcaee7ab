"""Losses on pairs of a preferred (chosen) and a worse (rejected) completion, one value per pair, never reduced.

DPO (arXiv 2305.18290) works on sums of token log-probabilities under the policy and a frozen reference:
Δ = (log π(chosen) − log π_ref(chosen)) − (log π(rejected) − log π_ref(rejected)). Its length-normalised kin divide each
completion's term by its number of tokens first. Reward models compare two scalar rewards (Bradley and Terry 1952).
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

PreferenceLoss = Literal["sigmoid", "robust", "hinge", "ipo", "sigmoid_norm"]
LENGTH_NORMALISED: frozenset[str] = frozenset({"ipo", "sigmoid_norm"})


def preference_logits(
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    *,
    reference: tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]],
    lengths: tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]],
    normalised: bool,
) -> Float[Tensor, " pairs"]:
    """Δ of each pair from sums of log-probabilities; per token of each completion if `normalised`.

    `reference` and `lengths` are (chosen, rejected). The reference carries no gradient; lengths count the completion's trained
    tokens, its end token included, and are at least 1.
    """
    better = chosen - reference[0].detach()
    worse = rejected - reference[1].detach()
    if normalised:
        better, worse = better / lengths[0], worse / lengths[1]
    return better - worse


def preference_loss(
    logits: Float[Tensor, " pairs"], *, beta: float, loss: PreferenceLoss, label_smoothing: float = 0.0
) -> Float[Tensor, " pairs"]:
    """The loss of each pair for its Δ (for `ipo` and `sigmoid_norm`: the Δ per token).

    `sigmoid` and `sigmoid_norm`: −(1−s)·log σ(βΔ) − s·log σ(−βΔ), the conservative DPO for labels that are wrong with
    probability s. `robust`: the same two terms weighted (1−s) and −s over 1−2s, unbiased under such labels (arXiv 2403.00409;
    s < ½). `hinge`: max(0, 1−βΔ) (SLiC). `ipo`: (Δ − 1/(2β))² (arXiv 2310.12036). At Δ = 0 both sigmoid kinds give ln 2.
    """
    if loss == "hinge":
        return (1 - beta * logits).clamp(min=0)
    if loss == "ipo":
        return (logits - 1 / (2 * beta)).square()
    right, wrong = -logsigmoid(beta * logits), -logsigmoid(-beta * logits)
    if loss == "robust":
        return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def bradley_terry_loss(
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    margins: Float[Tensor, " pairs"],
    *,
    centring: float = 0.0,
) -> Float[Tensor, " pairs"]:
    """−log σ(r_chosen − r_rejected − margin) + centring·(r_chosen + r_rejected)².

    Only differences of rewards are identified; the second term (arXiv 2312.09244) keeps their level near 0.
    """
    loss = -logsigmoid(chosen - rejected - margins)
    if centring:
        loss = loss + centring * (chosen + rejected).square()
    return loss

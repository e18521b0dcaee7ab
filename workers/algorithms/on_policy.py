"""What algorithms that train on their own samples share: the pieces of the loss, and the mean that is taken of it.

Every piece is per token and divided by denominators of the whole optimizer step, so the gradient does not depend on how a batch
is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from service.domain.objective import ImportanceConfig, KlConfig
from workers.algorithms.base import Policy
from workers.losses.kl import kl_estimate, unbiased_kl
from workers.losses.policy_gradient import clipped_surrogate, is_clipped, log_ratio, sequence_mean_of
from workers.seeds import ShuffledCursor
from workers.types import FlatLogprobs, LossOutput, PolicyBatch, flatten


@dataclass(frozen=True, slots=True)
class Surrogate:
    """Which policy-gradient loss.

    `clipped`: −min(ρA, clip(ρ)·A), per token or with the sequence's ratio. `reinforce`: −ρ·A with ρ = π/μ, whose gradient where
    it was sampled (ρ = 1) is −A·∇log π. `beta` times the divergence from the reference and `entropy_coef` times the entropy stand
    beside it. `measure`: the divergence is reported, whether or not it is a term.
    """

    kind: Literal["clipped", "reinforce"] = "clipped"
    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio: Literal["token", "sequence"] = "token"
    mean_over: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    beta: float = 0.0
    estimator: Literal["k1", "k2", "k3"] = "k3"
    unbiased: bool = True
    measure: bool = False
    entropy_coef: float = 0.0


def divergence_terms(kl: KlConfig) -> dict[str, Any]:
    """What a job's `kl` block means for its surrogate; a penalty in the reward is no term of the loss."""
    return {
        "beta": kl.beta if kl.placement == "loss" else 0.0,
        "estimator": kl.estimator,
        "unbiased": kl.unbiased,
        "measure": kl.max is not None,
    }


def policy_loss(
    policy: Policy, batch: PolicyBatch, surrogate: Surrogate, flat: FlatLogprobs | None = None
) -> LossOutput:
    """This piece's share of the step's loss; `flat` if its log-probabilities are known already.

    Importance weights (the trainer's over the sampler's probability, where the two differ) multiply the policy's term, never
    the divergence.
    """
    if flat is None:
        flat = policy.logprobs(batch, entropy=surrogate.entropy_coef > 0)
    old = flatten(batch.logprobs_B_T, policy.device)
    advantages = flatten(batch.advantages_B_T, policy.device)
    token_ratio = log_ratio(flat.logprobs, old)
    ratio = token_ratio
    if surrogate.ratio == "sequence":
        ratio = sequence_mean_of(token_ratio, flat.sequence, len(flat.lengths))
    count = float(flat.logprobs.numel())
    gap = token_ratio.detach()
    if batch.sampled_B_T:
        gap = flat.logprobs.detach() - flatten(batch.sampled_B_T, policy.device)
    metrics = {"sampler_gap": (float(gap.abs().sum()), count)}
    if surrogate.kind == "reinforce":
        per_token = -ratio.exp() * advantages
    else:
        per_token = clipped_surrogate(ratio, advantages, surrogate.clip_low, surrogate.clip_high)
        clipped = is_clipped(ratio, advantages, surrogate.clip_low, surrogate.clip_high)
        metrics["clip_fraction"] = (float(clipped.sum()), count)
    if batch.weights_B_T:
        weights = flatten(batch.weights_B_T, policy.device)
        per_token = per_token * weights
        metrics["importance_weight"] = (float(weights.sum()), count)
    if batch.divergences_B_T:
        metrics["kl"] = (math.fsum(x for row in batch.divergences_B_T for x in row), count)
    if surrogate.beta > 0 or surrogate.measure:
        reference = policy.reference_logprobs(batch)
        metrics["kl"] = (float(kl_estimate(flat.logprobs.detach(), reference, "k3").sum()), count)
        if surrogate.beta > 0 and surrogate.unbiased:
            per_token = per_token + surrogate.beta * unbiased_kl(flat.logprobs, old, reference, surrogate.estimator)
        elif surrogate.beta > 0:
            per_token = per_token + surrogate.beta * kl_estimate(flat.logprobs, reference, surrogate.estimator)
    if flat.entropy is not None:
        per_token = per_token - surrogate.entropy_coef * flat.entropy
        metrics["entropy"] = (float(flat.entropy.detach().sum()), count)
    return LossOutput(step_mean(per_token, flat.sequence, flat.lengths, batch, surrogate.mean_over), metrics)


def step_mean(
    per_token: Float[Tensor, " time"],
    sequence: Int[Tensor, " time"],
    lengths: list[int],
    batch: PolicyBatch,
    mean_over: Literal["token_mean", "sequence_mean", "constant"],
) -> Float[Tensor, ""]:
    """The named mean over the whole optimizer step: this piece's sum divided by the step's denominator.

    `token_mean`: all completion tokens of the step; `sequence_mean`: the mean over completions of their token means;
    `constant`: completions times the token limit (Dr. GRPO), so that length has no say.
    """
    if mean_over == "token_mean":
        return per_token.sum() / max(batch.tokens_in_step, 1)
    if mean_over == "constant":
        return per_token.sum() / (max(batch.sequences_in_step, 1) * batch.max_completion_tokens)
    share = per_token.new_tensor([1.0 / max(length, 1) for length in lengths])[sequence]
    return (per_token * share).sum() / max(batch.sequences_in_step, 1)


def importance_weights(
    proximal_B_T: list[list[float]], sampled_B_T: list[list[float]], *, mode: Literal["truncated", "masked"], cap: float
) -> list[list[float]]:
    """w = π_trainer/μ_sampler of each token where the two forwards differ (another precision, an older policy).

    `truncated`: min(w, cap): bounded variance, biased above the cap. `masked`: w where 1/cap ≤ w ≤ cap, else
    0: a token on which the two disagree that much teaches nothing.
    """
    weights = []
    for proximal, sampled in zip(proximal_B_T, sampled_B_T, strict=True):
        ratio = (torch.tensor(proximal, dtype=torch.float64) - torch.tensor(sampled, dtype=torch.float64)).exp()
        if mode == "truncated":
            kept = ratio.clamp(max=cap)
        else:
            kept = torch.where((ratio >= 1 / cap) & (ratio <= cap), ratio, torch.zeros_like(ratio))
        weights.append(kept.tolist())
    return weights


def rows_of(flat: Float[Tensor, " time"], batch: PolicyBatch) -> list[list[float]]:
    """A flat tensor over the batch's completion tokens as a ragged list."""
    return [row.tolist() for row in torch.split(flat, [len(tokens) for tokens in batch.tokens_B_T])]


def correct_for_sampler(policy: Policy, batch: PolicyBatch, importance: ImportanceConfig) -> PolicyBatch:
    """The batch with the trainer's own log-probabilities as the ratio's denominator, and weights trainer/sampler beside it."""
    if importance.mode == "off" or not batch.tokens_B_T:
        return batch
    proximal = trainer_logprobs(policy, batch)
    weights = importance_weights(proximal, batch.logprobs_B_T, mode=importance.mode, cap=importance.cap)
    return replace(batch, logprobs_B_T=proximal, weights_B_T=weights, sampled_B_T=batch.logprobs_B_T)


def weigh_revisions(policy: Policy, sampled: PolicyBatch, batch: PolicyBatch) -> PolicyBatch:
    """The batch with its revisions put on the policy's own footing (grape.md §7); `sampled`: the same batch as it was sampled.

    A revision was sampled by μ = π_old(· | x, y, critique). Its ratio's denominator is π_old(t | x, <t), by the trainer's forward,
    and every token has the detached weight min(1, π_old(t | x, <t)/μ(t)). In the metrics it counts as sampled without a gap.
    """
    rows = [b for b, revised in enumerate(sampled.revised_B) if revised]
    if not rows:
        return batch
    proximal = trainer_logprobs(policy, replace(sampled.select(rows), revised_B=[]))
    weights = importance_weights(proximal, [sampled.logprobs_B_T[b] for b in rows], mode="truncated", cap=1.0)
    logprobs_B_T = list(batch.logprobs_B_T)
    sampled_B_T = list(batch.sampled_B_T or batch.logprobs_B_T)
    weights_B_T = list(batch.weights_B_T or [[1.0] * len(row) for row in batch.tokens_B_T])
    for b, old, weight in zip(rows, proximal, weights, strict=True):
        logprobs_B_T[b], sampled_B_T[b], weights_B_T[b] = old, old, weight
    return replace(batch, logprobs_B_T=logprobs_B_T, sampled_B_T=sampled_B_T, weights_B_T=weights_B_T)


def trainer_logprobs(policy: Policy, batch: PolicyBatch) -> list[list[float]]:
    """log π of every completion token by the trainer's forward."""
    return over_pieces(policy, batch, lambda piece: policy.logprobs(piece).logprobs)


def divergences(policy: Policy, batch: PolicyBatch, estimator: Literal["k1", "k2", "k3"]) -> list[list[float]]:
    """The estimate of KL(π ‖ ref) at every completion token, under the policy that the batch's log-probabilities are of."""
    return over_pieces(
        policy,
        batch,
        lambda piece: kl_estimate(
            flatten(piece.logprobs_B_T, policy.device), policy.reference_logprobs(piece), estimator
        ),
    )


def over_pieces(
    policy: Policy, batch: PolicyBatch, read: Callable[[PolicyBatch], Float[Tensor, " time"]]
) -> list[list[float]]:
    """What `read` says of each completion token, without gradient, in the batch's order."""
    found: list[list[float]] = [[] for _ in batch.tokens_B_T]
    numbered = replace(
        batch, rewards_B=[float(b) for b in range(len(found))]
    )  # carries the row's number through the cut
    with torch.no_grad():
        for piece in policy.microbatches(numbered):
            for b, row in zip(piece.rewards_B, rows_of(read(piece), piece), strict=True):
                found[int(b)] = row
    return found


def minibatch(batch: PolicyBatch, use: int, count: int, seed: int, collected_at: int) -> PolicyBatch:
    """Piece number `use` of an endless walk over the batch in `count` pieces per epoch, each epoch in its own order.

    A minibatch is an optimizer step of its own: its denominators count its own completions, those of groups that were left out
    because their gradient is zero included. It is made of whole units: groups where the batch names them, else completions.
    """
    rows = len(batch.tokens_B_T)
    tokens_U = batch.tokens_U or [len(row) for row in batch.tokens_B_T]
    sequences_U = batch.sequences_U or [1] * rows
    unit_of_B = batch.unit_of_B or list(range(rows))
    units = len(tokens_U)
    if count == 1 or units == 0:
        return batch
    epoch, k = divmod(use, count)
    order = ShuffledCursor(units, seed, f"minibatch/{collected_at}/{epoch}").take(units)
    chosen = set(order[k * units // count : (k + 1) * units // count])
    return replace(
        batch.select([b for b in range(rows) if unit_of_B[b] in chosen]),
        tokens_in_step=sum(tokens_U[u] for u in chosen),
        sequences_in_step=sum(sequences_U[u] for u in chosen),
    )

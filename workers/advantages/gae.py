"""Generalised advantage estimation (arXiv 1506.02438), on ragged sequences of tokens, in float64."""

from __future__ import annotations

from collections.abc import Sequence

from service.domain.scoring import has_spread, mean, unbiased_std


def gae(
    rewards_B_T: Sequence[Sequence[float]],
    values_B_T: Sequence[Sequence[float]],
    *,
    discount: float,
    trace: float,
) -> tuple[list[list[float]], list[list[float]]]:
    """(advantages, returns), each ragged like the values.

    δ_t = r_t + γ·V_{t+1} − V_t with V after the last token 0 (the text is over); A_t = δ_t + γλ·A_{t+1}; R_t = A_t + V_t.
    λ = 1 gives the discounted sum of rewards minus V_t, λ = 0 the one-step error δ_t.
    """
    advantages_B_T: list[list[float]] = []
    returns_B_T: list[list[float]] = []
    for rewards, values in zip(rewards_B_T, values_B_T, strict=True):
        advantages = [0.0] * len(values)
        following_value = following_advantage = 0.0
        for t in range(len(values) - 1, -1, -1):
            delta = rewards[t] + discount * following_value - values[t]
            following_advantage = delta + discount * trace * following_advantage
            following_value = values[t]
            advantages[t] = following_advantage
        advantages_B_T.append(advantages)
        returns_B_T.append([a + v for a, v in zip(advantages, values, strict=True)])
    return advantages_B_T, returns_B_T


def whiten(values_B_T: Sequence[Sequence[float]], epsilon: float = 1e-8) -> list[list[float]]:
    """All values of the step shifted to mean 0 and scaled to deviation 1, over tokens; values without spread become 0.

    The rule for spread is `has_spread`: dividing what is left of equal values by its own rounding would make noise of size 1.
    """
    flat = [x for row in values_B_T for x in row]
    if not has_spread(flat):
        return [[0.0] * len(row) for row in values_B_T]
    centre, spread = mean(flat), unbiased_std(flat)
    return [[(x - centre) / (spread + epsilon) for x in row] for row in values_B_T]


def last_token_rewards(
    scores_B: Sequence[float], lengths_B: Sequence[int], penalties_B_T: Sequence[Sequence[float]] | None = None
) -> list[list[float]]:
    """Per-token rewards: the score on the last token (its action, never on padding after it), minus a penalty on each."""
    rewards: list[list[float]] = []
    for b, (score, length) in enumerate(zip(scores_B, lengths_B, strict=True)):
        row = [-x for x in penalties_B_T[b]] if penalties_B_T is not None else [0.0] * length
        row[-1] += score
        rewards.append(row)
    return rewards

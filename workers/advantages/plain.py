"""Plain rewards of completions and their baselines: REINFORCE, TRPO and PPO, which do not compare by confidence (grape.md §4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from service.domain.scoring import (
    Past,
    ScoredCompletion,
    ScoredGroup,
    Weighting,
    audit_score,
    coverage,
    filled_plain_reward,
    mean,
    plain_reward,
)
from workers.advantages.group import scored_row
from workers.types import CompletionGroup

Baseline = Literal["none", "moving_average", "leave_one_out"]


def plain_scores(group: CompletionGroup, past: Past, min_coverage: float) -> ScoredGroup:
    """The group's plain rewards, missing cells filled from earlier steps, minus a penalty on each; no advantages yet."""
    counted = [c for c in group.criteria if not c.audit]
    total = math.fsum(c.weight for c in counted)
    completions = []
    for cells, penalty in zip(group.cells, group.penalties or [0.0] * len(group.cells), strict=True):
        row = scored_row(cells)
        reward = filled_plain_reward(group.criteria, row, past.score, min_coverage)
        completions.append(
            ScoredCompletion(
                member=reward is not None,
                coverage=coverage(group.criteria, row),
                plain_reward=plain_reward(group.criteria, row),
                audit=audit_score(group.criteria, row),
                reward=None if reward is None else reward - penalty,
            )
        )
    weighting = {
        c.key: Weighting(weight=c.weight, effective_weight=c.weight, share=c.weight / total, source="group")
        for c in counted
    }
    signal: Literal["ok", "too_few_members"] = "ok" if any(c.member for c in completions) else "too_few_members"
    return ScoredGroup(signal, completions, weighting)


def subtract_baseline(groups: Sequence[ScoredGroup], baseline: Baseline, average: float | None) -> list[ScoredGroup]:
    """Advantages R − b.

    `leave_one_out`: b is the mean of the group's other members, so b does not depend on the completion itself and the gradient
    stays unbiased; one member alone has no others and leaves. `moving_average`: b is the average over earlier steps; before the
    first one, the mean of the step's other completions.
    """
    if baseline == "leave_one_out":
        return [_others_mean(group) for group in groups]
    rewards = [c.reward for group in groups for c in group.completions if c.reward is not None]

    def of(reward: float) -> float:
        if baseline == "none":
            return 0.0
        if average is not None:
            return average
        return (math.fsum(rewards) - reward) / (len(rewards) - 1) if len(rewards) > 1 else 0.0

    return [
        replace(group, completions=[_with(c, of(c.reward)) if c.reward is not None else c for c in group.completions])
        for group in groups
    ]


def against_others(values: Sequence[float], group_of: Sequence[int]) -> list[float]:
    """Each value minus the mean of the others of its group; alone, it stays as it is."""
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    for g in sorted(set(group_of)):
        own = [x for x, owner in zip(values, group_of, strict=True) if owner == g]
        sums[g], counts[g] = math.fsum(own), len(own)
    return [x - (sums[g] - x) / (counts[g] - 1) if counts[g] > 1 else x for x, g in zip(values, group_of, strict=True)]


def _others_mean(group: ScoredGroup) -> ScoredGroup:
    rewards = [c.reward for c in group.completions if c.reward is not None]
    if len(rewards) < 2:
        alone = [replace(c, member=False, reward=None) for c in group.completions]
        return replace(group, signal="too_few_members", completions=alone)
    total = math.fsum(rewards)
    completions = [
        _with(c, (total - c.reward) / (len(rewards) - 1)) if c.reward is not None else c for c in group.completions
    ]
    return replace(group, completions=completions)


def _with(completion: ScoredCompletion, baseline: float) -> ScoredCompletion:
    assert completion.reward is not None
    advantage = completion.reward - baseline
    return replace(completion, unscaled_advantage=advantage, scale_factor=1.0, advantage=advantage)


def mean_reward(groups: Sequence[ScoredGroup]) -> float | None:
    """The mean reward of all members; null if there are none."""
    rewards = [c.reward for group in groups for c in group.completions if c.member and c.reward is not None]
    return mean(rewards) if rewards else None

"""Advantages relative to the group, their parts and the factor that scales them (grape.md §5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from service.domain.scoring.rewards import GroupRewards, audit_score, plain_reward
from service.domain.scoring.stats import has_spread, mean, unbiased_std
from service.domain.scoring.values import (
    GATE,
    OVERLONG,
    GroupCells,
    ScoredCompletion,
    ScoredGroup,
    ScoringOptions,
    Signal,
)

Parts = dict[int, dict[str, float]]


def advantages(
    group: GroupCells, rewards: GroupRewards, options: ScoringOptions, batch_std: float | None
) -> ScoredGroup:
    """The group with its advantages. `batch_std`: see `ScoringOptions.scale`.

    A = scale_factor·unscaled; scale_factor is 0 without a signal.
    """
    unscaled: dict[int, float] = {}
    parts: Parts = {}
    factor: float | None = None
    signal: Signal = "too_few_members"
    if rewards.comparable:
        unscaled, parts, signal = centred(rewards, options)
        if signal == "ok":
            factor, signal = _factor(rewards, options, batch_std)
        else:
            factor = 0.0
    completions = []
    for i, row in enumerate(group.rows):
        advantage = factor * unscaled[i] if factor is not None and i in unscaled else None
        completions.append(
            ScoredCompletion(
                member=i in rewards.members,
                coverage=rewards.coverage[i],
                plain_reward=plain_reward(group.criteria, row),
                audit=audit_score(group.criteria, row),
                reward=rewards.rewards.get(i),
                unscaled_advantage=unscaled.get(i),
                scale_factor=factor if i in unscaled else None,
                advantage=advantage,
                parts=parts.get(i, {}),
                imputed=rewards.imputed.get(i, {}),
            )
        )
    return ScoredGroup(
        signal=signal,
        completions=completions,
        weighting=rewards.weighting,
        group_confidence=rewards.group_confidence,
        effective_criteria=rewards.effective_criteria,
        weighting_fallback=rewards.weighting_fallback,
    )


def centred(rewards: GroupRewards, options: ScoringOptions) -> tuple[dict[int, float], Parts, Signal]:
    """Unscaled advantages of the members, their parts, and whether the group differs at all (`ok` or `no_spread`)."""
    if options.level == "criterion":
        return _by_criterion(rewards, options)
    own = [rewards.rewards[i] for i in rewards.members]
    centre = 0.0 if options.baseline == "none" else mean(own)
    unscaled = {i: rewards.rewards[i] - centre for i in rewards.members}
    return unscaled, _parts(rewards, options), "ok" if has_spread(own) else "no_spread"


def _parts(rewards: GroupRewards, options: ScoringOptions) -> Parts:
    """v·(s − s̄) over the ok cells, and what gates and penalties did; with baseline `none` v·s of every criterion."""
    plain = options.baseline == "none"
    parts: Parts = {}
    for i in rewards.members:
        parts[i] = {}
        for c in rewards.present:
            cell, centre = rewards.cells[i].get(c.key), rewards.mean_score[c.key]
            if plain:
                parts[i][c.key] = rewards.share[c.key] * (cell.score if cell is not None else centre)
            elif cell is not None:
                parts[i][c.key] = rewards.share[c.key] * (cell.score - centre)
    changes: dict[str, dict[int, float]] = {}
    if any(c.gate is not None for c in rewards.present):
        changes[GATE] = {i: rewards.gated[i] - rewards.ungated[i] for i in rewards.members}
    if rewards.penalties:
        changes[OVERLONG] = {i: -penalty for i, penalty in rewards.penalties.items()}
    for name, change in changes.items():
        centre = 0.0 if plain else mean(change.values())
        for i in rewards.members:
            parts[i][name] = change[i] - centre
    return parts


def _by_criterion(rewards: GroupRewards, options: ScoringOptions) -> tuple[dict[int, float], Parts, Signal]:
    """Σ v·z with z = (s − s̄)/(std + eps) per criterion; criteria without spread leave, and v is renormalised over the rest."""
    scores = {
        c.key: {i: rewards.cells[i][c.key].score for i in rewards.members if c.key in rewards.cells[i]}
        for c in rewards.present
    }
    spread = [c.key for c in rewards.present if has_spread(list(scores[c.key].values()))]
    whole = math.fsum(rewards.share[key] for key in spread)
    if whole <= 0:
        return dict.fromkeys(rewards.members, 0.0), {i: {} for i in rewards.members}, "no_spread"
    parts: Parts = {i: {} for i in rewards.members}
    for key in spread:
        share = rewards.share[key] / whole
        scale = 1.0 / (unbiased_std(list(scores[key].values())) + options.scale_eps)
        for i, score in scores[key].items():
            parts[i][key] = share * ((score - rewards.mean_score[key]) * scale)
    return {i: math.fsum(parts[i].values()) for i in rewards.members}, parts, "ok"


def _factor(rewards: GroupRewards, options: ScoringOptions, batch_std: float | None) -> tuple[float, Signal]:
    """What scales a group that differs: n/(n−1), 1/(std + eps), and the shrinkage by the judges' noise."""
    confidence = rewards.group_confidence
    if confidence is not None and confidence < options.min_group_confidence:
        return 0.0, "low_confidence"
    own = [rewards.rewards[i] for i in rewards.members]
    factor = 1.0
    if options.baseline == "leave_one_out":
        factor *= len(own) / (len(own) - 1)
    if batch_std is not None:
        # At level `criterion` criteria may differ and cancel out, in every completion of the step: there is nothing to scale.
        if batch_std + options.scale_eps == 0:
            return 0.0, "no_spread"
        factor *= 1.0 / (batch_std + options.scale_eps)
    elif options.scale == "group_std" and options.level == "reward":
        factor *= 1.0 / (unbiased_std(own) + options.scale_eps)
    if options.noise_aware:
        noise = math.fsum(rewards.share[c.key] ** 2 * rewards.noise[c.key] for c in rewards.present)
        left = 1.0 - noise / unbiased_std(own) ** 2
        if left <= 0:
            return 0.0, "below_noise"
        factor *= left
    return factor, "ok"


def batch_deviation(groups: Sequence[GroupRewards], options: ScoringOptions) -> float | None:
    """The std of all centred advantages of an optimizer step, for `scale: batch_std`; null for the other scales."""
    if options.scale != "batch_std":
        return None
    values: list[float] = []
    for rewards in groups:
        if rewards.comparable:
            unscaled, _, _ = centred(rewards, options)
            centre = mean(unscaled.values())
            values.extend(value - centre for value in unscaled.values())
    return unbiased_std(values) if has_spread(values) else 0.0

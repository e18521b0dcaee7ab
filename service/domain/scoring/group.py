"""Groups, scored: the way from cells to advantages, one step after the other."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from service.domain.scoring.advantages import advantages, batch_deviation
from service.domain.scoring.checks import mismatches
from service.domain.scoring.rewards import reward_group
from service.domain.scoring.values import CriterionWeight, GroupCells, Past, Row, ScoredGroup, ScoringOptions


def score_groups(
    groups: Sequence[GroupCells], options: ScoringOptions | Sequence[ScoringOptions] | None = None
) -> list[ScoredGroup]:
    """Score the groups of one optimizer step; they know of each other only through `scale: batch_std`.

    `options`: those of all groups, or one for each: rubrics may differ in how cells become rewards, but what makes advantages
    of them (baseline, scale, level) is the job's, and the same in all. Fewer than two members give `too_few_members` and no
    rewards; rewards without spread give advantages of exactly 0.
    ValueError for options that the criteria do not allow; `mismatches` tells so beforehand.
    """
    if not groups:
        return []
    one = options or ScoringOptions()
    each = [one] * len(groups) if isinstance(one, ScoringOptions) else list(one)
    for group, own in zip(groups, each, strict=True):
        for problem in mismatches(own, group.criteria):
            raise ValueError(problem.message)
    rewards = [reward_group(group, own) for group, own in zip(groups, each, strict=True)]
    batch_std = batch_deviation(rewards, each[0])
    return [advantages(group, found, own, batch_std) for group, found, own in zip(groups, rewards, each, strict=True)]


def score_group(
    criteria: Sequence[CriterionWeight],
    rows: Sequence[Row],
    options: ScoringOptions | None = None,
    past: Past | None = None,
    subject_nulls: Sequence[AbstractSet[str]] = (),
) -> ScoredGroup:
    """Score one group that stands alone."""
    return score_groups([GroupCells(criteria, rows, subject_nulls, past or Past())], options)[0]

"""Rewards: of one completion by the author's weights, and of a group by its effective weights (grape.md §3 and §4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.domain.scoring.stats import mean
from service.domain.scoring.values import CriterionWeight, GroupCells, Row, ScoredCell, ScoringOptions, Weighting
from service.domain.scoring.weights import effective_weights, mean_confidences, shares_of, vote_noise

COVERAGE_SLACK = 1e-9
"""A completion whose coverage is this little below `min_coverage` is still a member."""


def counted(criteria: Sequence[CriterionWeight]) -> list[CriterionWeight]:
    """The criteria that count, in key order: audit criteria stand outside all sums."""
    return sorted((c for c in criteria if not c.audit), key=lambda c: c.key)


def gate_factor(criteria: Sequence[CriterionWeight], row: Row) -> float | None:
    """What the gates multiply the reward by: the smallest factor of those that trip, 1 if none does.

    Null if a gate's cell failed: the gate is undecided.
    """
    gates = [(c.gate, row.get(c.key)) for c in criteria if c.gate is not None and not c.audit]
    if any(cell is None for _, cell in gates):
        return None
    tripped = [gate.factor for gate, cell in gates if cell is not None and cell.score < gate.threshold]
    return min(tripped, default=1.0)


def plain_reward(criteria: Sequence[CriterionWeight], row: Row) -> float | None:
    """Σ w·s / Σ w over the criteria that are not audit, gates applied; null if one of their cells is missing."""
    own = counted(criteria)
    if not own or any(c.key not in row for c in own):
        return None
    factor = gate_factor(own, row)
    assert factor is not None
    return factor * (math.fsum(c.weight * row[c.key].score for c in own) / math.fsum(c.weight for c in own))


def filled_plain_reward(
    criteria: Sequence[CriterionWeight], row: Row, past_scores: Mapping[str, float], min_coverage: float
) -> float | None:
    """The reward of algorithms without a group: the plain reward, a missing cell taking its criterion's mean over earlier steps.

    Null, so that the completion is left out of the step and of every denominator: if there is no such mean yet, if coverage
    is below `min_coverage`, or if a gate is undecided.
    """
    own = counted(criteria)
    factor = gate_factor(own, row)
    if not own or factor is None or coverage(criteria, row) < min_coverage - COVERAGE_SLACK:
        return None
    if any(c.key not in row and c.memory not in past_scores for c in own):
        return None
    scores = [row[c.key].score if c.key in row else past_scores[c.memory] for c in own]
    total = math.fsum(c.weight * s for c, s in zip(own, scores, strict=True))
    return factor * (total / math.fsum(c.weight for c in own))


def overlong_penalty(length: int, limit: int, margin: int, penalty: float) -> float:
    """The soft punishment of overlong completions (DAPO, arXiv 2503.14476, equation 13), as a positive number.

    0 up to limit − margin tokens, then in a straight line up to `penalty` at the limit.
    """
    over = length - (limit - margin)
    return penalty * min(1.0, max(0, over) / margin)


def audit_score(criteria: Sequence[CriterionWeight], row: Row) -> float | None:
    """Weighted mean of the audit criteria's ok cells; null if there are none."""
    own = [c for c in criteria if c.audit and c.key in row]
    if not own:
        return None
    return math.fsum(c.weight * row[c.key].score for c in own) / math.fsum(c.weight for c in own)


def coverage(criteria: Sequence[CriterionWeight], row: Row) -> float:
    """The share of Σw that has an ok cell."""
    own = counted(criteria)
    whole = math.fsum(c.weight for c in own)
    return math.fsum(c.weight for c in own if c.key in row) / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """A group between its cells and its advantages; members, rewards and shares as grape.md §4 says.

    `cells[i]` are the ok cells of member i and those imputed for it; `ungated` is R, `gated` is R' with gates, and `rewards` is
    that without the members' `penalties`.
    """

    criteria: list[CriterionWeight]
    coverage: list[float]
    members: list[int]
    present: list[CriterionWeight]
    cells: dict[int, dict[str, ScoredCell]]
    imputed: dict[int, dict[str, float]]
    mean_score: dict[str, float]
    share: dict[str, float]
    noise: dict[str, float]
    ungated: dict[int, float]
    gated: dict[int, float]
    rewards: dict[int, float]
    weighting: dict[str, Weighting]
    group_confidence: float | None = None
    effective_criteria: float | None = None
    weighting_fallback: bool = False
    penalties: dict[int, float] = field(default_factory=dict)

    @property
    def comparable(self) -> bool:
        """Whether there is somebody to compare with."""
        return len(self.members) > 1 and bool(self.present)


def reward_group(group: GroupCells, options: ScoringOptions) -> GroupRewards:
    """Members, weights and rewards in the order of grape.md §4.

    Criteria without an ok cell leave, then completions with little coverage or an undecided gate, then criteria without an
    ok cell among those who stay; membership is not decided again.
    """
    own, rows = counted(group.criteria), group.rows
    covered = [coverage(own, row) for row in rows]
    least = 1.0 if options.weighting == "healthbench" else options.min_coverage
    members = [
        i for i, row in enumerate(rows) if covered[i] >= least - COVERAGE_SLACK and gate_factor(own, row) is not None
    ]
    present = [c for c in own if any(c.key in rows[i] for i in members)]
    if options.weighting == "healthbench":
        return _benchmark(group, own, covered, members)
    blank = {c.key: Weighting(weight=c.weight) for c in own}
    if len(members) < 2 or not present:
        return GroupRewards(own, covered, members, [], {}, {}, {}, {}, {}, {}, {}, {}, blank)
    cells, imputed = _with_imputed(group, present, members, options)
    mean_score = {c.key: mean(cells[i][c.key].score for i in members if c.key in cells[i]) for c in present}
    confidence = mean_confidences(present, [rows[i] for i in members], options, group.past)
    noisy = options.noise_aware or options.weighting == "inverse_variance"
    noise = vote_noise(present, [rows[i] for i in members], group.past) if noisy else {}
    effective, fallback = effective_weights(present, confidence, noise, options)
    share = shares_of(effective, options.max_weight_share)

    def score(i: int, key: str) -> float:  # a missing cell takes the mean: no credit and no blame
        return cells[i][key].score if key in cells[i] else mean_score[key]

    ungated = {i: math.fsum(share[c.key] * score(i, c.key) for c in present) for i in members}
    gated = {i: (gate_factor(own, rows[i]) or 0.0) * ungated[i] for i in members}
    penalties = {i: group.penalties[i] for i in members} if group.penalties else {}
    group_confidence: float | None = None
    if options.weighting != "inverse_variance":
        whole = math.fsum(c.weight for c in present)
        group_confidence = 0.0 if fallback else math.fsum(effective.values()) / whole
    for c in present:
        cbar, source = confidence[c.key]
        blank[c.key] = Weighting(
            weight=c.weight,
            mean_score=mean_score[c.key],
            mean_confidence=cbar,
            effective_weight=effective[c.key],
            share=share[c.key],
            source="fallback" if fallback else source,
            noise=noise.get(c.key),
        )
    return GroupRewards(
        criteria=own,
        coverage=covered,
        members=members,
        present=present,
        cells=cells,
        imputed=imputed,
        mean_score=mean_score,
        share=share,
        noise=noise,
        ungated=ungated,
        gated=gated,
        rewards={i: gated[i] - penalties[i] for i in members} if penalties else gated,
        weighting=blank,
        group_confidence=group_confidence,
        effective_criteria=1.0 / math.fsum(v * v for v in share.values()),  # (Σe)²/Σe², safe for tiny e
        weighting_fallback=fallback,
        penalties=penalties,
    )


def _with_imputed(
    group: GroupCells, present: Sequence[CriterionWeight], members: Sequence[int], options: ScoringOptions
) -> tuple[dict[int, dict[str, ScoredCell]], dict[int, dict[str, float]]]:
    """The members' cells; with `lowest_observed` a subject null takes the worst score that a member got, without confidence."""
    cells = {i: dict(group.rows[i]) for i in members}
    imputed: dict[int, dict[str, float]] = {}
    if options.on_subject_null == "lowest_observed" and group.subject_nulls:
        for c in present:
            lowest = min(group.rows[i][c.key].score for i in members if c.key in group.rows[i])
            for i in members:
                if c.key in group.subject_nulls[i]:
                    cells[i][c.key] = ScoredCell(lowest)
                    imputed.setdefault(i, {})[c.key] = lowest
    return cells, imputed


def _benchmark(group: GroupCells, own: list[CriterionWeight], covered: list[float], members: list[int]) -> GroupRewards:
    """HealthBench's own score: Σ points met / Σ positive points, per completion, negative where it is negative.

    With goodness s = 1 − met for what is bad to meet this is (Σ w·s − Σ_bad w) / Σ_good w. Only complete completions have
    one, and a group of one has one too; without a positive criterion there is none.
    """
    rows = group.rows
    positive = math.fsum(c.weight for c in own if not c.met_is_bad)
    if not positive:
        members = []
    weighting = {c.key: Weighting(weight=c.weight) for c in own}
    if not members:
        return GroupRewards(own, covered, members, [], {}, {}, {}, {}, {}, {}, {}, {}, weighting)
    share = {c.key: c.weight / positive for c in own}
    offset = -math.fsum(c.weight for c in own if c.met_is_bad) / positive
    rewards = {i: math.fsum([offset, *(share[c.key] * rows[i][c.key].score for c in own)]) for i in members}
    mean_score = {c.key: mean(rows[i][c.key].score for i in members) for c in own}
    confidence = mean_confidences(own, [rows[i] for i in members], ScoringOptions(), group.past)
    for c in own:
        cbar, source = confidence[c.key]
        weighting[c.key] = Weighting(c.weight, mean_score[c.key], cbar, c.weight, share[c.key], source)
    cells = {i: dict(rows[i]) for i in members}
    own_score = (rewards, dict(rewards), dict(rewards))
    return GroupRewards(own, covered, members, own, cells, {}, mean_score, share, {}, *own_score, weighting)

"""Rewards and advantages of one group (grape.md §4 and §5)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from service.domain.scoring.stats import has_spread, mean, unbiased_std

Signal = Literal["ok", "no_spread", "too_few_members"]
Source = Literal["group", "default", "history", "peers", "none", "fallback"]

COVERAGE_SLACK = 1e-9
"""A completion whose coverage is this little below `min_coverage` is still a member."""


@dataclass(frozen=True, slots=True)
class CriterionWeight:
    """A criterion as aggregation sees it; `judged` is false for verifiers, whose confidence is 1."""

    key: str
    weight: float
    judged: bool = True
    audit: bool = False
    default_confidence: float | None = None


@dataclass(frozen=True, slots=True)
class ScoredCell:
    """An ok cell. A failed cell is simply absent from its completion."""

    score: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """The resolved `aggregation` and `advantage` options of a job."""

    weighting: Literal["confidence", "uniform", "inverse_variance", "healthbench"] = "confidence"
    confidence_exponent: float = 1.0
    min_coverage: float = 0.5
    baseline: Literal["group_mean", "leave_one_out"] = "group_mean"
    scale: Literal["group_std", "none"] = "group_std"
    scale_eps: float = 0.0


@dataclass(frozen=True, slots=True)
class Weighting:
    """What one criterion counted for in one group; null effective weight if it left the group."""

    weight: float
    mean_score: float | None = None
    mean_confidence: float | None = None
    effective_weight: float | None = None
    share: float | None = None
    source: Source | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCompletion:
    """The numbers of one completion; reward and advantage are null if it left its group."""

    member: bool
    coverage: float
    plain_reward: float | None
    audit: float | None
    reward: float | None = None
    unscaled_advantage: float | None = None
    scale_factor: float | None = None
    advantage: float | None = None
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """One group, scored."""

    signal: Signal
    completions: list[ScoredCompletion]
    weighting: dict[str, Weighting]
    group_confidence: float | None = None
    effective_criteria: float | None = None
    weighting_fallback: bool = False


Row = Mapping[str, ScoredCell]


def plain_reward(criteria: Sequence[CriterionWeight], row: Row) -> float | None:
    """Σ w·s / Σ w over the criteria that are not audit; null if one of their cells is missing."""
    counted = [c for c in criteria if not c.audit]
    if not counted or any(c.key not in row for c in counted):
        return None
    return math.fsum(c.weight * row[c.key].score for c in counted) / math.fsum(c.weight for c in counted)


def audit_score(criteria: Sequence[CriterionWeight], row: Row) -> float | None:
    """Weighted mean of the audit criteria's ok cells; null if there are none."""
    counted = [c for c in criteria if c.audit and c.key in row]
    if not counted:
        return None
    return math.fsum(c.weight * row[c.key].score for c in counted) / math.fsum(c.weight for c in counted)


def coverage(criteria: Sequence[CriterionWeight], row: Row) -> float:
    """The share of Σw that has an ok cell."""
    counted = [c for c in criteria if not c.audit]
    whole = math.fsum(c.weight for c in counted)
    return math.fsum(c.weight for c in counted if c.key in row) / whole if whole else 0.0


@dataclass(slots=True)
class RunningMeans:
    """Means per key over the earlier steps of a job; saved in checkpoints."""

    totals: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, key: str, values: Iterable[float]) -> None:
        """Count `values` in; call it once a step is over, so that only earlier steps are ever used."""
        numbers = list(values)
        if numbers:
            count, total = self.totals.get(key, (0, 0.0))
            self.totals[key] = (count + len(numbers), math.fsum([total, *numbers]))

    def means(self) -> dict[str, float]:
        """The mean of each key that has values."""
        return {key: total / count for key, (count, total) in self.totals.items()}


def score_group(
    criteria: Sequence[CriterionWeight],
    rows: Sequence[Row],
    options: ScoringOptions | None = None,
    confidence_history: Mapping[str, float] | None = None,
) -> ScoredGroup:
    """Score one group in the order of grape.md §4.

    `rows[i][key]` is the ok cell of completion i; a missing key is a failed cell. `confidence_history` has the mean
    confidence per criterion over earlier steps. Fewer than two members give `too_few_members` and no rewards;
    rewards without spread give advantages of exactly 0.
    """
    options = options or ScoringOptions()
    ordered = sorted(criteria, key=lambda c: c.key)
    counted = [c for c in ordered if not c.audit]
    covered = [coverage(ordered, row) for row in rows]
    members = [i for i, share in enumerate(covered) if share >= options.min_coverage - COVERAGE_SLACK]
    present = [c for c in counted if any(c.key in rows[i] for i in members)]
    if len(members) < 2 or not present:
        absent = {c.key: Weighting(weight=c.weight) for c in counted}
        return ScoredGroup("too_few_members", _without_rewards(ordered, rows, covered), absent)

    mean_score = {c.key: mean(rows[i][c.key].score for i in members if c.key in rows[i]) for c in present}
    confidence = _mean_confidences(present, [rows[i] for i in members], confidence_history or {})
    effective, fallback = _effective_weights(present, confidence, options)
    total = math.fsum(effective.values())
    share = {key: value / total for key, value in effective.items()}

    def score(i: int, key: str) -> float:  # a missing cell takes the mean: no credit and no blame
        return rows[i][key].score if key in rows[i] else mean_score[key]

    reward = {i: math.fsum(share[c.key] * score(i, c.key) for c in present) for i in members}
    unscaled, factor, signal = _advantages([reward[i] for i in members], options)
    advantage = dict(zip(members, unscaled, strict=True))
    completions = _without_rewards(ordered, rows, covered)
    for i in members:
        completions[i] = replace(
            completions[i],
            member=True,
            reward=reward[i],
            unscaled_advantage=advantage[i],
            scale_factor=factor,
            advantage=factor * advantage[i],
            parts={
                c.key: share[c.key] * (rows[i][c.key].score - mean_score[c.key]) for c in present if c.key in rows[i]
            },
        )
    weighting = {c.key: Weighting(weight=c.weight) for c in counted}
    for key, own_share in share.items():
        cbar, source = confidence[key]
        weighting[key] = Weighting(
            weight=weighting[key].weight,
            mean_score=mean_score[key],
            mean_confidence=cbar,
            effective_weight=effective[key],
            share=own_share,
            source="fallback" if fallback else source,
        )
    return ScoredGroup(
        signal=signal,
        completions=completions,
        weighting=weighting,
        group_confidence=0.0 if fallback else total / math.fsum(c.weight for c in present),
        effective_criteria=1.0 / math.fsum(v * v for v in share.values()),  # (Σe)²/Σe², safe for tiny e
        weighting_fallback=fallback,
    )


def _without_rewards(
    criteria: Sequence[CriterionWeight], rows: Sequence[Row], covered: Sequence[float]
) -> list[ScoredCompletion]:
    return [
        ScoredCompletion(
            member=False,
            coverage=covered[i],
            plain_reward=plain_reward(criteria, row),
            audit=audit_score(criteria, row),
        )
        for i, row in enumerate(rows)
    ]


def _mean_confidences(
    present: Sequence[CriterionWeight], rows: Sequence[Row], history: Mapping[str, float]
) -> dict[str, tuple[float, Source]]:
    """cbar[j] and where it comes from: the group, the criterion's default, earlier steps, its peers, or nowhere (1)."""
    own: dict[str, float] = {}
    for c in present:
        stated = [x for row in rows if c.key in row and (x := row[c.key].confidence) is not None]
        if stated:
            own[c.key] = mean(stated)
    found: dict[str, tuple[float, Source]] = {}
    for c in present:
        if c.key in own:
            found[c.key] = (own[c.key], "group")
        elif not c.judged:
            found[c.key] = (1.0, "group")
        elif c.default_confidence is not None:
            found[c.key] = (c.default_confidence, "default")
        elif c.key in history:
            found[c.key] = (history[c.key], "history")
        else:
            peers = [p for p in present if p.judged and p.key != c.key and p.key in own]
            if peers:
                weights = math.fsum(p.weight for p in peers)
                found[c.key] = (math.fsum(p.weight * own[p.key] for p in peers) / weights, "peers")
            else:
                found[c.key] = (1.0, "none")
    return found


def _effective_weights(
    present: Sequence[CriterionWeight], confidence: Mapping[str, tuple[float, Source]], options: ScoringOptions
) -> tuple[dict[str, float], bool]:
    """e[j] = w[j]·cbar[j]^α (α = 0 for `uniform`), or w[j] if all of them vanish (`weighting_fallback`)."""
    if options.weighting == "uniform":
        return {c.key: c.weight for c in present}, False
    effective = {c.key: c.weight * confidence[c.key][0] ** options.confidence_exponent for c in present}
    if math.fsum(effective.values()) > 0:
        return effective, False
    return {c.key: c.weight for c in present}, True


def _advantages(rewards: Sequence[float], options: ScoringOptions) -> tuple[list[float], float, Signal]:
    """Unscaled advantages R − mean(R), the factor that scales them, and whether there is a signal at all."""
    centre = mean(rewards)
    unscaled = [reward - centre for reward in rewards]
    if not has_spread(rewards):
        return unscaled, 0.0, "no_spread"
    factor = 1.0
    if options.baseline == "leave_one_out":
        factor *= len(rewards) / (len(rewards) - 1)
    if options.scale == "group_std":
        factor *= 1.0 / (unbiased_std(rewards) + options.scale_eps)
    return unscaled, factor, "ok"

"""From cells to rewards and advantages: the one home of grape.md §2 to §5.

Plain Python in float64. The groups are tiny (a few completions by a few criteria): exactness is worth more than speed.

Symbols, for completion i and criterion j of one group: score s[i,j] in [0,1] and confidence c[i,j] in [0,1] of an
*ok* cell, author's weight w[j] > 0, mean confidence cbar[j] and mean score sbar[j] over the members' ok cells,
effective weight e[j] = w[j]·cbar[j]^α, share v[j] = e[j]/Σe.
"""

from service.domain.scoring.group import (
    COVERAGE_SLACK,
    CriterionWeight,
    Row,
    RunningMeans,
    ScoredCell,
    ScoredCompletion,
    ScoredGroup,
    ScoringOptions,
    Signal,
    Source,
    Weighting,
    audit_score,
    coverage,
    plain_reward,
    score_group,
)
from service.domain.scoring.stats import has_spread, mean, unbiased_std
from service.domain.scoring.steps import MAX_STEPS, PooledSteps, Span, pool_steps, split_steps

__all__ = [
    "COVERAGE_SLACK",
    "MAX_STEPS",
    "CriterionWeight",
    "PooledSteps",
    "Row",
    "RunningMeans",
    "ScoredCell",
    "ScoredCompletion",
    "ScoredGroup",
    "ScoringOptions",
    "Signal",
    "Source",
    "Span",
    "Weighting",
    "audit_score",
    "coverage",
    "has_spread",
    "mean",
    "plain_reward",
    "pool_steps",
    "score_group",
    "split_steps",
    "unbiased_std",
]

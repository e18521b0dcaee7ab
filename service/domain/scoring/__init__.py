"""From cells to rewards and advantages: the one home of grape.md §2 to §6's arithmetic.

Plain Python in float64. The groups are tiny (a few completions by a few criteria): exactness is worth more than speed.

Symbols, for completion i and criterion j of one group: score s[i,j] in [0,1] and confidence c[i,j] in [0,1] of an
*ok* cell, author's weight w[j] > 0, mean confidence cbar[j] and mean score sbar[j] over the members' ok cells,
effective weight e[j] = w[j]·cbar[j]^α, share v[j] = e[j]/Σe.
"""

from service.domain.scoring.checks import Mismatch, mismatches
from service.domain.scoring.credit import step_credits, token_advantages
from service.domain.scoring.group import score_group, score_groups
from service.domain.scoring.history import History, RunningMeans
from service.domain.scoring.outside import outside_advantage
from service.domain.scoring.rewards import (
    COVERAGE_SLACK,
    audit_score,
    coverage,
    filled_plain_reward,
    gate_factor,
    overlong_penalty,
    plain_reward,
)
from service.domain.scoring.stats import correlation, has_spread, mean, paired_interval, unbiased_std
from service.domain.scoring.steps import MAX_STEPS, PooledSteps, Span, pool_steps, split_steps
from service.domain.scoring.values import (
    GATE,
    OVERLONG,
    CriterionWeight,
    GateRule,
    GroupCells,
    Past,
    Row,
    ScoredCell,
    ScoredCompletion,
    ScoredGroup,
    ScoringOptions,
    Signal,
    Source,
    StepCredit,
    Weighting,
)

__all__ = [
    "COVERAGE_SLACK",
    "GATE",
    "MAX_STEPS",
    "OVERLONG",
    "CriterionWeight",
    "GateRule",
    "GroupCells",
    "History",
    "Mismatch",
    "Past",
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
    "StepCredit",
    "Weighting",
    "audit_score",
    "correlation",
    "coverage",
    "filled_plain_reward",
    "gate_factor",
    "has_spread",
    "mean",
    "mismatches",
    "outside_advantage",
    "overlong_penalty",
    "paired_interval",
    "plain_reward",
    "pool_steps",
    "score_group",
    "score_groups",
    "split_steps",
    "step_credits",
    "token_advantages",
    "unbiased_std",
]

"""What goes into the arithmetic and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

Signal = Literal["ok", "no_spread", "too_few_members", "below_noise", "low_confidence"]
Source = Literal["group", "default", "history", "peers", "none", "fallback"]
WeightingName = Literal["confidence", "uniform", "inverse_variance", "healthbench"]
StepCredit = Literal["to_go", "all", "deepseek_sum"]

GATE = "gate"
"""The entry of `parts` that gates make; no criterion may have it for a key where there are gates."""

OVERLONG = "overlong"
"""The entry of `parts` that the penalty on length makes; no criterion may have it for a key where there is one."""


@dataclass(frozen=True, slots=True)
class GateRule:
    """Trips when its criterion's score is below `threshold`, and then multiplies the reward by `factor` (0: `required`)."""

    threshold: float
    factor: float


@dataclass(frozen=True, slots=True)
class CriterionWeight:
    """A criterion as aggregation sees it; `judged` is false for verifiers and reward models.

    `step_pooling` is set exactly for step criteria. `votes` is null where nobody said; it is only asked whether it is 2 or
    more. `per_prompt` marks a criterion that came with its prompt: it exists for that prompt alone, so its metrics and
    running quantities are kept by tag.
    """

    key: str
    weight: float
    judged: bool = True
    audit: bool = False
    default_confidence: float | None = None
    gate: GateRule | None = None
    met_is_bad: bool = False
    step_pooling: Literal["mean", "min"] | None = None
    votes: int | None = None
    per_prompt: bool = False
    tags: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that its metrics are kept under: its key; for a per-prompt criterion `prompt.<tag>`, one for each tag."""
        if not self.per_prompt:
            return (self.key,)
        return tuple(f"prompt.{tag}" for tag in self.tags) or ("prompt",)

    @property
    def memory(self) -> str:
        """The name that its running quantities are kept under: its key, or the first tag of a per-prompt criterion."""
        return self.series[0]


@dataclass(frozen=True, slots=True)
class ScoredCell:
    """An ok cell. A failed cell is simply absent from its completion.

    `noise` is the variance of the averaged vote, null for a single one. `steps` has the score of each step of a step
    criterion, null for a step that failed.
    """

    score: float
    confidence: float | None = None
    noise: float | None = None
    steps: tuple[float | None, ...] = ()


Row = Mapping[str, ScoredCell]


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """The resolved `aggregation` and `advantage` options of a job (grape.md §4 and §5)."""

    weighting: WeightingName = "confidence"
    confidence_exponent: float = 1.0
    pooling: Literal["group", "shrunk"] = "group"
    min_coverage: float = 0.5
    on_subject_null: Literal["impute", "lowest_observed"] = "impute"
    min_group_confidence: float = 0.0
    max_weight_share: float | None = None
    baseline: Literal["group_mean", "leave_one_out", "none"] = "group_mean"
    scale: Literal["group_std", "batch_std", "none"] = "group_std"
    scale_eps: float = 0.0
    level: Literal["reward", "criterion"] = "reward"
    noise_aware: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """Running quantities of earlier steps, by `CriterionWeight.memory`; empty for `try`, gradings and the first step.

    `noise` has the number of cells and the sum of their noise over the last 64 groups.
    """

    confidence: Mapping[str, float] = field(default_factory=dict)
    score: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupCells:
    """One group before it is scored: `rows[i][key]` is the ok cell of completion i, a missing key is a failed cell.

    `subject_nulls[i]` names the failed cells whose status is of the family `subject`; empty where it makes no difference.
    `penalties[i]` is taken off the reward after its gates, never off plain reward (`overlong_penalty`); empty: nothing is.
    """

    criteria: Sequence[CriterionWeight]
    rows: Sequence[Row]
    subject_nulls: Sequence[AbstractSet[str]] = ()
    past: Past = field(default_factory=Past)
    penalties: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Weighting:
    """What one criterion counted for in one group; null effective weight if it left the group.

    `share` is what the criterion counted for in the reward; `max_weight_share` holds it below e/Σe. `noise` is the variance
    of its averaged vote, where the options use it.
    """

    weight: float
    mean_score: float | None = None
    mean_confidence: float | None = None
    effective_weight: float | None = None
    share: float | None = None
    source: Source | None = None
    noise: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCompletion:
    """The numbers of one completion; reward and advantage are null if it left its group.

    `imputed` has the scores that stood in for cells with a subject null (`lowest_observed`), and only those.
    """

    member: bool
    coverage: float
    plain_reward: float | None
    audit: float | None
    reward: float | None = None
    unscaled_advantage: float | None = None
    scale_factor: float | None = None
    advantage: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    imputed: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """One group, scored. `group_confidence` is Σe/Σw, null for weightings in which e is no confidence."""

    signal: Signal
    completions: list[ScoredCompletion]
    weighting: dict[str, Weighting]
    group_confidence: float | None = None
    effective_criteria: float | None = None
    weighting_fallback: bool = False

"""The arms, put to the product's own arithmetic: `service.domain.scoring.score_group` and what it keeps between steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.claim.protocol import CRITERIA, Arm, ExploredArm, Setting
from service.domain.algorithm import scoring_options
from service.domain.rubric import Aggregation
from service.domain.scoring import (
    CriterionWeight,
    GroupCells,
    History,
    Row,
    ScoredGroup,
    score_groups,
)

RUBRIC = "simulated"


class Scorer:
    """Scores groups as a job of this arm would, with the running quantities of its earlier steps."""

    def __init__(self, arm: Arm, setting: Setting, steps: int) -> None:
        self.arm, self.steps = arm, steps
        self.criteria = [
            CriterionWeight(key, weight, votes=arm.votes) for key, weight in zip(CRITERIA, setting.weights, strict=True)
        ]
        self.options = scoring_options(Aggregation.model_validate(aggregation_of(arm)))
        self.history = History()

    def exponent(self, step: int) -> float:
        """α at a step (0 first): linear from the first to the last step of the arm's schedule."""
        first, last = self.arm.exponents
        return first + (last - first) * step / max(self.steps - 1, 1)

    def score(self, groups: Sequence[Sequence[Row]], step: int) -> list[ScoredGroup]:
        """All groups of a step, by what earlier steps taught; then they are history themselves."""
        options = replace(self.options, confidence_exponent=self.exponent(step))
        past = self.history.past(RUBRIC)
        cells = [GroupCells(self.criteria, rows, _refused(rows), past) for rows in groups]
        scored = score_groups(cells, options)
        for rows in groups:
            self.history.add(RUBRIC, self.criteria, rows)
        return scored


def aggregation_of(arm: Arm) -> dict[str, Any]:
    """The arm as the options `algorithm.aggregation` of a job."""
    first, last = arm.exponents
    options: dict[str, Any] = {"weighting": arm.weighting, "confidence_exponent": first, "pooling": arm.pooling}
    if last != first:
        options["confidence_exponent_final"] = last
    if isinstance(arm, ExploredArm):
        options |= {"on_subject_null": arm.on_subject_null, "min_coverage": arm.min_coverage}
    return options


def _refused(rows: Sequence[Row]) -> list[set[str]]:
    """The missing cells of each completion as refusals; only `lowest_observed` makes a difference between kinds of nulls."""
    return [set(CRITERIA) - set(row) for row in rows]

"""The arms, put to the product's own arithmetic: `service.domain.scoring.score_group` and what it keeps between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.claim.protocol import CRITERIA, Arm, Setting
from service.domain.scoring import (
    CriterionWeight,
    GroupCells,
    History,
    Row,
    ScoredGroup,
    ScoringOptions,
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
        self.history = History()

    def exponent(self, step: int) -> float:
        """α at a step (0 first): linear from the first to the last step of the arm's schedule."""
        first, last = self.arm.exponents
        return first + (last - first) * step / max(self.steps - 1, 1)

    def score(self, groups: Sequence[Sequence[Row]], step: int) -> list[ScoredGroup]:
        """All groups of a step, by what earlier steps taught; then they are history themselves."""
        options = ScoringOptions(
            weighting=self.arm.weighting, confidence_exponent=self.exponent(step), pooling=self.arm.pooling
        )
        past = self.history.past(RUBRIC)
        scored = score_groups([GroupCells(self.criteria, rows, past=past) for rows in groups], options)
        for rows in groups:
            self.history.add(RUBRIC, self.criteria, rows)
        return scored


def aggregation_of(arm: Arm) -> dict[str, Any]:
    """The arm as the options `algorithm.aggregation` of a job."""
    return {"weighting": arm.weighting, "confidence_exponent": arm.exponents[0], "pooling": arm.pooling}

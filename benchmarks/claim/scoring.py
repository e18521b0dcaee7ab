"""The arms, put to the product's own arithmetic: `service.domain.scoring.score_group` and what it keeps between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.claim.protocol import CRITERIA, Arm, Setting
from service.domain.scoring import CriterionWeight, Row, RunningMeans, ScoredGroup, ScoringOptions, score_group


class Scorer:
    """Scores groups as a job of this arm would, with the running quantities of its earlier steps."""

    def __init__(self, arm: Arm, setting: Setting, steps: int) -> None:
        self.arm, self.steps = arm, steps
        self.criteria = [CriterionWeight(key, weight) for key, weight in zip(CRITERIA, setting.weights, strict=True)]
        self.confidence = RunningMeans()
        self.rows: list[Row] = []

    def exponent(self, step: int) -> float:
        """α at a step (0 first): linear from the first to the last step of the arm's schedule."""
        first, last = self.arm.exponents
        return first + (last - first) * step / max(self.steps - 1, 1)

    def score(self, rows: Sequence[Row], step: int) -> ScoredGroup:
        """One group of this step."""
        options = ScoringOptions(weighting=self.arm.weighting, confidence_exponent=self.exponent(step))
        self.rows.extend(rows)
        return score_group(self.criteria, rows, options, self.confidence.means())

    def end_step(self) -> None:
        """Only earlier steps are ever used: what this one taught counts from now on."""
        for key in CRITERIA:
            said = [c for row in self.rows if key in row and (c := row[key].confidence) is not None]
            self.confidence.add(key, said)
        self.rows.clear()


def aggregation_of(arm: Arm) -> dict[str, Any]:
    """The arm as the options `algorithm.aggregation` of a job."""
    return {"weighting": arm.weighting, "confidence_exponent": arm.exponents[0], "pooling": arm.pooling}

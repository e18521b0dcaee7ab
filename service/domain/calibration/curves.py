"""Curves from what a judge states to what it is worth, and their use on cells."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from service.domain.base import Value
from service.domain.grade import Cell, Share
from service.domain.identity import question_identity
from service.domain.rubric import RubricContent

SHRINKAGE = 16
"""k of (n·fitted + k·prior)/(n + k), as in `pooling: shrunk`: the prior of a judge's curve is what the judge states, the prior of a
criterion's curve is the judge's curve. **[choice]**"""

EDGE = 1e-4
"""What is stated as 0 or 1 has an infinite logit; it counts as this far from it."""


class Isotonic(Value):
    """Non-decreasing: straight lines between points, constant beyond them."""

    type: Literal["isotonic"] = "isotonic"
    points: Annotated[list[tuple[Share, Share]], Field(min_length=1)]

    def at(self, stated: float) -> float:
        """The value at `stated`."""
        place = bisect_left(self.points, (stated, -1.0))
        if place == 0:
            return self.points[0][1]
        if place == len(self.points):
            return self.points[-1][1]
        (x0, y0), (x1, y1) = self.points[place - 1], self.points[place]
        return y1 if x1 <= x0 else y0 + (y1 - y0) * (stated - x0) / (x1 - x0)


class Temperature(Value):
    """σ(logit(x)/T): above 1 it draws towards one half, below 1 towards the ends."""

    type: Literal["temperature"] = "temperature"
    temperature: Annotated[float, Field(gt=0)]

    def at(self, stated: float) -> float:
        """The value at `stated`."""
        x = min(1 - EDGE, max(EDGE, stated))
        return 1 / (1 + math.exp(-math.log(x / (1 - x)) / self.temperature))


class Curve(Value):
    """A fit to so many labelled cells."""

    labels: Annotated[int, Field(ge=1)]
    fit: Annotated[Isotonic | Temperature, Field(discriminator="type")]

    def at(self, stated: float, prior: float) -> float:
        """(n·fit + k·prior)/(n + k)."""
        return (self.labels * self.fit.at(stated) + SHRINKAGE * prior) / (self.labels + SHRINKAGE)


class Curves(Value):
    """By confidence source (`verbal votes logprob`): the judge's over all its criteria, and those of single questions.

    `questions` has curves by `question_identity` and source; a question without one has the judge's.
    """

    judge: dict[str, Curve]
    questions: dict[str, dict[str, Curve]] = {}

    def at(self, question: str | None, source: str, stated: float) -> float | None:
        """What a stated confidence is worth; null where nothing was fitted to this source."""
        judge = self.judge.get(source)
        if judge is None:
            return None
        worth = judge.at(stated, stated)
        own = self.questions.get(question or "", {}).get(source)
        return worth if own is None else own.at(stated, worth)


class PinnedCalibration(Value):
    """A calibration as a job or a grading has pinned it at submit, for one revision of a judge."""

    id: str
    version: int
    revision: int
    curves: Curves


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Makes the confidences of one rubric version's cells what they are worth, by what its owner has pinned.

    Cells come in as the judge stated them (so they stand in the cache and in batches), and go out once.
    """

    by_judge: Mapping[str, PinnedCalibration] = field(default_factory=dict)
    questions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, resolved: Mapping[str, Any], content: RubricContent) -> Calibrator:
        """Of a job or a grading, for one of its rubrics' versions."""
        pinned = {
            judge: PinnedCalibration.model_validate(found) for judge, found in resolved.get("calibrations", {}).items()
        }
        questions = {c.key: question_identity(c) for c in content.criteria} if pinned else {}
        return cls(pinned, questions)

    def cell(self, cell: Cell) -> Cell:
        """The cell with the calibrated confidence, and with what was stated beside it; as it was where there is no calibration.

        A step criterion's confidence is calibrated as a whole, for that is what people label; its steps keep what was stated.
        """
        found = self.by_judge.get(cell.judge or "")
        if (
            found is None
            or cell.confidence is None
            or cell.confidence_source is None
            or cell.revision != found.revision
        ):
            return cell
        worth = found.curves.at(self.questions.get(cell.criterion), cell.confidence_source, cell.confidence)
        if worth is None:
            return cell
        named = {"stated_confidence": cell.confidence, "calibration": found.id, "calibration_version": found.version}
        return cell.model_copy(update={**named, "confidence": worth})

"""What goes in and out of `/v1/judges/{id}/calibrations`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.db.tables import Calibration
from service.domain.base import Value
from service.domain.calibration import CurveReport, Curves
from service.domain.label import Person


class CalibrationIn(Value):
    """Fit this judge's confidence to people's labels, or (`none`) take it as the judge states it again.

    `revision`: the current one unless said otherwise. `blind`: only labels by people who had not seen the judge's. `persons`: only
    theirs.
    """

    method: Literal["isotonic", "temperature", "none"] = "isotonic"
    revision: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    blind: bool | None = None
    persons: Annotated[list[Person], Field(min_length=1, max_length=1000)] | None = None


class QuestionReport(BaseModel):
    """One criterion's part of a calibration. `own_curve`: it has labels enough for one; else it has the judge's.

    `question` is the identity of what was asked, under which its curve stands in `curves.questions`.
    """

    question: str
    rubric: str
    criterion: str
    source: str
    own_curve: bool
    report: CurveReport


class CalibrationOut(BaseModel):
    """A calibration of one judge revision. It never changes; jobs and gradings that are submitted from now on pin the newest one of
    their judge's revision, and their cells name it.

    `judge_report` is over all criteria, by confidence source.
    """

    id: str
    judge: str
    revision: int
    version: int
    method: str
    labels: int
    in_use: bool
    curves: Curves
    judge_report: dict[str, CurveReport]
    criteria: list[QuestionReport]
    options: dict[str, Any]
    author: str
    created_at: datetime

    @classmethod
    def of(cls, row: Calibration, in_use: bool) -> CalibrationOut:
        """From its row."""
        same = ("id", "revision", "version", "method", "labels", "curves", "author", "created_at")
        return cls(judge=row.judge_id, in_use=in_use, **row.report, **{name: getattr(row, name) for name in same})

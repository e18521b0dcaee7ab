"""What comes out of `/v1/gradings`; what goes in is `service.domain.grading`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from service.completion import CompletionOut
from service.db.tables import Grading
from service.domain.master_keys import Probed
from service.domain.pinned import PinnedRubrics, calibration_versions
from service.domain.spending import JudgeBudget, Spent


class GradingError(BaseModel):
    """Why a grading failed."""

    code: str
    message: str


class GradingProgress(BaseModel):
    """Cells in all (null until it is known), those that have come to something, and those of them that have no score."""

    cells: int | None
    done: int
    failed: int


class GradingOut(BaseModel):
    """A grading. `rubric` is one version, or one for each category, or null where each completion keeps the version that it was
    graded by; `aggregation` has the options on which the versions agree."""

    id: str
    status: str
    status_reason: str | None
    error: GradingError | None
    rubric: dict[str, Any] | None
    judges: dict[str, int]
    calibrations: dict[str, int]
    """Judge -> the version of its calibration that is pinned, for judges that have one."""
    models: dict[str, Any]
    source: dict[str, Any]
    aggregation: dict[str, Any]
    reuse_cells: bool
    votes: int | None
    fresh: bool
    limits: JudgeBudget
    spent: Spent
    progress: GradingProgress
    summary: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime

    @classmethod
    def of(cls, row: Grading) -> GradingOut:
        """From its row."""
        resolved = row.resolved
        pinned = PinnedRubrics.of(resolved)
        same = ("id", "status", "status_reason", "reuse_cells", "summary", "source", "created_at", "started_at", "finished_at",
                "updated_at")  # fmt: skip
        return cls(
            error=GradingError(**row.error) if row.error else None,
            rubric=pinned.written() if pinned is not None else None,
            judges=resolved["judges"],
            calibrations=calibration_versions(resolved),
            models=resolved.get("models", {}),
            aggregation=resolved["aggregation"],
            votes=resolved.get("votes"),
            fresh=resolved.get("fresh", False),
            limits=JudgeBudget.model_validate(resolved.get("limits") or {}),
            spent=Spent.model_validate(row.spent or {}),
            progress=GradingProgress(cells=row.cells, done=row.done, failed=row.failed),
            **{name: getattr(row, name) for name in same},
        )


class ProbedOut(Probed):
    """What a version's judges say to answers that say nothing; `data` has every cell."""

    data: list[CompletionOut]


class TriedOut(BaseModel):
    """Texts that were graded at once; nothing of them is stored."""

    data: list[CompletionOut]

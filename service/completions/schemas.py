"""Critiques as they are shown; completions and cells are in `service.completion`, because gradings show them too."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from service.db.tables import CellRow


class CritiqueOut(BaseModel):
    """What a judge said about one completion on one criterion."""

    id: str
    completion: str
    job: str | None
    grading: str | None
    criterion: str
    text: str
    status: str
    score: float | None
    confidence: float | None
    source: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: CellRow) -> CritiqueOut:
        """From its cell."""
        return cls(
            id=row.critique_id or "",
            completion=row.completion_id,
            job=row.job_id,
            grading=row.grading_id,
            criterion=row.criterion,
            text=row.reasoning or "",
            status=row.status,
            score=row.score,
            confidence=row.confidence,
            source={"type": "judge", "judge": row.judge_id, "revision": row.judge_revision},
            created_at=row.created_at,
        )

"""What comes out of `/v1/checkpoints`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from service.db.tables import Checkpoint
from service.domain.checkpoint import CheckpointFile


class CheckpointOut(BaseModel):
    """A checkpoint that verifies: its files with their sha256."""

    id: str
    job_id: str
    step: int
    kind: Literal["full", "adapter"]
    files: list[CheckpointFile]
    bytes: int
    metrics: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: Checkpoint) -> CheckpointOut:
        """From its row."""
        files = [CheckpointFile.model_validate(file) for file in row.files]
        return cls(
            id=row.id,
            job_id=row.job_id,
            step=row.step,
            kind=row.kind,
            files=files,
            bytes=sum(file.bytes for file in files),
            metrics=row.metrics,
            created_at=row.created_at,
        )

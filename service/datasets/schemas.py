"""What goes in and out of `/v1/datasets`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from service.db.tables import Dataset, DatasetRow
from service.domain.base import Value
from service.domain.conversation import Name
from service.domain.dataset import DatasetKind


class DatasetIn(Value):
    """A new, empty dataset."""

    name: Name
    kind: DatasetKind


class DatasetOut(BaseModel):
    """The head: how much is published, and the hash chain over it."""

    id: str
    name: str
    kind: str
    batches: int
    rows: int
    hash: str
    created_at: datetime

    @classmethod
    def of(cls, row: Dataset) -> DatasetOut:
        """From its row."""
        return cls(
            id=row.id,
            name=row.name,
            kind=row.kind,
            batches=row.batches,
            rows=row.rows,
            hash=row.hash,
            created_at=row.created_at,
        )


class RowOut(BaseModel):
    """One row; `id` is the dataset's id and the row's sequence number."""

    id: str
    seq: int
    batch: str
    content: dict[str, Any]

    @classmethod
    def of(cls, row: DatasetRow) -> RowOut:
        """From its row."""
        return cls(id=f"{row.dataset_id}:{row.seq}", seq=row.seq, batch=row.batch_id, content=row.content)


class RowError(BaseModel):
    """What is wrong with one line (the first line is 1)."""

    line: int
    pointer: str
    code: str
    message: str


class BatchOut(BaseModel):
    """What was published. Rows that the dataset had already are duplicates, and are not stored twice."""

    batch: str | None
    rows: int
    duplicates: int
    errors: list[RowError]
    error_count: int


class ImportOut(BatchOut):
    """What was imported, and from which format. `pitfalls`: how many criteria got which polarity from their first words (RaR)."""

    format: str
    pitfalls: dict[str, int]

"""Checkpoints that have been written, synced and published."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.db.tables.base import Base, Big, Created, Id, Json, ProjectId


class Checkpoint(Base):
    """A listed checkpoint verifies: its row is inserted after its files are durable."""

    __tablename__ = "checkpoints"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    fence: Mapped[Big]
    step: Mapped[int]
    kind: Mapped[str]
    location: Mapped[str]
    files: Mapped[Json]
    metrics: Mapped[Json]
    created_at: Mapped[Created]

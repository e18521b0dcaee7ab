"""Judges: the secret and the limits on the head, everything that decides a verdict in a revision."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.db.tables.base import Base, Created, Id, Json, ProjectId


class Judge(Base):
    """The head."""

    __tablename__ = "judges"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    name: Mapped[str]
    revision: Mapped[int]
    head_revision: Mapped[int]
    limits: Mapped[Json]
    secret: Mapped[bytes | None]
    created_at: Mapped[Created]
    updated_at: Mapped[Created]


class JudgeRevision(Base):
    """An immutable configuration."""

    __tablename__ = "judge_revisions"

    judge_id: Mapped[str] = mapped_column(ForeignKey("judges.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    config: Mapped[Json]
    fingerprint: Mapped[str]
    created_at: Mapped[Created]

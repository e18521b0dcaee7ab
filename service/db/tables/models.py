"""Registered models: where the files are, and what they must hash to."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from service.db.tables.base import Base, Created, Id, Json, Moment, ProjectId


class Model(Base):
    """A policy, or a reward model (`normalisation` is null until somebody gives it).

    `location` is a folder of the worker's, or a prefix of the artifact store.
    """

    __tablename__ = "models"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    name: Mapped[str]
    kind: Mapped[str]
    source: Mapped[Json]
    status: Mapped[str]
    error: Mapped[str | None]
    location: Mapped[str | None]
    base_model_id: Mapped[str | None]
    sha256: Mapped[str | None]
    files: Mapped[Json | None]
    config: Mapped[Json | None]
    normalisation: Mapped[Json | None]
    head_revision: Mapped[int] = mapped_column(default=1)
    lease_expires_at: Mapped[Moment | None]
    created_at: Mapped[Created]

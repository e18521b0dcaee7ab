"""Rubric heads, their immutable versions, and aliases that move."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.db.tables.base import Base, Created, Id, Json, ProjectId


class Rubric(Base):
    """The head; its ETag is the latest version and the head's own revision."""

    __tablename__ = "rubrics"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    name: Mapped[str]
    category: Mapped[str | None]
    description: Mapped[str]
    latest_version: Mapped[int]
    head_revision: Mapped[int]
    created_at: Mapped[Created]
    updated_at: Mapped[Created]


class RubricVersion(Base):
    """Content that never changes (a trigger sees to it)."""

    __tablename__ = "rubric_versions"

    rubric_id: Mapped[str] = mapped_column(ForeignKey("rubrics.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    content: Mapped[Json]
    hash: Mapped[str]
    message: Mapped[str]
    author: Mapped[str]
    created_at: Mapped[Created]
    resolved: Mapped[Json | None]

    @property
    def graded_by(self) -> dict[str, Any]:
        """The flat content that completions are graded by: `content` with its includes resolved, and not where it came from."""
        found: dict[str, Any] = self.content if self.resolved is None else self.resolved
        return {name: value for name, value in found.items() if name != "origin"}


class RubricAlias(Base):
    """A name such as `production` for a version."""

    __tablename__ = "rubric_aliases"

    rubric_id: Mapped[str] = mapped_column(ForeignKey("rubrics.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    version: Mapped[int]
    updated_at: Mapped[Created]

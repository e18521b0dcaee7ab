"""Gradings: what is graded, in which groups, and how far that has come."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, query_expression

from service.db.tables.base import Base, Big, Created, Id, Json, Moment, ProjectId


class Grading(Base):
    """The row is the truth, as with jobs. A `try` is a short-lived grading whose answer stands in `result`."""

    __tablename__ = "gradings"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    purpose: Mapped[str]
    status: Mapped[str]
    status_reason: Mapped[str | None]
    error: Mapped[Json | None]
    source: Mapped[Json]
    resolved: Mapped[Json]
    reuse_cells: Mapped[bool]
    expanded: Mapped[int]
    planned: Mapped[bool]
    cells: Mapped[int | None]
    done: Mapped[int]
    failed: Mapped[int]
    summary: Mapped[Json | None]
    result: Mapped[Json | None]
    fence: Mapped[Big]
    failures: Mapped[int]
    worker_id: Mapped[str | None]
    lease_expires_at: Mapped[Moment | None]
    next_run_at: Mapped[Moment | None]
    created_at: Mapped[Created]
    started_at: Mapped[Moment | None]
    finished_at: Mapped[Moment | None]
    updated_at: Mapped[Created]
    spent: Mapped[Any] = query_expression()
    """What was taken of judges, where a query asks for it (`queries.spent`)."""


class GradingItem(Base):
    """One text in input order: its own, or a stored completion's. Gone once the grading has ended."""

    __tablename__ = "grading_items"

    grading_id: Mapped[str] = mapped_column(ForeignKey("gradings.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    group_key: Mapped[str]
    prompt: Mapped[Json | None]
    text: Mapped[str | None]
    completion_id: Mapped[str | None]
    completion_created_at: Mapped[Moment | None]


class GradingGroup(Base):
    """The items with one key, numbered by their first. Gone once the grading has ended."""

    __tablename__ = "grading_groups"

    grading_id: Mapped[str] = mapped_column(ForeignKey("gradings.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    group_key: Mapped[str]
    size: Mapped[int]
    status: Mapped[str]

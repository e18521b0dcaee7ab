"""What became of revisions, of best and worst of groups, and of pairs that a judge has labelled."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.db.tables.base import Base, Big, Created, Double, Id, Json, Moment, ProjectId


class RevisionResult(Base):
    """One pair: of a request (`request_id`, a row of `gradings`) or of a job's step.

    `original_id` is the completion that was to be beaten, `better_id` the one that was to beat it (null: there was none).
    `preference` and `demonstration` are the rows that it gives to datasets, published from `published_at` on.
    """

    __tablename__ = "revision_results"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    request_id: Mapped[str | None] = mapped_column(ForeignKey("gradings.id", ondelete="CASCADE"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    fence: Mapped[Big]
    attempt: Mapped[int]
    step: Mapped[int]
    position: Mapped[int]
    kind: Mapped[str]
    original_id: Mapped[str]
    better_id: Mapped[str | None]
    accepted: Mapped[bool]
    reason: Mapped[str | None]
    message: Mapped[str | None]
    original_reward: Mapped[Double | None]
    better_reward: Mapped[Double | None]
    difference: Mapped[Double | None]
    standard_error: Mapped[Double | None]
    threshold: Mapped[Double | None]
    data: Mapped[Json]
    preference: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    demonstration: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    published_at: Mapped[Moment | None]
    created_at: Mapped[Created]

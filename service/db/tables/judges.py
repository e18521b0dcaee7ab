"""Judges: the secret and the limits on the head, everything that decides a verdict in a revision."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, query_expression

from service.db.tables.base import Base, Big, Created, Double, Id, Json, Moment, PartitionTime, ProjectId


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
    spent: Mapped[Any] = query_expression()
    """What was taken of judges, where a query asks for it (`queries.spent`)."""
    learned: Mapped[Any] = query_expression()
    """What its endpoint can do, where a query asks for it (`queries.abilities`)."""


class JudgeRevision(Base):
    """An immutable configuration."""

    __tablename__ = "judge_revisions"

    judge_id: Mapped[str] = mapped_column(ForeignKey("judges.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    config: Mapped[Json]
    fingerprint: Mapped[str]
    created_at: Mapped[Created]


class EndpointState(Base):
    """An endpoint (address, model, key) as all grading workers share it. No tenant's: who has the key shares its limits."""

    __tablename__ = "judge_endpoints"

    id: Mapped[Id]
    base_url: Mapped[str]
    model: Mapped[str]
    ceiling: Mapped[Double | None]
    cut_at: Mapped[Moment | None]
    held_until: Mapped[Moment | None]
    requests_at: Mapped[Moment | None]
    tokens_at: Mapped[Moment | None]
    used_at: Mapped[Created]


class EndpointShare(Base):
    """The calls that one worker may have in flight at an endpoint, until the lease ends."""

    __tablename__ = "judge_shares"

    endpoint_id: Mapped[str] = mapped_column(ForeignKey("judge_endpoints.id", ondelete="CASCADE"), primary_key=True)
    worker_id: Mapped[str] = mapped_column(primary_key=True)
    process: Mapped[str | None]
    concurrency: Mapped[int]
    timeout_s: Mapped[Double]
    demand: Mapped[int]
    slots: Mapped[int]
    expires_at: Mapped[Moment]


class JudgeSpending(Base):
    """What one writer has counted of an owner's calls to a judge: a job's, a grading's, or (`owner_id` = `judge_id`) everybody's."""

    __tablename__ = "judge_spending"

    owner_id: Mapped[Id]
    judge_id: Mapped[str] = mapped_column(ForeignKey("judges.id"), primary_key=True)
    writer: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    calls: Mapped[Big]
    estimated: Mapped[Big]
    tokens_in: Mapped[Big]
    tokens_out: Mapped[Big]
    cost_usd: Mapped[Double | None]
    updated_at: Mapped[Created]


class JudgeReservation(Base):
    """What one worker has set aside of an owner's and a judge's budgets, until the lease ends."""

    __tablename__ = "judge_reservations"

    owner_id: Mapped[Id]
    judge_id: Mapped[str] = mapped_column(ForeignKey("judges.id"), primary_key=True)
    worker_id: Mapped[str] = mapped_column(primary_key=True)
    process: Mapped[str | None]
    calls: Mapped[Big]
    cost_usd: Mapped[Double]
    timeout_s: Mapped[Double]
    expires_at: Mapped[Moment]


class EndpointAbilities(Base):
    """What asking an endpoint's model has shown that it can do, and what not."""

    __tablename__ = "endpoint_abilities"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    base_url: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    learned: Mapped[Json]
    updated_at: Mapped[Created]


class JudgeReplies(Base):
    """Everything that was replied to one question, packed (`service.domain.replies`). Partitioned by time."""

    __tablename__ = "judge_replies"

    id: Mapped[Id]
    created_at: Mapped[PartitionTime]
    project_id: Mapped[str]
    job_id: Mapped[str | None]
    grading_id: Mapped[str | None]
    judge_id: Mapped[str]
    judge_revision: Mapped[int]
    body: Mapped[bytes]

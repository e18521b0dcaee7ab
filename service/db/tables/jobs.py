"""Jobs, the attempts that hold them, and what they leave behind: events, metrics, logs, wake-up messages."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, query_expression

from service.db.tables.base import Base, Big, Created, Double, Id, Json, Moment, PartitionTime, ProjectId


class Job(Base):
    """The row is the truth. Every transition is one conditional UPDATE of it."""

    __tablename__ = "jobs"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    name: Mapped[str]
    algorithm: Mapped[str]
    status: Mapped[str]
    status_reason: Mapped[str | None]
    error: Mapped[Json | None]
    spec: Mapped[Json]
    resolved: Mapped[Json]
    metadata_: Mapped[Json] = mapped_column("metadata")
    priority: Mapped[int]
    processes: Mapped[int]
    fence: Mapped[Big]
    attempt: Mapped[int]
    failures: Mapped[int]
    event_seq: Mapped[Big]
    progress_step: Mapped[int]
    progress_steps: Mapped[int | None]
    result: Mapped[Json | None]
    next_run_at: Mapped[Moment | None]
    created_at: Mapped[Created]
    started_at: Mapped[Moment | None]
    finished_at: Mapped[Moment | None]
    updated_at: Mapped[Created]
    spent: Mapped[Any] = query_expression()
    """What was taken of judges, where a query asks for it (`queries.spent`)."""


class Attempt(Base):
    """One claim of a job: who holds it, until when, and from which step it went on."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[Big] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    attempt: Mapped[int]
    worker_id: Mapped[str]
    host: Mapped[str]
    lease_expires_at: Mapped[Moment]
    resumed_from_step: Mapped[int | None]
    started_at: Mapped[Created]
    ended_at: Mapped[Moment | None]
    end_reason: Mapped[str | None]


class JobEvent(Base):
    """What happened to a job, gapless from 1 per job. Partitioned by time."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[Big] = mapped_column(primary_key=True)
    created_at: Mapped[PartitionTime]
    id: Mapped[str]
    project_id: Mapped[str]
    type: Mapped[str]
    attempt: Mapped[int]
    data: Mapped[Json]


class JobMetric(Base):
    """One number of one step, by the fence that wrote it. Partitioned by time."""

    __tablename__ = "job_metrics"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[Big] = mapped_column(primary_key=True)
    created_at: Mapped[PartitionTime]
    project_id: Mapped[str]
    attempt: Mapped[int]
    value: Mapped[Double]


class JobLog(Base):
    """A chunk of the child's standard output and error. Partitioned by time."""

    __tablename__ = "job_logs"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    fence: Mapped[Big] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[PartitionTime]
    project_id: Mapped[str]
    text: Mapped[str]


class Outbox(Base):
    """A wake-up message to send after commit; the claim deletes it, and 60 s later it is sent again."""

    __tablename__ = "outbox"

    id: Mapped[Id]
    subject_id: Mapped[str]
    task: Mapped[str]
    queue: Mapped[str]
    send_at: Mapped[Created]
    created_at: Mapped[Created]

"""Completions with their cells, and the batches of cells that wait for a grading worker."""

from __future__ import annotations

from sqlalchemy import ForeignKey, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from service.db.tables.base import (
    Base,
    Big,
    Created,
    Double,
    Id,
    Ints,
    Json,
    Moment,
    PartitionTime,
    ProjectId,
    Reals,
    Texts,
)


class Completion(Base):
    """One completion with its group's arithmetic, of a job or of a grading. Partitioned by time.

    `position` is a grading's input order, `source_id` the stored completion that it has graded. `cells_of`: aggregated anew from
    that completion's cells, of which those in `reused` count. `revision_of`: the completion that it is to be better than.
    """

    __tablename__ = "completions"

    id: Mapped[Id]
    created_at: Mapped[PartitionTime]
    project_id: Mapped[str]
    job_id: Mapped[str | None]
    fence: Mapped[Big]
    attempt: Mapped[int]
    step: Mapped[int]
    purpose: Mapped[str]
    group_id: Mapped[str]
    group_index: Mapped[int]
    index: Mapped[int] = mapped_column("idx")
    prompt: Mapped[Json]
    text: Mapped[str]
    token_ids: Mapped[Ints]
    logprobs: Mapped[Reals]
    finish_reason: Mapped[str | None]
    member: Mapped[bool]
    coverage: Mapped[Double]
    reward: Mapped[Double | None]
    plain_reward: Mapped[Double | None]
    unscaled_advantage: Mapped[Double | None]
    scale_factor: Mapped[Double | None]
    advantage: Mapped[Double | None]
    parts: Mapped[Json]
    imputed: Mapped[Json]
    weighting: Mapped[Json]
    signal: Mapped[str]
    rubric_id: Mapped[str]
    rubric_version: Mapped[int]
    grading_id: Mapped[str | None]
    position: Mapped[int | None]
    source_id: Mapped[str | None]
    cells_of: Mapped[str | None]
    cells_created_at: Mapped[Moment | None]
    reused: Mapped[Texts | None]
    revision_of: Mapped[str | None]


class CellRow(Base):
    """The score of one completion on one criterion, or why there is none. Partitioned by time."""

    __tablename__ = "cells"

    completion_id: Mapped[Id]
    criterion: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[PartitionTime]
    project_id: Mapped[str]
    job_id: Mapped[str | None]
    critique_id: Mapped[str | None]
    status: Mapped[str]
    family: Mapped[str | None]
    reason: Mapped[str | None]
    score: Mapped[Double | None]
    confidence: Mapped[Double | None]
    confidence_source: Mapped[str | None]
    reasoning: Mapped[str | None]
    votes: Mapped[int]
    vote_variance: Mapped[Double | None]
    grader: Mapped[str]
    judge_id: Mapped[str | None]
    judge_revision: Mapped[int | None]
    fingerprint: Mapped[str | None]
    cached: Mapped[bool]
    attempts: Mapped[int]
    latency_ms: Mapped[Double]
    tokens_in: Mapped[int]
    tokens_out: Mapped[int]
    audit: Mapped[bool]
    steps: Mapped[Json | None]
    grading_id: Mapped[str | None]
    reply_format: Mapped[str | None]
    unasked: Mapped[int]
    calls: Mapped[int | None]
    cost_usd: Mapped[Double | None]
    tokens_estimated: Mapped[bool]
    stated_confidence: Mapped[Double | None]
    calibration_id: Mapped[str | None]
    calibration_version: Mapped[int | None]
    replies_id: Mapped[str | None]


class CellBatch(Base):
    """Judged cells of one group of a job or a grading, asked for under an idempotent key; claimed like a job."""

    __tablename__ = "cell_batches"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    key: Mapped[str]
    status: Mapped[str]
    payload: Mapped[Json]
    fence: Mapped[Big]
    lease_expires_at: Mapped[Moment | None]
    worker_id: Mapped[str | None]
    created_at: Mapped[Created]
    finished_at: Mapped[Moment | None]
    grading_id: Mapped[str | None] = mapped_column(ForeignKey("gradings.id", ondelete="CASCADE"))
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    queue: Mapped[str] = mapped_column(server_default="grading")


class CellRequest(Base):
    """One cell of a batch; `cell` is null until it has been graded."""

    __tablename__ = "cell_requests"

    batch_id: Mapped[str] = mapped_column(ForeignKey("cell_batches.id", ondelete="CASCADE"), primary_key=True)
    completion_index: Mapped[int] = mapped_column(primary_key=True)
    criterion: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    cell: Mapped[Json | None]


class CachedCell(Base):
    """A cell that need not be asked for again; `key` is the hash of everything that it depends on."""

    __tablename__ = "cell_cache"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[bytes] = mapped_column(primary_key=True)
    cell: Mapped[Json]
    created_at: Mapped[Created]

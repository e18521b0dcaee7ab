"""Checkpoints."""

from __future__ import annotations

from sqlalchemy import Select, select

from service.db.tables import Checkpoint


def of_job(job_id: str) -> Select[Checkpoint]:
    """The checkpoints of a job."""
    return select(Checkpoint).where(Checkpoint.job_id == job_id)


def latest(job_id: str) -> Select[Checkpoint]:
    """The one to resume from: the highest registered step, never what a folder happens to hold."""
    return of_job(job_id).order_by(Checkpoint.step.desc()).limit(1)


def checkpoint(project_id: str, checkpoint_id: str) -> Select[Checkpoint]:
    """One checkpoint."""
    return select(Checkpoint).where(Checkpoint.project_id == project_id, Checkpoint.id == checkpoint_id)


def location(checkpoint_id: str) -> Select[str]:
    """Where its files lie."""
    return select(Checkpoint.location).where(Checkpoint.id == checkpoint_id)

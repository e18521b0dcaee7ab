"""What a job leaves behind: events, metrics, logs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, select

from service.db.queries.jobs import superseded
from service.db.tables import Attempt, Job, JobEvent, JobLog, JobMetric


def events(job_id: str, after_seq: int = 0) -> Select[JobEvent]:
    """Events with a higher sequence number."""
    return select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after_seq)


def positions(job_ids: Sequence[str]) -> Select[str, int, str]:
    """How far these jobs' events have come, and their states: what a reader waits for."""
    return select(Job.id, Job.event_seq, Job.status).where(Job.id.in_(job_ids))


def metrics(job_id: str, names: Sequence[str] | None, after_step: int | None) -> Select[str, int, float, int, bool]:
    """Points by name and step; `superseded` where a later attempt went on from an earlier step."""
    undone: ColumnElement[bool] = superseded(JobMetric.job_id, JobMetric.fence, JobMetric.step)
    statement = (
        select(JobMetric.name, JobMetric.step, JobMetric.value, JobMetric.attempt, undone.label("superseded"))
        .where(JobMetric.job_id == job_id)
        .order_by(JobMetric.name, JobMetric.step, JobMetric.fence)
    )
    if names:
        statement = statement.where(JobMetric.name.in_(names))
    if after_step is not None:
        statement = statement.where(JobMetric.step > after_step)
    return statement


def logs(job_id: str) -> Select[JobLog, int]:
    """Chunks of the child's output, each with its attempt."""
    return (
        select(JobLog, Attempt.attempt)
        .join(Attempt, (Attempt.job_id == JobLog.job_id) & (Attempt.fence == JobLog.fence))
        .where(JobLog.job_id == job_id)
    )

"""What a grading worker does with many batches at once: what is to do, what is known, answers, ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Delete, Select, delete, func, literal, select, text, true, tuple_, update
from sqlalchemy.sql.dml import ReturningUpdate

from service.db.queries.jobs import now, seconds
from service.db.tables import CachedCell, CellBatch, CellRequest, Grading, Job, Judge, JudgeRevision, Outbox


def unanswered(batch_ids: Collection[str]) -> Select[str, int, str]:
    """The cells of these batches that still have to be asked; a batch that was begun elsewhere keeps what it has."""
    return (
        select(CellRequest.batch_id, CellRequest.completion_index, CellRequest.criterion)
        .where(CellRequest.batch_id.in_(batch_ids), CellRequest.cell.is_(None))
        .order_by(CellRequest.batch_id, CellRequest.completion_index, CellRequest.criterion)
    )


def jobs_resolved(ids: Collection[str]) -> Select[str, Any, bool]:
    """What these jobs have pinned, and that their cells are kept."""
    return select(Job.id, Job.resolved, true()).where(Job.id.in_(ids))


def gradings_resolved(ids: Collection[str]) -> Select[str, Any, bool]:
    """What these gradings have pinned, and whether their cells are kept: a `try` leaves nothing."""
    return select(Grading.id, Grading.resolved, Grading.purpose != "try").where(Grading.id.in_(ids))


def judges(ids: Collection[str]) -> Select[str, Any, Any]:
    """What stands outside the revisions of these judges: limits and the sealed secret."""
    return select(Judge.id, Judge.limits, Judge.secret).where(Judge.id.in_(ids))


def revisions(pins: Collection[tuple[str, int]]) -> Select[JudgeRevision]:
    """Judges' revisions."""
    return select(JudgeRevision).where(tuple_(JudgeRevision.judge_id, JudgeRevision.revision).in_(pins))


def forget_messages(subject_ids: Collection[str]) -> Delete:
    """These subjects have been taken up."""
    return delete(Outbox).where(Outbox.subject_id.in_(subject_ids))


def known(project_id: str, keys: Sequence[bytes]) -> Select[bytes, Any]:
    """The cached cells among these keys."""
    return select(CachedCell.key, CachedCell.cell).where(CachedCell.project_id == project_id, CachedCell.key.in_(keys))


def old_cells(days: float) -> Delete:
    """Cached cells of more than so many days."""
    return delete(CachedCell).where(CachedCell.created_at < now() - seconds(days * 86_400))


ANSWER = text(
    """
    UPDATE cell_requests r SET cell = a.cell
    FROM jsonb_to_recordset(CAST(:answers AS jsonb))
           AS a(batch_id text, fence bigint, completion_index integer, criterion text, cell jsonb)
    JOIN cell_batches b ON b.id = a.batch_id AND b.fence = a.fence AND b.status = 'running'
    WHERE r.batch_id = a.batch_id AND r.completion_index = a.completion_index AND r.criterion = a.criterion
      AND r.cell IS NULL
    """
)
"""Store cells, where the claim still holds and nobody has."""

REMEMBER = text(
    """
    INSERT INTO cell_cache (project_id, key, cell)
    SELECT c.project_id, decode(c.key, 'hex'), c.cell
    FROM jsonb_to_recordset(CAST(:cells AS jsonb)) AS c(project_id text, key text, cell jsonb)
    ORDER BY c.project_id, c.key
    ON CONFLICT DO NOTHING
    """
)
"""Put cells into the cache."""


def finish(batches: Collection[tuple[str, int]]) -> ReturningUpdate[Any]:
    """End those of these (id, fence) that have every cell and are still held; returns them."""
    missing = select(literal(1)).where(CellRequest.batch_id == CellBatch.id, CellRequest.cell.is_(None))
    return (
        update(CellBatch)
        .where(tuple_(CellBatch.id, CellBatch.fence).in_(batches), CellBatch.status == "running", ~missing.exists())
        .values(status="done", finished_at=func.clock_timestamp(), lease_expires_at=None)
        .returning(CellBatch.id)
    )

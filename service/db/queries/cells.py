"""Batches of judged cells: asked for by a training child or a grading, claimed by grading workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Delete, Executable, Select, delete, func, literal, null, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from service.db.queries import leases
from service.db.queries.jobs import now, seconds
from service.db.tables import CellBatch, CellRequest, Grading, Job
from service.domain.job_state import HELD, TERMINAL
from service.domain.places import GRADING, GRADING_LOCAL

GRADING_TASKS = {GRADING: "workers.tasks.grading.grade", GRADING_LOCAL: "workers.tasks.grading_local.grade"}
"""Queue -> the task that wakes its workers."""


def owner(owner_id: str) -> str:
    """The column that names the owner of a batch: a job's, or a grading's (a request for revisions is one too)."""
    return "job_id" if owner_id.startswith("job_") else "grading_id"


def _of(owner_id: str) -> ColumnElement[bool]:
    column: ColumnElement[str] = getattr(CellBatch, owner(owner_id))
    return column == owner_id


def _wanted() -> ColumnElement[bool]:
    """Whether somebody still waits for a batch: a held job, or a running grading."""
    job = select(literal(1)).where(Job.id == CellBatch.job_id, Job.status.in_(HELD))
    grading = select(literal(1)).where(Grading.id == CellBatch.grading_id, Grading.status == "running")
    return or_(job.exists(), grading.exists())


def ask(values: Mapping[str, Any]) -> Executable:
    """Insert a batch unless its owner has asked for this key; returns its id if it is new."""
    column = "grading_id" if values.get("grading_id") else "job_id"
    return (
        insert(CellBatch)
        .values(**values)
        .on_conflict_do_nothing(index_elements=[column, "key"])
        .returning(CellBatch.id)
    )


def pending(owner_id: str, keys: Sequence[str]) -> Select[str, str]:
    """The batches among these that are not done."""
    return select(CellBatch.key, CellBatch.status).where(
        _of(owner_id), CellBatch.key.in_(keys), CellBatch.status != "done"
    )


def answered(owner_id: str, keys: Sequence[str]) -> Select[str, int, str, Any]:
    """The cells of these batches."""
    return (
        select(CellBatch.key, CellRequest.completion_index, CellRequest.criterion, CellRequest.cell)
        .join(CellRequest, CellRequest.batch_id == CellBatch.id)
        .where(_of(owner_id), CellBatch.key.in_(keys))
        .order_by(CellBatch.key, CellRequest.completion_index, CellRequest.criterion)
    )


def forget(owner_id: str, keys: Sequence[str]) -> Delete:
    """Drop these batches with their cells."""
    return delete(CellBatch).where(_of(owner_id), CellBatch.key.in_(keys))


def ask_beyond_budget_again(owner_id: str, key: str) -> list[Executable]:
    """What the budget forbade in this batch is open again; the cells that are there stay."""
    mine = select(CellBatch.id).where(_of(owner_id), CellBatch.key == key, CellBatch.status == "done")
    forbidden = CellRequest.cell["status"].as_string() == "budget"
    waits = select(literal(1)).where(CellRequest.batch_id == CellBatch.id, CellRequest.cell.is_(None))
    return [
        update(CellRequest).where(CellRequest.batch_id.in_(mine), forbidden).values(cell=null()),
        update(CellBatch)
        .where(_of(owner_id), CellBatch.key == key, CellBatch.status == "done", waits.exists())
        .values(status="queued", finished_at=None, worker_id=None),
    ]


def claim(queue: str, worker_id: str, lease_s: float, limit: int) -> Executable:
    """Take waiting batches of a queue that are wanted, and those whose worker has let its lease lapse."""
    free = (
        select(CellBatch.id)
        .where(CellBatch.queue == queue, or_(CellBatch.status == "queued", leases.has_lapsed(CellBatch)), _wanted())
        .order_by(CellBatch.priority.desc(), CellBatch.created_at, CellBatch.id)
        .limit(limit)
    )
    columns = ("id", "job_id", "grading_id", "project_id", "fence", "payload")
    return leases.take(CellBatch, free, worker_id, lease_s, [getattr(CellBatch, name) for name in columns])


def some_wait(queue: str) -> Select[bool]:
    """Whether a batch waits in a queue."""
    waits = select(literal(1)).where(CellBatch.queue == queue, CellBatch.status == "queued")
    return select(waits.exists())


def unanswered(batch_id: str) -> Select[int, str]:
    """The cells that still have to be asked; a batch that was begun elsewhere keeps what it has."""
    return (
        select(CellRequest.completion_index, CellRequest.criterion)
        .where(CellRequest.batch_id == batch_id, CellRequest.cell.is_(None))
        .order_by(CellRequest.completion_index, CellRequest.criterion)
    )


def renew(held: Mapping[str, int], worker_id: str, lease_s: float) -> Executable:
    """Renew leases; returns the batches that are still held and still wanted."""
    return leases.renew(CellBatch, held, worker_id, lease_s, _wanted())


ANSWER = text(
    """
    UPDATE cell_requests r SET cell = a.cell
    FROM jsonb_to_recordset(CAST(:answers AS jsonb)) AS a(completion_index integer, criterion text, cell jsonb)
    WHERE r.batch_id = :batch_id AND r.completion_index = a.completion_index AND r.criterion = a.criterion
      AND r.cell IS NULL
      AND EXISTS (SELECT FROM cell_batches b WHERE b.id = :batch_id AND b.fence = :fence AND b.status = 'running')
    """
)


def finish(batch_id: str, fence: int) -> Executable:
    """Done, if every cell is there and the claim still holds."""
    missing = select(literal(1)).where(CellRequest.batch_id == batch_id, CellRequest.cell.is_(None))
    return (
        update(CellBatch)
        .where(CellBatch.id == batch_id, CellBatch.fence == fence, CellBatch.status == "running", ~missing.exists())
        .values(status="done", finished_at=now(), lease_expires_at=None)
        .returning(CellBatch.id)
    )


def release(worker_id: str) -> Executable:
    """Give back everything that this worker holds."""
    return leases.release(CellBatch, worker_id)


def of_finished_jobs() -> Delete:
    """Batches that nobody will read again: their cells stand with the completions."""
    ended = select(Job.id).where(Job.status.in_(TERMINAL), Job.finished_at < func.now() - seconds(3600))
    return delete(CellBatch).where(CellBatch.job_id.in_(ended))

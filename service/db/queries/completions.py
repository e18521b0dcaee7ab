"""Completions, cells and critiques."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, any_, func, or_, select

from service.db.queries.jobs import superseded
from service.db.tables import CellRow, Completion

SORTS: dict[str, list[Any]] = {
    "step": [Completion.step, Completion.group_index, Completion.index, Completion.id],
    "reward": [func.coalesce(Completion.reward, -1.0), Completion.id],
    "plain_reward": [func.coalesce(Completion.plain_reward, -1.0), Completion.id],
}
"""What completions may be sorted by; a missing reward sorts below 0."""


def of_job(job_id: str, purpose: str) -> Select[Completion]:
    """The completions of a job that no later attempt has undone."""
    return select(Completion).where(
        Completion.job_id == job_id,
        Completion.purpose == purpose,
        ~superseded(Completion.job_id, Completion.fence, Completion.step),
    )


def completion(project_id: str, completion_id: str) -> Select[Completion]:
    """One completion."""
    return select(Completion).where(Completion.project_id == project_id, Completion.id == completion_id)


def of_grading(grading_id: str) -> Select[Completion]:
    """The completions of a grading."""
    return select(Completion).where(Completion.grading_id == grading_id)


def cells(completions: Sequence[Completion]) -> Select[CellRow]:
    """The cells of these completions, in key order; those aggregated anew have the cells of another."""
    owners = {row.cells_of or row.id for row in completions}
    return select(CellRow).where(CellRow.completion_id.in_(owners)).order_by(CellRow.criterion)


def with_cell(statement: Select[Completion], criterion: str | None, status: str | None) -> Select[Completion]:
    """Only completions with a cell of this criterion, or this status, or both in one cell."""
    cell = select(CellRow.completion_id).where(
        CellRow.completion_id == func.coalesce(Completion.cells_of, Completion.id),
        or_(Completion.reused.is_(None), CellRow.criterion == any_(Completion.reused)),
    )
    if criterion is not None:
        cell = cell.where(CellRow.criterion == criterion)
    if status is not None:
        cell = cell.where(CellRow.status == status)
    return statement.where(cell.exists())

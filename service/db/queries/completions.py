"""Completions, cells and critiques."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Executable, Select, any_, func, or_, select, tuple_

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


def stored(source: dict[str, Any], after: Sequence[Any] | None, limit: int) -> Select[*tuple[Any, ...]]:
    """Prompt, text and end of the completions of a job or a grading, in their order, from behind the key `after`; the key first."""
    if "job" in source:
        key, found = SORTS["step"], of_job(source["job"], source["purpose"])
    else:
        key, found = [Completion.position], of_grading(source["grading"])
    statement = found.with_only_columns(*key, Completion.prompt, Completion.text, Completion.finish_reason)
    if after is not None:
        statement = statement.where(tuple_(*key) > tuple_(*after))
    return statement.order_by(*key).limit(limit)


def completion(project_id: str, completion_id: str) -> Select[Completion]:
    """One completion."""
    return select(Completion).where(Completion.project_id == project_id, Completion.id == completion_id)


def of_grading(grading_id: str) -> Select[Completion]:
    """The completions of a grading."""
    return select(Completion).where(Completion.grading_id == grading_id)


def last_evaluation(job_id: str) -> Select[Completion]:
    """A job's held-out completions: those of its last evaluation."""
    held_out = of_job(job_id, "evaluation")
    last = held_out.with_only_columns(func.max(Completion.step)).scalar_subquery()
    return held_out.where(Completion.step == last)


def to_compare(which: Select[Completion]) -> Executable:
    """What a comparison needs of these completions, in an order of their own."""
    return which.with_only_columns(
        Completion.id, Completion.prompt, Completion.plain_reward, Completion.weighting, Completion.rubric_id,
        Completion.rubric_version, Completion.cells_of, Completion.reused,
    ).order_by(Completion.step, Completion.group_index, Completion.index, Completion.id)  # fmt: skip


def scores_to_compare(which: Select[Completion]) -> Executable:
    """Their cells: completion, criterion, score and who scored."""
    owners = which.with_only_columns(func.coalesce(Completion.cells_of, Completion.id))
    return (
        select(CellRow.completion_id, CellRow.criterion, CellRow.score, CellRow.fingerprint)
        .where(CellRow.completion_id.in_(owners))
        .order_by(CellRow.completion_id, CellRow.criterion)
    )


def count_cells(which: Select[Completion]) -> Select[int]:
    """How many cells that are."""
    owners = which.with_only_columns(func.coalesce(Completion.cells_of, Completion.id))
    return select(func.count()).select_from(CellRow).where(CellRow.completion_id.in_(owners))


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

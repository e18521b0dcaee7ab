"""Critiques: what judges wrote stands in their cells, what people wrote in a table of its own; read as one list."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Delete, Executable, Select, Subquery, delete, func, literal, null, select, union_all
from sqlalchemy.dialects.postgresql import JSONB, insert

from service.db.queries.jobs import now
from service.db.tables import CellRow, Completion, Critique, CritiqueRating, HiddenCritique


def everything(project_id: str) -> Subquery:
    """All critiques of a project, with who wrote each."""
    none = null()
    judged = select(
        CellRow.critique_id.label("id"), CellRow.completion_id, CellRow.job_id, CellRow.grading_id, CellRow.criterion,
        CellRow.reasoning.label("text"), CellRow.status, CellRow.score, CellRow.confidence, literal("judge").label("author"),
        CellRow.judge_id, CellRow.judge_revision, none.label("person"), none.cast(JSONB).label("evidence"),
        none.label("corrects"), CellRow.created_at, CellRow.created_at.label("completion_created_at"),
    ).where(CellRow.project_id == project_id, CellRow.critique_id.is_not(None))  # fmt: skip
    written = select(
        Critique.id, Critique.completion_id, Critique.job_id, Critique.grading_id, Critique.criterion, Critique.text,
        literal("ok").label("status"), Critique.score, none.label("confidence"), literal("person").label("author"),
        none.label("judge_id"), none.label("judge_revision"), Critique.person, Critique.evidence, Critique.corrects,
        Critique.created_at, Critique.completion_created_at,
    ).where(Critique.project_id == project_id)  # fmt: skip
    return union_all(judged, written).subquery("critiques_of_all")


def is_hidden(critique_id: Any) -> Any:
    """Whether somebody has hidden it."""
    return select(literal(1)).where(HiddenCritique.critique_id == critique_id).exists()


def texts(ids: Collection[str]) -> Select[str, str]:
    """The texts of completions, by id."""
    return select(Completion.id, Completion.text).where(Completion.id.in_(ids))


def ratings(ids: Collection[str]) -> Select[str, int, int]:
    """Thumbs up and down by critique."""
    up = func.count().filter(CritiqueRating.rating > 0)
    return (
        select(CritiqueRating.critique_id, up, func.count() - up)
        .where(CritiqueRating.critique_id.in_(ids))
        .group_by(CritiqueRating.critique_id)
    )


def hidden(ids: Collection[str]) -> Select[HiddenCritique]:
    """Those of these critiques that are hidden."""
    return select(HiddenCritique).where(HiddenCritique.critique_id.in_(ids))


def rate(values: dict[str, Any]) -> Executable:
    """One person's rating; the newest counts."""
    changed = {name: values[name] for name in ("rating", "comment")}
    return (
        insert(CritiqueRating)
        .values(**values)
        .on_conflict_do_update(index_elements=["critique_id", "person"], set_={**changed, "created_at": now()})
    )


def hide(values: dict[str, Any]) -> Executable:
    """Hide a critique; hiding it again changes the reason."""
    changed = {name: values[name] for name in ("reason", "key_id")}
    return insert(HiddenCritique).values(**values).on_conflict_do_update(index_elements=["critique_id"], set_=changed)


def show_again(critique_id: str) -> Delete:
    """Undo it."""
    return delete(HiddenCritique).where(HiddenCritique.critique_id == critique_id)

"""People's labels: the current ones, their history, and the cells that they can be held against."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Executable, Select, Update, func, literal, or_, select, text, update
from sqlalchemy.orm import aliased

from service.db.queries.jobs import now
from service.db.tables import CellRow, Completion, Label

ROOT = text(
    """
    WITH RECURSIVE up AS (
        SELECT c.id, c.source_id, 0 AS depth FROM completions c WHERE c.id = :completion_id AND c.project_id = :project_id
        UNION ALL
        SELECT c.id, c.source_id, up.depth + 1 FROM up JOIN completions c ON c.id = up.source_id
    )
    SELECT id FROM up ORDER BY depth DESC LIMIT 1
    """
)
"""The completion that this one's text was first stored as: gradings of stored completions name theirs."""


def lock_subject(subject_id: str) -> Executable:
    """One at a time, until the transaction ends: whose label replaces whose is then clear."""
    return select(func.pg_advisory_xact_lock(func.hashtextextended(subject_id, 4)))


def replace(project_id: str, subject_id: str, person: str, questions: Collection[str]) -> Update:
    """A person's labels on these questions count no more."""
    return (
        update(Label)
        .where(
            Label.project_id == project_id,
            Label.subject_id == subject_id,
            Label.person == person,
            Label.question.in_(questions),
            Label.replaced_at.is_(None),
        )
        .values(replaced_at=now())
    )


def labels(project_id: str, *, current: bool = True) -> Select[Label]:
    """Labels of a project."""
    found = select(Label).where(Label.project_id == project_id)
    return found.where(Label.replaced_at.is_(None)) if current else found


def graded(project_id: str, subjects: Select[Any]) -> Select[*tuple[Any, ...]]:
    """Every judged cell of these subjects' texts, of whatever grading, with the id of the subject, oldest first."""
    down = (
        select(Completion.id, Completion.created_at, Completion.id.label("subject_id"))
        .where(Completion.project_id == project_id, Completion.id.in_(subjects))
        .cte("down", recursive=True)
    )
    further = select(Completion.id, Completion.created_at, down.c.subject_id).join(
        down, Completion.source_id == down.c.id
    )
    family = down.union(further)
    here = (Completion.id == family.c.id) & (Completion.created_at == family.c.created_at)
    return _cells(family.c.subject_id).join(family, here)


def _cells(subject_id: Any) -> Select[*tuple[Any, ...]]:
    """Judged cells with what says which question they answer, oldest first."""
    return (
        select(
            subject_id.label("subject_id"), CellRow.completion_id, CellRow.criterion, CellRow.status, CellRow.score,
            CellRow.confidence, CellRow.confidence_source, CellRow.stated_confidence, CellRow.vote_variance, CellRow.votes,
            CellRow.judge_id, CellRow.judge_revision, CellRow.cached, CellRow.critique_id, Completion.rubric_id,
            Completion.rubric_version, Completion.prompt["criteria"].label("own_criteria"),
        )
        .select_from(CellRow)
        .join(Completion, (Completion.id == CellRow.completion_id) & (Completion.created_at == CellRow.created_at))
        .where(CellRow.judge_id.is_not(None))
        .order_by(Completion.created_at, CellRow.completion_id, CellRow.criterion)
    )  # fmt: skip


def recent(project_id: str, limit: int, **wanted: Any) -> Select[*tuple[Any, ...]]:
    """The judged cells of a project's newest completions; `wanted`: columns of completions and the values that they have."""
    newest = (
        select(Completion.id)
        .where(Completion.project_id == project_id, Completion.cells_of.is_(None))
        .where(*(getattr(Completion, name) == value for name, value in wanted.items() if value is not None))
        .order_by(Completion.id.desc())
        .limit(limit)
    )
    return _cells(func.coalesce(Completion.source_id, Completion.id)).where(Completion.id.in_(newest))


def labelled_among(project_id: str, subjects: Collection[str]) -> Select[Label]:
    """The labels that count of these texts."""
    return labels(project_id).where(or_(Label.subject_id.in_(subjects), Label.completion_id.in_(subjects)))


BY_BOTH = 5000


def graded_by_both(project_id: str, first: str, second: str) -> Select[Any]:
    """Texts that two judges may both have graded, newest first: completions with cells of both, and those that were graded again."""
    child = aliased(Completion)
    again = select(literal(1)).where(child.source_id == Completion.id)
    judges = (
        select(func.count(CellRow.judge_id.distinct()))
        .where(CellRow.completion_id == Completion.id, CellRow.judge_id.in_([first, second]))
        .scalar_subquery()
    )
    return (
        select(Completion.id)
        .where(Completion.project_id == project_id, Completion.source_id.is_(None))
        .where(or_(again.exists(), judges == 2))
        .order_by(Completion.id.desc())
        .limit(BY_BOTH)
    )


def of_version(project_id: str, rubric_id: str, version: int, limit: int, **wanted: Any) -> Select[str, str, int]:
    """The newest completions with cells of their own that a rubric version has graded: id, group, length of the text."""
    return (
        select(Completion.id, Completion.group_id, func.char_length(Completion.text))
        .where(Completion.project_id == project_id, Completion.cells_of.is_(None))
        .where(Completion.rubric_id == rubric_id, Completion.rubric_version == version)
        .where(*(getattr(Completion, name) == value for name, value in wanted.items() if value is not None))
        .order_by(Completion.id.desc())
        .limit(limit)
    )


def scores_of(ids: Collection[str]) -> Select[str, str, float | None, float | None]:
    """Completion, criterion, score and confidence of every cell of these."""
    columns = (CellRow.completion_id, CellRow.criterion, CellRow.score, CellRow.confidence)
    return select(*columns).where(CellRow.completion_id.in_(ids))

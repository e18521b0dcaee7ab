"""Judged cells beside what people say on the same question about the same text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import labels as queries
from service.db.queries import rubrics as rubric_queries
from service.db.tables import Label
from service.domain.identity import question_identity
from service.domain.rubric import PROMPT_PREFIX, Criterion, RubricContent

MOST_LABELS = 50_000
"""The newest that are read."""


@dataclass(frozen=True, slots=True)
class JudgedCell:
    """A cell; `stated` is its confidence before any calibration."""

    subject: str
    completion: str
    criterion: str
    question: str
    asked: Criterion
    rubric: str
    version: int
    status: str
    score: float | None
    stated: float | None
    confidence: float | None
    source: str | None
    votes: int
    vote_variance: float | None
    judge: str
    revision: int
    cached: bool
    critique: str | None


@dataclass(slots=True)
class Labelled:
    """One question about one text: everybody's scores, and every judged cell of it, oldest first."""

    subject: str
    question: str
    rubric: str
    criterion: str
    people: dict[str, float] = field(default_factory=dict)
    cells: list[JudgedCell] = field(default_factory=list)


async def load_labelled(
    session: AsyncSession,
    project: str,
    *,
    rubric: str | None = None,
    criterion: str | None = None,
    blind: bool | None = None,
    persons: Collection[str] | None = None,
) -> list[Labelled]:
    """Every question that somebody has answered with a score, in the order of subjects and questions."""
    statement = queries.labels(project).where(Label.score.is_not(None))
    if rubric is not None:
        statement = statement.where(Label.rubric_id == rubric)
    if criterion is not None:
        statement = statement.where(Label.criterion == criterion)
    if blind is not None:
        statement = statement.where(Label.blind.is_(blind))
    if persons is not None:
        statement = statement.where(Label.person.in_(persons))
    newest = statement.order_by(Label.id.desc()).limit(MOST_LABELS)
    found: dict[tuple[str, str], Labelled] = {}
    for label in await session.scalars(newest):
        key = (label.subject_id, label.question)
        one = found.setdefault(key, Labelled(*key, label.rubric_id, label.criterion))
        assert label.score is not None
        one.people[label.person] = label.score
    if found:
        chosen = newest.subquery()
        for cell in await judged_cells(session, queries.graded(project, select(chosen.c.subject_id))):
            own = found.get((cell.subject, cell.question))
            if own is not None:
                own.cells.append(cell)
    return [found[key] for key in sorted(found)]


async def judged_cells(session: AsyncSession, statement: Any) -> list[JudgedCell]:
    """The rows of `queries.graded`, each with the question that it answers."""
    rows = list(await session.execute(statement))
    asked = await _questions(session, {(row.rubric_id, row.rubric_version) for row in rows})
    cells = []
    for row in rows:
        known = asked[row.rubric_id, row.rubric_version].get(row.criterion) or _own(row)
        if known is None:
            continue
        question, criterion = known
        stated = row.confidence if row.stated_confidence is None else row.stated_confidence
        cells.append(
            JudgedCell(
                row.subject_id, row.completion_id, row.criterion, question, criterion, row.rubric_id, row.rubric_version,
                row.status, row.score, stated, row.confidence, row.confidence_source, row.votes, row.vote_variance, row.judge_id,
                row.judge_revision, row.cached, row.critique_id,
            )
        )  # fmt: skip
    return cells


Questions = Mapping[tuple[str, int], Mapping[str, tuple[str, Criterion]]]


async def _questions(session: AsyncSession, pins: Collection[tuple[str, int]]) -> Questions:
    """What each version asks under each key."""
    if not pins:
        return {}
    rows = await session.scalars(rubric_queries.these_versions(pins))
    contents = {(row.rubric_id, row.version): RubricContent.model_validate(row.graded_by) for row in rows}
    return {pin: {c.key: (question_identity(c), c) for c in content.criteria} for pin, content in contents.items()}


def _own(row: Any) -> tuple[str, Criterion] | None:
    """The question of a prompt's own criterion."""
    for item in row.own_criteria or ():
        if row.criterion == f"{PROMPT_PREFIX}.{item['key']}":
            criterion = Criterion.model_validate(item)
            return question_identity(criterion), criterion
    return None


def newest_of(cells: Sequence[JudgedCell], judge: str, revision: int) -> JudgedCell | None:
    """A judge revision's last ok cell; one that was copied from a cache says nothing new, and is as good."""
    own = [c for c in cells if (c.judge, c.revision) == (judge, revision) and c.status == "ok"]
    return own[-1] if own else None

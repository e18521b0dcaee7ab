"""Completions as people label them: what they are asked about one, and how what they say is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import completions as completion_queries
from service.db.queries import labels as queries
from service.db.queries import rubrics as rubric_queries
from service.db.tables import Completion, Label
from service.domain.base import nearest
from service.domain.criteria import applying, criteria_of
from service.domain.identity import question_identity
from service.domain.ids import new_id
from service.domain.label import LabelIn, outside
from service.domain.rubric import Criterion, RubricContent
from service.errors import Invalid, NotFound
from service.operation import Caller


async def completion_of(session: AsyncSession, project_id: str, completion_id: str) -> Completion:
    """One completion of the project, or 404."""
    row = await session.scalar(completion_queries.completion(project_id, completion_id))
    if row is None:
        raise NotFound(f"there is no completion '{completion_id}'")
    return row


async def content_of(session: AsyncSession, row: Completion) -> RubricContent:
    """What the completion was graded by."""
    version = await session.scalar(rubric_queries.version(row.rubric_id, row.rubric_version))
    assert version is not None, row.rubric_id
    return RubricContent.model_validate(version.graded_by)


async def asked_of(
    session: AsyncSession, row: Completion
) -> tuple[RubricContent, dict[str, Criterion], dict[str, str]]:
    """The version's content, the criteria of this completion by key, in its prompt's words, and their questions' identities."""
    content = await content_of(session, row)
    filled = {criterion.key: criterion for criterion in criteria_of(content, row.prompt)}
    return content, filled, {c.key: question_identity(c) for c in applying(content, row.prompt)}


async def add_labels(
    session: AsyncSession,
    caller: Caller,
    row: Completion,
    given: Sequence[LabelIn],
    *,
    person: str | None,
    blind: bool,
    place: str = "/labels/{position}",
    corrects: str | None = None,
) -> list[Label]:
    """Store a person's labels; what the same person has said before on the same question counts no more.

    422 with a place below `place` for a criterion that the completion does not have, a value that its scale does not have, and a
    span beyond the text.
    """
    _, criteria, questions = await asked_of(session, row)
    who = person or caller.key_id
    subject = await session.scalar(queries.ROOT, {"completion_id": row.id, "project_id": caller.project_id})
    scores = _checked(row, criteria, questions, given, place)
    await session.execute(queries.lock_subject(subject))
    asked = {questions[label.criterion] for label in given}
    await session.execute(queries.replace(caller.project_id, subject, who, asked))
    stored = [
        Label(
            id=new_id("label"),
            project_id=caller.project_id,
            completion_id=row.id,
            completion_created_at=row.created_at,
            subject_id=subject,
            rubric_id=row.rubric_id,
            rubric_version=row.rubric_version,
            criterion=label.criterion,
            question=questions[label.criterion],
            person=who,
            score=score,
            blind=blind,
            comment=label.comment,
            evidence=[span.model_dump() for span in label.evidence],
            corrects=corrects,
            key_id=caller.key_id,
        )
        for label, score in zip(given, scores, strict=True)
    ]
    session.add_all(stored)
    await session.flush()
    for label in stored:
        await session.refresh(label)
    return stored


def _checked(
    row: Completion,
    criteria: dict[str, Criterion],
    questions: dict[str, str],
    given: Sequence[LabelIn],
    place: str,
) -> list[float | None]:
    faults: list[dict[str, Any]] = []
    scores: list[float | None] = []
    seen: dict[str, str] = {}

    def fault(position: int, field: str, code: str, message: str) -> None:
        at = place.format(position=position) + f"/{field}"
        faults.append({"pointer": at, "code": code, "message": message})

    for position, label in enumerate(given):
        criterion = criteria.get(label.criterion)
        if criterion is None:
            message = f"completion '{row.id}' is not graded on '{label.criterion}'{nearest(label.criterion, criteria, 'criteria')}"
            fault(position, "criterion", "not_found", message)
            continue
        before = seen.setdefault(questions[label.criterion], label.criterion)
        if before == label.criterion and position != _first(given, before):
            fault(position, "criterion", "duplicate", f"criterion '{label.criterion}' stands twice")
        elif before != label.criterion:
            message = f"'{label.criterion}' asks what '{before}' asks, and one label counts for both; leave one out"
            fault(position, "criterion", "duplicate", message)
        try:
            scores.append(label.goodness(criterion))
        except ValueError as error:
            field = "score" if "score" in label.model_fields_set else "verdict"
            fault(position, field, "invalid_value", f"criterion '{label.criterion}': {error}")
        beyond = outside(label.evidence, row.text)
        if beyond is not None:
            message = f"the text has {len(row.text)} characters, and this span ends behind them"
            fault(position, f"evidence/{beyond}/end", "outside_text", message)
    if faults:
        raise Invalid.of(faults)
    return scores


def _first(given: Sequence[LabelIn], key: str) -> int:
    return next(position for position, label in enumerate(given) if label.criterion == key)

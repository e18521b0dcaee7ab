"""`/v1/critiques`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query
from sqlalchemy import select

from service.critiques.schemas import (
    CorrectedOut,
    CorrectionIn,
    CritiqueIn,
    CritiqueOut,
    CritiquePatch,
    LabelOut,
    RatingIn,
    labelled,
)
from service.db.queries import completions as completion_queries
from service.db.queries import critiques as queries
from service.db.tables import Completion, Critique
from service.deps import CallerDep, Listing, PageDep, SessionDep
from service.domain.ids import new_id
from service.domain.label import Evidence, outside
from service.errors import Invalid, NotFound
from service.labelling import add_labels, asked_of, completion_of
from service.operation import Caller, needs, router

critiques = router("critiques")


async def shown(session: SessionDep, rows: Sequence[Any]) -> list[CritiqueOut]:
    """Rows with the passages that they quote, their ratings, and whether they are hidden."""
    ids = [row.id for row in rows]
    found = await session.execute(queries.texts({row.completion_id for row in rows}))
    texts: dict[str, str] = dict(found.all())
    ratings = {row[0]: (row[1], row[2]) for row in await session.execute(queries.ratings(ids))}
    hidden = {row.critique_id: row.reason for row in await session.scalars(queries.hidden(ids))}
    return [CritiqueOut.of(row, texts.get(row.completion_id, ""), ratings.get(row.id, (0, 0)), hidden) for row in rows]


@critiques.get("/v1/critiques", openapi_extra=needs("jobs:read"))
async def list_critiques(
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    job: str | None = None,
    grading: str | None = None,
    completion: str | None = None,
    criterion: str | None = None,
    source: Annotated[Literal["judge", "person"] | None, Query(description="who wrote it")] = None,
    judge: str | None = None,
    person: str | None = None,
    hidden: Annotated[Literal["exclude", "include", "only"], Query(description="what somebody has hidden")] = "exclude",
    q: Annotated[str | None, Query(description="text that the critique contains", max_length=200)] = None,
) -> Listing[CritiqueOut]:
    """What judges and people said, oldest first."""
    found = queries.everything(caller.project_id)
    columns = found.c
    statement = select(found)
    for column, value in (
        (columns.job_id, job),
        (columns.grading_id, grading),
        (columns.completion_id, completion),
        (columns.criterion, criterion),
        (columns.author, source),
        (columns.judge_id, judge),
        (columns.person, person),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if q is not None:
        statement = statement.where(columns.text.icontains(q, autoescape=True))
    if hidden != "include":
        gone = queries.is_hidden(columns.id)
        statement = statement.where(gone if hidden == "only" else ~gone)
    rows = await page.fetch(session, statement, [columns.id], lambda row: row, lambda row: [row.id])
    return Listing(data=await shown(session, rows.data), next_page_token=rows.next_page_token)


async def _find(session: SessionDep, caller: Caller, critique_id: str) -> Any:
    found = queries.everything(caller.project_id)
    row = (await session.execute(select(found).where(found.c.id == critique_id))).first()
    if row is None:
        raise NotFound(f"there is no critique '{critique_id}'")
    return row


@critiques.get("/v1/critiques/{critique_id}", openapi_extra=needs("jobs:read"))
async def get_critique(critique_id: str, session: SessionDep, caller: CallerDep) -> CritiqueOut:
    """One critique, hidden or not."""
    (found,) = await shown(session, [await _find(session, caller, critique_id)])
    return found


@critiques.post("/v1/critiques", status_code=201, openapi_extra=needs("grade"))
async def create_critique(body: CritiqueIn, session: SessionDep, caller: CallerDep) -> CritiqueOut:
    """Write a critique of a completion; with a verdict or a score it is a label too."""
    row = await session.scalar(completion_queries.completion(caller.project_id, body.completion))
    if row is None:
        raise Invalid.at("/completion", "not_found", f"there is no completion '{body.completion}'")
    label = body.label()
    score = None
    if label is not None:
        (stored,) = await add_labels(session, caller, row, [label], person=body.person, blind=body.blind, place="")
        score = stored.score
    else:
        _, criteria, _ = await asked_of(session, row)
        if body.criterion not in criteria:
            message = f"completion '{row.id}' is not graded on '{body.criterion}'; its criteria: {', '.join(criteria)}"
            raise Invalid.at("/criterion", "not_found", message)
    made = await _write(session, caller, row, body.criterion, body.text, body.evidence, score, body.person)
    return await get_critique(made.id, session, caller)


async def _write(
    session: SessionDep,
    caller: Caller,
    row: Completion,
    criterion: str,
    text: str,
    evidence: Sequence[Evidence],
    score: float | None,
    person: str | None,
    corrects: str | None = None,
) -> Critique:
    beyond = outside(evidence, row.text)
    if beyond is not None:
        message = f"the text has {len(row.text)} characters, and this span ends behind them"
        raise Invalid.at(f"/evidence/{beyond}/end", "outside_text", message)
    made = Critique(
        id=new_id("critique"),
        project_id=caller.project_id,
        completion_id=row.id,
        completion_created_at=row.created_at,
        job_id=row.job_id,
        grading_id=row.grading_id,
        criterion=criterion,
        text=text,
        evidence=[span.model_dump() for span in evidence],
        score=score,
        person=person or caller.key_id,
        corrects=corrects,
        key_id=caller.key_id,
    )
    session.add(made)
    await session.flush()
    return made


@critiques.post("/v1/critiques/{critique_id}/corrections", status_code=201, openapi_extra=needs("grade"))
async def correct_critique(
    critique_id: str, body: CorrectionIn, session: SessionDep, caller: CallerDep
) -> CorrectedOut:
    """Say what is right in place of what a critique says: a label that names the critique."""
    row = await _find(session, caller, critique_id)
    completion = await completion_of(session, caller.project_id, row.completion_id)
    label = labelled(body, row.criterion)
    assert label is not None
    (stored,) = await add_labels(
        session, caller, completion, [label], person=body.person, blind=False, place="", corrects=critique_id
    )
    critique = None
    if body.text is not None:
        written = (row.criterion, body.text, body.evidence, stored.score, body.person, critique_id)
        made = await _write(session, caller, completion, *written)
        critique = await get_critique(made.id, session, caller)
    return CorrectedOut(label=LabelOut.of(stored, completion.text), critique=critique)


@critiques.put("/v1/critiques/{critique_id}/rating", openapi_extra=needs("grade"))
async def rate_critique(critique_id: str, body: RatingIn, session: SessionDep, caller: CallerDep) -> CritiqueOut:
    """A thumb up or down; a person's newest counts."""
    await _find(session, caller, critique_id)
    await session.execute(
        queries.rate(
            {
                "critique_id": critique_id,
                "person": body.person or caller.key_id,
                "project_id": caller.project_id,
                "rating": body.rating,
                "comment": body.comment,
            }
        )
    )
    return await get_critique(critique_id, session, caller)


@critiques.patch("/v1/critiques/{critique_id}", openapi_extra=needs("grade"))
async def patch_critique(critique_id: str, body: CritiquePatch, session: SessionDep, caller: CallerDep) -> CritiqueOut:
    """Hide a critique, or show it again. Its text never changes: correct it, or write another."""
    await _find(session, caller, critique_id)
    if body.hidden:
        values = {"critique_id": critique_id, "project_id": caller.project_id, "reason": body.reason}
        await session.execute(queries.hide({**values, "key_id": caller.key_id}))
    else:
        await session.execute(queries.show_again(critique_id))
    return await get_critique(critique_id, session, caller)

"""`/v1/completions/{id}/labels` and `/v1/labels`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Response
from sqlalchemy import update

from service.critiques.schemas import LabelOut, LabelsIn, LabelsOut
from service.db.queries import labels as queries
from service.db.queries.jobs import now
from service.db.tables import Completion, Label
from service.deps import CallerDep, Listing, PageDep, SessionDep
from service.errors import NotFound
from service.labelling import add_labels, completion_of
from service.operation import needs, router

labels = router("labels")


async def _completion(completion_id: str, session: SessionDep, caller: CallerDep) -> Completion:
    return await completion_of(session, caller.project_id, completion_id)


CompletionDep = Annotated[Completion, Depends(_completion)]


@labels.post("/v1/completions/{completion_id}/labels", status_code=201, openapi_extra=needs("grade"))
async def add_labels_of_completion(
    row: CompletionDep, body: LabelsIn, session: SessionDep, caller: CallerDep
) -> LabelsOut:
    """A person's scores of a completion, one for each criterion. What the same person said before counts no more."""
    stored = await add_labels(session, caller, row, body.labels, person=body.person, blind=body.blind)
    return LabelsOut(data=[LabelOut.of(label, row.text) for label in stored])


@labels.get("/v1/completions/{completion_id}/labels", openapi_extra=needs("jobs:read"))
async def list_labels_of_completion(
    row: CompletionDep,
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    person: str | None = None,
    history: Annotated[bool, Query(description="also those that were replaced")] = False,
) -> Listing[LabelOut]:
    """What people said of a completion's text, here or where the same stored text was graded, oldest first."""
    subject = await session.scalar(queries.ROOT, {"completion_id": row.id, "project_id": caller.project_id})
    statement = queries.labels(caller.project_id, current=not history).where(Label.subject_id == subject)
    if person is not None:
        statement = statement.where(Label.person == person)
    return await page.fetch(
        session, statement, [Label.id], lambda label: LabelOut.of(label, row.text), lambda label: [label.id]
    )


@labels.get("/v1/labels", openapi_extra=needs("jobs:read"))
async def list_all_labels(
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    rubric: str | None = None,
    criterion: str | None = None,
    person: str | None = None,
    completion: str | None = None,
    blind: bool | None = None,
    history: Annotated[bool, Query(description="also those that were replaced")] = False,
) -> Listing[LabelOut]:
    """All labels, oldest first."""
    statement = queries.labels(caller.project_id, current=not history)
    for column, value in (
        (Label.rubric_id, rubric),
        (Label.criterion, criterion),
        (Label.person, person),
        (Label.completion_id, completion),
        (Label.blind, blind),
    ):
        if value is not None:
            statement = statement.where(column == value)
    return await page.fetch(session, statement, [Label.id], LabelOut.of, lambda label: [label.id])


@labels.delete("/v1/labels/{label_id}", status_code=204, openapi_extra=needs("grade"))
async def withdraw_label(label_id: str, session: SessionDep, caller: CallerDep) -> Response:
    """It counts no more, and stays in the history. Withdrawing it again changes nothing."""
    row = await session.scalar(queries.labels(caller.project_id, current=False).where(Label.id == label_id))
    if row is None:
        raise NotFound(f"there is no label '{label_id}'")
    await session.execute(
        update(Label).where(Label.id == label_id, Label.replaced_at.is_(None)).values(replaced_at=now())
    )
    return Response(status_code=204)

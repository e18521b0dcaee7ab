"""`/v1/rubrics/{id}/drafts`: criteria drafted by a model, checked, and accepted by people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from pydantic import BaseModel

from service.db.queries import drafts as queries
from service.db.queries import rubrics as rubric_queries
from service.db.tables import AcceptedDraft, Grading, Rubric
from service.deps import CallerDep, Listing, PageDep, SessionDep, check_if_match
from service.domain.drafting import AcceptIn, Draft, DraftSpec
from service.domain.spending import JudgeBudget, Spent
from service.errors import Invalid, NotFound
from service.operation import needs, router
from service.rubrics import drafts as commands
from service.rubrics.schemas import PublishedOut, head_etag

rubric_drafts = router("rubrics")


class DraftsProgress(BaseModel):
    """Questions to the drafter in all, those whose drafts are checked, and those that gave none."""

    questions: int
    checked: int
    failed: int


class AcceptedOut(BaseModel):
    """A draft that has become a criterion, and the reason why it was taken though it had failed a check."""

    key: str
    criterion: str
    version: int
    override: str | None
    by: str
    created_at: datetime


class DraftsOut(BaseModel):
    """A request for drafts. `drafts` are there once it has succeeded, all of them, with what is wrong with each; `accepted`: which have
    become criteria, under which key, of which version."""

    id: str
    status: str
    status_reason: str | None
    error: dict[str, Any] | None
    rubric: dict[str, Any]
    source: dict[str, Any]
    judge: str
    grader: str
    judges: dict[str, int]
    options: dict[str, Any]
    limits: JudgeBudget
    spent: Spent
    progress: DraftsProgress
    summary: dict[str, Any] | None
    drafts: list[Draft] | None
    accepted: list[AcceptedOut]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime

    @classmethod
    def of(cls, row: Grading, accepted: Sequence[AcceptedDraft] = ()) -> DraftsOut:
        """From its rows."""
        resolved, result = row.resolved, row.result or {}
        options = resolved["drafting"]
        same = (
            "id",
            "status",
            "status_reason",
            "error",
            "summary",
            "created_at",
            "started_at",
            "finished_at",
            "updated_at",
        )
        return cls(
            rubric={"id": row.source["rubric"], "version": row.source["version"]},
            source={name: value for name, value in row.source.items() if name not in ("rubric", "version")},
            judge=options["judge"],
            grader=options["grader"],
            judges=resolved["judges"],
            options={name: options[name] for name in ("most", "min_agreement", "instructions", "prompt_version")},
            limits=JudgeBudget.model_validate(resolved["limits"]),
            spent=Spent.model_validate(row.spent or {}),
            progress=DraftsProgress(questions=row.cells or 0, checked=row.done, failed=row.failed),
            drafts=[Draft.model_validate(found) for found in result["drafts"]] if "drafts" in result else None,
            accepted=[
                AcceptedOut(
                    key=a.draft,
                    criterion=a.criterion,
                    version=a.version,
                    override=a.override,
                    by=a.key_id,
                    created_at=a.created_at,
                )
                for a in accepted
                if a.request_id == row.id
            ],
            **{name: getattr(row, name) for name in same},
        )


async def _rubric(rubric_id: str, request: Request, session: SessionDep, caller: CallerDep) -> Rubric:
    """The rubric in the path; locked where it may change."""
    row = await session.scalar(rubric_queries.head(caller.project_id, rubric_id, lock=request.method != "GET"))
    if row is None:
        raise NotFound(f"there is no rubric '{rubric_id}'")
    return row


RubricDep = Annotated[Rubric, Depends(_rubric)]


@rubric_drafts.post("/v1/rubrics/{rubric_id}/drafts", status_code=202, openapi_extra=needs("grade"))
async def create_drafts(
    rubric: RubricDep, body: DraftSpec, session: SessionDep, caller: CallerDep, response: Response
) -> DraftsOut:
    """Have a model draft criteria from preference pairs, or from good and bad answers. Each is checked against the answers that it
    came from, and against an empty one, the prompt repeated and its own text repeated. Nothing is published."""
    version = await session.scalar(rubric_queries.named(rubric.id, body.version))
    if version is None:
        message = (
            f"rubric '{rubric.id}' has no version or alias '{body.version}'; the latest is {rubric.latest_version}"
        )
        raise Invalid.at("/version", "not_found", message)
    row = await commands.create_drafts(session, caller, rubric, version, body)
    response.headers["Location"] = f"/v1/rubrics/{rubric.id}/drafts/{row.id}"
    return DraftsOut.of(row)


@rubric_drafts.get("/v1/rubrics/{rubric_id}/drafts", openapi_extra=needs("grade"))
async def list_drafts(rubric: RubricDep, session: SessionDep, caller: CallerDep, page: PageDep) -> Listing[DraftsOut]:
    """A rubric's requests for drafts, newest first."""
    statement = queries.of_rubric(caller.project_id, rubric.id)
    found = await page.fetch(session, statement, [Grading.id], lambda row: row, lambda row: [row.id], descending=True)
    accepted = list(await session.scalars(queries.accepted([row.id for row in found.data])))
    return Listing(data=[DraftsOut.of(row, accepted) for row in found.data], next_page_token=found.next_page_token)


@rubric_drafts.get("/v1/rubrics/{rubric_id}/drafts/{draft_id}", openapi_extra=needs("grade"))
async def get_drafts(rubric: RubricDep, draft_id: str, session: SessionDep, caller: CallerDep) -> DraftsOut:
    """A request for drafts, with its drafts once they are checked."""
    row = await commands.load(session, caller.project_id, rubric.id, draft_id)
    return DraftsOut.of(row, list(await session.scalars(queries.accepted([row.id]))))


@rubric_drafts.post("/v1/rubrics/{rubric_id}/drafts/{draft_id}/cancel", openapi_extra=needs("grade"))
async def cancel_drafts(rubric: RubricDep, draft_id: str, session: SessionDep, caller: CallerDep) -> DraftsOut:
    """Cancel at once and for good. One that has ended stays as it is."""
    row = await commands.load(session, caller.project_id, rubric.id, draft_id)
    return DraftsOut.of(await commands.cancel(session, rubric.id, row))


@rubric_drafts.post(
    "/v1/rubrics/{rubric_id}/drafts/{draft_id}/accept", status_code=201, openapi_extra=needs("rubrics:write")
)
async def accept_drafts(
    rubric: RubricDep,
    draft_id: str,
    body: AcceptIn,
    request: Request,
    session: SessionDep,
    caller: CallerDep,
    response: Response,
) -> PublishedOut:
    """Publish the next version with these drafts as criteria; needs `If-Match`. What failed a check needs an `override`: a reason,
    which stands in the version's message."""
    row = await commands.load(session, caller.project_id, rubric.id, draft_id)
    check_if_match(request, head_etag(rubric))
    version, findings = await commands.accept(session, caller, rubric, row, body)
    response.headers["ETag"] = head_etag(rubric)
    return PublishedOut.with_findings(version, findings)

"""`/v1/revisions`, `/v1/pair-labels` and `/v1/jobs/{id}/revisions`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Response

from service.db.queries import jobs as job_queries
from service.db.queries import revisions as queries
from service.db.tables import Grading, Job, RevisionResult
from service.deps import CallerDep, Listing, PageDep, SessionDep, SortDep
from service.domain.grading import GradingState
from service.domain.revision_request import LabelSpec, RevisionSpec
from service.errors import NotFound
from service.operation import needs, router
from service.revisions import commands
from service.revisions.schemas import LabellingOut, ResultOut, RevisionOut

revisions = router("revisions")


async def _revision(revision_id: str, session: SessionDep, caller: CallerDep) -> Grading:
    return await commands.load(session, caller.project_id, queries.REVISION, revision_id)


async def _labelling(labelling_id: str, session: SessionDep, caller: CallerDep) -> Grading:
    return await commands.load(session, caller.project_id, queries.LABELLING, labelling_id)


RevisionDep = Annotated[Grading, Depends(_revision)]
LabellingDep = Annotated[Grading, Depends(_labelling)]
Accepted = Annotated[bool | None, Query(description="only those that were accepted, or only the others")]
Reason = Annotated[str | None, Query(description="only those rejected for this reason, e.g. below_margin")]


@revisions.post("/v1/revisions", status_code=202, openapi_extra=needs("grade"))
async def create_revision(
    body: RevisionSpec, session: SessionDep, caller: CallerDep, response: Response
) -> RevisionOut:
    """Have stored completions revised with their critiques in hand; what grades better afresh becomes training data."""
    request = await commands.create_revision(session, caller, body)
    response.headers["Location"] = f"/v1/revisions/{request.id}"
    return RevisionOut.of(request)


@revisions.get("/v1/revisions", openapi_extra=needs("grade"))
async def list_revision_requests(
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    status: GradingState | None = None,
    sort: SortDep = "-created_at",
) -> Listing[RevisionOut]:
    """List requests for revisions, newest first."""
    statement = queries.of_project(caller.project_id, queries.REVISION)
    if status is not None:
        statement = statement.where(Grading.status == status)
    return await page.fetch(
        session, statement, [Grading.id], RevisionOut.of, lambda row: [row.id], descending=sort.startswith("-")
    )


@revisions.get("/v1/revisions/{revision_id}", openapi_extra=needs("grade"))
async def get_revision_request(request: RevisionDep) -> RevisionOut:
    """A request for revisions, with its summary once it has one."""
    return RevisionOut.of(request)


@revisions.post("/v1/revisions/{revision_id}/cancel", openapi_extra=needs("grade"))
async def cancel_revision(request: RevisionDep, session: SessionDep) -> RevisionOut:
    """Cancel at once and for good; what is decided stays readable, and no dataset gets rows. One that has ended stays as it is."""
    return RevisionOut.of(await commands.cancel(session, request))


@revisions.get("/v1/revisions/{revision_id}/results", openapi_extra=needs("grade"))
async def list_revision_results(
    request: RevisionDep, session: SessionDep, page: PageDep, accepted: Accepted = None, reason: Reason = None
) -> Listing[ResultOut]:
    """What became of each, accepted or rejected with its reason, in the order of the originals."""
    return await _results(session, page, request, accepted, reason)


@revisions.post("/v1/pair-labels", status_code=202, openapi_extra=needs("grade"))
async def create_labelling(body: LabelSpec, session: SessionDep, caller: CallerDep, response: Response) -> LabellingOut:
    """Have a judge say which of two completions is better, in both orders; what it says twice becomes a preference (RLAIF)."""
    request = await commands.create_labelling(session, caller, body)
    response.headers["Location"] = f"/v1/pair-labels/{request.id}"
    return LabellingOut.of(request)


@revisions.get("/v1/pair-labels", openapi_extra=needs("grade"))
async def list_labellings(
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    status: GradingState | None = None,
    sort: SortDep = "-created_at",
) -> Listing[LabellingOut]:
    """List requests for labelled pairs, newest first."""
    statement = queries.of_project(caller.project_id, queries.LABELLING)
    if status is not None:
        statement = statement.where(Grading.status == status)
    return await page.fetch(
        session, statement, [Grading.id], LabellingOut.of, lambda row: [row.id], descending=sort.startswith("-")
    )


@revisions.get("/v1/pair-labels/{labelling_id}", openapi_extra=needs("grade"))
async def get_labelling(request: LabellingDep) -> LabellingOut:
    """A request for labelled pairs, with its summary once it has one."""
    return LabellingOut.of(request)


@revisions.post("/v1/pair-labels/{labelling_id}/cancel", openapi_extra=needs("grade"))
async def cancel_labelling(request: LabellingDep, session: SessionDep) -> LabellingOut:
    """Cancel at once and for good; what is decided stays readable, and no dataset gets rows. One that has ended stays as it is."""
    return LabellingOut.of(await commands.cancel(session, request))


@revisions.get("/v1/pair-labels/{labelling_id}/results", openapi_extra=needs("grade"))
async def list_label_results(
    request: LabellingDep, session: SessionDep, page: PageDep, accepted: Accepted = None, reason: Reason = None
) -> Listing[ResultOut]:
    """Every pair with both verdicts: accepted ones, and ties (`?reason=tie`), which no dataset gets."""
    return await _results(session, page, request, accepted, reason)


@revisions.get("/v1/jobs/{job_id}/revisions", openapi_extra=needs("jobs:read"))
async def list_job_revisions(
    job_id: str,
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    accepted: Accepted = None,
    reason: Reason = None,
    step: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
) -> Listing[ResultOut]:
    """What became of a job's own revisions (`algorithm.revision`), by step."""
    if await session.scalar(job_queries.by_id(caller.project_id, job_id).with_only_columns(Job.id)) is None:
        raise NotFound(f"there is no job '{job_id}'")
    statement = _filtered(queries.results(job_id=job_id), accepted, reason)
    if step is not None:
        statement = statement.where(RevisionResult.step == step)
    key = [RevisionResult.step, RevisionResult.position, RevisionResult.id]
    return await page.fetch(session, statement, key, ResultOut.of, lambda row: [row.step, row.position, row.id])


async def _results(
    session: SessionDep, page: PageDep, request: Grading, accepted: bool | None, reason: str | None
) -> Listing[ResultOut]:
    statement = _filtered(queries.results(request_id=request.id), accepted, reason)
    return await page.fetch(session, statement, [RevisionResult.position], ResultOut.of, lambda row: [row.position])


def _filtered(statement: queries.Results, accepted: bool | None, reason: str | None) -> queries.Results:
    if accepted is not None:
        statement = statement.where(RevisionResult.accepted == accepted)
    if reason is not None:
        statement = statement.where(RevisionResult.reason == reason)
    return statement

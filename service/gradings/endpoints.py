"""`/v1/gradings`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Response

from service.db.queries import gradings as queries
from service.db.queries import rubrics as rubric_queries
from service.db.tables import Grading, Rubric, RubricVersion
from service.deps import CallerDep, Listing, PageDep, ServicesDep, SessionDep, SortDep
from service.domain.grading import GradingSpec, GradingState, ProbeIn, TryDraftIn, TryIn
from service.errors import NotFound
from service.gradings import commands
from service.gradings.probing import probe_version
from service.gradings.schemas import GradingOut, ProbedOut, TriedOut
from service.gradings.trying import try_draft, try_version
from service.operation import needs, router

gradings = router("gradings")


async def _grading(grading_id: str, session: SessionDep, caller: CallerDep) -> Grading:
    return await commands.load(session, caller.project_id, grading_id)


GradingDep = Annotated[Grading, Depends(_grading)]


@gradings.post("/v1/gradings", status_code=202, openapi_extra=needs("grade"))
async def create_grading(body: GradingSpec, session: SessionDep, caller: CallerDep, response: Response) -> GradingOut:
    """Grade texts, dataset rows or stored completions; with `reuse_cells`, aggregate stored cells anew without any call."""
    grading = await commands.create_grading(session, caller, body)
    response.headers["Location"] = f"/v1/gradings/{grading.id}"
    return GradingOut.of(grading)


@gradings.get("/v1/gradings", openapi_extra=needs("grade"))
async def list_gradings(
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    status: GradingState | None = None,
    sort: SortDep = "-created_at",
) -> Listing[GradingOut]:
    """List gradings, newest first."""
    statement = queries.of_project(caller.project_id)
    if status is not None:
        statement = statement.where(Grading.status == status)
    return await page.fetch(
        session, statement, [Grading.id], GradingOut.of, lambda row: [row.id], descending=sort.startswith("-")
    )


@gradings.get("/v1/gradings/{grading_id}", openapi_extra=needs("grade"))
async def get_grading(grading: GradingDep) -> GradingOut:
    """A grading, with its summary once it has one."""
    return GradingOut.of(grading)


@gradings.post("/v1/gradings/{grading_id}/cancel", openapi_extra=needs("grade"))
async def cancel_grading(grading: GradingDep, session: SessionDep) -> GradingOut:
    """Cancel at once and for good; groups that are finished stay readable. One that has ended stays as it is."""
    return GradingOut.of(await commands.cancel(session, grading))


async def _version(rubric_id: str, version: str, session: SessionDep, caller: CallerDep) -> RubricVersion:
    head = rubric_queries.head(caller.project_id, rubric_id).with_only_columns(Rubric.id)
    if await session.scalar(head) is None:
        raise NotFound(f"there is no rubric '{rubric_id}'")
    found = await session.scalar(rubric_queries.named(rubric_id, version))
    if found is None:
        raise NotFound(f"rubric '{rubric_id}' has no version or alias '{version}'")
    return found


@gradings.post("/v1/rubrics/{rubric_id}/versions/{version}/try", openapi_extra=needs("grade", **{"x-creates": False}))
async def try_rubric(
    body: TryIn,
    version: Annotated[RubricVersion, Depends(_version)],
    session: SessionDep,
    caller: CallerDep,
    services: ServicesDep,
) -> TriedOut:
    """Grade up to 16 texts of one prompt at once, as one group: every cell, reward and advantage. Nothing is stored."""
    return TriedOut(data=await try_version(services, session, caller, version, body))


@gradings.post("/v1/rubrics/{rubric_id}/versions/{version}/probe", openapi_extra=needs("grade", **{"x-creates": False}))
async def probe_rubric(
    body: ProbeIn,
    version: Annotated[RubricVersion, Depends(_version)],
    session: SessionDep,
    caller: CallerDep,
    services: ServicesDep,
) -> ProbedOut:
    """Put answers that say nothing before the judges of a version: what they pass, a policy will find. Nothing is stored."""
    return await probe_version(services, session, caller, version, body)


@gradings.post("/v1/rubrics/try", openapi_extra=needs("grade", **{"x-creates": False}))
async def try_draft_content(
    body: TryDraftIn, session: SessionDep, caller: CallerDep, services: ServicesDep
) -> TriedOut:
    """The same by a `content` that is not published: what publishing would refuse is a 422. Its `rubric` is null in the answer."""
    return TriedOut(data=await try_draft(services, session, caller, body))

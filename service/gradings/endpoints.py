"""`/v1/gradings`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Response

from service.db.queries import gradings as queries
from service.db.tables import Grading
from service.deps import CallerDep, Listing, PageDep, SessionDep, SortDep
from service.domain.grading import GradingSpec, GradingState
from service.gradings import commands
from service.gradings.schemas import GradingOut
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

"""`/v1/completions` and `/v1/jobs/{id}/completions`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, Query

from service.completion import CompletionOut
from service.completions.schemas import BlindCompletionOut
from service.db.queries import completions as queries
from service.db.queries import gradings as grading_queries
from service.db.queries import jobs as job_queries
from service.db.queries import revisions as revision_queries
from service.db.tables import CellRow, Completion, Grading, Job
from service.deps import CallerDep, Listing, PageDep, SessionDep
from service.domain.grade import CellStatus
from service.errors import NotFound
from service.labelling import asked_of, completion_of
from service.operation import needs, router

completions = router("completions")

Sort = Literal["step", "-step", "reward", "-reward", "plain_reward", "-plain_reward"]


class _Filters:
    """The filters of a list of completions."""

    def __init__(
        self,
        step: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
        group: str | None = None,
        criterion: str | None = None,
        status: CellStatus | None = None,
        reward_gte: float | None = None,
        reward_lte: float | None = None,
        purpose: Literal["train", "evaluation", "comparison", "revision", "regraded"] = "train",
    ) -> None:
        self.purpose = purpose
        self.cell = (criterion, status)
        self.where = [
            column == value
            for column, value in ((Completion.step, step), (Completion.group_id, group))
            if value is not None
        ]
        if reward_gte is not None:
            self.where.append(Completion.reward >= reward_gte)
        if reward_lte is not None:
            self.where.append(Completion.reward <= reward_lte)


@completions.get("/v1/jobs/{job_id}/completions", openapi_extra=needs("jobs:read"))
async def list_completions(
    job_id: str,
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    filters: Annotated[_Filters, Depends()],
    sort: Sort = "step",
) -> Listing[CompletionOut]:
    """A job's completions with their cells, by step, group and index unless sorted otherwise."""
    if await session.scalar(job_queries.by_id(caller.project_id, job_id).with_only_columns(Job.id)) is None:
        raise NotFound(f"there is no job '{job_id}'")
    statement = queries.of_job(job_id, filters.purpose).where(*filters.where)
    if any(filters.cell):
        statement = queries.with_cell(statement, *filters.cell)
    name = sort.removeprefix("-")

    def key_of(row: Completion) -> list[object]:
        if name == "step":
            return [row.step, row.group_index, row.index, row.id]
        value = getattr(row, name)
        return [-1.0 if value is None else value, row.id]

    found = await page.fetch(
        session, statement, queries.SORTS[name], lambda row: row, key_of, descending=sort.startswith("-")
    )
    return await _shown(session, found)


@completions.get("/v1/gradings/{grading_id}/completions", openapi_extra=needs("grade"))
async def list_graded(
    grading_id: str,
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    group: str | None = None,
    criterion: str | None = None,
    status: CellStatus | None = None,
) -> Listing[CompletionOut]:
    """A grading's results as completions, in input order; while it runs, those of the groups that are finished."""
    if await session.scalar(grading_queries.by_id(caller.project_id, grading_id).with_only_columns(Grading.id)) is None:
        raise NotFound(f"there is no grading '{grading_id}'")
    statement = queries.of_grading(grading_id)
    if group is not None:
        statement = statement.where(Completion.group_id == group)
    if criterion is not None or status is not None:
        statement = queries.with_cell(statement, criterion, status)
    found = await page.fetch(session, statement, [Completion.position], lambda row: row, lambda row: [row.position])
    return await _shown(session, found)


@completions.get("/v1/revisions/{revision_id}/completions", openapi_extra=needs("grade"))
async def list_revised(
    revision_id: str,
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    purpose: Literal["revision", "regraded"] | None = None,
) -> Listing[CompletionOut]:
    """Revisions and their originals with the cells that they were compared by; original before revision."""
    statement = revision_queries.by_id(caller.project_id, revision_queries.REVISION, revision_id)
    if await session.scalar(statement.with_only_columns(Grading.id)) is None:
        raise NotFound(f"there is no request for revisions '{revision_id}'")
    found = queries.of_grading(revision_id)
    if purpose is not None:
        found = found.where(Completion.purpose == purpose)
    rows = await page.fetch(session, found, [Completion.position], lambda row: row, lambda row: [row.position])
    return await _shown(session, rows)


async def _shown(session: SessionDep, found: Listing[Completion]) -> Listing[CompletionOut]:
    """A page of rows with their cells."""
    cells: dict[str, list[CellRow]] = {}
    for cell in await session.scalars(queries.cells(found.data)):
        cells.setdefault(cell.completion_id, []).append(cell)
    shown = [CompletionOut.of(row, cells.get(row.cells_of or row.id, [])) for row in found.data]
    return Listing(data=shown, next_page_token=found.next_page_token)


@completions.get("/v1/completions/{completion_id}", openapi_extra=needs("jobs:read"))
async def get_completion(
    completion_id: str,
    session: SessionDep,
    caller: CallerDep,
    view: Annotated[
        Literal["full", "blind"],
        Query(description="`blind`: what a person needs who labels it, and nothing of the judges"),
    ] = "full",
) -> CompletionOut | BlindCompletionOut:
    """One completion: every number of its advantage, down to the judge's words; or (`blind`) only what is to be judged."""
    row = await completion_of(session, caller.project_id, completion_id)
    if view == "blind":
        content, criteria, _ = await asked_of(session, row)
        return BlindCompletionOut.of(row, content, list(criteria.values()))
    return CompletionOut.of(row, list(await session.scalars(queries.cells([row]))))

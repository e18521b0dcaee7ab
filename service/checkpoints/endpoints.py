"""`/v1/checkpoints` and `/v1/jobs/{id}/checkpoints`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from service.checkpoints.schemas import CheckpointOut
from service.db.queries import checkpoints as queries
from service.db.queries import jobs as job_queries
from service.db.tables import Checkpoint, Job
from service.deps import CallerDep, Listing, PageDep, ServicesDep, SessionDep
from service.downloads import serve_archive, serve_file
from service.errors import NotFound
from service.operation import needs, router

checkpoints = router("checkpoints")


async def _find(checkpoint_id: str, session: SessionDep, caller: CallerDep) -> Checkpoint:
    row = await session.scalar(queries.checkpoint(caller.project_id, checkpoint_id))
    if row is None:
        raise NotFound(f"there is no checkpoint '{checkpoint_id}'; `keep` may have pruned it")
    return row


CheckpointDep = Annotated[Checkpoint, Depends(_find)]


@checkpoints.get("/v1/jobs/{job_id}/checkpoints", openapi_extra=needs("jobs:read"))
async def list_checkpoints(
    job_id: str, session: SessionDep, caller: CallerDep, page: PageDep
) -> Listing[CheckpointOut]:
    """A job's checkpoints, first to last step."""
    if await session.scalar(job_queries.by_id(caller.project_id, job_id).with_only_columns(Job.id)) is None:
        raise NotFound(f"there is no job '{job_id}'")
    return await page.fetch(
        session, queries.of_job(job_id), [Checkpoint.step], CheckpointOut.of, lambda row: [row.step]
    )


@checkpoints.get("/v1/checkpoints/{checkpoint_id}", openapi_extra=needs("jobs:read"))
async def get_checkpoint(row: CheckpointDep) -> CheckpointOut:
    """A checkpoint's files with their sha256."""
    return CheckpointOut.of(row)


FILE = "/v1/checkpoints/{checkpoint_id}/files/{path:path}"


@checkpoints.head(FILE, response_class=FileResponse, openapi_extra=needs("jobs:read"), include_in_schema=False)
@checkpoints.get(FILE, response_class=FileResponse, openapi_extra=needs("jobs:read"))
async def get_file(row: CheckpointDep, path: str, request: Request, services: ServicesDep) -> Response:
    """One file, with ranges; its ETag is its sha256."""
    file = next((f for f in CheckpointOut.of(row).files if f.path == path), None)
    if file is None:
        raise NotFound(f"checkpoint '{row.id}' has no file '{path}'")
    gone = f"the files of checkpoint '{row.id}' are gone: it was pruned a moment ago, or taken away by hand"
    return await serve_file(services.store, row.location, file, request, gone)


@checkpoints.get(
    "/v1/checkpoints/{checkpoint_id}/archive", response_class=StreamingResponse, openapi_extra=needs("jobs:read")
)
async def get_archive(row: CheckpointDep, services: ServicesDep) -> Response:
    """All files as one tar, streamed."""
    files = CheckpointOut.of(row).files
    return serve_archive(services.store, row.location, files, row.id)

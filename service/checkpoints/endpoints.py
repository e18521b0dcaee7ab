"""`/v1/checkpoints` and `/v1/jobs/{id}/checkpoints`."""

from __future__ import annotations

import base64
import re
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from service.checkpoints.archive import archive_size, stream_archive
from service.checkpoints.schemas import CheckpointOut
from service.db.queries import checkpoints as queries
from service.db.queries import jobs as job_queries
from service.db.tables import Checkpoint, Job
from service.deps import CallerDep, Listing, PageDep, ServicesDep, SessionDep
from service.domain.checkpoint import CheckpointFile
from service.errors import NotFound, RangeNotSatisfiable
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
    digest = base64.b64encode(bytes.fromhex(file.sha256)).decode()
    headers = {
        "ETag": f'"{file.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if file.sha256 in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    place = services.store.path(row.location) / file.path
    if not place.is_file():
        raise NotFound(
            f"the files of checkpoint '{row.id}' are gone: it was pruned a moment ago, or taken away by hand"
        )
    _check_range(request, file)
    return FileResponse(
        place,
        media_type="application/json" if path.endswith(".json") else "application/octet-stream",
        headers=headers,
    )


def _check_range(request: Request, file: CheckpointFile) -> None:
    """416 for one range outside of the file; anything but one well-formed range is ignored (RFC 9110 §14.2)."""
    wanted = request.headers.get("range")
    if wanted is None or request.headers.get("if-range", f'"{file.sha256}"') != f'"{file.sha256}"':
        return
    found = re.fullmatch(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", wanted.strip())
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    elif (found[1] and int(found[1]) >= file.bytes) or (found[3] and int(found[3]) == 0):
        raise RangeNotSatisfiable(
            f"the range '{wanted}' lies outside of {file.path}, which has {file.bytes} bytes",
            headers={"Content-Range": f"bytes */{file.bytes}"},
        )


@checkpoints.get(
    "/v1/checkpoints/{checkpoint_id}/archive", response_class=StreamingResponse, openapi_extra=needs("jobs:read")
)
async def get_archive(row: CheckpointDep, services: ServicesDep) -> Response:
    """All files as one tar, streamed."""
    files = CheckpointOut.of(row).files
    return StreamingResponse(
        stream_archive(services.store.path(row.location), files, row.id),
        media_type="application/x-tar",
        headers={
            "Content-Disposition": f'attachment; filename="{row.id}.tar"',
            "Content-Length": str(archive_size(files, row.id)),
        },
    )

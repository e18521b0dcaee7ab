"""`/v1/models`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import models as queries
from service.db.queries.checkpoints import checkpoint
from service.db.tables import Model
from service.deps import CallerDep, Listing, PageDep, ServicesDep, SessionDep, check_if_match
from service.domain.checkpoint import CheckpointFile
from service.domain.model import ModelKind
from service.downloads import serve_archive, serve_file
from service.errors import Conflict, NotFound
from service.models.commands import patch_model, register_model
from service.models.schemas import ModelIn, ModelOut, ModelPatch, ModelSource, PromoteIn, etag
from service.operation import needs, router

models = router("models")


@models.post("/v1/models", status_code=201, openapi_extra=needs("models:write"))
async def create_model(body: ModelIn, session: SessionDep, caller: CallerDep, services: ServicesDep) -> ModelOut:
    """Register a model by the sha256 of its files: a folder below an allowed root, a name on the hub, or a checkpoint."""
    return ModelOut.of(
        await register_model(session, caller, services.settings.models, body, share=services.store.remote)
    )


@models.get("/v1/models", openapi_extra=needs("models:read"))
async def list_models(
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    status: Annotated[Literal["registering", "ready", "failed"] | None, Query()] = None,
    kind: Annotated[ModelKind | None, Query()] = None,
) -> Listing[ModelOut]:
    """List models, oldest first."""
    statement = queries.all_models(caller.project_id)
    if kind is not None:
        statement = statement.where(Model.kind == kind)
    if status is not None:
        statement = statement.where(Model.status == status)
    return await page.fetch(session, statement, [Model.id], ModelOut.of, lambda row: [row.id])


@models.get("/v1/models/{model_id}", openapi_extra=needs("models:read"))
async def get_model(model_id: str, session: SessionDep, caller: CallerDep, response: Response) -> ModelOut:
    """A model."""
    row = await session.scalar(queries.model(caller.project_id, model_id))
    if row is None:
        raise NotFound(f"there is no model '{model_id}'")
    response.headers["ETag"] = etag(row)
    return ModelOut.of(row)


async def _stored(model_id: str, session: AsyncSession, project: str) -> tuple[str, list[CheckpointFile]]:
    """Where the files of a model that was trained here lie, and which they are."""
    row = await session.scalar(queries.model(project, model_id))
    if row is None:
        raise NotFound(f"there is no model '{model_id}'")
    if "checkpoint" not in row.source:
        raise NotFound(
            f"model '{model_id}' was registered from elsewhere, where its files are; only models of jobs are kept here"
        )
    if row.status == "failed":
        raise Conflict(f"model '{model_id}' failed to register: {row.error}", code="model_invalid")
    if row.status != "ready" or row.location is None:
        raise Conflict(f"model '{model_id}' is still being registered; ask again", code="model_registering")
    return row.location, [CheckpointFile.model_validate(file) for file in row.files or []]


FILE = "/v1/models/{model_id}/files/{path:path}"


@models.head(FILE, response_class=FileResponse, openapi_extra=needs("models:read"), include_in_schema=False)
@models.get(FILE, response_class=FileResponse, openapi_extra=needs("models:read"))
async def get_model_file(
    model_id: str, path: str, request: Request, session: SessionDep, caller: CallerDep, services: ServicesDep
) -> Response:
    """One file of a model that was trained here, with ranges; its ETag is its sha256."""
    location, files = await _stored(model_id, session, caller.project_id)
    file = next((f for f in files if f.path == path), None)
    if file is None:
        raise NotFound(f"model '{model_id}' has no file '{path}'")
    gone = f"the files of model '{model_id}' are gone: they were taken away by hand"
    return await serve_file(services.store, location, file, request, gone)


@models.get("/v1/models/{model_id}/archive", response_class=StreamingResponse, openapi_extra=needs("models:read"))
async def get_model_archive(model_id: str, session: SessionDep, caller: CallerDep, services: ServicesDep) -> Response:
    """All files of a model that was trained here, as one streamed tar."""
    location, files = await _stored(model_id, session, caller.project_id)
    return serve_archive(services.store, location, files, model_id)


@models.patch("/v1/models/{model_id}", openapi_extra=needs("models:write"))
async def change_model(
    model_id: str, body: ModelPatch, request: Request, session: SessionDep, caller: CallerDep, response: Response
) -> ModelOut:
    """Change a model's name, or a reward model's normalisation; its files never change. `If-Match` is honoured."""
    row = await session.scalar(queries.model(caller.project_id, model_id).with_for_update())
    if row is None:
        raise NotFound(f"there is no model '{model_id}'")
    if "if-match" in request.headers:
        check_if_match(request, etag(row))
    await patch_model(session, row, body)
    response.headers["ETag"] = etag(row)
    return ModelOut.of(row)


@models.post("/v1/checkpoints/{checkpoint_id}/promote", status_code=201, openapi_extra=needs("models:write"))
async def promote(
    checkpoint_id: str, body: PromoteIn, session: SessionDep, caller: CallerDep, services: ServicesDep
) -> ModelOut:
    """Register a checkpoint as a model, which jobs can start from; an adapter's as a whole model if it is to be `merged`."""
    if await session.scalar(checkpoint(caller.project_id, checkpoint_id)) is None:
        raise NotFound(f"there is no checkpoint '{checkpoint_id}'; `keep` may have pruned it")
    model = ModelIn(name=body.name, source=ModelSource(checkpoint=checkpoint_id, merged=body.merged or None))
    return ModelOut.of(
        await register_model(session, caller, services.settings.models, model, share=services.store.remote)
    )

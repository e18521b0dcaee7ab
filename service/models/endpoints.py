"""`/v1/models`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Request, Response

from service.db.queries import models as queries
from service.db.queries.checkpoints import checkpoint
from service.db.tables import Model
from service.deps import CallerDep, Listing, PageDep, ServicesDep, SessionDep, check_if_match
from service.domain.model import ModelKind
from service.errors import NotFound
from service.models.commands import patch_model, register_model
from service.models.schemas import ModelIn, ModelOut, ModelPatch, ModelSource, PromoteIn, etag
from service.operation import needs, router

models = router("models")


@models.post("/v1/models", status_code=201, openapi_extra=needs("models:write"))
async def create_model(body: ModelIn, session: SessionDep, caller: CallerDep, services: ServicesDep) -> ModelOut:
    """Register a model by the sha256 of its files: a folder below an allowed root, a name on the hub, or a checkpoint."""
    return ModelOut.of(await register_model(session, caller, services.settings.models, body))


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
    """Register a checkpoint as a model, which jobs can start from."""
    if await session.scalar(checkpoint(caller.project_id, checkpoint_id)) is None:
        raise NotFound(f"there is no checkpoint '{checkpoint_id}'; `keep` may have pruned it")
    model = ModelIn(name=body.name, source=ModelSource(checkpoint=checkpoint_id))
    return ModelOut.of(await register_model(session, caller, services.settings.models, model))

"""`/v1/projects` and `/v1/api-keys`."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import Response

from service.db.queries import projects as queries
from service.db.tables import ApiKey, Project
from service.deps import CallerDep, Listing, PageDep, ServicesDep, SessionDep
from service.errors import Invalid, NotFound
from service.operation import needs, router
from service.projects.commands import make_key, make_project
from service.projects.schemas import ApiKeyIn, ApiKeyOut, NewApiKeyOut, ProjectIn, ProjectOut

projects = router("projects")


@projects.post("/v1/projects", status_code=201, openapi_extra=needs("admin"))
async def create_project(body: ProjectIn, session: SessionDep) -> ProjectOut:
    """Create a project: nothing of one project is visible in another."""
    row = make_project(body.name)
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return ProjectOut.of(row)


@projects.get("/v1/projects", openapi_extra=needs("admin"))
async def list_projects(session: SessionDep, page: PageDep) -> Listing[ProjectOut]:
    """List projects."""
    return await page.fetch(session, queries.all_projects(), [Project.id], ProjectOut.of, lambda row: [row.id])


@projects.post("/v1/api-keys", status_code=201, openapi_extra=needs("admin"))
async def create_key(body: ApiKeyIn, session: SessionDep, caller: CallerDep, services: ServicesDep) -> NewApiKeyOut:
    """Create a key; this answer alone shows it."""
    project_id = body.project or caller.project_id
    if await session.scalar(queries.project(project_id)) is None:
        raise Invalid.at("/project", "not_found", f"there is no project '{project_id}'")
    row, key = make_key(services.vault, project_id, body.name, body.scopes, body.expires_at)
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return NewApiKeyOut(**ApiKeyOut.of(row).model_dump(), key=key)


@projects.get("/v1/api-keys", openapi_extra=needs("admin"))
async def list_keys(session: SessionDep, caller: CallerDep, page: PageDep) -> Listing[ApiKeyOut]:
    """List the project's keys, without their secrets."""
    statement = queries.keys(caller.project_id)
    return await page.fetch(session, statement, [ApiKey.id], ApiKeyOut.of, lambda row: [row.id])


@projects.delete("/v1/api-keys/{key_id}", status_code=204, openapi_extra=needs("admin"))
async def revoke_key(key_id: str, session: SessionDep, caller: CallerDep) -> Response:
    """Revoke a key; it is refused from now on."""
    row = await session.scalar(queries.keys(caller.project_id).where(ApiKey.id == key_id))
    if row is None:
        raise NotFound(f"there is no API key '{key_id}'")
    row.revoked_at = row.revoked_at or datetime.now(UTC)
    return Response(status_code=204)

"""`/v1/rubrics`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Response

from service.contents.check import check, head_of
from service.db.queries import rubrics as queries
from service.db.tables import Rubric, RubricVersion
from service.deps import CallerDep, Listing, PageDep, SessionDep, check_if_match
from service.errors import NotFound
from service.operation import needs, router
from service.rubrics import commands
from service.rubrics.advice import advise, weigh
from service.rubrics.schemas import (
    AliasIn,
    DiffOut,
    NewRubricOut,
    PublishedOut,
    RubricIn,
    RubricOut,
    RubricPatch,
    ValidateIn,
    ValidationOut,
    VersionIn,
    VersionOut,
    head_etag,
)

rubrics = router("rubrics")


async def _head(rubric_id: str, request: Request, session: SessionDep, caller: CallerDep) -> Rubric:
    """The rubric in the path; locked where it is about to change."""
    row = await session.scalar(queries.head(caller.project_id, rubric_id, lock=request.method != "GET"))
    if row is None:
        raise NotFound(f"there is no rubric '{rubric_id}'")
    return row


HeadDep = Annotated[Rubric, Depends(_head)]


async def _show(session: SessionDep, row: Rubric) -> RubricOut:
    return RubricOut.of(row, list(await session.scalars(queries.aliases([row.id]))))


@rubrics.post("/v1/rubrics", status_code=201, openapi_extra=needs("rubrics:write"))
async def create_rubric(body: RubricIn, session: SessionDep, caller: CallerDep, response: Response) -> NewRubricOut:
    """Create a rubric and its version 1."""
    head, version, findings = await commands.create_rubric(session, caller, body)
    response.headers["ETag"] = head_etag(head)
    made = PublishedOut.with_findings(version, findings)
    return NewRubricOut(**RubricOut.of(head, []).model_dump(), version=made)


@rubrics.get("/v1/rubrics", openapi_extra=needs("rubrics:read"))
async def list_rubrics(
    session: SessionDep, caller: CallerDep, page: PageDep, category: str | None = None, name: str | None = None
) -> Listing[RubricOut]:
    """List rubrics, oldest first."""
    statement = queries.heads(caller.project_id)
    if category is not None:
        statement = statement.where(Rubric.category == category)
    if name is not None:
        statement = statement.where(Rubric.name == name)
    found = await page.fetch(session, statement, [Rubric.id], lambda row: row, lambda row: [row.id])
    aliases = list(await session.scalars(queries.aliases([row.id for row in found.data])))
    return Listing(data=[RubricOut.of(row, aliases) for row in found.data], next_page_token=found.next_page_token)


@rubrics.post("/v1/rubrics/validate", openapi_extra=needs("rubrics:read"))
async def validate(body: ValidateIn, session: SessionDep, caller: CallerDep) -> ValidationOut:
    """Check a content without storing anything.

    What is wrong comes back as a 422 with a path for each fault; what an author may want to change as `findings`.
    """
    head = await head_of(session, caller.project_id, body.rubric)
    found = await check(session, caller.project_id, body.content, body.rubric)
    return ValidationOut(
        valid=True,
        hash=found.flat.hash,
        content=found.authored.model_dump(mode="json"),
        resolved=found.flat.model_dump(mode="json"),
        findings=await advise(session, caller.project_id, found, head.category if head is not None else None),
        shares=weigh(found),
    )


@rubrics.get("/v1/rubrics/{rubric_id}", openapi_extra=needs("rubrics:read"))
async def get_rubric(head: HeadDep, session: SessionDep, response: Response) -> RubricOut:
    """The head, with its ETag."""
    response.headers["ETag"] = head_etag(head)
    return await _show(session, head)


@rubrics.patch("/v1/rubrics/{rubric_id}", openapi_extra=needs("rubrics:write"))
async def patch_rubric(
    head: HeadDep, body: RubricPatch, request: Request, session: SessionDep, response: Response
) -> RubricOut:
    """Change name, category or description; needs `If-Match`."""
    check_if_match(request, head_etag(head))
    await commands.patch_head(session, head, body)
    response.headers["ETag"] = head_etag(head)
    return await _show(session, head)


@rubrics.post("/v1/rubrics/{rubric_id}/versions", status_code=201, openapi_extra=needs("rubrics:write"))
async def publish_version(
    head: HeadDep, body: VersionIn, request: Request, session: SessionDep, caller: CallerDep, response: Response
) -> PublishedOut:
    """Publish the next version; needs `If-Match`. The same content again is 200 with the latest version."""
    check_if_match(request, head_etag(head))
    version, new, findings = await commands.publish_version(session, caller, head, body)
    response.status_code = 201 if new else 200
    response.headers["ETag"] = head_etag(head)
    return PublishedOut.with_findings(version, findings)


@rubrics.get("/v1/rubrics/{rubric_id}/versions", openapi_extra=needs("rubrics:read"))
async def list_versions(head: HeadDep, session: SessionDep, page: PageDep) -> Listing[VersionOut]:
    """List versions, first to last."""
    key = [RubricVersion.version]
    return await page.fetch(session, queries.versions(head.id), key, VersionOut.of, lambda row: [row.version])


@rubrics.get("/v1/rubrics/{rubric_id}/versions/{version}", openapi_extra=needs("rubrics:read"))
async def get_version(
    head: HeadDep, version: str, request: Request, session: SessionDep, response: Response
) -> VersionOut | None:
    """A version by number or alias. It never changes: 304 for an `If-None-Match` that names it."""
    row = await commands.find_version(session, head, version)
    etag = f'"{row.hash}"'
    response.headers["ETag"] = etag
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable" if version.isdigit() else "no-cache"
    if etag in request.headers.get("if-none-match", ""):
        response.status_code = 304
        return None
    return VersionOut.of(row)


@rubrics.get("/v1/rubrics/{rubric_id}/versions/{before}/diff/{after}", openapi_extra=needs("rubrics:read"))
async def diff_versions(head: HeadDep, before: str, after: str, session: SessionDep) -> DiffOut:
    """What has changed from one version to another, each by number or alias; `text` says it for people."""
    old = await commands.find_version(session, head, before)
    new = await commands.find_version(session, head, after)
    return DiffOut.of(old, new)


@rubrics.put("/v1/rubrics/{rubric_id}/aliases/{alias}", openapi_extra=needs("rubrics:write"))
async def put_alias(
    head: HeadDep, alias: str, body: AliasIn, request: Request, session: SessionDep, response: Response
) -> RubricOut:
    """Point an alias at a version; needs `If-Match`."""
    check_if_match(request, head_etag(head))
    await commands.point_alias(session, head, alias, body.version)
    response.headers["ETag"] = head_etag(head)
    return await _show(session, head)

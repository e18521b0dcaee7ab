"""`/v1/rubrics/import` and `…/versions/{n}/export`: rubrics as files of ours and of others."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, Query, Request, Response
from pydantic import ValidationError

from service.db.queries import judges as judge_queries
from service.db.tables import Rubric, RubricVersion
from service.deps import CallerDep, SessionDep
from service.domain.base import own_faults, pointer
from service.domain.formats import rubrics as formats
from service.domain.formats.reading import Options
from service.domain.formats.rubric_base import ReadRubric
from service.domain.formats.source import FormatError
from service.errors import Invalid, TooLarge
from service.operation import body_digest, needs, router
from service.rubrics import commands
from service.rubrics.endpoints import HeadDep
from service.rubrics.schemas import ImportedOut, NoteOut, PublishedOut, RubricIn, RubricOut, head_etag

rubric_formats = router("rubrics")

Format = Literal["healthbench", "rar", "openai_grader", "json", "yaml"]
LIMIT = 8 << 20
_FILE = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "description": "the file"}}
            for kind in ("application/json", "application/yaml")
        },
    }
}


@rubric_formats.post(
    "/v1/rubrics/import",
    status_code=201,
    openapi_extra=needs("rubrics:write", **{"x-streamed-body": True, **_FILE}),
)
async def import_rubric(
    request: Request,
    response: Response,
    session: SessionDep,
    caller: CallerDep,
    format: Format,
    name: Annotated[str | None, Query(description="the rubric's name, if the file has none or another")] = None,
    category: str | None = None,
    judge: Annotated[str | None, Query(description="who judges criteria that come without a judge")] = None,
    polarity: Literal["from_prefix", "ask"] | None = None,
    weights: Literal["file", "paper"] = "file",
) -> ImportedOut:
    """Create a rubric from a file, which is the body; version 1 is what the file says.

    `notes` say where something was read in a way that an author should know. `polarity` and `weights` are for RaR.
    """
    text = await _body(request)
    if judge is not None and await session.scalar(judge_queries.exists(caller.project_id, judge)) is None:
        raise Invalid.at("/judge", "not_found", f"there is no judge '{judge}'")
    try:
        found = formats.read(formats.parse(text, format), format, Options(judge, polarity, weights))
    except FormatError as error:
        raise Invalid.of([{"pointer": f.pointer, "code": f.code, "message": f.message} for f in error.faults]) from None
    head, version, findings = await commands.create_rubric(session, caller, _checked(found, name, category))
    response.headers["ETag"] = head_etag(head)
    return ImportedOut(
        **RubricOut.of(head, []).model_dump(),
        version=PublishedOut.with_findings(version, findings),
        notes=[NoteOut(pointer=note.pointer, message=note.message) for note in found.notes],
    )


async def _body(request: Request) -> bytes:
    digest = body_digest(request)
    text = b""
    async for piece in request.stream():
        digest.update(piece)
        text += piece
        if len(text) > LIMIT:
            raise TooLarge(
                f"a rubric's file has at most {LIMIT >> 20} MB; rows with criteria are imported into a dataset"
            )
    request.state.body_hash = digest.hexdigest()
    return text


def _checked(found: ReadRubric, name: str | None, category: str | None) -> RubricIn:
    """What is created; 422 with places in its content for what is wrong with it."""
    body = {
        "name": name or found.name or "imported rubric",
        "category": category or found.category,
        "description": found.description or "",
        "content": found.content,
        "message": "imported",
    }
    try:
        return RubricIn.model_validate(body)
    except ValidationError as error:
        faults = own_faults(error.errors(include_url=False))
        raise Invalid.of(
            [
                {
                    "pointer": pointer(item["loc"], body),
                    "code": item["type"],
                    "message": item["msg"].removeprefix("Value error, "),
                }
                for item in faults
            ]
        ) from None


async def _version(head: HeadDep, version: str, session: SessionDep) -> RubricVersion:
    return await commands.find_version(session, head, version)


@rubric_formats.get("/v1/rubrics/{rubric_id}/versions/{version}/export", openapi_extra=needs("rubrics:read"))
async def export_rubric(
    head: HeadDep, version: Annotated[RubricVersion, Depends(_version)], format: Format = "json"
) -> Response:
    """A version (number or alias) as a file; 422 for what the format cannot say.

    What was imported from the format and has not changed since comes back with equal JSON values.
    """
    content = version.content
    try:
        document = formats.write(content, format, _head_fields(head))
    except FormatError as error:
        raise Invalid.of([{"pointer": f.pointer, "code": f.code, "message": f.message} for f in error.faults]) from None
    kind, suffix = ("application/yaml", "yaml") if format == "yaml" else ("application/json", "json")
    headers = {"Content-Disposition": f'attachment; filename="{head.id}.{version.version}.{suffix}"'}
    return Response(formats.as_text(document, format).encode(), media_type=kind, headers=headers)


def _head_fields(head: Rubric) -> dict[str, str | None]:
    return {"name": head.name, "category": head.category, "description": head.description}

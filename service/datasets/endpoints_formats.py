"""`/v1/datasets/{id}/import` and `/export`: rows in the formats of others."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

from service.datasets.commands import publish_rows
from service.datasets.endpoints import NDJSON, HeadDep
from service.datasets.export import check_export, export_rows
from service.datasets.ingest import decoded
from service.datasets.schemas import ImportOut
from service.db.queries import judges as judge_queries
from service.deps import CallerDep, ServicesDep, SessionDep
from service.domain.formats.reading import Options
from service.domain.formats.rows import Importer
from service.errors import Invalid
from service.operation import body_digest, needs, router

dataset_formats = router("datasets")

Format = Literal["trl", "hh", "ultrafeedback", "openai", "cai", "healthbench", "rar", "grape"]


@dataset_formats.post(
    "/v1/datasets/{dataset_id}/import",
    status_code=201,
    openapi_extra=needs("data:write", **{"x-streamed-body": True, **NDJSON}),
)
async def import_rows(
    head: HeadDep,
    request: Request,
    session: SessionDep,
    caller: CallerDep,
    format: Format | Literal["auto"] = "auto",
    on_error: Literal["abort", "skip"] = "abort",
    judge: Annotated[str | None, Query(description="who judges criteria that come with the rows")] = None,
    polarity: Literal["from_prefix", "ask"] | None = None,
    weights: Literal["file", "paper"] = "file",
) -> ImportOut:
    """Publish a batch from NDJSON of another format (gzip if you like), converted to rows of the dataset's kind.

    `auto` takes the format that the first row shows. Fields that no row of ours has are kept in `metadata`; what else a
    conversion loses in `origin`, so that an export gives the same JSON values again. `judge`, `polarity` and `weights` are for
    rows with criteria (healthbench, rar).
    """
    if judge is not None and await session.scalar(judge_queries.exists(caller.project_id, judge)) is None:
        raise Invalid.at("/judge", "not_found", f"there is no judge '{judge}'")
    options = Options(judge, polarity, weights)
    importer = Importer(head.kind, format, options)  # type: ignore[arg-type]
    digest = body_digest(request)
    pieces = decoded(request.stream(), request.headers.get("content-encoding", "").lower(), digest)
    batch = await publish_rows(session, head, pieces, skip_faulty=on_error == "skip", importer=importer)
    request.state.body_hash = digest.hexdigest()
    return ImportOut(**batch.model_dump(), format=importer.format, pitfalls=dict(sorted(options.decided.items())))


@dataset_formats.get(
    "/v1/datasets/{dataset_id}/export", response_class=StreamingResponse, openapi_extra=needs("data:read")
)
async def export_dataset(
    head: HeadDep,
    session: SessionDep,
    services: ServicesDep,
    format: Format | Literal["as_imported"] = "as_imported",
) -> StreamingResponse:
    """Stream the published rows as NDJSON: each as it was imported (our own ones as they are), or all in one format.

    `grape` is our own form. Another format is refused, with the rows that it cannot say, before anything is sent.
    """
    kind, last_seq = head.kind, head.last_seq
    await check_export(session, head.id, kind, last_seq, format)  # type: ignore[arg-type]
    lines = export_rows(services.database, head.id, kind, last_seq, format)  # type: ignore[arg-type]
    name = f"{head.id}.ndjson" if format in ("as_imported", "grape") else f"{head.id}.{format}.ndjson"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)

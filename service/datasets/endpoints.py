"""`/v1/datasets`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, Query, Request

from service.datasets.commands import publish_rows
from service.datasets.ingest import decoded
from service.datasets.schemas import BatchOut, DatasetIn, DatasetOut, RowOut
from service.db.queries import datasets as queries
from service.db.tables import Dataset, DatasetRow
from service.deps import CallerDep, Listing, PageDep, SessionDep
from service.domain.dataset import DatasetKind
from service.domain.ids import new_id
from service.errors import NotFound
from service.operation import body_digest, needs, router

datasets = router("datasets")

NDJSON = {
    "requestBody": {
        "required": True,
        "content": {"application/x-ndjson": {"schema": {"type": "string", "description": "one JSON object per line"}}},
    }
}


async def _head(dataset_id: str, session: SessionDep, caller: CallerDep) -> Dataset:
    row = await session.scalar(queries.head(caller.project_id, dataset_id))
    if row is None:
        raise NotFound(f"there is no dataset '{dataset_id}'")
    return row


HeadDep = Annotated[Dataset, Depends(_head)]


@datasets.post("/v1/datasets", status_code=201, openapi_extra=needs("data:write"))
async def create_dataset(body: DatasetIn, session: SessionDep, caller: CallerDep) -> DatasetOut:
    """Create an empty dataset."""
    row = Dataset(
        id=new_id("dataset"),
        project_id=caller.project_id,
        name=body.name,
        kind=body.kind,
        batches=0,
        rows=0,
        last_seq=0,
        hash="",
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return DatasetOut.of(row)


@datasets.get("/v1/datasets", openapi_extra=needs("data:read"))
async def list_datasets(
    session: SessionDep, caller: CallerDep, page: PageDep, kind: Annotated[DatasetKind | None, Query()] = None
) -> Listing[DatasetOut]:
    """List datasets, oldest first."""
    statement = queries.heads(caller.project_id)
    if kind is not None:
        statement = statement.where(Dataset.kind == kind)
    return await page.fetch(session, statement, [Dataset.id], DatasetOut.of, lambda row: [row.id])


@datasets.get("/v1/datasets/{dataset_id}", openapi_extra=needs("data:read"))
async def get_dataset(head: HeadDep) -> DatasetOut:
    """A dataset's head."""
    return DatasetOut.of(head)


@datasets.post(
    "/v1/datasets/{dataset_id}/rows",
    status_code=201,
    openapi_extra=needs("data:write", **{"x-streamed-body": True, **NDJSON}),
)
async def post_rows(
    head: HeadDep, request: Request, session: SessionDep, on_error: Literal["abort", "skip"] = "abort"
) -> BatchOut:
    """Publish a batch: NDJSON, one row a line, gzip if you like. All or nothing, unless `on_error=skip`."""
    digest = body_digest(request)
    pieces = decoded(request.stream(), request.headers.get("content-encoding", "").lower(), digest)
    batch = await publish_rows(session, head, pieces, skip_faulty=on_error == "skip")
    request.state.body_hash = digest.hexdigest()
    return batch


@datasets.get("/v1/datasets/{dataset_id}/rows", openapi_extra=needs("data:read"))
async def list_rows(head: HeadDep, session: SessionDep, page: PageDep) -> Listing[RowOut]:
    """List published rows in order."""
    return await page.fetch(session, queries.rows(head.id), [DatasetRow.seq], RowOut.of, lambda row: [row.seq])

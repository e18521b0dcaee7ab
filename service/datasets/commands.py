"""Publishing a batch of rows: all of it or nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.datasets.ingest import RowReader, lines
from service.datasets.schemas import BatchOut
from service.db.queries import datasets as queries
from service.db.tables import Dataset
from service.domain.formats.rows import Importer
from service.domain.ids import new_id
from service.errors import Invalid
from service.pins import facts_of_all


async def publish_rows(
    session: AsyncSession,
    dataset: Dataset,
    pieces: AsyncIterator[bytes],
    *,
    skip_faulty: bool,
    importer: Importer | None = None,
) -> BatchOut:
    """Read, check and publish the rows of a body; `importer` makes rows of ours of another format's.

    A faulty line refuses the whole batch with every fault's line, or is left out with `skip_faulty`.
    """
    judges = await facts_of_all(session, dataset.project_id) if dataset.kind == "prompts" else {}
    reader = RowReader(dataset.kind, importer, judges)
    connection = await session.connection()
    await connection.execute(queries.INCOMING)
    driver: Any = (await connection.get_raw_connection()).driver_connection
    taken = 0
    async with driver.cursor() as cursor, cursor.copy(queries.COPY_INCOMING) as copy:
        async for line in lines(pieces):
            row = reader.read(line)
            if row is not None and (skip_faulty or not reader.error_count):
                taken += 1
                await copy.write_row((taken, row[0], row[1]))
    if reader.error_count and not skip_faulty:
        first = reader.errors[0]
        raise Invalid(
            f"line {first.line}{first.pointer and ' at ' + first.pointer}: {first.message}; nothing was stored "
            f"({reader.error_count} faulty of {reader.line} lines)",
            code="rows_invalid",
            errors=[error.model_dump() for error in reader.errors],
        )
    return await _publish(session, dataset, reader, taken)


async def _publish(session: AsyncSession, dataset: Dataset, reader: RowReader, taken: int) -> BatchOut:
    head = await session.scalar(
        queries.head(dataset.project_id, dataset.id, lock=True).execution_options(populate_existing=True)
    )
    assert head is not None
    batch_id = new_id("batch")
    values = {
        "dataset_id": head.id,
        "project_id": head.project_id,
        "batch_id": batch_id,
        "number": head.batches + 1,
        "last_seq": head.last_seq,
        "hash": head.hash,
    }
    published = (await session.execute(queries.PUBLISH, values)).one()
    if published.rows:
        head.batches, head.rows = head.batches + 1, head.rows + published.rows
        head.last_seq, head.hash = head.last_seq + published.rows, published.hash
        await session.flush()
    return BatchOut(
        batch=batch_id if published.rows else None,
        rows=published.rows,
        duplicates=taken - published.rows,
        errors=reader.errors,
        error_count=reader.error_count,
    )

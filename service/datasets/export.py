"""Published rows as NDJSON, in our form or another format's, a page of rows in memory at a time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import AsyncDatabase
from service.db.queries import datasets as queries
from service.domain.dataset import DatasetKind
from service.domain.formats.rows import AS_IMPORTED, OURS, write
from service.domain.formats.source import FormatError
from service.errors import Invalid

PAGE = 500
REPORTED = 100


async def check_export(session: AsyncSession, dataset_id: str, kind: DatasetKind, last_seq: int, wanted: str) -> None:
    """422 with every row that this format cannot say (the first hundred): before a byte is sent, since afterwards it is too late."""
    if wanted in (OURS, AS_IMPORTED):
        return
    faults: list[dict[str, str]] = []
    after = 0
    while after < last_seq and len(faults) < REPORTED:
        rows = (await session.scalars(queries.rows_between(dataset_id, after, last_seq, PAGE))).all()
        for row in rows:
            try:
                write(row.content, kind, wanted)
            except FormatError as error:
                fault = error.faults[0]
                faults.append(
                    {"pointer": f"/{row.seq}", "code": fault.code, "message": f"row {row.seq}: {fault.message}"}
                )
        after = rows[-1].seq if rows else last_seq
        session.expunge_all()
    if faults:
        raise Invalid(f"{faults[0]['message']}; nothing was exported", code="not_writable", errors=faults[:REPORTED])


async def export_rows(
    database: AsyncDatabase, dataset_id: str, kind: DatasetKind, last_seq: int, wanted: str
) -> AsyncIterator[bytes]:
    """The rows up to `last_seq`, one JSON object a line, in order."""
    after = 0
    while after < last_seq:
        async with database.session() as session:
            rows = (await session.scalars(queries.rows_between(dataset_id, after, last_seq, PAGE))).all()
        if not rows:
            return
        after = rows[-1].seq
        lines = (json.dumps(write(row.content, kind, wanted), ensure_ascii=False) for row in rows)
        yield "".join(f"{line}\n" for line in lines).encode()

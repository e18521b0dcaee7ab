"""Server-sent events of a job: `id:` is the sequence number, so a reader resumes where it was."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from service.db.engine import AsyncDatabase
from service.db.queries import records as queries
from service.db.tables import JobEvent
from service.domain.job_state import TERMINAL
from service.jobs.feed import EventFeed
from service.jobs.schemas import EventOut

COMMENT_S = 15.0
CHUNK = 500


async def stream_events(database: AsyncDatabase, feed: EventFeed, job_id: str, after_seq: int) -> AsyncIterator[str]:
    """Every event after `after_seq`, then new ones as they come; `event: end` after the terminal one."""
    yield "retry: 2000\n\n"
    spoken = time.monotonic()
    with feed.watch(job_id):
        while True:
            async with database.session() as session:
                position = (await session.execute(queries.positions([job_id]))).one()
                rows = (
                    await session.scalars(queries.events(job_id, after_seq).order_by(JobEvent.seq).limit(CHUNK))
                ).all()
            for row in rows:
                after_seq = row.seq
                yield f"id: {row.seq}\nevent: {row.type}\ndata: {EventOut.of(row).model_dump_json()}\n\n"
                spoken = time.monotonic()
            if len(rows) == CHUNK:
                continue
            if position.status in TERMINAL and after_seq >= position.event_seq:
                yield f'event: end\ndata: {{"status":"{position.status}"}}\n\n'
                return
            await feed.wait(job_id, after_seq, min(5.0, COMMENT_S - (time.monotonic() - spoken)))
            if time.monotonic() - spoken >= COMMENT_S:
                yield ": still here\n\n"
                spoken = time.monotonic()

"""Server-sent events of a job: `id:` is the sequence number, so a reader resumes where it was."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.db.engine import AsyncDatabase
from service.db.queries import records as queries
from service.db.tables import JobEvent
from service.domain.job_state import TERMINAL
from service.jobs.feed import EventFeed
from service.jobs.schemas import EventOut

COMMENT_S = 15.0
CHUNK = 500


async def stream_events(
    database: AsyncDatabase, feed: EventFeed, job_id: str, key_id: str, after_seq: int
) -> AsyncIterator[str]:
    """Every event after `after_seq`, then new ones as they come; `event: end` after the terminal one.

    `event: reconnect` before this process stops: ask again at once, another answers. `event: closed` once the key is revoked or
    has expired. A database that is away is waited for.
    """
    yield "retry: 2000\n\n"
    spoken = time.monotonic()
    with feed.watch(job_id, key_id):
        while True:
            if feed.stopping:
                yield f'event: reconnect\ndata: {{"after_seq":{after_seq}}}\n\n'
                return
            if feed.is_refused(key_id):
                yield 'event: closed\ndata: {"code":"unauthenticated"}\n\n'
                return
            rows: Sequence[JobEvent] = ()
            position = None
            with contextlib.suppress(OperationalError, InterfaceError, PoolTimeout):
                async with database.session() as session:
                    position = (await session.execute(queries.positions([job_id]))).one_or_none()
                    rows = (
                        await session.scalars(queries.events(job_id, after_seq).order_by(JobEvent.seq).limit(CHUNK))
                    ).all()
            for row in rows:
                after_seq = row.seq
                yield f"id: {row.seq}\nevent: {row.type}\ndata: {EventOut.of(row).model_dump_json()}\n\n"
                spoken = time.monotonic()
            if len(rows) == CHUNK:
                continue
            if position is not None and position.status in TERMINAL and after_seq >= position.event_seq:
                yield f'event: end\ndata: {{"status":"{position.status}"}}\n\n'
                return
            await feed.wait(job_id, after_seq, min(5.0, COMMENT_S - (time.monotonic() - spoken)))
            if time.monotonic() - spoken >= COMMENT_S:
                yield ": still here\n\n"
                spoken = time.monotonic()

"""Who waits for events of which job: one small query for all readers of this process, however many there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

from service.db.engine import AsyncDatabase
from service.db.queries import records as queries

POLL_S = 0.25


class EventFeed:
    """Tells readers when a job has new events."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._watched: Counter[str] = Counter()
        self._seen: dict[str, int] = {}
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[EventFeed]:
        """Count a reader in while the block runs."""
        self._watched[job_id] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        try:
            yield self
        finally:
            self._watched[job_id] -= 1
            if not self._watched[job_id]:
                del self._watched[job_id]
                self._seen.pop(job_id, None)

    async def wait(self, job_id: str, after_seq: int, timeout_s: float) -> None:
        """Until the job has events after `after_seq`, or the time is over."""

        async def newer() -> None:
            async with self._news:
                await self._news.wait_for(lambda: self._seen.get(job_id, 0) > after_seq)

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(newer(), timeout_s)

    async def _poll(self) -> None:
        while self._watched:
            with contextlib.suppress(Exception):  # a database that is away is asked again
                async with self._database.session() as session:
                    rows = await session.execute(queries.positions(list(self._watched)))
                    async with self._news:
                        self._seen.update({row.id: row.event_seq for row in rows if row.id in self._watched})
                        self._news.notify_all()
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

"""Who waits for events of which job: one small query for all readers of this process, however many there are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator

from service.db.engine import AsyncDatabase
from service.db.queries import records as queries
from service.db.queries.projects import refused_keys

POLL_S = 0.25
KEYS_S = 5.0
"""How often the readers' keys are looked at: a revoked one ends its streams within this time."""


class EventFeed:
    """Tells readers when a job has new events."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self.stopping = False
        self._watched: Counter[str] = Counter()
        self._keys: Counter[str] = Counter()
        self._refused: frozenset[str] = frozenset()
        self._keys_due = 0.0
        self._seen: dict[str, int] = {}
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watch(self, job_id: str, key_id: str) -> Iterator[EventFeed]:
        """Count a reader in while the block runs."""
        self._watched[job_id] += 1
        self._keys[key_id] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        try:
            yield self
        finally:
            self._keys[key_id] -= 1
            if not self._keys[key_id]:
                del self._keys[key_id]
            self._watched[job_id] -= 1
            if not self._watched[job_id]:
                del self._watched[job_id]
                self._seen.pop(job_id, None)

    def is_refused(self, key_id: str) -> bool:
        """Whether a reader's key was revoked or has expired meanwhile."""
        return key_id in self._refused

    async def stop(self) -> None:
        """This process is about to end: every reader is told to ask again elsewhere."""
        self.stopping = True
        async with self._news:
            self._news.notify_all()

    async def wait(self, job_id: str, after_seq: int, timeout_s: float) -> None:
        """Until the job has events after `after_seq`, or the time is over."""

        async def newer() -> None:
            async with self._news:
                await self._news.wait_for(lambda: self.stopping or self._seen.get(job_id, 0) > after_seq)

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(newer(), timeout_s)

    async def _poll(self) -> None:
        while self._watched:
            with contextlib.suppress(Exception):  # a database that is away is asked again
                async with self._database.session() as session:
                    if time.monotonic() >= self._keys_due:
                        self._keys_due = time.monotonic() + KEYS_S
                        self._refused = frozenset(await session.scalars(refused_keys(list(self._keys))))
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

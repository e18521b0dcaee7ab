"""Answers on their way to the table: gathered for a moment, stored together, and kept until the database takes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy.exc import InterfaceError, OperationalError

from workers.runs.cell_work import Answer, BulkWork, Work
from workers.runs.learned import Learned
from workers.runs.learned import as_rows as facts_as_rows
from workers.runs.ledger import Ledger, as_rows

log = logging.getLogger(__name__)

GATHER_S = 0.03
"""Answers are stored together when they arrive within this time."""

AT_MOST = 2000
"""Answers of one transaction."""

AGAIN_S = 0.5


@dataclass(slots=True)
class Answers:
    """One writer for all batches. `on_stored` hears of every batch how many of its cells stand now."""

    bulk: BulkWork
    ledger: Ledger
    learned: Learned
    on_stored: Callable[[Work, int], None]
    _queue: asyncio.Queue[Answer | None] = field(default_factory=asyncio.Queue)
    _left: dict[tuple[str, int], int] = field(default_factory=dict)

    def expect(self, work: Work) -> None:
        """So many answers of a batch will come."""
        self._left[work.id, work.fence] = len(work.todo)

    def put(self, answer: Answer) -> None:
        """An answer."""
        self._queue.put_nowait(answer)

    async def run(self) -> None:
        """Store what comes, until `close`."""
        while True:
            first = await self._queue.get()
            if first is None:
                return
            if self._queue.qsize() < AT_MOST:
                await asyncio.sleep(GATHER_S)
            await self._store([first])

    async def _store(self, part: list[Answer]) -> None:
        while len(part) < AT_MOST and not self._queue.empty():
            more = self._queue.get_nowait()
            if more is None:
                self.close()
                break
            part.append(more)
        came: dict[tuple[str, int], list[Answer]] = {}
        for answer in part:
            came.setdefault((answer.work.id, answer.work.fence), []).append(answer)
        ended = [them[0].work for key, them in came.items() if self._left.get(key) == len(them)]
        counts = self.ledger.take()  # among them what these answers took, so that neither is stored without the other
        facts = self.learned.take()
        rows = as_rows(counts) if counts else None
        known = facts_as_rows(facts) if facts else None
        while True:
            try:
                await asyncio.to_thread(self.bulk.store, part, ended, rows, known)
                break
            except (OperationalError, InterfaceError) as error:  # away: what was answered is not asked again
                log.warning("answers wait: %s", str(error).splitlines()[0])
                await asyncio.sleep(AGAIN_S)
            except Exception:  # ours to mend; the batches are claimed again when their leases have ended
                log.exception("storing %d answers", len(part))
                self.ledger.put_back(counts)
                self.learned.put_back(facts)
                break
        for key, them in came.items():
            if key in self._left:
                self._left[key] -= len(them)
                if not self._left[key]:
                    del self._left[key]
            self.on_stored(them[0].work, len(them))

    def forget(self, work: Work) -> None:
        """No more answers of this batch will come."""
        self._left.pop((work.id, work.fence), None)

    def close(self) -> None:
        """Nothing more will come: `run` ends when all is stored."""
        self._queue.put_nowait(None)
